"""Shared by all tests: a ROS domain of one's own, one BLAS thread, measured data, collection of launch tests."""

from __future__ import annotations

import os

from edgetem_nodes.graph.environment import prepare
from edgetem_nodes.graph.isolation import isolate

prepare()
isolate()

from pathlib import Path  # noqa: E402

import pytest  # noqa: E402

REPOSITORY = Path(__file__).resolve().parents[1]
DATA = Path(os.environ.get("EDGETEM_DATA", REPOSITORY.parent / "shared" / "data"))


@pytest.fixture(scope="session")
def data_root() -> Path:
    """Folder of measured data. With EDGETEM_DATA set its absence is a failure, else a skip that says why."""
    if DATA.is_dir():
        return DATA
    if "EDGETEM_DATA" in os.environ:
        pytest.fail(f"EDGETEM_DATA is {DATA}, which is not a folder")
    pytest.skip(f"no measured data at {DATA}: set EDGETEM_DATA to run this test")


@pytest.fixture(scope="session")
def synthetic() -> Path:
    """Folder of the small synthetic data sets that lie in the repository."""
    return REPOSITORY / "test" / "data"
