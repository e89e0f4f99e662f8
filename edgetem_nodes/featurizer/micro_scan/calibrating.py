"""Calibration of the ensemble: temperature of its probabilities, scale of its covariances, and what is foreign to it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from edgetem_nodes.featurizer.cbed.training.workers import in_shards
from edgetem_nodes.featurizer.micro_scan.columns import Calibration, Columns, judge
from edgetem_nodes.featurizer.micro_scan.conditions import MicroScan
from edgetem_nodes.featurizer.micro_scan.generator import MicroScanBatch, MicroScanGenerator
from edgetem_nodes.featurizer.micro_scan.hosts import log_prior
from edgetem_nodes.featurizer.micro_scan.network import MicroScanNetwork
from edgetem_nodes.featurizer.micro_scan.specimens import Piece

_TEMPERATURES = np.exp(np.linspace(np.log(0.6), np.log(2.0), 25))
_NEAR = 0.6e-10
"""A site of the found lattice and a true one within this [m] are the same."""
_CHI_SQUARE_90 = 4.605170


def matched(columns: Columns, piece: Piece, inside: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Indices of found sites (inside) and of the true sites nearest to them, where there is one."""
    found = np.flatnonzero(inside)
    if not len(found) or not len(piece.sites):
        return np.zeros(0, int), np.zeros(0, int)
    distance = np.linalg.norm(columns.sites[found][:, None] - piece.sites[None], axis=-1)
    nearest = distance.argmin(axis=1)
    close = distance[np.arange(len(found)), nearest] < _NEAR
    return found[close], nearest[close]


@dataclass(frozen=True)
class _Seen:
    """What calibration takes of micro-scans: logarithms of class probabilities (sites, K) and of their prior, true classes
    (sites,); squared distances of atoms in standard errors; `Judgement.features`."""

    logs: np.ndarray
    prior: np.ndarray
    labels: np.ndarray
    chi_square: np.ndarray
    features: np.ndarray


def calibrated(network: MicroScanNetwork, generator: MicroScanGenerator, seed: int, batches: int = 14, rows: int = 12,
               progress: Callable[[int, int, str], None] = lambda *_: None, lenient: bool = False,
               workers: int = 1) -> tuple[Calibration, dict[str, Any]]:
    """Calibration on fresh micro-scans, and what it was found from: counts, coverage, temperature.

    Raises
    ------
    ValueError : no sheet was found, unless `lenient`: then nothing is calibrated.
    """
    open_calibration = replace(network.calibration, temperature=1.0, limit=float("inf"))
    sure = replace(generator, ranges=replace(generator.ranges, foreign=0.0))

    def look(number: int) -> list[_Seen]:
        batch = sure.draw(rows, np.random.default_rng([seed, number]))
        return [seen for columns, piece in _read(network, batch)
                if (seen := _seen(columns, piece, batch.scan, open_calibration)) is not None]

    found: dict[int, list[_Seen]] = {}
    for number, seen in in_shards(look, batches, workers):
        found[number] = seen
        progress(len(found), batches, "")
    all_seen = [one for number in sorted(found) for one in found[number]]
    if not all_seen and lenient:
        return network.calibration, {}
    if not all_seen:
        raise ValueError("no sheet of the validation set was found: the network is not trained")
    values, prior, labels, chi = (np.concatenate([getattr(one, name) for one in all_seen])
                                  for name in ("logs", "prior", "labels", "chi_square"))
    features = np.stack([one.features for one in all_seen])
    # the temperature is of likelihoods, as `species.posterior` has it
    losses = [float(-_log_softmax((values - prior) / t + prior)[np.arange(len(labels)), labels].mean()) for t in _TEMPERATURES]
    temperature = float(_TEMPERATURES[int(np.argmin(losses))])
    spread = float(np.quantile(chi, 0.9) / _CHI_SQUARE_90)
    typical, deviation = np.median(features, axis=0), features.std(axis=0) + 1e-6
    distance = np.sqrt((np.maximum((features - typical) / deviation, 0) ** 2).mean(axis=1))
    calibration = Calibration(temperature, spread, network.calibration.sheets, tuple(typical.tolist()),
                              tuple(deviation.tolist()), float(np.quantile(distance, 0.99)))
    figures = {"sites": len(labels), "micro_scans": len(features), "of": batches * rows, "temperature": temperature,
               "spread": spread, "coverage90_before": float((chi < _CHI_SQUARE_90).mean()), "log_loss": min(losses)}
    return calibration, figures


def _seen(columns: Columns, piece: Piece, scan: MicroScan, calibration: Calibration) -> _Seen | None:
    """None where the sheet was not found as it is."""
    judged = judge(columns, scan, calibration)
    if judged.reason or judged.host is not piece.host:
        return None
    found, true = matched(columns, piece, judged.inside)
    if len(found) < 4 or (judged.expected[found] != piece.hosts[true]).mean() > 0.5:
        return None
    there = piece.classes[true] > 0
    off = piece.sites[true] - columns.sites[found] - columns.offsets[found]
    return _Seen(np.log(np.maximum(judged.posterior[found], 1e-13)), log_prior(judged.expected[found]), piece.classes[true],
                 np.einsum("ni,nij,nj->n", off, np.linalg.inv(columns.covariances[found]), off)[there], judged.features)


def _read(network: MicroScanNetwork, batch: MicroScanBatch) -> list[tuple[Columns, Piece]]:
    scan: MicroScan = batch.scan
    electrons = np.array([scan.electrons])
    return [(network.columns(batch.signals[row:row + 1], electrons, scan), piece) for row, piece in enumerate(batch.pieces)]


def _log_softmax(values: np.ndarray) -> np.ndarray:
    values = values - values.max(axis=-1, keepdims=True)
    return values - np.log(np.exp(values).sum(axis=-1, keepdims=True))
