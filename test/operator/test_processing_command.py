"""`edgetem process` as a command in a process of its own: exit codes, Ctrl-C, memory."""

from __future__ import annotations

import os
import signal

import emdfile
import h5py
import numpy as np
import pytest
from click.testing import Result
from processed_scan import scan
from typer.testing import CliRunner

from edgetem_nodes.operator.cli import app

KNOWN = ("--high-tension", 80, "--semi-convergence", 25, "--step", 0.02, "--center", "30.2,33.7", "--radius", 14.3)


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    path = tmp_path_factory.mktemp("scan") / "scan.npy"
    np.save(path, scan())
    return path


def test_the_command_makes_maps_and_says_so(edgetem, file, tmp_path):
    done = edgetem("process", file, "--features", "bf,com", "--output", tmp_path / "out", "--rotation", 90, *KNOWN)
    assert done.finish() == 0, done.output
    assert "step_y" in done.output and "90 deg" in done.output and f"written {tmp_path / 'out' / 'maps.emd'}" in done.output
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"bf.png", "com.png", "maps.emd"}


def invoked(*arguments: object) -> Result:
    """The command in this process."""
    return CliRunner().invoke(app, ["process", *map(str, arguments)])


def test_exit_codes_and_messages(file, tmp_path):
    refused = invoked(file, "--features", "bf,ssb", "--output", tmp_path / "some", "--no-pictures", *KNOWN, "--step", 1)
    assert refused.exit_code == 1 and "a step of 1 nm is too coarse" in refused.output, refused.output
    for arguments, message in (((tmp_path / "none.npy",), "does not exist"), ((file, "--features", "bff"), "did you mean 'bf'"),
                               ((file, "--center", "1"), "--center '1' is not 2 numbers"),
                               ((file, "--scan-shape", "3,3"), "holds 99 frames, a scan of 3 x 3 has 9 places"),
                               ((file, "--set", "com"), "is not NODE.KEY=VALUE")):
        failed = invoked(*arguments, "--output", tmp_path / "bad")
        assert failed.exit_code == 2 and message in failed.output, failed.output
    assert not (tmp_path / "bad").exists()
    listed = invoked(file, "--features", "list")
    assert listed.exit_code == 0 and "com " in listed.output and "single side band" in listed.output


@pytest.fixture
def waiting(tmp_path):
    """An HDF5 file with many small chunks, so that it takes long: (path, frames)."""
    frames = scan(1, 4).reshape(4, 64, 64)
    path = tmp_path / "long.h5"
    with h5py.File(path, "w") as file:
        data = file.create_dataset("patterns", (400, 100, 64, 64), "u2", chunks=(1, 1, 64, 64), fillvalue=0)
        for row in range(4):
            data[row, :4] = frames
        # Frames that were never written read as zeros: they are empty, and cost nothing on the disk.
    return path


def test_ctrl_c_writes_what_was_read_and_says_so(edgetem, waiting, tmp_path):
    command = edgetem("process", waiting, "--signal", "patterns", "--features", "bf", "--output", tmp_path / "out",
                      "--block-mib", 0.02, "--no-pictures", *KNOWN)
    command.wait_for("counts_per_electron")
    os.kill(command.process.pid, signal.SIGINT)
    assert command.finish() == 130, command.output
    assert "interrupted: " in command.output and "of 40000 frames read" in command.output
    root = emdfile.read(tmp_path / "out" / "maps.emd")
    did = root.metadata["processing"]
    assert did["status"] == "interrupted" and 0 < did["frames_read"] < 40000
    bf, codes = root.tree("bf").data.ravel(), root.tree("failures").data.ravel()
    assert np.count_nonzero(codes == 1) == 40000 - did["frames_read"] and np.isnan(bf[codes == 1]).all() and bf[0] > 1000


def test_a_second_ctrl_c_leaves_nothing(edgetem, waiting, tmp_path):
    command = edgetem("process", waiting, "--signal", "patterns", "--features", "bf", "--output", tmp_path / "out",
                      "--block-mib", 0.02, "--no-pictures", *KNOWN)
    command.wait_for("counts_per_electron")
    os.kill(command.process.pid, signal.SIGINT)
    os.kill(command.process.pid, signal.SIGINT)
    code = command.finish()
    assert code == 130, command.output
    # Signals that arrive together may count as one; then the part is there, whole.
    assert (tmp_path / "out" / "maps.emd").exists() == ("interrupted: " in command.output)
    if "nothing was written" in command.output:
        assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_memory_does_not_grow_with_the_file(edgetem, tmp_path):
    def peak(rows: int, name: str) -> float:
        path = tmp_path / f"{name}.npy"
        frames = np.lib.format.open_memmap(path, "w+", np.uint16, (rows, 64, 128, 128))
        y, x = np.indices((128, 128)) - 60.0
        frames[:] = (np.hypot(y, x) < 20).astype(np.uint16)
        del frames
        done = edgetem("process", path, "--features", "bf,adf,com,sum", "--block-mib", 8, "--output", tmp_path / name, *KNOWN)
        assert done.finish() == 0, done.output
        path.unlink()
        line = next(line for line in done.lines if "peak memory" in line)
        return float(line.split("peak memory")[1].split()[0].replace(",", ""))
    small, large = peak(8, "small"), peak(256, "large")
    # 16 MiB and 512 MiB of frames; 16384 places more are 4 MiB of maps.
    assert large - small < 8 * 4 + 4 + 20
