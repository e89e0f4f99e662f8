"""Nanobeam patterns for tests: drawn ones of sheets, whose tables take a second, and their exposures."""

from __future__ import annotations

from functools import lru_cache

import numpy as np

from edgetem_nodes.featurizer.cbed.generator import ConditionRanges, NanobeamBatch, NanobeamGenerator
from edgetem_nodes.featurizer.cbed.materials import material
from edgetem_nodes.featurizer.cbed.reading import Exposures
from edgetem_nodes.featurizer.cbed.training.readings import exposures_of
from edgetem_nodes.featurizer.patterns.geometry import DetectorGeometry
from edgetem_nodes.physics.electrons import wavelength


@lru_cache(maxsize=8)
def generator(name: str, electrons: float, high_tension: float = 80e3) -> NanobeamGenerator:
    """Of one material at one dose."""
    return NanobeamGenerator([material(name)], ConditionRanges(high_tensions=(high_tension,), electrons=(electrons, electrons)))


def drawn(name: str, electrons: float, count: int, seed: int, pixels: int = 64) -> tuple[NanobeamBatch, Exposures]:
    """Patterns that no training has seen: its seeds are others, and here they are added to a large number."""
    batch = generator(name, electrons).draw(count, np.random.default_rng(10**6 + seed), pixels)
    return batch, exposures_of(batch)


def strains(deformation: np.ndarray) -> np.ndarray:
    """exx, eyy, exy (n, 3) of U - 1 with F = R U, by eigenvectors of F^T F."""
    values, vectors = np.linalg.eigh(np.swapaxes(deformation, 1, 2) @ deformation)
    stretch = (vectors * np.sqrt(values)[:, None]) @ np.swapaxes(vectors, 1, 2) - np.eye(2)
    return np.stack([stretch[:, 1, 1], stretch[:, 0, 0], stretch[:, 0, 1]], axis=1)


def nearest_equivalent(deformation: np.ndarray, fold: int = 6) -> np.ndarray:
    """Of F @ R, with R the turns of a lattice into itself, the one that turns least: (n, 2, 2)."""
    def turn(matrices: np.ndarray) -> np.ndarray:
        return np.arctan2(matrices[:, 0, 1] - matrices[:, 1, 0], np.trace(matrices, axis1=1, axis2=2))

    best = deformation
    for angle in 2 * np.pi / fold * np.arange(1, fold):
        other = deformation @ np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
        best = np.where((np.abs(turn(other)) < np.abs(turn(best)))[:, None, None], other, best)
    return best


def sheet_pattern(basis: np.ndarray, electrons: float, radius: float = 3.0, pixels: int = 64, centre: tuple = (32.0, 32.0),
                  share: float = 0.01) -> np.ndarray:
    """Expected counts of even disks on a lattice, columns `basis` [pixel], with `share` of the electrons in each but the direct
    one; nothing of the generator is used."""
    y, x = np.indices((pixels, pixels))
    fine = (np.arange(5) - 2) / 5
    total = np.zeros((pixels, pixels))
    order = np.stack(np.meshgrid(*[np.arange(-2, 3)] * 2, indexing="ij"), axis=-1).reshape(-1, 2)
    for h, k in order:
        place = np.asarray(centre) + basis @ (h, k)
        disk = np.mean([np.hypot(y + v - place[0], x + u - place[1]) < radius for v in fine for u in fine], axis=0)
        total += disk / (np.pi * radius**2) * (1 - share * (len(order) - 1) if h == k == 0 else share)
    return total * electrons


def mos2_basis(pixel_angle: float, turn: float = 0.0, length: float = wavelength(80e3),
               lattice: float = 3.16e-10) -> np.ndarray:
    """Reciprocal vectors of a hexagonal sheet as columns [pixel], the first real vector at an angle `turn` from x to y."""
    angles = turn + np.array([0.0, 2 * np.pi / 3])
    cell = lattice * np.stack([np.sin(angles), np.cos(angles)], axis=1)
    return length / pixel_angle * np.linalg.inv(cell)


PIXEL = 0.7e-3
"""[rad] of the simple patterns."""


def simple_geometry(centre: tuple = (32.0, 32.0)) -> DetectorGeometry:
    """Of the simple patterns."""
    return DetectorGeometry(centre, PIXEL, 3.0 * PIXEL)
