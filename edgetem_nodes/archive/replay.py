"""A measured scan and its survey image, registered and ready to be replayed pixel by pixel."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from edgetem_nodes.archive.vendor import VendorFile
from edgetem_nodes.archive.vendor_axes import VendorFileError
from edgetem_nodes.physics.scan import Axis, ScanField

TOTAL = "total"
"""Survey made of the counts summed over each pixel's signal."""
_GATHERED = 64 << 20
"""[byte] of frames gathered at once while pixels are summed."""


class ReplaySet:
    """A scan and its survey on one grid.

    Attributes: `scan` as in the file; `field` after binning [m]; `axes`, `frame_shape`, `dtype` of one frame; `detector`;
    `survey_title`.
    """

    def __init__(self, file: str | Path, *, signal: str = "", survey: str = "", survey_signal: str = "", bin: int = 1,
                 step: float = 0.0, high_tension: float = 0.0) -> None:
        """Open the files and check that they belong together; reads two frames, to see that the file is complete.

        Parameters
        ----------
        file, signal : the scan and the title or number of its signal.
        survey, survey_signal : the survey's file (empty: the same one) and signal; "total": counts summed over each signal.
        bin : scan pixels along each axis that are summed to one.
        step : scan step before binning [m]; 0: the file's.
        high_tension : [V] where the file does not say it.

        Raises
        ------
        VendorFileError : a file cannot be used, there is no survey, or it has another shape than the scan.
        """
        source = VendorFile(file)
        self.scan = source.scan(signal, step, high_tension)
        self._bin = int(bin)
        full = self.scan.field
        if any(n % self._bin for n in full.shape):
            raise VendorFileError(f"scan of {full.shape[0]} x {full.shape[1]} in {file} cannot be binned by {bin}: both "
                                  "numbers must be divisible by it")
        centre = (self._bin - 1) / 2
        self.field = ScanField((full.origin[0] + centre * full.step[0], full.origin[1] + centre * full.step[1]),
                               (full.step[0] * self._bin, full.step[1] * self._bin),
                               (full.shape[0] // self._bin, full.shape[1] // self._bin))
        self.axes: list[Axis] = self.scan.axes
        self.frame_shape = self.scan.frame_shape
        self.dtype = _sum_dtype(self.scan.dtype, self._bin ** 2)
        self.detector = self.scan.detector
        self._survey, self.survey_title = self._registered(source, survey, survey_signal)
        self.scan.frames(np.array([0, full.shape[0] - 1]), np.array([0, full.shape[1] - 1]))

    def _registered(self, source: VendorFile, survey: str, survey_signal: str) -> tuple[np.ndarray | None, str]:
        """The survey (rows, columns) on the binned grid, None for the total counts, and its title."""
        full, binned = self.scan.field.shape, self.field.shape
        if survey_signal == TOTAL:
            return None, "total counts"
        if survey:
            file = VendorFile(survey)
            if not survey_signal:
                candidates = file.images(full) or file.images(binned)
                survey_signal = str(candidates[0]) if candidates else ""
        else:
            file = source
            if not survey_signal:
                candidates = file.images(full)
                if not candidates:
                    raise VendorFileError(f"{source.path} holds no image of the scan's shape {full}: name a file in "
                                          "'survey', or set survey_signal: total for the counts summed over each pixel")
                survey_signal = str(candidates[0])
        image = file.image(survey_signal)
        if image.data.shape == full:
            rows, columns = binned
            data = image.data.reshape(rows, self._bin, columns, self._bin).sum(axis=(1, 3))
        elif image.data.shape == binned:
            data = image.data
        else:
            raise VendorFileError(f"survey {image.title!r} of {image.path} has shape {image.data.shape}, the scan has "
                                  f"{full}: both must cover the same grid")
        if not np.isfinite(data).all():
            raise VendorFileError(f"survey {image.title!r} of {image.path} holds values that are not finite")
        return data, image.title or image.path.stem

    def survey(self) -> np.ndarray:
        """The survey, float64 (rows, columns), in the file's unit; binned pixels are summed."""
        if self._survey is None:
            rows, columns = self.field.shape
            self._survey = self.scan.total_counts().reshape(rows, self._bin, columns, self._bin).sum(axis=(1, 3))
        return self._survey

    def frames(self, candidates: np.ndarray) -> np.ndarray:
        """Frames (n, *frame_shape) of `dtype` at flat grid indices (n,); binned pixels are summed.

        Raises
        ------
        VendorFileError : the file cannot be read there.
        """
        rows, columns = np.divmod(np.asarray(candidates, np.int64), self.field.shape[1])
        if self._bin == 1:
            return self.scan.frames(rows, columns)
        inner = np.arange(self._bin)
        result = np.empty((len(rows), *self.frame_shape), self.dtype)
        frame_bytes = max(1, int(np.prod(self.frame_shape)) * self.scan.dtype.itemsize * self._bin ** 2)
        step = max(1, _GATHERED // frame_bytes)
        for first in range(0, len(rows), step):
            r = rows[first:first + step, None, None] * self._bin + inner[:, None]
            c = columns[first:first + step, None, None] * self._bin + inner[None, :]
            r, c = np.broadcast_arrays(r, c)
            parts = self.scan.frames(r.ravel(), c.ravel()).reshape(len(r), self._bin ** 2, *self.frame_shape)
            result[first:first + step] = parts.sum(axis=1, dtype=self.dtype)
        return result


def _sum_dtype(dtype: np.dtype, count: int) -> np.dtype:
    """The smallest type of the same kind that holds a sum of `count` values of `dtype`."""
    if count == 1 or dtype.kind not in "iu":
        return dtype
    bits = dtype.itemsize * 8 + int(count - 1).bit_length()
    size = next(size for size in (1, 2, 4, 8, 8) if size * 8 >= bits or size == 8)
    return np.dtype(f"<{dtype.kind}{size}")
