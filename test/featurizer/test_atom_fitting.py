"""Fitted columns against the Cramer-Rao bound, Monte Carlo and exact images."""

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

from edgetem_nodes.featurizer.atoms.drawing import render
from edgetem_nodes.featurizer.atoms.fitting import column_width, fit_columns, without_columns

SHAPE = (150, 150)


def grid(pitch, rng, wobble=0.5):
    line = np.arange(12, 140, pitch)
    places = np.stack(np.meshgrid(line, line, indexing="ij"), -1).reshape(-1, 2)
    return places + rng.uniform(-wobble, wobble, places.shape)


def test_exact_image_is_fitted_exactly():
    rng = np.random.default_rng(1)
    places = grid(11, rng)
    heights = rng.uniform(3, 10, len(places))
    fits = fit_columns(render(places, heights, SHAPE, 2.2) + 4.0, places + rng.normal(0, 0.5, places.shape), 2.6)
    inner = ((places > 25) & (places < 125)).all(axis=1)
    assert np.abs(fits.positions - places)[inner].max() < 0.05
    assert np.abs(fits.amplitudes / heights - 1)[inner].max() < 0.04
    assert fits.sigma == pytest.approx(2.2, rel=0.02)
    assert np.abs(without_columns(render(places, heights, SHAPE, 2.2) + 4.0, fits) - 4.0)[30:120, 30:120].max() < 0.4


def test_position_error_against_the_cramer_rao_bound():
    """For a Gaussian of height A in noise of deviation s a pixel the bound is s sqrt(2 / pi) / A, whatever its width."""
    rng = np.random.default_rng(2)
    height, noise, off, stated = 10.0, 2.0, [], []
    for _ in range(6):
        places = grid(15, rng)
        image = render(places, np.full(len(places), height), SHAPE, 2.5) + 5 + rng.normal(0, noise, SHAPE)
        fits = fit_columns(image, places + rng.normal(0, 0.7, places.shape), 2.3)
        off.append((fits.positions - places)[fits.usable])
        stated.append(np.diagonal(fits.position_covariance[fits.usable], axis1=1, axis2=2))
    error, bound = np.sqrt(np.mean(np.concatenate(off) ** 2)), noise * np.sqrt(2 / np.pi) / height
    assert 0.9 * bound < error < 1.15 * bound
    assert np.sqrt(np.mean(np.concatenate(stated))) == pytest.approx(error, rel=0.1)


def test_stated_errors_hold_in_correlated_noise():
    rng = np.random.default_rng(3)
    off, stated = [], []
    for _ in range(5):
        places = grid(15, rng)
        noise = gaussian_filter(rng.normal(size=SHAPE), 0.45)
        image = render(places, np.full(len(places), 10.0), SHAPE, 2.5) + noise * 2 / noise.std()
        fits = fit_columns(image, places, 2.5)
        off.append((fits.positions - places)[fits.usable])
        stated.append(np.diagonal(fits.position_covariance[fits.usable], axis1=1, axis2=2))
    assert np.sqrt(np.mean(np.concatenate(stated))) == pytest.approx(np.sqrt(np.mean(np.concatenate(off) ** 2)), rel=0.2)


def test_elliptical_shape():
    places = grid(16, np.random.default_rng(4), wobble=0.0)
    y, x = np.indices(SHAPE)
    shape = np.array([[7.0, 1.2], [1.2, 4.0]])
    inverse = np.linalg.inv(shape)
    image = np.zeros(SHAPE)
    for place in places:
        d = np.stack([y - place[0], x - place[1]], -1)
        image += 8 * np.exp(-0.5 * np.einsum("...i,ij,...j->...", d, inverse, d))
    assert np.allclose(fit_columns(image, places, 2.5).shape, shape, atol=0.25)


def test_fixed_columns_measure_what_is_not_there():
    rng = np.random.default_rng(5)
    places = grid(14, rng, wobble=0.0)
    missing = np.zeros(len(places), bool)
    missing[[33, 50]] = True
    image = render(places[~missing], np.full((~missing).sum(), 10.0), SHAPE, 2.3) + 3 + rng.normal(0, 0.5, SHAPE)
    fits = fit_columns(image, places, 2.3, np.eye(2) * 2.3**2, missing)
    assert np.abs(fits.amplitudes[missing]).max() < 4 * fits.amplitude_errors[missing].max()
    assert np.array_equal(fits.positions[missing], places[missing])
    assert np.isfinite(fits.amplitude_errors[missing]).all()


def test_width_of_the_mean_column():
    places = grid(14, np.random.default_rng(6))
    image = render(places, np.ones(len(places)), SHAPE, 2.4)
    assert column_width(image, places, 13.5) == pytest.approx(2.4, rel=0.15)


def test_columns_outside_the_image_are_refused():
    with pytest.raises(ValueError, match="none of 2 columns"):
        fit_columns(np.ones(SHAPE), np.array([[-30.0, 4.0], [400.0, 3.0]]), 2.0)
