"""Low losses against theory: sum rules, Kramers-Kronig, limits of the slab, aloof decay, the mean free path."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
from scipy.special import kv

from edgetem_nodes.physics.electrons import ELEMENTARY_CHARGE, wavelength
from edgetem_nodes.physics.energy_loss.core_loss import angular_factor, scattering_rate
from edgetem_nodes.physics.energy_loss.low_loss import (
    EDGE_CORE, FARTHEST_LOSS, bulk_loss, bulk_rate, delocalisation_length, edge_excitation, edge_loss, slab_loss,
    surface_loss, zero_loss_peak)
from edgetem_nodes.physics.energy_loss.materials import (
    MATERIALS, REDUCED_PLANCK, EdgeMode, Material, Oscillator, material, speed)

EVERY = np.concatenate([np.arange(0.01, 150.0, 0.01), np.geomspace(150.0, FARTHEST_LOSS, 4000)])
DRUDE = Material("metal", {"C": 1.0}, 2000.0, (Oscillator(2.0, 0.0, 0.8),), "free electrons")


def along(energies: np.ndarray, high_tension: float) -> np.ndarray:
    """omega / v [1/m]."""
    return energies * ELEMENTARY_CHARGE / (REDUCED_PLANCK * speed(high_tension))


@pytest.mark.parametrize(("resolution", "dispersion"), [(0.3, 0.05), (0.3, 0.3), (1.2, 0.25)])
def test_zero_loss_peak_holds_every_electron_and_is_as_wide_as_it_says(resolution, dispersion):
    energies = dispersion * np.arange(-40000, 40001)
    peak = zero_loss_peak(energies, resolution, dispersion)
    assert peak.sum() == pytest.approx(1.0, abs=1e-7)
    fine = 0.001 * np.arange(-3000, 3001)
    above = fine[(values := zero_loss_peak(fine, resolution, 0.001)) > 0.5 * values.max()]
    assert np.ptp(above) == pytest.approx(resolution, rel=0.05)
    assert 1e-5 < zero_loss_peak(np.array([10 * resolution]), resolution, 0.001)[0] / values.max() < 1e-3


@pytest.mark.parametrize("name", MATERIALS)
def test_oscillators_obey_the_f_sum_rule(name):
    """The integral of E Im(-1/eps) is (pi/2) E_p^2 of all electrons in the oscillators."""
    chosen = MATERIALS[name]
    energies = np.concatenate([np.arange(0.005, 200.0, 0.005), np.geomspace(200.0, 1e5, 4000)])
    sum_rule = 2 / math.pi * np.trapezoid(energies * (-1 / chosen.permittivity(energies)).imag, energies)
    assert math.sqrt(sum_rule) == pytest.approx(chosen.plasmon_energy, rel=0.01)


@pytest.mark.parametrize("name", ["carbon", "Au", "SrTiO3"])
def test_loss_function_and_its_real_part_are_a_kramers_kronig_pair(name):
    """Re(1/eps) - 1 from Im(-1/eps) alone, with the pole subtracted."""
    chosen = MATERIALS[name]
    energies = np.arange(0.0025, 800.0, 0.005)
    loss = (-1 / chosen.permittivity(energies)).imag
    for at in (8.0, 22.0, 35.0):
        here = (-1 / chosen.permittivity(np.array([at]))).imag[0]
        subtracted = (energies * loss - at * here) / (energies ** 2 - at ** 2)
        pole = at * here * math.log((energies[-1] - at) / (energies[-1] + at)) / (2 * at)
        real = 1 - 2 / math.pi * (np.trapezoid(subtracted, energies) + pole)
        assert real == pytest.approx((1 / chosen.permittivity(np.array([at]))).real[0], abs=0.01)


@pytest.mark.parametrize(("name", "energy"), [("carbon", 24.0), ("SrTiO3", 30.0), ("MnPS3", 19.0), ("MoS2", 23.0)])
def test_bulk_plasmons_lie_where_they_are_measured(name, energy):
    energies = np.arange(10.0, 40.0, 0.05)
    assert energies[sum(bulk_loss(MATERIALS[name], energies)).argmax()] == pytest.approx(energy, abs=1.0)


@pytest.mark.parametrize("name", [name for name, chosen in MATERIALS.items() if not chosen.monolayer])
def test_mean_free_path_of_the_dielectric_theory_is_that_of_the_measured_formula(name):
    """Loss functions know nothing of Iakoubovskii's formula, which is a fit to measured log-ratios: 25 % apart at most."""
    for optics in ((80e3, 25e-3, 33e-3), (200e3, 10e-3, 20e-3), (300e3, 20e-3, 100e-3)):
        _, scale = bulk_rate(MATERIALS[name], np.array([20.0]), *optics)
        assert scale == pytest.approx(1.0, abs=0.25)
        rate, _ = bulk_rate(MATERIALS[name], EVERY, *optics)
        assert 1 / np.trapezoid(rate, EVERY) == pytest.approx(MATERIALS[name].mean_free_path(*optics), rel=1e-3)


