"""report.html of an experiment: pictures, curves against random sampling, dose, beam time, energies, an energy map."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import jinja2
import numpy as np

from edgetem_nodes import __version__
from edgetem_nodes.archive.reader import Archive
from edgetem_nodes.featurizer.spectroscopy.spectra import background_of
from edgetem_nodes.operator import figures
from edgetem_nodes.operator.comparison import COMPARISON, Comparison, compare
from edgetem_nodes.operator.energetics.section import EnergySection, energy_section
from edgetem_nodes.operator.experiment import ARCHIVE, REPORT, SUMMARY
from edgetem_nodes.operator.outcome import Outcome, Row, read_outcome

ELECTRONVOLT = 1.602176634e-19
"""[J], exact (SI)."""
TELLING_POINTS = 3


def write_report(folder: Path, compared: bool = True) -> Path:
    """Write report.html, and its pictures as PNG files, for the experiment in a folder; returns the report's path.

    Parameters
    ----------
    compared : also measure the full map and run the baselines on it; of an energy map, compute the truth.

    Raises
    ------
    BagError, ArchiveError : bag or archive cannot be read.
    """
    outcome = read_outcome(folder)
    pictures = folder / "pictures"
    shown: list[tuple[str, Path]] = []
    comparison = None
    energy = energy_section(outcome, pictures, compared)
    if outcome.survey is not None:
        shown.append(("The survey that the experiment started from.", figures.survey(outcome, pictures / "survey.png")))
    if outcome.rows:
        shown.append(("Where the planner measured, in order.", figures.samples(outcome, pictures / "samples.png")))
    if energy is not None:
        shown += energy.pictures
    elif outcome.last_map is not None:
        shown.append(("What the planner believes after its last decision.",
                      figures.model_map(outcome, "mean", pictures / "map.png")))
        shown.append(("How uncertain it is.", figures.model_map(outcome, "standard_deviation", pictures / "uncertainty.png")))
    if energy is None and outcome.last_map is not None and compared:
        comparison = compare(outcome)
        comparison.save(folder / COMPARISON, len(outcome.measured()[0]))
        shown.append(("The full map, measured after the run for judging it. The planner never saw it.",
                      figures.reference_map(comparison.full, outcome, "Full map", pictures / "full_map.png")))
        shown += [(caption, figures.learning_curve(curves, quantity, pictures / f"{name}.png"))
                  for name, quantity, curves, caption in comparison.curves()]
    if energy is None:
        shown += telling_points(outcome, pictures) + energy_pictures(outcome, pictures)
    summary = json.loads((folder / SUMMARY).read_text())
    html = _template().render(
        name=folder.name, version=__version__, summary=summary, rows=table(summary, comparison, energy), energy=energy,
        pictures=[(caption, _embedded(path), path.name) for caption, path in shown],
        energies=[] if energy else [energy_row(e) for e in outcome.energies],
        decisions=[(d.index, d.action, len(d.candidates), d.points, d.reason) for d in outcome.decisions],
        configuration=outcome.configuration.as_yaml())
    path = folder / REPORT
    path.write_text(html)
    return path


def telling_points(outcome: Outcome, pictures: Path) -> list[tuple[str, Path]]:
    """Spectrum or pattern of the largest, a typical and the smallest measured value, from the archive."""
    valid = sorted((row for row in outcome.rows if row.valid), key=lambda row: row.value)
    if not valid or not (outcome.folder / ARCHIVE).exists():
        return []
    chosen = [("largest", valid[-1]), ("median", valid[len(valid) // 2]), ("smallest", valid[0])][:TELLING_POINTS]
    featurizer = outcome.featurizer
    shown = []
    with Archive.open(outcome.folder) as archive:
        for which, row in chosen:
            acquisition = archive.acquisition(row.acquisition_id)
            path = pictures / f"point_{which}.png"
            title = f"{which} value: {describe(row, outcome)}"
            _draw_frame(acquisition.frame(row.index), acquisition.axes, featurizer, title, path)
            shown.append((f"Data at the {which} value.", path))
    return shown


def describe(row: Row, outcome: Outcome) -> str:
    """Value with its standard error, and where it was measured."""
    unit = f" {outcome.scalar[1]}" if outcome.scalar[1] else ""
    line, column = divmod(row.candidate, outcome.scan_field.shape[1])
    return f"{row.value:.4g} ± {row.standard_error:.2g}{unit} at row {line}, column {column}"


def _draw_frame(frame: np.ndarray, axes: tuple, featurizer: Any, title: str, path: Path) -> None:
    if frame.ndim == 1:
        background, windows = None, {}
        if featurizer.scalarizer == "eels_edge":
            background = background_of(frame, axes, featurizer.eels_edge)
            windows = {"background window": tuple(featurizer.eels_edge.background_eV),
                       "signal window": tuple(featurizer.eels_edge.signal_eV)}
        elif featurizer.scalarizer == "eels_band_ratio":
            windows = {"low window": tuple(featurizer.eels_band_ratio.low_eV),
                       "high window": tuple(featurizer.eels_band_ratio.high_eV)}
        elif featurizer.scalarizer == "eds_window":
            windows = {"signal window": tuple(1000 * e for e in featurizer.eds_window.window_keV)}
        figures.spectrum(frame, axes[0], title, path, background, windows)
        return
    rings = {}
    if featurizer.scalarizer == "virtual_detector":
        y, x = featurizer.virtual_detector.center_mrad
        rings = {"inner": (y, x, featurizer.virtual_detector.inner_mrad),
                 "outer": (y, x, featurizer.virtual_detector.outer_mrad)}
    figures.pattern(frame, list(axes), title, path, rings)


def energy_pictures(outcome: Outcome, pictures: Path) -> list[tuple[str, Path]]:
    """A bar chart of the excess energies, where any were computed."""
    good = [e for e in outcome.energies if e.error_code == 0 and np.isfinite(e.excess_energy)]
    if not good:
        return []
    path = figures.energies([e.label for e in good], [e.excess_energy / ELECTRONVOLT for e in good],
                            [e.standard_error / ELECTRONVOLT for e in good], pictures / "energies.png")
    return [(f"Excess energy against {good[0].reference}, by {good[0].method}.", path)]


def energy_row(message: Any) -> dict[str, str]:
    """One line of the table of energies."""
    if message.error_code:
        return {"label": message.label, "method": message.method, "energy": "failed", "excess": message.error_msg,
                "time": f"{message.wall_time:.1f} s"}
    error = f" ± {message.standard_error / ELECTRONVOLT:.2g}" if np.isfinite(message.standard_error) else ""
    return {"label": message.label, "method": f"{message.method} ({message.engine})",
            "energy": f"{message.energy / ELECTRONVOLT:.4f} eV",
            "excess": f"{message.excess_energy / ELECTRONVOLT:.4f}{error} eV", "time": f"{message.wall_time:.1f} s"}


def table(summary: dict[str, Any], comparison: Comparison | None,
          energy: EnergySection | None = None) -> list[tuple[str, str]]:
    """What is said in figures at the top of the report."""
    latency = summary["latency"]["decision_to_first_block_ms"]
    counts, dose = summary["counts"], summary["dose"]
    rows = [
        ("stopped", summary["stop_reason"]),
        ("points", f"{counts['points']} of {counts['candidates']} positions"
                   + (f", {counts['failed_points']} failed" if counts["failed_points"] else "")),
        ("decisions", str(counts["decisions"]) + (f", {counts['interventions']} of them the operator's"
                                                  if counts["interventions"] else "")),
        *([("discovery", summary["discovery"])] if summary["discovery"] else []),
        *([("watchdogs", "; ".join(f"decision {w['decision']}: {w['noticed']}" for w in summary["watchdogs"]))]
          if summary["watchdogs"] else []),
        ("dose", f"{dose['electrons']:.3g} electrons, {_figure(dose['mean_e_per_A2'], '.3g')} e/Å² over the field, "
                 f"{_figure(dose['per_point_e_per_A2'], '.3g')} e/Å² at a measured position"),
        ("beam time", f"{summary['beam_time_s']:.2f} s"),
        ("wall time", _figure(summary["wall_time_s"], ".0f", " s")),
        ("start-up", _figure(summary["start_up_s"], ".1f", " s")),
        ("decision to first block", f"{latency['median']:.1f} ms median, {latency['p95']:.1f} ms 95th percentile"
         if latency else "not known"),
        ("throughput", _figure(summary["throughput"]["points_per_s"], ".1f", " positions/s")),
        ("archive", f"{counts['archived_bytes'] / 1e6:.1f} MB of detector data in {counts['stored_bytes'] / 1e6:.1f} MB"),
        ("seed", _figure(summary["seed"], "d")),
    ]
    return rows + (comparison.rows() if comparison else []) + (energy.rows if energy else [])


def _figure(value: float | None, form: str, unit: str = "") -> str:
    return "not known" if value is None else f"{value:{form}}{unit}"


def _embedded(path: Path) -> str:
    return "data:image/png;base64," + base64.b64encode(path.read_bytes()).decode()


def _template() -> jinja2.Template:
    environment = jinja2.Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True)
    return environment.from_string((Path(__file__).parent / "report.html").read_text())
