"""The settings that an experiment's actions combine to: can the instrument do each, and what does a position cost?"""

from __future__ import annotations

from dataclasses import dataclass

from edgetem_nodes.detector.sources import DetectorSource
from edgetem_nodes.featurizer.scalarizers import Definition
from edgetem_nodes.graph.instrument import Instrument
from edgetem_nodes.microscope.drivers import MicroscopeDriver, NotSupported
from edgetem_nodes.planner.actions import ActionSpace, Setting
from edgetem_nodes.planner.parameters import Actions


class SettingError(ValueError):
    """A setting that the instrument cannot do; the message names it and says why."""


@dataclass(frozen=True)
class Settings:
    """All settings of an experiment, and the costliest of them.

    Attributes
    ----------
    kinds : how many of them measure another quantity, so that a position may be visited with each.
    electrons, dwell : of a position with the setting that costs most electrons, and of the one that takes longest [s].
    cheapest, first : electrons of a position with the setting that costs fewest, and with the initial scan's, the first.
    """

    settings: tuple[Setting, ...]
    kinds: int
    electrons: float
    dwell: float
    cheapest: float
    first: float

    def line(self) -> str:
        """For people; empty where nothing but the position is an action."""
        if self.settings == (Setting(),):
            return ""
        return f"settings       {len(self.settings)}: " + "; ".join(map(str, self.settings[:4])) + \
               ("; ..." if len(self.settings) > 4 else "")


def possible_settings(actions: Actions, instrument: Instrument, driver: MicroscopeDriver, source: DetectorSource,
                      scalarizer: Definition) -> Settings:
    """Command every setting once, beam blanked, and put the instrument back as it was.

    Raises
    ------
    SettingError : the driver refuses a setting, the detector its dwell time, or the scalarizer the axes of its frames.
    """
    try:
        space = ActionSpace(actions)
    except ValueError as error:
        raise SettingError(str(error)) from None
    settings = space.settings
    state, limits, costs = driver.state(0.0), instrument.limits, []
    for setting in settings:
        dwell = setting.dwell_time or instrument.dwell_ms * 1e-3
        try:
            if not limits.shortest_dwell_ms <= dwell * 1e3 * (1 + 1e-9) or dwell * 1e3 > limits.longest_dwell_ms * (1 + 1e-9):
                raise SettingError(f"dwell time {dwell * 1e3:g} ms is outside instrument.limits, "
                                   f"{limits.shortest_dwell_ms:g} to {limits.longest_dwell_ms:g} ms")
            source.check_dwell(dwell)
            driver.set_optics(**setting.optics)
            driver.move_stage(**setting.stage)
            if setting.optics and instrument.driver != "replay":  # measured frames have the axes that they were measured with
                scalarizer.build(tuple(source.simulation.axes(driver.state(0.0).commanded_optics)))
        except (ValueError, NotSupported) as error:
            raise SettingError(f"planner.actions: the setting '{setting}' is not possible: {error}") from None
        costs.append((driver.electrons(1, dwell), dwell))
        driver.set_optics(**{name: state.commanded_optics[name] for name in setting.optics if name in state.commanded_optics})
        driver.move_stage(**{name: state.commanded_stage[name] for name in setting.stage if name in state.commanded_stage})
    electrons, dwells = zip(*costs, strict=True)
    return Settings(settings, len({tuple(row) for row in space.features.tolist()}), max(electrons), max(dwells),
                    min(electrons), electrons[0])
