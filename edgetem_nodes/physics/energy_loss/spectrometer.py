"""Expected energy-loss spectra at probe positions: single losses by thickness, plural scattering in Fourier space."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from edgetem_nodes.physics.electrons import ELEMENTARY_CHARGE
from edgetem_nodes.physics.energy_loss.low_loss import (
    FARTHEST_LOSS, bulk_rate, edge_excitation, edge_loss, surface_loss, zero_loss_peak)
from edgetem_nodes.physics.energy_loss.materials import MATERIALS, Material, material
from edgetem_nodes.physics.optics import full_width
from edgetem_nodes.physics.scan import Axis
from edgetem_nodes.physics.specimens import Condition, Specimen

BEST_RESOLUTION = 3e-3
"""[eV] of the best monochromated instruments (Krivanek et al., Ultramicroscopy 203, 60 (2019): 4.2 meV)."""
LARGEST_COLLECTION_ANGLE = 0.2
"""[rad] that lenses pass to a spectrometer."""
MOST_CHANNELS = 65536
MOST_POINTS = 131072
"""Of the Fourier grid: one thickness table then takes 27 MiB."""
DAMPING = 9.0
"""Losses beyond the end of the Fourier grid come back at its beginning weakened by exp(-DAMPING)."""
THICKNESSES = 1e-9 * np.array([0, .1, .2, .335, .5, .65, .8, 1, 1.3, 1.7, 2.2, 3, 4, 5.5, 7.5, 10, 14, 20, 28, 40, 60, 90,
                               140, 220, 350, 600])
"""[m] at which a slab's losses are tabulated; between them they are interpolated linearly."""
TABLE = np.concatenate([np.arange(0.02, 8.0, 0.02), np.arange(8.0, 40.0, 0.1), np.arange(40.0, 120.0, 1.0),
                        np.geomspace(120.0, 400.0, 12)])
"""[eV] at which surface losses are computed; between them they are interpolated."""
NARROW_PROBE = 0.3e-9
"""[m] below which the width of the probe is neglected: low losses are delocalised over 1 nm and more."""
SUBDIVISIONS = 8
"""Points at which single losses are evaluated within a channel."""
BLOCK = 64
"""Spectra worked on at once; always as many, so that a spectrum's rounding does not depend on its companions."""


class BeamForming(Protocol):
    """What energy losses ask of a probe: optics.Probe has it. SI units."""

    high_tension: float
    semi_convergence_angle: float
    defocus: float
    source_size: float


@dataclass(frozen=True)
class Spectrometer:
    """An electron energy-loss spectrometer and its camera.

    Attributes
    ----------
    offset_eV : energy loss at the centre of channel 0.
    dispersion_eV : width of a channel.
    channels : number of channels.
    resolution_eV : full width at half maximum of the zero-loss peak, source and spectrometer together.
    collection_angle : half angle of the entrance aperture [rad].

    Raises
    ------
    ValueError : an unphysical value.
    """

    offset_eV: float = -10.0
    dispersion_eV: float = 0.05
    channels: int = 1024
    resolution_eV: float = 0.3
    collection_angle: float = 30e-3

    def __post_init__(self) -> None:
        if not math.isfinite(self.offset_eV):
            raise ValueError(f"offset {self.offset_eV} eV is not a number: give the energy loss of the first channel")
        if not 0 < self.dispersion_eV < math.inf:
            raise ValueError(f"dispersion {self.dispersion_eV} eV a channel is not positive: a channel has a width")
        if not 2 <= self.channels <= MOST_CHANNELS:
            raise ValueError(f"{self.channels} channels are not within 2 to {MOST_CHANNELS}")
        if not self.resolution_eV >= BEST_RESOLUTION:
            raise ValueError(f"resolution {self.resolution_eV} eV is better than the limit of electron sources and "
                             f"spectrometers, {BEST_RESOLUTION} eV: give the width of the zero-loss peak")
        if not self.dispersion_eV <= self.resolution_eV < math.inf:
            raise ValueError(f"resolution {self.resolution_eV} eV is narrower than a channel, {self.dispersion_eV} eV: the "
                             "camera cannot resolve it; raise the resolution or lower the dispersion")
        if not 0 < self.collection_angle <= LARGEST_COLLECTION_ANGLE:
            raise ValueError(f"collection angle {1e3 * self.collection_angle:g} mrad is not within 0 to "
                             f"{1e3 * LARGEST_COLLECTION_ANGLE:g} mrad, what lenses pass")
        if self._points() > MOST_POINTS:
            raise ValueError(f"{self.energies[-1]:g} eV at {self.dispersion_eV} eV a channel need {self._points()} points "
                             f"from the zero loss on, more than {MOST_POINTS}: raise the dispersion or lower the offset")

    @property
    def energies(self) -> np.ndarray:
        """Energy loss (channels,) [eV] at the centre of every channel."""
        return self.offset_eV + self.dispersion_eV * np.arange(self.channels)

    @property
    def axis(self) -> Axis:
        """The energy axis as frames carry it, in J."""
        scale, offset = self.dispersion_eV * ELEMENTARY_CHARGE, self.offset_eV * ELEMENTARY_CHARGE
        return Axis("energy_loss", "J", scale, offset, self.channels)

    @property
    def lead(self) -> int:
        """Channels that the Fourier grid begins before channel 0, so that it holds the zero-loss peak."""
        wanted = max(5.0, 12 * self.resolution_eV)
        return max(0, math.ceil((self.offset_eV + wanted) / self.dispersion_eV))

    def _points(self) -> int:
        from scipy.fft import next_fast_len

        return next_fast_len(math.ceil(1.25 * (self.lead + self.channels)), real=True)

    @property
    def points(self) -> int:
        """Length of the Fourier grid."""
        return self._points()


