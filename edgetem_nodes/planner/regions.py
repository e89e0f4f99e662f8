"""Regions that the operator names: where the probe must not go, and where it is to look next."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass

import numpy as np

from edgetem_nodes.physics.scan import ScanField

FORBID, ADD = "forbid", "add"
KINDS = (FORBID, ADD)


@dataclass(frozen=True)
class Region:
    """A polygon on the specimen, by name.

    Parameters
    ----------
    name : not empty; a later region of the same name takes its place.
    kind : "forbid" keeps the probe out; "add" lets it in, also where an earlier region forbade it or the experiment had
        left it out, and has the next batch measured there.
    vertices : (vertices, 2) (y, x) [m] in the frame "scan", three at least; the polygon closes itself.

    Raises
    ------
    ValueError : no name, another kind, fewer than three vertices, or one that is not finite.
    """

    name: str
    kind: str
    vertices: tuple[tuple[float, float], ...]

    def __post_init__(self) -> None:
        if not self.name:
            raise ValueError("a region has no name: one is needed to take it back later")
        if self.kind not in KINDS:
            raise ValueError(f"region {self.name!r} is of kind {self.kind!r}: take {' or '.join(KINDS)}")
        try:
            corners = tuple((float(y), float(x)) for y, x in self.vertices)
        except (TypeError, ValueError):
            raise ValueError(f"region {self.name!r}: {self.vertices!r} is not a list of vertices; each is a pair of numbers, "
                             "(y, x) [m]") from None
        if len(corners) < 3:
            raise ValueError(f"region {self.name!r} has {len(corners)} vertices: a polygon needs three")
        if not all(math.isfinite(value) for corner in corners for value in corner):
            raise ValueError(f"region {self.name!r} has a vertex that is not finite")
        object.__setattr__(self, "vertices", corners)

    def contains(self, positions: np.ndarray) -> np.ndarray:
        """Whether each position (count, 2), (y, x) [m], lies inside, by the even-odd rule: (count,) bool."""
        y, x = np.asarray(positions, float).reshape(-1, 2).T
        inside = np.zeros(len(y), bool)
        for (y0, x0), (y1, x1) in zip(self.vertices, (*self.vertices[1:], self.vertices[0]), strict=True):
            level = np.flatnonzero((y0 > y) != (y1 > y))
            inside[level] ^= x[level] < x0 + (y[level] - y0) / (y1 - y0) * (x1 - x0)
        return inside

    def record(self) -> dict:
        """What JSON keeps of it; `Region(**record)` is it again."""
        return asdict(self)


def allowed_by(regions: tuple[Region, ...], allowed: np.ndarray, field: ScanField) -> np.ndarray:
    """Where the probe may go (candidates,) bool: `allowed` after every region in turn, so that the latest one wins."""
    result, positions = allowed.copy(), field.positions()
    for region in regions:
        result[region.contains(positions)] = region.kind == ADD
    return result
