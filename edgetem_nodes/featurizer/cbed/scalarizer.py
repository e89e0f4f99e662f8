"""The scalarizer `cbed`: nanobeam patterns by the nanobeam network; micro-scans, with four axes, by the network for those."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from edgetem_nodes.featurizer.features import CountingNoise, Features, Scalarizer, finished
from edgetem_nodes.physics.scan import Axis

if TYPE_CHECKING:
    from edgetem_nodes.featurizer.cbed.descriptors import Descriptors
    from edgetem_nodes.featurizer.parameters import Cbed, Parameters
    from edgetem_nodes.featurizer.patterns.instrument import PatternInstrument

STRAINS = ("dilation", "exx", "eyy", "exy", "rotation")
OTHERS = ("thickness", "tilt_y", "tilt_x")
UNITS = {"dilation": "%", "exx": "%", "eyy": "%", "exy": "%", "rotation": "deg", "thickness": "nm", "tilt_y": "mrad",
         "tilt_x": "mrad", "phase_probability": "", "rejection": ""}
_SCALE = np.array([100.0] * 4 + [180 / math.pi, 1e9, 1e3, 1e3])


@dataclass(frozen=True)
class CbedSettings:
    """The parameter group, what is known of the instrument, and which weights there are.

    Attributes
    ----------
    group, instrument : the parameters.
    weights, micro_scan_weights : SHA-256 (hex) of the files; empty: there is no such file.
    """

    group: Cbed
    instrument: PatternInstrument
    weights: str
    micro_scan_weights: str

    @classmethod
    def of(cls, parameters: Parameters) -> CbedSettings:
        """From the featurizer's parameters; raises WeightsError (a ValueError) where weights that are named cannot be read."""
        from edgetem_nodes.featurizer.cbed.weights import SHIPPED, file_hash
        from edgetem_nodes.featurizer.micro_scan.network import WEIGHTS
        from edgetem_nodes.featurizer.patterns.instrument import PatternInstrument

        group = parameters.cbed
        hashes = [file_hash(Path(given or shipped)) if given or Path(shipped).is_file() else ""
                  for given, shipped in ((group.weights, SHIPPED), (group.micro_scan.weights, WEIGHTS))]
        return cls(group, PatternInstrument.of(parameters), *hashes)

    def identity(self) -> dict[str, object]:
        """What rows depend on: settings and weights, not where the weights lie."""
        described = asdict(self.group) | {"weights": self.weights}
        described["micro_scan"] = described["micro_scan"] | {"weights": self.micro_scan_weights}
        return described


def cbed_scalarizer(settings: CbedSettings, noise: CountingNoise, axes: tuple[Axis, ...]) -> Scalarizer:
    """For frames with two signal axes (ky, kx) or four (y, x, ky, kx); raises ValueError where the settings do not fit them."""
    if len(axes) == 4:
        from edgetem_nodes.featurizer.micro_scan.scalarizer import MicroScanScalarizer
        return MicroScanScalarizer(settings, noise, axes)
    return NanobeamScalarizer(settings, noise, axes)


