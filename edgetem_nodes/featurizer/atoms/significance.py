"""Whether columns stand out of what noise alone gives, with so many places in an image to look at."""

from __future__ import annotations

import numpy as np

from edgetem_nodes.featurizer.atoms.species import FALSE_DISCOVERY

NARROWEST = 0.6
"""Width sigma [pixel] below which columns are single noisy pixels: the finest probe on the coarsest pixels has 0.78."""


def maxima_of_noise(heights: np.ndarray, sigma: float, shape: tuple[int, int]) -> np.ndarray:
    """Expected number (n,) of maxima above heights (n,) [standard errors] where an image is white noise.

    A column's fitted amplitude is then the noise smoothed with the column's Gaussian: a random field whose correlation is a
    Gaussian of width sqrt(2) sigma. High above its mean it has area / (2 sigma^2) u exp(-u^2 / 2) / (2 pi)^(3/2) maxima
    above u (R. J. Adler, The Geometry of Random Fields, 1981, theorem 6.9.3).

    Parameters
    ----------
    sigma : of a column [pixel]. shape : of the image [pixel].
    """
    height = np.maximum(np.nan_to_num(np.asarray(heights, float), nan=0.0), 1.0)
    places = shape[0] * shape[1] / (2 * max(sigma, NARROWEST) ** 2)
    return places * height * np.exp(-0.5 * height**2) / (2 * np.pi) ** 1.5


def standing_out(heights: np.ndarray, sigma: float, shape: tuple[int, int], rate: float = FALSE_DISCOVERY) -> np.ndarray:
    """(n,) bool, the most columns of which noise alone is expected to give no more than the part `rate`.

    Parameters
    ----------
    heights : (n,) amplitudes over their standard errors. sigma : of a column [pixel]. shape : of the image [pixel].
    """
    order = np.argsort(-np.nan_to_num(heights, nan=0.0), kind="stable")
    false = maxima_of_noise(heights[order], sigma, shape) / np.arange(1, len(order) + 1)
    enough = np.flatnonzero(false <= rate)
    result = np.zeros(len(order), bool)
    result[order[:enough[-1] + 1 if len(enough) else 0]] = True
    return result
