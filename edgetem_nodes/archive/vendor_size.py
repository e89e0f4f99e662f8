"""Files whose readers do not notice that the end is missing: compare the size with what the header announces."""

from __future__ import annotations

import re
import struct
from pathlib import Path

from edgetem_nodes.archive.vendor_axes import VendorFileError

_BRUKER_HEADER = 0x118
"""[byte] before the first chunk of a Bruker container."""


def check_complete(path: Path, size: int) -> None:
    """Check a file of `size` [byte] by its header, for the formats that need it; others pass.

    Raises
    ------
    VendorFileError : the file is shorter than its header says, or has no such header.
    """
    check = {".mib": _merlin, ".bcf": _bruker}.get(path.suffix.lower())
    if check is not None:
        check(path, size)


def _merlin(path: Path, size: int) -> None:
    """Merlin: a header and an image a frame; RosettaSciIO takes whatever frames are there."""
    with path.open("rb") as file:
        fields = file.read(384).split(b",")
    try:
        frame = int(fields[2]) + int(fields[4]) * int(fields[5]) * int(fields[6][1:]) // 8
    except (IndexError, ValueError):
        raise VendorFileError(f"{path} does not begin with a Merlin frame header") from None
    if fields[6][:1] != b"U":
        return
    header = path.with_suffix(".hdr")
    told = re.search(r"Frames in Acquisition \(Number\):\s*(\d+)", header.read_text("latin1")) if header.is_file() else None
    frames = int(told[1]) if told else -(-size // frame)
    if size < frames * frame or size % frame:
        raise VendorFileError(f"{path} has {size} bytes; {frames} frames of {frame} bytes need {frames * frame}: the file "
                              "is truncated, or was not closed")


def _bruker(path: Path, size: int) -> None:
    """Bruker composite: chunks of equal size, counted in the header; RosettaSciIO reads beyond the end of a short file."""
    with path.open("rb") as file:
        head = file.read(0x14c)
    if len(head) < 0x14c or not head.startswith(b"AAMVHFSS"):
        raise VendorFileError(f"{path} does not begin as a Bruker composite file does: is it one?")
    chunk, = struct.unpack_from("<I", head, 0x128)
    chunks, = struct.unpack_from("<I", head, 0x148)
    needed = _BRUKER_HEADER + chunks * chunk
    if size < needed:
        raise VendorFileError(f"{path} has {size} bytes; {chunks} chunks of {chunk} bytes need {needed}: the file is "
                              "truncated")
