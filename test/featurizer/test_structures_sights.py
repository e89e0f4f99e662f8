"""Defects that a micro-scan saw are where they are, through the structure that an engine gets, wherever its cell begins."""

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


@pytest.mark.parametrize("limit", [200, 60], ids=["cell-as-large-as-the-square", "smaller-cell"])
@pytest.mark.parametrize("turned", [False, True])
@pytest.mark.parametrize("angle", [0.0, 0.7, -2.1])
def test_every_vacancy_is_seen_once_where_it_is(angle, turned, limit):
    f, shift = deformation(0.02, -0.01, 0.005, angle), (0.4, -0.7)
    perfect = seen(graphene(a=2.46, vacuum=5), f, shift, turned=turned, half=8.1)
    vacant = list(range(2, len(perfect.positions), 9))
    found = seen(graphene(a=2.46, vacuum=5), f, shift, turned=turned, defects=dict.fromkeys(vacant, 0), half=8.1)
    structure = defect_cell(unit_cell(MATERIALS["graphene"]), f, COVARIANCE, found, Structure(largest_atoms=limit), "graphene")
    site = Site(0, uuid.UUID(int=1), 0)
    site.take(3.0 * EV_PER_NM2, 0.2 * EV_PER_NM2)
    area = abs(np.linalg.det(structure.cell[:2, :2]))
    built = sum(one.probability > 0.5 for one in structure.defects)
    cost = 7.5 * float(structure.seen_probabilities[structure.seen_in_cell].sum())
    site.see(SimpleNamespace(seen_positions=structure.seen.ravel(), seen_probabilities=structure.seen_probabilities,
                             seen_in_cell=structure.seen_in_cell, footprint_area=structure.footprint_area),
             SimpleNamespace(expected_defect_energy=cost * 1.602176634e-19, cell_area=area))
    sight = site.sight
    there = sight.probabilities > 0.5
    assert there.sum() == len(vacant) and sight.sees(sight.places[there]).all() and sight.area == pytest.approx(found.footprint)
    apart = np.linalg.norm(sight.places[there][:, None] - found.positions[vacant], axis=2)
    assert sorted(apart.argmin(axis=1)) == list(range(len(vacant))) and apart.min(axis=1).max() < 0.1e-10
    # those in the cell share what defects cost, of the others it is not known
    known = np.isfinite(sight.contents)
    assert known[there].sum() == built and (built < len(vacant)) == (limit < 200)
    np.testing.assert_allclose((sight.contents / sight.probabilities)[known], 7.5e-18, rtol=1e-6)
    assert sight.smooth == pytest.approx(3.0 - cost / (area * 1e18))
