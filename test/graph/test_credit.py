"""Credit: the window's arithmetic against a brute-force account, and the reporter's messages."""

import uuid

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgetem_nodes.graph.credit import LARGEST_BACKLOG, NIL, CreditReporter, CreditWindow

RUN = uuid.UUID(int=7)
EARLIER = uuid.UUID(int=6)


def window(**sizes: int) -> CreditWindow:
    """A window of consumers with the given sizes in bytes, all heard at time 0, for frames of 10 bytes."""
    result = CreditWindow(sizes)
    for name, size in sizes.items():
        result.update(name, NIL, 0, size, stamp=1, now=0.0)
    result.begin(RUN, 10)
    return result


def test_the_smallest_window_counts():
    credit = window(a=100, b=35)
    assert credit.available() == 3
    credit.sent(2)
    assert credit.available() == 1
    assert credit.slowest() == "b"
    credit.update("b", RUN, 2, 35, stamp=2, now=0.1)
    assert credit.available() == 3


def test_a_frame_larger_than_the_window_goes_alone():
    credit = window(a=5)
    assert credit.available() == 1
    credit.sent(1)
    assert credit.available() == 0
    credit.update("a", RUN, 1, 5, stamp=2, now=0.1)
    assert credit.available() == 1


def test_credit_of_another_acquisition_counts_as_nothing():
    credit = window(a=100)
    credit.sent(10)
    credit.update("a", EARLIER, 10, 100, stamp=2, now=0.1)
    assert credit.available() == 0


def test_repeated_credit_of_an_earlier_attempt_with_the_same_id_counts_as_nothing():
    credit = window(a=100)
    credit.sent(4)
    credit.update("a", RUN, 4, 100, stamp=5, now=0.0)
    credit.end()
    credit.begin(RUN, 10)
    credit.sent(4)
    credit.sent(6)
    credit.update("a", RUN, 4, 100, stamp=5, now=1.0)
    assert credit.available() == 0
    credit.update("a", RUN, 4, 100, stamp=6, now=1.1)
    assert credit.available() == 4


def test_what_is_left_of_earlier_acquisitions_takes_room():
    credit = window(a=100)
    credit.sent(6)
    credit.end()
    credit.begin(EARLIER, 20)
    assert credit.available() == 2
    credit.sent(1)
    assert credit.available() == 1
    credit.update("a", EARLIER, 1, 100, stamp=2, now=0.1)
    assert credit.available() == 5, "a word about a later block says that the earlier ones are consumed"
    assert credit.outstanding() == 0


def test_small_blocks_never_overrun_the_queue():
    from edgetem_nodes.graph.quality_of_service import BLOCKS

    credit = window(a=10**9)
    sent = 0
    while credit.available():
        credit.sent(1)
        sent += 1
    assert sent == LARGEST_BACKLOG < BLOCKS.depth
    credit.update("a", RUN, 1, 10**9, stamp=2, now=0.1)
    assert credit.available() > 0


def test_without_required_consumers_nothing_is_held_back():
    credit = CreditWindow([])
    credit.begin(RUN, 10)
    credit.sent(10**9)
    assert credit.available() > 10**9
    assert credit.missing() == [] and credit.silent(1e9) == []


def test_who_is_missing_silent_or_started_anew_is_named():
    credit = CreditWindow(["a", "b"], silence=5.0)
    assert credit.missing() == ["a", "b"]
    credit.update("a", NIL, 0, 100, stamp=1, now=10.0)
    credit.update("stranger", NIL, 0, 1, stamp=1, now=10.0)
    assert credit.missing() == ["b"]
    credit.update("b", NIL, 0, 100, stamp=1, now=13.0)
    assert credit.silent(15.0) == []
    assert credit.silent(15.1) == ["a"]
    credit.begin(RUN, 10)
    credit.update("b", NIL, 0, 100, stamp=2, now=15.0)
    assert credit.restarted() == []
    credit.sent(1)
    credit.update("a", NIL, 0, 100, stamp=1, now=15.0)
    assert credit.restarted() == []
    credit.update("b", NIL, 0, 100, stamp=3, now=16.0)
    assert credit.restarted() == ["b"]
    credit.end()
    assert credit.restarted() == []


@settings(max_examples=200, deadline=None)
@given(sizes=st.lists(st.integers(1, 200), min_size=1, max_size=4), frame=st.integers(1, 50),
       events=st.lists(st.tuples(st.integers(0, 3), st.integers(0, 8), st.booleans()), max_size=60))
