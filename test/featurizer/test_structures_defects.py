"""Defect cells against a large sheet made with ASE, of which a square about a place is seen."""

from __future__ import annotations

import numpy as np
import pytest
from ase import Atoms
from ase.build import graphene, mx2
from ase.neighborlist import neighbor_list
from analytic_patterns import deformation

from edgetem_nodes.featurizer.cbed.materials import MATERIALS
from edgetem_nodes.featurizer.parameters import Structure
from edgetem_nodes.featurizer.structures import NotIdentifiable, SheetAtoms, defect_cell, unit_cell

ELEMENTS = (0, 5, 6, 7, 16, 23, 42, -1)
COVARIANCE = np.diag([4e-6, 1e-6, 1e-6, 9e-6])
HALF = 4.6
"""Half of the square that is seen [Angstrom]: 0.85 nm^2."""


def seen(sheet: Atoms, f: np.ndarray, shift: tuple[float, float], noise: float = 0.0, turned: bool = False,
         defects: dict[int, int] | None = None, certainty: float = 0.97, half: float = HALF) -> SheetAtoms:
    """What a micro-scan says of a sheet under F; `defects`: element by rank of the atom's distance from the place."""
    large = sheet * (14, 14, 1)
    flat = large.positions[:, :2] - large.positions[:, :2].mean(axis=0)
    places = (-flat if turned else flat)[:, ::-1] @ f.T + shift
    inside = (np.abs(places) < half).all(axis=1)
    places, numbers, heights = places[inside], large.numbers[inside], large.positions[inside, 2]
    order = np.argsort((places ** 2).sum(axis=1), kind="stable")
    places, numbers, heights = places[order], numbers[order], heights[order]
    layer = (heights > sheet.positions[:, 2].min() + 2.5).astype(int)
    probabilities = np.zeros((len(numbers), len(ELEMENTS)))
    for row, host in enumerate(numbers):
        now = (defects or {}).get(row, host)
        probabilities[row, ELEMENTS.index(host)] = 1 - certainty
        probabilities[row, ELEMENTS.index(now)] = 1 if now == host else certainty
    rng = np.random.default_rng(4)
    places = places + rng.normal(0, noise, places.shape)
    covariances = np.tile(np.diag([max(noise, 0.01), 2 * max(noise, 0.01)]) ** 2 * 1e-20, (len(numbers), 1, 1))
    return SheetAtoms(places * 1e-10, covariances, numbers, layer, probabilities, ELEMENTS, (2 * half * 1e-10) ** 2)


def atoms_of(structure) -> Atoms:
    return Atoms(numbers=structure.atomic_numbers, positions=structure.positions * 1e10, cell=structure.cell * 1e10,
                 pbc=structure.periodic)


def neighbours(atoms: Atoms, reach: float) -> list[tuple[int, int, float]]:
    first, second, distance = neighbor_list("ijd", atoms, reach)
    numbers = atoms.numbers
    return sorted((int(numbers[i]), int(numbers[j]), round(float(d), 6))
                  for i, j, d in zip(first, second, distance, strict=True))


GRAPHENE, MOS2 = graphene(a=2.46, vacuum=5), mx2("MoS2", a=3.16, thickness=3.17, vacuum=5)


@pytest.mark.parametrize("angle", [0.0, 0.4, 1.7, -2.5])
def test_graphene_with_vacancy_and_dopant_becomes_the_cell_that_ase_makes(angle):
    f = deformation(0.02, -0.01, 0.005, angle)
    found = seen(GRAPHENE, f, (0.4, -0.7), defects={0: 0, 9: 7})
    structure = defect_cell(unit_cell(MATERIALS["graphene"]), f, COVARIANCE, found, Structure(), "graphene")
    assert np.bincount(structure.atomic_numbers)[[6, 7]].tolist() == [30, 1]
    expected = GRAPHENE * (4, 4, 1)
    plane = np.eye(3)
    plane[:2, :2] = f[::-1, ::-1]
    expected.set_cell(expected.cell.array @ plane.T, scale_atoms=True)
    expected.pbc = (True, True, False)
    # the perfect cell's pairs, less those of the vacancy
    whole, cut = neighbours(expected, 2.7), neighbours(atoms_of(structure), 2.7)
    assert len(whole) == 32 * 9 and len(cut) == 32 * 9 - 2 * 9
    lengths = sorted({d for _, _, d in cut})
    assert all(min(abs(d - e) for _, _, e in whole) < 1e-4 for d in lengths)
    assert {d.name: d.probability for d in structure.defects if d.probability > 0.5} == {"V_C": 0.97, "N_C": 0.97}
    assert structure.footprint_area == pytest.approx(0.8464e-18)
    assert "odd number of electrons" in structure.source


