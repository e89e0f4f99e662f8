"""Measured files of any format that RosettaSciIO reads: which signals they hold, scans and survey images, in SI units."""

from __future__ import annotations

import importlib
import inspect
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from edgetem_nodes.archive.vendor_size import check_complete
from edgetem_nodes.archive.vendor_axes import (FileAxis, VendorFileError, conditions, file_axes, scan_axes, signal_axis)
from edgetem_nodes.physics.scan import Axis, ScanField

HELD_WHOLE = 4 << 20
"""[byte] Files of a packed format up to this size are decoded at once, which spares the start-up of the lazy machinery."""
CACHE = 256 << 20
"""[byte] of decoded chunks that a scan keeps; the newest stays whatever its size."""

_REFUSED = {"netCDF": "its reader evaluates text from the file", "MSA": "its reader evaluates text from the file",
            "PantaRhei": "it may hold pickled metadata", "Image": "it holds no scan"}
_PACKED = ("HSPY", "Bruker", "EMD")
_ASSUMED_STEP = 1e-9
_FIRST = {".h5": ("Arina", "USID"), ".hdf5": ("HSPY",), ".mrc": ("MRC",), ".img": ("JEOL",)}


@dataclass(frozen=True)
class SignalSummary:
    """What one signal of a file is: `kind` is "scan", "image" or "other"; `axes` are texts for people."""

    index: int
    title: str
    kind: str
    shape: tuple[int, ...]
    dtype: str
    axes: tuple[str, ...]


@dataclass(frozen=True)
class VendorImage:
    """A two-dimensional signal: float64 (rows, columns) in the file's own unit, `step` (y, x) [m] or None."""

    path: Path
    title: str
    data: np.ndarray
    step: tuple[float, float] | None


