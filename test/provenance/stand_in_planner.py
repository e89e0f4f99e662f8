"""A small deterministic planner and the bag that it would leave, to test the replay without a surrogate model.

`Core` decides from the rows that it was told; `StandInPlanner` is the node around it, with the interfaces of the real
one; `record` plays all other nodes and writes what the recorder would have written.
"""

import hashlib
import json
import time
import uuid

import numpy as np
from rclpy.action import ActionClient, ActionServer
from rclpy.lifecycle import LifecycleNode
from wire import on_wire

from edgetem.action import Acquire, RunExperiment
from edgetem.msg import (AcquisitionEnd, ArchivedBlock, Decision, Experiment, Measurements, MicroscopeState, Overview,
                         ProbePath)
from edgetem.srv import AcquireOverview
from edgetem_nodes.graph.messages import from_uuid, number_array, numbers, to_stamp
from edgetem_nodes.graph.quality_of_service import EVENTS, STATE
from edgetem_nodes.provenance.bag import BagWriter
from edgetem_nodes.provenance.topics import TOPICS

EXPERIMENT = uuid.UUID(int=77)
CONFIG = "planner:\n  ros__parameters:\n    seed: 5\n    model.surrogate: none\n    tags: []\n"
SHAPE = (12, 12)
STEP = 2e-10
BATCH, DECISIONS = 6, 5
ELECTRONS = 1234.5678


class Core:
    """Chooses each batch by the values told so far and a generator seeded by the index."""

    def __init__(self, seed, survey_dose):
        self.seed, self.dose, self.rows = seed, survey_dose, []

    def told(self, index, values, dose):
        self.rows.append((index, np.asarray(values, float)))
        self.dose += dose

    def decision(self, index):
        values = np.concatenate([v for _, v in sorted(self.rows, key=lambda r: r[0])]) if self.rows else np.empty(0)
        message = Decision(experiment_id=from_uuid(EXPERIMENT), index=index, seed=self.seed, input_rows=len(values),
                           points=len(values), dose=self.dose, best_value=values.max() if values.size else float("nan"),
                           mean_standard_deviation=float(values.std()) if values.size else float("nan"))
        message.input_hash = np.frombuffer(hashlib.sha256(values.tobytes()).digest(), np.uint8)
        if index == DECISIONS:
            message.action, message.stop_reason = "stop", "point_budget"
            return message
        generator = np.random.default_rng([self.seed, index, int(np.floor(values.sum() * 10)) % 1000 if values.size else 0])
        message.generator_state = json.dumps(generator.bit_generator.state)
        chosen = generator.choice(SHAPE[0] * SHAPE[1], BATCH, replace=False)
        message.action = "acquire" if index else "initial"
        message.acquisition_id = from_uuid(uuid.uuid5(EXPERIMENT, str(index)))
        message.candidates = chosen.tolist()
        message.positions = number_array(np.stack(np.divmod(chosen, SHAPE[1]), axis=1) * STEP)
        return message


class StandInPlanner(LifecycleNode):
    """The planner's interfaces around `Core`."""

    def __init__(self, platform="this machine", **options):
        super().__init__("planner", **options)
        self.platform = platform

    def on_configure(self, state):
        self.decisions = self.create_publisher(Decision, "decision", EVENTS)
        self.experiments = self.create_publisher(Experiment, "experiment", STATE)
        self.create_subscription(Measurements, "measurements", self.on_measurements, EVENTS)
        self.overview = self.create_client(AcquireOverview, "acquire_overview")
        self.acquire = ActionClient(self, Acquire, "acquire")
        self.server = ActionServer(self, RunExperiment, "run_experiment", self.run)
        self.pending, self.complete = {}, None
        return super().on_configure(state)

    def on_activate(self, state):
        deadline = time.monotonic() + 20
        while not (self.overview.service_is_ready() and self.acquire.server_is_ready()) and time.monotonic() < deadline:
            time.sleep(0.01)
        return super().on_activate(state)

    def on_measurements(self, message):
        rows = self.pending.setdefault(bytes(bytearray(message.acquisition_id.uuid)), {})
        rows.update(zip(map(int, message.indices), numbers(message.values), strict=True))
        self.check()

    def check(self):
        if self.complete is not None and len(self.pending.get(self.awaited, ())) == BATCH and not self.complete.done():
            self.complete.set_result(None)

    async def run(self, goal):
        result = RunExperiment.Result()
        self.experiments.publish(Experiment(experiment_id=goal.request.experiment_id, config=goal.request.config, seed=5,
                                            version="0", lock_hash="lock", platform=self.platform))
        request = AcquireOverview.Request(acquisition_id=from_uuid(uuid.uuid5(EXPERIMENT, "overview")))
        answer = await self.overview.call_async(request)
        core = Core(5, answer.overview.dose)
        for index in range(DECISIONS + 1):
            decision = core.decision(index)
            decision.published_ns = 1000 + index
            decision.header.stamp = to_stamp(1.0 + index)
            self.decisions.publish(decision)
            result.decisions = index + 1
            if decision.action == "stop":
                break
            self.awaited, self.complete = bytes(bytearray(decision.acquisition_id.uuid)), self.executor.create_future()
            handle = await self.acquire.send_goal_async(Acquire.Goal(acquisition_id=decision.acquisition_id,
                                                                     positions=decision.positions))
            acquired = (await handle.get_result_async()).result
            if acquired.error_code:
                result.error_code, result.error_msg = result.ACQUISITION_FAILED, acquired.error_msg
                goal.abort()
                return result
            self.check()
            await self.complete
            rows = self.pending[self.awaited]
            core.told(index, [rows[k] for k in sorted(rows)], acquired.dose)
        goal.succeed()
        return result


