"""What an action is besides its position: dwell time, optics, camera length and stage, and what each costs.

An experiment declares which of them are free by listing more than one value; every combination is a setting. A batch is
measured with one setting, because a column takes longer to change than a probe to move.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from itertools import product

import numpy as np

from edgetem_nodes.planner.parameters import Actions

OPTICS = {"defocus_nm": ("defocus", 1e-9), "semi_convergence_mrad": ("semi_convergence_angle", 1e-3),
          "probe_current_pA": ("probe_current", 1e-12), "camera_length_mm": ("camera_length", 1e-3)}
"""Parameter, field of the message Optics, and unit [SI]."""
STAGE = {"alpha_mrad": ("alpha", 1e-3), "beta_mrad": ("beta", 1e-3), "z_nm": ("z", 1e-9)}
"""Parameter, field of the message StagePose, and unit [SI]. x and y are the position's."""
LARGEST = 64
"""Settings of one experiment."""


@dataclass(frozen=True)
class Setting:
    """How a batch is measured; what is not named stays as it is."""

    dwell_time: float = 0.0
    """[s] a position; 0: the configured one."""
    optics: dict[str, float] = field(default_factory=dict)
    """Fields of Optics, SI units."""
    stage: dict[str, float] = field(default_factory=dict)
    """Fields of StagePose, SI units."""

    def __str__(self) -> str:
        parts = [f"dwell time {self.dwell_time * 1e3:.4g} ms"] if self.dwell_time else []
        for parameter, (name, unit) in (*OPTICS.items(), *STAGE.items()):
            held = self.optics if parameter in OPTICS else self.stage
            if name in held:
                parts.append(f"{name.replace('_', ' ')} {held[name] / unit:.4g} {parameter.rsplit('_', 1)[1]}")
        return ", ".join(parts) or "as configured"


class ActionSpace:
    """All settings of an experiment and their costs.

    Parameters
    ----------
    parameters : what is free, and what it costs.

    Raises
    ------
    ValueError : more settings than LARGEST, a value that is repeated, or a cost in time without a dwell time.
    """

    def __init__(self, parameters: Actions) -> None:
        names = ("dwell_ms", *OPTICS, *STAGE)
        lists = {name: list(getattr(parameters, name)) for name in names}
        for name, values in lists.items():
            if len(set(values)) != len(values):
                raise ValueError(f"actions.{name} = {values} repeats a value: list every setting once")
        if parameters.cost == "time" and not parameters.dwell_ms:
            raise ValueError("actions.cost is 'time', and actions.dwell_ms is empty: name the dwell time, one value is enough, "
                             "so that settling, travel and changes are weighed against it")
        count = math.prod(max(1, len(values)) for values in lists.values())
        if count > LARGEST:
            raise ValueError(f"the lists under actions combine to {count} settings, at most {LARGEST} are possible: free "
                             "fewer quantities, or list fewer values")
        chosen = [{name: values[0] for name, values in zip(lists, combination, strict=True) if values}
                  for combination in product(*([(value,) for value in values] or [()] for values in lists.values()))]
        self.parameters = parameters
        self.settings = tuple(_setting(values) for values in chosen)
        self._doses = np.array([values.get("dwell_ms", 1.0) * values.get("probe_current_pA", 1.0) for values in chosen])
        free = [name for name in (*OPTICS, *STAGE) if len(lists[name]) > 1 and name != "probe_current_pA"]
        columns = [np.array([values[name] for values in chosen], float) for name in free]
        self.features = np.stack([(c - c.min()) / np.ptp(c) for c in columns], axis=1) if free else np.zeros((count, 0))
        """(settings, free quantities that change what is measured) each from 0 to 1; dwell time and current do not."""

    def __len__(self) -> int:
        return len(self.settings)

    def relative_dose(self, setting: int) -> float:
        """Electrons a position, over those with setting 0: what the variance of counting statistics is divided by."""
        return float(self._doses[setting] / self._doses[0])

    def counts(self, setting: int) -> float:
        """What readings with a setting are divided by, so that those of all settings measure one quantity."""
        return self.relative_dose(setting) if self.parameters.scalar_counts else 1.0

    def alike(self, setting: int) -> np.ndarray:
        """(settings,) bool: which measure the same quantity, more or less precisely."""
        return (self.features == self.features[setting]).all(axis=1)

    def change_time(self, before: int, after: int) -> float:
        """[s] that the column and the stage take from one setting to another."""
        p, old, new = self.parameters, self.settings[before], self.settings[after]
        camera = old.optics.get("camera_length") != new.optics.get("camera_length")
        rest = {k: v for k, v in old.optics.items() if k != "camera_length"} != \
               {k: v for k, v in new.optics.items() if k != "camera_length"}
        return camera * p.camera_length_change_s + rest * p.optics_change_s + (old.stage != new.stage) * p.stage_change_s

    def visit_time(self, setting: int) -> float:
        """[s] a position: dwell time and settling."""
        return self.settings[setting].dwell_time + self.parameters.settling_ms * 1e-3

    def travel_time(self, distance: np.ndarray) -> np.ndarray:
        """[s] that the probe takes over a distance [m]."""
        return distance * (self.parameters.travel_ms_per_um * 1e3)


def _setting(values: dict[str, float]) -> Setting:
    return Setting(values.get("dwell_ms", 0.0) * 1e-3,
                   {field_: values[name] * unit for name, (field_, unit) in OPTICS.items() if name in values},
                   {field_: values[name] * unit for name, (field_, unit) in STAGE.items() if name in values})


def short_tour(positions: np.ndarray, start: np.ndarray | None = None) -> np.ndarray:
    """The order of a short path: always to the nearest position left, then improved by reversing stretches.

    Nearest neighbour and 2-opt: Croes, Oper. Res. 6, 791 (1958).

    Parameters
    ----------
    positions : (count, 2) (y, x) [m].
    start : (2,) (y, x) [m] where the probe is; the first position by default.

    Returns
    -------
    (count,) int64 indices of the positions.
    """
    here = positions[0] if start is None else np.asarray(start, float)
    left, order = list(range(len(positions))), []
    while left:
        nearest = left[int(np.square(positions[left] - here).sum(axis=1).argmin())]
        order.append(nearest)
        left.remove(nearest)
        here = positions[nearest]
    return np.array(_two_opt(order, positions), np.int64)


def _two_opt(order: list[int], at: np.ndarray, rounds: int = 4) -> list[int]:
    order = list(order)
    for _ in range(rounds):
        improved = False
        for i in range(len(order) - 2):
            ends = at[order[i + 1:]]
            step = np.hypot(*(at[order[i]] - ends).T)
            after = np.append(np.hypot(*(ends[0] - ends[1:]).T), 0.0)
            onward = np.append(np.hypot(*np.diff(ends, axis=0).T), 0.0)
            gain = step[0] + onward - step - after
            best = int(gain.argmax())
            if gain[best] > 1e-15 and best > 0:
                order[i + 1:i + 2 + best] = order[i + 1:i + 2 + best][::-1]
                improved = True
        if not improved:
            break
    return order
