"""Densities of points where nobody looked, against points that were drawn."""

import numpy as np
import pytest

from edgetem_nodes.planner import intensity

SIDE = 14
PLACES = np.stack(np.meshgrid(*2 * [(np.arange(SIDE) + 0.5) / SIDE], indexing="ij"), axis=-1).reshape(-1, 2)


def spot(generator):
    """Density of a spot that is 50 times as dense as what is around it [points a block]."""
    centre = generator.uniform(0.25, 0.75, 2)
    return 0.03 + 1.5 * np.exp(-0.5 * np.square((PLACES - centre) / 0.14).sum(axis=1))


def test_points_where_nobody_looked_are_as_many_as_is_said():
    """Half of the blocks are seen; numbers in groups of nine of the others, chance included, within the stated 90 %."""
    generator, held, off = np.random.default_rng(1), [], []
    groups = (np.arange(SIDE**2) // SIDE // 3) * 5 + np.arange(SIDE**2) % SIDE // 3
    for _ in range(30):
        density = spot(generator)
        drawn, seen = generator.poisson(density), generator.random(SIDE**2) < 0.5
        found = intensity.fitted(drawn * seen, seen.astype(float), PLACES)
        member = np.stack([(groups == number) & ~seen for number in range(25)]).astype(float)
        number = member @ found.mean
        deviation = np.sqrt(np.einsum("gi,ij,gj->g", member, found.covariance, member) + number)
        true = member @ drawn
        held += (np.abs(true - number) < 1.645 * deviation + 0.5)[number > 0.5].tolist()
        off.append((number.sum() - true.sum()) / np.sqrt(true.sum() + 1))
    assert 0.85 < np.mean(held) < 0.99
    # the tail of a lognormal where nothing is near makes the sum rather too large
    assert -0.3 < np.mean(off) < 0.9


def test_a_spot_is_not_flattened_where_points_are_many():
    """Every other block is seen; what is expected of the others in the spot is what there is."""
    generator, ratio = np.random.default_rng(2), []
    for _ in range(12):
        density = 8 * spot(generator)
        seen = (np.arange(SIDE**2) // SIDE + np.arange(SIDE**2) % SIDE) % 2 == 0
        found = intensity.fitted(generator.poisson(density) * seen, seen.astype(float), PLACES)
        rich = ~seen & (density > 0.5 * density.max())
        ratio.append(found.mean[rich].sum() / density[rich].sum())
    assert np.mean(ratio) == pytest.approx(1.0, abs=0.07)


def test_of_one_block_all_is_that_of_the_integral_over_g():
    count, area, variance, level = 7.0, 2.0, 1.3, 0.4
    g = np.linspace(-8, 8, 20001)
    logs = -0.5 * (g - level) ** 2 / variance + count * g - area * np.exp(g)
    middle, covariance, evidence = intensity._nearest(np.array([count]), np.array([area]), np.array([[variance]]), level)
    weights = np.exp(logs - logs.max())
    exact = np.log(weights.sum() * (g[1] - g[0])) + logs.max() - 0.5 * np.log(2 * np.pi * variance)
    assert exact - 0.02 < evidence <= exact
    weights /= weights.sum()
    assert np.exp(middle[0] + covariance[0, 0] / 2) == pytest.approx(weights @ np.exp(g), rel=0.01)
    assert covariance[0, 0] == pytest.approx(weights @ g**2 - (weights @ g) ** 2, rel=0.1)


def test_numbers_that_are_expected_add_up_to_those_that_were_seen():
    generator = np.random.default_rng(3)
    for size in (0.7, 2.5):
        counts, areas = generator.poisson(spot(generator)), generator.random(SIDE**2) < 0.6
        apart = np.linalg.norm(PLACES[:, None] - PLACES[None], axis=2)
        prior = size**2 * intensity._matern(apart / 0.2) + 100.0 + 1e-8 * np.eye(SIDE**2)
        middle, covariance, _ = intensity._nearest(counts * areas, areas.astype(float), prior, -2.0)
        # a level that is free makes the sum exact
        assert (areas * np.exp(middle + np.diag(covariance) / 2)).sum() == pytest.approx((counts * areas).sum(), rel=0.02)


@pytest.mark.parametrize("counts", [np.zeros(SIDE**2), np.eye(1, SIDE**2, 40)[0], np.full(SIDE**2, 3.0)])
def test_no_points_one_and_the_same_everywhere_give_a_finite_density(counts):
    found = intensity.fitted(counts, np.ones(SIDE**2), PLACES)
    assert np.isfinite(found.mean).all() and (found.mean > 0).all() and np.linalg.eigvalsh(found.covariance).min() > -1e-9
    assert found.mean.sum() == pytest.approx(counts.sum(), rel=0.3, abs=1.0)
    with pytest.raises(ValueError, match="nothing was seen"):
        intensity.fitted(counts, np.zeros(SIDE**2), PLACES)
