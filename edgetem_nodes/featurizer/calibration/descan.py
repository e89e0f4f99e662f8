"""Descan: how the pattern moves on the detector with the scan position, linear in it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

LEAST_POSITIONS = 10
_OUTLIER = 6.0
_BLOCKS = 6


@dataclass(frozen=True)
class Descan:
    """Centre of the pattern at scan position r [m]: center + matrix @ r. Vectors (y, x).

    Attributes
    ----------
    center : at scan position 0 [pixel]; center_errors : standard errors.
    matrix : (2, 2) [pixel/m]; matrix_errors : standard errors.
    scatter : (y, x) [pixel], by which centres lie off the plane beyond their errors: what the specimen does to them.
    used, left_out : number of positions; those without a value and outliers are left out.
    """

    center: np.ndarray
    center_errors: np.ndarray
    matrix: np.ndarray
    matrix_errors: np.ndarray
    scatter: np.ndarray
    used: int
    left_out: int

    def line(self) -> str:
        """For people."""
        shown = ", ".join(f"{value * 1e-9:.4f} +- {error * 1e-9:.4f}" for value, error in
                          zip(self.matrix.ravel(), self.matrix_errors.ravel(), strict=True))
        return (f"descan (yy, yx, xy, xx) = ({shown}) pixel/nm from {self.used} positions, {self.left_out} left out; scatter "
                f"({self.scatter[0]:.3f}, {self.scatter[1]:.3f}) pixel beyond the errors")


def fit_descan(centers: np.ndarray, positions: np.ndarray, errors: np.ndarray | None = None) -> Descan:
    """Weighted least squares of a plane through the centres of all patterns.

    The specimen moves centres too. What it adds to their errors is estimated, so that the weighted squares come to one a degree
    of freedom (Paule & Mandel, J. Res. NBS 87, 377, 1982); and as it moves neighbours alike, standard errors are at least
    those from the sums over blocks of the field (a clustered sandwich).

    Parameters
    ----------
    centers : (frames, 2), centres of mass or of disks, (y, x) [pixel]; NaN where a frame has none.
    positions : (frames, 2), (y, x) [m].
    errors : (frames, 2) standard errors [pixel]; None: all alike.

    Raises
    ------
    ValueError : shapes that do not fit, too few positions, or positions on a line.
    """
    centers, positions = np.asarray(centers, float).reshape(-1, 2), np.asarray(positions, float).reshape(-1, 2)
    errors = np.zeros_like(centers) if errors is None else np.asarray(errors, float).reshape(-1, 2)
    if not len(centers) == len(positions) == len(errors):
        raise ValueError(f"{len(centers)} centres, {len(positions)} positions and {len(errors)} errors do not belong together")
    known = np.isfinite(centers).all(axis=1) & np.isfinite(errors).all(axis=1) & np.isfinite(positions).all(axis=1)
    if known.sum() < LEAST_POSITIONS:
        raise ValueError(f"{known.sum()} positions with a centre are too few for the descan: {LEAST_POSITIONS} or more")
    middle, spread = positions[known].mean(axis=0), np.linalg.svd(
        positions[known] - positions[known].mean(axis=0), compute_uv=False)
    if not spread[1] > 1e-3 * spread[0]:
        raise ValueError("the positions lie on a line: descan needs a scan in two directions")
    scale = spread[0] / np.sqrt(known.sum())
    design = np.concatenate([np.ones((len(positions), 1)), (positions - middle) / scale], axis=1)
    block = _blocks(positions, known)
    fits = [_fit(design, centers[:, axis], errors[:, axis] ** 2, known, block) for axis in (0, 1)]
    # r = 0 is not the middle of the field: centre = mean - matrix @ middle
    to_origin = np.array([[1.0, *(-middle / scale)], [0, 1 / scale, 0], [0, 0, 1 / scale]])
    values = np.stack([to_origin @ fit[0] for fit in fits])
    deviations = np.stack([np.sqrt(np.diag(to_origin @ fit[1] @ to_origin.T)) for fit in fits])
    used = fits[0][3] & fits[1][3]
    return Descan(values[:, 0], deviations[:, 0], values[:, 1:], deviations[:, 1:], np.sqrt([fit[2] for fit in fits]),
                  int(used.sum()), int((~used).sum()))


def _blocks(positions: np.ndarray, known: np.ndarray) -> np.ndarray:
    """Number of the block of the field that each position lies in, (frames,) int."""
    low, high = positions[known].min(axis=0), positions[known].max(axis=0)
    index = np.clip(((np.nan_to_num(positions) - low) / np.maximum(high - low, 1e-300) * _BLOCKS), 0, _BLOCKS - 1).astype(int)
    return index[:, 0] * _BLOCKS + index[:, 1]


def _fit(design: np.ndarray, values: np.ndarray, variances: np.ndarray, used: np.ndarray,
         block: np.ndarray) -> tuple[np.ndarray, np.ndarray, float, np.ndarray]:
    """Coefficients (3,), covariance (3, 3), variance beyond the errors, and which positions were used."""
    for _ in range(4):
        x, y, variance = design[used], values[used], variances[used]
        excess = _excess(x, y, variance)
        weight = 1 / (variance + excess)
        covariance = np.linalg.inv((x * weight[:, None]).T @ x)
        solution = covariance @ (x.T @ (weight * y))
        residual = y - x @ solution
        far = np.abs(residual) > _OUTLIER * np.sqrt(variance + excess)
        if not far.any():
            break
        used = used.copy()
        used[np.flatnonzero(used)[far]] = False
    scores = np.zeros((_BLOCKS**2, 3))
    np.add.at(scores, block[used], x * (weight * residual)[:, None])
    clusters = np.count_nonzero(np.bincount(block[used]))
    clustered = covariance @ (scores.T @ scores) @ covariance * clusters / max(clusters - 3, 1)
    larger = np.sqrt(np.maximum(np.diag(clustered) / np.diag(covariance), 1.0))
    return solution, covariance * np.outer(larger, larger), excess, used


def _excess(x: np.ndarray, y: np.ndarray, variance: np.ndarray) -> float:
    """Variance that brings the weighted squares to one a degree of freedom; at least what a computer's numbers need."""
    freedom = len(y) - x.shape[1]
    floor = 1e-24 * max(float(np.abs(y).max()) ** 2, 1e-30)

    def squares(excess: float) -> float:
        weight = 1 / (variance + excess)
        solution = np.linalg.solve((x * weight[:, None]).T @ x, x.T @ (weight * y))
        return float((weight * (y - x @ solution) ** 2).sum()) - freedom

    if squares(floor) <= 0:
        return floor
    low, high = floor, max(float(np.var(y)), floor) * 4
    for _ in range(60):
        middle = np.sqrt(low * high)
        low, high = (middle, high) if squares(middle) > 0 else (low, middle)
    return float(np.sqrt(low * high))
