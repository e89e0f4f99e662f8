"""A flake of MnPS3 in vacuum, with straight edges and a terrace: a rim that may carry a plasmon, and a step in thickness.

After the flakes in which edge modes were found by autonomous spectroscopy. The control has the same shape and no edge mode:
its spectra change with the thickness alone.
"""

from __future__ import annotations

import numpy as np

from edgetem_nodes.physics import site_noise
from edgetem_nodes.physics.specimens import Atoms, Condition, require_quantity
from edgetem_nodes.physics.specimens.catalogue import SpecimenOptions
from edgetem_nodes.physics.specimens.outline import Outline
from edgetem_nodes.physics.specimens.thermal import classical_displacement
from edgetem_nodes.physics.specimens.tilt import sheared
from edgetem_nodes.physics.specimens.transition import holder_state

CELL = (6.077e-10, 10.524e-10, 6.796e-10, 107.35)
"""a, b, c [m] and beta [degree] of MnPS3, C2/m (Ouvrard, Brec & Rouxel, Mat. Res. Bull. 20, 1181, 1985)."""
SITES = (("Mn", (0.0, 0.3326, 0.0)), ("P", (0.0566, 0.0, 0.1688)), ("S", (0.7571, 0.0, 0.2466)),
         ("S", (0.2428, 0.1638, 0.2466)))
"""Fractional coordinates near those of the same, 4g, 4i, 4i and 8j, the sulphur's set so that P has three equal bonds; no
refinement. Mn-S 0.258 to 0.261 nm, P-S 0.204 nm, P-P 0.219 nm."""
SPACING = CELL[2] * np.sin(np.radians(CELL[3]))
"""Of the layers [m]: 0.649 nm."""
_DISPLACEMENT_RMS = {25: 11.3e-12, 15: 9.7e-12, 16: 11.3e-12}
"""At 300 K along one axis [m] by atomic number: B = 1.0, 0.75 and 1.0 A^2, the order of the refinements' values."""
_HIGH_TENSION = 200e3
"""[V] for which the truth gives the reach of the edge mode into the vacuum."""
_TRUTHS = {"thickness": "m", "layers": "", "flake": "", "edge_distance": "m", "edge_mode": ""}


