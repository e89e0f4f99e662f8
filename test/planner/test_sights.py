"""What a site saw, from the cell that its energy is of: defects at their places about the site."""

import math

import numpy as np
import pytest

from edgetem_nodes.planner.sights import Sight, of_json, sight_of, to_json

HEXAGON = 1.72e-9 * np.array([[1.0, 0.0], [-0.5, math.sqrt(3) / 2]])


def defects(*listed):
    """Of (y, x, probability, whether in the cell) [nm]."""
    rows = np.array(listed, float).reshape(-1, 4)
    return rows[:, :2] * 1e-9, rows[:, 2], rows[:, 3] > 0


def test_a_doubtful_defect_has_the_variance_of_whether_it_is_there_and_the_smooth_part_the_rest():
    density, one = 1.0, 0.25 * 7.8
    sight = sight_of(4.4e-18, defects((0.1, 0.2, 0.25, 1)), 2.562e-18, density, 2.0, one / 2.562)
    assert sight.contents[0] == pytest.approx(one * 1e-18)
    each = sight.contents[0] / 0.25
    assert sight.variances[0] == pytest.approx(0.25 * 0.75 * each**2)
    assert sight.error**2 == pytest.approx(4.0 - sight.variances[0] / 2.562e-18**2)
    assert sight.smooth == pytest.approx(density - one / 2.562)
    certain = sight_of(4.4e-18, defects(), 2.562e-18, density, 0.3, 0.0)
    assert (certain.smooth, certain.error, len(certain.places)) == (1.0, 0.3, 0)


def test_defects_beside_the_cell_are_where_they_are_and_what_they_cost_is_told_by_others():
    for inside in ((), ((0.1, 0.2, 0.5, 1),)):
        share = 0.35 * len(inside)
        sight = sight_of(9e-18, defects(*inside, (-1.2, 0.1, 0.8, 0)), 2.56e-18, 1.0, 0.1, share)
        without = sight_of(9e-18, defects(*inside), 2.56e-18, 1.0, 0.1, share)
        assert (sight.smooth, sight.error) == (without.smooth, without.error)
        np.testing.assert_allclose(sight.places[-1], [-1.2e-9, 0.1e-9])
        assert np.isnan(sight.contents[-1]) and np.isfinite(sight.contents[:-1]).all()
        done = sight.completed(2.0, 5.0)
        # there with 0.8, then 2 on average with a variance of 1: 0.8 * 5 - 1.6^2
        assert done.contents[-1] == pytest.approx(1.6) and done.variances[-1] == pytest.approx(1.44)
        np.testing.assert_array_equal(done.contents[:-1], sight.contents[:-1])


def test_a_micro_scan_sees_a_square_whatever_the_cell_is():
    for area in (1.0e-18, 9.0e-18):
        sight = sight_of(area, defects(), 2.56e-18, 1.0, 0.1, 0.0)
        half = np.sqrt(area) / 2
        assert sight.area == pytest.approx(area)
        assert sight.sees(0.99 * half * np.array([[1, 1], [-1, 1], [0, -1]])).all()
        assert not sight.sees(1.01 * half * np.array([[1, 0], [0, -1], [-1, 1]])).any()


def test_a_site_sees_what_is_nearer_to_it_than_to_its_images():
    sight, generator = Sight(HEXAGON[:, ::-1], 0.0, 0.1), np.random.default_rng(1)
    away = generator.uniform(-2e-9, 2e-9, (4000, 2))
    images = np.array([[i, j] for i in range(-2, 3) for j in range(-2, 3) if (i, j) != (0, 0)]) @ sight.cell
    nearest = np.linalg.norm(away, axis=1) <= np.linalg.norm(away[:, None] - images, axis=2).min(axis=1)
    np.testing.assert_array_equal(sight.sees(away), nearest)
    assert nearest.mean() * 16 == pytest.approx(sight.area * 1e18, rel=0.1)


@pytest.mark.parametrize(("seen", "area", "density", "share"), [
    (0.0, 2.56e-18, 1.0, 0.0), (4.4e-18, math.nan, 1.0, 0.0), (4.4e-18, 2.56e-18, math.nan, 0.0),
    (4.4e-18, 2.56e-18, 1.0, math.nan)])
def test_where_the_area_or_what_is_the_defects_is_not_known_nothing_is_said(seen, area, density, share):
    assert sight_of(seen, defects(), area, density, 0.1, share) is None


def test_sights_come_back_from_a_checkpoint_bit_for_bit():
    one = sight_of(4.4e-18, defects((0.1, 0.2, 0.3, 1), (0.9, -0.9, 0.7, 0)), 2.56e-18, 1.0, 2.0, 0.7)
    again = of_json(to_json([one, None]))
    assert again[1] is None
    for name in ("cell", "smooth", "error", "places", "probabilities", "contents", "variances"):
        np.testing.assert_array_equal(getattr(again[0], name), getattr(one, name))
