"""The MnPS3 flake: literature values, cuts that agree, its rim and terrace against its own atoms."""

import numpy as np
import pytest
from ase.data import atomic_masses
from scipy.spatial import cKDTree

from edgetem_nodes.physics.specimens import Condition
from edgetem_nodes.physics.specimens.catalogue import SpecimenOptions, make_specimen
from edgetem_nodes.physics.specimens.flake import SPACING
from edgetem_nodes.physics.specimens.outline import Outline

EXTENT = (30e-9, 34e-9)
NOW = Condition()


def flake(seed=3, thickness=4e-9, **options):
    return make_specimen("MnPS3", EXTENT, seed, SpecimenOptions(thickness=thickness, **options))


def grid(number=90):
    return np.stack(np.meshgrid(*[np.linspace(0, side, number) for side in EXTENT], indexing="ij"), axis=-1).reshape(-1, 2)


def inner_box(specimen):
    """A box of 3 nm in the thick part of the flake."""
    places = grid()
    thick = specimen.truth("layers", places, NOW) == specimen.number_of_layers
    step = (places - specimen._step_place) @ specimen._step
    centre = places[thick][np.argmin(np.maximum(specimen.edge_distance(places), step)[thick])]
    return centre - 1.5e-9, centre + 1.5e-9


def test_density_layers_and_bonds():
    """2.92 g/cm3 and 0.649 nm between layers; Mn in six S (0.26 nm), P-P pairs (0.219 nm), P-S 0.203 nm (Ouvrard 1985)."""
    specimen = flake(thickness=8e-9)
    atoms = specimen.atoms(*inner_box(specimen), NOW)
    density = atomic_masses[atoms.atomic_numbers].sum() * 1.66054e-27 / (9e-18 * specimen.thickness)
    assert density == pytest.approx(2915, rel=0.05)
    fractions = np.bincount(atoms.atomic_numbers)[[25, 15, 16]] / len(atoms.positions)
    assert fractions == pytest.approx([0.2, 0.2, 0.6], rel=0.06)
    kinds = {number: atoms.positions[atoms.atomic_numbers == number] for number in (25, 15, 16)}
    assert np.median(cKDTree(kinds[16]).query(kinds[25], 6)[0], axis=0) == pytest.approx(2.60e-10, abs=4e-12)
    assert np.median(cKDTree(kinds[16]).query(kinds[15], 3)[0], axis=0) == pytest.approx(2.03e-10, abs=3e-12)
    assert np.median(cKDTree(kinds[15]).query(kinds[15], 2)[0][:, 1]) == pytest.approx(2.19e-10, abs=1e-12)
    planes = np.unique(np.round(kinds[25][:, 0] * 1e13))
    assert np.diff(planes) * 1e-13 == pytest.approx(6.487e-10, abs=1e-12)
    assert len(planes) == specimen.number_of_layers == round(8e-9 / SPACING)


def test_layers_are_stacked_as_in_the_monoclinic_cell():
    """Manganese honeycombs glide by c cos(beta), nearly a third of a, so every column is shared in three layers."""
    specimen = flake(thickness=6e-9)
    atoms = specimen.atoms(*inner_box(specimen), NOW)
    manganese = atoms.positions[atoms.atomic_numbers == 25]
    depths = np.sort(np.unique(np.round(manganese[:, 0] * 1e13)))
    layers = [manganese[np.abs(manganese[:, 0] * 1e13 - depth) < 1] for depth in depths[:4]]
    trees = [cKDTree(layer[:, 1:]) for layer in layers]
    offset = [np.median(trees[0].query(layer[:, 1:])[0]) for layer in layers]
    assert offset[3] == pytest.approx(3 * (2.0267 - 6.077 / 3) * 1e-10, abs=2e-13)
    assert min(offset[1], offset[2]) >= 0
    neighbours, _ = trees[0].query(layers[0][:, 1:], 4)
    assert np.median(neighbours[:, 1:], axis=0) == pytest.approx(3.51e-10, abs=3e-12)


@pytest.mark.parametrize("condition", [NOW, Condition(alpha=0.1, beta=-0.05)])
def test_cuts_agree(condition):
    specimen, low, high = flake(tilt=(0.0, 0.02)), np.array([8e-9, 9e-9]), np.array([18e-9, 20e-9])
    whole = specimen.atoms(low, high, condition)
    middle = 13.1e-9
    halves = [specimen.atoms(low, np.array([middle, high[1]]), condition),
              specimen.atoms(np.array([middle, low[1]]), high, condition)]
    identity = np.concatenate([half.identity for half in halves])
    order = np.argsort(identity)
    assert np.array_equal(identity[order], whole.identity)
    assert np.array_equal(np.concatenate([half.positions for half in halves])[order], whole.positions)
    assert len(np.unique(identity)) == len(identity) > 5000
    assert ((whole.positions >= [0, *low]) & (whole.positions < [specimen.thickness, *high])).all()


