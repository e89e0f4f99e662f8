"""The simulated microscope: it surveys a simulated sheet, and alone may tell the truth about it."""

from __future__ import annotations

import numpy as np

from edgetem_nodes.graph.instrument import Instrument, simulation
from edgetem_nodes.microscope.drivers import Survey
from edgetem_nodes.microscope.drivers.fixed import FixedColumn
from edgetem_nodes.physics.electrons import electrons

_CAMERA_PIXEL = 55e-6
"""[m] Pitch of a Medipix camera; with the angle of a pixel it gives the camera length."""
_ROOM_TEMPERATURE = 293.15


class SimulatedDriver(FixedColumn):
    """Column, survey and truth of `physics.simulation`, see `MicroscopeDriver`.

    Optics and stage do not move: detector and microscope evaluate the simulation each from the configuration and the probe
    paths alone, and no probe path carries optics.
    """

    def __init__(self, instrument: Instrument, seed: int) -> None:
        self._simulation = simulation(instrument, seed)
        self._survey: Survey | None = None
        settings = self._simulation.settings
        optics = {"high_tension": settings.probe.high_tension, "probe_current": instrument.probe_current_pA * 1e-12,
                  "semi_convergence_angle": settings.probe.semi_convergence_angle,
                  "camera_length": _CAMERA_PIXEL / settings.camera.pixel_angle, "defocus": settings.probe.defocus,
                  "astigmatism": 0.0, "astigmatism_angle": 0.0, "coma": 0.0, "coma_angle": 0.0, "spherical_aberration": 0.0}
        stage = dict.fromkeys(("x", "y", "z", "alpha", "beta"), 0.0)
        super().__init__(instrument, settings.field, optics, stage, {"temperature": _ROOM_TEMPERATURE}, True,
                         "the simulated column keeps the settings of the configuration", False)

    def overview(self) -> Survey:
        """Low-dose annular dark-field image; the same one every time."""
        if self._survey is None:
            dose, duration = self._survey_cost()
            a_pixel = electrons(self._instrument.probe_current_pA * 1e-12, self._instrument.survey_dwell_us * 1e-6)
            self._survey = Survey(["haadf"], self._simulation.survey(a_pixel)[np.newaxis], dose, duration)
        return self._survey

    def truths(self) -> list[str]:
        """Names of what `truth` knows."""
        return self._simulation.sheet.quantities()

    def truth(self, quantity: str) -> tuple[str, np.ndarray]:
        """Unit and map (rows, columns) of a quantity; raises ValueError where it is unknown."""
        return self._simulation.truth(quantity)
