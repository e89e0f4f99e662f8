"""How fast detector blocks go from one process to another, checked and counted: `edgetem bench transport`.

The sender is this process, the receiver a child. Blocks are typed DetectorBlock messages with the graph's quality of
service, transport profile and credit. Every block differs from every other, its CRC-32 is computed by the sender and
verified by the receiver, which also counts.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import struct
import subprocess
import sys
import threading
import time
import uuid
import zlib
from pathlib import Path

BLOCK_BYTES = 2 << 20
FRAME = (64, 64)
FRAMES = BLOCK_BYTES // (FRAME[0] * FRAME[1] * 2)
POOL = 8
WINDOW = 32 << 20
RUN = uuid.UUID(int=1)
PATIENCE = 30.0


def run(quick: bool = False) -> dict:
    """Send blocks for at least 10 s and 5 GB (quick: 3 s and 1 GB); returns the record of the benchmark.

    Raises
    ------
    RuntimeError : the receiver did not come up, fell silent or did not report.
    """
    from edgetem_nodes import __version__
    from edgetem_nodes.graph.environment import prepare, shared_memory_segment
    from edgetem_nodes.graph.isolation import isolate

    prepare()
    isolate()
    segment, transport = shared_memory_segment()
    child = subprocess.Popen([sys.executable, str(Path(__file__).resolve()), "--receive"], stdin=subprocess.PIPE,
                             stdout=subprocess.PIPE, text=True)
    try:
        sent = _send(*((3.0, 1e9) if quick else (10.0, 5e9)))
        child.stdin.write(f"{sent['blocks']}\n")
        child.stdin.flush()
        report = child.stdout.readline()
        if not report:
            raise RuntimeError("the receiver ended without a report: see its message above")
        received = json.loads(report)
    finally:
        child.stdin.close()
        try:
            child.wait(timeout=5.0)
        except subprocess.TimeoutExpired:
            child.kill()
            child.wait()
    seconds = (received["last_ns"] - sent["first_ns"]) * 1e-9
    return {"name": "transport", "version": __version__, "cpu": _cpu(), "threads": 1, "quick": quick,
            "mb_per_s": round(received["blocks"] * BLOCK_BYTES / seconds / 1e6, 1),
            "frames_per_s": round(received["blocks"] * FRAMES / seconds, 1),
            "block_bytes": BLOCK_BYTES, "sent": sent["blocks"], "received": received["blocks"],
            "lost": sent["blocks"] - received["blocks"], "damaged": received["damaged"], "seconds": round(seconds, 3),
            "bytes": received["blocks"] * BLOCK_BYTES, "window_bytes": WINDOW, "segment_bytes": segment,
            "transport": transport,
            "sender_cpu_ms_per_block": sent["cpu_ms"], "receiver_cpu_ms_per_block": received["cpu_ms"],
            "sender_waits_fraction": sent["waits"], "crc32_mb_per_s": _rate(lambda data: zlib.crc32(data)),
            "memcpy_mb_per_s": _rate(lambda data: bytearray(data))}


def _send(least_seconds: float, least_bytes: float) -> dict:
    """Send blocks until both are reached; returns how many, when the first left [ns], and what each cost."""
    import numpy as np
    import rclpy
    from rclpy.executors import SingleThreadedExecutor

    from edgetem.msg import Axis, Credit, DetectorBlock
    from edgetem_nodes.detector.streaming import CreditGate
    from edgetem_nodes.graph.credit import CreditWindow
    from edgetem_nodes.graph.messages import byte_array, from_uuid, number_array, stamp_nanoseconds, to_uuid
    from edgetem_nodes.graph.quality_of_service import BLOCKS, CREDITS

    context = rclpy.Context()
    rclpy.init(context=context)
    node = rclpy.create_node("sender", context=context)
    publisher = node.create_publisher(DetectorBlock, "detector_block", BLOCKS)
    gate = CreditGate(CreditWindow(["receiver"]))
    node.create_subscription(Credit, "credit", lambda c: gate.credit(
        c.consumer, to_uuid(c.acquisition_id), c.consumed_through, c.window, stamp_nanoseconds(c.header.stamp)), CREDITS)
    executor = SingleThreadedExecutor(context=context)
    executor.add_node(node)
    spinning = threading.Thread(target=executor.spin, daemon=True)
    spinning.start()
    rng = np.random.default_rng(0)
    pool = [byte_array(rng.poisson(3.0, (FRAMES, *FRAME)).astype(np.uint16)) for _ in range(POOL)]
    message = DetectorBlock(acquisition_id=from_uuid(RUN), detector="bench", dtype="uint16", encoding="raw",
                            axes=[Axis(name=name, unit="rad", scale=1e-3, size=FRAME[0]) for name in ("ky", "kx")])
    message.shape = number_array((FRAMES, *FRAME), "I")
    message.positions = number_array(np.zeros(2 * FRAMES))
    deadline = time.monotonic() + PATIENCE
    while gate.absent() or publisher.get_subscription_count() == 0:
        if time.monotonic() > deadline:
            raise RuntimeError(f"no receiver announced itself within {PATIENCE:.0f} s")
        time.sleep(0.01)
    gate.arm()
    gate.begin(RUN, BLOCK_BYTES // FRAMES)
    count, waited = 0, 0.0
    first, cpu = time.monotonic_ns(), time.process_time()
    while count * BLOCK_BYTES < least_bytes or time.monotonic_ns() - first < least_seconds * 1e9:
        data = pool[count % POOL]
        memoryview(data)[:8] = struct.pack("<Q", count)
        message.block_index, message.first_index = count, count * FRAMES
        message.crc32 = zlib.crc32(data)
        message.data = data
        before = time.monotonic()
        gate.take(FRAMES)
        waited += time.monotonic() - before
        publisher.publish(message)
        count += 1
    elapsed = (time.monotonic_ns() - first) * 1e-9
    cpu = time.process_time() - cpu
    while gate.outstanding():
        gate.check()
        time.sleep(0.01)
    executor.shutdown()
    spinning.join(timeout=5.0)
    node.destroy_node()
    rclpy.shutdown(context=context)
    return {"blocks": count, "first_ns": first, "cpu_ms": round(cpu / count * 1e3, 3), "waits": round(waited / elapsed, 3)}


def _receive() -> None:
    """The child: verify and count until standard input says how many were sent, then report on standard output."""
    from edgetem_nodes.graph.environment import prepare

    prepare()
    import rclpy
    from rclpy.executors import SingleThreadedExecutor

    from edgetem.msg import DetectorBlock
    from edgetem_nodes.graph.credit import CreditReporter
    from edgetem_nodes.graph.messages import block_data, to_uuid
    from edgetem_nodes.graph.quality_of_service import BLOCKS

    rclpy.init()
    node = rclpy.create_node("receiver")
    state = {"blocks": 0, "damaged": 0, "last_ns": 0}
    stamps: set[int] = set()
    reporter = CreditReporter(node, "receiver", WINDOW)
    cpu = [0.0]

    def consume(block: DetectorBlock) -> None:
        if state["blocks"] == 0:
            cpu[0] = time.process_time()
        try:
            data = block_data(block)
            stamp = struct.unpack("<Q", memoryview(data).cast("B")[:8])[0]
            state["damaged"] += stamp != block.block_index or stamp in stamps
            stamps.add(stamp)
        except ValueError:
            state["damaged"] += 1
        state["blocks"] += 1
        state["last_ns"] = time.monotonic_ns()
        reporter.consumed(to_uuid(block.acquisition_id), block.first_index + block.shape[0])

    node.create_subscription(DetectorBlock, "detector_block", consume, BLOCKS)
    executor = SingleThreadedExecutor()
    executor.add_node(node)
    reporter.start()
    told: list[str] = []
    threading.Thread(target=lambda: told.append(sys.stdin.readline()), daemon=True).start()
    while not told:
        executor.spin_once(timeout_sec=0.05)
    if told[0].strip():
        quiet = time.monotonic()
        while state["blocks"] < int(told[0]) and time.monotonic() - quiet < 2.0:
            before = state["blocks"]
            executor.spin_once(timeout_sec=0.1)
            quiet = time.monotonic() if state["blocks"] > before else quiet
        state["cpu_ms"] = round((time.process_time() - cpu[0]) / max(1, state["blocks"]) * 1e3, 3)
        sys.stdout.write(json.dumps(state) + "\n")
        sys.stdout.flush()
    executor.shutdown()
    node.destroy_node()
    rclpy.try_shutdown()


def _rate(work: object) -> float:
    """MB/s at which `work` goes through a block, best of 20."""
    data = os.urandom(BLOCK_BYTES)
    best = min(_seconds(work, data) for _ in range(20))
    return round(BLOCK_BYTES / best / 1e6)


def _seconds(work: object, data: bytes) -> float:
    start = time.perf_counter()
    work(data)
    return time.perf_counter() - start


def _cpu() -> str:
    """Name of the processor."""
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return "unknown"


def main() -> None:
    """`python bench/transport.py [--json] [--quick]`."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", action="store_true", help="print one JSON object, last")
    parser.add_argument("--quick", action="store_true", help="end sooner")
    parser.add_argument("--receive", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.receive:
        _receive()
        return
    record = run(options.quick)
    if options.json:
        print(json.dumps(record))
    else:
        for key, value in record.items():
            print(f"{key:28s} {value}")


if __name__ == "__main__":
    main()
