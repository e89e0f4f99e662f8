"""From descriptors or atoms to cells that an engine can run. Imports no ROS."""

from edgetem_nodes.featurizer.structures.measured import Defect, MeasuredStructure, NotIdentifiable
from edgetem_nodes.featurizer.structures.sheet import strained_sheet

__all__ = ["Defect", "MeasuredStructure", "NotIdentifiable", "strained_sheet"]
