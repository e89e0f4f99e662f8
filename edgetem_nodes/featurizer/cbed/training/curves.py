"""Curves of a training, as numbers and as a picture."""

from __future__ import annotations

from pathlib import Path

import numpy as np

_COLOURS = ("tab:blue", "tab:orange", "tab:green", "tab:red", "tab:purple", "tab:brown")


def write_curves(path: Path, curves: dict[str, list[float]]) -> None:
    """One column a curve, one row a step; shorter curves end in empty cells."""
    longest = max((len(values) for values in curves.values()), default=0)
    lines = [",".join(["step", *(name.replace(",", ";") for name in curves)])]
    for step in range(longest):
        cells = (f"{values[step]:.6g}" if step < len(values) else "" for values in curves.values())
        lines.append(",".join([str(step), *cells]))
    path.write_text("\n".join(lines) + "\n")


def smoothed(values: list[float], window: int) -> np.ndarray:
    """Running mean over up to `window` values before and at each."""
    total = np.concatenate([[0.0], np.cumsum(np.asarray(values, float))])
    last = np.arange(1, len(values) + 1)
    first = np.maximum(last - window, 0)
    return (total[last] - total[first]) / (last - first)


def draw_curves(path: Path, curves: dict[str, list[float]]) -> None:
    """Draw each curve, faint as it is and strong as its running mean, into a PNG."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    groups: dict[str, list[str]] = {}
    for name, values in curves.items():
        if values:
            groups.setdefault(name.rpartition(":")[2].strip(), []).append(name)
    figure = Figure(figsize=(4.2 * max(len(groups), 1), 3.2), layout="constrained")
    FigureCanvasAgg(figure)
    for number, (what, names) in enumerate(groups.items()):
        axes = figure.add_subplot(1, len(groups), number + 1)
        for colour, name in zip(_COLOURS * len(names), names, strict=False):
            values = curves[name]
            mean = smoothed(values, max(len(values) // 50, 1))
            axes.plot(values, color=colour, alpha=0.2, linewidth=0.6)
            axes.plot(mean, color=colour, linewidth=1.4, label=name.rpartition(":")[0])
        low, high = np.quantile(np.concatenate([curves[name] for name in names]), [0.0, 0.98])
        axes.set_ylim(low - 0.05 * (high - low) - 1e-9, high + 0.05 * (high - low) + 1e-9)
        axes.set_xlabel("step")
        axes.set_ylabel(what)
        axes.legend(frameon=False, fontsize=8)
    figure.savefig(path, dpi=110)
