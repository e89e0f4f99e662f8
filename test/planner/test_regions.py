"""Regions: which positions a polygon holds, which region wins, and that they are kept as JSON."""

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgetem_nodes.physics.scan import ScanField
from edgetem_nodes.planner.regions import ADD, FORBID, Region, allowed_by

FIELD = ScanField((0.0, 0.0), (1e-9, 2e-9), (8, 6))
corners = st.lists(st.tuples(st.floats(-1, 1), st.floats(-1, 1)), min_size=3, max_size=9)


def box(name, kind, top, left, bottom, right):
    """Region that holds the rows top..bottom and columns left..right of FIELD."""
    y0, x0, y1, x1 = (top - 0.5) * 1e-9, (left - 0.5) * 2e-9, (bottom + 0.5) * 1e-9, (right + 0.5) * 2e-9
    return Region(name, kind, ((y0, x0), (y0, x1), (y1, x1), (y1, x0)))


@given(corners, st.integers(0, 99))
def test_a_polygon_holds_what_scikit_image_says(vertices, seed):
    """Also where it crosses itself: the even-odd rule."""
    measure = pytest.importorskip("skimage.measure", reason="scikit-image is not installed")
    points = np.random.default_rng(seed).uniform(-1, 1, (60, 2))
    np.testing.assert_array_equal(Region("a", ADD, vertices).contains(points), measure.points_in_poly(points, vertices))


def test_the_share_of_a_polygon_is_its_area():
    triangle = Region("a", ADD, ((0.1, 0.1), (0.9, 0.3), (0.4, 0.8)))
    area = 0.5 * abs(0.8 * 0.7 - 0.2 * 0.3)
    points = np.random.default_rng(0).random((200_000, 2))
    assert triangle.contains(points).mean() == pytest.approx(area, abs=0.005)


def test_a_polygon_closes_itself_in_either_direction_and_twice_over():
    vertices = ((0.0, 0.0), (0.0, 1.0), (1.0, 1.0), (1.0, 0.0))
    points = np.random.default_rng(0).uniform(-1, 2, (300, 2))
    expected = ((points > 0) & (points < 1)).all(axis=1)
    for corners_ in (vertices, vertices[::-1], (*vertices, vertices[0])):
        np.testing.assert_array_equal(Region("a", ADD, corners_).contains(points), expected)


def test_the_latest_region_wins_where_several_hold_a_position():
    allowed = np.ones((8, 6), bool)
    allowed[0] = False
    regions = (box("hole", FORBID, 1, 1, 6, 4), box("island", ADD, 2, 2, 3, 3), box("edge", ADD, 0, 0, 0, 1),
               box("core", FORBID, 3, 3, 3, 3))
    expected = allowed.copy()
    expected[1:7, 1:5], expected[2:4, 2:4], expected[0, :2], expected[3, 3] = False, True, True, False
    np.testing.assert_array_equal(allowed_by(regions, allowed.ravel(), FIELD).reshape(8, 6), expected)
    assert not allowed[0].any()  # the mask itself is as it was
    np.testing.assert_array_equal(allowed_by((), allowed.ravel(), FIELD), allowed.ravel())


@given(corners, st.sampled_from([ADD, FORBID]), st.text(min_size=1, max_size=8))
def test_its_record_survives_json(vertices, kind, name):
    region = Region(name, kind, vertices)
    assert Region(**json.loads(json.dumps(region.record()))) == region


@pytest.mark.parametrize(("name", "kind", "vertices", "message"), [
    ("", ADD, ((0, 0), (0, 1), (1, 1)), "has no name: one is needed to take it back"),
    ("a", "avoid", ((0, 0), (0, 1), (1, 1)), "'a' is of kind 'avoid': take forbid or add"),
    ("a", ADD, ((0, 0), (0, 1)), "has 2 vertices: a polygon needs three"),
    ("a", ADD, ((0, 0), (0, 1), (1, float("nan"))), "a vertex that is not finite"),
    ("a", ADD, ((0, 0), (0, 1), (1, float("inf"))), "a vertex that is not finite"),
])
def test_what_is_no_polygon_is_refused(name, kind, vertices, message):
    with pytest.raises(ValueError, match=message):
        Region(name, kind, vertices)
