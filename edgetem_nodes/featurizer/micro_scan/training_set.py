"""Training sets: batches of micro-scans as the network sees them, with their sites."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch

from edgetem_nodes.featurizer.micro_scan.amplitudes import FEATURES, site_features
from edgetem_nodes.featurizer.micro_scan.generator import MicroScanBatch, MicroScanGenerator
from edgetem_nodes.featurizer.micro_scan.images import Imaging

VERSION = 4
"""Of what a stored set means; raised when generator or images change."""
SITES = 220
"""Most sites of one micro-scan."""
_SHIFT, _STRAIN = 0.04e-10, 0.003
"""Standard deviations of a fitted lattice's place [m] and strain."""


@dataclass(frozen=True)
class LabelledImages:
    """One batch: micro-scans of one size.

    Attributes
    ----------
    planes : (rows, inputs, m, m) float16.
    sites : (rows, SITES, 2) [m] where the column stands, NaN padded; classes, hosts : (rows, SITES) int8, -1 padded.
    points : (rows, SITES, 2) [m] sites of the lattice, as far off as a fitted one is.
    features : (rows, SITES, FEATURES) float16 of `amplitudes.site_features` there.
    half : half of the scan's edge [m]; electrons : in a pattern.
    """

    planes: np.ndarray
    sites: np.ndarray
    classes: np.ndarray
    hosts: np.ndarray
    points: np.ndarray
    features: np.ndarray
    half: float
    electrons: float


def labelled(batch: MicroScanBatch, rng: np.random.Generator) -> LabelledImages:
    """Images, sites and features of a batch."""
    scan, rows = batch.scan, len(batch.pieces)
    images = Imaging(scan)(batch.signals, np.full(rows, scan.electrons))
    sites, points = np.full((rows, SITES, 2), np.nan, np.float32), np.full((rows, SITES, 2), np.nan, np.float32)
    classes, hosts = np.full((rows, SITES), -1, np.int8), np.full((rows, SITES), -1, np.int8)
    features = np.zeros((rows, SITES, FEATURES), np.float16)
    for row, piece in enumerate(batch.pieces):
        shift, strain = rng.normal(size=2) * _SHIFT, rng.normal(size=(2, 2)) * _STRAIN
        nodes = piece.nodes + shift + piece.nodes @ strain.T
        inside = np.flatnonzero((np.abs(nodes) < scan.span / 2 + scan.margin).all(axis=1))[:SITES]
        count = len(inside)
        sites[row, :count], points[row, :count] = piece.sites[inside], nodes[inside]
        classes[row, :count], hosts[row, :count] = piece.classes[inside], piece.hosts[inside]
        features[row, :count] = site_features(images.atoms[row], torch.from_numpy(batch.signals[row]), scan.electrons, scan,
                                              nodes[inside], piece.sublattice[inside])
    return LabelledImages(images.planes.astype(np.float16), sites, classes, hosts, points, features, scan.span / 2,
                          scan.electrons)


def training_set(generator: MicroScanGenerator, batches: int, rows: int, seed: int, cache: Path | None = None,
                 progress: Callable[[int, int, str], None] = lambda *_: None) -> list[LabelledImages]:
    """`batches` of `rows` micro-scans each; batch i depends on seed and i alone. Kept below `cache` where it is given."""
    described = {"version": VERSION, "ranges": asdict(generator.ranges), "hosts": [host.name for host in generator.hosts],
                 "rows": rows, "seed": seed}
    key = hashlib.sha256(json.dumps(described, sort_keys=True).encode()).hexdigest()[:16]
    result = []
    for number in range(batches):
        file = None if cache is None else Path(cache) / f"micro_scan_{key}" / f"{number:04d}.npz"
        if file is not None and file.exists():
            with np.load(file, allow_pickle=False) as held:
                values = {name: held[name] for name in held.files}
                numbers = {name: float(values.pop(name)) for name in ("half", "electrons")}
                result.append(LabelledImages(**values, **numbers))
            continue
        rng = np.random.default_rng([seed, number])
        result.append(labelled(generator.draw(rows, rng), rng))
        if file is not None:
            file.parent.mkdir(parents=True, exist_ok=True)
            part = file.with_suffix(".part.npz")
            np.savez(part, **asdict(result[-1]))
            part.replace(file)
        progress((number + 1) * rows, batches * rows, "")
    return result