class NanobeamScalarizer:
    """Columns: the chosen quantity first, then the other strains [%], rotation [deg], thickness [nm], tilt [mrad], the
    probability of the likeliest phase and the rejection score (1 and more: rejected, or of an unknown material).

    What a pattern does not determine is NaN in its column; if it is the scalar, the row is a failure. Details: `deformation`,
    `deformation_covariance`, `phase` (-1: none is told), `material` (its name), `phase_probabilities` (of each, and of none),
    `thickness`, `thickness_error`, `tilt`, `tilt_covariance`, `reciprocal`, `reciprocal_covariance`, `footprint_radius` [m].
    """

    def __init__(self, settings: CbedSettings, noise: CountingNoise, axes: tuple[Axis, ...]) -> None:
        from edgetem_nodes.featurizer.cbed.nanobeam import NanobeamNetwork
        from edgetem_nodes.featurizer.cbed.weights import warn_of

        group, instrument = settings.group, settings.instrument
        if group.semi_convergence_mrad:
            instrument = replace(instrument, semi_convergence_angle=group.semi_convergence_mrad * 1e-3)
        self._geometry, self._instrument, self._noise, self._group = instrument.geometry(axes), instrument, noise, group
        self._network = NanobeamNetwork.load(group.weights) if group.weights else NanobeamNetwork.shipped()
        warn_of(self._network.weights)
        self._reference = self._undeformed()
        self._check_disks(tuple(axis.size for axis in axes))
        self._order = [(*STRAINS, *OTHERS).index(group.component)]
        self._order += [number for number in range(8) if number not in self._order]
        self.names = (*((*STRAINS, *OTHERS)[number] for number in self._order), "phase_probability", "rejection")
        self.units = tuple(UNITS[name] for name in self.names)

    def _undeformed(self) -> np.ndarray | None:
        """Rows a, b [m] of the undeformed lattice that is stated; None: none is."""
        group, phases = self._group, self._network.phases
        number = phases.number(group.material) if group.material else None
        lattice = None
        if group.reference_nm:
            if len(group.reference_nm) != 4:
                raise ValueError(f"cbed.reference_nm {group.reference_nm} must be four numbers: first vector (y, x), second "
                                 "vector (y, x) [nm]; empty: the phase's lattice")
            lattice = np.array(group.reference_nm).reshape(2, 2) * 1e-9
        if group.lattice_constant_nm:
            if lattice is None and number is None:
                raise ValueError("cbed.lattice_constant_nm needs a lattice whose size it is: name cbed.material or "
                                 "reference_nm")
            lattice = phases.lattices[number] if lattice is None else lattice
            lattice = lattice * (group.lattice_constant_nm * 1e-9 / np.hypot(*lattice[0]))
        return lattice

    def _check_disks(self, shape: tuple[int, ...]) -> None:
        radius = self._instrument.semi_convergence_angle / self._geometry.pixel_angle
        if radius < 1.0 or 6 * radius > min(shape):
            raise ValueError(f"disks of a radius of {radius:.3g} pixels on a camera of {' x '.join(map(str, shape))} do not "
                             "make a nanobeam pattern: 1 pixel or more and several disks beside each other are needed; "
                             "change camera length or semi-convergence angle")

    def __call__(self, frames: np.ndarray) -> Features:
        """Rows of frames (rows, ky, kx)."""
        group = self._group
        found = self._network(frames, self._geometry, self._instrument.high_tension, self._instrument.semi_convergence_angle,
                              material=group.material, reference=self._reference,
                              orientation=math.radians(group.rotation_deg), defocus=group.defocus_nm * 1e-9, noise=self._noise,
                              least_probability=group.least_phase_probability)
        values, errors = _columns(found)
        failures = [found.reasons[row] if found.rejected[row] else "" for row in range(len(found))]
        wide = np.nan_to_num(found.strain_error.max(axis=1)) * 100
        for row in range(len(found)):
            if failures[row]:
                continue
            if not np.isfinite(values[row, self._order[0]]):
                failures[row] = found.reasons[row] or (f"{group.component} is not identifiable from this pattern: its "
                                                       "posterior is as wide as what was trained, or has two peaks")
            elif wide[row] > group.largest_error_percent:
                failures[row] = (f"the standard error of the strain, {wide[row]:.2g} %, is above the limit of "
                                 f"{group.largest_error_percent:g} %: too few electrons in the disks")
        extra = np.stack([found.phase_probability, found.rejection], axis=1)
        values = np.concatenate([values[:, self._order], extra], axis=1)
        errors = np.concatenate([errors[:, self._order], np.zeros_like(extra)], axis=1)
        return finished(values, errors**2, failures, _details(found))


def _columns(found: Descriptors) -> tuple[np.ndarray, np.ndarray]:
    """Values and standard errors (rows, 8) of strains, rotation, thickness and tilt, in the columns' units."""
    tilt_error = np.sqrt(np.maximum(np.einsum("nii->ni", found.tilt_covariance), 0.0))
    values = np.concatenate([found.dilation[:, None], found.strain, found.rotation[:, None], found.thickness[:, None],
                             found.tilt], axis=1)
    errors = np.concatenate([found.dilation_error[:, None], found.strain_error, found.rotation_error[:, None],
                             found.thickness_error[:, None], tilt_error], axis=1)
    return values * _SCALE, errors * _SCALE


def _details(found: Descriptors) -> dict[str, np.ndarray]:
    names = np.array([*found.phases, ""])
    return {"deformation": found.deformation, "deformation_covariance": found.deformation_covariance, "phase": found.phase,
            "material": names[found.phase], "phase_probabilities": found.probabilities,
            "phase_probability": found.phase_probability, "thickness": found.thickness,
            "thickness_error": found.thickness_error, "tilt": found.tilt, "tilt_covariance": found.tilt_covariance,
            "reciprocal": found.reciprocal, "reciprocal_covariance": found.reciprocal_covariance,
            "footprint_radius": found.footprint}
