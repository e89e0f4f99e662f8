"""Images as they come: what can be used, at which scale, and which pixels are missing."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import scipy.fft
from scipy.ndimage import distance_transform_edt, gaussian_filter, zoom

from edgetem_nodes.featurizer.atoms.network import PIXEL_SIZE

SMALLEST = 32
"""Edge of an image [pixel]."""
COARSEST = 45e-12
"""Pixel size [m] above which columns are not resolved: a probe of 0.1 nm is then two pixels wide."""
WORKING = 20e-12
"""Pixel size [m] to which finer images are binned."""
GREATEST = 1e30
"""Value beyond which squares overflow: no detector counts so far."""
MOST_MISSING = 0.05
MOST_SATURATED = 0.002
"""Part of the pixels at the greatest value that is put up with."""
PLANES = 0.24e-9
"""Spacing [m] that the strongest planes are supposed to have where the pixel size is not known."""


class ImageError(ValueError):
    """An image in which no columns can be looked for; the message says why and what to do."""


@dataclass(frozen=True)
class PreparedImage:
    """An image that the network and the fit work on.

    Attributes
    ----------
    data : (rows, columns) float64, finite. missing : (rows, columns) bool, pixels that were filled in.
    binning : pixels of the file that make one of `data`, along each axis.
    magnification : of the image for the network alone.
    pixel_size : of `data` [m]; None: not known. notes : for people.
    """

    data: np.ndarray
    missing: np.ndarray
    binning: int
    magnification: float
    pixel_size: float | None
    notes: tuple[str, ...]


def prepared(image: np.ndarray, pixel_size: float | None) -> PreparedImage:
    """Check an image and bring it to the scale that the network knows.

    Parameters
    ----------
    image : (rows, columns) numbers. pixel_size : [m]; None: not known, the scale is then guessed from the image.

    Raises
    ------
    ImageError : see the message.
    """
    data, missing, notes = _checked(image)
    if pixel_size is None:
        guess = PLANES / plane_spacing(data)
        notes.append(f"the pixel size is not known: positions are in pixels; columns were looked for as if it were "
                     f"{guess * 1e12:.3g} pm")
    else:
        if not (np.isfinite(pixel_size) and pixel_size > 0):
            raise ImageError(f"pixel size {pixel_size} m is not a positive length; leave it out if it is not known")
        guess = float(pixel_size)
    if guess > COARSEST:
        raise ImageError(f"pixels of {guess * 1e12:.3g} pm are too coarse for columns: {COARSEST * 1e12:g} pm or finer are "
                         "needed; correct the pixel size if it is wrong (it is in metres)")
    binning = max(1, int(WORKING / guess + 0.5)) if guess < PIXEL_SIZE[0] else 1
    if min(data.shape) // binning < SMALLEST:
        raise ImageError(f"the image of {data.shape} pixels of {guess * 1e12:.3g} pm spans {min(data.shape) * guess * 1e9:.2g} "
                         f"nm: {SMALLEST * binning * guess * 1e9:.2g} nm or more are needed")
    scaled = guess * binning
    magnification = scaled / WORKING if scaled > PIXEL_SIZE[1] else 1.0
    return PreparedImage(binned(data, binning), binned(missing.astype(float), binning) > 0, binning, magnification,
                         None if pixel_size is None else scaled, tuple(notes))


def _checked(image: np.ndarray) -> tuple[np.ndarray, np.ndarray, list[str]]:
    image = np.asarray(image)
    if image.ndim != 2 or image.dtype.kind not in "fiub":
        raise ImageError(f"an array of shape {image.shape} and type {image.dtype} is no image: real numbers (rows, columns)")
    if min(image.shape) < SMALLEST:
        raise ImageError(f"an image of {image.shape} pixels is too small: {SMALLEST} or more along each axis")
    data, notes = image.astype(np.float64), []
    missing = ~np.isfinite(data)
    if missing.mean() > MOST_MISSING:
        raise ImageError(f"{100 * missing.mean():.1f} % of the pixels are not finite numbers; {100 * MOST_MISSING:g} % are put "
                         "up with: cut the image to its measured part")
    if missing.any():
        index = distance_transform_edt(missing, return_distances=False, return_indices=True)
        data = data[tuple(index)]
        notes.append(f"{missing.sum()} pixels were not finite numbers and were filled in; columns there are left out")
    if np.abs(data).max() > GREATEST:
        raise ImageError(f"the image reaches {np.abs(data).max():.3g}, no detector counts beyond {GREATEST:g}: wrong number "
                         "type or byte order, or damaged pixels; set those to NaN")
    if np.ptp(data) <= 1e-12 * max(abs(float(data.max())), 1e-300):
        raise ImageError(f"the image is constant ({data.flat[0]:g}): the beam was blanked, or the detector was off")
    saturated = float((data == data.max()).mean())
    if saturated > MOST_SATURATED and len(np.unique(data)) > 16:
        raise ImageError(f"{100 * saturated:.2g} % of the pixels are at the greatest value, {data.max():g}: saturated columns "
                         "have no amplitude; lower the detector's gain")
    return data, missing, notes


def binned(data: np.ndarray, binning: int) -> np.ndarray:
    """Mean of blocks of binning x binning pixels; what does not fill a block at the far edges is left out."""
    rows, columns = (n // binning for n in data.shape)
    return data[:rows * binning, :columns * binning].reshape(rows, binning, columns, binning).mean(axis=(1, 3))


def plane_spacing(data: np.ndarray) -> float:
    """Spacing [pixel] of the strongest planes: the highest peak of the power spectrum over its mean on a ring."""
    flat = data - gaussian_filter(data, min(data.shape) / 8)
    window = np.hanning(data.shape[0])[:, None] * np.hanning(data.shape[1])
    power = np.abs(scipy.fft.rfft2(flat * window)) ** 2
    frequency = np.hypot(scipy.fft.fftfreq(data.shape[0])[:, None], scipy.fft.rfftfreq(data.shape[1]))
    ring = np.rint(frequency * 2 * min(data.shape)).astype(int)
    mean = np.bincount(ring.ravel(), power.ravel()) / np.maximum(np.bincount(ring.ravel()), 1)
    allowed = (frequency > 4 / min(data.shape)) & (frequency < 0.4)
    return float(1 / frequency.flat[np.argmax(np.where(allowed, power * np.sqrt(power / np.maximum(mean[ring], 1e-300)), 0))])


def magnified(data: np.ndarray, factor: float) -> tuple[np.ndarray, np.ndarray]:
    """The image enlarged by cubic splines, and the factor (2,) that it came to."""
    if factor == 1.0:
        return data, np.ones(2)
    result = zoom(data, factor, order=3, mode="nearest", grid_mode=False)
    return result, (np.array(result.shape) - 1) / (np.array(data.shape) - 1)
