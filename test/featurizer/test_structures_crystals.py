"""Cells of crystals, slabs and images against ASE and the geometry of the crystal."""

from __future__ import annotations

import json

import numpy as np
import pytest
from analytic_patterns import deformation
from ase import Atoms
from ase.build import bulk, graphene, mx2
from ase.neighborlist import neighbor_list

from edgetem_nodes.featurizer.cbed.materials import MATERIALS
from edgetem_nodes.featurizer.parameters import Structure
from edgetem_nodes.featurizer.structures import NotIdentifiable, cluster, deformed_cell, image_cell, unit_cell

COVARIANCE = np.diag([4e-6, 1e-6, 1e-6, 9e-6])


def atoms_of(structure) -> Atoms:
    return Atoms(numbers=structure.atomic_numbers, positions=structure.positions * 1e10, cell=structure.cell * 1e10,
                 pbc=structure.periodic)


def lengths(atoms: Atoms, reach: float) -> np.ndarray:
    return np.sort(neighbor_list("d", atoms, reach))


@pytest.mark.parametrize(("name", "expected"), [
    ("Au [001]", bulk("Au", a=4.078, cubic=True)), ("Si [110]", bulk("Si", a=5.431, cubic=True)),
    ("MgO [001]", bulk("MgO", "rocksalt", a=4.212, cubic=True)), ("Fe [001]", bulk("Fe", a=2.866, cubic=True))])
def test_an_undeformed_bulk_cell_is_the_crystal_of_ase(name, expected):
    cell = deformed_cell(unit_cell(MATERIALS[name]), np.eye(2), COVARIANCE, Structure(supercell=2), name)
    made = atoms_of(cell)
    assert made.pbc.all() and len(made) / made.get_volume() == pytest.approx(len(expected) / expected.get_volume(), rel=1e-3)
    for each, whole in ((lengths(made, 5.0), len(made)),):
        per_atom = np.unique(np.round(each, 2), return_counts=True)
        theirs = np.unique(np.round(lengths(expected, 5.0), 2), return_counts=True)
        np.testing.assert_allclose(per_atom[0], theirs[0], atol=0.011)
        np.testing.assert_allclose(per_atom[1] / whole, theirs[1] / len(expected))


def test_a_deformation_acts_across_the_beam_only():
    f = deformation(0.01, -0.02, 0.004, 0.3)
    free = deformed_cell(unit_cell(MATERIALS["SrTiO3 [001]"]), np.eye(2), COVARIANCE, Structure(supercell=2), "SrTiO3 [001]")
    bent = deformed_cell(unit_cell(MATERIALS["SrTiO3 [001]"]), f, COVARIANCE, Structure(supercell=2), "SrTiO3 [001]")
    np.testing.assert_allclose(bent.positions[:, 1::-1], free.positions[:, 1::-1] @ f.T, atol=1e-18)
    np.testing.assert_allclose(bent.positions[:, 2], free.positions[:, 2])
    relative = bent.deformation_covariance[::-1, ::-1]
    # dF = L F, exactly
    slope = np.einsum("ia,bj->ijab", np.eye(2), f).reshape(4, 4)
    np.testing.assert_allclose(slope @ relative @ slope.T, COVARIANCE, atol=1e-12)


def test_a_slab_has_the_measured_number_of_cells_and_vacuum():
    gold = unit_cell(MATERIALS["Au [001]"])
    slab = deformed_cell(gold, np.eye(2), COVARIANCE, Structure(supercell=1), "Au [001]", thickness=4.9e-9,
                         thickness_error=0.1e-9)
    assert len(slab.atomic_numbers) == 12 * len(gold) and slab.periodic == (True, True, False)
    assert np.ptp(slab.positions[:, 2]) == pytest.approx(11.5 * 4.078e-10, rel=1e-6)
    with pytest.raises(NotIdentifiable, match="a slab needs it to half a cell"):
        deformed_cell(gold, np.eye(2), COVARIANCE, Structure(), "Au", thickness=4.9e-9, thickness_error=1e-9)
    with pytest.raises(NotIdentifiable, match="972 atoms, above structure.largest_atoms, 200".replace("972", "[0-9]+")):
        deformed_cell(gold, np.eye(2), COVARIANCE, Structure(), "Au", thickness=20e-9, thickness_error=1e-10)


