"""Autofocus and eucentric height on synthetic specimens whose focus and height are known, through Poisson noise."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter, map_coordinates

from edgetem_nodes.microscope.focusing import Autofocus, EucentricHeight, FocusingError, Tilt, sharpness

SIDE = 64
STEP = 5e-10


def points(rng: np.random.Generator) -> np.ndarray:
    """Heavy atoms or small particles, 2 % of the pixels."""
    return (rng.random((SIDE, SIDE)) < 0.02).astype(float)


def defocused(specimen: np.ndarray, error: float) -> np.ndarray:
    """Expected image, mean 1.3: a probe 1.2 pixels wide in focus, and 0.1 pixel wider with every nm of defocus."""
    return 0.3 + gaussian_filter(specimen, math.hypot(1.2, 0.1 * error * 1e9), mode="wrap") / specimen.mean()


def focus(rng: np.random.Generator, best: float, dose: float, reach: float = 100e-9):
    specimen, autofocus = points(rng), Autofocus(0.0, reach)
    while (defocus := autofocus.ask()) is not None:
        autofocus.tell(defocus, rng.poisson(dose * defocused(specimen, defocus - best)))
    return autofocus.result()


@pytest.mark.parametrize(("dose", "limit"), [(1.0, 0.6e-9), (20.0, 0.2e-9)])
def test_finds_the_focus_and_knows_its_error(dose: float, limit: float) -> None:
    errors, normed = [], []
    for seed in range(20):
        rng = np.random.default_rng(seed)
        best = rng.uniform(-60e-9, 60e-9)
        found = focus(rng, best, dose)
        errors.append(found.defocus - best)
        normed.append(errors[-1] / found.standard_error)
        assert found.images == 18
    assert np.sqrt(np.mean(np.square(errors))) < limit
    assert 0.4 < np.sqrt(np.mean(np.square(normed))) < 1.6


def test_sharpness_has_no_bias_by_noise() -> None:
    rng = np.random.default_rng(0)
    image = defocused(points(rng), 10e-9)
    truth = sharpness(1e6 * image).value
    for dose in (0.3, 3.0, 30.0):
        found = [sharpness(rng.poisson(dose * image)) for _ in range(200)]
        values = np.array([s.value for s in found])
        assert values.mean() == pytest.approx(truth, abs=4 * values.std() / math.sqrt(200) + 0.01 * truth)
        assert np.mean([s.standard_error for s in found]) == pytest.approx(values.std(), rel=0.35)


def test_sharpness_does_not_depend_on_the_unit() -> None:
    rng = np.random.default_rng(1)
    counts = rng.poisson(100 * defocused(points(rng), 0.0))
    assert sharpness(counts * 0.37).value == pytest.approx(sharpness(counts).value, rel=0.05)


def test_without_contrast_it_says_so() -> None:
    rng = np.random.default_rng(2)
    autofocus = Autofocus(0.0, 1e-7)
    with pytest.raises(FocusingError, match="no contrast to focus on"):
        while (defocus := autofocus.ask()) is not None:
            autofocus.tell(defocus, rng.poisson(10.0, (SIDE, SIDE)))
    dark = Autofocus(0.0, 1e-7)
    with pytest.raises(FocusingError, match="no contrast"):
        while (defocus := dark.ask()) is not None:
            dark.tell(defocus, np.zeros((SIDE, SIDE)))


def test_a_focus_beyond_the_reach_is_named() -> None:
    with pytest.raises(FocusingError, match=r"end of the reach, 20 nm: start there"):
        focus(np.random.default_rng(3), 35e-9, 50.0, reach=20e-9)


def test_asks_for_no_more_images_than_announced_and_in_order() -> None:
    autofocus = Autofocus(10e-9, 50e-9, coarse=7, fine=5)
    assert autofocus.images == 12
    assert autofocus.ask() == pytest.approx(-40e-9)
    assert autofocus.ask() == pytest.approx(-40e-9)
    with pytest.raises(ValueError, match="was not asked for: -4e-08 m was"):
        autofocus.tell(0.0, np.ones((SIDE, SIDE)))
    with pytest.raises(FocusingError, match="0 of 12 images are there"):
        autofocus.result()


@pytest.mark.parametrize(("reach", "coarse"), [(0.0, 9), (-1e-9, 9), (math.inf, 9), (1e-7, 3)])
def test_a_search_that_makes_no_sense_is_refused(reach: float, coarse: int) -> None:
    with pytest.raises(ValueError, match=r"reach|too few"):
        Autofocus(0.0, reach, coarse=coarse)


class Tilted:
    """A texture at a height over the tilt axis, in a stage that drifts by `drift` [m] along y from image to image."""

    def __init__(self, seed: int, height: float, dose: float, drift: float = 0.0) -> None:
        self.rng = np.random.default_rng(seed)
        field = gaussian_filter(self.rng.normal(size=(256, 256)), 1.5, mode="wrap")
        self.scene = np.clip(1 + 0.4 * field / field.std(), 0.05, None)
        self.height, self.dose, self.drift, self.taken = height, dose, drift, 0

    def image(self, tilt: Tilt) -> np.ndarray:
        y, x = np.mgrid[:SIDE, :SIDE] - (SIDE - 1) / 2
        seen = y * STEP + tilt.offset_y - self.drift * self.taken
        on_specimen = (seen - self.height * math.sin(tilt.alpha)) / math.cos(tilt.alpha)
        self.taken += 1
        grid = [on_specimen / STEP + 127.5, x + 127.5]
        expected = np.clip(map_coordinates(self.scene, grid, order=3, mode="grid-wrap"), 0.01, None)
        return self.rng.poisson(self.dose * expected)

    def measure(self, reach: float = 1e-6):
        search = EucentricHeight((STEP, STEP), (SIDE, SIDE), reach)
        while (tilt := search.ask()) is not None:
            search.tell(tilt, self.image(tilt))
        assert self.taken == search.images
        return search.result()


@pytest.mark.parametrize("height", [-0.9e-6, 3e-8, 0.7e-6])
def test_finds_the_height_while_the_stage_drifts(height: float) -> None:
    for seed in range(4):
        found = Tilted(seed, height, dose=10.0, drift=1e-10).measure()
        assert found.height == pytest.approx(height, abs=1.5e-9)
        assert abs(found.height - height) < 4 * found.standard_error
        assert found.standard_error < 3e-9


def test_the_tilts_stay_within_the_limit_and_come_in_pairs() -> None:
    search, specimen = EucentricHeight((STEP, STEP), (SIDE, SIDE), 1e-6, largest_tilt=0.1, tilts=6), Tilted(0, 4e-7, 20.0)
    alphas = []
    while (tilt := search.ask()) is not None:
        alphas.append(tilt.alpha)
        search.tell(tilt, specimen.image(tilt))
    assert alphas[0] == 0
    assert max(map(abs, alphas)) == pytest.approx(0.1)
    assert np.array(alphas[1::2]) == pytest.approx(-np.array(alphas[2::2]))
    assert np.abs(alphas[1]) * 1e-6 < SIDE / 6 * STEP


def test_height_without_contrast_says_so() -> None:
    search, rng = EucentricHeight((STEP, STEP), (SIDE, SIDE), 1e-6), np.random.default_rng(0)
    search.tell(search.ask(), rng.poisson(10, (SIDE, SIDE)))
    with pytest.raises(FocusingError, match=r"degrees cannot be compared with the untilted one"):
        search.tell(search.ask(), rng.poisson(10, (SIDE, SIDE)))


def test_height_refuses_what_it_did_not_ask_for() -> None:
    search = EucentricHeight((STEP, STEP), (SIDE, SIDE), 1e-6)
    with pytest.raises(ValueError, match="was not asked for"):
        search.tell(Tilt(0.5, 0.0), np.ones((SIDE, SIDE)))
    with pytest.raises(ValueError, match="not of the shape announced"):
        search.tell(search.ask(), np.ones((8, 8)))
    with pytest.raises(FocusingError, match="1 images of 9 are there"):
        search.result()
    for arguments, text in (({"reach": -1e-6}, "^reach -1000 nm is not positive and finite$"),
                            ({"reach": 1e-6, "tilts": 3}, "^3 tilts .* even number$"),
                            ({"reach": 1e-6, "largest_tilt": 5.0}, "^largest tilt 5 rad is not above 0 and at most 1.2 rad$"),
                            ({"reach": 1e-6, "shape": (8, 40)}, "^image 8 x 40 is too small")):
        with pytest.raises(ValueError, match=text):
            EucentricHeight(**{"step": (STEP, STEP), "shape": (SIDE, SIDE), **arguments})


def test_a_lattice_does_not_mislead_the_height() -> None:
    step, height, period = 1.27e-10, 7e-9, 4.3
    rng, search = np.random.default_rng(5), EucentricHeight((step, step), (SIDE, SIDE), 2e-7, largest_tilt=0.1)
    y, x = np.mgrid[:SIDE, :SIDE] - (SIDE - 1) / 2
    while (tilt := search.ask()) is not None:
        seen = ((y * step + tilt.offset_y) - height * math.sin(tilt.alpha)) / math.cos(tilt.alpha) / step
        image = 1.1 + 0.5 * np.cos(2 * np.pi * seen / period) + 0.5 * np.cos(2 * np.pi * x / (1.3 * period))
        search.tell(tilt, rng.poisson(20 * image))
    found = search.result()
    assert found.height == pytest.approx(height, abs=1e-10)
    assert found.standard_error < 1e-10
