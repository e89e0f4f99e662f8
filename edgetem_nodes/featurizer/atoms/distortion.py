"""How far a measured lattice is from an isotropic one: what the scan, or a strain, did to it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from edgetem_nodes.featurizer.atoms.lattice_fit import LatticeFit, blockwise_vectors
from edgetem_nodes.featurizer.atoms.translations import reduced

SYMMETRIES = {"hexagonal": np.array([[1.0, 0.0], [0.5, 0.75 ** 0.5]]), "square": np.eye(2)}


@dataclass(frozen=True)
class AffineDistortion:
    """A uniform distortion of an ideal lattice of the same cell area, x' = distortion x.

    Attributes
    ----------
    symmetry : of the ideal lattice. constant : its lattice constant [unit of the vectors].
    matrix : (2, 2), (y, x), symmetric: the rotation is left with the ideal lattice. stretches : (2,) principal ones, larger
    first. direction : of the larger [rad], from x towards y. anisotropy : largest over smallest of the three shortest
    translations (two of a square lattice), less 1, before the distortion is taken off.
    """

    symmetry: str
    constant: float
    matrix: np.ndarray
    stretches: np.ndarray
    direction: float
    anisotropy: float


def affine_distortion(vectors: np.ndarray, symmetry: str | None = None) -> AffineDistortion:
    """The distortion that makes vectors (2, 2), rows (y, x), of an ideal lattice of equal cell area.

    Of the ways in which the vectors may correspond to the ideal ones that with the least stretch is taken.

    Parameters
    ----------
    symmetry : of SYMMETRIES; None: the one with less distortion.
    """
    vectors = reduced(vectors)
    trials = [_trial(vectors, name) for name in ([symmetry] if symmetry else SYMMETRIES)]
    return min(trials, key=lambda t: t.stretches[0] / t.stretches[1])


def _trial(vectors: np.ndarray, symmetry: str) -> AffineDistortion:
    ideal = SYMMETRIES[symmetry]
    constant = float(np.sqrt(abs(np.linalg.det(vectors)) / abs(np.linalg.det(ideal))))
    best = None
    for corner in _bases(vectors):
        forward = corner.T @ np.linalg.inv(constant * ideal.T)
        left, stretches, right = np.linalg.svd(forward)
        if best is None or stretches[0] < best[1][0]:
            best = left, stretches
    left, stretches = best
    direction = float(np.mod(np.arctan2(left[0, 0], left[1, 0]), np.pi))
    three = np.array([vectors[0], vectors[1], vectors[0] - vectors[1]])[:3 if symmetry == "hexagonal" else 2]
    lengths = np.linalg.norm(three, axis=1)
    return AffineDistortion(symmetry, constant, left @ np.diag(stretches) @ left.T, stretches, direction,
                            float(lengths.max() / lengths.min() - 1))


def _bases(vectors: np.ndarray) -> list[np.ndarray]:
    """Primitive bases near the shortest one, of either handedness."""
    small = [(i, j) for i in (-1, 0, 1) for j in (-1, 0, 1) if (i, j) != (0, 0)]
    return [np.array([p, q]) @ vectors for p in small for q in small if abs(p[0] * q[1] - p[1] * q[0]) == 1]


def held_out_anisotropy(lattice: LatticeFit, points: np.ndarray, symmetry: str) -> np.ndarray:
    """Anisotropy (4,) of the lattice in the upper, lower, left and right half of an image once the distortion that the
    other half shows is taken off: 0 if the distortion is the scan's and the same everywhere."""
    result = []
    for axis in (0, 1):
        upper = points[:, axis] < lattice.scale[0][axis]
        halves = [blockwise_vectors(lattice, points, upper), blockwise_vectors(lattice, points, ~upper)]
        for mine, other in ((0, 1), (1, 0)):
            correction = np.linalg.inv(affine_distortion(halves[other], symmetry).matrix)
            result.append(affine_distortion(halves[mine] @ correction.T, symmetry).anisotropy)
    return np.array(result)
