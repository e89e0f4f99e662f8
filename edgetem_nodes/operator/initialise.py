"""`edgetem init FILE`: a configuration for a measured file, with what the file holds shown."""

from __future__ import annotations

import json
import os
from pathlib import Path

from edgetem_nodes.archive.replay import TOTAL, ReplaySet
from edgetem_nodes.archive.vendor import VendorFile
from edgetem_nodes.archive.vendor_axes import VendorFileError
from edgetem_nodes.graph.configuration import ConfigurationError
from edgetem_nodes.operator.check import ELECTRONVOLT, CheckError, check, describe
from edgetem_nodes.operator.experiment import load_experiment


class InitError(ValueError):
    """No configuration can be made for the file; the message says why."""


def initialise(file: Path, survey: Path | None, signal: str, output: Path) -> list[str]:
    """Write a configuration that replays a measured scan; returns lines for people: what the file holds, and the plan.

    Parameters
    ----------
    file, signal : the scan, and the title or number of its signal where the file holds several.
    survey : file of the survey image; by default an image of the scan's shape in the same file, else the total counts.
    output : the configuration to write.

    Raises
    ------
    InitError : the output exists, the file cannot be read, holds no scan, or the survey does not fit it.
    """
    if output.exists():
        raise InitError(f"{output} exists and is not overwritten: name another one with --output")
    try:
        opened = VendorFile(file)
        scan = opened.scan(signal)
        lines = [f"{file} ({opened.reader})"]
        lines += [f"  {s.index} {s.title!r}: {s.kind}, {' x '.join(map(str, s.shape))} {s.dtype}; {', '.join(s.axes)}"
                  for s in opened.summaries()]
        survey_signal = "" if survey or opened.images(scan.field.shape) else TOTAL
        replay = ReplaySet(file, signal=signal, survey=survey or "", survey_signal=survey_signal)
    except VendorFileError as error:
        raise InitError(str(error)) from None
    rows, columns = replay.field.shape
    lines.append(f"scan    {rows} x {columns} positions, step {replay.field.step[0] * 1e9:.4g} x "
                 f"{replay.field.step[1] * 1e9:.4g} nm" + ("" if scan.calibrated else
                                                           " (assumed: the file has none; set instrument.replay.step_nm)"))
    lines.append(f"signal  {' x '.join(describe(axis) for axis in replay.axes)}, {replay.dtype}")
    lines.append(f"survey  {replay.survey_title}")
    try:
        output.write_text(_configuration(file, survey, signal, survey_signal, replay, output.resolve().parent))
    except OSError as error:
        raise InitError(f"{output} cannot be written: {error.strerror}") from None
    lines.append(f"written {output}")
    try:
        lines += check(load_experiment(output)).lines()
    except (CheckError, ConfigurationError) as error:
        return [*lines, f"to be set before a run: {error}"]
    return [*lines, f"look at it, then: edgetem run {output}"]


def _configuration(file: Path, survey: Path | None, signal: str, survey_signal: str, replay: ReplaySet, folder: Path) -> str:
    entries = [f"        file: {_path(file, folder)}"]
    entries += [f"        signal: {json.dumps(signal, ensure_ascii=False)}"] if signal else []
    entries += [f"        survey: {_path(survey, folder)}"] if survey else []
    entries += [f"        survey_signal: {survey_signal}   # counts summed over each position's signal"] if survey_signal else []
    candidates = replay.field.shape[0] * replay.field.shape[1]
    budget = max(2, candidates // 10)
    initial = max(1, budget // 5)
    patch = min(5, 2 * min(replay.field.shape) - 1)
    return f"""# Replays {file.name}. Made by 'edgetem init'; the windows below are a first guess: set them for your specimen.
/**:
  ros__parameters:
    seed: 0
    instrument:
      driver: replay
      replay:
{chr(10).join(entries)}
featurizer:
  ros__parameters:
{_scalarizer(replay)}
planner:
  ros__parameters:
    point_budget: {budget}   # of {candidates} positions, initial ones counted
    initial_points: {initial}
    batch_points: {max(1, (budget - initial) // 16)}
    acquisition_function: expected_improvement   # maximum_variance for a map rather than the extremes
{f"    model:{chr(10)}      patch_size: {patch}{chr(10)}" if patch < 5 else ""}"""


def _scalarizer(replay: ReplaySet) -> str:
    if len(replay.axes) == 2:
        if all(axis.unit == "rad" for axis in replay.axes):
            reach = 1e3 * min(abs(axis.scale) * axis.size / 2 for axis in replay.axes)
            return (f"    scalarizer: virtual_detector\n    virtual_detector:\n      inner_mrad: {reach / 2:.4g}\n"
                    f"      outer_mrad: {reach:.4g}")
        return "    scalarizer: total_counts   # the detector has no angles: no virtual detector can be drawn"
    axis = replay.axes[0]
    low, high = axis.offset / ELECTRONVOLT, (axis.offset + axis.scale * (axis.size - 1)) / ELECTRONVOLT
    if axis.unit != "J":
        return "    scalarizer: total_counts   # the axis is no energy: no window can be set"
    if replay.detector == "eels":
        span = high - max(low, 1.0)
        start = max(low, 1.0)
        return (f"    scalarizer: eels_edge\n    eels_edge:\n      background_eV: [{start + 0.05 * span:.0f}, "
                f"{start + 0.3 * span:.0f}]\n      signal_eV: [{start + 0.32 * span:.0f}, {start + 0.45 * span:.0f}]")
    middle = (max(low, 0.0) + high) / 2000
    return f"    scalarizer: eds_window\n    eds_window:\n      window_keV: [{middle:.3g}, {middle + 0.3:.3g}]"


def _path(file: Path, folder: Path) -> str:
    return json.dumps(os.path.relpath(file.resolve(), folder), ensure_ascii=False)
