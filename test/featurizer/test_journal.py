"""Rows and the blocks of the archive they came from, in whatever order both become known."""

from __future__ import annotations

import uuid

import numpy as np
import pytest

from edgetem_nodes.archive.contents import BlockReference
from edgetem_nodes.featurizer.journal import Journal, Segment

NAME = uuid.UUID(int=1)


def segment(first: int, count: int, stamp: int, failure: str = "", name: uuid.UUID = NAME) -> Segment:
    indices = np.arange(first, first + count)
    return Segment(name, indices, np.zeros((count, 2)), stamp + indices, failure, (), count, stamp, np.arange(count))


def reference(row: int, count: int, stamp: int, dataset: str = "a") -> BlockReference:
    return BlockReference(NAME, uuid.UUID(int=9), "archive.h5", dataset, row, count, b"", 0, 0, stamp)


@pytest.mark.parametrize("early", [(), (1,), (0, 1, 2)])
def test_references_find_their_segments_whether_they_come_before_or_after(early):
    journal, attempt = Journal(), object()
    references = [reference(0, 4, 100), reference(4, 4, 104), reference(8, 2, 110)]
    for place in early:
        journal.archived(references[place])
    for made in (segment(0, 4, 100), segment(4, 4, 104), segment(8, 2, 108, "lost"), segment(10, 2, 110)):
        journal.add(made, attempt)
    for place in {0, 1, 2} - set(early):
        journal.archived(references[place])
    found = journal.segments()[NAME]
    assert [one.reference for one in found] == [references[0], references[1], None, references[2]]
    assert all(one.archived for one in found)


def test_a_repeated_acquisition_begins_anew_and_does_not_take_the_first_attempt_for_its_own():
    journal = Journal()
    journal.add(segment(0, 4, 100), "first")
    journal.add(segment(0, 4, 500), "second")
    journal.archived(reference(0, 4, 100))
    (found,) = journal.segments()[NAME]
    assert found.reference is None
    journal.archived(reference(0, 4, 500, "b"))
    assert found.reference.dataset == "b"


def test_earlier_acquisitions_come_first_and_give_way_to_what_is_measured_now():
    journal, new = Journal(), uuid.UUID(int=2)
    journal.add(segment(0, 1, 7, name=new), "new")
    journal.earlier([segment(0, 2, 1), segment(2, 2, 3), segment(0, 5, 0, name=new)])
    assert [(name, len(found)) for name, found in journal.segments().items()] == [(NAME, 2), (new, 1)]
    again = segment(0, 4, 9)
    journal.add(again, "again")
    assert journal.segments()[NAME] == [again]
