"""Autofocus and eucentric height as actions: what they find, cost and leave behind, and every error code."""

import math
import threading

import numpy as np
import pytest
from spotted_specimen import SpottedSpecimen
from test_column_control import pose
from test_microscope_node import THREE, only

from edgetem.action import Autofocus, FindEucentricHeight
from edgetem.srv import BlankBeam, MoveStage, SetOptics

FINE = {"focusing.dwell_us": 1000.0}


def test_autofocus_finds_the_defocus_and_commands_it(bench):
    lab = bench(driver=SpottedSpecimen(focus=63e-9), **FINE)
    lab.activate()
    handle = lab.act(Autofocus, "autofocus")
    result = lab.result_of(handle.get_result_async()).result
    assert result.error_code == 0, result.error_msg
    assert result.defocus == pytest.approx(63e-9, abs=3e-9) and 0 < result.standard_error < 5e-9
    assert lab.driver.optics["defocus"] == result.defocus and lab.driver.blanked[-1] is True
    images = len(lab.driver.images)
    assert images == 18 and result.dose == pytest.approx(images * 48 * 48 * lab.driver.electrons(1, 1e-3))
    assert lab.microscope.console.dose.total == pytest.approx(result.dose)
    lab.wait(lambda: len(lab.told) == images)
    assert [told.images for told in lab.told] == list(range(1, images + 1))
    sharpest = max(lab.told, key=lambda told: told.sharpness)
    assert sharpest.defocus == pytest.approx(63e-9, abs=20e-9)
    assert lab.acquire(THREE).error_code == 0
    assert lab.paths[0].optics.defocus == result.defocus
    assert lab.paths[0].elapsed == pytest.approx(images * (48 * 48 * 1e-3 + 10e-3))


def test_a_focus_out_of_range_is_not_found_and_nothing_has_changed(bench):
    lab = bench(driver=SpottedSpecimen(focus=300e-9), **FINE)
    lab.activate()
    assert lab.call(SetOptics, "set_optics", optics=only(defocus=-10e-9)).error_code == 0
    result = lab.result_of(lab.act(Autofocus, "autofocus", range=100e-9, images=7).get_result_async()).result
    assert result.error_code == Autofocus.Result.NOT_FOUND and "end of the reach" in result.error_msg
    assert math.isnan(result.defocus) and len(lab.driver.images) == 7
    assert result.dose == pytest.approx(7 * 48 * 48 * lab.driver.electrons(1, 1e-3)), "it has cost what it has cost"
    assert lab.driver.optics["defocus"] == -10e-9


def test_the_eucentric_height_is_found_and_gone_to(bench):
    lab = bench(driver=SpottedSpecimen(height=120e-9), **FINE)
    lab.activate()
    assert lab.call(MoveStage, "move_stage", pose=pose(z=40e-9, alpha=0.02)).error_code == 0
    result = lab.result_of(lab.act(FindEucentricHeight, "find_eucentric_height").get_result_async()).result
    assert result.error_code == 0, result.error_msg
    assert result.z == pytest.approx(-120e-9, abs=3e-9) and 0 < result.standard_error < 3e-9
    assert lab.driver.stage["z"] == result.z and lab.driver.stage["alpha"] == 0.02
    assert result.dose == pytest.approx(len(lab.driver.images) * 48 * 48 * lab.driver.electrons(1, 1e-3))
    assert lab.driver.blanked[-1] is True
    lab.wait(lambda: len(lab.told) == len(lab.driver.images))
    assert np.abs([told.alpha for told in lab.told]).max() <= math.radians(10) + 1e-9


def held(lab, kind: type, name: str, **goal: object):
    """A search whose first image has begun and does not end before `lab.driver.slow` is set."""
    lab.driver.slow = threading.Event()
    handle = lab.act(kind, name, **goal)
    lab.wait(lambda: lab.microscope.console.busy and lab.driver.blanked[-1] is False)
    return handle


@pytest.mark.parametrize(("kind", "name"), [(Autofocus, "autofocus"), (FindEucentricHeight, "find_eucentric_height")])
def test_a_search_can_be_canceled(bench, kind, name):
    lab = bench(driver=SpottedSpecimen(), **FINE)
    lab.activate()
    lab.call(MoveStage, "move_stage", pose=pose(alpha=0.05))
    handle = held(lab, kind, name)
    assert lab.acquire(THREE).error_code == 101, "the microscope is busy meanwhile"
    assert lab.result_of(lab.act(Autofocus, "autofocus").get_result_async()).result.error_code == Autofocus.Result.BUSY
    canceling = handle.cancel_goal_async()
    assert lab.result_of(canceling).goals_canceling
    lab.driver.slow.set()
    wrapped = lab.result_of(handle.get_result_async())
    assert (wrapped.status, wrapped.result.error_code) == (5, kind.Result.CANCELED)
    assert len(lab.driver.images) == 1 and wrapped.result.dose > 0
    assert (lab.driver.optics["defocus"], lab.driver.stage["alpha"]) == (0.0, 0.05), "as before"
    assert lab.driver.blanked[-1] is True
    assert lab.acquire(THREE, 2).error_code == 0


