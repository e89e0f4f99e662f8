"""Micro-scan frames to defects, vacancies and dopants: one frame is a square of patterns, one row of features."""

from __future__ import annotations

import math
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from edgetem_nodes.featurizer.cbed.weights import warn_of
from edgetem_nodes.featurizer.features import CountingNoise, Features, finished
from edgetem_nodes.featurizer.micro_scan.conditions import BEATING, BeatingWarning, MicroScan
from edgetem_nodes.featurizer.micro_scan.hosts import BY_NAME, HOSTS
from edgetem_nodes.featurizer.micro_scan.network import MicroScanNetwork
from edgetem_nodes.featurizer.micro_scan.reduction import Reduction
from edgetem_nodes.featurizer.micro_scan.parameters import MicroScanAtoms
from edgetem_nodes.featurizer.patterns.instrument import PatternInstrument
from edgetem_nodes.graph.configuration import nearest
from edgetem_nodes.physics.optics import Probe
from edgetem_nodes.physics.scan import Axis

NAMES = ("defects", "vacancies", "dopants", "atoms", "footprint_nm2", "rejection")
UNITS = ("", "", "", "", "nm^2", "")
_LEAST_DISK = 0.7
"""Part of the electrons that lie in the bright-field disk behind anything as thin as a sheet."""


