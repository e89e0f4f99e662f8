"""Restrained relaxation: forces against finite differences, springs against the formula, GFN1 against a Monte Carlo."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from ase import Atoms
from ase.calculators.calculator import Calculator, all_changes
from ase.optimize import LBFGS
from sheet_structures import strained
from tblite.ase import TBLite

from edgetem_nodes.hpc_bridge import energetics, sheets, structures
from edgetem_nodes.hpc_bridge.parameters import Calculation
from edgetem_nodes.hpc_bridge.reference import compute_reference
from edgetem_nodes.hpc_bridge.restraint import BOLTZMANN, Restraint

EV = 1.602176634e-19
ROOM = BOLTZMANN * 300


class Springs(Calculator):
    """Every coordinate on a spring of its own about the origin of the atoms."""

    implemented_properties = ["energy", "forces"]  # noqa: RUF012

    def __init__(self, rest: np.ndarray, stiffness: np.ndarray) -> None:
        super().__init__()
        self.rest, self.stiffness = rest, stiffness

    def calculate(self, atoms=None, properties=("energy",), system_changes=all_changes):
        super().calculate(atoms, properties, system_changes)
        away = self.atoms.positions - self.rest
        self.results = {"energy": float((self.stiffness * away ** 2).sum() / 2), "forces": -self.stiffness * away}


def plan(structure, **settings):
    return energetics.plan(structure, "tblite", Calculation(**settings), 0.0, 1e-9)


@pytest.fixture(scope="module")
def graphene():
    return compute_reference(plan(strained()))


def measured(structure, error, generator):
    """The structure with errors in x and y of every atom, of which the covariances are told."""
    positions = structure.positions.copy()
    positions[:, :2] += generator.normal(0, error, (len(positions), 2))
    return dataclasses.replace(structure, positions=positions,
                               covariances=np.tile(np.eye(2) * error ** 2, (len(positions), 1, 1)))


def relaxed(structure, reference):
    """The structure at the engine's own minimum, in the engine's lattice, as measurements without error would have it."""
    work = plan(structure)
    found = sheets.carry_over(structure, work.match, reference.cell, reference.thickness)
    atoms = structures.to_atoms(found, 1e-9)
    atoms.calc = TBLite(method="GFN1-xTB", verbosity=0)
    assert LBFGS(atoms, logfile=None).run(fmax=0.01, steps=500)
    fractions = atoms.positions[:, :2] @ np.linalg.inv(atoms.cell.array[:2, :2])
    positions = np.concatenate([fractions @ structure.cell[:2, :2], atoms.positions[:, 2:] * 1e-10], axis=1)
    return dataclasses.replace(structure, positions=positions)


def test_the_restraints_force_is_the_derivative_of_its_energy_and_unmeasured_atoms_are_free():
    rng = np.random.default_rng(1)
    root = rng.normal(0, 0.05, (3, 2, 2))
    covariances = root @ np.swapaxes(root, 1, 2)
    covariances[1] = np.nan
    atoms = Atoms("C3", positions=rng.normal(0, 2, (3, 3)))
    restraint = Restraint(atoms.positions[:, :2] + 0.1, covariances, 300.0)
    forces = np.zeros((3, 3))
    restraint.adjust_forces(atoms, forces)
    for atom, axis in np.ndindex(3, 3):
        energies = []
        for sign in (1, -1):
            moved = atoms.copy()
            moved.positions[atom, axis] += sign * 1e-5
            energies.append(restraint.adjust_potential_energy(moved))
        assert forces[atom, axis] == pytest.approx((energies[1] - energies[0]) / 2e-5, rel=1e-5, abs=1e-6)
    assert not forces[1].any() and not forces[:, 2].any() and restraint.coordinates == 4


def test_modes_relax_as_far_as_stiffness_and_error_say():
    """x = n s / (k + s) for noise n, stiffness k and s = kT / e^2: left is (k e^2 / 2) (kT / (k e^2 + kT))^2 on average."""
    rng = np.random.default_rng(2)
    error, stiffness = 0.05, rng.uniform(1, 80, (400, 3))
    rest = rng.uniform(0, 50, (400, 3))
    atoms = Atoms("C400", positions=rest + np.pad(rng.normal(0, error, (400, 2)), ((0, 0), (0, 1))))
    noise = atoms.positions - rest
    atoms.set_constraint(Restraint(atoms.positions[:, :2], np.tile(np.eye(2) * error ** 2, (400, 1, 1)), 300.0))
    atoms.calc = Springs(rest, stiffness)
    assert LBFGS(atoms, logfile=None).run(fmax=1e-4, steps=2000)
    soft = ROOM / error ** 2
    expected = (noise * soft / (stiffness + soft))[:, :2]
    np.testing.assert_allclose((atoms.positions - rest)[:, :2], expected, atol=2e-5)
    left = stiffness[:, :2] * error ** 2 / 2 * (ROOM / (stiffness[:, :2] * error ** 2 + ROOM)) ** 2
    assert atoms.get_potential_energy(apply_constraint=False) == pytest.approx(left.sum(), rel=0.15)
    assert left.max() <= ROOM / 8


def test_noise_of_positions_costs_no_energy_that_is_not_stated(graphene):
    """3 and 10 pm a coordinate cost 1.6 and 20 eV in atoms that are not relaxed; the true energy is 0."""
    rng = np.random.default_rng(3)
    for error, bound in ((3e-12, 0.15), (10e-12, 0.05)):
        noisy = measured(strained(), error, rng)
        raw = energetics.compute(plan(noisy, relax=False), graphene).excess_energy / EV
        found = energetics.compute(plan(noisy), graphene)
        assert raw > 5 * bound
        assert found.excess_energy / EV == pytest.approx(0, abs=bound)
        assert abs(found.excess_energy) < 3.5 * found.standard_error
        assert 0 < found.position_variance_energy / EV < 64 * ROOM / 8
        assert found.restraint_chi_square < 2 and found.converged


def test_strain_that_was_measured_survives_the_relaxation(graphene):
    strain = (0.02, 0.0, 0.0)
    clean = energetics.compute(plan(strained(strain=strain)), graphene).excess_energy / EV
    noisy = measured(strained(strain=strain), 5e-12, np.random.default_rng(5))
    found = energetics.compute(plan(noisy), graphene)
    assert clean > 0.3
    assert found.excess_energy / EV == pytest.approx(clean, abs=3.5 * found.standard_error / EV + 0.01)


def test_a_distortion_that_was_measured_well_is_kept():
    """A real displacement of 10 pm, known to 0.3 pm, stays; known to 30 pm it does not."""
    structure = strained()
    positions = structure.positions.copy()
    positions[5, 0] += 10e-12
    kept = {}
    for error in (0.3e-12, 30e-12):
        told = dataclasses.replace(structure, positions=positions, covariances=np.tile(np.eye(2) * error ** 2, (32, 1, 1)))
        work = plan(told, reference=False)
        kept[error] = energetics.compute(work, None).energy / EV
    lowest = energetics.compute(plan(structure, reference=False), None).energy / EV
    assert kept[0.3e-12] - lowest > 0.1 and kept[30e-12] - lowest < 0.02


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.parametrize(("error", "vacancy"), [(2e-12, False), (5e-12, True), (10e-12, False)])
def test_stated_errors_are_those_of_a_monte_carlo(graphene, error, vacancy):
    truth = strained(rattle=0.01)
    if vacancy:
        truth = dataclasses.replace(truth, atomic_numbers=truth.atomic_numbers[1:], positions=truth.positions[1:])
    carried = relaxed(truth, graphene)
    true = energetics.compute(plan(carried), graphene).excess_energy / EV
    assert true == pytest.approx(7.68 if vacancy else 0.0, abs=0.05)
    rng = np.random.default_rng(7)
    found = [energetics.compute(plan(measured(carried, error, rng)), graphene) for _ in range(5)]
    excess, stated = np.array([(r.excess_energy / EV - true, r.standard_error / EV) for r in found]).T
    assert abs(excess.mean()) < 0.05
    assert np.abs(excess / stated).max() < 3.5
    assert 0.25 < np.sqrt((excess ** 2).mean()) / stated.mean() < 1.8


def test_restraint_can_be_switched_off(graphene):
    noisy = measured(strained(), 5e-12, np.random.default_rng(5))
    free = energetics.compute(plan(noisy, restraint=False), graphene)
    assert free.position_variance_energy == 0 and np.isnan(free.restraint_chi_square)
    assert free.excess_energy / EV == pytest.approx(0, abs=0.01)