@pytest.mark.parametrize("hole_size", [0.0, 5e-9])
def test_edge_distance_is_the_distance_from_the_atoms(hole_size):
    """Outside, to the nearest atom; inside, atoms all around up to the distance and vacuum beyond."""
    specimen = flake(hole_size=hole_size, thickness=2e-9)
    atoms = specimen.atoms(-np.ones(2) * 1e-9, np.array(EXTENT) + 1e-9, NOW)
    assert specimen.edge_distance(atoms.positions[:, 1:]).max() <= 0
    places = grid()
    distance = specimen.edge_distance(places)
    outside = distance > 0
    nearest, _ = cKDTree(atoms.positions[:, 1:]).query(places)
    assert nearest[outside] == pytest.approx(distance[outside], abs=6e-10)
    assert nearest[~outside].max() < 4e-10
    deep = distance < -1e-9
    vacuum, _ = cKDTree(places[outside]).query(places[deep])
    assert vacuum == pytest.approx(-distance[deep], abs=6e-10)
    assert (nearest[outside] <= distance[outside] + 6e-10).all()
    hole = ((places - specimen._hole) ** 2).sum(axis=1) < (0.4 * hole_size) ** 2
    assert outside[hole].all()


def test_distance_from_an_outline():
    """A square of side 2, a point in front of a side, one off a corner, one inside."""
    square = Outline(np.array([[-1, -1], [-1, 1], [1, 1], [1, -1]]))
    assert square.distance(np.array([[0, 3], [-4, -5], [0.5, 0.2], [0, -1]], float)) == pytest.approx([2, 5, -0.5, 0])


def test_the_terrace_is_a_step_in_the_atoms():
    specimen = flake(thickness=5e-9)
    atoms = specimen.atoms(np.zeros(2), np.array(EXTENT), NOW)
    layers = specimen.truth("layers", grid(), NOW)
    assert set(layers) == {0, specimen.terrace_layers, specimen.number_of_layers}
    assert min((layers == n).mean() for n in set(layers)) > 0.08
    top = SPACING * specimen.truth("layers", atoms.positions[:, 1:], NOW)
    assert (specimen.thickness - atoms.positions[:, 0] < top).all()
    mass = atomic_masses[atoms.atomic_numbers].sum() * 1.66054e-27
    assert mass == pytest.approx(2915 * specimen.truth("thickness", grid(200), NOW).mean() * np.prod(EXTENT), rel=0.02)


def test_the_control_has_the_same_shape_and_no_edge_mode():
    own, control = flake(edge_mode=True), flake(edge_mode=False)
    assert own.edge_mode
    assert not control.edge_mode
    places = grid()
    for quantity in ("thickness", "flake", "edge_distance"):
        assert np.array_equal(own.truth(quantity, places, NOW), control.truth(quantity, places, NOW))
    assert control.truth("edge_mode", places, NOW).max() == 0
    strength, distance = own.truth("edge_mode", places, NOW), own.edge_distance(places)
    assert 0.8 < strength.max() <= 1
    for side in (distance > 0, distance < 0):
        order = np.argsort(np.abs(distance[side]))
        assert (np.diff(strength[side][order]) <= 1e-12).all()


def test_the_outline_lies_in_the_field_whatever_the_seed():
    for seed in range(30):
        corners = flake(seed).outline.corners
        assert ((corners > 0) & (corners < EXTENT)).all()
        assert 0.2 < flake(seed).truth("flake", grid(40), NOW).mean() < 0.6


def test_seed_layers_and_refusals():
    low, high = np.array([14e-9, 14e-9]), np.array([18e-9, 18e-9])
    first, again, other = (flake(seed).atoms(low, high, NOW).positions for seed in (1, 1, 2))
    assert np.array_equal(first, again)
    assert first.shape != other.shape or not np.array_equal(first, other)
    specimen = flake()
    assert np.array_equal(specimen.layers(grid(), NOW)["MnPS3"], specimen.truth("thickness", grid(), NOW))
    assert len(specimen.atoms(np.zeros(2), np.full(2, 1e-9), NOW).positions) == 0
    with pytest.raises(ValueError, match="strain_xx"):
        specimen.truth("strain_xx", grid(3), NOW)
    with pytest.raises(ValueError, match="thinner than a layer"):
        flake(thickness=1e-10)
    with pytest.raises(ValueError, match="a hole of 1e-08 m"):
        flake(hole_size=1e-8)
    with pytest.raises(ValueError, match="FePS3"):
        type(specimen)("FePS3", EXTENT, 1, SpecimenOptions())
