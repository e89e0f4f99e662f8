"""Scalarizers of low-loss spectra: the bulk plasmon, and the thickness. Rows are fitted as in the classes of this package."""

from __future__ import annotations

import numpy as np

from edgetem_nodes.featurizer.features import CountingNoise, Features, energy_axis, finished
from edgetem_nodes.featurizer.parameters import EelsPlasmon, EelsThickness
from edgetem_nodes.featurizer.spectroscopy.plasmon import PlasmonFit
from edgetem_nodes.featurizer.spectroscopy.thickness import LogRatio
from edgetem_nodes.physics.scan import Axis

_PLASMON = {"energy": ("plasmon_energy", "eV"), "width": ("plasmon_width", "eV"), "losses": ("plasmon_losses", "")}


class EelsPlasmonScalarizer:
    """Energy, width and mean number of losses of the bulk plasmon, the chosen one first; reduced chi-square.

    Marked failures: values not finite or saturated, no counts, no convergence, an energy outside the window or uncertain by
    more than half, losses below three standard errors.
    """

    def __init__(self, settings: EelsPlasmon, noise: CountingNoise, axes: tuple[Axis, ...]) -> None:
        energies = energy_axis(axes, "eels_plasmon")
        self._fit = PlasmonFit(energies, settings.window_eV, settings.zero_loss_end_eV, model=settings.model,
                               plural=settings.plural_scattering, noise=noise)
        order = [settings.quantity, *(name for name in _PLASMON if name != settings.quantity)]
        self._order = [list(_PLASMON).index(name) for name in order]
        self._freedom = max(len(self._fit.window) - 3, 1)
        self.names = (*(_PLASMON[name][0] for name in order), "plasmon_chi_square")
        self.units = (*(_PLASMON[name][1] for name in order), "")

    def __call__(self, frames: np.ndarray) -> Features:
        plasmon = self._fit(frames)
        values = np.stack([plasmon.energy, plasmon.width, plasmon.losses], axis=1)[:, self._order]
        errors = np.stack([plasmon.energy_error, plasmon.width_error, plasmon.losses_error], axis=1)[:, self._order]
        return finished(np.column_stack([values, plasmon.chi_square]),
                        np.column_stack([errors**2, np.full(len(values), 2.0 / self._freedom)]), plasmon.failures)


class EelsThicknessScalarizer:
    """Thickness over mean free path, or thickness [nm] where the mean free path is given; counts of the zero loss.

    Marked failures: values not finite or saturated (often the zero-loss peak), no counts in the zero loss.
    """

    def __init__(self, settings: EelsThickness, noise: CountingNoise, axes: tuple[Axis, ...]) -> None:
        self._ratio = LogRatio(energy_axis(axes, "eels_thickness"), settings.zero_loss_end_eV, noise)
        self._scale = settings.mean_free_path_nm or 1.0
        self._noise = noise
        absolute = settings.mean_free_path_nm > 0
        self.names = ("thickness" if absolute else "thickness_over_mean_free_path", "zero_loss_counts")
        self.units = ("nm" if absolute else "", "counts")

    def __call__(self, frames: np.ndarray) -> Features:
        thickness = self._ratio(frames)
        elastic = self._noise.variance(thickness.elastic, int(self._ratio.below.sum()))
        return finished(np.stack([thickness.mean_free_paths * self._scale, thickness.elastic], axis=1),
                        np.stack([(thickness.standard_errors * self._scale)**2, elastic], axis=1), thickness.failures)
