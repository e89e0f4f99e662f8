"""Waves, transmission and propagation against free-space optics, Ehrenfest and abTEM's multislice on the same potential."""

import abtem_peer
import numpy as np
import pytest
import torch
from lattice_specimen import sheet

from edgetem_nodes.physics.multislice import (
    ProbeWaves,
    band_limit,
    clear_angle,
    cut,
    exit_waves,
    probe_waves,
    propagator,
    transmission,
)
from edgetem_nodes.physics.numerics import equal_slices
from edgetem_nodes.physics.optics import Probe
from edgetem_nodes.physics.potential import potential_slices, thermal_displacements
from edgetem_nodes.physics.specimens import Atoms

STEP, SAMPLES = 0.2e-10, 160
ORIGIN = np.zeros((1, 2), int)


def spectrum(wave):
    return np.fft.fftshift(np.abs(np.fft.fft2(wave.numpy(), norm="ortho")) ** 2, axes=(-2, -1))


@pytest.mark.parametrize("angle", [4e-3, 25e-3])
def test_probe_is_normalised_and_stands_where_it_is_put(angle):
    wave = probe_waves(Probe(80e3, angle), SAMPLES, STEP, np.array([[71.25, 88.5]]))
    assert float((wave.abs() ** 2).sum()) == pytest.approx(1.0, abs=1e-5)
    other = probe_waves(Probe(80e3, angle), SAMPLES, STEP, np.array([[73.25, 83.5]]))
    assert torch.roll(wave, (2, -5), (1, 2)).numpy() == pytest.approx(other.numpy(), abs=1e-5)


def test_propagation_changes_the_defocus():
    """In free space a distance z is a defocus of -z (C10 = z)."""
    probe, distance = Probe(80e3, 20e-3, defocus=10e-9, coma=200e-9), 4e-9
    moved = exit_waves(probe_waves(probe, SAMPLES, STEP, [[80, 80]]), torch.ones(2, SAMPLES, SAMPLES, dtype=torch.complex64),
                       ORIGIN, propagator((SAMPLES, SAMPLES), STEP, distance, 80e3))
    expected = probe_waves(probe.refocused(10e-9 - distance), SAMPLES, STEP, [[80, 80]])
    assert moved.numpy() == pytest.approx(expected.numpy(), abs=1e-6)


def test_linear_phase_ramp_moves_the_centre_of_mass():
    """Ehrenfest: a phase 2 pi q r adds q to the mean spatial frequency of any probe."""
    turns = np.array([3, -5])
    y, x = np.meshgrid(np.arange(SAMPLES), np.arange(SAMPLES), indexing="ij")
    ramp = torch.from_numpy(np.exp(2j * np.pi * (turns[0] * y + turns[1] * x) / SAMPLES).astype(np.complex64))[None]
    pattern = spectrum(exit_waves(probe_waves(Probe(80e3, 15e-3, defocus=5e-9), SAMPLES, STEP, [[79.3, 81.8]]), ramp, ORIGIN,
                                  torch.ones(1)))[0]
    order = np.arange(SAMPLES) - SAMPLES // 2
    assert [(pattern.sum(1) * order).sum(), (pattern.sum(0) * order).sum()] == pytest.approx(turns, abs=1e-3)


def test_band_limit_is_that_of_abtem():
    antialias = pytest.importorskip("abtem.antialias", reason="abTEM is not installed: the peer's check is skipped")
    theirs = antialias.antialias_aperture((120, 160), (0.2, 0.2), np)
    assert band_limit((120, 160), 0.2e-10).numpy() == pytest.approx(theirs, abs=1e-5)
    clear = clear_angle(0.2e-10, 80e3) / Probe(80e3, 1e-2).wavelength * 0.2e-10
    assert clear == pytest.approx(2 / 3 / 2 - 0.01)


def test_intensity_is_conserved_by_a_weak_object():
    """A phase object takes nothing away: what is missing was scattered beyond the band limit."""
    grating = 1e-9 * np.cos(np.linspace(0, 12 * np.pi, SAMPLES, endpoint=False)) * np.ones((SAMPLES, 1))
    layers = transmission(torch.from_numpy(grating).float().repeat(5, 1, 1), STEP, 80e3)
    wave = exit_waves(probe_waves(Probe(80e3, 15e-3), SAMPLES, STEP, [[80, 80]]), layers, ORIGIN,
                      propagator((SAMPLES, SAMPLES), STEP, 2e-10, 80e3))
    assert float((wave.abs() ** 2).sum()) == pytest.approx(1.0, abs=1e-5)


def test_windows_are_cut_alike_alone_and_together():
    layer = torch.arange(400).reshape(20, 20)
    corners = np.array([[1, 2], [7, 0], [3, 9]])
    together = cut(layer, corners, 6)
    assert all(torch.equal(together[n], cut(layer, corners[n:n + 1], 6)[0]) for n in range(3))


