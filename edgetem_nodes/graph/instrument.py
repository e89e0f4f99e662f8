"""Parameters of the instrument, declared alike by microscope and detector. Imports no ROS."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from edgetem_nodes.graph.configuration import group, parameter
from edgetem_nodes.graph.simulated_instrument import Simulated, simulation

__all__ = ["Beam", "Instrument", "Limits", "MicroScanGroup", "Replay", "Simulated", "micro_scan", "replay_set", "simulation"]

if TYPE_CHECKING:
    from edgetem_nodes.archive.replay import ReplaySet
    from edgetem_nodes.physics.exposure import MicroScan


@dataclass(frozen=True)
class Limits:
    """What the microscope refuses to exceed."""

    electrons: float = parameter(0.0, "largest number of electrons in all, survey included; 0: no limit", minimum=0.0)
    areal_dose_e_per_A2: float = parameter(0.0, "largest dose at any field position; 0: no limit", unit="1/A^2", minimum=0.0)
    shortest_dwell_ms: float = parameter(0.001, "shortest dwell time at a position", unit="ms", minimum=1e-6)
    longest_dwell_ms: float = parameter(10000.0, "longest dwell time at a position", unit="ms", minimum=1e-6)


@dataclass(frozen=True)
class Replay:
    """A measured scan that plays the instrument."""

    file: str = parameter("", "scan file, any format that RosettaSciIO reads", path=True)
    signal: str = parameter("", "title or number of the signal in the file; empty: the only one with scan axes")
    survey: str = parameter("", "file of the survey image; empty: in the scan file", path=True)
    survey_signal: str = parameter("", "title or number of the survey; 'total': counts summed over each pixel's signal; "
                                       "empty: the only image of the scan's shape, a HAADF one first")
    bin: int = parameter(1, "scan pixels along each axis that are summed to one", minimum=1, maximum=1024)
    step_nm: float = parameter(0.0, "scan step before binning; 0: the one in the file", unit="nm", minimum=0.0)
    real_time: bool = parameter(False, "deliver each frame no sooner than its dwell time allows")


@dataclass(frozen=True)
class Beam:
    """What nodes behind the detector may know of the instrument: not who plays it, nor what a simulation hides."""

    high_tension_kV: float = parameter(80.0, "high tension; a replay takes the file's where it says one", unit="kV",
                                       minimum=1.0, maximum=3000.0)
    semi_convergence_mrad: float = parameter(2.0, "semi-convergence angle; a replay takes the file's where it says one",
                                             unit="mrad", minimum=0.01, maximum=100.0)


@dataclass(frozen=True)
class MicroScanGroup:
    """The detector "micro_scan": a square of patterns, one frame, at every position of an acquisition that asks for it."""

    points: int = parameter(8, "probes along each axis", minimum=2, maximum=32)
    step_pm: float = parameter(110.0, "distance of neighbouring probes", unit="pm", minimum=1.0, maximum=1e5)


@dataclass(frozen=True)
class Instrument(Beam):
    """The instrument: which driver, its beam, its limits."""

    driver: str = parameter("simulated", "what plays the instrument", choices=("simulated", "replay"))
    probe_current_pA: float = parameter(40.0, "probe current", unit="pA", minimum=0.0, maximum=1e6)
    dwell_ms: float = parameter(2.0, "dwell time at a position", unit="ms", minimum=1e-4, maximum=1e5)
    survey_dwell_us: float = parameter(20.0, "dwell time of the survey at each grid point", unit="us", minimum=0.0,
                                       maximum=1e6)
    settling_us: float = parameter(50.0, "time to settle after each move of the probe", unit="us", minimum=0.0, maximum=1e7)
    limits: Limits = group(Limits)
    micro_scan: MicroScanGroup = group(MicroScanGroup)
    replay: Replay = group(Replay)
    simulated: Simulated = group(Simulated)


def micro_scan(instrument: Instrument) -> MicroScan:
    """The micro-scan that the instrument's parameters describe.

    Raises
    ------
    ValueError : the instrument takes none; the message says why and what to do.
    """
    from edgetem_nodes.physics.exposure import MicroScan

    if instrument.driver != "simulated":
        raise ValueError(f"the instrument {instrument.driver!r} takes no micro-scans, since what it delivers was measured "
                         "before, one frame a position: leave the detector's name empty")
    if instrument.simulated.detector != "pixelated":
        raise ValueError(f"a micro-scan is of diffraction patterns, and the detector is {instrument.simulated.detector!r}: set "
                         "instrument.simulated.detector to 'pixelated', or leave the detector's name empty")
    return MicroScan(instrument.micro_scan.points, instrument.micro_scan.step_pm * 1e-12)


def replay_set(instrument: Instrument) -> ReplaySet:
    """The measured scan that the instrument's parameters name; raises ValueError or OSError that say what is wrong."""
    from edgetem_nodes.archive.replay import ReplaySet

    chosen = instrument.replay
    if not chosen.file:
        raise ValueError("instrument.replay.file is empty: name the measured scan to replay")
    return ReplaySet(chosen.file, signal=chosen.signal, survey=chosen.survey, survey_signal=chosen.survey_signal,
                     bin=chosen.bin, step=chosen.step_nm * 1e-9, high_tension=instrument.high_tension_kV * 1e3)