class Session:
    """One run of the recorder: writes messages as they would have come."""

    def __init__(self, folder, clock):
        self.bag, self.clock = BagWriter(folder, append=True), clock

    def write(self, name, message):
        self.bag.add_topic(f"/{name}", TOPICS[name][0])
        self.clock[0] += 1_000_000
        self.bag.write(f"/{name}", on_wire(message), self.clock[0])


def record(folder, *, altered=None, crash_in=None, cut_in=None, operator_stop=None, gap=None, platform="this machine",
           poison=False, reference=False):
    """Write the bag of an experiment.

    altered : (acquisition, row, addend) changes one recorded value after the planner had decided on the true one.
    crash_in : acquisition that is broken off, in the first session; the second makes it again.
    cut_in : acquisition in which the recording ends for good.
    operator_stop : decision in whose place the operator stops.
    gap : acquisition of which the recorder lost everything.
    poison : decisions are recorded as bytes that are no decisions.
    reference : from the third acquisition on, an image is taken before each.
    """
    clock = [1_700_000_000_000_000_000]
    session = Session(folder, clock)
    experiment = Experiment(experiment_id=from_uuid(EXPERIMENT), config=CONFIG, seed=5, version="0", lock_hash="lock",
                            platform=platform)
    overview = Overview(acquisition_id=from_uuid(uuid.uuid5(EXPERIMENT, "overview")), channels=["haadf"],
                        dose=0.1 * ELECTRONS)
    spent = overview.dose
    session.write("microscope_state", MicroscopeState(beam_blanked=True))
    session.write("experiment", experiment)
    session.write("overview", overview)
    session.write("microscope_state", MicroscopeState(dose=spent, beam_blanked=True))
    core = Core(5, overview.dose)
    index, crashed = 0, False
    while index <= DECISIONS:
        decision = core.decision(index)
        if index == operator_stop:
            decision = Decision(index=index, action="stop", stop_reason="operator")
        if poison:
            session.bag.add_topic("/decision", TOPICS["decision"][0])
            session.bag.write("/decision", b"not a decision", clock[0])
        else:
            session.write("decision", decision)
        session.bag.flush()
        if decision.action == "stop":
            break
        positions = numbers(decision.positions, (-1, 2))
        values = np.sin(positions[:, 0] / STEP) + 0.3 * np.cos(1.7 * positions[:, 1] / STEP + index)
        identifier = decision.acquisition_id
        if index == gap:
            spent += ELECTRONS
            core.told(index, values, ELECTRONS)
            index += 1
            continue
        cost = 0.0
        if reference and index > 1:
            session.write("microscope_state", MicroscopeState(dose=spent, beam_blanked=False))
            cost = (spent + ELECTRONS / 3) - spent
            spent += ELECTRONS / 3
            session.write("microscope_state", MicroscopeState(dose=spent, beam_blanked=True))
        session.write("probe_path", ProbePath(acquisition_id=identifier, positions=decision.positions, dwell_time=0.01,
                                              reference_dose=cost))
        session.write("microscope_state", MicroscopeState(dose=spent, beam_blanked=False))
        recorded = values.copy()
        if altered and altered[0] == index:
            recorded[altered[1]] += altered[2]
        for part in ([3, 4, 5], [0, 1, 2]):
            if index in (crash_in, cut_in) and not crashed and part[0] == 0:
                break
            session.write("measurements", Measurements(acquisition_id=identifier, indices=part, names=["signal"],
                                                       values=recorded[part].tolist()))
        if index == cut_in:
            break
        if index == crash_in and not crashed:
            crashed = True
            session.bag.close()
            session = Session(folder, clock)
            session.write("experiment", experiment)
            session.write("microscope_state", MicroscopeState(dose=spent, beam_blanked=True))
            continue
        session.write("archived_block", ArchivedBlock(acquisition_id=identifier))
        session.write("acquisition_end", AcquisitionEnd(acquisition_id=identifier, requested=BATCH, sent=BATCH))
        cost += ELECTRONS * (1 + index / 7) * BATCH
        spent += ELECTRONS * (1 + index / 7) * BATCH
        if index != 1:  # a state may be replaced before it is taken: the next one says as much
            session.write("microscope_state", MicroscopeState(dose=spent, beam_blanked=True))
        core.told(index, values, cost)
        index += 1
    session.bag.close()

