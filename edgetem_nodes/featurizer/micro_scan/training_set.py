"""Training sets: batches of micro-scans as the networks see them, with their sites."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, fields
from pathlib import Path

import numpy as np
import torch

from edgetem_nodes.featurizer.cbed.training.workers import in_shards
from edgetem_nodes.featurizer.micro_scan.amplitudes import CONTEXT, in_context
from edgetem_nodes.featurizer.micro_scan.generator import MicroScanBatch, MicroScanGenerator
from edgetem_nodes.featurizer.micro_scan.images import Imaging, site_features_of
from edgetem_nodes.featurizer.micro_scan.sheets import alike, column_amplitudes

VERSION = 10
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
    context : (rows, SITES, CONTEXT) float16 of `amplitudes.InContext.sites`; 0: a site of which nothing is known.
    sheets : (rows, 10) `sheet`, `sheet_errors` and `contrast` of `amplitudes.InContext`; pairs : (rows, 2) int8, classes of
        the perfect sheet on its sublattices 0 and 1, -1: unknown.
    amplitudes : (rows, K, 2) float32 of `sheets.column_amplitudes`.
    """

    planes: np.ndarray
    sites: np.ndarray
    classes: np.ndarray
    hosts: np.ndarray
    points: np.ndarray
    context: np.ndarray
    sheets: np.ndarray
    pairs: np.ndarray
    amplitudes: np.ndarray


def labelled(batch: MicroScanBatch, rng: np.random.Generator) -> LabelledImages:
    """Images, sites and what is seen of them, of a batch."""
    scan, rows = batch.scan, len(batch.pieces)
    images = Imaging(scan)(batch.signals, np.full(rows, scan.electrons))
    sites, points = np.full((rows, SITES, 2), np.nan, np.float32), np.full((rows, SITES, 2), np.nan, np.float32)
    classes, hosts = np.full((rows, SITES), -1, np.int8), np.full((rows, SITES), -1, np.int8)
    context, sheets = np.zeros((rows, SITES, CONTEXT), np.float16), np.full((rows, 10), np.nan, np.float32)
    pairs = np.full((rows, 2), -1, np.int8)
    for row, piece in enumerate(batch.pieces):
        shift, strain = rng.normal(size=2) * _SHIFT, rng.normal(size=(2, 2)) * _STRAIN
        nodes = piece.nodes + shift + piece.nodes @ strain.T
        inside = np.flatnonzero((np.abs(nodes) < scan.span / 2 + scan.margin).all(axis=1))[:SITES]
        count = len(inside)
        sites[row, :count], points[row, :count] = piece.sites[inside], nodes[inside]
        classes[row, :count], hosts[row, :count] = piece.classes[inside], piece.hosts[inside]
        seen = in_context(site_features_of(images, row, torch.from_numpy(batch.signals[row]), scan.electrons, scan,
                                           nodes[inside], piece.sublattice[inside]))
        context[row, :count] = seen.sites
        sheets[row] = np.concatenate([seen.sheet, seen.sheet_errors, seen.contrast])
        there = (seen.sites != 0).any(axis=1)
        own = [np.unique(piece.hosts[inside][there & (seen.side == side)]) for side in (0, 1)]
        if len(own[0]) == 1 and len(own[1]) == 1:
            pairs[row] = own[0][0], own[1][0]
    amplitudes = np.repeat(column_amplitudes(alike(scan))[None].astype(np.float32), rows, axis=0)
    return LabelledImages(images.planes.astype(np.float16), sites, classes, hosts, points, context, sheets, pairs, amplitudes)


def training_set(generator: MicroScanGenerator, batches: int, rows: int, seed: int, cache: Path | None = None,
                 progress: Callable[[int, int, str], None] = lambda *_: None, workers: int = 1,
                 stopped: Callable[[], bool] = lambda: False) -> list[LabelledImages]:
    """`batches` of `rows` micro-scans each, fewer where `stopped`; batch i depends on seed and i alone.

    Parameters
    ----------
    cache : folder that keeps them; None: none is kept.
    workers : processes that draw them.
    """
    described = {"version": VERSION, "ranges": asdict(generator.ranges), "hosts": [host.name for host in generator.hosts],
                 "rows": rows, "seed": seed}
    key = hashlib.sha256(json.dumps(described, sort_keys=True).encode()).hexdigest()[:16]
    folder = None if cache is None else Path(cache) / f"micro_scan_{key}"

    def draw(number: int) -> LabelledImages:
        file = None if folder is None else folder / f"{number:04d}.npz"
        if file is not None and file.exists():
            with np.load(file, allow_pickle=False) as held:
                return LabelledImages(**{one.name: held[one.name] for one in fields(LabelledImages)})
        rng = np.random.default_rng([seed, number])
        result = labelled(generator.draw(rows, rng), rng)
        if file is not None:
            file.parent.mkdir(parents=True, exist_ok=True)
            part = file.with_suffix(".part.npz")
            np.savez(part, **{one.name: getattr(result, one.name) for one in fields(result)})
            part.replace(file)
        return result

    return [one for _, one in sorted(_reported(in_shards(draw, batches, workers, stopped), batches, progress),
                                     key=lambda pair: pair[0])]


def _reported(results: Iterator, total: int, progress: Callable[[int, int, str], None]) -> Iterator:
    for done, one in enumerate(results, 1):
        progress(done, total, "")
        yield one
