"""Electron events: a diffraction pattern as the list of pixels that its electrons hit."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Events:
    """Electrons of consecutive frames, frame by frame.

    Attributes
    ----------
    starts : (frames + 1,) int64; the electrons of frame i are starts[i] to starts[i + 1] - 1.
    pixels : (electrons,) uint32, the pixel that each electron hit, row * columns + column. Two electrons on one pixel are two
        entries; the order within a frame means nothing.
    shape : (rows, columns) of a frame.
    """

    starts: np.ndarray
    pixels: np.ndarray
    shape: tuple[int, int]

    def __post_init__(self) -> None:
        starts, pixels = self.starts, self.pixels
        if starts.ndim != 1 or not len(starts) or starts[0] != 0 or starts[-1] != len(pixels) or (np.diff(starts) < 0).any():
            raise ValueError(f"starts of frames must rise from 0 to the number of electrons, {len(pixels)}")
        size = self.shape[0] * self.shape[1]
        if len(pixels) and not 0 <= int(pixels.min()) <= int(pixels.max()) < size:
            raise ValueError(f"an electron lies on pixel {int(pixels.max())}; a frame of {self.shape[0]} x {self.shape[1]} "
                             f"has pixels 0 to {size - 1}")

    def __len__(self) -> int:
        """Number of frames."""
        return len(self.starts) - 1

    def __getitem__(self, frames: slice) -> Events:
        """The events of consecutive frames."""
        first, last, step = frames.indices(len(self))
        if step != 1:
            raise ValueError(f"events can be cut into consecutive frames only, not with a step of {step}")
        starts = self.starts[first:max(first, last) + 1]
        return Events(starts - starts[0], self.pixels[starts[0]:starts[-1]], self.shape)

    @classmethod
    def of(cls, frames: np.ndarray) -> Events:
        """The events of counted frames (frames, rows, columns).

        Raises
        ------
        ValueError : a value is no whole number of electrons; a masked array, or complex numbers.
        """
        frames = plain(frames)
        if frames.dtype.kind == "f" and (bad := np.count_nonzero(~np.isfinite(frames))):
            raise ValueError(f"{bad} values are not finite numbers of electrons: events are made of whole numbers of "
                             "electrons; count the frames first")
        flat = np.ascontiguousarray(frames).reshape(len(frames), frames.shape[1] * frames.shape[2])
        row, pixel = np.nonzero(flat)
        counts = flat[row, pixel]
        whole = counts.astype(np.int64)
        if (whole != counts).any() or (whole < 0).any():
            raise ValueError(f"a pixel holds {counts[(whole != counts) | (whole < 0)][0]:g} electrons: events are made of "
                             "whole numbers of electrons; count the frames first")
        starts = np.zeros(len(flat) + 1, np.int64)
        np.cumsum(np.bincount(row, weights=whole, minlength=len(flat)).astype(np.int64), out=starts[1:])
        return cls(starts, np.repeat(pixel, whole).astype(np.uint32), tuple(frames.shape[1:]))

    def frames(self, dtype: np.dtype | type = np.uint16) -> np.ndarray:
        """Counted frames (frames, rows, columns).

        Raises
        ------
        ValueError : a pixel holds more electrons than the type can say.
        """
        size = self.shape[0] * self.shape[1]
        flat = np.repeat(np.arange(len(self)) * size, np.diff(self.starts)) + self.pixels
        counts = np.bincount(flat, minlength=len(self) * size)
        if np.dtype(dtype).kind in "ui" and len(counts) and counts.max() > np.iinfo(dtype).max:
            raise ValueError(f"a pixel holds {counts.max()} electrons, more than {np.dtype(dtype)} can say: ask for a wider "
                             "type")
        return counts.astype(dtype).reshape(len(self), *self.shape)


Frames = np.ndarray | Events
"""Frames (frames, rows, columns) of any integer or float type, or the events of as many."""


def dense(frames: Frames) -> np.ndarray:
    """Frames as an array, for algorithms that need every pixel; give them blocks of a bounded size."""
    return frames.frames() if isinstance(frames, Events) else frames


def plain(frames: np.ndarray) -> np.ndarray:
    """Frames as a plain array of integers or real numbers, of whatever type and byte order.

    Raises
    ------
    ValueError : a masked array in which something is masked, or numbers that are not real.
    """
    if isinstance(frames, np.ma.MaskedArray) and np.ma.is_masked(frames):
        raise ValueError(f"{np.count_nonzero(np.ma.getmaskarray(frames))} values of the array are masked, and a plain array "
                         "cannot say so: give pixels that are dead in all frames as `Corrections(dead=...)`, and set others "
                         "to NaN with `filled(numpy.nan)`")
    frames = np.asarray(frames)
    if frames.dtype.kind not in "buif":
        raise ValueError(f"values of {frames.dtype} cannot be counted: integers or real numbers are needed")
    return frames


def native(frames: np.ndarray) -> np.ndarray:
    """Contiguous frames of a type that compiled loops are made for, read-only; of any integer or float type and byte order.

    uint8, uint16, int16, uint32, int32, float32 and float64 stay what they are; int8 becomes int16, bool uint8, wider
    integers float64, exact to 2^53, float16 float32, longer floats float64, and the byte order the machine's.

    Raises
    ------
    ValueError : see `plain`.
    """
    frames = plain(frames)
    kind = frames.dtype.newbyteorder("=")
    if kind.kind == "b":
        kind = np.dtype(np.uint8)
    elif kind == np.dtype(np.int8):
        kind = np.dtype(np.int16)
    elif kind.kind in "ui" and kind.itemsize == 8:
        kind = np.dtype(np.float64)
    elif kind.kind == "f" and kind.itemsize not in (4, 8):
        kind = np.dtype(np.float32 if kind.itemsize == 2 else np.float64)
    frames = np.require(frames, kind, "CA").view()
    frames.flags.writeable = False
    return frames
