"""Lattices of patterns: peaks, the lattice they lie on, then what the networks say of every disk, in two rounds.

A pattern's lattice depends on that pattern alone, to the last bit (`blocks`).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numba import njit

from edgetem_nodes.featurizer.cbed.blocks import in_groups
from edgetem_nodes.featurizer.cbed.guided import guided_lattice, joint_significance, ordered_nodes
from edgetem_nodes.featurizer.cbed.indexing import explained_share, find_lattice, reduce_basis
from edgetem_nodes.featurizer.cbed.lattice_solution import INDEX_SCALE, moved, solve
from edgetem_nodes.featurizer.cbed.networks import DISK_INPUTS, FINE_INPUTS, DiskNetwork, RefiningNetwork
from edgetem_nodes.featurizer.cbed.peaks import PEAKS, binning, find_peaks, score_map
from edgetem_nodes.featurizer.cbed.sampling import DISKS, choose_disks, sample_finely, sample_lattice, summed_area
from edgetem_nodes.featurizer.cbed.strangers import beside, ring_share, second_lattice

FIRST_DISKS = 20
"""Most disks of the first round, where another network refines."""
PRIOR = 1 / 0.35**2
"""Information on each number of the lattice about where it was looked for [1/radius^2]: the search is no worse."""
_CLEAR = 7.0
"""Standard errors of a peak that must lie on the lattice."""
_ENOUGH, _FEWEST = 7.0, 3.5
"""Peaks on a lattice that need no other evidence, and below which nothing but known lattices is believed."""
FIGURES = 6
"""Share, clear, strongest, joint, second and ring of a lattice."""
_JOINT = 5.5
"""Joint standard errors of a known lattice's disks: some 1e4 turns and stretches are tried."""


@dataclass
class Lattices:
    """Of patterns, one a row; lengths in pixels of the frames.

    Attributes
    ----------
    lattice : (rows, 6) centre, a*, b* of y, then of x; NaN where none was found.
    covariance : (rows, 6, 6).
    chi_square, freedom, worst : (rows,) of the disks' places about the lattice, its degrees of freedom, and the standard
        errors by which the disk is off that fits worst.
    share : (rows,) of the peaks' weight that the lattice explains; clear : (rows,) same of the clear peaks by number.
    peaks, strongest : (rows,) number of peaks, and standard errors of the strongest.
    joint : (rows,) standard errors by which the inner reflections stand out together.
    second, ring : (rows,) of `strangers.second_lattice` and `ring_share`.
    index : (rows, DISKS, 2), count : (rows,) of the disks that were read.
    total : (rows,) counts.
    """

    lattice: np.ndarray
    covariance: np.ndarray
    chi_square: np.ndarray
    freedom: np.ndarray
    worst: np.ndarray
    share: np.ndarray
    clear: np.ndarray
    peaks: np.ndarray
    strongest: np.ndarray
    joint: np.ndarray
    second: np.ndarray
    ring: np.ndarray
    index: np.ndarray
    count: np.ndarray
    total: np.ndarray

    @classmethod
    def empty(cls, rows: int) -> Lattices:
        """Nothing found yet."""
        def nothing() -> np.ndarray:
            return np.full(rows, np.nan)

        def zeros(kind: type = float) -> np.ndarray:
            return np.zeros(rows, kind)

        return cls(np.full((rows, 6), np.nan), np.full((rows, 6, 6), np.nan), nothing(), zeros(), nothing(), zeros(), zeros(),
                   zeros(np.int64), zeros(), zeros(), zeros(), zeros(), np.zeros((rows, DISKS, 2), np.int64), zeros(np.int64),
                   zeros())

    def take(self, figures: np.ndarray) -> None:
        """Put what the search found, (rows, FIGURES) of it, where it belongs."""
        self.share[:], self.clear[:], self.strongest[:], self.joint[:], self.second[:], self.ring[:] = figures.T


@njit(cache=True, nogil=True)
def tolerance(radius):
    """How far from a lattice's point a peak counts as lying on it [pixel]."""
    return 0.6 * radius + 0.35


@njit(cache=True, nogil=True)
def _search(frames, usable, radii, nominal, references, lattice, peaks, total, figures):
    for row in range(len(frames)):
        if usable[row]:
            total[row] = frames[row].astype(np.float64).sum()
            score = score_map(frames[row], radii[row])
            peaks[row] = _search_map(score, radii[row], nominal[row], references[row], lattice[row], figures[row])


