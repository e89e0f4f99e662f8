"""Pictures of an experiment."""

from __future__ import annotations

import math
from pathlib import Path

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt  # noqa: E402  (the backend must be chosen first)
import numpy as np  # noqa: E402
from matplotlib.patches import Rectangle  # noqa: E402

from edgetem_nodes.operator.outcome import Outcome  # noqa: E402
from edgetem_nodes.physics.scan import Axis, ScanField  # noqa: E402

ELECTRONVOLT = 1.602176634e-19
"""[J], exact (SI)."""
DECADES = 1000.0
"""A spectrum whose counts span more than this is shown on a logarithmic axis."""
SIZE = (4.6, 4.2)
STYLE = {"font.size": 9, "axes.titlesize": 10, "axes.spines.top": False, "axes.spines.right": False,
         "figure.constrained_layout.use": True}


def save(figure: plt.Figure, path: Path) -> Path:
    """Write a figure as PNG, close it, and return where it is."""
    path.parent.mkdir(exist_ok=True)
    figure.savefig(path, dpi=130)
    plt.close(figure)
    return path


def scale_bar(axes: plt.Axes, field: ScanField) -> None:
    """A scale bar of a round length, about a quarter of the field wide, in the lower left corner."""
    width = field.shape[1] * field.step[1]
    exponent = math.floor(math.log10(width / 4))
    length = max(m for m in (1, 2, 5) if m * 10**exponent <= width / 4 or m == 1) * 10**exponent
    unit, factor = ("µm", 1e6) if length >= 1e-6 else ("nm", 1e9) if length >= 1e-9 else ("Å", 1e10)
    pixels = length / field.step[1]
    rows, columns = field.shape
    axes.add_patch(Rectangle((columns * 0.04, rows * 0.93), pixels, rows * 0.02, color="white", ec="black", lw=0.5))
    axes.text(columns * 0.04 + pixels / 2, rows * 0.915, f"{length * factor:g} {unit}", color="white", ha="center",
              va="bottom", fontsize=8, bbox={"facecolor": "black", "alpha": 0.45, "pad": 1, "lw": 0})


def _image(axes: plt.Axes, data: np.ndarray, field: ScanField, title: str, label: str, **style: object) -> None:
    aspect = field.step[0] / field.step[1]
    finite = data[np.isfinite(data)]
    low, high = np.percentile(finite, [0.5, 99.5]) if finite.size else (0, 1)
    style = {"vmin": low, "vmax": high, "cmap": "viridis", **style}
    picture = axes.imshow(data, aspect=aspect, interpolation="nearest", **style)
    axes.set_title(title)
    axes.set_xticks([])
    axes.set_yticks([])
    axes.figure.colorbar(picture, ax=axes, shrink=0.8, label=label)
    scale_bar(axes, field)


def survey(outcome: Outcome, path: Path) -> Path:
    """The survey image with a scale bar."""
    with plt.rc_context(STYLE):
        figure, axes = plt.subplots(figsize=SIZE)
        name = outcome.survey_channels[0] if outcome.survey_channels else "survey"
        _image(axes, outcome.survey[0], outcome.scan_field, f"Survey ({name})", "counts", cmap="gray")
        return save(figure, path)


def samples(outcome: Outcome, path: Path) -> Path:
    """Measured positions in their order, on the survey image."""
    candidates, _, _ = outcome.measured()
    rows, columns = np.divmod(candidates, outcome.scan_field.shape[1])
    with plt.rc_context(STYLE):
        figure, axes = plt.subplots(figsize=SIZE)
        axes.imshow(outcome.survey[0], cmap="gray", aspect=outcome.scan_field.step[0] / outcome.scan_field.step[1])
        dots = axes.scatter(columns, rows, c=np.arange(len(rows)) + 1, s=9, cmap="plasma", linewidths=0)
        figure.colorbar(dots, ax=axes, shrink=0.8, label="order")
        axes.set(title=f"{len(rows)} measured positions in their order", xticks=[], yticks=[])
        scale_bar(axes, outcome.scan_field)
        return save(figure, path)


def model_map(outcome: Outcome, which: str, path: Path) -> Path:
    """The last predicted map (`mean`) or its standard deviation (`standard_deviation`)."""
    name, unit = outcome.scalar
    title = "Predicted map" if which == "mean" else "Standard deviation"
    data = np.asarray(getattr(outcome.last_map, which)).reshape(outcome.scan_field.shape)
    with plt.rc_context(STYLE):
        figure, axes = plt.subplots(figsize=SIZE)
        _image(axes, data, outcome.scan_field, title, f"{name} [{unit}]" if unit else name,
               cmap="viridis" if which == "mean" else "magma")
        return save(figure, path)


