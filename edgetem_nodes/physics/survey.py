"""Annular dark-field image of a specimen as incoherent imaging: cross-sections of the atoms times the probe's intensity.

Single scattering of each atom, in the probe as it is at the atom's depth in free space (Pennycook & Jesson, Ultramicroscopy
37, 14, 1991, without channelling); what is scattered away is no longer in the beam. Needs no torch, so a process that only
needs an overview starts fast. `Diffraction.currents` has the dynamical scattering that this leaves out.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Callable

import numpy as np
import scipy.fft

from edgetem_nodes.physics.optics import Annulus, Probe, gaussian_quadrature
from edgetem_nodes.physics.scattering_factors import annular_cross_section
from edgetem_nodes.physics.specimens import Atoms, Condition, Specimen
from edgetem_nodes.physics.splines import laid_down

_CORE = 12e-9
_COARSEST = 0.05e-9
_TILES = 16
_FOCUS_POINTS = 7
_ORDER = 4
_MOST_DEPTHS = 8


class Survey:
    """Fraction of the beam on an annular detector at any position. A pure function of position; recent tiles are kept."""

    def __init__(self, specimen: Specimen, probe: Probe, annulus: Annulus, condition: Condition | None = None,
                 atoms_filter: Callable[[Atoms], Atoms] | None = None) -> None:
        """Set up; atoms are asked for when a position needs them.

        Parameters
        ----------
        annulus : the detector; its inner angle is to be larger than the probe's semi-convergence angle.
        atoms_filter : what becomes of the atoms of any piece of the specimen.

        Raises
        ------
        ValueError : the detector sees the undiffracted beam.
        """
        if annulus.inner < probe.semi_convergence_angle:
            raise ValueError(f"the dark-field detector begins at {annulus.inner * 1e3:.4g} mrad, inside the undiffracted "
                             f"disc of {probe.semi_convergence_angle * 1e3:.4g} mrad: enlarge its inner angle")
        self._specimen, self._probe, self._annulus = specimen, probe, annulus
        self._condition, self._atoms_filter = condition or Condition(), atoms_filter
        self._step = min(probe.wavelength / (12 * probe.semi_convergence_angle), _COARSEST)
        margin = 2 * probe.radius(specimen.thickness) + 4 * probe.source_sigma
        self._border = math.ceil(margin / self._step) + 4
        self._core = math.ceil(_CORE / self._step)
        self._samples = scipy.fft.next_fast_len(self._core + 2 * self._border, real=True)
        depth_of_focus = probe.wavelength / probe.semi_convergence_angle ** 2
        self._depths = min(max(1, math.ceil(2 * specimen.thickness / depth_of_focus)), _MOST_DEPTHS)
        self._images: OrderedDict[tuple[int, int], np.ndarray] = OrderedDict()
        self._cross_sections: dict[int, float] = {}
        self._transfers: list[np.ndarray] = []

    def currents(self, positions: np.ndarray) -> np.ndarray:
        """Fraction (n,) float64 of the beam at positions (n, 2), (y, x) [m]."""
        from scipy.ndimage import map_coordinates

        place = np.asarray(positions, float).reshape(-1, 2) / self._step
        tiles = np.floor_divide(place, self._core).astype(int)
        result = np.empty(len(place))
        for tile in np.unique(tiles, axis=0):
            inside = (tiles == tile).all(axis=1)
            local = place[inside] - (tile * self._core - self._border)
            result[inside] = map_coordinates(self._image((int(tile[0]), int(tile[1]))), local.T, order=3, prefilter=False)
        return -np.expm1(-np.maximum(result, 0.0))

    def _image(self, tile: tuple[int, int]) -> np.ndarray:
        """Spline coefficients of the expected number of times that the beam is scattered onto the detector."""
        if tile in self._images:
            self._images.move_to_end(tile)
            return self._images[tile]
        if not self._transfers:
            self._transfers = self._transfer_functions()
        low = (np.array(tile) * self._core - self._border) * self._step
        atoms = self._specimen.atoms(low, low + self._samples * self._step, self._condition)
        atoms = atoms if self._atoms_filter is None else self._atoms_filter(atoms)
        weights = np.zeros(len(atoms.atomic_numbers))
        for number in np.unique(atoms.atomic_numbers):
            weights[atoms.atomic_numbers == number] = self._cross_section(int(number))
        thickness = max(self._specimen.thickness, 1e-12)
        depth = np.clip(atoms.positions[:, 0] / thickness * self._depths, 0, self._depths - 1).astype(int)
        spectrum = 0.0
        for layer, transfer in enumerate(self._transfers):
            here = depth == layer
            scaled = (atoms.positions[here, 1:] - low) / self._step
            density = laid_down(scaled, (self._samples, self._samples), _ORDER, weights[here])
            spectrum = spectrum + scipy.fft.rfft2(density) * transfer
        self._images[tile] = scipy.fft.irfft2(spectrum, s=(self._samples, self._samples))
        while len(self._images) > _TILES:
            self._images.popitem(last=False)
        return self._images[tile]

    def _cross_section(self, number: int) -> float:
        """[m^2] of an element into the annulus."""
        if number not in self._cross_sections:
            self._cross_sections[number] = annular_cross_section(number, self._probe.high_tension, self._annulus.inner,
                                                                 self._annulus.outer)
        return self._cross_sections[number]

    def _transfer_functions(self) -> list[np.ndarray]:
        """For each depth the transform of the probe's intensity [1/m^2], times what splines in and out need."""
        frequency = scipy.fft.fftfreq(self._samples, self._step)
        y, x = frequency[:, None], frequency[None, :self._samples // 2 + 1].copy()
        if self._samples % 2 == 0:
            x[0, -1] = abs(x[0, -1])
        envelope = np.exp(-2 * np.pi ** 2 * self._probe.source_sigma ** 2 * (y ** 2 + x ** 2))
        for f in (y, x):
            # Cubic splines laid down, and read out from coefficients: sinc^4 and (2 + cos) / 3.
            envelope = envelope / np.sinc(f * self._step) ** _ORDER * 3 / (2 + np.cos(2 * np.pi * f * self._step))
        points, weights = gaussian_quadrature(_FOCUS_POINTS) if self._probe.focal_spread else (np.zeros(1), np.ones(1))
        result = []
        for layer in range(self._depths):
            height = (layer + 0.5) / self._depths * self._specimen.thickness
            intensity = sum(weight * self._intensity(self._probe.defocus - height + point * self._probe.focal_spread)
                            for point, weight in zip(points, weights, strict=True))
            # The probe at r sees an atom at a with its intensity at a - r: a correlation.
            result.append(scipy.fft.rfft2(intensity).conj() * envelope / self._step ** 2)
        return result

    def _intensity(self, defocus: float) -> np.ndarray:
        """Intensity of the probe around element (0, 0); sum 1."""
        angle = scipy.fft.fftfreq(self._samples, self._step) * self._probe.wavelength
        y, x = angle[:, None], angle[None, :]
        edge = np.clip((self._probe.semi_convergence_angle - np.hypot(y, x)) / angle[1] + 0.5, 0.0, 1.0)
        wave = scipy.fft.ifft2(edge * np.exp(-1j * self._probe.refocused(defocus).aberration_phase(y, x)))
        intensity = wave.real ** 2 + wave.imag ** 2
        return intensity / intensity.sum()
