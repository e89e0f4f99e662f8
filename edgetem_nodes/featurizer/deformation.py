"""From the reciprocal lattice of a sheet to its strain, and the errors on the way. Vectors are (y, x).

A sheet deformed by F (x' = F x) has reciprocal vectors g' = F^-T g. F = R U (polar): R is the lattice rotation, U - 1 the
strain, in the axes of the unrotated reference. For small strain U - 1 is the symmetric part of the displacement gradient.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

Y, X = 0, 1


def reciprocal_vectors(lattice_constant: float, rotation: float, shells: int) -> list[np.ndarray]:
    """Reciprocal vectors of a hexagonal lattice by shell, each (count, 2), (y, x) [1/m].

    Parameters
    ----------
    lattice_constant : [m].
    rotation : of the first lattice vector, from x towards y [rad].
    shells : number of shells from the innermost: {10}, {11}, {20}, {21}.
    """
    angles = rotation + np.array([0.0, 2 * np.pi / 3])
    cell = lattice_constant * np.stack([np.sin(angles), np.cos(angles)], axis=1)
    basis = np.linalg.inv(cell).T
    order = np.arange(-3, 4)
    indices = np.stack(np.meshgrid(order, order, indexing="ij"), axis=-1).reshape(-1, 2)
    quadratic = indices[:, 0]**2 + indices[:, 1]**2 + indices[:, 0] * indices[:, 1]
    return [indices[quadratic == norm] @ basis for norm in (1, 3, 4, 7)[:shells]]


@dataclass(frozen=True)
class Fit:
    """A lattice fitted to spots: spot = centre + matrix @ reference, (y, x), one a row.

    Attributes
    ----------
    centre : (rows, 2).
    matrix : (rows, 2, 2).
    covariance : (rows, 3, 3) of (centre, matrix[i, 0], matrix[i, 1]), equal for both components i, which are independent.
    chi_square : (rows,) reduced; NaN without a degree of freedom.
    residual : (rows,) weighted root mean square distance of spots from the lattice, in the unit of the spots.
    """

    centre: np.ndarray
    matrix: np.ndarray
    covariance: np.ndarray
    chi_square: np.ndarray
    residual: np.ndarray


def fit_lattice(reference: np.ndarray, spots: np.ndarray, variances: np.ndarray) -> Fit:
    """Weighted least squares of centre and lattice of every row.

    Parameters
    ----------
    reference : (spots, 2), undeformed.
    spots : (rows, spots, 2), measured.
    variances : (rows, spots) of either component; infinite: the spot was not found. Three that are not on one line, or an
        opposite pair and one more, are the least that determine a row; the caller sees to it.
    """
    scale = np.abs(reference).max()
    design = np.concatenate([np.ones((len(reference), 1)), reference / scale], axis=1)
    weights = 1.0 / variances
    found = np.isfinite(variances)
    normal = (weights[:, :, None, None] * (design[:, :, None] * design[:, None, :])).sum(axis=1)
    trace = np.trace(normal, axis1=1, axis2=2)
    undetermined = (trace <= 0) | (np.abs(np.linalg.det(normal)) <= 1e-9 * trace**3)
    normal[undetermined] = np.eye(3)
    covariance = np.linalg.inv(normal)
    known = np.where(found[..., None], spots, 0.0)
    right = (weights[:, :, None, None] * design[:, :, None] * known[:, :, None, :]).sum(axis=1)
    solution = covariance @ right
    deviations = np.where(found[..., None], known - design @ solution, 0.0)
    square = (weights * (deviations**2).sum(axis=-1)).sum(axis=1)
    freedom = 2.0 * found.sum(axis=1) - 6.0
    chi_square = np.where(freedom > 0, square / np.maximum(freedom, 1.0), np.nan)
    residual = np.sqrt(square / np.maximum(weights.sum(axis=1), 1e-300))
    units = np.array([1.0, scale, scale])
    covariance = covariance / np.outer(units, units)
    matrix = np.swapaxes(solution[:, 1:], 1, 2) / scale
    matrix[undetermined] = np.nan
    return Fit(solution[:, 0], matrix, covariance, chi_square, residual)


def median_lattice(vectors: np.ndarray) -> np.ndarray:
    """The median of lattices (rows, 2, 2), two vectors (y, x) as columns: of their angles and of their shapes apart.

    The median of vectors' components averages along the chord: of lattices turned by +-6 degrees it is half a percent short.
    """
    between = vectors @ np.linalg.inv(np.median(vectors, axis=0))
    angle = np.arctan2(between[:, Y, X] - between[:, X, Y], between[:, Y, Y] + between[:, X, X])
    middle = np.median(angle)
    cosine, sine = np.cos(middle - angle), np.sin(middle - angle)
    turn = np.stack([cosine, sine, -sine, cosine], axis=-1).reshape(-1, 2, 2)
    return np.median(turn @ vectors, axis=0)


@dataclass(frozen=True)
class Strain:
    """Strain and rotation, one a row, with the deformation that they come from.

    Attributes
    ----------
    deformation : (rows, 2, 2), F.
    deformation_covariance : (rows, 4, 4) of F flattened row-major (yy, yx, xy, xx).
    exx, eyy, exy, dilation : (rows,) fractions; dilation = exx + eyy.
    rotation : (rows,) [rad], from x towards y.
    variances : the variance (rows,) of each of these by name.
    """

    deformation: np.ndarray
    deformation_covariance: np.ndarray
    exx: np.ndarray
    eyy: np.ndarray
    exy: np.ndarray
    rotation: np.ndarray
    variances: dict[str, np.ndarray]

    @property
    def dilation(self) -> np.ndarray:
        """Trace of the strain, (rows,)."""
        return self.exx + self.eyy


def strain(matrix: np.ndarray, covariance: np.ndarray) -> Strain:
    """Strain of rows from the reciprocal lattice's matrix A (g' = A g).

    F = A^-T, dF = -F dA^T F. Where A's rows are equal in their errors and independent, dU and the rotation are taken, to first
    order in the strain, as the symmetric and antisymmetric parts of R^T dF; with a full covariance they are exact.

    Parameters
    ----------
    matrix : (rows, 2, 2); rows of NaN stay NaN.
    covariance : (rows, 2, 2) of one component's row of A, both components having it independently; or (rows, 4, 4) of A
        flattened row-major (yy, yx, xy, xx).
    """
    lost = ~np.isfinite(matrix).all(axis=(1, 2)) | (np.abs(np.linalg.det(np.nan_to_num(matrix))) < 1e-6)
    matrix = np.where(lost[:, None, None], np.eye(2), matrix)
    deformation = np.swapaxes(np.linalg.inv(matrix), 1, 2)
    rotation = np.arctan2(deformation[:, Y, X] - deformation[:, X, Y], deformation[:, X, X] + deformation[:, Y, Y])
    cosine, sine = np.cos(rotation), np.sin(rotation)
    turn = np.stack([cosine, sine, -sine, cosine], axis=-1).reshape(-1, 2, 2)
    stretch = np.swapaxes(turn, 1, 2) @ deformation
    propagated = _full_errors if covariance.shape[-1] == 4 else _row_errors
    full, variances = propagated(deformation, turn, stretch, np.where(lost[:, None, None], 0.0, covariance))
    nothing = np.where(lost, np.nan, 0.0)
    return Strain(deformation + nothing[:, None, None], full + nothing[:, None, None], stretch[:, X, X] - 1 + nothing,
                  stretch[:, Y, Y] - 1 + nothing, (stretch[:, Y, X] + stretch[:, X, Y]) / 2 + nothing, rotation + nothing,
                  {name: value + nothing for name, value in variances.items()})


def _row_errors(deformation: np.ndarray, turn: np.ndarray, stretch: np.ndarray,
                covariance: np.ndarray) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Covariance of F, and the variances, from that of one row of A."""
    transposed = np.swapaxes(deformation, 1, 2)
    left, right = deformation @ covariance @ transposed, transposed @ deformation
    full = (left[:, :, None, :, None] * right[:, None, :, None, :]).reshape(-1, 4, 4)
    inner = np.swapaxes(turn, 1, 2) @ left @ turn
    exx, eyy = inner[:, X, X] * right[:, X, X], inner[:, Y, Y] * right[:, Y, Y]
    shear = inner[:, Y, Y] * right[:, X, X] + inner[:, X, X] * right[:, Y, Y]
    cross = 2 * inner[:, Y, X] * right[:, X, Y]
    return full, {"exx": exx, "eyy": eyy, "exy": (shear + cross) / 4, "rotation": (shear - cross) / 4,
                  "dilation": exx + eyy + 2 * inner[:, X, Y] * right[:, X, Y]}


def _full_errors(deformation: np.ndarray, turn: np.ndarray, stretch: np.ndarray,
                 covariance: np.ndarray) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Covariance of F, and the variances, from that of all of A: d(R U) = R (w E U + dU) with w the turn, E its generator."""
    slope = -np.einsum("ria,rbj->rijba", deformation, deformation).reshape(-1, 4, 4)
    full = slope @ covariance @ np.swapaxes(slope, 1, 2)
    back = np.einsum("rki,jl->rijkl", turn, np.eye(2)).reshape(-1, 4, 4)
    yy, yx, xy, xx = np.moveaxis(back, 1, 0)
    shear = ((stretch[:, Y, X] + stretch[:, X, Y]) / 2)[:, None]
    unequal = ((stretch[:, X, X] - stretch[:, Y, Y]) / 2)[:, None]
    turned = (yx - xy) / np.trace(stretch, axis1=1, axis2=2)[:, None]
    rows = {"exx": xx + shear * turned, "eyy": yy - shear * turned, "exy": (yx + xy) / 2 - unequal * turned,
            "rotation": turned, "dilation": xx + yy}
    return full, {name: np.einsum("ri,rij,rj->r", row, full, row) for name, row in rows.items()}
