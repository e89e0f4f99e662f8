"""Defects of measured cells are seen where they are: through the cell that an engine gets, wherever that begins, and back."""

import uuid
from types import SimpleNamespace

import numpy as np
import pytest
from analytic_patterns import deformation
from ase.build import graphene
from test_structures_defects import COVARIANCE, seen

from edgetem_nodes.featurizer.cbed.materials import MATERIALS
from edgetem_nodes.featurizer.parameters import Structure
from edgetem_nodes.featurizer.structures import defect_cell, unit_cell
from edgetem_nodes.planner.energy_map import EV_PER_NM2, Site


@pytest.mark.parametrize("turned", [False, True])
@pytest.mark.parametrize("angle", [0.0, 0.7, -2.1])
def test_a_vacancy_of_a_measured_cell_is_seen_where_it_is(angle, turned):
    f, shift = deformation(0.02, -0.01, 0.005, angle), (0.4, -0.7)
    found = seen(graphene(a=2.46, vacuum=5), f, shift, turned=turned, defects={3: 0, 11: 0}, half=8.1)
    true = found.positions[[3, 11]]
    structure = defect_cell(unit_cell(MATERIALS["graphene"]), f, COVARIANCE, found, Structure(), "graphene")
    likely = [defect.probability for defect in structure.defects]
    site = Site(0, uuid.UUID(int=1), 0)
    site.take(3.0 * EV_PER_NM2, 0.2 * EV_PER_NM2)
    area = abs(np.linalg.det(structure.cell[:2, :2]))
    site.see(SimpleNamespace(cell=structure.cell.ravel(), place=structure.place, defect_probabilities=likely,
                             defect_positions=np.array([defect.position for defect in structure.defects]).ravel(),
                             footprint_area=structure.footprint_area),
             SimpleNamespace(expected_defect_energy=15.0 * 1.602176634e-19, cell_area=area))
    sight = site.sight
    assert len(sight.places) == 2 and sight.sees(sight.places).all()
    apart = np.linalg.norm(sight.places[:, None] - true[None], axis=2).min(axis=1)
    assert apart.max() < 0.1e-10
    # the two share what defects cost, and the rest is smooth
    np.testing.assert_allclose(sight.contents, 7.5e-18, rtol=1e-6)
    assert sight.smooth == pytest.approx(3.0 - 15.0 / (area * 1e18)) and sight.area == pytest.approx(area)
