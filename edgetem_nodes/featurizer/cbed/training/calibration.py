"""Limits and scales of stated errors, measured on patterns that the networks were not trained on."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from edgetem_nodes.featurizer.cbed.posterior import DETERMINED, TWO_ANSWERS, log_probabilities, moments
from edgetem_nodes.featurizer.cbed.rejection import feature_distances

NINETY = 1.6449
"""Standard errors that hold nine of ten of a normal distribution."""
_FEW = 40
"""Fewest patterns from which a scale of a phase's own is taken."""


def error_scale(deviations: np.ndarray, errors: np.ndarray) -> float:
    """By what stated errors (n,) must be multiplied so that 1.645 of them hold nine of ten deviations (n,)."""
    if len(deviations) == 0:
        return 1.0
    return float(np.clip(np.quantile(np.abs(deviations) / errors, 0.9) / NINETY, 0.3, 5.0))


def scales_by_phase(deviations: np.ndarray, errors: np.ndarray, phase: np.ndarray, phases: int) -> np.ndarray:
    """`error_scale` (phases,) of each phase, of all where a phase has few."""
    common = error_scale(deviations, errors)
    result = np.full(phases, common)
    for number in range(phases):
        own = phase == number
        if own.sum() >= _FEW:
            result[number] = error_scale(deviations[own], errors[own])
    return result


def temperature(logits: np.ndarray, label: np.ndarray) -> float:
    """By what logits (members, n, classes) are divided so that the log probability of the labels (n,) is largest."""
    tried = np.exp(np.linspace(np.log(0.4), np.log(2.5), 25))
    score = [log_probabilities(logits, one)[np.arange(len(label)), label].mean() for one in tried]
    return float(tried[int(np.argmax(score))])


@dataclass(frozen=True)
class FeatureSpread:
    """Centres (members, classes, features) and whitening (members, features, features) of the last layer's features."""

    centres: np.ndarray
    whitening: np.ndarray

    @classmethod
    def of(cls, hidden: np.ndarray, label: np.ndarray, classes: int) -> FeatureSpread:
        """From features (members, n, features) with labels (n,)."""
        centres, whitening = [], []
        for features in hidden.astype(float):
            middle = np.stack([features[label == one].mean(axis=0) if (label == one).any() else features.mean(axis=0)
                               for one in range(classes)])
            covariance = np.cov((features - middle[label]).T)
            values, vectors = np.linalg.eigh(covariance)
            # directions in which nothing varied must not decide
            values = np.maximum(values, 1e-3 * values.max())
            centres.append(middle)
            whitening.append(vectors / np.sqrt(values))
        return cls(np.stack(centres), np.stack(whitening))


@dataclass(frozen=True)
class Outputs:
    """What networks said of calibration patterns whose lattice was found rightly, with the truth; one a row.

    Attributes
    ----------
    vectors, true_vectors : (n, 2, 2) reciprocal vectors as columns [1/m]; covariance : (n, 4, 4).
    chi_square, freedom : (n,) of the disks' places.
    logits, hidden, mixtures : with an axis of members first.
    label : (n,). target : (n, 3) as `posterior.standardised`. electrons : (n,) counts of the pattern.
    """

    vectors: np.ndarray
    true_vectors: np.ndarray
    covariance: np.ndarray
    chi_square: np.ndarray
    freedom: np.ndarray
    logits: np.ndarray
    hidden: np.ndarray
    mixtures: np.ndarray
    label: np.ndarray
    target: np.ndarray
    electrons: np.ndarray


def relative_sizes(outputs: Outputs) -> tuple[np.ndarray, np.ndarray]:
    """By how much the area of reciprocal cells is off, relative, and its stated error: both (n,)."""
    inverse = np.linalg.inv(outputs.vectors)
    slope = np.swapaxes(inverse, 1, 2).reshape(-1, 4)
    off = np.log(np.abs(np.linalg.det(outputs.vectors) / np.linalg.det(outputs.true_vectors)))
    return off, np.sqrt(np.einsum("ni,nij,nj->n", slope, outputs.covariance, slope))


def calibrate(outputs: Outputs, phases: int) -> dict[str, np.ndarray]:
    """Arrays that `NanobeamNetwork` needs beside its networks."""
    off = (outputs.vectors - outputs.true_vectors).reshape(-1, 4)
    stated = np.sqrt(np.einsum("nii->ni", outputs.covariance))
    warmth = temperature(outputs.logits, outputs.label)
    spread = FeatureSpread.of(outputs.hidden, outputs.label, phases)
    sizes = relative_sizes(outputs)
    # disks that all seem to lie too far out leave no trace in single components
    scales = np.maximum(scales_by_phase(off.ravel(), stated.ravel(), np.repeat(outputs.label, 4), phases),
                        scales_by_phase(*sizes, outputs.label, phases))
    common = max(error_scale(off.ravel(), stated.ravel()), error_scale(*sizes))
    result = {"lattice_scale": np.append(scales, common), "temperature": np.float64(warmth),
              "feature_centres": spread.centres, "feature_whitening": spread.whitening}
    distances = feature_distances(outputs.hidden, outputs.label, result)
    judged = outputs.freedom >= 4
    result["distance_limit"] = np.float64(np.quantile(distances, 0.99) if len(distances) else 3.0)
    result["chi_square_limit"] = np.float64(max(3.0, 1.5 * np.quantile(outputs.chi_square[judged], 0.995))
                                            if judged.any() else 6.0)
    prior = np.full((phases, 3), 1.0)
    for number in range(phases):
        own = outputs.label == number
        if own.sum() > 1:
            prior[number] = outputs.target[own].std(axis=0)
    result["prior_spread"] = prior
    answer = moments(outputs.mixtures)
    deviation = np.sqrt(np.einsum("nii->ni", answer.covariance))
    error = outputs.target - answer.mean
    sure = (deviation < DETERMINED * prior[outputs.label]) & (answer.between < TWO_ANSWERS)
    thick = sure[:, 0]
    result["thickness_scale"] = scales_by_phase(error[thick, 0], deviation[thick, 0], outputs.label[thick], phases)
    both = sure[:, 1] & sure[:, 2]
    result["tilt_scale"] = scales_by_phase(error[both, 1:].ravel(), deviation[both, 1:].ravel(),
                                           np.repeat(outputs.label[both], 2), phases)
    return result
