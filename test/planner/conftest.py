"""The laboratory as a fixture."""

import pytest
import rclpy
from laboratory import Laboratory


@pytest.fixture(scope="module")
def middleware():
    """One participant for all tests: many in a row in one process do not always find each other."""
    rclpy.init()
    yield
    rclpy.shutdown()


@pytest.fixture
def laboratory(middleware):
    """Make a `Laboratory` with settings of the planner; closed at the end of the test."""
    made = []

    def make(**settings):
        made.append(Laboratory(**settings))
        return made[-1]
    yield make
    for one in made:
        one.close()
