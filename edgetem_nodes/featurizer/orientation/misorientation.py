"""Angles between orientations under symmetry: pairs, maps, neighbourhoods, grains, means.

The misorientation of two orientations is the least of the angles between one and all equivalents of the other (e.g. Morawiec,
Orientations and Rotations, 2004, chapter 9).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from edgetem_nodes.featurizer.orientation.symmetry import Symmetry


def misorientation(first: np.ndarray, second: np.ndarray, symmetry: Symmetry) -> tuple[np.ndarray, np.ndarray]:
    """Least angle [rad] (...) between orientations (..., 3, 3), and its axis (..., 3) in the crystal's axes.

    The axis is a unit vector (z, y, x) in the standard triangle (an axis and its opposite are one); NaN, like the angle, where
    an orientation is, and any where the angle is 0.
    """
    first, second = np.broadcast_arrays(np.asarray(first, float), np.asarray(second, float))
    shape = first.shape[:-2]
    between = np.swapaxes(first, -1, -2).reshape(-1, 3, 3) @ second.reshape(-1, 3, 3)
    traces = np.einsum("nij,sji->ns", between, symmetry.rotations)
    missing = np.isnan(traces).any(axis=1)
    closest = symmetry.rotations[np.argmax(np.where(missing[:, None], -1.0, traces), axis=1)]
    turn = np.where(missing[:, None, None], np.eye(3), between) @ closest
    # by the skew part, sin(angle) axis, for the trace knows nothing of small angles
    angles = np.arctan2(np.linalg.norm(_skew(turn), axis=1), (np.trace(turn, axis1=1, axis2=2) - 1) / 2)
    axes = symmetry.sector(rotation_axes(turn), inversion=True)
    axes[missing], angles[missing] = np.nan, np.nan
    return angles.reshape(shape), axes.reshape(*shape, 3)


def nearest_equivalents(matrices: np.ndarray, reference: np.ndarray, symmetry: Symmetry) -> np.ndarray:
    """Of the equivalents of orientations (n, 3, 3), those nearest to a reference (3, 3); NaN stays.

    Without it, angles of an orientation (its turn about the beam) jump from equivalent to equivalent between patterns.
    """
    known = np.nan_to_num(matrices)
    equivalents = known[:, None] @ symmetry.rotations[None]
    closest = np.argmax(np.einsum("ij,nsij->ns", reference, equivalents), axis=1)
    return np.where(np.isnan(matrices), np.nan, equivalents[np.arange(len(known)), closest])


def _skew(turns: np.ndarray) -> np.ndarray:
    """sin(angle) times the axis (n, 3) of rotations (n, 3, 3), (z, y, x)."""
    return np.stack([turns[:, 1, 2] - turns[:, 2, 1], turns[:, 2, 0] - turns[:, 0, 2], turns[:, 0, 1] - turns[:, 1, 0]],
                    axis=-1) / 2


def rotation_axes(turns: np.ndarray) -> np.ndarray:
    """Unit vectors (n, 3) along the axes of rotations (n, 3, 3); (1, 0, 0) for the identity."""
    skew = _skew(turns)
    # near half a turn the skew part vanishes: the axis is then the longest column of turn + turn^T + 1 - trace
    symmetric = turns + np.swapaxes(turns, 1, 2) + (1 - np.trace(turns, axis1=1, axis2=2))[:, None, None] * np.eye(3)
    column = np.argmax(np.einsum("nii->ni", symmetric), axis=1)
    axes = np.where((np.linalg.norm(skew, axis=1) > 1e-6)[:, None], skew, symmetric[np.arange(len(turns)), :, column])
    norm = np.linalg.norm(axes, axis=1, keepdims=True)
    return np.where(norm > 1e-12, axes / np.maximum(norm, 1e-300), [1.0, 0.0, 0.0])


def mean_orientation(matrices: np.ndarray, symmetry: Symmetry) -> np.ndarray:
    """Mean (3, 3) of orientations (n, 3, 3) of one grain: of the equivalents next to the first, in the least-squares sense.

    Raises
    ------
    ValueError : none is known.
    """
    matrices = np.asarray(matrices, float).reshape(-1, 3, 3)
    matrices = matrices[np.isfinite(matrices).all(axis=(1, 2))]
    if not len(matrices):
        raise ValueError("there is no indexed orientation to take the mean of")
    equivalents = matrices[:, None] @ symmetry.rotations
    nearest = np.argmax(np.einsum("ij,nsij->ns", matrices[0], equivalents), axis=1)
    left, _, right = np.linalg.svd(equivalents[np.arange(len(matrices)), nearest].sum(axis=0))
    return left @ np.diag([1, 1, np.linalg.det(left @ right)]) @ right


def _neighbours(phases: np.ndarray, matrices: np.ndarray, symmetries: tuple[Symmetry, ...], axis: int) -> np.ndarray:
    """Angles [rad] between neighbours along an axis of a map; NaN between phases or where one is not indexed."""
    low = tuple(slice(None, -1) if i == axis else slice(None) for i in range(2))
    high = tuple(slice(1, None) if i == axis else slice(None) for i in range(2))
    angles = np.full(phases[low].shape, np.nan)
    for number, symmetry in enumerate(symmetries):
        both = (phases[low] == number) & (phases[high] == number)
        if both.any():
            angles[both] = misorientation(matrices[low][both], matrices[high][both], symmetry)[0]
    return angles


def kernel_average_misorientation(phases: np.ndarray, matrices: np.ndarray, symmetries: tuple[Symmetry, ...],
                                  largest: float = np.radians(5.0)) -> np.ndarray:
    """Mean angle (rows, columns) [rad] to the four neighbours that are of the same phase and not farther than `largest`.

    Parameters
    ----------
    phases : (rows, columns) int, -1 where not indexed. matrices : (rows, columns, 3, 3).
    symmetries : of every phase.
    largest : [rad]; larger angles are grain boundaries and left out. NaN where no neighbour is left.
    """
    total, number = np.zeros(phases.shape), np.zeros(phases.shape)
    for axis in (0, 1):
        angles = _neighbours(phases, matrices, symmetries, axis)
        counted = angles <= largest
        for part in (slice(None, -1), slice(1, None)):
            where = (part, slice(None)) if axis == 0 else (slice(None), part)
            total[where] += np.where(counted, angles, 0.0)
            number[where] += counted
    return np.divide(total, number, out=np.full(phases.shape, np.nan), where=number > 0)


@dataclass(frozen=True)
class Grains:
    """Grains of a map.

    Attributes
    ----------
    labels : (rows, columns) int, number of the grain; -1: not indexed, or in a piece below the smallest size.
    phases : (grains,) int. sizes : (grains,) points. means : (grains, 3, 3) orientations.
    """

    labels: np.ndarray
    phases: np.ndarray
    sizes: np.ndarray
    means: np.ndarray


def grains(phases: np.ndarray, matrices: np.ndarray, symmetries: tuple[Symmetry, ...],
           threshold: float = np.radians(5.0), smallest: int = 3) -> Grains:
    """Grains: points connected by neighbours of one phase closer than `threshold` [rad], `smallest` points or more.

    Parameters are those of `kernel_average_misorientation`.
    """
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    number = np.arange(phases.size).reshape(phases.shape)
    pairs = []
    for axis in (0, 1):
        close = _neighbours(phases, matrices, symmetries, axis) <= threshold
        first, second = (number[:-1], number[1:]) if axis == 0 else (number[:, :-1], number[:, 1:])
        pairs.append(np.stack([first[close], second[close]]))
    rows, columns = np.concatenate(pairs, axis=1)
    graph = coo_array((np.ones(len(rows)), (rows, columns)), shape=(phases.size, phases.size))
    _, pieces = connected_components(graph, directed=False)
    names, counts = np.unique(pieces[(phases >= 0).ravel()], return_counts=True)
    kept = names[counts >= smallest]
    kept = kept[np.argsort(-counts[counts >= smallest], kind="stable")]
    labels = np.full(phases.size, -1)
    for label, name in enumerate(kept):
        labels[(pieces == name) & (phases.ravel() >= 0)] = label
    flat = matrices.reshape(-1, 3, 3)
    first = [np.flatnonzero(labels == label)[0] for label in range(len(kept))]
    grain_phases = phases.ravel()[first] if first else np.zeros(0, int)
    means = [mean_orientation(flat[labels == label], symmetries[grain_phases[label]]) for label in range(len(kept))]
    return Grains(labels.reshape(phases.shape), grain_phases, np.bincount(labels[labels >= 0], minlength=len(kept)),
                  np.array(means).reshape(-1, 3, 3))


def reference_misorientation(matrices: np.ndarray, found: Grains, symmetries: tuple[Symmetry, ...]) -> np.ndarray:
    """Angle (rows, columns) [rad] of every point to the mean orientation of its grain; NaN where there is no grain."""
    angles = np.full(found.labels.shape, np.nan)
    for label, (phase, mean) in enumerate(zip(found.phases, found.means, strict=True)):
        inside = found.labels == label
        angles[inside] = misorientation(matrices[inside], mean, symmetries[phase])[0]
    return angles
