"""What a probe path carries survives the message, and the hash tells optics apart."""

import math
import uuid

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst
from rclpy.serialization import deserialize_message, serialize_message

from edgetem.msg import Optics, ProbePath, StagePose
from edgetem_nodes.graph import column
from edgetem_nodes.graph.messages import numbers, to_uuid
from edgetem_nodes.physics.exposure import Exposure, ReferenceImage
from edgetem_nodes.physics.specimens import Atoms

FINITE = st.floats(-1e6, 1e6)
PAIR = st.tuples(FINITE, FINITE)


def some(message):
    """Any choice of a message's fields with finite values."""
    return st.dictionaries(st.sampled_from(list(message.get_fields_and_field_types())), FINITE)


@given(st.builds(Exposure, st.integers(0, 2**64 - 1), FINITE, npst.arrays(float, st.tuples(st.integers(0, 5), st.just(2))),
                 FINITE, FINITE, some(Optics), some(StagePose),
                 npst.arrays(float, st.tuples(st.integers(0, 4), st.just(3))), PAIR, PAIR, FINITE,
                 st.lists(st.builds(ReferenceImage, FINITE, PAIR, PAIR, FINITE, PAIR, PAIR, some(StagePose)),
                          max_size=3).map(tuple)), st.uuids())
def test_an_exposure_survives_its_probe_path(exposure, identifier):
    path = deserialize_message(serialize_message(column.path_message(exposure, identifier, "camera")), ProbePath)
    back = column.exposure_of(path)
    assert to_uuid(path.acquisition_id) == identifier and path.detector == "camera"
    for name in ("sequence", "elapsed", "dwell", "period", "optics", "stage", "correction", "correction_rate",
                 "survey_dose", "reference_images"):
        assert getattr(back, name) == getattr(exposure, name)
    for name in ("positions", "holder"):
        assert getattr(back, name).shape == getattr(exposure, name).shape
        assert getattr(back, name).tobytes() == getattr(exposure, name).tobytes()


def test_what_is_not_known_of_the_optics_is_nan_in_the_message():
    path = column.path_message(Exposure(0, 0.0, np.zeros((1, 2)), 1.0, 1.0, {"defocus": 1e-8}), uuid.uuid4(), "")
    assert path.optics.defocus == 1e-8 and math.isnan(path.optics.magnification) and math.isnan(path.stage.x)


def test_the_hash_depends_on_every_field_of_the_optics():
    names = list(Optics.get_fields_and_field_types())
    hashes = {column.optics_hash({name: 1.0}) for name in names} | {column.optics_hash({})}
    assert len(hashes) == len(names) + 1
    assert column.optics_hash({"defocus": 1.0, "coma": 2.0}) == column.optics_hash({"coma": 2.0, "defocus": 1.0})


def test_atoms_are_told_as_x_y_z():
    positions = np.array([[3.0, 2.0, 1.0], [6.0, 5.0, 4.0]])
    atoms = Atoms(positions, np.array([42, 16]), np.zeros(2), np.arange(2, dtype=np.uint64))
    message = column.atoms_message(atoms, "truth")
    assert numbers(message.positions).tolist() == [1, 2, 3, 4, 5, 6]
    assert list(message.atomic_numbers) == [42, 16]
