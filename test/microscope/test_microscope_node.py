"""The microscope node: one acquisition at a time, limits, time, safe stop, and every error code it can answer with."""

import math
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time

import numpy as np
import pytest
from builtin_interfaces.msg import Time

from edgetem.action import Acquire
from edgetem.msg import Optics
from edgetem.srv import AcquireOverview, BlankBeam, GetState, GetTruth, MoveStage, SetOptics
from edgetem_nodes.graph.messages import numbers, positions_array, stamp_nanoseconds

CODES = Acquire.Result
THREE = np.array([[0.0, 0.0], [1e-9, 2e-9], [3e-9, 4e-9]])


def only(**values: float) -> Optics:
    """Optics in which all else is NaN."""
    return Optics(**{name: values.get(name, math.nan) for name in Optics.get_fields_and_field_types()})


def test_an_acquisition_is_armed_triggered_and_accounted(bench):
    lab = bench()
    lab.activate()
    result = lab.acquire(THREE)
    assert (result.error_code, result.error_msg, result.frames_delivered, result.frames_dropped) == (0, "", 3, 0)
    assert result.dose == pytest.approx(3000.0)
    assert [r.count for r in lab.armed] == [3]
    path = lab.paths[0]
    assert np.array_equal(positions_array(path.positions), THREE)
    assert path.dwell_time == 1e-3 and path.position_period == pytest.approx(1e-3 + 50e-6)
    assert len(path.optics_hash) == 64 and path.sequence == 0
    assert lab.driver.blanked[-2:] == [False, True]
    lab.wait(lambda: lab.states and lab.states[-1].dose == pytest.approx(3000.0) and lab.states[-1].beam_blanked)
    assert lab.states[-1].peak_dose == pytest.approx(1000 / 1e-18)
    assert lab.states[-1].commanded_optics.high_tension == 80e3
    assert math.isnan(lab.states[-1].commanded_stage.x), "what the driver does not know is NaN"


def test_acquisition_time_is_beam_time_and_overhead(bench):
    lab = bench(overhead_ms=10.0)
    lab.activate()
    for _ in range(3):
        assert lab.acquire(THREE).error_code == 0
    stamps = [stamp_nanoseconds(path.header.stamp) for path in lab.paths]
    assert np.diff(stamps).tolist() == [round(3 * 1.05e6 + 10e6)] * 2
    assert abs(stamps[0] - time.time_ns()) < 60e9


def test_acquisition_time_in_real_time_is_the_wall_clock(bench):
    lab = bench(real_time=True)
    lab.activate()
    for _ in range(2):
        before = time.time_ns()
        assert lab.acquire(THREE).error_code == 0
        assert before <= stamp_nanoseconds(lab.paths[-1].header.stamp) <= time.time_ns()


def test_the_overview_is_published_counted_and_shown_as_an_image(bench):
    lab = bench()
    lab.activate()
    answer = lab.call(AcquireOverview, "acquire_overview")
    assert answer.error_code == 0
    assert (list(answer.overview.channels), answer.overview.dose) == (["haadf"], 2000.0)
    assert numbers(answer.overview.data).tolist() == list(range(20))
    assert answer.overview.field.shape.tolist() == [4, 5]
    lab.wait(lambda: lab.overviews and lab.images)
    assert lab.overviews[0] == answer.overview
    image = lab.images[0]
    assert (image.height, image.width, image.encoding) == (4, 5, "32FC1")
    assert np.frombuffer(image.data, "<f4").tolist() == list(range(20))
    assert lab.acquire(THREE).error_code == 0
    advance = stamp_nanoseconds(lab.paths[0].header.stamp) - stamp_nanoseconds(answer.overview.header.stamp)
    assert advance == round(0.5e9 + 10e6)
    lab.wait(lambda: lab.states[-1].dose == pytest.approx(5000.0))


@pytest.mark.parametrize(("goal", "code", "text"), [
    ({"positions": [[0, 0], [0, 9e-9]]}, CODES.POSITION_OUT_OF_FIELD, "(0, 9) nm, (row, column) (0, 9), is outside the 4 x 5 field"),
    ({"positions": [[math.nan, 0]]}, CODES.POSITION_OUT_OF_FIELD, "is outside the 4 x 5 field"),
    ({"positions": THREE, "dwell": 1e3}, CODES.DWELL_OUT_OF_RANGE, "dwell time 1e+06 ms is outside the range"),
    ({"positions": THREE, "dwell": -1e-3}, CODES.DWELL_OUT_OF_RANGE, "dwell time -1 ms"),
    ({"positions": THREE, "dwell": math.nan}, CODES.DWELL_OUT_OF_RANGE, "dwell time nan ms"),
    ({"positions": []}, CODES.INVALID_REQUEST, "at least one (y, x) pair"),
    ({"positions": [1e-9, 1e-9, 1e-9]}, CODES.INVALID_REQUEST, "3 numbers"),
    ({"positions": THREE, "acquisition_id": 0}, CODES.INVALID_REQUEST, "all zero"),
])
def test_a_goal_that_cannot_be_served_is_refused_before_the_beam_is_on(bench, goal, code, text):
    lab = bench()
    lab.activate()
    result = lab.acquire(**goal)
    assert result.error_code == code
    assert text in result.error_msg
    assert False not in lab.driver.blanked and not lab.armed


