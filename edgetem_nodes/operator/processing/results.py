"""What a feature makes of a scan: maps, pictures on axes of their own, curves; and where the numbers came from."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from edgetem_nodes.physics.scan import Axis


class ProcessingError(ValueError):
    """Nothing can be computed; the message says why and what to do."""


class FeatureRefused(ValueError):
    """One feature cannot be computed from this file; the message says why. The others go on."""


@dataclass
class ScanMap:
    """Values at the places of a scan.

    Attributes
    ----------
    values : (places,) or, for a map of several quantities, (places, quantities) float64; NaN where there is no value.
    unit : SI, "" for numbers without one.
    errors : standard errors in the shape of the values; None: not estimated.
    labels : names of the quantities; a vector has ("y", "x").
    style : how it is drawn: "sequential", "diverging" (about 0), "angle", "vector" (y, x), "labels" (whole numbers),
        "rgb" (three quantities, 0 to 1), "none" (not at all).
    title : for people.
    reference : what the colours of a diverging map are centred on.
    """

    name: str
    values: np.ndarray
    unit: str = ""
    errors: np.ndarray | None = None
    labels: tuple[str, ...] = ()
    style: str = "sequential"
    title: str = ""
    reference: float = 0.0


@dataclass
class Picture:
    """An image on axes of its own: a pattern, or an object on a finer grid than the scan's.

    Attributes
    ----------
    values : (rows, columns).
    axes : of rows and columns, SI.
    logarithmic : whether it spans decades.
    """

    name: str
    values: np.ndarray
    axes: tuple[Axis, Axis]
    unit: str = ""
    title: str = ""
    style: str = "sequential"
    logarithmic: bool = False


@dataclass
class Curve:
    """A spectrum: values (n,) on an axis, with standard errors or None."""

    name: str
    values: np.ndarray
    axis: Axis
    unit: str = ""
    title: str = ""
    errors: np.ndarray | None = None


Result = ScanMap | Picture | Curve


@dataclass(frozen=True)
class Known:
    """A number that was used: `source` is "stated", "file", "measured", "derived" or "assumed"; error 0: not known."""

    value: float
    unit: str
    source: str
    error: float = 0.0


@dataclass
class Failures:
    """Frames that gave no value: why, and where.

    Attributes
    ----------
    codes : (places,) uint8: 0 sound, 1 not in the file (not measured), 2 and on: `reasons` in their order.
    reasons : what was wrong, numbers left out.
    examples : the full sentence of the first frame of each reason, with its place.
    """

    codes: np.ndarray
    reasons: list[str] = field(default_factory=list)
    examples: list[str] = field(default_factory=list)

    @classmethod
    def none_measured(cls, places: int) -> Failures:
        """Before the first frame."""
        return cls(np.ones(places, np.uint8))

    def enter(self, places: np.ndarray, failures: list[str]) -> None:
        """Note what became of the frames at these places; an empty text: sound."""
        codes = np.zeros(len(places), np.uint8)
        for row, failure in enumerate(failures):
            if failure:
                codes[row] = self._code(failure, int(places[row]))
        self.codes[places] = codes

    def _code(self, failure: str, place: int) -> int:
        reason = _without_numbers(failure)
        if reason not in self.reasons:
            if len(self.reasons) == 250:
                reason = self.reasons[-1]
            else:
                self.reasons.append(reason)
                self.examples.append(f"place {place}: {failure}")
        return 2 + self.reasons.index(reason)

    def counts(self) -> dict[str, int]:
        """Frames by reason, "not measured" among them; only reasons that occurred."""
        found = np.bincount(self.codes, minlength=2 + len(self.reasons))
        named = {"not measured": int(found[1])} | {reason: int(found[2 + i]) for i, reason in enumerate(self.reasons)}
        return {reason: count for reason, count in named.items() if count}

    @property
    def sound(self) -> int:
        """Frames without failure."""
        return int(np.count_nonzero(self.codes == 0))


def _without_numbers(text: str) -> str:
    return " ".join("N" if any(c.isdigit() for c in word) else word for word in text.split())
