"""How many electrons sampling strategies need, and how honest their uncertainty is: `edgetem bench sampling`.

Two questions at equal dose, survey counted (docs/sampling.md). Discovery: the dose at which 90 % of the top 2 % of positions
have been measured, over random sampling's expected one. Mapping: error of the predicted map at a tenth of a full map's dose,
over that of random positions with the same model and seed. Figures are medians over the seeds.
"""

from __future__ import annotations

import math
import os
import sys
from collections.abc import Callable, Iterable
from concurrent.futures import ProcessPoolExecutor
from contextlib import nullcontext
from functools import cache, partial
from multiprocessing import get_context
from typing import Any

from edgetem_nodes.graph.environment import THREAD_VARIABLES

for _variable in THREAD_VARIABLES:
    # For the processes that the trials run in: more BLAS threads than free cores are many times slower.
    os.environ.setdefault(_variable, "1")

import numpy as np  # noqa: E402

from edgetem_nodes.operator import sampling_trial  # noqa: E402
from edgetem_nodes.operator.mapped_fields import FIELDS, FieldAbsent, MappedField, mapped_field  # noqa: E402
from edgetem_nodes.operator.sampling_trial import GOALS, METHODS, pooled, random_dose, trial  # noqa: E402
from edgetem_nodes.planner.calibration import REGIONS  # noqa: E402
from edgetem_nodes.planner.parameters import Parameters  # noqa: E402
from edgetem_nodes.planner.simulation import map_error, top_positions  # noqa: E402

SEEDS = 10
QUICK_GOALS = {"CuZn Cu-L": GOALS, "MnPS3 edge mode": ("discovery",)}
QUICK_SEEDS = 2
QUICK_METHODS = ("edgetem", "random", "grid", "brightest")


def run(quick: bool = False) -> dict:
    """Compare all methods on all fields; returns the record of the benchmark."""
    goals, methods = (QUICK_GOALS, QUICK_METHODS) if quick else (dict.fromkeys(FIELDS, GOALS), tuple(METHODS))
    seeds = range(QUICK_SEEDS if quick else SEEDS)
    with _pool(os.cpu_count() or 1) as pool:
        cases = [record for name in goals for record in cases_of(name, methods, goals[name], seeds, pool=pool)]
    return {"seeds": len(seeds), "dose_unit": "one position", "survey_counted_for": _survey_users(), "cases": cases}


def case(dataset: str, method: str, goal: str, seeds: Iterable[int], parameters: Parameters | None = None,
         workers: int = 1) -> dict:
    """One record, for whoever tunes a strategy: `case("CuZn Cu-L", "edgetem", "discovery", range(3))`.

    Parameters
    ----------
    parameters : the planner's; those of the goal by default.
    workers : processes; 1 runs here.

    Raises
    ------
    ValueError : an unknown field, method or goal; FieldAbsent where the data are not here.
    """
    field = mapped_field(dataset)
    needed = dict.fromkeys(("random", method) if goal == "mapping" else (method,))
    with nullcontext() if workers == 1 else _pool(workers) as pool:
        return _record(field, method, goal, _begun(field, needed, goal, seeds, parameters, pool))


def cases_of(dataset: str, methods: Iterable[str], goals: Iterable[str], seeds: Iterable[int],
             parameters: dict[str, Parameters] | None = None, pool: ProcessPoolExecutor | None = None) -> list[dict]:
    """Records of several methods on one field; `parameters` by goal. An absent field gives one record that says why."""
    try:
        field = mapped_field(dataset)
    except FieldAbsent as error:
        return [_absent(dataset, method, goal, str(error)) for goal in goals for method in methods
                if goal in METHODS[method].goals]
    records = []
    for goal in goals:
        serving = [method for method in methods if goal in METHODS[method].goals]
        needed = dict.fromkeys(["random", *serving] if goal == "mapping" else serving)
        trials = _begun(field, needed, goal, seeds, (parameters or {}).get(goal), pool)
        for method in serving:
            records.append(_record(field, method, goal, trials))
            _say(records[-1])
    return records


def _pool(workers: int) -> ProcessPoolExecutor:
    return ProcessPoolExecutor(workers, mp_context=get_context("spawn"))


def _begun(field: MappedField, methods: Iterable[str], goal: str, seeds: Iterable[int], parameters: Parameters | None,
           pool: ProcessPoolExecutor | None) -> dict[str, list[Callable[[], dict]]]:
    """What gives the trials of each method, one a seed: at once in the pool, or when they are asked for here."""
    def begin(method: str, seed: int) -> Callable[[], dict]:
        if pool is None:
            return cache(partial(trial, field, method, goal, seed, parameters))
        return pool.submit(trial, field, method, goal, seed, parameters).result
    seeds = list(seeds)
    return {method: [begin(method, seed) for seed in seeds] for method in methods}


