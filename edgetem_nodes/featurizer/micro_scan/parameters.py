"""Parameters of the micro-scan network."""

from __future__ import annotations

from dataclasses import dataclass

from edgetem_nodes.graph.configuration import parameter


@dataclass
class MicroScanAtoms:
    """Atoms from micro-scans: frames with four axes."""

    semi_convergence_mrad: float = parameter(0.0, "of the focused probe; 0: instrument.semi_convergence_mrad", unit="mrad",
                                             minimum=0.0, maximum=100.0)
    defocus_nm: float = parameter(0.0, "of the focused probe, positive: underfocus; sought within 2.5 nm of this", unit="nm",
                                  minimum=-100.0, maximum=100.0)
    source_size_pm: float = parameter(0.0, "full width at half maximum of the source's image; 0: not known", unit="pm",
                                      minimum=0.0, maximum=500.0)
    hosts: list[str] = parameter([], "sheets that may be there: graphene, h-BN, MoS2, WS2, MoSe2, WSe2; empty: any of them")
    weights: str = parameter("", "weights that 'edgetem train' wrote; empty: those that come with the package", path=True)
