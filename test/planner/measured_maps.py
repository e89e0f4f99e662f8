"""Measured maps for the planner's tests: survey, scalar and standard error at every position, by the plainest formulas."""

from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np


def copper(root: Path) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Net Cu-L counts (50, 40): power law by log-log least squares in 750-920 eV, window 930-1010 eV; survey HAADF."""
    folder = root / "replay" / "CuZn_EELS_HAADF"
    with h5py.File(folder / "CuZn_EELS_mapping_tutorial.hspy") as file:
        spectra = file["Experiments/EELS Spectrum Image/data"][()].astype(float)
    with h5py.File(folder / "CuZn_HAADF.hspy") as file:
        survey = file["Experiments/Gatan HAADF/data"][()].astype(float)
    energies = 700.0 + 8.0 * np.arange(162)
    fit, signal = (energies >= 750) & (energies <= 920), (energies >= 930) & (energies <= 1010)
    design = np.stack([np.ones(fit.sum()), np.log(energies[fit])], axis=1)
    line = np.linalg.lstsq(design, np.log(spectra[..., fit].reshape(-1, fit.sum())).T, rcond=None)[0]
    background = np.exp(line[0][:, None] + line[1][:, None] * np.log(energies[signal])).reshape(*survey.shape, -1)
    counts = spectra[..., signal].sum(axis=-1)
    # Four counts an electron, as the chi-square of the background fit says.
    return survey[None], counts - background.sum(axis=-1), 2.0 * np.sqrt(2.0 * counts)


def iron(root: Path) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Fe K counts (64, 64) in 6.2-6.6 keV; survey: total counts."""
    with h5py.File(root / "replay" / "core_shell_EDS" / "core_shell.hspy") as file:
        spectra = file["Experiments/Core shell/data"][()].astype(float)
    energies = 0.16 + 0.02 * np.arange(spectra.shape[-1])
    counts = spectra[..., (energies >= 6.2) & (energies <= 6.6)].sum(axis=-1)
    return spectra.sum(axis=-1)[None], counts, np.sqrt(np.maximum(counts, 1.0))


def particles(seed: int = 0, side: int = 32, hidden: float = 1.5) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Particles in a noisy survey; the scalar follows their brightness, but that of one dim particle is `hidden`."""
    generator = np.random.default_rng(seed)
    rows, columns = np.mgrid[:side, :side]
    survey, scalar = np.full((side, side), 20.0), np.zeros((side, side))
    for centre, brightness, amount in (((8, 8), 60.0, 4.0), ((22, 9), 80.0, 5.0), ((23, 23), 25.0, hidden),
                                       ((8, 24), 70.0, 4.5)):
        bump = np.exp(-0.5 * ((rows - centre[0]) ** 2 + (columns - centre[1]) ** 2) / 2.5**2)
        survey, scalar = survey + brightness * bump, scalar + amount * bump
    error = np.full((side, side), 0.3)
    return generator.poisson(survey)[None].astype(float), scalar + error * generator.standard_normal(scalar.shape), error
