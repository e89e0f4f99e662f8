"""Patterns of more than one crystal, and of powders and films: drawn, as examples of what has no single lattice."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from edgetem_nodes.featurizer.cbed.disk_drawing import draw_radial
from edgetem_nodes.featurizer.cbed.generator import Conditions, NanobeamBatch, NanobeamGenerator, rotation
from edgetem_nodes.physics.electrons import wavelength

_GRAINS = 0.6
"""Part that is two grains; the rest are rings."""
_TURN = np.radians((5.0, 25.0))
"""Between two grains of one material."""
_WEAKER = (0.15, 0.85)
"""Part of the beam on the second grain, or in rings."""
_RINGS = ((3, 4, 8, 11, 12, 16, 19), (2, 4, 6, 8, 10, 12, 14), (1, 3, 4, 7, 9, 12, 13), (3, 8, 11, 16, 19, 24, 27))
"""Squared radii of rings, up to a factor: face- and body-centred, hexagonal in the plane, diamond (extinctions of each)."""
_FIRST = (2.5e9, 6e9)
"""Radius of the first ring [1/m]."""
_POINTS = 400


def draw_several(generator: NanobeamGenerator, count: int, pixels: int, rng: np.random.Generator) -> NanobeamBatch:
    """`count` patterns; of the truth in the batch only the beam, the camera and the centre are true."""
    conditions = generator.conditions(count, pixels, rng)
    first = generator.patterns(conditions, pixels, None)
    second = generator.patterns(_other(conditions, rng), pixels, None).expected
    for row in np.flatnonzero(rng.random(count) >= _GRAINS):
        first.expected[row] = second[row] = _rings(conditions, row, first.centre[row], pixels, rng)
    share = rng.uniform(*_WEAKER, count).astype(np.float32)[:, None, None]
    expected = (1 - share) * first.expected + share * second
    return replace(first, expected=expected, patterns=rng.poisson(expected).astype(np.float32))


def _other(conditions: Conditions, rng: np.random.Generator) -> Conditions:
    """A second grain of the same material under the same beam, turned and tilted otherwise."""
    count = len(conditions.material)
    turn = rng.uniform(*_TURN, count) * rng.choice([-1.0, 1.0], count)
    azimuth, size = rng.uniform(0, 2 * np.pi, count), 15e-3 * rng.random(count)
    return replace(conditions, deformation=rotation(turn) @ conditions.deformation,
                   tilt=size[:, None] * np.stack([np.sin(azimuth), np.cos(azimuth)], axis=1))


def _rings(conditions: Conditions, row: int, centre: np.ndarray, pixels: int, rng: np.random.Generator) -> np.ndarray:
    """Mean counts (pixels, pixels) float32 of a direct beam with rings about it, sharp ones or an amorphous film's."""
    angle, pixel_angle = float(conditions.semi_convergence_angle[row]), float(conditions.pixel_angle[row])
    order = np.array(_RINGS[rng.integers(len(_RINGS))], float)
    radii = rng.uniform(*_FIRST) * wavelength(float(conditions.high_tension[row])) * np.sqrt(order / order[0])
    step = pixels * pixel_angle / _POINTS
    at = np.arange(_POINTS + 1) * step
    width = angle * (1.0 if rng.random() < 0.6 else rng.uniform(1.5, 4.0))
    strength = np.exp(rng.normal(0.0, 0.5, len(radii))) * np.exp(-np.arange(len(radii)) * rng.uniform(0.1, 0.6))
    edge = conditions.edge_blur[row] * pixel_angle
    direct = 0.5 * (1 - np.tanh((at - angle) / edge))
    halo = sum(one * np.sqrt(np.clip(1 - ((at - radius) / width)**2, 0, 1)) / radius
               for one, radius in zip(strength, radii, strict=True))
    share = rng.uniform(0.2, 0.9)
    profile = (1 - share) * direct / np.trapezoid(at * direct, at) + share * halo / max(np.trapezoid(at * halo, at), 1e-12)
    image = np.zeros((pixels, pixels), np.float32)
    draw_radial(image, profile, step, np.asarray(centre, float), pixel_angle * conditions.distortion[row], np.zeros(2))
    return image * np.float32(conditions.electrons[row] / max(image.sum(), 1e-12))
