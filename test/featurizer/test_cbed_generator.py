"""Drawn nanobeam patterns against the virtual microscope, and against what their truth says."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from edgetem_nodes.featurizer.cbed.generator import Conditions, ConditionRanges, NanobeamGenerator, rotation
from edgetem_nodes.featurizer.cbed.held_out import PIXELS, Case, computed, held_out, held_out_cases
from edgetem_nodes.featurizer.cbed.materials import material
from edgetem_nodes.featurizer.cbed.uniform_slab import UniformSlab
from edgetem_nodes.featurizer.patterns.geometry import DetectorGeometry
from edgetem_nodes.physics.diffraction import Diffraction
from edgetem_nodes.physics.electrons import wavelength
from edgetem_nodes.physics.numerics import Numerics
from edgetem_nodes.physics.optics import Camera, Probe

STRAINED = rotation(np.array(0.3)) @ np.array([[1.01, 0.004], [0.004, 0.99]])


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def conditions(name: str, tension: float, angle: float, pixel_angle: float, layers: int, deformation: np.ndarray = STRAINED,
               tilt: tuple[float, float] = (4e-3, -6e-3), **more: np.ndarray) -> Conditions:
    """Of one plain pattern."""
    def one(value: float) -> np.ndarray:
        return np.array([float(value)])

    nothing, thickness = one(0), layers * material(name).spacing
    plain = Conditions(np.zeros(1, int), one(tension), one(angle), one(pixel_angle), one(thickness), one(1), one(0.6), nothing,
                       nothing, nothing, nothing, one(20), nothing, np.array([deformation]), np.array([tilt]),
                       np.zeros((1, 2)), np.zeros((1, 2)), np.eye(2)[None])
    return replace(plain, **more)


def drawn(name: str, pixels: int, which: Conditions, absorption: bool = False) -> np.ndarray:
    generator = NanobeamGenerator([material(name)], ConditionRanges.plain(tilt=8e-3), absorption=absorption)
    return generator.patterns(which, pixels, None).expected[0]


def r_factor(own: np.ndarray, other: np.ndarray, beyond: float = 0.0) -> float:
    """Sum of differences over sum, of pixels farther from the middle than `beyond`."""
    y, x = np.indices(own.shape) - own.shape[0] // 2
    seen = np.hypot(y, x) >= beyond
    return float(np.abs(own - other)[seen].sum() / other[seen].sum())


def test_two_layers_of_a_sheet_are_those_of_the_microscope():
    """Strained, turned and tilted MoS2: all of the pattern, and what is beyond the direct beam."""
    own = drawn("MoS2", 64, conditions("MoS2", 80e3, 2e-3, 1e-3, 2))
    slab = UniformSlab(material("MoS2"), 2, STRAINED, (4e-3, -6e-3))
    microscope = Diffraction(slab, Probe(80e3, 2e-3), Camera(64, 1e-3)).patterns([[0.3e-9, 0.2e-9]])[0]
    assert r_factor(own, microscope) < 0.02
    assert r_factor(own, microscope, 3.5) < 0.04


@pytest.mark.slow
@pytest.mark.parametrize(("name", "layers", "pixel_angle"), [("SrTiO3 [001]", 51, 0.6e-3), ("Au [001]", 25, 0.9e-3)])
def test_tilted_crystals_are_those_of_the_microscope(name, layers, pixel_angle):
    """20 nm of SrTiO3 and 10 nm of gold without phonons; the microscope's own sampling leaves it about 2 % off."""
    own = drawn(name, 64, conditions(name, 200e3, 2e-3, pixel_angle, layers))
    slab = UniformSlab(material(name), layers, STRAINED, (4e-3, -6e-3))
    numerics = Numerics(phonon_configurations=0, slice_thickness=2.05e-10, sampling=0.08e-10)
    microscope = Diffraction(slab, Probe(200e3, 2e-3), Camera(64, pixel_angle), numerics).patterns([[0.3e-9, 0.2e-9]])[0]
    assert r_factor(own, microscope) < 0.045
    assert r_factor(own, microscope, 2.4e-3 / pixel_angle) < 0.06


@pytest.mark.slow
def test_absorption_and_what_is_between_disks_are_those_of_frozen_phonons():
    """Aluminium of two configurations, whose speckle is in the difference; camera shifted and out of focus."""
    case = held_out_cases(1, 1, ["Al [001]"], 12e-9)[0]
    which = conditions(case.material, case.high_tension, case.semi_convergence_angle, case.pixel_angle, case.layers,
                       np.array(case.deformation), case.tilt, offset=np.array(case.shifts[1:]), diffuse=np.ones(1))
    assert r_factor(drawn(case.material, PIXELS, which, absorption=True), computed(case)[1]) < 0.08


@pytest.fixture(scope="module")
def sheets() -> NanobeamGenerator:
    return NanobeamGenerator([material("graphene"), material("MoS2")], ConditionRanges(high_tensions=(60e3, 80e3)))


def test_disks_lie_where_strain_and_distortion_move_them(sheets):
    """At the true lattice's g' = F^-T g, through DetectorGeometry, and by their centres of mass in the pattern."""
    batch = sheets.draw(20, np.random.default_rng(0), 96)
    for row in range(20):
        own = sheets.materials[batch.material[row]]
        direct = own.reference_lattice @ batch.deformation[row].T
        assert batch.reciprocal[row] @ direct.T == pytest.approx(np.eye(2), abs=1e-12)
        geometry = DetectorGeometry(tuple(batch.centre[row]), batch.pixel_angle[row], distortion=batch.distortion[row])
        seen = np.isfinite(batch.disk_counts[row])
        places = batch.disk_places[row][seen]
        angles = (places - geometry.center) @ (geometry.pixel_angle * geometry.distortion).T
        orders = angles / wavelength(batch.high_tension[row]) @ direct.T
        assert orders == pytest.approx(np.rint(orders), abs=1e-9)
        assert places[0] == pytest.approx(batch.centre[row])


