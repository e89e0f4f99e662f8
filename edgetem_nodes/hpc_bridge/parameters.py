"""Parameters of the hpc_bridge node. Imports no ROS."""

from __future__ import annotations

from dataclasses import dataclass

from edgetem_nodes.graph.configuration import group, parameter


@dataclass(frozen=True)
class Calculation:
    """How one structure is computed; a goal may override any of these by a JSON object with the same keys."""

    method: str = parameter("GFN1-xTB", "Hamiltonian of the engine tblite; an engine of a single method takes no notice",
                            choices=("GFN1-xTB", "GFN2-xTB", "EMT", "PBE", "PBE-SZV"))
    relax_with: str = parameter("", "method of tblite that relaxes atoms, cells and reservoirs where `method` then computes a "
                                "single point; empty: `method` relaxes them itself", choices=("", "GFN1-xTB", "GFN2-xTB"))
    relax: bool = parameter(True, "relax the atoms in the given cell; false: a single point")
    max_force_ev_per_angstrom: float = parameter(0.03, "a relaxation has converged when no atom feels more",
                                                 unit="eV/Å", minimum=1e-4, maximum=10.0)
    max_steps: int = parameter(100, "steps after which a relaxation is given up", minimum=1, maximum=10000)
    electronic_temperature_k: float = parameter(300.0, "Fermi smearing of the occupation (tblite)", unit="K",
                                                minimum=0.0, maximum=20000.0)
    accuracy: float = parameter(1.0, "of the self-consistent cycle (tblite); smaller is tighter", minimum=1e-4,
                                maximum=100.0)
    restraint: bool = parameter(True, "hold atoms that were measured one by one to their places as far as their errors allow")
    restraint_temperature_k: float = parameter(300.0, "a distortion counts against the measured places as much as kT of energy",
                                               unit="K", minimum=1.0, maximum=1e5)
    noise_draws: int = parameter(0, "times that errors of positions are drawn and relaxed to find the energy that they leave; "
                                 "0: it is computed from the stiffness of the perfect sheet", minimum=0, maximum=100)
    environment: str = parameter("anion-rich", "what a compound exchanges atoms with: its anion's element (anion-rich) or its "
                                 "cation's (cation-rich)", choices=("anion-rich", "cation-rich"))
    reference: bool = parameter(True, "also compute the same sheet without strain, so that an excess energy comes out; the "
                                "strain is then carried over to the engine's own lattice constant")


@dataclass
class Sheet:
    """The unstrained sheet that measured strain refers to, and the empty space around it."""

    lattice_constant_nm: float = parameter(0.0, "of the unstrained sheet in the structures that arrive; 0: the literature "
                                           "value of graphene (0.246) or MoS2 (0.316)", unit="nm", minimum=0.0, maximum=2.0)
    vacuum_nm: float = parameter(1.0, "empty space on either side of a sheet that is not periodic along z; the energy "
                                 "depends on it, so it is the same for a structure and its reference", unit="nm",
                                 minimum=0.5, maximum=5.0)


@dataclass
class Limits:
    """What is accepted."""

    atoms: int = parameter(200, "most atoms of a structure; the time grows with the third power", minimum=1, maximum=5000)
    distance_pm: float = parameter(60.0, "shortest distance of two atoms, periodic images included", unit="pm",
                                   minimum=20.0, maximum=300.0)
    jobs: int = parameter(64, "most calculations waiting or running; a further goal is refused", minimum=1,
                          maximum=10000)


@dataclass
class LocalCluster:
    """A Dask cluster on this machine; every worker is a process with one BLAS thread."""

    workers: int = parameter(2, "worker processes", minimum=1, maximum=256)
    memory_mb: int = parameter(2000, "a worker that needs more is ended and its job tried again", unit="MB", minimum=200,
                               maximum=1_000_000)
    niceness: int = parameter(10, "scheduling priority of the workers, 0 (as the nodes) to 19 (they give way)", minimum=0,
                              maximum=19)
    start_after_s: float = parameter(5.0, "the cluster starts this long after activation, or with the first goal; negative: "
                                     "only with the first goal", unit="s", minimum=-1.0, maximum=3600.0)
    start_limit_s: float = parameter(60.0, "a cluster that is not up after this long counts as lost", unit="s", minimum=1.0,
                                     maximum=3600.0)
    time_limit_s: float = parameter(600.0, "a calculation that runs longer is ended", unit="s", minimum=1.0, maximum=1e6)


@dataclass
class Parameters:
    """All parameters of the hpc_bridge."""

    engine: str = parameter("tblite", "what computes: tblite (tight binding, hydrogen to radon), emt (effective medium theory, "
                            "fcc metals), or where installed pyscf or gpaw (density functional theory)",
                            choices=("tblite", "emt", "pyscf", "gpaw"))
    calculation: Calculation = group(Calculation)
    sheet: Sheet = group(Sheet)
    limits: Limits = group(Limits)
    cluster: LocalCluster = group(LocalCluster)
