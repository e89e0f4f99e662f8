"""Projected potentials against the direct Fourier sum, abTEM, and cuts of the same specimen."""

import numpy as np
import pytest
from lattice_specimen import STO, strontium_titanate

from edgetem_nodes.physics.numerics import Slicing, equal_slices
from edgetem_nodes.physics.potential import potential_slices, thermal_displacements
from edgetem_nodes.physics.scattering_factors import potential_spectrum
from edgetem_nodes.physics.specimens import Atoms

FLAT = Slicing(1, 0.0, 0.0, True)


def scattered(number=8, rms=0.0, length=2e-9):
    generator = np.random.default_rng(3)
    positions = np.concatenate([np.zeros((number, 1)), generator.uniform(0, length, (number, 2))], axis=1)
    numbers = generator.choice([6, 8, 22, 42, 79], number)
    return Atoms(positions, numbers, np.full(number, rms), np.arange(number, dtype=np.uint64))


@pytest.mark.parametrize("rms", [0.0, 0.08e-10])
def test_superposition_is_the_sum_of_phase_ramps(rms):
    samples, step = 100, 0.2e-10
    atoms = scattered(rms=rms)
    ours = np.fft.fft2(potential_slices(atoms, np.zeros(2), step, (samples, samples), FLAT).numpy()[0])
    frequency = np.fft.fftfreq(samples, step)
    fy, fx = frequency[:, None], frequency[None, :]
    exact = sum(potential_spectrum(int(z), np.hypot(fy, fx)) * np.exp(-2j * np.pi * (fy * y + fx * x)
                - 2 * (np.pi * rms) ** 2 * (fy ** 2 + fx ** 2))
                for z, (y, x) in zip(atoms.atomic_numbers, atoms.positions[:, 1:], strict=True)) / step ** 2
    for limit, allowed in ((1 / 3, 1e-6), (2 / 3, 5e-5), (0.8, 1e-3)):
        inside = np.hypot(fy, fx) * step * 2 < limit
        assert np.abs(ours - exact)[inside].max() < allowed * np.abs(exact).max(), limit


def test_against_abtem():
    """Atoms on samples of abTEM's grid, where its bilinear deltas are exact; yet it divides by sin(k) / k, k in cycles."""
    abtem = pytest.importorskip("abtem", reason="abTEM is not installed: the peer's check of the potential is skipped")
    from ase import Atoms as AseAtoms

    samples, length = 128, 8e-10
    places = np.array([[16, 32], [80, 24], [64, 100]]) / samples * length
    numbers = np.array([38, 22, 8])
    peer = AseAtoms(numbers=numbers, positions=np.c_[places[:, ::-1], np.full(3, 1e-10)] * 1e10, cell=[8, 8, 2], pbc=True)
    theirs = abtem.Potential(peer, gpts=samples, slice_thickness=2, parametrization="lobato", projection="infinite")
    theirs = np.asarray(theirs.build(lazy=False).array)[0].T * 1e-10
    atoms = Atoms(np.c_[np.zeros(3), places], numbers, np.zeros(3), np.arange(3, dtype=np.uint64))
    ours = potential_slices(atoms, np.zeros(2), length / samples, (samples, samples), FLAT).numpy()[0]
    frequency = np.fft.fftfreq(samples)
    radius = np.hypot(frequency[:, None], frequency[None, :])
    corrected = np.fft.fft2(theirs) * np.sin(np.maximum(radius, 1e-9)) / np.maximum(radius, 1e-9)
    difference = np.abs(np.fft.fft2(ours) - corrected)[radius < 0.42]
    assert difference.max() < 2e-4 * np.abs(corrected).max()


def test_overlapping_boxes_share_thermal_displacements():
    crystal = strontium_titanate(2)
    first = crystal.atoms(np.zeros(2), np.full(2, 4e-9))
    second = crystal.atoms(np.full(2, 1e-9), np.full(2, 5e-9))
    moved = [dict(zip(a.identity.tolist(), thermal_displacements(a, 7, 3).tolist(), strict=True)) for a in (first, second)]
    common = moved[0].keys() & moved[1].keys()
    assert len(common) > 100
    assert all(moved[0][key] == moved[1][key] for key in common)


def test_thermal_displacements_are_gaussian_and_independent():
    number = 40000
    atoms = Atoms(np.zeros((number, 3)), np.full(number, 6), np.full(number, 0.1e-10), np.arange(number, dtype=np.uint64))
    first, again, other = (thermal_displacements(atoms, seed, configuration) / 0.1e-10
                           for seed, configuration in ((1, 0), (1, 1), (2, 0)))
    assert first.std(axis=0) == pytest.approx(np.ones(3), abs=0.02)
    assert first.mean(axis=0) == pytest.approx(np.zeros(3), abs=0.02)
    assert (first ** 4).mean() == pytest.approx(3.0, abs=0.1)
    together = np.corrcoef(np.concatenate([first, again, other], axis=1).T)
    assert np.abs(together - np.eye(9)).max() < 0.03


def test_atoms_go_into_their_slices():
    crystal = strontium_titanate(3)
    atoms = crystal.atoms(-1e-12 * np.ones(2), np.full(2, STO - 1e-12))
    slices = potential_slices(atoms, np.zeros(2), STO / 32, (32, 32), equal_slices(crystal.thickness, 6)).numpy()
    mean = [sum(potential_spectrum(z, np.zeros(1))[0] for z in numbers) / STO ** 2 for numbers in ((38, 8), (22, 8, 8))]
    assert slices.mean(axis=(1, 2)) == pytest.approx(mean * 3, rel=1e-4)
    assert Slicing(3, 1.585e-10, 0.0, True).numbers(np.array([0.0, 1.585e-10, 3.17e-10])).tolist() == [0, 1, 2]


def test_impossible_sampling_is_refused():
    with pytest.raises(ValueError, match="sampling 0 Angstrom is not positive"):
        potential_slices(scattered(), np.zeros(2), 0.0, (8, 8), FLAT)
    with pytest.raises(ValueError, match="0 slices"):
        equal_slices(1e-9, 0)
