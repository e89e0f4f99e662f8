"""Relaxation held to measured positions: the most probable structure, given its energy and what was measured.

With the prior exp(-E(x) / kT) and Gaussian errors of covariance S about the measured places m, the most probable positions
minimise E(x) + (kT / 2) (x - m)^T S^-1 (x - m). A stiff mode relaxes, because noise in it would cost more than kT; a soft one,
or one that was measured well, stays where it was measured. Errors of a mode of stiffness k and standard error s leave (k s^2 /
2) (kT / (k s^2 + kT))^2, at most kT / 8. Energies in eV, lengths in Angstrom, as ASE has them.
"""

from __future__ import annotations

from typing import Any

import numpy as np

BOLTZMANN = 8.617333262e-5
"""[eV/K] (CODATA 2018)."""
SMALLEST_ERROR = 1e-3
"""[Angstrom] below which no position is taken to be known."""


class Restraint:
    """An ASE constraint that pulls atoms to where they were measured, in x and y; z is free.

    It changes forces and `get_potential_energy`; with `apply_constraint=False` ASE gives the engine's alone.

    Parameters
    ----------
    measured : (atoms, 2), x and y [Angstrom].
    covariances : (atoms, 2, 2) [Angstrom^2]; NaN: this atom was not measured and is free.
    temperature : [K] of the prior.
    """

    def __init__(self, measured: np.ndarray, covariances: np.ndarray, temperature: float) -> None:
        self.measured = np.array(measured, float)
        self.known = ~np.isnan(covariances).any(axis=(1, 2))
        self.covariances = np.where(self.known[:, None, None], covariances, np.eye(2)) + SMALLEST_ERROR ** 2 * np.eye(2)
        self.stiffness = BOLTZMANN * temperature * np.linalg.inv(self.covariances) * self.known[:, None, None]
        self.temperature = temperature

    @property
    def coordinates(self) -> int:
        """Number of coordinates that were measured."""
        return 2 * int(self.known.sum())

    def chi_square(self, atoms: Any) -> float:
        """Squared deviations from the measured places over their variances, a measured coordinate."""
        return float(self.squares(atoms).sum()) / self.coordinates

    def squares(self, atoms: Any) -> np.ndarray:
        """The same of each atom (atoms,), summed over its coordinates; 0 where it was not measured."""
        away = atoms.positions[:, :2] - self.measured
        return np.einsum("ai,aij,aj->a", away, self.stiffness, away) / (BOLTZMANN * self.temperature)

    def drawn(self, positions: np.ndarray, generator: np.random.Generator) -> Restraint:
        """The restraint that a measurement of `positions` (atoms, 3) with fresh errors would give."""
        noise = np.einsum("aij,aj->ai", np.linalg.cholesky(self.covariances), generator.normal(size=self.measured.shape))
        result = Restraint(self.measured, self.covariances, self.temperature)
        result.known, result.covariances, result.stiffness = self.known, self.covariances, self.stiffness
        result.measured = positions[:, :2] + np.where(self.known[:, None], noise, 0.0)
        return result

    # ---- what ASE asks of a constraint --------------------------------------------------------------------------

    def adjust_forces(self, atoms: Any, forces: np.ndarray) -> None:
        """Add the pull to forces (atoms, 3) [eV/Angstrom], in place."""
        forces[:, :2] -= np.einsum("aij,aj->ai", self.stiffness, atoms.positions[:, :2] - self.measured)

    def adjust_potential_energy(self, atoms: Any) -> float:
        """Energy of the restraint [eV]."""
        away = atoms.positions[:, :2] - self.measured
        return float(np.einsum("ai,aij,aj->", away, self.stiffness, away) / 2)

    def adjust_positions(self, atoms: Any, positions: np.ndarray) -> None:
        """No position is forbidden."""

    def get_removed_dof(self, _atoms: Any) -> int:
        """None."""
        return 0
