"""The running graph under a detector that is faster than its consumers: all is measured and archived, nothing dropped."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

BENCH = Path(__file__).resolve().parents[2] / "bench" / "graph.py"


@pytest.mark.slow
@pytest.mark.parametrize("together", ["", "compressor,featurizer,detector"])
def test_a_compressor_that_falls_behind_holds_the_detector_back(together):
    slow = ["--set", "compressor.codec.level=4", "--set", "compressor.window_MiB=4", "--set", "detector.block_mib=1.0"]
    done = subprocess.run([sys.executable, str(BENCH), "--pixels", "128", "--seconds", "1", f"--together={together}", *slow,
                           "--json"], capture_output=True, text=True, timeout=400, check=True, env=dict(os.environ))
    record = json.loads(done.stdout.splitlines()[-1])
    assert record["lost"] == record["dropped"] == record["failed"] == record["measured_again"] == 0
    assert record["sent"] == record["measured"] == record["archived"] > 16000
    assert record["frames_compared"] >= 100
