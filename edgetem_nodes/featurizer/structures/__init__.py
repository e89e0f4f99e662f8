"""From descriptors or atoms to cells that an engine can run. Imports no ROS."""

from edgetem_nodes.featurizer.structures.crystal import deformed_cell, unit_cell
from edgetem_nodes.featurizer.structures.defects import SheetAtoms, defect_cell
from edgetem_nodes.featurizer.structures.image import cluster, image_cell
from edgetem_nodes.featurizer.structures.measured import Defect, MeasuredStructure, NotIdentifiable
from edgetem_nodes.featurizer.structures.sheet import strained_sheet, undeformed

__all__ = ["Defect", "MeasuredStructure", "NotIdentifiable", "SheetAtoms", "cluster", "defect_cell", "deformed_cell",
           "image_cell", "strained_sheet", "undeformed", "unit_cell"]
