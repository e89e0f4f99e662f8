"""The scan's step from a stated lattice, in the dark field of the whole scan."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

import numpy as np

from edgetem_nodes.featurizer.calibration.deflection import levelled
from edgetem_nodes.featurizer.calibration.plane_lattice import PlaneLattice
from edgetem_nodes.featurizer.calibration.scan_scale import ScanScale, fit_scan_steps
from edgetem_nodes.featurizer.patterns.detectors import annular_dark_field
from edgetem_nodes.operator.processing.feature import Context, FusedPass
from edgetem_nodes.physics.scan import ScanField

DARK_FIELD = "dark field of the lattice"


def measure_steps(context: Context, blocks: Iterable[tuple[np.ndarray, np.ndarray]]) -> None:
    """Enter the scan's steps as the stated lattice shows them, or a note why it does not; the scan then has these steps.

    Parameters
    ----------
    blocks : places (n,) and frames (n, rows, columns) of the whole file; not read where the lattice cannot be seen.
    """
    calibration, source, request = context.calibration, context.source, context.request
    try:
        lattice = _visible(context)
        image, errors = _dark_field(context, blocks)
        steps = steps_of(source.field, source.calibrated, lattice, image, errors)
    except ValueError as error:
        calibration.note("step", f"{request.lattice.text} does not tell the scan's step: {error}")
        return
    calibration.note("step", f"{request.lattice.text} in the dark field: {steps.line()}")
    for name, value, error in zip(("step_y", "step_x"), steps.steps, steps.errors, strict=True):
        calibration.measured(name, value, "m", error, request.use_measured)
    if calibration.known["step_y"].source == "measured":
        field = source.field
        origin = field.origin if source.calibrated else (0.0, 0.0)
        measured = tuple(np.copysign(steps.steps, field.step).tolist())
        context.source = replace(source, field=ScanField(origin, measured, field.shape), calibrated=True)


def _visible(context: Context) -> PlaneLattice:
    """The lattice, if the raster may resolve it.

    Raises
    ------
    ValueError : it cannot.
    """
    source, lattice = context.source, context.request.lattice.plane
    if lattice is None:
        raise ValueError("rings are not of a lattice in the plane of the scan")
    if source.field is None or min(source.field.shape) < 2:
        raise ValueError("the positions are no raster")
    period = 1 / np.linalg.norm(lattice.reciprocal(1), axis=1).min()
    coarsest = max(map(abs, source.field.step))
    if source.calibrated and coarsest > period / 2:
        raise ValueError(f"its planes are {period * 1e9:.3g} nm apart, positions {coarsest * 1e9:.3g} nm")
    if "disk_radius" not in context.calibration:
        raise ValueError("the bright-field disk, outside which the dark field begins, is not known")
    return lattice


def _dark_field(context: Context, blocks: Iterable[tuple[np.ndarray, np.ndarray]]) -> tuple[np.ndarray, np.ndarray]:
    """Counts outside the disk and their standard errors, (places,)."""
    fused = FusedPass(context.source, context.corrections, context.noise, context.request.threads)
    fused.detector(DARK_FIELD, annular_dark_field(context.source.frame_shape, context.geometry))
    fused.prepare()
    for places, frames in blocks:
        fused.add(places, frames if context.counting is None else context.counting.sample(frames))
    return fused.counts[DARK_FIELD], fused.errors[DARK_FIELD]


def steps_of(field: ScanField, calibrated: bool, lattice: PlaneLattice, image: np.ndarray, errors: np.ndarray) -> ScanScale:
    """Steps of a raster from the lattice in an image (places,) with standard errors; rows that were not read are left out.

    Where the file has no step, the strongest frequency of the image is tried as each of the innermost reciprocal lengths; most
    peaks win, the shorter length where two have as many.

    Raises
    ------
    ValueError : the image does not show the lattice.
    """
    image, errors = image.reshape(field.shape), errors.reshape(field.shape)
    read = np.isfinite(image).any(axis=1)
    image, errors = image[read], errors[read]
    if min(image.shape) < 2:
        raise ValueError(f"{image.shape[0]} rows of {image.shape[1]} positions are no image")
    if calibrated:
        return fit_scan_steps(image, lattice, tuple(map(abs, field.step)), errors=errors)
    frequency = _strongest(image)
    lengths = np.unique(np.round(np.linalg.norm(lattice.reciprocal(2), axis=1), -3))
    found, problem = [], None
    for length in lengths[np.diff(lengths, prepend=0.0) > 1e-3 * lengths[0]]:
        try:
            found.append(fit_scan_steps(image, lattice, (frequency / length,) * 2, errors=errors))
        except ValueError as error:
            problem = problem or error
    if not found:
        raise problem
    return max(found, key=lambda one: one.peaks)


def _strongest(image: np.ndarray) -> float:
    """Frequency [1/pixel] of the highest peak of an image, to a quarter of a Fourier pixel."""
    window = np.outer(*(np.hanning(n) for n in image.shape))
    size = tuple(4 * n for n in image.shape)
    height = np.abs(np.fft.rfft2(levelled(image) * window, size))
    y, x = np.meshgrid(np.fft.fftfreq(size[0]), np.fft.rfftfreq(size[1]), indexing="ij")
    height[np.hypot(y * image.shape[0], x * image.shape[1]) < 2] = 0.0
    place = np.unravel_index(height.argmax(), height.shape)
    return float(np.hypot(y[place], x[place]))
