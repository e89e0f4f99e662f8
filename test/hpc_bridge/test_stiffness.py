"""Stiffness of perfect sheets against forces, and what it says of errors of positions against Monte Carlo."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from sheet_structures import strained

from edgetem_nodes.hpc_bridge import energetics, engines, stiffness
from edgetem_nodes.hpc_bridge.parameters import Calculation
from edgetem_nodes.hpc_bridge.reference import compute_reference
from edgetem_nodes.hpc_bridge.restraint import BOLTZMANN, Restraint

EV = 1.602176634e-19


def plan(structure, **settings):
    return energetics.plan(structure, "tblite", Calculation(**settings), 0.0, 1e-9)


def known(name: str, size: int):
    work = plan(strained(name, size))
    reference = compute_reference(work)
    return work, reference, stiffness.compute_stiffness(work, reference)


@pytest.fixture(scope="module")
def graphene():
    return known("graphene", 4)


def forces_of(work, reference, moved):
    atoms = stiffness._perfect(work, reference)
    engines.attach(atoms, work.relaxing.engine, work.relaxing.calculation)
    atoms.positions += moved
    return atoms.get_forces()


@pytest.mark.parametrize("name", ["graphene", pytest.param("MoS2", marks=pytest.mark.slow)])
def test_forces_on_atoms_that_are_all_displaced_are_those_of_the_stiffness(name, graphene):
    work, reference, found = graphene if name == "graphene" else known("MoS2", 3)
    moved = np.random.default_rng(3).normal(0, 0.004, (len(found), 3))
    # half the difference of opposite displacements has no anharmonic part to second order
    forces = (forces_of(work, reference, moved) - forces_of(work, reference, -moved)) / 2
    said = -np.einsum("iajb,jb->ia", found, moved)
    assert np.abs(said - forces).max() < 0.03 * np.abs(forces).max()
    assert np.abs(found.sum(axis=2)).max() < 1e-9


def test_optical_modes_of_graphene_are_as_stiff_as_measured(graphene):
    """The Raman G mode, 1581 cm^-1 (Tuinstra & Koenig, J. Chem. Phys. 53, 1126, 1970): m omega^2 = 110 eV/Angstrom^2, for
    tight binding within 25 %."""
    flat = graphene[2].reshape(96, 96)
    omega = 2 * np.pi * 2.998e10 * 1581
    assert np.linalg.eigvalsh(flat)[-1] == pytest.approx(12.011 * 1.6605e-27 * omega ** 2 / EV * 1e-20, rel=0.25)


@pytest.mark.parametrize("part", [1.0, 0.2])
def test_what_errors_leave_is_the_mean_over_errors_that_are_drawn(graphene, part):
    """Quadratic energies, atoms of different covariance, one not measured and one missing; errors with the variance that is
    stated, and with a fifth of it, which is seen by how little the atoms move to their rest."""
    work, reference, found = graphene
    rng = np.random.default_rng(1)
    atoms = stiffness._perfect(work, reference)
    roots = rng.normal(0, 0.03, (32, 2, 2))
    covariances = roots @ roots.transpose(0, 2, 1) + 1e-4 * np.eye(2)
    covariances[7] = np.nan
    kept = np.setdiff1d(np.arange(32), [20])
    # by minimisation over all coordinates; heights of a flat sheet are apart from the others, ripples have no stiffness
    coordinates = (3 * np.arange(32)[:, None] + np.arange(2)).ravel()
    flat, pull = found.reshape(96, 96)[np.ix_(coordinates, coordinates)], np.zeros((64, 64))
    measured = np.setdiff1d(kept, [7])
    for atom in measured:
        exact = covariances[atom] + 1e-6 * np.eye(2)
        pull[2 * atom:2 * atom + 2, 2 * atom:2 * atom + 2] = BOLTZMANN * 300.0 * np.linalg.inv(exact)
    noise = np.zeros((4000, 64))
    for atom in measured:
        noise[:, 2 * atom:2 * atom + 2] = rng.multivariate_normal(np.zeros(2), part * covariances[atom], 4000)
    rest = np.linalg.solve(flat + pull, pull @ noise.T)
    energies = np.einsum("in,ij,jn->n", rest, flat, rest) / 2
    said = []
    for number in range(60):
        there = atoms.copy()
        there.positions[:, :2] += rest[:, number].reshape(32, 2)
        places = atoms.positions[:, :2] + noise[number].reshape(32, 2)
        restraint = Restraint(places[kept], covariances[kept], 300.0)
        said.append(stiffness.left_by_errors(there[kept], restraint, found, work, reference))
    left, variance = np.array(said).T
    # where they are as large as stated half of the draws look smaller by chance, and are taken to be
    assert left.mean() == pytest.approx(energies.mean(), rel=0.17)
    if part < 1:
        assert left.mean() == pytest.approx(energies.mean(), rel=0.05)
        assert variance.mean() == pytest.approx(np.square(energies[:60] - left).mean(), rel=0.4)
    assert 0.05 < left.std() / left.mean() < 0.5


@pytest.mark.slow
@pytest.mark.parametrize(("missing", "error"), [(0, 5e-12), (1, 2e-12), (1, 5e-12)])
def test_it_agrees_with_errors_that_are_drawn_and_relaxed(graphene, missing, error):
    _, reference, found = graphene
    sheet = strained(strain=(0.02, -0.005, 0.003), rotation=0.4)
    rng = np.random.default_rng(8)
    positions = sheet.positions.copy()
    positions[:, :2] += rng.normal(0, error, (32, 2))
    noisy = dataclasses.replace(sheet, atomic_numbers=sheet.atomic_numbers[missing:], positions=positions[missing:],
                                covariances=np.tile(np.eye(2) * error ** 2, (32 - missing, 1, 1)))
    quick = energetics.compute(plan(noisy), reference, {}, None, found)
    drawn = energetics.compute(plan(noisy, noise_draws=6), reference, {})
    assert quick.position_variance_energy == pytest.approx(drawn.position_variance_energy, rel=0.25)
    assert quick.standard_error == pytest.approx(drawn.standard_error, rel=0.3)


def test_without_a_stiffness_errors_are_drawn(graphene):
    work = plan(dataclasses.replace(strained(), covariances=np.tile(np.eye(2) * 1e-24, (32, 1, 1))))
    assert work.harmonic and not plan(strained()).harmonic
    assert "unrestrained_energy_ev" in energetics.compute(work, graphene[1], {}).notes
    assert energetics.compute(work, graphene[1], {}, None, graphene[2]).notes == {}
