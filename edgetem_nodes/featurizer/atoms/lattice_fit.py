"""The lattice of found columns: nodes and sublattices, vectors with errors, isotropy, the scan's distortion.

Columns are numbered by walking from neighbour to neighbour, so that a slowly distorted image is followed; then
position = origin + n1 a1 + n2 a2 + offset of the sublattice + smooth distortion (a polynomial) + what neighbours share.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import breadth_first_order, connected_components
from scipy.spatial import cKDTree

from edgetem_nodes.featurizer.atoms.translations import NoLattice, lattice_vectors, nearest_distance

LINK = 0.3
"""How far from a lattice vector's end a neighbour may be, over the distance of nearest neighbours."""
ASSIGNED = 0.35
"""How far from its site a column may be, over that distance."""
FEWEST_NODES = 12
COVERED = 0.3
"""Part of the columns that the largest connected piece of a lattice is to hold."""
OCCUPIED = 0.25
"""Part of a sublattice's nodes that are to have a column, else its columns lie beside the lattice."""
DEGREE = 3
"""Of the polynomial that follows a scan's distortion."""
BLOCKS = 4
"""An image is cut into this many blocks along each axis for the errors."""
SHARED_NEIGHBOURS = 6


@dataclass(frozen=True)
class LatticeFit:
    """The lattice of an image. Lengths in pixels, vectors (y, x).

    Attributes
    ----------
    vectors : (2, 2), rows; mean over the image. covariance : (4, 4) of them flattened, of chance alone, the smooth distortion
    taken off: a jackknife of blocks of the image. How far parts of the image differ is `local_vectors`.
    origin : (2,), node (0, 0) of sublattice 0. offsets : (sublattices, 2), fractional, sublattice 0 at (0, 0).
    nodes : (n, 2) int and sublattice : (n,) int of the columns given; sublattice -1: not on the lattice.
    residuals : (n, 2), column minus origin + nodes; NaN off the lattice. polynomial : (terms, 2) of the distortion.
    scale : (2, 2): centre and half-width of the image, by which the polynomial's places are normalised.
    nearest : distance of nearest columns.
    """

    vectors: np.ndarray
    covariance: np.ndarray
    origin: np.ndarray
    offsets: np.ndarray
    nodes: np.ndarray
    sublattice: np.ndarray
    residuals: np.ndarray
    polynomial: np.ndarray
    scale: np.ndarray
    nearest: float

    def ideal(self, nodes: np.ndarray, sublattice: np.ndarray) -> np.ndarray:
        """Places (n, 2) of sites on the undistorted mean lattice."""
        return self.origin + (nodes + self.offsets[sublattice]) @ self.vectors

    def smooth(self, nodes: np.ndarray, sublattice: np.ndarray) -> np.ndarray:
        """Places (n, 2) of sites with the smooth distortion."""
        ideal = self.ideal(nodes, sublattice)
        return ideal + _terms(ideal, self.scale) @ self.polynomial

    @property
    def lengths(self) -> np.ndarray:
        """|a1|, |a2|, |a1 - a2| (3,): the three shortest translations of a lattice at 60 to 90 degrees."""
        return np.linalg.norm(_three(self.vectors), axis=1)

    @property
    def length_errors(self) -> np.ndarray:
        """Standard errors (3,) of `lengths`."""
        units = _three(self.vectors) / self.lengths[:, None]
        jacobian = np.array([[*units[0], 0, 0], [0, 0, *units[1]], [*units[2], *-units[2]]])
        return np.sqrt(np.einsum("ij,jk,ik->i", jacobian, self.covariance, jacobian))

    @property
    def angle(self) -> float:
        """Between the vectors [rad]."""
        a, b = self.vectors
        return float(np.arccos(np.clip(a @ b / np.linalg.norm(a) / np.linalg.norm(b), -1, 1)))

    @property
    def area(self) -> float:
        """Of the cell [pixel^2]."""
        return float(abs(np.linalg.det(self.vectors)))


def _three(vectors: np.ndarray) -> np.ndarray:
    return np.array([vectors[0], vectors[1], vectors[0] - vectors[1]])


