"""A material of uniform deformation, tilt and thickness as a specimen of the virtual microscope: truth for evaluation."""

from __future__ import annotations

import numpy as np

from edgetem_nodes.featurizer.cbed.materials import Material
from edgetem_nodes.physics import site_noise
from edgetem_nodes.physics.specimens import Atoms, Condition


class UniformSlab:
    """A slab without end in the plane; see `physics.specimens.Specimen` for what it answers.

    Every column of cells is moved by F and leans along the tilted zone axis; no atom leaves its depth.
    """

    quantities: dict[str, str] = {}

    def __init__(self, material: Material, layers: int, deformation: np.ndarray, tilt: np.ndarray | tuple[float, float],
                 vacancy_fraction: float = 0.0, seed: int = 0) -> None:
        """A slab of `layers` cells along the beam.

        Parameters
        ----------
        deformation : (2, 2) F from the material's reference lattice. tilt : (2,) direction of the zone axis [rad].
        vacancy_fraction : part of the atoms that is missing, at random by `seed`.

        Raises
        ------
        ValueError : no layers.
        """
        if layers < 1:
            raise ValueError(f"a slab of {layers} layers is empty: it needs at least 1")
        self.material, self.layers, self.name = material, layers, material.name
        self.deformation, self.tilt = np.asarray(deformation, float), np.asarray(tilt, float)
        self.thickness, self.crystalline = layers * material.spacing, not material.sheet
        self._vacant, self._seed = vacancy_fraction, seed
        self._across = material.cell[:2, 1:] @ self.deformation.T
        fractions = np.concatenate([material.layer(number) for number in range(layers)])
        depth = fractions[:, 2] * material.spacing
        # half a plane's distance off the entrance surface: no slice cuts through a plane
        self._depth = depth - depth.min() + (self.thickness - np.ptp(depth)) / 2
        self._lateral = fractions[:, :2]
        self._numbers, self._rms = np.tile(material.atomic_numbers, layers), np.tile(material.displacement_rms, layers)

    def atoms(self, low: np.ndarray, high: np.ndarray, condition: Condition | None = None) -> Atoms:
        """Every atom with low <= (y, x) < high [m], in the order of identity."""
        lean = np.abs(self.tilt) * self.thickness
        corners = np.array([[y, x] for y in (low[0] - lean[0], high[0] + lean[0])
                            for x in (low[1] - lean[1], high[1] + lean[1])])
        inside = corners @ np.linalg.inv(self._across)
        first, last = np.floor(inside.min(axis=0)).astype(int) - 2, np.ceil(inside.max(axis=0)).astype(int) + 2
        u, v = (part.ravel() for part in np.meshgrid(np.arange(first[0], last[0]), np.arange(first[1], last[1]), indexing="ij"))
        places = (np.stack([u, v], axis=1)[:, None] + self._lateral) @ self._across + self.tilt * self._depth[:, None]
        kept = ((places >= low) & (places < high)).all(axis=2)
        cell = ((u + 32768) * 65536 + (v + 32768)).astype(np.uint64)
        identity = cell[:, None] * np.uint64(65536) + np.arange(len(self._depth), dtype=np.uint64)
        if self._vacant:
            kept &= site_noise.uniform(self._seed, identity, "vacancy") >= self._vacant
        atom = np.broadcast_to(np.arange(len(self._depth)), kept.shape)[kept]
        positions = np.column_stack([self._depth[atom], places[kept]])
        order = np.argsort(identity[kept], kind="stable")
        return Atoms(positions[order], self._numbers[atom][order], self._rms[atom][order], identity[kept][order])

    def truth(self, quantity: str, positions: np.ndarray, condition: Condition) -> np.ndarray:
        """Nothing is asked of it by name: its attributes are the truth (ValueError)."""
        raise ValueError(f"there is no truth {quantity!r} of {self.name}: it is uniform; see its attributes")

    def edge_distance(self, positions: np.ndarray) -> None:
        """None: it has no edge."""
        return None
