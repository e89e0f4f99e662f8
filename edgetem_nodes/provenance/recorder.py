"""The recorder: every topic of the graph, as the bytes that travelled, in a rosbag2 that survives a crash."""

from __future__ import annotations

import importlib
import re
import shutil
import time
from pathlib import Path

from diagnostic_msgs.msg import DiagnosticStatus
from rclpy.qos import DurabilityPolicy, HistoryPolicy, QoSProfile, ReliabilityPolicy

from edgetem_nodes.graph import quality_of_service
from edgetem_nodes.graph.node import GraphNode
from edgetem_nodes.provenance.bag import BagWriter
from edgetem_nodes.provenance.definitions import split_type
from edgetem_nodes.provenance.metadata import BagError
from edgetem_nodes.provenance.metadata import quality_of_service as offered_form
from edgetem_nodes.provenance.parameters import Parameters
from edgetem_nodes.provenance.topics import BULK, FLUSHED_BY, TOPICS, WRITTEN_AT_ONCE

QUEUE = 1000
"""Messages of one topic that wait for the recorder."""
BULK_QUEUE = 64
FEEDBACK = QoSProfile(depth=10)
"""What rclpy's action servers offer."""
DISCOVERY_PERIOD = 0.25
"""[s] between two looks for topics that are on no list, such as lifecycle transitions."""
FREE_SPACE_PERIOD = 1.0
GLOBAL_TOPICS = frozenset(("/diagnostics", "/rosout", "/parameter_events", "/clock"))
"""Recorded whatever the namespace."""
MEBIBYTE = 1 << 20


class RecorderNode(GraphNode):
    """Writes every topic of its namespace to `output/bag`; goes on in a bag that exists, in a new file.

    Topics of the graph are subscribed to from configuration on, so that nothing early is lost; others when they appear.
    Log time is when the message arrived, publish time when it was sent. A full disk ends the node with exit code 1.
    """

    NAME = "recorder"
    Parameters = Parameters

    def __init__(self, **options: object) -> None:
        super().__init__(**options)
        self.exit_code: int | None = None
        self._bag: BagWriter | None = None
        self._taken: dict[str, object] = {}
        self._unrecordable: set[str] = set()
        self._sequence: dict[tuple[str, bytes], int] = {}
        self._timers_made: list = []
        self._superseding: set[str] = set()
        self._lost: dict[str, int] = {}
        self._decisions = ""
        self._decided = self._urgent = False

    def setup(self) -> None:
        if not self.parameters.output:
            raise ValueError("parameter 'output' is empty: it names the experiment's folder, in which the bag is written")
        folder = Path(self.parameters.output) / "bag"
        self._check_space(Path(self.parameters.output))
        self._bag = BagWriter(folder, append=True, compression=self.parameters.compression)
        self._decisions = self.resolve_topic_name(FLUSHED_BY)
        self._at_once = {self.resolve_topic_name(topic) for topic in WRITTEN_AT_ONCE}
        excluded = set(self.parameters.exclude) | (frozenset() if self.parameters.record_bulk else BULK)
        self._excluded = {self.resolve_topic_name(name) for name in excluded}
        for name, (type_name, profile) in TOPICS.items():
            offered = FEEDBACK if profile == "FEEDBACK" else getattr(quality_of_service, profile)
            self._record(self.resolve_topic_name(name), type_name, [offered])
        self._discover()
        self._bag.flush()
        self._timers_made = [self.create_timer(DISCOVERY_PERIOD, lambda: self._guarded(self._discover)),
                        self.create_timer(self.parameters.flush_interval, self._flush),
                        self.create_timer(FREE_SPACE_PERIOD, self._watch)]
        self.get_logger().info(f"recording to {folder}")

    def stop(self) -> None:
        self._flush()
        if self._bag is not None:
            self._guarded(self._bag.flush)

    def teardown(self) -> None:
        for timer in self._timers_made:
            self.destroy_timer(timer)
        self._timers_made = []
        self._take_waiting()
        for subscription in self._taken.values():
            self.destroy_subscription(subscription)
        self._taken = {}
        self._sequence = {}
        if self._bag is not None:
            bag, self._bag = self._bag, None
            self._guarded(bag.close)

    # ---- topics -----------------------------------------------------------------------------------------------

    def _discover(self) -> None:
        if self._bag is None:
            return
        own = self.get_namespace().rstrip("/") + "/"
        for name, types in self.get_topic_names_and_types():
            if name in self._taken or name in self._excluded or name in self._unrecordable:
                continue
            if not name.startswith(own) and name not in GLOBAL_TOPICS:
                continue
            publishers = self.get_publishers_info_by_topic(name)
            if not publishers:
                continue
            if len(types) > 1:
                self._refuse(name, f"it has several types: {', '.join(types)}")
                continue
            self._record(name, types[0], [publisher.qos_profile for publisher in publishers],
                         str(publishers[0].topic_type_hash))

    def _record(self, name: str, type_name: str, offered: list[QoSProfile], type_hash: str = "") -> None:
        if name in self._excluded:
            return
        try:
            type_class = message_class(type_name)
        except (ImportError, AttributeError, ValueError) as error:
            self._refuse(name, f"its type {type_name} is not installed here ({error})")
            return
        forms = [offered_profile(profile) for profile in offered]
        self._bag.add_topic(name, type_name, [form for i, form in enumerate(forms) if form not in forms[:i]],
                            "" if type_hash == "INVALID" else type_hash)
        profile = requested_profile(offered, BULK_QUEUE if name.split("/")[-1] in BULK else QUEUE)
        if profile.durability == DurabilityPolicy.TRANSIENT_LOCAL:
            self._superseding.add(name)  # a state that is replaced before it was taken is not missed

        def receive(data: bytes, information: dict) -> None:
            self._write(name, data, information)
            self._take_waiting()
            if self._decided:
                self._flush()
            elif self._urgent and self._bag is not None:
                self._urgent = False
                self._guarded(self._bag.write_out)

        self._taken[name] = self.create_subscription(type_class, name, receive, profile, raw=True)

    def _refuse(self, name: str, why: str) -> None:
        self._unrecordable.add(name)
        self.warn(f"{name} is not recorded: {why}")

    # ---- messages ---------------------------------------------------------------------------------------------

    def _write(self, name: str, data: bytes, information: dict) -> None:
        if self._bag is None:
            return
        self._decided |= name == self._decisions
        self._urgent |= name in self._at_once
        received = information["received_timestamp"] or time.time_ns()
        self._guarded(self._bag.write, name, data, received, information["source_timestamp"] or received)
        number = information["publication_sequence_number"]
        if number is not None and name not in self._superseding:
            key = name, information["publisher_gid"]["data"]
            missed = number - self._sequence.get(key, number - 1) - 1
            self._sequence[key] = number
            if missed > 0:
                self._lost[name] = self._lost.get(name, 0) + missed
                if self._lost[name] == missed:
                    self.warn(f"{missed} messages of {name} did not reach the recorder; more are only counted, in the "
                              "diagnostics")

    def _take_waiting(self) -> None:
        """Write all that has arrived on any topic: the executor takes longer for one message than this does for all."""
        for name, subscription in list(self._taken.items()):
            for _ in range(QUEUE):
                with subscription.handle:
                    taken = subscription.handle.take_message(subscription.msg_type, True)
                if taken is None or self._bag is None:
                    break
                self._write(name, *taken)

    def _flush(self) -> None:
        if self._bag is None:
            return
        self._take_waiting()
        self._decided = self._urgent = False
        if self._bag is not None and self._guarded(self._bag.flush, False):
            lost = sum(self._lost.values())
            self.report(f"{lost} messages lost: " + ", ".join(self._lost) if lost else "recording",
                        DiagnosticStatus.WARN if lost else DiagnosticStatus.OK, lost=lost,
                        topics=len(self._taken), messages=sum(entry.message_count for entry in self._bag.metadata.files))

    # ---- disk -------------------------------------------------------------------------------------------------

    def _watch(self) -> None:
        if self._bag is not None:
            self._guarded(self._check_space, self._bag.folder)

    def _check_space(self, folder: Path) -> None:
        while not folder.exists():
            folder = folder.parent
        free = shutil.disk_usage(folder).free
        if free < self.parameters.minimum_free_mib * MEBIBYTE:
            raise BagError(f"{folder} has {free / MEBIBYTE:.0f} MiB free, below minimum_free_mib = "
                           f"{self.parameters.minimum_free_mib}: make room, then resume the experiment")

    def _guarded(self, work, *arguments) -> bool:
        """Call what writes; when the bag fails, say so once, close what there is, and end the node."""
        try:
            work(*arguments)
            return True
        except BagError as error:
            if self.exit_code is None:
                self.exit_code = 1
                self.get_logger().fatal(str(error))
                self.report(str(error), DiagnosticStatus.ERROR)
            bag, self._bag = self._bag, None
            if bag is not None:
                try:
                    bag.close()
                except BagError:
                    pass  # said already; what was flushed stays
            return False


