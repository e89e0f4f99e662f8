"""Nanobeam patterns of known materials under random conditions, with the truth: what networks are trained on.

Disks that do not touch are filled with rocking curves (`rocking`), moved by strain and rotation, distorted, blurred and
counted. `physics.diffraction` computes the same patterns probe by probe, some thousand times more slowly, and is what the
result is tested with.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import scipy.fft

from edgetem_nodes.featurizer.cbed.diffuse import STEP, WIDTHS, carbon_profiles, thermal_profiles, transfer
from edgetem_nodes.featurizer.cbed.disk_drawing import draw_disks, draw_radial, edge_profiles
from edgetem_nodes.featurizer.cbed.materials import Material
from edgetem_nodes.featurizer.cbed.rocking import REACH, RockingTable, rocking_table
from edgetem_nodes.physics.electrons import wavelength

_PAD = 4
"""Pixels around the camera, so that what is spread does not come back round the edge."""
_APART = 0.44
"""Largest semi-convergence angle over the angle of the first shell: strained disks do not touch."""
_SMALLEST = 1.3
"""Least radius of a disk [pixel]."""
_SEEN = REACH / np.sqrt(2) * 1.05
"""Largest spatial frequency along an axis of a camera [1/m]: beyond the corner there are no disks in the tables."""


@dataclass(frozen=True)
class ConditionRanges:
    """From what conditions are drawn; pairs are least and largest, uniform unless said otherwise. SI units.

    Attributes
    ----------
    high_tensions : one of these [V].
    semi_convergence_angle : [rad], logarithmic; less where disks would touch.
    pixels : cameras, one of these a batch.
    shells : half the camera's width over the angle of the first shell of disks.
    strain : largest absolute value of exx, eyy, exy.
    rotation : of the lattice [rad].
    tilt : largest tilt of the zone axis [rad]; small ones are as likely as large ones. At most 20 mrad.
    electrons : in the beam for a pattern, logarithmic.
    offset : largest distance of the beam's centre from the camera's, over its width, along an axis.
    distortion : largest ellipticity, longer over shorter axis less 1.
    edge_blur : of the aperture's edge in amplitude [pixel].
    point_spread : standard deviation [pixel].
    diffuse : thermal diffuse scattering over what elastic scattering lacks; also of sheets.
    amorphous : part of the electrons that an amorphous layer scatters; half of the patterns have none.
    losses : plasmons an electron excites in 100 nm; half of the patterns are zero-loss filtered. loss_energy : [eV].
    vacancies : part of a sheet's atoms that is missing; half of the patterns have none.
    slope : of the background across the camera, largest relative change from its middle to its edge.
    """

    high_tensions: tuple[float, ...] = (60e3, 80e3, 120e3, 200e3, 300e3)
    semi_convergence_angle: tuple[float, float] = (1e-3, 3e-3)
    pixels: tuple[int, ...] = (64, 96, 128)
    shells: tuple[float, float] = (1.5, 4.0)
    strain: float = 0.03
    rotation: tuple[float, float] = (-np.pi, np.pi)
    tilt: float = 16e-3
    electrons: tuple[float, float] = (3e2, 1e6)
    offset: float = 0.05
    distortion: float = 0.01
    edge_blur: tuple[float, float] = (0.3, 1.0)
    point_spread: tuple[float, float] = (0.0, 0.6)
    diffuse: tuple[float, float] = (0.5, 1.3)
    amorphous: tuple[float, float] = (0.0, 0.15)
    losses: tuple[float, float] = (0.5, 1.5)
    loss_energy: tuple[float, float] = (15.0, 25.0)
    vacancies: tuple[float, float] = (0.0, 0.05)
    slope: float = 0.1

    @classmethod
    def plain(cls, **changes: object) -> ConditionRanges:
        """Without what disturbs: an ideal camera, an edge as the virtual microscope's, thermal diffuse scattering alone."""
        return replace(cls(offset=0.0, distortion=0.0, edge_blur=(0.6, 0.6), point_spread=(0.0, 0.0), diffuse=(1.0, 1.0),
                           amorphous=(0.0, 0.0), losses=(0.0, 0.0), vacancies=(0.0, 0.0), slope=0.0), **changes)


