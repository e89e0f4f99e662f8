"""Opening files of frames: numpy and raw files, HDF5 by path, EMD of others and our own archives, vendors' formats."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import h5py
import hdf5plugin  # noqa: F401  (registers the filters of detectors' files)
import numpy as np

from edgetem_nodes.archive import emd
from edgetem_nodes.archive.pattern_file import BLOCK, FrameStore, PatternFile, PatternFileError
from edgetem_nodes.archive.raster import raster_of
from edgetem_nodes.archive.reader import Archive, StoredAcquisition
from edgetem_nodes.archive.contents import ArchiveError
from edgetem_nodes.archive.vendor import VendorFile
from edgetem_nodes.archive.vendor_axes import FileAxis, VendorFileError, signal_axis
from edgetem_nodes.physics.scan import Axis, ScanField

HDF5 = (".h5", ".hdf5", ".emd", ".hf5", ".py4dstem", ".nxs", ".mat")
MAPPED = ("QuantumDetector", "Blockfile", "EMPAD", "TIA", "DigitalMicrograph", "MRC", "Ripple", "JEOL")
"""RosettaSciIO's readers that map files into memory: any part is read alone, whatever dask's chunks."""
RAW = (".raw", ".bin", ".dat")
STAND_IN_STEP = 1e-9
"""[m] where a file states no scan step."""
ALL = "all"


def open_patterns(path: str | Path, signal: str = "", *, shape: tuple[int, ...] = (), dtype: str = "", offset: int = 0,
                  high_tension: float = 0.0, block_bytes: int = BLOCK) -> PatternFile:
    """Open the frames of a scan.

    Parameters
    ----------
    signal : which data set of the file: a title or number, an acquisition of an archive (or "all"), a path within HDF5.
    shape, dtype, offset : of a raw file: all its dimensions, numpy's name of the type, bytes before the first frame.
    high_tension : [V] where the file does not say it; turns spatial frequencies into angles; 0: not known.
    block_bytes : what will be read at once.

    Raises
    ------
    PatternFileError, VendorFileError : no such file, it cannot be read, or it holds no scan; says what it holds.
    """
    path = Path(path)
    if path.is_dir() and (path / "archive.h5").is_file():
        path = path / "archive.h5"
    if not path.is_file():
        raise PatternFileError(f"file {path} does not exist" if not path.exists() else
                               f"{path} is neither a file nor the folder of an experiment: name the data file itself")
    if path.stat().st_size == 0:
        raise PatternFileError(f"file {path} is empty")
    suffix = path.suffix.lower()
    if shape or dtype or suffix == ".npy":
        return _mapped(path, shape, dtype, offset)
    if suffix in RAW:
        raise PatternFileError(f"{path} is a raw file: state all its dimensions and its type, e.g. --shape 128,128,256,256 "
                               "--dtype uint16")
    if suffix in HDF5:
        opened = _hdf5(path, signal, high_tension)
        if opened is not None:
            return opened
    try:
        return _vendor(path, signal, high_tension, block_bytes)
    except VendorFileError as error:
        if suffix in HDF5:
            raise PatternFileError(f"{error}. As HDF5 it holds {_listed(path)}: name a data set of patterns with --signal "
                                   "PATH") from None
        raise


def _listed(path: Path) -> str:
    """The data sets of an HDF5 file, those of most dimensions first."""
    found: list[tuple[int, str]] = []

    def note(name: str, item: Any) -> None:
        if isinstance(item, h5py.Dataset) and item.ndim:
            found.append((-item.ndim, f"{name} {item.shape}"))
    with h5py.File(path, "r", locking="best-effort") as file:
        file.visititems(note)
    return "; ".join(text for _, text in sorted(found)[:12]) or "no data set"


class MappedArray:
    """Part of a file that is mapped anew for each piece that is read: pages of pieces read before leave the memory."""

    def __init__(self, path: Path, shape: tuple[int, ...], dtype: np.dtype, offset: int, order: str = "C") -> None:
        self._path, self._offset, self._order = path, offset, order
        self.shape, self.dtype, self.ndim = shape, dtype, len(shape)

    def __getitem__(self, where: tuple[slice, ...]) -> np.ndarray:
        return np.array(np.memmap(self._path, self.dtype, "r", self._offset, self.shape, self._order)[where])


def _mapped(path: Path, shape: tuple[int, ...], dtype: str, offset: int) -> PatternFile:
    """A numpy or raw file; one that ends early holds the frames that are whole."""
    order = "C"
    if path.suffix.lower() == ".npy":
        shape, order, kind, offset = _numpy_header(path)
    elif not (shape and dtype):
        raise PatternFileError(f"{path}: a raw file needs both --shape and --dtype")
    else:
        try:
            kind = np.dtype(dtype)
        except TypeError:
            raise PatternFileError(f"--dtype {dtype!r} is no type of numbers: e.g. uint16, >u2, float32") from None
    needed, size = offset + math.prod(shape) * kind.itemsize, path.stat().st_size
    stated = f"{path} has {size} bytes; shape {' x '.join(map(str, shape))} of {kind} after {offset} bytes needs {needed}"
    if kind.kind not in "iufb" or min(shape, default=0) < 1 or offset < 0:
        raise PatternFileError(f"{stated}: check --shape, --dtype and --offset")
    if size >= needed:
        return _plain(path, MappedArray(path, shape, kind, offset, order))
    frames = (size - offset) // (math.prod(shape[-2:]) * kind.itemsize)
    if len(shape) not in (3, 4) or order == "F" or frames < 1:
        raise PatternFileError(f"{stated}, and no whole frame can be told from what is there: check --shape, --dtype and "
                               "--offset")
    opened = _plain(path, MappedArray(path, (frames, *shape[-2:]), kind, offset))
    opened = opened.reshaped(shape[:2]) if len(shape) == 4 else opened
    opened.notes.append(f"{stated}: the {frames} whole frames there are read, as of a scan that was cut short; if it was not, "
                        "check shape and type")
    return opened


def _numpy_header(path: Path) -> tuple[tuple[int, ...], str, np.dtype, int]:
    """Shape, order, type and offset [byte] of a `.npy` file."""
    read = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
    try:
        with path.open("rb") as file:
            shape, fortran, kind = read[np.lib.format.read_magic(file)](file)
            return shape, "F" if fortran else "C", kind, file.tell()
    except (ValueError, OSError, EOFError, KeyError) as error:
        raise PatternFileError(f"{path} cannot be read as a numpy array: {error}") from None


def _plain(path: Path, data: Any, title: str = "", reader: str = "") -> PatternFile:
    """Patterns (rows, columns, ky, kx) or (frames, ky, kx) without calibration."""
    if data.ndim not in (3, 4) or data.dtype.kind not in "iufb":
        raise PatternFileError(f"{path}{' ' + title if title else ''} has shape {tuple(data.shape)} of {data.dtype}; patterns "
                               "are numbers in (rows, columns, ky, kx), or (frames, ky, kx)")
    return _uncalibrated(path, title, reader or path.suffix.lower().lstrip("."), FrameStore([data], data.ndim - 2))


def _uncalibrated(path: Path, title: str, reader: str, store: FrameStore) -> PatternFile:
    axes = tuple(Axis(name, "", 1.0, 0.0, size) for name, size in zip(("ky", "kx"), store.frame_shape, strict=True))
    shape, notes = store.scan_shape, []
    if len(shape) == 1:
        shape, notes = (1, store.count), [f"{store.count} frames in a row: state --scan-shape ROWS,COLUMNS for a raster"]
    return PatternFile(path, title, reader, store, axes, ScanField((0.0, 0.0), (STAND_IN_STEP,) * 2, shape),
                       calibrated=False, notes=notes)


# ---- HDF5 ---------------------------------------------------------------------------------------------------------

def _hdf5(path: Path, signal: str, high_tension: float) -> PatternFile | None:
    """What h5py reads itself; None: leave it to RosettaSciIO."""
    try:
        file = h5py.File(path, "r", locking="best-effort")
    except OSError as error:
        raise PatternFileError(f"{path} cannot be opened as HDF5: {error}. Is it complete, and of the format that its "
                               "extension says?") from None
    if emd.is_emd(file) and any(name.startswith("acquisition_") for name in file[emd.ROOT]):
        file.close()
        return _archive(path, signal)
    if signal and signal in file:
        return _dataset(path, file, signal, high_tension)
    if "entry/data" in file and "entry/instrument/detector" in file:
        return _arina(path, file)
    found = _four_dimensional(file)
    if file.attrs.get("emd_group_type") == "file" or (found and not _known_to_vendors(file)):
        chosen = [name for name in found if not signal or signal in (name, Path(name).parent.name)]
        if len(chosen) != 1:
            listed = "; ".join(f"{name} {file[name].shape}" for name in found) or "no data set of four dimensions"
            file.close()
            raise PatternFileError(f"{path} holds {listed}: name one with --signal PATH")
        return _dataset(path, file, chosen[0], high_tension)
    file.close()
    return None


def _known_to_vendors(file: h5py.File) -> bool:
    """Whether the file is laid out as one of the formats that RosettaSciIO reads: Velox, HyperSpy, TopSpin, NCEM's EMD."""
    return any(name in file for name in ("Experiments", "Info", "Data", "Presentation")) or "version_major" in file.attrs \
        or any("experiment" in str(name).lower() and name != emd.ROOT for name in file)


