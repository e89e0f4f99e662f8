"""Scatter that grows with the energy: recovered from simulated defects, and not found where there is none."""


import numpy as np

from edgetem_nodes.planner.belief import believe
from edgetem_nodes.planner.observations import Observations
from edgetem_nodes.planner.patches import grid_coordinates
from edgetem_nodes.planner.scatter import FEWEST, scatter
from edgetem_nodes.planner.surrogates import Inputs, Surrogate, SurrogateSettings

SIDE, DEFECT, AREA = 20, 7.7, 2.0
"""Edge of the field, energy of a defect [eV], footprint [nm^2]."""
PLACES = grid_coordinates((SIDE, SIDE), (1.0, 1.0))
DENSITY = DEFECT * 0.6 * np.exp(-8.0 * ((PLACES[:, 0] - 0.3) ** 2 + (PLACES[:, 1] - 0.4) ** 2))
"""Expected energy density [eV/nm^2] of 0.6 defects per nm^2 at most."""


def readings(generator, at):
    return generator.poisson(DENSITY[at] / DEFECT * AREA) * DEFECT / AREA + 0.05 * generator.normal(size=len(at))


def test_the_factor_of_a_compound_poisson_sum_is_the_defects_energy_over_the_footprint():
    generator = np.random.default_rng(0)
    found = []
    for _ in range(40):
        at = generator.integers(0, SIDE**2, 300)
        values = readings(generator, at)
        variances, factor = scatter(DENSITY[at], values - DENSITY[at], np.full(300, 0.05))
        found.append(factor)
        assert (variances > 0).all()
    np.testing.assert_allclose(np.mean(found), DEFECT / AREA, rtol=0.1)


def test_scatter_that_is_the_same_everywhere_is_not_taken_for_one_that_grows():
    generator = np.random.default_rng(1)
    share = []
    for _ in range(40):
        expected = generator.uniform(0.5, 5.0, 200)
        variances, _ = scatter(expected, generator.normal(size=200), np.zeros(200))
        share.append(variances.mean())
    assert np.median(share) < 0.25


def test_few_or_empty_readings_say_nothing():
    few = np.ones(FEWEST - 1)
    assert scatter(few, few, few)[1] == 0.0
    assert scatter(np.zeros(50), np.zeros(50), np.zeros(50))[1] == 0.0


def observed(generator, count):
    at = generator.choice(SIDE**2, count, replace=False)
    rows = Observations.none(1)
    values = readings(generator, at)
    columns = {name: np.zeros(count, array.dtype) for name, array in rows.arrays().items()}
    columns |= {"candidates": at, "values": values[:, None], "standard_errors": np.full((count, 1), 0.05),
                "valid": np.ones(count, bool), "predicted": np.full(count, np.nan),
                "predicted_deviations": np.full(count, np.nan)}
    return rows.with_rows(**columns)


def test_a_map_that_took_scatter_for_structure_is_learned_again_and_comes_nearer_the_truth():
    surrogate = Surrogate(Inputs(np.zeros((SIDE**2, 0)), PLACES), SurrogateSettings(use_survey=False, training_steps=15))
    errors, again, inside = np.zeros((12, 2)), np.zeros(12, bool), []
    for seed in range(12):
        rows = observed(np.random.default_rng(seed), 80)
        for kind in (0, 1):
            belief = believe(surrogate, rows, 0, scatters=bool(kind))
            map_ = belief.posterior()
            errors[seed, kind] = np.sqrt(np.mean((map_.mean - DENSITY) ** 2))
        again[seed] = belief.scatter_factor > 0
        if again[seed]:
            assert (belief.errors > rows.standard_errors[:, 0]).all()
        inside.append(np.mean(np.abs(map_.mean - DENSITY) < 1.645 * map_.standard_deviation))
    assert again.any() and not again.all()
    assert errors[again, 1].max() < 0.8 * errors[again, 0].min()
    np.testing.assert_array_equal(errors[~again, 1], errors[~again, 0])
    assert 0.7 < np.mean(inside) < 0.98


def test_it_is_learned_only_where_it_is_asked_for():
    surrogate = Surrogate(Inputs(np.zeros((SIDE**2, 0)), PLACES), SurrogateSettings(use_survey=False, training_steps=5))
    rows = observed(np.random.default_rng(0), 60)
    plain = believe(surrogate, rows, 0)
    assert plain.scatter_factor == 0.0
    np.testing.assert_array_equal(plain.errors, rows.standard_errors[:, 0])
