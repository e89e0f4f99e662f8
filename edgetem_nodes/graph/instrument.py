"""Parameters of the instrument, declared alike by microscope and detector. Imports no ROS."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from edgetem_nodes.graph.configuration import group, parameter
from edgetem_nodes.physics.scan import ScanField

if TYPE_CHECKING:
    from edgetem_nodes.archive.replay import ReplaySet
    from edgetem_nodes.physics.simulation import Simulation


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
class Simulated:
    """A simulated two-dimensional crystal on a pixelated detector."""

    specimen: str = parameter("MoS2", "what lies under the beam", choices=("MoS2", "graphene"))
    field_nm: float = parameter(40.0, "width of the scan field, first to last column", unit="nm", minimum=5.0, maximum=200.0)
    rows: int = parameter(64, "rows of the scan grid", minimum=2, maximum=1024)
    columns: int = parameter(64, "columns of the scan grid", minimum=2, maximum=1024)
    strain_percent: float = parameter(2.0, "largest normal strain", unit="%", minimum=0.0, maximum=5.0)
    camera_pixels: int = parameter(64, "camera pixels along each axis", minimum=16, maximum=256)
    pixel_mrad: float = parameter(1.0, "angle that a camera pixel subtends", unit="mrad", minimum=0.05, maximum=10.0)
    defocus_nm: float = parameter(0.0, "defocus, positive is underfocus", unit="nm", minimum=-2000.0, maximum=2000.0)
    dark_field_inner_mrad: float = parameter(60.0, "inner angle of the dark-field detector", unit="mrad", minimum=1.0)
    dark_field_outer_mrad: float = parameter(200.0, "outer angle of the dark-field detector", unit="mrad", minimum=1.0)


@dataclass(frozen=True)
class Instrument:
    """The instrument: which driver, its beam, its limits."""

    driver: str = parameter("simulated", "what plays the instrument", choices=("simulated", "replay"))
    high_tension_kV: float = parameter(80.0, "high tension; a replay takes the file's where it says one", unit="kV",
                                       minimum=1.0, maximum=3000.0)
    probe_current_pA: float = parameter(40.0, "probe current", unit="pA", minimum=0.0, maximum=1e6)
    semi_convergence_mrad: float = parameter(2.0, "semi-convergence angle; a replay takes the file's where it says one",
                                             unit="mrad", minimum=0.01, maximum=100.0)
    dwell_ms: float = parameter(2.0, "dwell time at a position", unit="ms", minimum=1e-4, maximum=1e5)
    survey_dwell_us: float = parameter(20.0, "dwell time of the survey at each grid point", unit="us", minimum=0.0,
                                       maximum=1e6)
    settling_us: float = parameter(50.0, "time to settle after each move of the probe", unit="us", minimum=0.0, maximum=1e7)
    limits: Limits = group(Limits)
    replay: Replay = group(Replay)
    simulated: Simulated = group(Simulated)


def simulation(instrument: Instrument, seed: int) -> Simulation:
    """The simulation that the instrument's parameters describe.

    Raises
    ------
    ValueError : parameters that contradict each other.
    """
    from edgetem_nodes.physics.phase_object import Camera, Probe
    from edgetem_nodes.physics.simulation import Settings, Simulation

    chosen = instrument.simulated
    if chosen.dark_field_outer_mrad <= chosen.dark_field_inner_mrad:
        raise ValueError(f"simulated.dark_field_outer_mrad {chosen.dark_field_outer_mrad} must be larger than "
                         f"dark_field_inner_mrad {chosen.dark_field_inner_mrad}")
    half = chosen.camera_pixels // 2 * chosen.pixel_mrad
    if instrument.semi_convergence_mrad >= half:
        raise ValueError(f"semi_convergence_mrad {instrument.semi_convergence_mrad} does not fit on a camera that reaches "
                         f"{half} mrad: enlarge simulated.pixel_mrad or simulated.camera_pixels")
    step = chosen.field_nm * 1e-9 / (chosen.columns - 1)
    settings = Settings(
        chosen.specimen, ScanField((0.0, 0.0), (step, step), (chosen.rows, chosen.columns)), chosen.strain_percent / 100,
        Probe(instrument.high_tension_kV * 1e3, instrument.semi_convergence_mrad * 1e-3, chosen.defocus_nm * 1e-9),
        Camera(chosen.camera_pixels, chosen.pixel_mrad * 1e-3),
        chosen.dark_field_inner_mrad * 1e-3, chosen.dark_field_outer_mrad * 1e-3)
    return Simulation(settings, seed)


def replay_set(instrument: Instrument) -> ReplaySet:
    """The measured scan that the instrument's parameters name; raises ValueError or OSError that say what is wrong."""
    from edgetem_nodes.archive.replay import ReplaySet

    chosen = instrument.replay
    if not chosen.file:
        raise ValueError("instrument.replay.file is empty: name the measured scan to replay")
    return ReplaySet(chosen.file, signal=chosen.signal, survey=chosen.survey, survey_signal=chosen.survey_signal,
                     bin=chosen.bin, step=chosen.step_nm * 1e-9, high_tension=instrument.high_tension_kV * 1e3)