def _record(field: MappedField, method: str, goal: str, trials: dict[str, list[Callable[[], dict]]]) -> dict:
    own, size = [wait() for wait in trials[method]], field.values.size
    record = {"dataset": field.name, "method": method, "goal": goal, "discovery_dose_ratio": None, "rmse_ratio": None,
              "coverage90": None, "localised": field.definition.localised, "related": field.definition.related,
              "truth": field.truth_kind, "positions": size, "seeds": len(own),
              "survey_dose_share": field.survey_dose / size if goal in METHODS[method].survey else 0.0,
              "cpu_seconds": float(np.median([one["seconds"] for one in own])),
              "points": float(np.median([one["points"] for one in own]))}
    if goal == "discovery":
        counts = {key: len(top_positions(truth, sampling_trial.TOP))
                  for key, truth in (("dose", field.truth), ("dose_single", field.values))}
        for key, name in (("dose", "discovery_dose_ratio"), ("dose_single", "discovery_dose_ratio_single")):
            record.update(_spread(name, [one[key] / random_dose(size, counts[key]) for one in own]))
        needed = math.ceil(sampling_trial.SHARE * counts["dose"])
        record.update(oracle_ratio=needed / random_dose(size, counts["dose"]),
                      dose_limit_ratio=sampling_trial.DISCOVERY_LIMIT * size / random_dose(size, counts["dose"]),
                      found=float(np.median([one["found"] for one in own])),
                      found_at_tenth=float(np.median([one["found_at_tenth"] for one in own])))
        return record
    random = [wait() for wait in trials["random"]]
    for key, name in (("error", "rmse_ratio"), ("error_single", "rmse_ratio_single")):
        record.update(_spread(name, [one[key] / base[key] for one, base in zip(own, random, strict=True)]))
    flat = map_error(np.full(field.truth.shape, np.nanmean(field.truth)), field.truth)
    judged = {region: pooled(own, region) for region in ("all", *REGIONS)}
    record.update(coverage90=judged["all"]["coverage"], crps=judged["all"]["score"],
                  coverage90_regions={region: judged[region]["coverage"] for region in REGIONS},
                  crps_regions={region: judged[region]["score"] for region in REGIONS},
                  rmse=float(np.median([one["error"] for one in own])), rmse_flat=flat, rmse_noise_floor=field.noise_floor)
    return record


def _spread(name: str, ratios: list[float]) -> dict[str, Any]:
    """Median and quartiles over the seeds; None where too many seeds did not get there."""
    # Between a finite one and an infinite one there is no mean: the worse one counts.
    method = "linear" if np.isfinite(ratios).all() else "higher"
    low, middle, high = (np.quantile(ratios, q, method=method) for q in (0.25, 0.5, 0.75))
    return {name: _finite(middle), f"{name}_quartiles": [_finite(low), _finite(high)]}


def _finite(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None


def _absent(dataset: str, method: str, goal: str, why: str) -> dict:
    definition = FIELDS[dataset]
    return {"dataset": dataset, "method": method, "goal": goal, "discovery_dose_ratio": None, "rmse_ratio": None,
            "coverage90": None, "localised": definition.localised, "related": definition.related, "absent": why}


def _survey_users() -> dict[str, list[str]]:
    return {goal: [name for name, method in METHODS.items() if goal in method.survey and goal in method.goals]
            for goal in GOALS}


def _say(record: dict) -> None:
    def text(value: float | None) -> str:
        return "-" if value is None else f"{value:.3f}"

    if record["goal"] == "discovery":
        low, high = record["discovery_dose_ratio_quartiles"]
        rest = (f"dose / random's {text(record['discovery_dose_ratio'])} [{text(low)}, {text(high)}], oracle "
                f"{text(record['oracle_ratio'])}; found {record['found']:.2f}, at a tenth {record['found_at_tenth']:.2f}; "
                f"single pixels {text(record['discovery_dose_ratio_single'])}")
    else:
        low, high = record["rmse_ratio_quartiles"]
        regions = ", ".join(f"{name} {text(value)}" for name, value in record["coverage90_regions"].items())
        rest = (f"RMSE / random's {text(record['rmse_ratio'])} [{text(low)}, {text(high)}]; RMSE {record['rmse']:.4g}, flat "
                f"{record['rmse_flat']:.4g}, noise {record['rmse_noise_floor']:.4g}; 90 % interval holds "
                f"{text(record['coverage90'])} ({regions}), CRPS {record['crps']:.4g}")
    print(f"{record['dataset']:18s} {record['goal']:9s} {record['method']:18s} {rest}; {record['cpu_seconds']:.1f} s",
          file=sys.stderr, flush=True)
