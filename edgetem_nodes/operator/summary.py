"""summary.json: what an experiment was, in figures, with a schema."""

from __future__ import annotations

import json
import uuid
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np

from edgetem_nodes import __version__
from edgetem_nodes.graph.environment import lock_hash
from edgetem_nodes.operator.experiment import SUMMARY
from edgetem_nodes.operator.outcome import Outcome, read_outcome

SCHEMA_FILE = Path(__file__).with_name("summary.schema.json")
ANGSTROM2 = 1e-20
"""[m²]."""


def write_summary(folder: Path, exit_code: int) -> dict[str, Any]:
    """Write summary.json for the experiment in a folder, checked against its schema; returns it.

    Raises
    ------
    BagError : the bag cannot be read.
    """
    summary = summarise(read_outcome(folder), exit_code)
    jsonschema.validate(summary, json.loads(SCHEMA_FILE.read_text()))
    (folder / SUMMARY).write_text(json.dumps(summary, indent=2) + "\n")
    return summary


def summarise(outcome: Outcome, exit_code: int) -> dict[str, Any]:
    """The summary of an outcome; what is not known (after a crash) is null."""
    result, field = outcome.result, outcome.scan_field
    last = outcome.decisions[-1] if outcome.decisions else None
    latencies = np.asarray(result.get("first_block_latencies_s", [])) * 1e3
    valid = sum(row.valid for row in outcome.rows)
    dose = outcome.dose if np.isfinite(outcome.dose) else last.dose if last else 0.0
    wall_time = result.get("wall_time_s")
    area = np.prod(field.shape) * np.prod(field.step) if field else np.nan
    per_point = _dose_per_point(outcome, dose)
    return {
        "schema": "edgetem-summary-1",
        "version": __version__,
        "experiment_id": str(uuid.UUID(bytes=bytes(bytearray(outcome.experiment.experiment_id.uuid))))
        if outcome.experiment else None,
        "exit_code": exit_code,
        "stop_reason": outcome.stop_reason,
        "discovery": outcome.discovery or None,
        "watchdogs": [{"decision": index, "noticed": text} for index, text in outcome.watchdogs],
        "seed": int(outcome.experiment.seed) if outcome.experiment else None,
        "lock_sha256": lock_hash(),
        "platform": outcome.experiment.platform if outcome.experiment else None,
        "scalar": {"name": outcome.scalar[0], "unit": outcome.scalar[1]},
        "counts": {"points": valid, "failed_points": len(outcome.rows) - valid,
                   "candidates": int(np.prod(field.shape)) if field else 0, "decisions": len(outcome.decisions),
                   "interventions": sum(d.action == "operator" for d in outcome.decisions),
                   "energies": sum(e.error_code == 0 for e in outcome.energies), "blocks": outcome.blocks,
                   "archived_bytes": int(outcome.archived_bytes), "stored_bytes": int(outcome.stored_bytes)},
        "dose": {"electrons": float(dose), "survey_electrons": _number(outcome.survey_dose),
                 "mean_e_per_A2": _number(dose / area * ANGSTROM2), "per_point_e_per_A2": _number(per_point)},
        "beam_time_s": float(outcome.beam_time),
        "wall_time_s": wall_time,
        "start_up_s": result.get("start_up_s"),
        "latency": {"decision_to_first_block_ms": {"median": float(np.median(latencies)),
                                                   "p95": float(np.percentile(latencies, 95)), "count": len(latencies)}
                    if len(latencies) else None},
        "throughput": {"points_per_s": result.get("points_per_s")},
    }


def _dose_per_point(outcome: Outcome, dose: float) -> float:
    """Areal dose of one exposed position, spread over one pixel of the field [e/Å²]."""
    if not outcome.exposures or outcome.scan_field is None:
        return float("nan")
    electrons = (dose - np.nan_to_num(outcome.survey_dose)) / outcome.exposures
    return float(electrons / np.prod(outcome.scan_field.step) * ANGSTROM2)


def _number(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None
