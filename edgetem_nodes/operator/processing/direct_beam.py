"""The direct beam among Bragg disks of any strength: radius of the disks, their lattice, and which of them it is."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.ndimage import gaussian_filter

from edgetem_nodes.featurizer.bragg.correlation import BraggDetector
from edgetem_nodes.featurizer.bragg.identification import identify
from edgetem_nodes.featurizer.bragg.template import Template
from edgetem_nodes.featurizer.calibration.disk import Disk, fit_disk
from edgetem_nodes.featurizer.features import CountingNoise

FEWEST = 5
"""Disks on a lattice that make a pattern one of Bragg disks: a single disk's speckle makes no lattice of so many."""
APART = 1.9
"""Shortest lattice vector over the radius: below, disks overlap and no ring around one shows the background."""
DISTINCT = 3.0
"""Strength over the next one's, from which the strongest disk is the direct beam."""
_TOLERANCE = 1.5
_AMBIGUOUS = 0.9


@dataclass(frozen=True)
class BraggPattern:
    """What a summed pattern of Bragg disks shows.

    Attributes
    ----------
    disk : the direct beam.
    basis : (2, 2) lattice vectors as columns, (y, x) [pixel].
    spots : disks that were found.
    doubt : why another disk may be the direct beam; empty where there is none.
    """

    disk: Disk
    basis: np.ndarray
    spots: int
    doubt: str


def any_disk(total: np.ndarray, usable: np.ndarray, noise: CountingNoise, frames: int) -> Disk:
    """A disk of the pattern: of all of it, or else of ever smaller windows about its brightest place.

    Raises
    ------
    ValueError : there is none, as `fit_disk` says of the whole pattern.
    """
    try:
        return fit_disk(total, usable, noise, frames)
    except ValueError as error:
        problem = error
    brightest = np.unravel_index(gaussian_filter(np.where(usable, total, 0.0), 1.0).argmax(), total.shape)
    y, x = np.indices(total.shape)
    distance = np.hypot(y - brightest[0], x - brightest[1])
    for part in (0.25, 0.18, 0.125, 0.09):
        try:
            disk = fit_disk(total, usable & (distance < part * min(total.shape)), noise, frames)
        except ValueError:
            continue
        if disk.elliptical:
            return disk
    raise problem


def find_bragg_pattern(total: np.ndarray, usable: np.ndarray, noise: CountingNoise, frames: int) -> BraggPattern | None:
    """The direct beam and the lattice of a summed pattern; None where it is not one of Bragg disks apart from each other.

    The direct beam is the strongest disk where it is `DISTINCT` times the next, else that about which the pattern is most
    nearly symmetric: the weight of pairs of disks opposite each other (Friedel's law, which absorption and tilt only weaken).

    Parameters
    ----------
    total : (rows, columns) counts of `frames` frames. usable : (rows, columns) bool.

    Raises
    ------
    ValueError : there is no disk of any kind.
    """
    first = any_disk(total, usable, noise, frames)
    values = np.where(usable, total, 0.0)
    if first.radius < 1.2:
        return None
    detector = BraggDetector(Template.disk(first.radius, min(max(first.blur, 0.3), 0.6 * first.radius)), mask=usable,
                             noise=noise)
    found = detector(values[None])
    spots, heights = found.places[0, :found.count[0]], found.significance[0, :found.count[0]]
    strong = heights > 0.02 * heights.max(initial=0.0)
    spots, heights = spots[strong], heights[strong]
    tolerance = max(_TOLERANCE, 0.3 * first.radius)
    try:
        basis = identify(spots, np.sqrt(heights), tolerance, 1.6 * first.radius)
    except ValueError:
        return None
    near = spots[heights.argmax()]
    rest = (spots - near) @ np.linalg.inv(basis).T
    on = np.hypot(*((rest - np.rint(rest)) @ basis.T).T) < 2 * tolerance
    spacing = float(np.linalg.norm(basis, axis=0).min())
    if on.sum() < FEWEST or spacing < APART * first.radius:
        return None
    spots, strengths = spots[on], _strengths(values, usable, spots[on], first.radius, spacing)
    centre, doubt = _direct(spots, strengths, tolerance)
    y, x = np.indices(total.shape)
    around = usable & (np.hypot(y - spots[centre][0], x - spots[centre][1]) < max(0.5 * spacing, first.radius + 2))
    try:
        disk = fit_disk(total, around, noise, frames)
    except ValueError:
        return None
    if np.hypot(*(np.array(disk.center) - spots[centre])) > 0.5 * first.radius + 1:
        return None
    return BraggPattern(disk, basis, len(spots), doubt)


def _strengths(values: np.ndarray, usable: np.ndarray, spots: np.ndarray, radius: float, spacing: float) -> np.ndarray:
    """Counts a pixel (spots,) inside disks less those half-way to the next disk."""
    y, x = np.indices(values.shape)
    result = []
    for spot in spots:
        distance = np.hypot(y - spot[0], x - spot[1])
        inside = usable & (distance < max(0.8 * radius, 1.0))
        around = usable & (distance > radius + 1) & (distance < max(0.6 * spacing, radius + 3))
        below = np.quantile(values[around], 0.25) if around.any() else 0.0
        result.append(values[inside].mean() - below if inside.any() else 0.0)
    return np.maximum(np.array(result), 0.0)


def _direct(spots: np.ndarray, strengths: np.ndarray, tolerance: float) -> tuple[int, str]:
    """Which spot is the direct beam, and why it may be another."""
    order = np.argsort(strengths)[::-1]
    if strengths[order[0]] > DISTINCT * strengths[order[1]]:
        return int(order[0]), ""
    scores = []
    for spot in spots:
        opposite = 2 * spot - spots
        distance = np.hypot(*(opposite[:, None] - spots[None]).transpose(2, 0, 1))
        partner = distance.argmin(axis=1)
        paired = distance[np.arange(len(spots)), partner] < 2 * tolerance
        scores.append(float((np.minimum(strengths, strengths[partner]) * paired).sum()))
    ranked = np.argsort(scores)[::-1]
    best = int(ranked[0])
    if len(ranked) > 1 and scores[ranked[1]] > _AMBIGUOUS * scores[best]:
        other = spots[ranked[1]]
        return best, (f"the disk at ({other[0]:.1f}, {other[1]:.1f}) is nearly as much the middle of the pattern: state "
                      "--center if it is the direct beam")
    return best, ""