def test_the_direct_disk_is_centred_where_the_truth_says():
    which = conditions("graphene", 60e3, 2e-3, 1e-3, 1, offset=np.array([[1.37, -2.21]]))
    pattern = drawn("graphene", 64, which)
    y, x = np.indices(pattern.shape)
    near = np.hypot(y - 33.37, x - 29.79) < 4
    centre = np.array([(y * pattern)[near].sum(), (x * pattern)[near].sum()]) / pattern[near].sum()
    assert centre == pytest.approx([33.37, 29.79], abs=0.01)


def test_no_pattern_has_more_electrons_than_the_beam(sheets):
    batch = sheets.draw(60, np.random.default_rng(1), 64)
    share = batch.expected.sum(axis=(1, 2)) / batch.electrons
    assert (share < 1.003).all()
    assert (share > 0.7).all()
    held = np.nansum(batch.disk_counts, axis=1) / batch.electrons
    assert (held < 1.003).all()


def test_counts_are_poisson(sheets):
    """Mean and variance over draws of one pattern, within what chance allows."""
    rng = np.random.default_rng(2)
    which = sheets.conditions(1, 64, rng)
    which = replace(which, electrons=np.array([2e4]))
    many = Conditions(**{name: np.repeat(value, 300, axis=0) for name, value in vars(which).items()})
    batch = sheets.patterns(many, 64, rng)
    expected = batch.expected[0].astype(float)
    bright = expected > 1
    deviations = (batch.patterns[:, bright] - expected[bright]) / np.sqrt(expected[bright])
    assert deviations.mean() == pytest.approx(0, abs=5 / np.sqrt(deviations.size))
    assert (deviations ** 2).mean() == pytest.approx(1, abs=6 * np.sqrt(3 / deviations.size))
    assert set(np.unique(batch.patterns) % 1) == {0.0}


def test_the_same_generator_draws_the_same(sheets):
    first, second = (sheets.draw(5, np.random.default_rng(3)) for _ in range(2))
    assert all(np.array_equal(value, getattr(second, name), equal_nan=True) for name, value in vars(first).items())


def test_what_blurs_keeps_electrons_and_does_not_ring():
    """A detector's point spread and plasmons: electrons stay, none is negative, far from disks nothing comes up."""
    which = conditions("graphene", 80e3, 2e-3, 1e-3, 1, tilt=(0.0, 0.0))
    sharp = drawn("graphene", 64, which)
    spread = drawn("graphene", 64, replace(which, point_spread=np.array([0.5])))
    assert spread.sum() == pytest.approx(sharp.sum(), rel=1e-3)
    assert spread.max() < sharp.max() * 1.0001
    y, x = np.indices(sharp.shape) - 32
    between = (np.hypot(y, x) > 5.5) & (np.hypot(y, x) < 9)
    assert spread[between].max() < 1e-6
    lossy = drawn("graphene", 64, replace(which, losses=np.array([0.5])))
    assert lossy.sum() == pytest.approx(sharp.sum(), rel=0.02)
    assert lossy.min() >= 0
    assert 5e-6 < lossy[between].mean() < 5e-3


def test_vacancies_take_from_the_disks():
    """Diffracted disks fall by (1 - f)^2, the direct one stays."""
    generator = NanobeamGenerator([material("MoS2")], ConditionRanges.plain(tilt=8e-3))
    which = conditions("MoS2", 80e3, 2e-3, 1e-3, 1)
    full = generator.patterns(which, 64, None).disk_counts[0]
    part = generator.patterns(replace(which, vacancies=np.array([0.1])), 64, None).disk_counts[0]
    ratio = (part / full)[np.isfinite(full)]
    assert ratio[0] == pytest.approx(1)
    assert ratio[1:] == pytest.approx(np.full(len(ratio) - 1, 0.81))


def test_conditions_are_refused_that_cannot_be():
    with pytest.raises(ValueError, match="at least one material"):
        NanobeamGenerator([])
    with pytest.raises(ValueError, match="between 0 and 20 mrad"):
        NanobeamGenerator([material("MoS2")], ConditionRanges(tilt=0.1))
    with pytest.raises(ValueError, match="not positive and ascending"):
        NanobeamGenerator([material("MoS2")], ConditionRanges(semi_convergence_angle=(3e-3, 1e-3)))


def test_held_out_patterns_are_stored_with_their_truth(tmp_path):
    """A graphene case: what lies at the true lattice's places is brighter than between them."""
    cases = held_out_cases(5, 1, ["graphene"])
    data = held_out(cases, tmp_path)
    again = held_out(cases, tmp_path)
    assert np.array_equal(data.expected, again.expected)
    assert len(list(tmp_path.glob("*.npy"))) == 1
    assert isinstance(cases[0], Case)
    for row in range(len(data.expected)):
        basis = wavelength(data.high_tension[row]) * data.truth.reciprocal[row] / data.pixel_angle[row]
        turns = [np.array(pair) for pair in ((1, 0), (0, 1), (1, 1), (-1, 0), (0, -1), (-1, -1))]
        on = [np.rint(data.centre[row] + basis @ turn).astype(int) for turn in turns]
        off = [np.rint(data.centre[row] + 0.5 * basis @ turn).astype(int) for turn in turns]
        values = [[data.expected[row][tuple(place)] for place in places] for places in (on, off)]
        assert np.mean(values[0]) > 20 * np.mean(values[1])
