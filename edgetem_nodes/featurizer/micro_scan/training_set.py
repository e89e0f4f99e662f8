"""Training sets: batches of micro-scans as the network sees them, with their sites."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from edgetem_nodes.featurizer.micro_scan.conditions import MARGIN, PIXEL
from edgetem_nodes.featurizer.micro_scan.generator import MicroScanBatch, MicroScanGenerator
from edgetem_nodes.featurizer.micro_scan.images import Imaging

VERSION = 1
"""Of what a stored set means; raised when generator or images change."""
SITES = 110
"""Most sites of one micro-scan."""


@dataclass(frozen=True)
class LabelledImages:
    """One batch: micro-scans of one size.

    Attributes
    ----------
    planes : (rows, inputs, m, m) float16.
    sites : (rows, SITES, 2) [m] where the column stands, NaN padded; classes, hosts : (rows, SITES) int8, -1 padded.
    half : half of the scan's edge [m]; electrons : in a pattern.
    """

    planes: np.ndarray
    sites: np.ndarray
    classes: np.ndarray
    hosts: np.ndarray
    half: float
    electrons: float


def labelled(batch: MicroScanBatch) -> LabelledImages:
    """Images and sites of a batch."""
    scan, rows = batch.scan, len(batch.pieces)
    images = Imaging(scan)(batch.signals, np.full(rows, scan.electrons))
    sites = np.full((rows, SITES, 2), np.nan, np.float32)
    classes, hosts = np.full((rows, SITES), -1, np.int8), np.full((rows, SITES), -1, np.int8)
    reach = len(scan.grid()) * PIXEL / 2
    for row, piece in enumerate(batch.pieces):
        inside = np.flatnonzero((np.abs(piece.sites) < min(reach, scan.span / 2 + MARGIN)).all(axis=1))[:SITES]
        sites[row, :len(inside)] = piece.sites[inside]
        classes[row, :len(inside)], hosts[row, :len(inside)] = piece.classes[inside], piece.hosts[inside]
    return LabelledImages(images.planes.astype(np.float16), sites, classes, hosts, scan.span / 2, scan.electrons)


def training_set(generator: MicroScanGenerator, batches: int, rows: int, seed: int, cache: Path | None = None,
                 progress: Callable[[str], None] = lambda _: None) -> list[LabelledImages]:
    """`batches` of `rows` micro-scans each; batch i depends on seed and i alone. Kept below `cache` where it is given."""
    described = {"version": VERSION, "ranges": asdict(generator.ranges), "hosts": [host.name for host in generator.hosts],
                 "rows": rows, "seed": seed}
    key = hashlib.sha256(json.dumps(described, sort_keys=True).encode()).hexdigest()[:16]
    result = []
    for number in range(batches):
        file = None if cache is None else Path(cache) / f"micro_scan_{key}" / f"{number:04d}.npz"
        if file is not None and file.exists():
            with np.load(file, allow_pickle=False) as held:
                result.append(LabelledImages(held["planes"], held["sites"], held["classes"], held["hosts"],
                                             float(held["half"]), float(held["electrons"])))
            continue
        result.append(labelled(generator.draw(rows, np.random.default_rng([seed, number]))))
        if file is not None:
            file.parent.mkdir(parents=True, exist_ok=True)
            part = file.with_suffix(".part.npz")
            np.savez(part, **asdict(result[-1]))
            part.replace(file)
        progress(f"micro-scans {(number + 1) * rows} of {batches * rows}")
    return result
