"""Parameters of the microscope node."""

from __future__ import annotations

from dataclasses import dataclass

from edgetem_nodes.graph.configuration import group, parameter
from edgetem_nodes.graph.instrument import Instrument


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
    state_interval: float = parameter(1.0, "Time between readings of the column's state; it is published when it changed",
                                      unit="s", minimum=0.05, maximum=3600.0)
    arm_timeout: float = parameter(5.0, "Time that the detector has to answer", unit="s", minimum=0.1, maximum=600.0)
    end_timeout: float = parameter(30.0, "Time that the detector has to end an acquisition, beyond what its frames take",
                                   unit="s", minimum=0.1, maximum=86400.0)
    frame_timeout_ms: float = parameter(2000.0, "Time that a frame may take beyond its dwell time, transfer and simulation "
                                                "included", unit="ms", minimum=0.0)
    instrument: Instrument = group(Instrument)
