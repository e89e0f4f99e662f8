"""An endless specimen in tiles: square boxes whose transmission functions are computed when a probe first needs them.

Sample (i, j) of the specimen lies at (i, j) * step whatever tile holds it. A tile is a core, in which the probes stand, and
a border of half a window for what they see, and a rim that is thrown away because the box is periodic and the specimen is
not.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from edgetem_nodes.physics.electrons import interaction_constant
from edgetem_nodes.physics.fourier import fast_length, fft2, ifft2
from edgetem_nodes.physics.multislice import transmission
from edgetem_nodes.physics.potential import potential_layers, thermal_displacements
from edgetem_nodes.physics.numerics import Numerics
from edgetem_nodes.physics.sampling import Window
from edgetem_nodes.physics.specimens import Atoms, Condition, Specimen

RIM = 1.5e-9
"""[m] at the border of a box, where atoms beyond it are missing and band-limited functions ring."""
_ATOM_RADIUS = 0.1e-9
_LARGEST = {True: 1280, False: 512}
"""Samples of the potential along a box's edge, of a thin specimen and of a thick one, if the window leaves the choice."""
_BYTES = 8
_THIN_CONFIGURATIONS = 2
_FINER = 2.0
_POTENTIAL_STEP = 0.25e-10
"""[m] at which atoms are resolved well enough for exp(i sigma V), however few of its frequencies are seen."""


def refinement(window: Window) -> float:
    """Samples of the potential a sample of the window, a multiple of 1/2.

    The transmission function of a thin specimen keeps only its frequencies below the window's Nyquist frequency, but is made
    from the potential on a finer grid, since it is not linear in it.
    """
    if window.band_limited:
        return 1.0
    return max(_FINER, math.ceil(2 * window.step / _POTENTIAL_STEP) / 2)


@dataclass(frozen=True)
class Layout:
    """How the plane is cut: samples of a tile's core and of its whole box, and the distance of their corners."""

    core: int
    box: int
    border: int

    def tile(self, place: np.ndarray) -> np.ndarray:
        """Tile (n, 2) int of probes at (n, 2) samples of the specimen."""
        return np.floor_divide(np.rint(place).astype(np.int64), self.core)

    def corner(self, tile: tuple[int, int]) -> np.ndarray:
        """First sample (2,) of a tile's box."""
        return np.asarray(tile) * self.core - self.border


class Cache:
    """What was used last, up to a limit of memory [bytes]. Values tell their size: `nbytes`."""

    def __init__(self, limit: int) -> None:
        self._limit, self._held = limit, 0
        self._values: OrderedDict[Any, Any] = OrderedDict()

    def get(self, key: Any, make: Callable[[], Any], size: int) -> Any:
        """The value of a key; made, after room for `size` bytes was made, if it is not there."""
        if key in self._values:
            self._values.move_to_end(key)
            return self._values[key]
        while self._values and self._held + size > self._limit:
            self._held -= self._values.popitem(last=False)[1].nbytes
        value = make()
        self._held += value.nbytes
        self._values[key] = value
        return value


