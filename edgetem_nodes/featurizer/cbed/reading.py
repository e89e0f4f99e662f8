"""From patterns to what the pattern network sees, under the conditions of each pattern."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from edgetem_nodes.featurizer.cbed.insides import allocated, inside_rows, search_figures
from edgetem_nodes.featurizer.cbed.lattices import LatticeNetworks, Lattices, find_lattices, reduce_rows
from edgetem_nodes.featurizer.patterns.geometry import DetectorGeometry
from edgetem_nodes.physics.electrons import wavelength


_ANGLES, _PIXELS, _TENSIONS = (1e-5, 0.2), (1e-7, 0.05), (1e3, 1e7)
"""What semi-convergence angles [rad], pixels [rad] and high tensions [V] can be."""


@dataclass(frozen=True)
class Exposures:
    """Conditions of patterns, one a row.

    Attributes
    ----------
    to_angle : (rows, 2, 2) from pixels to angles [rad].
    centre : (rows, 2) where the undeflected beam should be [pixel].
    high_tension, semi_convergence_angle : (rows,) [V], [rad].
    to_scan : (2, 2) from the detector's axes to the scan's.
    """

    to_angle: np.ndarray
    centre: np.ndarray
    high_tension: np.ndarray
    semi_convergence_angle: np.ndarray
    to_scan: np.ndarray

    @classmethod
    def of(cls, rows: int, geometry: DetectorGeometry, high_tension: float, semi_convergence_angle: float) -> Exposures:
        """`rows` patterns of one detector and beam.

        Raises
        ------
        ValueError : a value is not one of an electron microscope, in these units.
        """
        for name, value, (least, most), unit, other in (
                ("semi-convergence angle", semi_convergence_angle, _ANGLES, "rad", "mrad"),
                ("pixel", geometry.pixel_angle, _PIXELS, "rad", "mrad"), ("high tension", high_tension, _TENSIONS, "V", "kV")):
            if not least <= value <= most:
                raise ValueError(f"a {name} of {value:g} {unit} is none of an electron microscope, {least:g} to {most:g} "
                                 f"{unit}: state it in {unit}, not in {other}")
        to_angle = geometry.pixel_angle * np.asarray(geometry.distortion, float)
        if not (np.isfinite(to_angle).all() and np.isfinite(geometry.center).all() and abs(np.linalg.det(to_angle)) > 0):
            raise ValueError(f"a geometry with centre {geometry.center} and distortion "
                             f"{np.asarray(geometry.distortion).tolist()} maps pixels to no angles: both must be finite, and "
                             "the distortion must span an area")
        return cls(np.tile(to_angle, (rows, 1, 1)), np.tile(np.asarray(geometry.center, float), (rows, 1)),
                   np.full(rows, float(high_tension)), np.full(rows, float(semi_convergence_angle)), geometry.to_scan())

    def rows(self, part: slice) -> Exposures:
        """Of some of the patterns."""
        return Exposures(self.to_angle[part], self.centre[part], self.high_tension[part], self.semi_convergence_angle[part],
                         self.to_scan)

    @property
    def wavelengths(self) -> np.ndarray:
        """(rows,) [m]."""
        known = {value: wavelength(value) for value in np.unique(self.high_tension).tolist()}
        return np.array([known[value] for value in self.high_tension.tolist()])

    @property
    def pixel_angles(self) -> np.ndarray:
        """(rows,) [rad], the root of a pixel's solid angle."""
        return np.sqrt(np.abs(np.linalg.det(self.to_angle)))

    @property
    def radii(self) -> np.ndarray:
        """Of a disk (rows,) [pixel]."""
        return self.semi_convergence_angle / self.pixel_angles


@dataclass(frozen=True)
class Reading:
    """Lattices of patterns and the insides of their disks; see `Lattices` and `PatternNetwork` for shapes.

    Attributes
    ----------
    axes : (rows, 2) cosine and sine of the angle of the lattice on the detector.
    """

    lattices: Lattices
    disks: np.ndarray
    present: np.ndarray
    context: np.ndarray
    axes: np.ndarray


def beams_of(exposures: Exposures) -> np.ndarray:
    """(rows, 3) reciprocal nanometres of a pixel, high tension [V], semi-convergence angle [rad]."""
    return np.stack([exposures.pixel_angles / exposures.wavelengths * 1e-9, exposures.high_tension,
                     exposures.semi_convergence_angle], axis=1)


def known_lattices(references: np.ndarray, exposures: Exposures) -> np.ndarray:
    """Reciprocal lattices (rows, n, 2, 2) on each pattern's camera [pixel] from (n, 2, 2) columns [1/m]."""
    to_pixel = exposures.wavelengths[:, None, None] * np.linalg.inv(exposures.to_angle)
    return np.ascontiguousarray(np.einsum("nij,pjk->npik", to_pixel, references))


def read_patterns(networks: LatticeNetworks, references: np.ndarray, frames: np.ndarray, exposures: Exposures,
                  usable: np.ndarray | None = None) -> Reading:
    """Find the lattices of patterns and look into their disks.

    Parameters
    ----------
    references : (n, 2, 2) known reciprocal lattices as columns [1/m].
    frames : (rows, rows, columns) float32 counts.
    usable : (rows,) bool; None: all.
    """
    lattices = find_lattices(networks, frames, exposures.radii, exposures.centre, known_lattices(references, exposures),
                             beams_of(exposures), usable)
    return look_into(lattices, frames, exposures)


def look_into(lattices: Lattices, frames: np.ndarray, exposures: Exposures) -> Reading:
    """What disks look like inside; bases of the lattices are reduced, in place."""
    reduce_rows(lattices.lattice, lattices.covariance, lattices.index, lattices.count)
    disks, present, context, axes = allocated(len(frames))
    beams = beams_of(exposures)
    search = search_figures(lattices.share, lattices.clear, lattices.peaks, lattices.strongest, lattices.joint)
    inside_rows(frames, lattices.lattice, lattices.index, lattices.count, exposures.radii, beams[:, 0].copy(),
                exposures.high_tension, exposures.semi_convergence_angle, lattices.total, search, disks, present, context, axes)
    return Reading(lattices, disks, present, context, axes)
