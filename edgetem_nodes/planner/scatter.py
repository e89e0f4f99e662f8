"""Real scatter of an energy from footprint to footprint: it grows with the energy itself.

The energy of single defects in a footprint is a compound Poisson sum: its variance is its mean times a factor, the energy of a
defect over the footprint's area where all defects are alike (Daley and Vere-Jones, An Introduction to the Theory of Point
Processes, 2nd ed., 2003, section 2.4). Taken as equal everywhere, as the surrogate's learned noise is, it would be too small
where there are many defects and too large where there are none. The reading's own error cannot tell of it: a footprint
without a defect would call itself certain that there are none around. Knows no ROS, draws nothing.
"""

from __future__ import annotations

import numpy as np
from scipy.optimize import nnls

LEAST = 0.1
"""Expected energy that counts at least, in units of the readings' root mean square: no place is certain to scatter less."""
FEWEST = 15
"""Readings below which nothing is said of their scatter."""
ROUNDS = 2
"""Times that the factor is found and the readings are learned again with it."""


def scatter(expected: np.ndarray, residuals: np.ndarray, errors: np.ndarray) -> tuple[np.ndarray, float]:
    """Variance of each reading about what is expected of it that grows with that, and the factor.

    The squares of leave-one-out residuals, less the readings' own variances, are made of a constant and of a part that is
    proportional to what is expected, neither negative: weighted least squares, since the squares' own scatter grows alike.

    Parameters
    ----------
    expected : (readings,) by all other readings [scalar]. residuals : (readings,) reading less that.
    errors : (readings,) standard errors [scalar]; 0 or not finite: not known.

    Returns
    -------
    (readings,) [scalar squared] and the factor [scalar]; zeros where nothing grows.
    """
    readings = expected + residuals
    size = float(np.sqrt(np.mean(np.square(readings))))
    if len(readings) < FEWEST or not size > 0:
        return np.zeros(len(readings)), 0.0
    mean = np.maximum(expected, LEAST * size)
    squares = np.maximum(np.square(residuals) - np.square(np.nan_to_num(errors)), 0.0)
    weight = 1.0 / (mean + mean.mean())
    factor = float(nnls(np.stack([weight, weight * mean], axis=1) / size, weight * squares / size)[0][1])
    return factor * mean, factor
