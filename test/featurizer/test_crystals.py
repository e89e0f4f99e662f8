"""The node's orientation scalar: no jumps between equivalents, the right sense, and what is not indexed."""

import numpy as np
import pytest
from analytic_patterns import disk_image, hexagonal_places, pattern_axes
from ase import Atoms
from ase.cell import Cell

from edgetem_nodes.featurizer import scalarizers
from edgetem_nodes.featurizer.orientation.misorientation import misorientation, nearest_equivalents
from edgetem_nodes.featurizer.orientation.symmetry import laue_symmetry
from edgetem_nodes.featurizer.parameters import Orientation, Parameters
from edgetem_nodes.graph.instrument import Beam
from edgetem_nodes.physics.electrons import wavelength

AXES = pattern_axes(96)


def turned(degrees, high_tension=80e3, size=1.0):
    """Counted patterns of a hexagonal net, turned from x towards y."""
    angle = np.radians(degrees)
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    places = np.concatenate([[[0, 0]], size * hexagonal_places(3.16e-10, wavelength(high_tension), np.eye(2)) @ turn])
    expected = disk_image(places, np.r_[2e4, np.full(len(places) - 1, 800.0)], 2.0, AXES) + 0.05
    return np.random.default_rng(int(abs(degrees) * 10)).poisson(expected, (8, 96, 96)).astype(np.uint16)


@pytest.fixture(scope="module")
def scalarizer(tmp_path_factory):
    path = tmp_path_factory.mktemp("crystal") / "hexagonal.cif"
    Atoms("Mo", cell=Cell.fromcellpar([3.16, 3.16, 4.0, 90, 90, 120]), pbc=True).write(path)
    group = Orientation("in_plane", str(path), thickness_nm=2.0, step_deg=4.0)
    return scalarizers.build(Parameters(scalarizer="orientation", orientation=group, instrument=Beam(80.0, 2.0)), AXES)


def test_the_turn_about_the_beam_does_not_jump_between_equivalents(scalarizer):
    start = scalarizer(turned(0.0))
    assert start.valid.all(), start.failures
    assert np.ptp(start.values[:, 0]) < 1.0
    for degrees in (5.0, -12.0, 20.0):
        rows = scalarizer(turned(degrees))
        assert rows.valid.all(), rows.failures
        moved = (rows.values[:, 0] - start.values[:, 0].mean() + 30) % 60 - 30
        assert moved == pytest.approx(degrees, abs=0.5)
        assert np.ptp(rows.values[:, 0]) < 1.0
    assert np.isfinite(start.values).all()


def test_a_pattern_of_another_size_is_not_indexed_at_the_bound(scalarizer):
    rows = scalarizer(turned(3.0, size=1.06))
    assert not rows.valid.any()


def test_nearest_equivalents_keep_the_orientation_and_come_near():
    cell = Cell.fromcellpar([4.0, 4.0, 4.0, 90, 90, 90])
    symmetry = laue_symmetry(np.asarray(cell)[:, ::-1] * 1e-10, np.zeros((1, 3)), np.zeros(1, int))
    rng = np.random.default_rng(1)
    matrices = np.array([np.linalg.qr(rng.normal(size=(3, 3)))[0] for _ in range(50)])
    matrices *= np.sign(np.linalg.det(matrices))[:, None, None]
    reference = matrices[0]
    near = nearest_equivalents(matrices, reference, symmetry)
    assert misorientation(matrices, near, symmetry)[0] == pytest.approx(0, abs=1e-6)
    # No equivalent is farther than the largest misorientation of a cube, 62.8 degrees.
    turn = np.einsum("ij,nij->n", reference, near)
    assert np.degrees(np.arccos(np.clip((turn - 1) / 2, -1, 1))).max() < 62.9
