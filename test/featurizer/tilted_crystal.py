"""An endless crystal in any orientation as a specimen of the virtual microscope: truth for orientation mapping."""

from __future__ import annotations

import numpy as np

from edgetem_nodes.physics.diffraction import Diffraction
from edgetem_nodes.physics.numerics import Numerics
from edgetem_nodes.physics.optics import Camera, Probe
from edgetem_nodes.physics.specimens import Atoms, Condition


class TiltedCrystal:
    """A slab, its surfaces across the beam, of a crystal given as ase.Atoms [Angstrom]; see `Specimen`.

    `turn` (3, 3) takes (z, y, x) of the crystal's axes to those of the specimen; `rms` is the thermal displacement [m].
    """

    name, crystalline = "tilted crystal", True
    quantities: dict[str, str] = {}

    def __init__(self, structure, turn: np.ndarray, thickness: float, rms: float = 8e-12) -> None:
        self.vectors = structure.cell.array[:, ::-1] * 1e-10 @ np.asarray(turn).T
        self.places, self.numbers = structure.get_scaled_positions(), structure.numbers.astype(np.int64)
        self.thickness, self.rms = thickness, rms

    def atoms(self, low: np.ndarray, high: np.ndarray, condition: Condition | None = None) -> Atoms:
        corners = np.array([[z, y, x] for z in (0.0, self.thickness) for y in (low[0], high[0]) for x in (low[1], high[1])])
        cells = corners @ np.linalg.inv(self.vectors)
        first, last = np.floor(cells.min(axis=0)).astype(int) - 1, np.ceil(cells.max(axis=0)).astype(int) + 1
        grid = np.stack(np.meshgrid(*(np.arange(a, b) for a, b in zip(first, last, strict=True)), indexing="ij"), -1)
        grid = grid.reshape(-1, 3)
        # per-axis index offset keeps the identity of an atom the same however the plane is cut
        cell = (grid + 512) @ np.array([1 << 20, 1 << 10, 1])
        positions = ((grid[:, None] + self.places) @ self.vectors).reshape(-1, 3)
        identity = (cell[:, None] * 64 + np.arange(len(self.numbers))).ravel()
        inside = ((positions[:, 1:] >= low) & (positions[:, 1:] < high)).all(axis=1)
        inside &= (positions[:, 0] >= 0) & (positions[:, 0] < self.thickness)
        order = np.flatnonzero(inside)[np.argsort(identity[inside], kind="stable")]
        numbers = np.tile(self.numbers, len(grid))
        return Atoms(positions[order], numbers[order], np.full(len(order), self.rms), identity[order].astype(np.uint64))


def expected_pattern(structure, turn: np.ndarray, thickness: float, camera: Camera, semi_convergence_angle: float = 1.5e-3,
                     high_tension: float = 200e3, phonon_configurations: int = 2) -> np.ndarray:
    """Fraction of the beam in every pixel by multislice, at one probe position."""
    numerics = Numerics(phonon_configurations=phonon_configurations, method="multislice")
    specimen = TiltedCrystal(structure, turn, thickness)
    beam = Diffraction(specimen, Probe(high_tension, semi_convergence_angle), camera, numerics)
    return beam.patterns(np.array([[0.13e-9, 0.07e-9]]))[0].astype(float)
