"""Pictures of an energy map: beside the truth, its course, structures, energies of both levels."""

from __future__ import annotations

from pathlib import Path

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt  # noqa: E402  (the backend must be chosen first)
import numpy as np  # noqa: E402
from matplotlib.lines import Line2D  # noqa: E402
from matplotlib.patches import Polygon  # noqa: E402

from edgetem_nodes.operator.energetics.evaluation import REGIONS, EnergyEvaluation, SiteEnergies  # noqa: E402
from edgetem_nodes.operator.energetics.site_table import SiteRecord  # noqa: E402
from edgetem_nodes.operator.figures import STYLE, save, scale_bar  # noqa: E402
from edgetem_nodes.physics.scan import ScanField  # noqa: E402

UNIT = "eV/nm²"
COLOURS = {"C": "#444444", "N": "#2b6cb0", "Si": "#d69e2e", "B": "#dd8888", "Mo": "#2c7a7b", "S": "#d6b52e"}
FURTHER = "#805ad5"
"""Of other elements."""
BONDED = 1.2
"""Times the sum of the covalent radii: atoms nearer than this are joined by a line."""
REGION_COLOURS = ("tab:red", "tab:blue", "0.5")


def maps(field: ScanField, mean: np.ndarray, deviation: np.ndarray, candidates: np.ndarray, path: Path,
         evaluation: EnergyEvaluation | None) -> Path:
    """The map with its sites and its standard deviation; beside them the truth and what the map is off, where it is known."""
    rows, columns = np.divmod(candidates, field.shape[1])
    true = None if evaluation is None else evaluation.true
    high = max(mean.max(), mean.max() if true is None else true.max())
    low = min(0.0, mean.min())
    with plt.rc_context(STYLE):
        figure, panels = plt.subplots(1 if true is None else 2, 2, figsize=(9.2, 4.2 if true is None else 8.2), squeeze=False)
        _panel(panels[0, 0], mean, field, "Excess energy density, predicted", vmin=low, vmax=high)
        panels[0, 0].scatter(columns, rows, s=9, facecolors="none", edgecolors="white", linewidths=0.8)
        _panel(panels[0, 1], deviation, field, "Its standard deviation", cmap="magma", vmin=0.0)
        if true is not None:
            title = f"From the true atoms (discs of {evaluation.radius * 1e9:.2g} nm)"
            _panel(panels[1, 0], true, field, title, vmin=low, vmax=high)
            off = mean - true
            reach = np.abs(off).max()
            _panel(panels[1, 1], off, field, "Predicted less true", cmap="RdBu_r", vmin=-reach, vmax=reach)
            for number, colour in ((0, "black"), (1, "tab:green")):
                if (evaluation.regions == number).any() and not (evaluation.regions == number).all():
                    panels[1, 1].contour(evaluation.regions == number, [0.5], colors=[colour], linewidths=0.8)
            panels[1, 1].legend(handles=[Line2D([], [], color="black", label="rich in defects"),
                                         Line2D([], [], color="tab:green", label="rich in strain")],
                                fontsize=7, loc="upper right")
        return save(figure, path)


def course(evaluation: EnergyEvaluation | None, points: list[int], deviations: np.ndarray, target: float, path: Path) -> Path:
    """Mean and largest standard deviation (n, 2) of the maps against their sites, with the true error where it is known."""
    with plt.rc_context(STYLE):
        figure, axes = plt.subplots(figsize=(5.6, 4.0))
        axes.plot(points, deviations[:, 1], "o-", ms=3, label="largest standard deviation")
        axes.plot(points, deviations[:, 0], "o-", ms=3, label="mean standard deviation")
        if evaluation is not None:
            axes.plot([step.points for step in evaluation.course], [step.error for step in evaluation.course], "s--", ms=3,
                      color="black", label="RMS error against the truth")
        if target:
            axes.axhline(target, color="tab:red", lw=1, ls=":", label="target")
        axes.set(xlabel="sites", ylabel=UNIT, title="Uncertainty of the energy map", ylim=(0, None))
        axes.legend(frameon=False)
        return save(figure, path)


def sites_against_truth(evaluation: EnergyEvaluation, sites: SiteEnergies, true: np.ndarray, regions: np.ndarray,
                        path: Path) -> Path:
    """Energy of each site against the truth in its footprint, coloured by region (sites,)."""
    with plt.rc_context(STYLE):
        figure, axes = plt.subplots(figsize=(4.8, 4.4))
        for number, colour in enumerate(REGION_COLOURS):
            chosen = regions == number
            if chosen.any():
                axes.errorbar(true[chosen], sites.densities[chosen], np.nan_to_num(sites.errors[chosen]), fmt="o", ms=3.5,
                              lw=0.8, color=colour,
                              label={"rest": "elsewhere"}.get(REGIONS[number], f"rich in {REGIONS[number]}"))
        ends = [min(0.0, true.min(), sites.densities.min()), max(true.max(), sites.densities.max())]
        axes.plot(ends, ends, color="black", lw=0.8)
        axes.set(xlabel=f"truth in the cell [{UNIT}]", ylabel=f"computed [{UNIT}]",
                 title=f"Sites, correlation {evaluation.site_correlation:.3f}")
        axes.legend(frameon=False)
        return save(figure, path)


