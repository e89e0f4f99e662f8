"""Laue classes against the International Tables, misorientations against Mackenzie, the sector against its solid angle."""

import numpy as np
import pytest
from ase.build import bulk
from ase.spacegroup import crystal
from scipy.spatial.transform import Rotation

from edgetem_nodes.featurizer.orientation.colours import inverse_pole_figure_colours
from edgetem_nodes.featurizer.orientation.crystal import Crystal
from edgetem_nodes.featurizer.orientation.misorientation import (
    grains,
    kernel_average_misorientation,
    mean_orientation,
    misorientation,
    reference_misorientation,
)
from edgetem_nodes.featurizer.orientation.rotations import upright

GOLD = Crystal.of(bulk("Au", "fcc", a=4.0782, cubic=True), "gold")
MAGNESIUM = Crystal.of(bulk("Mg"), "magnesium")


def made(symbols, basis, group, cell, setting=1):
    return crystal(symbols, basis, spacegroup=group, cellpar=cell, setting=setting)


STRUCTURES = {
    "fcc, conventional": (bulk("Au", "fcc", a=4.0782, cubic=True), "m-3m", 24),
    "fcc, primitive": (bulk("Au", "fcc", a=4.0782), "m-3m", 24),
    "fcc, supercell": (bulk("Au", "fcc", a=4.0782, cubic=True).repeat((2, 1, 3)), "m-3m", 24),
    "diamond": (bulk("Si"), "m-3m", 24),
    "zinc blende": (bulk("ZnS", "zincblende", a=5.41), "m-3m", 24),
    "hcp": (bulk("Mg"), "6/mmm", 12),
    "hcp, orthogonal cell": (bulk("Mg", orthorhombic=True), "6/mmm", 12),
    "pyrite": (made(("Fe", "S"), [(0, 0, 0), (.385, .385, .385)], 205, [5.42] * 3 + [90] * 3), "m-3", 12),
    "rutile": (made(("Ti", "O"), [(0, 0, 0), (.305, .305, 0)], 136, [4.594, 4.594, 2.959, 90, 90, 90]), "4/mmm", 8),
    "calcite": (made(("Ca", "C", "O"), [(0, 0, 0), (0, 0, .25), (.257, 0, .25)], 167, [4.99, 4.99, 17.06, 90, 90, 120]),
                "-3m", 6),
    "ilmenite": (made(("Fe", "Ti", "O"), [(0, 0, .355), (0, 0, .146), (.317, .023, .245)], 148,
                      [5.09, 5.09, 14.09, 90, 90, 120]), "-3", 3),
    "scheelite": (made(("Ca", "W", "O"), [(0, .25, .625), (0, .25, .125), (.1504, .0085, .2111)], 88,
                       [5.24, 5.24, 11.37, 90, 90, 90], 2), "4/m", 4),
    "aragonite": (made(("Ca", "C"), [(.25, .415, .757), (.25, .762, -.08)], 62, [4.96, 7.97, 5.74, 90, 90, 90]), "mmm", 4),
    "baddeleyite": (made(("Zr", "O"), [(.2758, .0411, .2082), (.07, .342, .341)], 14, [5.15, 5.2, 5.32, 90, 99.2, 90]),
                    "2/m", 2),
    "triclinic": (made(("Ca", "C"), [(.1, .2, .3), (.45, .7, .61)], 2, [5, 6, 7, 81, 95, 103]), "-1", 1),
    "polar PbTiO3": (made(("Pb", "Ti", "O", "O"), [(0, 0, 0), (.5, .5, .54), (.5, .5, .112), (.5, 0, .612)], 99,
                          [3.904, 3.904, 4.15, 90, 90, 90]), "4/mmm", 8),
}


def random_turns(count, seed):
    return Rotation.random(count, rng=np.random.default_rng(seed)).as_matrix()