def test_mean_free_path_of_published_examples():
    """Silicon at 200 kV: 145 nm measured for wide apertures; less is scattered into a small aperture."""
    silicon = dataclasses.replace(DRUDE, density=2330.0)
    assert silicon.mean_free_path(200e3, 20e-3, 100e-3) == pytest.approx(145e-9, rel=0.1)
    assert silicon.mean_free_path(200e3, 1e-3, 5e-3) > 1.3 * silicon.mean_free_path(200e3, 1e-3, 50e-3)


@pytest.mark.parametrize("name", ["carbon", "SrTiO3"])
def test_thick_slab_loses_by_the_bulk_term(name):
    """The slope over thickness is Im(-1/eps) ln(1 + q_c^2 v^2 / omega^2), Egerton, EELS in the EM, 3rd ed., 3.2."""
    energies = np.array([6.0, 15.0, 24.0, 30.0, 45.0])
    eps = MATERIALS[name].permittivity(energies)
    thick, thicker = (slab_loss(eps, energies, thickness, 100e3, 10e-3) for thickness in (1e-6, 2e-6))
    cut = 2 * math.pi / wavelength(100e3) * 10e-3
    theory = scattering_rate(100e3) * (-1 / eps).imag * np.log1p((cut / along(energies, 100e3)) ** 2)
    assert (thicker - thick) / 1e-6 == pytest.approx(theory, rel=0.01)


def test_thin_slab_loses_by_its_polarisability():
    """To first order in the thickness, with the continuous fields: q^2 Im eps + (omega/v)^2 Im(-1/eps) over (q^2 + ..)^2."""
    energies = np.array([4.0, 6.0, 15.0, 25.0])
    eps = MATERIALS["graphene"].permittivity(energies)
    thickness = 1e-14
    q = np.geomspace(1e-5, 1.0, 4000) * 2 * math.pi / wavelength(60e3) * 30e-3
    s = along(energies, 60e3)[:, None]
    density = (q ** 2 * eps.imag[:, None] + s ** 2 * (-1 / eps).imag[:, None]) / (q ** 2 + s ** 2) ** 2
    theory = scattering_rate(60e3) * thickness * np.trapezoid(2 * q ** 2 * density, np.log(q), axis=1)
    assert slab_loss(eps, energies, thickness, 60e3, 30e-3) == pytest.approx(theory, rel=0.01)


def test_surface_plasmon_of_a_free_electron_metal():
    """At E_p / sqrt(2) on a thick slab, paid for by the bulk plasmon (begrenzung); split and shifted down on a thin one."""
    bulk, energies = DRUDE.plasmon_energy, np.arange(2.0, 25.0, 0.02)
    thin, thick = surface_loss(DRUDE, energies, np.array([2e-9, 100e-9]), 100e3, 10e-3)
    assert energies[thick.argmax()] == pytest.approx(bulk / math.sqrt(2), abs=0.3)
    assert energies[thick.argmin()] == pytest.approx(bulk, abs=0.1)
    below = energies < 0.6 * bulk
    assert thin[below].sum() > 3 * thick[below].sum()