def test_blanking_by_hand_ends_a_search(bench):
    lab = bench(driver=SpottedSpecimen(), **FINE)
    lab.activate()
    handle = held(lab, Autofocus, "autofocus")
    client = lab.user.create_client(BlankBeam, "blank_beam")
    assert client.wait_for_service(20.0)
    answer = client.call_async(BlankBeam.Request(blank=True))
    lab.driver.slow.set()
    assert lab.result_of(answer).error_code == 0
    result = lab.result_of(handle.get_result_async()).result
    assert result.error_code == Autofocus.Result.CANCELED and "blanked by hand" in result.error_msg
    assert lab.driver.optics["defocus"] == 0.0 and lab.driver.blanked[-1] is True


@pytest.mark.parametrize(("kind", "name", "goal", "code", "text"), [
    (Autofocus, "autofocus", {"range": -1.0}, "INVALID_REQUEST", "range -1 must be positive"),
    (Autofocus, "autofocus", {"dwell_time": math.nan}, "INVALID_REQUEST", "dwell_time nan must be positive"),
    (Autofocus, "autofocus", {"images": 3}, "INVALID_REQUEST", "five each at least"),
    (Autofocus, "autofocus", {"dwell_time": 1.0}, "DOSE_LIMIT", "an image of 2304 pixels would cost"),
    (FindEucentricHeight, "find_eucentric_height", {"largest_tilt": 2.0}, "INVALID_REQUEST", "largest tilt 2"),
    (FindEucentricHeight, "find_eucentric_height", {"dwell_time": 1.0}, "DOSE_LIMIT", "an image of 2304 pixels would cost"),
])
def test_a_search_that_cannot_be_is_refused_before_the_beam_is_on(bench, kind, name, goal, code, text):
    lab = bench(driver=SpottedSpecimen(), **{"instrument.limits.electrons": 1e9}, **FINE)
    lab.activate_without_client()
    result = lab.result_of(lab.act(kind, name, **goal).get_result_async()).result
    assert result.error_code == getattr(kind.Result, code) and text in result.error_msg
    assert False not in lab.driver.blanked and result.dose == 0.0


@pytest.mark.parametrize(("kind", "name"), [(Autofocus, "autofocus"), (FindEucentricHeight, "find_eucentric_height")])
def test_what_the_instrument_lacks_is_told(bench, kind, name):
    lab = bench()
    del lab.driver.optics["defocus"]
    assert lab.microscope.trigger_configure().name == "SUCCESS"
    result = lab.result_of(lab.act(kind, name).get_result_async()).result
    assert result.error_code == kind.Result.NOT_ACTIVE
    assert lab.microscope.trigger_activate().name == "SUCCESS"
    result = lab.result_of(lab.act(kind, name).get_result_async()).result
    assert result.error_code == kind.Result.NOT_SUPPORTED and "no control of" in result.error_msg


@pytest.mark.parametrize(("kind", "name"), [(Autofocus, "autofocus"), (FindEucentricHeight, "find_eucentric_height")])
def test_a_driver_that_fails_in_a_search_is_quoted(bench, kind, name):
    lab = bench(driver=SpottedSpecimen(), **FINE)
    lab.activate_without_client()
    lab.driver.failing.add("unblank")
    result = lab.result_of(lab.act(kind, name).get_result_async()).result
    assert result.error_code == kind.Result.DRIVER_FAILED and "the blanker does not answer" in result.error_msg
    assert not lab.microscope.console.busy


def test_deactivation_ends_a_search(bench):
    lab = bench(driver=SpottedSpecimen(), **FINE)
    lab.activate_without_client()
    handle = held(lab, Autofocus, "autofocus")
    threading.Timer(0.2, lab.driver.slow.set).start()
    assert lab.microscope.trigger_deactivate().name == "SUCCESS"
    result = lab.result_of(handle.get_result_async()).result
    assert result.error_code == Autofocus.Result.CANCELED and "stopped" in result.error_msg
    assert lab.driver.blanked[-1] is True
