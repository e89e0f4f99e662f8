"""Correction maps from files, and scalarizers on corrected frames."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np

from edgetem_nodes.featurizer.features import CountingNoise, Features, Scalarizer
from edgetem_nodes.featurizer.parameters import CorrectionMaps
from edgetem_nodes.featurizer.patterns.corrections import Corrections


def read_corrections(maps: CorrectionMaps) -> tuple[Corrections | None, str]:
    """The corrections that the parameters name, and the SHA-256 (hex) of the maps; (None, "") where they name none.

    Raises
    ------
    ValueError : a file that cannot be read or holds no map of numbers.
    """
    paths = {name: getattr(maps, name) for name in ("dark", "gain", "dead") if getattr(maps, name)}
    if not paths:
        return None, ""
    digest, arrays = hashlib.sha256(str(maps.interpolate).encode()), {}
    for name, path in paths.items():
        values = _read(name, Path(path))
        digest.update(f"{name} {values.dtype.str} {values.shape}".encode())
        digest.update(np.ascontiguousarray(values).tobytes())
        arrays[name] = values.astype(bool) if name == "dead" else values.astype(float)
    return Corrections(**arrays, interpolate=maps.interpolate), digest.hexdigest()


def _read(name: str, path: Path) -> np.ndarray:
    try:
        values = np.load(path, allow_pickle=False)
    except (OSError, ValueError) as error:
        raise ValueError(f"corrections.{name} {path} cannot be read as an .npy array: {error}") from None
    if not isinstance(values, np.ndarray) or values.ndim != 2 or values.dtype.kind not in "buif":
        kind = f"{values.dtype} of shape {values.shape}" if isinstance(values, np.ndarray) else "several arrays"
        raise ValueError(f"corrections.{name} {path} holds {kind}: one map (rows, columns) of numbers is needed")
    return values


class CorrectedScalarizer:
    """Another scalarizer, on frames less dark, times gain, with dead pixels interpolated.

    Dead pixels that have no value of their own are not finite: a frame that needs them is a marked failure, as is one whose raw
    pixels are saturated.
    """

    def __init__(self, scalarizer: Scalarizer, corrections: Corrections, noise: CountingNoise, shape: tuple[int, ...]) -> None:
        corrections.check(shape)
        self.names, self.units = scalarizer.names, scalarizer.units
        self._scalarizer, self._corrections, self._noise = scalarizer, corrections, noise
        self._live = corrections.live(shape)

    def __call__(self, frames: np.ndarray) -> Features:
        features = self._scalarizer(self._corrections.applied(frames))
        # What was the largest value of an integer type is not one of the corrected numbers.
        raw = self._noise.failures(frames[:, self._live])
        for row in (number for number, failure in enumerate(raw) if failure):
            features.failures[row] = features.failures[row] or raw[row]
            features.values[row], features.standard_errors[row] = np.nan, np.nan
        return features