def test_no_consumer_is_ever_sent_more_than_it_has_room_for(sizes, frame, events):
    """Against a brute-force account: bytes on the way never exceed a window, unless it is a single frame."""
    credit = CreditWindow([str(i) for i in range(len(sizes))])
    for i, size in enumerate(sizes):
        credit.update(str(i), NIL, 0, size, stamp=0, now=0.0)
    credit.begin(RUN, frame)
    blocks, consumed, said = [], [0] * len(sizes), [0] * len(sizes)
    for step, (who, count, speak) in enumerate(events, start=1):
        who %= len(sizes)
        taken = min(count, credit.available())
        if taken:
            credit.sent(taken)
            blocks.append(taken)
        for i, size in enumerate(sizes):
            on_the_way = blocks[said[i]:]
            assert sum(on_the_way) * frame <= size or on_the_way == [1]
        consumed[who] = min(len(blocks), consumed[who] + count)
        if speak:
            said[who] = consumed[who]
            credit.update(str(who), RUN, sum(blocks[:said[who]]), sizes[who], stamp=step, now=0.0)
    for i, size in enumerate(sizes):
        credit.update(str(i), RUN, sum(blocks), size, stamp=10**6, now=0.0)
    assert credit.available() >= 1 and credit.outstanding() == 0


def test_the_reporter_announces_counts_and_repeats():
    import rclpy
    from rclpy.executors import SingleThreadedExecutor

    from edgetem.msg import Credit
    from edgetem_nodes.graph.credit import CreditReporter
    from edgetem_nodes.graph.messages import to_uuid
    from edgetem_nodes.graph.quality_of_service import CREDITS

    context = rclpy.Context()
    rclpy.init(context=context)
    node = rclpy.create_node("eater", context=context)
    executor = SingleThreadedExecutor(context=context)
    executor.add_node(node)
    heard = []
    node.create_subscription(Credit, "credit", heard.append, CREDITS)
    try:
        reporter = CreditReporter(node, "eater", 1 << 20)
        other = CreditReporter(node, "other", 1 << 20)
        other.start()
        reporter.start()
        reporter.consumed(RUN, 5)
        while sum(credit.consumed_through == 5 for credit in heard) < 2:
            executor.spin_once(timeout_sec=5.0)
        mine = [credit for credit in heard if credit.consumer == "eater"]
        assert {credit.window for credit in mine} == {1 << 20}
        repeated = [credit for credit in mine if credit.consumed_through == 5]
        assert to_uuid(repeated[-1].acquisition_id) == RUN
        assert repeated[0].header.stamp == repeated[1].header.stamp, "the stamp is when the count changed"
        assert "other" in {credit.consumer for credit in heard}
        with pytest.raises(ValueError, match="must hold at least one block"):
            CreditReporter(node, "eater", 0)
        for each in (reporter, other):
            each.stop()
            each.destroy()
    finally:
        executor.shutdown()
        node.destroy_node()
        rclpy.shutdown(context=context)


class Telling:
    """What a reporter asks of its node; keeps what it says, and lets the test be the clock."""

    def __init__(self):
        self.said, self.beats, self.time = [], [], 0

    def create_publisher(self, *_):
        return self

    def publish(self, message):
        from edgetem_nodes.graph.messages import to_uuid
        self.said.append((to_uuid(message.acquisition_id), message.consumed_through, message.header.stamp.nanosec))

    def create_timer(self, _period, callback):
        self.beats.append(callback)
        return self

    def cancel(self):
        pass

    reset = cancel

    def get_clock(self):
        return self

    def now(self):
        self.time += 1
        return self

    def to_msg(self):
        from builtin_interfaces.msg import Time
        return Time(nanosec=self.time)


@pytest.mark.parametrize("named", [10, 33, 100, 1000, 100_000])
@pytest.mark.parametrize("frame", [1, 10, 64])
def test_a_reporter_that_keeps_little_to_itself_never_stalls_the_detector(named, frame):
    node, credit = Telling(), CreditWindow(["eater"])
    reporter = CreditReporter(node, "eater", named)
    reporter.start()
    heard = 0

    def tell():
        nonlocal heard
        for identifier, through, stamp in node.said[heard:]:
            credit.update("eater", identifier, through, named, stamp, 0.0)
        heard = len(node.said)
    tell()
    credit.begin(RUN, frame)
    block, sent, eaten, waiting = credit.largest_block(), 0, 0, []
    for _ in range(400):
        while credit.available() < block:
            assert waiting, "all is consumed, and the detector still waits"
            eaten += waiting.pop(0)
            reporter.consumed(RUN, eaten, block * frame)
            tell()
        credit.sent(block)
        sent += block
        waiting.append(block)
        assert sum(waiting) * frame <= max(named, frame) and len(waiting) <= LARGEST_BACKLOG
    assert heard <= 402


def test_what_was_kept_back_is_said_with_the_next_beat_and_then_repeated():
    node = Telling()
    reporter = CreditReporter(node, "eater", 1000)
    reporter.start()
    reporter.consumed(RUN, 3, 100)
    assert len(node.said) == 1
    node.beats[0]()
    node.beats[0]()
    assert [through for _, through, _ in node.said[1:]] == [3, 3]
    assert node.said[1][2] == node.said[2][2] > node.said[0][2], "a repetition has the old stamp"
    reporter.consumed(RUN, 5, 260)
    assert node.said[-1][:2] == (RUN, 5)
    reporter.consumed(RUN, 6)
    assert node.said[-1][:2] == (RUN, 6), "without a size it is said at once"
    for number in range(8):
        reporter.consumed(RUN, 7 + number, 1)
    assert node.said[-1][:2] == (RUN, 14), "many small blocks are a backlog, too"
