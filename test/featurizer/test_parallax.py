"""Parallax: aberrations, rotation and phase of a defocused weak phase object, against the truth and a Monte Carlo."""

from dataclasses import replace

import numpy as np
import pytest
from weak_phase import ANGLE, HIGH_TENSION, weak_phase

from edgetem_nodes.featurizer.patterns.events import Events
from edgetem_nodes.featurizer.patterns.geometry import DetectorGeometry
from edgetem_nodes.featurizer.ptychography.parallax import Parallax, ParallaxFit
from edgetem_nodes.featurizer.ptychography.single_side_band import SingleSideBand
from edgetem_nodes.physics.optics import Probe
from edgetem_nodes.physics.scan import ScanField

DEFOCUS, ASTIGMATISM, DIRECTION = 10e-9, 2e-9, 0.4
PROBE = Probe(HIGH_TENSION, ANGLE, defocus=DEFOCUS, astigmatism=ASTIGMATISM, astigmatism_angle=DIRECTION)
RANGE = (-30e-9, 30e-9)


@pytest.fixture(scope="module")
def defocused():
    return weak_phase(probe=PROBE, rms=0.03)


def parallax(frames, field, geometry):
    result = Parallax(field, frames.shape[-2:], geometry, HIGH_TENSION)
    result.add(0, frames)
    return result


@pytest.fixture(scope="module")
def counted(defocused):
    return np.random.default_rng(1).poisson(5000 * defocused[1]).astype(np.uint16)


@pytest.fixture(scope="module")
def found(counted, defocused):
    _, _, field, geometry = defocused
    return parallax(counted, field, geometry).fit(RANGE)


def test_defocus_and_astigmatism_are_found(found):
    """The object is weak, not infinitely so, and a pixel is not a point: 2 % of the defocus beyond the noise."""
    assert found.aberrations["defocus"] == pytest.approx(DEFOCUS, abs=0.02 * DEFOCUS + 3 * found.errors["defocus"])
    assert found.errors["defocus"] < 0.01 * DEFOCUS
    components = found.aberrations["astigmatism"] * np.exp(2j * found.aberrations["astigmatism_angle"])
    assert abs(components - ASTIGMATISM * np.exp(2j * DIRECTION)) < 0.1e-9 + 3 * found.errors["astigmatism_0"]
    assert np.isnan(found.errors["rotation"]) and np.isnan(found.next_best)


def test_the_phase_is_that_of_the_object_within_its_error(defocused, found):
    phase, patterns, field, geometry = defocused
    frames = np.random.default_rng(2).poisson(1e5 * patterns).astype(np.uint16)
    disk = parallax(frames, field, geometry)
    band = SingleSideBand(field, frames.shape[1:], geometry, HIGH_TENSION, found.aberrations, weights="least squares")
    band.add(0, frames)
    for seen, error in ((disk.phase(found, regularisation=1e-3), disk.standard_error), (band.phase(), band.standard_error)):
        assert np.corrcoef(seen.ravel(), phase.ravel())[0, 1] > phase.std() / np.hypot(phase.std(), error) - 0.03
        assert np.std(seen - phase) == pytest.approx(error, rel=0.15)


def test_the_aligned_bright_field_is_the_object_through_its_contrast_transfer():
    """At small frequencies all three beams overlap nearly everywhere; there the image is 2 sin(chi) phi, as in TEM."""
    probe = Probe(HIGH_TENSION, ANGLE, defocus=20e-9)
    phase, patterns, field, geometry = weak_phase(probe=probe, rms=0.005, highest=0.4)
    disk = parallax(patterns * np.float32(1e6), field, geometry)
    image = disk.image(ParallaxFit({"defocus": 20e-9}, geometry, {}, 0.0)) - 1
    frequency = np.meshgrid(*(np.fft.fftfreq(32, step) for step in field.step), indexing="ij")
    expected = np.fft.ifft2(np.fft.fft2(phase) * probe.contrast_transfer(*frequency)).real
    plain = disk.image(ParallaxFit({"defocus": 0.0}, geometry, {}, 0.0)) - 1
    assert np.corrcoef(image.ravel(), expected.ravel())[0, 1] > 0.95
    assert np.corrcoef(plain.ravel(), expected.ravel())[0, 1] < 0.8
    assert 0.6 < np.vdot(image, expected) / np.vdot(expected, expected) < 1.0


def test_rotation_and_handedness_are_found(defocused, counted):
    _, _, field, geometry = defocused
    wrong = replace(geometry, rotation=geometry.rotation + 0.3, flipped=True)
    fit = parallax(counted, field, wrong).fit(RANGE, rotation=True, flip=True)
    right = fit.geometry.to_scan() @ geometry.to_detector()
    np.testing.assert_allclose(right, np.sign(right[0, 0]) * np.eye(2), atol=3 * fit.errors["rotation"] + 0.01)
    assert not fit.geometry.flipped and fit.next_best > 100
    assert abs(fit.aberrations["defocus"]) == pytest.approx(DEFOCUS, rel=0.03)
    assert np.sign(fit.aberrations["defocus"]) == np.sign(right[0, 0])
    assert fit.geometry.errors["rotation"] == fit.errors["rotation"]


