"""Dose conservation, and what a dose does: against theory, Monte Carlo integration and however the specimen is cut."""

import numpy as np
import pytest
from scipy import integrate

from edgetem_nodes.physics import displacement
from edgetem_nodes.physics.damage import Damage, DoseHistory, contamination, damaged
from edgetem_nodes.physics.specimens import Atoms

BARN = 1e-28


def atoms(count: int, number: int = 16, extent: float = 20e-9, seed: int = 0) -> Atoms:
    """Atoms strewn over a square."""
    rng = np.random.default_rng(seed)
    positions = np.concatenate([np.zeros((count, 1)), rng.random((count, 2)) * extent], axis=1)
    return Atoms(positions, np.full(count, number), np.full(count, 5e-12), np.arange(count, dtype=np.uint64))


@pytest.mark.parametrize("radius", [0.0, 0.1e-9, 3e-9])
def test_every_electron_is_accounted_for(radius):
    history = DoseHistory()
    rng = np.random.default_rng(1)
    electrons = rng.uniform(0, 1e6, 300)
    history.expose(rng.uniform(-50e-9, 50e-9, (300, 2)), electrons, radius)
    assert history.electrons == pytest.approx(electrons.sum(), abs=300 * 2.0 ** -16)


def test_the_history_does_not_depend_on_order_or_blocks():
    rng = np.random.default_rng(2)
    positions, electrons = rng.uniform(-40e-9, 40e-9, (200, 2)), rng.uniform(0, 1e5, 200)
    whole, parts = DoseHistory(), DoseHistory()
    whole.expose(positions, electrons, 0.7e-9)
    for index in rng.permutation(200):
        parts.expose(positions[index], electrons[index], 0.7e-9)
    asked = rng.uniform(-50e-9, 50e-9, (1000, 2))
    assert np.array_equal(whole.dose_at(asked), parts.dose_at(asked))


def test_a_broad_probe_leaves_a_gaussian_dose():
    history = DoseHistory(cell=0.25e-9)
    history.expose(np.array([[3e-9, -2e-9]]), 1e6, 2e-9)
    offsets = np.random.default_rng(3).uniform(-3e-9, 3e-9, (500, 2))
    # cells are as wide as the dose is averaged: compare at their centres
    asked = (np.floor((np.array([3e-9, -2e-9]) + offsets) / 0.25e-9) + 0.5) * 0.25e-9
    square = ((asked - [3e-9, -2e-9]) ** 2).sum(axis=1)
    assert history.dose_at(asked) == pytest.approx(1e6 / (np.pi * 4e-18) * np.exp(-square / 4e-18), rel=0.02)


def test_a_raster_scan_gives_current_dwell_and_step_as_electrons_per_square_angstrom():
    step, current, dwell = 0.02e-9, 50e-12, 1e-6
    grid = np.stack(np.meshgrid(np.arange(0, 4e-9, step), np.arange(0, 4e-9, step), indexing="ij"), axis=-1).reshape(-1, 2)
    electrons = current * dwell / 1.602176634e-19
    history = DoseHistory()
    history.expose(grid, electrons, 0.05e-9)
    inner = history.dose_at(np.random.default_rng(4).uniform(1e-9, 3e-9, (200, 2)))
    assert inner * 1e-20 == pytest.approx(electrons / 0.2 ** 2, rel=0.02)


def test_memory_grows_with_the_exposed_area_and_not_with_the_number_of_exposures():
    history = DoseHistory()
    history.expose(np.zeros((1000, 2)), 10.0)
    once = history.memory
    history.expose(np.zeros((10000, 2)), 10.0)
    assert history.memory == once
    history.expose(np.array([[1e-3, 1e-3]]), 10.0)
    assert history.memory == 2 * once


def test_exposures_far_apart_are_found_where_they_were_made():
    history = DoseHistory()
    places = np.array([[0.2e-9, 0.2e-9], [-3e-4, 5e-5], [2e-3, -4e-3]])
    history.expose(places, np.array([10.0, 20.0, 30.0]))
    assert history.dose_at(places) * 0.25e-18 == pytest.approx([10, 20, 30])
    assert history.dose_at(places + 0.6e-9) == pytest.approx([0, 0, 0])
    assert history.memory < 200_000


def test_a_copy_keeps_the_history_of_its_time():
    history = DoseHistory()
    history.expose(np.zeros((1, 2)), 100.0)
    before = history.copy()
    history.expose(np.zeros((1, 2)), 50.0)
    assert (before.electrons, history.electrons) == (100.0, 150.0)


