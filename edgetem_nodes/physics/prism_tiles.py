"""Scattering matrices all over an endless specimen: which window a probe belongs to, and how wide a window pays."""

from __future__ import annotations

import math

import numpy as np
import torch

from edgetem_nodes.physics.multislice import ProbeWaves, propagator
from edgetem_nodes.physics.optics import Camera, Probe
from edgetem_nodes.physics.pixels import Pixels
from edgetem_nodes.physics.prism import WIDEST, ScatteringMatrix, nyquist_step, probe_lattice
from edgetem_nodes.physics.numerics import Numerics
from edgetem_nodes.physics.sampling import Window, window
from edgetem_nodes.physics.tiles import Tiles

_MORE = 6
_ROUNDING = 1.0


def prism_window(probe: Probe, camera: Camera, thickness: float, numerics: Numerics, largest_angle: float,
                 seen: float = 0.0) -> Window:
    """The window whose multislice runs cost least an area of positions, of those that hold the probe with a core to spare.

    Raises
    ------
    ValueError : no window of up to six steps more leaves room for probes.
    """
    overreach = float(np.abs(numerics.source(probe.source_sigma)[0]).max())
    best: tuple[float, Window] | None = None
    for wider in range(_MORE + 1):
        grid = window(probe, camera, thickness, numerics, largest_angle, wider, seen)
        cell = _cell(probe, grid, overreach)
        if cell < 1:
            continue
        runs = len(probe_lattice(_core(cell, grid, overreach) / _nyquist(probe, grid), numerics.prism_tolerance).points)
        cost = runs * grid.samples ** 2 / (cell * grid.step) ** 2
        if best is None or cost < best[0]:
            best = cost, grid
    if best is None:
        raise ValueError(f"a probe of radius {grid.margin * 1e9:.3g} nm after defocus and broadening leaves no "
                         f"core in windows of up to {grid.length * 1e9:.3g} nm: use smaller camera pixels or multislice")
    return best[1]


def _cell(probe: Probe, grid: Window, overreach: float) -> float:
    """Edge [samples] of the square of probe positions that may share a window."""
    cell = grid.samples - 2 * (grid.margin + overreach) / grid.step - _ROUNDING - 1e-3
    return min(cell, WIDEST * _nyquist(probe, grid) - 2 * overreach / grid.step - _ROUNDING)


def _core(cell: float, grid: Window, overreach: float) -> float:
    """Edge [samples] of the square in which source points of probes in a cell stand, wherever its window is rounded to."""
    return cell + 2 * overreach / grid.step + _ROUNDING


def _nyquist(probe: Probe, grid: Window) -> float:
    return nyquist_step(probe, grid.samples, grid.step)