@njit(cache=True, nogil=True)
def search_maps(scores, usable, radii, nominal, references, lattice, peaks, figures):
    """The search, in place, in maps of significance (rows, rows, columns) of whole frames, of which only what `binning` leaves
    is filled; `figures` (rows, FIGURES) as `Lattices.take` has them."""
    for row in range(len(scores)):
        if usable[row]:
            bin_ = binning(radii[row])
            score = scores[row, :scores.shape[1] // bin_, :scores.shape[2] // bin_].copy()
            peaks[row] = _search_map(score, radii[row], nominal[row], references[row], lattice[row], figures[row])


@njit(cache=True, nogil=True)
def _search_map(score, radius, nominal, references, lattice, figures):
    """Look for a lattice in one map; the number of peaks, and in place the lattice (6,) and `figures` (FIGURES,)."""
    places, weights, candidate, small = np.zeros((PEAKS, 2)), np.zeros(PEAKS), np.zeros(6), np.zeros(6)
    nodes, basis, bin_, joint = np.zeros((60, 2)), np.zeros((2, 2)), binning(radius), 0.0
    count = find_peaks(score, radius, places, weights)
    if count == 0:
        return count
    share = find_lattice(places, weights, count, radius, nominal, candidate)
    if share > 0.0:
        _to_small(candidate, bin_, small)
        basis[0, 0], basis[0, 1], basis[1, 0], basis[1, 1] = small[1], small[2], small[4], small[5]
        joint = joint_significance(score, small[::3], basis, nodes, min(ordered_nodes(basis, nodes), 24))
    if share * count < _ENOUGH:
        # the direct beam outshines everything where so few disks are seen
        centre = (places[0] - (bin_ - 1) / 2) / bin_
        value = guided_lattice(score, radius / bin_, centre, references / bin_, small)
        if value > max(1.15 * joint + 1.0, _JOINT):
            joint = value
            for n in range(6):
                candidate[n] = small[n] * bin_ + ((bin_ - 1) / 2 if n % 3 == 0 else 0.0)
            share = max(explained_share(places, weights, count, candidate[::3], candidate[1::3], candidate[2::3],
                                        tolerance(radius))[0], 1e-3)
        elif share * count < _FEWEST:
            share = 0.0
    figures[0], figures[2], figures[3] = share, weights[0], joint
    if share > 0.0:
        lattice[:] = candidate
        figures[1] = _clear_share(places, weights, count, radius, candidate)
        _to_small(candidate, bin_, small)
        basis[0, 0], basis[0, 1], basis[1, 0], basis[1, 1] = small[1], small[2], small[4], small[5]
        reflections, centre = min(ordered_nodes(basis, nodes), 36), small[::3].copy()
        others = beside(score, centre, basis, radius / bin_)
        figures[4] = second_lattice(others, centre, basis, radius / bin_, nodes, reflections)
        figures[5] = ring_share(score, others, centre, basis, radius / bin_, nodes, reflections)
    return count


@njit(cache=True, nogil=True)
def _to_small(lattice, bin_, out):
    """A lattice in binned pixels."""
    for n in range(6):
        out[n] = (lattice[n] - ((bin_ - 1) / 2 if n % 3 == 0 else 0.0)) / bin_


@njit(cache=True, nogil=True)
def _clear_share(places, weights, count, radius, lattice):
    """Part of the clear peaks that lie on a lattice, each counting once: a second lattice's are fewer electrons, not disks."""
    obvious = 0
    for n in range(count):
        obvious += weights[n] > _CLEAR
    if obvious == 0:
        return 1.0
    return explained_share(places, np.full(count, 1.0), obvious, lattice[::3], lattice[1::3], lattice[2::3],
                           tolerance(radius))[0]


@njit(cache=True, nogil=True)
def sample_rows(frames, lattice, radii, total, index, count, rows):
    """Disks of the lattices (rows, 6), chosen and sampled, in place; lattices with NaN are left out."""
    for row in range(len(frames)):
        count[row] = 0
        if not np.isfinite(lattice[row, 0]):
            rows[row] = 0.0
            continue
        table = summed_area(frames[row])
        count[row] = choose_disks(table, lattice[row], radii[row], len(rows[row]), index[row])
        sample_lattice(table, lattice[row], radii[row], total[row], index[row], count[row], rows[row])


@njit(cache=True, nogil=True)
def sample_fine_rows(frames, lattice, radii, beams, total, index, count, rows):
    """The same for the refining network; beams : (rows, 3) reciprocal nanometres of a pixel, [V], semi-convergence [rad]."""
    for row in range(len(frames)):
        count[row] = 0
        if not np.isfinite(lattice[row, 0]):
            rows[row] = 0.0
            continue
        table = summed_area(frames[row])
        count[row] = choose_disks(table, lattice[row], radii[row], DISKS, index[row])
        sample_finely(table, lattice[row], radii[row], total[row], beams[row], index[row], count[row], rows[row])


@njit(cache=True, nogil=True)
def _solve_rows(index, count, offset, lower, radii, prior, lattice, covariance, chi_square, freedom, worst):
    change = np.zeros(6)
    for row in range(len(lattice)):
        if not np.isfinite(lattice[row, 0]):
            continue
        square, free, worst[row] = solve(index[row], count[row], offset[row], lower[row], prior, change, covariance[row])
        chi_square[row], freedom[row] = square / max(free, 1), free
        moved(lattice[row], change, radii[row])
        for i in range(6):
            for j in range(6):
                scale = radii[row]**2 * (1.0 if i % 3 == 0 else 1 / INDEX_SCALE) * (1.0 if j % 3 == 0 else 1 / INDEX_SCALE)
                covariance[row, i, j] *= scale


@dataclass(frozen=True)
class LatticeNetworks:
    """What reads the places of disks: each disk alone, then, if there is one, a network that sees all of them."""

    disk: DiskNetwork
    refining: RefiningNetwork | None = None


def find_lattices(networks: LatticeNetworks, frames: np.ndarray, radii: np.ndarray, nominal: np.ndarray,
                  references: np.ndarray, beams: np.ndarray, usable: np.ndarray | None = None,
                  refine: bool = True) -> Lattices:
    """Lattices of patterns.

    Parameters
    ----------
    frames : (rows, rows, columns) float32 counts.
    radii : (rows,) of a disk [pixel]; nominal : (rows, 2) where the undeflected beam should be, to half a reciprocal vector.
    references : (rows, n, 2, 2) known reciprocal lattices as columns [pixel], for patterns of few electrons.
    beams : (rows, 3) reciprocal nanometres of a pixel, high tension [V], semi-convergence angle [rad].
    usable : (rows,) bool; others are left out.
    refine : whether to go beyond the first round.
    """
    rows = len(frames)
    result = Lattices.empty(rows)
    radii, nominal = np.ascontiguousarray(radii, float), np.ascontiguousarray(nominal, float)
    usable = np.ones(rows, bool) if usable is None else usable
    figures = np.zeros((rows, FIGURES))
    _search(frames, usable, radii, nominal, references, result.lattice, result.peaks, result.total, figures)
    result.take(figures)
    _first_round(networks, frames, radii, result)
    if refine:
        _second_round(networks, frames, radii, beams, result)
    return result


def _first_round(networks: LatticeNetworks, frames: np.ndarray, radii: np.ndarray, found: Lattices) -> None:
    """Lattices, in place, by what each disk says alone."""
    rows = np.zeros((len(frames), DISKS if networks.refining is None else FIRST_DISKS, DISK_INPUTS), np.float32)
    sample_rows(frames, found.lattice, radii, found.total, found.index, found.count, rows)
    _moved_to(in_groups(networks.disk, found.count, (rows,), told_by_disk=True), radii, found)


def _second_round(networks: LatticeNetworks, frames: np.ndarray, radii: np.ndarray, beams: np.ndarray,
                  found: Lattices) -> None:
    if networks.refining is None:
        _first_round(networks, frames, radii, found)
        return
    rows = np.zeros((len(frames), DISKS, FINE_INPUTS), np.float32)
    sample_fine_rows(frames, found.lattice, radii, beams, found.total, found.index, found.count, rows)
    present = (np.arange(DISKS) < found.count[:, None]).astype(np.float32)
    said = in_groups(networks.refining, found.count, (rows, present), told_by_disk=True)
    _moved_to(said, radii, found)


def _moved_to(said: list[np.ndarray], radii: np.ndarray, found: Lattices) -> None:
    """Solve for lattices, in place, from offsets and triangles of their disks."""
    _solve_rows(found.index, found.count, said[0].astype(float), said[1].astype(float), radii, PRIOR, found.lattice,
                found.covariance, found.chi_square, found.freedom, found.worst)
    found.lattice[~np.isfinite(found.lattice).all(axis=1)] = np.nan


@njit(cache=True, nogil=True)
def reduce_rows(lattice, covariance, index, count):
    """Reduce bases, in place, with covariances and the indices of disks: their solution may have changed which vectors are
    shortest."""
    a, b = np.zeros(2), np.zeros(2)
    for row in range(len(lattice)):
        if not np.isfinite(lattice[row, 0]):
            continue
        old = np.array([[lattice[row, 1], lattice[row, 2]], [lattice[row, 4], lattice[row, 5]]])
        a[0], a[1], b[0], b[1] = old[0, 0], old[1, 0], old[0, 1], old[1, 1]
        reduce_basis(a, b)
        new = np.array([[a[0], b[0]], [a[1], b[1]]])
        change = np.rint(np.linalg.inv(old) @ new)
        turn = np.eye(6)
        for block in range(2):
            for i in range(2):
                for j in range(2):
                    turn[3 * block + 1 + i, 3 * block + 1 + j] = change[j, i]
        back = np.rint(np.linalg.inv(change))
        for n in range(count[row]):
            h, k = index[row, n, 0], index[row, n, 1]
            index[row, n, 0] = int(back[0, 0] * h + back[0, 1] * k)
            index[row, n, 1] = int(back[1, 0] * h + back[1, 1] * k)
        lattice[row] = turn @ lattice[row]
        covariance[row] = turn @ covariance[row] @ turn.T
