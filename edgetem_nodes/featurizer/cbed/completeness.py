"""Whether a file of weights holds all that the nanobeam network needs, of sizes that fit, and is to be trusted. No torch."""

from __future__ import annotations

from typing import Any

import numpy as np


class WeightsWarning(UserWarning):
    """Weights that can be used, and are not to be trusted: of a training that was quick or was ended early."""


_NUMBERS = ("disk_width", "members", "classes")


def missing(arrays: dict[str, np.ndarray], settings: dict[str, Any]) -> str:
    """What weights of the nanobeam network lack, to be said after their name; empty: nothing.

    Shapes of the networks' own arrays are checked where the networks are filled.
    """
    names = settings.get("phases")
    if not isinstance(names, list) or not names or not all(isinstance(name, str) for name in names):
        return "name no phases"
    for name in _NUMBERS:
        if not isinstance(settings.get(name), int) or not 0 <= settings[name] < 10_000:
            return f"have no number {name!r} in their settings"
    widths = settings.get("pattern_widths")
    if not isinstance(widths, list) or len(widths) != 2 or not all(isinstance(width, int) and width > 0 for width in widths):
        return "have no two numbers 'pattern_widths' in their settings"
    if not settings["members"]:
        return "have no pattern network"
    return next((fault for name, shape in _shapes(len(names), settings["members"], widths[1]).items()
                 if (fault := _fault(arrays.get(name), name, shape))), "")


def _shapes(phases: int, members: int, width: int) -> dict[str, tuple[int, ...]]:
    """Of the arrays that are no network's."""
    return {"phases/lattices": (phases, 2, 2), "phases/sheets": (phases,), "phases/spacings": (phases,),
            "phases/thicknesses": (phases, 2), "calibration/lattice_scale": (phases + 1,), "calibration/temperature": (),
            "calibration/feature_centres": (members, phases, width),
            "calibration/feature_whitening": (members, width, width), "calibration/distance_limit": (),
            "calibration/chi_square_limit": (), "calibration/prior_spread": (phases, 3),
            "calibration/thickness_scale": (phases,), "calibration/tilt_scale": (phases,)}


def _fault(array: np.ndarray | None, name: str, shape: tuple[int, ...]) -> str:
    if array is None:
        return f"lack {name!r}"
    if array.shape != shape:
        return f"have {name!r} of shape {array.shape}, not {shape}"
    return "" if array.dtype.kind in "fbiu" else f"have {name!r} of type {array.dtype}, no numbers"
