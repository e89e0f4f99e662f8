"""Drawing results as PNG: maps with scale bar, colour bar and unit; vectors as colour wheel and magnitude."""

from __future__ import annotations

import math
from pathlib import Path

import matplotlib

matplotlib.use("Agg")

import numpy as np  # noqa: E402  (the backend must be chosen first)
from matplotlib import pyplot as plt  # noqa: E402
from matplotlib.colors import LogNorm, hsv_to_rgb  # noqa: E402
from matplotlib.patches import Rectangle  # noqa: E402

from edgetem_nodes.archive.pattern_file import PatternFile  # noqa: E402
from edgetem_nodes.operator.processing.results import Curve, Picture, Result, ScanMap  # noqa: E402
from edgetem_nodes.physics.electrons import ELEMENTARY_CHARGE  # noqa: E402
from edgetem_nodes.physics.scan import Axis, ScanField  # noqa: E402

STYLE = {"font.size": 9, "axes.titlesize": 10, "axes.spines.top": False, "axes.spines.right": False,
         "figure.constrained_layout.use": True}
SHOWN = {"rad": ("mrad", 1e3), "rad^2": ("mrad²", 1e6), "rad/m": ("mrad/nm", 1e-6), "m": ("nm", 1e9), "m^2": ("nm²", 1e18),
         "J": ("eV", 1 / ELEMENTARY_CHARGE), "1/m": ("1/nm", 1e-9), "C/m^2": ("C/m²", 1.0), "count": ("counts", 1.0),
         "pixel^2": ("pixel²", 1.0)}
"""Units in which people read SI values, and what they are multiplied by."""
PHASES = ("icom", "ssb", "parallax")
"""Maps whose radians are a phase, not an angle of the beam."""
PERCENT, DEGREES = ("strain",), ("lattice_rotation", "in_plane", "misorientation")
_MAPS = {"sequential": "viridis", "diverging": "RdBu_r", "angle": "twilight", "labels": "tab10"}


def draw(result: Result, source: PatternFile, path: Path) -> Path:
    """Draw one result."""
    with plt.rc_context(STYLE):
        return _draw(result, source, path)


def _draw(result: Result, source: PatternFile, path: Path) -> Path:
    if isinstance(result, Curve):
        return _curve(result, path)
    if isinstance(result, Picture):
        return _picture(result, path)
    if result.style == "vector":
        return _vector(result, source, path)
    if result.style == "rgb":
        return _coloured(result, source, path)
    return _maps(result, source, path)


def _save(figure: plt.Figure, path: Path) -> Path:
    figure.savefig(path, dpi=130)
    plt.close(figure)
    return path


def _unit(result: ScanMap | Picture) -> tuple[str, float]:
    if result.unit == "rad" and result.name.startswith(PHASES):
        return "rad", 1.0
    if result.name in PERCENT:
        return "%", 100.0
    if result.name in DEGREES:
        return "deg", 180 / math.pi
    return SHOWN.get(result.unit, (result.unit, 1.0))


def _limits(values: np.ndarray, style: str, reference: float = 0.0) -> dict[str, object]:
    """Colours that a few outliers do not spoil."""
    finite = values[np.isfinite(values)]
    if not finite.size:
        return {"cmap": _MAPS[style], "vmin": 0.0, "vmax": 1.0}
    low, high = np.percentile(finite, [0.5, 99.5])
    if style == "diverging":
        reach = max(abs(low - reference), abs(high - reference)) or 1.0
        low, high = reference - reach, reference + reach
    if not low < high:
        low, high = low - 0.5, high + 0.5
    return {"cmap": _MAPS[style], "vmin": low, "vmax": high}


