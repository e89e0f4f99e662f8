"""What errors of the strain do to an energy: its bias and standard error, and what repeating a defect costs.

To second order the energy of a sheet whose measured strain is off by e is E + g e + e K e / 2, with the gradient g (stress
times volume) and the curvature K. Errors of covariance C then add tr(K C) / 2 on average, and scatter it by g C g + tr(K C K
C) / 2. Strains are (xx, yy, xy), the shear being the tensor's component.
"""

from __future__ import annotations

import math

import numpy as np

from edgetem_nodes.hpc_bridge.structures import Structure

FROM_DEFORMATION = np.array([[1, 0, 0, 0], [0, 0, 0, 1], [0, 0.5, 0.5, 0]])
"""Strain (xx, yy, xy) of a small deformation (xx, xy, yx, yy)."""


def curvature(c11: float, c12: float, area: float) -> np.ndarray:
    """K (3, 3) [J] of an isotropic sheet, as hexagonal ones are: elastic constants [N/m], area [m^2]."""
    return area * np.array([[c11, c12, 0.0], [c12, c11, 0.0], [0.0, 0.0, 2 * (c11 - c12)]])


def gradient(stress: np.ndarray, volume: float) -> np.ndarray:
    """g (3,): stress (3, 3) times volume, by xx, yy and xy, which counts twice."""
    return volume * np.array([stress[0, 0], stress[1, 1], 2 * stress[0, 1]])


def strain_covariance(structure: Structure) -> np.ndarray | None:
    """Covariance (3, 3) of the strain; None: neither that of the deformation nor errors of positions are known.

    Without the deformation's it is read off the positions' standard errors as those of one homogeneous deformation, with
    components that are uncorrelated.
    """
    if len(structure.deformation_covariance):
        return FROM_DEFORMATION @ structure.deformation_covariance @ FROM_DEFORMATION.T
    if len(structure.standard_errors) and not len(structure.covariances):
        return np.diag(strain_errors(structure) ** 2)
    return None


def strain_errors(structure: Structure) -> np.ndarray:
    """Standard errors (3,) of the strains xx, yy, xy that the positions' standard errors amount to.

    Taken as those of one homogeneous deformation about the middle of the cell, because a structure from one diffraction
    pattern has no other freedom: the variance of an atom's x at (x, y) from the middle is then a x^2 + 2 c x y + b y^2, with
    a and b the variances of the deformation's components xx and xy; fitted by least squares. Errors of single columns that
    are independent of one another are overestimated. Components are taken as uncorrelated.
    """
    offsets = structure.positions[:, :2] - structure.cell[:2, :2].sum(0) / 2
    scale = np.abs(offsets).max()
    x, y = (offsets / scale).T
    forms = np.stack([x * x, 2 * x * y, y * y], 1)
    variances = np.linalg.lstsq(forms, structure.standard_errors[:, :2] ** 2, rcond=None)[0] / scale ** 2
    (xx, xy), (yx, yy) = np.maximum(variances[[0, 2]].T, 0.0)
    return np.sqrt([xx, yy, (xy + yx) / 4])


def variance_energy(stiffness: np.ndarray, covariance: np.ndarray) -> float:
    """What errors of the strain add to the energy on average, tr(K C) / 2, in the unit of K (3, 3)."""
    return float(np.trace(stiffness @ covariance) / 2)


def standard_error(slope: np.ndarray, stiffness: np.ndarray, covariance: np.ndarray) -> float:
    """Standard error of the energy from Gaussian errors of the strain, to second order: the first vanishes without strain."""
    second = stiffness @ covariance
    return math.sqrt(max(float(slope @ covariance @ slope + np.trace(second @ second) / 2), 0.0))


def repetition_error(with_defects: np.ndarray, without: np.ndarray, stiffness: np.ndarray) -> float:
    """What the elastic fields of repeated defects change in their energy, roughly: g S g / 2, in the unit of the gradients.

    `with_defects` and `without` are gradients (3,) of the same cell: their difference is the elastic dipole of the defects. A
    cell of fixed shape holds their mean strain back, which costs this much against one that yields; the energy of an isolated
    defect lies between (Varvenne et al., Phys. Rev. B 88, 134102, 2013). Repetition of the electrons' states is not in it.
    """
    dipole = with_defects - without
    return float(dipole @ np.linalg.solve(stiffness, dipole) / 2)


def elastic_constants(plus: np.ndarray, minus: np.ndarray, size: float, height: float) -> tuple[float, float]:
    """C11 and C12 [N/m] from stresses (3, 3) [Pa] at strains +-size along x of a cell of this height [m]."""
    change = (plus - minus) * height / (2 * size)
    return float(change[0, 0]), float(change[1, 1])
