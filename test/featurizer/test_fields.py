"""Fields in physical units against mechanics, exact wave optics and a Monte Carlo."""

import math

import numpy as np
import pytest

from edgetem_nodes.featurizer.patterns import fields
from edgetem_nodes.physics.electrons import (ELECTRON_MASS, ELEMENTARY_CHARGE, SPEED_OF_LIGHT, interaction_constant,
                                             lorentz_factor, wavelength)


def momentum_and_speed(high_tension):
    gamma = lorentz_factor(high_tension)
    speed = SPEED_OF_LIGHT * math.sqrt(1 - gamma**-2)
    return gamma * ELECTRON_MASS * speed, speed


@pytest.mark.parametrize("high_tension", [60e3, 200e3, 300e3])
def test_an_electric_field_deflects_as_a_force_acting_while_the_electron_passes(high_tension):
    momentum, speed = momentum_and_speed(high_tension)
    field, thickness = np.array([2e7, -5e7]), 40e-9
    deflection = -ELEMENTARY_CHARGE * field * (thickness / speed) / momentum
    np.testing.assert_allclose(fields.projected_electric_field(deflection, high_tension) / thickness, field, rtol=1e-9)


def test_a_magnetic_field_deflects_as_the_lorentz_force():
    momentum, speed = momentum_and_speed(200e3)
    flux_density, thickness = np.array([0.3, 1.2]), 30e-9
    # x, y, z right-handed, the electron along z.
    force = -ELEMENTARY_CHARGE * np.cross([0, 0, speed], [flux_density[1], flux_density[0], 0.0])
    deflection = np.array([force[1], force[0]]) * (thickness / speed) / momentum
    np.testing.assert_allclose(fields.projected_magnetic_field(deflection, 200e3) / thickness, flux_density, rtol=1e-9)


def test_a_phase_ramp_moves_the_diffraction_pattern_by_the_deflection_that_its_field_says():
    samples, step, high_tension = 64, 0.1e-9, 80e3
    slope = 2 * math.pi * 3 / (samples * step)
    wave = np.exp(1j * slope * step * np.arange(samples))[None, :] * np.ones((samples, 1))
    pattern = np.abs(np.fft.fft2(wave))**2
    frequency = np.fft.fftfreq(samples, step)
    deflection = np.array([0.0, (pattern.sum(axis=0) * frequency).sum() / pattern.sum() * wavelength(high_tension)])
    np.testing.assert_allclose(fields.phase_gradient(deflection, high_tension), [0, slope], rtol=1e-9)
    field = fields.projected_electric_field(deflection, high_tension)
    np.testing.assert_allclose(field, [0, -slope / interaction_constant(high_tension)], rtol=1e-9)


def test_charge_follows_from_gauss():
    # A sphere's worth of field: E = rho r / (2 eps0) in two dimensions has the divergence rho / eps0.
    assert fields.projected_charge(np.array([3.0 / fields.VACUUM_PERMITTIVITY])) == pytest.approx(3.0)


def test_polarisation_of_a_dielectric_and_of_an_unscreened_plate():
    field = np.array([1e-1, -2e-1])
    np.testing.assert_allclose(fields.dielectric_polarization(field, 1e-9, 3.0), 2 * fields.VACUUM_PERMITTIVITY * field / 1e-9)
    plate = fields.depolarization(field, 1e-9)
    # D = eps0 E + P vanishes where no free charge is.
    np.testing.assert_allclose(fields.VACUUM_PERMITTIVITY * field / 1e-9 + plate, 0.0, atol=1e-18)
    with pytest.raises(ValueError, match="thickness of 0 m"):
        fields.depolarization(field, 0.0)
    with pytest.raises(ValueError, match="permittivity of 0.5"):
        fields.dielectric_polarization(field, 1e-9, 0.5)


def quadrants_of_disk(shift, radius, samples=801):
    """Area of a uniform disk in four quadrants, counted on a fine grid."""
    span = np.linspace(-1.5 * radius, 1.5 * radius, samples)
    y, x = np.meshgrid(span, span, indexing="ij")
    disk = (y - shift[0])**2 + (x - shift[1])**2 <= radius**2
    parts = [(y > 0) & (x > 0), (y > 0) & (x < 0), (y < 0) & (x < 0), (y < 0) & (x > 0)]
    return np.array([[np.count_nonzero(disk & part) for part in parts]], float)


def test_quadrants_tell_the_shift_of_a_disk():
    counts = quadrants_of_disk((0.04, -0.02), 1.0)
    result = fields.differential_phase_contrast(counts, counts, 1.0)
    np.testing.assert_allclose(result.deflection[0], [0.04, -0.02], atol=1e-3)


def test_the_errors_of_quadrants_are_those_of_a_monte_carlo():
    rng = np.random.default_rng(3)
    mean = np.array([130.0, 110.0, 90.0, 95.0])
    counts = rng.poisson(mean, (20000, 4)).astype(float)
    result = fields.differential_phase_contrast(counts, counts, 20e-3)
    one = fields.differential_phase_contrast(mean[None], mean[None], 20e-3)
    np.testing.assert_allclose(one.errors[0], result.deflection.std(axis=0), rtol=0.03)


def test_an_empty_frame_has_no_deflection_and_other_shapes_are_refused():
    assert np.isnan(fields.differential_phase_contrast(np.zeros((1, 4)), np.zeros((1, 4)), 1.0).deflection).all()
    with pytest.raises(ValueError, match=r"\(frames, 4\)"):
        fields.differential_phase_contrast(np.zeros((1, 3)), np.zeros((1, 3)), 1.0)
    with pytest.raises(ValueError, match="semi-convergence angle of 0"):
        fields.differential_phase_contrast(np.zeros((1, 4)), np.zeros((1, 4)), 0.0)


def test_signal_and_noise_are_told_apart():
    rng = np.random.default_rng(4)
    true = 0.7 * np.stack([np.sin(np.arange(4000) * 0.1), np.cos(np.arange(4000) * 0.1)], axis=1)
    noisy = true + 0.15 * rng.standard_normal(true.shape)
    result = fields.signal_to_noise(noisy, np.full(true.shape, 0.15))
    assert result.signal == pytest.approx(0.7, rel=0.02)
    assert result.noise == pytest.approx(0.15 * math.sqrt(2), rel=1e-9)
    flat = fields.signal_to_noise(0.15 * rng.standard_normal(true.shape), np.full(true.shape, 0.15))
    assert flat.ratio < 0.2
    with pytest.raises(ValueError, match="0 of 3 positions"):
        fields.signal_to_noise(np.full((3, 2), np.nan), np.ones((3, 2)))