def test_the_uniform_dose_is_everywhere():
    history = DoseHistory()
    history.add_uniform(3e20)
    history.add_uniform(1e20)
    assert (history.dose_at(np.random.default_rng(5).random((10, 2))) == 4e20).all()


def test_atoms_are_lost_with_the_probability_of_their_dose():
    history, damage = DoseHistory(), Damage(displacement=True, cross_sections={16: 2 * BARN})
    history.add_uniform(3e27)
    left = damaged(atoms(20000), history, damage, 80e3, 1)
    assert len(left.identity) / 20000 == pytest.approx(np.exp(-0.6), abs=4 * np.sqrt(0.25 / 20000))


def test_damage_grows_with_dose_and_does_not_depend_on_tiles():
    piece, damage = atoms(4000), Damage(displacement=True, cross_sections={16: 2 * BARN})
    history, lost = DoseHistory(), set()
    rng = np.random.default_rng(6)
    for _ in range(4):
        history.expose(rng.uniform(0, 20e-9, (500, 2)), 1e8, 1e-9)
        left = damaged(piece, history, damage, 80e3, 1)
        now = set(piece.identity.tolist()) - set(left.identity.tolist())
        assert lost < now
        lost = now
    half = piece.positions[:, 1] < 7e-9
    tiles = [Atoms(piece.positions[part], piece.atomic_numbers[part], piece.displacement_rms[part], piece.identity[part])
             for part in (half, ~half)]
    parts = np.concatenate([damaged(tile, history, damage, 80e3, 1).identity for tile in tiles])
    assert set(parts.tolist()) == set(left.identity.tolist())


def test_nothing_is_damaged_by_default():
    history, piece = DoseHistory(), atoms(10)
    history.add_uniform(1e40)
    assert damaged(piece, history, Damage(), 300e3, 0) is piece
    assert (contamination(np.zeros((3, 2)), history, Damage()) == 0).all()


def test_elements_without_a_displacement_energy_stay():
    history = DoseHistory()
    history.add_uniform(1e30)
    assert len(damaged(atoms(50, number=82), history, Damage(displacement=True), 300e3, 0).identity) == 50


def test_contamination_grows_with_dose_and_saturates():
    damage = Damage(contamination=True, contamination_growth=1e-34, contamination_saturation=5e-9)
    history, thickness = DoseHistory(), []
    for dose in (1e23, 1e24, 1e25, 1e27):
        history = DoseHistory()
        history.add_uniform(dose)
        thickness.append(contamination(np.zeros((1, 2)), history, damage).item())
    assert thickness[0] == pytest.approx(1e-11, rel=0.01)
    assert thickness == sorted(thickness)
    assert thickness[-1] == pytest.approx(5e-9)


@pytest.mark.parametrize(("atomic_number", "high_tension", "energy"), [(6, 200e3, 21.14), (16, 120e3, 6.9), (42, 1e6, 20.0)])
def test_the_integrated_cross_section_is_that_of_the_differential_one(atomic_number, high_tension, energy):
    transfer = 2 * high_tension * (high_tension + 2 * 510998.95) / displacement.mass(atomic_number)
    beta = np.sqrt(1 - 1 / (1 + high_tension / 510998.95) ** 2)
    radius = 2.8179403e-15  # classical electron radius [m]

    def differential(theta: float) -> float:
        half = np.sin(theta / 2)
        rutherford = (atomic_number * radius / 2) ** 2 * (1 - beta ** 2) / beta ** 4 / half ** 4
        spin = 1 - beta ** 2 * half ** 2 + np.pi * atomic_number / 137.035999 * beta * half * (1 - half)
        return 2 * np.pi * np.sin(theta) * rutherford * spin

    least = 2 * np.arcsin(np.sqrt(energy / transfer))
    whole = integrate.quad(differential, least, np.pi)[0]
    assert displacement.static_cross_section(atomic_number, high_tension, energy, transfer) == pytest.approx(whole, rel=1e-4)


def test_graphene_stands_80_kV_and_not_100_kV():
    # as measured (Meyer et al., Phys. Rev. Lett. 108, 196102 (2012); Susi et al., Nature Communications 7, 13040 (2016))
    energy = displacement.ENERGIES[6]
    assert displacement.cross_section(6, 80e3, energy) < 1e-4 * BARN
    assert 0.05 * BARN < displacement.cross_section(6, 100e3, energy) < 1 * BARN