@dataclass(frozen=True)
class Conditions:
    """Of n patterns: what was drawn, SI units. Vectors are (y, x), see `NanobeamBatch` for what is in both.

    Attributes
    ----------
    material, high_tension, semi_convergence_angle, pixel_angle, thickness, electrons, edge_blur, point_spread, diffuse,
    amorphous, losses, loss_energy, vacancies : (n,).
    deformation : (n, 2, 2). tilt, offset, slope : (n, 2); offset of the beam from the camera's middle [pixel].
    distortion : (n, 2, 2), of `DetectorGeometry`.
    """

    material: np.ndarray
    high_tension: np.ndarray
    semi_convergence_angle: np.ndarray
    pixel_angle: np.ndarray
    thickness: np.ndarray
    electrons: np.ndarray
    edge_blur: np.ndarray
    point_spread: np.ndarray
    diffuse: np.ndarray
    amorphous: np.ndarray
    losses: np.ndarray
    loss_energy: np.ndarray
    vacancies: np.ndarray
    deformation: np.ndarray
    tilt: np.ndarray
    offset: np.ndarray
    slope: np.ndarray
    distortion: np.ndarray


@dataclass(frozen=True)
class NanobeamBatch:
    """Patterns and the truth about them. SI units; vectors and matrices in (y, x) of the camera.

    Attributes
    ----------
    patterns : (n, pixels, pixels) float32, counts.
    pixel_angle, high_tension, semi_convergence_angle, electrons : (n,).
    centre : (n, 2) of the undiffracted beam [pixel].
    distortion : (n, 2, 2), symmetric, of determinant 1, of the camera as calibrated: a pixel's angle is
        pixel_angle * distortion @ (pixel - centre), as in `DetectorGeometry`.
    material : (n,) number in the generator's materials.
    deformation : (n, 2, 2) F, x' = F x from the material's reference lattice, the rotation included.
    reciprocal : (n, 2, 2) rows a*, b* of the deformed lattice [1/m].
    tilt : (n, 2) direction of the zone axis [rad]: it passes depth z at z * tilt.
    thickness : (n,) [m]; of a sheet its number of layers times their spacing.
    vacancy_fraction : (n,) of a sheet.
    disk_places : (n, most, 2) [pixel]; disk_counts : (n, most) mean counts on the camera, before they are spread; NaN: no
        such disk on the camera. The direct beam comes first.
    expected : (n, pixels, pixels) float32, mean counts.
    """

    patterns: np.ndarray
    pixel_angle: np.ndarray
    high_tension: np.ndarray
    semi_convergence_angle: np.ndarray
    electrons: np.ndarray
    centre: np.ndarray
    distortion: np.ndarray
    material: np.ndarray
    deformation: np.ndarray
    reciprocal: np.ndarray
    tilt: np.ndarray
    thickness: np.ndarray
    vacancy_fraction: np.ndarray
    disk_places: np.ndarray
    disk_counts: np.ndarray
    expected: np.ndarray


def rotation(angle: np.ndarray) -> np.ndarray:
    """Matrices (..., 2, 2) on (y, x) that turn x towards y by angles (...,) [rad]."""
    cosine, sine = np.cos(angle), np.sin(angle)
    return np.stack([np.stack([cosine, sine], axis=-1), np.stack([-sine, cosine], axis=-1)], axis=-2)


class _Strained:
    """Where a deformed slab's beams are, and where in the table of the undeformed one their intensities stand.

    Phases of propagation and of potential go with thickness over area of the cell: a slab of thickness t with F scatters as
    one of t / det F without, where tilts are det F F^-1 times as large. That is exact for isotropic strain (but for the
    scattering factors); what is left of each beam's excitation error is made up for by a shift along it.
    """

    def __init__(self, material: Material, table: RockingTable, deformation: np.ndarray, thickness: float) -> None:
        length = wavelength(table.high_tension)
        inverse = np.linalg.inv(deformation)
        self.reciprocal = material.reciprocal_reference @ inverse
        vectors, reference = table.indices @ self.reciprocal, table.indices @ material.reciprocal_reference
        self.angles = length * vectors
        swelling = 1.0 if material.sheet else float(np.linalg.det(deformation))
        self.plane, self.weight = table.plane(thickness / swelling)
        self.amplitudes = table.amplitudes[self.plane:self.plane + 2]
        self.back = swelling * inverse
        square = (reference ** 2).sum(axis=1)
        excess = length / 2 * (swelling * (vectors ** 2).sum(axis=1) - square)
        self.shifts = reference * (excess / np.maximum(square, square[1]))[:, None]