@pytest.mark.parametrize("name", STRUCTURES)
def test_laue_class_is_that_of_the_space_group(name):
    structure, laue_class, count = STRUCTURES[name]
    found = Crystal.of(structure, name).symmetry
    assert (found.laue_class, len(found.rotations)) == (laue_class, count)
    products = np.einsum("aij,bjk->abik", found.rotations, found.rotations).reshape(-1, 9)
    members = found.rotations.reshape(-1, 9)
    assert np.abs(products[:, None] - members).max(axis=2).min(axis=1).max() < 1e-6, "the rotations are not a group"


def test_symmetry_leaves_structure_factors_as_they_are():
    """Independent of how the rotations were found: |F| of equivalent reciprocal vectors."""
    _, vectors, strengths = MAGNESIUM.reflections(1e10)
    for turn in MAGNESIUM.symmetry.rotations:
        distance = np.linalg.norm((vectors @ turn.T)[:, None] - vectors, axis=2)
        assert distance.min(axis=1).max() < 1e3
        assert strengths[distance.argmin(axis=1)] == pytest.approx(strengths, rel=1e-6)


def test_structures_that_are_no_crystal_are_refused(tmp_path):
    loose = bulk("Au")
    loose.pbc = (True, True, False)
    with pytest.raises(ValueError, match="periodic along 2 of 3"):
        Crystal.of(loose)
    with pytest.raises(ValueError, match="is not a file"):
        Crystal.of(tmp_path / "absent.cif")
    pickled = tmp_path / "structure.traj"
    bulk("Au").write(pickled)
    with pytest.raises(ValueError, match="which is not read"):
        Crystal.of(pickled)


def test_a_cif_file_gives_the_same_crystal(tmp_path):
    structure, laue_class, _ = STRUCTURES["rutile"]
    structure.write(tmp_path / "rutile.cif")
    read = Crystal.of(tmp_path / "rutile.cif")
    assert (read.name, read.symmetry.laue_class) == ("rutile", laue_class)
    assert np.sort(read.reflections(8e9)[2]) == pytest.approx(np.sort(Crystal.of(structure).reflections(8e9)[2]), rel=1e-4)


@pytest.mark.parametrize(("phase", "order"), [(GOLD, 24), (MAGNESIUM, 12)])
def test_zone_axes_fill_the_sector_evenly(phase, order):
    step = np.radians(2.0)
    axes = phase.symmetry.directions(step)
    assert len(axes) == pytest.approx(4 * np.pi / step ** 2 / order, rel=0.03)
    directions = np.random.default_rng(3).normal(size=(500, 3))
    directions = phase.symmetry.sector(directions / np.linalg.norm(directions, axis=1, keepdims=True))
    everywhere = np.einsum("sij,nj->nsi", phase.symmetry.rotations, axes).reshape(-1, 3)
    assert np.degrees(np.arccos((directions @ everywhere.T).max(axis=1))).max() < 1.7


def test_misorientation_of_known_turns():
    turn = Rotation.from_rotvec([0, 0, np.radians(10)]).as_matrix()[::-1, ::-1]
    base = random_turns(1, 1)[0]
    angle, axis = misorientation(base, base @ turn @ GOLD.symmetry.rotations[7], GOLD.symmetry)
    assert np.degrees(angle) == pytest.approx(10) and axis == pytest.approx([1, 0, 0], abs=1e-9)
    twin = Rotation.from_rotvec(np.radians(60) * np.ones(3) / np.sqrt(3)).as_matrix()[::-1, ::-1]
    angle, axis = misorientation(base, base @ twin, GOLD.symmetry)
    assert np.degrees(angle) == pytest.approx(60) and axis == pytest.approx(np.ones(3) / np.sqrt(3))
    # exact for small angles, too, where a cosine is not
    small = Rotation.from_rotvec([0, 1e-9, 0]).as_matrix()[::-1, ::-1]
    assert misorientation(base, base @ small, GOLD.symmetry)[0] == pytest.approx(1e-9, rel=1e-4)


