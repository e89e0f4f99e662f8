"""Run `edgetem process`: read the file once in blocks, compute the features together, write what they made."""

from __future__ import annotations

import resource
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

from edgetem_nodes.archive.pattern_file import BLOCK, PatternFile, PatternFileError
from edgetem_nodes.archive.pattern_formats import open_patterns
from edgetem_nodes.archive.vendor_axes import VendorFileError
from edgetem_nodes.featurizer.features import CountingNoise
from edgetem_nodes.featurizer.patterns.corrections import Corrections
from edgetem_nodes.operator.processing.calibration import calibrate
from edgetem_nodes.operator.processing.counting import Counting
from edgetem_nodes.operator.processing.descan import find_descan, sample_descan
from edgetem_nodes.operator.processing.feature import Context, Feature, FusedPass
from edgetem_nodes.operator.processing.output import MAPS, Outcome, write_emd
from edgetem_nodes.operator.processing.pictures import draw
from edgetem_nodes.operator.processing.registry import FEATURES
from edgetem_nodes.operator.processing.request import Request, pixel_map
from edgetem_nodes.operator.processing.results import FeatureRefused, ProcessingError, Result
from edgetem_nodes.operator.processing.rotation import find_rotation, want_rotation
from edgetem_nodes.operator.processing.scan_step import measure_steps
from edgetem_nodes.operator.processing.spectrum_pass import SpectrumPass
from edgetem_nodes.operator.processing.table import describe, summarise

MADE, REFUSED, INTERRUPTED = 0, 1, 130
"""Exit codes: all features made; some refused or failed, the others written; ended by a person, what was read is written."""
_BLOCKS_HELD = 3
"""Being read, being computed, and a copy that a reader or a correction makes."""


