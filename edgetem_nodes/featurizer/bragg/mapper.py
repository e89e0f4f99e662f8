"""Strain and lattice rotation of every pattern, in the scan's axes, with errors or the reason why there is none."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from edgetem_nodes.featurizer.bragg.fitting import CONVERGED, UNDETERMINED
from edgetem_nodes.featurizer.bragg.learning import good, learn
from edgetem_nodes.featurizer.bragg.likelihood import Fits, LatticeLikelihood
from edgetem_nodes.featurizer.deformation import median_lattice, strain
from edgetem_nodes.featurizer.features import Features, finished
from edgetem_nodes.featurizer.patterns.events import Events, Frames, dense
from edgetem_nodes.featurizer.patterns.geometry import DetectorGeometry

NAMES = ("exx", "eyy", "exy", "rotation", "dilation", "lattice_chi_square", "pixel_chi_square", "disks", "disk_counts")
UNITS = ("", "", "", "rad", "", "", "", "", "counts")
_STRAINS = NAMES[:5]
_BLOCK = 256
_BAD_PIXELS = 1.5
"""Pearson's chi-square a pixel above which a pattern is not what the model says, and errors grow with it."""
_CLEAR, _FAINT = 6.0, 0.15
"""Standard errors by which a disk should stand out to be missed, and the part of its strength below which it is."""
_MISSED = 3
"""Fewest disks whose absence speaks of another crystal: a single weak one may fall below by chance."""


@dataclass(frozen=True)
class Reference:
    """The lattice that strain is relative to.

    Attributes
    ----------
    name : of what it is, for maps' titles.
    vectors : (2, 2) its two vectors as columns, (y, x) in the scan's axes [rad].
    """

    name: str
    vectors: np.ndarray

    @classmethod
    def of_region(cls, features: Features, region: np.ndarray, name: str = "median of a region") -> Reference:
        """The median lattice of rows (rows,) bool of a mapper's features.

        Raises
        ------
        ValueError : no row of the region is valid.
        """
        rows = features.valid & np.asarray(region, bool).ravel()
        if not rows.any():
            raise ValueError(f"none of the {int(np.sum(region))} patterns of the reference region has a lattice: take another")
        return cls(name, median_lattice(features.details["vectors"][rows]))

    @classmethod
    def of_crystal(cls, name: str, vectors: np.ndarray, wavelength: float) -> Reference:
        """A known crystal: two reciprocal vectors as columns (y, x) in the scan's axes [1/m], indexed as the mapper's
        `vectors` are, and the electrons' wavelength [m]."""
        return cls(name, wavelength * np.asarray(vectors, float))


@dataclass(frozen=True)
class Limits:
    """Beyond which a row is a failure.

    Attributes
    ----------
    error, strain : largest standard error of strain, and largest strain.
    misfit : largest root mean square distance of the disks from their lattice [radii of a disk].
    chi_square : largest reduced chi-square of the disks' places.
    pixel_chi_square : largest of the pixels, in units of what 19 of 20 patterns of the sample stay below.
    absent : largest part of the disks that should stand out that does not.
    """

    error: float = 0.03
    strain: float = 0.15
    misfit: float = 0.4
    chi_square: float = 20.0
    pixel_chi_square: float = 4.0
    absent: float = 1 / 3


