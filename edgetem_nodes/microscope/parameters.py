"""Parameters of the microscope node."""

from __future__ import annotations

from dataclasses import dataclass

from edgetem_nodes.graph.configuration import group, parameter
from edgetem_nodes.graph.instrument import Instrument
from edgetem_nodes.microscope.drift_tracking import DriftTracking


@dataclass(frozen=True)
class Focusing:
    """How autofocus and the search for the eucentric height take their images."""

    region_px: int = parameter(48, "Side of the images, in grid points around the field's centre", minimum=16, maximum=1024)
    dwell_us: float = parameter(10.0, "Dwell time at a pixel", unit="us", minimum=0.01, maximum=1e6)
    defocus_range_nm: float = parameter(200.0, "How far autofocus looks to both sides of the present defocus", unit="nm",
                                        minimum=1.0, maximum=1e5)
    images: int = parameter(9, "Images of each of the two sweeps of autofocus", minimum=5, maximum=101)
    largest_tilt_deg: float = parameter(10.0, "Largest tilt to both sides in the search for the eucentric height",
                                        unit="deg", minimum=0.5, maximum=60.0)
    height_range_nm: float = parameter(1000.0, "How far from the eucentric height the stage may be", unit="nm", minimum=1.0,
                                       maximum=1e6)


@dataclass(frozen=True)
class Parameters:
    """What the microscope is, and how long it waits. Dwell time, settling and limits are the instrument's."""

    seed: int = parameter(0, "Seed of everything random in the experiment", minimum=0)
    overhead_ms: float = parameter(10.0, "Time that every acquisition and survey costs besides", unit="ms", minimum=0.0)
    detector: str = parameter("", "Detector of an acquisition that names none; empty: whichever there is")
    initial_dose: float = parameter(0.0, "Electrons spent before, when an experiment is resumed", unit="electrons",
                                    minimum=0.0)
    initial_sequence: int = parameter(0, "Acquisitions made before, when an experiment is resumed: simulated noise goes on",
                                      minimum=0)
    initial_elapsed: float = parameter(0.0, "Acquisition time spent before, when an experiment is resumed: drift and "
                                            "programmes go on", unit="s", minimum=0.0)
    history: str = parameter("", "File of what was exposed before, when an experiment is resumed; 'edgetem run --resume' "
                                 "writes it", path=True)
    state_interval: float = parameter(1.0, "Time between readings of the column's state; it is published when it changed",
                                      unit="s", minimum=0.05, maximum=3600.0)
    arm_timeout: float = parameter(5.0, "Time that the detector has to answer", unit="s", minimum=0.1, maximum=600.0)
    end_timeout: float = parameter(30.0, "Time that the detector has to end an acquisition, beyond what its frames take",
                                   unit="s", minimum=0.1, maximum=86400.0)
    frame_timeout_ms: float = parameter(2000.0, "Time that a frame may take beyond its dwell time, transfer and simulation "
                                                "included", unit="ms", minimum=0.0)
    drift_tracking: DriftTracking = group(DriftTracking)
    focusing: Focusing = group(Focusing)
    instrument: Instrument = group(Instrument)