class PrismBeam:
    """A probe and its scattering matrices: diffraction at any position, incoherently summed over source and focal spread."""

    def __init__(self, tiles: Tiles, probe: Probe, blur: float, grid: Window, kept: int, dark_field: bool = False) -> None:
        """Set up; nothing is propagated yet.

        Parameters
        ----------
        blur : of the aperture's edge [rad].
        kept : frequencies of the window kept either side of zero.
        dark_field : whether thin specimens have phonon configurations too.
        """
        self._tiles, self._probe, self._grid, self._kept = tiles, probe, grid, kept
        self._offsets, self._source_weights = tiles.numerics.source(probe.source_sigma)
        overreach = float(np.abs(self._offsets).max())
        self._configurations = tiles.configurations(dark_field)
        self._layout = tiles.layout(grid, len(self._configurations), overreach + grid.step)
        cell = _cell(probe, grid, overreach)
        self._cells = math.ceil(self._layout.core / cell)
        self._pitch = self._layout.core / self._cells
        self._core = _core(self._pitch, grid, overreach)
        self.cell = self._pitch * grid.step
        """Edge [m] of the square of positions that share a window."""
        self.runs = len(probe_lattice(self._core / _nyquist(probe, grid), tiles.numerics.prism_tolerance).points)
        """Multislice runs a configuration and defocus for such a square."""
        device = tiles.numerics.device
        changes, self._focus_weights = tiles.numerics.focus(probe.focal_spread)
        self._probes = [probe.refocused(probe.defocus + change) for change in changes]
        self._waves = [ProbeWaves(one, grid.samples, grid.step, device, blur) for one in self._probes]
        self._step_on = propagator((grid.samples, grid.samples), grid.step, grid.slicing.distance, probe.high_tension,
                                   device, grid.band_limited)

    def patterns(self, positions: np.ndarray, pixels: Pixels, shifts: np.ndarray | None = None) -> torch.Tensor:
        """Diffraction patterns, fraction of the beam in each of the pixels of a camera, float32 (n, ky, kx).

        Parameters
        ----------
        positions : (n, 2), (y, x) [m]; shifts : (n, 2) samples of the diffraction plane.
        """
        result = torch.zeros((len(positions), *pixels.shape), device=self._tiles.numerics.device)
        for index, weight, matrix, place in self._matrices(positions):
            moved = None if shifts is None else shifts[index]
            result[torch.from_numpy(index).to(result.device)] += weight * matrix.patterns(place, pixels, moved)
        return result

    def currents(self, positions: np.ndarray, detectors: torch.Tensor) -> np.ndarray:
        """Fraction of the beam on detectors (d, 2 kept + 1, 2 kept + 1) at positions (n, 2) [m], float64 (n, d)."""
        result = np.zeros((len(positions), len(detectors)))
        for index, weight, matrix, place in self._matrices(positions):
            result[index] += weight * matrix.currents(place, detectors).cpu().numpy()
        return result

    def window_corners(self, positions: np.ndarray) -> np.ndarray:
        """First sample (n, 2) int of the specimen in the window of each position (n, 2) [m]."""
        return self._corners(self._cells_of(positions))

    def _cells_of(self, positions: np.ndarray) -> np.ndarray:
        """Tile and cell in it (n, 4) int, each (row, column), of positions (n, 2) [m]."""
        place = positions / self._grid.step
        tile = self._layout.tile(place)
        cell = np.floor((place - tile * self._layout.core + 0.5) / self._pitch).astype(int)
        return np.concatenate([tile, np.clip(cell, 0, self._cells - 1)], axis=1)

    def _corners(self, cells: np.ndarray) -> np.ndarray:
        """First sample (..., 2) int of the windows of cells (..., 4)."""
        centre = cells[..., :2] * self._layout.core - 0.5 + (cells[..., 2:] + 0.5) * self._pitch
        return np.rint(centre).astype(int) - self._grid.samples // 2

    def _matrices(self, positions: np.ndarray):  # noqa: ANN202
        """Which positions (m,), their weight, their scattering matrix, and their places (m, 2) in its window."""
        layout, cells = self._layout, self._cells_of(positions)
        for which in np.unique(cells, axis=0):
            index = np.flatnonzero((cells == which).all(axis=1))
            key = tuple(which[:2].tolist())
            first = self._corners(which)
            for number, focus_weight in enumerate(self._focus_weights):
                matrix = ScatteringMatrix(
                    lambda configuration, key=key: self._tiles.transmissions(
                        self._grid, layout, key, self._configurations[configuration], self._probe.high_tension),
                    len(self._configurations), self._step_on, self._waves[number], self._probes[number],
                    self._tiles.specimen.thickness, self._core, first - layout.corner(key), self._kept,
                    self._tiles.numerics.prism_tolerance, self._tiles.cache,
                    (self._grid, layout, self._probes[number], *which.tolist()))
                for offset, source_weight in zip(self._offsets, self._source_weights, strict=True):
                    place = (positions[index] + offset) / self._grid.step - first
                    yield index, float(source_weight * focus_weight), matrix, place
