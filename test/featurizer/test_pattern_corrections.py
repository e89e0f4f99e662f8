"""Corrections in the fused pass against corrected frames written out in numpy, and against a Monte Carlo."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from edgetem_nodes.featurizer.features import CountingNoise
from edgetem_nodes.featurizer.parameters import CenterOfMass, VirtualDetector
from edgetem_nodes.featurizer.patterns.corrections import Corrections
from edgetem_nodes.featurizer.patterns.events import Events
from edgetem_nodes.featurizer.patterns.reduction import Reduction
from edgetem_nodes.featurizer.virtual_detectors import CenterOfMassScalarizer, VirtualDetectorScalarizer
from edgetem_nodes.physics.scan import Axis

SHAPE = (26, 35)
Y, X = np.indices(SHAPE)
DISK = np.hypot(Y - 12, X - 17) < 8
RING = ~DISK
RNG = np.random.default_rng(0)
DARK = RNG.uniform(2, 5, SHAPE)
GAIN = RNG.uniform(0.8, 1.2, SHAPE)
DEAD = RNG.random(SHAPE) < 0.03
DEAD[12, 17] = True
MASKS = {"disk": DISK, "ring": RING, "slope": (X - 17) / 10}


def by_hand(frames: np.ndarray, dark: bool, gain: bool, dead: bool, interpolate: bool) -> np.ndarray:
    """Corrected frames, one pixel after the other; 0 where a pixel is dead."""
    result = np.zeros(frames.shape)
    for i, j in itertools.product(*map(range, SHAPE)):
        if not (dead and DEAD[i, j]):
            result[:, i, j] = (frames[:, i, j].astype(float) - DARK[i, j] * dark) * (GAIN[i, j] if gain else 1)
    if dead and interpolate:
        for i, j in zip(*np.nonzero(DEAD), strict=True):
            near = [(i + a, j + b) for a, b in itertools.product((-1, 0, 1), repeat=2) if 0 <= i + a < SHAPE[0]
                    and 0 <= j + b < SHAPE[1] and not DEAD[i + a, j + b]]
            if len(near) >= 3:
                result[:, i, j] = np.mean([result[:, a, b] for a, b in near], axis=0)
    return result


@pytest.mark.parametrize("dtype", [np.uint16, np.float32])
@pytest.mark.parametrize(("dark", "gain", "dead", "interpolate"), [
    (True, False, False, False), (False, True, False, False), (False, False, True, False), (False, False, True, True),
    (True, True, True, False), (True, True, True, True)])
def test_corrections_in_the_pass_are_corrections_by_hand(dtype, dark, gain, dead, interpolate):
    frames = np.random.default_rng(1).poisson(20.0, (5, *SHAPE)).astype(dtype)
    if dead:
        frames[:, DEAD] = np.nan if dtype == np.float32 else 65535
    corrections = Corrections(DARK if dark else None, GAIN if gain else None, DEAD if dead else None, interpolate)
    expected = by_hand(frames, dark, gain, dead, interpolate)
    reduced = Reduction(SHAPE, MASKS, corrections=corrections)(frames)
    assert not any(reduced.failures)
    for name, mask in MASKS.items():
        assert reduced[name] == pytest.approx((expected * mask).sum(axis=(1, 2)), rel=1e-11)
    total = expected.sum(axis=(1, 2))
    assert reduced.total == pytest.approx(total, rel=1e-12)
    for k, place in enumerate((Y, X)):
        center = (expected * place).sum(axis=(1, 2)) / total
        assert reduced.center_of_mass[:, k] == pytest.approx(center, rel=1e-11)
        assert reduced.variance[:, k, k] == pytest.approx(
            (expected * (place - center[:, None, None])**2).sum(axis=(1, 2)) / total, rel=1e-9)
    assert np.nan_to_num(corrections.applied(frames)) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("interpolate", [False, True])
def test_standard_errors_of_corrected_frames_are_the_spread_of_a_monte_carlo(interpolate):
    """Interpolated counts are shared with their neighbours: errors that took them for independent would be too small."""
    rng = np.random.default_rng(2)
    dead = np.random.default_rng(3).random(SHAPE) < 0.12
    expected = 3.0 * np.exp(-((Y - 11)**2 + (X - 18)**2) / 60)
    frames = 4.0 * rng.poisson(expected, (5000, *SHAPE)) + DARK + 2.0 * rng.normal(size=(5000, *SHAPE))
    reduced = Reduction(SHAPE, MASKS, noise=CountingNoise(4.0, 2.0),
                        corrections=Corrections(DARK, GAIN, dead, interpolate))(frames)
    for values, errors in ((reduced.counts, reduced.standard_errors),
                           (reduced.center_of_mass, reduced.center_of_mass_errors)):
        assert np.sqrt((errors**2).mean(axis=0)) == pytest.approx(values.std(axis=0), rel=0.05)
    spread = np.cov(reduced.center_of_mass.T)
    assert reduced.center_of_mass_covariance.mean(axis=0) == pytest.approx(spread, rel=0.1, abs=0.05 * spread.max())


def test_errors_of_scalarizers_know_the_corrections():
    axes = tuple(Axis(name, "rad", 1e-3, -size // 2 * 1e-3, size) for name, size in zip(("ky", "kx"), SHAPE, strict=True))
    rng, gain = np.random.default_rng(6), np.where(X > 17, 1.6, 0.7)
    expected = 3.0 * np.exp(-((Y - 11)**2 + 2 * (X - 18)**2 + (Y - 11) * (X - 18)) / 60)
    frames = 4.0 * rng.poisson(expected, (5000, *SHAPE)) + DARK + 2.0 * rng.normal(size=(5000, *SHAPE))
    noise, corrections = CountingNoise(4.0, 2.0), Corrections(DARK, gain, DEAD, True)
    for scalarizer in (CenterOfMassScalarizer(CenterOfMass("magnitude", 0.0, [30.0, 20.0]), noise, axes, corrections),
                       VirtualDetectorScalarizer(VirtualDetector(0.0, 8.0, [0.0, 0.0], 0.0, 90.0, "asymmetry"), noise, axes,
                                                 corrections)):
        features = scalarizer(frames)
        assert features.valid.all()
        spread = features.values.std(axis=0)
        assert np.sqrt((features.standard_errors**2).mean(axis=0)) == pytest.approx(spread, rel=0.05)


def test_events_take_the_same_corrections():
    frames = np.random.default_rng(4).poisson(0.3, (20, *SHAPE)).astype(np.uint8)
    for corrections in (Corrections(dead=DEAD), Corrections(0.01 * DARK, GAIN, DEAD, True)):
        reduction = Reduction(SHAPE, MASKS, corrections=corrections)
        dense, sparse = reduction(frames), reduction(Events.of(frames))
        for name in ("counts", "standard_errors", "center_of_mass", "center_of_mass_errors", "variance"):
            assert getattr(sparse, name) == pytest.approx(getattr(dense, name), rel=1e-10, abs=1e-10)


def test_detectors_tell_how_much_of_them_is_dead():
    stop = np.hypot(Y - 12, X - 17) < 4
    reduction = Reduction(SHAPE, {"disk": DISK, "ring": RING}, corrections=Corrections(dead=stop))
    assert reduction.dead_fraction == {"disk": pytest.approx(stop.sum() / DISK.sum()), "ring": 0.0}
    rim = Reduction(SHAPE, {"disk": DISK}, corrections=Corrections(dead=stop, interpolate=True))
    assert 0.3 * reduction.dead_fraction["disk"] < rim.dead_fraction["disk"] < reduction.dead_fraction["disk"]
    isolated = np.zeros(SHAPE, bool)
    isolated[12, 17] = True
    assert Reduction(SHAPE, {"disk": DISK}, corrections=Corrections(dead=isolated, interpolate=True)).dead_fraction["disk"] == 0


def test_a_beam_stop_over_the_whole_detector_is_refused():
    with pytest.raises(ValueError, match="every pixel of 'disk' is dead or behind the beam stop"):
        Reduction(SHAPE, {"disk": DISK, "ring": RING}, corrections=Corrections(dead=np.hypot(Y - 12, X - 17) < 9))
    with pytest.raises(ValueError, match="every pixel of 'moments' is dead"):
        Reduction(SHAPE, {}, corrections=Corrections(dead=np.ones(SHAPE, bool)))


def test_a_hot_pixel_that_is_not_marked_fails_the_frame_and_marked_does_not():
    frames = np.ones((1, *SHAPE), np.uint16)
    frames[0, 12, 17] = 65535
    assert "1 of the 910 pixels in use are saturated" in Reduction(SHAPE, MASKS)(frames).failures[0]
    reduced = Reduction(SHAPE, MASKS, corrections=Corrections(dead=DEAD))(frames)
    assert reduced.failures == [""]
    assert reduced["disk"][0] == np.count_nonzero(DISK & ~DEAD)


@pytest.mark.parametrize(("corrections", "message"), [
    (Corrections(dark=np.zeros((3, 3))), r"dark map has shape \(3, 3\), frames have"),
    (Corrections(gain=np.full(SHAPE, np.nan)), "gain map is not finite on 910 live pixels"),
    (Corrections(gain=np.zeros(SHAPE)), "gain map is not positive on 910 live pixels"),
    (Corrections(dead=np.zeros(SHAPE[::-1], bool)), "dead map has shape"),
    (Corrections(dark=DARK + 1j), "the dark map: values of complex128 cannot be counted"),
    (Corrections(dark=np.ma.masked_less(DARK, 3.0)), "the dark map: .* values of the array are masked")])
def test_maps_that_do_not_fit_are_refused(corrections, message):
    with pytest.raises(ValueError, match=message):
        Reduction(SHAPE, {"disk": DISK}, corrections=corrections)


def test_a_gain_that_is_not_known_on_dead_pixels_does_not_matter():
    gain = np.where(DEAD, np.nan, GAIN)
    frames = np.random.default_rng(5).poisson(9.0, (2, *SHAPE)).astype(np.uint16)
    for interpolate in (False, True):
        first, second = (Reduction(SHAPE, MASKS, corrections=Corrections(None, g, DEAD, interpolate))(frames)
                         for g in (gain, GAIN))
        assert np.array_equal(first.counts, second.counts)
