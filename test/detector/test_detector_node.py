"""The detector node: credit, ends, and every error code it can answer with."""

import os
import signal
import subprocess
import sys
import textwrap
import time
import uuid

import numpy as np
import pytest

from edgetem.srv import Arm
from edgetem_nodes.physics.scan import Axis

CODES = Arm.Response
RUN = uuid.UUID(int=1)
OTHER = uuid.UUID(int=2)
FRAME = 32 * 64 * 2


def test_every_frame_arrives_in_order_with_the_acquisitions_time_and_positions(rig):
    lab = rig()
    lab.announce()
    lab.activate()
    end = lab.run(RUN, 100, sequence=3)
    assert (end.requested, end.sent, end.dropped, end.aborted, end.error_code, end.reason) == (100, 100, 0, False, 0, "")
    assert end.header.stamp.sec == 1000 and end.header.stamp.nanosec == 200_000_000
    lab.wait(lambda: sum(b.shape[0] for b in lab.blocks) == 100)
    assert np.array_equal(lab.received(RUN), lab.source.frames(3, 0, 100))
    block = lab.blocks[0]
    assert [(a.name, a.unit, a.size) for a in block.axes] == [("ky", "rad", 32), ("kx", "rad", 64)]
    assert block.detector == "known" and block.dtype == "uint16" and block.encoding == "raw"
    assert all(b.shape[0] <= 16 for b in lab.blocks), "a block has at most 64 KiB here"


def test_credit_holds_back_what_the_consumer_has_no_room_for(rig):
    lab = rig(silence=60.0)
    lab.appetite = type(lab.appetite)(0)
    lab.announce(window=8 * FRAME)
    lab.activate()
    on_the_way, really_send = [], lab.detector._streamers["known"]._send

    def send(acquisition, block, number):
        eaten = sum(b.shape[0] for b in lab.blocks)
        on_the_way.append(block.first_index + block.count - eaten)
        really_send(acquisition, block, number)
    lab.detector._streamers["known"]._send = send
    assert lab.arm(RUN, 200).error_code == 0
    lab.trigger(RUN, 200)
    lab.wait(lambda: sum(on_the_way[-1:]) == 8)
    assert lab.arm(RUN, 200).error_code == CODES.BUSY
    lab.appetite.release(10**6)
    lab.wait(lambda: lab.ends)
    assert lab.ends[0].sent == 200 and not lab.ends[0].aborted
    lab.wait(lambda: sum(b.shape[0] for b in lab.blocks) == 200)
    assert np.array_equal(lab.received(RUN), lab.source.frames(0, 0, 200))
    assert max(on_the_way) <= 8 + 4, "the consumer reports a block before this test has counted it, so one may be too many"


def test_the_same_acquisition_id_may_be_measured_again(rig):
    lab = rig()
    lab.announce(window=16 * FRAME)
    lab.activate()
    for _ in range(3):
        assert lab.run(RUN, 60).sent == 60
    lab.wait(lambda: sum(b.shape[0] for b in lab.blocks) == 180)


def test_an_acquisition_may_follow_at_once(rig):
    lab = rig()
    lab.announce()
    lab.activate()
    for number in range(20):
        assert not lab.run(uuid.UUID(int=100 + number), 3, sequence=number).aborted


@pytest.mark.parametrize(("request_", "code", "text"), [
    ({"acquisition_id": RUN, "count": 5, "detector": "eels"}, CODES.UNKNOWN_DETECTOR, "'eels'; this one is 'known'"),
    ({"acquisition_id": RUN, "count": 5, "dwell": 1e4}, CODES.DWELL_OUT_OF_RANGE, "outside the detector's range"),
    ({"acquisition_id": RUN, "count": 5, "dwell": float("nan")}, CODES.DWELL_OUT_OF_RANGE, "outside the detector's range"),
    ({"acquisition_id": RUN, "count": 5, "dwell": 0.0}, CODES.DWELL_OUT_OF_RANGE, "outside the detector's range"),
    ({"acquisition_id": RUN, "count": 5, "dwell": 2e-6}, CODES.DWELL_OUT_OF_RANGE, "0.002 ms is shorter than a frame"),
    ({"acquisition_id": uuid.UUID(int=0), "count": 5}, CODES.INVALID_REQUEST, "all zero"),
])
def test_a_request_that_cannot_be_served_is_refused(rig, request_, code, text):
    lab = rig()
    lab.announce()
    lab.activate()
    assert lab.source.prepared
    answer = lab.arm(**request_)
    assert answer.error_code == code
    assert text in answer.error_msg
    assert lab.run(RUN, 4).sent == 4


