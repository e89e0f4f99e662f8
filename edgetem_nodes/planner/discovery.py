"""Was anything found? A test that is stated before the experiment begins, and its verdict after the end."""

from __future__ import annotations

import numpy as np
from scipy.special import ndtr

from edgetem_nodes.planner.parameters import Discovery


def above(values: np.ndarray, standard_errors: np.ndarray, level: float, confidence: float) -> np.ndarray:
    """Which measurements are above a level, with one confidence for all of them together: (measurements,) bool.

    One-sided test of each against its own standard error, Holm's step-down correction: Holm, Scand. J. Stat. 6, 65 (1979).
    The chance that any position at all is wrongly called above the level is at most 1 - confidence. The verdict rests on
    measured values alone, not on the model. A value without a standard error cannot be tested, and is not above.
    """
    known = np.isfinite(standard_errors) & (standard_errors > 0)
    chance = np.ones(len(values))
    with np.errstate(over="ignore"):  # a vanishing error makes the quotient infinite, and the chance 0 or 1
        chance[known] = ndtr(-(values[known] - level) / standard_errors[known])
    order = np.argsort(chance, kind="stable")
    limits = (1.0 - confidence) / np.arange(len(values), 0, -1)
    passed = np.logical_and.accumulate(chance[order] <= limits)
    result = np.zeros(len(values), bool)
    result[order] = passed
    return result


def of_positions(candidates: np.ndarray, values: np.ndarray, standard_errors: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Value and standard error of each position, readings of the same one averaged by their precision.

    Readings without a standard error are left out where the position has others.
    """
    known = np.isfinite(standard_errors) & (standard_errors > 0)
    _, which = np.unique(candidates, return_inverse=True)
    weights = np.where(known, 1.0 / np.where(known, standard_errors, 1.0) ** 2, 0.0)
    precision, plain = np.bincount(which, weights), np.bincount(which, values) / np.bincount(which)
    tested = precision > 0
    safe = np.where(tested, precision, 1.0)
    return np.where(tested, np.bincount(which, weights * values) / safe, plain), np.where(tested, safe**-0.5, np.nan)


def verdict(discovery: Discovery, candidates: np.ndarray, values: np.ndarray, standard_errors: np.ndarray) -> str:
    """A sentence for people; empty where no test was asked for.

    Parameters
    ----------
    candidates : (measurements,) position of each, by index. values, standard_errors : (measurements,) [scalar], valid ones.
    """
    if discovery.confidence <= 0:
        return ""
    if not len(values):
        return "no discovery: nothing was measured"
    values, standard_errors = of_positions(candidates, values, standard_errors)
    found = int(above(values, standard_errors, discovery.level, discovery.confidence).sum())
    largest = int(np.argmax(values))
    extent = (f"{found} of {len(values)} measured positions are above {discovery.level:.6g} with {discovery.confidence:.4g} "
              f"confidence for all together, {discovery.positions} asked for; the largest is {values[largest]:.6g} +- "
              f"{standard_errors[largest]:.2g}")
    return ("discovery: " if found >= discovery.positions else "no discovery: ") + extent
