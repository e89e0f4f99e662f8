"""Recognising a strained supercell, and carrying its strain over to another lattice constant."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from ase.build import make_supercell, mx2
from hypothesis import given, settings, strategies
from sheet_structures import strained

from edgetem_nodes.hpc_bridge import sheets, structures

SMALL = strategies.floats(-0.03, 0.03)


@settings(max_examples=40, deadline=None)
@given(SMALL, SMALL, SMALL, strategies.floats(-3.1, 3.1),
       strategies.sampled_from([("graphene", 4), ("MoS2", 3), ("MoS2", 2)]))
def test_strain_is_recovered_at_any_rotation(xx, yy, xy, rotation, which):
    found, why = sheets.match(strained(*which, (xx, yy, xy), rotation))
    assert why == ""
    stretch = np.array([[1 + xx, xy], [xy, 1 + yy]])
    expected = (stretch @ stretch - np.eye(2)) / 2
    assert found.cells == which[1] ** 2 and found.surplus == ()
    assert np.linalg.eigvalsh(found.strain) == pytest.approx(np.linalg.eigvalsh(expected), abs=1e-9)


def test_a_rectangular_supercell_is_recognised():
    unit = mx2("MoS2", a=3.16 * 1.01, thickness=3.17, vacuum=5)
    rectangular = make_supercell(unit, [[3, 0, 0], [2, 4, 0], [0, 0, 1]])
    rectangular.pbc = (True, True, False)
    found, _ = sheets.match(structures.from_atoms(rectangular))
    assert found.cells == 12
    np.testing.assert_allclose(found.strain, (1.01**2 - 1) / 2 * np.eye(2), atol=1e-9)


def test_building_the_match_again_gives_the_structure():
    structure = strained("MoS2", 3, (0.02, -0.01, 0.01), 0.4)
    found, _ = sheets.match(structure)
    built = sheets.build(found.sheet, found.lattice, found.sheet.thickness, found.supercell, 2e-9)
    same = sheets.carry_over(structure, found, built.cell, found.sheet.thickness)
    np.testing.assert_allclose(same.cell[:2, :2], structure.cell[:2, :2], atol=1e-20)
    np.testing.assert_allclose(same.positions[:, :2], structure.positions[:, :2], atol=1e-20)
    assert sorted(built.atomic_numbers) == sorted(structure.atomic_numbers)
    assert structures.nearest_pair(built)[0] == pytest.approx(np.hypot(3.16 / np.sqrt(3), 3.17 / 2) * 1e-10, rel=1e-9)


def test_carrying_over_scales_the_lattice_and_keeps_the_strain():
    structure = strained("MoS2", 3, (0.02, -0.01, 0.0))
    found, _ = sheets.match(structure)
    reference = sheets.build(found.sheet, 3.27e-10, 3.1e-10, found.supercell, 2e-9)
    carried = sheets.carry_over(structure, found, reference.cell, 3.1e-10)
    again, _ = sheets.match(carried, 3.27e-10)
    np.testing.assert_allclose(again.strain, found.strain, atol=1e-9)
    assert np.ptp(carried.positions[:, 2]) == pytest.approx(3.1e-10)


def without(structure, *atoms):
    kept = np.setdiff1d(np.arange(len(structure.positions)), atoms)
    return dataclasses.replace(structure, atomic_numbers=structure.atomic_numbers[kept], positions=structure.positions[kept])


def test_missing_and_foreign_atoms_are_counted():
    assert sheets.match(without(strained("graphene", 4), 0))[0].surplus == ((6, -1),)
    sulphide = strained("MoS2", 3, (0.02, 0.0, 0.0))
    assert sheets.match(without(sulphide, 1))[0].surplus == ((16, -1),)
    doped = dataclasses.replace(sulphide, atomic_numbers=np.where(np.arange(27) == 0, 23, sulphide.atomic_numbers))
    found, why = sheets.match(without(doped, 4))
    assert (found.sheet.name, found.cells, why) == ("MoS2", 9, "")
    assert found.surplus == ((16, -1), (23, 1), (42, -1))
    alloy = dataclasses.replace(sulphide, atomic_numbers=np.where(sulphide.atomic_numbers == 42, 74, 16))
    assert sheets.match(alloy)[0].sheet.name == "WS2"


@pytest.mark.parametrize("missing", [2, 4])
@pytest.mark.parametrize(("name", "size"), [("graphene", 5), ("graphene", 7), ("MoS2", 4)])
def test_missing_whole_formula_units_are_not_taken_for_a_smaller_sheet(name, size, missing):
    """Strained and noisy: of supercells of as many unit cells others may be less strained."""
    whole = strained(name, size, (0.02, -0.03, 0.01), 0.7, rattle=0.06)
    hosts = np.flatnonzero(whole.atomic_numbers == whole.atomic_numbers.min())
    gone = np.random.default_rng(missing).choice(hosts, missing, replace=False)
    if name == "MoS2":
        gone = np.append(gone, np.flatnonzero(whole.atomic_numbers == 42)[:missing // 2])
    found, _ = sheets.match(without(whole, *gone))
    assert found.cells == size ** 2 and sum(count for _, count in found.surplus) == -len(gone)
    # the strain that was put in, with the rotation that a hexagon does not tell
    stretch = np.array([[1.02, 0.01], [0.01, 0.97]])
    expected = (stretch @ stretch - np.eye(2)) / 2
    assert np.linalg.eigvalsh(found.strain) == pytest.approx(np.linalg.eigvalsh(expected), abs=1e-9)


def test_a_strained_sheet_is_itself_although_another_supercell_would_be_less_strained():
    """Graphene 5 x 5 stretched by 4 % both ways has the area of 27 unit cells."""
    assert sheets.match(strained("graphene", 5, (0.04, 0.04, 0.0)))[0].cells == 25


@pytest.mark.parametrize(("structure", "message"), [
    (strained("graphene", 3), "folds the points where its bands touch onto Gamma"),
    (strained("graphene", 4, (0.3, 0.3, 0.0)), "within 15% strain"),
    (dataclasses.replace(strained(), charge=1), "charged"),
    (dataclasses.replace(strained(), atomic_numbers=np.full(32, 14)), "no known sheet"),
    (dataclasses.replace(strained(), periodic=(False, False, False)), "not periodic"),
])
def test_no_reference_and_why(structure, message):
    found, why = sheets.match(structure)
    assert found is None and message in why