def test_it_is_not_armed_while_inactive(rig):
    lab = rig()
    assert lab.detector.trigger_configure().name == "SUCCESS"
    lab.wait(lab.arming.service_is_ready)
    assert lab.arm(RUN, 5).error_code == CODES.NOT_ACTIVE


def test_a_consumer_that_never_announced_itself_is_named(rig):
    lab = rig(consumers=["eater", "thinker"])
    lab.announce()
    lab.detector.PEER_TIMEOUT = 0.2
    assert lab.detector.trigger_configure().name == "SUCCESS"
    assert lab.detector.trigger_activate().name == "FAILURE"
    lab.detector.peers = list
    assert lab.detector.trigger_activate().name == "SUCCESS"
    lab.wait(lab.arming.service_is_ready)
    answer = lab.arm(RUN, 5)
    assert answer.error_code == CODES.CONSUMER_MISSING
    assert "thinker" in answer.error_msg


def test_it_is_busy_with_one_acquisition_at_a_time_and_can_be_disarmed(rig):
    lab = rig()
    lab.announce()
    lab.activate()
    assert lab.arm(RUN, 5).error_code == 0
    assert lab.arm(RUN, 6).error_code == 0, "arming again for the same acquisition is allowed"
    answer = lab.arm(OTHER, 5)
    assert answer.error_code == CODES.BUSY and str(RUN) in answer.error_msg
    assert lab.arm(RUN, 0).error_code == 0
    assert lab.run(OTHER, 5).sent == 5


def test_a_probe_path_that_does_not_come_disarms(rig):
    lab = rig(arm_timeout=0.1)
    lab.announce()
    lab.activate()
    assert lab.arm(RUN, 5).error_code == 0
    lab.wait(lambda: lab.detector._run is None)
    lab.trigger(RUN, 5)
    lab.wait(lambda: lab.ends)
    assert lab.ends[0].error_code == CODES.ABORTED and "not armed" in lab.ends[0].reason


def test_axes_are_those_of_the_moment(rig):
    lab = rig()
    lab.announce()
    lab.activate()
    assert lab.run(uuid.UUID(int=1), 3).sent == 3
    lab.source.axes = (Axis("ky", "rad", 2e-3, -32e-3, 32), Axis("kx", "rad", 2e-3, -64e-3, 64))
    assert lab.run(uuid.UUID(int=2), 3).sent == 3
    lab.wait(lambda: len(lab.blocks) >= 2)
    assert lab.blocks[0].axes[0].scale == 1e-3 and lab.blocks[-1].axes[0].scale == 2e-3


def test_a_probe_path_of_another_length_ends_at_once(rig):
    lab = rig()
    lab.announce()
    lab.activate()
    assert lab.arm(RUN, 5).error_code == 0
    lab.trigger(RUN, 6)
    lab.wait(lambda: lab.ends)
    assert lab.ends[0].error_code == CODES.INVALID_REQUEST
    assert "6 positions" in lab.ends[0].reason and "armed for 5" in lab.ends[0].reason
    assert lab.run(RUN, 5).sent == 5


def test_a_failing_source_ends_the_acquisition_after_what_it_delivered(rig):
    lab = rig()
    lab.source.fails_at = 40
    lab.announce()
    lab.activate()
    end = lab.run(RUN, 100)
    assert end.aborted and end.error_code == CODES.SOURCE_FAILED
    assert "the cable is out" in end.reason and "known" in end.reason
    assert 0 < end.sent <= 40 and end.dropped == 0
    lab.source.fails_at = None
    assert lab.run(OTHER, 10).sent == 10


def test_a_source_that_delivers_another_shape_is_told_so(rig):
    lab = rig()
    lab.source.frames = lambda _sequence, _first, count: np.zeros((count, 2, 2), np.uint16)
    lab.announce()
    lab.activate()
    end = lab.run(RUN, 10)
    assert end.error_code == CODES.SOURCE_FAILED
    assert "not uint16 of shape" in end.reason


def test_it_can_be_stopped_from_outside(rig):
    lab = rig()
    lab.source.pause_at = 32
    lab.source.go_on.clear()
    lab.announce()
    lab.activate()
    assert lab.arm(RUN, 100).error_code == 0
    lab.trigger(RUN, 100)
    assert lab.source.reached.wait(20.0)
    assert lab.arm(OTHER, 1).error_code == CODES.BUSY
    assert lab.arm(RUN, 0).error_code == 0
    lab.source.go_on.set()
    lab.wait(lambda: lab.ends)
    assert lab.ends[0].error_code == CODES.ABORTED and lab.ends[0].sent <= 48
    lab.source.pause_at = None
    assert lab.run(OTHER, 10).sent == 10


