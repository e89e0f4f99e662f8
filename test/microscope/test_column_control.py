"""Commands change the state, and every probe path carries what was commanded when it began."""

import math

import numpy as np
import pytest
from spotted_specimen import SpottedSpecimen
from test_microscope_node import THREE, only

from edgetem.msg import StagePose
from edgetem.srv import AcquireOverview, GetState, GetTruth, MoveStage, SetHolder, SetOptics
from edgetem_nodes.graph.column import exposure_of
from edgetem_nodes.graph.messages import numbers, positions_array


def pose(**values: float) -> StagePose:
    """A pose in which all else is NaN."""
    return StagePose(**{name: values.get(name, math.nan) for name in StagePose.get_fields_and_field_types()})


def test_a_probe_path_carries_what_was_commanded(bench):
    lab = bench(driver=SpottedSpecimen(), overhead_ms=10.0)
    lab.activate()
    assert lab.acquire(THREE).error_code == 0
    assert lab.call(SetOptics, "set_optics", optics=only(defocus=5e-8, beam_shift_x=1e-9)).error_code == 0
    assert lab.call(MoveStage, "move_stage", pose=pose(y=-2e-9, alpha=0.1)).error_code == 0
    assert lab.acquire(THREE).error_code == 0
    first, second = (exposure_of(path) for path in lab.paths)
    assert (first.elapsed, first.optics["defocus"], first.stage["alpha"]) == (0.0, 0.0, 0.0)
    assert second.elapsed == pytest.approx(3 * 1.05e-3 + 10e-3)
    assert (second.optics["defocus"], second.optics["beam_shift_x"]) == (5e-8, 1e-9)
    assert (second.stage["y"], second.stage["alpha"], second.stage["x"]) == (-2e-9, 0.1, 0.0)
    assert first.correction == second.correction == (0.0, 0.0)
    assert first.holder.shape == (0, 3)


def test_the_driver_is_told_what_was_exposed(bench):
    lab = bench()
    lab.activate()
    future = lab.send(THREE).get_result_async()
    lab.wait(lambda: lab.paths)
    lab.end(lab.paths[0], 2, 205, "consumer featurizer has said nothing for 5 s")
    lab.result_of(future)
    (exposure, frames), = lab.driver.exposed
    assert frames == 2 and np.array_equal(exposure.positions, THREE) and exposure.sequence == 0


def test_surveys_are_exposures_of_their_own_and_their_dose_is_told(bench):
    lab = bench(driver=SpottedSpecimen())
    lab.activate()
    for _ in range(2):
        assert lab.call(AcquireOverview, "acquire_overview").error_code == 0
    assert lab.acquire(THREE).error_code == 0
    first, second = lab.driver.surveys
    assert (first.sequence, second.sequence) == (2**64 - 1, 2**64 - 2)
    assert np.array_equal(first.positions, lab.driver.field.positions()) and second.elapsed > first.elapsed == 0.0
    each = lab.driver.electrons(1, first.dwell) / lab.driver.pixel_area_m2
    assert first.survey_dose == 0.0 and second.survey_dose == pytest.approx(each)
    assert lab.paths[0].survey_dose == pytest.approx(2 * each)


def test_the_holders_programme_grows_with_every_command(bench):
    lab = bench(driver=SpottedSpecimen(), overhead_ms=0.0)
    lab.activate()
    assert lab.call(SetHolder, "set_holder", temperature=400.0, bias=math.nan).error_code == 0
    assert lab.acquire(THREE).error_code == 0
    assert lab.call(SetHolder, "set_holder", temperature=math.nan, bias=2.0).error_code == 0
    assert lab.acquire(THREE).error_code == 0
    assert numbers(lab.paths[0].holder_programme, (-1, 3)).tolist() == [[0.0, 400.0, 0.0]]
    assert numbers(lab.paths[1].holder_programme, (-1, 3)) == pytest.approx(np.array([[0.0, 400.0, 0.0],
                                                                                      [3.15e-3, 400.0, 2.0]]))
    lab.wait(lambda: lab.states[-1].commanded_holder.bias == 2.0)
    assert lab.states[-1].commanded_holder.temperature == 400.0 and math.isnan(lab.states[-1].commanded_holder.flow)


