"""Scalars of any crystal in nanobeam diffraction: strain from Bragg disks, orientation by template matching."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from edgetem_nodes.archive.pattern_file import PatternFile
from edgetem_nodes.archive.pattern_formats import open_patterns
from edgetem_nodes.featurizer.features import CountingNoise, Features, finished
from edgetem_nodes.featurizer.parameters import BraggStrain, Orientation
from edgetem_nodes.featurizer.patterns.instrument import PatternInstrument
from edgetem_nodes.physics.scan import Axis

SAMPLE = 64 << 20
"""[byte] of patterns from which a lattice is learnt."""
AMBIGUOUS = 0.02
"""Reliability below which two orientations fit a pattern alike."""
COMPONENTS = ("dilation", "exx", "eyy", "exy", "rotation")


@dataclass(frozen=True)
class CrystalSettings:
    """A parameter group, and what is known of the instrument.

    Attributes
    ----------
    prepare : makes of raw frames what the scalarizer is given: corrected or counted ones; None: they are the same.
    mask : (rows, columns) bool, pixels that have a value; None: all.
    """

    group: BraggStrain | Orientation
    instrument: PatternInstrument
    prepare: Callable[[np.ndarray], np.ndarray] | None = None
    mask: np.ndarray | None = None


class BraggStrainScalarizer:
    """Strain and rotation of any crystal, in the scan's axes, relative to the median lattice of a sample of patterns.

    Lattice, disks and background are learnt once from the sample, a file; a row then depends on its own frame alone. Columns:
    the chosen component first, then the other four [%, deg]; reduced chi-square of the disks' places; counts in the disks.
    """

    def __init__(self, settings: CrystalSettings, noise: CountingNoise, axes: tuple[Axis, ...]) -> None:
        from edgetem_nodes.featurizer.bragg import Limits, StrainMapper

        group, instrument = settings.group, settings.instrument
        geometry = instrument.geometry(axes)
        if not group.sample:
            raise ValueError("bragg_strain.sample is empty: name a file of patterns of this specimen, from which its "
                             "lattice is learnt")
        file = open_patterns(group.sample)
        _check_shape(file, axes)
        _, sample = file.sample(SAMPLE)
        if settings.prepare is not None:
            sample = np.nan_to_num(settings.prepare(sample))
        limit = group.largest_strain_percent / 100
        self._mapper = StrainMapper.learn(sample, geometry, contrast=group.contrast, most_disks=group.most_disks,
                                          limits=Limits(strain=limit), noise=noise, mask=settings.mask)
        names = list(self._mapper.names)
        shown = [group.component, *(name for name in COMPONENTS if name != group.component)]
        self._order = [names.index(name) for name in (*shown, "lattice_chi_square", "disk_counts")]
        self._scale = np.array([*(180 / math.pi if name == "rotation" else 100.0 for name in shown), 1.0, 1.0])
        self.names = (*shown, "lattice_chi_square", "disk_counts")
        self.units = (*("deg" if name == "rotation" else "%" for name in shown), "", "counts")

    def __call__(self, frames: np.ndarray) -> Features:
        rows = self._mapper(frames)
        values, errors = rows.values[:, self._order] * self._scale, rows.standard_errors[:, self._order] * self._scale
        return finished(values, errors**2, rows.failures)


def _check_shape(file: PatternFile, axes: tuple[Axis, ...]) -> None:
    shape = tuple(axis.size for axis in axes)
    if tuple(file.frame_shape) != shape:
        raise ValueError(f"bragg_strain.sample {file.path} holds frames of {file.frame_shape}, the detector's are {shape}: "
                         "name a file of patterns of this detector")


class OrientationScalarizer:
    """Orientation of a crystal by template matching. Columns: the chosen quantity first, then the others.

    All are counted from the reference orientation, by the equivalent that is nearest to it: `misorientation` [deg]; `tilt`
    [deg] of the reference's zone axis from where it lay; `in_plane` [deg] turn about the beam, -180 to 180, from x towards y;
    score and reliability of the match. Where two orientations fit alike (reliability below `AMBIGUOUS`) the one nearer to the
    reference counts. Errors: those of turns, from scatter about the model; a bias common to all reflections, as of dynamical
    diffraction, is not in them.
    """

    def __init__(self, settings: CrystalSettings, noise: CountingNoise, axes: tuple[Axis, ...]) -> None:
        from edgetem_nodes.featurizer.orientation.crystal import Crystal
        from edgetem_nodes.featurizer.orientation.disks import DiskSearch
        from edgetem_nodes.featurizer.orientation.dynamical import DynamicalRefinement
        from edgetem_nodes.featurizer.orientation.library import Library
        from edgetem_nodes.featurizer.orientation.mapping import OrientationMapper, Settings

        group, instrument = settings.group, settings.instrument
        geometry, shape = instrument.geometry(axes), tuple(axis.size for axis in axes)
        if not group.structure:
            raise ValueError("orientation.structure is empty: name a structure file (CIF, ...) of the crystal")
        self._reference = _rotation(group.reference)
        y, x = geometry.center
        reach = min(y, x, shape[0] - 1 - y, shape[1] - 1 - x) * geometry.pixel_angle
        self._crystal = Crystal.of(group.structure)
        library = Library([self._crystal], instrument.high_tension, reach, step=math.radians(group.step_deg),
                          thickness=group.thickness_nm * 1e-9)
        self._mapper = OrientationMapper(library, geometry, Settings(lowest_score=group.lowest_score),
                                         DynamicalRefinement(library) if group.bloch_waves else None)
        radius = instrument.semi_convergence_angle / geometry.pixel_angle
        self._search = DiskSearch(shape, radius, mask=settings.mask, noise=noise)
        columns = ("misorientation", "tilt", "in_plane", "score", "reliability")
        self._order = [columns.index(group.quantity), *(k for k, name in enumerate(columns) if name != group.quantity)]
        self.names = tuple(columns[k] for k in self._order)
        self.units = tuple("deg" if k < 3 else "" for k in self._order)

    def __call__(self, frames: np.ndarray) -> Features:
        from edgetem_nodes.featurizer.orientation.misorientation import nearest_equivalents

        found = self._mapper(frames, self._search)
        symmetry = self._crystal.symmetry
        matrices = nearest_equivalents(found.matrices, self._reference, symmetry)
        other = nearest_equivalents(found.second_matrices, self._reference, symmetry)
        near = [np.einsum("ij,nij->n", self._reference, np.nan_to_num(one)) for one in (matrices, other)]
        rival = (found.reliability < AMBIGUOUS) & (near[1] > near[0])
        turn = np.where(rival[:, None, None], other, matrices) @ self._reference.T
        skew = np.stack([turn[:, 1, 2] - turn[:, 2, 1], turn[:, 2, 0] - turn[:, 0, 2], turn[:, 0, 1] - turn[:, 1, 0]], axis=1)
        angle = np.arctan2(np.linalg.norm(skew, axis=1) / 2, (np.trace(turn, axis1=1, axis2=2) - 1) / 2)
        tilt = np.arctan2(np.hypot(turn[:, 1, 0], turn[:, 2, 0]), turn[:, 0, 0])
        in_plane = np.arctan2(turn[:, 1, 2] - turn[:, 2, 1], turn[:, 1, 1] + turn[:, 2, 2])
        z, y, x = found.standard_errors.T
        degrees = np.degrees(np.stack([angle, tilt, in_plane], axis=1))
        turned, tilted = np.degrees(z)**2, (np.degrees(y)**2 + np.degrees(x)**2) / 2
        spread = np.stack([np.maximum(turned, tilted), tilted, turned, np.zeros(len(z)), np.zeros(len(z))], axis=1)
        values = np.concatenate([degrees, found.scores[:, None], found.reliability[:, None]], axis=1)
        return finished(values[:, self._order], spread[:, self._order], list(found.failures))


def _rotation(numbers: list[float]) -> np.ndarray:
    """The reference orientation (3, 3), (z, y, x), from nine numbers; the crystal's axes along the scan's by default."""
    if not numbers:
        return np.eye(3)
    matrix = np.array(numbers, float)
    if matrix.size != 9 or not np.allclose(matrix.reshape(3, 3) @ matrix.reshape(3, 3).T, np.eye(3), atol=1e-3):
        raise ValueError(f"orientation.reference {numbers} must be the nine numbers of a rotation, row by row, (z, y, x); "
                         "empty: the crystal's axes lie along the scan's")
    return matrix.reshape(3, 3)
