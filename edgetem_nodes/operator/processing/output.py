"""Writing results: one EMD file that emdfile, py4DSTEM and plain h5py read. It appears whole or not at all."""

from __future__ import annotations

import json
import os
import uuid
from dataclasses import dataclass, field
from pathlib import Path

import h5py
import numpy as np

from edgetem_nodes import __version__
from edgetem_nodes.archive import emd
from edgetem_nodes.archive.pattern_file import PatternFile
from edgetem_nodes.operator.processing.calibration import Calibration
from edgetem_nodes.operator.processing.results import Curve, Failures, Picture, ProcessingError, Result, ScanMap
from edgetem_nodes.physics.scan import Axis

MAPS = "maps.emd"


@dataclass
class Outcome:
    """What a call made.

    Attributes
    ----------
    status : "complete", "incomplete" (frames are missing in the file) or "interrupted" (a person ended it).
    frames_read : of `source.count`.
    refused : why, by feature.
    own_failures : of features that cannot make something of every sound frame, by feature.
    """

    source: PatternFile
    calibration: Calibration
    features: tuple[str, ...]
    results: list[Result]
    failures: Failures
    refused: dict[str, str]
    frames_read: int
    status: str
    own_failures: dict[str, Failures] = field(default_factory=dict)
    seconds: float = 0.0
    peak_bytes: int = 0


def write_emd(outcome: Outcome, folder: Path) -> Path:
    """Write `maps.emd` into the folder; returns its path.

    Raises
    ------
    ProcessingError : it cannot be written.
    """
    path = folder / MAPS
    partial = folder / f".{MAPS}.{os.getpid()}"
    try:
        with h5py.File(partial, "w") as file:
            emd.write_header(file, uuid.uuid4(), f"edgetem {__version__}")
            root = file[emd.ROOT]
            for name, values in _metadata(outcome).items():
                emd.write_metadata(root, name, values)
            _write_places(root, outcome)
            for result in outcome.results:
                _write(root, result, outcome.source)
        partial.replace(path)
    except OSError as error:
        raise ProcessingError(f"{path} cannot be written: {error}") from None
    finally:
        partial.unlink(missing_ok=True)
    return path


def _metadata(outcome: Outcome) -> dict[str, dict[str, object]]:
    """Bundles by name: what was done, what was known, what failed."""
    source = outcome.source
    done = {"status": outcome.status, "file": str(source.path), "data_set": source.title, "format": source.reader,
            "frames": source.count, "frames_read": outcome.frames_read, "places": source.places,
            "features": ",".join(outcome.features), "version": __version__, "seconds": outcome.seconds,
            "refused": json.dumps(outcome.refused), "notes": json.dumps([*source.notes, *outcome.calibration.notes])}
    known: dict[str, object] = {}
    for name, item in outcome.calibration.known.items():
        known |= {name: item.value, f"{name}_unit": item.unit, f"{name}_source": item.source}
        if item.error:
            known[f"{name}_standard_error"] = item.error
    for name, item in outcome.calibration.comparisons.items():
        known |= {f"{name}_measured": item.measured.value, f"{name}_measured_standard_error": item.measured.standard_error,
                  f"{name}_stated": item.stated.value, f"{name}_difference_in_standard_errors": item.standard_errors}
    known["flipped"] = outcome.calibration.flipped
    failed = {name: {"reasons": json.dumps(["sound", "not measured", *failures.reasons]),
                     "counts": json.dumps(failures.counts()), "examples": json.dumps(failures.examples)}
              for name, failures in _all_failures(outcome).items()}
    return {"processing": done, "calibration": known, **failed}


def _all_failures(outcome: Outcome) -> dict[str, Failures]:
    return {"failures": outcome.failures} | {f"{name}_failures": own for name, own in outcome.own_failures.items()}


def _write_places(root: h5py.Group, outcome: Outcome) -> None:
    """Positions of a sparse scan, and the code of every place: 0 sound, 1 not measured, then by reason."""
    source = outcome.source
    if source.field is None:
        emd.make_array(root, "positions", "m", [emd.running("position"), Axis("component", "", 1.0, 0.0, 2)],
                       data=source.positions)
    for name, failures in _all_failures(outcome).items():
        data, axes = _on_scan(failures.codes, source)
        emd.make_array(root, name, "", axes, data=data)


def _on_scan(values: np.ndarray, source: PatternFile) -> tuple[np.ndarray, list[Axis]]:
    """(places, ...) on the raster with its axes; of sparse positions as they are."""
    if source.field is None:
        return values, [emd.running("position")]
    (top, left), (dy, dx), (rows, columns) = source.field.origin, source.field.step, source.field.shape
    unit = "m" if source.calibrated else ""
    if not source.calibrated:
        top, left, dy, dx = 0.0, 0.0, 1.0, 1.0
    return (values.reshape(rows, columns, *values.shape[1:]),
            [Axis("y", unit, dy, top, max(rows, 2)), Axis("x", unit, dx, left, max(columns, 2))])


def _write(root: h5py.Group, result: Result, source: PatternFile) -> None:
    if isinstance(result, ScanMap):
        _write_map(root, result.name, result.values, result, source)
        if result.errors is not None:
            _write_map(root, f"{result.name}_standard_error", result.errors, result, source)
    elif isinstance(result, Picture):
        emd.make_array(root, result.name, result.unit, result.axes, data=result.values)
    elif isinstance(result, Curve):
        emd.make_array(root, result.name, result.unit, [result.axis], data=result.values)
        if result.errors is not None:
            emd.make_array(root, f"{result.name}_standard_error", result.unit, [result.axis], data=result.errors)


def _write_map(root: h5py.Group, name: str, values: np.ndarray, result: ScanMap, source: PatternFile) -> None:
    data, axes = _on_scan(values, source)
    if result.labels:
        data = np.moveaxis(data, -1, 0)
    emd.make_array(root, name, result.unit, axes, result.labels, data=data)
