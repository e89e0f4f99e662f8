"""Endless crystals for tests of diffraction: an orthogonal cell repeated in the plane."""

from __future__ import annotations

import numpy as np

from edgetem_nodes.physics.specimens import Atoms, Condition


class Lattice:
    """Specimen of identical cells; `cell` (y, x) [m], `basis` (n, 3), (z, y, x) [m]; `period` cells on, atoms move alike."""

    name = "lattice"
    quantities: dict[str, str] = {}

    def __init__(self, cell: np.ndarray, basis: np.ndarray, numbers: np.ndarray, thickness: float, rms: float,
                 crystalline: bool = False, period: int = 1024) -> None:
        self.cell, self.basis, self.numbers = np.asarray(cell, float), np.asarray(basis, float), np.asarray(numbers)
        self.thickness, self.rms, self.crystalline = thickness, np.broadcast_to(rms, len(basis)), crystalline
        self.period = period

    def atoms(self, low: np.ndarray, high: np.ndarray, condition: Condition | None = None) -> Atoms:
        first, last = np.floor(low / self.cell).astype(int) - 1, np.ceil(high / self.cell).astype(int) + 1
        cells = np.stack(np.meshgrid(np.arange(first[0], last[0]), np.arange(first[1], last[1]), indexing="ij"), -1)
        cells = cells.reshape(-1, 2)
        positions = np.repeat(self.basis[None], len(cells), axis=0)
        positions[:, :, 1:] += (cells * self.cell)[:, None]
        number = cells % self.period
        identity = (number[:, 0] * self.period + number[:, 1])[:, None] * 1024 + np.arange(len(self.basis))
        positions = positions.reshape(-1, 3)
        inside = ((positions[:, 1:] >= low) & (positions[:, 1:] < high)).all(axis=1)
        return Atoms(positions[inside], np.tile(self.numbers, len(cells))[inside], np.tile(self.rms, len(cells))[inside],
                     identity.ravel().astype(np.uint64)[inside])


def sheet(name: str, repeats: tuple[int, int], rms: float = 0.065e-10) -> tuple[Lattice, float]:
    """Graphene or MoS2, stretched so that `repeats` cells along y and x fill a square, and the square's edge [m]."""
    from ase.build import graphene, mx2

    flat = graphene("C2", a=2.46, vacuum=2.0) if name == "graphene" else mx2("MoS2", a=3.16, thickness=3.17, vacuum=2.0)
    a = flat.cell.lengths()[0]
    doubled = flat.repeat((2, 2, 1))
    places = doubled.positions.copy()
    places[:, 0] %= a
    places[:, 1] %= a * np.sqrt(3)
    _, unique = np.unique(np.round(places % [a - 1e-6, a * np.sqrt(3) - 1e-6, np.inf], 3), axis=0, return_index=True)
    places, numbers = places[unique] * 1e-10, doubled.numbers[unique]
    length = repeats[1] * a * 1e-10
    cell = np.array([length / repeats[0], a * 1e-10])
    y = places[:, 1] * cell[0] / (a * np.sqrt(3) * 1e-10)
    basis = np.stack([places[:, 2] - places[:, 2].min(), y, places[:, 0]], -1)
    return Lattice(cell, basis, numbers, float(np.ptp(basis[:, 0])), rms), length


STO = 3.905e-10
"""Lattice parameter of SrTiO3 [m]."""


def strontium_titanate(layers: int, period: int = 1024) -> Lattice:
    """SrTiO3 along [001], strontium columns at the corners of the cells."""
    cell = np.array([[0, 0, 0], [0.5, 0.5, 0.5], [0.5, 0.5, 0], [0.5, 0, 0.5], [0, 0.5, 0.5]])
    basis = np.concatenate([cell + [layer, 0, 0] for layer in range(layers)]) * STO
    numbers = np.tile([38, 22, 8, 8, 8], layers)
    rms = np.tile([0.0887e-10, 0.0746e-10, 0.0947e-10, 0.0947e-10, 0.0947e-10], layers)
    return Lattice((STO, STO), basis, numbers, layers * STO, rms, True, period)


class Vacuum:
    """Nothing at all, of some thickness."""

    name = "vacuum"
    quantities: dict[str, str] = {}
    crystalline = False

    def __init__(self, thickness: float = 0.0) -> None:
        self.thickness = thickness

    def atoms(self, low: np.ndarray, high: np.ndarray, condition: Condition | None = None) -> Atoms:
        return Atoms(np.zeros((0, 3)), np.zeros(0, int), np.zeros(0), np.zeros(0, np.uint64))