class StrainMapper:
    """Turns blocks of patterns into rows of strain. A row depends on its own frame alone, and on the model.

    `names` are exx, eyy, exy, rotation (from x towards y), dilation, the reduced chi-square of the disks' places about the
    lattice and that of the pixels, the number of disks that stand out by themselves, and the counts in all disks. Details:
    `vectors` (rows, 2, 2) of the lattice as columns in the scan's axes [rad] and `vectors_covariance` (rows, 4, 4), `centre`
    (rows, 2) of the direct beam [pixel], `deformation` and `deformation_covariance`.
    """

    names, units = NAMES, UNITS

    def __init__(self, model: LatticeLikelihood, geometry: DetectorGeometry, reference: Reference | None = None,
                 limits: Limits | None = None) -> None:
        """From a learnt model; the reference is the sample's median lattice unless one is given."""
        self.model, self.geometry, self.limits = model, geometry, limits or Limits()
        self._to_scan = geometry.to_scan() @ (geometry.pixel_angle * np.asarray(geometry.distortion))
        self.reference = reference or Reference("median of the sample", self._to_scan @ model.lattice.basis)

    @classmethod
    def learn(cls, sample: Frames, geometry: DetectorGeometry, *, limits: Limits | None = None, **settings) -> StrainMapper:
        """A mapper for a scan, from a sample of its patterns; settings and errors are those of `learning.learn`."""
        return cls(learn(sample, geometry, **settings), geometry, limits=limits)

    def with_reference(self, reference: Reference) -> StrainMapper:
        """The same against another lattice."""
        return StrainMapper(self.model, self.geometry, reference, self.limits)

    def __call__(self, frames: Frames, positions: np.ndarray | None = None) -> Features:
        """Rows of frames.

        Parameters
        ----------
        frames : (rows, rows, columns), or events; of the sample's shape.
        positions : (rows, 2) of the probe [m], for a geometry with descan; None: as if at the origin.

        Raises
        ------
        ValueError : frames of another shape.
        """
        shape = frames.shape if isinstance(frames, Events) else frames.shape[1:]
        if tuple(shape) != self.model.background.shape:
            raise ValueError(f"patterns of {' x '.join(map(str, shape))} pixels do not fit a model learnt from "
                             f"{' x '.join(map(str, self.model.background.shape))}: learn it again")
        shifts = None if positions is None else self.geometry.shifts(positions)
        parts = []
        for first in range(0, len(frames), _BLOCK):
            part = slice(first, min(first + _BLOCK, len(frames)))
            parts.append(self.model.fit(dense(frames[part]), None if shifts is None else shifts[part]))
        if not parts:
            parts = [self.model.fit(np.zeros((0, *shape), np.uint16))]
        fits = Fits(**{name: np.concatenate([getattr(part, name) for part in parts]) for name in vars(parts[0])})
        return self._features(fits)

    def _features(self, fits: Fits) -> Features:
        scale = np.kron(self._to_scan, np.eye(2))
        vectors = self._to_scan @ fits.lattice[:, 2:].reshape(-1, 2, 2)
        freedom = np.maximum(2.0 * fits.found - 6.0, 1.0)
        covariance = scale @ fits.covariance[:, 2:, 2:] @ scale.T * _excess(fits, freedom)[:, None, None]
        nothing = np.full(len(freedom), np.nan)
        values = np.stack([*[nothing] * 5, fits.chi_square, fits.pixel_chi_square, fits.found, fits.strength], axis=1)
        counting = self.model.noise.variance(fits.strength)
        variances = np.stack([*[nothing] * 5, 2.0 / freedom, nothing, nothing, counting], axis=1)
        features = Features(values, np.sqrt(variances), self._failures(fits),
                            {"vectors": vectors, "vectors_covariance": covariance, "centre": fits.lattice[:, :2]})
        return strained(features, self.reference, self.limits)

    def _failures(self, fits: Fits) -> list[str]:
        """Why rows have no lattice."""
        total, threshold = len(self.model.indices), good(fits)
        failures = [""] * len(fits.outcome)
        off = self._off_detector(fits)
        a, b, d = np.moveaxis(fits.information, -1, 0)
        dy, dx = np.moveaxis(fits.shift, -1, 0)
        weight = (a + d) / 2
        misfit = np.sqrt((weight * (dy**2 + dx**2)).sum(axis=1) / np.maximum(weight.sum(axis=1), 1e-300) / 2)
        seen, absent = self._absent(fits)
        most = self.limits.pixel_chi_square * self.model.usual_chi_square
        reasons = (
            (fits.infinite > 0, lambda row: f"{fits.infinite[row]} of the pixels in use are not finite numbers"),
            (fits.saturated > 0, lambda row: f"{fits.saturated[row]} of the pixels in use are saturated"),
            (fits.counts <= 0, lambda row: "the pattern is empty"),
            (total - off < 3, lambda row: f"{off[row]} of {total} disks lie off the detector, 3 or more must lie on it"),
            ((fits.outcome == UNDETERMINED) & (fits.found < 3),
             lambda row: f"{fits.found[row]} of {total} disks were found, 3 or more are needed: too low a dose, or no such "
                         "lattice here"),
            ((fits.outcome == UNDETERMINED) | fits.on_line,
             lambda row: f"the {fits.found[row]} disks that were found lie on one line"),
            (fits.outcome != CONVERGED, lambda row: "the fit did not settle: too low a dose, or no such lattice here"),
            (~threshold,
             lambda row: f"no lattice stands out of the background, {fits.found[row]} of {total} disks do: too low a dose, or "
                         "no such lattice here"),
            (fits.chi_square > self.limits.chi_square,
             lambda row: f"the places of the disks have a reduced chi-square of {fits.chi_square[row]:.3g}, above the limit of "
                         f"{self.limits.chi_square:g}: no such lattice here"),
            ((absent > self.limits.absent * seen) & (absent >= _MISSED),
             lambda row: f"{absent[row]} of {seen[row]} disks that should be seen are not there: another crystal or grain"),
            (fits.pixel_chi_square > most,
             lambda row: f"the pixels have a chi-square of {fits.pixel_chi_square[row]:.3g}, above the limit of {most:.3g}, "
                         f"{self.limits.pixel_chi_square:g} times the sample's: no such lattice here"),
            (misfit > self.limits.misfit * self.model.template.radius,
             lambda row: f"the disks are {misfit[row]:.2g} pixels off a lattice: no such lattice here"),
        )
        for bad, reason in reasons:
            for row in np.flatnonzero(bad):
                failures[row] = failures[row] or reason(row)
        return failures

    def _absent(self, fits: Fits) -> tuple[np.ndarray, np.ndarray]:
        """Numbers (rows,) of disks that would stand out if they were as strong as in the sample, and of those that are not."""
        prior = self.model.prior_mean
        if prior is None:
            return np.zeros(len(fits.outcome), int), np.zeros(len(fits.outcome), int)
        expected = prior[:, 0] * fits.strength[:, None]
        clear = expected > _CLEAR * np.sqrt(np.maximum(fits.variances[:, :, 0], 1e-300))
        return clear.sum(axis=1), (clear & (fits.amplitudes[:, :, 0] < _FAINT * expected)).sum(axis=1)

    def _off_detector(self, fits: Fits) -> np.ndarray:
        """Number (rows,) of disks whose centre is off the detector."""
        lattice = np.nan_to_num(fits.lattice)
        places = lattice[:, None, :2] + np.asarray(self.model.indices) @ np.swapaxes(lattice[:, 2:].reshape(-1, 2, 2), 1, 2)
        shape = np.array(self.model.background.shape)
        return ((places < -0.5) | (places > shape - 0.5)).any(axis=-1).sum(axis=1)