def _four_dimensional(file: h5py.File) -> list[str]:
    found: list[str] = []

    def note(name: str, item: Any) -> None:
        if isinstance(item, h5py.Dataset) and item.ndim == 4 and item.dtype.kind in "iuf":
            found.append(name)
    file.visititems(note)
    return found


def _dataset(path: Path, file: h5py.File, name: str, high_tension: float) -> PatternFile:
    """A data set of HDF5; its axes where it is in an EMD 1.0 array node."""
    data = file[name]
    if isinstance(data, h5py.Group):
        if "data" not in data:
            raise PatternFileError(f"{path}: {name} is a group; name the data set in it: {', '.join(data)}")
        data = data["data"]
    opened = _plain(path, data, name, "hdf5")
    group = data.parent
    if group.attrs.get("emd_group_type") != "array" or data.ndim != 4:
        return opened
    axes = [_emd_axis(group, number, size) for number, size in enumerate(data.shape)]
    steps = [axis.length for axis in axes[:2]]
    opened.axes = tuple(signal_axis(axis, high_tension) for axis in axes[2:])
    if None not in steps:
        opened.field = ScanField(tuple(s[1] for s in steps), tuple(abs(s[0]) for s in steps), data.shape[:2])
        opened.calibrated = True
    return opened


def _emd_axis(group: h5py.Group, number: int, size: int) -> FileAxis:
    """A dimension of an EMD array: two or all of its values, its name and unit."""
    item = group.get(f"dim{number}")
    if item is None or item.size < 2 and size > 1:
        return FileAxis("", "", 1.0, 0.0, size, None)
    values = np.asarray(item[:2], float)
    unit, name = (str(item.attrs.get(key, "")) for key in ("units", "name"))
    return FileAxis(name, unit, float(values[1] - values[0]) if len(values) > 1 else 1.0, float(values[0]), size, None)


