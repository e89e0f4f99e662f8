"""PBE by PySCF: against its own call without multigrid, against experiment, and what is said where it is not installed."""

from __future__ import annotations

import importlib.util

import numpy as np
import pytest
from ase import Atoms
from ase.build import molecule
from sheet_structures import strained

from edgetem_nodes.hpc_bridge import energetics, engines, structures
from edgetem_nodes.hpc_bridge.parameters import Calculation
from edgetem_nodes.hpc_bridge.reference import compute_reference

EV = 1.602176634e-19
INSTALLED = importlib.util.find_spec("pyscf") is not None
needs_pyscf = pytest.mark.skipif(not INSTALLED, reason="needs the optional package pyscf: pip install 'edgetem[dft]'")


def test_an_engine_that_is_not_installed_is_refused_with_what_to_do(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda _name: None)
    for name in ("pyscf", "gpaw"):
        with pytest.raises(KeyError, match=f"needs the package {name}, which is not installed: pip install"):
            engines.engine(name)
    assert engines.engine("tblite").forces


def test_single_points_are_taken_at_geometries_of_a_cheaper_method():
    """GFN2 at GFN1's geometry is above GFN2's own minimum, and the plan says so."""
    structure = structures.from_atoms(molecule("CH3CH2OH"))
    def plan(**settings):
        calculation = Calculation(reference=False, max_force_ev_per_angstrom=0.005, **settings)
        return energetics.plan(structure, "tblite", calculation, 0.0, 1e-9)
    work = plan(method="GFN2-xTB", relax_with="GFN1-xTB")
    assert (work.relaxing.calculation.method, work.final.calculation.method) == ("GFN1-xTB", "GFN2-xTB")
    mixed = energetics.compute(work, None).energy / EV
    own = energetics.compute(plan(method="GFN2-xTB"), None).energy / EV
    assert own + 0.001 < mixed < own + 0.5


def test_strain_counts_from_the_lattice_constant_of_the_method_that_gives_the_energies():
    """GFN2's own is 0.3 % smaller than GFN1's: as it stands graphene would be stretched by that. 2.449 Angstrom: by GFN2's own
    relaxation."""
    references = {}

    def excess(strain, **settings):
        work = energetics.plan(strained("graphene", 4, (strain, strain, 0.0)), "tblite",
                               Calculation(method="GFN2-xTB", **settings), 0.0, 1e-9)
        if len(settings) not in references:
            references[len(settings)] = compute_reference(work)
        return energetics.compute(work, references[len(settings)]).excess_energy / EV

    for strain in (0.01, -0.01):
        assert excess(strain, relax_with="GFN1-xTB") == pytest.approx(excess(strain), rel=0.15)
    mixed = references[1]
    assert mixed.lattice * mixed.scale * 1e10 == pytest.approx(2.449, rel=0.001)


@needs_pyscf
def test_the_bond_of_nitrogen_is_as_long_as_pbe_says():
    """1.103 Angstrom (Kurth, Perdew & Blaha, Int. J. Quantum Chem. 75, 889, 1999)."""
    engine, calculation = engines.engine("pyscf"), Calculation(method="PBE")
    energies = [engines.energy(Atoms("N2", positions=[[0, 0, 0], [0, 0, d]]), engine, calculation) / EV
                for d in (1.00, 1.05, 1.10, 1.15, 1.20)]
    curve = np.polyfit([1.00, 1.05, 1.10, 1.15, 1.20], energies, 3)
    bond = min(r.real for r in np.roots(np.polyder(curve)) if 0.9 < r.real < 1.3 and abs(r.imag) < 1e-9)
    assert bond == pytest.approx(1.103, abs=0.02)
    assert engines.energy(molecule("N2"), engine, calculation) / EV == pytest.approx(min(energies), abs=0.05)


@needs_pyscf
@pytest.mark.slow
def test_a_molecule_has_the_same_energy_in_a_large_periodic_cell():
    """Density on a plane-wave grid and multigrid against analytic integrals."""
    engine, calculation = engines.engine("pyscf"), Calculation(method="PBE")
    free = molecule("H2")
    boxed = free.copy()
    boxed.set_cell([9.0, 9.0, 9.0])
    boxed.center()
    boxed.pbc = True
    found, expected = (engines.energy(atoms, engine, calculation) / EV for atoms in (boxed, free))
    assert found == pytest.approx(expected, abs=0.05)


@needs_pyscf
def test_forces_are_not_asked_for_and_relaxation_goes_to_gfn1():
    work = energetics.plan(strained(), "pyscf", Calculation(method="PBE"), 0.0, 1e-9)
    assert (work.relaxing.engine.name, work.relaxing.calculation.method) == ("tblite", "GFN1-xTB")
    assert work.final.engine.name == "pyscf" and not work.final.calculation.relax
