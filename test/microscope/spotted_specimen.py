"""A driver that images: bright spots in the open plane, which drift, blur with defocus and move with tilt and height."""

from __future__ import annotations

import numpy as np
from recorded_driver import RecordedDriver

from edgetem_nodes.microscope.drivers import Survey
from edgetem_nodes.physics.exposure import Exposure
from edgetem_nodes.physics.scan import ScanField

STEP = 1e-9


class SpottedSpecimen(RecordedDriver):
    """A 64 x 64 field, 1 nm apart, with 150 spots; Poisson noise of the electrons of each pixel.

    Attributes: `drift` (y, x) [m/s]; `focus` [m] at which it is sharp; `height` [m] above the tilt axis at z = 0; `lost`: it
    shows noise alone.
    """

    def __init__(self, drift: tuple[float, float] = (0.0, 0.0), focus: float = 0.0, height: float = 0.0) -> None:
        super().__init__(False)
        self.drift, self.focus, self.height, self.lost = np.asarray(drift), focus, height, False
        self.optics.update(magnification=1.0, beam_shift_y=0.0, beam_shift_x=0.0)
        self.stage = dict.fromkeys(("x", "y", "z", "alpha", "beta"), 0.0)
        self.holder = {"temperature": 293.15, "bias": 0.0}
        self.images: list[Exposure] = []
        rng = np.random.default_rng(7)
        self._spots = rng.uniform(-40 * STEP, 104 * STEP, (600, 2))
        self._weights = rng.uniform(0.2, 1.0, 600)

    @property
    def field(self) -> ScanField:
        return ScanField((0.0, 0.0), (STEP, STEP), (64, 64)).magnified(self.optics["magnification"])

    @property
    def pixel_area_m2(self) -> float:
        return (STEP / self.optics["magnification"]) ** 2

    def overview(self, exposure: Exposure) -> Survey:
        self.surveys.append(exposure)
        dose = self.electrons(exposure.count, exposure.dwell)
        image = self._counts(exposure).reshape(1, *self.field.shape)
        return Survey(["haadf"], image, dose, exposure.count * exposure.period)

    def image(self, exposure: Exposure, shape: tuple[int, int]) -> np.ndarray:
        assert self.blanked[-1] is False, "an image needs the beam"
        if self.slow is not None:
            assert self.slow.wait(20.0)
        self.images.append(exposure)
        return self._counts(exposure).reshape(shape)

    def _counts(self, exposure: Exposure) -> np.ndarray:
        """Poisson counts (count,) at the steered positions."""
        rng = np.random.default_rng([5, len(self.surveys), len(self.images)])
        each = self.electrons(1, exposure.dwell)
        if self.lost:
            return rng.poisson(each, exposure.count).astype(float)
        tilt = (self.height + self.stage["z"]) * np.sin(self.stage["alpha"])
        moved = exposure.elapsed * self.drift + (tilt, 0.0)
        width = np.hypot(1.5 * STEP, 0.02 * (self.optics["defocus"] - self.focus))
        places = exposure.steered() - moved
        distance = ((places[:, None] - self._spots) ** 2).sum(axis=2)
        signal = np.exp(-distance / (2 * width ** 2)) @ self._weights * (1.5 * STEP / width) ** 2
        return rng.poisson(each * (0.1 + signal)).astype(float)