def test_it_serves_nothing_while_inactive(bench):
    lab = bench()
    assert lab.microscope.trigger_configure().name == "SUCCESS"
    lab.listen()
    assert lab.acquire(THREE).error_code == CODES.NOT_ACTIVE
    for kind, name in ((AcquireOverview, "acquire_overview"), (GetState, "get_state"), (SetOptics, "set_optics"),
                       (MoveStage, "move_stage"), (BlankBeam, "blank_beam"), (GetTruth, "get_truth")):
        assert lab.call(kind, name).error_code == kind.Response.NOT_ACTIVE


def test_one_acquisition_at_a_time(bench):
    lab = bench()
    lab.activate()
    first = lab.send(THREE, 1).get_result_async()
    lab.wait(lambda: lab.paths)
    result = lab.acquire(THREE, 2)
    assert result.error_code == CODES.BUSY and "00000001" in result.error_msg
    assert lab.call(AcquireOverview, "acquire_overview").error_code == AcquireOverview.Response.BUSY
    assert lab.call(SetOptics, "set_optics", optics=only(defocus=1e-8)).error_code == SetOptics.Response.BUSY
    assert lab.call(MoveStage, "move_stage").error_code == MoveStage.Response.BUSY
    assert lab.call(GetState, "get_state").state.beam_blanked is False
    lab.end(lab.paths[0], 3)
    assert lab.result_of(first).result.error_code == 0


def test_a_survey_keeps_acquisitions_out(bench):
    lab = bench()
    lab.activate()
    lab.driver.slow = threading.Event()
    client = lab.user.create_client(AcquireOverview, "acquire_overview")
    assert client.wait_for_service(20.0)
    survey = client.call_async(AcquireOverview.Request())
    lab.wait(lambda: lab.microscope.console.busy)
    assert lab.acquire(THREE).error_code == CODES.BUSY
    lab.driver.slow.set()
    assert lab.result_of(survey).error_code == 0


def test_the_total_dose_is_limited_survey_included(bench):
    lab = bench(**{"instrument.limits.electrons": 7000.0, "initial_dose": 1000.0})
    lab.activate()
    assert lab.call(AcquireOverview, "acquire_overview").error_code == 0
    assert lab.acquire(THREE).error_code == 0
    result = lab.acquire(THREE)
    assert result.error_code == CODES.DOSE_LIMIT
    assert "3000 electrons after 6000; the limit is 7000" in result.error_msg
    assert lab.call(AcquireOverview, "acquire_overview").error_code == AcquireOverview.Response.DOSE_LIMIT
    assert lab.acquire(THREE[:1]).error_code == 0, "what fits is served"


def test_the_areal_dose_is_limited_where_it_is_spent(bench):
    lab = bench(**{"instrument.limits.areal_dose_e_per_A2": 25.0})
    lab.activate()
    assert lab.acquire(THREE).error_code == 0
    assert lab.acquire(THREE).error_code == 0
    result = lab.acquire(THREE[1:2])
    assert result.error_code == CODES.DOSE_LIMIT
    assert "position (1, 2) would come to 30 e/Å²" in result.error_msg
    assert lab.acquire(np.array([[2e-9, 2e-9]])).error_code == 0, "another position may still be measured"
    result = lab.acquire(np.full((3, 2), 3e-9))
    assert result.error_code == CODES.DOSE_LIMIT, "visits within one acquisition add up"


def test_a_detector_that_refuses_is_quoted(bench):
    lab = bench()
    lab.activate()
    lab.refusal = (204, "no credit from featurizer")
    result = lab.acquire(THREE)
    assert (result.error_code, result.error_msg) == (CODES.DETECTOR_REFUSED, "no credit from featurizer")
    assert False not in lab.driver.blanked


