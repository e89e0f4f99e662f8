"""Projected potential of a piece of specimen, in slices: an exact superposition of free atoms.

Each atom is projected completely into its slice. Atoms are laid down with B-splines of order 8 on a grid half as fine
again as asked for, whose transform is then divided out (particle-mesh, Essmann et al., J. Chem. Phys. 103, 8577, 1995):
right to 5e-5 at the band limit of multislice and to 1e-3 beyond, wherever an atom lies between the samples.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
import torch

from edgetem_nodes.physics import site_noise
from edgetem_nodes.physics.fourier import fast_length
from edgetem_nodes.physics.numerics import Slicing
from edgetem_nodes.physics.scattering_factors import potential_spectrum
from edgetem_nodes.physics.specimens import Atoms
from edgetem_nodes.physics.splines import laid_down

_ORDER = 8
_FINER = 1.5
_CLEAR = 0.42
"""Over the sampling frequency: up to here the superposition is exact; beyond, the spectrum fades to 0 at the Nyquist
frequency, so that an atom's potential does not ring across the box."""
_WIDTH_STEP = 0.1e-12
"""[m] to which thermal displacements are rounded, so that atoms of one kind share a Debye-Waller factor."""


def thermal_displacements(atoms: Atoms, seed: int, configuration: int) -> np.ndarray:
    """Displacements (n, 3), (z, y, x) [m], of a frozen-phonon configuration: independent Einstein oscillators.

    Drawn from the atom's identity, so pieces of specimen that overlap agree, and any piece can be made alone.
    """
    return site_noise.normals(seed, atoms.identity, 3, "phonon", configuration) * atoms.displacement_rms[:, None]


def potential_slices(atoms: Atoms, origin: np.ndarray, step: float, shape: tuple[int, int], slicing: Slicing,
                     displacements: np.ndarray | None = None, device: str | torch.device = "cpu") -> torch.Tensor:
    """Projected potentials [V m], float32 (slices, rows, columns), of a box that is taken as periodic.

    Parameters and errors are those of `potential_layers`.
    """
    result = torch.empty((slicing.count, *shape), dtype=torch.float32, device=device)
    for number, layer in enumerate(potential_layers(atoms, origin, step, shape, slicing, displacements, device)):
        result[number] = layer
    return result


def potential_layers(atoms: Atoms, origin: np.ndarray, step: float, shape: tuple[int, int], slicing: Slicing,
                     displacements: np.ndarray | None = None, device: str | torch.device = "cpu") -> Iterator[torch.Tensor]:
    """One projected potential [V m], float32 `shape`, after the other, of a box that is taken as periodic.

    Parameters
    ----------
    atoms : positions are (z, y, x) [m].
    origin : corner of the box, (y, x) [m]; step : sampling [m]; shape : samples.
    slicing : of the specimen.
    displacements : (n, 3) [m] of the atoms, e.g. `thermal_displacements`; without, each has a Debye-Waller factor instead.

    Raises
    ------
    ValueError : the sampling is not positive.
    """
    if not step > 0:
        raise ValueError(f"sampling {step * 1e10:.4g} Angstrom is not positive")
    spectrum = _Spectrum(shape, step, device)
    lateral = atoms.positions[:, 1:] if displacements is None else atoms.positions[:, 1:] + displacements[:, 1:]
    scaled = (lateral - origin) / step * spectrum.finer
    width = np.rint(atoms.displacement_rms / _WIDTH_STEP) * _WIDTH_STEP * (displacements is None)
    number = slicing.numbers(atoms.positions[:, 0])
    for layer in range(slicing.count):
        here = number == layer
        yield spectrum.potential(scaled[here], atoms.atomic_numbers[here], width[here])


class _Spectrum:
    """Sums of atoms in Fourier space, on a grid of `shape` and `step` [m]."""

    def __init__(self, shape: tuple[int, int], step: float, device: str | torch.device) -> None:
        self._shape, self._device = shape, torch.device(device)
        fine = [fast_length(math.ceil(n * _FINER)) for n in shape]
        self.finer = np.array(fine) / shape
        """Samples of the finer grid a sample, (y, x)."""
        fy, fx = np.fft.fftfreq(shape[0], step)[:, None], np.fft.rfftfreq(shape[1], step)[None, :]
        self._frequency = np.hypot(fy, fx)
        ratio = [np.sinc(f * step / finer) ** _ORDER for f, finer in zip((fy, fx), self.finer, strict=True)]
        edge = [np.cos(np.pi / 2 * np.clip((np.abs(f * step) - _CLEAR) / (0.5 - _CLEAR), 0, 1)) ** 2 for f in (fy, fx)]
        unspline = edge[0] * edge[1] / (ratio[0] * ratio[1] * step ** 2)
        self._unspline = torch.from_numpy(unspline.astype(np.float32)).to(device)
        half = (shape[0] + 1) // 2
        self._rows = torch.cat([torch.arange(half), torch.arange(fine[0] - (shape[0] - half), fine[0])]).to(device)
        self._fine = (fine[0], fine[1])
        self._factors: dict[tuple[int, float], torch.Tensor] = {}

    def _factor(self, number: int, width: float) -> torch.Tensor:
        if (number, width) not in self._factors:
            damped = potential_spectrum(number, self._frequency) * np.exp(-2 * (np.pi * width * self._frequency) ** 2)
            self._factors[number, width] = torch.from_numpy(damped.astype(np.float32)).to(self._device) * self._unspline
        return self._factors[number, width]

    def potential(self, scaled: np.ndarray, numbers: np.ndarray, widths: np.ndarray) -> torch.Tensor:
        """Projected potential (rows, columns) of atoms at (n, 2) samples of the finer grid."""
        total = torch.zeros((self._shape[0], self._shape[1] // 2 + 1), dtype=torch.complex64, device=self._device)
        kinds, kind = np.unique(np.stack([numbers, widths], axis=-1), axis=0, return_inverse=True)
        for index, (number, width) in enumerate(kinds):
            grid = laid_down(scaled[kind.ravel() == index], self._fine, _ORDER).astype(np.float32)
            transformed = torch.fft.rfft2(torch.from_numpy(grid).to(self._device))[self._rows, :self._shape[1] // 2 + 1]
            total += transformed * self._factor(int(number), float(width))
        return torch.fft.irfft2(total, s=self._shape)
