"""What `edgetem process` says: what the file is, what is known and from where, what was made, what failed."""

from __future__ import annotations

import math
from pathlib import Path

from edgetem_nodes.featurizer.calibration.quantity import Comparison
from edgetem_nodes.operator.processing.feature import Context
from edgetem_nodes.operator.processing.output import Outcome
from edgetem_nodes.operator.processing.results import Failures

_SHOWN = {"V": ("kV", 1e-3), "rad": ("mrad", 1e3), "m": ("nm", 1e9), "s": ("ms", 1e3), "A": ("pA", 1e12),
          "pixel/m": ("pixel/nm", 1e-9)}
_BY_NAME = {"rotation": ("deg", 180 / math.pi), "camera_length": ("mm", 1e3)}
_MEBIBYTE = 1 << 20


def describe(context: Context, refused: dict[str, str], memory: int) -> list[str]:
    """Lines before the reading."""
    source = context.source
    scan = f"{source.field.shape[0]} x {source.field.shape[1]} raster" if source.field else f"{source.places} sparse positions"
    lines = [f"{source.path} ({source.reader}{', ' + source.title if source.title else ''})",
             f"  {scan} of {' x '.join(map(str, source.frame_shape))} {source.dtype}, {source.count} frames, "
             f"{source.nbytes / _MEBIBYTE:,.1f} MiB; frames and maps take up to {memory / _MEBIBYTE:,.0f} MiB of memory"]
    lines += [f"  {line}" for line in known_lines(context.calibration.known)]
    lines += [f"  {line}" for line in compared_lines(context.calibration.comparisons)]
    lines += [f"note: {note}" for note in (*source.notes, *context.calibration.notes)]
    return lines + refusals(refused)


def refusals(refused: dict[str, str]) -> list[str]:
    """A line a feature that is not computed."""
    return [f"refused: {reason if reason.startswith(name) else f'{name}: {reason}'}" for name, reason in refused.items()]


def known_lines(known: dict[str, object]) -> list[str]:
    """A line a number: name, value with error, unit, source."""
    lines = []
    for name, item in known.items():
        unit, factor = _BY_NAME.get(name) or _SHOWN.get(item.unit, (item.unit, 1.0))
        error = f" +- {item.error * factor:.2g}" if item.error else ""
        lines.append(f"{name:24s} {item.value * factor:.6g}{error} {unit}".ljust(55) + f" {item.source}")
    return lines


def compared_lines(comparisons: dict[str, Comparison]) -> list[str]:
    """A line a number that is both measured and stated: both, and their difference in standard errors."""
    lines = []
    for name, item in comparisons.items():
        unit, factor = _BY_NAME.get(name) or _SHOWN.get(item.measured.unit, (item.measured.unit, 1.0))
        value, error = item.measured.value * factor, item.measured.standard_error * factor
        known = "stated" if item.stated.source == "stated" else "in the file"
        digits = max(0, 1 - math.floor(math.log10(error))) if 0 < error < 1e6 else 6
        away = (f"{item.standard_errors:.1f} standard errors" if math.isfinite(item.standard_errors)
                else "no standard error is known")
        lines.append(f"{name:24s} measured {value:.{digits}f} +- {error:.{digits}f} {unit}, {known} "
                     f"{item.stated.value * factor:.6g}: {away}")
    return lines


def failed(what: str, failures: Failures) -> list[str]:
    """A line a reason, with the first frame that has it."""
    examples = dict(zip(failures.reasons, failures.examples, strict=True))
    what = what if "without" in what else f"{what} without value"
    return [f"  {count} {what}: {examples.get(reason, reason)}" for reason, count in failures.counts().items()]


def summarise(outcome: Outcome, written: list[Path], told: list[str]) -> list[str]:
    """Lines after the writing, without those that were told before the reading."""
    source = outcome.source
    lines = [f"{outcome.status}: {outcome.frames_read} of {source.count} frames read in {outcome.seconds:.1f} s, peak memory "
             f"{outcome.peak_bytes / _MEBIBYTE:,.0f} MiB"]
    if outcome.status == "interrupted":
        lines.append("  places that were not read are NaN in every map")
    lines += failed("places", outcome.failures)
    for name, failures in outcome.own_failures.items():
        # What was not measured is told of the whole scan.
        lines += [line for line in failed(f"places without {name}", failures) if not line.endswith(": not measured")]
    lines += [f"  {line}" for line in known_lines(outcome.calibration.known) if f"  {line}" not in told]
    lines += [f"  {line}" for line in compared_lines(outcome.calibration.comparisons) if f"  {line}" not in told]
    lines += [f"note: {note}" for note in outcome.calibration.notes if f"note: {note}" not in told]
    lines += [line for line in refusals(outcome.refused) if line not in told]
    return lines + [f"written {path}" for path in written]
