"""Intensity of every diffracted beam of a slab against the beam's tilt and the slab's thickness: what disks are filled with.

Where disks do not touch, the electrons of one incident direction do not interfere with those of another in the same pixel, so
a pattern is known from plane waves alone. Each is followed by multislice through one cell that is repeated across and along
the beam, and its intensities are kept on the way: one run gives all thicknesses. Atoms are independent Einstein oscillators,
and a slice transmits the mean over their displacements, <exp(i sigma V)> = prod_atoms G * exp(i sigma V_atom), G their
Gaussian: the elastic part of a frozen-phonon calculation, absorption by thermal diffuse scattering included, without a
parameter. What is missing from the sum of the beams has been scattered diffusely.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np
import scipy.fft

from edgetem_nodes.featurizer.cbed.materials import Material
from edgetem_nodes.physics.electrons import interaction_constant, wavelength
from edgetem_nodes.physics.scattering_factors import potential_spectrum

REACH = 1.6e10
"""Longest reciprocal vector that is kept [1/m]."""
MARGIN = 1.1
"""By how much tables of crystals go beyond their range of thicknesses."""
_BAND = 3.5e10
"""Up to which waves are followed [1/m]: with 2.5e10 the direct beam of 10 nm of gold came out a tenth too weak."""
_FINER = 2
"""Samples of the potential's grid for one of the waves', along an axis: transmission is not band-limited."""
_BATCH = 96
_SCALE = 65535.0
_VERSION = 1
"""Of the physics: part of a stored table's name."""


@dataclass(frozen=True)
class RockingTable:
    """Rocking curves of a material at one high tension.

    Attributes
    ----------
    material, high_tension : name; [V].
    step : of the grid of tilts [rad].
    thicknesses : (thicknesses,) [m], ascending, evenly spaced.
    indices : (beams, 2) of reciprocal_reference; the direct beam first.
    amplitudes : (thicknesses, beams, n, n) uint16, sqrt(intensity) * 65535, where element (i, j) is for an incident plane wave
        at the angle ((i, j) - n // 2) * step, (y, x), from the zone axis; zero beyond a radius of n // 2 steps.
    elastic : (thicknesses, n, n) float32, fraction of the electrons that is in any beam.
    """

    material: str
    high_tension: float
    step: float
    thicknesses: np.ndarray
    indices: np.ndarray
    amplitudes: np.ndarray
    elastic: np.ndarray

    @property
    def largest_tilt(self) -> float:
        """Radius of the grid [rad]."""
        return self.amplitudes.shape[-1] // 2 * self.step

    def intensities(self, tilt: np.ndarray, thickness: float) -> np.ndarray:
        """Fractions (beams,) in the beams for a plane wave at a tilt (2,) [rad] of the grid's nearest point, by thickness.

        Linear between tabulated thicknesses, as patterns are drawn; raises ValueError outside of the table.
        """
        middle = self.amplitudes.shape[-1] // 2
        y, x = np.rint(np.asarray(tilt) / self.step).astype(int) + middle
        if np.hypot(y - middle, x - middle) > middle:
            raise ValueError(f"a tilt of {np.hypot(*tilt) * 1e3:.3g} mrad is beyond the table's "
                             f"{self.largest_tilt * 1e3:.3g} mrad")
        plane, weight = self.plane(thickness)
        near = (self.amplitudes[plane:plane + 2, :, y, x] / _SCALE) ** 2
        return near[0] if len(near) == 1 else (1 - weight) * near[0] + weight * near[1]

    def plane(self, thickness: float) -> tuple[int, float]:
        """Number of the tabulated thickness below one [m], and how far it is to the next, 0 to 1.

        Raises
        ------
        ValueError : it is outside of the table.
        """
        step = self.thicknesses[1] - self.thicknesses[0] if len(self.thicknesses) > 1 else 1.0
        place = (thickness - self.thicknesses[0]) / step
        if not -1e-6 <= place <= len(self.thicknesses) - 1 + 1e-6:
            raise ValueError(f"a thickness of {thickness * 1e9:.4g} nm of {self.material} is outside of the table's "
                             f"{self.thicknesses[0] * 1e9:.4g} to {self.thicknesses[-1] * 1e9:.4g} nm")
        plane = int(np.clip(np.floor(place + 1e-9), 0, max(len(self.thicknesses) - 2, 0)))
        return plane, float(np.clip(place - plane, 0.0, 1.0))