def test_deactivation_ends_the_acquisition(rig):
    lab = rig()
    lab.appetite = type(lab.appetite)(0)
    lab.announce(window=4 * FRAME)
    lab.activate()
    assert lab.arm(RUN, 100).error_code == 0
    lab.trigger(RUN, 100)
    lab.wait(lambda: lab.detector._gate.outstanding())
    assert lab.detector.trigger_deactivate().name == "SUCCESS"
    lab.wait(lambda: lab.ends)
    assert lab.ends[0].error_code == CODES.ABORTED and "deactivated" in lab.ends[0].reason
    assert lab.detector.trigger_cleanup().name == "SUCCESS"
    assert lab.source.closed


def test_a_live_source_that_outruns_its_consumers_ends_and_counts_what_was_lost(rig):
    lab = rig(pausable=False, spool_mib=1.0, silence=60.0)
    lab.appetite = type(lab.appetite)(0)
    lab.announce(window=8 * FRAME)
    lab.activate()
    end = lab.run(RUN, 2000)
    assert end.error_code == CODES.SPOOL_FULL and "eater" in end.reason and "spool" in end.reason
    assert end.sent <= 8 and end.dropped >= 256 - 8


def test_a_live_source_loses_nothing_while_the_spool_holds(rig):
    lab = rig(pausable=False, spool_mib=64.0)
    lab.announce(window=8 * FRAME)
    lab.activate()
    end = lab.run(RUN, 1500)
    assert (end.sent, end.dropped, end.aborted) == (1500, 0, False)
    lab.wait(lambda: sum(b.shape[0] for b in lab.blocks) == 1500)
    assert np.array_equal(lab.received(RUN), lab.source.frames(0, 0, 1500))


CONSUMER = textwrap.dedent("""
    import sys, time
    import rclpy
    from edgetem.msg import DetectorBlock
    from edgetem_nodes.graph.credit import CreditReporter
    from edgetem_nodes.graph.messages import to_uuid
    from edgetem_nodes.graph.quality_of_service import BLOCKS
    rclpy.init()
    node = rclpy.create_node("victim")
    reporter = CreditReporter(node, "victim", 1 << 17)
    def consume(block):
        print("block", flush=True)
        reporter.consumed(to_uuid(block.acquisition_id), block.first_index + block.shape[0])
    node.create_subscription(DetectorBlock, "detector_block", consume, BLOCKS)
    reporter.start()
    rclpy.spin(node)
""")


def test_a_killed_consumer_ends_the_acquisition_with_its_name(rig):
    lab = rig(consumers=["victim"], silence=2.0)
    lab.source.pause_at = 100
    lab.source.go_on.clear()
    with subprocess.Popen([sys.executable, "-c", CONSUMER], stdout=subprocess.PIPE, env=dict(os.environ)) as victim:
        try:
            lab.activate()
            lab.wait(lambda: not lab.detector._gate.absent())
            assert lab.arm(RUN, 100_000).error_code == 0
            lab.trigger(RUN, 100_000)
            assert victim.stdout.readline() == b"block\n"
            victim.send_signal(signal.SIGKILL)
            victim.wait()
            killed = time.monotonic()
            lab.source.go_on.set()
            lab.wait(lambda: lab.ends)
        finally:
            victim.kill()
    end = lab.ends[0]
    assert end.error_code == CODES.CONSUMER_SILENT
    assert "victim" in end.reason and "2 s" in end.reason
    assert end.sent < 100_000
    assert time.monotonic() - killed < 10.0


def test_a_consumer_that_started_anew_in_mid_acquisition_is_named(rig):
    lab = rig(silence=60.0)
    lab.appetite = type(lab.appetite)(1)
    lab.announce(window=8 * FRAME)
    lab.activate()
    assert lab.arm(RUN, 1000).error_code == 0
    lab.trigger(RUN, 1000)
    lab.wait(lambda: lab.blocks)
    lab.reporter.start()
    lab.wait(lambda: lab.ends)
    assert lab.ends[0].error_code == CODES.CONSUMER_SILENT
    assert "eater started anew" in lab.ends[0].reason


def test_a_consumer_that_lags_over_many_short_acquisitions_is_waited_for(rig):
    lab = rig(silence=60.0)
    lab.appetite = type(lab.appetite)(0)
    lab.announce(window=1 << 30)
    lab.activate()
    done = 0
    while done < 60:
        answer = lab.arm(uuid.UUID(int=500 + done), 1)
        assert answer.error_code == 0, answer.error_msg
        lab.trigger(uuid.UUID(int=500 + done), 1)
        done += 1
        if done <= 48:
            lab.wait(lambda: len(lab.ends) == done)
        else:
            lab.appetite.release(1)
            lab.wait(lambda: len(lab.ends) == done)
    lab.appetite.release(1000)
    lab.wait(lambda: len(lab.blocks) == 60)