def test_molybdenum_disulphide_is_recognised_turned_by_half_a_turn_and_loses_one_atom_of_a_column():
    f = deformation(0.0, 0.01, 0.0, 0.2)
    for turned in (False, True):
        base = seen(MOS2, f, (0.3, 0.9), turned=turned)
        upper = int(np.flatnonzero((base.host == 16) & (base.layer == 1))[0])
        metal = int(np.flatnonzero(base.host == 42)[1])
        found = seen(MOS2, f, (0.3, 0.9), turned=turned, defects={upper: 0, metal: 23})
        structure = defect_cell(unit_cell(MATERIALS["MoS2"]), f, COVARIANCE, found, Structure(), "MoS2")
        assert np.bincount(structure.atomic_numbers)[[16, 23, 42]].tolist() == [17, 1, 8]
        assert sorted(d.name for d in structure.defects if d.probability > 0.5) == ["V_S", "vanadium_Mo"]


def test_every_measured_place_and_covariance_comes_into_the_cell():
    f = deformation(0.01, 0.0, 0.0, 0.3)
    found = seen(GRAPHENE, f, (0.0, 0.2), noise=0.05)
    structure = defect_cell(unit_cell(MATERIALS["graphene"]), f, COVARIANCE, found, Structure(), "graphene")
    exact = seen(GRAPHENE, f, (0.0, 0.2))
    perfect = defect_cell(unit_cell(MATERIALS["graphene"]), f, COVARIANCE, exact, Structure(), "graphene")
    measured = np.isfinite(structure.covariances).all(axis=(1, 2))
    away = (structure.positions - perfect.positions)[:, :2] * 1e10
    # sites that were not seen stand where the lattice has them, the others scatter by the noise
    assert 20 < measured.sum() <= 32 and np.abs(away[~measured]).max(initial=0) < 1e-6
    assert away[measured].std() == pytest.approx(0.05, rel=0.25)
    expected = np.diag([0.01, 0.0025]) * 1e-20 * np.ones((measured.sum(), 1, 1))
    np.testing.assert_allclose(structure.covariances[measured], expected)
    assert structure.standard_errors[measured][:, :2] == pytest.approx(np.tile([1e-11, 5e-12], (measured.sum(), 1)))


def test_a_stretch_and_turn_of_all_places_against_the_lattice_is_taken_off_and_what_is_local_stays():
    f = deformation(0.01, 0.0, 0.0, 0.3)
    found, moved = (seen(GRAPHENE, f, (0.0, 0.2), noise=0.03) for _ in range(2))
    # a scan whose steps are 2 % too short along y, with some shear, and one atom that really stands elsewhere
    moved.positions[:] = moved.positions @ (np.eye(2) + [[-0.02, 0.004], [0.001, 0.0]]).T
    for one in (found, moved):
        one.positions[3] += [0.0, 0.15e-10]
    known = unit_cell(MATERIALS["graphene"])
    cells = [defect_cell(known, f, COVARIANCE, one, Structure(), "graphene") for one in (found, moved)]
    apart = (cells[1].positions - cells[0].positions)[:, :2] * 1e10
    apart = (apart - apart.mean(axis=0))[np.isfinite(cells[0].covariances).all(axis=(1, 2))]
    assert np.abs(apart).max() < 0.003
    perfect = defect_cell(known, f, COVARIANCE, seen(GRAPHENE, f, (0.0, 0.2)), Structure(), "graphene")
    farthest = np.linalg.norm((cells[1].positions - perfect.positions)[:, :2] * 1e10, axis=1).max()
    assert 0.1 < farthest < 0.25 and "2.1 %, is taken off" in cells[1].source
    moved.positions[:] = moved.positions @ np.diag([0.95, 1.0])
    with pytest.raises(NotIdentifiable, match="stretched or turned by 6.* %.* 5 % is the limit"):
        defect_cell(known, f, COVARIANCE, moved, Structure(), "graphene")


