"""What an experiment wants to measure next."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from edgetem_nodes.planner.actions import Setting


@dataclass(frozen=True)
class Proposal:
    """What to measure next, and all that is needed to say why and to repeat the choice."""

    candidates: np.ndarray
    """(count,) int64 grid indices, row * columns + column, no two alike."""
    positions: np.ndarray
    """(count, 2) (y, x) [m]."""
    acquisition_function: str
    """Name; two joined by "+" where a share explores; empty for the initial scan."""
    values: np.ndarray
    """(count,) acquisition value of each when it was chosen."""
    reason: str
    model: str
    """JSON: surrogate and its hyperparameters; empty for the initial scan."""
    generator_state: str
    """JSON of the random generator's state before the choice."""
    acquisition: np.ndarray | None
    """(rows, columns) map of the acquisition function; NaN where measured or forbidden. None for the initial scan."""
    setting_index: int = 0
    """Of the setting of the instrument, to be told with the measurements."""
    setting: Setting = field(default_factory=Setting)
    """Dwell time, optics and stage to measure with."""
    predicted: np.ndarray = field(default_factory=lambda: np.zeros(0))
    """(count,) [scalar] what the model expects there; NaN without a model."""
    predicted_deviations: np.ndarray = field(default_factory=lambda: np.zeros(0))
    """(count,) [scalar] standard deviation of that, measurement noise left out."""
    watchdogs: tuple[str, ...] = ()
    """Failures of model or search that were noticed, and what was done about each."""
