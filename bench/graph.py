"""How many frames a second the running graph sustains with none lost: `edgetem bench graph`.

Microscope, detector, featurizer and compressor run as processes and are brought up as an experiment brings them up. This
process takes the planner's part: it asks the microscope for scans, one after the other, and keeps every `Measurements`. The
simulated detector draws electrons from patterns of the virtual microscope (docs/throughput.md) as fast as its consumers'
credit allows. Afterwards every index must have been measured once, the archive must hold every frame, and a sample of them
is compared bit for bit with what the source draws. Detector, featurizer and compressor share a process, where blocks are
handed on; further cases have them apart.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
import timeit
import uuid
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

SHAPES = (128, 256)
"""Camera pixels along each axis."""
ELECTRONS = 1000.0
"""Mean electrons that reach the specimen during a frame."""
FASTEST = 20000.0
"""[1/s] frame rate that the dwell time stands for."""
SCAN = 256
"""Positions along each axis of the field."""
SEED = 7
SAMPLE = 200
"""Frames of each case that are compared bit for bit."""
FAST: dict[str, dict] = {
    "detector": {"block_mib": 4.0}, "featurizer": {"window_MiB": 32}, "compressor": {"window_MiB": 64, "chunk_KiB": 4096}}
"""Settings for a fast camera: what a block costs beside its bytes counts half."""
NODES = ("compressor", "featurizer", "detector", "microscope")
"""In order of activation."""
PATIENCE = 120.0
ELEMENTARY_CHARGE = 1.602176634e-19


def run(quick: bool = False) -> dict:
    """Stream frames of every shape for 60 s (quick: 5 s); returns the record of the benchmark, that of 128 x 128 on top."""
    from edgetem_nodes.graph.environment import prepare
    from edgetem_nodes.graph.isolation import isolate

    prepare()
    isolate()
    cases = [measure(pixels, 3.0 if quick else 60.0) for pixels in SHAPES]
    if not quick:
        cases += [measure(SHAPES[0], 20.0, together=()), measure(SHAPES[0], 20.0, together=NODES[:2])]
    return {"threads": len(os.sched_getaffinity(0)), **cases[0], **_limits(), "cases": cases}


def measure(pixels: int, seconds: float, scalarizer: str = "virtual_detector", together: tuple[str, ...] = NODES[:3],
            settings: dict[str, dict] | None = None) -> dict:
    """One case: frames of `pixels` x `pixels`, streamed for `seconds`.

    Parameters
    ----------
    scalarizer : that the featurizer computes.
    together : nodes that share a process; the others have one each.
    settings : further parameters by node.
    """
    with tempfile.TemporaryDirectory(prefix="edgetem-bench-") as folder:
        parameters = _parameters(pixels, scalarizer, Path(folder), settings or {})
        with _graph(parameters, Path(folder), together) as processes, _Planner() as planner:
            planner.bring_up()
            planner.scan(2048)
            planner.settle()
            before, start = _cpu_seconds(processes), time.monotonic()
            first = len(planner.ends)
            while time.monotonic() - start < seconds:
                planner.scan(SCAN * SCAN // (1 if seconds >= 20 else 4) // (pixels // SHAPES[0])**2)
            end = planner.settle()
            after = _cpu_seconds(processes)
            memory = {name: _peak_mb(process.pid) for name, process in processes.items()}
            planner.bring_down()
        frames = sum(e.sent for e in planner.ends[first:])
        used = {name: after[name] - before[name] for name in after}
        record = {
            "frame_shape": [pixels, pixels], "electrons_per_frame": ELECTRONS, "scalarizer": scalarizer,
            "processes": list(processes), "seconds": round(end - start, 2),
            "frames_per_s": round(frames / (end - start), 1),
            "mb_per_s": round(frames * pixels**2 * 2 / (end - start) / 1e6, 1),
            "sent": sum(e.sent for e in planner.ends), "dropped": sum(e.dropped for e in planner.ends),
            **planner.measured(), **_archived(Path(folder), parameters, planner),
            "cpu_us_per_frame": {name: round(value / frames * 1e6, 2) for name, value in used.items()},
            "cpu_us_per_frame_total": round(sum(used.values()) / frames * 1e6, 2),
            "peak_rss_mb": round(sum(memory.values()), 1), "peak_rss_mb_by_node": memory}
        record["lost"] = record["sent"] + record["dropped"] - min(record["arrived"], record["archived"])
        # What two cores that do nothing else could carry, were the work spread evenly over them.
        record["frames_per_s_of_two_free_cores"] = round(2e6 / record["cpu_us_per_frame_total"])
        return record


def _parameters(pixels: int, scalarizer: str, folder: Path, settings: dict[str, dict]) -> dict[str, dict]:
    """Parameters of every node, by node."""
    instrument = {
        "instrument.semi_convergence_mrad": 20.0, "instrument.dwell_ms": 1e3 / FASTEST, "instrument.settling_us": 0.0,
        "instrument.probe_current_pA": ELECTRONS * FASTEST * ELEMENTARY_CHARGE * 1e12,
        "instrument.simulated.rows": SCAN, "instrument.simulated.columns": SCAN, "instrument.simulated.field_nm": 8.0,
        "instrument.simulated.camera_pixels": pixels, "instrument.simulated.pixel_mrad": 128.0 / pixels}
    values: dict[str, dict] = {
        "microscope": {"seed": SEED, **instrument}, "detector": {"seed": SEED, "stream.places": 8, **instrument},
        "featurizer": {"scalarizer": scalarizer, "virtual_detector.outer_mrad": 20.0, "output": str(folder)},
        "compressor": {"output": str(folder)}}
    for changes in (FAST, settings):
        for name, more in changes.items():
            values[name].update(more)
    return values


@contextlib.contextmanager
def _graph(parameters: dict[str, dict], folder: Path, together: tuple[str, ...]) -> Iterator[dict[str, subprocess.Popen]]:
    """The nodes' processes by name; they are ended on the way out."""
    import yaml

    file = folder / "parameters.yaml"
    file.write_text(yaml.safe_dump({name: {"ros__parameters": values} for name, values in parameters.items()}))
    groups = [list(together), *([name] for name in NODES if name not in together)]
    processes = {}
    try:
        for names in filter(None, groups):
            processes["+".join(names)] = subprocess.Popen([
                sys.executable, "-m", "edgetem_nodes", *names, "--ros-args", "--log-level", "warn", "--params-file", str(file)])
        yield processes
    finally:
        for process in processes.values():
            process.send_signal(signal.SIGINT)
        for process in processes.values():
            try:
                process.wait(timeout=15.0)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


