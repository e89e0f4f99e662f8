"""`python -m edgetem_nodes.featurizer.cbed.throughput`: nanobeam patterns a second, on a CPU and on a GPU.

Patterns of all trained materials, or of those named, are drawn for one beam and camera of 64 x 64 pixels, at 1e4 electrons, and
counted again and again. It needs numpy, scipy, numba and torch, and prints one line of JSON.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from edgetem_nodes.featurizer.cbed.descriptors import Descriptors
from edgetem_nodes.featurizer.cbed.generator import ConditionRanges, NanobeamGenerator
from edgetem_nodes.featurizer.cbed.materials import material, trained_materials
from edgetem_nodes.featurizer.cbed.nanobeam import NanobeamNetwork
from edgetem_nodes.featurizer.cbed.reading import Exposures
from edgetem_nodes.featurizer.cbed.training.workers import cores, in_shards
from edgetem_nodes.featurizer.cbed.weights import SHIPPED
from edgetem_nodes.featurizer.patterns.geometry import DetectorGeometry

PIXELS, PIXEL_ANGLE, SEMI_CONVERGENCE, HIGH_TENSION, ELECTRONS = 64, 1.1e-3, 2e-3, 80e3, 1e4
_DISTINCT = 960
"""Patterns of other specimens and tilts."""


def rate(network: NanobeamNetwork, frames: np.ndarray, exposures: Exposures, repeats: int = 2) -> float:
    """Patterns a second of the wall clock, from counts (n, rows, columns) to descriptors; the best of `repeats`."""
    seconds = []
    for _ in range(repeats):
        before = time.perf_counter()
        network.describe(frames, exposures)
        seconds.append(time.perf_counter() - before)
    return len(frames) / min(seconds)


def expected_patterns(names: Sequence[str], tables: Path | None, seed: int, workers: int) -> np.ndarray:
    """Mean counts (n, PIXELS, PIXELS) of specimens of these materials, or of all that are trained on, under one beam."""
    chosen = tuple(map(material, names)) or trained_materials()
    ranges = ConditionRanges(high_tensions=(HIGH_TENSION,), electrons=(ELECTRONS, ELECTRONS), distortion=0.0)
    generator = NanobeamGenerator(chosen, ranges, tables)
    wanted = generator.wanted_tables()
    for number, table in in_shards(lambda one: generator.computed_table(*wanted[one]), len(wanted), workers):
        generator.keep_table(wanted[number][0], table)
    conditions = generator.conditions(_DISTINCT, PIXELS, np.random.default_rng(seed))
    conditions = replace(conditions, pixel_angle=np.full(_DISTINCT, PIXEL_ANGLE),
                         semi_convergence_angle=np.full(_DISTINCT, SEMI_CONVERGENCE))
    return generator.patterns(conditions, PIXELS, None).expected


def counted(expected: np.ndarray, count: int, seed: int, workers: int) -> np.ndarray:
    """`count` patterns of 16 bits, each counted anew."""
    def part(number: int) -> np.ndarray:
        rows = np.arange(number * _DISTINCT, min((number + 1) * _DISTINCT, count)) % len(expected)
        return np.random.default_rng([seed, number]).poisson(expected[rows]).astype(np.uint16)

    parts = dict(in_shards(part, -(-count // _DISTINCT), workers))
    return np.concatenate([parts[number] for number in sorted(parts)])


def measured(weights: Path, names: Sequence[str], tables: Path | None, count: int, threads: int,
             seed: int) -> dict[str, object]:
    """Rates on one core, on `threads` and, where torch sees one, with a GPU."""
    frames = counted(expected_patterns(names, tables, seed, threads), count, seed, threads)
    geometry = DetectorGeometry((PIXELS / 2, PIXELS / 2), PIXEL_ANGLE)
    exposures = Exposures.of(count, geometry, HIGH_TENSION, SEMI_CONVERGENCE)
    record: dict[str, object] = {"name": "nanobeam throughput", "frame_shape": [PIXELS, PIXELS], "electrons": ELECTRONS,
                                 "patterns": count, "threads": threads, "device": "cpu"}
    alone = NanobeamNetwork.load(weights)
    some = max(count // 64, 64)
    found = alone.describe(frames[:64], exposures.rows(slice(64)))
    found = alone.describe(frames[:some], exposures.rows(slice(some)))
    record["patterns_per_s_one_core"] = rate(alone, frames[:some], exposures.rows(slice(some)))
    shared, part = NanobeamNetwork.load(weights, threads=threads), slice(max(count // 4, 64))
    record["patterns_per_s_threads"] = rate(shared, frames[part], exposures.rows(part))
    if torch.cuda.is_available():
        record |= {"device": torch.cuda.get_device_name()} | _on_gpu(weights, frames, exposures, threads, found, some)
    return record


def _on_gpu(weights: Path, frames: np.ndarray, exposures: Exposures, threads: int, alone: Descriptors,
            some: int) -> dict[str, object]:
    """The best rate with several numbers of threads and sizes of chunks, and how far the answers for the first patterns are
    from those of the CPU, `alone`."""
    network = NanobeamNetwork.load(weights, "cuda", threads)
    found = network.describe(frames[:some], exposures.rows(slice(some)))
    with np.errstate(invalid="ignore"):
        off = np.abs(found.strain - alone.strain)
    same, tried = found.phase == alone.phase, []
    for few, chunk in ((threads, 2048), (threads, 4096), (max(threads // 2, 1), 4096), (threads, 1024)):
        network = NanobeamNetwork.load(weights, "cuda", few)
        network.device_chunk = chunk
        part = slice(2 * few * chunk)
        try:
            network.describe(frames[part], exposures.rows(slice(len(frames[part]))))
            tried.append({"threads": few, "chunk": chunk, "patterns_per_s": rate(network, frames, exposures, 2)})
        except torch.OutOfMemoryError:
            tried.append({"threads": few, "chunk": chunk, "patterns_per_s": 0.0, "out_of_memory": True})
        print(json.dumps(tried[-1]), file=sys.stderr, flush=True)
        del network
        torch.cuda.empty_cache()
    return {"patterns_per_s_gpu": max(one["patterns_per_s"] for one in tried), "tried": tried,
            "same_phase": float(same.mean()), "strain_off_median": float(np.nanmedian(off)),
            "strain_off_99": float(np.nanquantile(off, 0.99)), "answered": float((~found.rejected).mean())}


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and print; the exit code."""
    parser = argparse.ArgumentParser(prog="python -m edgetem_nodes.featurizer.cbed.throughput", description=__doc__)
    parser.add_argument("materials", nargs="*", help="none: all that are trained on")
    parser.add_argument("--weights", type=Path, default=SHIPPED)
    parser.add_argument("--tables", type=Path, help="where tables of rocking curves are kept")
    parser.add_argument("--patterns", type=int, default=131072)
    parser.add_argument("--threads", type=int, default=cores())
    parser.add_argument("--seed", type=int, default=1)
    given = parser.parse_args(arguments)
    print(json.dumps(measured(given.weights, given.materials, given.tables, given.patterns, given.threads, given.seed)))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