class Tiles:
    """Transmission functions of a specimen in one condition."""

    def __init__(self, specimen: Specimen, numerics: Numerics, seed: int, condition: Condition,
                 atoms_filter: Callable[[Atoms], Atoms] | None) -> None:
        self.specimen, self.numerics, self.seed, self.condition = specimen, numerics, seed, condition
        self._atoms_filter = atoms_filter
        self.cache = Cache(numerics.memory_mib * 2 ** 20)

    def configurations(self, dark_field: bool) -> list[int | None]:
        """Frozen-phonon configurations; [None] for Debye-Waller factors, which leave out thermal diffuse scattering.

        At the angles of a dark-field detector that is most of the signal, so there thin specimens have configurations too; a
        few do, because hardly any atoms overlap.
        """
        count = self.numerics.phonon_configurations
        if not self.specimen.crystalline:
            count = min(count, _THIN_CONFIGURATIONS) if dark_field else 0
        return list(range(count)) if count else [None]

    def layout(self, window: Window, configurations: int, overreach: float = 0.0) -> Layout:
        """Tiles for a window whose probes stand up to `overreach` [m] outside their tile's core.

        All phonon configurations of a tile are to fit the memory together; if that leaves no room, one at a time.

        Raises
        ------
        ValueError : the window does not fit a tile at the allowed memory.
        """
        rim = math.ceil((RIM + overreach) / window.step) + 2
        around = window.samples + 2 * rim
        limit = self.numerics.memory_mib * 2 ** 20 / (_BYTES * window.slicing.count)
        alone, together = int(math.sqrt(limit)), int(math.sqrt(limit / 2 / configurations))
        least = around + window.samples // 8
        if fast_length(least) > alone:
            needed = fast_length(least) ** 2 * _BYTES * window.slicing.count / 2 ** 20
            slicing, thickness = window.slicing, self.specimen.thickness
            raise ValueError(f"a probe window of {window.length * 1e9:.3g} nm, {window.samples} samples, in "
                             f"{slicing.count} slices of {slicing.distance * 1e9:.3g} nm needs tiles of {needed:.0f} MiB, "
                             f"and memory_mib allows {self.numerics.memory_mib}: raise numerics.memory_mib or "
                             f"numerics.slice_nm, use a thinner specimen than {thickness * 1e9:.3g} nm, a smaller probe or "
                             "coarser camera pixels")
        edge = together
        if together < around + window.samples // 2:
            edge = max(fast_length(least), int(alone / math.sqrt(2)))
        largest = max(int(_LARGEST[window.slicing.thin] / refinement(window)), around + window.samples)
        edge = max(min(edge, largest), fast_length(least))
        while fast_length(edge) != edge:
            edge -= 1
        return Layout(edge - around, edge, window.samples // 2 + rim)

    def transmissions(self, window: Window, layout: Layout, tile: tuple[int, int], configuration: int | None,
                      high_tension: float) -> torch.Tensor:
        """Transmission functions (slices, box, box) complex64 of a tile, down to the last slice that holds atoms."""
        size = window.slicing.count * layout.box ** 2 * _BYTES
        key = (window, layout, tile, configuration, high_tension)
        return self.cache.get(key, lambda: self._made(window, layout, tile, configuration, high_tension), size)

    def atoms(self, low: np.ndarray, high: np.ndarray) -> Atoms:
        """Atoms of a box [m] after what the beam has done to them."""
        atoms = self.specimen.atoms(low, high, self.condition)
        return atoms if self._atoms_filter is None else self._atoms_filter(atoms)

    def potential(self, window: Window, layout: Layout, tile: tuple[int, int], configuration: int | None,
                  finer: float = 1.0) -> Iterator[torch.Tensor]:
        """Projected potentials [V m], float32 (n, n), n = box * finer, of a tile's slices on the window's grid made finer."""
        low = layout.corner(tile) * window.step
        high = low + layout.box * window.step
        atoms = self.atoms(low + _ATOM_RADIUS, high - _ATOM_RADIUS)
        moved = None if configuration is None else thermal_displacements(atoms, self.seed, configuration)
        samples = round(layout.box * finer)
        return potential_layers(atoms, low, window.step / finer, (samples, samples), window.slicing, moved,
                                self.numerics.device)

    def _made(self, window: Window, layout: Layout, tile: tuple[int, int], configuration: int | None,
              high_tension: float) -> torch.Tensor:
        finer, device = refinement(window), self.numerics.device
        fade = torch.from_numpy(_fade(round(layout.box * finer), RIM / (layout.box * window.step))).to(device)
        fade = fade[:, None] * fade
        result = torch.empty((window.slicing.count, layout.box, layout.box), dtype=torch.complex64, device=device)
        filled = 1
        for number, layer in enumerate(self.potential(window, layout, tile, configuration, finer)):
            if bool(layer.any()):
                filled = number + 1
            layer *= fade
            if window.band_limited:
                result[number] = transmission(layer, window.step, high_tension)
            else:
                phase = layer * interaction_constant(high_tension)
                result[number] = resampled(torch.polar(torch.ones_like(phase), phase), layout.box)
        return result if filled == len(result) else result[:filled].clone()


def _fade(samples: int, rim: float) -> np.ndarray:
    """Rises from 0 to 1 over the outer half of the rim, a fraction of the box, at both ends: float32 (samples,).

    The potential of a box jumps at its border, and what is band-limited rings far from a jump.
    """
    inward = np.minimum(np.arange(samples) + 0.5, samples - 0.5 - np.arange(samples)) / samples
    return np.sin(np.pi / 2 * np.minimum(inward / (rim / 2), 1.0)).astype(np.float32) ** 2


def resampled(wave: torch.Tensor, samples: int) -> torch.Tensor:
    """A periodic wave (n, n) on fewer samples (samples, samples): the frequencies below their Nyquist frequency."""
    fine = wave.shape[-1]
    order = torch.arange(-(samples // 2) + 1, (samples + 1) // 2, device=wave.device)
    coarse = torch.zeros((samples, samples), dtype=wave.dtype, device=wave.device)
    coarse[order[:, None] % samples, order[None, :] % samples] = fft2(wave)[order[:, None] % fine, order[None, :] % fine]
    return ifft2(coarse) * (samples / fine)
