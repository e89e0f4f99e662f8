"""Elastic energy of a strained sheet, from the strain that its diffraction shows."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from edgetem_nodes.featurizer.features import ELECTRONVOLT, CountingNoise, Features, finished
from edgetem_nodes.featurizer.lattice import LatticeScalarizer, lattice_constant
from edgetem_nodes.featurizer.parameters import Lattice, StrainEnergy
from edgetem_nodes.physics.scan import Axis

ELASTIC_CONSTANTS = {"graphene": (358.1, 60.4), "MoS2": (130.0, 32.0)}
"""Two-dimensional C11 and C12 [N/m] from density functional theory: graphene, Wei, Fragneaud, Marianetti and Kysar, Phys.
Rev. B 80, 205407 (2009); MoS2 with relaxed ions, Duerloo, Ong and Reed, J. Phys. Chem. Lett. 3, 2871 (2012)."""

SYMMETRIC = np.array([[0.0, 0.0, 0.0, 1.0], [1.0, 0.0, 0.0, 0.0], [0.0, 0.5, 0.5, 0.0]])
"""From (yy, yx, xy, xx) of a tensor to exx, eyy, exy of its symmetric part."""


@dataclass(frozen=True)
class ElasticSheet:
    """What the energy needs: elastic constants, and how the strain is measured."""

    elastic: StrainEnergy
    lattice: Lattice


class StrainEnergyScalarizer:
    """Elastic energy of a hexagonal sheet, harmonic in the strain: C11 (exx^2 + eyy^2) / 2 + C12 exx eyy + (C11 - C12) exy^2.

    A hexagonal sheet is elastically isotropic in its plane: C66 = (C11 - C12) / 2. The square of a noisy strain is too large
    on average, E[e M e] = e M e + trace(M S) with the covariance S of the strain; that is taken off, so that an unstrained
    sheet has no energy on average, and single values may be negative. The variance, 4 e M S M e + 2 trace(M S M S) of normally
    distributed strains, is estimated without bias from the measured strain, and is not below that of no strain.

    Columns: energy per unit cell [meV]; energy per area [J/m^2]; then what `lattice` measures. Failures are those of `lattice`.
    """

    def __init__(self, settings: ElasticSheet, noise: CountingNoise, axes: tuple[Axis, ...]) -> None:
        c11, c12 = (ELASTIC_CONSTANTS[settings.lattice.material] if settings.elastic.c11_N_per_m == 0
                    else (settings.elastic.c11_N_per_m, settings.elastic.c12_N_per_m))
        if not c11 > abs(c12):
            raise ValueError(f"strain_energy: C11 {c11:g} N/m must exceed the magnitude of C12, {c12:g} N/m, else no sheet is "
                             "stable")
        self.lattice = LatticeScalarizer(settings.lattice, noise, axes)
        self.stiffness = np.array([[c11, c12, 0.0], [c12, c11, 0.0], [0.0, 0.0, 2 * (c11 - c12)]]) / 2
        self.cell = math.sqrt(3) / 2 * lattice_constant(settings.lattice)**2
        self.names = ("strain_energy", "strain_energy_density", *self.lattice.names)
        self.units = ("meV/unit cell", "J/m^2", *self.lattice.units)

    def __call__(self, frames: np.ndarray) -> Features:
        features = self.lattice(frames)
        density, variance = self._density(features.details["deformation"], features.details["deformation_covariance"])
        factor = self.cell / ELECTRONVOLT * 1e3
        values = np.concatenate([density[:, None] * [factor, 1.0], features.values], axis=1)
        variances = np.concatenate([variance[:, None] * [factor**2, 1.0], features.standard_errors**2], axis=1)
        return finished(values, variances, features.failures, features.details)

    def _density(self, deformation: np.ndarray, covariance: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Energy density (rows,) [J/m^2] and its variance, from deformations (rows, 2, 2) and their covariances (4, 4)."""
        angle = np.arctan2(deformation[:, 1, 0] - deformation[:, 0, 1], deformation[:, 0, 0] + deformation[:, 1, 1])
        # The sheet is isotropic: the stretch R^T F may be taken in any axes.
        cosine, sine = np.cos(angle), np.sin(angle)
        back = np.stack([cosine, sine, -sine, cosine], axis=-1).reshape(-1, 2, 2)
        stretch = back @ deformation
        # The row-major vector of R^T dF is (R^T x 1) times that of dF.
        turn = (back[:, :, None, :, None] * np.eye(2)[None, None, :, None, :]).reshape(-1, 4, 4)
        to_strain = SYMMETRIC @ turn
        spread = to_strain @ covariance @ np.swapaxes(to_strain, 1, 2)
        strain = (SYMMETRIC @ (stretch - np.eye(2)).reshape(-1, 4, 1))[..., 0]
        product = self.stiffness @ spread
        stress = strain @ self.stiffness
        density = (stress * strain).sum(axis=1) - np.trace(product, axis1=1, axis2=2)
        square = (spread @ stress[..., None])[..., 0]
        pure = np.trace(product @ product, axis1=1, axis2=2)
        return density, np.maximum(4 * (stress * square).sum(axis=1) - 2 * pure, 2 * pure)