@pytest.mark.parametrize("half", [4.9, 6.0, 6.6, 7.1, 7.6, 8.1, 8.5, 9.2])
@pytest.mark.parametrize("angle", [0.0, 0.9])
def test_the_supercell_is_as_large_as_what_was_seen(half, angle):
    """Squares of 0.96 to 3.4 nm^2; an atom of graphene has 0.0262 nm^2. But for its vacancy the cell is the lattice again, and
    the Dirac points are not folded onto Gamma."""
    f = deformation(0.0, 0.0, 0.0, angle)
    found = seen(GRAPHENE, f, (0.1, 0.1), half=half, defects={5: 0})
    structure = defect_cell(unit_cell(MATERIALS["graphene"]), f, COVARIANCE, found, Structure(), "graphene")
    sites = len(structure.atomic_numbers) + 1
    assert 0.8 < sites * 2.46 ** 2 * 3 ** 0.5 / 4 / (2 * half) ** 2 < 1.06 and (sites // 2) % 3
    assert np.isnan(structure.covariances).any(axis=(1, 2)).sum() <= 0.1 * sites
    assert structure.footprint_area == pytest.approx((2 * half * 1e-10) ** 2)
    bonds = [d for _, _, d in neighbours(atoms_of(structure), 1.6)]
    assert len(bonds) == 3 * sites - 6 and bonds == pytest.approx([2.46 / 3 ** 0.5] * len(bonds), abs=1e-5)
    lengths = np.linalg.norm(structure.cell[:2, :2], axis=1)
    assert lengths[0] == pytest.approx(lengths[1])


def test_sites_that_were_not_identified_make_the_cell_smaller_and_so_does_the_limit_of_atoms():
    found = seen(GRAPHENE, np.eye(2), (0.1, 0.1), half=8.1)
    found.probabilities[70:] = np.nan      # those are farthest from the middle
    structure = defect_cell(unit_cell(MATERIALS["graphene"]), np.eye(2), COVARIANCE, found, Structure(), "graphene")
    assert len(structure.atomic_numbers) == 74
    whole = seen(GRAPHENE, np.eye(2), (0.1, 0.1), half=8.1)
    limited = defect_cell(unit_cell(MATERIALS["graphene"]), np.eye(2), COVARIANCE, whole, Structure(largest_atoms=90),
                          "graphene")
    assert len(limited.atomic_numbers) == 86


def test_probable_defects_are_listed_with_what_they_are_and_where():
    """A vacancy of 0.3 is listed and not built in; nitrogen of 0.05, which a prior alone would give, is neither."""
    found = seen(GRAPHENE, np.eye(2), (0.4, 0.0), defects={0: 0}, certainty=0.9)
    for row, element, chance in ((4, 0, 0.3), (6, 7, 0.05), (8, 7, 0.45)):
        found.probabilities[row] = 0
        found.probabilities[row, ELEMENTS.index(element)], found.probabilities[row, ELEMENTS.index(6)] = chance, 1 - chance
    structure = defect_cell(unit_cell(MATERIALS["graphene"]), np.eye(2), COVARIANCE, found, Structure(), "graphene")
    assert {(d.name, d.element, d.host, round(d.probability, 3)) for d in structure.defects} \
        == {("V_C", 0, 6, 0.9), ("V_C", 0, 6, 0.3), ("N_C", 7, 6, 0.45)}
    assert np.bincount(structure.atomic_numbers)[6] == 31 and "would add up to 0.05" in structure.source
    # the sites are those of atoms, but for the one that is missing
    near = [np.linalg.norm(structure.positions - d.position, axis=1).min() for d in structure.defects]
    assert sorted(distance < 1e-13 for distance in near) == [False, True, True]


def test_an_element_that_is_likeliest_but_not_probable_is_not_built_in():
    found = seen(GRAPHENE, np.eye(2), (0.4, 0.0))
    found.probabilities[3] = 0
    for element, chance in ((0, 0.4), (6, 0.35), (7, 0.25)):
        found.probabilities[3, ELEMENTS.index(element)] = chance
    structure = defect_cell(unit_cell(MATERIALS["graphene"]), np.eye(2), COVARIANCE, found, Structure(), "graphene")
    assert len(structure.atomic_numbers) == 32 and [d.name for d in structure.defects] == ["V_C", "N_C"]


def _uncertain():
    return seen(GRAPHENE, np.eye(2), (0.4, 0.0), defects={0: 0, 3: 7, 7: 0, 9: 0, 12: 7, 15: 0}, certainty=0.6)


def _other():
    found = seen(GRAPHENE, np.eye(2), (0.4, 0.0))
    found.probabilities[2] = np.eye(len(ELEMENTS))[-1]
    return found


def _unidentified():
    found = seen(GRAPHENE, np.eye(2), (0.4, 0.0))
    found.probabilities[:] = np.nan
    return found


@pytest.mark.parametrize(("found", "f", "settings", "message"), [
    (_uncertain, np.eye(2), Structure(), "6 sites have the perfect sheet's atom with a probability between 0.2 and 0.8"),
    (_other, np.eye(2), Structure(), "none of the elements that are known"),
    (_unidentified, np.eye(2), Structure(), "more than half"),
    (lambda: seen(GRAPHENE, np.eye(2), (0.0, 0.0)), 1.12 * np.eye(2), Structure(), "pattern and atoms contradict"),
    (lambda: seen(MOS2, np.eye(2), (0.0, 0.0)), np.eye(2), Structure(), "the two measurements contradict"),
    (lambda: seen(GRAPHENE, np.eye(2), (0.0, 0.0)), np.eye(2), Structure(largest_atoms=20),
     "32 atoms, above structure.largest"),
    (lambda: seen(GRAPHENE, np.eye(2), (0.0, 0.0), half=0.1), np.eye(2), Structure(), "no atom was found"),
])
def test_what_is_not_identifiable_is_refused(found, f, settings, message):
    with pytest.raises(NotIdentifiable, match=message):
        defect_cell(unit_cell(MATERIALS["graphene"]), f, COVARIANCE, found(), settings, "graphene")
