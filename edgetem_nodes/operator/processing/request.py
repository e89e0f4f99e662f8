"""What a person asks of `edgetem process`."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from edgetem_nodes.archive.pattern_file import BLOCK
from edgetem_nodes.operator.processing.known_lattice import KnownLattice
from edgetem_nodes.operator.processing.results import ProcessingError


@dataclass
class Request:
    """One call. Angles in rad, lengths in m, tension in V; None or 0: not stated.

    Attributes
    ----------
    features : names, see `registry.FEATURES`.
    signal, shape, dtype, offset : which data of the file, and how to read a raw one.
    scan_shape : rows and columns of a list of frames.
    center : (y, x) [pixel] of the undeflected beam.
    radius : of the bright-field disk [pixel].
    inner, outer : limits of the annular dark field [rad].
    rotation, flipped : of the detector against the scan, as `DetectorGeometry` defines them; None: measured if it can be.
    descan : (2, 2) [pixel/m], as `DetectorGeometry` has it; None: measured. measure_descan : whether a measured one is used.
    lattice : of the specimen; it tells the pixel's angle and the scan's step.
    use_measured : what the lattice tells replaces what is stated or in the file, which it is else compared with.
    dead, dark, gain : `.npy` files of the frame's shape.
    counts_per_electron : detector counts that one electron makes; counting statistics need it.
    saturation : counts; 0: the largest value of an unsigned integer type, or what the file says.
    pictures : whether PNG files are drawn beside the EMD file.
    count : count the electrons of analogue frames before anything else.
    structures : files of the crystals that orientation looks for.
    block_bytes : of frames that are read at once. threads : for the pass over the frames.
    overwrite : replace earlier results.
    settings : of single features, FEATURE.KEY to value.
    """

    file: Path
    features: tuple[str, ...]
    output: Path
    signal: str = ""
    shape: tuple[int, ...] = ()
    dtype: str = ""
    offset: int = 0
    scan_shape: tuple[int, int] | None = None
    step: float = 0.0
    high_tension: float = 0.0
    semi_convergence_angle: float = 0.0
    pixel_angle: float = 0.0
    center: tuple[float, float] | None = None
    radius: float = 0.0
    inner: float = 0.0
    outer: float = 0.0
    rotation: float | None = None
    flipped: bool | None = None
    dead: Path | None = None
    dark: Path | None = None
    gain: Path | None = None
    counts_per_electron: float = 1.0
    readout_noise: float = 0.0
    saturation: float = 0.0
    count: bool = False
    structures: tuple[Path, ...] = ()
    block_bytes: int = BLOCK
    threads: int = 1
    overwrite: bool = False
    pictures: bool = True
    settings: dict[str, Any] = field(default_factory=dict)
    descan: np.ndarray | None = None
    measure_descan: bool = True
    lattice: KnownLattice | None = None
    use_measured: bool = False

    def __post_init__(self) -> None:
        for name in ("step", "high_tension", "semi_convergence_angle", "pixel_angle", "radius", "inner", "outer",
                     "readout_noise", "saturation"):
            value = getattr(self, name)
            if not (math.isfinite(value) and value >= 0):
                raise ProcessingError(f"{name.replace('_', ' ')} {value:g} must be a positive number, or 0 where it is not "
                                      "stated")
        for name in ("rotation", "center", "descan"):
            value = getattr(self, name)
            if value is not None and not np.isfinite(value).all():
                raise ProcessingError(f"{name} {value} is not a finite number")
        if not (math.isfinite(self.counts_per_electron) and self.counts_per_electron > 0):
            raise ProcessingError(f"counts per electron {self.counts_per_electron:g} must be a positive number")

    def of(self, feature: str) -> dict[str, Any]:
        """Settings of one feature, without its name."""
        return {key.partition(".")[2]: value for key, value in self.settings.items() if key.partition(".")[0] == feature}


def numbers(text: str, count: int, option: str, kind: type = float) -> tuple:
    """`count` (0: any) numbers separated by commas.

    Raises
    ------
    ProcessingError : other text; names the option.
    """
    try:
        values = tuple(kind(part) for part in text.split(","))
    except ValueError:
        values = ()
    if not values or (count and len(values) != count) or not all(np.isfinite(v) for v in values):
        raise ProcessingError(f"{option} {text!r} is not {count or 'a list of'} {'whole ' if kind is int else ''}numbers "
                              "separated by commas")
    return values


def descan_option(text: str) -> tuple[np.ndarray | None, bool]:
    """What --descan states: a matrix (2, 2) [pixel/m] or None, and whether a measured one is used.

    Raises
    ------
    ProcessingError : it is none of the three forms.
    """
    if text in ("measured", "none"):
        return None, text == "measured"
    return np.reshape(numbers(text, 4, "--descan (measured, none, or YY,YX,XY,XX [pixel/nm])"), (2, 2)) * 1e9, False


def pixel_map(path: Path | None, shape: tuple[int, ...], option: str) -> np.ndarray | None:
    """A map of the detector's pixels from a `.npy` file.

    Raises
    ------
    ProcessingError : it cannot be read, or has another shape; names the option.
    """
    if path is None:
        return None
    try:
        values = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise ProcessingError(f"{option} {path} cannot be read as a numpy array: {error}") from None
    if not isinstance(values, np.ndarray) or values.shape != tuple(shape) or values.dtype.kind not in "biuf":
        raise ProcessingError(f"{option} {path} has shape {getattr(values, 'shape', 'of no array')}, frames have {shape}: it "
                              "must be numbers of the frame's shape")
    return values