def test_standard_errors_are_those_of_a_monte_carlo(defocused):
    _, patterns, field, geometry = defocused
    rng = np.random.default_rng(3)
    fits = [parallax(rng.poisson(2000 * patterns).astype(np.uint16), field, geometry).fit((7e-9, 13e-9)) for _ in range(12)]
    spread = np.std([fit.aberrations["defocus"] for fit in fits], ddof=1)
    assert spread == pytest.approx(np.mean([fit.errors["defocus"] for fit in fits]), rel=0.5)
    phases = []
    for _ in range(10):
        disk = parallax(rng.poisson(2000 * patterns).astype(np.uint16), field, geometry)
        phases.append(disk.phase(fits[0]))
    assert np.std(phases, axis=0, ddof=1).mean() == pytest.approx(disk.standard_error, rel=0.05)
    images = []
    for _ in range(10):
        disk = parallax(rng.poisson(2000 * patterns).astype(np.uint16), field, geometry)
        images.append(disk.image(fits[0]))
    assert np.std(images, axis=0, ddof=1).mean() == pytest.approx(disk.standard_error, rel=0.05)


def test_a_coarse_raster_is_imaged_on_a_finer_grid(defocused):
    """Every other position along either axis: too coarse for single side band, not for parallax."""
    phase, patterns, field, geometry = defocused
    coarse = ScanField(field.origin, tuple(2 * step for step in field.step), (16, 16))
    frames = patterns.reshape(32, 32, 32, 32)[::2, ::2].reshape(256, 32, 32) * np.float32(1e5)
    with pytest.raises(ValueError, match="too coarse .* use parallax"):
        SingleSideBand(coarse, (32, 32), geometry, HIGH_TENSION)
    disk = parallax(frames, coarse, geometry)
    fit = ParallaxFit({"defocus": DEFOCUS, "astigmatism": ASTIGMATISM, "astigmatism_angle": DIRECTION}, geometry, {}, 0.0)
    fine = disk.phase(fit, upsampling=2)
    assert fine.shape == (32, 32)
    repeated = np.kron(disk.phase(fit), np.ones((2, 2)))
    agreement = np.corrcoef(fine.ravel(), phase.ravel())[0, 1]
    assert agreement > 0.6 and agreement > np.corrcoef(repeated.ravel(), phase.ravel())[0, 1] + 0.1


def test_events_give_what_frames_give(defocused, counted, found):
    _, _, field, geometry = defocused
    events = parallax(Events.of(counted), field, geometry)
    frames = parallax(counted, field, geometry)
    assert np.array_equal(events.image(found), frames.image(found))
    assert np.array_equal(events.phase(found), frames.phase(found))


def test_what_cannot_work_is_refused(defocused, counted):
    _, _, field, geometry = defocused
    with pytest.raises(ValueError, match="field of 4 x 32 positions is too small"):
        Parallax(replace(field, shape=(4, 32)), (32, 32), geometry, HIGH_TENSION)
    with pytest.raises(ValueError, match="semi-convergence angle is not known"):
        Parallax(field, (32, 32), DetectorGeometry((16, 16), 1e-3), HIGH_TENSION)
    half = parallax(counted[:512], field, geometry)
    with pytest.raises(ValueError, match="512 of 1024 positions have no usable frame: parallax needs the whole raster"):
        half.fit(RANGE)
    whole = parallax(counted, field, geometry)
    with pytest.raises(ValueError, match="defocus_range"):
        whole.fit((1e-9, 1e-9))


def test_noise_alone_is_refused(defocused):
    _, patterns, field, geometry = defocused
    flat = np.broadcast_to(patterns.mean(axis=0) * 1000, patterns.shape)
    noise = parallax(np.random.default_rng(4).poisson(flat).astype(np.uint16), field, geometry)
    with pytest.raises(ValueError, match="shows no object between defocus -30 and 30 nm"):
        noise.fit(RANGE)


@pytest.mark.parametrize("axis", [0, 1])
def test_a_falling_axis_gives_the_picture_mirrored(defocused, counted, found, axis):
    _, _, field, geometry = defocused
    origin, step = list(field.origin), list(field.step)
    origin[axis], step[axis] = field.origin[axis] + 31 * field.step[axis], -field.step[axis]
    frames = np.flip(counted.reshape(32, 32, 32, 32), axis).reshape(counted.shape)
    falling = parallax(frames, ScanField(tuple(origin), tuple(step), field.shape), geometry)
    assert falling.fit(RANGE).aberrations["defocus"] == pytest.approx(found.aberrations["defocus"], rel=1e-3)
    rising = parallax(counted, field, geometry).phase(found)
    difference = np.abs(np.fft.fft2(falling.phase(found) - np.flip(rising, axis)))
    # The highest frequency of an even raster may be taken for either sign.
    difference[16], difference[:, 16] = 0, 0
    assert difference.max() < 1e-5 * np.abs(np.fft.fft2(rising)).max()


def test_a_wrong_disk_is_cautioned(defocused, counted, found):
    _, _, field, geometry = defocused
    for wrong, caution in ((geometry, ""), (replace(geometry, center=(17.0, 16.0)), "off the stated centre")):
        disk = parallax(counted, field, wrong)
        disk.image(found)
        assert bool(caution) == bool(disk.caution) and caution in disk.caution
