"""Curl, divergence and integrals of fields against analytic functions, a Monte Carlo and one another."""

import numpy as np
import pytest

from edgetem_nodes.featurizer.patterns import vector_field as vf

STEP = (0.11e-9, 0.07e-9)


def grid(rows, columns):
    return np.meshgrid(np.arange(rows) * STEP[0], np.arange(columns) * STEP[1], indexing="ij")


def smooth(rows, columns):
    """A potential that is no polynomial, and its gradient."""
    y, x = grid(rows, columns)
    a, b = 1 / (30 * STEP[0]), 1 / (22 * STEP[1])
    return np.sin(a * y) * np.cos(b * x), np.stack([a * np.cos(a * y) * np.cos(b * x), -b * np.sin(a * y) * np.sin(b * x)], -1)


def test_the_divergence_of_a_radial_field_is_two_and_its_curl_is_zero():
    y, x = grid(9, 12)
    field = np.stack([y, x], axis=-1)
    np.testing.assert_allclose(vf.divergence(field, STEP), 2.0, rtol=1e-12)
    np.testing.assert_allclose(vf.curl(field, STEP), 0.0, atol=1e-12)


def test_the_curl_of_a_rigid_rotation_is_two():
    y, x = grid(9, 12)
    field = np.stack([x, -y], axis=-1)
    np.testing.assert_allclose(vf.curl(field, STEP), 2.0, rtol=1e-12)
    np.testing.assert_allclose(vf.divergence(field, STEP), 0.0, atol=1e-12)


@pytest.mark.parametrize("of, errors_of", [(vf.divergence, vf.divergence_errors), (vf.curl, vf.curl_errors)])
def test_standard_errors_of_derivatives_are_those_of_a_monte_carlo(of, errors_of):
    rng = np.random.default_rng(1)
    errors = rng.uniform(0.5, 2.0, (6, 7, 2))
    spread = np.std([of(errors * rng.standard_normal(errors.shape), STEP) for _ in range(4000)], axis=0)
    np.testing.assert_allclose(errors_of(errors, STEP), spread, rtol=0.06)


def test_the_integral_of_a_gradient_is_its_potential():
    potential, field = smooth(60, 80)
    result = vf.integrate(field, STEP)
    assert np.abs(result - (potential - potential.mean())).max() < 5e-4


def test_a_field_that_repeats_itself_is_integrated_without_error():
    rows, columns = 16, 20
    y, x = np.meshgrid(2 * np.pi * np.arange(rows) / rows, 2 * np.pi * np.arange(columns) / columns, indexing="ij")
    potential = np.cos(3 * y + 2 * x) + 0.3 * np.sin(5 * x)
    ky, kx = 2 * np.pi / (rows * STEP[0]), 2 * np.pi / (columns * STEP[1])
    field = np.stack([-3 * ky * np.sin(3 * y + 2 * x), -2 * kx * np.sin(3 * y + 2 * x) + 1.5 * kx * np.cos(5 * x)], axis=-1)
    np.testing.assert_allclose(vf.integrate(field, STEP, "periodic"), potential, atol=1e-12)


def test_places_that_were_not_measured_are_left_out_and_nothing_else_changes():
    potential, field = smooth(40, 30)
    whole = vf.integrate(field, STEP)
    # A field that is everywhere measured gives the same by the sparse equations.
    np.testing.assert_allclose(vf._pieces(field, np.ones((40, 30), bool), STEP), whole, atol=1e-10)
    field[25:] = np.nan
    field[7, 9] = np.nan
    result = vf.integrate(field, STEP)
    assert np.isnan(result[25:]).all() and np.isnan(result[7, 9])
    seen = np.isfinite(result)
    assert np.count_nonzero(seen) == 25 * 30 - 1
    assert np.abs(result[seen] - (potential[seen] - potential[seen].mean())).max() < 2e-3


def test_parts_that_do_not_touch_are_each_of_mean_zero():
    potential, field = smooth(20, 20)
    field[9] = np.nan
    result = vf.integrate(field, STEP)
    assert abs(result[:9].mean()) < 1e-12 and abs(result[10:].mean()) < 1e-12


def test_a_place_without_a_neighbour_has_no_integral():
    field = np.full((6, 6, 2), np.nan)
    field[1, 1], field[4, 2:4] = 1.0, 1.0
    assert np.isfinite(vf.integrate(field, STEP)).nonzero()[0].tolist() == [4, 4]


@pytest.mark.parametrize("boundary", vf.BOUNDARIES)
@pytest.mark.parametrize("shape", [(24, 24), (12, 40)])
def test_the_error_of_an_integral_is_that_of_a_monte_carlo(boundary, shape):
    rng = np.random.default_rng(2)
    square = np.mean([np.mean(vf.integrate(3.0 * rng.standard_normal((*shape, 2)), STEP, boundary)**2) for _ in range(300)])
    assert vf.integral_error(3.0, shape, STEP, boundary) == pytest.approx(np.sqrt(square), rel=0.05)


@pytest.mark.parametrize("shape", [(5, 5), (5, 1, 2), (5, 5, 3)])
def test_what_is_no_raster_of_vectors_is_refused(shape):
    with pytest.raises(ValueError, match=r"is not \(rows, columns, 2\)"):
        vf.divergence(np.zeros(shape), STEP)


def test_a_periodic_field_with_holes_and_an_unknown_boundary_are_refused():
    field = np.zeros((4, 4, 2))
    with pytest.raises(ValueError, match="'mirror' is not one of open, periodic"):
        vf.integrate(field, STEP, "mirror")
    field[1, 1] = np.nan
    with pytest.raises(ValueError, match="1 of 16 positions were not measured"):
        vf.integrate(field, STEP, "periodic")
