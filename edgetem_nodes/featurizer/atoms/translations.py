"""Lattice translations of a set of points: which differences of places recur everywhere, with like amplitudes."""

from __future__ import annotations

import numpy as np
from scipy.ndimage import gaussian_filter, maximum_filter
from scipy.spatial import cKDTree

REACH = 5.2
"""Farthest difference, over the distance of nearest neighbours."""
BIN = 0.06
"""Of the map of differences, over that distance."""
TOLERANCE = 0.25
"""How far off a difference may be, over that distance."""
ACCEPTED = 0.72
"""Part of the best translation's share of hits that any translation is to have: bond vectors of a honeycomb have half."""
ALIKE = 1.45
"""Largest typical difference of amplitudes of two points a translation apart, over that of the best translation."""
MOST_POINTS = 3000
SMALLEST_SINE = 0.35


class NoLattice(ValueError):
    """The points lie on no two-dimensional lattice; the message says why."""


def nearest_distance(points: np.ndarray) -> float:
    """Median distance of nearest neighbours, in the points' unit."""
    return float(np.median(cKDTree(points).query(points, k=2)[0][:, 1]))


def lattice_vectors(points: np.ndarray, amplitudes: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """Two primitive lattice vectors (2, 2), rows (y, x), the shortest that are not along one line.

    Parameters
    ----------
    points : (n, 2) in an image of `shape` [pixel]. amplitudes : (n,), by which kinds of column are told apart.

    Raises
    ------
    NoLattice : there are too few points, or no two translations that most points have.
    """
    if len(points) < 12:
        raise NoLattice(f"{len(points)} columns are too few for a lattice: 12 or more are needed")
    distance = nearest_distance(points)
    if len(points) > MOST_POINTS:
        chosen = np.argsort(np.linalg.norm(points - np.array(shape) / 2, axis=1))[:MOST_POINTS]
        points, amplitudes = points[chosen], amplitudes[chosen]
    candidates = _recurring(points, distance)
    tree = cKDTree(points)
    scored = [_score(t, points, amplitudes, tree, distance) for t in candidates]
    good = [(t, hits, unlike) for t, hits, unlike in scored if hits > 0.3]
    if not good:
        raise NoLattice(f"of {len(points)} columns no difference of places recurs: this is no crystal, or several")
    best = max(hits for _, hits, _ in good)
    good = [g for g in good if g[1] > ACCEPTED * best]
    closest = min(unlike for *_, unlike in good)
    vectors = sorted((t for t, _, unlike in good if unlike <= ALIKE * closest), key=lambda t: round(float(t @ t), 6))
    for second in vectors[1:]:
        first = vectors[0]
        if abs(first[0] * second[1] - first[1] * second[0]) > SMALLEST_SINE * np.linalg.norm(first) * np.linalg.norm(second):
            return reduced(np.array([first, second]))
    raise NoLattice(f"the {len(points)} columns repeat along one direction alone")


def reduced(vectors: np.ndarray) -> np.ndarray:
    """The shortest basis (2, 2) of the same lattice, at 60 to 90 degrees, right-handed in (y, x) (Gauss's reduction)."""
    first, second = sorted(np.asarray(vectors, float), key=np.linalg.norm)
    while True:
        second = second - np.rint(first @ second / (first @ first)) * first
        if np.linalg.norm(second) >= np.linalg.norm(first) * (1 - 1e-9):
            break
        first, second = second, first
    if first @ second < 0:
        second = -second
    if first[0] < -1e-9 or (abs(first[0]) <= 1e-9 and first[1] < 0):
        first, second = -first, -second
    if first[0] * second[1] - first[1] * second[0] > 0:
        first, second = second, first
    return np.array([first, second])


def _recurring(points: np.ndarray, distance: float) -> list[np.ndarray]:
    """Differences (y, x) of which there are many, one of each pair of opposites."""
    pairs = cKDTree(points).query_pairs(REACH * distance, output_type="ndarray")
    difference = points[pairs[:, 1]] - points[pairs[:, 0]]
    flip = (difference[:, 0] < 0) | ((difference[:, 0] == 0) & (difference[:, 1] < 0))
    difference = np.where(flip[:, None], -difference, difference)
    both = np.vstack([difference, -difference])
    edge, cells = REACH * distance, int(2 * REACH / BIN)
    counts, *_ = np.histogram2d(both[:, 0], both[:, 1], bins=cells, range=[[-edge, edge]] * 2)
    smooth = gaussian_filter(counts, 0.1 / BIN)
    peak = (smooth == maximum_filter(smooth, int(0.5 / BIN) | 1)) & (smooth > 0.1 * smooth.max())
    places = (np.argwhere(peak) + 0.5) * (2 * edge / cells) - edge
    places = places[(places[:, 0] > 0.2 * distance) | ((np.abs(places[:, 0]) <= 0.2 * distance) & (places[:, 1] > 0))]
    refined = []
    for place in places:
        near = both[np.linalg.norm(both - place, axis=1) < TOLERANCE * distance]
        if len(near) > 5:
            refined.append(np.median(near, axis=0))
    return refined


def _score(translation: np.ndarray, points: np.ndarray, amplitudes: np.ndarray, tree: cKDTree,
           distance: float) -> tuple[np.ndarray, float, float]:
    """The translation, which part of the points has a point there, and the typical difference of their amplitudes.

    Points are asked that have any point within a nearest distance of there, so that edges and holes do not count.
    """
    shifted = points + translation
    gap, other = tree.query(shifted)
    asked = gap < 1.0 * distance
    hit = gap < TOLERANCE * distance
    if hit.sum() < 5:
        return translation, 0.0, np.inf
    unlike = np.quantile(np.abs(amplitudes[hit] - amplitudes[other[hit]]), 0.6)
    return translation, float(hit.sum() / max(asked.sum(), 1)), float(unlike)
