"""Features of spectra: edges, plasmon, thickness, elements, and the summed spectrum."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any, ClassVar

import numpy as np

from edgetem_nodes.featurizer.features import ELECTRONVOLT
from edgetem_nodes.featurizer.spectroscopy.edges import edge_signal
from edgetem_nodes.featurizer.spectroscopy.element_windows import ElementWindows
from edgetem_nodes.featurizer.spectroscopy.plasmon import PlasmonFit
from edgetem_nodes.featurizer.spectroscopy.thickness import LogRatio, elastic_end
from edgetem_nodes.operator.processing.feature import Feature
from edgetem_nodes.operator.processing.results import Curve, FeatureRefused, Result, ScanMap
from edgetem_nodes.operator.processing.zero_loss import ZeroLossAxis, spikes_in, without_spikes

SAMPLE = 256
"""Spectra that tell where the zero loss lies and ends."""


class Spectrum(Feature):
    """All counts of every spectrum, and the mean spectrum."""

    name, summary = "spectrum", "all counts; the mean spectrum"
    signals: ClassVar[tuple[int, ...]] = (1,)

    def finish(self) -> list[Result]:
        shared, noise = self.context.fused, self.context.noise
        mean = shared.spectrum / shared.count
        errors = np.sqrt(noise.variance(shared.spectrum, shared.count)) / shared.count
        return [ScanMap("spectrum_total", shared.total, "count", np.sqrt(noise.variance(shared.total, len(mean))),
                        title="All counts"),
                Curve("mean_spectrum", mean, self.context.source.axes[0], "count", f"Mean of {shared.count} spectra", errors)]


class _Spectral(Feature):
    """What is computed of each spectrum alone: columns of values and errors."""

    signals: ClassVar[tuple[int, ...]] = (1,)
    reads: ClassVar[bool] = True

    @property
    def energies(self) -> np.ndarray:
        """(channels,) [eV].

        Raises
        ------
        FeatureRefused : the energy axis is not calibrated.
        """
        axis = self.context.source.axes[0]
        if axis.unit != "J":
            raise FeatureRefused(f"{self.name} needs an energy axis; that of {self.context.source.path.name} is not calibrated")
        return axis.values() / ELECTRONVOLT

    def window(self, key: str) -> list[float]:
        """A setting of two energies.

        Raises
        ------
        FeatureRefused : it is missing; names the option.
        """
        value = self.values[key]
        if not isinstance(value, list) or len(value) != 2:
            raise FeatureRefused(f"{self.name} needs two energies [eV]: state them with --set "
                                 f"'{self.name}.{key}=[FIRST, LAST]'")
        return [float(edge) for edge in value]

    def prepare(self) -> None:
        self.collected: list[tuple[np.ndarray, np.ndarray, np.ndarray, list[str]]] = []
        self.begin()

    @abstractmethod
    def begin(self) -> None:
        """Check the settings against the axis."""

    @abstractmethod
    def columns(self, spectra: np.ndarray) -> tuple[np.ndarray, np.ndarray, list[str]]:
        """Values and standard errors (rows, columns), and why a row has none."""

    def add(self, places: np.ndarray, frames: np.ndarray) -> None:
        self.collected.append((places, *self.columns(frames)))

    def scattered(self) -> tuple[np.ndarray, np.ndarray]:
        """Values and errors (places, columns); failures noted.

        Raises
        ------
        FeatureRefused : there was no spectrum.
        """
        if not self.collected:
            raise FeatureRefused(f"{self.name}: no spectrum was sound")
        places, values, errors = (np.concatenate([row[k] for row in self.collected]) for k in range(3))
        self.note_failures(places, [failure for row in self.collected for failure in row[3]])
        return self.context.source.scattered(places, values), self.context.source.scattered(places, errors)


class _Loss(_Spectral):
    """Energy loss: spectra are first moved to their own zero loss, where the axis holds one; spikes go where that is asked."""

    SHARED: ClassVar[dict[str, Any]] = {"zero_loss_eV": 5.0, "remove_spikes": False}
    axis: ZeroLossAxis | None = None

    @property
    def energies(self) -> np.ndarray:
        """(channels,) [eV] of moved spectra, or of the file's where they are not moved."""
        return super().energies if self.axis is None else self.axis.energies

    def prepare(self) -> None:
        noise, self._spikes, self._clean = self.context.noise, 0, None
        self.sample = self.context.sample(SAMPLE)
        reach = float(self.values["zero_loss_eV"])
        file_energies = super().energies
        if reach > 0 and file_energies[0] < 0 < file_energies[-1]:
            try:
                self.axis = ZeroLossAxis(self.sample, file_energies, reach, noise)
                self.sample = self.moved(self.sample)
                self._note(self.axis.line())
            except ValueError as error:
                self._note(f"spectra are not aligned: {error}; state --set {self.name}.zero_loss_eV=EV if it lies farther off")
        if self.values["remove_spikes"]:
            self._clean = without_spikes(self.sample, self.energies, noise, self.context.source.places)
        super().prepare()
        self._report_spikes()

    def moved(self, spectra: np.ndarray) -> np.ndarray:
        """Spectra that have a zero loss, moved."""
        moved, failures = self.axis(spectra)
        return moved[[not failure for failure in failures]]

    def _note(self, note: str) -> None:
        notes = self.context.calibration.notes
        if note not in notes:
            notes.append(note)

    def _report_spikes(self) -> None:
        """That spikes are there is said where they are kept: they change fits.

        Raises
        ------
        ValueError : they are to be replaced and cannot be told from noise.
        """
        try:
            count = spikes_in(self.sample, self.energies, self.context.noise)
        except ValueError:
            if self._clean is not None:
                raise
            return
        if count and self._clean is None:
            self._note(f"{count} channels of {len(self.sample)} spectra of the sample have spikes (X-rays, cosmic rays): --set "
                       "FEATURE.remove_spikes=true replaces them")

    def add(self, places: np.ndarray, frames: np.ndarray) -> None:
        spectra, failures = (frames, [""] * len(frames)) if self.axis is None else self.axis(frames)
        if self._clean is not None:
            spectra, count = self._clean(spectra)
            self._spikes += count
        values, errors, own = self.columns(spectra)
        lost = np.array([bool(failure) for failure in failures], bool)
        values[lost], errors[lost] = np.nan, np.nan
        self.collected.append((places, values, errors, [a or b for a, b in zip(failures, own, strict=True)]))

    def scattered(self) -> tuple[np.ndarray, np.ndarray]:
        """As of any spectra; says how many channels had spikes."""
        if self._clean is not None:
            self._note(f"{self.name}: spikes were replaced in {self._spikes} channels of all spectra")
        return super().scattered()


