"""Strained supercells against ASE, linear algebra and a Monte Carlo of the position errors."""

from __future__ import annotations

import numpy as np
import pytest
from analytic_patterns import deformation

from edgetem_nodes.featurizer.parameters import Lattice, Structure
from edgetem_nodes.featurizer.structures import NotIdentifiable, strained_sheet

COVARIANCE = np.diag([4e-6, 1e-6, 1e-6, 9e-6])


def distances(structure, reach: float) -> np.ndarray:
    """All interatomic distances below `reach` [m], by brute force over periodic images."""
    shifts = np.array([[i, j, 0] for i in (-1, 0, 1) for j in (-1, 0, 1)]) @ structure.cell
    difference = structure.positions[:, None, None] - structure.positions[None, :, None] - shifts
    found = np.linalg.norm(difference, axis=-1)
    return np.sort(found[(found > 1e-12) & (found < reach)])


def test_unstrained_mos2_has_its_known_bonds():
    structure = strained_sheet(np.eye(2), COVARIANCE, Lattice(), Structure(supercell=2))
    assert sorted(structure.atomic_numbers.tolist()) == [16] * 8 + [42] * 4
    bond = np.hypot(3.16 / np.sqrt(3), 3.17 / 2) * 1e-10
    assert distances(structure, 2.6e-10) == pytest.approx(np.full(4 * 6 * 2, bond))
    assert structure.periodic == (True, True, False)
    assert structure.cell[2, 2] > 2e-9


def test_graphene_bonds_follow_an_isotropic_strain():
    structure = strained_sheet(1.02 * np.eye(2), COVARIANCE, Lattice(material="graphene"), Structure())
    assert distances(structure, 1.6e-10) == pytest.approx(np.full(18 * 3, 1.02 * 2.46e-10 / np.sqrt(3)))


def test_the_cell_and_every_atom_follow_the_deformation():
    f = deformation(0.02, -0.01, 0.005, 0.03)
    free = strained_sheet(np.eye(2), COVARIANCE, Lattice(rotation_deg=12.0), Structure())
    bent = strained_sheet(f, COVARIANCE, Lattice(rotation_deg=12.0), Structure())
    assert bent.cell[:2, 1::-1] == pytest.approx(free.cell[:2, 1::-1] @ f.T)
    assert bent.positions[:, 1::-1] == pytest.approx(free.positions[:, 1::-1] @ f.T)
    assert bent.positions[:, 2] == pytest.approx(free.positions[:, 2])
    assert np.degrees(np.arctan2(free.cell[0, 1], free.cell[0, 0])) == pytest.approx(12.0)
    assert "exx +2.000 %, eyy -1.000 %, exy +0.500 %" in bent.source


def test_position_errors_are_those_of_deformations_drawn_from_the_covariance():
    rng = np.random.default_rng(1)
    root = rng.normal(0, 1e-3, (4, 4))
    covariance = root @ root.T
    structure = strained_sheet(np.eye(2), covariance, Lattice(), Structure())
    middle = structure.cell[:2, :2].sum(axis=0) / 2
    offsets = (structure.positions[:, :2] - middle)[:, ::-1]
    drawn = rng.multivariate_normal(np.zeros(4), covariance, 20000).reshape(-1, 2, 2)
    moved = np.einsum("nij,aj->nai", drawn, offsets)
    assert structure.standard_errors[:, 1::-1] == pytest.approx(moved.std(axis=0), rel=0.03)
    assert not structure.standard_errors[:, 2].any()


@pytest.mark.parametrize(("f", "covariance", "message"), [
    (np.eye(2), COVARIANCE * 1e3, "standard error of the strain, 9.49 %, is above"),
    (np.full((2, 2), np.nan), COVARIANCE, "measurement failed"),
    (0.5 * np.eye(2), COVARIANCE, "apart, below structure.smallest_distance"),
])
def test_what_the_data_does_not_determine_is_refused(f, covariance, message):
    with pytest.raises(NotIdentifiable, match=message):
        strained_sheet(f, covariance, Lattice(material="graphene"), Structure())
