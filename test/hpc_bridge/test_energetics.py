"""Excess energies against elasticity and the literature, and their standard errors against a Monte Carlo."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from sheet_structures import strained

from edgetem_nodes.hpc_bridge import elasticity, energetics
from edgetem_nodes.hpc_bridge.parameters import Calculation
from edgetem_nodes.hpc_bridge.reference import compute_reference

EV = 1.602176634e-19
VACUUM = 1e-9


def plan(structure, calculation=None):
    return energetics.plan(structure, "tblite", calculation or Calculation(), 0.0, VACUUM)


@pytest.fixture(scope="module")
def graphene():
    return compute_reference(plan(strained()))


def area(reference):
    return abs(np.linalg.det(reference.cell[:2, :2]))


def stiffness(size, name, calculation, reference):
    """C11, C12 [N/m] from excess energies at +-1 % strain along x and along both."""
    def curvature(x, y):
        pairs = [energetics.compute(plan(strained(name, size, (s * x, s * y, 0.0)), calculation), reference).excess_energy
                 for s in (0.01, -0.01)]
        return sum(pairs) / 1e-4 / area(reference)
    along, both = curvature(1, 0), curvature(1, 1)
    return along, both / 2 - along


def test_graphene_is_as_stiff_as_measured(graphene):
    """Young's modulus 340 +- 50 N/m (Lee et al., Science 321, 385, 2008); Poisson's ratio 0.17-0.3 in calculations."""
    along, across = stiffness(4, "graphene", Calculation(), graphene)
    assert (along**2 - across**2) / along == pytest.approx(340, abs=50)
    assert 0.1 < across / along < 0.35


def test_graphene_lattice_constant(graphene):
    assert graphene.lattice == pytest.approx(2.46e-10, rel=0.005)
    assert graphene.stress < 0.1


@pytest.mark.slow
def test_molybdenum_disulfide_is_as_stiff_as_in_the_literature():
    """GFN2: in-plane stiffness 120-130 N/m from density functionals (e.g. Yue et al., Phys. Lett. A 376, 1166, 2012),
    180 +- 60 measured (Bertolazzi et al., ACS Nano 5, 9703, 2011)."""
    calculation = Calculation(method="GFN2-xTB")
    reference = compute_reference(plan(strained("MoS2", 3), calculation))
    along, across = stiffness(3, "MoS2", calculation, reference)
    assert 110 < (along**2 - across**2) / along < 180
    assert reference.lattice == pytest.approx(3.16e-10, rel=0.03)


def test_no_strain_costs_nothing_and_strain_costs_energy_at_any_rotation(graphene):
    def excess(strain, rotation=0.0):
        return energetics.compute(plan(strained(strain=strain, rotation=rotation)), graphene).excess_energy / EV
    assert excess((0, 0, 0)) == pytest.approx(0, abs=2e-3)
    straight = excess((0.02, -0.01, 0.005))
    assert straight > 0.1
    assert excess((0.02, -0.01, 0.005), 0.8) == pytest.approx(straight, abs=1e-3)


@pytest.mark.slow
def test_a_vacancy_in_graphene_costs_what_the_literature_says(graphene):
    """7.5-7.8 eV relaxed (e.g. El-Barbary et al., Phys. Rev. B 68, 144107, 2003)."""
    whole = strained("graphene", 4, rattle=0.01)
    vacancy = dataclasses.replace(whole, atomic_numbers=whole.atomic_numbers[1:], positions=whole.positions[1:])
    result = energetics.compute(plan(vacancy), graphene)
    assert result.converged and 7.3 < result.excess_energy / EV < 8.0


@pytest.mark.parametrize("strain", [(0.0, 0.0, 0.0), (0.02, 0.005, 0.0)])
def test_the_standard_error_agrees_with_a_monte_carlo_over_strain(graphene, strain):
    error = 0.004
    generator = np.random.default_rng(1)
    said = energetics.compute(plan(strained(strain=strain, strain_error=error)), graphene).standard_error
    drawn = []
    for _ in range(25):
        x, y = generator.normal(0, error, 2)
        drawn.append(energetics.compute(plan(strained(strain=(strain[0] + x, strain[1] + y, 0.0)), Calculation(relax=False)),
                                        graphene).excess_energy)
    assert said == pytest.approx(np.std(drawn), rel=0.35)


def test_position_errors_of_a_strain_give_that_strain_back():
    errors = elasticity.strain_errors(strained(strain_error=0.006))
    np.testing.assert_allclose(errors, [0.006, 0.006, 0.0], atol=1e-8)


def test_no_errors_no_reference_no_claim(graphene):
    assert np.isnan(energetics.compute(plan(strained()), graphene).standard_error)
    work = plan(strained(), Calculation(reference=False))
    assert work.match is None and work.without == "not asked for"
    alone = energetics.compute(work, None)
    assert np.isnan(alone.excess_energy) and np.isnan(alone.reference_energy) and np.isfinite(alone.energy)


def test_plans_share_a_reference_exactly_where_sheet_supercell_and_settings_are_equal():
    key = plan(strained(strain=(0.01, 0, 0))).reference_key
    assert plan(strained(strain=(0, -0.02, 0.01), rotation=0.3)).reference_key == key
    assert plan(strained(size=5)).reference_key != key
    assert plan(strained(), Calculation(method="GFN2-xTB")).reference_key != key
