"""What the bag of an experiment that is to go on tells: paths, how far they came, the survey, dose and time."""

import uuid

import numpy as np
import pytest
from rclpy.serialization import deserialize_message
from wire import on_wire

from edgetem.msg import AcquisitionEnd, MicroscopeState, Overview, ProbePath
from edgetem_nodes.graph.column import path_message
from edgetem_nodes.graph.messages import from_uuid, to_stamp
from edgetem_nodes.physics.exposure import Exposure
from edgetem_nodes.provenance.bag import BagWriter
from edgetem_nodes.provenance.metadata import BagError
from edgetem_nodes.provenance.past import past_of
from edgetem_nodes.provenance.topics import TOPICS

T0 = 1_700_000_000_000_000_000


class Session:
    """Messages of one session; acquisition time began at `began` [ns]."""

    def __init__(self, folder, began):
        self.bag, self.began, self.time = BagWriter(folder, append=True), began, T0

    def write(self, name, message, elapsed=0.0):
        if hasattr(message, "header"):
            message.header.stamp = to_stamp(0, self.began + round(elapsed * 1e9))
        self.time += 1000
        self.bag.add_topic(f"/{name}", TOPICS[name][0])
        self.bag.write(f"/{name}", on_wire(message), self.time)

    def path(self, number, elapsed, sent=None):
        key = uuid.UUID(int=number + 1)
        message = path_message(Exposure(number, elapsed, np.zeros((5, 2)), 0.5, 1.0, {}), key, "")
        self.write("probe_path", message, elapsed)
        if sent is not None:
            self.write("acquisition_end", AcquisitionEnd(acquisition_id=from_uuid(key), requested=5, sent=sent, dropped=1))
        return message


def test_two_sessions_are_one_past(tmp_path):
    first = Session(tmp_path / "bag", T0)
    overview = Overview(channels=["haadf"])
    first.write("overview", overview, 1.5)
    paths = [first.path(0, 3.0, sent=4), first.path(1, 10.0, sent=1)]
    first.write("microscope_state", MicroscopeState(dose=7.0), 14.25)
    first.bag.close()
    second = Session(tmp_path / "bag", T0 + 10**12 - round(14.25e9))
    paths.append(second.path(2, 20.0))
    second.write("microscope_state", MicroscopeState(dose=9.0), 20.5)
    second.bag.close()
    past = past_of(tmp_path)
    assert [(deserialize_message(data, ProbePath).sequence, count) for data, count in past.paths] == [(0, 5), (1, 2), (2, 5)]
    last = deserialize_message(past.paths[-1][0], ProbePath)
    assert (last.header, last.acquisition_id, last.positions) == (paths[-1].header, paths[-1].acquisition_id,
                                                                  paths[-1].positions)
    assert past.elapsed == pytest.approx(25.0, abs=1e-9), "an acquisition without an end counts to its last position"
    assert (past.dose, past.surveys, past.survey_elapsed) == (9.0, 1, pytest.approx(1.5, abs=1e-9))
    assert deserialize_message(past.overview, Overview) == overview


def test_no_bag(tmp_path):
    with pytest.raises(BagError, match="holds no bag"):
        past_of(tmp_path)
