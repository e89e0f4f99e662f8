"""Electron counting: analogue frames of a sparse beam become events. `ElectronCounter.learn` comes first."""

from __future__ import annotations

from edgetem_nodes.featurizer.patterns.counting.coincidence import corrected, corrected_error, mean_loss
from edgetem_nodes.featurizer.patterns.counting.counter import Counted, ElectronCounter
from edgetem_nodes.featurizer.patterns.counting.learning import Learned

__all__ = ["Counted", "ElectronCounter", "Learned", "corrected", "corrected_error", "mean_loss"]