def fit_lattice(points: np.ndarray, amplitudes: np.ndarray, shape: tuple[int, int]) -> LatticeFit:
    """Fit the lattice of columns (n, 2) [pixel] with amplitudes (n,) in an image of `shape`.

    Raises
    ------
    NoLattice : the columns lie on no lattice.
    """
    vectors = lattice_vectors(points, amplitudes, shape)
    nearest = nearest_distance(points)
    piece, nodes = _walked(points, vectors, nearest)
    if len(piece) < max(FEWEST_NODES, COVERED * len(points) / 4):
        raise NoLattice(f"only {len(piece)} of {len(points)} columns follow one lattice without a break: no crystal, or many "
                        "small ones")
    scale = np.array([np.array(shape) / 2, np.array(shape) / 2])
    origin, vectors, polynomial = _fitted(points[piece], nodes, np.zeros((len(piece), 2)), scale)
    inside = fractional(points, origin, vectors, polynomial, scale)
    offsets, sublattice = _sublattices(inside, vectors, nearest)
    sublattice = _occupied(sublattice, inside, offsets)
    order = _order(sublattice, amplitudes)
    offsets = offsets[order]
    sublattice = np.array([order.index(s) if s in order else -1 for s in sublattice])
    on = sublattice >= 0
    if on.sum() < max(FEWEST_NODES, COVERED * len(points)):
        raise NoLattice(f"{on.sum()} of {len(points)} columns lie on the likeliest lattice: no crystal, or many small ones")
    all_nodes = np.zeros((len(points), 2), int)
    all_nodes[on] = np.rint(inside[on] - offsets[sublattice[on]]).astype(int)
    return _final(points, all_nodes, sublattice, scale, len(offsets), nearest)


def _final(points: np.ndarray, nodes: np.ndarray, sublattice: np.ndarray, scale: np.ndarray, count: int,
           nearest: float) -> LatticeFit:
    """All sublattices fitted together: mean vectors, offsets, distortion, residuals, errors."""
    on = np.flatnonzero(sublattice >= 0)
    origin, vectors, offsets = _affine(points[on], nodes[on], sublattice[on], count)
    ideal = origin + (nodes[on] + offsets[sublattice[on]]) @ vectors
    polynomial = np.zeros((_terms(ideal, scale).shape[1], 2))
    if len(on) > 6 * (len(polynomial) + 2 * count):
        polynomial = _robust(_terms(ideal, scale), points[on] - ideal)
    straight = points[on] - _terms(ideal, scale) @ polynomial
    covariance = _jackknife(straight, nodes[on], sublattice[on], count, scale)
    residuals = np.full((len(points), 2), np.nan)
    fit = LatticeFit(vectors, covariance, origin, offsets, nodes, sublattice, residuals, polynomial, scale, nearest)
    residuals[on] = points[on] - fit.smooth(nodes[on], sublattice[on])
    return fit


def predicted(fit: LatticeFit, nodes: np.ndarray, sublattice: np.ndarray, points: np.ndarray) -> np.ndarray:
    """Where sites (n, 2) should be [pixel], from the lattice, its distortion and the mean residual of the columns around,
    the site's own left out. `points` are the columns of the fit."""
    places = fit.smooth(nodes, sublattice)
    on = np.flatnonzero(fit.sublattice >= 0)
    tree = cKDTree(points[on])
    count = min(SHARED_NEIGHBOURS + 1, len(on))
    distance, near = tree.query(places, k=count)
    same = (fit.nodes[on][near] == nodes[:, None]).all(axis=-1) & (fit.sublattice[on][near] == sublattice[:, None])
    weight = np.where(same, 0.0, np.exp(-0.5 * (distance / (1.2 * np.linalg.norm(fit.vectors[0]))) ** 2))
    total = weight.sum(axis=1, keepdims=True)
    shared = np.median(np.where(same[..., None], np.nan, fit.residuals[on][near]), axis=1) if count < 3 else \
        (weight[..., None] * fit.residuals[on][near]).sum(axis=1) / np.maximum(total, 1e-12)
    return places + np.where(total > 1e-6, shared * count / (count + 1), 0.0)


