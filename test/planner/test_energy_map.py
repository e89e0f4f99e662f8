"""What came of sites, as it is told; units; parameters that contradict each other."""

import dataclasses
import math
import uuid

import ase.units
import numpy as np
import pytest

from edgetem_nodes.planner.energy_map import (EV_PER_NM2, Site, account, aim, caveats, check,
                                              micro_scan_setting, read_area, told)
from edgetem_nodes.planner.ledger import Pending
from edgetem_nodes.planner.parameters import Actions, Energetics, HighFidelity, MicroScan, Parameters

ID = uuid.UUID(int=3)


def test_joules_a_square_metre_become_electronvolts_a_square_nanometre():
    site = Site(0, ID, 0)
    site.take(2.5, 0.1)
    assert site.value == pytest.approx(2.5 * ase.units.J / (ase.units.m**2) * ase.units.nm**2, rel=1e-6)
    assert site.standard_error == pytest.approx(0.1 / 0.1602176634, rel=1e-12)
    assert site.done and EV_PER_NM2 == pytest.approx(0.1602176634)


@pytest.mark.parametrize("density", [math.nan, math.inf])
def test_an_energy_without_a_reference_is_a_failure(density):
    site = Site(0, ID, 0)
    site.take(density, 0.1)
    assert site.step == "energy" and "no reference" in site.failure and math.isnan(site.value)


def batch():
    pending = Pending(ID, 4, 0)
    pending.add(np.arange(4), np.array([[9.0, 1.0], [9.0, 2.0], [9.0, 3.0], [math.nan, math.nan]]), np.full((4, 2), 0.5),
                np.array([True, True, True, False]), 0, 0.0, ["", "", "", "foreign"])
    sites = [Site(row, ID, row) for row in range(4)]
    sites[0].take(EV_PER_NM2, 0.2 * EV_PER_NM2)
    sites[1].fail("micro_scan", "")
    sites[2].fail("structure", "two phases")
    sites[3].fail("pattern", pending.rows[3].failure)
    return sites, pending


def test_what_is_told_has_energies_in_place_of_the_first_column_and_failures_where_any_step_failed():
    values, errors, valid = told(*batch())
    np.testing.assert_array_equal(valid, [True, False, False, False])
    np.testing.assert_allclose(values[0], [1.0, 1.0])
    np.testing.assert_allclose(errors[0], [0.2, 0.5])
    assert np.isnan(values[1:, 0]).all()  # also where the nanobeam alone could have given the strain's energy


def test_the_account_counts_what_failed_where():
    sites, _ = batch()
    assert account(sites) == ("energies of 1 of 4 positions (1 whose pattern was rejected, 1 whose micro-scan failed, "
                              "1 without a structure)")
    assert account(sites[:1]) == "energies of 1 of 1 positions"
    assert sites[1].failure == "whose micro-scan failed" and sites[3].failure == "foreign"


def test_a_cell_that_is_smaller_than_the_footprint_is_what_its_energy_is_of():
    hexagonal = [1.72e-9, 0.0, 0.0, -0.86e-9, 0.86e-9 * math.sqrt(3), 0.0, 0.0, 0.0, 2e-9]
    assert read_area(3.5e-18, hexagonal) == pytest.approx(math.sqrt(3) / 2 * 1.72e-9**2)
    assert read_area(1.0e-18, hexagonal) == 1.0e-18
    assert read_area(0.0, hexagonal) == 0.0
    assert read_area(2e-18, [0.0] * 9) == 2e-18


def test_the_micro_scan_has_the_optics_that_it_names_and_no_others():
    setting = micro_scan_setting(MicroScan(True, 25.0, -4.0, dwell_ms=64.0))
    assert setting.optics == {"semi_convergence_angle": pytest.approx(0.025), "defocus": pytest.approx(-4e-9)}
    assert setting.dwell_time == pytest.approx(0.064)
    more = micro_scan_setting(MicroScan(True, probe_current_pA=20.0, camera_length_mm=100.0))
    assert more.optics["probe_current"] == pytest.approx(20e-12) and more.optics["camera_length"] == pytest.approx(0.1)


MAP = Energetics(mapped=True)
NANOBEAM = Actions(semi_convergence_mrad=[1.5], defocus_nm=[0.0])


def test_what_belongs_together_is_accepted():
    for change in ({}, {"energetics": MAP}, {"energetics": MAP, "micro_scan": MicroScan(True), "actions": NANOBEAM},
                   {"energetics": dataclasses.replace(MAP, averaging_nm=5.0, high_fidelity=HighFidelity(3, "dft"))},
                   {"energetics": dataclasses.replace(MAP, high_fidelity=HighFidelity(3, "", '{"method": "GFN2-xTB"}'))}):
        check(Parameters(**change))


@pytest.mark.parametrize(("change", "text"), [
    ({"energetics": Energetics(averaging_nm=3.0)}, "energetics.averaging_nm = 3.0 belongs to an energy map"),
    ({"energetics": Energetics(high_fidelity=HighFidelity(3, "dft"))}, "high_fidelity.points = 3 belongs to an energy map"),
    ({"energetics": MAP, "actions": Actions(scalar_counts=True)}, "is no number of counts"),
    ({"energetics": dataclasses.replace(MAP, engine="dft", high_fidelity=HighFidelity(3, "dft"))}, "name a better engine"),
    ({"energetics": MAP, "micro_scan": MicroScan(True, camera_length_mm=80.0), "actions": NANOBEAM},
     "actions.camera_length_mm is empty"),
])
def test_what_contradicts_itself_is_refused(change, text):
    with pytest.raises(ValueError, match=text):
        check(Parameters(**change))


def test_a_budget_that_ends_with_the_initial_scan_is_warned_of():
    few = Parameters(energetics=MAP, point_budget=20, initial_points=60)
    assert "point_budget = 20" in caveats(few)[0]
    assert caveats(dataclasses.replace(few, point_budget=102)) == []
    assert caveats(dataclasses.replace(few, energetics=Energetics())) == []
    averaged = dataclasses.replace(few, point_budget=102, energetics=dataclasses.replace(MAP, averaging_nm=3.0))
    assert "averaging_nm" in caveats(averaged)[0]
    assert caveats(dataclasses.replace(averaged, acquisition_function="integrated_posterior_variance")) == []


def test_what_a_map_aims_at_is_said_with_its_unit():
    energies = dataclasses.replace(MAP, averaging_nm=3.0)
    assert aim(Parameters()) == ""
    assert aim(Parameters(energetics=energies, target_standard_deviation=0.5)) == (
        "mean over discs of radius 3 nm, until its standard deviation is at most 0.5 eV/nm^2")
    assert "budget" in aim(Parameters(energetics=MAP)) and "expectation" in aim(Parameters(energetics=MAP))
