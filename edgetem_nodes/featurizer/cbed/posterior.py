"""From the mixtures of an ensemble to values, errors, and whether there is one answer at all."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

TYPICAL_THICKNESS = 8e-9
"""[m] of which thicknesses are counted, logarithmically."""
TILT_SCALE = 6.5e-3
"""[rad] by which tilts are divided."""
TWO_ANSWERS = 2.0
"""Variance between the parts of a mixture, over that within them, above which it has several peaks: two equal ones are then
nearly three standard deviations apart."""
DETERMINED = 0.7
"""Part of the spread over everything trained that a posterior's standard deviation must not exceed to be an answer."""


@dataclass(frozen=True)
class Moments:
    """Of a posterior, one a row; axes log thickness, tilt y, tilt x as `standardised`.

    Attributes
    ----------
    mean : (rows, 3). covariance : (rows, 3, 3). between : (rows, 3) variance between the parts over that within them.
    """

    mean: np.ndarray
    covariance: np.ndarray
    between: np.ndarray


def standardised(thickness: np.ndarray, tilt: np.ndarray) -> np.ndarray:
    """What the network predicts (n, 3) of thickness (n,) [m] and tilt (n, 2) [rad] in the lattice's axes."""
    return np.concatenate([np.log(thickness / TYPICAL_THICKNESS)[:, None], tilt / TILT_SCALE], axis=1)


def to_lattice_axes(vectors: np.ndarray, axes: np.ndarray) -> np.ndarray:
    """Vectors (n, 2) of the detector in axes turned by the angle of `axes` (n, 2), cosine and sine, from x towards y."""
    (y, x), (cosine, sine) = vectors.T, axes.T
    return np.stack([y * cosine - x * sine, x * cosine + y * sine], axis=1)


def moments(mixtures: np.ndarray) -> Moments:
    """Of mixtures (members, rows, components, 7) as `PatternNetwork` gives them, all members counting alike."""
    members, rows, components, _ = mixtures.shape
    flat = np.moveaxis(mixtures, 0, 1).astype(float)
    weight = np.exp(flat[..., 0] - flat[..., 0].max(axis=-1, keepdims=True))
    weight = (weight / weight.sum(axis=-1, keepdims=True) / members).reshape(rows, -1)
    place = flat[..., 1:4].reshape(rows, members * components, 3)
    variance = np.exp(2 * np.clip(flat[..., 4:], -5.0, 2.0)).reshape(rows, members * components, 3)
    mean = (weight[..., None] * place).sum(axis=1)
    off = place - mean[:, None]
    within = (weight[..., None] * variance).sum(axis=1)
    spread = np.einsum("nk,nki,nkj->nij", weight, off, off)
    between = np.einsum("nii->ni", spread) / within
    return Moments(mean, spread + within[:, :, None] * np.eye(3), between)


def log_probabilities(logits: np.ndarray, temperature: float) -> np.ndarray:
    """Log of the members' mean probability (rows, phases) from logits (members, rows, phases)."""
    scaled = logits.astype(float) / temperature
    scaled -= scaled.max(axis=-1, keepdims=True)
    probability = np.exp(scaled)
    probability /= probability.sum(axis=-1, keepdims=True)
    return np.log(probability.mean(axis=0) + 1e-12)
