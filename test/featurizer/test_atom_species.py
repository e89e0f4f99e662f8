"""Kinds of columns from amplitudes that were drawn from known kinds."""

import numpy as np
import pytest
from scipy.stats import false_discovery_control

from edgetem_nodes.featurizer.atoms.species import (FALSE_DISCOVERY, HEAVIER, HOST, LIGHTER, VACANCY, classify,
                                                    false_discovery)


def drawn(rng, count=900, fractions=(0.02, 0.015, 0.015), spread=0.07, error=0.07):
    """Places, amplitudes and kinds of a sublattice whose hosts have amplitude 5 and scatter by `spread`."""
    kinds = rng.choice([HOST, LIGHTER, HEAVIER, VACANCY], count, p=[1 - sum(fractions), *fractions])
    ratio = np.where(kinds == HOST, 1.0, np.where(kinds == LIGHTER, rng.uniform(0.3, 0.65, count), np.where(
        kinds == HEAVIER, rng.uniform(1.5, 2.7, count), 0.0)))
    ratio = ratio * rng.normal(1, spread, count) + rng.normal(0, error, count)
    return rng.uniform(0, 500, (count, 2)), 5 * ratio, kinds


def test_defects_are_found_and_told_apart():
    rng = np.random.default_rng(0)
    places, amplitudes, kinds = drawn(rng, count=2500)
    result = classify(places, amplitudes, np.full(2500, 0.35))
    called = result.q_values <= FALSE_DISCOVERY
    assert (kinds[called] != HOST).mean() > 0.8
    assert called[kinds != HOST].mean() > 0.85
    likeliest = result.probabilities.argmax(axis=1)
    assert (likeliest[kinds == VACANCY] == VACANCY).mean() > 0.8
    assert (likeliest[kinds == LIGHTER] == LIGHTER).mean() > 0.7
    assert result.spread == pytest.approx(0.07, abs=0.02)


def test_probabilities_are_calibrated():
    probability, truth = [], []
    for seed in range(20):
        places, amplitudes, kinds = drawn(np.random.default_rng([1, seed]))
        result = classify(places, amplitudes, np.full(900, 0.35))
        probability.append(1 - result.probabilities[:, HOST])
        truth.append(kinds != HOST)
    probability, truth = np.concatenate(probability), np.concatenate(truth)
    for low, high in ((0.0, 0.02), (0.05, 0.5), (0.5, 0.95), (0.98, 1.0)):
        chosen = (probability >= low) & (probability <= high)
        assert truth[chosen].mean() == pytest.approx(probability[chosen].mean(), abs=0.12)


def test_hosts_alone_make_no_candidates():
    """Of 40 perfect sublattices few have any candidate: the false discovery rate holds where there is nothing to find."""
    some = 0
    for seed in range(40):
        rng = np.random.default_rng([2, seed])
        amplitudes = 5 * rng.normal(1, 0.1, 400)
        result = classify(rng.uniform(0, 300, (400, 2)), amplitudes, np.full(400, 0.35))
        some += bool(((result.q_values <= FALSE_DISCOVERY) & (result.probabilities.argmax(axis=1) != HOST)).any())
    assert some <= 8


def test_slow_changes_of_intensity_are_no_defects():
    rng = np.random.default_rng(3)
    places, amplitudes, kinds = drawn(rng, count=2500, fractions=(0.01, 0.0, 0.0))
    tilted = amplitudes * (1 + 0.5 * places[:, 0] / 500)
    result = classify(places, tilted, np.full(2500, 0.35))
    assert (kinds[result.q_values <= FALSE_DISCOVERY] != HOST).mean() > 0.7


def test_noise_makes_kinds_unidentifiable():
    rng = np.random.default_rng(4)
    places, amplitudes, _ = drawn(rng, spread=0.0, error=0.5)
    result = classify(places, amplitudes, np.full(900, 2.5))
    assert not result.identifiable
    assert np.isnan(result.probabilities).all() and np.isnan(result.q_values).all()


def test_few_or_unmeasured_columns():
    result = classify(np.zeros((3, 2)), np.ones(3), np.ones(3))
    assert np.isnan(result.probabilities).all() and not result.identifiable
    amplitudes = np.r_[np.ones(50), np.nan]
    result = classify(np.random.default_rng(5).uniform(0, 50, (51, 2)), amplitudes, np.full(51, 0.05))
    assert np.isnan(result.probabilities[50]).all() and np.isfinite(result.probabilities[:50]).all()


def test_false_discovery_rates_against_scipy():
    p = np.random.default_rng(6).uniform(size=500) ** 2
    assert np.allclose(false_discovery(p), false_discovery_control(p))
