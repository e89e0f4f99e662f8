"""The simulated microscope: a column, stage and holder that obey, and a specimen about which it alone may tell the truth."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from edgetem_nodes.graph.instrument import Instrument, simulation
from edgetem_nodes.microscope.drivers import (
    HOLDER_LIMITS,
    OPTICS_LIMITS,
    STAGE_LIMITS,
    ColumnState,
    NotSupported,
    Survey,
    check_range,
)
from edgetem_nodes.physics.electrons import electrons
from edgetem_nodes.physics.exposure import Exposure
from edgetem_nodes.physics.scan import ScanField

if TYPE_CHECKING:
    from edgetem_nodes.physics.specimens import Atoms

_ROOM_TEMPERATURE = 293.15
_OPTICS_LIMITS = {**OPTICS_LIMITS, "high_tension": (20e3, 300e3), "probe_current": (0.0, 1e-8),
                  "semi_convergence_angle": (1e-4, 0.05), "camera_length": (1e-3, 10.0), "defocus": (-2e-6, 2e-6),
                  "beam_shift_y": (-2e-7, 2e-7), "beam_shift_x": (-2e-7, 2e-7), "magnification": (1.0, 100.0)}
_HOLDER_LIMITS = {"temperature": (80.0, 1600.0), "bias": (-200.0, 200.0)}


class SimulatedDriver:
    """Column, images and truth of `physics.simulation`, see `MicroscopeDriver`.

    Detector and microscope evaluate the simulation each from the configuration and what the probe paths carry.
    """

    real_time = False
    steered = True

    def __init__(self, instrument: Instrument, seed: int) -> None:
        self._simulation = simulation(instrument, seed)
        self._optics = {**self._simulation.settings.optics, "probe_current": instrument.probe_current_pA * 1e-12}
        self._stage = dict.fromkeys(STAGE_LIMITS, 0.0)
        self._holder = {"temperature": _ROOM_TEMPERATURE, "bias": 0.0}
        self._blanked = True

    @property
    def field(self) -> ScanField:
        """Grid of positions at the commanded magnification."""
        return self._simulation.field(self._optics)

    @property
    def pixel_area_m2(self) -> float:
        """Area of one grid cell [m^2]."""
        return abs(self.field.step[0] * self.field.step[1])

    def state(self, elapsed: float) -> ColumnState:
        """Commanded values, and what the sensors make of them."""
        optics, stage, holder = self._simulation.sensed(elapsed, self._optics, self._stage, self._holder)
        return ColumnState(dict(self._optics), optics, dict(self._stage), stage, dict(self._holder), holder,
                           beam_blanked=self._blanked)

    def set_optics(self, **changes: float) -> None:
        """Command optics; raises ValueError outside the range, or where the simulation cannot follow."""
        check_range(changes, _OPTICS_LIMITS, "optics")
        self._simulation.check({**self._optics, **changes})
        self._optics.update(changes)

    def move_stage(self, **changes: float) -> None:
        """Move the stage; raises ValueError outside the range."""
        check_range(changes, STAGE_LIMITS, "stage")
        self._simulation.check_stage(self._optics, {**self._stage, **changes})
        self._stage.update(changes)

    def set_holder(self, **changes: float) -> None:
        """Command the holder; raises ValueError outside the range, NotSupported for a control that it has not."""
        missing = [name for name in changes if name not in HOLDER_LIMITS]
        if missing:
            raise NotSupported(f"the simulated holder has no control of {', '.join(missing)}; it has "
                               f"{', '.join(HOLDER_LIMITS)}")
        check_range(changes, _HOLDER_LIMITS, "holder")
        self._holder.update(changes)

    def overview(self, exposure: Exposure) -> Survey:
        """Low-dose annular dark-field image of the whole field."""
        image = self._simulation.image(exposure, self.field.shape)
        return Survey(["haadf"], image[np.newaxis], self.electrons(exposure.count, exposure.dwell),
                      exposure.count * exposure.period)

    def image(self, exposure: Exposure, shape: tuple[int, int]) -> np.ndarray:
        """Annular dark-field image of some part of the field."""
        return self._simulation.image(exposure, shape)

    def resume(self, history: Sequence[tuple[Exposure, int]]) -> None:
        """The specimen has received what it has, and the column stays as it was commanded."""
        for exposure, count in history:
            self._simulation.expose(exposure, count)
        last = history[-1][0]
        self._optics.update(last.optics)
        self._stage.update(last.stage)
        if len(last.holder):
            self._holder.update(zip(("temperature", "bias"), last.holder[-1, 1:].tolist(), strict=True))

    def expose(self, exposure: Exposure, frames: int) -> None:
        """Tell the specimen what it has received."""
        self._simulation.expose(exposure, frames)

    def blank(self, blanked: bool) -> None:
        """Blank or unblank the beam."""
        self._blanked = bool(blanked)

    def electrons(self, count: int, dwell: float) -> float:
        """Electrons that `count` positions of `dwell` [s] cost: probe current times time."""
        return count * electrons(self._optics["probe_current"], dwell)

    def truths(self) -> list[str]:
        """Names of what `truth` knows, and "atoms"."""
        return [*self._simulation.quantities(), "atoms"]

    def truth(self, quantity: str, exposure: Exposure) -> tuple[str, np.ndarray]:
        """Unit and map (rows, columns) of a quantity; raises ValueError where it is unknown."""
        return self._simulation.truth(quantity, exposure)

    def atoms(self, low: np.ndarray, high: np.ndarray, exposure: Exposure) -> Atoms:
        """Atoms with low <= (y, x) < high [m] in the frame of the scan."""
        return self._simulation.atoms(low, high, exposure)

    def close(self) -> None:
        """Blank the beam."""
        self.blank(True)
