"""The gallery draws what it says, and knows its pictures."""

import subprocess

import matplotlib.image
import numpy as np
import pytest
from command_line import COMMAND

from edgetem_nodes.operator.gallery import CASES


def edgetem(*arguments):
    return subprocess.run([COMMAND, *arguments], capture_output=True, text=True)


def test_a_picture_is_drawn_with_all_its_panels(tmp_path):
    done = edgetem("gallery", "graphene", "--quick", "--output", str(tmp_path / "pictures"))
    assert done.returncode == 0, done.stderr
    assert "graphene.png" in done.stdout
    picture = matplotlib.image.imread(tmp_path / "pictures" / "graphene.png")[..., :3]
    rows, columns = picture.shape[:2]
    assert columns > 1000
    for row in range(2):
        for column in range(4):
            panel = picture[rows * row // 2 + rows // 8:rows * (row + 1) // 2 - rows // 10,
                            columns * column // 4 + 30:columns * (column + 1) // 4 - 30]
            assert panel.std() > 0.02, (row, column)


def test_an_unknown_picture_is_refused_with_the_nearest(tmp_path):
    done = edgetem("gallery", "graphen", "--output", str(tmp_path))
    assert done.returncode == 2
    assert "there is no picture 'graphen'" in done.stderr and "'graphene'" in done.stderr


@pytest.mark.parametrize("name", CASES)
def test_every_case_names_a_truth_that_its_specimen_knows(name):
    from edgetem_nodes.graph.instrument import simulation
    from edgetem_nodes.operator.gallery import _instrument

    case = CASES[name]
    microscope = simulation(_instrument(case, case.nanobeam_mrad, True), 0)
    assert np.ptp(microscope.truth(case.truth)[1]) > 0
