"""What microscope and detector read of an experiment that goes on is what was recorded, to the last bit."""

import uuid

import numpy as np
import pytest
from rclpy.serialization import serialize_message

from edgetem.msg import Overview, ScanField
from edgetem_nodes.graph.column import path_message
from edgetem_nodes.graph.history import History, read_history, write_history
from edgetem_nodes.graph.messages import number_array
from edgetem_nodes.physics.exposure import Exposure, ReferenceImage

IMAGE = ReferenceImage(3.5, (1e-9, 2e-9), (3e-9, 4e-9), 1e20, (1e-10, 0.0), (0.0, 1e-9), {"alpha": 0.1})


def exposed(sequence: int, *images: ReferenceImage) -> Exposure:
    positions = np.random.default_rng(sequence).normal(size=(4 + sequence, 2))
    return Exposure(sequence, 10.0 * sequence, positions, 1e-3, 2e-3, {"defocus": 1 / 3}, {"x": 0.1},
                    np.array([[0.0, 293.15, np.nan]]), (0.1, 0.2), (0.3, 0.4), 7.0, images)


def test_exposures_and_survey_come_back(tmp_path):
    past = [exposed(0), exposed(1, IMAGE), exposed(2, IMAGE)]
    survey = np.arange(24.0).reshape(2, 3, 4)
    overview = Overview(channels=["haadf", "bf"], data=number_array(survey),
                        field=ScanField(shape=np.array([3, 4], np.uint32)))
    write_history(tmp_path / "history.npz", [(serialize_message(path_message(e, uuid.uuid4(), "camera")), n)
                                             for n, e in enumerate(past, 2)], serialize_message(overview), 1.25, 2)
    history = read_history(tmp_path / "history.npz")
    assert [count for _, count in history.exposures] == [2, 3, 4]
    for (found, _), given in zip(history.exposures, past, strict=True):
        assert np.array_equal(found.positions, given.positions)
        assert np.array_equal(found.holder, given.holder, equal_nan=True)
        for name in ("sequence", "elapsed", "optics", "stage", "correction", "survey_dose", "reference_images"):
            assert getattr(found, name) == getattr(given, name)
    assert np.array_equal(history.survey, survey[0]) and history.survey_elapsed == 1.25
    assert history.images == 3, "two surveys, and an image that two probe paths tell of"


def test_an_experiment_that_has_only_begun(tmp_path):
    assert read_history("") == History()
    write_history(tmp_path / "history.npz", [], b"", 0.0, 0)
    assert read_history(tmp_path / "history.npz") == History()


def test_a_file_that_is_not_there(tmp_path):
    with pytest.raises(OSError, match="history"):
        read_history(tmp_path / "history.npz")
