"""Single side band ptychography: the phase of a thin object from a raster of diffraction patterns, while it is scanned.

The sum over frames is linear: counts of the bright-field disk are kept as frames come, in any order, and an image is made of
what there is when it is asked for. Asked for after the last frame, it is that of the whole scan, bit for bit.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from edgetem_nodes.featurizer.features import CountingNoise
from edgetem_nodes.featurizer.patterns.events import Frames
from edgetem_nodes.featurizer.patterns.geometry import DetectorGeometry
from edgetem_nodes.featurizer.ptychography.bright_field import BrightField
from edgetem_nodes.featurizer.ptychography.trotters import Trotters
from edgetem_nodes.physics.electrons import wavelength
from edgetem_nodes.physics.optics import Probe
from edgetem_nodes.physics.scan import ScanField

ABERRATIONS = ("defocus", "astigmatism", "astigmatism_angle", "coma", "coma_angle", "spherical_aberration")
"""What can be corrected, named and signed as in `physics.optics.Probe` [m, rad]."""
_WEAK = 0.3
"""[rad] rms above which a phase is not weak: at twice that, a common peak, its sine is 6 % smaller."""
_LOST = 0.1
"""Share of the frequencies that are averaged away, or left out for thin overlaps, above which it is said."""
_BAND = 0.02
"""Share of the raster's frequencies within the band below which the step, or the high tension, is taken for a slip."""
_NEIGHBOURED = 2 / 3
"""Part of the visited positions that must have both neighbours in their row; less is no raster but a sparse scan."""
_SPARSE = ("a sparse scan: single side band ptychography interferes each position with its neighbours, and needs a raster "
           "without gaps; scan the region densely, or map the centre of mass instead")


def largest_step(high_tension: float, semi_convergence_angle: float) -> float:
    """Coarsest step [m] of a raster that holds every frequency of the phase image, wavelength / (4 semi-convergence angle)."""
    return wavelength(high_tension) / (4 * semi_convergence_angle)


def check_raster(field: ScanField, high_tension: float, semi_convergence_angle: float,
                 indices: np.ndarray | None = None) -> None:
    """Refuse a scan that single side band ptychography cannot use.

    Parameters
    ----------
    indices : flat indices (positions,) that are or will be visited; None: all of the field.

    Raises
    ------
    ValueError : the step is too coarse, the field is a line, or the positions are scattered.
    """
    if not semi_convergence_angle > 0:
        raise ValueError("the semi-convergence angle is not known (0 rad): calibrate the bright-field disk, or state it")
    if min(field.shape) < 4:
        raise ValueError(f"a field of {field.shape[0]} x {field.shape[1]} positions is no raster; single side band "
                         "ptychography needs 4 or more along each axis")
    limit = largest_step(high_tension, semi_convergence_angle)
    step = max(field.step)
    if min(field.step) < 0:
        raise ValueError(f"a scan step of {min(field.step) * 1e9:.4g} nm is negative: put the positions in the order in which "
                         "y and x rise")
    if not 0 < min(field.step) <= step <= limit * (1 + 1e-6):
        raise ValueError(f"a step of {step * 1e9:.4g} nm is too coarse for single side band ptychography, which needs a raster "
                         f"with a step of at most wavelength / (4 semi-convergence angle) = {limit * 1e9:.4g} nm at "
                         f"{high_tension / 1e3:g} kV and {semi_convergence_angle * 1e3:g} mrad: scan finer, or use parallax "
                         "imaging at a defocus")
    if indices is not None:
        visited = np.zeros(field.shape, bool)
        visited.ravel()[indices] = True
        _check_dense(visited)


def _check_dense(visited: np.ndarray) -> None:
    """Refuse places (rows, columns) bool that have no neighbours; a part of the rows from one on is a scan that goes on."""
    count = np.count_nonzero(visited)
    if count < visited.shape[1]:
        return
    came = np.flatnonzero(visited.any(axis=1))
    between = visited[came[0]:came[-1] + 1]
    if len(came) <= _NEIGHBOURED * len(between):
        raise ValueError(f"{len(came)} of the {len(between)} rows from {came[0]} to {came[-1]} have positions: {_SPARSE}")
    columns = between.copy()
    # The first and the last row may still be on their way: what has not come of them is no gap in their neighbours' columns.
    columns[[0, -1]] = True
    for places, scan, name in ((visited[:, 1:-1], visited, "row"), (between[1:-1].T, columns.T, "column")):
        whole = np.count_nonzero(places & scan[:, :-2] & scan[:, 2:])
        if whole < _NEIGHBOURED * np.count_nonzero(places):
            raise ValueError(f"{count} scattered positions of {visited.size}, of which {whole} have both neighbours in their "
                             f"{name}, are {_SPARSE}")


