"""ASE structures from what was found."""

import json
from dataclasses import replace

import ase.io
import numpy as np
import pytest

from edgetem_nodes.featurizer.atoms.found import FoundAtoms
from edgetem_nodes.featurizer.atoms.species import KINDS


def found_sheet(material="MoS2", pixel_size=20e-12):
    """Four metal and four sulphur columns by hand: one vacancy, one lighter metal, one sulphur column that lost an atom."""
    positions = np.array([(y, x) for low in (20.0, 28.0) for y in (low, low + 16) for x in (low, low + 16)])
    kinds = ["host", "lighter", "vacancy", "host", "lighter", "host", "host", "host"]
    probabilities = np.array([np.where(np.array(KINDS) == kind, 0.96, 0.01) for kind in kinds])
    found = np.array([kind != "vacancy" for kind in kinds])
    covariance = np.where(found[:, None, None], np.eye(2) * 0.04, np.nan)
    one = np.ones(8)
    return FoundAtoms((64, 80), pixel_size, positions, covariance, one, one * 0.1, one, one, found, np.repeat([0, 1], 4),
                      np.zeros((8, 2), int), one, one * 0.1, probabilities, np.where(np.array(kinds) == "host", 0.9, 0.01),
                      found, np.eye(2) * 6, 0.1, None, material=material)


def test_atoms_and_their_names(tmp_path):
    atoms = found_sheet().to_atoms(lighter="V")
    assert sorted(atoms.get_chemical_formula()) == sorted("Mo2S7V")
    metal = atoms[atoms.symbols == "Mo"]
    assert np.allclose(metal.positions[:, :2], [[4.0, 4.0], [7.2, 7.2]])
    assert set(np.round(atoms.positions[atoms.symbols == "S", 2] - 10, 3)) == {1.585, -1.585}
    assert np.allclose(atoms.arrays["position_error"][:, :2], 0.04) and np.isnan(atoms.arrays["position_error"][:, 2]).all()
    vacancies = json.loads(atoms.info["vacancies"])
    assert len(vacancies) == 1 and vacancies[0]["x"] == pytest.approx(4.0) and vacancies[0]["y"] == pytest.approx(7.2)
    assert json.loads(atoms.info["defects"]) == {"lighter": 2, "vacancy": 1}
    atoms.write(tmp_path / "a.extxyz")
    back = ase.io.read(tmp_path / "a.extxyz")
    assert np.allclose(back.positions, atoms.positions, atol=1e-6) and list(back.arrays["kind"]) == list(atoms.arrays["kind"])
    atoms.write(tmp_path / "a.cif")
    assert len(ase.io.read(tmp_path / "a.cif")) == len(atoms)


def test_unnamed_material_has_unknown_elements():
    atoms = found_sheet(material=None).to_atoms()
    assert set(atoms.numbers) == {0} and len(atoms) == 7
    assert np.ptp(atoms.positions[:, 2]) == 0


def test_pixel_size_and_material_are_asked_for():
    with pytest.raises(ValueError, match="pixel size is not known"):
        found_sheet(pixel_size=None).to_atoms()
    assert found_sheet(pixel_size=None).to_atoms(pixel_size=20e-12).cell[0, 0] == pytest.approx(16.0)
    with pytest.raises(ValueError, match="not one of MoS2"):
        found_sheet(material="cheese").to_atoms()


def test_a_kind_that_is_not_sure_gives_no_element(tmp_path):
    """The vanadium column of probability 0.62 may be a vacancy: it is X, and what it may be is said."""
    found = found_sheet()
    found.probabilities[1] = [0.0, 0.62, 0.0, 0.38, 0.0]
    atoms = found.to_atoms(lighter="V")
    assert "V" not in atoms.symbols and list(atoms.symbols).count("X") == 1
    (row,) = np.flatnonzero(atoms.symbols == "X")
    assert atoms.arrays["kind"][row] == "undecided" and atoms.arrays["possible"][row] == "V:0.62/0.62,vacancy:0.38/0.38"
    (said,) = json.loads(atoms.info["undecided"])
    assert said["x"] == pytest.approx(7.2) and "vacancy:0.38" in said["possible"]
    assert json.loads(atoms.info["defects"]) == {"lighter": 1, "undecided": 1, "vacancy": 1}
    atoms.write(tmp_path / "a.extxyz")
    assert ase.io.read(tmp_path / "a.extxyz").arrays["possible"][row] == atoms.arrays["possible"][row]


def test_a_vacancy_that_is_not_sure_is_no_hole():
    found = found_sheet()
    found.probabilities[2] = [0.0, 0.09, 0.0, 0.91, 0.0]
    atoms = found.to_atoms(lighter="V")
    assert json.loads(atoms.info["vacancies"]) == [] and list(atoms.symbols).count("X") == 1


def test_what_only_other_columns_speak_for_is_not_sure():
    found = found_sheet()
    alone = found.probabilities.copy()
    alone[1] = [0.0, 0.1, 0.0, 0.9, 0.0]
    found = replace(found, alone=alone)
    assert found.certainty[1] == pytest.approx(0.1) and found.undecided().tolist() == [1]
    assert found.possible(1) == [("lighter", pytest.approx(0.96), pytest.approx(0.1)), ("vacancy", 0.01, 0.9)]


def test_symbols_are_elements():
    with pytest.raises(ValueError, match="'Unobt' is no chemical symbol"):
        found_sheet().to_atoms(lighter="Unobt")


def test_candidates_are_ordered_and_named():
    found = found_sheet()
    assert set(found.kinds[found.candidates()]) == {"lighter", "vacancy"}
    assert found.kind_probabilities[found.vacancies] == pytest.approx(0.96)
