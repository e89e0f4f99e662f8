"""The settings that an experiment's actions combine to: can the instrument do each, and what does a position cost?"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from edgetem_nodes.detector.sources import DetectorSource, make_micro_scan_source
from edgetem_nodes.featurizer.scalarizers import Definition
from edgetem_nodes.graph.instrument import Instrument
from edgetem_nodes.microscope.drivers import MicroscopeDriver, NotSupported
from edgetem_nodes.physics.scan import Axis
from edgetem_nodes.planner import energy_map
from edgetem_nodes.planner.actions import ActionSpace, Setting
from edgetem_nodes.planner.parameters import Actions, MicroScan


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


@dataclass(frozen=True)
class SecondScan:
    """The micro-scan at each site of an energy map: setting, electrons and time [s] a position, bytes and axes of a frame."""

    setting: Setting
    electrons: float
    dwell: float
    frame_bytes: int
    axes: tuple[Axis, ...]

    def line(self) -> str:
        """For people."""
        scan, step = self.axes[0], self.axes[0].scale * 1e12
        return (f"micro-scans    {scan.size} x {scan.size} probes {step:.4g} pm apart at each site, {self.setting}, "
                f"{self.electrons:.3g} electrons in {self.dwell * 1e3:.4g} ms, {self.frame_bytes / 1024:.0f} KiB")


def possible_micro_scan(wanted: MicroScan, instrument: Instrument, driver: MicroscopeDriver, source: DetectorSource,
                        scalarizer: Definition) -> SecondScan | None:
    """Command the micro-scan's optics once, beam blanked, and put the instrument back as it was; None: none is wanted.

    Raises
    ------
    SettingError : the instrument takes no micro-scans, or refuses these optics or this dwell time; or the scalarizer does not
        take such frames.
    """
    if not wanted.enabled:
        return None
    setting = energy_map.micro_scan_setting(wanted)
    dwell = setting.dwell_time or instrument.dwell_ms * 1e-3
    state = driver.state(0.0)
    try:
        scanning = make_micro_scan_source(source, instrument)
        scanning.check_dwell(dwell)
        if dwell * 1e3 > instrument.limits.longest_dwell_ms * (1 + 1e-9):
            raise ValueError(f"dwell time {dwell * 1e3:g} ms is longer than instrument.limits.longest_dwell_ms, "
                             f"{instrument.limits.longest_dwell_ms:g} ms")
        driver.set_optics(**setting.optics)
        optics = driver.state(0.0).commanded_optics
        axes = (*scanning.axes[:2], *source.simulation.axes(optics))
        scalarizer.build(axes)
        cost = driver.electrons(1, dwell)
    except (ValueError, NotSupported) as error:
        raise SettingError(f"planner.micro_scan is not possible: {error}") from None
    driver.set_optics(**{name: state.commanded_optics[name] for name in setting.optics if name in state.commanded_optics})
    size = int(np.prod(scanning.frame_shape)) * np.dtype(scanning.dtype).itemsize
    return SecondScan(setting, cost, dwell, size, axes)


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
