"""Parameter groups of the scalarizers in this package."""

from __future__ import annotations

from dataclasses import dataclass

from edgetem_nodes.graph.configuration import parameter


@dataclass
class EelsPlasmon:
    """Energy of the bulk plasmon."""

    quantity: str = parameter("energy", "the scalar; the others follow", choices=("energy", "width", "losses"))
    window_eV: list[float] = parameter([10.0, 40.0], "window that is fitted: first and last energy loss", unit="eV")
    zero_loss_end_eV: float = parameter(3.0, "energy loss at which the zero-loss peak ends", unit="eV", minimum=0.01,
                                        maximum=100.0)
    model: str = parameter("drude", "shape of a single loss", choices=("drude", "lorentzian", "gaussian"))
    plural_scattering: bool = parameter(True, "an electron may lose energy more than once")


@dataclass
class EelsThickness:
    """Thickness from the ratio of all counts to those of the zero-loss peak."""

    zero_loss_end_eV: float = parameter(3.0, "energy loss at which the zero-loss peak ends", unit="eV", minimum=0.01,
                                        maximum=100.0)
    mean_free_path_nm: float = parameter(0.0, "inelastic mean free path; 0: the scalar is thickness over mean free path",
                                         unit="nm", minimum=0.0, maximum=10000.0)