def _walked(points: np.ndarray, vectors: np.ndarray, nearest: float) -> tuple[np.ndarray, np.ndarray]:
    """The largest set of points (k,) linked by lattice vectors, and their nodes (k, 2)."""
    tree = cKDTree(points)
    steps = np.array([(1, 0), (0, 1), (1, -1), (1, 1)])
    rows, columns, kinds = [], [], []
    for kind, step in enumerate(steps):
        gap, other = tree.query(points + step @ vectors, distance_upper_bound=LINK * nearest)
        hit = np.flatnonzero(np.isfinite(gap))
        rows.append(hit), columns.append(other[hit]), kinds.append(np.full(len(hit), kind + 1))
    links = coo_matrix((np.concatenate(kinds), (np.concatenate(rows), np.concatenate(columns))),
                       shape=(len(points), len(points))).tocsr()
    _, piece = connected_components(links, directed=False)
    chosen = np.flatnonzero(piece == np.bincount(piece).argmax())
    middle = chosen[np.argmin(np.linalg.norm(points[chosen] - points[chosen].mean(axis=0), axis=1))]
    both = (links + coo_matrix((-links.tocoo().data, (links.tocoo().col, links.tocoo().row)), shape=links.shape)).tocsr()
    order, parent = breadth_first_order(both, middle, directed=True)
    nodes = np.zeros((len(points), 2), int)
    for point in order[1:]:
        kind = int(both[parent[point], point])
        nodes[point] = nodes[parent[point]] + np.sign(kind) * steps[abs(kind) - 1]
    return order, nodes[order]


def _terms(places: np.ndarray, scale: np.ndarray) -> np.ndarray:
    """Polynomial terms (n, terms) of places, by degree: constant, y, x, then the higher ones."""
    y, x = ((places - scale[0]) / scale[1]).T
    return np.stack([y ** (degree - i) * x ** i for degree in range(DEGREE + 1) for i in range(degree + 1)], axis=1)


