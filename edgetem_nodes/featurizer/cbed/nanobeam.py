"""The nanobeam network: patterns with disks apart to phase, lattice, strain, rotation, tilt and thickness, with errors."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch

from edgetem_nodes.featurizer.cbed.accelerated import DeviceReader
from edgetem_nodes.featurizer.cbed.blocks import BLOCK, in_groups, one_thread
from edgetem_nodes.featurizer.cbed.descriptors import UNKNOWN, Descriptors, footprint_radius
from edgetem_nodes.featurizer.cbed.lattices import LatticeNetworks
from edgetem_nodes.featurizer.cbed.networks import DiskNetwork, PatternNetwork, RefiningNetwork
from edgetem_nodes.featurizer.cbed.phases import Phases, agreement, distinct, matches, mixed
from edgetem_nodes.featurizer.cbed.posterior import (DETERMINED, TILT_SCALE, TWO_ANSWERS, TYPICAL_THICKNESS, log_probabilities,
                                                     moments)
from edgetem_nodes.featurizer.cbed.reading import Exposures, Reading, read_patterns
from edgetem_nodes.featurizer.cbed.rejection import Judgement, Limits, electrons, judge, plain, unusable
from edgetem_nodes.featurizer.cbed.weights import SHIPPED, Weights, fill_module, read_weights
from edgetem_nodes.featurizer.deformation import strain
from edgetem_nodes.featurizer.features import CountingNoise
from edgetem_nodes.featurizer.patterns.geometry import DetectorGeometry

_CHUNK, _DEVICE_CHUNK = 1024, 2048
"""Most patterns that are worked on together."""


class Members(torch.nn.Module):
    """An ensemble of pattern networks as one."""

    def __init__(self, networks: list[PatternNetwork]) -> None:
        super().__init__()
        self.networks = torch.nn.ModuleList(networks)

    def forward(self, disks: torch.Tensor, present: torch.Tensor, context: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Outputs of `PatternNetwork` with an axis of members after the rows."""
        results = [network(disks, present, context) for network in self.networks]
        return tuple(torch.stack(column, dim=1) for column in zip(*results, strict=True))


