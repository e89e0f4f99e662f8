"""Every frame becomes exactly one row, whatever is lost, repeated, or comes in another order."""

from __future__ import annotations

import uuid

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgetem_nodes.featurizer.bookkeeping import Gap, Ledger, Memory
from edgetem_nodes.featurizer.preview import Preview
from edgetem_nodes.physics.scan import ScanField

ID = uuid.UUID(int=1)


@given(lengths=st.lists(st.integers(1, 5), min_size=1, max_size=8), lost=st.sets(st.integers(0, 7)),
       unsent=st.integers(0, 5), end_at=st.integers(0, 8), path_at=st.integers(0, 2))
def test_every_index_is_marked_or_measured_once(lengths, lost, unsent, end_at, path_at):
    ledger, rows = Ledger(), []
    requested = sum(lengths) + unsent
    positions = np.arange(2.0 * requested).reshape(-1, 2)

    def mark(gap: Gap | None) -> None:
        if gap is not None:
            assert gap.reason
            rows.extend(range(gap.first, gap.first + gap.count))

    first = 0
    for block, count in enumerate(lengths):
        if block == path_at:
            ledger.path(ID, positions, 10, 1e-3)
        if block == end_at:
            ledger.end(ID, requested, sum(lengths), "ended early")
        if block not in lost:
            arrival = ledger.block(ID, block, first, count)
            mark(arrival.gap)
            rows.extend(range(first + arrival.skip, first + count))
            mark(ledger.remainder(ID))
        first += count
    ledger.end(ID, requested, sum(lengths), "ended early")
    mark(ledger.remainder(ID))
    assert ledger.waiting(ID) == bool(lost & set(range(len(lengths))))
    mark(ledger.remainder(ID, overdue=True))
    assert rows == list(range(requested))
    assert not ledger.waiting(ID)


def test_reasons_tell_lost_dropped_and_aborted_apart():
    ledger = Ledger()
    ledger.path(ID, np.arange(20.0).reshape(-1, 2), 1_000_000_000, 0.5)
    ledger.block(ID, 0, 0, 2)
    assert ledger.block(ID, 1, 3, 1).gap == Gap(2, 1, "the detector dropped this frame")
    assert ledger.block(ID, 3, 6, 1).gap == Gap(4, 2, "1 of the detector's blocks were lost before they arrived")
    ledger.end(ID, 10, 4, "the acquisition ended early: consumer compressor is silent")
    assert ledger.remainder(ID) == Gap(7, 3, "the acquisition ended early: consumer compressor is silent")
    assert ledger.remainder(ID) is None
    assert ledger[ID].position(9, 2).tolist()[0] == [18.0, 19.0]
    assert np.isnan(ledger[ID].position(9, 2)[1]).all()
    assert ledger[ID].time(3) == 2_500_000_000


@pytest.mark.parametrize("path_first", [True, False])
def test_an_acquisition_id_may_come_again(path_first):
    ledger = Ledger()
    ledger.path(ID, np.zeros((4, 2)), 0, 1.0)
    ledger.block(ID, 0, 0, 2)
    if path_first:
        ledger.path(ID, np.zeros((4, 2)), 0, 1.0)
    arrival = ledger.block(ID, 0, 0, 3)
    if not path_first:
        ledger.path(ID, np.zeros((4, 2)), 0, 1.0)
    assert (arrival.gap, arrival.skip) == (None, 0)
    assert ledger[ID].next_index == 3


def test_a_block_that_comes_after_its_rows_were_marked_is_left_out():
    ledger = Ledger()
    ledger.path(ID, np.zeros((4, 2)), 0, 1.0)
    ledger.block(ID, 0, 0, 2)
    ledger.end(ID, 4, 4, "")
    assert ledger.remainder(ID, overdue=True).count == 2
    assert ledger.block(ID, 1, 2, 2).skip == 2


def test_memory_is_bounded_and_keeps_the_latest():
    memory = Memory(rows=10)
    for block in range(6):
        memory.add(ID, 4 * block, np.full((4, 2), block), [block] * 4, {"value": np.arange(4) + 4 * block})
    assert memory.find(ID, 15) is None
    assert memory.find(ID, 17).details["value"] == 17
    assert memory.find(uuid.UUID(int=2), 17) is None
    memory.add(ID, 20, np.zeros((1, 2)), [9], {"value": np.array([-1])})
    assert memory.find(ID, 20).details["value"] == -1


def test_preview_shows_the_frame_then_the_map():
    preview = Preview()
    assert preview.image() is None
    preview.add(np.zeros((1, 2)), np.ones(1), np.arange(5))
    assert preview.image()[0].shape == (1, 5)
    preview.set_field(ScanField((0.0, 0.0), (1e-9, 1e-9), (3, 4)))
    preview.add(np.array([[1e-9, 2e-9], [9e-9, 0.0], [np.nan, 0.0]]), np.array([5.0, 6.0, 7.0]), None)
    picture, frame = preview.image()
    assert frame == "scan"
    assert picture[1, 2] == 5.0
    assert np.isnan(picture).sum() == 11
