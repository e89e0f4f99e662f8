"""Live images of the featurizer node: maps of the scan that is running, on `images/NAME`."""

from __future__ import annotations

import time
import uuid
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING

import numpy as np
from sensor_msgs.msg import Image

from edgetem_nodes.archive.raster import raster_of
from edgetem_nodes.featurizer.corrected import read_corrections
from edgetem_nodes.featurizer.counted import FrameCounter
from edgetem_nodes.featurizer.features import CountingNoise
from edgetem_nodes.featurizer.journal import Segment
from edgetem_nodes.featurizer.live_images import LiveImages
from edgetem_nodes.featurizer.patterns.instrument import PatternInstrument
from edgetem_nodes.graph.messages import byte_array, to_stamp
from edgetem_nodes.graph.quality_of_service import STATE
from edgetem_nodes.physics.scan import Axis, ScanField

if TYPE_CHECKING:
    from edgetem_nodes.featurizer.node import FeaturizerNode

REMEMBERED = 16
"""Acquisitions that may be running at once; the oldest is forgotten."""
EARLY = 4
"""Blocks kept that came before their probe path."""
SHARE = 10
"""Images are made no more often than once in this many times what making them takes, so that they never hold data back."""


class LivePublishing:
    """Fills maps from blocks and publishes them, the last ones after the last frame of every acquisition.

    A probe path that is a raster starts maps of its own; sparse paths fill those of the overview's field. Maps are made in a
    thread of their own. A late subscriber is given the last map of every name.
    """

    def __init__(self, node: FeaturizerNode) -> None:
        settings = node.parameters
        self._node, self._period = node, settings.live.period_s
        self._noise = CountingNoise(settings.counts_per_electron, settings.readout_noise, settings.saturation)
        self._corrections, _ = read_corrections(settings.corrections)
        self._counter: FrameCounter | None = None
        if settings.counting.sample:
            self._counter = FrameCounter(settings.counting, self._corrections, settings.saturation)
            self._corrections, self._noise = None, CountingNoise()
        self._instrument, self._names = PatternInstrument.of(settings), tuple(settings.live.images)
        self._live = self._new()
        self._publishers = {name: node.create_publisher(Image, f"images/{name}", STATE) for name in self._live.names}
        self._pool = ThreadPoolExecutor(1, "live_images")
        self._making: Future[None] | None = None
        self._running: dict[uuid.UUID, LiveImages] = {}
        self._early: list[tuple[Segment, np.ndarray]] = []
        self._overview: ScanField | None = None
        self._next, self._stamp = -np.inf, 0
        self._told: dict[str, str] = {}

    def destroy(self) -> None:
        """Wait for the images that are being made, and take the publishers away."""
        self._pool.shutdown(wait=True, cancel_futures=True)
        for publisher in self._publishers.values():
            self._node.destroy_publisher(publisher)

    def rehearse(self, axes: tuple[Axis, ...], frames: np.ndarray) -> None:
        """Let what images are computed with be compiled now, on four patterns (4, rows, columns) with these axes.

        Raises
        ------
        ValueError : no image can be made of such frames.
        """
        live = self._new()
        live.begin(ScanField((0.0, 0.0), (2e-11, 2e-11), (2, 2)), True)
        live.add(axes, live.field.positions(), frames)
        for name in live.names:
            live.image(name)

    def on_overview(self, field: ScanField) -> None:
        """Sparse scans of this field follow."""
        self._overview = field

    def on_path(self, acquisition_id: uuid.UUID, positions: np.ndarray) -> None:
        """An acquisition at positions (count, 2) [m] follows, or has begun: paths and blocks come from two publishers."""
        if not self._names:
            return
        raster, _ = raster_of(positions)
        if raster is not None and min(raster.shape) > 1:
            # A new object: the last images of the scan before may still be in the making.
            self._live, self._told = self._new(), {}
            self._live.begin(raster, True)
        elif self._overview is not None:
            if self._live.raster:
                self._live, self._told = self._new(), {}
            self._live.begin(self._overview, False)
        else:
            # Without a field nobody knows where these positions lie; they do not belong to the scan before.
            self._live, self._told = self._new(), {}
        self._running[acquisition_id] = self._live
        while len(self._running) > REMEMBERED:
            del self._running[next(iter(self._running))]
        early, self._early = self._early, []
        for segment, frames in early:
            if segment.acquisition_id == acquisition_id:
                self.add(segment, frames)

    def add(self, segment: Segment, frames: np.ndarray) -> None:
        """Enter the frames of a block (frames, ...) at the positions of its segment."""
        if not self._names or frames.ndim != 3:
            return
        live = self._running.get(segment.acquisition_id)
        if live is None:
            self._early = [*self._early[1 - EARLY:], (segment, frames)]
            return
        try:
            if self._counter is None:
                live.add(segment.axes, segment.positions, frames)
            else:
                events, failures = self._counter(frames)
                counted = np.array([not failure for failure in failures], bool)
                live.add(segment.axes, segment.positions[counted], events.frames()[counted])
        except ValueError as error:
            self._tell("all", str(error))
            return
        self._stamp = int(segment.stamps[-1])
        for name, reason in live.refused.items():
            self._tell(name, reason)

    def show(self) -> None:
        """Make and publish the images, not more often than the parameter says."""
        waiting = self._making is not None and not self._making.done()
        if self._publishers and self._period > 0 and not waiting and time.monotonic() >= self._next:
            self._making = self._pool.submit(self._publish, self._live, self._stamp)

    def finish(self, acquisition_id: uuid.UUID) -> None:
        """Publish the images of an acquisition of which all has come; once."""
        live = self._running.pop(acquisition_id, None)
        if live is not None:
            self._making = self._pool.submit(self._publish, live, self._stamp)

    def _new(self) -> LiveImages:
        defocus = self._node.parameters.live.defocus_nm * 1e-9
        return LiveImages(self._names, self._instrument, self._noise, self._corrections, defocus)

    def _publish(self, live: LiveImages, stamp: int) -> None:
        began = time.monotonic()
        if live.field is None:
            return
        for name, publisher in self._publishers.items():
            try:
                pixels = live.image(name)
            except Exception as error:  # noqa: BLE001  (nobody else would say it: this is a thread of its own)
                self._tell(name, f"{type(error).__name__}: {error}")
                continue
            if pixels is None:
                continue
            message = Image(height=pixels.shape[0], width=pixels.shape[1], encoding="32FC1", step=4 * pixels.shape[1])
            message.header.frame_id, message.header.stamp = "scan", to_stamp(0, stamp)
            message.data = byte_array(pixels.astype(np.float32))
            publisher.publish(message)
        now = time.monotonic()
        self._next = now + max(self._period, SHARE * (now - began))

    def _tell(self, name: str, reason: str) -> None:
        """Say once a scan why an image is not made."""
        if self._told.get(name) == reason:
            return
        self._told[name] = reason
        self._node.warn(f"no live image {name}: {reason}" if name != "all" else f"no live images: {reason}")