def two_levels(records: list[SiteRecord], path: Path) -> Path:
    """Both levels at the sites that have them, and what the better one changes."""
    chosen = [record for record in records if record.low and record.high]
    low, high = (np.array([getattr(record, name) for record in chosen]) for name in ("low", "high"))
    with plt.rc_context(STYLE):
        figure, (left, right) = plt.subplots(1, 2, figsize=(8.6, 3.6))
        place = np.arange(len(chosen))
        for shift, values, label in ((-0.2, low, "at every site"), (0.2, high, "better level")):
            left.bar(place + shift, values[:, 0], 0.4, yerr=np.nan_to_num(values[:, 1]), capsize=2, label=label)
        left.set(ylabel=UNIT, title="Energies of both levels", xticks=place, xticklabels=[str(r.candidate) for r in chosen],
                 xlabel="position")
        left.legend(frameon=False)
        right.axhline(0, color="black", lw=0.8)
        right.plot(low[:, 0], high[:, 0] - low[:, 0], "o", ms=5)
        right.set(xlabel=f"energy at every site's level [{UNIT}]", ylabel=f"better level less that [{UNIT}]",
                  title="Correction")
        return save(figure, path)


def structures(records: list[SiteRecord], columns: int, path: Path) -> Path:
    """Cells of sites as the engine got them, seen along the beam; rings mark vacancies and foreign atoms."""
    with plt.rc_context(STYLE):
        figure, panels = plt.subplots(1, len(records), figsize=(3.6 * len(records), 3.9), squeeze=False)
        for panel, record in zip(panels[0], records, strict=True):
            _cell(panel, record.structure)
            line, column = divmod(record.candidate, columns)
            energy = "" if record.low is None else f", {record.low[0]:.2f} {UNIT}"
            panel.set_title(f"row {line}, column {column}{energy}", fontsize=8)
        return save(figure, path)


def _cell(panel: plt.Axes, structure: object) -> None:
    from ase.data import chemical_symbols, covalent_radii

    numbers = np.frombuffer(bytes(structure.atomic_numbers), np.uint8).astype(int)
    places = np.asarray(structure.positions).reshape(-1, 3)[:, :2] * 1e9
    cell = np.asarray(structure.cell).reshape(3, 3)[:2, :2] * 1e9
    corners = np.array([0 * cell[0], cell[0], cell[0] + cell[1], cell[1]])
    panel.add_patch(Polygon(corners, closed=True, fill=False, ec="0.7", lw=1))
    for i, place in enumerate(places):
        near = np.linalg.norm(places - place, axis=1)
        for j in np.flatnonzero(near < BONDED * (covalent_radii[numbers] + covalent_radii[numbers[i]]) * 0.1):
            if j > i:
                panel.plot(*zip(place, places[j], strict=True), color="0.6", lw=1.2, zorder=1)
    for number in np.unique(numbers):
        chosen = places[numbers == number]
        symbol = chemical_symbols[number]
        panel.scatter(chosen[:, 0], chosen[:, 1], s=34, color=COLOURS.get(symbol, FURTHER), zorder=2, label=symbol)
    defects = np.asarray(structure.defect_positions).reshape(-1, 3)[:, :2] * 1e9
    for place, name, probability in zip(defects, structure.defects, structure.defect_probabilities, strict=True):
        panel.scatter(*place, s=110, facecolors="none", edgecolors="tab:red", lw=1.3, ls="-" if probability >= 0.5 else ":",
                      zorder=3)
        panel.annotate(f"{name} {probability:.2f}", place, xytext=(5, 5), textcoords="offset points", fontsize=6,
                       color="tab:red")
    panel.set(aspect="equal", xlabel="x [nm]", ylabel="y [nm]")
    panel.invert_yaxis()
    panel.legend(fontsize=6, loc="lower left")


def _panel(axes: plt.Axes, data: np.ndarray, field: ScanField, title: str, **style: object) -> None:
    picture = axes.imshow(data, aspect=field.step[0] / field.step[1], interpolation="nearest", **style)
    axes.set(title=title, xticks=[], yticks=[])
    axes.figure.colorbar(picture, ax=axes, shrink=0.8, label=UNIT)
    scale_bar(axes, field)
