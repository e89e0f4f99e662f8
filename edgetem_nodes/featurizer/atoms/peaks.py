"""Local maxima of a map of columns, and the scale at which an image is looked at."""

from __future__ import annotations

import numpy as np
from scipy.ndimage import maximum_filter

THRESHOLD = 0.25
"""Height of the map above which a maximum is a column; of a column that is surely there it is near 1."""
NEIGHBOURHOOD = 5
"""Edge of the square in which a maximum is the only one [pixel]."""


def local_maxima(heat: np.ndarray, threshold: float = THRESHOLD) -> tuple[np.ndarray, np.ndarray]:
    """Places (n, 2), (y, x) [pixel], refined by a parabola, and heights (n,) of maxima above a threshold."""
    peak = (heat == maximum_filter(heat, NEIGHBOURHOOD, mode="nearest")) & (heat > threshold)
    y, x = np.nonzero(peak)
    heights = heat[y, x].astype(float)
    padded = np.pad(np.asarray(heat, float), 1, mode="edge")
    places = np.stack([y, x], axis=1).astype(float)
    for axis in (0, 1):
        dy, dx = (1, 0) if axis == 0 else (0, 1)
        before, after = padded[y + 1 - dy, x + 1 - dx], padded[y + 1 + dy, x + 1 + dx]
        curvature = before - 2 * heights + after
        step = 0.5 * (before - after) / np.minimum(curvature, -1e-12)
        places[:, axis] += np.where(curvature < 0, np.clip(step, -0.5, 0.5), 0)
    return places, heights
