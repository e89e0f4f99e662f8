"""Fits the bulk plasmon of low-loss spectra, with plural scattering: energy, width, number of losses an electron."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from edgetem_nodes.featurizer.features import ELECTRONVOLT, CountingNoise, channels, mark
from edgetem_nodes.featurizer.spectroscopy.axes import energy_axis, rows_of
from edgetem_nodes.featurizer.spectroscopy.zero_loss import no_zero_loss

MODELS = ("drude", "lorentzian", "gaussian")
WEAKEST = 3.0
"""Losses over their standard error; below, there is no plasmon to speak of."""
STEPS = 40
CONVERGED = 1e-4
"""Expected fall of chi-square that ends the fit: what is left to go is a hundredth of the standard errors."""
DIFFERENCE = 1e-6
"""Relative step of derivatives."""


@dataclass(frozen=True)
class Plasmon:
    """Plasmon of every spectrum; arrays (rows,), NaN where it failed.

    Attributes
    ----------
    energy, width : E_p and full width of the model [eV]. For "drude" the maximum lies at sqrt(E_p^2 - width^2 / 4).
    losses : mean number of plasmon losses an electron, thickness over the plasmon's mean free path.
    energy_error, width_error, losses_error : standard errors from counting noise.
    chi_square : reduced; far above 1 where the specimen has other losses than the model's.
    failures : why there is none; empty where there is.
    """

    energy: np.ndarray
    width: np.ndarray
    losses: np.ndarray
    energy_error: np.ndarray
    width_error: np.ndarray
    losses_error: np.ndarray
    chi_square: np.ndarray
    failures: list[str]


class PlasmonFit:
    """Fits spectra by their own zero-loss peak and losses that follow one another independently.

    The Fourier transform of a spectrum is that of its zero-loss peak times exp(s), s that of the single loss (Egerton, EELS in
    the Electron Microscope (2011), 4.1.1). Single losses: "drude", the loss function of free electrons,
    E width E_p^2 / ((E^2 - E_p^2)^2 + (E width)^2) (ibid., 3.3.1); a "lorentzian", or a "gaussian" of full width `width`. The
    losses' angular factor, which changes little over a peak, is left out, as are surface losses. Minimum chi-square by
    Levenberg-Marquardt steps, the weights from the fitted counts.

    Parameters
    ----------
    energies : (channels,) [eV], from below zero. window_eV : first and last energy that is fitted. split_eV : where the
        zero loss ends. model : one of `MODELS`. plural : False fits a single loss, for specimens far thinner than a mean free
        path.

    Raises
    ------
    ValueError : the axis or the windows do not fit, or the model is not known.
    """

    def __init__(self, energies: np.ndarray, window_eV: list[float], split_eV: float, *, model: str = "drude",
                 plural: bool = True, noise: CountingNoise | None = None) -> None:
        from scipy.fft import next_fast_len

        if model not in MODELS:
            raise ValueError(f"plasmon model {model!r} is not one of {', '.join(MODELS)}")
        self.energies, self.model, self.plural = np.asarray(energies, float), model, plural
        self.noise = noise or CountingNoise()
        axis = energy_axis(self.energies)
        self.step = axis.scale / ELECTRONVOLT
        if self.step <= 0 or not self.energies[0] < 0 < split_eV:
            raise ValueError(f"the energy axis, {self.energies[0]:g} to {self.energies[-1]:g} eV, must rise from below zero, "
                             f"and the zero loss end above it, not at {split_eV:g} eV")
        self.window = channels(self.energies, list(window_eV), 8, "plasmon.window_eV")
        if window_eV[0] < split_eV:
            raise ValueError(f"the plasmon's window begins at {window_eV[0]:g} eV, below the end of the zero loss at "
                             f"{split_eV:g} eV")
        self.elastic, self._end = np.flatnonzero(self.energies < split_eV), float(split_eV)
        reach = int(np.ceil(3 * window_eV[1] / self.step))
        self.points = next_fast_len(len(self.energies) + reach, real=True)
        # channel of no loss, and the losses of the grid
        self._origin = -self.energies[0] / self.step
        self._losses = self.step * np.arange(self.points)

    def __call__(self, spectra: np.ndarray) -> Plasmon:
        """Of spectra (rows, channels). Rows do not influence each other."""
        spectra = rows_of(spectra, len(self.energies))
        used = np.concatenate([self.elastic, self.window])
        failures = self.noise.failures(np.take(spectra, used, axis=1))
        usable = np.array([not failure for failure in failures], bool)
        counts = np.where(usable[:, None], np.nan_to_num(spectra), 0).astype(float)
        mark(failures, ~(counts[:, self.elastic].sum(axis=1) > 0), "there are no counts in the zero loss")
        mark(failures, no_zero_loss(counts, self.energies, self._end, self.noise.counts_per_electron,
                                    self.noise.readout_noise),
             f"there is no zero-loss peak within {self._end:g} eV of no loss")
        mark(failures, ~(counts[:, self.window].sum(axis=1) > 0), "there are no counts in the plasmon's window")
        values, errors = np.full((len(spectra), 3), np.nan), np.full((len(spectra), 3), np.nan)
        chi_square = np.full(len(spectra), np.nan)
        for row in np.flatnonzero([not failure for failure in failures]):
            # one at a time: so that the rounding of a row, and its last step, do not depend on its companions
            one = slice(row, row + 1)
            values[one], errors[one], chi_square[one], (failures[row],) = self._fit(counts[one])
        bad = np.array([bool(failure) for failure in failures], bool)
        values[bad], errors[bad], chi_square[bad] = np.nan, np.nan, np.nan
        return Plasmon(*values.T, *errors.T, chi_square, failures)

    def expected(self, spectra: np.ndarray, plasmon: Plasmon) -> np.ndarray:
        """Fitted counts (rows, channels) of the window, for a picture; NaN where the fit failed."""
        counts = np.nan_to_num(rows_of(spectra, len(self.energies))).astype(float)
        parameters = np.stack([plasmon.energy, plasmon.width, plasmon.losses], axis=1)
        known = np.isfinite(parameters).all(axis=1)
        result = np.full((len(counts), len(self.window)), np.nan)
        if known.any():
            result[known] = self._model(parameters[known], self._zero_loss(counts[known]))
        return result

    def single_loss(self, energy: np.ndarray, width: np.ndarray) -> np.ndarray:
        """Probability (rows, points) of a single loss in each channel of the grid; sums to 1."""
        e, p, w = self._losses, energy[:, None], width[:, None]
        if self.model == "drude":
            shape = e * w * p**2 / ((e**2 - p**2)**2 + (e * w)**2)
        elif self.model == "lorentzian":
            shape = np.where(e > 0, 1 / ((e - p)**2 + w**2 / 4), 0)
        else:
            shape = np.where(e > 0, np.exp(-4 * np.log(2) * ((e - p) / w)**2), 0)
        return shape / shape.sum(axis=1, keepdims=True)

    def _zero_loss(self, counts: np.ndarray) -> np.ndarray:
        """Transform (rows, frequencies) of the zero-loss peaks, moved so that no loss is at the grid's first point."""
        peak = np.zeros((len(counts), self.points))
        peak[:, self.elastic] = counts[:, self.elastic]
        phase = 2j * np.pi * np.fft.rfftfreq(self.points) * self._origin
        return np.fft.rfft(peak, axis=1) * np.exp(phase)

    def _model(self, parameters: np.ndarray, zero_loss: np.ndarray) -> np.ndarray:
        """Counts (rows, window) expected of parameters (rows, 3): energy, width, losses."""
        single = parameters[:, 2:] * np.fft.rfft(self.single_loss(parameters[:, 0], parameters[:, 1]), axis=1)
        phase = np.exp(-2j * np.pi * np.fft.rfftfreq(self.points) * self._origin)
        transform = zero_loss * phase * (np.expm1(single) if self.plural else single)
        return np.fft.irfft(transform, self.points, axis=1)[:, self.window]

    def _start(self, counts: np.ndarray) -> np.ndarray:
        """First guess (rows, 3): the highest channel of the window, a third of its energy, the log-ratio."""
        inside = counts[:, self.window]
        kernel = max(1, min(9, len(self.window) // 8))
        smooth = np.stack([np.convolve(row, np.ones(kernel) / kernel, mode="same") for row in inside])
        energy = self.energies[self.window[smooth.argmax(axis=1)]]
        elastic = np.ascontiguousarray(counts[:, self.elastic]).sum(axis=1)
        losses = np.log1p(inside.sum(axis=1) / elastic)
        return np.stack([energy, np.maximum(energy / 3, 2 * self.step), np.clip(losses, 1e-3, 5.0)], axis=1)

    def _fit(self, counts: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, list[str]]:
        """Parameters and errors (rows, 3), reduced chi-square and reasons (rows,)."""
        zero_loss, data = self._zero_loss(counts), counts[:, self.window]
        parameters = self._start(counts)
        damping, done = np.full(len(counts), 1e-2), np.zeros(len(counts), bool)
        model = self._model(parameters, zero_loss)
        weight = 1 / self.noise.variance(np.maximum(model, 0))
        misfit = (weight * (data - model)**2).sum(axis=1)
        for _ in range(STEPS):
            normal, right = self._normal(parameters, zero_loss, model, data, weight)
            diagonal = np.einsum("rii->ri", normal)
            scale = np.sqrt(np.maximum(diagonal, 1e-300))
            newton = np.linalg.pinv(normal / scale[:, :, None] / scale[:, None], hermitian=True)
            done |= np.einsum("ri,rij,rj->r", right / scale, newton, right / scale) < CONVERGED
            if done.all():
                break
            damped = normal + np.eye(3) * (damping[:, None] * diagonal + 1e-300)[:, None]
            step = np.linalg.solve(damped, right[..., None])[..., 0]
            trial = parameters * np.exp(np.clip(step, -0.5, 0.5))
            trial_model = self._model(trial, zero_loss)
            trial_misfit = (weight * (data - trial_model)**2).sum(axis=1)
            better = (trial_misfit <= misfit) & ~done
            parameters = np.where(better[:, None], trial, parameters)
            model = np.where(better[:, None], trial_model, model)
            damping = np.where(better, damping / 5, damping * 4)
            # the weights follow the fit, so that fluctuations do not weigh themselves
            weight = np.where(better[:, None], 1 / self.noise.variance(np.maximum(model, 0)), weight)
            misfit = (weight * (data - model)**2).sum(axis=1)
        weight = 1 / self.noise.variance(np.maximum(model, 0))
        misfit = (weight * (data - model)**2).sum(axis=1)
        normal, pull = self._normal(parameters, zero_loss, model, 2 * model, weight)
        scale = np.sqrt(np.maximum(np.einsum("rii->ri", normal), 1e-300))
        scales = scale[:, :, None] * scale[:, None]
        inverse = np.linalg.pinv(normal / scales, hermitian=True) / scales
        # the zero loss, to which the model is proportional, is as noisy as its counts
        elastic = np.ascontiguousarray(counts[:, self.elastic]).sum(axis=1)
        shared = np.einsum("rij,rj->ri", inverse, pull)**2
        doubt = self.noise.variance(elastic, len(self.elastic)) / elastic**2
        relative = np.einsum("rii->ri", inverse) + shared * doubt[:, None]
        return (parameters, parameters * np.sqrt(np.maximum(relative, 0)), misfit / max(len(self.window) - 3, 1),
                self._reasons(parameters, relative, done))

    def _normal(self, parameters: np.ndarray, zero_loss: np.ndarray, model: np.ndarray, data: np.ndarray,
                weight: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Normal matrix (rows, 3, 3) and right side (rows, 3) for steps in the logarithms of the parameters."""
        jacobian = np.empty((*model.shape, 3))
        for which in range(3):
            moved = parameters.copy()
            moved[:, which] *= 1 + DIFFERENCE
            jacobian[:, :, which] = (self._model(moved, zero_loss) - model) / DIFFERENCE
        return (np.einsum("rci,rc,rcj->rij", jacobian, weight, jacobian),
                np.einsum("rci,rc,rc->ri", jacobian, weight, data - model))

    def _reasons(self, parameters: np.ndarray, relative: np.ndarray, done: np.ndarray) -> list[str]:
        reasons = [""] * len(parameters)
        first, last = self.energies[self.window[[0, -1]]]
        mark(reasons, ~done, "the fit of the plasmon did not converge")
        mark(reasons, ~((parameters[:, 0] > first) & (parameters[:, 0] < last)),
             f"the plasmon's energy lies outside its window, {first:g} to {last:g} eV")
        mark(reasons, ~(relative[:, 0] < 0.25), "the plasmon does not stand out: its energy is uncertain by more than half")
        mark(reasons, ~(relative[:, 2] < 1 / WEAKEST**2), f"the plasmon is less than {WEAKEST:g} standard errors strong")
        return reasons