class _Planner:
    """Asks for scans, and keeps what comes of them."""

    def __init__(self) -> None:
        import rclpy
        from rclpy.action import ActionClient
        from rclpy.experimental import EventsExecutor

        from edgetem.action import Acquire
        from edgetem.msg import ArchivedBlock, Measurements, ProbePath
        from edgetem_nodes.graph.column import exposure_of
        from edgetem_nodes.graph.messages import to_uuid
        from edgetem_nodes.graph.quality_of_service import EVENTS
        from edgetem_nodes.operator.bring_up import BringUp

        self.context = rclpy.Context()
        rclpy.init(context=self.context)
        self.node = rclpy.create_node("planner", context=self.context)
        self._bring_up = BringUp(self.node, list(NODES), PATIENCE)
        self._acquire = ActionClient(self.node, Acquire, "acquire")
        self.rows: list[bytes] = []
        self.exposures: dict[uuid.UUID, Any] = {}
        self.ends: list[Any] = []
        self._blocks: list[bytes] = []
        self._looked, self._archived = 0, 0
        self._changed = threading.Condition()

        def keep(messages: list[bytes], message: bytes) -> None:
            with self._changed:
                messages.append(message)
                self._changed.notify_all()

        self.node.create_subscription(Measurements, "measurements", partial(keep, self.rows), EVENTS, raw=True)
        self.node.create_subscription(ArchivedBlock, "archived_block", partial(keep, self._blocks), EVENTS, raw=True)
        self.node.create_subscription(ProbePath, "probe_path", lambda path: self.exposures.update(
            {to_uuid(path.acquisition_id): exposure_of(path)}), EVENTS)
        self._executor, self._spinning = EventsExecutor(context=self.context), True
        self._executor.add_node(self.node)
        self._thread = threading.Thread(target=self._spin, daemon=True)
        self._thread.start()

    def _spin(self) -> None:
        while self._spinning:
            self._executor.spin_once(timeout_sec=0.1)

    def __enter__(self) -> _Planner:
        return self

    def __exit__(self, *_: object) -> None:
        import rclpy

        self._spinning = False
        self._thread.join(timeout=5.0)
        self._executor.shutdown()
        self._acquire.destroy()
        self.node.destroy_node()
        rclpy.shutdown(context=self.context)

    def bring_up(self) -> None:
        """Configure and activate all nodes."""
        self._bring_up.up()
        if not self._acquire.wait_for_server(PATIENCE):
            raise RuntimeError("the microscope does not serve 'acquire'")

    def bring_down(self) -> None:
        """Deactivate all nodes: the archive is closed."""
        silent = self._bring_up.down()
        if silent:
            raise RuntimeError(f"{', '.join(silent)} did not shut down")

    def scan(self, count: int) -> None:
        """Scan the first `count` positions of the field, row by row; raises RuntimeError where not all were sent."""
        import numpy as np

        from edgetem.action import Acquire
        from edgetem_nodes.graph.messages import from_uuid, number_array

        step = 8e-9 / (SCAN - 1)
        rows, columns = np.divmod(np.arange(count), SCAN)
        goal = Acquire.Goal(acquisition_id=from_uuid(uuid.UUID(int=len(self.ends) + 1)))
        goal.positions = number_array(np.stack([rows * step, columns * step], axis=1))
        handle = _result(self._acquire.send_goal_async(goal))
        if not handle.accepted:
            raise RuntimeError("the microscope refused the scan: its own message above says why")
        result = _result(handle.get_result_async()).result
        if result.error_code or result.frames_delivered != count:
            raise RuntimeError(f"the scan ended early, after {result.frames_delivered} of {count} frames: {result.error_msg}")
        self.ends.append(_Sent(result.frames_delivered, result.frames_dropped))

    def settle(self) -> float:
        """Wait until all that was sent is archived, and nothing more is measured; returns when [s, monotonic].

        Raises
        ------
        RuntimeError : it is not, within the time.
        """
        sent, deadline = sum(end.sent for end in self.ends), time.monotonic() + PATIENCE
        with self._changed:
            while not self._all_there(sent):
                if not self._changed.wait(1.0) and time.monotonic() > deadline:
                    raise RuntimeError(f"{self._archived} of {sent} frames sent were archived, {len(self.rows)} messages of "
                                       "measurements came")
            return time.monotonic()

    def _all_there(self, sent: int) -> bool:
        """Whether all blocks are archived and the last row is measured; each block is looked at once."""
        from edgetem.msg import ArchivedBlock

        while self._looked < len(self._blocks):
            self._archived += int(_message(self._blocks[self._looked], ArchivedBlock).count)
            self._looked += 1
        if self._archived < sent or not self.rows:
            return False
        last = _message(self.rows[-1])
        return bytes(last.acquisition_id.uuid) == uuid.UUID(int=len(self.ends)).bytes and (
            int(last.indices[-1]) == self.ends[-1].sent - 1)

    def measured(self) -> dict[str, int]:
        """How many indices have a row, valid or not; how many were measured once and validly, how many again; failed rows."""
        import numpy as np

        from edgetem_nodes.graph.messages import to_uuid

        times = {uuid.UUID(int=number + 1): np.zeros((2, end.sent), np.int64) for number, end in enumerate(self.ends)}
        for message in map(_message, self.rows):
            np.add.at(times[to_uuid(message.acquisition_id)],
                      (np.array(message.valid, np.int64), np.asarray(message.indices, np.int64)), 1)
        failed, valid = np.concatenate(list(times.values()), axis=1)
        return {"arrived": int((failed + valid > 0).sum()), "measured": int((valid == 1).sum()),
                "measured_again": int((valid > 1).sum()), "failed": int(failed.sum())}


