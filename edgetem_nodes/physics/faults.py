"""Wrong metadata: where commanded, true and sensed value of a control part ways."""

from __future__ import annotations

import difflib
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

KINDS = {"hidden": "the column does something else than commanded; the sensor says what was commanded",
         "unresponsive": "the column does not follow the command; the sensor tells the truth",
         "sensor": "the column does what was commanded; the sensor says something else"}


QUANTITIES = ("high_tension", "probe_current", "semi_convergence_angle", "camera_length", "defocus", "astigmatism",
              "astigmatism_angle", "coma", "coma_angle", "spherical_aberration", "beam_shift_y", "beam_shift_x",
              "magnification", "x", "y", "z", "alpha", "beta", "temperature", "bias")
"""What can be at fault: controls of optics, stage and holder."""
POSITIVE = ("high_tension", "semi_convergence_angle", "camera_length", "magnification")
"""Quantities that a column cannot have at 0 or below; the probe current may be 0."""


@dataclass(frozen=True)
class Fault:
    """What is wrong with one quantity: wrong = factor * commanded + offset, or `held` whatever is commanded.

    Attributes
    ----------
    quantity : one of QUANTITIES, e.g. "camera_length".
    kind : "hidden" (a calibration that is off: camera length 3 % longer than commanded and sensed), "unresponsive" (a lens
        that does not follow), "sensor" (a sensor that is off or stuck).
    factor, offset : of the wrong value; the offset in the quantity's SI unit.
    held : the wrong value itself, in the SI unit; NaN: by factor and offset.
    since : acquisition time [s] at which it begins.

    Raises
    ------
    ValueError : an unknown quantity or kind, values that are not finite, a negative time, a fault that changes nothing, or
        one of the column that leaves nothing positive of what must be.
    """

    quantity: str
    kind: str
    factor: float = 1.0
    offset: float = 0.0
    held: float = math.nan
    since: float = 0.0

    def __post_init__(self) -> None:
        if self.quantity not in QUANTITIES:
            near = difflib.get_close_matches(self.quantity, QUANTITIES, n=1)
            raise ValueError(f"there is no quantity {self.quantity!r} to be at fault"
                             + (f" (did you mean {near[0]!r}?)" if near else f"; there is {', '.join(QUANTITIES)}"))
        if self.kind not in KINDS:
            raise ValueError(f"fault of {self.quantity} has the kind {self.kind!r}; there is {', '.join(KINDS)}")
        if not (math.isfinite(self.factor) and math.isfinite(self.offset)) or math.isinf(self.held):
            raise ValueError(f"fault of {self.quantity}: factor {self.factor}, offset {self.offset} and held {self.held} "
                             "must be finite")
        if not self.since >= 0:
            raise ValueError(f"fault of {self.quantity} begins at {self.since} s: the time must not be negative")
        if math.isnan(self.held) and self.factor == 1.0 and self.offset == 0.0:
            raise ValueError(f"fault of {self.quantity} changes nothing: give it factor, offset or held")
        if self.of_column and (self.factor <= 0 or not math.isnan(self.held)):
            # the most that any positive command can give
            self.check(self.wrong(0.0 if self.offset > 0 else 1.0))

    @property
    def of_column(self) -> bool:
        """Whether the column does something else than commanded."""
        return self.kind != "sensor"

    @property
    def of_sensor(self) -> bool:
        """Whether the sensor says something else than what is so."""
        return self.kind == "sensor"

    def wrong(self, commanded: float) -> float:
        """The wrong value."""
        return self.factor * commanded + self.offset if math.isnan(self.held) else self.held

    def check(self, value: float) -> None:
        """Refuse what the column would have to do, in the quantity's SI unit.

        Raises
        ------
        ValueError : it is not positive, and the quantity must be.
        """
        try:
            check_positive({self.quantity: value})
        except ValueError as error:
            raise ValueError(f"fault of {self.quantity} ({self.kind}, factor {self.factor:g}, offset {self.offset:g}, held "
                             f"{self.held:g}) cannot be: {error}") from None

    @classmethod
    def parse(cls, text: str) -> Fault:
        """Read "camera_length hidden factor=1.03 since=60", as a configuration writes it.

        Raises
        ------
        ValueError : it does not read so; the message says what does.
        """
        words = text.split()
        if len(words) < 3:
            raise ValueError(f"fault {text!r} is not like 'camera_length hidden factor=1.03': quantity, kind "
                             f"({', '.join(KINDS)}), then factor=, offset=, held= or since=")
        values = {}
        for word in words[2:]:
            name, _, number = word.partition("=")
            if name not in ("factor", "offset", "held", "since") or name in values:
                raise ValueError(f"fault {text!r}: {word!r} is not one of factor=, offset=, held=, since=, each once")
            try:
                values[name] = float(number)
            except ValueError:
                raise ValueError(f"fault {text!r}: {number!r} is not a number") from None
        return cls(words[0], words[1], **values)


def check_positive(values: Mapping[str, float]) -> None:
    """Refuse what no column can have, of values by quantity [SI].

    Raises
    ------
    ValueError : one of `POSITIVE` that is not, or a negative probe current; the message names quantity, value and rule.
    """
    for name, value in values.items():
        if name in POSITIVE and not value > 0:
            raise ValueError(f"{name.replace('_', ' ')} {value:g} is not positive")
        if name == "probe_current" and not value >= 0:
            raise ValueError(f"probe current {value:g} A is negative")


def true_values(commanded: Mapping[str, float], faults: Iterable[Fault], elapsed: float) -> dict[str, float]:
    """What the column does for what was commanded, at an acquisition time [s].

    Raises
    ------
    ValueError : a fault makes something of it that no column can have.
    """
    return _applied(commanded, (fault for fault in faults if fault.of_column and elapsed >= fault.since))


def sensed_values(commanded: Mapping[str, float], true: Mapping[str, float], faults: Iterable[Fault],
                  elapsed: float) -> dict[str, float]:
    """What the sensors say, without their noise: the truth, except where a fault hides it or is the sensor's own."""
    active = [fault for fault in faults if elapsed >= fault.since and fault.quantity in commanded]
    said = dict(true)
    for fault in active:
        if fault.kind == "hidden":
            said[fault.quantity] = commanded[fault.quantity]
    return _applied(said, (fault for fault in active if fault.of_sensor))


def _applied(values: Mapping[str, float], faults: Iterable[Fault]) -> dict[str, float]:
    result = dict(values)
    for fault in faults:
        if fault.quantity in result:
            result[fault.quantity] = fault.wrong(result[fault.quantity])
            if fault.of_column:
                fault.check(result[fault.quantity])
    return result