class EnergyLoss:
    """Expected energy-loss spectra of a specimen.

    Neglected: elastic scattering out of the collection aperture, retardation, the coupling of faces of different layers,
    aloof losses other than the rim's own plasmon, and channelling.

    Parameters
    ----------
    specimen : its `layers` give thickness and materials; where its `edge_mode` is true, `edge_distance` and the material's
        edge mode give the rim's plasmon.
    probe : high tension, semi-convergence angle, defocus and source size. Layers and distances are averaged over its width.
    spectrometer : see there.
    materials : by the names that `layers` uses.

    Raises
    ------
    ValueError : the specimen says that it has an edge mode, and none of its materials has one.
    """

    def __init__(self, specimen: Specimen, probe: BeamForming, spectrometer: Spectrometer,
                 materials: dict[str, Material] = MATERIALS) -> None:
        self.specimen, self.probe, self.spectrometer, self.materials = specimen, probe, spectrometer, materials
        count = spectrometer.points
        indices = np.arange(count)
        self._tilt = DAMPING / count
        self._damping = np.exp(-self._tilt * indices)
        lattice = spectrometer.offset_eV + spectrometer.dispersion_eV * (indices - spectrometer.lead)
        peak = zero_loss_peak(lattice, spectrometer.resolution_eV, spectrometer.dispersion_eV)
        self._zero_loss = np.fft.rfft(peak * self._damping) * self.collected
        channels = slice(spectrometer.lead, spectrometer.lead + spectrometer.channels)
        self._channels, self._restoring = channels, 1 / self._damping[channels]
        self._tables: dict[str, tuple[np.ndarray, np.ndarray]] = {}
        self._edge_tables: dict[str, np.ndarray] = {}

    @property
    def collected(self) -> float:
        """Fraction of the unscattered cone that the entrance aperture passes."""
        return min(1.0, self.spectrometer.collection_angle / max(self.probe.semi_convergence_angle, 1e-9)) ** 2

    @property
    def probe_width(self) -> float:
        """Full width at half maximum [m] of the probe: diffraction, source and defocus added in quadrature."""
        return full_width(self.probe)

    def spectra(self, positions: np.ndarray, condition: Condition | None = None) -> np.ndarray:
        """Expected fraction of the beam in each channel, float32 (n, channels), at positions (n, 2), (y, x) [m].

        A row depends on its own position alone.

        Raises
        ------
        ValueError : a layer's material is unknown, or its thickness is negative or not a number.
        """
        positions = np.asarray(positions, float).reshape(-1, 2)
        layers, edge = self.excitations(positions, condition or Condition())
        result = np.empty((len(positions), self.spectrometer.channels), np.float32)
        for start in range(0, len(positions), BLOCK):
            rows = slice(start, start + BLOCK)
            chosen = {name: thickness[rows] for name, thickness in layers.items()}
            result[rows] = self._block(chosen, {name: weight[rows] for name, weight in edge.items()})
        return result

    def excitations(self, positions: np.ndarray,
                    condition: Condition) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
        """Thickness (n,) [m] of every material, and probability (n,) of a rim's plasmon by its material, over the probe."""
        layers: dict[str, np.ndarray] = {}
        edge: dict[str, np.ndarray] = {}
        for shift, weight in zip(*self._probe_points(), strict=True):
            shifted = positions + shift
            here = self.specimen.layers(shifted, condition)
            for name, thickness in here.items():
                thickness = np.asarray(thickness, float)
                if not (thickness >= 0).all():
                    wrong = thickness[~(thickness >= 0)][0]
                    raise ValueError(f"layer {name!r} is {wrong} m thick: a thickness is 0 or more")
                layers[name] = layers.get(name, 0.0) + weight * thickness
            for name, probability in self._edge_probability(shifted, here).items():
                edge[name] = edge.get(name, 0.0) + weight * probability
        return layers, edge

    def _edge_probability(self, positions: np.ndarray, layers: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        if not getattr(self.specimen, "edge_mode", False):
            return {}
        distance = self.specimen.edge_distance(positions)
        if distance is None:
            return {}
        modes = {name: self._material(name).edge_mode for name in layers if self._material(name).edge_mode}
        if not modes:
            raise ValueError(f"the specimen has an edge mode, but none of its materials ({', '.join(layers)}) has one: set "
                             "its edge_mode to false")
        return {name: edge_excitation(distance, mode, self.probe.high_tension) for name, mode in modes.items()}

    def _probe_points(self) -> tuple[np.ndarray, np.ndarray]:
        """Points and weights that integrate over a Gaussian probe: seven, to fifth order; one if it is narrow."""
        if self.probe_width < NARROW_PROBE:
            return np.zeros((1, 2)), np.ones(1)
        sigma = self.probe_width / math.sqrt(8 * math.log(2))
        angles = np.arange(6) * math.pi / 3
        ring = 2 * sigma * np.stack([np.sin(angles), np.cos(angles)], axis=-1)
        return np.concatenate([np.zeros((1, 2)), ring]), np.array([0.5, *[1 / 12] * 6])

    def _block(self, layers: dict[str, np.ndarray], edge: dict[str, np.ndarray]) -> np.ndarray:
        rows = len(next(iter(layers.values())))

        def padded(values: np.ndarray) -> np.ndarray:
            return np.concatenate([values, np.zeros(BLOCK - rows)])

        exponent = np.zeros((BLOCK, len(self._zero_loss)), complex)
        for name, thickness in layers.items():
            if not thickness.any():
                continue
            knots, table = self._table(name)
            lower, fraction = _bracket(knots, padded(thickness))
            exponent += (1 - fraction)[:, None] * table[lower]
            exponent += fraction[:, None] * table[lower + 1]
        for name, probability in edge.items():
            exponent += padded(probability)[:, None] * self._edge_table(name)
        np.exp(exponent, out=exponent)
        exponent *= self._zero_loss
        spectra = np.fft.irfft(exponent, self.spectrometer.points, axis=1)[:rows, self._channels]
        return np.maximum(spectra * self._restoring, 0.0)

    def _material(self, name: str) -> Material:
        return self.materials[name] if name in self.materials else material(name)

    def _losses(self) -> np.ndarray:
        """Energy (points, SUBDIVISIONS) [eV] within each step of the grid of losses; step 0 is centred on no loss."""
        inside = (np.arange(SUBDIVISIONS) + 0.5) / SUBDIVISIONS - 0.5
        return (np.arange(self.spectrometer.points)[:, None] + inside) * self.spectrometer.dispersion_eV

    def _transform(self, density: np.ndarray, beyond: float = 0.0) -> np.ndarray:
        """Exponent (frequencies,) of the Poisson series of single losses with density (points, SUBDIVISIONS) [1/eV].

        The Fourier transform less the probability of any loss, of which `beyond` lies past the end of the grid.
        """
        probability = density.mean(axis=-1) * self.spectrometer.dispersion_eV
        return np.fft.rfft(probability * self._damping) - (probability.sum() + beyond)

    def _table(self, name: str) -> tuple[np.ndarray, np.ndarray]:
        """Exponents of the Poisson series (thicknesses, frequencies) at THICKNESSES."""
        if name not in self._tables:
            chosen, probe, angle = self._material(name), self.probe, self.spectrometer.collection_angle
            optics = (probe.high_tension, probe.semi_convergence_angle, angle)
            losses = self._losses()
            positive, end = losses > 0, losses[-1, -1]
            density = np.zeros(losses.shape)
            density[positive], scale = bulk_rate(chosen, losses[positive], *optics)
            far = np.geomspace(end, max(FARTHEST_LOSS, 2 * end), 2000)
            bulk = self._transform(density, np.trapezoid(bulk_rate(chosen, far, *optics)[0], far))
            faces = scale * surface_loss(chosen, TABLE, THICKNESSES[1:], probe.high_tension, max(optics[1:]))
            table = np.zeros((len(THICKNESSES), len(bulk)), complex)
            for row, (thickness, loss) in enumerate(zip(THICKNESSES[1:], faces, strict=True), start=1):
                beyond = np.trapezoid(np.interp(far, TABLE, loss, right=0.0), far)
                table[row] = thickness * bulk + self._transform(np.interp(losses, TABLE, loss, left=0.0, right=0.0), beyond)
            self._tables[name] = (THICKNESSES, table)
        return self._tables[name]

    def _edge_table(self, name: str) -> np.ndarray:
        """Exponent (frequencies,) of a certain excitation of the rim's plasmon."""
        if name not in self._edge_tables:
            losses = self._losses()
            mode = self._material(name).edge_mode
            density = np.where(losses > 0, edge_loss(mode, losses), 0.0)
            on_grid = density.mean(axis=-1).sum() * self.spectrometer.dispersion_eV
            self._edge_tables[name] = self._transform(density, max(0.0, 1.0 - on_grid))
        return self._edge_tables[name]


def _bracket(knots: np.ndarray, values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Index of the knot below each value, and how far the value lies on the way to the next; linear beyond the last."""
    lower = np.clip(np.searchsorted(knots, values, side="right") - 1, 0, len(knots) - 2)
    return lower, (values - knots[lower]) / (knots[lower + 1] - knots[lower])
