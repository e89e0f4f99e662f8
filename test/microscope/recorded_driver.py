"""A driver that does what it is told and records it."""

from __future__ import annotations

import threading

import numpy as np

from edgetem_nodes.microscope.drivers import (
    HOLDER_LIMITS,
    ColumnState,
    NotSimulated,
    NotSupported,
    Survey,
    check_range,
)
from edgetem_nodes.physics.exposure import Exposure
from edgetem_nodes.physics.scan import ScanField

PATIENCE = 20.0
STEP = 1e-9


class RecordedDriver:
    """A driver of a 4 x 5 field, 1 nm apart, 1000 electrons a millisecond."""

    field = ScanField((0.0, 0.0), (STEP, STEP), (4, 5))
    pixel_area_m2 = STEP**2
    steered = True

    def __init__(self, real_time: bool) -> None:
        self.real_time = real_time
        self.blanked: list[bool] = []
        self.optics = {"high_tension": 80e3, "defocus": 0.0}
        self.stage: dict[str, float] = {}
        self.holder: dict[str, float] = {}
        self.surveys: list[Exposure] = []
        self.exposed: list[tuple[Exposure, int]] = []
        self.failing: set[str] = set()
        self.slow: threading.Event | None = None
        self.closed = False

    def overview(self, exposure: Exposure) -> Survey:
        self.surveys.append(exposure)
        if self.slow is not None:
            assert self.slow.wait(PATIENCE)
        if "overview" in self.failing:
            raise OSError("no signal from the annular detector")
        data = np.arange(20.0).reshape(1, 4, 5)
        return Survey(["haadf"], data, 2000.0, 0.5)

    def image(self, exposure: Exposure, shape: tuple[int, int]) -> np.ndarray:
        return np.ones(shape)

    def expose(self, exposure: Exposure, frames: int) -> None:
        self.exposed.append((exposure, frames))

    def state(self, elapsed: float) -> ColumnState:
        if "state" in self.failing:
            raise OSError("the column does not answer")
        return ColumnState(commanded_optics=dict(self.optics), sensed_optics=dict(self.optics),
                           commanded_stage=dict(self.stage), commanded_holder=dict(self.holder), vacuum=1e-6)

    def set_optics(self, **values: float) -> None:
        for name, value in values.items():
            if name == "coma":
                raise NotSupported("this column has no control of coma")
            if name == "high_tension" and value > 300e3:
                raise ValueError(f"high tension {value:g} V is above 300000 V")
        if "optics" in self.failing:
            raise OSError("lens supply tripped")
        self.optics.update(values)

    def move_stage(self, **values: float) -> None:
        if not self.stage:
            raise NotSupported("this instrument has no stage")
        self.stage.update(values)

    def set_holder(self, **values: float) -> None:
        if "bias" in values and "bias" not in self.holder:
            raise NotSupported("this holder has no bias")
        check_range(values, HOLDER_LIMITS, "holder")
        self.holder.update(values)

    def blank(self, blank: bool) -> None:
        if "unblank" in self.failing and not blank:
            raise OSError("the blanker does not answer")
        self.blanked.append(blank)

    def truths(self) -> list[str]:
        if "truth" in self.failing:
            raise NotSimulated("a real specimen has no known truth")
        return ["scalar"]

    def truth(self, quantity: str, exposure: Exposure) -> tuple[str, np.ndarray]:
        assert quantity == "scalar" and exposure.count == 20
        return "counts", np.arange(20.0).reshape(4, 5)

    def electrons(self, count: int, dwell_s: float) -> float:
        return count * dwell_s * 1e6

    def close(self) -> None:
        self.closed = True
