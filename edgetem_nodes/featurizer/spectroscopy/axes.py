"""The energy axis of spectra, and blocks of them."""

from __future__ import annotations

import numpy as np

from edgetem_nodes.featurizer.features import ELECTRONVOLT
from edgetem_nodes.physics.scan import Axis


def energy_axis(energies: np.ndarray, name: str = "energy_loss") -> Axis:
    """The axis of `energies` (channels,) [eV], in J.

    Raises
    ------
    ValueError : they are fewer than two, not finite or not evenly spaced.
    """
    energies = np.asarray(energies, float)
    if energies.ndim != 1 or len(energies) < 2 or not np.isfinite(energies).all():
        raise ValueError(f"energies of shape {energies.shape} are not two or more finite numbers, one a channel [eV]")
    step = (energies[-1] - energies[0]) / (len(energies) - 1)
    if not step or np.abs(np.diff(energies) - step).max() > 1e-3 * abs(step):
        raise ValueError(f"energies from {energies[0]:g} to {energies[-1]:g} eV are not evenly spaced: interpolate the spectra "
                         "onto an even axis first")
    return Axis(name, "J", step * ELECTRONVOLT, energies[0] * ELECTRONVOLT, len(energies))


def rows_of(spectra: np.ndarray, length: int) -> np.ndarray:
    """Spectra as (rows, channels), checked against the number of channels.

    Raises
    ------
    ValueError : they are no rows of so many channels, or no real numbers; a spectrum image (rows, columns, channels) is
        reshaped by the caller.
    """
    spectra = np.asarray(spectra)
    if spectra.ndim != 2 or spectra.shape[1] != length or spectra.dtype.kind not in "uif":
        raise ValueError(f"spectra of shape {spectra.shape} and type {spectra.dtype} are not (rows, {length}) real numbers, "
                         "one a channel of the energy axis: reshape a spectrum image to (-1, channels)")
    return spectra