def rocking_table(material: Material, high_tension: float, largest_tilt: float = 20e-3, step: float | None = None,
                  cache: Path | None = None, absorption: bool = True) -> RockingTable:
    """The table of a material, read from below `cache` if it is there, else computed and stored.

    Parameters
    ----------
    high_tension : [V]. largest_tilt : radius of the grid [rad], tilt plus semi-convergence.
    step : of the grid [rad]; None: 0.5 mrad for crystals, 1.5 mrad for sheets, whose rocking curves are wide.
    absorption : whether what is scattered diffusely is lost; without, atoms have Debye-Waller factors and nothing is lost.
    """
    step = step or (1.5e-3 if material.sheet else 0.5e-3)
    file = None if cache is None else Path(cache) / _file_name(material, high_tension, (largest_tilt, step, absorption))
    if file is not None and file.is_file():
        with np.load(file, allow_pickle=False) as stored:
            values = {part.name: stored[part.name] for part in fields(RockingTable)}
        scalars = {"material": str(values["material"]), "high_tension": float(values["high_tension"]),
                   "step": float(values["step"])}
        return RockingTable(**{**values, **scalars})
    table = _computed(material, high_tension, max(2, int(np.ceil(largest_tilt / step))), step, absorption)
    if file is not None:
        file.parent.mkdir(parents=True, exist_ok=True)
        unfinished = file.with_suffix(f".{os.getpid()}.npz")
        np.savez(unfinished, **{part.name: getattr(table, part.name) for part in fields(RockingTable)})
        unfinished.replace(file)
    return table


def _file_name(material: Material, high_tension: float, settings: tuple) -> str:
    """Of everything that a table depends on."""
    parts = [_VERSION, REACH, _BAND, settings, high_tension, material.thicknesses, material.thickness_step]
    digest = hashlib.sha256(repr(parts).encode())
    for values in (material.cell, material.basis, material.stacked, material.atomic_numbers, material.b_factors,
                   material.reference_lattice):
        digest.update(b"" if values is None else np.ascontiguousarray(values, float).tobytes())
    plain = "".join(letter for letter in material.name if letter.isalnum())
    return f"rocking_{plain}_{high_tension / 1e3:.0f}kV_{digest.hexdigest()[:12]}.npz"


class _Grid:
    """Waves of one cell across the beam, by their Fourier coefficients."""

    def __init__(self, material: Material, high_tension: float, absorption: bool) -> None:
        lattice = material.cell[:2, 1:]
        self._reciprocal = np.linalg.inv(lattice).T
        # 3 / 2 of the band either side, so that a product of two limited functions does not come back round the edge
        self.shape = tuple(int(scipy.fft.next_fast_len(int(np.ceil(3 * _BAND * side)))) for side in np.hypot(*lattice.T))
        self.vectors = self._vectors(self.shape)
        self.within = (self.vectors ** 2).sum(axis=-1) <= _BAND ** 2
        self._fine = tuple(_FINER * n for n in self.shape)
        self._square = (self._vectors(self._fine) ** 2).sum(axis=-1)
        self._area = abs(float(np.linalg.det(lattice)))
        self._sigma = interaction_constant(high_tension)
        self._absorption = absorption
        self._mean: dict[tuple[int, float], np.ndarray] = {}

    def _vectors(self, shape: tuple[int, ...]) -> np.ndarray:
        """Reciprocal vectors (h, k, 2), (y, x) [1/m], in the order of the transform."""
        return np.stack(_orders(shape), axis=-1) @ self._reciprocal

    def transmission(self, places: np.ndarray, numbers: np.ndarray, rms: np.ndarray) -> np.ndarray:
        """Mean transmission function of a plane of atoms at (n, 2) fractions, complex64, band-limited."""
        total = np.ones(self._fine, complex)
        h, k = _orders(self._fine)
        for (u, v), number, width in zip(places, numbers, rms, strict=True):
            total *= np.fft.ifft2(self._atom(int(number), float(width)) * np.exp(-2j * np.pi * (h * u + k * v)))
        order = [np.rint(np.fft.fftfreq(n, 1 / n)).astype(int) for n in self.shape]
        kept = np.fft.fft2(total)[np.ix_(*order)] * self.within / _FINER ** 2
        return np.fft.ifft2(kept).astype(np.complex64)

    def _atom(self, number: int, width: float) -> np.ndarray:
        """Spectrum on the finer grid of an atom at the origin: exp(i sigma V), averaged over its displacements."""
        key = number, width
        if key not in self._mean:
            edge = 1.5 * _FINER * _BAND
            fade = np.cos(np.pi / 2 * np.clip((np.sqrt(self._square) / edge - 0.6) / 0.4, 0, 1)) ** 2
            spectrum = potential_spectrum(number, np.sqrt(self._square)) * fade
            damping = np.exp(-2 * np.pi ** 2 * width ** 2 * self._square)
            if not self._absorption:
                spectrum, damping = spectrum * damping, np.ones_like(damping)
            potential = np.fft.ifft2(spectrum).real * self._square.size / self._area
            self._mean[key] = np.fft.fft2(np.exp(1j * self._sigma * potential)) * damping
        return self._mean[key]