class Edge(_Loss):
    """Net signal of a core-loss edge."""

    name, summary = "edge", "net signal of a core-loss edge above a power-law background"
    settings: ClassVar[dict[str, Any]] = {"background_eV": [], "signal_eV": [], **_Loss.SHARED}

    def begin(self) -> None:
        self._windows = self.window("background_eV"), self.window("signal_eV")
        edge_signal(np.zeros((0, len(self.energies)), np.float32), self.energies, *self._windows, self.context.noise)

    def columns(self, spectra: np.ndarray) -> tuple[np.ndarray, np.ndarray, list[str]]:
        found = edge_signal(spectra, self.energies, *self._windows, self.context.noise)
        return (np.stack([found.counts, found.background, found.exponent, found.chi_square], 1),
                np.stack([found.standard_errors, *[np.full(len(spectra), np.nan)] * 3], 1), found.failures)

    def finish(self) -> list[Result]:
        values, errors = self.scattered()
        first, last = self._windows[1]
        return [ScanMap("edge", values[:, 0], "count", errors[:, 0], title=f"Net signal, {first:g} to {last:g} eV"),
                ScanMap("edge_background", values[:, 1], "count", title="Background under the edge"),
                ScanMap("edge_exponent", values[:, 2], "", title="Exponent of the power law"),
                ScanMap("edge_chi_square", values[:, 3], "", title="Reduced chi-square of the background")]


