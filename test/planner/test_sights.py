"""What a site saw, from the cell that its energy is of: defects at their places about the site."""

import math

import numpy as np
import pytest

from edgetem_nodes.planner.sights import Sight, of_json, seen_in_cell, to_json

HEXAGON = 1.72e-9 * np.array([[1.0, 0.0], [-0.5, math.sqrt(3) / 2]])


def test_a_doubtful_defect_has_the_variance_of_whether_it_is_there_and_the_smooth_part_the_rest():
    density, one = 1.0, 0.25 * 7.8
    sight = seen_in_cell(HEXAGON, np.zeros(2), (np.array([[0.2e-9, 0.1e-9]]), np.array([0.25])), density, 2.0,
                         one / 2.562, 0.0)
    area = abs(np.linalg.det(HEXAGON)) * 1e18
    assert sight.contents[0] == pytest.approx(one / 2.562 * area * 1e-18)
    each = sight.contents[0] / 0.25
    assert sight.variances[0] == pytest.approx(0.25 * 0.75 * each**2)
    assert sight.error**2 == pytest.approx(4.0 - sight.variances[0] / (area * 1e-18) ** 2)
    certain = seen_in_cell(HEXAGON, np.zeros(2), (np.zeros((0, 2)), np.zeros(0)), density, 0.3, 0.0)
    assert (certain.smooth, certain.error, len(certain.places)) == (1.0, 0.3, 0)


def test_of_what_may_be_at_one_place_only_one_thing_is():
    """p e^2 - (p e)^2 of a vacancy with 0.5 or nitrogen with 0.4 at the place is 0.09 e^2, as the bridge has it."""
    place = np.array([[0.2e-9, 0.1e-9], [0.2e-9, 0.1e-9], [-0.3e-9, 0.0]])
    sight = seen_in_cell(HEXAGON, np.zeros(2), (place, np.array([0.5, 0.4, 1.0])), 5.0, 2.0, 1.9)
    each = sight.contents[2]
    assert sight.variances[:2].sum() == pytest.approx(0.09 * each**2) and sight.variances[2] == 0


def test_a_site_sees_what_is_nearer_to_it_than_to_its_images():
    sight, generator = Sight(HEXAGON[:, ::-1], 0.0, 0.1), np.random.default_rng(1)
    away = generator.uniform(-2e-9, 2e-9, (4000, 2))
    images = np.array([[i, j] for i in range(-2, 3) for j in range(-2, 3) if (i, j) != (0, 0)]) @ sight.cell
    nearest = np.linalg.norm(away, axis=1) <= np.linalg.norm(away[:, None] - images, axis=2).min(axis=1)
    np.testing.assert_array_equal(sight.sees(away), nearest)
    assert nearest.mean() * 16 == pytest.approx(sight.area * 1e18, rel=0.1)


def test_of_a_cell_that_was_not_seen_whole_only_what_was_seen_counts():
    sight = seen_in_cell(HEXAGON, np.zeros(2), (np.zeros((0, 2)), np.zeros(0)), 1.0, 0.1, 0.0, 1.0e-18)
    assert sight.area == pytest.approx(1.0e-18)
    assert seen_in_cell(HEXAGON, np.zeros(2), (np.zeros((0, 2)), np.zeros(0)), 1.0, 0.1, 0.0, 9e-18).area == pytest.approx(
        abs(np.linalg.det(HEXAGON)))


@pytest.mark.parametrize(("place", "density", "share"), [(np.zeros(0), 1.0, 0.0), (np.zeros(2), math.nan, 0.0),
                                                         (np.zeros(2), 1.0, math.nan)])
def test_where_the_place_or_what_is_the_defects_is_not_known_nothing_is_said(place, density, share):
    assert seen_in_cell(HEXAGON, place, (np.zeros((0, 2)), np.zeros(0)), density, 0.1, share) is None


def test_sights_come_back_from_a_checkpoint_bit_for_bit():
    one = seen_in_cell(HEXAGON, np.zeros(2), (np.array([[0.2e-9, 0.1e-9]]), np.array([0.3])), 1.0, 2.0, 0.7)
    again = of_json(to_json([one, None]))
    assert again[1] is None
    for name in ("cell", "smooth", "error", "places", "probabilities", "contents", "variances"):
        np.testing.assert_array_equal(getattr(again[0], name), getattr(one, name))