@dataclass
class Interruption:
    """Whether a person wants it to end. The first Ctrl-C ends the reading, the second one everything."""

    wanted: threading.Event = field(default_factory=threading.Event)

    @contextmanager
    def watched(self) -> Iterator[None]:
        """Take Ctrl-C while this lasts; only in the main thread of a process."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = signal.signal(signal.SIGINT, self._handle)
        try:
            yield
        finally:
            signal.signal(signal.SIGINT, before)

    def _handle(self, *_: object) -> None:
        if self.wanted.is_set():
            raise KeyboardInterrupt
        self.wanted.set()


def process(request: Request, console: Console, say: Callable[[str], None] = partial(print, flush=True)) -> int:
    """Do all of it; returns the exit code.

    Parameters
    ----------
    console : where the progress bar goes.
    say : takes lines for people.

    Raises
    ------
    ProcessingError : the file cannot be read, no feature can be computed, or the output exists; nothing is left behind.
    KeyboardInterrupt : a second Ctrl-C; nothing is left behind.
    """
    began, interruption = time.monotonic(), Interruption()
    if (request.output / MAPS).exists() and not request.overwrite:
        raise ProcessingError(f"{request.output / MAPS} exists: name another folder with --output, or allow --overwrite")
    try:
        with interruption.watched():
            context, refused = _prepared(request), {}
            if len(context.source.frame_shape) == 2:
                if request.lattice:
                    measure_steps(context, _reading(context, refused, console, interruption, "reading for the lattice"))
                sample_descan(context)
            features = _features(context, request, refused)
            told = describe(context, refused, memory(context))
            for line in told:
                say(line)
            if not features:
                raise ProcessingError("none of the features can be computed: " + "; ".join(refused.values()))
            read = _read(context, features, refused, console, interruption)
            if not context.fused.failures.sound:
                raise ProcessingError(f"none of {read} frames can be used; {'; '.join(context.fused.failures.examples)}. If "
                                      "these counts are real, state a higher --saturation; leave pixels out with --dead")
            results = _finish(features, refused)
    except VendorFileError as error:
        raise ProcessingError(str(error)) from None
    if context.counting is not None and context.counting.electrons:
        lost, counted = context.counting.lost, context.counting.electrons
        context.calibration.notes.append(f"{counted} electrons were counted, and {100 * lost / (lost + counted):.2g} % of all "
                                         "were hidden by others: counts are not corrected for these")
    status = "interrupted" if interruption.wanted.is_set() else "incomplete" if read < context.source.places else "complete"
    outcome = Outcome(context.source, context.calibration, tuple(features), results, context.fused.failures, refused, read,
                      status, {name: f.failures for name, f in features.items() if f.failures is not None})
    for line in summarise(*_write(outcome, request, began), told):
        say(line)
    return INTERRUPTED if status == "interrupted" else REFUSED if refused else MADE


def opened(request: Request) -> PatternFile:
    """The file as the request wants it read.

    Raises
    ------
    PatternFileError, VendorFileError : it cannot be.
    """
    source = open_patterns(request.file, request.signal, shape=request.shape, dtype=request.dtype, offset=request.offset,
                           high_tension=request.high_tension, block_bytes=request.block_bytes)
    if source.count == 0:
        raise PatternFileError(f"{source.path} holds no frame")
    if request.scan_shape is not None:
        source = source.reshaped(request.scan_shape)
    return source.stepped(request.step) if request.step > 0 else source


def _prepared(request: Request) -> Context:
    """The file opened and calibrated."""
    source = opened(request)
    noise = CountingNoise(request.counts_per_electron, request.readout_noise, request.saturation or source.saturation)
    if len(source.frame_shape) == 1:
        if request.dead or request.dark or request.gain:
            raise ProcessingError("--dead, --dark and --gain are maps of a camera's pixels; this file holds spectra")
        if request.lattice or request.descan is not None:
            raise ProcessingError("--lattice and --descan are of patterns; this file holds spectra")
        calibration = calibrate(source, request, Corrections(), noise)
        return Context(source, calibration, request, Corrections(), noise, SpectrumPass(source, noise))
    maps = {name: pixel_map(getattr(request, name), source.frame_shape, f"--{name}") for name in ("dark", "gain", "dead")}
    dead = maps["dead"] != 0 if maps["dead"] is not None else None
    if source.dead is not None:
        dead = source.dead if dead is None else dead | source.dead
    corrections = Corrections(maps["dark"], maps["gain"], dead)
    try:
        corrections.check(source.frame_shape)
    except ValueError as error:
        raise ProcessingError(str(error)) from None
    counting = None
    if request.count:
        counting = Counting(source, corrections, noise.saturation, request.threads)
        corrections, noise = Corrections(dead=counting.learned.inverse_gain <= 0), CountingNoise()
    calibration = calibrate(source, request, corrections, noise, counting)
    fused = FusedPass(source, corrections, noise, request.threads)
    return Context(source, calibration, request, corrections, noise, fused, counting)


def _features(context: Context, request: Request, refused: dict[str, str]) -> dict[str, Feature]:
    """The features that can be computed, prepared; the others go into `refused` with the reason."""
    features, dimensions = {}, len(context.source.frame_shape)
    for name in request.features:
        kind = FEATURES[name]
        try:
            if dimensions not in kind.signals:
                held = "patterns" if dimensions == 2 else "spectra"
                raise FeatureRefused(f"{name} works on {'spectra' if dimensions == 2 else 'patterns'}; "
                                     f"{context.source.path.name} holds {held}")
            feature = kind(context)
            feature.prepare()
            features[name] = feature
        except (FeatureRefused, ValueError) as error:
            refused[name] = str(error)
    if dimensions == 2 and "rotation" not in context.calibration and any(f.turns for f in features.values()):
        want_rotation(context)
    try:
        context.fused.prepare()
    except ValueError as error:
        raise ProcessingError(str(error)) from None
    return features


def memory(context: Context) -> int:
    """[byte] that frames and maps will take, apart from the program's own and from what single features state."""
    block = max(context.request.block_bytes, context.source.store.chunk_bytes, context.source.store.frame_bytes)
    maps = sum(16 * context.source.places for _ in getattr(context.fused, "counts", ())) + 120 * context.source.places
    # The sample of the calibration is gone before the reading begins; it is as large whatever a block is.
    return max(_BLOCKS_HELD * min(block, context.source.nbytes), 2 * min(BLOCK, context.source.nbytes)) + maps


def peak_memory() -> int:
    """[byte] that this process has held at most."""
    try:
        # The kernel's other number, ru_maxrss, would include what held the memory before this program was started in its place.
        status = Path("/proc/self/status").read_text()
        return 1024 * int(status.partition("VmHWM:")[2].split()[0])
    except (OSError, ValueError, IndexError):
        return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def _read(context: Context, features: dict[str, Feature], refused: dict[str, str], console: Console,
          interruption: Interruption) -> int:
    """Read the file; returns the number of frames read. A feature that fails is refused from then on.

    Features that need the rotation of the detector before the first frame get a second pass where it is not known: the first
    one finds it.
    """
    known = "rotation" in context.calibration
    later = {} if known else {name: feature for name, feature in features.items() if feature.needs_rotation}
    read = _pass(context, {name: f for name, f in features.items() if name not in later}, refused, console, interruption)
    if len(context.source.frame_shape) == 2:
        find_descan(context)
    if not known and any(feature.turns for feature in features.values()):
        find_rotation(context)
    if later and not interruption.wanted.is_set():
        _pass(context, later, refused, console, interruption, "reading again")
    elif later:
        refused |= {name: f"{name}: its pass over the file was not begun" for name in later}
    for name in [name for name in features if name in refused]:
        del features[name]
    return read


