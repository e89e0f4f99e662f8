"""Nanobeam patterns and micro-scans in one experiment: microscope, detector, compressor and featurizer in one graph."""

import threading
import uuid

import numpy as np
import pytest
import rclpy
from rclpy.action import ActionClient
from rclpy.executors import SingleThreadedExecutor
from rclpy.parameter import Parameter

from edgetem.action import Acquire
from edgetem.msg import ArchivedBlock, Measurements, ProbePath
from edgetem.srv import AcquireOverview, SetOptics
from edgetem_nodes.archive.reader import Archive
from edgetem_nodes.compressor.node import CompressorNode
from edgetem_nodes.detector.node import DetectorNode
from edgetem_nodes.featurizer.node import FeaturizerNode
from edgetem_nodes.graph.column import exposure_of, fill
from edgetem_nodes.graph.messages import from_uuid, number_array, numbers, to_uuid
from edgetem_nodes.graph.quality_of_service import EVENTS
from edgetem_nodes.microscope.node import MicroscopeNode

PATIENCE = 60.0
ELECTRON = 1.602176634e-19
NANOBEAM = {"semi_convergence_angle": 2e-3, "camera_length": 55e-6 / 1.25e-3}
FOCUSED = {"semi_convergence_angle": 25e-3, "camera_length": 55e-6 / 2e-3}
INSTRUMENT = {"seed": 5, "instrument.simulated.specimen": "graphene", "instrument.simulated.rows": 8,
              "instrument.simulated.columns": 8, "instrument.simulated.field_nm": 6.0,
              "instrument.simulated.camera_pixels": 32, "instrument.simulated.pixel_mrad": 1.25,
              "instrument.micro_scan.points": 4, "instrument.limits.areal_dose_e_per_A2": 1e9}


class Graph:
    """The four nodes and a client, on an executor each."""

    def __init__(self, folder, **instrument):
        self.context, self.changed = rclpy.Context(), threading.Condition()
        rclpy.init(context=self.context)
        self.folder = folder
        options = {"context": self.context}
        made = lambda kind, **values: kind(**options, parameter_overrides=[  # noqa: E731
            Parameter(name.replace("__", "."), value=value) for name, value in values.items()])
        instrument = {**INSTRUMENT, **instrument}
        self.detector = made(DetectorNode, **instrument, silence=60.0)
        self.microscope = made(MicroscopeNode, **instrument)
        self.compressor = made(CompressorNode, output=str(folder))
        self.featurizer = made(FeaturizerNode, scalarizer="total_counts", live__images=["sum"], output=str(folder))
        self.nodes = [self.compressor, self.featurizer, self.detector, self.microscope]
        self.user = rclpy.create_node("planner", **options)
        self.rows, self.archived, self.paths = [], [], []
        for kind, topic, kept in ((Measurements, "measurements", self.rows), (ArchivedBlock, "archived_block", self.archived),
                                  (ProbePath, "probe_path", self.paths)):
            self.user.create_subscription(kind, topic, lambda message, kept=kept: self._keep(kept, message), EVENTS)
        self.optics = self.user.create_client(SetOptics, "set_optics")
        self.overview = self.user.create_client(AcquireOverview, "acquire_overview")
        self.threads = []
        for node in (*self.nodes, self.user):
            executor = SingleThreadedExecutor(context=self.context)
            executor.add_node(node)
            thread = threading.Thread(target=executor.spin, daemon=True)
            thread.start()
            self.threads.append((executor, thread))
        for node in self.nodes:
            assert node.trigger_configure().name == "SUCCESS"
            assert node.trigger_activate().name == "SUCCESS"
        task = self.user.executor.create_task(lambda: ActionClient(self.user, Acquire, "acquire"))
        self.wait(task.done)
        self.client = task.result()
        assert self.client.wait_for_server(PATIENCE) and self.optics.wait_for_service(PATIENCE)
        self.wait(lambda: not self.detector._gate.absent())

    def _keep(self, kept, message):
        with self.changed:
            kept.append(message)
            self.changed.notify_all()

    def wait(self, condition):
        with self.changed:
            for _ in range(int(PATIENCE / 0.02)):
                if condition():
                    return
                self.changed.wait(0.02)
        pytest.fail("what the test waits for did not come")

    def answer(self, future):
        self.wait(future.done)
        return future.result()

    def set_optics(self, changes):
        answer = self.answer(self.optics.call_async(SetOptics.Request(optics=fill(SetOptics.Request().optics, changes))))
        assert answer.error_code == 0, answer.error_msg

    def acquire(self, number, sites, dwell, detector=""):
        """An acquisition and all that follows from it."""
        goal = Acquire.Goal(acquisition_id=from_uuid(uuid.UUID(int=number)), dwell_time=dwell, detector=detector)
        goal.positions = number_array(self.microscope.console.field.positions(np.asarray(sites)))
        result = self.answer(self.answer(self.client.send_goal_async(goal)).get_result_async()).result
        if result.error_code == 0:
            self.wait(lambda: len(self.of(number, self.rows, "indices")) == len(sites))
            self.wait(lambda: sum(b.count for b in self.archived if to_uuid(b.acquisition_id).int == number) == len(sites))
        return result

    def of(self, number, messages, field):
        """Values of a field of the messages of an acquisition, one after the other."""
        return np.concatenate([np.zeros(0), *(numbers(getattr(message, field)) for message in list(messages)
                                              if to_uuid(message.acquisition_id).int == number)])

    def close(self):
        for executor, thread in self.threads:
            executor.shutdown()
            thread.join(timeout=10.0)
        self.client.destroy()
        for node in reversed(self.nodes):
            node.close()
        for node in (*self.nodes, self.user):
            node.destroy_node()
        rclpy.shutdown(context=self.context)