def _robust(design: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Least squares (terms, 2), with what lies 4 robust standard deviations off left out; repeated."""
    keep = np.ones(len(values), bool)
    for _ in range(4):
        solution = np.linalg.lstsq(design[keep], values[keep], rcond=None)[0]
        rest = np.linalg.norm(values - design @ solution, axis=1)
        keep = rest <= 4 * max(np.median(rest) / 1.177, 1e-9)
    return solution


def _affine(points: np.ndarray, nodes: np.ndarray, sublattice: np.ndarray,
            count: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Origin (2,), vectors (2, 2) and fractional offsets (count, 2) by robust least squares."""
    design = np.hstack([nodes, np.eye(count)[sublattice]])
    solution = _robust(design, points)
    vectors, origins = solution[:2], solution[2:]
    return origins[0], vectors, (origins - origins[0]) @ np.linalg.inv(vectors)


def _jackknife(points: np.ndarray, nodes: np.ndarray, sublattice: np.ndarray, count: int, scale: np.ndarray) -> np.ndarray:
    """Covariance (4, 4) of the vectors, leaving out one block of the image at a time, so that errors which the columns of a
    block share, as of a scan's jitter, are not taken for independent. Few columns: every so many of them are a block."""
    block = np.clip(((points / (2 * scale[1])) * BLOCKS).astype(int), 0, BLOCKS - 1) @ np.array([BLOCKS, 1])
    names = [b for b in np.unique(block) if (block == b).sum() >= 3]
    if len(names) < 6:
        block = np.arange(len(points)) % max(6, len(points) // 4)
        names = list(np.unique(block))
    left_out = []
    for name in names:
        keep = block != name
        if len(np.unique(sublattice[keep])) == count:
            left_out.append(_affine(points[keep], nodes[keep], sublattice[keep], count)[1].ravel())
    spread = np.array(left_out) - np.mean(left_out, axis=0)
    return (len(spread) - 1) / len(spread) * spread.T @ spread


def _fitted(points: np.ndarray, nodes: np.ndarray, offsets: np.ndarray,
            scale: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Origin, vectors and distortion of one sublattice."""
    design = np.hstack([np.ones((len(nodes), 1)), nodes + offsets])
    solution = _robust(design, points)
    origin, vectors = solution[0], solution[1:]
    ideal = design @ solution
    terms = _terms(ideal, scale)
    polynomial = np.zeros((terms.shape[1], 2))
    if len(points) > 60:
        polynomial = _robust(terms, points - ideal)
    return origin, vectors, polynomial


def fractional(points: np.ndarray, origin: np.ndarray, vectors: np.ndarray, polynomial: np.ndarray,
               scale: np.ndarray) -> np.ndarray:
    """Lattice coordinates (n, 2) of points, the distortion taken off."""
    ideal = points.copy()
    for _ in range(3):
        ideal = points - _terms(ideal, scale) @ polynomial
    return (ideal - origin) @ np.linalg.inv(vectors)


def _sublattices(fractional: np.ndarray, vectors: np.ndarray, nearest: float) -> tuple[np.ndarray, np.ndarray]:
    """Offsets (sublattices, 2) where columns gather in the cell, and to which each column belongs (n,), -1 to none."""
    inside = fractional - np.floor(fractional)
    free = np.ones(len(inside), bool)
    offsets: list[np.ndarray] = []
    reach = ASSIGNED * nearest

    def gaps(centre: np.ndarray) -> np.ndarray:
        difference = inside - centre
        return difference - np.rint(difference)

    while free.any() and len(offsets) < 24:
        trial = inside[free][:: max(1, free.sum() // 300)]
        counts = [(np.linalg.norm(gaps(t) @ vectors, axis=1)[free] < 0.6 * reach).sum() for t in trial]
        centre = trial[int(np.argmax(counts))]
        for _ in range(5):
            near = free & (np.linalg.norm(gaps(centre) @ vectors, axis=1) < reach)
            centre = centre + np.median(gaps(centre)[near], axis=0) if near.any() else centre
        near = free & (np.linalg.norm(gaps(centre) @ vectors, axis=1) < reach)
        if near.sum() < 4:
            break
        offsets.append(centre)
        free &= ~near
    distance = np.stack([np.linalg.norm(gaps(o) @ vectors, axis=1) for o in offsets], axis=1)
    sublattice = np.where(distance.min(axis=1) < reach, distance.argmin(axis=1), -1)
    return np.array(offsets), sublattice


def _occupied(sublattice: np.ndarray, fractional: np.ndarray, offsets: np.ndarray) -> np.ndarray:
    """The sublattices with those too sparse taken away (-1), and of two columns on one site the farther one."""
    result = sublattice.copy()
    most = max((sublattice == s).sum() for s in range(len(offsets)))
    for s in range(len(offsets)):
        mine = np.flatnonzero(sublattice == s)
        if len(mine) < max(4, OCCUPIED * most):
            result[mine] = -1
            continue
        rest = fractional[mine] - offsets[s]
        node = np.rint(rest).astype(int)
        off = np.linalg.norm(rest - node, axis=1)
        order = np.lexsort((off, node[:, 1], node[:, 0]))
        twice = np.r_[False, (np.diff(node[order], axis=0) == 0).all(axis=1)]
        result[mine[order[twice]]] = -1
    return result


def _order(sublattice: np.ndarray, amplitudes: np.ndarray) -> list[int]:
    """Sublattices with columns, the strongest first."""
    kept = [int(s) for s in np.unique(sublattice) if s >= 0]
    return sorted(kept, key=lambda s: -np.median(amplitudes[sublattice == s]))


def local_vectors(fit: LatticeFit, points: np.ndarray) -> np.ndarray:
    """Lattice vectors (blocks, 2, 2) [pixel] fitted in each block of the image that holds 12 or more columns of `points`,
    those of the fit."""
    low = fit.scale[0] - fit.scale[1]
    block = np.clip(((points - low) / (2 * fit.scale[1]) * BLOCKS).astype(int), 0, BLOCKS - 1) @ np.array([BLOCKS, 1])
    on = fit.sublattice >= 0
    chosen = [block == name for name in np.unique(block[on]) if (on & (block == name)).sum() >= FEWEST_NODES]
    return np.array([blockwise_vectors(fit, points, part) for part in chosen]).reshape(-1, 2, 2)


def blockwise_vectors(fit: LatticeFit, points: np.ndarray, part: np.ndarray) -> np.ndarray:
    """Lattice vectors (2, 2) [pixel] of a part of the columns, (n,) bool, by least squares."""
    mine = np.flatnonzero((fit.sublattice >= 0) & part)
    rest = points[mine] - fit.offsets[fit.sublattice[mine]] @ fit.vectors
    return _robust(np.hstack([fit.nodes[mine], np.ones((len(mine), 1))]), rest)[:2]