class MicroScanScalarizer:
    """Columns: expected numbers of defects, vacancies, dopants and atoms in the footprint, its area, and the rejection score.

    Errors are standard deviations of the numbers, sites taken as independent. Details: every array of
    `descriptors.MicroScanDescriptors`.
    """

    names, units = NAMES, UNITS

    def __init__(self, settings: Any, noise: CountingNoise, axes: tuple[Axis, ...]) -> None:
        """Prepare for frames (n, n, ky, kx).

        Parameters
        ----------
        settings : with attributes `group`, a `MicroScanAtoms` or one that has it as `micro_scan`, and
            `instrument`, a `PatternInstrument`. Where `hosts` is empty the sheet is the group's `material`, if it names one.

        Raises
        ------
        ValueError : the axes are not two in metres, equal and evenly spaced, and two in radians; the camera is too small.
        """
        group: MicroScanAtoms = getattr(settings.group, "micro_scan", settings.group)
        instrument: PatternInstrument = settings.instrument
        if len(axes) != 4 or any(axis.unit != "m" for axis in axes[:2]):
            shown = ", ".join(f"{axis.name} [{axis.unit or 'uncalibrated'}]" for axis in axes)
            raise ValueError(f"a micro-scan has the axes y, x [m] and ky, kx [rad]; the frames have {shown}")
        y, x = axes[:2]
        if y.size != x.size or not math.isclose(y.scale, x.scale, rel_tol=1e-3) or y.scale <= 0:
            raise ValueError(f"a micro-scan is a square of equal steps; this one has {y.size} x {x.size} patterns "
                             f"{y.scale * 1e12:g} and {x.scale * 1e12:g} pm apart")
        alpha = group.semi_convergence_mrad * 1e-3 or instrument.semi_convergence_angle
        geometry = replace(instrument, semi_convergence_angle=alpha).geometry(axes[2:])
        self._noise, self._shape = noise, tuple(axis.size for axis in axes)
        self._reduction = Reduction(geometry, self._shape[2:], alpha)
        probe = Probe(instrument.high_tension, alpha, group.defocus_nm * 1e-9, source_size=group.source_size_pm * 1e-12)
        self._scan = MicroScan(probe, y.size, y.scale, self._reduction.outer_angle, 1.0)
        self._middle = np.array([y.values().mean(), x.values().mean()])
        material = getattr(settings.group, "material", "")
        named = group.hosts or [material] * (material in BY_NAME)
        for name in named:
            if name not in BY_NAME:
                raise ValueError(f"micro_scan.hosts: {name!r} is not one of {', '.join(BY_NAME)}" + nearest(name, BY_NAME))
        self._hosts = tuple(BY_NAME[name] for name in named) or HOSTS
        for name in named:
            _warn_of_beating(self._scan, name)
        self._network = MicroScanNetwork.load(Path(group.weights)) if group.weights else MicroScanNetwork.shipped()
        if self._network.held is not None:
            warn_of(self._network.held)

    @property
    def digest(self) -> str:
        """SHA-256 (hex) of the network's weights."""
        return self._network.digest

    def __call__(self, frames: np.ndarray) -> Features:
        frames = np.asarray(frames)
        rows = len(frames)
        flat = frames.reshape(rows, -1)
        failures = self._noise.failures(flat)
        clean = np.where(np.isfinite(flat), flat, 0).reshape(frames.shape)
        totals = clean.reshape(rows, self._shape[0] ** 2, -1).sum(axis=2, dtype=float)
        for row in np.flatnonzero((totals <= 0).any(axis=1)):
            failures[row] = failures[row] or (f"{int((totals[row] <= 0).sum())} of {totals.shape[1]} patterns are empty: the "
                                              "scan was cut short or the beam is off")
        good = np.flatnonzero([not failure for failure in failures])
        values, variances = np.full((rows, len(NAMES)), np.nan), np.full((rows, len(NAMES)), np.nan)
        descriptors = self._network(*self._reduced(clean[good], good, failures), self._scan, self._hosts)
        details = {}
        for name, value in descriptors.arrays().items():
            filled = _blank(value, rows)
            filled[good] = value
            details[name] = filled
        details["atoms"] = details["atoms"] + self._middle
        for place, row in enumerate(good):
            failures[row] = failures[row] or descriptors.failures[place]
        values[:, :6] = np.stack([details["defects"], details["vacancies"], details["dopants"], details["atom_count"],
                                  details["footprint"] * 1e18, details["rejection"]], axis=1)
        variances[:, :3] = np.stack([details[f"{name}_variance"] for name in NAMES[:3]], axis=1)
        variances[:, 3] = variances[:, 1]
        variances[:, 4:] = 0.0
        return finished(values, variances, failures, details)

    def _reduced(self, frames: np.ndarray, rows: np.ndarray, failures: list[str]) -> tuple[np.ndarray, np.ndarray]:
        """Signals and electrons of usable frames; enters failures (in place) where the patterns are no bright-field disk."""
        reduced = self._reduction(frames, self._noise.counts_per_electron)
        for row, disk in zip(rows, self._reduction.disk_fraction(reduced), strict=True):
            if disk < _LEAST_DISK:
                failures[row] = (f"{100 * disk:.0f} % of the electrons are in the bright-field disk of "
                                 f"{self._scan.probe.semi_convergence_angle * 1e3:g} mrad, {100 * _LEAST_DISK:g} % is the "
                                 "least for a sheet: a thicker specimen, or another convergence or camera length")
        return reduced.signals, reduced.electrons


def _warn_of_beating(scan: MicroScan, name: str) -> None:
    """Where rows of the sheet of this name may run along the scan and be as far apart as its probes."""
    spacing = BY_NAME[name].row_spacing
    if scan.beats_with(spacing):
        warnings.warn(f"the micro-scan's step of {scan.step * 1e12:.4g} pm is nearly the distance of {name}'s rows of atoms, "
                      f"{spacing * 1e12:.4g} pm: where these run along the scan atoms come out too near or far, in graphene "
                      "by up to 2 % of their distance from the site, and a vacancy is seen that is none now and then; "
                      f"take less than {(1 - BEATING) * spacing * 1e12:.3g} or more than {(1 + BEATING) * spacing * 1e12:.3g} "
                      "pm, or turn the scan by 10 degrees or more", BeatingWarning, stacklevel=3)


def _blank(value: np.ndarray, rows: int) -> np.ndarray:
    """An array for `rows` rows with nothing in it."""
    if value.dtype.kind == "f":
        return np.full((rows, *value.shape[1:]), np.nan)
    return np.full((rows, *value.shape[1:]), "" if value.dtype.kind == "U" else 0 if value.dtype == bool else -1, value.dtype)
