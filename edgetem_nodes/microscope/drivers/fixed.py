"""A column whose settings are those of the configuration or the file, and stay: common to simulation and replay."""

from __future__ import annotations

from edgetem_nodes.graph.instrument import Instrument
from edgetem_nodes.microscope.drivers import OPTICS_LIMITS, STAGE_LIMITS, ColumnState, NotSupported, check_range
from edgetem_nodes.physics.electrons import electrons
from edgetem_nodes.physics.scan import ScanField


class FixedColumn:
    """Settings, blanker and dose of a column that cannot be commanded."""

    def __init__(self, instrument: Instrument, field: ScanField, optics: dict[str, float], stage: dict[str, float],
                 holder: dict[str, float], sensed: bool, reason: str, real_time: bool) -> None:
        """Set up the column.

        Parameters
        ----------
        optics, stage, holder : commanded values by the names of Optics, StagePose and Holder, SI units.
        sensed : whether sensors report these values; otherwise nothing is sensed.
        reason : why a control cannot change, for the error that says so.
        """
        self.field, self.real_time = field, real_time
        self._instrument, self._reason, self._sensed = instrument, reason, sensed
        self._optics, self._stage, self._holder = optics, stage, holder
        self._blanked = True

    @property
    def pixel_area_m2(self) -> float:
        """Area of one grid cell [m^2]."""
        return abs(self.field.step[0] * self.field.step[1])

    def state(self) -> ColumnState:
        """Settings; the sensors agree with them where there are any."""
        settings = (dict(self._optics), dict(self._stage), dict(self._holder))
        sensed = settings if self._sensed else ({}, {}, {})
        return ColumnState(settings[0], sensed[0], settings[1], sensed[1], settings[2], sensed[2],
                           beam_blanked=self._blanked)

    def set_optics(self, **changes: float) -> None:
        """Accept only what is already so; raises ValueError outside the range, NotSupported for a change."""
        check_range(changes, OPTICS_LIMITS, "optics")
        self._unchanged(changes, self._optics)

    def move_stage(self, **changes: float) -> None:
        """Accept only the present pose; raises ValueError outside the range, NotSupported for a move."""
        check_range(changes, STAGE_LIMITS, "stage")
        self._unchanged(changes, self._stage)

    def _unchanged(self, changes: dict[str, float], present: dict[str, float]) -> None:
        for name, value in changes.items():
            if name not in present or abs(value - present[name]) > 1e-9 * abs(present[name]) + 1e-15:
                raise NotSupported(f"{name} cannot be changed to {value:g}: {self._reason}")

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
