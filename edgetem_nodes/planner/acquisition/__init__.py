"""Acquisition: what a measurement would be worth, and batches of positions no two of which are alike."""

from edgetem_nodes.planner.acquisition.batch import Batch, BatchChooser, batch_functions
from edgetem_nodes.planner.acquisition.functions import Goal

__all__ = ["Batch", "BatchChooser", "Goal", "batch_functions"]
