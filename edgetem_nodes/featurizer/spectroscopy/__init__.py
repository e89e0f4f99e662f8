"""Spectroscopy of spectrum images, rows of spectra (rows, channels): energy loss (EELS) and X-rays (EDS)."""

from __future__ import annotations

from edgetem_nodes.featurizer.spectroscopy.alignment import Shifts, common_shifts, shifted, zero_loss_shifts
from edgetem_nodes.featurizer.spectroscopy.edges import EdgeSignal, NetSpectra, edge_signal, ratio, subtract_background
from edgetem_nodes.featurizer.spectroscopy.element_windows import ElementCounts, ElementWindows, line_width, weight_fractions
from edgetem_nodes.featurizer.spectroscopy.plasmon import Plasmon, PlasmonFit
from edgetem_nodes.featurizer.spectroscopy.spikes import Despiked, remove_spikes
from edgetem_nodes.featurizer.spectroscopy.thickness import LogRatio, Thickness, elastic_end
from edgetem_nodes.featurizer.spectroscopy.xray_lines import line_energies, line_energy

__all__ = ["Despiked", "EdgeSignal", "ElementCounts", "ElementWindows", "LogRatio", "NetSpectra", "Plasmon", "PlasmonFit",
           "Shifts", "Thickness", "common_shifts", "edge_signal", "elastic_end", "line_energies", "line_energy", "line_width",
           "ratio", "remove_spikes", "shifted", "subtract_background", "weight_fractions", "zero_loss_shifts"]
