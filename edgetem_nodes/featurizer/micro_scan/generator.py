"""Micro-scans with known sites under random conditions, as detector signals and images on the fine grid."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np
import torch

from edgetem_nodes.featurizer.micro_scan.conditions import MicroScan
from edgetem_nodes.featurizer.micro_scan.hosts import HOSTS, Host
from edgetem_nodes.featurizer.micro_scan.patterns import DetectorSignals
from edgetem_nodes.featurizer.micro_scan.reduction import LEAST_OUTER, sampled_detectors
from edgetem_nodes.featurizer.micro_scan.specimens import FOREIGN, Defects, Piece, foreign, sheet
from edgetem_nodes.physics.optics import Probe

LARGEST_FOCUSED_STEP = 1.5e-10
"""Of probes in focus [m]; with more between them they must have that radius more."""


@dataclass(frozen=True)
class Ranges:
    """From which conditions are drawn, evenly unless told. SI units.

    Attributes
    ----------
    high_tension, semi_convergence_angle, step, source_size : of beam and scan.
    points : along an axis; span : least and largest of the scan.
    electrons : in a pattern, evenly in the logarithm.
    outer : of the camera, over the semi-convergence angle; pixels : of the camera along an axis.
    defocus : stated; unknown_defocus : what it is off, evenly within this; refocus : standard deviation of more of it.
    astigmatism, coma, spherical_aberration : standard deviations, unknown.
    jitter : of each probe's position; centre, turn : of the detectors, standard deviations [rad].
    stretch : largest strain, of specimen and scan together.
    density : most defects a site; disorder, near_defects : see `specimens.Defects`, at most.
    foreign : part of the pieces that are no sheet.
    """

    high_tension: tuple[float, float] = (60e3, 100e3)
    semi_convergence_angle: tuple[float, float] = (25e-3, 30e-3)
    step: tuple[float, float] = (0.4e-10, 2.5e-10)
    points: tuple[int, int] = (4, 8)
    span: tuple[float, float] = (3e-10, 17.6e-10)
    electrons: tuple[float, float] = (3e3, 1e6)
    outer: tuple[float, float] = (1.5, 2.4)
    pixels: tuple[int, int] = (32, 64)
    source_size: tuple[float, float] = (0.0, 0.8e-10)
    defocus: tuple[float, float] = (-2e-9, 9e-9)
    unknown_defocus: float = 2e-9
    refocus: float = 0.2e-9
    astigmatism: float = 0.7e-9
    coma: float = 30e-9
    spherical_aberration: float = 3e-6
    jitter: float = 0.05e-10
    centre: float = 0.2e-3
    turn: float = 0.02
    stretch: float = 0.04
    density: float = 0.2
    disorder: float = 0.06e-10
    near_defects: float = 0.12e-10
    foreign: float = 0.06


@dataclass(frozen=True)
class MicroScanBatch:
    """Micro-scans under one beam and dose.

    Attributes
    ----------
    scan : as it is known; its defocus is the one images are made for.
    signals : (rows, channels, n, n) float32, with counting noise.
    pieces : what was scanned.
    defocus : (rows,) [m], the true one.
    """

    scan: MicroScan
    signals: np.ndarray
    pieces: list[Piece]
    defocus: np.ndarray


@dataclass
class MicroScanGenerator:
    """Draws batches; every batch has conditions of its own."""

    ranges: Ranges = field(default_factory=Ranges)
    hosts: tuple[Host, ...] = tuple(host for host in HOSTS if host.trained)

    def scan(self, rng: np.random.Generator) -> MicroScan:
        """Beam, scan and dose of a batch."""
        ranges = self.ranges
        high_tension, alpha = rng.uniform(*ranges.high_tension), rng.uniform(*ranges.semi_convergence_angle)
        while True:
            points, step = int(rng.integers(ranges.points[0], ranges.points[1] + 1)), rng.uniform(*ranges.step)
            defocus = rng.uniform(*ranges.defocus)
            # probes that stand farther apart must be wider, or sites between them are not seen
            wide = abs(defocus) * alpha >= step - LARGEST_FOCUSED_STEP
            if ranges.span[0] <= (points - 1) * step <= ranges.span[1] and wide:
                break
        electrons = math.exp(rng.uniform(*np.log(ranges.electrons)))
        outer = alpha * max(rng.uniform(*ranges.outer), LEAST_OUTER)
        return MicroScan(Probe(high_tension, alpha, defocus), points, step, outer, electrons)

    def draw(self, count: int, rng: np.random.Generator, scan: MicroScan | None = None) -> MicroScanBatch:
        """A batch of `count` micro-scans, under a drawn beam or a given one."""
        scan = self.scan(rng) if scan is None else scan
        widest = scan.outer_angle * 1.05
        signals_of = DetectorSignals(scan, widest)
        pixel = 2 * scan.outer_angle / int(rng.integers(self.ranges.pixels[0], self.ranges.pixels[1] + 1))
        signals, pieces, defocus = [], [], []
        for _ in range(count):
            piece = self.piece(signals_of.half, rng)
            probe = self._probe(scan, rng)
            masks = torch.from_numpy(self._masks(signals_of, scan, pixel, rng))
            positions = scan.positions() + rng.normal(size=(scan.points ** 2, 2)) * self.ranges.jitter
            expected = signals_of(piece, probe, positions, masks, rng.uniform(0, 2 * np.pi))
            counts = rng.poisson(np.maximum(expected, 0) * scan.electrons)
            lost = rng.poisson(np.maximum(1 - expected.sum(axis=1) - 0.001, 0) * scan.electrons)
            total = np.maximum(counts.sum(axis=1) + lost, 1)
            signals.append((counts / total[:, None]).T.reshape(-1, scan.points, scan.points))
            pieces.append(piece)
            defocus.append(probe.defocus)
        return MicroScanBatch(scan, np.stack(signals).astype(np.float32), pieces, np.array(defocus))

    def piece(self, half: float, rng: np.random.Generator) -> Piece:
        """Something to look at: a sheet with defects, or no sheet."""
        ranges = self.ranges
        if rng.random() < ranges.foreign:
            return foreign(str(rng.choice(FOREIGN)), half, rng)
        host = self.hosts[int(rng.integers(len(self.hosts)))]
        turn, stretch = rng.uniform(0, 2 * np.pi), rng.uniform(-ranges.stretch, ranges.stretch, 3)
        rotation = np.array([[np.cos(turn), np.sin(turn)], [-np.sin(turn), np.cos(turn)]])
        deformation = rotation @ (np.eye(2) + np.array([[stretch[0], stretch[1] / 2], [stretch[1] / 2, stretch[2]]]))
        density = np.where(rng.random(2) < 0.15, 0.0, np.exp(rng.uniform(np.log(0.01), np.log(ranges.density), 2)))
        defects = Defects((density[0], density[1]), rng.uniform(0, ranges.disorder), rng.uniform(0, ranges.near_defects))
        return sheet(host, deformation, rng.uniform(-host.lattice, host.lattice, 2), half, defects,
                     rng.uniform(*host.displacement), rng)

    def _probe(self, scan: MicroScan, rng: np.random.Generator) -> Probe:
        ranges, probe = self.ranges, scan.probe
        defocus = probe.defocus + rng.uniform(-1, 1) * ranges.unknown_defocus + rng.normal() * ranges.refocus
        return Probe(probe.high_tension, probe.semi_convergence_angle, defocus, abs(rng.normal()) * ranges.astigmatism,
                     rng.uniform(0, np.pi), abs(rng.normal()) * ranges.coma, rng.uniform(0, 2 * np.pi),
                     rng.normal() * ranges.spherical_aberration, rng.uniform(*ranges.source_size))

    def _masks(self, signals_of: DetectorSignals, scan: MicroScan, pixel: float, rng: np.random.Generator) -> np.ndarray:
        """Detectors of a camera with pixels of `pixel` [rad], a little off the beam, on the diffraction plane's samples."""
        centre, turn = rng.normal(size=2) * self.ranges.centre, rng.normal() * self.ranges.turn
        reach = math.ceil(scan.outer_angle / pixel) + 1
        camera = sampled_detectors(pixel, reach, scan.probe.semi_convergence_angle, scan.outer_angle, tuple(centre), turn)
        order = np.arange(-signals_of.reach, signals_of.reach + 1) * signals_of.angle_step
        cells = np.arange(-reach, reach + 1) * pixel
        low = np.maximum(order[:, None] - signals_of.angle_step / 2, cells[None, :] - pixel / 2)
        high = np.minimum(order[:, None] + signals_of.angle_step / 2, cells[None, :] + pixel / 2)
        overlap = (np.maximum(high - low, 0) / signals_of.angle_step).astype(np.float32)
        return overlap @ camera @ overlap.T