def message_class(type_name: str) -> type:
    """The Python class of a message type, those derived from actions and services included.

    Raises
    ------
    ValueError, ImportError, AttributeError : there is no such type here.
    """
    package, kind, name = split_type(type_name)
    if not re.fullmatch(r"[a-z][a-z0-9_]*", package):
        raise ValueError(f"{package!r} is not the name of a ROS package")
    module = importlib.import_module(f"{package}.{kind}")
    base, _, derived = name.partition("_")
    if kind == "action" and derived in ("FeedbackMessage", "Feedback", "Goal", "Result"):
        action = getattr(module, base)
        return action.Impl.FeedbackMessage if derived == "FeedbackMessage" else getattr(action, derived)
    return getattr(module, name)


def offered_profile(profile: QoSProfile) -> dict:
    """A publisher's quality of service in the form of `metadata.yaml`; a duration of zero means that none was set."""
    def span(duration: object) -> dict | None:
        return None if duration.nanoseconds == 0 else dict(zip(("sec", "nsec"), divmod(duration.nanoseconds, 10**9),
                                                               strict=True))
    liveliness = profile.liveliness.name.lower()
    return offered_form(profile.history.name.lower(), profile.depth, profile.reliability.name.lower(),
                        profile.durability.name.lower(), span(profile.deadline), span(profile.lifespan),
                        "automatic" if liveliness == "system_default" else liveliness,
                        span(profile.liveliness_lease_duration))


def requested_profile(offered: list[QoSProfile], depth: int) -> QoSProfile:
    """The strongest quality of service that all these publishers can serve."""
    reliable = all(profile.reliability == ReliabilityPolicy.RELIABLE for profile in offered)
    kept = all(profile.durability == DurabilityPolicy.TRANSIENT_LOCAL for profile in offered)
    return QoSProfile(history=HistoryPolicy.KEEP_LAST, depth=depth,
                      reliability=ReliabilityPolicy.RELIABLE if reliable else ReliabilityPolicy.BEST_EFFORT,
                      durability=DurabilityPolicy.TRANSIENT_LOCAL if kept else DurabilityPolicy.VOLATILE)
