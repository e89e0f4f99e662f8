"""What a bag tells of an experiment, short of its decisions: all that a replay serves to the planner. Imports no ROS."""

from __future__ import annotations

import uuid
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from edgetem_nodes.physics.electrons import electrons
from edgetem_nodes.provenance.definitions import DefinitionNotFoundError, type_hash
from edgetem_nodes.provenance.metadata import BagError
from edgetem_nodes.provenance.reading import RecordedMessage, bag_folder, matches, read_raw
from edgetem_nodes.provenance.topics import DECISIONS, SERVED


@dataclass(frozen=True)
class RecordedExperiment:
    """What the planner published of the experiment before its first decision."""

    experiment_id: uuid.UUID
    config: str
    """YAML text of the complete configuration."""
    seed: int
    version: str
    """Of edgetem."""
    lock_hash: str
    platform: str

    @property
    def nodes(self) -> dict[str, dict[str, Any]]:
        """Parameters of every node by dotted name.

        Raises
        ------
        BagError : the recorded configuration is not a ROS 2 parameter file.
        """
        try:
            content = yaml.safe_load(self.config)
            return {node: dict(body["ros__parameters"]) for node, body in content.items()}
        except (yaml.YAMLError, AttributeError, KeyError, TypeError, ValueError) as error:
            raise BagError(f"the recorded configuration of experiment {self.experiment_id} is not a parameter file: "
                           f"{error!r}") from None


def experiment_of(folder: str | Path) -> RecordedExperiment:
    """The experiment that a bag holds; after a resume, as it was published last.

    Raises
    ------
    BagError : there is no bag, or no experiment in it.
    """
    found = None
    for _, message in _decoded(folder, ("experiment",)):
        found = message
    if found is None:
        raise BagError(f"{folder} holds no message of topic 'experiment': it was not recorded by edgetem, or ended before "
                       "the planner began")
    return RecordedExperiment(identifier(found.experiment_id), found.config, found.seed, found.version, found.lock_hash,
                              found.platform)


def identifier(message: Any) -> uuid.UUID:
    """A decoded UUID message as `uuid.UUID`."""
    return uuid.UUID(bytes=bytes(message.uuid))


def site(message: Any) -> tuple[uuid.UUID, int, uuid.UUID, int]:
    """Measurement and micro-scan of a structure, of its energies or of a request for it: what tells structures apart."""
    return (identifier(message.acquisition_id), int(message.index), identifier(message.micro_scan_id),
            int(message.micro_scan_index))


@dataclass
class Attempt:
    """One run of an acquisition: what the nodes said of it in one session of the recorder."""

    acquisition_id: uuid.UUID
    path: RecordedMessage | None = None
    positions: np.ndarray = field(default_factory=lambda: np.empty((0, 2)))
    dwell_time: float = 0.0
    probe_current: float = 0.0
    measurements: list[RecordedMessage] = field(default_factory=list)
    version: int = 0
    indices: set[int] = field(default_factory=set)
    end: RecordedMessage | None = None
    sent: int = 0
    dropped: int = 0
    error_code: int = 0
    reason: str = ""
    aborted: bool = False
    dose_before: float = 0.0
    dose_after: float | None = None
    dose_per_position: float = 0.0
    reference_dose: float = 0.0
    state: RecordedMessage | None = None

    @property
    def complete(self) -> bool:
        """The bag holds its probe path and a row, valid or a marked failure, for every position: the planner went on."""
        return self.path is not None and bool(self.indices) and self.indices >= set(range(len(self.positions)))

    @property
    def computed_dose(self) -> float:
        """[electrons] that probe current and dwell time make of the frames that were exposed; 0: not known."""
        exposed = min(len(self.positions), self.sent + self.dropped) if self.end is not None else len(self.positions)
        return self.dose_per_position * exposed

    @property
    def dose(self) -> float:
        """[electrons] that it cost, to the last bit as the microscope said in its result, which is on no topic.

        It is what the microscope's running total grew by. Where probe current and dwell time say the same within the
        rounding of that total, theirs is the more exact number, the one that was added; and where the recorder died before
        the state came, the only one. The reference image that was taken for it, as its probe path tells, comes on top.
        """
        return self.reference_dose + self._own_dose()

    def _own_dose(self) -> float:
        computed = self.computed_dose
        if self.dose_after is None:
            return computed
        growth = self.dose_after - self.dose_before
        return computed if abs(computed - growth) <= 4 * np.spacing(self.dose_after) else growth


