"""What a bag tells of the beam: every probe path, how far it came, the last survey, dose and time. Imports no ROS."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from edgetem_nodes.provenance.reading import read_raw

_TOPICS = ("microscope_state", "overview", "probe_path", "acquisition_end")


@dataclass
class Past:
    """What an experiment has done so far.

    Attributes
    ----------
    paths : probe paths, serialized, in order of time, and how many positions of each were exposed.
    overview : the last one, serialized; empty: none. survey_elapsed : acquisition time at which it began [s].
    surveys : how many were taken. dose : [electrons], largest that a state tells. elapsed : acquisition time so far [s].
    """

    paths: list[tuple[bytes, int]] = field(default_factory=list)
    overview: bytes = b""
    survey_elapsed: float = 0.0
    surveys: int = 0
    dose: float = 0.0
    elapsed: float = 0.0


def past_of(folder: str | Path) -> Past:
    """The past that a bag holds, sessions of the recorder one after the other.

    An acquisition whose end is not recorded counts as exposed to its last position.

    Raises
    ------
    BagError : there is no readable bag.
    """
    past, sessions = Past(), {}
    for recorded in read_raw(folder, _TOPICS):
        sessions.setdefault(recorded.session, []).append((recorded.topic.rsplit("/", 1)[-1], recorded, recorded.decode()))
    for session in sessions.values():
        _tell(past, session)
    return past


def _tell(past: Past, session: list[tuple[str, Any, Any]]) -> None:
    """Add what one session of the recorder tells. Stamps become elapsed time by the session's last probe path."""
    ends = {bytes(message.acquisition_id.uuid): message for name, _, message in session if name == "acquisition_end"}
    paths = [(recorded, message) for name, recorded, message in session if name == "probe_path"]
    began = _nanoseconds(paths[-1][1]) - round(paths[-1][1].elapsed * 1e9) if paths else None
    for recorded, path in paths:
        count, end = len(path.positions) // 2, ends.get(bytes(path.acquisition_id.uuid))
        exposed = count if end is None else min(count, int(end.sent + end.dropped))
        past.paths.append((recorded.data, exposed))
        past.elapsed = max(past.elapsed, path.elapsed + exposed * path.position_period)
    for name, recorded, message in session:
        if name == "microscope_state":
            past.dose = max(past.dose, message.dose)
            if began is not None:
                past.elapsed = max(past.elapsed, (_nanoseconds(message) - began) * 1e-9)
        elif name == "overview":
            past.surveys += 1
            past.overview = recorded.data
            past.survey_elapsed = past.elapsed if began is None else (_nanoseconds(message) - began) * 1e-9


def _nanoseconds(message: Any) -> int:
    """Acquisition time of a decoded message [ns] since the epoch."""
    return message.header.stamp.sec * 1_000_000_000 + message.header.stamp.nanosec