def test_a_detector_that_does_not_answer_is_told(bench):
    lab = bench(arm_timeout=0.2)
    lab.activate()
    lab.deaf.clear()
    result = lab.acquire(THREE)
    assert result.error_code == CODES.DETECTOR_UNAVAILABLE
    assert "did not answer 'arm' within 0.2 s" in result.error_msg
    assert False not in lab.driver.blanked
    lab.deaf.set()
    assert lab.acquire(THREE, 2).error_code == 0


def test_a_detector_that_is_not_there_is_told(bench):
    lab = bench()
    lab.activate()
    lab.detector.destroy_service(lab.arming)
    lab.wait(lambda: not lab.microscope.acquisitions.arm.service_is_ready())
    result = lab.acquire(THREE)
    assert result.error_code == CODES.DETECTOR_UNAVAILABLE and "is the detector node running" in result.error_msg
    assert False not in lab.driver.blanked


def test_a_detector_that_vanishes_blanks_the_beam(bench):
    lab = bench()
    lab.ends_itself = False
    lab.activate()
    lab.microscope.ABORT_PATIENCE = 0.1
    future = lab.send(THREE).get_result_async()
    lab.wait(lambda: lab.paths)
    lab.detector.destroy_service(lab.arming)
    result = lab.result_of(future).result
    assert result.error_code == CODES.ACQUISITION_ABORTED and "the detector is gone" in result.error_msg
    assert lab.driver.blanked[-1] is True


def test_a_detector_that_ends_early_is_quoted_and_only_its_frames_are_counted(bench):
    lab = bench()
    lab.activate()
    future = lab.send(THREE).get_result_async()
    lab.wait(lambda: lab.paths)
    lab.end(lab.paths[0], 2, 205, "consumer featurizer has said nothing for 5 s")
    result = lab.result_of(future).result
    assert result.error_code == CODES.ACQUISITION_ABORTED and "featurizer" in result.error_msg
    assert result.frames_delivered == 2 and result.dose == pytest.approx(2000.0)


def test_a_detector_that_never_ends_times_out_with_the_beam_blanked(bench):
    lab = bench(end_timeout=0.1, frame_timeout_ms=0.0)
    lab.ends_itself = False
    lab.activate()
    lab.microscope.ABORT_PATIENCE = 0.1
    result = lab.result_of(lab.send(THREE).get_result_async()).result
    assert result.error_code == CODES.ACQUISITION_ABORTED
    assert "did not end the acquisition of 3 frames in time" in result.error_msg
    assert lab.driver.blanked[-1] is True and lab.armed[-1].count == 0
    assert result.dose == pytest.approx(3000.0), "not knowing better, all of it is counted"


def test_canceling_blanks_and_stops_the_detector(bench):
    lab = bench()
    lab.activate()
    handle = lab.send(THREE)
    future = handle.get_result_async()
    lab.wait(lambda: lab.paths)
    assert lab.result_of(handle.cancel_goal_async()).goals_canceling
    wrapped = lab.result_of(future)
    assert wrapped.status == 5
    assert wrapped.result.error_code == CODES.CANCELED and wrapped.result.frames_delivered == 1
    assert lab.armed[-1].count == 0 and lab.driver.blanked[-1] is True
    assert lab.acquire(THREE, 2).error_code == 0


def test_blanking_by_hand_aborts(bench):
    lab = bench()
    lab.activate()
    future = lab.send(THREE).get_result_async()
    lab.wait(lambda: lab.paths)
    assert lab.call(BlankBeam, "blank_beam", blank=True).error_code == 0
    result = lab.result_of(future).result
    assert result.error_code == CODES.ACQUISITION_ABORTED and "blanked by hand" in result.error_msg
    assert lab.call(BlankBeam, "blank_beam", blank=False).error_code == 0
    lab.wait(lambda: not lab.states[-1].beam_blanked)
    lab.driver.failing.add("unblank")
    assert lab.call(BlankBeam, "blank_beam", blank=False).error_code == BlankBeam.Response.DRIVER_FAILED


def test_a_driver_that_fails_is_quoted(bench):
    lab = bench()
    lab.activate()
    lab.driver.failing.add("unblank")
    result = lab.acquire(THREE)
    assert result.error_code == CODES.DRIVER_FAILED and "the blanker does not answer" in result.error_msg
    lab.wait(lambda: lab.armed[-1].count == 0)
    lab.driver.failing = {"overview", "state", "optics"}
    answer = lab.call(AcquireOverview, "acquire_overview")
    assert answer.error_code == AcquireOverview.Response.DRIVER_FAILED
    lab.driver.failing = {"overview", "optics"}
    answer = lab.call(AcquireOverview, "acquire_overview")
    assert "no signal from the annular detector" in answer.error_msg
    assert lab.call(SetOptics, "set_optics", optics=only(defocus=1e-8)).error_code == SetOptics.Response.DRIVER_FAILED
    lab.driver.failing = {"state"}
    assert lab.call(GetState, "get_state").error_code == GetState.Response.DRIVER_FAILED
    lab.driver.failing = set()
    assert lab.acquire(THREE).error_code == 0