def _arina(path: Path, file: h5py.File) -> PatternFile:
    """A master file of DECTRIS (NXmx): the linked data sets one after the other; a square scan unless stated."""
    names = sorted(name for name in file["entry/data"] if name.startswith("data"))
    try:
        arrays = [file[f"entry/data/{name}"] for name in names]
    except (KeyError, OSError) as error:
        raise PatternFileError(f"{path}: the data files that this master file links to are missing: {error}") from None
    if not arrays or any(a.ndim != 3 for a in arrays):
        raise PatternFileError(f"{path} holds no patterns in entry/data")
    opened = _uncalibrated(path, "", "Arina", FrameStore(arrays, 1))
    detector = file["entry/instrument/detector"]
    side = math.isqrt(opened.count)
    if side * side == opened.count:
        opened = opened.reshaped((side, side))
    specific = detector.get("detectorSpecific", {})
    if "photon_energy" in specific:
        opened.conditions["high_tension"] = float(specific["photon_energy"][()])
    if "pixel_mask" in specific and specific["pixel_mask"].shape == opened.frame_shape and specific["pixel_mask"][:].any():
        opened.dead = specific["pixel_mask"][:] != 0
    if "saturation_value" in detector:
        opened.saturation = float(detector["saturation_value"][()])
    return opened


