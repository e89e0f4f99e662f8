"""Diffraction patterns and detector currents of a focused electron beam at any position of an endless specimen."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np
import torch

from edgetem_nodes.physics.fourier import fft2, intensity
from edgetem_nodes.physics.multislice import ProbeWaves, exit_waves, propagator
from edgetem_nodes.physics.numerics import Numerics
from edgetem_nodes.physics.optics import Annulus, Camera, Probe, check_camera
from edgetem_nodes.physics.pixels import Pixels
from edgetem_nodes.physics.prism_tiles import PrismBeam, prism_window
from edgetem_nodes.physics.sampling import Window, window
from edgetem_nodes.physics.specimens import Atoms, Condition, Specimen
from edgetem_nodes.physics.tiles import Layout, Tiles

_BATCH = {"cpu": 1, "cuda": 64}
"""Probes at a time; always as many, because the last bits of a transform may depend on how many there are."""

_BEYOND = 2.0
"""Over the camera's edge: the angle up to which multislice follows electrons. What is scattered there and back into the outer
pixels matters: 20 mrad on SrTiO3 needs this much for 2 % there; with 1.4 it was 10 %."""


class Diffraction:
    """What detectors behind a specimen receive, as fractions of the beam. A pure function of position.

    Partial coherence is an incoherent sum: over probe positions for the source, defocus values for the focal spread,
    frozen-phonon configurations for the heat.
    """

    def __init__(self, specimen: Specimen, probe: Probe, camera: Camera, numerics: Numerics | None = None, seed: int = 0,
                 condition: Condition | None = None, atoms_filter: Callable[[Atoms], Atoms] | None = None) -> None:
        """Set up; nothing of the specimen is computed before a probe needs it.

        Parameters
        ----------
        seed : of the thermal displacements.
        atoms_filter : what becomes of the atoms of any piece of the specimen, e.g. what the beam has done to them.

        Raises
        ------
        ValueError : the disc does not fit on the camera, or the probe does not fit a tile at the allowed memory; there is
            no such device here.
        """
        check_device((numerics or Numerics()).device)
        self._setup(Tiles(specimen, numerics or Numerics(), seed, condition or Condition(), atoms_filter), probe, camera)

    def _setup(self, tiles: Tiles, probe: Probe, camera: Camera) -> None:
        check_camera(probe, camera)
        self.probe, self.camera, self.numerics = probe, camera, tiles.numerics
        self._tiles = tiles
        self._beams: dict[tuple[Window, bool], _Beam] = {}
        self._prism_beams: dict[tuple[Window, int, bool], PrismBeam] = {}
        thickness, numerics = tiles.specimen.thickness, tiles.numerics
        edge = camera.edge
        if not numerics.slicing(thickness, probe.wavelength, edge).thin:
            edge *= _BEYOND
        self.window = self._window(edge + numerics.largest_shift, camera.edge)
        self._pixels = Pixels(self.window, camera)
        self._prism(self.window, self._kept()) if numerics.method == "prism" else self._beam(self.window)

    def with_probe(self, probe: Probe) -> Diffraction:
        """The same specimen under another probe; what is known of the specimen is shared where the sampling allows it."""
        other = Diffraction.__new__(Diffraction)
        other._setup(self._tiles, probe, self.camera)
        return other

    def patterns(self, positions: np.ndarray, shifts: np.ndarray | None = None) -> np.ndarray:
        """Expected pattern at each probe position: fraction of the beam in each pixel, float32 (n, ky, kx).

        The sum over a pattern is the fraction of the beam that falls on the camera.

        Parameters
        ----------
        positions : (n, 2), (y, x) [m].
        shifts : (n, 2), (y, x) [rad], by which descan errors move the pattern.

        Raises
        ------
        ValueError : a shift is larger than `Numerics.largest_shift`.
        """
        positions = np.asarray(positions, float).reshape(-1, 2)
        if shifts is not None:
            shifts = np.broadcast_to(np.asarray(shifts, float), positions.shape)
            largest = float(np.abs(shifts).max(initial=0.0))
            if largest > self.numerics.largest_shift * (1 + 1e-9):
                raise ValueError(f"descan shift of {largest * 1e3:.4g} mrad is more than the "
                                 f"{self.numerics.largest_shift * 1e3:.4g} mrad that the sampling is made for: raise "
                                 "Numerics.largest_shift")
        if self.numerics.method == "prism":
            return self._prism_patterns(positions, shifts)
        result = torch.zeros((len(positions), self.camera.pixels, self.camera.pixels), device=self.numerics.device)
        for index, weight, waves in self._beam(self.window).exit_waves(positions):
            if shifts is not None:
                waves = waves[:len(index)] * self._ramps(shifts[index])
            seen = self._pixels.of_transform(fft2(waves[:len(index)], True))
            result.index_add_(0, torch.from_numpy(index).to(result.device), seen, alpha=weight)
        return result.cpu().numpy()

    def currents(self, positions: np.ndarray, annuli: Sequence[Annulus]) -> np.ndarray:
        """Fraction of the beam on annular detectors at each probe position, float64 (n, len(annuli)).

        Parameters
        ----------
        positions : (n, 2), (y, x) [m].
        annuli : centred on the axis; the grid is made for the largest of their angles.
        """
        positions = np.asarray(positions, float).reshape(-1, 2)
        result = np.zeros((len(positions), len(annuli)))
        if not annuli:
            return result
        wide = self._window(max(annulus.outer for annulus in annuli))
        angle_step = self.camera.pixel_angle / wide.oversampling
        covered = torch.stack([coverage(annulus, wide.samples, angle_step) for annulus in annuli])
        if self.numerics.method == "prism":
            kept = wide.samples // 2 - 1
            seen = torch.fft.fftshift(covered, dim=(-2, -1))[:, 1:, 1:]
            return self._prism(wide, kept, True).currents(positions, seen)
        covered = covered.flatten(1).to(self.numerics.device)
        for index, weight, waves in self._beam(wide, dark_field=True).exit_waves(positions):
            seen = intensity(fft2(waves)[:len(index)]).flatten(1)
            for number, one in zip(index, seen, strict=True):
                result[number] += weight * (covered @ one).cpu().numpy()
        return result

    def verify(self, annuli: Sequence[Annulus]) -> None:
        """Refuse annuli whose currents do not fit the allowed memory (ValueError); nothing of the specimen is computed."""
        wide = self._window(max(annulus.outer for annulus in annuli))
        if self.numerics.method == "prism":
            self._prism(wide, wide.samples // 2 - 1, True)
        else:
            self._beam(wide, dark_field=True)

    def window_corners(self, positions: np.ndarray) -> np.ndarray:
        """First sample (n, 2) int, (y, x), of the window in which the pattern at each position (n, 2) [m] is computed.

        Sample (i, j) lies at (i, j) * window.step; within a window the specimen is taken as periodic.
        """
        positions = np.asarray(positions, float).reshape(-1, 2)
        if self.numerics.method == "prism":
            return self._prism(self.window, self._kept()).window_corners(positions)
        return np.rint(positions / self.window.step).astype(np.int64) - self.window.samples // 2

    def shared_window(self) -> tuple[float, int]:
        """Edge [m] of the square of positions that share a window with method prism; its multislice runs a configuration."""
        beam = self._prism(self.window, self._kept())
        return beam.cell, beam.runs

    def _window(self, largest_angle: float, seen: float = 0.0) -> Window:
        """The grid around a probe for angles up to `largest_angle` [rad], pixel by pixel up to `seen`."""
        make = prism_window if self.numerics.method == "prism" else window
        return make(self.probe, self.camera, self._tiles.specimen.thickness, self.numerics, largest_angle, seen=seen)

    def _prism(self, grid: Window, kept: int, dark_field: bool = False) -> PrismBeam:
        key = grid, kept, dark_field
        if key not in self._prism_beams:
            self._prism_beams[key] = PrismBeam(self._tiles, self.probe, self._blur(grid, dark_field), *key)
        return self._prism_beams[key]

    def _prism_patterns(self, positions: np.ndarray, shifts: np.ndarray | None) -> np.ndarray:
        """Patterns from scattering matrices, which keep no more of the diffraction plane than the camera sees."""
        moved = None if shifts is None else shifts * self.window.oversampling / self.camera.pixel_angle
        return self._prism(self.window, self._kept()).patterns(positions, self._pixels, moved).cpu().numpy()

    def _blur(self, grid: Window, dark_field: bool) -> float:
        """Of the aperture's edge [rad]. Detectors without pixels need the least that puts the disc's area right."""
        if dark_field:
            return min(0.3 * self.camera.pixel_angle / grid.oversampling, self.probe.semi_convergence_angle / 3)
        return self.numerics.blur(self.probe.semi_convergence_angle, self.camera.pixel_angle)

    def _kept(self) -> int:
        """Frequencies either side of zero that the camera, or a pattern moved by the largest shift, needs."""
        more = 2 * self.numerics.largest_shift * self.window.oversampling / self.camera.pixel_angle
        return min(int(np.ceil(more)) + self._pixels.kept, self.window.samples // 2 - 1)

    def _beam(self, grid: Window, dark_field: bool = False) -> _Beam:
        if (grid, dark_field) not in self._beams:
            self._beams[grid, dark_field] = _Beam(self._tiles, self.probe, self._blur(grid, dark_field), grid, dark_field)
        return self._beams[grid, dark_field]

    def _ramps(self, shifts: np.ndarray) -> torch.Tensor:
        """Phase ramps that move patterns by (n, 2) [rad]."""
        samples, angle_step = self.window.samples, self.camera.pixel_angle / self.window.oversampling
        phase = np.exp(2j * np.pi / samples * (shifts / angle_step)[:, :, None] * np.arange(samples)).astype(np.complex64)
        ramp = torch.from_numpy(phase).to(self.numerics.device)
        return ramp[:, 0, :, None] * ramp[:, 1, None, :]


class _Beam:
    """A probe on one window: exit waves at any position."""

    def __init__(self, tiles: Tiles, probe: Probe, blur: float, grid: Window, dark_field: bool) -> None:
        self._tiles, self._probe, self._grid = tiles, probe, grid
        self._configurations = tiles.configurations(dark_field)
        self._offsets, self._source_weights = tiles.numerics.source(probe.source_sigma)
        self._layout: Layout = tiles.layout(grid, len(self._configurations), float(np.abs(self._offsets).max()))
        device = tiles.numerics.device
        changes, self._focus_weights = tiles.numerics.focus(probe.focal_spread)
        self._waves = [ProbeWaves(probe.refocused(probe.defocus + change), grid.samples, grid.step, device, blur)
                       for change in changes]
        self._step_on = propagator((grid.samples, grid.samples), grid.step, grid.slicing.distance, probe.high_tension,
                                   device, grid.band_limited)

    def exit_waves(self, positions: np.ndarray) -> Iterator[tuple[np.ndarray, float, torch.Tensor]]:
        """Positions' indices (m,), weight, and waves (at least m, N, N) whose first m belong to them.

        For every position the same weights come in the same order, and sum to 1.
        """
        tile = self._layout.tile(positions / self._grid.step)
        batch = _BATCH[self._tiles.numerics.device.split(":")[0]]
        for which in np.unique(tile, axis=0):
            corner = self._layout.corner(tuple(which.tolist()))
            inside = np.flatnonzero((tile == which).all(axis=1))
            for configuration in self._configurations:
                specimen = self._tiles.transmissions(self._grid, self._layout, tuple(which.tolist()), configuration,
                                                     self._probe.high_tension)
                for first in range(0, len(inside), batch):
                    index = inside[first:first + batch]
                    filled = positions[np.resize(index, batch)] if len(index) < batch else positions[index]
                    for weight, waves in self._behind(specimen, corner, filled):
                        yield index, weight / len(self._configurations), waves

    def _behind(self, specimen: torch.Tensor, corner: np.ndarray,
                positions: np.ndarray) -> Iterator[tuple[float, torch.Tensor]]:
        """Weights and exit waves of all source points and defocus values."""
        for offset, source_weight in zip(self._offsets, self._source_weights, strict=True):
            place = (positions + offset) / self._grid.step
            first = np.rint(place).astype(np.int64) - self._grid.samples // 2
            for probe_waves, focus_weight in zip(self._waves, self._focus_weights, strict=True):
                waves = exit_waves(probe_waves(place - first), specimen, first - corner, self._step_on)
                yield float(source_weight * focus_weight), waves


def check_device(device: str) -> None:
    """Refuse a device on which nothing can be computed here.

    Raises
    ------
    ValueError : it is neither cpu nor cuda, or torch finds no such graphics processor.
    """
    try:
        wanted = torch.device(device)
    except RuntimeError:
        raise ValueError(f"device {device!r} is not known; use one of {', '.join(map(repr, _BATCH))}") from None
    if wanted.type not in _BATCH:
        raise ValueError(f"device {device!r} is not served; use one of {', '.join(map(repr, _BATCH))}")
    if wanted.type == "cuda":
        found = torch.cuda.device_count() if torch.cuda.is_available() else 0
        if (wanted.index or 0) >= found:
            raise ValueError(f"device {device!r} is not available here, where torch finds {found} of its kind; use 'cpu'"
                             + (f" or 'cuda:{found - 1}'" if found else ""))


def coverage(annulus: Annulus, samples: int, angle_step: float) -> torch.Tensor:
    """How much of each sample of the diffraction plane an annulus covers, float32 (samples, samples), transform's order."""
    angle = np.fft.fftfreq(samples, 1 / samples)
    covered = np.zeros((samples, samples), np.float32)
    parts = (np.arange(4) - 1.5) / 4
    for dy in parts:
        for dx in parts:
            radius = np.hypot((angle + dy)[:, None], (angle + dx)[None, :]) * angle_step
            covered += (radius >= annulus.inner) & (radius < annulus.outer)
    return torch.from_numpy(covered / 16)
