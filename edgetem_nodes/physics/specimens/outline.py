"""Seeded outlines: polygons with straight edges, as cleavage makes them, and the distance from them."""

from __future__ import annotations

import numpy as np

from edgetem_nodes.physics import site_noise


class Outline:
    """A polygon. Attribute `corners` (n, 2), (y, x) [m], in order."""

    def __init__(self, corners: np.ndarray) -> None:
        self.corners = np.asarray(corners, float)

    @classmethod
    def drawn(cls, seed: int, extent: np.ndarray, corners: int = 9) -> Outline:
        """An irregular polygon around the middle of a field of `extent` (y, x) [m], 0.2 to 0.44 of it away; not convex."""
        number = np.arange(corners)
        angle = 2 * np.pi * (number + 0.7 * site_noise.uniform(seed, number, "outline angle")) / corners
        reach = 0.27 + 0.17 * site_noise.uniform(seed, number, "outline reach")
        # one deep corner makes the flake no disc: an edge seen from two sides
        reach[int(corners * site_noise.uniform(seed, np.zeros(1, np.int64), "deep corner")[0])] = 0.2
        return cls(extent * (0.5 + reach[:, None] * np.stack([np.sin(angle), np.cos(angle)], axis=-1)))

    def distance(self, positions: np.ndarray) -> np.ndarray:
        """Signed distance (n,) [m] of positions (n, 2), (y, x) [m]: negative inside."""
        nearest, inside = np.full(len(positions), np.inf), np.zeros(len(positions), bool)
        for start, end in zip(self.corners, np.roll(self.corners, -1, axis=0), strict=True):
            edge, offset = end - start, positions - start
            along = np.clip(offset @ edge / (edge @ edge), 0.0, 1.0)
            away = offset - along[:, None] * edge
            nearest = np.minimum(nearest, away[:, 0] ** 2 + away[:, 1] ** 2)
            # a ray towards +x crosses this edge: even-odd rule
            crosses = (start[0] > positions[:, 0]) != (end[0] > positions[:, 0])
            with np.errstate(divide="ignore", invalid="ignore"):
                place = start[1] + edge[1] * (offset[:, 0] / edge[0])
            inside ^= crosses & (positions[:, 1] < place)
        return np.where(inside, -1.0, 1.0) * np.sqrt(nearest)