def test_surface_plasmon_probability_of_two_thick_faces():
    """Residue of the pole at eps = -1 over all wave vectors: (pi/2) e^2 / (4 pi eps_0 hbar v) a face at normal incidence.

    (Stern & Ferrell, Phys. Rev. 120, 130 (1960).) The window leaves a few per cent of the peak's wings out.
    """
    energies = np.arange(0.05, 60.0, 0.05)
    sharp = dataclasses.replace(DRUDE, oscillators=(Oscillator(2.0, 0.0, 0.3),))
    faces = surface_loss(sharp, energies, np.array([400e-9]), 100e3, 30e-3)[0]
    near = np.abs(energies - sharp.plasmon_energy / math.sqrt(2)) < 2.0
    fine_structure = ELEMENTARY_CHARGE ** 2 / (4 * math.pi * 8.8541878188e-12 * REDUCED_PLANCK * speed(100e3))
    assert np.trapezoid(faces[near], energies[near]) / 2 == pytest.approx(math.pi / 2 * fine_structure, rel=0.08)


def test_slab_never_gains_energy():
    energies = np.geomspace(0.5, 100.0, 300)
    for name, chosen in MATERIALS.items():
        for thickness in (0.335e-9, 3e-9, 50e-9):
            lost = slab_loss(chosen.permittivity(energies), energies, thickness, 80e3, 30e-3)
            assert lost.min() > -1e-6 * lost.max(), name


def test_rim_is_excited_from_outside_as_bessel_k0_squared():
    mode = EdgeMode(3.0, 0.9, 0.02, 4e-9)
    outside = np.array([0.0, 1e-9, 5e-9, 20e-9, 80e-9])
    for high_tension in (60e3, 200e3):
        argument = 2 * along(np.array([3.0]), high_tension) * np.sqrt(outside ** 2 + EDGE_CORE ** 2)
        steps = np.linspace(0.0, 12.0, 6001)
        integral = np.trapezoid(np.exp(-argument[:, None] * np.cosh(steps)), steps, axis=1)
        assert kv(0, argument) == pytest.approx(integral, rel=1e-6)
        theory = 0.02 * (integral / integral[0]) ** 2
        assert edge_excitation(outside, mode, high_tension) == pytest.approx(theory, rel=1e-5)
    assert edge_excitation(np.array([1e-3, 1.0]), mode, 100e3) == pytest.approx([0.0, 0.0])


def test_rim_is_excited_less_the_deeper_inside():
    mode = EdgeMode(3.0, 0.9, 0.02, 4e-9)
    inside = edge_excitation(np.array([-1e-15, -4e-9, -8e-9]), mode, 100e3)
    assert inside == pytest.approx([0.02, 0.02 / math.e, 0.02 / math.e ** 2], rel=1e-4)
    assert delocalisation_length(3.0, 100e3) == pytest.approx(1 / (2 * along(np.array(3.0), 100e3)))


def test_spectrum_of_the_rim_has_unit_area():
    energies = np.arange(0.0, 3000.0, 0.01)
    assert np.trapezoid(edge_loss(EdgeMode(3.0, 0.9, 1.0, 1e-9), energies), energies) == pytest.approx(1.0, abs=1e-3)


def test_angular_factor_ends_at_the_bethe_ridge():
    energies = np.array([20.0, 500.0])
    assert (angular_factor(energies, 100e3, 1e-3) < angular_factor(energies, 100e3, 10e-3)).all()
    wide, wider = angular_factor(energies, 100e3, 0.5), angular_factor(energies, 100e3, 1.0)
    assert wider == pytest.approx(wide, rel=0.01)


def test_unknown_material_is_refused_with_the_known_names():
    with pytest.raises(ValueError, match="'mica' is not one of carbon, graphene"):
        material("mica")