def image(sheet: Atoms, f: np.ndarray) -> Atoms:
    """What an image of a large sheet under F gives, one vacancy and one dopant in it."""
    large = sheet * (16, 16, 1)
    large.positions[:, :2] -= large.positions[:, :2].mean(axis=0)
    large.positions[:, 1::-1] = large.positions[:, 1::-1] @ f.T
    large.positions[:, :2] += [30.0, 25.0]
    order = np.argsort(np.hypot(*(large.positions[:, :2] - [30, 25]).T), kind="stable")
    large = large[order]
    large.pbc = False
    large.new_array("probability", np.full(len(large), 0.95))
    large.new_array("position_error", np.tile([0.05, 0.03, np.nan], (len(large), 1)))
    gone = large[0]
    large.info["vacancies"] = json.dumps([{"x": gone.x, "y": gone.y, "sublattice": 0, "probability": 0.9}])
    del large[0]
    large.numbers[6] = 7
    return large


@pytest.mark.parametrize("vectors", [[(1, 0), (0, 1)], [(1, 1), (0, 1)], [(0, -1), (1, 0)]])
def test_an_image_becomes_a_periodic_cell_whatever_vectors_its_lattice_has(vectors):
    f = deformation(0.01, 0.02, -0.003, 0.1)
    sheet = graphene(a=2.46, vacuum=5)
    fitted = np.array(vectors) @ sheet.cell.array[:2, 1::-1] @ f.T
    cell = image_cell(image(sheet, f), fitted, np.eye(4) * 1e-6, sheet, (30.0, 25.0), 5.4, Structure(), "graphene")
    assert np.bincount(cell.atomic_numbers)[[6, 7]].tolist() == [30, 1]
    assert {d.name: round(d.probability, 2) for d in cell.defects if d.probability > 0.5} == {"V_C": 0.9, "N_C": 0.95}
    flat = np.linalg.svd(cell.cell[:2, :2], compute_uv=False)
    expected = np.linalg.svd(4 * sheet.cell.array[:2, :2] @ f[::-1, ::-1].T * 1e-10, compute_uv=False)
    np.testing.assert_allclose(flat, expected, rtol=1e-6)
    known = np.isfinite(cell.covariances).all(axis=(1, 2))
    np.testing.assert_allclose(np.sqrt(np.diagonal(cell.covariances[known], axis1=1, axis2=2)) * 1e12,
                               np.tile([5.0, 3.0], (known.sum(), 1)))


def test_columns_of_two_atoms_stay_two():
    sheet = mx2("MoS2", a=3.16, thickness=3.17, vacuum=5)
    large = image(sheet, np.eye(2))
    large.numbers[6] = 42 if large.numbers[6] == 7 else large.numbers[6]
    large.info["vacancies"] = "[]"
    large = large[large.numbers != 7]
    cell = image_cell(large, sheet.cell.array[:2, 1::-1], np.eye(4) * 1e-6, sheet, (36.0, 29.0), 6.0, Structure(), "MoS2")
    assert np.bincount(cell.atomic_numbers)[[16, 42]].tolist() in ([18, 9], [32, 16])


def test_a_cluster_is_cut_and_unknown_elements_are_refused():
    large = image(graphene(a=2.46, vacuum=5), np.eye(2))
    found = cluster(large, (30.0, 25.0), 4.0, Structure(), 1.42)
    assert found.periodic == (False,) * 3 and "not saturated" in found.source
    assert len(found.atomic_numbers) == np.count_nonzero(np.hypot(*(large.positions[:, :2] - [30, 25]).T) < 4.0)
    large.numbers[3] = 0
    with pytest.raises(NotIdentifiable, match="not known"):
        cluster(large, (30.0, 25.0), 4.0, Structure(), 1.42)
    with pytest.raises(NotIdentifiable, match="there is no atom within"):
        cluster(large, (300.0, 25.0), 4.0, Structure(), 1.42)
