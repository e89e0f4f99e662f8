"""What sites of an energy map saw: which part of the specimen, and where in it single defects lie.

A reading is of a periodic cell about its site. Its energy is that of the strain, which varies smoothly, and that of single
defects, each at a place. More of the specimen may have been seen than went into the cell, with defects of which it is known
where they are, but not what they cost. Knows no ROS, draws nothing.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np

LEAST_SMOOTH = 0.1
"""Of a reading's standard error, that the smooth part has at least."""


def _none(*shape: int) -> np.ndarray:
    return np.zeros((0, *shape))


@dataclass(frozen=True)
class Sight:
    """What one site saw. A content is a scalar times an area: of an energy density in eV/nm^2, eV m^2/nm^2.

    Attributes
    ----------
    cell : (2, 2), rows (y, x) [m]: the site saw what is nearer to it than to its images by these vectors, as a rule a square.
    places : (defects, 2), (y, x) from the site [m]. probabilities : (defects,) that each is there.
    contents, variances : (defects,) what each is expected to hold [scalar m^2], and its variance; NaN: not known.
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
        """(n,) bool: whether places (n, 2), (y, x) from the site [m], are in what was seen."""
        images = np.array([self.cell[0], self.cell[1], self.cell[0] + self.cell[1], self.cell[0] - self.cell[1]])
        return (np.abs(away @ images.T) <= np.square(images).sum(axis=1) / 2).all(axis=1)

    def completed(self, content: float, square: float) -> Sight:
        """With what is not known of its defects' contents taken for the usual one.

        Parameters
        ----------
        content, square : mean of what a defect holds that is there, and of its square [scalar m^2, squared].
        """
        unknown = np.isnan(self.contents)
        usual = self.probabilities * content
        spread = np.maximum(self.probabilities * square - usual**2, 0.0)
        return replace(self, contents=np.where(unknown, usual, self.contents),
                       variances=np.where(unknown, spread, self.variances))

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


def sight_of(seen: float, defects: tuple[np.ndarray, np.ndarray, np.ndarray], area: float, density: float, error: float,
             defect_density: float) -> Sight | None:
    """What a site saw, in a square about it, with a reading of a cell that may be smaller; None where that is not known.

    Parameters
    ----------
    seen : area of the square [m^2]; 0: nothing was seen of single defects.
    defects : (n, 2), (y, x) from the site [m], probabilities (n,), and whether (n,) each is in the cell.
    area : of the cell [m^2]. density, error : the reading and its standard error [scalar].
    defect_density : what of the reading is the defects' [scalar]. Those in the cell share it by their probabilities; what the
        others hold is not known.
    """
    if not (seen > 0 and area > 0 and np.isfinite([density, defect_density]).all()):
        return None
    square, error = np.sqrt(seen) * np.eye(2), error if np.isfinite(error) and error > 0 else 0.0
    places, likely, counted = np.asarray(defects[0], float), np.asarray(defects[1], float), np.asarray(defects[2], bool)
    share = likely[counted].sum()
    if not share > 0:
        unknown = np.full(len(likely), np.nan)
        return Sight(square, density, error, places, likely, unknown, unknown)
    each = np.where(counted, defect_density * area / share, np.nan)
    variances = likely * (1 - likely) * each**2
    smooth = max(error**2 - np.nansum(variances) / area**2, (LEAST_SMOOTH * error) ** 2)
    return Sight(square, density - defect_density, float(np.sqrt(smooth)), places, likely, likely * each, variances)


def costs_known(sights: Sequence[Sight | None]) -> bool:
    """Whether it is known of any defect what it holds, or none was seen."""
    contents = [one.contents[one.probabilities > 0] for one in sights if one is not None]
    return not any(map(len, contents)) or any(np.isfinite(one).any() for one in contents)


def to_json(sights: Sequence[Sight | None]) -> str:
    """For a checkpoint."""
    return json.dumps([None if one is None else one.record() for one in sights])


def of_json(text: str) -> tuple[Sight | None, ...]:
    """What `to_json` wrote."""
    return tuple(None if one is None else Sight.of_record(one) for one in json.loads(text))
