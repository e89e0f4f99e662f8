"""A lattice that a person states, and what its Bragg disks or rings say of the detector's pixel."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from edgetem_nodes.featurizer.calibration.detector_scale import DetectorScale, pixel_angle_of_disks
from edgetem_nodes.featurizer.calibration.plane_lattice import PlaneLattice
from edgetem_nodes.featurizer.calibration.rings import pixel_angle_of_rings
from edgetem_nodes.featurizer.features import CountingNoise
from edgetem_nodes.operator.processing.results import ProcessingError
from edgetem_nodes.physics.electrons import wavelength

if TYPE_CHECKING:
    from edgetem_nodes.operator.processing.calibration import Calibration
    from edgetem_nodes.operator.processing.direct_beam import BraggPattern

NAMED = {"graphene": ("hexagonal", 0.2461), "MoS2": ("hexagonal", 0.316), "hBN": ("hexagonal", 0.2504),
         "SrTiO3": ("square", 0.3905), "Si[001]": ("square", 0.38403), "Au[001]": ("square", 0.28837)}
"""Cells in projection [nm]. Graphene: graphite's a. MoS2: 3.16 Angstrom. hBN: Pease, Acta Cryst. 5, 356 (1952). SrTiO3: 3.905
Angstrom along <001>. Si and Au along [001]: the primitive square cell a / sqrt 2 of a = 0.54310 and 0.40782 nm."""
FORMS = "a name (" + ", ".join(NAMED) + "), hexagonal:NM, square:NM, rectangular:NM,NM or rings:NM,NM,..."


@dataclass(frozen=True)
class KnownLattice:
    """As stated: a plane lattice, or spacings of rings [m]."""

    text: str
    plane: PlaneLattice | None
    spacings: tuple[float, ...] = ()

    @classmethod
    def of(cls, text: str) -> KnownLattice:
        """From an option.

        Raises
        ------
        ProcessingError : it is none of the forms; names them.
        """
        by_name = {name.lower(): value for name, value in NAMED.items()}
        kind, constants = by_name.get(text.lower(), (None, None)) if ":" not in text else text.split(":", 1)
        try:
            sizes = [float(part) * 1e-9 for part in str(constants).split(",")]
        except ValueError:
            sizes = []
        if not sizes or not all(math.isfinite(size) and 1e-11 < size < 1e-6 for size in sizes):
            kind = None
        if kind == "rings":
            return cls(text, None, tuple(sizes))
        if kind == "rectangular" and len(sizes) == 2:
            return cls(text, PlaneLattice.rectangular(*sizes))
        if kind == "square" and len(sizes) == 1:
            return cls(text, PlaneLattice.rectangular(*sizes * 2))
        if kind == "hexagonal" and len(sizes) == 1:
            return cls(text, PlaneLattice.hexagonal(*sizes))
        raise ProcessingError(f"--lattice {text!r} is not {FORMS}")


def measure_pixel_angle(calibration: Calibration, lattice: KnownLattice, bragg: BraggPattern | None, total: np.ndarray,
                        usable: np.ndarray, noise: CountingNoise, prefer: bool) -> None:
    """Enter the angle of a pixel as Bragg disks or rings of the lattice tell it, or a note why they do not.

    Parameters
    ----------
    bragg : disk and lattice of the summed pattern, where it shows one.
    total, usable : (rows, columns) summed counts, and bool.
    prefer : whether it replaces one that is stated or in the file.
    """
    try:
        if "high_tension" not in calibration:
            raise ValueError("the high tension is not known: state --high-tension KV")
        scale = _scale(calibration, lattice, bragg, total, usable, noise)
    except ValueError as error:
        calibration.note("pixel angle", f"{lattice.text} does not tell the pixel's angle: {error}")
        return
    calibration.note("pixel angle", f"{lattice.text}: {scale.line()}")
    calibration.measured("pixel_angle", scale.pixel_angle, "rad", scale.standard_error, prefer)


def _scale(calibration: Calibration, lattice: KnownLattice, bragg: BraggPattern | None, total: np.ndarray, usable: np.ndarray,
           noise: CountingNoise) -> DetectorScale:
    length = wavelength(calibration["high_tension"])
    about = calibration.get("pixel_angle")
    if not about and "semi_convergence_angle" in calibration and "disk_radius" in calibration:
        about = calibration["semi_convergence_angle"] / calibration["disk_radius"]
    if lattice.plane is None:
        if not about:
            raise ValueError("rings need an approximate angle of a pixel: state --pixel-angle MRAD or --semi-convergence MRAD")
        return pixel_angle_of_rings(np.where(usable, total, 0.0), (calibration["center_y"], calibration["center_x"]),
                                    np.array(lattice.spacings), length, about, calibration.distortion,
                                    mask=usable, noise=noise)
    if bragg is None:
        raise ValueError("the summed pattern shows no Bragg disks apart from each other")
    shortest = float(np.linalg.norm(lattice.plane.reciprocal(1), axis=1).min())
    approximate = about or length * shortest / float(np.linalg.norm(bragg.basis, axis=0).min())
    return pixel_angle_of_disks(total, bragg.disk, lattice.plane, length, approximate, mask=usable, noise=noise)
