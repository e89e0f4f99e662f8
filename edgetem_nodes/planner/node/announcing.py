"""What the planner publishes: the experiment, every decision, and the map that it rests on."""

from __future__ import annotations

import time
from collections.abc import Sequence

import numpy as np

from edgetem.msg import Decision, Experiment, ExperimentMap, Measurements, Optics, StagePose
from edgetem_nodes import __version__
from edgetem_nodes.graph.column import field_message, fill
from edgetem_nodes.graph.environment import lock_hash
from edgetem_nodes.graph.messages import from_uuid, number_array
from edgetem_nodes.graph.node import GraphNode
from edgetem_nodes.graph.quality_of_service import EVENTS, STATE
from edgetem_nodes.planner.energy_map import UNIT, Site
from edgetem_nodes.planner.platform import decision_platform
from edgetem_nodes.planner.progress import Progress
from edgetem_nodes.planner.proposal import Proposal


class Announcer:
    """Publishes `experiment`, `decision`, `experiment_map` and, of an energy map, `site_energies`."""

    def __init__(self, node: GraphNode) -> None:
        self._node = node
        self._experiments = node.create_publisher(Experiment, "experiment", STATE)
        self.decisions = node.create_publisher(Decision, "decision", EVENTS)
        self._maps = node.create_publisher(ExperimentMap, "experiment_map", STATE)
        self._energies = node.create_publisher(Measurements, "site_energies", EVENTS)

    def close(self) -> None:
        """Release what the node made."""
        for publisher in (self._experiments, self.decisions, self._maps, self._energies):
            self._node.destroy_publisher(publisher)

    def experiment(self, progress: Progress, config: str) -> None:
        """Say what the experiment is."""
        message = Experiment(experiment_id=from_uuid(progress.experiment_id), config=config, seed=progress.experiment.seed,
                             version=__version__, lock_hash=lock_hash(), platform=decision_platform())
        message.header.stamp = self._node.get_clock().now().to_msg()
        self._experiments.publish(message)

    def publish(self, progress: Progress, decision: Decision, proposal: Proposal | None = None) -> int:
        """Publish a decision, and the map it rests on; returns the monotonic clock [ns] at its publication."""
        decision.header.stamp = self._node.get_clock().now().to_msg()
        if len(progress.experiment.measured):
            self._publish_map(progress, decision, proposal)
        watchdogs = "; ".join(decision.watchdogs)
        figures = {"decision": decision.index, "points": decision.points, "state": "running", "watchdogs": watchdogs or "none"}
        if watchdogs:
            self._node.warn(watchdogs, **figures)
            self._node.publish_diagnostics()  # the next report would take its place before the timer comes round
        else:
            self._node.report("active", **figures)
        decision.published_ns = time.monotonic_ns()
        self.decisions.publish(decision)
        return decision.published_ns

    def _publish_map(self, progress: Progress, decision: Decision, proposal: Proposal | None) -> None:
        experiment = progress.experiment
        mean, deviation = experiment.predict()
        has_map = proposal is not None and proposal.acquisition is not None
        message = ExperimentMap(experiment_id=decision.experiment_id, decision_index=decision.index,
                                field=field_message(experiment.field), name=progress.scalar.name, unit=progress.scalar.unit,
                                mean=number_array(mean), standard_deviation=number_array(deviation),
                                acquisition=number_array(proposal.acquisition if has_map else np.full(mean.shape, np.nan)))
        message.header.stamp, message.header.frame_id = decision.header.stamp, "scan"
        further = further_maps(progress)
        message.output_names, message.output_units = [name for name, _, _ in further], [unit for _, unit, _ in further]
        if further:
            message.output_means, message.output_standard_deviations = (
                number_array(np.stack([maps[part] for _, _, maps in further])) for part in (0, 1))
        self._maps.publish(message)

    def energies(self, sites: Sequence[Site], positions: np.ndarray, name: str, engine: str, version: int) -> None:
        """Put the energies of sites of one acquisition on record, a row each.

        Parameters
        ----------
        sites : of one acquisition. positions : (sites, 2) (y, x) [m]. name : of the first column. engine : that computed
        them; empty: the configured one. version : of the scalarizer that measured the sites.
        """
        message = Measurements(
            acquisition_id=from_uuid(sites[0].acquisition_id), indices=number_array([site.index for site in sites], "Q"),
            positions=number_array(positions), names=[name], units=[UNIT], values=number_array([site.value for site in sites]),
            standard_errors=number_array([site.standard_error for site in sites]),
            valid=[not site.step for site in sites],
            failures=[f"{site.step}: {site.failure}" if site.step else "" for site in sites],
            scalarizer=engine or "configured engine", scalarizer_version=version)
        message.header.stamp, message.header.frame_id = self._node.get_clock().now().to_msg(), "scan"
        self._energies.publish(message)


def further_maps(progress: Progress) -> list[tuple[str, str, tuple[np.ndarray, np.ndarray]]]:
    """Name, unit, mean and standard deviation (rows, columns) of what is mapped besides the scalar."""
    experiment = progress.experiment
    low = [("low_level", progress.scalar.unit, experiment.predict_low())] if experiment.levels == 2 else []
    units = progress.units or ("",) * len(experiment.parameters.outputs)
    return low + [(name, units[number], experiment.predict(output=number + 1))
                  for number, name in enumerate(experiment.parameters.outputs)]


def decision_of(progress: Progress, action: str, **texts: str) -> Decision:
    """A decision with all that follows from the present state of the experiment."""
    experiment = progress.experiment
    decision = Decision(experiment_id=from_uuid(progress.experiment_id), index=progress.decisions, action=action,
                        optics=fill(Optics(), None), stage=fill(StagePose(), None),
                        input_rows=experiment.input_rows, seed=experiment.seed, points=experiment.points,
                        dose=progress.dose, beam_time=progress.beam_time, best_value=experiment.best_value,
                        predictability=float(experiment.predictability),
                        generator_state=experiment.generator_state(), model=experiment.model_description(),
                        scalarizer_version=progress.scalar.version, **texts)
    decision.input_hash = np.frombuffer(experiment.input_hash(), np.uint8)
    decision.mean_standard_deviation = decision.max_standard_deviation = float("nan")
    if len(experiment.measured):
        deviation = experiment.predict()[1]
        decision.mean_standard_deviation = float(deviation.mean())
        decision.max_standard_deviation = float(deviation.max())
    return decision


def describe(decision: Decision, proposal: Proposal) -> None:
    """Write into a decision what was chosen and why."""
    decision.positions = number_array(proposal.positions)
    decision.candidates = number_array(proposal.candidates, "I")
    decision.acquisition_function, decision.reason = proposal.acquisition_function, proposal.reason
    decision.acquisition_values = number_array(proposal.values)
    decision.predicted_means = number_array(proposal.predicted)
    decision.predicted_standard_deviations = number_array(proposal.predicted_deviations)
    decision.dwell_time = float(proposal.setting.dwell_time)
    fill(decision.optics, proposal.setting.optics)
    fill(decision.stage, proposal.setting.stage)
    decision.watchdogs = list(proposal.watchdogs)
    decision.generator_state, decision.model = proposal.generator_state, proposal.model