def test_a_holder_refuses_what_it_cannot(bench):
    codes = SetHolder.Response
    lab = bench()
    assert lab.microscope.trigger_configure().name == "SUCCESS"
    assert lab.call(SetHolder, "set_holder", temperature=300.0, bias=math.nan).error_code == codes.NOT_ACTIVE
    assert lab.microscope.trigger_activate().name == "SUCCESS"
    lab.listen()
    assert lab.call(SetHolder, "set_holder", temperature=math.nan, bias=1.0).error_code == codes.NOT_SUPPORTED
    answer = lab.call(SetHolder, "set_holder", temperature=5e3, bias=math.nan)
    assert answer.error_code == codes.OUT_OF_RANGE and "temperature 5000 is outside" in answer.error_msg
    future = lab.send(THREE).get_result_async()
    lab.wait(lambda: lab.paths)
    assert lab.call(SetHolder, "set_holder", temperature=300.0, bias=math.nan).error_code == codes.BUSY
    lab.end(lab.paths[0], 3)
    assert lab.result_of(future).result.error_code == 0
    lab.driver.set_holder = lambda **_: (_ for _ in ()).throw(OSError("the heater does not answer"))
    answer = lab.call(SetHolder, "set_holder", temperature=300.0, bias=math.nan)
    assert answer.error_code == codes.DRIVER_FAILED and "heater" in answer.error_msg


def test_magnification_changes_the_field_and_the_dose_map_follows(bench):
    lab = bench(driver=SpottedSpecimen())
    lab.activate()
    centre = np.array([[31e-9, 31e-9]])
    assert lab.acquire(centre).error_code == 0
    areal = lab.microscope.console.dose.peak
    assert lab.call(SetOptics, "set_optics", optics=only(magnification=4.0)).error_code == 0
    answer = lab.call(AcquireOverview, "acquire_overview")
    assert answer.overview.field.step.tolist() == pytest.approx([0.25e-9, 0.25e-9])
    assert answer.overview.field.shape.tolist() == [64, 64]
    result = lab.acquire(np.array([[0.0, 0.0]]))
    assert result.error_code == 102, "the corner of the wide field is outside the narrow one"
    dose = lab.microscope.console.dose
    spent = lab.driver.electrons(1, 1e-3) + answer.overview.dose
    assert dose.total == pytest.approx(spent), "the total goes on"
    survey = answer.overview.dose / (64 * 64 * lab.driver.pixel_area_m2)
    assert dose.peak == pytest.approx(areal + survey), "what a place has received it keeps"
    assert dose.areal.min() == pytest.approx(survey)
    assert lab.acquire(np.array([[31e-9, 31e-9]])).error_code == 0
    assert dose.peak == pytest.approx(areal + survey + lab.driver.electrons(1, 1e-3) / (0.25e-9) ** 2)


def test_the_field_stays_while_an_acquisition_runs(bench):
    lab = bench(driver=SpottedSpecimen())
    lab.activate()
    future = lab.send(THREE).get_result_async()
    lab.wait(lambda: lab.paths)
    assert lab.call(SetOptics, "set_optics", optics=only(magnification=2.0)).error_code == SetOptics.Response.BUSY
    lab.end(lab.paths[0], 3)
    assert lab.result_of(future).result.error_code == 0
    assert lab.microscope.console.field.step == (1e-9, 1e-9)


