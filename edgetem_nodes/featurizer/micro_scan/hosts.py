"""Sheets whose lattice sites the network tells apart, what may stand on a site, and how often it does in training."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

CLASSES: tuple[tuple[str, tuple[int, ...]], ...] = (
    ("vacancy", ()), ("B", (5,)), ("C", (6,)), ("N", (7,)), ("Si", (14,)), ("S", (16,)), ("S2", (16, 16)), ("SSe", (16, 34)),
    ("Se2", (34, 34)), ("V", (23,)), ("Mo", (42,)), ("W", (74,)), ("other", (-1,)))
"""What may stand in a column of a lattice site: name, atomic numbers; -1: an element that is none of these."""
NAMES = tuple(name for name, _ in CLASSES)
OTHERS = (8, 9, 13, 22, 25, 26, 29, 47, 50, 78, 79)
"""Elements drawn for the class "other"."""


@dataclass(frozen=True)
class Host:
    """A sheet whose sites form a honeycomb.

    Attributes
    ----------
    lattice : in-plane lattice constant [m].
    sites : class of the perfect sheet on the two sublattices.
    defects : for either sublattice, classes that may stand there instead and their weights.
    displacement : thermal displacement along an axis, least and largest [m].
    trained : whether networks are trained on it.
    """

    name: str
    lattice: float
    sites: tuple[str, str]
    defects: tuple[dict[str, float], dict[str, float]]
    displacement: tuple[float, float]
    trained: bool = True

    @property
    def row_spacing(self) -> float:
        """Distance of its densest rows of atoms [m]."""
        return math.sqrt(3) / 2 * self.lattice

    def classes(self) -> np.ndarray:
        """Class (2,) int of the sublattices."""
        return np.array([NAMES.index(name) for name in self.sites])


_CARBON = {"vacancy": 3.0, "N": 2.0, "B": 2.0, "Si": 2.0, "other": 0.5}
_METAL_OF_MO = {"vacancy": 1.0, "W": 2.0, "V": 2.0, "other": 0.5}
_METAL_OF_W = {"vacancy": 1.0, "Mo": 2.0, "V": 2.0, "other": 0.5}
_SULPHUR = {"S": 4.0, "vacancy": 1.0, "SSe": 1.5, "Se2": 1.0, "other": 0.2}
_SELENIUM = {"vacancy": 1.0, "SSe": 2.0, "S2": 1.0}

HOSTS = (
    Host("graphene", 2.46e-10, ("C", "C"), (_CARBON, _CARBON), (0.04e-10, 0.08e-10)),
    Host("h-BN", 2.504e-10, ("B", "N"), ({"vacancy": 3.0, "C": 2.0, "other": 0.3}, {"vacancy": 2.0, "C": 2.0, "other": 0.3}),
         (0.04e-10, 0.08e-10)),
    Host("MoS2", 3.16e-10, ("Mo", "S2"), (_METAL_OF_MO, _SULPHUR), (0.05e-10, 0.09e-10)),
    Host("WS2", 3.153e-10, ("W", "S2"), (_METAL_OF_W, _SULPHUR), (0.05e-10, 0.09e-10)),
    Host("MoSe2", 3.288e-10, ("Mo", "Se2"), (_METAL_OF_MO, _SELENIUM), (0.05e-10, 0.09e-10), trained=False),
    Host("WSe2", 3.282e-10, ("W", "Se2"), (_METAL_OF_W, _SELENIUM), (0.05e-10, 0.09e-10), trained=False),
)
"""Lattice constants: Castro Neto et al., Rev. Mod. Phys. 81, 109 (2009); Pease, Acta Cryst. 5, 356 (1952); Wildervanck &
Jellinek, Z. anorg. allg. Chem. 328, 309 (1964); Schutte et al., J. Solid State Chem. 70, 207 (1987)."""
BY_NAME = {host.name: host for host in HOSTS}
DEFECTIVE = 0.05
"""Part of all sites that is expected to hold something else than the perfect sheet's column."""
_IMPOSSIBLE = -30.0


def log_prior(perfect: np.ndarray, defective: float = DEFECTIVE) -> np.ndarray:
    """Logarithm of the prior (n, K) of what stands on sites whose perfect column has these classes (n,).

    Parameters
    ----------
    defective : part of the sites that are not perfect; among them classes have the weights of `Host.defects`.
    """
    table = np.full((len(CLASSES), len(CLASSES)), _IMPOSSIBLE, np.float32)
    for host in HOSTS:
        for own, weights in zip(host.classes(), host.defects, strict=True):
            table[own, own] = np.log1p(-defective)
            for name, weight in weights.items():
                table[own, NAMES.index(name)] = np.log(defective * weight / sum(weights.values()))
    return table[np.asarray(perfect, int)]


def honeycomb(lattice: float) -> tuple[np.ndarray, np.ndarray]:
    """Lattice vectors (2, 2), rows (y, x) [m], the first along x, and the two sites (2, 2) of the cell [m]."""
    vectors = lattice * np.array([[0.0, 1.0], [np.sqrt(3) / 2, 0.5]])
    return vectors, np.array([[0.0, 0.0], (vectors[0] + vectors[1]) / 3])