def _orders(shape: tuple[int, ...]) -> list[np.ndarray]:
    """h and k of every Fourier coefficient, in the order of the transform."""
    return np.meshgrid(*(np.fft.fftfreq(n, 1 / n) for n in shape), indexing="ij")


def _computed(material: Material, high_tension: float, half: int, step: float, absorption: bool) -> RockingTable:
    length = wavelength(high_tension)
    grid = _Grid(material, high_tension, absorption)
    indices = _indices(material)
    rows, columns = (indices @ material.cell_in_reference.T % np.array(grid.shape)).T
    operations = _symmetry(material)
    tilts = _inequivalent(half, operations)
    layers, kept = _layers(material, grid), _kept(material)
    found = np.zeros((len(kept), len(indices), len(tilts)), np.float32)
    elastic = np.zeros((len(kept), len(tilts)), np.float32)
    for first in range(0, len(tilts), _BATCH):
        part = slice(first, first + _BATCH)
        run = _run(grid, layers, material.spacing, tilts[part] * step / length, length, kept)
        for number, spectrum in enumerate(run):
            found[number, :, part] = np.abs(spectrum[:, rows, columns].T) ** 2
            elastic[number, part] = (np.abs(spectrum) ** 2 * grid.within).sum(axis=(1, 2))
    turned = _turned_beams(material, indices, operations)
    side = 2 * half + 1
    amplitudes = np.zeros((len(kept), len(indices), side, side), np.uint16)
    everywhere = np.zeros((len(kept), side, side), np.float32)
    rounded = np.rint(np.sqrt(np.clip(found, 0, 1)) * _SCALE).astype(np.uint16)
    for operation, beams in zip(operations, turned, strict=True):
        y, x = (tilts @ operation.T + half).T
        amplitudes[:, beams[:, None], y, x] = rounded
        everywhere[:, y, x] = elastic
    thicknesses = np.array(kept) * material.spacing
    return RockingTable(material.name, float(high_tension), step, thicknesses, indices, amplitudes, everywhere)


def _indices(material: Material) -> np.ndarray:
    """Beams (n, 2) within reach, the shortest first."""
    sides = np.hypot(*material.reference_lattice.T)
    most = np.ceil(REACH * sides).astype(int)
    h, k = np.meshgrid(*(np.arange(-n, n + 1) for n in most), indexing="ij")
    every = np.stack([h.ravel(), k.ravel()], axis=1)
    length = np.hypot(*(every @ material.reciprocal_reference).T)
    near = np.flatnonzero(length <= REACH)
    return every[near[np.argsort(length[near], kind="stable")]]


def _kept(material: Material) -> list[int]:
    """Numbers of layers behind which waves are kept, evenly spaced; of a crystal some more, for those that are strained."""
    each = max(1, round(material.thickness_step / material.spacing))
    thinnest, thickest = np.array(material.thicknesses) / material.spacing * (1 if material.sheet else (1 / MARGIN, MARGIN))
    first = max(1, int(np.floor(thinnest + 1e-6)))
    count = max(0, int(np.ceil((thickest - first) / each - 1e-6))) + 1
    return [first + each * number for number in range(count)]


