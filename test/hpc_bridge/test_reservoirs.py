"""Chemical potentials: what they add up to, and formation energies against direct ASE + tblite calls."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from ase.build import molecule
from ase.optimize import BFGS
from sheet_structures import strained
from tblite.ase import TBLite

from edgetem_nodes.hpc_bridge import energetics, reservoirs, sheets
from edgetem_nodes.hpc_bridge.parameters import Calculation
from edgetem_nodes.hpc_bridge.reference import compute_reference, compute_reservoir

EV = 1.602176634e-19


def changed(structure, missing=(), **elements):
    numbers = structure.atomic_numbers.copy()
    for index, element in elements.items():
        numbers[int(index[1:])] = element
    kept = np.setdiff1d(np.arange(len(numbers)), missing)
    return dataclasses.replace(structure, atomic_numbers=numbers[kept], positions=structure.positions[kept])


def plan(structure, **settings):
    return energetics.plan(structure, "tblite", Calculation(**settings), 0.0, 1e-9)


def potential(work, energies, perfect):
    return reservoirs.energy_of_surplus(work.match, work.potentials, perfect, energies)


@pytest.mark.parametrize("environment", ["anion-rich", "cation-rich"])
def test_a_whole_formula_unit_costs_what_the_sheet_costs_in_any_environment(environment):
    """mu(Mo) + 2 mu(S) = mu(MoS2), whatever mu(S) is."""
    sulphide = strained("MoS2", 3)
    assert np.array_equal(sulphide.atomic_numbers[:3], [42, 16, 16])
    work = plan(changed(sulphide, missing=(0, 1, 2)), environment=environment)
    assert work.match.surplus == ((16, -2), (42, -1))
    for sulphur in (-1.0, -300.0):
        assert potential(work, {"S8": 8 * sulphur}, 9 * -50.0) == pytest.approx(50.0)


def test_sulphur_is_cheaper_to_lose_where_there_is_little_of_it():
    """By half the enthalpy of formation of MoS2, -276 kJ/mol (NIST-JANAF), 1.43 eV."""
    rich, poor = (plan(changed(strained("MoS2", 3), missing=(1,)), environment=e) for e in ("anion-rich", "cation-rich"))
    difference = potential(rich, {"S8": 0.0}, 0.0) - potential(poor, {"S8": 0.0}, 0.0)
    assert difference == pytest.approx(-1.43 * EV, rel=0.002)


@pytest.mark.parametrize(("structure", "names", "words"), [
    (changed(strained(), _0=7), {"N2"}, "N from the N2 molecule"),
    (changed(strained(), _0=5), {"h-BN", "N2"}, "B from the h-BN sheet less N from the N2 molecule"),
    (changed(strained(), _0=8), {"H2O", "H2"}, "O from H2O less H2 molecules"),
    (changed(strained("MoS2", 3), _0=23), {"VS2", "S8"}, "V from the VS2 sheet less S from the S8 molecule"),
    (changed(strained("MoS2", 3), _1=34), {"MoSe2", "S8"}, "Se from the MoSe2 sheet less Mo from the MoS2 sheet less S from"),
])
def test_every_reservoir_is_named(structure, names, words):
    work = plan(structure)
    assert set(reservoirs.needed(work.potentials)) == names
    assert any(words in potential.words for potential in work.potentials)


def test_no_reservoir_no_reference():
    work = plan(changed(strained(), _0=26))
    assert work.match is None and "no reservoir is known for Fe in graphene" in work.without


def test_formation_energy_of_nitrogen_in_graphene_is_that_of_direct_calls():
    """E(31 C + N) - 31/32 E(32 C) - E(N2) / 2, all of GFN1 through ASE."""
    doped = plan(changed(strained(rattle=0.01), _0=7))
    reference = compute_reference(doped)
    energies = {name: compute_reservoir(doped, reservoir)
                for name, reservoir in reservoirs.needed(doped.potentials).items()}
    found = energetics.compute(doped, reference, energies)

    def energy(atoms):
        atoms.calc = TBLite(method="GFN1-xTB", verbosity=0)
        assert BFGS(atoms, logfile=None).run(fmax=0.02, steps=200)
        return atoms.get_potential_energy()
    perfect = sheets.build(doped.match.sheet, reference.lattice, 0.0, 4 * np.eye(2, dtype=int), doped.height)
    from edgetem_nodes.hpc_bridge.structures import to_atoms
    whole, with_nitrogen = to_atoms(perfect, 1e-9), to_atoms(perfect, 1e-9)
    with_nitrogen.numbers[0] = 7
    with_nitrogen.rattle(0.01, seed=1)
    direct = energy(with_nitrogen) - 31 / 32 * energy(whole) - energy(molecule("N2")) / 2
    assert found.excess_energy / EV == pytest.approx(direct, abs=0.01)
    words, said = energetics.describe(doped, reference)
    assert "N from the N2 molecule" in words and "closed shells" in words and said["sheet"] == "graphene"


def test_the_sulphur_ring_is_the_molecule_that_is_known():
    """S8: bonds of 2.05 Angstrom, angles of 108 degrees (Rettig & Trotter, Acta Cryst. C 43, 2260, 1987)."""
    ring, units = reservoirs.atoms_of(reservoirs.Reservoir("molecule", "S8"), 9, 2e-9)
    ring.calc = TBLite(method="GFN1-xTB", verbosity=0)
    assert BFGS(ring, logfile=None).run(fmax=0.02, steps=200) and units == 1
    assert [ring.get_distance(i, (i + 1) % 8) for i in range(8)] == pytest.approx([2.05] * 8, abs=0.08)
    assert ring.get_angle(0, 1, 2) == pytest.approx(108, abs=4)
