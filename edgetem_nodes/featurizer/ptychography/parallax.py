"""Parallax: tilt-corrected bright field. Each pixel of the bright-field disk sees a defocused object from its own direction.

Where the undiffracted beam overlaps with both diffracted ones, pixel k of the disk holds the defocused bright-field image of
the object, 2 sin(chi(Q)), moved by -grad chi(k) / 2 pi. Moved back, the images add up (Spoth et al., Microsc. Microanal. 23,
S1, 804, 2017; Yu et al., Nat. Methods 22, 2138, 2025; Varnavides et al., arXiv:2309.05250).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np

from edgetem_nodes.featurizer.features import CountingNoise
from edgetem_nodes.featurizer.patterns.events import Frames
from edgetem_nodes.featurizer.patterns.geometry import DetectorGeometry
from edgetem_nodes.featurizer.ptychography import kernels
from edgetem_nodes.featurizer.ptychography.aberration_fit import PARAMETERS, Evidence, turned, turned_geometry
from edgetem_nodes.featurizer.ptychography.bright_field import BrightField
from edgetem_nodes.featurizer.ptychography.trotters import aberration_slopes, aberration_terms, averaging
from edgetem_nodes.physics.optics import Probe
from edgetem_nodes.physics.scan import ScanField

_SIGNIFICANT = 6.0
"""Standard deviations of what noise gains by which the gain of the log likelihood must exceed it."""


@dataclass(frozen=True)
class ParallaxFit:
    """Aberrations and rotation under which the bright-field disk explains itself.

    Attributes
    ----------
    aberrations : by the names of `SingleSideBand`, which takes them [m, rad].
    geometry : that of the detector with the rotation and flip that were found.
    errors : standard errors of `aberration_fit.PARAMETERS` from counting statistics [m, rad]; NaN where not fitted.
    log_likelihood_gain : over noise alone.
    next_best : how far the best fit of the other handedness stays behind, in log likelihood; NaN where it was not tried.
    """

    aberrations: dict[str, float]
    geometry: DetectorGeometry
    errors: dict[str, float]
    log_likelihood_gain: float
    next_best: float = np.nan


class Parallax:
    """Aligned bright field of a defocused raster, and the aberrations it was taken with.

    Attributes
    ----------
    disk : the counts kept, `BrightField`.
    standard_error : of the last image, in its unit; NaN before.
    caution : where the electrons do not agree with the stated disk, at the last fit or image; empty where they do.
    """

    def __init__(self, field: ScanField, shape: tuple[int, int], geometry: DetectorGeometry, high_tension: float, *,
                 binning: int = 1, usable: np.ndarray | None = None, noise: CountingNoise | None = None,
                 memory_limit: int = 4 * 2**30) -> None:
        """Set up; parameters and errors are those of `SingleSideBand`, but the step may be coarser."""
        if min(field.shape) < 8:
            raise ValueError(f"a field of {field.shape[0]} x {field.shape[1]} positions is too small to align: 8 or more along "
                             "each axis are needed")
        self.field = field
        self.disk = BrightField(field, shape, geometry, binning=binning, usable=usable, noise=noise, memory_limit=memory_limit)
        self._probe = Probe(high_tension, geometry.semi_convergence_angle)
        self.standard_error = np.nan
        self.caution = ""

    def add(self, indices: int | np.ndarray, frames: Frames) -> None:
        """Take frames (frames, rows, columns) or events in, in any order: see `BrightField.add`."""
        self.disk.add(indices, frames)

    def fit(self, defocus_range: tuple[float, float], *, astigmatism: bool = True, coma: bool = False, rotation: bool = False,
            flip: bool = False) -> ParallaxFit:
        """Find aberrations, and rotation and handedness of the detector where asked.

        Parameters
        ----------
        defocus_range : least and largest defocus [m] to look at.
        astigmatism, coma : whether to fit them; else they are 0.
        rotation : whether to fit the rotation, from -90 to 90 degrees about that of the geometry. A detector turned by 180
            degrees looks like the opposite defocus and the opposite phase, so that much has to be known.
        flip : whether to try both handednesses of the detector.

        Raises
        ------
        ValueError : the scan is not complete, the range is none, or there is no significant signal.
        """
        low, high = defocus_range
        if not -np.inf < low < high < np.inf:
            raise ValueError(f"defocus_range {defocus_range} must be two numbers [m], the smaller first")
        evidence = Evidence(self.disk, self._probe, self._complete())
        free = np.array([True, astigmatism, astigmatism, coma, coma, rotation])
        fits = [evidence.best(defocus_range, flipped, free) for flipped in ((False, True) if flip else (False,))]
        fits.sort(key=lambda found: found.gain, reverse=True)
        best = fits[0]
        if not best.gain > evidence.chance + _SIGNIFICANT * np.sqrt(evidence.chance) + _SIGNIFICANT**2 / 2:
            raise ValueError(f"the bright-field disk shows no object between defocus {low * 1e9:.4g} and {high * 1e9:.4g} nm: "
                             f"the log likelihood gains {best.gain:.4g}, and {evidence.chance:.4g} by chance; widen the range, "
                             "or use more electrons")
        geometry = turned_geometry(self.disk, best.parameters[-1], best.flipped)
        if rotation:
            geometry = replace(geometry, errors={**geometry.errors, "rotation": float(best.errors[-1])})
        return ParallaxFit(best.aberrations, geometry, dict(zip(PARAMETERS, best.errors.tolist(), strict=True)), best.gain,
                           fits[0].gain - fits[1].gain if flip else np.nan)

    def image(self, fit: ParallaxFit, upsampling: int = 1) -> np.ndarray:
        """Aligned bright field (rows, columns) float64 over its mean; `upsampling` times as fine as the raster."""
        disk, good = self.disk, self._complete()
        means = disk.means(good)
        y, x = turned(disk, fit.geometry)
        slope_y, slope_x = aberration_slopes(y, x, self._terms(fit.aberrations))
        grid = self._grid(upsampling)
        total = np.zeros((2, len(grid[0]), len(grid[2])))
        for part, spectra in disk.spectra(means, good):
            kernels.add_aligned(spectra, self.field.shape[1], slope_y[part], slope_x[part], disk.coverage[part], *grid, *total)
        level = (disk.coverage * means).sum()
        self.standard_error = float(np.sqrt((disk.coverage**2 * disk.variance(means)).sum()) / level * upsampling)
        return 1 + self._inverse(total[0] + 1j * total[1], upsampling) / level

    def phase(self, fit: ParallaxFit, upsampling: int = 1, regularisation: float = 0.01) -> np.ndarray:
        """Phase (rows, columns) float64 [rad], mean 0, its transfer undone wherever the disk transfers anything.

        Parameters
        ----------
        upsampling : how many times as fine as the raster.
        regularisation : of the division by the transfer, relative to its largest square (Wiener filter).
        """
        disk, good = self.disk, self._complete()
        means = disk.means(good)
        weight, variance = 1 / disk.cautious_variance(means), disk.variance(means)
        y, x = turned(disk, fit.geometry)
        terms, grid = self._terms(fit.aberrations), self._grid(upsampling)
        total = np.zeros((4, len(grid[0]), len(grid[2])))
        for part, spectra in disk.spectra(means, good):
            kernels.add_matched(spectra, self.field.shape[1], y[part], x[part], disk.coverage[part], weight[part],
                                variance[part], disk.radius, *grid, terms, *total)
        left = averaging(terms, grid[1], grid[2], disk)
        total *= np.stack([left, left, left**2, left**2])
        total[:, 0, 0] = 0
        filtered = total[2] + regularisation * total[2].max()
        level = (disk.coverage * means).sum() / (disk.coverage**2).sum()
        spectrum = (total[0] + 1j * total[1]) / filtered / (1j * level)
        columns = upsampling * self.field.shape[1]
        twice = np.where((np.arange(len(grid[2])) == 0) | (2 * np.arange(len(grid[2])) == columns), 1, 2)
        self.standard_error = float(np.sqrt((total[3] / filtered**2 * twice).sum() / len(good)) / level)
        return self._inverse(spectrum, upsampling)

    def _complete(self) -> np.ndarray:
        good = self.disk.usable()
        if not good.all():
            missing = np.count_nonzero(~good)
            raise ValueError(f"{missing} of {len(good)} positions have no usable frame"
                             + (f" ({next(iter(self.disk.failures.values()))})" if self.disk.failures else "")
                             + ": parallax needs the whole raster; use a field of the rows that are complete")
        self.caution = "; ".join(self.disk.edge.cautions(good))
        return good

    def _terms(self, aberrations: Mapping[str, float]) -> np.ndarray:
        return aberration_terms(replace(self._probe, **aberrations), self.disk.pitch)

    def _grid(self, upsampling: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Rows' frequencies [1/field], and those of rows and columns [stored pixels], of an image finer than the raster."""
        (rows, columns), step = self.field.shape, self.field.step
        scale = self._probe.wavelength / self.disk.pitch
        row = np.rint(np.fft.fftfreq(rows * upsampling) * rows * upsampling).astype(np.int64)
        column = np.arange(columns * upsampling // 2 + 1)
        return row, row * scale / (rows * step[0]), column * scale / (columns * step[1])

    def _inverse(self, spectrum: np.ndarray, upsampling: int) -> np.ndarray:
        shape = tuple(upsampling * size for size in self.field.shape)
        return np.fft.irfft2(spectrum, shape) * upsampling**2