def _pass(context: Context, features: dict[str, Feature], refused: dict[str, str], console: Console,
          interruption: Interruption, again: str = "") -> int:
    """One pass over the file; returns the number of frames read. `again` names a pass that is not the first."""
    read = 0
    _start(features, refused)
    readers = {name: feature for name, feature in features.items() if feature.reads and name not in refused}
    if again and not readers:
        return 0
    for places, frames in _reading(context, refused, console, interruption, again or "reading"):
        failures = None
        if context.counting is not None:
            frames, failures = context.counting(frames)
        sound = context.fused.failures.codes[places] == 0 if again else context.fused.add(places, frames, failures)
        _add(context, readers, refused, places[sound], frames, sound)
        read += len(places)
    return read


def _reading(context: Context, refused: dict[str, str], console: Console, interruption: Interruption,
             what: str) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Blocks of the file under a progress bar that says `what`, until a person interrupts it."""
    source, read, began = context.source, 0, time.monotonic()
    with _progress(console) as progress:
        task = progress.add_task(what, total=source.count, rate="")
        for places, frames in _readable(context, refused):
            yield places, frames
            read += len(places)
            elapsed = max(time.monotonic() - began, 1e-9)
            progress.update(task, completed=read, rate=f"{read / elapsed:,.0f} frames/s, "
                                                       f"{read * source.store.frame_bytes / elapsed / 1e6:,.0f} MB/s")
            if interruption.wanted.is_set():
                break


def _readable(context: Context, refused: dict[str, str]) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Blocks up to the first that cannot be read, which is then noted; an error if that is the very first."""
    begun = False
    try:
        for block in context.source.blocks(context.request.block_bytes):
            begun = True
            yield block
    except PatternFileError as error:
        if not begun:
            raise
        refused["the rest of the file"] = str(error)


def _start(features: dict[str, Feature], refused: dict[str, str]) -> None:
    for name, feature in features.items():
        try:
            feature.start()
        except (FeatureRefused, ValueError) as error:
            refused[name] = str(error)


def _progress(console: Console) -> Progress:
    return Progress(TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TextColumn("{task.fields[rate]}"),
                    TextColumn("left"), TimeRemainingColumn(), console=console)


def _add(context: Context, readers: dict[str, Feature], refused: dict[str, str], places: np.ndarray, frames: np.ndarray,
         sound: np.ndarray) -> None:
    if not readers or not len(places):
        return
    usable = context.sound_frames(frames, sound)
    for name, feature in list(readers.items()):
        try:
            feature.add(places, usable)
        except (FeatureRefused, ValueError, ArithmeticError) as error:
            refused[name] = f"{name}: {error}"
            del readers[name]


def _finish(features: dict[str, Feature], refused: dict[str, str]) -> list[Result]:
    results: list[Result] = []
    for name, feature in list(features.items()):
        try:
            results += feature.finish()
        except (FeatureRefused, ValueError, ArithmeticError) as error:
            refused[name] = str(error)
            del features[name]
    return results


def _write(outcome: Outcome, request: Request, began: float) -> tuple[Outcome, list[Path]]:
    """Write what there is; returns the outcome with its time and memory, and the files. After an error nothing new is left."""
    if not outcome.results:
        raise ProcessingError("no feature gave a result: " + "; ".join(outcome.refused.values()))
    made, written = not request.output.exists(), []
    try:
        request.output.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ProcessingError(f"{request.output} cannot be made: {error.strerror}") from None
    try:
        outcome = replace(outcome, seconds=time.monotonic() - began, peak_bytes=peak_memory())
        written.append(request.output / MAPS)
        write_emd(outcome, request.output)
        for result in outcome.results if request.pictures else ():
            if getattr(result, "style", "") != "none":
                written.append(request.output / f"{result.name}.png")
                draw(result, outcome.source, written[-1])
    except (KeyboardInterrupt, OSError, ProcessingError) as error:
        for path in written:
            path.unlink(missing_ok=True)
        if made:
            request.output.rmdir()
        if isinstance(error, OSError):
            raise ProcessingError(f"{request.output} cannot be written: {error}") from None
        raise
    return outcome, written
