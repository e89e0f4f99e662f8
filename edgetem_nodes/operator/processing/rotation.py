"""The rotation of the detector against the scan, from the deflections of a whole raster."""

from __future__ import annotations

import math

from edgetem_nodes.featurizer.calibration.rotation import fit_rotation
from edgetem_nodes.featurizer.patterns.detectors import annular_dark_field
from edgetem_nodes.operator.processing.feature import Context

DARK_FIELD = "dark field of the rotation"
"""Name of the detector that tells the sign: electrons are drawn towards what is bright there."""


def want_rotation(context: Context) -> None:
    """Ask the shared pass for what `find_rotation` needs, where that can be had."""
    if context.source.field is None or "disk_radius" not in context.calibration:
        return
    try:
        context.fused.detector(DARK_FIELD, annular_dark_field(context.source.frame_shape, context.geometry))
    except ValueError:
        # Nothing of the detector lies beyond the disk: the sign is found without, or not at all.
        return


def find_rotation(context: Context) -> None:
    """Enter the rotation and flip into the calibration, or a note that says why they are not known."""
    calibration, source, fused = context.calibration, context.source, context.fused
    try:
        if source.field is None:
            raise ValueError("not determined: the positions are no raster")
        shape = source.field.shape
        geometry = context.geometry
        moved = fused.center_of_mass - geometry.center - geometry.shifts(source.all_positions())
        deflection = (moved @ geometry.distortion.T).reshape(*shape, 2)
        dark, errors = (values.get(DARK_FIELD) for values in (fused.counts, fused.errors))
        found = fit_rotation(deflection, tuple(map(abs, source.field.step)),
                             fused.center_of_mass_errors.reshape(*shape, 2), None if dark is None else dark.reshape(shape),
                             None if errors is None else errors.reshape(shape))
    except ValueError as error:
        reason = str(error).removeprefix("not determined: ")
        calibration.notes.append(f"the detector's rotation against the scan is not known ({reason}); vectors are in the "
                                 "detector's axes: state --rotation if you know it")
        return
    calibration.set("rotation", found.rotation, "rad", "measured", found.standard_error)
    calibration.flipped = found.flipped
    calibration.notes += found.lines()
    calibration.half_turn_open = not found.determined
    if not found.determined:
        calibration.notes.append(f"the rotation may be half a turn more ({math.degrees(found.rotation) + 180:.1f} deg): then "
                                 "vectors, phases and fields change sign: state --rotation")