def test_random_misorientations_are_distributed_as_mackenzie_found():
    """Cubic crystals: mean 40.74 degrees, none above 62.80 (Mackenzie, Biometrika 45, 229, 1958)."""
    count = 20000
    angles = np.degrees(misorientation(random_turns(count, 4), random_turns(count, 5), GOLD.symmetry)[0])
    assert angles.mean() == pytest.approx(40.74, abs=5 * angles.std() / np.sqrt(count))
    assert 62.0 < angles.max() <= 62.81


def test_hexagonal_misorientations_stay_below_their_limit():
    """93.84 degrees (Morawiec, J. Appl. Cryst. 28, 289, 1995)."""
    angles = np.degrees(misorientation(random_turns(20000, 6), random_turns(20000, 7), MAGNESIUM.symmetry)[0])
    assert 90 < angles.max() <= 93.85


def grain_map(noise, seed):
    """Two grains 30 degrees apart about the beam, with turns of `noise` [rad] about random axes, as equivalents at random."""
    rng = np.random.default_rng(seed)
    wanted = np.tile(np.eye(3), (8, 12, 1, 1))
    wanted[:, 5:] = Rotation.from_rotvec([0, 0, np.radians(30)]).as_matrix()[::-1, ::-1]
    turns = Rotation.from_rotvec(rng.normal(scale=noise, size=(96, 3))).as_matrix().reshape(8, 12, 3, 3)
    return turns @ wanted @ GOLD.symmetry.rotations[rng.integers(24, size=(8, 12))]


def test_grains_and_misorientation_maps():
    noise = np.radians(0.3)
    matrices, phases = grain_map(noise, 8), np.zeros((8, 12), int)
    phases[0, 0] = -1
    matrices[0, 0] = np.nan
    found = grains(phases, matrices, (GOLD.symmetry,))
    assert found.sizes.tolist() == [56, 39] and found.labels[0, 0] == -1
    assert (found.labels[:, 5:] == 0).all() and (found.labels[1:, :5] == 1).all()
    between = misorientation(found.means[0], found.means[1], GOLD.symmetry)[0]
    assert np.degrees(between) == pytest.approx(30, abs=0.2)
    inside = reference_misorientation(matrices, found, (GOLD.symmetry,))
    # the length of a Gaussian vector in three dimensions is 2 sqrt(2/pi) sigma on average, that of a difference sqrt(2) more
    expected = 2 * np.sqrt(2 / np.pi) * noise
    assert np.nanmean(inside) == pytest.approx(expected, rel=0.1) and np.isnan(inside[0, 0])
    kernel = kernel_average_misorientation(phases, matrices, (GOLD.symmetry,))
    assert np.nanmean(kernel) == pytest.approx(expected * np.sqrt(2), rel=0.1)
    assert np.nanmax(kernel) < np.radians(2), "the grain boundary is in the mean"


def test_mean_of_nothing_is_refused():
    with pytest.raises(ValueError, match="no indexed orientation"):
        mean_orientation(np.full((2, 3, 3), np.nan), GOLD.symmetry)


def test_colours_name_the_corners_and_do_not_depend_on_the_equivalent():
    zones = np.array([[1, 0, 0], [1, 0, 1], [1, 1, 1]], float)
    turns = upright(zones / np.linalg.norm(zones, axis=1, keepdims=True))
    colours = inverse_pole_figure_colours(turns, GOLD.symmetry)
    assert colours == pytest.approx(np.eye(3), abs=1e-6)
    turns = random_turns(50, 9)
    for phase in (GOLD, MAGNESIUM, *(Crystal.of(STRUCTURES[name][0], name) for name in ("calcite", "rutile", "baddeleyite"))):
        first = inverse_pole_figure_colours(turns, phase.symmetry)
        for rotation in phase.symmetry.rotations:
            assert inverse_pole_figure_colours(turns @ rotation, phase.symmetry) == pytest.approx(first, abs=1e-6), phase.name
        assert first.min() >= 0 and first.max(axis=1) == pytest.approx(1)
    assert inverse_pole_figure_colours(np.full((3, 3), np.nan), GOLD.symmetry).tolist() == [0, 0, 0]
