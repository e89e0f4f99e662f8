"""Registration of low-dose images, against shifts made in Fourier space, the Cramer-Rao bound, and phase correlation."""

from __future__ import annotations

import numpy as np
import pytest
from skimage.registration import phase_cross_correlation

from edgetem_nodes.physics.registration import register

SIZE, CORNER, SIDE = 96, (32, 30), 32
INNER = (slice(CORNER[0], CORNER[0] + SIDE), slice(CORNER[1], CORNER[1] + SIDE))


def wave_numbers() -> np.ndarray:
    frequencies = np.fft.fftfreq(SIZE)
    return np.stack(np.meshgrid(frequencies, frequencies, indexing="ij"))


def texture(rng: np.random.Generator, width: float = 1.5, contrast: float = 0.3) -> np.ndarray:
    k = wave_numbers()
    blur = np.exp(-2 * (np.pi * width) ** 2 * (k ** 2).sum(axis=0))
    field = np.fft.ifft2(np.fft.fft2(rng.normal(size=(SIZE, SIZE))) * blur).real
    return np.clip(1 + contrast * field / field.std(), 0.05, None)


def moved(scene: np.ndarray, shift: np.ndarray) -> np.ndarray:
    """The scene (periodic) moved by (y, x) pixels, exactly."""
    phase = np.exp(-2j * np.pi * np.einsum("iyx,i->yx", wave_numbers(), shift))
    return np.clip(np.fft.ifft2(np.fft.fft2(scene) * phase).real, 0.01, None)


def bound(scene: np.ndarray, dose: float) -> np.ndarray:
    """Cramer-Rao bound (2, 2) [pixels^2] for two Poisson pictures of a scene that is known but for its shift."""
    slopes = np.stack(np.gradient(dose * scene))[(slice(None), *INNER)]
    return np.linalg.inv(np.einsum("iyx,jyx,yx->ij", slopes, slopes, 1 / (2 * dose * scene[INNER])))


@pytest.mark.parametrize("shift", [(0.0, 0.0), (0.37, -2.61), (-5.5, 4.25)])
def test_finds_a_shift_without_noise(shift: tuple[float, float]) -> None:
    scene = texture(np.random.default_rng(0))
    found = register(moved(scene, np.array(shift))[INNER], scene, CORNER)
    assert found.reliable
    assert (found.y, found.x) == pytest.approx(shift, abs=0.01)
    assert found.quality > 0.99


@pytest.mark.parametrize(("dose", "factor"), [(20.0, 1.6), (200.0, 1.3)])
def test_error_is_close_to_the_cramer_rao_bound_and_known(dose: float, factor: float) -> None:
    rng = np.random.default_rng(1)
    errors, normed, bounds = [], [], []
    for _ in range(60):
        scene, shift = texture(rng), rng.uniform(-3, 3, 2)
        found = register(rng.poisson(dose * moved(scene, shift))[INNER], rng.poisson(dose * scene), CORNER)
        assert found.reliable, found.problem
        errors.append([found.y, found.x] - shift)
        normed.append(errors[-1] / np.array(found.standard_error))
        bounds.append(np.trace(bound(scene, dose)) / 2)
    rms = np.sqrt(np.mean(np.square(errors)))
    assert np.sqrt(np.mean(bounds)) * 0.9 < rms < np.sqrt(np.mean(bounds)) * factor
    assert 0.7 < np.sqrt(np.mean(np.square(normed))) < 1.2
    assert np.abs(np.mean(errors, axis=0)).max() < 4 * rms / np.sqrt(60)


def test_at_low_dose_beats_phase_and_cross_correlation() -> None:
    rng, dose = np.random.default_rng(2), 4.0
    ours, phase, cross = [], [], []
    for _ in range(40):
        scene, shift = texture(rng), rng.uniform(-3, 3, 2)
        image, survey = rng.poisson(dose * moved(scene, shift))[INNER], rng.poisson(dose * scene)
        found = register(image, survey, CORNER)
        ours.append([found.y, found.x] - shift)
        pair = (survey[INNER] - survey[INNER].mean(), image - image.mean())
        phase.append(-phase_cross_correlation(*pair, upsample_factor=20)[0] - shift)
        cross.append(-phase_cross_correlation(*pair, upsample_factor=20, normalization=None)[0] - shift)
    ours, phase, cross = (np.sqrt(np.mean(np.square(e))) for e in (ours, phase, cross))
    assert ours < 0.6
    assert ours < 0.75 * cross
    assert ours < 0.3 * phase


