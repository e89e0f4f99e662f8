"""The transport benchmark: it runs, loses nothing, and says what bench documents promise."""

import json
import subprocess
import sys
from pathlib import Path

BENCH = Path(__file__).resolve().parents[2] / "bench" / "transport.py"


def test_no_block_is_lost_or_damaged_between_processes():
    done = subprocess.run([sys.executable, BENCH, "--json", "--quick"], capture_output=True, text=True, timeout=120, check=True)
    record = json.loads(done.stdout.splitlines()[-1])
    assert {"name", "version", "cpu", "threads", "quick", "mb_per_s", "frames_per_s", "block_bytes"} <= set(record)
    assert (record["name"], record["quick"], record["block_bytes"]) == ("transport", True, 2 << 20)
    assert record["sent"] == record["received"] > 0
    assert record["lost"] == record["damaged"] == 0
    assert record["bytes"] >= 1e9 and record["seconds"] >= 3.0
