"""What an experiment did before it was resumed: microscope and detector go on from there, each by itself.

A file of probe paths as they were recorded, so that what is read is what was commanded, to the last bit.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from edgetem_nodes.physics.exposure import Exposure


@dataclass(frozen=True)
class History:
    """Exposures in order of time, each with the number of its positions that the beam visited.

    Attributes
    ----------
    survey : (rows, columns) first channel of the last survey; None: there was none. survey_elapsed : when it began [s].
    images : surveys and reference images that were taken.
    """

    exposures: tuple[tuple[Exposure, int], ...] = ()
    survey: np.ndarray | None = None
    survey_elapsed: float = 0.0
    images: int = 0


def write_history(path: Path, paths: Sequence[tuple[bytes, int]], overview: bytes, survey_elapsed: float,
                  surveys: int) -> None:
    """Write recorded messages, serialized as CDR.

    Parameters
    ----------
    paths : probe paths in order of time, and how many positions of each were exposed.
    overview : the last one; empty: none. survey_elapsed : acquisition time [s] at which it began.
    surveys : how many were taken.
    """
    data = [data for data, _ in paths]
    with path.open("wb") as stream:
        np.savez(stream, paths=np.frombuffer(b"".join(data), np.uint8), lengths=np.array([len(d) for d in data], np.int64),
                 exposed=np.array([count for _, count in paths], np.int64), overview=np.frombuffer(overview, np.uint8),
                 survey_elapsed=survey_elapsed, surveys=surveys)


def read_history(path: str | Path) -> History:
    """What `write_history` wrote; an empty history where no file is named.

    Raises
    ------
    ValueError, OSError : the file cannot be read, or holds messages of another definition than is installed.
    """
    if not path:
        return History()
    from rclpy.serialization import deserialize_message

    from edgetem.msg import Overview, ProbePath
    from edgetem_nodes.graph.column import exposure_of
    from edgetem_nodes.graph.messages import numbers

    with np.load(path, allow_pickle=False) as stored:
        ends = np.cumsum(stored["lengths"])
        data = stored["paths"].tobytes()
        exposures = [exposure_of(deserialize_message(data[end - length:end], ProbePath))
                     for end, length in zip(ends, stored["lengths"], strict=True)]
        overview, exposed = stored["overview"].tobytes(), stored["exposed"].tolist()
        elapsed, surveys = float(stored["survey_elapsed"]), int(stored["surveys"])
    survey = None
    if overview:
        message = deserialize_message(overview, Overview)
        survey = numbers(message.data, (len(message.channels), *(int(size) for size in message.field.shape)))[0].copy()
    images = {image.elapsed for exposure in exposures for image in exposure.reference_images}
    return History(tuple(zip(exposures, exposed, strict=True)), survey, elapsed, surveys + len(images))
