"""A source that fills the block's own buffer: what is sent is what it delivered, though the buffer is used again."""

import uuid

import numpy as np

from edgetem.srv import Arm
from edgetem_nodes.detector.streaming import Acquisition, CreditGate, Streamer
from edgetem_nodes.graph.credit import CreditWindow
from edgetem_nodes.physics.exposure import Exposure

RUN = uuid.UUID(int=1)
FRAME = 32 * 64 * 2


def filling(source):
    """Let the source of a rig fill arrays; counts how often."""
    source.filled = 0

    def read_into(exposure, first, frames):
        frames[:] = source.read(exposure, first, len(frames))
        source.filled += 1
    source.read_into = read_into
    return source


def test_every_frame_arrives_through_the_buffer(rig):
    lab = rig()
    filling(lab.source)
    lab.announce()
    lab.activate()
    assert lab.run(RUN, 100, sequence=3).sent == 100
    lab.wait(lambda: sum(b.shape[0] for b in lab.blocks) == 100)
    assert lab.source.filled > 0
    assert np.array_equal(lab.received(RUN), lab.source.frames(3, 0, 100))
    assert lab.run(uuid.UUID(int=2), 7, sequence=4).sent == 7
    lab.wait(lambda: sum(b.shape[0] for b in lab.blocks) == 107)
    assert np.array_equal(lab.received(uuid.UUID(int=2)), lab.source.frames(4, 0, 7))


def test_a_consumer_that_falls_behind_gets_every_frame_all_the_same(rig):
    lab = rig(silence=60.0)
    filling(lab.source)
    lab.appetite = type(lab.appetite)(0)
    lab.announce(window=40 * FRAME)
    lab.activate()
    assert lab.arm(RUN, 300).error_code == Arm.Response.NONE
    lab.trigger(RUN, 300)
    for _ in range(300 // 16 + 40):
        lab.appetite.release()
        if lab.ends:
            break
        lab.wait(lambda: lab.appetite._value == 0 or lab.ends)
    lab.appetite.release(10**6)
    lab.wait(lambda: lab.ends and sum(b.shape[0] for b in lab.blocks) == 300)
    assert (lab.ends[0].sent, lab.ends[0].dropped, lab.ends[0].aborted) == (300, 0, False)
    assert np.array_equal(lab.received(RUN), lab.source.frames(0, 0, 300))


def test_a_source_that_fails_in_mid_block_sends_what_it_had(rig):
    lab = rig()
    filling(lab.source).fails_at = 40
    lab.announce()
    lab.activate()
    end = lab.run(RUN, 100)
    assert end.error_code == Arm.Response.SOURCE_FAILED
    lab.wait(lambda: sum(b.shape[0] for b in lab.blocks) == end.sent)
    if end.sent:
        assert np.array_equal(lab.received(RUN), lab.source.frames(0, 0, end.sent))


def test_a_block_that_stays_in_use_is_not_written_over(rig):
    source = filling(rig().source)
    kept = []
    streamer = Streamer(source, CreditGate(CreditWindow([])), lambda _a, block, _n: kept.append(block) or True, 16 * FRAME,
                        1 << 20, 60.0)
    path = Exposure(2, 0.0, np.zeros((100, 2)), 1e-3, 1e-3, {})
    assert streamer.stream(Acquisition(RUN, path, 0)).sent == 100
    assert len(kept) == 7
    assert np.array_equal(np.concatenate([block.parts[0] for block in kept]), source.frames(2, 0, 100))
    assert all(block.data is not None and len(block.data) == block.count * FRAME for block in kept)


def test_a_buffer_that_is_out_of_use_is_filled_again(rig):
    source, places = filling(rig().source), []
    streamer = Streamer(source, CreditGate(CreditWindow([])), lambda _a, block, _n: places.append(id(block.data)) or True,
                        16 * FRAME, 1 << 20, 60.0)
    path = Exposure(2, 0.0, np.zeros((1600, 2)), 1e-3, 1e-3, {})
    assert streamer.stream(Acquisition(RUN, path, 0)).sent == 1600
    assert len(places) == 100 and len(set(places)) < 8 and len(streamer._reader._given) < 8