# ---- archives of ours ---------------------------------------------------------------------------------------------

def _archive(path: Path, signal: str) -> PatternFile:
    """Acquisitions of an experiment's archive."""
    try:
        archive = Archive.open(path)
        acquisitions = [a for a in archive if a.count]
    except ArchiveError as error:
        raise PatternFileError(str(error)) from None
    listed = "; ".join(f"{a.name} ({a.count} frames of {a.signal_shape}, {a.status})" for a in acquisitions) or "no frames"
    chosen = acquisitions if signal == ALL else [a for a in acquisitions if not signal or signal in (
        a.name, a.name.removeprefix("acquisition_"), str(a.acquisition_id))]
    if not chosen or (len(chosen) > 1 and signal != ALL):
        raise PatternFileError(f"{path} holds {listed}: name one with --signal, or 'all' of one shape")
    if len({(a.signal_shape, a.dtype) for a in chosen}) > 1:
        raise PatternFileError(f"{path}: the acquisitions differ in shape or type: {listed}; name one with --signal")
    return _acquisitions(path, chosen)


def _acquisitions(path: Path, chosen: list[StoredAcquisition]) -> PatternFile:
    positions = np.concatenate([a.positions for a in chosen])
    complete = all(a.status == "complete" for a in chosen)
    expected = chosen[0].facts.count if len(chosen) == 1 else 0
    field, places = raster_of(positions, expected)
    file = h5py.File(path, "r", locking="best-effort")
    store = FrameStore([file[a.dataset] for a in chosen], 1, places)
    notes = [] if complete else [f"{a.name} is {a.status}: {a.count} of {a.facts.count or 'an unknown number of'} frames"
                                 for a in chosen if a.status != "complete"]
    notes += [problem for a in chosen for problem in a.problems]
    title = chosen[0].name if len(chosen) == 1 else f"{len(chosen)} acquisitions"
    known = {"dwell_time": chosen[0].facts.dwell_time} if math.isfinite(chosen[0].facts.dwell_time) else {}
    return PatternFile(path, title, "archive", store, chosen[0].axes, field, None if field else positions, True, known,
                       notes=notes)


# ---- vendors' formats ---------------------------------------------------------------------------------------------

def _vendor(path: Path, signal: str, high_tension: float, block_bytes: int) -> PatternFile:
    """Through RosettaSciIO, lazily, in chunks of at most a block where the format leaves that open."""
    import dask

    with dask.config.set({"array.chunk-size": f"{block_bytes} B"}):
        opened = VendorFile(path, lazy=True)
        try:
            scan = opened.scan(signal, 0.0, high_tension)
        except VendorFileError as error:
            raise PatternFileError(f"{error}. Patterns need a scan: two (or one) axes of positions, and those of a frame") \
                from None
    notes = []
    if scan.field.shape[0] == 1 and scan.frame_shape and len(scan.frame_shape) == 2:
        notes = [f"{scan.field.shape[1]} frames in a row: state --scan-shape ROWS,COLUMNS for a raster"]
    store = FrameStore([scan.data], 2, whole_chunks=scan.reader not in MAPPED)
    return PatternFile(path, scan.title, scan.reader, store, tuple(scan.axes), scan.field,
                       calibrated=scan.calibrated, conditions=dict(scan.conditions), notes=notes)
