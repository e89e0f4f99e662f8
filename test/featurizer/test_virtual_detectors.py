"""Virtual detectors and centre of mass against plain numpy and Monte Carlo."""

from __future__ import annotations

import numpy as np
import pytest
from analytic_patterns import disk_image, pattern_axes

from edgetem_nodes.featurizer.parameters import CenterOfMass, Parameters, VirtualDetector
from edgetem_nodes.featurizer.scalarizers import build, measure

AXES = pattern_axes()
ANGLE = AXES[0].values() * 1e3


def center_of_mass(component: str = "y", outer: float = 0.0) -> Parameters:
    return Parameters(scalarizer="center_of_mass", center_of_mass=CenterOfMass(component, outer, [0.0, 0.0]))


def test_ring_is_the_sum_over_a_mask():
    frames = np.random.default_rng(1).poisson(3.0, (20, 64, 64)).astype(np.uint16)
    parameters = Parameters(scalarizer="virtual_detector", virtual_detector=VirtualDetector(5.0, 20.0, [1.0, -2.0]))
    mask = np.hypot(ANGLE[:, None] - 1, ANGLE[None] + 2)
    mask = (mask >= 5) & (mask < 20)
    features = measure(frames, AXES, parameters)
    assert np.array_equal(features.values[:, 0], frames[:, mask].sum(axis=1))
    assert features.standard_errors[:, 0] == pytest.approx(np.sqrt(features.values[:, 0]))


def test_ring_outside_the_detector_is_refused():
    parameters = Parameters(scalarizer="virtual_detector", virtual_detector=VirtualDetector(60.0, 80.0, [0.0, 0.0]))
    with pytest.raises(ValueError, match="no pixel lies between 60 and 80 mrad.*covers y -32 to 31"):
        build(parameters, AXES)
    parameters.virtual_detector = VirtualDetector(20.0, 20.0, [0.0, 0.0])
    with pytest.raises(ValueError, match="must be above"):
        build(parameters, AXES)


def test_center_of_mass_is_numpy_average():
    frames = np.random.default_rng(2).poisson(np.exp(-np.hypot(ANGLE[:, None] - 3, ANGLE[None] + 5) / 6), (10, 64, 64))
    scalarizer = build(center_of_mass("magnitude"), AXES)
    values = scalarizer(frames).values
    assert scalarizer.names == ("deflection_magnitude", "deflection_y", "deflection_x")
    for frame, (magnitude, y, x) in zip(frames, values, strict=True):
        assert y == pytest.approx(np.average(np.broadcast_to(ANGLE[:, None], (64, 64)), weights=frame))
        assert x == pytest.approx(np.average(np.broadcast_to(ANGLE[None], (64, 64)), weights=frame))
        assert magnitude == pytest.approx(np.hypot(y, x))


def test_standard_error_of_the_center_of_mass_covers():
    expected = disk_image(np.array([[1.3, -0.7]]), np.array([150.0]), 8.0, AXES)
    frames = np.random.default_rng(3).poisson(expected, (4000, 64, 64)).astype(np.uint16)
    truth = (expected * ANGLE[:, None]).sum() / expected.sum()
    features = measure(frames, AXES, center_of_mass("y"))
    deviation = np.abs(features.values[:, 0] - truth)
    assert (deviation < features.standard_errors[:, 0]).mean() == pytest.approx(0.683, abs=0.025)
    assert (deviation < 1.96 * features.standard_errors[:, 0]).mean() == pytest.approx(0.95, abs=0.015)


def test_empty_frames_saturated_pixels_and_nan_are_marked_failures():
    frames = np.ones((4, 64, 64))
    frames[1] = 0
    frames[2, 30, 30] = np.nan
    frames[3, 30, 30] = 1000
    parameters = center_of_mass()
    parameters.saturation = 1000.0
    features = measure(frames, AXES, parameters)
    assert features.valid.tolist() == [True, False, False, False]
    assert "empty" in features.failures[1]
    assert "not finite" in features.failures[2]
    assert "saturated" in features.failures[3]


def test_pixels_outside_the_chosen_radius_do_not_matter():
    frames = np.ones((1, 64, 64))
    frames[0, 0, 0] = np.nan
    assert measure(frames, AXES, center_of_mass("y", outer=10.0)).valid[0]