@dataclass
class VendorScan:
    """A scan: one spectrum or pattern at every grid position.

    Attributes: `data` array (rows, columns, *signal), lazy where the file is large; `field` [m]; `calibrated` False where
    the file has no scan step and 1 nm stands in; `axes` of the signal; `detector` "eels", "eds", "pixelated" or "spectrum";
    `conditions` see `vendor_axes.conditions`.
    """

    path: Path
    title: str
    reader: str
    detector: str
    data: Any
    field: ScanField
    calibrated: bool
    axes: list[Axis]
    conditions: dict[str, float]
    _chunks: dict[tuple[int, int], np.ndarray] = field(default_factory=dict, repr=False)

    @property
    def frame_shape(self) -> tuple[int, ...]:
        """Shape of one spectrum or pattern."""
        return tuple(int(n) for n in self.data.shape[2:])

    @property
    def dtype(self) -> np.dtype:
        """As measured, little-endian."""
        return self.data.dtype.newbyteorder("<")

    def frames(self, rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
        """Frames (n, *frame_shape) at grid places (n,), (n,); decodes only the chunks of the file that hold them.

        Raises
        ------
        VendorFileError : the file cannot be read there.
        """
        rows, columns = np.asarray(rows, int), np.asarray(columns, int)
        try:
            if isinstance(self.data, np.ndarray):
                return np.ascontiguousarray(self.data[rows, columns], self.dtype)
            return self._lazy_frames(rows, columns)
        except Exception as error:  # noqa: BLE001  (a reader may raise anything on a damaged file)
            raise VendorFileError(f"{self.path} could not be read at {len(rows)} positions: {str(error) or repr(error)}; is "
                                  "the file complete?") from error

    def _lazy_frames(self, rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
        result = np.empty((len(rows), *self.frame_shape), self.dtype)
        edges = [np.cumsum((0, *chunks)) for chunks in self.data.chunks[:2]]
        blocks = [np.searchsorted(edge, place, side="right") - 1 for edge, place in zip(edges, (rows, columns), strict=True)]
        for block in sorted(set(zip(*(b.tolist() for b in blocks), strict=True))):
            chosen = np.flatnonzero((blocks[0] == block[0]) & (blocks[1] == block[1]))
            chunk = self._chunk(block)
            result[chosen] = chunk[rows[chosen] - edges[0][block[0]], columns[chosen] - edges[1][block[1]]]
        return result

    def _chunk(self, block: tuple[int, int]) -> np.ndarray:
        """One chunk of the scan with its whole signal; the least recently used ones give way."""
        chunk = self._chunks.pop(block, None)
        if chunk is None:
            chunk = self.data.blocks[block].compute(scheduler="synchronous")
        self._chunks[block] = chunk
        while len(self._chunks) > 1 and sum(c.nbytes for c in self._chunks.values()) > CACHE:
            del self._chunks[next(iter(self._chunks))]
        return chunk

    def total_counts(self) -> np.ndarray:
        """Sum over the signal at every position, float64 (rows, columns); reads the file row by row."""
        rows, columns = self.field.shape
        return np.stack([self.frames(np.full(columns, row), np.arange(columns)).reshape(columns, -1).sum(axis=1, dtype=float)
                         for row in range(rows)])


class VendorFile:
    """An opened file with all its signals."""

    def __init__(self, path: str | Path, lazy: bool | None = None) -> None:
        """Open the file.

        Parameters
        ----------
        path : the file; formats are told by the extension.
        lazy : whether arrays are read on demand, where the format permits; None: unless a packed file is up to `HELD_WHOLE`.

        Raises
        ------
        VendorFileError : missing, empty, of a format that cannot be read, damaged, or without any signal.
        """
        self.path = Path(path)
        if not self.path.is_file():
            raise VendorFileError(f"file {self.path} does not exist" if not self.path.exists() else
                                  f"{self.path} is not a file: name the data file itself")
        size = self.path.stat().st_size
        if size == 0:
            raise VendorFileError(f"file {self.path} is empty")
        self.reader, self._signals = _read(self.path, size, lazy)

    def summaries(self) -> list[SignalSummary]:
        """One summary a signal, in the order of the file."""
        result = []
        for index, signal in enumerate(self._signals):
            axes = file_axes(signal, str(self.path))
            kind = "scan" if scan_axes(axes) else "image" if len(axes) == 2 else "other"
            result.append(SignalSummary(index, _title(signal), kind, tuple(map(int, signal["data"].shape)),
                                        str(signal["data"].dtype), tuple(axis.describe() for axis in axes)))
        return result

    def _chosen(self, selector: str, kind: str) -> int:
        """Number of the signal that `selector` (title or number) means; empty: the only, or first, one of the kind."""
        summaries = self.summaries()
        if selector:
            matches = [s for s in summaries if s.title == selector] or [s for s in summaries if str(s.index) == selector]
            of_kind = [s for s in matches if s.kind == kind]
            if matches and not of_kind:
                raise VendorFileError(f"signal {selector!r} of {self.path} has shape {matches[0].shape} and is "
                                      f"{'no scan' if kind == 'scan' else 'no image'}; {self._list(summaries)}")
        else:
            of_kind = [s for s in summaries if s.kind == kind]
            if kind == "scan" and len({s.shape for s in of_kind}) > 1:
                raise VendorFileError(f"{self.path} holds several scans: name one in 'signal'; {self._list(of_kind)}")
        if not of_kind:
            what = f"signal {selector!r}" if selector else "signal with scan axes" if kind == "scan" else "image"
            raise VendorFileError(f"{self.path} has no {what}; {self._list(summaries)}")
        return of_kind[0].index

    @staticmethod
    def _list(summaries: list[SignalSummary]) -> str:
        return "it holds " + "; ".join(f"{s.index} {s.title!r} {s.kind} {s.shape}" for s in summaries)

    def images(self, shape: tuple[int, int]) -> list[int]:
        """Numbers of the images of that shape, HAADF ones first."""
        found = [s for s in self.summaries() if s.kind == "image" and s.shape == tuple(shape)]
        return [s.index for s in sorted(found, key=lambda s: "haadf" not in s.title.lower())]

    def image(self, selector: str = "") -> VendorImage:
        """The image named by title or number; the first one where the selector is empty. Raises VendorFileError."""
        signal = self._signals[self._chosen(selector, "image")]
        axes = file_axes(signal, str(self.path))
        lengths = [axis.length for axis in axes]
        step = None if None in lengths else (abs(lengths[0][0]), abs(lengths[1][0]))
        return VendorImage(self.path, _title(signal), np.asarray(signal["data"], float), step)

    def scan(self, selector: str = "", step: float = 0.0, high_tension: float = 0.0) -> VendorScan:
        """The scan named by title or number, by default the only one.

        Parameters
        ----------
        step : scan step [m] that overrides the file's; 0: the file's.
        high_tension : [V] where the file does not say it; 0: not known.

        Raises
        ------
        VendorFileError : there is no such signal, several, or it has no scan axes.
        """
        signal = self._signals[self._chosen(selector, "scan")]
        axes = file_axes(signal, str(self.path))
        scan, rest = scan_axes(axes)
        data = signal["data"]
        data = np.moveaxis(data, [*scan, *rest], range(data.ndim)) if isinstance(data, np.ndarray) else \
            data.transpose([*scan, *rest])
        scanned = [axes[i] for i in scan]
        if len(scanned) == 1:
            data = data[np.newaxis]
            scanned.insert(0, FileAxis("y", scanned[0].unit, scanned[0].scale, 0.0, 1, True))
        known = conditions(signal.get("metadata", {}))
        lengths = [axis.length for axis in scanned]
        calibrated = step > 0 or None not in lengths
        if step > 0 or not calibrated:
            origin, steps = (0.0, 0.0), (step or _ASSUMED_STEP,) * 2
        else:
            steps, origin = tuple(pair[0] for pair in lengths), tuple(pair[1] for pair in lengths)
        signal_axes = [signal_axis(axes[i], known.get("high_tension", high_tension)) for i in rest]
        return VendorScan(self.path, _title(signal), self.reader, _detector(signal, [axes[i] for i in rest]), data,
                          ScanField(origin, steps, (scanned[0].size, scanned[1].size)), calibrated, signal_axes, known)


def list_signals(path: str | Path) -> list[SignalSummary]:
    """What a file holds; raises VendorFileError where it cannot be read."""
    return VendorFile(path).summaries()


def open_scan(path: str | Path, signal: str = "", step: float = 0.0, high_tension: float = 0.0) -> VendorScan:
    """Open a scan, see `VendorFile.scan`."""
    return VendorFile(path).scan(signal, step, high_tension)


def read_image(path: str | Path, signal: str = "") -> VendorImage:
    """Read an image, see `VendorFile.image`."""
    return VendorFile(path).image(signal)


def _title(signal: dict[str, Any]) -> str:
    title = signal.get("metadata", {}).get("General", {}).get("title")
    return title if isinstance(title, str) else ""


def _detector(signal: dict[str, Any], axes: list[FileAxis]) -> str:
    """The detector's name from what the file says of the signal, else from its axes."""
    if len(axes) == 2:
        return "pixelated"
    kind = str(signal.get("metadata", {}).get("Signal", {}).get("signal_type", "")).lower()
    if kind.startswith("eels") or "loss" in axes[0].name.lower():
        return "eels"
    if kind.startswith("eds") or "x-ray" in axes[0].name.lower() or axes[0].unit == "keV":
        return "eds"
    return "spectrum"


def _readers(path: Path) -> list[tuple[str, str]]:
    """Names and modules of the RosettaSciIO readers for the file's extension, the likeliest first."""
    from rsciio import IO_PLUGINS

    extension = path.suffix.lower()
    known = [(plugin["name"], plugin["api"]) for plugin in IO_PLUGINS
             if extension.lstrip(".") in (e.lower() for e in plugin["file_extensions"])]
    allowed = [entry for entry in known if entry[0] not in _REFUSED]
    if not known:
        raise VendorFileError(f"{path}: no reader knows the extension {extension!r}; formats are those of RosettaSciIO")
    if not allowed:
        raise VendorFileError(f"{path}: format {known[0][0]} is not accepted: {_REFUSED[known[0][0]]}; convert it to .hspy")
    first = _FIRST.get(extension, ())
    return sorted(allowed, key=lambda entry: first.index(entry[0]) if entry[0] in first else len(first))


def _read(path: Path, size: int, lazy: bool | None) -> tuple[str, list[dict[str, Any]]]:
    """Reader's name and the file's signals as RosettaSciIO gives them."""
    failures = []
    check_complete(path, size)
    for name, module in _readers(path):
        try:
            with _quiet():
                signals = _call(importlib.import_module(module).file_reader, path,
                                not (name in _PACKED and size <= HELD_WHOLE) if lazy is None else lazy)
        except Exception as error:  # noqa: BLE001  (a reader may raise anything on a damaged or foreign file)
            failures.append(f"{name}: {str(error) or type(error).__name__}")
            continue
        if signals:
            return name, signals
        failures.append(f"{name}: the file holds no signal")
    raise VendorFileError(f"{path} cannot be read: {'; '.join(failures)}. Is the file complete, and of the format that its "
                          "extension says?")


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep readers from printing: each that is tried in vain complains, and what matters is in our own error."""
    logger = logging.getLogger("rsciio")
    level = logger.level
    logger.setLevel(logging.CRITICAL + 1)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)


def _call(file_reader: Any, path: Path, lazy: bool) -> list[dict[str, Any]]:
    """Call a reader; one that cannot read lazily reads at once."""
    accepted = inspect.signature(file_reader).parameters
    options = {"show_progressbar": False} if "show_progressbar" in accepted else {}
    try:
        return file_reader(str(path), lazy=lazy, **options)
    except NotImplementedError:
        if not lazy:
            raise
        return file_reader(str(path), lazy=False, **options)