def test_thermal_motion_moves_the_threshold_and_vanishes_far_above_it():
    cold, warm = (displacement.cross_section(16, 80e3, 6.9, temperature) for temperature in (10.0, 600.0))
    assert cold < 1e-6 * BARN < 0.5 * BARN < warm
    static = displacement.static_cross_section(16, 300e3, 6.9, displacement.greatest_transfer(16, 300e3))
    assert displacement.cross_section(16, 300e3, 6.9) == pytest.approx(static, rel=0.02)


def test_greatest_transfer_is_that_of_a_head_on_collision():
    # conservation of energy and momentum of electron and carbon nucleus, solved in the laboratory frame
    heavy, rest, tension = displacement.mass(6), 510998.95, 100e3
    momentum = np.sqrt(tension * (tension + 2 * rest))
    energies = np.linspace(19, 21, 200001)
    nucleus = np.sqrt(energies * (energies + 2 * heavy))
    electron = np.sqrt((tension - energies) * (tension - energies + 2 * rest))
    solved = energies[np.abs(momentum - nucleus + electron).argmin()]
    assert displacement.greatest_transfer(6, 100e3) == pytest.approx(solved, rel=2e-4)


@pytest.mark.parametrize(("options", "message"), [
    ({"cross_sections": {16: 1.8}}, "cross-section 1.8 m.2 of element 16"),
    ({"displacement_energies": {6: -1.0}}, "displacement energy -1.0"),
    ({"contamination_saturation": 0.0}, "contamination_saturation 0.0"),
])
def test_unphysical_damage_is_refused(options, message):
    with pytest.raises(ValueError, match=message):
        Damage(**options)


def test_unphysical_exposures_are_refused():
    with pytest.raises(ValueError, match="-5.0 electrons"):
        DoseHistory().expose(np.zeros((1, 2)), -5.0)
    with pytest.raises(ValueError, match="not finite"):
        DoseHistory().expose(np.array([[np.nan, 0.0]]), 5.0)
    with pytest.raises(ValueError, match="dose -1.0"):
        DoseHistory().add_uniform(-1.0)


def test_a_rectangle_receives_its_dose_and_nothing_else_does():
    history, corner, extent, dose = DoseHistory(), np.array([-3.2e-9, 40.1e-9]), np.array([7.7e-9, 33.3e-9]), 5e20
    history.add_rectangle(corner, extent, dose)
    assert history.electrons == pytest.approx(dose * extent.prod(), rel=1e-5)
    rng = np.random.default_rng(5)
    inside = corner + 0.5e-9 + rng.random((200, 2)) * (extent - 1e-9)
    assert history.dose_at(inside) == pytest.approx(dose, rel=1e-5)
    around = corner + (rng.random((2000, 2)) * 3 - 1) * extent
    outside = ((around < corner - 0.5e-9) | (around > corner + extent + 0.5e-9)).any(axis=1)
    assert not history.dose_at(around[outside]).any()
    middle = corner + [extent[0] / 2, 0.0]
    assert 0 < history.dose_at(middle[None])[0] < dose, "a cell on the edge has its part"


def test_adjoining_rectangles_are_one():
    whole, parts = DoseHistory(), DoseHistory()
    whole.add_rectangle(np.array([0.2e-9, 0.3e-9]), np.array([10e-9, 20e-9]), 3e20)
    parts.add_rectangle(np.array([0.2e-9, 0.3e-9]), np.array([4.9e-9, 20e-9]), 3e20)
    parts.add_rectangle(np.array([5.1e-9, 0.3e-9]), np.array([5.1e-9, 20e-9]), 3e20)
    asked = np.random.default_rng(6).uniform(-1e-9, 21e-9, (500, 2))
    assert parts.dose_at(asked) == pytest.approx(whole.dose_at(asked), rel=1e-4)


@pytest.mark.parametrize("corner, extent, dose", [((np.nan, 0), (1e-9, 1e-9), 1.0), ((0, 0), (-1e-9, 1e-9), 1.0),
                                                  ((0, 0), (1e-9, 1e-9), -1.0)])
def test_a_rectangle_that_is_none_is_refused(corner, extent, dose):
    with pytest.raises(ValueError, match="rectangle at"):
        DoseHistory().add_rectangle(np.array(corner), np.array(extent), dose)