@pytest.fixture
def graph(tmp_path):
    made = []

    def make(**instrument):
        made.append(Graph(tmp_path, **instrument))
        return made[0]
    yield make
    made[0].close()


def test_patterns_and_micro_scans_take_turns(graph, tmp_path):
    lab, sites = graph(), [0, 9, 27, 63]
    assert lab.answer(lab.overview.call_async(AcquireOverview.Request())).error_code == 0
    lab.set_optics(NANOBEAM)
    assert lab.acquire(1, range(12), 1e-3).error_code == 0
    lab.set_optics(FOCUSED)
    result = lab.acquire(2, sites, 16e-3, "micro_scan")
    assert (result.error_code, result.frames_delivered) == (0, 4)
    assert result.dose == pytest.approx(4 * 40e-12 * 16e-3 / ELECTRON, rel=1e-9), "the dwell of the whole micro-scan"
    peak = lab.microscope.console.dose.areal.reshape(8, 8)
    assert peak[1, 1] > peak[1, 4] > 0, "the probes of a site reach the places around it"
    lab.set_optics(NANOBEAM)
    assert lab.acquire(3, [5, 40], 1e-3).error_code == 0
    with Archive.open(tmp_path, live=True) as archive:
        stored = {number: archive.acquisition(uuid.UUID(int=number)) for number in (1, 2, 3)}
        assert [stored[n].signal_shape for n in (1, 2, 3)] == [(32, 32), (4, 4, 32, 32), (32, 32)]
        assert stored[2].facts.detector == "micro_scan"
        assert [(axis.name, axis.unit) for axis in stored[2].axes] == [("y", "m"), ("x", "m"), ("ky", "rad"), ("kx", "rad")]
        assert stored[2].axes[0].values() == pytest.approx(np.array([-165, -55, 55, 165]) * 1e-12)
        assert stored[2].axes[2].scale == pytest.approx(2e-3) and stored[3].axes[0].scale == pytest.approx(1.25e-3)
        frames = {number: stored[number].rows() for number in stored}
        for block in lab.archived:
            archive.verify(block)
    lab.wait(lambda: len(lab.paths) == 3)
    whole = lab.detector._sources["micro_scan"].read(exposure_of(lab.paths[1]), 0, 4)
    assert np.array_equal(frames[2], whole), "archived is what the detector has seen"
    assert (lab.paths[1].micro_scan_points, lab.paths[1].micro_scan_step) == (4, pytest.approx(110e-12))
    assert lab.paths[0].micro_scan_points == 0
    for number, found in frames.items():
        assert np.array_equal(lab.of(number, lab.rows, "values"), found.reshape(len(found), -1).sum(axis=1))
    shown = lab.featurizer._preview.image()[0].ravel()
    assert shown[5] == frames[3][0].sum() and shown[9] == frames[1][9].sum(), "the map keeps to patterns of one kind"


def test_micro_scans_are_refused_where_they_would_give_what_a_limit_forbids(graph):
    lab = graph(**{"instrument.limits.shortest_dwell_ms": 0.5, "instrument.limits.areal_dose_e_per_A2": 1e4})
    lab.set_optics(FOCUSED)
    short = lab.acquire(1, [0], 4e-3, "micro_scan")
    assert short.error_code == Acquire.Result.DWELL_OUT_OF_RANGE and "for the 16 probes of a micro-scan" in short.error_msg
    heavy = lab.acquire(2, [0], 16e-3, "micro_scan")
    assert heavy.error_code == Acquire.Result.DOSE_LIMIT
    unknown = lab.acquire(3, [0], 1e-3, "hard_x_rays")
    assert unknown.error_code == Acquire.Result.DETECTOR_REFUSED and "there is no detector 'hard_x_rays'" in unknown.error_msg


def test_what_has_no_camera_takes_no_micro_scans(graph):
    lab = graph(**{"instrument.simulated.detector": "eels"})
    result = lab.acquire(1, [0], 16e-3, "micro_scan")
    assert result.error_code == Acquire.Result.INVALID_REQUEST
    assert "set instrument.simulated.detector to 'pixelated'" in result.error_msg