class Plasmon(_Loss):
    """Bulk plasmon: energy, width, losses an electron."""

    name, summary = "plasmon", "energy, width and strength of the bulk plasmon, with plural scattering"
    settings: ClassVar[dict[str, Any]] = {"window_eV": [], "split_eV": 0.0, "model": "drude", "plural": True,
                                          **_Loss.SHARED}

    def begin(self) -> None:
        window = self.window("window_eV")
        split = float(self.values["split_eV"]) or zero_loss_end(self)
        self._fit = PlasmonFit(self.energies, window, split, model=str(self.values["model"]),
                               plural=bool(self.values["plural"]), noise=self.context.noise)

    def columns(self, spectra: np.ndarray) -> tuple[np.ndarray, np.ndarray, list[str]]:
        found = self._fit(spectra)
        return (np.stack([found.energy * ELECTRONVOLT, found.width * ELECTRONVOLT, found.losses, found.chi_square], 1),
                np.stack([found.energy_error * ELECTRONVOLT, found.width_error * ELECTRONVOLT, found.losses_error,
                          np.full(len(spectra), np.nan)], 1), found.failures)

    def finish(self) -> list[Result]:
        values, errors = self.scattered()
        return [ScanMap("plasmon_energy", values[:, 0], "J", errors[:, 0], title="Plasmon energy"),
                ScanMap("plasmon_width", values[:, 1], "J", errors[:, 1], title="Plasmon width"),
                ScanMap("plasmon_losses", values[:, 2], "", errors[:, 2], title="Plasmon losses an electron"),
                ScanMap("plasmon_chi_square", values[:, 3], "", title="Reduced chi-square of the plasmon")]


def zero_loss_end(feature: _Loss) -> float:
    """Energy [eV] at which the zero loss ends, from a sample of spectra.

    Raises
    ------
    FeatureRefused : it cannot be told; names the option.
    """
    try:
        return elastic_end(feature.sample, feature.energies)
    except ValueError as error:
        raise FeatureRefused(f"{feature.name}: {error}: --set {feature.name}.split_eV=EV") from None


class RelativeThickness(_Loss):
    """Thickness over the inelastic mean free path."""

    name, summary = "thickness", "thickness over the inelastic mean free path, by the log-ratio"
    settings: ClassVar[dict[str, Any]] = {"split_eV": 0.0, **_Loss.SHARED}

    def begin(self) -> None:
        self._ratio = LogRatio(self.energies, float(self.values["split_eV"]) or zero_loss_end(self), self.context.noise)

    def columns(self, spectra: np.ndarray) -> tuple[np.ndarray, np.ndarray, list[str]]:
        found = self._ratio(spectra)
        return found.mean_free_paths[:, None], found.standard_errors[:, None], found.failures

    def finish(self) -> list[Result]:
        values, errors = self.scattered()
        return [ScanMap("thickness", values[:, 0], "", errors[:, 0], title="Thickness over mean free path")]


class Elements(_Spectral):
    """Net counts of X-ray lines."""

    name, summary = "elements", "net counts of X-ray lines"
    settings: ClassVar[dict[str, Any]] = {"lines": [], "resolution_eV": 130.0, "widths": 2.0, "present": [], "background": True}

    def begin(self) -> None:
        lines = self.values["lines"]
        lines = [lines] if isinstance(lines, str) else list(lines)
        if not lines:
            raise FeatureRefused("elements needs X-ray lines: state them with --set 'elements.lines=[Fe_Ka, Pt_La]'")
        self._lines = tuple(map(str, lines))
        self._windows = ElementWindows(
            list(self._lines), self.energies, resolution=float(self.values["resolution_eV"]),
            widths=float(self.values["widths"]), present=tuple(self.values["present"]),
            background=bool(self.values["background"]), noise=self.context.noise)

    def columns(self, spectra: np.ndarray) -> tuple[np.ndarray, np.ndarray, list[str]]:
        found = self._windows(spectra)
        parts = [found[line] for line in self._lines]
        failures = ["; ".join(filter(None, dict.fromkeys(row))) for row in zip(*(p.failures for p in parts), strict=True)]
        return np.stack([p.counts for p in parts], 1), np.stack([p.standard_errors for p in parts], 1), failures

    def finish(self) -> list[Result]:
        values, errors = self.scattered()
        return [ScanMap(f"element_{line}", values[:, k], "count", errors[:, k], title=f"Net counts of {line.replace('_', ' ')}")
                for k, line in enumerate(self._lines)]
