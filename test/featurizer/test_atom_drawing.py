"""Drawn images against conservation, statistics and their own truth."""

from dataclasses import replace

import numpy as np
import pytest

from edgetem_nodes.featurizer.atoms.drawing import (CRYSTALS, HEAVIER, LIGHTER, VACANCY, ImageRanges, defects, draw, render,
                                                    sites)

QUIET = replace(ImageRanges(), background=(0.0, 0.0), contamination=(0.0, 0.0), jitter=(0.0, 0.0), flicker=(0.0, 0.0),
                damaged=0.0, defects=(0.0, 0.0))


def test_intensity_is_conserved():
    """A Gaussian of height w holds 2 pi sigma^2 w, wherever its lines are shifted to."""
    rng = np.random.default_rng(0)
    places, weights = rng.uniform(30, 90, (20, 2)), rng.uniform(0.2, 2, 20)
    shifts = rng.normal(0, 0.7, 120)
    for tail, area in ((0.0, 1.0), (0.3, 0.7 + 0.3 * 2.5**2)):
        total = render(places, weights, (120, 120), 2.1, tail, shifts).sum()
        assert total == pytest.approx(2 * np.pi * 2.1**2 * weights.sum() * area, rel=2e-3)


@pytest.mark.parametrize("crystal", range(len(CRYSTALS)))
def test_density_of_columns(crystal):
    drawn = draw(np.random.default_rng(crystal), (160, 160), QUIET, crystal)
    expected = 160**2 / abs(np.linalg.det(drawn.vectors)) * len(CRYSTALS[crystal][2])
    assert len(drawn.positions) == pytest.approx(expected, rel=0.1)
    assert drawn.weights.max() == pytest.approx(1.0)
    assert np.isfinite(drawn.image).all() and drawn.image.dtype == np.float32


def test_sites_lie_on_the_lattice():
    vectors = np.array([[11.0, 2.0], [-3.0, 9.0]])
    places, sublattice = sites(vectors, np.array([[0, 0], [0.4, 0.3]]), (60, 80), np.array([0.2, 0.7]), 0)
    nodes = places @ np.linalg.inv(vectors) - np.array([0.2, 0.7]) - np.array([[0, 0], [0.4, 0.3]])[sublattice]
    assert np.allclose(nodes, np.rint(nodes), atol=1e-9)


def test_fractions_of_defects():
    kinds, factors = defects(np.random.default_rng(1), 20000, np.array([0.03, 0.02, 0.01]))
    for kind, part in ((LIGHTER, 0.03), (HEAVIER, 0.02), (VACANCY, 0.01)):
        assert (kinds == kind).mean() == pytest.approx(part, rel=0.15)
    assert (factors[kinds == LIGHTER] < 1).all() and (factors[kinds == HEAVIER] > 1).all()
    assert (factors[kinds == VACANCY] == 0).all()


def test_same_seed_same_image():
    one, two = (draw(np.random.default_rng(7), (64, 64)) for _ in range(2))
    assert np.array_equal(one.image, two.image) and np.array_equal(one.positions, two.positions)
