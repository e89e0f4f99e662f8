"""A crystal slab of uniform, known deformation for the virtual microscope: each column of cells is moved by F, then tilted."""

from __future__ import annotations

import numpy as np

from edgetem_nodes.physics.specimens import Atoms, Condition


class StrainedCrystal:
    """Cubic crystal along [001]; `basis` (n, 3) in cells, (z, y, x); F (2, 2), (y, x); `tilt` (y, x) sideways per depth."""

    name, crystalline = "strained crystal", True
    quantities: dict[str, str] = {}

    def __init__(self, cell: float, basis: np.ndarray, numbers: np.ndarray, rms: np.ndarray, layers: int,
                 deformation: np.ndarray, tilt: tuple[float, float] = (0.0, 0.0)) -> None:
        self.cell, self.layers, self.thickness = cell, layers, layers * cell
        self.basis, self.numbers, self.rms = np.asarray(basis, float), np.asarray(numbers), np.asarray(rms, float)
        self.deformation, self.tilt = np.asarray(deformation, float), np.asarray(tilt, float)

    def atoms(self, low: np.ndarray, high: np.ndarray, condition: Condition | None = None) -> Atoms:
        margin = np.abs(self.tilt) * self.thickness
        corners = np.array([[y, x] for y in (low[0] - margin[0], high[0] + margin[0])
                            for x in (low[1] - margin[1], high[1] + margin[1])])
        inside = corners @ np.linalg.inv(self.deformation).T / self.cell
        first, last = np.floor(inside.min(axis=0)).astype(int) - 1, np.ceil(inside.max(axis=0)).astype(int) + 1
        y, x, z = (part.ravel() for part in np.meshgrid(np.arange(first[0], last[0]), np.arange(first[1], last[1]),
                                                        np.arange(self.layers), indexing="ij"))
        cells = np.stack([z, y, x], axis=1)
        places = ((cells[:, None] + self.basis) * self.cell).reshape(-1, 3)
        flat = places[:, 1:] @ self.deformation.T + self.tilt * places[:, :1]
        number = ((y % 256) * 256 + x % 256) * 1024 + z
        identity = (number[:, None] * 64 + np.arange(len(self.basis))).ravel().astype(np.uint64)
        kept = ((flat >= low) & (flat < high)).all(axis=1)
        return Atoms(np.concatenate([places[:, :1], flat], axis=1)[kept], np.tile(self.numbers, len(cells))[kept],
                     np.tile(self.rms, len(cells))[kept], identity[kept])


def strontium_titanate(layers: int, deformation: np.ndarray, tilt: tuple[float, float] = (0.0, 0.0)) -> StrainedCrystal:
    """SrTiO3; a = 3.905 A, displacements as in `lattice_specimen` of the physics tests."""
    basis = [[0.1, 0, 0], [0.6, 0.5, 0.5], [0.6, 0.5, 0], [0.6, 0, 0.5], [0.1, 0.5, 0.5]]
    return StrainedCrystal(3.905e-10, basis, [38, 22, 8, 8, 8], [8.87e-12, 7.46e-12, 9.47e-12, 9.47e-12, 9.47e-12], layers,
                           deformation, tilt)


def face_centred(cell: float, number: int, rms: float, layers: int, deformation: np.ndarray,
                 tilt: tuple[float, float] = (0.0, 0.0), diamond: bool = False) -> StrainedCrystal:
    """An element with the face-centred cubic lattice, or diamond's."""
    basis = np.array([[0, 0, 0], [0, 0.5, 0.5], [0.5, 0, 0.5], [0.5, 0.5, 0]]) + [0.1, 0, 0]
    basis = np.concatenate([basis, basis + 0.25]) if diamond else basis
    return StrainedCrystal(cell, basis, np.full(len(basis), number), np.full(len(basis), rms), layers, deformation, tilt)