class Flake:
    """A flake that fills about half of the field, its layers perpendicular to the beam."""

    crystalline = True

    def __init__(self, name: str, extent: tuple[float, float], seed: int, options: SpecimenOptions) -> None:
        """The flake `options.thickness` thick, rounded to layers, and about half of that beyond a step across its middle.

        Raises
        ------
        ValueError : it is no MnPS3, or thinner than a layer, or the field is too small for an outline, or for the hole.
        """
        if name != "MnPS3":
            raise ValueError(f"there is no flake of {name!r}; there is MnPS3")
        if not options.thickness >= SPACING / 2:
            raise ValueError(f"a flake of {options.thickness} m is thinner than a layer of MnPS3: {SPACING:.3g} m or more")
        if not min(extent) >= 3e-9:
            raise ValueError(f"a field of {extent} m is too small for the outline of a flake: 3e-9 m or more on either side")
        if not 0 <= options.hole_size <= 0.2 * min(extent):
            raise ValueError(f"a hole of {options.hole_size} m does not fit into a flake in a field of {extent} m: at most "
                             "a fifth of the field, or 0 for none")
        self.name, self.seed, self.edge_mode, self._options = name, seed, options.edge_mode, options
        self.quantities = dict(_TRUTHS)
        self.number_of_layers = max(round(options.thickness / SPACING), 1)
        self.terrace_layers = max(round(self.number_of_layers * (0.4 + 0.2 * self._chance("terrace layers"))), 1)
        self.thickness = self.number_of_layers * SPACING
        self._extent = np.asarray(extent, float)
        self.outline = Outline.drawn(seed, self._extent)
        angle = 2 * np.pi * self._chance("step angle")
        self._step = np.array([np.sin(angle), np.cos(angle)])
        self._step_place = self._extent / 2 + 0.1 * (self._chance("step place") - 0.5) * self._extent.min() * self._step
        # on the thick side, as far from the step as from its own middle
        self._hole = self._step_place - min(0.12 * self._extent.min(), options.hole_size) * self._step
        self._build()

    def _chance(self, name: str) -> float:
        return float(site_noise.uniform(self.seed, np.zeros(1, np.int64), name)[0])

    def _build(self) -> None:
        """The primitive cell of a layer: lattice (2, 2), glide from layer to layer (2,), basis (10, 3) [m], (z, y, x)."""
        from ase.spacegroup import crystal

        a, b, c, beta = CELL
        cell = crystal([symbol for symbol, _ in SITES], [place for _, place in SITES], spacegroup=12,
                       cellpar=[a * 1e10, b * 1e10, c * 1e10, 90, beta, 90], primitive_cell=False)
        fractional = cell.get_scaled_positions()
        # C centring: one atom of each pair (x, y), (x + 1/2, y + 1/2); and every atom next to the plane z = 0
        fractional[:, 2] -= np.rint(fractional[:, 2])
        half = np.mod(fractional[:, 1] + 1e-6, 1.0) < 0.5
        fractional, numbers = fractional[half], cell.numbers[half]
        glide = c * np.cos(np.radians(beta))
        x, y, z = fractional.T
        positions = np.stack([z * SPACING, y * b, x * a + z * glide], axis=-1)
        angle = 2 * np.pi * self._chance("orientation")
        turn = np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
        self._lattice = np.array([[b / 2, a / 2], [b / 2, -a / 2]]) @ turn.T
        # less a lattice vector every third layer, so that the pile stays above its cells
        layers = np.arange(self.number_of_layers)
        shift = layers * glide
        self._glides = ((shift - a * np.rint(shift / a))[:, None] * np.array([0.0, 1.0])) @ turn.T
        self._basis = np.concatenate([positions[:, :1], positions[:, 1:] @ turn.T], axis=1)
        self._numbers = numbers.astype(np.int64)
        self._thermal = np.array([_DISPLACEMENT_RMS[n] for n in self._numbers])

    def _heights(self, positions: np.ndarray) -> np.ndarray:
        """Number of layers (n,) at positions (n, 2)."""
        terrace = (positions - self._step_place) @ self._step > 0
        number = np.where(terrace, self.terrace_layers, self.number_of_layers)
        return np.where(self.edge_distance(positions) < 0, number, 0)

    def _cells(self, low: np.ndarray, high: np.ndarray) -> np.ndarray:
        """Lattice indices (n, 2) of primitive cells whose atoms may lie in a box; a glide and a basis reach 1 nm."""
        corners = np.array([[y, x] for y in (low[0], high[0]) for x in (low[1], high[1])]) @ np.linalg.inv(self._lattice)
        first, last = np.floor(corners.min(axis=0)).astype(np.int64) - 1, np.ceil(corners.max(axis=0)).astype(np.int64) + 1
        axes = [np.arange(a, b + 1) for a, b in zip(first, last, strict=True)]
        cells = np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1).reshape(-1, 2)
        places = cells @ self._lattice
        return cells[((places >= low) & (places < high)).all(axis=1)]

    def atoms(self, low: np.ndarray, high: np.ndarray, condition: Condition) -> Atoms:
        """Every atom with low <= (y, x) < high [m]; the same atoms in the same order of identity however the plane is cut.

        A tilt of the flake or of the stage makes its layers glide (`tilt.sheared`), about the middle of its thickness.
        """
        low, high = np.asarray(low, float), np.asarray(high, float)
        alpha, beta = self._options.tilt[0] + condition.alpha, self._options.tilt[1] + condition.beta
        reach = 1.5e-9 + self.thickness * np.tan(min(max(abs(alpha), abs(beta)), 0.3))
        cells = self._cells(low - reach, high + reach)
        # from the exit surface up, so that a terrace is a layer that ends
        depths = self.thickness - (np.arange(self.number_of_layers) + 0.5) * SPACING
        lateral = ((cells @ self._lattice)[:, None, None] + self._basis[:, None, 1:]) + self._glides
        shape = lateral.shape[:3]
        heights = np.broadcast_to((depths + self._basis[:, :1])[..., None], (*shape, 1))
        positions = np.concatenate([heights, lateral], axis=-1)
        cell, site, layer = (index.ravel() for index in np.indices(shape, np.int64))
        positions = positions.reshape(-1, 3)
        seen = sheared(positions, alpha, beta, self.thickness / 2)
        near = np.flatnonzero(((seen[:, 1:] >= low) & (seen[:, 1:] < high)).all(axis=1))
        near = near[layer[near] < self._heights(positions[near, 1:])]
        offset = 1 << 20
        row, column = (cells[cell[near]] + offset).T
        identity = (row << 40 | column << 18 | site[near] << 12 | layer[near]).astype(np.uint64)
        thermal = self._thermal * classical_displacement(1.0, max(holder_state(condition)[0], 1.0))
        return Atoms(seen[near], self._numbers[site[near]], thermal[site[near]], identity)

    def truth(self, quantity: str, positions: np.ndarray, condition: Condition) -> np.ndarray:
        """Value (n,) of a quantity at positions (n, 2), (y, x) [m].

        `edge_mode` is the strength of the edge plasmon, 1 on the rim, for 200 kV; 0 everywhere for the control.

        Raises
        ------
        ValueError : the quantity is unknown.
        """
        require_quantity(self, quantity)
        positions = np.asarray(positions, float).reshape(-1, 2)
        if quantity in ("thickness", "layers"):
            return self._heights(positions) * (SPACING if quantity == "thickness" else 1.0)
        distance = self.edge_distance(positions)
        if quantity == "edge_mode":
            return self._edge_strength(distance)
        return distance if quantity == "edge_distance" else (distance < 0).astype(float)

    def _edge_strength(self, distance: np.ndarray) -> np.ndarray:
        from edgetem_nodes.physics.energy_loss.low_loss import edge_excitation
        from edgetem_nodes.physics.energy_loss.materials import MATERIALS

        if not self.edge_mode:
            return np.zeros(len(distance))
        mode = MATERIALS[self.name].edge_mode
        return edge_excitation(distance, mode, _HIGH_TENSION) / mode.probability

    def layers(self, positions: np.ndarray, condition: Condition) -> dict[str, np.ndarray]:
        """Thickness (n,) [m] of MnPS3 at positions (n, 2); 0 in the vacuum."""
        return {self.name: self.truth("thickness", positions, condition)}

    def edge_distance(self, positions: np.ndarray) -> np.ndarray:
        """Signed distance (n,) [m] of positions (n, 2), (y, x) [m], from the rim, also of a hole; vacuum positive."""
        positions = np.asarray(positions, float).reshape(-1, 2)
        distance = self.outline.distance(positions)
        if self._options.hole_size == 0:
            return distance
        return np.maximum(distance, self._options.hole_size / 2 - np.linalg.norm(positions - self._hole, axis=1))
