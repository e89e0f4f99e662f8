"""The engines against direct ASE + tblite calls, and against physics: invariance, forces and stress as derivatives."""

from __future__ import annotations

import json

import numpy as np
import pytest
from ase.build import bulk, molecule
from ase.calculators.emt import EMT
from sheet_structures import strained
from tblite.ase import TBLite

from edgetem_nodes.hpc_bridge import engines, structures
from edgetem_nodes.hpc_bridge.parameters import Calculation

EV = 1.602176634e-19
POINT = Calculation(relax=False, accuracy=0.01)
TBLITE = engines.engine("tblite")


def energy(atoms, calculation=POINT):
    return engines.calculate(atoms.copy(), TBLITE, calculation)


@pytest.fixture(scope="module")
def sheet():
    return structures.to_atoms(strained("graphene", 4, rattle=0.05), 6e-10)


@pytest.mark.parametrize("method", ["GFN1-xTB", "GFN2-xTB"])
def test_single_point_equals_a_direct_call(sheet, method):
    direct = sheet.copy()
    direct.calc = TBLite(method=method, verbosity=0)
    found = energy(sheet, Calculation(method=method, relax=False))
    assert found.energy == pytest.approx(direct.get_potential_energy() * EV, rel=1e-12)
    np.testing.assert_allclose(found.forces, direct.get_forces() * EV * 1e10, atol=1e-15)
    np.testing.assert_allclose(found.stress, direct.get_stress(voigt=False) * EV * 1e30, rtol=1e-6)
    assert found.steps == 0 and found.converged


def test_translation_and_rotation_do_not_change_the_energy(sheet):
    reference = energy(sheet)
    moved = sheet.copy()
    moved.translate([0.7, -0.3, 0.2])
    turned = sheet.copy()
    turned.rotate(37, "z", rotate_cell=True)
    assert energy(moved).energy == pytest.approx(reference.energy, abs=1e-6 * EV)
    rotated = energy(turned)
    assert rotated.energy == pytest.approx(reference.energy, abs=1e-6 * EV)
    np.testing.assert_allclose(np.linalg.norm(rotated.forces, axis=1), np.linalg.norm(reference.forces, axis=1),
                               atol=1e-4 * EV * 1e10)
    assert np.abs(reference.forces.sum(0)).max() < 1e-3 * EV * 1e10


def test_forces_are_the_derivative_of_the_energy(sheet):
    force = energy(sheet).forces[5]
    for axis in range(3):
        energies = []
        for sign in (1, -1):
            moved = sheet.copy()
            moved.positions[5, axis] += sign * 0.01
            energies.append(energy(moved).energy)
        assert -(energies[0] - energies[1]) / 0.02e-10 == pytest.approx(force[axis], abs=5e-3 * EV * 1e10)


def test_stress_is_the_derivative_of_the_energy_with_strain():
    atoms = structures.to_atoms(strained("graphene", 4, (0.02, 0.0, 0.0)), 6e-10)
    energies = []
    for sign in (1, -1):
        further = atoms.copy()
        further.set_cell(atoms.cell.array @ np.diag([1 + sign * 0.002, 1, 1]), scale_atoms=True)
        energies.append(energy(further).energy)
    stress = (energies[0] - energies[1]) / 0.004 / (atoms.get_volume() * 1e-30)
    assert energy(atoms).stress[0, 0] == pytest.approx(stress, rel=0.01)


def test_relaxation_reports_every_step_and_reaches_the_force(sheet):
    steps = []
    found = engines.calculate(sheet.copy(), TBLITE, Calculation(), step=lambda *values: steps.append(values))
    assert [number for number, _, _ in steps] == list(range(found.steps + 1)) and found.steps > 0
    assert steps[-1][1] == found.energy < steps[0][1]
    assert found.converged and np.linalg.norm(found.forces, axis=1).max() < 0.03 * EV * 1e10
    cut_short = engines.calculate(sheet.copy(), TBLITE, Calculation(max_steps=1))
    assert not cut_short.converged and cut_short.steps == 1


def test_a_cancel_ends_a_relaxation_at_its_next_step(sheet):
    steps = []
    with pytest.raises(engines.Canceled):
        engines.calculate(sheet.copy(), TBLITE, Calculation(), step=lambda *values: steps.append(values),
                          canceled=lambda: len(steps) == 2)
    assert len(steps) == 2


def test_water_against_the_published_example():
    """tblite's documentation: GFN1-xTB water, -156.9675057724589 eV, no cell."""
    found = engines.calculate(structures.to_atoms(structures.from_atoms(molecule("H2O")), 1e-9), TBLITE,
                              Calculation(relax=False))
    assert found.energy / EV == pytest.approx(-156.9675057724589, abs=1e-6) and np.isnan(found.stress).all()


def test_effective_medium_theory_equals_a_direct_call():
    atoms = bulk("Cu", cubic=True) * (2, 2, 2)
    atoms.rattle(0.05, seed=1)
    found = engines.calculate(atoms.copy(), engines.engine("emt"), Calculation(method="EMT", relax=False))
    atoms.calc = EMT()
    assert found.energy == pytest.approx(atoms.get_potential_energy() * EV, rel=1e-12)


def test_an_engine_that_gives_up_says_why():
    sodium = structures.to_atoms(structures.from_atoms(bulk("Na", cubic=True) * (2, 1, 1)), 1e-9)
    with pytest.raises(engines.EngineError, match="tblite GFN1-xTB gave up after 0 steps: SCF not converged"):
        engines.calculate(sodium, TBLITE, Calculation(relax=False, electronic_temperature_k=0.0))


def test_an_odd_number_of_electrons_is_computed():
    radical = structures.to_atoms(structures.from_atoms(molecule("CH3")), 1e-9)
    assert np.isfinite(energy(radical).energy)


def test_settings_take_overrides_by_json():
    taken = engines.settings(TBLITE, Calculation(), '{"method": "GFN2-xTB", "relax": false, "max_steps": 7}')
    assert taken == Calculation(method="GFN2-xTB", relax=False, max_steps=7)
    assert json.loads(engines.settings_json(taken, more=1)) == {**taken.__dict__, "more": 1}
    assert engines.settings(engines.engine("emt"), Calculation(), "").method == "EMT"


@pytest.mark.parametrize(("text", "message"), [
    ("{", "not JSON"), ("[1]", "must be an object"), ('{"metod": "GFN1-xTB"}', r"did you mean 'method'\?"),
    ('{"max_steps": 0}', "below the smallest allowed value"), ('{"relax": 1}', "not of type bool"),
    ('{"method": "GFN3"}', "not one of"), ('{"method": "EMT"}', "has no method 'EMT'"),
])
def test_wrong_settings_are_refused(text, message):
    with pytest.raises(engines.SettingsError, match=message):
        engines.settings(TBLITE, Calculation(), text)


def test_an_unknown_engine_is_refused_with_the_nearest():
    with pytest.raises(KeyError, match=r"did you mean 'tblite'\?"):
        engines.engine("tblit")
