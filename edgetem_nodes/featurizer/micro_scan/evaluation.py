"""Defects found and missed on micro-scans of the full virtual microscope, against where they are from the probe's middle."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from edgetem_nodes.featurizer.micro_scan.conditions import MicroScan
from edgetem_nodes.featurizer.micro_scan.descriptors import ELEMENTS, MicroScanDescriptors
from edgetem_nodes.featurizer.micro_scan.hosts import BY_NAME, CLASSES, HOSTS, Host
from edgetem_nodes.featurizer.micro_scan.network import MicroScanNetwork
from edgetem_nodes.featurizer.micro_scan.reduction import Reduction
from edgetem_nodes.featurizer.micro_scan.specimens import Defects, Piece, sheet
from edgetem_nodes.featurizer.patterns.geometry import DetectorGeometry
from edgetem_nodes.physics.diffraction import Diffraction
from edgetem_nodes.physics.numerics import Numerics
from edgetem_nodes.physics.optics import Camera, Probe
from edgetem_nodes.physics.specimens import Atoms, Condition

_SEPARATION = 3.2e-10
"""Distance of the two planes of a sheet whose columns hold two atoms [m]."""
_NEAR = 0.6e-10
BINS = np.array([0, 2, 4, 6, 8, 10, 12]) * 1e-10
"""Of the distance from the site [m]."""


class PieceSpecimen:
    """A `Piece` as a specimen of the virtual microscope; columns of two have one atom on either surface."""

    crystalline = False
    quantities: dict[str, str] = {}

    def __init__(self, piece: Piece) -> None:
        self.name = piece.host.name if piece.host is not None else "foreign"
        two = any(len(CLASSES[index][1]) > 1 for index in (piece.host.classes() if piece.host is not None else ()))
        self.thickness = _SEPARATION if two else 3.3e-10
        heights = np.full(len(piece.numbers), self.thickness / 2)
        if two:
            key = np.rint(piece.positions / 0.25e-10).astype(int)
            _, first, pair = np.unique(key, axis=0, return_index=True, return_inverse=True)
            light = piece.numbers < 40
            heights[light] = np.where(first[pair.ravel()] == np.arange(len(key)), 0.0, self.thickness)[light]
        self._atoms = Atoms(np.column_stack([heights, piece.positions]), np.asarray(piece.numbers, np.int64),
                            np.asarray(piece.widths, float), np.arange(len(heights), dtype=np.uint64))

    def atoms(self, low: np.ndarray, high: np.ndarray, condition: Condition) -> Atoms:
        """See `physics.specimens.Specimen`; nothing lies beyond the piece."""
        places = self._atoms.positions[:, 1:]
        kept = ((places >= low) & (places < high)).all(axis=1)
        return Atoms(self._atoms.positions[kept], self._atoms.atomic_numbers[kept], self._atoms.displacement_rms[kept],
                     self._atoms.identity[kept])


@dataclass(frozen=True)
class Conditions:
    """Of an evaluation; SI units. Of the optics the network is told high tension, convergence and `commanded`, a defocus."""

    high_tension: float = 60e3
    semi_convergence_angle: float = 30e-3
    points: int = 8
    step: float = 1.1e-10
    electrons: float = 1e5
    pixels: int = 64
    outer: float = 2.1
    defocus: float = 1e-9
    commanded: float = 0.0
    source_size: float = 0.5e-10
    astigmatism: float = 0.5e-9
    density: float = 0.05
    strain: float = 0.02
    disorder: float = 0.02e-10
    near_defects: float = 0.06e-10


@dataclass
class DefectEvaluation:
    """What was found of what was there.

    Attributes
    ----------
    hosts : evaluated; micro_scans, accepted : numbers of them; sites : in footprints of those accepted.
    precision, recall : of defects (a listed atom that is not the host's), within the footprint; NaN where there are none.
    species_accuracy : part of found defects whose species is right.
    distance_bins : (bins + 1,) [m] from the site; recall_by_distance, defects_by_distance : (bins,), all defects in the
        scan's neighbourhood, listed or not.
    probability_coverage : observed rate of host atoms in (edges) bins of the probability that they are; with the mean
        probability and number in each.
    coverage90 : part of atoms within the 90 % ellipse of their position; position_error : root mean square along an axis [m].
    footprint : mean [m^2].
    failures : reasons of the others.
    """

    hosts: tuple[str, ...]
    micro_scans: int = 0
    accepted: int = 0
    sites: int = 0
    precision: float = np.nan
    recall: float = np.nan
    species_accuracy: float = np.nan
    distance_bins: np.ndarray = field(default_factory=lambda: BINS)
    recall_by_distance: np.ndarray = field(default_factory=lambda: np.full(len(BINS) - 1, np.nan))
    defects_by_distance: np.ndarray = field(default_factory=lambda: np.zeros(len(BINS) - 1, int))
    probability_coverage: list[tuple[float, float, int]] = field(default_factory=list)
    coverage90: float = np.nan
    position_error: float = np.nan
    footprint: float = np.nan
    failures: list[str] = field(default_factory=list)


def drawn_sheet(host: Host, conditions: Conditions, rng: np.random.Generator, half: float = 2.4e-9) -> Piece:
    """A sheet of random direction, registry and strain, with defects."""
    turn, stretch = rng.uniform(0, 2 * np.pi), rng.uniform(-conditions.strain, conditions.strain, 3)
    rotation = np.array([[np.cos(turn), np.sin(turn)], [-np.sin(turn), np.cos(turn)]])
    deformation = rotation @ (np.eye(2) + np.array([[stretch[0], stretch[1] / 2], [stretch[1] / 2, stretch[2]]]))
    defects = Defects((conditions.density, conditions.density), conditions.disorder, conditions.near_defects)
    return sheet(host, deformation, rng.uniform(-host.lattice, host.lattice, 2), half, defects,
                 float(np.mean(host.displacement)), rng)


def frames(piece: Piece, conditions: Conditions, rng: np.random.Generator) -> tuple[np.ndarray, Camera]:
    """Counts (1, n, n, ky, kx) of the virtual microscope's micro-scan at the middle of a piece, and the camera."""
    camera = Camera(conditions.pixels, conditions.outer * conditions.semi_convergence_angle / (conditions.pixels // 2))
    probe = Probe(conditions.high_tension, conditions.semi_convergence_angle, conditions.defocus, conditions.astigmatism,
                  rng.uniform(0, np.pi), source_size=conditions.source_size)
    scan = MicroScan(probe, conditions.points, conditions.step, 1.0, 1.0)
    expected = Diffraction(PieceSpecimen(piece), probe, camera, Numerics()).patterns(scan.positions())
    counts = rng.poisson(np.maximum(expected, 0) * conditions.electrons)
    return counts.reshape(1, conditions.points, conditions.points, *counts.shape[1:]).astype(np.uint16), camera


def described(network: MicroScanNetwork, counts: np.ndarray, camera: Camera, conditions: Conditions,
              hosts: Sequence[Host] = HOSTS) -> MicroScanDescriptors:
    """What the network makes of frames whose aberrations and source it is not told."""
    centre = float(camera.pixels // 2)
    geometry = DetectorGeometry((centre, centre), camera.pixel_angle, conditions.semi_convergence_angle)
    reduction = Reduction(geometry, counts.shape[-2:], conditions.semi_convergence_angle)
    reduced = reduction(counts)
    scan = MicroScan(Probe(conditions.high_tension, conditions.semi_convergence_angle, conditions.commanded), conditions.points,
                     conditions.step, reduction.outer_angle, 1.0)
    return network(reduced.signals, reduced.electrons, scan, hosts)


def evaluate_defects(network: MicroScanNetwork, rng: np.random.Generator, hosts: Sequence[str] = ("graphene", "MoS2"),
                     count: int = 8, conditions: Conditions | None = None, told: bool = False) -> DefectEvaluation:
    """Evaluate on `count` micro-scans of every host, each of another piece of sheet.

    Parameters
    ----------
    hosts : names in `hosts.BY_NAME`; those with `trained` false were never trained on.
    told : whether the network is told which sheet it is.
    """
    conditions = conditions or Conditions()
    tally = _Tally()
    result = DefectEvaluation(tuple(hosts))
    areas = []
    for name in hosts:
        for _ in range(count):
            piece = drawn_sheet(BY_NAME[name], conditions, rng)
            found = described(network, *frames(piece, conditions, rng), conditions, (BY_NAME[name],) if told else HOSTS)
            result.micro_scans += 1
            if found.failures[0]:
                result.failures.append(f"{name}: {found.failures[0]}")
                continue
            result.accepted += 1
            areas.append(found.footprint[0])
            tally.add(piece, found)
    tally.enter(result)
    result.footprint = float(np.mean(areas)) if areas else np.nan
    return result


class _Tally:
    """Compares listed atoms with a piece's columns."""

    def __init__(self) -> None:
        self.claims: list[tuple[bool, bool]] = []
        self.defects: list[tuple[float, bool, bool, bool]] = []
        self.host_probability: list[tuple[float, bool]] = []
        self.chi: list[float] = []
        self.square: list[float] = []
        self.sites = 0

    def add(self, piece: Piece, found: MicroScanDescriptors, row: int = 0) -> None:
        """Enter one accepted micro-scan."""
        half = np.sqrt(found.footprint[row]) / 2
        listed = np.flatnonzero(np.isfinite(found.atoms[row, :, 0]))
        places = found.atoms[row, listed]
        self.sites += len(listed)
        for site, actual, expected in zip(piece.sites, piece.classes, piece.hosts, strict=True):
            if np.abs(site).max() > BINS[-1] or np.hypot(*site) >= BINS[-1]:
                continue
            numbers, own = CLASSES[actual][1], CLASSES[expected][1]
            distance = np.linalg.norm(places - site, axis=1) if len(places) else np.zeros(0)
            for layer, host in enumerate(own):
                true = numbers[layer] if layer < len(numbers) else 0
                here = np.flatnonzero((distance < _NEAR) & (found.layer[row, listed] == layer)) if len(places) else []
                entry = listed[here[np.argmin(distance[here])]] if len(here) else None
                inside = bool(np.abs(site).max() < half) and entry is not None
                species = int(found.species[row, entry]) if entry is not None else -1
                known = entry is not None and bool(found.identifiable[row, entry])
                if true != host:
                    self.defects.append((float(np.hypot(*site)), inside, known and species != host, known and species == true))
                if known:
                    self.claims.append((species != host, true != host))
                    share = found.species_probability[row, entry, ELEMENTS.index(host)]
                    self.host_probability.append((float(share), true == host))
                if known and true > 0 and species != 0 and layer == 0:
                    off = found.atoms[row, entry] - site
                    self.chi.append(float(off @ np.linalg.solve(found.atom_covariance[row, entry], off)))
                    self.square.append(float((off ** 2).mean()))

    def enter(self, result: DefectEvaluation) -> None:
        """Totals into a result (in place)."""
        result.sites = self.sites
        claims = np.array(self.claims, bool).reshape(-1, 2)
        defects = np.array(self.defects, float).reshape(-1, 4)
        if claims[:, 0].any():
            result.precision = float(claims[claims[:, 0], 1].mean())
        inside = defects[:, 1] > 0
        if inside.any():
            result.recall = float(defects[inside, 2].mean())
        caught = inside & (defects[:, 2] > 0)
        if caught.any():
            result.species_accuracy = float(defects[caught, 3].mean())
        place = np.digitize(defects[:, 0], BINS) - 1
        for number in range(len(BINS) - 1):
            here = place == number
            result.defects_by_distance[number] = here.sum()
            if here.any():
                result.recall_by_distance[number] = defects[here, 2].mean()
        pairs = np.array(self.host_probability, float).reshape(-1, 2)
        for low, high in ((0, 0.1), (0.1, 0.3), (0.3, 0.7), (0.7, 0.9), (0.9, 0.99), (0.99, 1.01)):
            here = (pairs[:, 0] >= low) & (pairs[:, 0] < high)
            if here.any():
                result.probability_coverage.append((*pairs[here].mean(axis=0).tolist(), int(here.sum())))
        if self.chi:
            result.coverage90 = float((np.array(self.chi) < 4.605).mean())
            result.position_error = float(np.sqrt(np.mean(self.square)))