def _maps(result: ScanMap, source: PatternFile, path: Path) -> Path:
    """A panel for each quantity."""
    unit, factor = _unit(result)
    values = result.values.reshape(len(result.values), -1) * factor
    names = result.labels or ("",)
    columns = 2 if len(names) == 4 else min(len(names), 3)
    figure, panels = plt.subplots(-(-len(names) // columns), columns, squeeze=False,
                                  figsize=_size(source, columns, -(-len(names) // columns)))
    for number, axes in enumerate(panels.ravel()):
        if number >= len(names):
            axes.set_axis_off()
            continue
        artist = _places(axes, values[:, number], source, _limits(values[:, number], result.style, result.reference * factor))
        axes.set_title(" ".join(part for part in (result.title if not number else "", names[number]) if part))
        figure.colorbar(artist, ax=axes, shrink=0.8, label=unit)
    return _save(figure, path)


def _size(source: PatternFile, columns: int, rows: int = 1) -> tuple[float, float]:
    """[inch]; a long scan gets a long figure."""
    shape = source.field.shape if source.field else (1, 1)
    ratio = float(np.clip(shape[0] / shape[1], 0.35, 2.5))
    return 4.6 * columns, max(2.0, 3.4 * ratio + 0.6) * rows


def _places(axes: plt.Axes, values: np.ndarray, source: PatternFile, style: dict[str, object]) -> object:
    """A raster as an image, sparse positions as dots; places without a value stay grey."""
    axes.set_facecolor("0.8")
    field = source.field
    if field is None:
        y, x = source.positions.T * 1e9
        seen = np.isfinite(values)
        artist = axes.scatter(x[seen], y[seen], c=values[seen], s=12, linewidths=0, **style)
        axes.plot(x[~seen], y[~seen], "x", color="black", ms=3)
        axes.set(xlabel="x [nm]", ylabel="y [nm]", aspect="equal")
        axes.invert_yaxis()
        return artist
    artist = axes.imshow(values.reshape(field.shape), aspect=abs(field.step[0] / field.step[1]), interpolation="nearest",
                         **style)
    _frame(axes, field, source.calibrated)
    return artist


def _frame(axes: plt.Axes, field: ScanField, calibrated: bool) -> None:
    """Scale bar; where the step is not known, the places are numbered instead."""
    if calibrated:
        axes.set_xticks([])
        axes.set_yticks([])
        _scale_bar(axes, field.shape, field.step[1])
    else:
        axes.set(xlabel="column (step not known)", ylabel="row")
        axes.locator_params(integer=True, nbins=6)


def _scale_bar(axes: plt.Axes, shape: tuple[int, ...], step: float) -> None:
    """A bar of a round length, about a quarter of the field wide, in the lower left corner; fits fields of few rows too."""
    width = shape[1] * step
    exponent = math.floor(math.log10(width / 4))
    length = max(m for m in (1, 2, 5) if m * 10.0**exponent <= width / 4 or m == 1) * 10.0**exponent
    unit, factor = next((u, f) for u, f, least in (("mm", 1e3, 1e-3), ("µm", 1e6, 1e-6), ("nm", 1e9, 1e-9), ("Å", 1e10, 0.0))
                        if length >= least * 0.999)
    part = length / width
    axes.add_patch(Rectangle((0.04, 0.04), part, 0.02, transform=axes.transAxes, color="white", ec="black", lw=0.5, zorder=3))
    axes.text(0.04 + part / 2, 0.08, f"{length * factor:g} {unit}", transform=axes.transAxes, color="white", ha="center",
              va="bottom", fontsize=8, bbox={"facecolor": "black", "alpha": 0.45, "pad": 1, "lw": 0})


def _vector(result: ScanMap, source: PatternFile, path: Path) -> Path:
    """Direction as hue and magnitude as brightness, with the wheel that reads it; and the magnitude with a colour bar."""
    unit, factor = _unit(result)
    values = result.values * factor
    middle = np.nanmedian(values, axis=0) if np.isfinite(values).any() else np.zeros(2)
    shifted = values - middle
    length = np.hypot(shifted[:, 0], shifted[:, 1])
    finite = length[np.isfinite(length)]
    largest = float(np.percentile(finite, 99.5)) if finite.size and finite.max() > 0 else 1.0
    figure, (left, right) = plt.subplots(1, 2, figsize=_size(source, 2))
    colours = _wheel_colours(shifted, largest)
    if source.field is None:
        y, x = source.positions.T * 1e9
        left.scatter(x, y, c=colours, s=12, linewidths=0)
        left.set(xlabel="x [nm]", ylabel="y [nm]", aspect="equal")
        left.invert_yaxis()
    else:
        left.imshow(colours.reshape(*source.field.shape, 3), interpolation="nearest",
                    aspect=abs(source.field.step[0] / source.field.step[1]))
        _frame(left, source.field, source.calibrated)
    left.set_title(f"{result.title}\nabout its median ({middle[0]:.3g}, {middle[1]:.3g}) {unit}", fontsize=9)
    _wheel(left, largest, unit)
    artist = _places(right, length, source, {"cmap": "magma", "vmin": 0.0, "vmax": largest})
    right.set_title("magnitude about the median", fontsize=9)
    figure.colorbar(artist, ax=right, shrink=0.8, label=unit)
    return _save(figure, path)


def _coloured(result: ScanMap, source: PatternFile, path: Path) -> Path:
    """Colours of their own, (places, 3); grey where there is none."""
    colours = np.where(np.isfinite(result.values).all(axis=1)[:, None], result.values, 0.8)
    figure, axes = plt.subplots(figsize=_size(source, 1))
    if source.field is None:
        y, x = source.positions.T * 1e9
        axes.scatter(x, y, c=colours, s=12, linewidths=0)
        axes.set(xlabel="x [nm]", ylabel="y [nm]", aspect="equal")
        axes.invert_yaxis()
    else:
        axes.imshow(colours.reshape(*source.field.shape, 3), interpolation="nearest",
                    aspect=abs(source.field.step[0] / source.field.step[1]))
        _frame(axes, source.field, source.calibrated)
    axes.set_title(result.title)
    return _save(figure, path)


def _wheel_colours(vectors: np.ndarray, largest: float) -> np.ndarray:
    """RGB (n, 3) of vectors (n, 2), (y, x): hue is the direction, from x towards y; brightness the length; grey: no value."""
    good = np.isfinite(vectors).all(axis=1)
    y, x = np.where(good[:, None], vectors, 0.0).T
    hue = np.mod(np.arctan2(y, x) / (2 * math.pi), 1.0)
    colours = hsv_to_rgb(np.stack([hue, np.ones_like(hue), np.clip(np.hypot(y, x) / largest, 0.0, 1.0)], 1))
    colours[~good] = 0.8
    return colours


def _wheel(axes: plt.Axes, largest: float, unit: str) -> None:
    """The legend of hues, beside the map; y points down as in the map."""
    inset = axes.inset_axes((1.03, 0.7, 0.26, 0.26))
    y, x = np.mgrid[-1:1:81j, -1:1:81j]
    rgba = np.concatenate([_wheel_colours(np.stack([y.ravel(), x.ravel()], 1), 1.0).reshape(81, 81, 3),
                           (np.hypot(y, x) <= 1)[..., None].astype(float)], axis=2)
    inset.imshow(rgba, extent=(-1, 1, 1, -1))
    inset.set_axis_off()
    inset.text(0, 1.2, f"{largest:.2g} {unit}", fontsize=7, ha="center", va="top")


def _picture(result: Picture, path: Path) -> Path:
    """An image with its own axes: a scale bar where they are lengths, numbered edges else."""
    unit, factor = _unit(result)
    values = result.values * factor
    figure, axes = plt.subplots(figsize=(4.6, 4.0))
    style = _limits(values, result.style)
    if result.logarithmic and np.isfinite(values).any() and np.nanmax(values) > 0:
        positive = values[np.isfinite(values) & (values > 0)]
        style = {"cmap": "inferno", "norm": LogNorm(max(positive.min(), positive.max() * 1e-6), positive.max() or 1.0)}
        values = np.where(np.isfinite(values), np.maximum(values, style["norm"].vmin), np.nan)
    axes.set_facecolor("0.8")
    y, x = result.axes
    if y.unit == x.unit == "m":
        artist = axes.imshow(values, aspect=abs(y.scale / x.scale), interpolation="nearest", **style)
        axes.set_xticks([])
        axes.set_yticks([])
        _scale_bar(axes, values.shape, abs(x.scale))
    else:
        name, scale = SHOWN.get(x.unit, (x.unit or "pixel", 1.0))
        artist = axes.imshow(values, extent=(*_edges(x, scale), *_edges(y, scale)[::-1]), interpolation="nearest", **style)
        axes.set(xlabel=f"{x.name} [{name}]", ylabel=f"{y.name} [{name}]")
    axes.set_title(result.title)
    figure.colorbar(artist, ax=axes, shrink=0.8, label=unit)
    return _save(figure, path)


def _edges(axis: Axis, factor: float) -> tuple[float, float]:
    """Outer edges of the first and last pixel."""
    return (axis.offset - 0.5 * axis.scale) * factor, (axis.offset + (axis.size - 0.5) * axis.scale) * factor


def _curve(result: Curve, path: Path) -> Path:
    unit, factor = SHOWN.get(result.axis.unit, (result.axis.unit or "channel", 1.0))
    figure, axes = plt.subplots(figsize=(6.0, 3.4))
    axes.plot(result.axis.values() * factor, result.values, lw=0.9, color="black", drawstyle="steps-mid")
    axes.set(title=result.title, xlabel=f"{result.axis.name or 'energy'} [{unit}]",
             ylabel=SHOWN.get(result.unit, (result.unit, 1.0))[0])
    seen = result.values[result.values > 0]
    if seen.size and seen.max() > 1e3 * np.median(seen):
        axes.set_yscale("log")
        axes.set_ylim(0.5 * seen.min(), 2 * seen.max())
    return _save(figure, path)