class Recording:
    """Everything that the planner was told, by acquisition, from a bag. Decisions and maps are not read.

    An acquisition that was broken off by a crash and made again after the resume is there twice under one identifier:
    the last complete run of it counts. Its measurements are those of the scalarizer that was in force then; what another
    one made of the same data later is `measured_anew`.

    Raises
    ------
    BagError : there is no bag or no experiment in it, or it was recorded with other interfaces than are installed.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = bag_folder(folder)
        self.experiment = experiment_of(self.folder)
        self.overviews: dict[uuid.UUID, RecordedMessage] = {}
        self.structures: dict[tuple, RecordedMessage] = {}
        self.energetics: dict[tuple, RecordedMessage] = {}
        self._attempts: dict[uuid.UUID, dict[int, Attempt]] = {}
        self._versions: dict[int, dict[uuid.UUID, dict[int, list[RecordedMessage]]]] = {}
        states: list[tuple[RecordedMessage, Any]] = []
        for recorded, message in _decoded(self.folder, SERVED):
            self._take(recorded, message, states)
        self._account(states)

    def acquisition(self, acquisition_id: uuid.UUID) -> Attempt | None:
        """The last complete run of an acquisition, else its last run; None: it was never begun."""
        runs = [run for _, run in sorted(self._attempts.get(acquisition_id, {}).items())]
        # Rows that another scalarizer read anew in a later session came without a probe path.
        runs = [run for run in runs if run.path is not None] or runs
        complete = [run for run in runs if run.complete]
        return (complete or runs or [None])[-1]

    def measured_anew(self, version: int, acquisitions: Iterable[uuid.UUID]) -> list[RecordedMessage]:
        """Measurements of acquisitions by a version of the scalarizer; where it came twice, after a resume, the last time."""
        told = self._versions.get(version, {})
        return [message for key in acquisitions if key in told for message in told[key][max(told[key])]]

    def scalarizer(self, version: int) -> RecordedMessage | None:
        """A measurement by a version of the scalarizer; None: there is none."""
        return next((message for runs in self._versions.get(version, {}).values() for messages in runs.values()
                     for message in messages), None)

    def _take(self, recorded: RecordedMessage, message: Any, states: list) -> None:
        name = recorded.topic.rsplit("/", 1)[-1]
        if name == "overview":
            self.overviews[identifier(message.acquisition_id)] = recorded
        elif name == "microscope_state":
            states.append((recorded, message))
        elif name == "structure":
            self.structures[site(message)] = recorded
        elif name == "energetics":
            self.energetics[*site(message), message.goal_engine, message.goal_settings] = recorded
        elif name != "experiment":
            key = identifier(message.acquisition_id)
            run = self._attempts.setdefault(key, {}).setdefault(recorded.session, Attempt(key))
            if name == "probe_path":
                run.path, run.positions = recorded, np.array(message.positions).reshape(-1, 2)
                run.dwell_time, run.reference_dose = message.dwell_time, message.reference_dose
                run.probe_current = message.optics.probe_current
            elif name == "measurements":
                version = int(message.scalarizer_version)
                self._versions.setdefault(version, {}).setdefault(key, {}).setdefault(recorded.session, []).append(recorded)
                if not run.measurements:
                    run.version = version
                if version == run.version:
                    run.measurements.append(recorded)
                    run.indices.update(int(index) for index in message.indices)
            elif name == "acquisition_end":
                run.end, run.sent, run.dropped = recorded, message.sent, message.dropped
                run.aborted, run.error_code, run.reason = message.aborted, message.error_code, message.reason

    def _account(self, states: list[tuple[RecordedMessage, Any]]) -> None:
        """Give every acquisition the microscope's total dose before and after it.

        Before: as the state said when the beam was unblanked for it, else the last state before its probe path. After: as
        the state said when the beam was blanked again, else what it was before the reference image of the next acquisition
        of the session.
        """
        runs = sorted((run for runs in self._attempts.values() for run in runs.values() if run.path is not None),
                      key=lambda run: (run.path.session, run.path.log_time))
        following = None
        for run in reversed(runs):
            session = [pair for pair in states if pair[0].session == run.path.session]
            if following is not None and following.path.session == run.path.session:
                session = [pair for pair in session if pair[0].log_time < following.path.log_time]
            earlier = [pair for pair in session if pair[0].log_time < run.path.log_time]
            before = [state.dose for _, state in earlier]
            during = [pair for pair in session if pair[0].log_time >= run.path.log_time]
            exposing = [state.dose for _, state in during if not state.beam_blanked]
            run.dose_before = (exposing or before[-1:] or [0.0])[0]
            if during:
                # The current may have been changed since, for the next acquisition: the probe path says what it was.
                current = run.probe_current if run.probe_current > 0 else during[-1][1].commanded_optics.probe_current
                run.dose_per_position = electrons(current, run.dwell_time)
            during, later = _episode(during, run.dose_before, run.computed_dose)
            blanked = [(recorded, state) for recorded, state in during if state.beam_blanked]
            if blanked:
                run.state, run.dose_after = blanked[-1][0], blanked[-1][1].dose
            elif later:
                run.dose_after = later[0][1].dose
            elif following is not None and following.path.session == run.path.session:
                run.dose_after = following.dose_before - following.reference_dose
            following = run


def _episode(states: list[tuple[RecordedMessage, Any]], before: float, cost: float) -> tuple[list, list]:
    """The states of an acquisition, and those of what came after it.

    It has ended where the total has grown from `before` by what it costs, or where the beam is on after it was off: or must
    have been, since the total has grown.
    """
    blanked = False
    for number, (_, state) in enumerate(states):
        if not state.beam_blanked and (blanked or state.dose > before):
            return states[:number], states[number:]
        blanked = blanked or state.beam_blanked
        if state.beam_blanked and cost and abs(state.dose - before - cost) <= 4 * np.spacing(state.dose):
            return states[:number + 1], states[number + 1:]
    return states, []


def _decoded(folder: str | Path, topics: tuple[str, ...]):
    """Recorded and decoded messages of these topics; raises where the installed interfaces are others than recorded."""
    checked = set()
    for recorded in read_raw(folder, topics):
        if matches(recorded.topic, DECISIONS) or "/_action/" in recorded.topic:
            continue
        if recorded.type not in checked:
            checked.add(recorded.type)
            try:
                installed = type_hash(recorded.type)
            except DefinitionNotFoundError:
                installed = ""
            if recorded.type_hash and installed and recorded.type_hash != installed:
                raise BagError(f"{folder} was recorded with another definition of {recorded.type} ({recorded.type_hash}) "
                               f"than is installed ({installed}): replay it with the version of edgetem that recorded it")
        yield recorded, recorded.decode()
