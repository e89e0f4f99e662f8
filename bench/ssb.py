"""Single side band ptychography: how fast, and how equal to the field's own: `edgetem bench ssb`.

The peer is ptychography40 0.1.0 (Strauch et al., Microsc. Microanal. 27, 1078, 2021), which runs in LiberTEM. It needs an
environment of its own: name its interpreter in EDGETEM_PEER_PYTHON (`pip install ptychography40 libertem` there). It gets the
same counts, its masks are computed before the clock starts, as ours are, and both count CPU seconds of one thread from counts
in memory to an image. Where it is missing its figures are null, and ours are compared with the definition evaluated directly
by numpy alone.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from edgetem_nodes.featurizer.patterns.events import Events
from edgetem_nodes.featurizer.patterns.geometry import DetectorGeometry
from edgetem_nodes.featurizer.ptychography.single_side_band import SingleSideBand, largest_step
from edgetem_nodes.physics.diffraction import Diffraction
from edgetem_nodes.physics.electrons import wavelength
from edgetem_nodes.physics.optics import Camera, Probe
from edgetem_nodes.physics.scan import ScanField
from edgetem_nodes.physics.specimens.catalogue import SpecimenOptions, make_specimen

HIGH_TENSION, ANGLE = 80e3, 30e-3
ELECTRONS = 1e5

_PEER = """
import json, sys, time, warnings
warnings.filterwarnings("ignore")
import numpy as np
import libertem.api as lt
from libertem.common.container import MaskContainer
from libertem.executor.inline import InlineJobExecutor
from ptychography40.reconstruction.ssb import SSB_UDF, generate_masks
settings, runs = json.loads(sys.argv[3]), int(sys.argv[4])
frames = np.load(sys.argv[1])
before = time.process_time()
masks = generate_masks(reconstruct_shape=frames.shape[:2], mask_shape=frames.shape[2:], dtype=np.float32, **settings)
spent = time.process_time() - before
container = MaskContainer(mask_factories=lambda: masks, dtype=masks.dtype, use_sparse="scipy.sparse.csr", count=masks.shape[0],
                          backend="numpy")
context = lt.Context(executor=InlineJobExecutor())
data = context.load("memory", data=frames, sig_dims=2, num_partitions=4)
udf = SSB_UDF(dtype=np.float32, mask_container=container, **settings)
seconds = []
for _ in range(runs + 1):
    before = time.process_time()
    result = context.run_udf(dataset=data, udf=udf)
    seconds.append(time.process_time() - before)
