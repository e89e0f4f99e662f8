"""What the graph's benchmark counts: rows that failed are not frames that were lost."""

import importlib.util
import uuid
from pathlib import Path

import pytest
from rclpy.serialization import serialize_message

from edgetem.msg import Measurements
from edgetem_nodes.graph.messages import from_uuid

BENCH = Path(__file__).resolve().parents[2] / "bench" / "graph.py"


@pytest.fixture(scope="module")
def bench():
    spec = importlib.util.spec_from_file_location("graph_bench", BENCH)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def counted(bench, sent, *messages):
    """Counts of a planner that sent acquisitions of so many frames and got (acquisition, indices, valid)."""
    planner = object.__new__(bench._Planner)
    planner.ends = [bench._Sent(frames, 0) for frames in sent]
    planner.rows = [serialize_message(Measurements(
        acquisition_id=from_uuid(uuid.UUID(int=number)), indices=indices, valid=valid)) for number, indices, valid in messages]
    return planner.measured()


def test_failed_rows_arrived(bench):
    assert counted(bench, [3, 2], (1, [0, 1, 2], [False] * 3), (2, [0, 1], [True, False])) == {
        "arrived": 5, "measured": 1, "measured_again": 0, "failed": 4}


def test_what_never_came_is_not_made_up_by_failed_rows_that_came_twice(bench):
    assert counted(bench, [4], (1, [0, 1], [False, True]), (1, [0, 1], [False, True])) == {
        "arrived": 2, "measured": 0, "measured_again": 1, "failed": 2}