class NanobeamGenerator:
    """Draws patterns. Tables of rocking curves are made, or read from the cache, when a material first meets a high tension."""

    def __init__(self, materials: Sequence[Material], ranges: ConditionRanges | None = None, cache: Path | None = None,
                 absorption: bool = True, tilt_step: float | None = None) -> None:
        """A generator for these materials; `material` of a batch counts in their order.

        Parameters
        ----------
        cache : folder for tables, about 40 MB a crystal and high tension; None: they are computed anew.
        absorption : as of `rocking_table`. tilt_step : of tables of crystals [rad]; None: the usual one.

        Raises
        ------
        ValueError : no materials, or conditions that cannot be.
        """
        self.materials, self.ranges = tuple(materials), ranges or ConditionRanges()
        self._cache, self._absorption, self._tilt_step = cache, absorption, tilt_step
        if not self.materials:
            raise ValueError("a generator needs at least one material")
        if not 0 <= self.ranges.tilt <= 20e-3:
            raise ValueError(f"a largest tilt of {self.ranges.tilt * 1e3:.3g} mrad is not between 0 and 20 mrad")
        if not 0 < self.ranges.semi_convergence_angle[0] <= self.ranges.semi_convergence_angle[1]:
            raise ValueError(f"semi-convergence angles {self.ranges.semi_convergence_angle} rad are not positive and ascending")
        self._largest = self.ranges.tilt * 1.05 + self.ranges.semi_convergence_angle[1] * 1.3 + 1e-3
        self._tables: dict[tuple[int, float], RockingTable] = {}

    def prepare(self, progress: Callable[[int, int], None] | None = None) -> None:
        """Make or read all tables; `progress(done, total)` is told of each."""
        wanted = self.wanted_tables()
        for done, (number, tension) in enumerate(wanted):
            self.table(number, tension)
            if progress is not None:
                progress(done + 1, len(wanted))

    def wanted_tables(self) -> list[tuple[int, float]]:
        """Numbers of materials and high tensions [V] of all tables."""
        return [(number, float(tension)) for number in range(len(self.materials)) for tension in self.ranges.high_tensions]

    def table(self, material: int, high_tension: float) -> RockingTable:
        """Rocking curves of a material, by its number, at a high tension [V]."""
        key = material, high_tension
        if key not in self._tables:
            self._tables[key] = self.computed_table(material, high_tension)
        return self._tables[key]

    def computed_table(self, material: int, high_tension: float) -> RockingTable:
        """The same, computed or read anew."""
        step = None if self.materials[material].sheet else self._tilt_step
        return rocking_table(self.materials[material], high_tension, self._largest, step, self._cache, self._absorption)

    def keep_table(self, material: int, table: RockingTable) -> None:
        """Use a table of a material, by its number, that was computed elsewhere."""
        self._tables[material, table.high_tension] = table

    def draw(self, count: int, rng: np.random.Generator, pixels: int | None = None) -> NanobeamBatch:
        """`count` patterns on a camera of `pixels`, or of one drawn from the ranges."""
        pixels = int(rng.choice(self.ranges.pixels)) if pixels is None else pixels
        return self.patterns(self.conditions(count, pixels, rng), pixels, rng)

    def conditions(self, count: int, pixels: int, rng: np.random.Generator) -> Conditions:
        """Conditions of `count` patterns on a camera of `pixels` along an axis."""
        ranges = self.ranges

        def even(pair: tuple[float, float], shape: tuple[int, ...] = (count,)) -> np.ndarray:
            return rng.uniform(*pair, shape)

        def halved(pair: tuple[float, float]) -> np.ndarray:
            return even(pair) * rng.integers(0, 2, count)

        material, tension = rng.integers(len(self.materials), size=count), rng.choice(ranges.high_tensions, count)
        shell = np.array([self.materials[m].shortest * wavelength(v) for m, v in zip(material, tension, strict=True)])
        angle = np.exp(even(tuple(np.log(ranges.semi_convergence_angle))))
        angle = np.minimum(angle, _APART * shell * rng.uniform(0.8, 1.0, count))
        seen = np.array([_SEEN / self.materials[m].shortest for m in material])
        most = np.minimum(np.minimum(ranges.shells[1], seen), pixels / 2 * angle / (_SMALLEST * shell))
        least = np.minimum(ranges.shells[0], most)
        reach = (least + (most - least) * rng.random(count)) * shell
        thickness = np.array([self._thickness(m, rng) for m in material])
        exx, eyy, exy = ranges.strain * rng.uniform(-1, 1, (3, count))
        stretch = np.stack([np.stack([1 + eyy, exy], -1), np.stack([exy, 1 + exx], -1)], -2)
        azimuth, size = rng.uniform(0, 2 * np.pi, count), ranges.tilt * rng.random(count)
        longer, along = even((0.0, ranges.distortion)) / 2, rng.uniform(0, np.pi, count)
        turn = rotation(along)
        stretched = turn @ (np.exp(longer[:, None] * np.array([-1, 1]))[:, :, None] * np.swapaxes(turn, 1, 2))
        sheets = np.array([self.materials[m].sheet for m in material])
        return Conditions(
            material, tension, angle, reach / (pixels / 2), thickness, np.exp(even(tuple(np.log(ranges.electrons)))),
            even(ranges.edge_blur), even(ranges.point_spread), even(ranges.diffuse), halved(ranges.amorphous),
            halved(ranges.losses) * thickness / 100e-9, even(ranges.loss_energy), halved(ranges.vacancies) * sheets,
            rotation(even(ranges.rotation)) @ stretch, size[:, None] * np.stack([np.sin(azimuth), np.cos(azimuth)], axis=1),
            pixels * ranges.offset * rng.uniform(-1, 1, (count, 2)),
            ranges.slope * rng.uniform(-1, 1, (count, 2)) / reach[:, None], stretched)

    def _thickness(self, number: int, rng: np.random.Generator) -> float:
        """Of one specimen [m]; half of the sheets have a single layer."""
        material = self.materials[number]
        if not material.sheet:
            return float(rng.uniform(*material.thicknesses))
        layers = 1 if rng.random() < 0.5 or material.layers == 1 else int(rng.integers(2, material.layers + 1))
        return layers * material.spacing

    def patterns(self, conditions: Conditions, pixels: int, rng: np.random.Generator | None) -> NanobeamBatch:
        """Patterns under given conditions; without `rng` no counting noise: `patterns` are the expected counts."""
        count, side = len(conditions.material), pixels + 2 * _PAD
        images = np.zeros((count, side, side), np.float32)
        most = max(len(self.table(int(m), float(v)).indices)
                   for m, v in set(zip(conditions.material.tolist(), conditions.high_tension.tolist(), strict=True)))
        places, sums = np.full((count, most, 2), np.nan), np.full((count, most), np.nan)
        centre = pixels // 2 + conditions.offset
        reciprocal = np.empty((count, 2, 2))
        profiles, wholes = edge_profiles(conditions.semi_convergence_angle / conditions.pixel_angle, conditions.edge_blur)
        for number in range(count):
            reciprocal[number] = self._draw_one(images[number], conditions, number, centre[number] + _PAD, profiles[number],
                                                wholes[number], places[number], sums[number])
        if (conditions.point_spread > 0).any() or (conditions.losses > 0).any():
            factors = transfer((side, side), conditions.pixel_angle, conditions.point_spread, conditions.losses,
                               conditions.loss_energy, conditions.high_tension)
            images = scipy.fft.irfft2(scipy.fft.rfft2(images) * factors, s=(side, side))
        expected = np.maximum(images[:, _PAD:-_PAD, _PAD:-_PAD], 0) * conditions.electrons[:, None, None].astype(np.float32)
        patterns = expected if rng is None else rng.poisson(expected).astype(np.float32)
        places -= _PAD
        seen = ((places > -0.5) & (places < pixels - 0.5)).all(axis=-1)
        return NanobeamBatch(
            patterns, conditions.pixel_angle, conditions.high_tension, conditions.semi_convergence_angle, conditions.electrons,
            centre, conditions.distortion, conditions.material, conditions.deformation, reciprocal, conditions.tilt,
            conditions.thickness, conditions.vacancies, np.where(seen[..., None], places, np.nan),
            np.where(seen, sums * conditions.electrons[:, None], np.nan), expected)

    def _draw_one(self, image: np.ndarray, conditions: Conditions, number: int, centre: np.ndarray, profile: np.ndarray,
                  whole: float, places: np.ndarray, sums: np.ndarray) -> np.ndarray:
        """Draw a pattern of a beam of 1 into an image; enter where disks lie and what they hold; its reciprocal vectors."""
        material = self.materials[int(conditions.material[number])]
        tension = float(conditions.high_tension[number])
        table = self.table(int(conditions.material[number]), tension)
        strained = _Strained(material, table, conditions.deformation[number], float(conditions.thickness[number]))
        pixel_angle, tilt = float(conditions.pixel_angle[number]), conditions.tilt[number]
        to_angle = pixel_angle * conditions.distortion[number]
        to_pixel = np.linalg.inv(to_angle)
        beams = len(strained.angles)
        places[:beams] = centre + strained.angles @ to_pixel.T
        sums[:beams] = 0.0
        # a beam of a sheet with vacancies loses (1 - f)^2, of which the direct beam keeps what is not scattered diffusely
        scale = np.full(beams, (1 - conditions.vacancies[number]) ** 2)
        scale[0] = 1.0
        scale *= (1 - conditions.amorphous[number]) / whole
        draw_disks(image, sums, strained.amplitudes, strained.weight, table.step, strained.angles, centre, to_angle, to_pixel,
                   strained.back, tilt, strained.shifts, float(conditions.semi_convergence_angle[number]), pixel_angle, profile,
                   scale)
        background = self._background(table, conditions, number, strained)
        if background.any():
            length = wavelength(tension)
            draw_radial(image, background * (pixel_angle / length) ** 2, STEP * length, centre, to_angle,
                        conditions.slope[number])
        return strained.reciprocal

    def _background(self, table: RockingTable, conditions: Conditions, number: int,
                    strained: _Strained) -> np.ndarray:
        """Radial profile (points,) of what is between the disks for a beam of 1, in steps of `STEP` [m^2]."""
        material = self.materials[int(conditions.material[number])]
        middle = table.elastic.shape[-1] // 2
        y, x = np.clip(np.rint(-strained.back @ conditions.tilt[number] / table.step).astype(int) + middle, 0, 2 * middle)
        nearest = min(strained.plane + round(strained.weight), len(table.thicknesses) - 1)
        beams = (table.amplitudes[nearest, :, y, x] / 65535.0) ** 2
        vacant = conditions.vacancies[number]
        thermal = conditions.diffuse[number] * (1 - table.elastic[nearest, y, x]) + vacant * (1 - vacant) * beams[1:].sum()
        # the beams scatter diffusely all the way through: half of their final spread
        square = (table.indices @ material.reciprocal_reference) ** 2
        width = 0.5 * np.sqrt((beams @ square).sum() / max(beams.sum(), 1e-6))
        place = np.interp(width, WIDTHS, np.arange(len(WIDTHS)))
        result = np.zeros(thermal_profiles(material).shape[1])
        for share, profiles in ((thermal, thermal_profiles(material)), (conditions.amorphous[number], carbon_profiles())):
            if share > 0:
                below = min(int(place), len(WIDTHS) - 2)
                result += share * (profiles[below] + (place - below) * (profiles[below + 1] - profiles[below]))
        return result
