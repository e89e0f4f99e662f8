"""The microscope of a measured scan: its survey image, its grid, the conditions that the file states."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from edgetem_nodes.graph.instrument import Instrument, replay_set
from edgetem_nodes.microscope.drivers import NotSimulated, Survey
from edgetem_nodes.microscope.drivers.fixed import FixedColumn
from edgetem_nodes.physics.exposure import Exposure

if TYPE_CHECKING:
    from edgetem_nodes.physics.specimens import Atoms


class ReplayDriver(FixedColumn):
    """Column and survey of a `ReplaySet`, see `MicroscopeDriver`. Nothing is sensed: a file holds what was set."""

    def __init__(self, instrument: Instrument) -> None:
        self._replay = replay_set(instrument)
        self._survey: Survey | None = None
        stated = self._replay.scan.conditions
        optics = {"high_tension": stated.get("high_tension", instrument.high_tension_kV * 1e3),
                  "semi_convergence_angle": stated.get("semi_convergence_angle", instrument.semi_convergence_mrad * 1e-3),
                  "probe_current": instrument.probe_current_pA * 1e-12}
        if "camera_length" in stated:
            optics["camera_length"] = stated["camera_length"]
        stage = {"alpha": stated["alpha"]} if "alpha" in stated else {}
        super().__init__(instrument, self._replay.field, optics, stage,
                         f"the data in {self._replay.scan.path.name} was measured as it was", instrument.replay.real_time)

    def overview(self, exposure: Exposure) -> Survey:
        """The survey image, or the counts summed over each pixel."""
        if self._survey is None:
            dose, duration = self._survey_cost()
            channel = self._replay.survey_title.lower().replace(" ", "_")
            self._survey = Survey([channel], self._replay.survey()[np.newaxis], dose, duration)
        return self._survey

    def image(self, exposure: Exposure, shape: tuple[int, int]) -> np.ndarray:
        """The survey at the pixels nearest to the nominal positions; raises ValueError for one outside the field."""
        return self._replay.survey().ravel()[self.field.candidates(exposure.positions)].reshape(shape)

    def truths(self) -> list[str]:
        """Raises NotSimulated."""
        raise NotSimulated(f"{self._replay.scan.path.name} was measured: there is no ground truth")

    def truth(self, quantity: str, exposure: Exposure) -> tuple[str, np.ndarray]:
        """Raises NotSimulated."""
        raise NotSimulated(f"{self._replay.scan.path.name} was measured: there is no truth about {quantity!r}")

    def atoms(self, low: np.ndarray, high: np.ndarray, exposure: Exposure) -> Atoms:
        """Raises NotSimulated."""
        raise NotSimulated(f"{self._replay.scan.path.name} was measured: nobody knows its atoms")
