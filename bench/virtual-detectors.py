"""How fast patterns become virtual detectors and centres of mass: `edgetem bench virtual-detectors`.

BF, ADF and the centre of mass (with their standard errors, and a look for saturated pixels) of a 128 x 128 scan of 128 x 128
uint16, from memory and from files in the page cache, with one and two threads. LiberTEM does the same job, less errors and
saturation, with the settings that were fastest of those tried: one run over five masks (of which the centre of mass is made),
without torch, in tiles of eight frames (CoMUDF beside ApplyMasksUDF took 1.6 times as long). And the memory is copied; all
in turns in the same run, and the best turn counts.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np

LINE = 128
SCAN, QUICK_SCAN = (128, LINE), (64, LINE)
FRAME = (128, 128)
DISTINCT = 512
"""Patterns drawn; the scan repeats them, in memory of its own."""
DISK_RADIUS, RING = 20.0, (25.0, 60.0)
"""[pixel]"""
TURNS, QUICK_TURNS = 12, 4
PEER_TILE = 8
"""Frames."""
LINES = 4
"""Scan lines of an HDF5 file read at once; each is a chunk of its own."""


def run(quick: bool = False) -> dict:
    """Measure; returns the record of the benchmark. Frames per second are by the wall clock, `cpu` keys by CPU seconds."""
    for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ.setdefault(name, "1")
    scan = QUICK_SCAN if quick else SCAN
    turns = QUICK_TURNS if quick else TURNS
    masks, data = _masks(), _scan(scan)
    cases, difference = [], None
    with tempfile.TemporaryDirectory() as folder:
        sources = _sources(data, Path(folder))
        peers, difference = _peers(data, Path(folder), masks)
        target = np.empty_like(data)
        for (source, threads), work in _ours(sources, masks).items():
            jobs = {"edgetem": work, "memcpy": lambda: np.copyto(target, data)}
            if (source, threads) in peers:
                jobs["libertem"] = peers[source, threads]
            cases.append(_case(source, threads, _best(jobs, turns if source == "memory" else turns // 2), data))
    first = cases[0]
    return {"frames_per_s": first["frames_per_s"], "libertem_frames_per_s": first["libertem_frames_per_s"],
            "memcpy_mb_per_s": first["memcpy_mb_per_s"], "mb_per_s": first["mb_per_s"],
            "ratio_libertem": first["ratio_libertem"], "ratio_memcpy": first["ratio_memcpy"],
            "largest_difference_from_libertem": difference, "scan": list(scan), "frame": list(FRAME), "turns": turns,
            "cases": cases}


def _masks() -> dict[str, np.ndarray]:
    radius = np.hypot(*(np.indices(FRAME) - np.reshape(FRAME, (2, 1, 1)) / 2))
    return {"bright_field": radius < DISK_RADIUS, "annular_dark_field": (radius >= RING[0]) & (radius < RING[1])}


def _scan(scan: tuple[int, int]) -> np.ndarray:
    """Patterns (frames, rows, columns) uint16: disks of Poisson counts that wander, on a faint ground."""
    rng = np.random.default_rng(0)
    places = rng.uniform(-2, 2, (DISTINCT, 2, 1, 1)) + np.reshape(FRAME, (2, 1, 1)) / 2
    y, x = (np.indices(FRAME)[None] - places).transpose(1, 0, 2, 3)
    patterns = rng.poisson(np.where(np.hypot(y, x) < DISK_RADIUS, 10.0, 0.05)).astype(np.uint16)
    return np.tile(patterns, (scan[0] * scan[1] // DISTINCT, 1, 1))


def _sources(data: np.ndarray, folder: Path) -> dict[str, Callable[[], object]]:
    """By name, a function that gives blocks of frames."""
    import h5py

    data.tofile(folder / "scan.raw")
    with h5py.File(folder / "scan.h5", "w") as file:
        file.create_dataset("frames", data=data.reshape(-1, LINE, *FRAME), chunks=(1, LINE, *FRAME))

    def blocks_of_hdf5() -> object:
        block = np.empty((LINES, LINE, *FRAME), data.dtype)
        with h5py.File(folder / "scan.h5", "r") as file:
            frames = file["frames"]
            for start in range(0, len(frames), LINES):
                frames.read_direct(block, np.s_[start:start + LINES])
                yield block.reshape(-1, *FRAME)
    return {"memory": lambda: [data], "raw": lambda: [np.memmap(folder / "scan.raw", data.dtype, "r", 0, data.shape)],
            "hdf5": blocks_of_hdf5}


def _ours(sources: dict, masks: dict[str, np.ndarray]) -> dict[tuple[str, int], Callable[[], object]]:
    """What is timed, by source and threads; compiled."""
    from edgetem_nodes.featurizer.patterns.reduction import Reduction

    reductions = {threads: Reduction(FRAME, masks, threads=threads) for threads in (1, 2)}
    jobs = {(source, threads): (lambda blocks=blocks, reduction=reduction: [reduction(block) for block in blocks()])
            for source, blocks in sources.items() for threads, reduction in reductions.items()}
    reductions[1](np.zeros((2, *FRAME), np.uint16))
    return jobs


def _peers(data: np.ndarray, folder: Path, masks: dict[str, np.ndarray]) -> tuple[dict, float | None]:
    """LiberTEM's runs by source and threads, warm, and by how much its values differ from ours, relative; none where it is
    not installed."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            import libertem.api as libertem
            from libertem.executor.inline import InlineJobExecutor
            from libertem.udf.masks import ApplyMasksUDF
    except ImportError:
        return {}, None
    maps = [*masks.values(), np.ones(FRAME), *np.indices(FRAME)]
    udf = ApplyMasksUDF([(lambda mask=mask: mask.astype(np.float32)) for mask in maps], use_torch=False)
    contexts = {1: libertem.Context(InlineJobExecutor(inline_threads=1)), 2: libertem.Context.make_with("threads", cpus=2)}
    jobs, differences = {}, []
    for threads, context in contexts.items():
        sets = {"memory": context.load("memory", data=data.reshape(-1, LINE, *FRAME), sig_dims=2, num_partitions=threads,
                                       tileshape=(PEER_TILE, *FRAME)),
                "raw": context.load("raw", path=str(folder / "scan.raw"), dtype="uint16", sig_shape=FRAME,
                                    nav_shape=(len(data) // LINE, LINE)),
                "hdf5": context.load("hdf5", path=str(folder / "scan.h5"), ds_path="/frames", sig_dims=2)}
        for source, dataset in sets.items():
            jobs[source, threads] = (lambda context=context, dataset=dataset: context.run_udf(dataset, udf))
            differences.append(_difference(jobs[source, threads](), data[:DISTINCT], masks))
    return jobs, float(np.max(differences))


def _difference(results: dict, frames: np.ndarray, masks: dict[str, np.ndarray]) -> float:
    """Largest relative difference of LiberTEM's results from ours, on the first frames."""
    from edgetem_nodes.featurizer.patterns.reduction import Reduction

    reduced = Reduction(FRAME, masks)(frames)
    sums = np.asarray(results["intensity"].data).reshape(-1, len(masks) + 3)[:len(frames)].astype(float)
    theirs = np.concatenate([sums[:, :len(masks)], sums[:, -2:] / sums[:, -3:-2]], axis=1)
    return float(np.abs(theirs / np.concatenate([reduced.counts, reduced.center_of_mass], axis=1) - 1).max())


def _best(jobs: dict[str, Callable[[], object]], turns: int) -> dict[str, tuple[float, float]]:
    """Least seconds by the wall clock and of the CPU of each job, done in turns."""
    best = dict.fromkeys(jobs, (np.inf, np.inf))
    for _ in range(turns):
        for name, job in jobs.items():
            wall, cpu = time.perf_counter(), time.process_time()
            job()
            wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
            best[name] = min(best[name][0], wall), min(best[name][1], cpu)
    return best


def _case(source: str, threads: int, best: dict[str, tuple[float, float]], data: np.ndarray) -> dict:
    """The record of one source and number of threads; LiberTEM's is null where it was not measured."""
    ours, copy, peer = best["edgetem"], best["memcpy"], best.get("libertem")
    return {"source": source, "threads": threads, "frames_per_s": round(len(data) / ours[0]),
            "mb_per_s": round(data.nbytes / ours[0] / 1e6), "cpu_us_per_frame": round(ours[1] / len(data) * 1e6, 3),
            "libertem_frames_per_s": round(len(data) / peer[0]) if peer else None,
            "libertem_cpu_us_per_frame": round(peer[1] / len(data) * 1e6, 3) if peer else None,
            "memcpy_mb_per_s": round(data.nbytes / copy[0] / 1e6),
            "ratio_libertem": round(peer[0] / ours[0], 3) if peer else None, "ratio_memcpy": round(copy[0] / ours[0], 3),
            "ratio_libertem_cpu": round(peer[1] / ours[1], 3) if peer else None,
            "ratio_memcpy_cpu": round(copy[1] / ours[1], 3)}


def main() -> None:
    """`python bench/virtual-detectors.py [--json] [--quick]`."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", action="store_true", help="print one JSON object, last")
    parser.add_argument("--quick", action="store_true", help="end sooner")
    options = parser.parse_args()
    record = run(options.quick)
    if options.json:
        print(json.dumps(record))
    else:
        for key, value in record.items():
            print(f"{key:34s} {value}")


if __name__ == "__main__":
    main()
