"""Patches and their principal components, against direct slicing and scikit-learn."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

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


def test_a_patch_of_even_size_reaches_one_pixel_further_before_its_position():
    survey = np.random.default_rng(0).random((1, 9, 9))
    np.testing.assert_array_equal(patches(survey, 4)[4 * 9 + 5].reshape(4, 4), survey[0, 2:6, 3:7])
    np.testing.assert_array_equal(patches(survey, 1)[:, 0], survey.ravel())


def test_edges_are_mirrored_as_numpy_mirrors_them():
    survey = np.random.default_rng(0).random((1, 6, 8))
    padded = np.pad(survey[0], 3, mode="reflect")
    np.testing.assert_array_equal(patches(survey, 7)[0].reshape(7, 7), padded[:7, :7])
    np.testing.assert_array_equal(patches(survey, 7)[47].reshape(7, 7), padded[5:12, 7:14])


@pytest.mark.parametrize(("size", "channels"), [(3, 1), (16, 1), (16, 3)])
def test_components_are_those_of_a_singular_value_decomposition_also_with_fewer_positions_than_values(size, channels):
    survey = np.random.default_rng(1).random((channels, 12, 13))
    standardised = (survey - survey.mean(axis=(1, 2), keepdims=True)) / survey.std(axis=(1, 2), keepdims=True)
    table = patches(standardised, size)
    left, values, _ = np.linalg.svd(table - table.mean(axis=0), full_matrices=False)
    expected = (left * values)[:, :5] / (left * values)[:, 0].std()
    result = patch_components(survey, size, 5)
    np.testing.assert_allclose(np.abs(result), np.abs(expected), atol=1e-6)


def test_components_of_a_large_field_come_from_patches_spread_over_it():
    """The same directions as all patches give, but for the sample's noise."""
    generator = np.random.default_rng(2)
    rows, columns = np.mgrid[:100, :100]
    survey = (np.sin(rows / 9) + np.cos(columns / 7) + 0.2 * generator.normal(size=(100, 100)))[None]
    result = patch_components(survey, 5, 3)
    table = patches((survey - survey.mean()) / survey.std(), 5)
    left, values, _ = np.linalg.svd(table - table.mean(axis=0), full_matrices=False)
    for mine, theirs in zip(result.T, (left * values).T, strict=False):
        assert abs(np.corrcoef(mine, theirs)[0, 1]) > 0.98


@given(st.integers(1, 3), st.integers(2, 9), st.integers(2, 9), st.integers(1, 6), st.integers(1, 40), st.floats(-1e50, 1e50),
       st.sampled_from([0.0, 1e-12, 1.0, 1e40]), st.integers(0, 9))
def test_any_survey_gives_finite_components_and_a_constant_one_zeros(channels, rows, columns, size, count, level, contrast,
                                                                     seed):
    size = min(size, 2 * min(rows, columns) - 1)
    noise = np.random.default_rng(seed).random((channels, rows, columns))
    result = patch_components(level + contrast * noise, size, count)
    assert result.shape == (rows * columns, min(count, channels * size * size))
    assert np.isfinite(result).all()
    if contrast == 0.0:
        assert not result.any()
    elif result.any():
        assert result[:, 0].std() == pytest.approx(1.0)


def test_sizes_that_do_not_fit_are_refused_and_the_largest_that_does_is_named():
    with pytest.raises(ValueError, match="patch size 7 does not fit a survey of 3 x 9 pixels: take at most 5"):
        patches(np.zeros((1, 3, 9)), 7)
    assert patches(np.zeros((1, 3, 9)), 5).shape == (27, 25)
