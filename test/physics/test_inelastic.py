"""Plasmon background and amorphous layer: against Poisson statistics, other integrals, a Monte Carlo, conservation."""

import time

import numpy as np
import pytest
from scipy.integrate import quad

from edgetem_nodes.physics.electrons import AVOGADRO
from edgetem_nodes.physics.inelastic import (AmorphousLayer, PlasmonBackground, Redistribution, characteristic_angle,
                                             scattering_probabilities)
from edgetem_nodes.physics.optics import Camera

CAMERA = Camera(64, 1e-3)


def beam(camera: Camera = CAMERA) -> np.ndarray:
    """All of the beam in the middle pixel."""
    pattern = np.zeros((1, camera.pixels, camera.pixels), np.float32)
    pattern[0, camera.pixels // 2, camera.pixels // 2] = 1
    return pattern


def test_characteristic_angle_is_that_of_the_tables() -> None:
    # Egerton, EELS in the EM, appendix E: m v^2 / 2 = 76.79 keV at 100 kV.
    assert characteristic_angle(25.0, 100e3) == pytest.approx(25 / (2 * 76.79e3 * (1 + 100 / 511.0)), rel=2e-3)


def test_plasmon_orders_follow_poisson() -> None:
    probability = scattering_probabilities(np.array([0.0, 0.5, 2.0]), 40)
    assert probability.sum(axis=1) == pytest.approx(1.0)
    assert probability[1, 1] == pytest.approx(0.5 * np.exp(-0.5))
    assert (probability * np.arange(41)).sum(axis=1) == pytest.approx([0.0, 0.5, 2.0])


def test_nothing_is_lost_on_a_camera_that_holds_all_angles() -> None:
    background = PlasmonBackground(CAMERA, 200e3, 25.0, 8e-3)
    result = background.add(beam(), 0.8)
    assert result.dtype == np.float32
    assert float(result.sum()) == pytest.approx(1.0, abs=1e-5)
    assert float(background.add(beam(), 0.0).sum()) == pytest.approx(1.0, abs=1e-6)


def test_single_scattering_is_a_lorentzian_up_to_the_cutoff() -> None:
    background, thin = PlasmonBackground(CAMERA, 200e3, 25.0, 12e-3), 1e-3
    scattered = background.add(beam(), thin, unscattered=False)[0] / (thin * np.exp(-thin))
    theta_e, cutoff = background.characteristic_angle, background.cutoff_angle
    total = np.pi * np.log(1 + (cutoff / theta_e) ** 2)
    for away in (2, 5, 9):
        assert scattered[32, 32 + away] == pytest.approx(1e-6 / ((away * 1e-3) ** 2 + theta_e ** 2) / total, rel=0.06)
    assert scattered[32, 32 + 14] == pytest.approx(0.0, abs=2e-5)
    middle = quad(lambda r: 2 * np.pi * r / (r ** 2 + theta_e ** 2), 0, 0.5e-3, points=[theta_e])[0] / total
    assert middle < scattered[32, 32] < middle * 1.1


def test_plural_scattering_agrees_with_a_monte_carlo() -> None:
    background, t = PlasmonBackground(CAMERA, 200e3, 20.0, 10e-3), 1.5
    rng = np.random.default_rng(5)
    n = 200_000
    position = rng.uniform(-0.5e-3, 0.5e-3, (n, 2))
    theta_e, cutoff = background.characteristic_angle, background.cutoff_angle
    left = rng.poisson(t, n)
    while left.any():
        on = left > 0
        angle = theta_e * np.sqrt((1 + (cutoff / theta_e) ** 2) ** rng.uniform(size=on.sum()) - 1)
        turn = rng.uniform(0, 2 * np.pi, on.sum())
        position[on] += np.stack([angle * np.sin(turn), angle * np.cos(turn)], axis=-1)
        left[on] -= 1
    pixel = np.rint(position / 1e-3).astype(int) + 32
    inside = ((pixel >= 0) & (pixel < 64)).all(axis=1)
    counted = np.zeros((64, 64))
    np.add.at(counted, tuple(pixel[inside].T), 1 / n)
    ours = background.add(beam(), t)[0]
    radius = np.hypot(*np.meshgrid(np.arange(64) - 32, np.arange(64) - 32))
    # The Monte Carlo spreads the beam evenly over its pixel, ours puts it in the pixel's middle: compare rings, not pixels.
    for low, high, tolerance in ((0, 3.5, 0.01), (3.5, 7.5, 0.04), (7.5, 14.5, 0.05)):
        ring = (radius >= low) & (radius < high)
        assert ours[ring].sum() == pytest.approx(counted[ring].sum(), rel=tolerance)


def test_thickness_may_differ_from_pattern_to_pattern() -> None:
    background = PlasmonBackground(CAMERA, 80e3, 15.0, 10e-3)
    patterns = np.random.default_rng(0).random((3, 64, 64), dtype=np.float32)
    thickness = np.array([0.0, 0.3, 1.0])
    together = background.add(patterns, thickness)
    for number in range(3):
        assert np.array_equal(together[number], background.add(patterns[number:number + 1], thickness[number])[0])
    assert together[0] == pytest.approx(patterns[0], abs=1e-5)


def test_a_layer_of_carbon_attenuates_exponentially_and_keeps_the_beam() -> None:
    layer = AmorphousLayer(CAMERA, 200e3)
    # Langmore & Smith, Ultramicroscopy 46, 349 (1992): elastic, 1.4e-6 Z^1.5 / beta^2 (1 - 0.26 Z / 137 beta) nm^2.
    beta2 = 0.4834
    published = 1.4e-6 * 6 ** 1.5 / beta2 * (1 - 0.26 * 6 / (137 * np.sqrt(beta2))) * 1e-18
    assert 12.011e-3 / (AVOGADRO * 2e3 * layer.mean_free_path) == pytest.approx(published, rel=0.25)
    thickness = np.array([0.0, 5e-9, 20e-9])
    result = layer.add(np.repeat(beam(), 3, axis=0), thickness)
    away = result[:, 32, 32]
    assert away == pytest.approx(np.exp(-thickness / layer.mean_free_path), rel=5e-3)
    assert result.sum(axis=(1, 2)) == pytest.approx(1.0, abs=0.02)
    assert (np.diff(result[:, 32, 40]) > 0).all()


def test_a_camera_pixel_away_from_the_middle_holds_the_integral_of_the_distribution() -> None:
    camera = Camera(16, 2e-3)
    spread = Redistribution(camera, lambda angle: np.exp(-(angle / 6e-3) ** 2), 0.1)
    single = (spread(beam(camera), 1e-3)[0] / 1e-3)
    x = np.linspace(3e-3, 5e-3, 2001)
    line = np.exp(-(x / 6e-3) ** 2).mean() * 2e-3
    middle = np.exp(-(np.linspace(-1e-3, 1e-3, 2001) / 6e-3) ** 2).mean() * 2e-3
    assert single[8, 10] == pytest.approx(line * middle / (np.pi * 6e-3 ** 2), rel=3e-3)


def test_unphysical_requests_are_refused() -> None:
    background = PlasmonBackground(CAMERA, 200e3, 25.0, 8e-3)
    with pytest.raises(ValueError, match=r"thickness -0.1 mean free paths is negative"):
        background.add(beam(), -0.1)
    with pytest.raises(ValueError, match=r"cut-off angle 0.01 mrad is not beyond the characteristic angle"):
        PlasmonBackground(CAMERA, 200e3, 25.0, 1e-5)
    with pytest.raises(ValueError, match=r"energy loss -3.0 eV"):
        characteristic_angle(-3.0, 200e3)
    with pytest.raises(ValueError, match=r"do not come from a camera of 64 x 64"):
        background.add(np.zeros((1, 32, 32)), 0.1)


def test_background_is_cheap() -> None:
    camera = Camera(128, 1e-3)
    background = PlasmonBackground(camera, 200e3, 25.0, 10e-3)
    patterns = np.random.default_rng(0).random((200, 128, 128), dtype=np.float32)
    background.add(patterns[:4], 0.5)
    before = time.process_time()
    background.add(patterns, 0.5)
    assert 200 / (time.process_time() - before) > 300
