"""Strain mapping of nanobeam 4D-STEM scans of any crystal, from learning a scan's lattice to strain with errors."""

from edgetem_nodes.featurizer.bragg.correlation import BraggDetector, Disks
from edgetem_nodes.featurizer.bragg.cramer_rao import Pattern, lattice_bound, strain_bound
from edgetem_nodes.featurizer.bragg.learning import learn
from edgetem_nodes.featurizer.bragg.likelihood import CONTRASTS, Lattice, LatticeLikelihood
from edgetem_nodes.featurizer.bragg.mapper import Limits, Reference, StrainMapper, strained
from edgetem_nodes.featurizer.bragg.template import Template

__all__ = ["CONTRASTS", "BraggDetector", "Disks", "Lattice", "LatticeLikelihood", "Limits", "Pattern", "Reference",
           "StrainMapper", "Template", "lattice_bound", "learn", "strain_bound", "strained"]
