"""Rotation, flip and sign of the detector against analytic phase objects, LiberTEM's guess, and what is refused."""

import warnings

import numpy as np
import pytest
from calibration_truth import deflections, on_detector, turn_between

from edgetem_nodes.featurizer.calibration.rotation import fit_rotation

SCANS = {"hexagonal": ((48, 64), (0.3e-10, 0.22e-10)), "random": ((64, 64), (0.2e-10, 0.2e-10)),
         "square": ((64, 48), (0.2e-10, 0.3e-10))}


@pytest.mark.parametrize("kind", SCANS)
@pytest.mark.parametrize("flipped", [False, True])
@pytest.mark.parametrize("degrees", [-160.0, -31.5, 77.0])
def test_noiseless_field_gives_the_exact_rotation_flip_and_sign(kind, flipped, degrees):
    """Beside a plane of descan, on steps that are not square."""
    shape, steps = SCANS[kind]
    field, image = deflections(kind, shape, steps)
    seen = on_detector(field, np.radians(degrees), flipped) + np.linspace(0, 7, shape[1])[None, :, None] + 31.0
    found = fit_rotation(seen, steps, np.full(seen.shape, 1e-6), image)
    assert found.flipped is flipped and found.determined
    assert np.degrees(turn_between(found.rotation, np.radians(degrees))) == pytest.approx(0, abs=0.02)
    assert found.polarity.correlation ** 2 > 0.6 and found.curl < 0.01 < found.curl_of_other


@pytest.mark.parametrize("noise", [0.2, 1.0])
def test_pulls_have_unit_variance_and_errors_shrink_with_noise(noise):
    shape, steps = SCANS["hexagonal"]
    field, image = deflections("hexagonal", shape, steps)
    generator, pulls = np.random.default_rng(0), []
    for _ in range(80):
        angle, flipped = generator.uniform(-np.pi, np.pi), bool(generator.integers(2))
        seen = on_detector(field, angle, flipped) + generator.normal(0, noise, field.shape)
        found = fit_rotation(seen, steps, np.full(seen.shape, noise), image)
        assert found.flipped is flipped and found.determined
        pulls.append(turn_between(found.rotation, angle) / found.standard_error)
    assert np.std(pulls) == pytest.approx(1.0, abs=0.25)
    assert abs(np.mean(pulls)) < 0.4
    assert np.degrees(found.standard_error) < (0.25 if noise == 0.2 else 1.2)


def test_a_noisy_scan_is_right_to_a_fifth_of_a_degree():
    shape, steps = (128, 128), (0.25e-10, 0.25e-10)
    field, image = deflections("random", shape, steps)
    generator = np.random.default_rng(1)
    seen = on_detector(field, np.radians(12.3), True) + generator.normal(0, 0.2, field.shape)
    found = fit_rotation(seen, steps, np.full(seen.shape, 0.2), image + generator.normal(0, 0.2, shape))
    assert np.degrees(found.rotation) == pytest.approx(12.3, abs=0.2)
    assert np.degrees(found.standard_error) < 0.1
    unknown = fit_rotation(seen, steps, None, image)
    assert np.degrees(unknown.rotation) == pytest.approx(12.3, abs=0.3)


