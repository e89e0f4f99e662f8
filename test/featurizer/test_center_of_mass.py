"""Errors and failures of the centre of mass where counts are few, below zero or nothing but noise, against Monte Carlo."""

from __future__ import annotations

import numpy as np
import pytest
from analytic_patterns import disk_image, pattern_axes

from edgetem_nodes.featurizer.features import CountingNoise
from edgetem_nodes.featurizer.parameters import CenterOfMass, Parameters
from edgetem_nodes.featurizer.patterns.corrections import Corrections
from edgetem_nodes.featurizer.patterns.events import Events
from edgetem_nodes.featurizer.patterns.reduction import Reduction
from edgetem_nodes.featurizer.scalarizers import measure

SHAPE = (64, 64)
Y, X = np.indices(SHAPE)


def analogue(rng, electrons: float, frames: int, offset: float = 0.0) -> np.ndarray:
    """A disk of 10 pixels radius, readout noise of a count a pixel."""
    disk = np.hypot(Y - 30, X - 33) < 10
    counts = rng.poisson(electrons / disk.sum() * disk, (frames, *SHAPE)) + rng.normal(size=(frames, *SHAPE)) + offset
    return counts.astype(np.float32)


def rms(errors: np.ndarray) -> np.ndarray:
    return np.sqrt((errors**2).mean(axis=0))


@pytest.mark.parametrize("declared", [0.0, 1.0])
@pytest.mark.parametrize(("offset", "too_large"), [(0.0, 1.08), (-0.1, 1.2), (-0.3, 1.4)])
def test_errors_of_noisy_frames_hold_whatever_is_declared(offset, too_large, declared):
    """Values below zero tell of readout noise that nobody declared; an offset counts as noise, so errors err on that side."""
    frames = analogue(np.random.default_rng(1), 2000, 1500, offset)
    reduced = Reduction(SHAPE, {}, noise=CountingNoise(readout_noise=declared))(frames)
    assert np.isfinite(reduced.center_of_mass).all()
    ratio = rms(reduced.center_of_mass_errors) / reduced.center_of_mass.std(axis=0)
    assert ((0.95 < ratio) & (ratio < too_large)).all()
    assert reduced.center_of_mass_errors.min() > 0.5 * reduced.center_of_mass_errors.mean()


@pytest.mark.parametrize("corrections", [
    Corrections(dark=np.full(SHAPE, 100.0)), Corrections(dark=np.full(SHAPE, 100.0), gain=1 + 0.3 * np.sin(X + Y))],
    ids=["dark", "dark and gain"])
def test_errors_hold_for_integers_on_a_pedestal(corrections):
    frames = np.round(analogue(np.random.default_rng(2), 3000, 1500, 100.0)).astype(np.uint16)
    for threads in (1, 2):
        reduced = Reduction(SHAPE, {}, corrections=corrections, threads=threads)(frames)
        assert rms(reduced.center_of_mass_errors) == pytest.approx(reduced.center_of_mass.std(axis=0), rel=0.08)


def test_a_dark_signal_that_is_too_large_is_found_in_the_second_moment():
    rng = np.random.default_rng(3)
    good, bad = (Reduction(SHAPE, {})(analogue(rng, 2000, 200, offset)) for offset in (0.0, -0.3))
    assert np.mean([bool(failure) for failure in good.failures]) < 0.02
    assert all("second moment of -" in failure and "correct the dark signal" in failure for failure in bad.failures)
    assert np.isnan(bad.variance).all()


def test_noise_alone_has_no_centre_of_mass():
    """Three standard errors: 0.13 % of frames pass, and those say how wide they are off."""
    reduced = Reduction(SHAPE, {})(analogue(np.random.default_rng(4), 0, 3000))
    passed = np.isfinite(reduced.center_of_mass[:, 0])
    assert passed.mean() < 0.006
    assert [not failure for failure in reduced.failures] == passed.tolist()
    assert any("counts is not above 3 times its readout noise" in failure for failure in reduced.failures)
    assert (reduced.center_of_mass_errors[passed] > 3).all()


def test_a_centre_off_its_pixels_is_a_failure():
    frame = np.zeros((1, *SHAPE), np.float32)
    frame[0, 20, 20], frame[0, 60, 20:40] = 1000.0, -15.0
    reduced = Reduction(SHAPE, {"all": np.ones(SHAPE)}, moments_mask=Y >= 15)(frame)
    assert "centre of mass (2.857, 15.93) lies off its pixels, rows 15 to 63 and columns 0 to 63" in reduced.failures[0]
    assert np.isnan(reduced.center_of_mass).all()
    assert reduced["all"][0] == 700


