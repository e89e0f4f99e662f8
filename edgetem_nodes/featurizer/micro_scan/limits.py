"""What counting alone allows of a micro-scan of a perfect sheet: which sites can be told, and which classes from which.

To first order every signal is linear in the amplitudes of the columns, so the Fisher information of all amplitudes together
gives the least standard error of each (Cramer-Rao). Aberrations, source and places are taken as known: no reading does better.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from edgetem_nodes.featurizer.micro_scan.conditions import MicroScan
from edgetem_nodes.featurizer.micro_scan.hosts import CLASSES, NAMES, Host, honeycomb
from edgetem_nodes.featurizer.micro_scan.linear_imaging import atom_signals
from edgetem_nodes.featurizer.micro_scan.reduction import BRIGHT
from edgetem_nodes.featurizer.micro_scan.sheets import alike, column_amplitudes


@dataclass(frozen=True)
class Limits:
    """Of the sites of a sheet under a micro-scan.

    Attributes
    ----------
    sites : (n, 2) [m]; classes : (n,) of the perfect sheet.
    errors : (n, 2) least standard error of a column's amplitude in the phase and the dark field, in units of the reference
        atom.
    detection : (n,) amplitude in the phase of the sheet's lighter column, one atom of it, over its error.
    apart : (n, K) by how many standard errors each class differs from the perfect column, phase and dark field together.
    """

    sites: np.ndarray
    classes: np.ndarray
    errors: np.ndarray
    detection: np.ndarray
    apart: np.ndarray

    def footprint(self, least: float = 4.0) -> float:
        """Area [m^2] of the largest square about the middle in which every site has a detection index of `least`."""
        reach = np.abs(self.sites).max(axis=1)
        weak = reach[self.detection < least]
        return float((2 * (weak.min() if len(weak) else reach.max())) ** 2)


def limits(host: Host, scan: MicroScan, turn: float = 0.2, origin: tuple[float, float] = (0.0, 0.0)) -> Limits:
    """Of a sheet turned by `turn` [rad] with a lattice node at `origin` (y, x) [m]."""
    half = scan.span / 2 + scan.margin
    vectors, basis = honeycomb(host.lattice)
    rotation = np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])
    count = int(np.ceil(2.2 * half / host.lattice)) + 2
    i, j = np.meshgrid(np.arange(-count, count + 1), np.arange(-count, count + 1), indexing="ij")
    nodes = np.stack([i.ravel(), j.ravel()], axis=1) @ vectors @ rotation + np.asarray(origin)
    sites = np.concatenate([nodes, nodes + basis[1] @ rotation])
    classes = np.repeat(host.classes(), len(nodes))
    kept = (np.abs(sites) < half).all(axis=1)
    sites, classes = sites[kept], classes[kept]
    amplitudes = column_amplitudes(alike(scan))
    atoms = atom_signals(scan)
    signals = atoms.at(sites).double()
    vacuum = torch.from_numpy(atoms.vacuum / atoms.vacuum.sum())[:, None, None]
    bright = signals[:BRIGHT] / vacuum.sqrt()
    bright = (bright - bright.mean(dim=1, keepdim=True)).flatten(0, 1) * scan.electrons ** 0.5
    level = signals[BRIGHT] @ torch.from_numpy(amplitudes[classes, 1])
    dark = signals[BRIGHT] * (scan.electrons / level.clamp(min=1e-3 * float(level.max()))).sqrt()[:, None]
    errors = np.stack([_errors(bright, amplitudes[classes, 0]), _errors(dark, amplitudes[classes, 1])], axis=1)
    apart = np.sqrt((((amplitudes[None] - amplitudes[classes][:, None]) / errors[:, None]) ** 2).sum(axis=2))
    lightest = min(amplitudes[index, 0] / len(CLASSES[index][1]) for index in host.classes())
    return Limits(sites, classes, errors, lightest / errors[:, 0], apart)


def _errors(design: torch.Tensor, expected: np.ndarray) -> np.ndarray:
    """Standard errors (n,) of amplitudes by signals (values, n) in units of their noise, the prior as wide as themselves."""
    hold = torch.diag(1 / torch.from_numpy(expected) ** 2)
    inverse = torch.linalg.inv(design.T @ design + hold).diagonal().numpy()
    return np.sqrt(1 / np.maximum(1 / inverse - 1 / expected ** 2, 1e-12))


def telling(found: Limits, host: Host, scan: MicroScan) -> dict[str, float]:
    """For every dopant of a sheet, the median of `Limits.apart` over the sites inside the scan, by "dopant for host"."""
    inside = (np.abs(found.sites) < scan.span / 2).all(axis=1)
    return {f"{name} for {host.sites[side]}": float(np.median(found.apart[inside & (found.classes == own), NAMES.index(name)]))
            for side, own in enumerate(host.classes()) for name in host.defects[side]}