def test_agrees_with_libertem():
    """LiberTEM's angle is a whole number of degrees, from finite differences on square steps; its rotation has our sign."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from libertem.udf.com import apply_correction, guess_corrections
    shape, steps = (96, 96), (0.2e-10, 0.2e-10)
    field, image = deflections("random", shape, steps)
    for degrees, flipped in ((23.0, False), (-140.0, True)):
        seen = on_detector(field, np.radians(degrees), flipped)
        guess = guess_corrections(seen[..., 0], seen[..., 1])
        found = fit_rotation(seen, steps, np.full(seen.shape, 1e-3), image)
        ours = np.stack(apply_correction(seen[..., 0], seen[..., 1], guess.scan_rotation, guess.flip_y), -1)
        assert guess.flip_y is flipped is found.flipped
        assert ours == pytest.approx(field, abs=0.05 * np.abs(field).max())
        theirs = np.radians(guess.scan_rotation)
        assert min(abs(turn_between(found.rotation, sign * theirs)) for sign in (1, -1)) < np.radians(1)


def test_sign_by_skewness_where_atoms_are_sharp():
    shape, steps = (128, 128), (0.25e-10, 0.25e-10)
    field, image = deflections("random", shape, steps)
    for angle in (0.3, 0.3 - np.pi):
        found = fit_rotation(on_detector(field, angle, False), steps, np.full(field.shape, 0.1))
        assert found.polarity.source == "skewness" and found.determined
        assert turn_between(found.rotation, angle) == pytest.approx(0, abs=2e-3)
        assert "skewness" in found.lines()[1]


def test_sign_is_left_open_where_nothing_tells_it():
    """A sinusoidal phase looks the same upside down; an unrelated dark field does not help."""
    y, x = np.meshgrid(np.arange(64) * 0.3e-10, np.arange(64) * 0.25e-10, indexing="ij")
    waves = np.random.default_rng(2).uniform(1e10, 3e10, (8, 2)) * np.random.default_rng(3).choice([-1, 1], (8, 2))
    phase = [np.sin(ky * y + kx * x + number) for number, (ky, kx) in enumerate(waves)]
    field = np.stack([sum(k[axis] * one for k, one in zip(waves, phase)) * 1e-10 for axis in (0, 1)], -1)
    found = fit_rotation(on_detector(field, 0.4, False), (0.3e-10, 0.25e-10), np.full(field.shape, 0.01))
    assert not found.determined and "give a dark-field image" in found.polarity.problem
    assert np.sin(2 * (found.rotation - 0.4)) == pytest.approx(0, abs=0.01)
    noise = np.random.default_rng(4).normal(size=(64, 64))
    found = fit_rotation(on_detector(field, 0.4, False), (0.3e-10, 0.25e-10), np.full(field.shape, 0.01), noise)
    assert not found.determined and "does not show where the deflections converge" in found.polarity.problem
    assert "half a turn more" in found.lines()[0]


def test_square_lattice_of_two_waves_has_its_flip_from_the_dark_field_alone():
    """cos y + cos x and cos y - cos x are the same lattice moved: both curl-free, so curl cannot tell the flip."""
    k = 2 * np.pi / 3e-10
    y, x = np.meshgrid(np.arange(64) * 0.3e-10, np.arange(64) * 0.3e-10, indexing="ij")
    u, v = y * np.cos(0.2) + x * np.sin(0.2), x * np.cos(0.2) - y * np.sin(0.2)
    along_u, along_v, image = -np.sin(k * u), -np.sin(k * v), np.cos(k * u) + np.cos(k * v)
    field = np.stack([along_u * np.cos(0.2) - along_v * np.sin(0.2), along_u * np.sin(0.2) + along_v * np.cos(0.2)], -1)
    steps, errors = (0.3e-10, 0.3e-10), np.full(field.shape, 0.02)
    for flipped in (False, True):
        seen = on_detector(field, 1.0, flipped)
        with pytest.raises(ValueError, match="not determined: the curl is .* give a dark-field image, or the flip"):
            fit_rotation(seen, steps, errors)
        found = fit_rotation(seen, steps, errors, image)
        assert found.flipped is flipped and found.flip_source == "dark field"
        assert turn_between(found.rotation, 1.0) == pytest.approx(0, abs=5e-3)
        assert fit_rotation(seen, steps, errors, image, flipped=flipped).flip_source == "given"


def test_noise_alone_gives_no_rotation():
    generator = np.random.default_rng(5)
    for errors in (1.0, 0.5, None):
        for _ in range(25):
            noise = generator.normal(size=(40, 40, 2))
            with pytest.raises(ValueError, match="not determined: the deflections"):
                fit_rotation(noise, (1e-11, 1e-11), None if errors is None else np.full(noise.shape, errors),
                             generator.normal(size=(40, 40)))


def test_a_rotational_field_is_refused():
    """Half of it curl, as of a magnetic specimen."""
    shape, steps = SCANS["random"]
    one, other = deflections("random", shape, steps)[0], deflections("random", shape[::-1], steps)[0]
    mixed = one + np.stack([other[::-1, :, 1], -other[::-1, :, 0]], -1)
    with pytest.raises(ValueError, match="not determined: .*rotational in any axes"):
        fit_rotation(mixed, steps, np.full(mixed.shape, 0.01))


def test_missing_positions_and_shapes():
    shape, steps = SCANS["hexagonal"]
    field, image = deflections("hexagonal", shape, steps)
    seen, generator = on_detector(field, 0.5, False), np.random.default_rng(6)
    seen[generator.random(shape) < 0.02] = np.nan
    found = fit_rotation(seen, steps, np.where(np.isnan(seen), np.nan, 0.05), image)
    assert np.degrees(turn_between(found.rotation, 0.5)) == pytest.approx(0, abs=0.5)
    seen[:10] = np.nan
    with pytest.raises(ValueError, match=r"% of the scan positions have no value, more than 10 %"):
        fit_rotation(seen, steps)
    with pytest.raises(ValueError, match="are not \\(rows, columns, 2\\)"):
        fit_rotation(field[..., 0], steps)
    with pytest.raises(ValueError, match="dark_field of shape"):
        fit_rotation(field, steps, dark_field=image[:3])
    with pytest.raises(ValueError, match="too small: 12 x 12"):
        fit_rotation(field[:8], steps)
    with pytest.raises(ValueError, match="must be two positive numbers"):
        fit_rotation(field, (0.0, 1e-11))
