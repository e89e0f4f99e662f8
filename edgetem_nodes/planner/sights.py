"""What sites of an energy map saw: which part of the specimen, and where in it single defects lie.

A reading is of a periodic cell about its site. Its energy is that of the strain, which varies smoothly, and that of single
defects, each at a place. Knows no ROS, draws nothing.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

_SHIFTS = np.array([[i, j] for i in (-1, 0, 1) for j in (-1, 0, 1)])
SAME_PLACE = 0.5e-10
"""[m] within which two defects are at one place."""
LEAST_SMOOTH = 0.1
"""Of a reading's standard error, that the smooth part has at least."""


def _none(*shape: int) -> np.ndarray:
    return np.zeros((0, *shape))


@dataclass(frozen=True)
class Sight:
    """What one site saw. A content is a scalar times an area: of an energy density in eV/nm^2, eV m^2/nm^2.

    Attributes
    ----------
    cell : (2, 2), rows (y, x) [m]: the site saw what is nearer to it than to its images by these vectors.
    places : (defects, 2), (y, x) from the site [m]. probabilities : (defects,) that each is there.
    contents, variances : (defects,) what each is expected to hold [scalar m^2], and its variance.
    smooth, error : the scalar without the defects, and its standard error [scalar].
    """

    cell: np.ndarray
    smooth: float
    error: float
    places: np.ndarray = field(default_factory=lambda: _none(2))
    probabilities: np.ndarray = field(default_factory=_none)
    contents: np.ndarray = field(default_factory=_none)
    variances: np.ndarray = field(default_factory=_none)

    @property
    def area(self) -> float:
        """[m^2] that was seen."""
        return abs(float(np.linalg.det(self.cell)))

    def sees(self, away: np.ndarray) -> np.ndarray:
        """(n,) bool: whether places (n, 2), (y, x) from the site [m], are in the cell about it."""
        images = np.array([self.cell[0], self.cell[1], self.cell[0] + self.cell[1], self.cell[0] - self.cell[1]])
        return (np.abs(away @ images.T) <= np.square(images).sum(axis=1) / 2).all(axis=1)

    def record(self) -> list:
        """For a checkpoint."""
        return [one.tolist() if isinstance(one, np.ndarray) else one for one in
                (self.cell, self.smooth, self.error, self.places, self.probabilities, self.contents, self.variances)]

    @classmethod
    def of_record(cls, record: Sequence) -> Sight:
        """What `record` wrote."""
        cell, smooth, error, places, *defects = record
        return cls(np.array(cell, float).reshape(2, 2), float(smooth), float(error), np.array(places, float).reshape(-1, 2),
                   *(np.array(one, float) for one in defects))


def seen_in_cell(cell: np.ndarray, place: np.ndarray, defects: tuple[np.ndarray, np.ndarray], density: float, error: float,
                 defect_density: float, seen: float = 0.0) -> Sight | None:
    """What a site saw, from the cell that its reading is of; None where that is not known.

    Parameters
    ----------
    cell : (2, 2), rows (x, y) [m]. place : (2,), (x, y) of the site in it [m]; empty: not known.
    defects : (n, 2), (x, y) in the cell [m], wherever it begins, and probabilities (n,).
    density, error : the reading and its standard error [scalar]; defect_density : what of it is the defects' [scalar]. It is
        shared among them by their probabilities.
    seen : area that was seen [m^2], if less than the cell's: the rest of it is taken for perfect; 0: not known.
    """
    cell, place = np.asarray(cell, float).reshape(2, 2), np.asarray(place, float).ravel()
    area = abs(float(np.linalg.det(cell)))
    if place.shape != (2,) or not area > 0 or not np.isfinite([density, defect_density]).all():
        return None
    error = error if np.isfinite(error) and error > 0 else 0.0
    listed, looked = np.asarray(defects[1], float), cell[:, ::-1] * min(1.0, np.sqrt(seen / area) if seen > 0 else 1.0)
    if not len(listed) or not listed.sum() > 0:
        return Sight(looked, density, error)
    away = np.asarray(defects[0], float).reshape(-1, 2) - place
    away = away - np.rint(away @ np.linalg.inv(cell)) @ cell
    images = away[:, None] + _SHIFTS @ cell
    nearest = np.square(images).sum(axis=2).argmin(axis=1)
    each = defect_density * area / listed.sum()
    # of what may be at one place only one thing is
    same = np.linalg.norm(away[:, None] - away[None], axis=2) < SAME_PLACE
    variances = listed * np.maximum(1 - same @ listed, 0.0) * each**2
    smooth = max(error**2 - variances.sum() / area**2, (LEAST_SMOOTH * error) ** 2)
    return Sight(looked, density - defect_density, float(np.sqrt(smooth)), images[np.arange(len(images)), nearest][:, ::-1],
                 listed, listed * each, variances)


def to_json(sights: Sequence[Sight | None]) -> str:
    """For a checkpoint."""
    return json.dumps([None if one is None else one.record() for one in sights])


def of_json(text: str) -> tuple[Sight | None, ...]:
    """What `to_json` wrote."""
    return tuple(None if one is None else Sight.of_record(one) for one in json.loads(text))
