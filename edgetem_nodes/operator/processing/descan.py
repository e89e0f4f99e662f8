"""Descan of a scan: how its patterns move on the detector with the position, as stated or as their centres of mass say."""

from __future__ import annotations

import numpy as np

from edgetem_nodes.archive.pattern_formats import STAND_IN_STEP
from edgetem_nodes.featurizer.calibration.descan import fit_descan
from edgetem_nodes.featurizer.patterns.reduction import Reduction
from edgetem_nodes.operator.processing.feature import Context
from edgetem_nodes.operator.processing.results import ProcessingError

NO_DESCAN = 13.3
"""Sum of squares of the four components over their errors, below which a descan is none: 1 % of scans without have more."""
LEAST_MOVE = 0.01
"""[pixel] over the field, below which it changes nothing."""
_COMPONENTS = ("descan_yy", "descan_yx", "descan_xy", "descan_xx")


def sample_descan(context: Context) -> None:
    """Enter the descan that is stated, or that a sample of frames tells, for what needs it before the first frame.

    Raises
    ------
    ProcessingError : it is stated by the nanometre, and the scan's step is not known.
    """
    source, request, calibration = context.source, context.request, context.calibration
    places, frames = source.sample()
    if context.counting is not None:
        frames = context.counting.sample(frames)
    reduced = Reduction(source.frame_shape, {}, corrections=context.corrections, noise=context.noise)(frames)
    # The centre is that of the mean of these frames.
    seen = places[np.isfinite(reduced.center_of_mass).all(axis=1)]
    calibration.descan_origin = tuple(source.all_positions()[seen if len(seen) else places].mean(axis=0).tolist())
    if request.descan is not None:
        if not source.calibrated:
            raise ProcessingError("--descan is stated in pixel/nm, and the scan's step is not known: state --step NM")
        _use(context, request.descan, np.zeros((2, 2)), "stated")
    _enter(context, reduced.center_of_mass, reduced.center_of_mass_errors, places, f"{len(places)} frames of a sample")


def find_descan(context: Context) -> None:
    """Enter the descan as all frames that were read tell it, in place of what the sample told."""
    fused = context.fused
    read = np.flatnonzero(fused.failures.codes == 0)
    _enter(context, fused.center_of_mass[read], fused.center_of_mass_errors[read], read, f"{len(read)} frames")


def _enter(context: Context, centers: np.ndarray, errors: np.ndarray, places: np.ndarray, what: str) -> None:
    """Measure the descan: use it where it is significant and wanted, or compare it with the one that is stated.

    Parameters
    ----------
    centers, errors : (frames, 2), centres of mass and standard errors (y, x) [pixel]; places : (frames,) of them.
    what : the frames, for people.
    """
    calibration, request, positions = context.calibration, context.request, context.source.all_positions()
    try:
        found = fit_descan(centers, positions[places] - calibration.descan_origin, errors)
    except ValueError as error:
        if request.measure_descan:
            calibration.note("descan", f"descan is not measured: {error}")
        return
    if request.descan is not None:
        for name, value, error in zip(_COMPONENTS, found.matrix.ravel(), found.matrix_errors.ravel(), strict=True):
            calibration.measured(name, value, "pixel/m", error)
        return
    moved = found.matrix * np.ptp(positions, axis=0)
    chi_square = float(((found.matrix / found.matrix_errors)**2).sum())
    told = f"{_moves(moved)} over the field (chi-square {chi_square:.3g} of 4, {what})"
    if chi_square < NO_DESCAN or np.abs(moved).max() < LEAST_MOVE:
        # Carried to the field's corners, an insignificant slope would only add its errors.
        _use(context, np.zeros((2, 2)), np.zeros((2, 2)), "")
        calibration.note("descan", f"no descan is seen: {told}")
    elif not request.measure_descan:
        calibration.note("descan", f"patterns move by {told}: left as it is, as --descan none says")
    else:
        _use(context, found.matrix, found.matrix_errors, "measured")
        calibration.note("descan", f"patterns move by {told}, linearly: taken as descan and out of deflections, of which the "
                         f"rest scatters by {float(np.hypot(*found.scatter)):.3f} pixel. A constant field gradient of the "
                         "specimen looks the same: --descan none keeps it")


def _use(context: Context, matrix: np.ndarray, errors: np.ndarray, source: str) -> None:
    """Enter a descan [pixel/m] in place of one before; zeros: none. Without a scan step it is known by the step."""
    calibration = context.calibration
    calibration.descan = np.array(matrix, float)
    unit, factor = ("pixel/m", 1.0) if context.source.calibrated else ("pixel/step", STAND_IN_STEP)
    for name, value, error in zip(_COMPONENTS, np.ravel(matrix), np.ravel(errors), strict=True):
        calibration.known.pop(name, None)
        if calibration.descan.any():
            calibration.set(name, value * factor, unit, source, error * factor)


def _moves(moved: np.ndarray) -> str:
    """Of a matrix (2, 2) [pixel] of what it makes over the field's height and width."""
    (yy, yx), (xy, xx) = moved
    return f"(y {yy:+.3f}, x {xy:+.3f}) pixel along y and (y {yx:+.3f}, x {xx:+.3f}) along x"
