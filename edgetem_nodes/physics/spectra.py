"""Electron energy-loss spectra: power-law background and core-loss edges, and a small spectrum image of known truth.

Energies are in eV here, as in the field's own formulas; counts are electrons.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


def power_law(energy: np.ndarray, amplitude: float, exponent: float, reference: float) -> np.ndarray:
    """Background amplitude * (energy / reference)^-exponent [counts] (Egerton, EELS in the EM, 3rd ed., 4.4)."""
    return amplitude * (np.asarray(energy, float) / reference) ** -exponent


def core_loss_edge(energy: np.ndarray, onset: float, exponent: float, width: float) -> np.ndarray:
    """Edge of unit height: a step at `onset` [eV], smooth over `width` [eV], falling as (energy / onset)^-exponent.

    The shape of a saw-tooth edge far from its fine structure.
    """
    energy = np.asarray(energy, float)
    return 0.5 * (1 + np.tanh((energy - onset) / width)) * np.maximum(energy / onset, 1.0) ** -exponent


@dataclass(frozen=True)
class SpectrumImage:
    """A simulated spectrum image and the truth about it.

    Attributes: `energy` (channels,) [eV]; `counts` (rows, columns, channels) uint16; `dark_field` (rows, columns) uint16;
    `edge_counts` (rows, columns): expected counts of the edge over all channels; `step` [m].
    """

    energy: np.ndarray
    counts: np.ndarray
    dark_field: np.ndarray
    edge_counts: np.ndarray
    step: float


def particles_on_carbon(seed: int, shape: tuple[int, int] = (24, 20), channels: int = 80) -> SpectrumImage:
    """Particles with a Cu-L edge, and others without it that are as bright in the dark field, on a carbon film.

    Parameters
    ----------
    seed : of places, sizes and counting noise.
    shape, channels : of the scan and of a spectrum; 8 eV a channel from 700 eV on.
    """
    generator = np.random.default_rng([seed, 0x45454C53])
    energy = 700.0 + 8.0 * np.arange(channels)
    film = 1.0 + 0.1 * np.linspace(-1, 1, shape[1])[None, :] * np.ones((shape[0], 1))
    copper = _particles(shape, 5, generator)
    other = _particles(shape, 3, generator)
    thickness = film + 0.8 * copper + 0.8 * other
    background = power_law(energy, 1.0, 3.1, 700.0) * (900.0 * thickness)[..., None]
    edge = core_loss_edge(energy, 931.0, 2.5, 6.0) * (260.0 * copper)[..., None]
    counts = generator.poisson(background + edge).astype(np.uint16)
    dark_field = generator.poisson(120.0 * film + 500.0 * copper + 500.0 * other).astype(np.uint16)
    return SpectrumImage(energy, counts, dark_field, edge.sum(axis=-1), 1e-9)


def _particles(shape: tuple[int, int], number: int, generator: np.random.Generator) -> np.ndarray:
    """Thickness (rows, columns) of spheres at random places, the largest 1; they may overlap."""
    rows, columns = np.indices(shape)
    total = np.zeros(shape)
    for _ in range(number):
        radius = generator.uniform(1.8, 3.2)
        row, column = generator.uniform(1, shape[0] - 2), generator.uniform(1, shape[1] - 2)
        square = radius ** 2 - (rows - row) ** 2 - (columns - column) ** 2
        total = np.maximum(total, np.sqrt(np.maximum(square, 0.0)))
    return total / total.max()