def reference_map(values: np.ndarray, outcome: Outcome, title: str, path: Path) -> Path:
    """The full map that the run is judged by."""
    name, unit = outcome.scalar
    with plt.rc_context(STYLE):
        figure, axes = plt.subplots(figsize=SIZE)
        _image(axes, values, outcome.scan_field, title, f"{name} [{unit}]" if unit else name)
        return save(figure, path)


def learning_curve(curves: dict[str, tuple[np.ndarray, np.ndarray]], quantity: str, path: Path) -> Path:
    """A quantity against areal dose, one line a strategy: `curves[name] = (dose [e/Å²], value)`."""
    with plt.rc_context(STYLE):
        figure, axes = plt.subplots(figsize=SIZE)
        for name, (dose, value) in curves.items():
            axes.plot(dose, value, label=name, marker="o", ms=3)
        axes.set(xlabel="mean dose over the field, survey included [e/Å²]", ylabel=quantity)
        axes.set_title(quantity[:1].upper() + quantity[1:] + " against dose")
        axes.legend(frameon=False)
        return save(figure, path)


def spectrum(counts: np.ndarray, axis: Axis, title: str, path: Path, background: np.ndarray | None = None,
             windows: dict[str, tuple[float, float]] | None = None) -> Path:
    """A spectrum with its fitted background and its windows [eV]."""
    energy = axis.values() / ELECTRONVOLT
    keV = energy.max() > 5000
    energy, unit = (energy / 1000, "keV") if keV else (energy, "eV")
    with plt.rc_context(STYLE):
        figure, axes = plt.subplots(figsize=(6.0, 3.4))
        axes.plot(energy, counts, lw=0.9, color="black", drawstyle="steps-mid", label="measured")
        if background is not None:
            axes.plot(energy, background, lw=1.1, color="tab:red", label="background fit")
        for number, (name, (low, high)) in enumerate((windows or {}).items()):
            scale = 1000 if keV else 1
            axes.axvspan(low / scale, high / scale, alpha=0.18, color=f"C{number}", lw=0, label=name)
        axes.set(title=title, xlabel=f"energy [{unit}]", ylabel="counts")
        seen = counts[counts > 0]
        if seen.size and float(seen.max()) > DECADES * float(seen.min()):
            axes.set_yscale("log")
            axes.set_ylim(0.5 * float(seen.min()), 2 * float(seen.max()))
        axes.legend(frameon=False, fontsize=8)
        return save(figure, path)


def pattern(counts: np.ndarray, axes_: list[Axis], title: str, path: Path,
            rings: dict[str, tuple[float, float, float]] | None = None) -> Path:
    """A diffraction pattern on a logarithmic scale; `rings[name] = (y, x, radius)` [mrad] are drawn on it."""
    y, x = (axis.values() * 1e3 for axis in axes_)
    extent = (x[0], x[-1], y[-1], y[0])
    with plt.rc_context(STYLE):
        figure, axes = plt.subplots(figsize=SIZE)
        picture = axes.imshow(np.log10(1 + counts.astype(float)), extent=extent, cmap="inferno", interpolation="nearest")
        for number, (name, (cy, cx, radius)) in enumerate((rings or {}).items()):
            axes.add_patch(plt.Circle((cx, cy), radius, fill=False, ec=f"C{number}", lw=1, label=name))
        figure.colorbar(picture, ax=axes, shrink=0.8, label="log10(1 + counts)")
        axes.set(title=title, xlabel="mrad", ylabel="mrad")
        return save(figure, path)


def energies(labels: list[str], values: list[float], errors: list[float], path: Path) -> Path:
    """Excess energies [eV] of the computed structures."""
    with plt.rc_context(STYLE):
        figure, axes = plt.subplots(figsize=(5.2, 3.2))
        axes.bar(range(len(values)), values, yerr=np.nan_to_num(errors), color="tab:blue", capsize=3)
        axes.set_xticks(range(len(labels)), labels, rotation=20, ha="right")
        axes.set(ylabel="excess energy [eV]", title="Energy of the structures at the most telling positions")
        axes.axhline(0, color="black", lw=0.6)
        return save(figure, path)