def test_the_simulated_instrument_obeys_the_services(bench):
    from edgetem_nodes.graph.instrument import Instrument, Simulated
    from edgetem_nodes.microscope.drivers import make_driver

    lab = bench(driver=make_driver(Instrument(simulated=Simulated(rows=12, columns=16, field_nm=8.0)), 3))
    lab.activate_without_client()
    assert lab.call(SetOptics, "set_optics", optics=only(defocus=3e-8, magnification=2.0)).error_code == 0
    answer = lab.call(MoveStage, "move_stage", pose=pose(z=1.0))
    assert answer.error_code == MoveStage.Response.OUT_OF_RANGE
    assert "z 1 is outside the range of the stage" in answer.error_msg
    assert lab.call(SetHolder, "set_holder", temperature=400.0, bias=math.nan).error_code == 0
    state = lab.call(GetState, "get_state").state
    assert (state.commanded_optics.defocus, state.commanded_holder.temperature) == (3e-8, 400.0)
    overview = lab.call(AcquireOverview, "acquire_overview").overview
    assert overview.field.step[0] == pytest.approx(8e-9 / 15 / 2)
    answer = lab.call(GetTruth, "get_truth", quantity="atoms", region=np.array([3e-9, 4e-9, 1e-9, 1e-9]))
    assert answer.error_code == 0, answer.error_msg
    x, y, _ = numbers(answer.atoms.positions, (-1, 3)).T
    assert len(x) == len(answer.atoms.atomic_numbers) > 100
    assert 1e-9 <= y.min() and y.max() < 3e-9 and 1e-9 <= x.min() and x.max() < 4e-9
    whole = lab.call(GetTruth, "get_truth", quantity="atoms")
    half = overview.field.step[0] / 2
    corner = np.asarray(overview.field.origin) - half
    y = numbers(whole.atoms.positions, (-1, 3))[:, 1]
    assert y.min() >= corner[0] and len(y) > len(x), "without a region it is the field"
    answer = lab.call(GetTruth, "get_truth", quantity="atoms", region=np.array([1e-9, 1e-9, 1e-9, 2e-9]))
    assert answer.error_code == GetTruth.Response.INVALID_REGION and "has no area" in answer.error_msg
    assert positions_array(whole.data).size == 0


@pytest.mark.parametrize(("edge", "words"), [(1.0, ["1e+09 x 1e+09 nm", "1000 x 1000 nm"]),
                                             (200e-9, ["200 x 200 nm", "atoms", "2e+06"])])
def test_more_atoms_than_an_answer_holds_are_refused_unmade(bench, edge, words):
    from edgetem_nodes.graph.instrument import Instrument, Simulated
    from edgetem_nodes.microscope.drivers import make_driver

    driver = make_driver(Instrument(simulated=Simulated(specimen="gold", rows=12, columns=16, field_nm=8.0)), 3)
    made, atoms = [], driver.atoms
    driver.atoms = lambda low, high, exposure: made.append(high - low) or atoms(low, high, exposure)
    lab = bench(driver=driver)
    lab.activate_without_client()
    answer = lab.call(GetTruth, "get_truth", quantity="atoms", region=np.array([0.0, 0.0, edge, edge]))
    assert answer.error_code == GetTruth.Response.INVALID_REGION
    for word in words:
        assert word in answer.error_msg, answer.error_msg
    assert all((size < 2.1e-9).all() for size in made), "no more than samples were made"


def test_the_estimate_of_atoms_is_near_what_there_is():
    from edgetem_nodes.graph.instrument import Instrument, Simulated
    from edgetem_nodes.microscope.drivers import initial_exposure, make_driver
    from edgetem_nodes.microscope.region import estimated_atoms

    driver = make_driver(Instrument(simulated=Simulated(specimen="gold", rows=12, columns=16, field_nm=8.0)), 3)
    exposure, low = initial_exposure(driver, 1e-6, 1e-6, 0), np.array([-3e-9, 5e-9])
    for size in ([20e-9, 25e-9], [60e-9, 1e-9]):
        atoms = len(driver.atoms(low, low + size, exposure).atomic_numbers)
        assert estimated_atoms(driver, low, low + size, exposure) == pytest.approx(atoms, rel=0.5)
