"""Maps averaged over discs: means, and variances against draws of the joint posterior."""

import numpy as np

from edgetem_nodes.physics.scan import ScanField
from edgetem_nodes.planner.averaging import averaged, disc_weights
from edgetem_nodes.planner.patches import grid_coordinates
from edgetem_nodes.planner.surrogates import Inputs, Surrogate, SurrogateSettings

FIELD = ScanField((0.0, 0.0), (1e-9, 2e-9), (13, 11))
SIZE = 13 * 11


def posterior():
    generator = np.random.default_rng(0)
    surrogate = Surrogate(Inputs(np.zeros((SIZE, 0)), grid_coordinates(FIELD.shape, FIELD.step)),
                          SurrogateSettings(use_survey=False))
    measured = generator.choice(SIZE, 25, replace=False)
    return surrogate.learn(measured, np.sin(measured / 20.0), np.full(25, 0.1), 0).predict()


def test_averages_are_those_of_draws_of_the_joint_posterior():
    latent = posterior()
    result = averaged(latent, FIELD, 3e-9)
    everywhere = np.arange(SIZE)
    values, vectors = np.linalg.eigh(latent.covariance(everywhere, everywhere))
    draws = latent.mean + (np.random.default_rng(1).standard_normal((20000, SIZE)) * np.sqrt(np.maximum(values, 0))) @ vectors.T
    inner = (np.arange(-200, 200) + 0.5) * 1e-11
    for place in (0, 37, 71, SIZE - 1):
        row, column = np.divmod(place, 11)
        covered = np.zeros((13, 11))
        for at in np.ndindex(13, 11):
            ys, xs = at[0] * 1e-9 + inner[150:250, None], at[1] * 2e-9 + inner[100:300]
            covered[at] = (np.hypot(ys - row * 1e-9, xs - column * 2e-9) <= 3e-9).mean()
        weights = covered.ravel() / covered.sum()
        mean = draws @ weights
        np.testing.assert_allclose(result.mean[place], weights @ latent.mean, rtol=0.01)
        np.testing.assert_allclose(result.variance[place], mean.var(), rtol=0.05)
        assert result.variance[place] < latent.variance[weights > 0].mean()


def test_a_disc_smaller_than_the_step_changes_nothing():
    latent = posterior()
    result = averaged(latent, FIELD, 0.4e-9)
    np.testing.assert_allclose(result.mean, latent.mean, rtol=1e-12)
    np.testing.assert_allclose(result.variance, latent.variance, rtol=1e-6)


def test_the_weights_are_of_the_disc_cut_off_at_the_border():
    field = ScanField((0.0, 0.0), (5e-10, 5e-10), (41, 41))
    weights, radius = disc_weights(field, 2.6e-9), 2.6e-9
    np.testing.assert_allclose(weights.sum(axis=1), 1.0, rtol=1e-12)
    whole = weights[[20 * 41 + 20]].toarray()[0].reshape(41, 41)
    np.testing.assert_allclose(whole.max(), 2.5e-19 / (np.pi * radius**2), rtol=0.01)
    offsets = (np.arange(41) - 20) * 5e-10
    second = (whole * (offsets[:, None] ** 2)).sum()
    np.testing.assert_allclose(second, radius**2 / 4 + 5e-10**2 / 12, rtol=0.02)  # of a disc, and of a cell
    corner = weights[[0]].toarray()[0].reshape(41, 41)
    # a quarter of the disc, and the half step that cells reach beyond the outermost positions
    quarter = np.pi * radius**2 / 4 + 2 * radius * 2.5e-10 + 2.5e-10**2
    np.testing.assert_allclose(corner.max(), 2.5e-19 / quarter, rtol=0.02)