def _excess(fits: Fits, freedom: np.ndarray) -> np.ndarray:
    """By how much (rows,) variances are larger than counting alone says, where pixels or disks fit too badly for chance."""
    pixels = np.where(fits.pixel_chi_square > _BAD_PIXELS, fits.pixel_chi_square, 1.0)
    disks = np.where(fits.chi_square > 1 + 4 * np.sqrt(2 / freedom), fits.chi_square, 1.0)
    return np.fmax(np.nan_to_num(pixels, nan=1.0), np.nan_to_num(disks, nan=1.0))


def strained(features: Features, reference: Reference, limits: Limits | None = None) -> Features:
    """A mapper's rows relative to another reference; what has failed before stays so.

    Raises
    ------
    ValueError : the reference's vectors lie on one line.
    """
    limits = limits or Limits()
    vectors, covariance = features.details["vectors"], features.details["vectors_covariance"]
    if not abs(np.linalg.det(reference.vectors)) > 1e-6 * np.abs(reference.vectors).max()**2:
        raise ValueError(f"the vectors of the reference {reference.name!r} lie on one line: {reference.vectors.tolist()}")
    back = np.linalg.inv(reference.vectors)
    # vectors = A @ reference: A's rows, flattened, are those of the vectors times the inverse
    scale = np.kron(np.eye(2), back.T)
    result = strain(vectors @ back, scale @ covariance @ scale.T)
    values, variances = features.values.copy(), features.standard_errors**2
    for column, name in enumerate(_STRAINS):
        values[:, column], variances[:, column] = getattr(result, name), result.variances[name]
    error = np.sqrt(np.max([result.variances[name] for name in _STRAINS[:4]], axis=0))
    largest = np.max(np.abs(values[:, :3]), axis=1)
    failures = list(features.failures)
    for row in np.flatnonzero(np.nan_to_num(error) > limits.error):
        failures[row] = failures[row] or (f"the standard error of the strain, {100 * error[row]:.2g} %, is above the limit of "
                                          f"{100 * limits.error:g} %: too few electrons in the disks")
    for row in np.flatnonzero(np.nan_to_num(largest) > limits.strain):
        failures[row] = failures[row] or (f"a strain of {100 * largest[row]:.3g} % is above the limit of "
                                          f"{100 * limits.strain:g} %: no such lattice here")
    details = {**features.details, "deformation": result.deformation, "deformation_covariance": result.deformation_covariance}
    return replace(finished(values, variances, failures), details=details)
