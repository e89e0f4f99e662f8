"""Process environment of a node: one BLAS thread, shared-memory transport, the ament index. Imports no ROS."""

from __future__ import annotations

import ctypes
import fcntl
import hashlib
import os
import re
import shutil
import sys
import tempfile
import time
from pathlib import Path

THREAD_VARIABLES = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMEXPR_NUM_THREADS", "BLIS_NUM_THREADS")
MEBIBYTE = 1 << 20
LARGEST_SEGMENT = 128 * MEBIBYTE
SMALLEST_SEGMENT = 4 * MEBIBYTE
LARGEST_MESSAGE = 32 * MEBIBYTE
SHARED_MEMORY = Path("/dev/shm")

LARGEST_HEAP_BLOCK = 32 * MEBIBYTE
"""The largest threshold that glibc takes."""
KEPT_HEAP = 128 * MEBIBYTE
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3

_PROFILE = """<?xml version="1.0" encoding="UTF-8"?>
<dds xmlns="http://www.eprosima.com">
  <profiles>
    <transport_descriptors>
      <transport_descriptor>
        <transport_id>edgetem_shm</transport_id>
        <type>SHM</type>
        <segment_size>{segment}</segment_size>
        <maxMessageSize>{message}</maxMessageSize>
        <port_queue_capacity>1024</port_queue_capacity>
      </transport_descriptor>
      <transport_descriptor>
        <transport_id>edgetem_udp</transport_id>
        <type>UDPv4</type>
        <sendBufferSize>4194304</sendBufferSize>
        <receiveBufferSize>4194304</receiveBufferSize>
      </transport_descriptor>
    </transport_descriptors>
    <participant profile_name="edgetem" is_default_profile="true">
      <rtps>
        <userTransports>
          <transport_id>edgetem_shm</transport_id>
          <transport_id>edgetem_udp</transport_id>
        </userTransports>
        <useBuiltinTransports>false</useBuiltinTransports>
        <builtin>
          <discovery_config>
            <leaseDuration><sec>5</sec></leaseDuration>
            <leaseAnnouncement><sec>1</sec></leaseAnnouncement>
          </discovery_config>
        </builtin>
      </rtps>
    </participant>
  </profiles>
</dds>
"""


def shared_memory_segment() -> tuple[int, str]:
    """Size of each participant's shared-memory segment [byte], and a sentence for people that says why.

    Ten participants must fit into half of what `/dev/shm` has free: it may be as small as 64 MiB in a container.
    The size is 0 where not even the smallest segment fits; messages then travel by UDP on the loopback.
    """
    if not SHARED_MEMORY.is_dir():
        return 0, f"{SHARED_MEMORY} does not exist: messages travel by UDP, several times slower"
    free = shutil.disk_usage(SHARED_MEMORY).free
    share = free // 20
    size = min(LARGEST_SEGMENT, share // MEBIBYTE * MEBIBYTE)
    if size < SMALLEST_SEGMENT:
        return 0, (f"{SHARED_MEMORY} has {free / MEBIBYTE:.0f} MiB free, fewer than the "
                   f"{20 * SMALLEST_SEGMENT // MEBIBYTE} MiB that a graph needs: messages travel by UDP, several times slower")
    if size < LARGEST_SEGMENT:
        return size, (f"{SHARED_MEMORY} has {free / MEBIBYTE:.0f} MiB free: segments of {size // MEBIBYTE} MiB "
                      f"instead of {LARGEST_SEGMENT // MEBIBYTE} MiB, large blocks travel more slowly")
    return size, f"segments of {size // MEBIBYTE} MiB in {SHARED_MEMORY}"


def remove_stale_segments(folder: Path | None = None, older_than: float = 10.0) -> int:
    """Remove shared-memory segments whose process was killed, and return how many [byte] that freed.

    Fast DDS cannot remove them then, and each takes as much memory as the segment is large. The owner of a segment holds
    an exclusive lock (flock) on the file of the same name with `_el`; the kernel drops it when the owner dies.

    Parameters
    ----------
    folder : where segments lie; `/dev/shm` by default.
    older_than : younger segments are left alone [s]: their owner may not have locked them yet.
    """
    freed = 0
    for lock in (folder or SHARED_MEMORY).glob("fastdds_*_el"):
        segment = lock.with_name(lock.name.removesuffix("_el"))
        if not re.fullmatch(r"fastdds_[0-9a-f]{16}", segment.name):
            continue
        try:
            if time.time() - lock.stat().st_mtime < older_than:
                continue
            with lock.open("rb+") as file:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if segment.exists():
                    freed += segment.stat().st_size
                    segment.unlink()
                lock.unlink()
        except OSError:  # another user's, still in use, or just removed by somebody else
            continue
    return freed


def transport_profile() -> Path | None:
    """Write the Fast DDS profile for this machine and return its path; None where shared memory is too small."""
    size, _ = shared_memory_segment()
    if size == 0:
        return None
    message = min(LARGEST_MESSAGE, size // 2)
    folder = Path(tempfile.gettempdir()) / f"edgetem-{os.getuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    path = folder / f"fastdds-{size // MEBIBYTE}.xml"
    text = _PROFILE.format(segment=size, message=message)
    if not path.exists() or path.read_text() != text:
        temporary = path.with_suffix(f".{os.getpid()}")
        temporary.write_text(text)
        temporary.replace(path)
    return path


def keep_freed_memory() -> None:
    """Let the allocator keep what is freed, up to `KEPT_HEAP`, instead of giving it back and asking for it again.

    A block of 2 MiB is allocated several times on its way through a process. Where every allocation is mapped anew, its
    pages are faulted in anew: the receiver then spends three times as much on that as on everything else. Does nothing
    where the C library is not glibc.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(M_MMAP_THRESHOLD, LARGEST_HEAP_BLOCK)
        mallopt(M_TRIM_THRESHOLD, KEPT_HEAP)


def prepare() -> None:
    """Set what must stand in the environment before numpy, torch or rclpy is imported. What the user set stays."""
    for variable in THREAD_VARIABLES:
        os.environ.setdefault(variable, "1")
    remove_stale_segments()
    keep_freed_memory()
    if "FASTDDS_DEFAULT_PROFILES_FILE" not in os.environ:
        profile = transport_profile()
        if profile is not None:
            os.environ["FASTDDS_DEFAULT_PROFILES_FILE"] = str(profile)
    prefixes = [p for p in os.environ.get("AMENT_PREFIX_PATH", "").split(os.pathsep) if p]
    if not any((Path(p) / "share" / "edgetem" / "package.xml").exists() for p in prefixes):
        os.environ["AMENT_PREFIX_PATH"] = os.pathsep.join([*prefixes, sys.prefix])


def share_directory() -> Path:
    """The package's share directory, where launch/, config/ and requirements.lock lie.

    In an editable install this is the repository itself, so that what a person edits is what runs.
    """
    repository = Path(__file__).resolve().parents[2]
    if (repository / "package.xml").exists() and (repository / "launch").is_dir():
        return repository
    for prefix in [*os.environ.get("AMENT_PREFIX_PATH", "").split(os.pathsep), sys.prefix]:
        share = Path(prefix) / "share" / "edgetem"
        if prefix and (share / "launch").is_dir():
            return share
    raise FileNotFoundError("the share directory of edgetem was found neither on AMENT_PREFIX_PATH nor under "
                            f"{sys.prefix}: install the package with 'pip install .' or colcon")


def lock_hash() -> str:
    """SHA-256 (hex) of requirements.lock: which versions this installation was built for."""
    return hashlib.sha256((share_directory() / "requirements.lock").read_bytes()).hexdigest()
