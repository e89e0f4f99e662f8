"""The initial scan keeps its distance, keeps to the mask, and follows its seed."""

import numpy as np
from scipy.spatial.distance import pdist

from edgetem_nodes.planner.initial_design import best_candidate_design
from edgetem_nodes.planner.patches import grid_coordinates

GRID = grid_coordinates((40, 40), (1.0, 1.0))


def design(seed, count=40, allowed=None):
    return best_candidate_design(GRID, np.ones(1600, bool) if allowed is None else allowed, count,
                                 np.random.default_rng(seed))


def test_smallest_distance_is_far_larger_than_of_random_positions():
    spread = [pdist(GRID[design(seed)]).min() for seed in range(10)]
    random = [pdist(GRID[np.random.default_rng(seed).permutation(1600)[:40]]).min() for seed in range(10)]
    assert np.median(spread) > 2.5 * np.median(random)


def test_every_quarter_of_the_field_gets_its_share():
    chosen = GRID[design(0)]
    quarters = 2 * (chosen[:, 0] > 0.5) + (chosen[:, 1] > 0.5)
    assert (np.bincount(quarters, minlength=4) >= 6).all()


def test_only_allowed_positions_each_once_and_no_more_than_there_are():
    allowed = np.zeros(1600, bool)
    allowed[100:130] = True
    chosen = design(0, 50, allowed)
    assert sorted(chosen) == list(range(100, 130))


def test_seed_decides():
    np.testing.assert_array_equal(design(3), design(3))
    assert not np.array_equal(design(3), design(4))