@pytest.mark.parametrize(("name", "repeats", "slices"), [("graphene", (8, 14), 1), ("MoS2", (6, 10), 4)])
def test_exit_waves_against_abtem(name, repeats, slices):
    """R1 of the bright-field, annular and high-angle bands apart, the worst of several positions."""
    pytest.importorskip("abtem", reason="abTEM is not installed: the peer's check of multislice is skipped")
    specimen, length = sheet(name, repeats)
    samples = 240
    step, probe = length / samples, Probe(80e3, 25e-3, defocus=4e-9, spherical_aberration=20e-6)
    atoms = specimen.atoms(np.full(2, -1e-13), np.full(2, length - 1e-13))
    slicing = equal_slices(max(specimen.thickness, 1e-10), slices)
    potential = potential_slices(atoms, np.zeros(2), step, (samples, samples), slicing)
    positions = np.random.default_rng(2).uniform(0, samples, (6, 2))
    theirs = abtem_peer.multislice_patterns(potential.numpy(), step, slicing.distance, probe, positions)
    step_on = propagator((samples, samples), step, slicing.distance, 80e3)
    layers, incident = transmission(potential, step, 80e3), ProbeWaves(probe, samples, step)
    ours = np.concatenate([spectrum(exit_waves(incident(place), layers, ORIGIN, step_on)) for place in positions])
    limit = clear_angle(step, 80e3)
    error = abtem_peer.r1(ours, theirs, probe.wavelength / length, [(0, 25e-3), (25e-3, 50e-3), (50e-3, limit)])
    assert error.max() < 2e-4


def test_apertures_beyond_the_sampling_are_refused():
    with pytest.raises(ValueError, match="30 mrad is beyond the Nyquist limit of the sampling, 20.88 mrad"):
        probe_waves(Probe(80e3, 30e-3), 40, 1e-10, [[20, 20]])
    with pytest.raises(ValueError, match="sampling -1 Angstrom is not positive"):
        probe_waves(Probe(80e3, 30e-3), 40, -1e-10, [[20, 20]])


def strontium_titanate(cells, layers):
    """Atoms of a periodic box of `cells` x `cells` x `layers` unit cells, beam along [001], and its edges [m]."""
    lattice = 3.905e-10
    basis = [(38, (0, 0, 0)), (22, (.5, .5, .5)), (8, (.5, .5, 0)), (8, (.5, 0, .5)), (8, (0, .5, .5))]
    corners = np.stack(np.meshgrid(np.arange(layers), np.arange(cells), np.arange(cells), indexing="ij"), -1).reshape(-1, 1, 3)
    places = (corners + np.array([place for _, place in basis])).reshape(-1, 3) * lattice
    numbers = np.tile([number for number, _ in basis], len(corners))
    rms = np.select([numbers == 38, numbers == 22], [8.9e-12, 7.5e-12], 10e-12)
    return Atoms(places, numbers, rms, np.arange(len(numbers), dtype=np.uint64)), cells * lattice, layers * lattice


@pytest.mark.slow
@pytest.mark.timeout(400)
@pytest.mark.parametrize("name", ["graphene", "MoS2", "SrTiO3"])
def test_a_hundred_positions_against_abtem_and_its_own_probe(name):
    """R1 of every band, the worst of 100 positions, at most 1e-3; two phonon configurations for 20 nm of SrTiO3."""
    pytest.importorskip("abtem", reason="abTEM is not installed: the peer's check of multislice is skipped")
    if name == "SrTiO3":
        atoms, length, thickness = strontium_titanate(8, 51)
        samples, probe, slicing = 256, Probe(200e3, 20e-3), equal_slices(thickness, 102)
        moves = [thermal_displacements(atoms, 0, configuration) for configuration in (0, 1)]
    else:
        specimen, length = sheet(name, (8, 14) if name == "graphene" else (6, 10))
        atoms = specimen.atoms(np.full(2, -1e-13), np.full(2, length - 1e-13))
        samples, probe = 240, Probe(80e3, 30e-3)
        slicing, moves = equal_slices(max(specimen.thickness, 1e-10), 1 if name == "graphene" else 4), [None]
    step = length / samples
    positions = np.random.default_rng(9).uniform(0, samples, (100, 2))
    step_on = propagator((samples, samples), step, slicing.distance, probe.high_tension)
    incident, ours, theirs = ProbeWaves(probe, samples, step), 0.0, 0.0
    for moved in moves:
        potential = potential_slices(atoms, np.zeros(2), step, (samples, samples), slicing, moved)
        theirs = theirs + abtem_peer.multislice_patterns(potential.numpy(), step, slicing.distance, probe, positions)
        layers = transmission(potential, step, probe.high_tension)
        ours = ours + np.concatenate([spectrum(exit_waves(incident(place), layers, ORIGIN, step_on)) for place in positions])
    limit, angle = clear_angle(step, probe.high_tension), probe.semi_convergence_angle
    error = abtem_peer.r1(ours, theirs, probe.wavelength / length, [(0, angle), (angle, 2.2 * angle), (2.2 * angle, limit)])
    assert error.max() < 1e-3, error.max(axis=0)