np.savez(sys.argv[2], fourier=result["fourier"].data, phase=result["phase"].data, seconds=min(seconds[1:]), masks=spent)
"""


class Case(NamedTuple):
    """A square scan, a square detector, and the radius of the disk on it [pixels]."""

    side: int
    pixels: int
    radius: float


def run(quick: bool = False) -> dict[str, Any]:
    """Measure all cases; the figures at the head of the record are those of the first."""
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        cases = [_measured(case, quick) for case in _cases(quick)]
    finally:
        torch.set_num_threads(threads)
    keys = ("complex_relative_rms", "frames_per_cpu_s", "libertem_frames_per_cpu_s", "ratio_libertem", "phase_correlation",
            "live_equals_offline", "compared_with")
    return {**{key: cases[0][key] for key in keys}, "cases": cases}


def _cases(quick: bool) -> list[Case]:
    return [Case(64, 64, 16.0)] if quick else [Case(64, 64, 16.0), Case(64, 64, 8.0), Case(128, 128, 24.0)]


def _measured(case: Case, quick: bool) -> dict[str, Any]:
    print(f"{case.side} x {case.side} scan of {case.pixels} x {case.pixels} pixels", file=sys.stderr, flush=True)
    frames, field, geometry = _counts(case)
    band = SingleSideBand(field, frames.shape[1:], geometry, HIGH_TENSION)
    seconds, image = [], None
    for _ in range(4 if quick else 8):
        before = time.process_time()
        band.add(0, frames)
        image = band.image()
        seconds.append(time.process_time() - before)
    record = {"scan": [case.side] * 2, "frame_shape": [case.pixels] * 2, "radius_px": case.radius,
              "frames_per_cpu_s": len(frames) / min(seconds[1:]), "live_equals_offline": _live(band, frames, image),
              "events_equal_frames": _events(band, frames, image), "phase_rms_rad": float(image.imag.std()),
              "standard_error_rad": band.standard_error, **_own(band, frames)}
    peer = _peer(frames, field, geometry, 2 if quick else 4)
    if peer is None:
        reference = _direct(frames, field, geometry)
        record |= {"libertem_frames_per_cpu_s": None, "ratio_libertem": None, "compared_with": "definition, by numpy"}
    else:
        reference = np.fft.ifft2(peer["fourier"])
        rate = len(frames) / float(peer["seconds"])
        record |= {"libertem_frames_per_cpu_s": rate, "ratio_libertem": record["frames_per_cpu_s"] / rate,
                   "libertem_masks_cpu_s": float(peer["masks"]), "compared_with": "ptychography40"}
    return record | _difference(image, reference)


def _counts(case: Case) -> tuple[np.ndarray, ScanField, DetectorGeometry]:
    """Counted patterns of graphene, uint16 (frames, pixels, pixels)."""
    pixel_angle = ANGLE / case.radius
    step = 0.95 * largest_step(HIGH_TENSION, ANGLE)
    extent = (case.side + 8) * step
    options = SpecimenOptions(strain=0.0, vacancy_density=0.5e18, domain_size=0.0)
    specimen = make_specimen("graphene", (extent, extent), 1, options)
    field = ScanField((4 * step, 4 * step), (step, step), (case.side, case.side))
    seen = min(case.pixels, 2 * int(1.5 * case.radius))
    diffraction = Diffraction(specimen, Probe(HIGH_TENSION, ANGLE), Camera(seen, pixel_angle))
    frames = np.zeros((case.side**2, case.pixels, case.pixels), np.uint16)
    rng = np.random.default_rng(0)
    first = (case.pixels - seen) // 2
    middle = slice(first, first + seen)
    for row in range(case.side):
        part = slice(row * case.side, (row + 1) * case.side)
        expected = diffraction.patterns(field.positions(np.arange(part.start, part.stop)))
        frames[part, middle, middle] = rng.poisson(ELECTRONS * expected)
    centre = first + seen // 2
    return frames, field, DetectorGeometry((centre, centre), pixel_angle, ANGLE)


def _own(band: SingleSideBand, frames: np.ndarray) -> dict[str, float]:
    """CPU time of taking frames in and of one image, apart."""
    before = time.process_time()
    band.add(0, frames)
    between = time.process_time()
    band.image()
    return {"add_us_per_frame": 1e6 * (between - before) / len(frames), "image_ms": 1e3 * (time.process_time() - between)}


def _again(band: SingleSideBand) -> SingleSideBand:
    disk = band.disk
    return SingleSideBand(band.field, disk.shape, disk.geometry, HIGH_TENSION)


def _live(band: SingleSideBand, frames: np.ndarray, image: np.ndarray) -> bool:
    """Whether blocks in random order, with images in between, end in the same bits."""
    live, rng = _again(band), np.random.default_rng(1)
    blocks = np.array_split(np.arange(len(frames)), 37)
    for number, block in enumerate(rng.permutation(len(blocks))):
        live.add(blocks[block], frames[blocks[block]])
        if number % 12 == 6:
            # A live view asks, and goes without an image while the places that came are scattered.
            with contextlib.suppress(ValueError):
                live.image()
    return bool(np.array_equal(live.image(), image))


def _events(band: SingleSideBand, frames: np.ndarray, image: np.ndarray) -> bool:
    """Whether electron events give the same bits as frames."""
    live = _again(band)
    for first in range(0, len(frames), 256):
        live.add(first, Events.of(frames[first:first + 256]))
    return bool(np.array_equal(live.image(), image))


def _difference(image: np.ndarray, reference: np.ndarray) -> dict[str, float]:
    """Of two complex images, each over its mean: relative rms after the best global phase; how far the phases agree."""
    reference = reference / reference.mean()
    turn = np.vdot(image, reference)
    image = image * turn / abs(turn)
    rms = np.sqrt(np.mean(np.abs(image - reference)**2) / np.mean(np.abs(reference)**2))
    own, other = np.angle(image), np.angle(reference)
    return {"complex_relative_rms": float(rms), "phase_correlation": float(np.corrcoef(own.ravel(), other.ravel())[0, 1]),
            "phase_relative_rms": float(np.sqrt(np.mean((own - other)**2) / np.mean(other**2)))}


def _direct(frames: np.ndarray, field: ScanField, geometry: DetectorGeometry) -> np.ndarray:
    """The complex image by its definition: half the difference of the means over either region of single overlap."""
    rows, columns = field.shape
    y, x = geometry.angles(frames.shape[1:])
    radius = geometry.semi_convergence_angle / geometry.pixel_angle
    near = np.flatnonzero(np.hypot(y, x).ravel() / geometry.pixel_angle < radius + 1)
    place = np.stack([y.ravel()[near], x.ravel()[near]]) / geometry.pixel_angle
    spectra = np.fft.fft2(frames.reshape(rows, columns, -1)[:, :, near].astype(float), axes=(0, 1))

    def disk(shift: tuple[float, float]) -> np.ndarray:
        return np.clip(radius + 0.5 - np.hypot(place[0] - shift[0], place[1] - shift[1]), 0, 1)

    own = disk((0, 0))
    result = np.zeros((rows, columns), complex)
    scale = wavelength(HIGH_TENSION) / geometry.pixel_angle
    for i, qy in enumerate(np.fft.fftfreq(rows, field.step[0]) * scale):
        for j, qx in enumerate(np.fft.fftfreq(columns, field.step[1]) * scale):
            plus, minus = disk((qy, qx)), disk((-qy, -qx))
            positive, negative = own * plus * (minus == 0), own * minus * (plus == 0)
            if positive.sum() >= 1 and negative.sum() >= 1:
                result[i, j] = (spectra[i, j] @ positive / positive.sum() - spectra[i, j] @ negative / negative.sum()) / 2
    result[0, 0] = spectra[0, 0] @ own / own.sum()
    return np.fft.ifft2(result)


def _peer(frames: np.ndarray, field: ScanField, geometry: DetectorGeometry, runs: int) -> dict[str, np.ndarray] | None:
    """What ptychography40 makes of the same counts, and its CPU seconds; None where it is not installed."""
    python = os.environ.get("EDGETEM_PEER_PYTHON", sys.executable)
    settings = {"lamb": wavelength(HIGH_TENSION), "dpix": field.step[0], "semiconv": ANGLE,
                "semiconv_pix": ANGLE / geometry.pixel_angle, "cy": geometry.center[0], "cx": geometry.center[1], "cutoff": 1}
    if subprocess.run([python, "-c", "import ptychography40"], capture_output=True, check=False).returncode:
        return None
    one = dict.fromkeys(("OMP_NUM_THREADS", "NUMBA_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")
    with tempfile.TemporaryDirectory() as folder:
        given, made = Path(folder, "frames.npy"), Path(folder, "result.npz")
        np.save(given, frames.reshape(*field.shape, *frames.shape[1:]))
        done = subprocess.run([python, "-c", _PEER, given, made, json.dumps(settings), str(runs)], capture_output=True,
                              text=True, check=False, env={**os.environ, **one})
        if done.returncode:
            print(f"ptychography40 failed: {done.stderr.strip().splitlines()[-1]}", file=sys.stderr)
            return None
        with np.load(made) as result:
            return dict(result)