def test_brightness_may_differ_and_the_unit_does_not_matter() -> None:
    rng = np.random.default_rng(3)
    scene, shift = texture(rng), np.array([1.3, -0.8])
    survey = rng.poisson(100 * scene) * 0.013
    image = rng.poisson(25 * moved(scene, shift))[INNER] * 7.0
    found = register(image, survey, CORNER)
    assert found.reliable
    assert np.abs([found.y, found.x] - shift).max() < 4 * max(found.standard_error)


def test_no_contrast_is_refused_whatever_the_noise() -> None:
    rng = np.random.default_rng(4)
    survey = rng.poisson(100 * texture(rng))
    for dose in (1, 10, 1000):
        found = [register(rng.poisson(dose, (SIDE, SIDE)), survey, CORNER) for _ in range(10)]
        assert not any(shift.reliable for shift in found)
    assert "the same everywhere" in register(np.zeros((SIDE, SIDE)), survey, CORNER).problem


def test_another_specimen_is_refused() -> None:
    rng = np.random.default_rng(5)
    wrong = 0
    for _ in range(40):
        found = register(rng.poisson(100 * texture(rng))[INNER], rng.poisson(100 * texture(rng)), CORNER)
        wrong += found.reliable
    assert wrong <= 1


def test_a_shift_beyond_the_search_is_refused() -> None:
    rng = np.random.default_rng(6)
    scene = texture(rng)
    refused = [not register(rng.poisson(50 * moved(scene, np.array([20.0, 0.0])))[INNER], rng.poisson(50 * scene),
                            CORNER).reliable for _ in range(10)]
    assert all(refused)


def lattice(shift: np.ndarray, period: float) -> np.ndarray:
    y, x = np.mgrid[:SIZE, :SIZE]
    return 1 + 0.4 * np.cos(2 * np.pi * (y - shift[0]) / period) + 0.4 * np.cos(2 * np.pi * (x - shift[1]) / period)


@pytest.mark.parametrize("period", [5.0, 5.37])
def test_a_lattice_is_ambiguous_unless_the_shift_is_known_to_less_than_a_cell(period: float) -> None:
    rng, shift = np.random.default_rng(7), np.array([1.2, -0.7])
    image, survey = rng.poisson(50 * lattice(shift, period)), rng.poisson(50 * lattice(np.zeros(2), period))
    assert "ambiguous" in register(image[INNER], survey, CORNER).problem
    known = register(image[INNER], survey, CORNER, expected=(1.0, -1.0), expected_covariance=0.2 * np.eye(2))
    assert known.reliable, known.problem
    assert np.abs([known.y, known.x] - shift).max() < 0.1
    beyond = register(image[INNER], survey, CORNER, expected=(1.0 + period, -1.0), expected_covariance=0.2 * np.eye(2))
    assert beyond.y == pytest.approx(shift[0] + period, abs=0.1)


def test_an_edge_says_nothing_about_the_way_along_it() -> None:
    rng = np.random.default_rng(8)
    y = np.arange(SIZE)[:, None] * np.ones(SIZE)
    image, survey = (rng.poisson(50 / (1 + np.exp(-(y - 48 - s) / 1.5)) + 10) for s in (1.6, 0.0))
    found = register(image[INNER], survey, CORNER, expected_covariance=4 * np.eye(2))
    assert found.y == pytest.approx(1.6, abs=4 * found.standard_error[0])
    assert found.standard_error[0] < 0.3
    assert found.standard_error[1] > 1.0


def test_a_region_at_the_edge_of_the_survey_works() -> None:
    rng, shift = np.random.default_rng(9), np.array([-1.4, 2.2])
    scene = texture(rng)
    found = register(rng.poisson(100 * moved(scene, shift))[:SIDE, :SIDE], rng.poisson(100 * scene), (0, 0))
    assert found.reliable
    assert np.abs([found.y, found.x] - shift).max() < 0.3


@pytest.mark.parametrize(("image", "corner", "search", "message"),
                         [((4, 32), (0, 0), 2, "at least 8 x 8"), ((32, 32), (70, 0), 8, "outside the survey"),
                          ((32, 32), (0, 0), 40, "search 40"), ((32, 32), (0, 0), 0, "search 0")])
def test_what_does_not_fit_is_refused(image: tuple[int, int], corner: tuple[int, int], search: int, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        register(np.ones(image), np.ones((SIZE, SIZE)), corner, search)
    with pytest.raises(ValueError, match="not finite"):
        register(np.full((32, 32), np.nan), np.ones((SIZE, SIZE)))
