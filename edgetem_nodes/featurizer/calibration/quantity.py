"""A calibrated quantity with its uncertainty and where it came from, and its comparison with what was stated."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

MEASURED, STATED, UNDETERMINED = "measured", "stated", "not determined"
_SHOWN = {"rad": (1e3, "mrad"), "m": (1e12, "pm"), "pixel/m": (1e-9, "pixel/nm")}
"""Units in which people read SI values: factor and name."""
_AGREES, _DISAGREES = 2.0, 4.0
"""Standard errors up to which two values agree, and beyond which they do not."""


@dataclass(frozen=True)
class Quantity:
    """A number or an array of numbers, how well it is known, and from where.

    Attributes
    ----------
    name : for people.
    value : float, bool or array; NaN where not determined.
    standard_error : of the same shape and unit; NaN: not known (a stated value without an error).
    unit : SI or "pixel", "" for numbers, "deg" for the rotation of the scan.
    source : `MEASURED`, `STATED` or `UNDETERMINED`.
    note : how it was measured, or why it was not determined.
    """

    name: str
    value: float | bool | np.ndarray
    standard_error: float | np.ndarray
    unit: str
    source: str
    note: str = ""

    @classmethod
    def undetermined(cls, name: str, unit: str, reason: str) -> Quantity:
        """A quantity that the data do not tell, and why."""
        return cls(name, math.nan, math.nan, unit, UNDETERMINED, reason)

    @property
    def determined(self) -> bool:
        """Whether there is a value."""
        return self.source != UNDETERMINED

    def line(self) -> str:
        """One line for people."""
        if not self.determined:
            return f"{self.name}: not determined: {self.note}"
        return f"{self.name}: {self.number()}, {self.source}" + (f" ({self.note})" if self.note else "")

    def number(self) -> str:
        """Value, standard error and unit, for people."""
        if isinstance(self.value, bool):
            return "yes" if self.value else "no"
        factor, unit = _SHOWN.get(self.unit, (1.0, self.unit))
        values = np.atleast_1d(np.asarray(self.value, float) * factor).ravel()
        errors = np.broadcast_to(np.asarray(self.standard_error, float) * factor, np.shape(self.value)).ravel()
        shown = ", ".join(_shown(value, error) for value, error in zip(values, errors, strict=True))
        shown = f"({shown})" if len(values) > 1 else shown
        return f"{shown}{' ' + unit if unit else ''}"


def _shown(value: float, error: float) -> str:
    """Value and error, to two digits of the error."""
    if not (math.isfinite(error) and error > 0):
        return f"{value:.6g}"
    digits = max(0, 1 - math.floor(math.log10(error)))
    if digits > 9 or abs(value) >= 1e9:
        return f"{value:.6g} +- {error:.2g}"
    return f"{value:.{digits}f} +- {error:.{digits}f}"


@dataclass(frozen=True)
class Comparison:
    """A measured quantity beside a stated one.

    Attributes
    ----------
    measured, stated : the two.
    difference : measured less stated, in their unit and shape; angles [deg] modulo 360.
    standard_errors : the largest difference over its standard error; NaN where neither has one.
    """

    measured: Quantity
    stated: Quantity
    difference: float | np.ndarray
    standard_errors: float

    @property
    def agrees(self) -> bool:
        """Whether the two differ by at most two standard errors."""
        return self.standard_errors <= _AGREES

    def line(self) -> str:
        """One line for people."""
        if not math.isfinite(self.standard_errors):
            return f"{self.measured.name}: cannot be compared: {self.measured.note or 'no standard error is known'}"
        verdict = "agrees" if self.agrees else "DIFFERS" if self.standard_errors > _DISAGREES else "differs slightly"
        relative = ""
        if np.ndim(self.difference) == 0 and self.stated.value and self.stated.unit != "deg":
            relative = f", {100 * self.difference / self.stated.value:+.2f} %"
        return (f"{self.measured.name} {verdict}: measured {self.measured.number()}, stated {self.stated.number()}, "
                f"{self.standard_errors:.1f} standard errors{relative}")


def compare(measured: Quantity, stated: Quantity | float | np.ndarray, standard_error: float = math.nan) -> Comparison:
    """Difference of a measured quantity from a stated one, in standard errors.

    Parameters
    ----------
    stated : in the unit of the measured one; a number, an array of its shape, or a Quantity.
    standard_error : of the stated value, if it is a bare number and known; added in quadrature.

    Raises
    ------
    ValueError : the units or shapes differ.
    """
    if not isinstance(stated, Quantity):
        stated = Quantity(measured.name, stated, standard_error, measured.unit, STATED)
    if stated.unit != measured.unit:
        raise ValueError(f"{measured.name} [{measured.unit}] cannot be compared with {stated.name} [{stated.unit}]: "
                         "convert one")
    if measured.determined and np.shape(measured.value) != np.shape(stated.value):
        raise ValueError(f"{measured.name} of shape {np.shape(measured.value)} cannot be compared with "
                         f"{np.shape(stated.value)}")
    difference = np.asarray(measured.value, float) - np.asarray(stated.value, float)
    if measured.unit == "deg":
        difference = (difference + 180) % 360 - 180
    error = np.hypot(np.asarray(measured.standard_error, float), np.nan_to_num(np.asarray(stated.standard_error, float)))
    with np.errstate(divide="ignore", invalid="ignore"):
        away = np.abs(difference) / error
    largest = float(np.max(away)) if np.all(np.isfinite(error)) and np.all(error > 0) else math.nan
    return Comparison(measured, stated, difference[()], largest)
