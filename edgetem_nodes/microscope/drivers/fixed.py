"""A column whose settings are those of the configuration or the file, and stay: that of measured data."""

from __future__ import annotations

from collections.abc import Sequence

from edgetem_nodes.graph.instrument import Instrument
from edgetem_nodes.microscope.drivers import (
    HOLDER_LIMITS,
    OPTICS_LIMITS,
    STAGE_LIMITS,
    ColumnState,
    NotSupported,
    check_range,
)
from edgetem_nodes.physics.electrons import electrons
from edgetem_nodes.physics.exposure import Exposure
from edgetem_nodes.physics.scan import ScanField


class FixedColumn:
    """Settings, blanker and dose of a column that cannot be commanded."""

    steered = False

    def __init__(self, instrument: Instrument, field: ScanField, optics: dict[str, float], stage: dict[str, float],
                 reason: str, real_time: bool) -> None:
        """Set up the column.

        Parameters
        ----------
        optics, stage : commanded values by the names of Optics and StagePose, SI units. Nothing is sensed.
        reason : why a control cannot change, for the error that says so.
        """
        self.field, self.real_time = field, real_time
        self._instrument, self._reason = instrument, reason
        self._optics, self._stage = optics, stage
        self._blanked = True

    @property
    def pixel_area_m2(self) -> float:
        """Area of one grid cell [m^2]."""
        return abs(self.field.step[0] * self.field.step[1])

    def state(self, elapsed: float) -> ColumnState:
        """Settings; there are no sensors."""
        return ColumnState(commanded_optics=dict(self._optics), commanded_stage=dict(self._stage),
                           beam_blanked=self._blanked)

    def set_optics(self, **changes: float) -> None:
        """Accept only what is already so; raises ValueError outside the range, NotSupported for a change."""
        check_range(changes, OPTICS_LIMITS, "optics")
        self._unchanged(changes, self._optics)

    def move_stage(self, **changes: float) -> None:
        """Accept only the present pose; raises ValueError outside the range, NotSupported for a move."""
        check_range(changes, STAGE_LIMITS, "stage")
        self._unchanged(changes, self._stage)

    def set_holder(self, **changes: float) -> None:
        """Raises ValueError outside the range, NotSupported otherwise."""
        check_range(changes, HOLDER_LIMITS, "holder")
        self._unchanged(changes, {})

    def _unchanged(self, changes: dict[str, float], present: dict[str, float]) -> None:
        for name, value in changes.items():
            if name not in present or abs(value - present[name]) > 1e-9 * abs(present[name]) + 1e-15:
                raise NotSupported(f"{name} cannot be changed to {value:g}: {self._reason}")

    def resume(self, history: Sequence[tuple[Exposure, int]]) -> None:
        """Data that was measured does not change, nor do its settings."""

    def expose(self, exposure: Exposure, frames: int) -> None:
        """Data that was measured does not change."""

    def blank(self, blanked: bool) -> None:
        """Blank or unblank the beam."""
        self._blanked = bool(blanked)

    def electrons(self, count: int, dwell: float) -> float:
        """Electrons that `count` positions of `dwell` [s] cost: probe current times time."""
        return count * electrons(self._instrument.probe_current_pA * 1e-12, dwell)

    def _survey_cost(self) -> tuple[float, float]:
        """Electrons and duration [s] of a survey."""
        positions = self.field.shape[0] * self.field.shape[1]
        dwell = self._instrument.survey_dwell_us * 1e-6
        return self.electrons(positions, dwell), positions * dwell

    def close(self) -> None:
        """Blank the beam."""
        self.blank(True)