def test_few_electrons_never_have_an_error_of_zero():
    """At two electrons a frame on average; those on one row, and on one pixel, count in the spread of all."""
    rng = np.random.default_rng(5)
    frames = rng.poisson(2 / np.prod(SHAPE), (12000, *SHAPE)).astype(np.uint8)
    for noise in (CountingNoise(), CountingNoise(readout_noise=1e-3)):
        reduced = Reduction(SHAPE, {}, noise=noise)(frames)
        electrons = frames.sum(axis=(1, 2))
        known = electrons > 1
        assert np.isnan(reduced.center_of_mass_errors[~known]).all()
        assert (reduced.center_of_mass_errors[known] > 0.2).all()
        for count in (2, 3, 4):
            some = electrons == count
            assert rms(reduced.center_of_mass_errors[some]) == pytest.approx(reduced.center_of_mass[some].std(axis=0), rel=0.05)


@pytest.mark.parametrize("electrons", [2, 5, 100, 10000])
def test_electrons_on_one_pixel_are_as_sure_as_the_rule_of_succession(electrons):
    frame = np.zeros((1, *SHAPE), np.uint16)
    frame[0, 20, 41] = electrons
    for given in (frame, Events.of(frame)):
        errors = Reduction(SHAPE, {})(given).center_of_mass_errors
        for error, place, middle in zip(errors[0], (20, 41), (Y, X), strict=True):
            elsewhere = ((middle - place)**2).mean()
            assert error == pytest.approx(np.sqrt((1 / 12 + elsewhere / (electrons + 2)) / electrons))


def test_the_scalarizer_marks_one_electron_and_gives_more_their_factor():
    axes = pattern_axes()
    frames = np.zeros((3, 64, 64), np.uint8)
    frames[0, 10, 10] = 1
    frames[1, 10, 10] = 2
    frames[2, 10, 10] = frames[2, 20, 30] = 1
    for component in ("y", "magnitude", "angle"):
        parameters = Parameters(scalarizer="center_of_mass", center_of_mass=CenterOfMass(component, 0.0, [0.0, 0.0]))
        features = measure(frames, axes, parameters)
        assert "1 electrons have a centre of mass but no standard error" in features.failures[0]
        assert np.isnan(features.standard_errors[0]).all()
        assert (features.standard_errors[features.valid] > 0).all()
        if component == "y":
            assert features.valid.tolist() == [False, True, True]
            assert features.standard_errors[2, 0] == pytest.approx(5.0)


def test_the_scalarizers_errors_hold_at_low_dose():
    expected = disk_image(np.array([[1.3, -0.7]]), np.array([5.0]), 8.0, pattern_axes())
    frames = np.random.default_rng(6).poisson(expected * 5.0 / expected.sum(), (6000, 64, 64)).astype(np.uint8)
    parameters = Parameters(scalarizer="center_of_mass", center_of_mass=CenterOfMass("y", 0.0, [0.0, 0.0]))
    for electrons in (2, 3, 5):
        some = frames[frames.sum(axis=(1, 2)) == electrons]
        features = measure(some, pattern_axes(), parameters)
        assert features.valid.all()
        ratio = rms(features.standard_errors[:, 0]) / features.values[:, 0].std()
        assert 0.95 < ratio < (1.6 if electrons == 2 else 1.2)


def test_a_shift_that_is_not_known_is_a_failure_of_that_frame():
    frames = np.random.default_rng(7).poisson(1.0, (3, *SHAPE)).astype(np.uint16)
    shifts = np.zeros((3, 2))
    shifts[1, 0], shifts[2, 1] = np.nan, np.inf
    reduced = Reduction(SHAPE, {"all": np.ones(SHAPE)})(frames, shifts)
    assert [bool(failure) for failure in reduced.failures] == [False, True, True]
    assert "shift is not a finite number" in reduced.failures[1]
    assert np.isnan(reduced.center_of_mass[1:]).all() and np.isnan(reduced.center_of_mass_errors[1:]).all()
    assert reduced["all"].tolist() == frames.sum(axis=(1, 2)).tolist()