def test_optics_and_stage(bench):
    lab = bench()
    lab.activate()
    answer = lab.call(SetOptics, "set_optics", optics=only(defocus=5e-8))
    assert answer.error_code == 0 and lab.driver.optics == {"high_tension": 80e3, "defocus": 5e-8}
    lab.wait(lambda: lab.states[-1].commanded_optics.defocus == 5e-8)
    assert lab.call(SetOptics, "set_optics", optics=only(coma=1e-8)).error_code == SetOptics.Response.NOT_SUPPORTED
    answer = lab.call(SetOptics, "set_optics", optics=only(high_tension=1e6))
    assert answer.error_code == SetOptics.Response.OUT_OF_RANGE and "above 300000 V" in answer.error_msg
    assert lab.call(MoveStage, "move_stage").error_code == MoveStage.Response.NOT_SUPPORTED
    state = lab.call(GetState, "get_state").state
    assert state.sensed_optics.defocus == 5e-8 and state.header.stamp != Time()


def test_the_optics_hash_follows_the_commanded_optics(bench):
    lab = bench()
    lab.activate()
    assert lab.acquire(THREE).error_code == 0
    assert lab.acquire(THREE).error_code == 0
    assert lab.call(SetOptics, "set_optics", optics=only(defocus=5e-8)).error_code == 0
    assert lab.acquire(THREE).error_code == 0
    first, second, third = (path.optics_hash for path in lab.paths)
    assert first == second != third
    assert [path.sequence for path in lab.paths] == [0, 1, 2]


def test_truth_is_served_where_there_is_one(bench):
    lab = bench()
    lab.activate()
    assert list(lab.call(GetTruth, "get_truth").quantities) == ["scalar"]
    answer = lab.call(GetTruth, "get_truth", quantity="scalar")
    assert (answer.unit, numbers(answer.data).tolist()) == ("counts", list(range(20)))
    answer = lab.call(GetTruth, "get_truth", quantity="scalor")
    assert answer.error_code == GetTruth.Response.UNKNOWN_QUANTITY and "scalor" in answer.error_msg
    lab.driver.failing.add("truth")
    assert lab.call(GetTruth, "get_truth").error_code == GetTruth.Response.NOT_SIMULATED


def test_deactivation_blanks_and_ends_what_runs(bench):
    lab = bench()
    lab.activate()
    future = lab.send(THREE).get_result_async()
    lab.wait(lambda: lab.paths)
    assert lab.microscope.trigger_deactivate().name == "SUCCESS"
    assert lab.driver.blanked[-1] is True
    result = lab.result_of(future).result
    assert result.error_code == CODES.ACQUISITION_ABORTED and "stopped" in result.error_msg
    lab.wait(lambda: lab.armed[-1].count == 0)
    assert lab.microscope.trigger_cleanup().name == "SUCCESS"
    assert lab.driver.closed


CLIENT = textwrap.dedent("""
    import uuid
    import rclpy
    from rclpy.action import ActionClient
    from edgetem.action import Acquire
    from edgetem_nodes.graph.messages import from_uuid
    rclpy.init()
    node = rclpy.create_node("victim")
    client = ActionClient(node, Acquire, "acquire")
    client.wait_for_server()
    goal = Acquire.Goal(acquisition_id=from_uuid(uuid.UUID(int=9)), positions=[0.0, 0.0], dwell_time=1e-3)
    future = client.send_goal_async(goal)
    rclpy.spin(node)
""")


def test_the_loss_of_the_client_blanks_the_beam(bench):
    lab = bench()
    lab.activate_without_client()
    with subprocess.Popen([sys.executable, "-c", CLIENT], env=dict(os.environ)) as victim:
        try:
            lab.wait(lambda: lab.microscope.acquisitions.run is not None and lab.microscope.acquisitions.run.clients)
            assert lab.driver.blanked[-1] is False
            victim.send_signal(signal.SIGKILL)
            victim.wait()
            lab.wait(lambda: lab.microscope.acquisitions.run is None)
        finally:
            victim.kill()
    assert lab.driver.blanked[-1] is True
    assert lab.armed[-1].count == 0
    lab.wait(lambda: "client that asked for the acquisition is gone" in lab.microscope._message)
