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


def test_angle_of_the_deflection_and_its_standard_error():
    """From x towards y, in degrees, also beyond 90; the spread of a Monte Carlo."""
    expected = disk_image(np.array([[3.0, -4.0]]), np.array([400.0]), 8.0, AXES)
    frames = np.random.default_rng(4).poisson(expected, (4000, 64, 64)).astype(np.uint16)
    features = measure(frames, AXES, center_of_mass("angle"))
    assert build(center_of_mass("angle"), AXES).names == ("deflection_angle", "deflection_magnitude", "deflection_y",
                                                          "deflection_x")
    assert features.valid.all()
    assert features.values[:, 0].mean() == pytest.approx(np.degrees(np.arctan2(3, -4)), abs=0.3)
    assert np.sqrt((features.standard_errors[:, 0]**2).mean()) == pytest.approx(features.values[:, 0].std(), rel=0.05)


def test_angle_of_no_deflection_is_not_determined():
    expected = disk_image(np.array([[-0.0, 0.0]]), np.array([400.0]), 8.0, AXES)
    frames = np.random.default_rng(5).poisson(expected, (200, 64, 64)).astype(np.uint16)
    features = measure(frames, AXES, center_of_mass("angle"))
    assert features.valid.mean() < 0.05
    assert "the angle is not determined" in features.failures[int(np.argmin(features.valid))]
    assert measure(frames, AXES, center_of_mass("y")).valid.all()


@pytest.mark.parametrize(("quantity", "value"), [
    ("counts", lambda a, b, t: a), ("fraction", lambda a, b, t: a / t),
    ("difference", lambda a, b, t: a - b), ("asymmetry", lambda a, b, t: (a - b) / (a + b))])
def test_segments_and_their_ratios(quantity, value):
    """Against masks drawn by hand, 80 deg about +y, and the spread of a Monte Carlo."""
    expected = disk_image(np.array([[1.5, 0.5]]), np.array([900.0]), 12.0, AXES, background=0.02)
    frames = np.random.default_rng(6).poisson(expected, (3000, 64, 64)).astype(np.uint16)
    settings = VirtualDetector(2.0, 14.0, [0.0, 0.0], 50.0, 130.0, quantity)
    parameters = Parameters(scalarizer="virtual_detector", virtual_detector=settings)
    radius = np.hypot(ANGLE[:, None], ANGLE[None])
    ring = (radius >= 2) & (radius < 14)
    one = ring & (np.abs(ANGLE[None]) < ANGLE[:, None] * np.tan(np.radians(40)))
    features = measure(frames, AXES, parameters)
    opposite = np.zeros_like(one)
    opposite[1:, 1:] = one[1:, 1:][::-1, ::-1]
    counted = [frames[:, mask].sum(axis=1, dtype=float) for mask in (one, opposite, np.ones_like(one))]
    assert features.values[:, 0] == pytest.approx(value(*counted))
    assert np.sqrt((features.standard_errors[:, 0]**2).mean()) == pytest.approx(features.values[:, 0].std(), rel=0.05)


def test_segments_that_cannot_be_are_refused_and_no_counts_have_no_ratio():
    def settings(*values):
        return Parameters(scalarizer="virtual_detector", virtual_detector=VirtualDetector(2.0, 14.0, [0.0, 0.0], *values))
    for values, message in (((90.0, 45.0), "the last angle must be above"), ((0.0, 270.0, "difference"), "overlaps with the"),
                            ((1.0, 1.5), "no pixel lies between 1 and 1.5 deg")):
        with pytest.raises(ValueError, match=message):
            build(settings(*values), AXES)
    empty = measure(np.zeros((1, 64, 64), np.uint8), AXES, settings(0.0, 90.0, "asymmetry"))
    assert "they have no ratio" in empty.failures[0]