def _layers(material: Material, grid: _Grid) -> list[list[tuple[float, np.ndarray]]]:
    """Of each layer of a period: its planes of atoms, height [m] above the layer's start, and transmission."""
    layers = []
    for number in range(2 if material.stacked is not None else 1):
        places = material.layer(number) - np.array([0, 0, number])
        heights = np.round(places[:, 2], 9)
        planes = []
        for height in np.unique(heights):
            here = heights == height
            planes.append((float(height) * material.spacing, grid.transmission(
                places[here, :2], material.atomic_numbers[here], material.displacement_rms[here])))
        layers.append(planes)
    return layers


def _run(grid: _Grid, layers: list, spacing: float, incident: np.ndarray, length: float,
         kept: list[int]) -> Iterator[np.ndarray]:
    """Spectra (tilts, *shape) behind each of the `kept` layers of plane waves of unit intensity at (tilts, 2) [1/m]."""
    across = (grid.vectors ** 2).sum(axis=-1) + 2 * np.moveaxis(grid.vectors @ incident.T, -1, 0)
    steps: dict[int, np.ndarray] = {}

    def onwards(distance: float) -> np.ndarray:
        key = round(distance * 1e15)
        if key not in steps:
            steps[key] = (np.exp(-1j * np.pi * length * distance * across) * grid.within).astype(np.complex64)
        return steps[key]

    spectrum = np.zeros((len(incident), *grid.shape), np.complex64)
    spectrum[:, 0, 0] = 1.0
    depth = layers[0][0][0]
    for number in range(kept[-1]):
        for height, transmission in layers[number % len(layers)]:
            here = number * spacing + height
            if here != depth:
                spectrum *= onwards(here - depth)
            depth = here
            wave = scipy.fft.ifft2(spectrum, overwrite_x=True)
            wave *= transmission
            spectrum = scipy.fft.fft2(wave, overwrite_x=True)
        if number + 1 in kept:
            yield spectrum


def _symmetry(material: Material) -> list[np.ndarray]:
    """Turns and reflections (2, 2) of (y, x), among those of a square, that leave a thick crystal as it is but for a shift.

    A sheet has none here: its surfaces are not to be mistaken for each other.
    """
    if material.sheet:
        return [np.eye(2, dtype=int)]
    found = []
    for flip in ((1, 1), (1, -1), (-1, 1), (-1, -1)):
        for swapped in (False, True):
            operation = np.diag(flip)[:, ::-1] if swapped else np.diag(flip)
            if _invariant(material, operation):
                found.append(operation)
    return found


def _invariant(material: Material, operation: np.ndarray) -> bool:
    across = material.cell[:2, 1:]
    # rows are vectors: fractions f become f @ integers
    integers = across @ operation.T @ np.linalg.inv(across)
    if np.abs(integers - np.rint(integers)).max() > 1e-6:
        return False
    moved = material.basis.copy()
    moved[:, :2] = moved[:, :2] @ integers
    kinds = np.stack([material.atomic_numbers, material.b_factors * 1e20], axis=1)
    for partner in np.flatnonzero((kinds == kinds[0]).all(axis=1)):
        shifted = moved + material.basis[partner] - moved[0]
        apart = shifted[:, None] - material.basis[None]
        same = (np.abs(apart - np.rint(apart)).max(axis=2) < 1e-4) & (kinds[:, None] == kinds[None]).all(axis=2)
        if same.any(axis=1).all():
            return True
    return False


def _inequivalent(half: int, operations: list[np.ndarray]) -> np.ndarray:
    """Grid points (n, 2) int within a radius of `half`, one of every set that the operations take into each other."""
    order = np.arange(-half, half + 1)
    y, x = np.meshgrid(order, order, indexing="ij")
    points = np.stack([y.ravel(), x.ravel()], axis=1)
    points = points[(points ** 2).sum(axis=1) <= half ** 2]
    rank = np.stack([(points @ operation.T) @ np.array([4 * half, 1]) for operation in operations])
    return points[points @ np.array([4 * half, 1]) == rank.max(axis=0)]


def _turned_beams(material: Material, indices: np.ndarray, operations: list[np.ndarray]) -> list[np.ndarray]:
    """Number (beams,) of the beam into which each operation takes a beam."""
    number = {tuple(pair): place for place, pair in enumerate(indices.tolist())}
    lattice, reciprocal = material.reference_lattice, material.reciprocal_reference
    turned = [np.rint(indices @ reciprocal @ operation.T @ lattice.T).astype(int) for operation in operations]
    return [np.array([number[tuple(pair)] for pair in beams.tolist()]) for beams in turned]