class _Sent(NamedTuple):
    sent: int
    dropped: int


def _message(data: bytes, kind: type | None = None) -> Any:
    from rclpy.serialization import deserialize_message

    from edgetem.msg import Measurements

    return deserialize_message(data, kind or Measurements)


def _result(future: Any) -> Any:
    done = threading.Event()
    future.add_done_callback(lambda _: done.set())
    if not done.wait(PATIENCE * 2):
        raise RuntimeError("the microscope did not answer")
    return future.result()


def _archived(folder: Path, parameters: dict[str, dict], planner: _Planner) -> dict[str, Any]:
    """Read the archive back: frames held, once each, and a sample compared with the source, bit for bit."""
    import numpy as np

    from edgetem_nodes.archive.reader import Archive
    from edgetem_nodes.detector.parameters import Parameters
    from edgetem_nodes.detector.sources import make_source
    from edgetem_nodes.graph.configuration import build

    detector = build(Parameters, parameters["detector"])
    source = make_source(detector.instrument, detector.seed, detector.stream.places)
    rng = np.random.default_rng(SEED)
    held = compared = blocks = 0
    with Archive.open(folder) as archive:
        stored = archive.acquisitions()
        for acquisition in stored:
            held += len(np.unique(acquisition.indices))
            block = acquisition.blocks[rng.integers(len(acquisition.blocks))]
            archive.verify(block)
            blocks += 1
            for index in rng.integers(acquisition.count, size=max(1, SAMPLE // len(stored))):
                expected = source.read(planner.exposures[acquisition.acquisition_id], int(index), 1)[0]
                if not np.array_equal(acquisition.rows(int(index), 1)[0], expected):
                    raise RuntimeError(f"frame {index} of {acquisition.name} is not what the source draws")
                compared += 1
        size = archive.path.stat().st_size
    return {"archived": held, "frames_compared": compared, "blocks_verified": blocks, "stored_mb": round(size / 1e6, 1)}


def _limits() -> dict[str, float]:
    """What one core does with a block of frames as the source draws them [MB/s of frames]: work that cannot be left out."""
    import hashlib
    import zlib

    import numpy as np

    from edgetem_nodes.compressor.codec import Codec

    rng = np.random.default_rng(SEED)
    block = rng.poisson(ELECTRONS / SHAPES[0]**2, (128, SHAPES[0], SHAPES[0])).astype(np.uint16)
    codec, data = Codec(), memoryview(block).cast("B")
    work = {"memcpy": lambda: bytearray(data), "crc32": lambda: zlib.crc32(data),
            "sha256": lambda: hashlib.sha256(data).digest(), "encode": lambda: codec.encode(block)}
    return {f"{name}_mb_per_s": round(block.nbytes / min(timeit.repeat(once, number=1, repeat=10)) / 1e6)
            for name, once in work.items()}


def _cpu_seconds(processes: dict[str, subprocess.Popen]) -> dict[str, float]:
    """Processor time so far of every process of the graph, and of this one (the planner)."""
    tick = os.sysconf("SC_CLK_TCK")
    seconds = {}
    for name, process in processes.items():
        fields = Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()
        seconds[name] = (int(fields[11]) + int(fields[12])) / tick
    return {**seconds, "planner": time.process_time()}


def _peak_mb(pid: int) -> float:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmHWM"):
            return round(int(line.split()[1]) * 1024 / 1e6, 1)
    return float("nan")


def main() -> None:
    """`python bench/graph.py [--json] [--quick] [--pixels N] [--seconds S]`: also one case alone."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", action="store_true", help="print one JSON object, last")
    parser.add_argument("--quick", action="store_true", help="end sooner")
    parser.add_argument("--pixels", type=int, help="one case alone: camera pixels along each axis")
    parser.add_argument("--seconds", type=float, default=10.0, help="of the one case")
    parser.add_argument("--scalarizer", default="virtual_detector", help="of the one case")
    parser.add_argument("--together", default=",".join(NODES[:3]), help="nodes of the one case that share a process")
    parser.add_argument("--set", action="append", default=[], metavar="NODE.KEY=VALUE", help="a parameter of the one case")
    options = parser.parse_args()
    if options.pixels:
        from edgetem_nodes.graph.environment import prepare
        from edgetem_nodes.graph.isolation import isolate

        prepare()
        isolate()
        import yaml

        settings: dict[str, dict] = {}
        for text in options.set:
            key, _, value = text.partition("=")
            node, _, key = key.partition(".")
            settings.setdefault(node, {})[key] = yaml.safe_load(value)
        record = measure(options.pixels, options.seconds, options.scalarizer,
                         tuple(filter(None, options.together.split(","))), settings)
    else:
        record = run(options.quick)
    print(json.dumps(record) if options.json else json.dumps(record, indent=1))


if __name__ == "__main__":
    main()
