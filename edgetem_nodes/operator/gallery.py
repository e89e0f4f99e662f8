"""A picture of every specimen of the virtual microscope, for a microscopist to judge: images, patterns, spectra, truth."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt  # noqa: E402  (the backend must be chosen first)
import numpy as np  # noqa: E402
from matplotlib.colors import LogNorm  # noqa: E402
from matplotlib.patches import Rectangle  # noqa: E402

from edgetem_nodes.graph.instrument import Instrument, simulation  # noqa: E402
from edgetem_nodes.graph.simulated_instrument import Simulated, Structure  # noqa: E402
from edgetem_nodes.operator.figures import STYLE, scale_bar  # noqa: E402
from edgetem_nodes.physics.energy_loss import Spectrometer  # noqa: E402
from edgetem_nodes.physics.exposure import Exposure  # noqa: E402
from edgetem_nodes.physics.scan import ScanField  # noqa: E402
from edgetem_nodes.physics.simulation import Simulation  # noqa: E402
from edgetem_nodes.physics.specimens import Condition  # noqa: E402

_SEED = 3
_POINTS = 256
"""Of an image, along an axis."""
_PATTERN_ELECTRONS = 1e7
"""In a diffraction pattern: enough to see its weak parts."""


@dataclass(frozen=True)
class Case:
    """A specimen and how it is looked at.

    `field_nm` : width of the overview; `detail_nm` : of the image at atomic resolution. `nanobeam_mrad`, `focused_mrad` :
    semi-convergence angles; `pattern_mrad` : half width of the patterns. `core_eV` : range of the core losses.
    `truth` : what is mapped beside the overview.
    """

    title: str
    specimen: str
    structure: Structure
    high_tension_kV: float
    field_nm: float
    detail_nm: float
    nanobeam_mrad: float
    focused_mrad: float
    pattern_mrad: float
    core_eV: tuple[float, float]
    truth: str
    strain_percent: float = 2.0


CASES = {
    "graphene": Case("graphene with a bilayer patch", "graphene", Structure(), 80.0, 40.0, 4.0, 2.0, 30.0, 48.0,
                     (250.0, 360.0), "domain"),
    "MoS2": Case("1H-MoS2, tungsten-rich domain, strained rim", "MoS2", Structure(), 80.0, 40.0, 4.0, 2.0, 30.0, 48.0,
                 (140.0, 300.0), "dilation"),
    "MoS2-grains": Case("1H-MoS2, grain boundaries, vanadium dopants", "MoS2",
                        Structure(grain_nm=12.0, dopant="V", dopant_percent=3.0), 80.0, 40.0, 6.0, 2.0, 30.0, 48.0,
                        (480.0, 620.0), "orientation", 0.0),
    "SrTiO3": Case("SrTiO3, 20 nm, [001]", "SrTiO3", Structure(thickness_nm=20.0), 200.0, 40.0, 3.0, 1.5, 20.0, 50.0,
                   (420.0, 620.0), "strain_xx", 1.0),
    "PbTiO3": Case("PbTiO3, 15 nm, ferroelectric domains", "PbTiO3", Structure(thickness_nm=15.0, domain_nm=10.0), 200.0,
                   60.0, 3.0, 1.5, 20.0, 50.0, (420.0, 620.0), "polarization_x", 1.0),
    "gold": Case("gold particles on amorphous carbon", "gold", Structure(film_nm=3.0), 200.0, 40.0, 6.0, 1.5, 20.0, 50.0,
                 (250.0, 420.0), "height"),
    "MnPS3": Case("MnPS3 flake with an edge plasmon", "MnPS3", Structure(thickness_nm=6.0), 100.0, 100.0, 5.0, 1.5, 25.0,
                  48.0, (580.0, 720.0), "edge_mode"),
    "MnPS3-control": Case("MnPS3 flake without an edge plasmon", "MnPS3", Structure(thickness_nm=6.0, edge_mode=False), 100.0,
                          100.0, 5.0, 1.5, 25.0, 48.0, (580.0, 720.0), "thickness"),
}
"""The pictures by name."""


def draw(name: str, folder: Path, quick: bool = False, say: Callable[[str], None] = lambda _: None) -> Path:
    """Draw one case into `folder`/NAME.png.

    Parameters
    ----------
    name : one of `CASES`. quick : coarser and with fewer phonon configurations. say : is told what is being computed.
    """
    case = CASES[name]
    with plt.rc_context(STYLE):
        figure, panels = plt.subplots(2, 4, figsize=(15, 7.4))
        figure.suptitle(f"{case.title}, {case.high_tension_kV:g} kV; patterns in logarithmic scale, {_PATTERN_ELECTRONS:.0e} electrons")
        nanobeam = simulation(_instrument(case, case.nanobeam_mrad, quick), _SEED)
        focused = simulation(_instrument(case, case.focused_mrad, quick), _SEED)
        field = nanobeam.settings.field
        places = _telling_places(nanobeam, case.truth)
        say("dark-field images")
        _dark_field(panels[0, 0], nanobeam, field, 2e-5, f"HAADF 60-200 mrad, probe {case.nanobeam_mrad:g} mrad")
        for number, place in enumerate(places):
            panels[0, 0].plot(place[1] / field.step[1], place[0] / field.step[0], "o", mfc="none", mec="orange", ms=7)
            panels[0, 0].annotate(f"{number + 1}", (place[1] / field.step[1] + 5, place[0] / field.step[0]), color="orange")
        _dark_field(panels[0, 1], focused, _around(places[0], case.detail_nm * 1e-9), 2e-5, f"HAADF 60-200 mrad, probe {case.focused_mrad:g} mrad, at 1")
        _truth(panels[1, 0], nanobeam, case.truth)
        say("diffraction")
        _pattern(panels[0, 2], nanobeam, places[0], "at 1")
        _pattern(panels[1, 1], nanobeam, places[1], "at 2")
        _pattern(panels[0, 3], focused, places[0], "at 1")
        say("energy losses")
        _spectra(panels[1, 2], focused, places, Spectrometer(-5.0, 0.1, 700, 0.4, 30e-3), "low loss", log=True)
        low, high = case.core_eV
        core = Spectrometer(low, (high - low) / 400, 400, 1.0, 30e-3)
        _spectra(panels[1, 3], focused, places, core, "core loss", log=False)
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / f"{name}.png"
        figure.savefig(path, dpi=110)
        plt.close(figure)
    return path


def _instrument(case: Case, mrad: float, quick: bool) -> Instrument:
    virtual = Simulated(specimen=case.specimen, field_nm=case.field_nm, rows=_POINTS, columns=_POINTS,
                        structure=case.structure, strain_percent=case.strain_percent, camera_pixels=128, pixel_mrad=case.pattern_mrad / 64)
    numerics = replace(virtual.numerics, phonon_configurations=2 if quick else 8)
    return Instrument(high_tension_kV=case.high_tension_kV, semi_convergence_mrad=mrad, probe_current_pA=50.0,
                      simulated=replace(virtual, numerics=numerics))


def _around(place: np.ndarray, width: float) -> ScanField:
    """A grid of `width` [m] around a place."""
    step = width / (_POINTS - 1)
    return ScanField(tuple(place - width / 2), (step, step), (_POINTS, _POINTS))


def _exposure(microscope: Simulation, positions: np.ndarray, dwell: float) -> Exposure:
    return Exposure(0, 0.0, positions, dwell, dwell, microscope.settings.optics)


def _dark_field(panel: plt.Axes, microscope: Simulation, field: ScanField, dwell: float, title: str) -> None:
    image = microscope.image(_exposure(microscope, field.positions(), dwell), field.shape)
    low, high = np.percentile(image, [0.2, 99.8])
    panel.imshow(image, cmap="gray", vmin=low, vmax=max(high, low + 1), interpolation="nearest")
    _bare(panel, title)
    scale_bar(panel, field)


def _truth(panel: plt.Axes, microscope: Simulation, quantity: str) -> None:
    unit, values = microscope.truth(quantity)
    factor, shown = (1e9, "nm") if unit == "m" else (1.0, unit)
    picture = panel.imshow(values * factor, cmap="viridis", interpolation="nearest")
    _bare(panel, f"truth: {quantity.replace('_', ' ')}")
    panel.figure.colorbar(picture, ax=panel, shrink=0.8, label=shown)
    scale_bar(panel, microscope.settings.field)


def _telling_places(microscope: Simulation, quantity: str) -> np.ndarray:
    """Two positions (2, 2), (y, x) [m], on material and off the border: where the truth is largest, where in the middle."""
    _, values = microscope.truth(quantity)
    inner = np.zeros(values.shape, bool)
    border = values.shape[0] // 10
    inner[border:-border, border:-border] = True
    layers = microscope.specimen.layers(microscope.settings.field.positions(), Condition())
    candidates = np.flatnonzero(inner.ravel() & (sum(layers.values()) > 0))
    order = candidates[np.argsort(values.ravel()[candidates], kind="stable")]
    return microscope.settings.field.positions(order[[int(0.995 * len(order)), len(order) // 2]])


def _pattern(panel: plt.Axes, microscope: Simulation, place: np.ndarray, title: str) -> None:
    expected = microscope.expected(_exposure(microscope, place[None], 1e-3), 0, 1)[0].astype(float)
    pattern = np.random.default_rng(_SEED).poisson(expected * _PATTERN_ELECTRONS)
    panel.imshow(np.maximum(pattern, 0.5), cmap="inferno", norm=LogNorm(0.5, pattern.max()), interpolation="nearest")
    camera, angle = microscope.settings.camera, microscope.settings.probe.semi_convergence_angle
    _bare(panel, f"CBED, {angle * 1e3:g} mrad, {title}")
    pixels = 20e-3 / camera.pixel_angle
    panel.add_patch(Rectangle((5, 119), pixels, 2.5, color="white"))
    panel.text(5 + pixels / 2, 117, "20 mrad", color="white", ha="center", va="bottom", fontsize=8)


def _spectra(panel: plt.Axes, microscope: Simulation, places: np.ndarray, spectrometer: Spectrometer, title: str,
             log: bool) -> None:
    losses = Simulation(replace(microscope.settings, detector="eels", spectrometer=spectrometer), _SEED)
    spectra = losses.expected(_exposure(microscope, places, 1e-3), 0, len(places))
    for number, spectrum in enumerate(spectra):
        panel.plot(spectrometer.energies, spectrum / spectrometer.dispersion_eV, lw=1, label=f"at {number + 1}",
                   ls=("-", "--")[number])
    panel.set_xlabel("energy loss (eV)")
    panel.set_ylabel("fraction of the beam per eV")
    panel.set_title(f"EELS, {title}")
    panel.legend(fontsize=7, frameon=False)
    if log:
        panel.set_yscale("log")
        panel.set_ylim(1e-6, None)


def _bare(panel: plt.Axes, title: str) -> None:
    panel.set_title(title)
    panel.set_xticks([])
    panel.set_yticks([])
