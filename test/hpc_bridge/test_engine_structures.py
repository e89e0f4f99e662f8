"""Checks of atomic structures, against ASE's neighbour list; every refusal names value and rule."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk
from ase.neighborlist import neighbor_list
from hypothesis import given, settings, strategies
from hypothesis.extra.numpy import arrays
from sheet_structures import strained

from edgetem_nodes.hpc_bridge import structures
from edgetem_nodes.hpc_bridge.structures import StructureError

ALL = frozenset(range(1, 87))


def check(candidate, elements=ALL, largest=100, shortest=60e-12):
    structures.check(candidate, elements, largest, shortest)


@settings(max_examples=40, deadline=None)
@given(arrays(float, (3, 3), elements=strategies.floats(-1, 1)), arrays(float, (4, 3), elements=strategies.floats(-30, 30)),
       strategies.sampled_from([(True, True, True), (True, True, False), (False, False, False)]))
def test_nearest_pair_agrees_with_ase(noise, positions, periodic):
    cell = 5.0 * np.eye(3) + noise
    atoms = Atoms("CO2N", positions=positions, cell=cell, pbc=periodic)
    found, _, _ = structures.nearest_pair(structures.from_atoms(atoms))
    reach = neighbor_list("d", atoms, 12.0)
    if len(reach):
        assert found == pytest.approx(reach.min() * 1e-10, rel=1e-9, abs=1e-22)
    else:
        assert found > 12e-10


@settings(max_examples=30, deadline=None)
@given(arrays(np.uint8, 5, elements=strategies.integers(1, 86)), arrays(float, (5, 3), elements=strategies.floats(-10, 10)))
def test_atoms_and_back(numbers, positions):
    atoms = Atoms(numbers=numbers, positions=positions, cell=[7, 8, 9], pbc=True)
    back = structures.to_atoms(structures.from_atoms(atoms), 1e-9)
    np.testing.assert_allclose(back.positions, positions, atol=1e-12)
    np.testing.assert_allclose(back.cell.array, atoms.cell.array, rtol=1e-12)
    assert (back.numbers == numbers).all() and back.pbc.all()


def test_a_sheet_gets_the_vacuum_that_was_asked_for():
    atoms = structures.to_atoms(strained("MoS2", 3), 1.2e-9)
    assert atoms.cell[2, 2] == pytest.approx(3.17 + 24.0)
    assert atoms.positions[:, 2].min() == pytest.approx(12.0) and atoms.pbc.all()


def test_a_sound_sheet_passes():
    check(strained("MoS2", 3, (0.01, -0.01, 0.0), strain_error=0.01))


def _changed(**changes):
    return dataclasses.replace(strained(), **changes)


def _with(name, index, value):
    values = getattr(strained(strain_error=0.01), name).copy()
    values[index] = value
    return dataclasses.replace(strained(strain_error=0.01), **{name: values})


@pytest.mark.parametrize(("candidate", "message"), [
    (_with("positions", (3, 1), np.nan), r"positions\[3, 1\] is nan; every number must be finite"),
    (_with("cell", (0, 0), np.inf), r"cell\[0, 0\] is inf"),
    (_with("standard_errors", (0, 0), -1e-12), "none can be negative"),
    (_with("atomic_numbers", 5, 94), "atomic number 94: the engine knows 1 to 86"),
    (_with("positions", 1, strained().positions[0] + 2e-11), "34.6 pm apart; the shortest distance allowed is 60 pm"),
    (_changed(atomic_numbers=np.empty(0, int), positions=np.empty((0, 3))), "has no atoms"),
    (_changed(positions=strained().positions * 1e10), "positions are in metres"),
    (_changed(cell=np.zeros((3, 3))), "periodic cell vector 0 is 0 m long"),
    (_changed(cell=strained().cell[[0, 0, 2]]), "meet at 0.0 deg"),
    (_changed(charge=33), "the charge is 33; it may not exceed the number of atoms, 32"),
    (_changed(periodic=(True, False, False)), "periodic nowhere, in x and y"),
])
def test_what_no_engine_should_see_is_refused(candidate, message):
    with pytest.raises(StructureError, match=message):
        check(candidate)


def test_too_many_atoms():
    with pytest.raises(StructureError, match="32 atoms; the limit is 31"):
        check(strained(), largest=31)


def test_an_atom_may_not_meet_its_own_image():
    small = structures.from_atoms(bulk("Cu", a=0.8))
    with pytest.raises(StructureError, match="atom 0 and its own periodic image are 56.6 pm apart"):
        check(small)


@pytest.mark.parametrize(("arguments", "message"), [
    (([6, 6], np.zeros(5), np.eye(3), (1, 1, 1)), "2 atomic numbers go with 6 coordinates"),
    (([6], np.zeros(3), np.eye(3), (1, 1, 1), 0, [1.0]), "holds 1 numbers; it is empty or holds 3"),
    (([6], np.zeros(3), np.zeros(6), (1, 1, 1)), "the cell holds 6 numbers"),
])
def test_lengths_that_do_not_belong_together(arguments, message):
    with pytest.raises(StructureError, match=message):
        structures.structure(*arguments)
