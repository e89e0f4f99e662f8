"""Electron energy-loss spectra: low losses and core losses of layered specimens, as expected fractions of the beam."""

from edgetem_nodes.physics.energy_loss.materials import MATERIALS, Material, material
from edgetem_nodes.physics.energy_loss.spectrometer import EnergyLoss, Spectrometer

__all__ = ["MATERIALS", "EnergyLoss", "Material", "Spectrometer", "material"]
