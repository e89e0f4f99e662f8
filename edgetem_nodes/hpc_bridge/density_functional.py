"""PBE energies of periodic cells at Gamma by PySCF, as an ASE calculator. Imports PySCF only when it computes.

Goedecker-Teter-Hutter pseudopotentials and molecularly optimised Gaussian bases (Goedecker et al., Phys. Rev. B 54, 1703,
1996; VandeVondele & Hutter, J. Chem. Phys. 127, 114105, 2007), multigrid integration, energies extrapolated to no smearing;
closed shells, but for an odd number of electrons. Energies only: atoms are relaxed by a cheaper method.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from ase.calculators.calculator import Calculator, SCFError, all_changes

HARTREE = 27.211386245988
"""[eV] (CODATA 2018)."""
BASES = {"PBE": "gth-dzvp-molopt-sr", "PBE-SZV": "gth-szv-molopt-sr"}
"""Basis set by method: double zeta with polarisation, or a minimal one that is seven times faster."""
CUTOFF, SMEARING = 80.0, 0.005
"""Plane-wave cutoff [hartree] of the density's grid, width of the Fermi smearing [hartree]."""
EMPTY = 10.0
"""[Angstrom] of vacuum above a sheet; what a cell has more is left out, because a neutral sheet does not feel it."""
CYCLES = 100


class PeriodicPBE(Calculator):
    """Energy of atoms that are periodic everywhere, or of a molecule."""

    implemented_properties = ["energy"]  # noqa: RUF012  (ASE reads it from the class)

    def __init__(self, charge: int = 0, memory_mb: int = 2000, basis: str = BASES["PBE"]) -> None:
        super().__init__()
        self._charge, self._memory, self._basis = charge, memory_mb, basis

    def calculate(self, atoms: Any = None, properties: Any = ("energy",), system_changes: Any = all_changes) -> None:
        """Compute; raises SCFError where no self-consistency is reached."""
        super().calculate(atoms, properties, system_changes)
        system = self._system(self.atoms)
        field = self._field(system, self.atoms.pbc.any())
        field.conv_tol, field.max_cycle = 1e-6, CYCLES
        field.kernel()
        if not field.converged:
            raise SCFError(f"PBE is not self-consistent after {CYCLES} cycles")
        zero = getattr(field, "e_zero", None)
        self.results = {"energy": float(field.e_tot if zero is None else zero) * HARTREE}

    def _system(self, atoms: Any) -> Any:
        from pyscf import gto
        from pyscf.pbc import gto as periodic

        parity = (int(np.sum(atoms.numbers)) - self._charge) % 2
        shared = {"atom": list(zip(atoms.get_chemical_symbols(), atoms.positions, strict=True)), "basis": self._basis,
                  "pseudo": "gth-pbe", "charge": self._charge, "verbose": 0, "max_memory": self._memory}
        if not atoms.pbc.any():
            return gto.M(**shared, spin=parity)
        cell = atoms.cell.array.copy()
        free = cell[2, 2] - np.ptp(atoms.positions[:, 2])
        if np.abs(cell[2, :2]).max() < 1e-9 and free > EMPTY:
            cell[2, 2] -= free - EMPTY
        return periodic.Cell(**shared, a=cell, ke_cutoff=CUTOFF, spin=parity).build()

    @staticmethod
    def _field(system: Any, periodic: bool) -> Any:
        """The mean field: closed shells, or of two spins where the number of electrons is odd."""
        if not periodic:
            from pyscf import dft

            field = dft.RKS(system) if system.spin == 0 else dft.ROKS(system)
            field.xc = "pbe"
            return field
        from pyscf.pbc import dft
        from pyscf.pbc.dft.multigrid import MultiGridNumInt2
        from pyscf.pbc.scf.addons import smearing

        field = dft.RKS(system) if system.spin == 0 else dft.UKS(system)
        field.xc = "pbe"
        field._numint = MultiGridNumInt2(system)
        return smearing(field, sigma=SMEARING, method="fermi")
