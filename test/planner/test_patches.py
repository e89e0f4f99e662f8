"""Patches and their principal components, against direct slicing and scikit-learn."""

import numpy as np
import pytest

from edgetem_nodes.planner.patches import grid_coordinates, patch_components, patches


def test_a_patch_is_the_neighbourhood_of_its_pixel_in_every_channel():
    survey = np.random.default_rng(0).random((2, 7, 9))
    flat = patches(survey, 3)
    assert flat.shape == (63, 18)
    np.testing.assert_array_equal(flat[4 * 9 + 5].reshape(2, 3, 3), survey[:, 3:6, 4:7])
    np.testing.assert_array_equal(flat[0].reshape(2, 3, 3)[:, 0, 0], survey[:, 1, 1])


def test_components_are_those_of_scikit_learn_up_to_sign():
    decomposition = pytest.importorskip("sklearn.decomposition", reason="scikit-learn is not installed")
    survey = np.random.default_rng(0).random((1, 12, 10)) ** 3
    expected = decomposition.PCA(4).fit_transform(patches((survey - survey.mean()) / survey.std(), 3))
    result = patch_components(survey, 3, 4)
    expected /= expected[:, 0].std()
    for mine, theirs in zip(result.T, expected.T, strict=True):
        np.testing.assert_allclose(mine * np.sign(mine @ theirs), theirs, atol=1e-9)


def test_a_survey_without_contrast_says_nothing():
    assert (patch_components(np.full((1, 8, 8), 5.0), 3, 4) == 0).all()


def test_coordinates_are_in_units_of_the_longer_side():
    coordinates = grid_coordinates((3, 5), (2e-9, 1e-9))
    np.testing.assert_allclose(coordinates[-1], [1.0, 1.0])
    np.testing.assert_allclose(grid_coordinates((3, 5), (1e-9, 1e-9))[-1], [0.5, 1.0])


def test_sizes_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match="patch size 4 is even"):
        patches(np.zeros((1, 9, 9)), 4)
    with pytest.raises(ValueError, match="does not fit a survey of 3 x 9"):
        patches(np.zeros((1, 3, 9)), 7)
