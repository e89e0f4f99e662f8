"""Maps averaged over discs: means, and variances against draws of the joint posterior."""

import numpy as np

from edgetem_nodes.physics.scan import ScanField
from edgetem_nodes.planner.averaging import averaged, disc_area
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
    positions = FIELD.positions()
    for place in (0, 37, 71, SIZE - 1):
        disc = np.hypot(*(positions - positions[place]).T) <= 3e-9 * (1 + 1e-9)
        mean = draws[:, disc].mean(axis=1)
        assert abs(result.mean[place] - latent.mean[disc].mean()) < 1e-12
        np.testing.assert_allclose(result.variance[place], mean.var(), rtol=0.05)
        assert result.variance[place] < latent.variance[disc].mean()


def test_a_disc_smaller_than_the_step_changes_nothing():
    latent = posterior()
    result = averaged(latent, FIELD, 0.5e-9)
    np.testing.assert_allclose(result.mean, latent.mean, rtol=1e-12)
    np.testing.assert_allclose(result.variance, latent.variance, rtol=1e-6)


def test_the_area_of_a_disc_is_what_of_it_lies_in_the_field():
    fine = ScanField((0.0, 0.0), (1e-10, 1e-10), (101, 101))
    area = disc_area(fine, 2e-9)
    np.testing.assert_allclose(area[50, 50], np.pi * (2e-9) ** 2, rtol=0.01)
    np.testing.assert_allclose(area[0, 0], np.pi * (2e-9) ** 2 / 4, rtol=0.08)
