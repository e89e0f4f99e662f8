"""Surrogate models: what the planner believes between the points that it measured."""

from edgetem_nodes.planner.surrogates.inputs import Inputs
from edgetem_nodes.planner.surrogates.learning import Surrogate, TrainedSurrogate
from edgetem_nodes.planner.surrogates.settings import SURROGATES, SurrogateSettings, one_deterministic_thread

__all__ = ["SURROGATES", "Inputs", "Surrogate", "SurrogateSettings", "TrainedSurrogate", "one_deterministic_thread"]
