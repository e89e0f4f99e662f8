"""Expected energies of cells whose defects are only probable, against Monte Carlo and against all that may be there."""

from __future__ import annotations

import dataclasses
import itertools

import numpy as np
import pytest
from sheet_structures import strained

from edgetem_nodes.hpc_bridge import energetics, expectation, structures
from edgetem_nodes.hpc_bridge.expectation import Kind
from edgetem_nodes.hpc_bridge.parameters import Calculation
from edgetem_nodes.hpc_bridge.reference import compute_reference

EV = 1.602176634e-19
VACANCY, NITROGEN, SILICON = Kind(0, 6), Kind(7, 6), Kind(14, 6)
ALONE = {VACANCY: 7.7 * EV, NITROGEN: 0.6 * EV, SILICON: 3.5 * EV}


def probable(structure, sites, likely, elements):
    """The structure with what may be on its sites, the likeliest not built in."""
    return dataclasses.replace(structure, defect_probabilities=np.array(likely, float), defect_numbers=np.array(elements),
                               defect_hosts=np.full(len(sites), 6), defect_positions=structure.positions[list(sites)])


def without(structure, *atoms):
    kept = np.setdiff1d(np.arange(len(structure.positions)), atoms)
    return dataclasses.replace(structure, atomic_numbers=structure.atomic_numbers[kept], positions=structure.positions[kept])


def test_additive_energies_have_the_mean_and_variance_of_cells_that_are_drawn():
    """Four sites, of which one may hold either of two elements; two hold a defect in the cell."""
    sites, elements = [3, 9, 9, 14, 20], [0, 7, 14, 0, 0]
    likely = np.array([0.7, 0.55, 0.25, 0.1, 0.3])
    structure = probable(strained(), sites, likely, elements)
    single = np.array([ALONE[Kind(element, 6)] for element in elements])
    said, variance = expectation.expected(structure, ((6, -2), (7, 1)), ALONE[VACANCY] + ALONE[NITROGEN], ALONE)
    rng = np.random.default_rng(2)
    energies = np.zeros(100_000)
    for site in (3, 9, 14, 20):
        here = [row for row, other in enumerate(sites) if other == site]
        chances = [*likely[here], 1 - likely[here].sum()]
        drawn = rng.choice(len(chances), len(energies), p=chances)
        energies += np.append(single[here], 0.0)[drawn]
    assert said == pytest.approx(energies.mean(), abs=4 * energies.std() / 100_000 ** 0.5)
    assert variance == pytest.approx(energies.var(), rel=0.02)


def test_what_the_cell_says_of_the_defects_in_it_goes_before_what_one_costs_alone():
    """One defect that is there with 0.6: the mean of the cell with it and of that without, whatever it costs alone."""
    structure = probable(strained(), [5], [0.6], [0])
    assert expectation.kinds(structure) == ()
    said, variance = expectation.expected(structure, ((6, -1),), 7.1 * EV, {})
    assert said == pytest.approx(0.6 * 7.1 * EV) and variance == pytest.approx(0.24 * (7.1 * EV) ** 2)


def test_certain_defects_change_nothing_and_improbable_ones_add_their_share():
    certain = probable(strained(), [5], [1.0], [0])
    assert expectation.expected(certain, ((6, -1),), 7.1 * EV, ALONE) == pytest.approx((7.1 * EV, 0.0))
    assert expectation.expected(strained(), (), 0.0, {}) == (0.0, 0.0)
    said, variance = expectation.expected(probable(strained(), [5], [0.3], [0]), (), 0.0, ALONE)
    assert said == pytest.approx(0.3 * 7.7 * EV) and variance == pytest.approx(0.21 * (7.7 * EV) ** 2)


def test_a_kind_without_an_energy_counts_as_it_stands_and_is_named():
    structure = probable(strained(), [5, 9], [0.4, 0.3], [0, 21])
    assert expectation.expected(structure, (), 0.0, ALONE)[0] == pytest.approx(0.4 * 7.7 * EV)
    said = expectation.describe(structure, {VACANCY: 7.7 * EV})
    assert said == {"lone_defects_ev": {"a vacancy on C": 7.7}, "defects_without_energy": {"Sc on C": 0.3}}
    work = energetics.plan(structure, "tblite", Calculation(), 0.0, 1e-9)
    assert list(work.lone_defects) == [VACANCY]


@pytest.mark.parametrize("wrong", [{"defect_probabilities": [0.5]},
                                   {"defect_probabilities": [1.5], "defect_numbers": [0], "defect_hosts": [6],
                                    "defect_positions": [0, 0, 0]}])
def test_defects_whose_numbers_do_not_belong_together_are_refused(wrong):
    sheet = strained()
    with pytest.raises(structures.StructureError, match="defect_probabilities"):
        structures.structure(sheet.atomic_numbers, sheet.positions, sheet.cell, sheet.periodic, **wrong)


@pytest.mark.slow
def test_the_expectation_is_the_mean_over_all_cells_that_may_be_there():
    """Two sites of strained graphene 5 x 5, 0.71 nm apart, every one of the four cells relaxed by GFN1 and weighted with its
    probability. The cell that was measured holds the first alone."""
    sheet = dataclasses.replace(strained("graphene", 5, (0.01, -0.005, 0.0), rattle=0.01),
                                deformation_covariance=np.eye(4) * 1e-7)
    sites, likely = [0, 17], np.array([0.65, 0.35])
    reference = compute_reference(energetics.plan(sheet, "tblite", Calculation(), 0.0, 1e-9))
    measured = without(probable(sheet, sites, likely, [0, 0]), sites[0])
    work = energetics.plan(measured, "tblite", Calculation(), 0.0, 1e-9)
    formation = {kind: energetics.compute(one, reference, {}).defect_energy for kind, one in work.lone_defects.items()}
    said = energetics.compute(work, reference, {}, formation)
    mean, square = 0.0, 0.0
    for there in itertools.product((False, True), repeat=2):
        if there == (True, False):
            found = said.excess_energy - said.expected_defect_energy + said.defect_energy
        else:
            cell = without(sheet, *[site for site, one in zip(sites, there, strict=True) if one])
            found = energetics.compute(energetics.plan(cell, "tblite", Calculation(), 0.0, 1e-9), reference, {}).excess_energy
        weight = np.prod(np.where(there, likely, 1 - likely))
        mean, square = mean + weight * found, square + weight * found ** 2
    assert said.excess_energy / EV == pytest.approx(mean / EV, abs=0.2)
    assert said.standard_error == pytest.approx((square - mean ** 2) ** 0.5, rel=0.1)
