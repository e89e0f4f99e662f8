"""The topics of the graph as the recorder and the player know them. Imports no ROS."""

from __future__ import annotations

ACTIONS = (("acquire", "Acquire"), ("compute_energetics", "ComputeEnergetics"), ("run_experiment", "RunExperiment"))

TOPICS = {
    "microscope_state": ("edgetem/msg/MicroscopeState", "STATE"),
    "probe_path": ("edgetem/msg/ProbePath", "EVENTS"),
    "overview": ("edgetem/msg/Overview", "STATE"),
    "overview_image": ("sensor_msgs/msg/Image", "STATE"),
    "detector_block": ("edgetem/msg/DetectorBlock", "BLOCKS"),
    "acquisition_end": ("edgetem/msg/AcquisitionEnd", "EVENTS"),
    "credit": ("edgetem/msg/Credit", "STATE"),
    "compressed_block": ("edgetem/msg/CompressedBlock", "BLOCKS"),
    "archived_block": ("edgetem/msg/ArchivedBlock", "EVENTS"),
    "measurements": ("edgetem/msg/Measurements", "EVENTS"),
    "structure": ("edgetem/msg/AtomicStructure", "EVENTS"),
    "energetics": ("edgetem/msg/Energetics", "EVENTS"),
    "site_energies": ("edgetem/msg/Measurements", "EVENTS"),
    "live_image": ("sensor_msgs/msg/Image", "PREVIEW"),
    "experiment": ("edgetem/msg/Experiment", "STATE"),
    "decision": ("edgetem/msg/Decision", "EVENTS"),
    "experiment_map": ("edgetem/msg/ExperimentMap", "STATE"),
    "alarm": ("edgetem/msg/Alarm", "EVENTS"),
    **{f"{action}/_action/feedback": (f"edgetem/action/{name}_FeedbackMessage", "FEEDBACK") for action, name in ACTIONS},
    **{f"{action}/_action/status": ("action_msgs/msg/GoalStatusArray", "STATE") for action, _ in ACTIONS},
}
"""Relative name: type, and the name of its profile (in `graph.quality_of_service`; FEEDBACK: an action's own). Recorded from
configuration on."""

BULK = frozenset(("detector_block", "compressed_block", "live_image"))
"""Large, and in the archive or for the eye only: recorded only by choice."""

FLUSHED_BY = "decision"
"""A message of this topic brings the bag to disk."""

WRITTEN_AT_ONCE = frozenset(("experiment", "overview", "probe_path", "measurements", "acquisition_end", "microscope_state",
                             "archived_block", "structure", "energetics"))
"""What a replay or a report needs: not even a recorder killed the next moment loses it."""

DECISIONS = frozenset(("decision", "experiment_map"))
"""What the planner makes. A replay reads them only after it has made its own."""

SERVED = ("experiment", "overview", "probe_path", "measurements", "acquisition_end", "microscope_state", "structure",
          "energetics")
"""What the player reads in order to serve the planner: nothing of DECISIONS."""
