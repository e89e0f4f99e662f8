"""Are the decisions of a replay the recorded ones, bit for bit? Imports no ROS.

A recorded decision is read from the bag only when the planner has published its own of the same index: `compare` takes
the new decision, then opens the bag. Every field counts but the stamp and the two fields that a clock fills.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from edgetem_nodes.provenance.definitions import type_hash
from edgetem_nodes.provenance.metadata import BagError
from edgetem_nodes.provenance.reading import RecordedMessage, read_raw
from edgetem_nodes.provenance.topics import FLUSHED_BY

SAME, DIFFERENT, NOT_COMPARABLE = 0, 1, 2
"""Exit codes: every decision the same; a decision differs; it could not be judged."""
CLOCK_FIELDS = frozenset(("header.stamp.sec", "header.stamp.nanosec", "model_duration", "published_ns"))
"""What a clock fills: not compared."""


@dataclass(frozen=True)
class Difference:
    """A field that differs, and by how much: largest absolute difference of its numbers, NaN where it has none."""

    field: str
    recorded: str
    replayed: str
    size: float

    def __str__(self) -> str:
        amount = f", largest difference {self.size:.3g}" if math.isfinite(self.size) else ""
        return f"{self.field} ({self.recorded} recorded, {self.replayed} now{amount})"


@dataclass(frozen=True)
class DecisionComparison:
    """One decision: its index and action, and the fields that differ in order of declaration.

    recorded : the bag holds a decision of this index.
    stopped_by_operator : the recorded one is the operator's stop, which the planner did not decide.
    """

    index: int
    action: str
    differences: tuple[Difference, ...] = ()
    recorded: bool = True
    stopped_by_operator: bool = False

    @property
    def same(self) -> bool:
        """In the bag, and every field equal."""
        return self.recorded and not self.stopped_by_operator and not self.differences

    @property
    def largest(self) -> Difference | None:
        """The difference that is largest in number; None where no number differs."""
        numeric = [difference for difference in self.differences if math.isfinite(difference.size)]
        return max(numeric, key=lambda difference: difference.size, default=None)

    def __str__(self) -> str:
        if not self.recorded:
            return f"decision {self.index}: {self.action}, not in the recording"
        if self.stopped_by_operator:
            return f"decision {self.index}: {self.action}; here the operator stopped the recorded experiment"
        if self.same:
            return f"decision {self.index}: {self.action}, same"
        return f"decision {self.index}: {self.action}, DIFFERS in " + "; ".join(map(str, self.differences))


def field_differences(recorded: Any, replayed: Any, prefix: str = "") -> Iterator[Difference]:
    """The fields of two messages (dataclasses of `rosbags`) that differ in any bit, but those of CLOCK_FIELDS."""
    for entry in dataclasses.fields(recorded):
        if entry.name.startswith("__") or entry.name.isupper():
            continue
        name = prefix + entry.name
        if name in CLOCK_FIELDS:
            continue
        old, new = getattr(recorded, entry.name), getattr(replayed, entry.name)
        if dataclasses.is_dataclass(old):
            yield from field_differences(old, new, name + ".")
        elif not _equal(old, new):
            yield Difference(name, _shown(old), _shown(new), _size(old, new))


def _equal(old: Any, new: Any) -> bool:
    if isinstance(old, np.ndarray):
        return old.shape == new.shape and old.tobytes() == new.tobytes()
    if isinstance(old, float):
        return np.float64(old).tobytes() == np.float64(new).tobytes()
    return type(old) is type(new) and old == new


def _size(old: Any, new: Any) -> float:
    """Largest absolute difference of the numbers of two values; NaN for texts, identifiers, hashes and other shapes."""
    first, second = np.asarray(old), np.asarray(new)
    if first.shape != second.shape or first.dtype.kind not in "iuf" or first.dtype == np.uint8 or not first.size:
        return math.nan
    with np.errstate(invalid="ignore"):
        distance = np.abs(first.astype(np.float64) - second.astype(np.float64))
    finite = distance[np.isfinite(distance)]
    return float(finite.max()) if finite.size else math.nan


def _shown(value: Any, longest: int = 60) -> str:
    if isinstance(value, np.ndarray):
        if value.dtype == np.uint8:
            return bytes(value).hex()[:16]
        return f"{value.size} values" if value.size > 3 else str(value.tolist())
    text = repr(value)
    return text if len(text) <= longest else text[:longest - 3] + "..."


@dataclass
class DecisionComparer:
    """Compares the decisions of a replay, one by one as they come, with those of a bag.

    folder : of the bag.
    same_platform : the replay runs the same lock file on the same kind of processor, device and threads; else a
        difference says nothing about the program. `platform_note` says what differs.
    """

    folder: Path
    same_platform: bool = True
    platform_note: str = ""
    compared: list[DecisionComparison] = field(default_factory=list)

    def compare(self, data: bytes) -> DecisionComparison:
        """Compare a decision that the planner has just published (serialized) with the recorded one of its index.

        Raises
        ------
        BagError : the bag holds no decision, or was recorded with another definition of it.
        """
        replayed = deserialize_as_recorded(self.folder, data)
        recorded = None
        for message in read_raw(self.folder, [FLUSHED_BY]):
            decision = message.decode()
            if decision.index == replayed.index:
                recorded = decision  # after a resume a decision may be there twice: the last one counts
        if recorded is None:
            comparison = DecisionComparison(replayed.index, replayed.action, recorded=False)
        elif recorded.action == "stop" and recorded.stop_reason == "operator" and replayed.action != "stop":
            comparison = DecisionComparison(replayed.index, replayed.action, stopped_by_operator=True)
        else:
            comparison = DecisionComparison(replayed.index, replayed.action, tuple(field_differences(recorded, replayed)))
        self.compared.append(comparison)
        return comparison

    def verdict(self, ended_because: str = "") -> tuple[str, int]:
        """A sentence for people, and the exit code: SAME, DIFFERENT or NOT_COMPARABLE.

        Parameters
        ----------
        ended_because : why the replay could not go on to the end of the experiment; empty: it did.
        """
        counted = [comparison for comparison in self.compared if comparison.recorded and not comparison.stopped_by_operator]
        different = [comparison for comparison in counted if not comparison.same]
        because = f"; {ended_because}" if ended_because else ""
        if not counted:
            return f"no decision could be compared{because}", NOT_COMPARABLE
        if different:
            first = different[0]
            largest = max((comparison.largest for comparison in different if comparison.largest),
                          key=lambda difference: difference.size, default=None)
            extent = f"; largest numeric difference {largest.size:.3g} in {largest.field}" if largest else ""
            if not self.same_platform:
                return (f"not comparable, the replay runs elsewhere ({self.platform_note}): decision {first.index} is the "
                        f"first that differs, in {first.differences[0]}{extent}{because}"), NOT_COMPARABLE
            return (f"decision {first.index} is the first that differs, in {first.differences[0]}; {len(different)} of "
                    f"{len(counted)} decisions differ{extent}{because}"), DIFFERENT
        indices = {message.decode().index for message in read_raw(self.folder, [FLUSHED_BY])}
        missing = sorted(indices - {comparison.index for comparison in self.compared})
        if missing and ended_because:
            return (f"the {len(counted)} decisions up to there are the same, but {ended_because}, although decision "
                    f"{missing[0]} is in it: the recorder had died in between"), NOT_COMPARABLE
        if missing and not any(comparison.stopped_by_operator for comparison in self.compared):
            return (f"the {len(counted)} decisions of the replay are the same, but decision {missing[0]} of the recording "
                    "was not made"), DIFFERENT
        elsewhere = f", although it runs elsewhere ({self.platform_note})" if not self.same_platform else ""
        return f"all {len(counted)} decisions are the same, bit for bit{elsewhere}{because}", SAME


def deserialize_as_recorded(folder: Path, data: bytes) -> Any:
    """A new decision, decoded with the definition in the bag.

    Raises
    ------
    BagError : the bag holds no decision, or was recorded with another definition of it than is installed.
    """
    first: RecordedMessage | None = next(read_raw(folder, [FLUSHED_BY]), None)
    if first is None:
        raise BagError(f"{folder} holds no decision to compare with")
    if first.type_hash != type_hash(first.type):
        raise BagError(f"{folder} was recorded with another definition of {first.type} than is installed: replay it with "
                       "the version of edgetem that recorded it")
    return dataclasses.replace(first, data=data).decode()
