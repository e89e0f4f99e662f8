"""The state of an experiment as arrays, and back: whoever goes on from it makes the decisions that would have been made."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from typing import TYPE_CHECKING

import numpy as np

from edgetem_nodes.physics.scan import ScanField
from edgetem_nodes.planner.observations import ExperimentError, Observations
from edgetem_nodes.planner.parameters import Actions, Discovery, Energetics, HighFidelity, MicroScan, Model, Parameters
from edgetem_nodes.planner.regions import Region

if TYPE_CHECKING:
    from edgetem_nodes.planner.experiment import ActiveExperiment

STATE_VERSION = 4
BUDGET_KEYS = ("output", "point_budget", "dose_budget", "time_budget_s", "target_standard_deviation", "predictability_target",
               "convergence_target", "convergence_batches", "stop_when", "measurement_timeout_s")
"""Parameters that may differ between a checkpoint and the experiment that goes on from it."""
ENERGETICS_KEYS = ("points", "timeout_s")
"""The same of the group `energetics`; all of them where energies are not what is mapped."""
_ROWS = "rows_"


def state_of(experiment: ActiveExperiment) -> dict[str, np.ndarray]:
    """All that a restart needs, as arrays (one of them holds JSON); `np.savez` writes it without pickle."""
    configured, now = asdict(experiment.configured), asdict(experiment.parameters)
    record = {"version": STATE_VERSION, "seed": experiment.seed, "generator": json.loads(experiment.generator_state()),
              "parameters": configured, "amended": {k: v for k, v in now.items() if v != configured[k]},
              "origin": list(experiment.field.origin), "step": list(experiment.field.step),
              "survey_dose": experiment.survey_dose, "regions": [region.record() for region in experiment.regions],
              **experiment.progress()}
    return {"experiment": np.array(json.dumps(record)), "survey": experiment.survey, **experiment.arrays(),
            **{_ROWS + name: array for name, array in experiment.observations.arrays().items()}}


def experiment_of(kind: type[ActiveExperiment], state: dict[str, np.ndarray],
                  parameters: Parameters | None) -> ActiveExperiment:
    """The experiment that `state_of` described; see `ActiveExperiment.load_state`."""
    try:
        record = json.loads(str(state["experiment"]))
        if record["version"] != STATE_VERSION:
            raise ExperimentError(f"the checkpoint has version {record['version']}; this program reads {STATE_VERSION}")
        saved = record["parameters"]
        parameters = _parameters(saved) if parameters is None else parameters
        now = asdict(parameters)
        differing = [key for key in now if key not in (*BUDGET_KEYS, "seed") and not _same(key, now[key], saved.get(key))]
        if differing:
            key = differing[0]
            raise ExperimentError(f"the checkpoint was made with {key} = {saved.get(key)!r}, the configuration says "
                                  f"{now[key]!r}: resume with the same, only budgets and time-outs may change")
        survey = np.asarray(state["survey"], np.float64)
        field = ScanField(tuple(record["origin"]), tuple(record["step"]), tuple(int(n) for n in survey.shape[1:]))
        experiment = kind(survey, field, parameters, record["seed"], state["allowed"], record["survey_dose"],
                          state["descriptors"])
        experiment.parameters = replace(parameters, **record["amended"])
        experiment.regions = tuple(Region(**region) for region in record["regions"])
        experiment.observations = Observations(**{name[len(_ROWS):]: np.asarray(array) for name, array in state.items()
                                                  if name.startswith(_ROWS)})
        experiment.restore(record, state)
        if len(experiment.sights) != len(experiment.observations):
            raise ExperimentError(f"the checkpoint is damaged: {len(experiment.sights)} sights for "
                                  f"{len(experiment.observations)} rows")
    except (KeyError, TypeError, AttributeError, json.JSONDecodeError) as error:
        raise ExperimentError(f"the checkpoint is incomplete or damaged: {type(error).__name__} {error}") from None
    return experiment


def _parameters(saved: dict) -> Parameters:
    groups = {"model": Model, "actions": Actions, "discovery": Discovery, "micro_scan": MicroScan}
    energies = saved["energetics"]
    energetics = Energetics(**{**energies, "high_fidelity": HighFidelity(**energies["high_fidelity"])})
    return Parameters(**{**saved, **{name: kind(**saved[name]) for name, kind in groups.items()}, "energetics": energetics})


def _same(key: str, now: object, saved: object) -> bool:
    """Whether a parameter may stand so in an experiment that goes on."""
    if key != "energetics" or not isinstance(saved, dict):
        return now == saved
    if not now["mapped"] and not saved.get("mapped"):
        return True  # computed at the end, no decision depends on them
    return {k: v for k, v in now.items() if k not in ENERGETICS_KEYS} == \
        {k: v for k, v in saved.items() if k not in ENERGETICS_KEYS}
