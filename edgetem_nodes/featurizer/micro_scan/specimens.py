"""Random pieces of sheets with known sites, and of what is no sheet, as lists of atoms."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from edgetem_nodes.featurizer.micro_scan.hosts import CLASSES, NAMES, OTHERS, Host, honeycomb

FOREIGN = ("vacuum", "amorphous", "square")
"""What is no sheet: nothing, a film without order, a thick crystal with a square lattice."""
_SPLIT = 0.02e-10
"""Standard deviation [m] of the lateral distance of two atoms of a column: a tilt of 6 mrad of a sheet of 3.2 A."""


@dataclass(frozen=True)
class Piece:
    """Atoms of a square piece of specimen about the site, and the sites of its sheet.

    Attributes
    ----------
    positions : (atoms, 2), (y, x) [m]; numbers, widths : (atoms,) atomic number and thermal displacement [m].
    weights : (atoms,) how often the atom stands there along the beam.
    nodes, sites : (sites, 2) [m], of the perfect lattice, and where the column stands, or would.
    classes, hosts : (sites,) what stands there, what the perfect sheet has; sublattice : (sites,) 0 or 1. No sites: it is no
        sheet.
    host : the sheet, None for what is none.
    deformation : F (2, 2), (y, x), of the honeycomb of `hosts.honeycomb`; origin : (2,) [m] of its first site.
    """

    positions: np.ndarray
    numbers: np.ndarray
    widths: np.ndarray
    weights: np.ndarray
    nodes: np.ndarray
    sites: np.ndarray
    classes: np.ndarray
    hosts: np.ndarray
    sublattice: np.ndarray
    host: Host | None
    deformation: np.ndarray
    origin: np.ndarray


@dataclass(frozen=True)
class Defects:
    """How many defects a piece has, and how far its atoms are off their sites.

    Attributes
    ----------
    density : defects a site on either sublattice.
    disorder : standard deviation of any atom's place [m]; near_defects : of defects and their neighbours.
    """

    density: tuple[float, float]
    disorder: float = 0.0
    near_defects: float = 0.0


def sheet(host: Host, deformation: np.ndarray, origin: np.ndarray, half: float, defects: Defects, width: float,
          rng: np.random.Generator) -> Piece:
    """A piece of sheet.

    Parameters
    ----------
    deformation, origin : see `Piece`.
    half : half of its edge [m].
    width : thermal displacement along an axis [m].
    """
    vectors, basis = honeycomb(host.lattice)
    vectors, basis = vectors @ deformation.T, basis @ deformation.T
    count = int(np.ceil(2.2 * half / np.abs(np.linalg.svd(vectors, compute_uv=False)).min())) + 2
    i, j = np.meshgrid(np.arange(-count, count + 1), np.arange(-count, count + 1), indexing="ij")
    nodes = np.stack([i.ravel(), j.ravel()], axis=1) @ vectors + origin
    sites = np.concatenate([nodes + basis[0], nodes + basis[1]])
    sublattice = np.repeat([0, 1], len(nodes))
    inside = (np.abs(sites) < half).all(axis=1)
    sites, sublattice = sites[inside], sublattice[inside]
    hosts = host.classes()[sublattice]
    classes, changed = hosts.copy(), np.zeros(len(sites), bool)
    for side in (0, 1):
        here = (sublattice == side) & (rng.random(len(sites)) < defects.density[side])
        names, weights = zip(*host.defects[side].items(), strict=True)
        drawn = rng.choice(len(names), len(sites), p=np.array(weights) / sum(weights))
        classes = np.where(here, np.array([NAMES.index(name) for name in names])[drawn], classes)
        changed |= here
    near = np.zeros(len(sites), bool)
    if changed.any():
        near = np.linalg.norm(sites[:, None] - sites[None, changed], axis=-1).min(axis=1) < 0.62 * host.lattice
    vacant = classes == 0
    spread = np.where(near & ~vacant, np.hypot(defects.disorder, defects.near_defects), defects.disorder * ~vacant)
    perfect = sites
    sites = sites + rng.normal(size=sites.shape) * spread[:, None]
    positions, numbers = _atoms(sites, classes, rng)
    return Piece(positions, numbers, np.full(len(numbers), width), np.ones(len(numbers)), perfect, sites, classes, hosts,
                 sublattice, host, np.asarray(deformation), np.asarray(origin))


def _atoms(sites: np.ndarray, classes: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Positions (atoms, 2) and atomic numbers of columns of these classes."""
    places, numbers = [], []
    for index, (_, elements) in enumerate(CLASSES):
        here = sites[classes == index]
        for element in elements:
            split = rng.normal(size=here.shape) * (_SPLIT if len(elements) > 1 else 0.0)
            places.append(here + split)
            numbers.append(rng.choice(OTHERS, len(here)) if element < 0 else np.full(len(here), element))
    return np.concatenate(places), np.concatenate(numbers).astype(int)


def foreign(kind: str, half: float, rng: np.random.Generator) -> Piece:
    """A piece of what is no sheet, one of `FOREIGN`."""
    if kind == "vacuum":
        positions, numbers, weights = np.zeros((0, 2)), np.zeros(0, int), np.zeros(0)
    elif kind == "amorphous":
        count = rng.poisson(rng.uniform(0.8, 6.0) * 1e20 * (2 * half) ** 2)
        positions = rng.uniform(-half, half, (count, 2))
        numbers, weights = np.full(count, rng.choice([6, 14, 32])), np.ones(count)
    else:
        pitch, turn = rng.uniform(1.9e-10, 2.8e-10), rng.uniform(0, np.pi / 2)
        line = np.arange(-int(2 * half / pitch) - 1, int(2 * half / pitch) + 2) * pitch
        y, x = (grid.ravel() for grid in np.meshgrid(line, line, indexing="ij"))
        positions = np.stack([y * np.cos(turn) + x * np.sin(turn), x * np.cos(turn) - y * np.sin(turn)], axis=1)
        positions = positions + rng.uniform(-pitch, pitch, 2)
        positions = positions[(np.abs(positions) < half).all(axis=1)]
        numbers = np.full(len(positions), rng.choice([13, 14, 22, 29, 38, 47, 79]))
        weights = np.full(len(positions), float(rng.integers(2, 30)))
    empty = np.zeros(0, int)
    nowhere = np.zeros((0, 2))
    return Piece(positions, numbers, np.full(len(numbers), 0.08e-10), weights, nowhere, nowhere, empty, empty, empty, None,
                 np.eye(2), np.zeros(2))