class SingleSideBand:
    """A phase image that grows with the scan.

    Attributes
    ----------
    disk : the counts kept, `BrightField`; its `failures` say which frames could not be used and why.
    standard_error : of the phase at any visited position, from counting statistics, at the last image [rad]; NaN before.
    caution : what to know of the last image: positions that are missing, frequencies that are lost, electrons that do not agree
        with the stated disk, a phase that is not weak; empty where nothing.
    """

    def __init__(self, field: ScanField, shape: tuple[int, int], geometry: DetectorGeometry, high_tension: float,
                 aberrations: Mapping[str, float] | None = None, *, binning: int = 1, usable: np.ndarray | None = None,
                 noise: CountingNoise | None = None, weights: str = "trotters", least_weight: float = 1.0,
                 memory_limit: int = 4 * 2**30) -> None:
        """Set up.

        Parameters
        ----------
        field : the raster; a step along each axis of at most wavelength / (4 semi-convergence angle).
        shape : (rows, columns) of a frame.
        geometry : of the detector, all of which is used: rotation, flip, distortion, descan.
        high_tension : [V].
        aberrations : to correct, by the names of `ABERRATIONS` [m, rad]; none by default.
        binning, usable, noise, memory_limit : see `BrightField`.
        weights : "trotters" or "least squares", see `trotters.WEIGHTS`.
        least_weight : [stored pixels] a frequency whose trotters are smaller is left out.

        Raises
        ------
        ValueError : the raster is too coarse, the geometry is not known, the disk does not lie on the detector, an aberration
            has no such name, there are no such weights, or memory does not suffice.
        """
        check_raster(field, high_tension, geometry.semi_convergence_angle)
        unknown = set(aberrations or {}) - set(ABERRATIONS)
        if unknown:
            raise ValueError(f"aberration {sorted(unknown)[0]!r} is not known; there are {', '.join(ABERRATIONS)}")
        self.field = field
        self.disk = BrightField(field, shape, geometry, binning=binning, usable=usable, noise=noise, memory_limit=memory_limit)
        probe = Probe(high_tension, geometry.semi_convergence_angle, **(aberrations or {}))
        self._trotters = Trotters(field, self.disk, probe, weights, least_weight)
        self._power = self._trotters.power()
        self.standard_error = np.nan
        self.caution = ""

    @property
    def visited(self) -> np.ndarray:
        """(rows, columns) bool, positions whose frame came and could be used."""
        return self.disk.visited

    def add(self, indices: int | np.ndarray, frames: Frames) -> None:
        """Take frames (frames, rows, columns) or events in, in any order: see `BrightField.add`."""
        self.disk.add(indices, frames)

    def image(self) -> np.ndarray:
        """Object transmission 1 + i phase, (rows, columns) complex128, from what has come; NaN where no usable frame has.

        Positions that have not come count as the mean of those that have, so within a probe's width of the border of what was
        visited the phase is less certain than `standard_error` says. The mean phase is not measured and is 0.

        Raises
        ------
        ValueError : the positions that came are a sparse scan; no electrons; part of the disk is dark.
        """
        _check_dense(self.visited)
        good = self.disk.usable()
        _check_dense(good.reshape(self.field.shape))
        means = self.disk.means(good)
        level = self._trotters.level(means)
        spectrum = self._trotters.spectrum(self.disk, means, good)
        phase = np.fft.irfft2(spectrum / (1j * level), self.field.shape)
        self.standard_error = float(np.sqrt((self.disk.variance(means) * self._power).sum() / len(good)) / level)
        self._note(good, float(phase.std()))
        phase.ravel()[~good] = np.nan
        return 1 + 1j * phase

    def phase(self) -> np.ndarray:
        """Phase (rows, columns) float64 [rad], to first order; NaN where no usable frame has come. See `image`."""
        return self.image().imag

    def _note(self, good: np.ndarray, rms: float) -> None:
        missing = len(good) - np.count_nonzero(good)
        rows = np.count_nonzero(good.reshape(self.field.shape).all(axis=1))
        notes = [] if not missing else [
            f"{missing} of {len(good)} positions have no usable frame ({len(self.disk.failures)} came but failed); {rows} of "
            f"{self.field.shape[0]} rows are complete; the others count as the mean"]
        trotters = self._trotters
        if trotters.averaged_away > _LOST:
            notes.append(f"{trotters.averaged_away:.0%} of the frequencies are lost: with these aberrations the pixels "
                         "average over them")
        if trotters.thin > _LOST:
            notes.append(f"{trotters.thin:.0%} of the frequencies are left out: their beams overlap in less than a pixel")
        if trotters.band < _BAND:
            notes.append(f"{trotters.band:.2%} of the raster's frequencies lie within twice the convergence angle: a step much "
                         "finer than needed, or a high tension or convergence angle in the wrong unit")
        notes += self.disk.edge.cautions(good)
        if rms > _WEAK and rms > 3 * self.standard_error:
            notes.append(f"a phase of {rms:.2g} rad rms is not weak: beyond {_WEAK:g} rad it is no longer in proportion")
        self.caution = "; ".join(notes)