class NanobeamNetwork:
    """Reads nanobeam patterns. What it says of a pattern depends on that pattern alone: on a CPU to the last bit, on a GPU to
    single precision, as products of matrices are of other shapes there."""

    def __init__(self, weights: Weights, device: str = "cpu", threads: int = 1) -> None:
        """From weights, for a torch device; chunks of patterns are shared by so many threads of the CPU.

        Raises
        ------
        WeightsError : the weights do not fit. ValueError : there is no such device, or no thread.
        """
        if threads < 1:
            raise ValueError(f"{threads} threads cannot read patterns: at least 1")
        self.weights, settings = weights, weights.settings
        arrays = weights.part("phases")
        self.phases = Phases(tuple(settings["phases"]), arrays["lattices"], arrays["sheets"].astype(bool), arrays["spacings"],
                             arrays["thicknesses"])
        disk = fill_module(DiskNetwork(settings["disk_width"]), weights.part("disk"), "the disk network")
        refining = None
        if "refining_width" in settings:
            refining = fill_module(RefiningNetwork(settings["refining_width"]), weights.part("refining"),
                                   "the refining network")
        self.lattice_networks = LatticeNetworks(disk, refining)
        sizes = (settings["classes"], *settings["pattern_widths"])
        self.members = Members([fill_module(PatternNetwork(*sizes), weights.part(f"pattern{n}"), "the pattern network")
                                for n in range(settings["members"])]).eval()
        self.calibration = {name: value.astype(float) for name, value in weights.part("calibration").items()}
        self.limits = Limits.of(self.calibration)
        self.references = distinct(self.phases.reciprocal)
        self._threads, self._reader, self.device_chunk = threads, None, _DEVICE_CHUNK
        self._pool = ThreadPoolExecutor(threads, "nanobeam")
        if device != "cpu":
            self._reader = DeviceReader(self.lattice_networks, self.members, self.references, _torch_device(device))

    @classmethod
    def load(cls, path: str | Path, device: str = "cpu", threads: int = 1) -> NanobeamNetwork:
        """From a file of weights; raises WeightsError where it is none of these networks."""
        return cls(read_weights(Path(path), "nanobeam"), device, threads)

    @classmethod
    def shipped(cls) -> NanobeamNetwork:
        """The one that comes with the package, on a CPU."""
        return _shipped()

    @property
    def hash(self) -> str:
        """SHA-256 (hex) of the weights."""
        return self.weights.hash

    def __call__(self, frames: np.ndarray, geometry: DetectorGeometry, high_tension: float, semi_convergence_angle: float,
                 **options: object) -> Descriptors:
        """Descriptors of patterns of one detector and beam.

        Parameters
        ----------
        frames : (rows, rows, columns), counts of any real type.
        geometry : its centre is right to half of the shortest reciprocal vector.
        high_tension, semi_convergence_angle : [V], [rad].
        options : those of `describe`.
        """
        return self.describe(frames, Exposures.of(len(frames), geometry, high_tension, semi_convergence_angle), **options)

    def describe(self, frames: np.ndarray, exposures: Exposures, *, material: str = "", reference: np.ndarray | None = None,
                 orientation: float = 0.0, defocus: float = 0.0, noise: CountingNoise | None = None,
                 least_probability: float | None = None) -> Descriptors:
        """Descriptors of patterns under conditions that may differ from one to the next.

        Parameters
        ----------
        material : the phase that is expected: of prior odds `Limits.stated`, not certain; empty: all are as likely.
        reference : (2, 2) rows a, b (y, x) [m] of the undeformed lattice; None: the phase's own, its first vector along x. With
            it, strain is known for any material.
        orientation : by which the undeformed lattice is turned from that, x towards y [rad]. Rotation and F count from
            there; of equivalent turns by the lattice's symmetry, that nearest to none is given.
        defocus : [m], for the footprint.
        noise : gain and saturation of the counts.
        least_probability : with which a phase is told; None: that of the network's limits.

        Raises
        ------
        ValueError : frames are not patterns, no such material, a reference of no area, or a probability that is none.
        """
        frames, noise = np.asarray(frames), noise or CountingNoise()
        if frames.dtype.kind not in "biuf":
            raise ValueError(f"frames of type {frames.dtype} are no counts: integers or real numbers are")
        if frames.ndim != 3 or min(frames.shape[1:]) < 16:
            raise ValueError(f"frames of shape {frames.shape} are no patterns: (rows, rows, columns) with 16 pixels or more "
                             "along each axis")
        limits = self.limits if least_probability is None else replace(self.limits, phase=least_probability)
        if not 0.0 < limits.phase < 1.0:
            raise ValueError(f"a least probability of {least_probability} of a phase that is told is not between 0 and 1")
        forced = self.phases.number(material) if material else None
        given = None if reference is None else _lattice(reference)
        most = _CHUNK if self._reader is None else self.device_chunk
        # whole blocks, and something for every thread to do
        size = min(most, BLOCK * -(-len(frames) // (BLOCK * self._threads))) or BLOCK

        def chunk(first: int) -> Descriptors:
            part = slice(first, first + size)
            padded, conditions = _filled(frames[part], exposures.rows(part))
            said = self._chunk(padded, conditions, limits, forced, given, orientation, defocus, noise)
            return _first(said, len(frames[part]))

        begins = range(0, max(len(frames), 1), size)
        if self._threads == 1 or len(begins) == 1:
            parts = [chunk(first) for first in begins]
        else:
            with one_thread():
                parts = list(self._pool.map(chunk, begins))
        return parts[0] if len(parts) == 1 else _joined(parts)

    def _chunk(self, frames: np.ndarray, exposures: Exposures, limits: Limits, forced: int | None, given: np.ndarray | None,
               orientation: float, defocus: float, noise: CountingNoise) -> Descriptors:
        failures = unusable(frames, noise, limits)
        usable = np.array([not failure for failure in failures], bool)
        counts = electrons(plain(frames), usable, np.float32(noise.counts_per_electron))
        if self._reader is None:
            reading = read_patterns(self.lattice_networks, self.references, counts, exposures, usable)
            logits, mixtures, hidden = in_groups(self.members, reading.present.sum(axis=1).astype(int),
                                                 (reading.disks, reading.present), reading.context, told_by_disk=False)
        else:
            reading, logits, mixtures, hidden = self._reader(counts, exposures, usable)
        logits, mixtures, hidden = (np.moveaxis(one, 1, 0) for one in (logits, mixtures, hidden))
        vectors, covariance = scan_vectors(reading, exposures)
        found = matches(self.phases, vectors, orientation)
        probability = log_probabilities(logits, float(self.calibration["temperature"]))
        judged = judge(reading.lattices, exposures, probability, hidden, found, failures, self.calibration, limits,
                       self.phases.names, forced)
        # the last is that of all phases together
        scale = self.calibration["lattice_scale"][np.where(judged.left.any(axis=1), judged.likeliest, -1)]
        covariance = covariance * (scale**2)[:, None, None]
        return self._descriptors(reading, exposures, vectors, covariance, found, judged, mixtures, given, orientation, defocus)

    def _descriptors(self, reading: Reading, exposures: Exposures, vectors: np.ndarray, covariance: np.ndarray, found: tuple,
                     judged: Judgement, mixtures: np.ndarray, given: np.ndarray | None, orientation: float,
                     defocus: float) -> Descriptors:
        lost = judged.rejected
        if given is None:
            matrix, between = mixed(found[0], np.where(judged.left, judged.probability[:, :-1], 0.0))
        else:
            single = Phases(("",), given[None], np.zeros(1, bool), np.ones(1), np.ones((1, 2)))
            own, stretch = matches(single, vectors, orientation)
            fits = (stretch[:, 0] < self.limits.stretch) & ~lost
            matrix, between = np.where(fits[:, None, None], own[:, 0], np.nan), np.zeros((len(own), 4, 4))
        vectors = np.where(lost[:, None, None], np.nan, vectors)
        back = np.linalg.inv(np.nan_to_num(vectors) + np.isnan(vectors) * np.eye(2)) @ np.nan_to_num(matrix, nan=1.0)
        scale = _kron(np.eye(2), np.swapaxes(back, 1, 2))
        within = scale @ np.nan_to_num(covariance) @ np.swapaxes(scale, 1, 2)
        # the turn may be known where the size of the undeformed lattice is not
        same, same_turn = agreement(matrix, within, between)
        deformed = strain(np.where(same[:, None, None], matrix, np.nan), within + between)
        turned = strain(np.where(same_turn[:, None, None], matrix, np.nan), within + between)
        thickness, thickness_error, tilt, tilt_covariance = self._posteriors(reading, exposures, judged, mixtures)
        errors = {name: np.sqrt(value) for name, value in deformed.variances.items()}
        footprint = footprint_radius(exposures.wavelengths, exposures.semi_convergence_angle, thickness, defocus)
        return Descriptors(
            self.phases.names, judged.phase, judged.likeliest, judged.probability, judged.left, vectors,
            np.where(lost[:, None, None], np.nan, covariance),
            np.where(lost[:, None], np.nan, reading.lattices.lattice[:, [0, 3]]), deformed.deformation,
            deformed.deformation_covariance, np.stack([deformed.exx, deformed.eyy, deformed.exy], axis=1),
            np.stack([errors["exx"], errors["eyy"], errors["exy"]], axis=1), turned.rotation,
            np.sqrt(turned.variances["rotation"]), errors["dilation"], thickness, thickness_error, tilt, tilt_covariance,
            {"lattice": ~lost, "strain": np.isfinite(deformed.exx), "rotation": np.isfinite(turned.rotation),
             "phase": judged.phase != UNKNOWN, "thickness": np.isfinite(thickness), "tilt": np.isfinite(tilt).all(axis=1)},
            judged.score, lost, judged.reasons, np.where(lost, np.nan, footprint), reading.lattices.chi_square)

    def _posteriors(self, reading: Reading, exposures: Exposures, judged: Judgement,
                    mixtures: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """Thickness and tilt with their errors, NaN where they are not identifiable."""
        answer, left = moments(mixtures), judged.left
        usable = left.any(axis=1)

        def over_left(name: str, largest: bool) -> np.ndarray:
            """Of what is known of each phase that of those which are left, the most cautious."""
            values = self.calibration[name]
            fill, pick = (-np.inf, np.max) if largest else (np.inf, np.min)
            chosen = pick(np.where(left.reshape(*left.shape, *[1] * (values.ndim - 1)), values, fill), axis=1)
            return np.where(np.isfinite(chosen), chosen, 1.0)

        prior = over_left("prior_spread", False)
        deviation = np.sqrt(np.einsum("nii->ni", answer.covariance))
        sure = (deviation < DETERMINED * prior) & (answer.between < TWO_ANSWERS) & usable[:, None]
        thickness = np.where(sure[:, 0], TYPICAL_THICKNESS * np.exp(answer.mean[:, 0]), np.nan)
        thickness_error = thickness * deviation[:, 0] * over_left("thickness_scale", True)
        cosine, sine = reading.axes.T
        turn = exposures.to_scan @ np.stack([cosine, sine, -sine, cosine], axis=-1).reshape(-1, 2, 2)
        both = sure[:, 1] & sure[:, 2]
        tilt = TILT_SCALE * (turn @ answer.mean[:, 1:, None])[..., 0]
        spread = TILT_SCALE**2 * turn @ answer.covariance[:, 1:, 1:] @ np.swapaxes(turn, 1, 2)
        spread = spread * over_left("tilt_scale", True)[:, None, None]**2
        return (thickness, thickness_error, np.where(both[:, None], tilt, np.nan),
                np.where(both[:, None, None], spread, np.nan))


@lru_cache(maxsize=1)
def _shipped() -> NanobeamNetwork:
    return NanobeamNetwork.load(SHIPPED)


def _torch_device(name: str) -> torch.device:
    try:
        torch.zeros(1, device=name)
    except (RuntimeError, AssertionError) as error:
        raise ValueError(f"torch cannot use the device {name!r}: {str(error).splitlines()[0]}") from None
    return torch.device(name)


def _lattice(reference: np.ndarray) -> np.ndarray:
    lattice = np.asarray(reference, float)
    if lattice.shape != (2, 2) or not np.isfinite(lattice).all() \
            or abs(np.linalg.det(lattice)) < 0.1 * np.hypot(*lattice[0]) * np.hypot(*lattice[1]):
        raise ValueError(f"reference {np.asarray(reference).tolist()} must be two rows a, b (y, x) that span an area")
    return lattice


def _kron(left: np.ndarray, right: np.ndarray) -> np.ndarray:
    """Kronecker products (rows, 4, 4) of 2 x 2 matrices."""
    return np.einsum("...ij,...kl->...ikjl", np.broadcast_to(left, right.shape), right).reshape(-1, 4, 4)


def scan_vectors(reading: Reading, exposures: Exposures) -> tuple[np.ndarray, np.ndarray]:
    """Reciprocal vectors (rows, 2, 2) as columns (y, x) in the scan's axes [1/m], and covariance (rows, 4, 4) row by row."""
    order = [1, 2, 4, 5]
    to_scan = exposures.to_scan @ exposures.to_angle / exposures.wavelengths[:, None, None]
    scale = _kron(to_scan, np.broadcast_to(np.eye(2), to_scan.shape))
    covariance = reading.lattices.covariance[:, order][:, :, order]
    vectors = to_scan @ reading.lattices.lattice[:, order].reshape(-1, 2, 2)
    return vectors, scale @ covariance @ np.swapaxes(scale, 1, 2)


def _filled(frames: np.ndarray, exposures: Exposures) -> tuple[np.ndarray, Exposures]:
    """Frames filled up with empty ones to whole blocks: vectorised functions differ in their last bits at an array's end."""
    missing = -len(frames) % BLOCK if len(frames) else BLOCK
    if not missing:
        return frames, exposures
    empty = np.zeros((missing, *frames.shape[1:]), frames.dtype)

    def repeated(values: np.ndarray, alone: object) -> np.ndarray:
        last = values[-1:] if len(values) else np.asarray(alone, float)[None]
        return np.concatenate([values, np.repeat(last, missing, axis=0)])

    return np.concatenate([frames, empty]), Exposures(
        repeated(exposures.to_angle, 1e-3 * np.eye(2)), repeated(exposures.centre, (0.0, 0.0)),
        repeated(exposures.high_tension, 1e5), repeated(exposures.semi_convergence_angle, 2e-3), exposures.to_scan)


def _first(found: Descriptors, count: int) -> Descriptors:
    """The first rows."""
    return Descriptors(**{name: value if name == "phases" else {key: one[:count] for key, one in value.items()}
                          if isinstance(value, dict) else value[:count] for name, value in vars(found).items()})


def _joined(parts: list[Descriptors]) -> Descriptors:
    fields = {}
    for name, value in vars(parts[0]).items():
        pieces = [getattr(part, name) for part in parts]
        if name == "phases":
            fields[name] = value
        elif isinstance(value, dict):
            fields[name] = {key: np.concatenate([piece[key] for piece in pieces]) for key in value}
        elif isinstance(value, list):
            fields[name] = [entry for piece in pieces for entry in piece]
        else:
            fields[name] = np.concatenate(pieces)
    return Descriptors(**fields)
