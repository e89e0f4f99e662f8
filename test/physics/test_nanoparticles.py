"""Gold on carbon: densities and distances of the literature, cuts that agree, the truth against the atoms."""

import numpy as np
import pytest
from scipy.spatial import cKDTree

from edgetem_nodes.physics import site_noise
from edgetem_nodes.physics.specimens import Condition, packing
from edgetem_nodes.physics.specimens.carbon_film import BOND, DENSITY, CarbonFilm
from edgetem_nodes.physics.specimens.catalogue import SpecimenOptions, make_specimen
from edgetem_nodes.physics.specimens.gold_particle import LATTICE, Particle, on_facet, random_rotation

EXTENT = (40e-9, 40e-9)
NOW = Condition()


def gold(seed=3, **options):
    return make_specimen("gold", EXTENT, seed, SpecimenOptions(**options))


def grid(number=80, extent=EXTENT):
    return np.stack(np.meshgrid(*[np.linspace(0, side, number) for side in extent], indexing="ij"), axis=-1).reshape(-1, 2)


@pytest.mark.parametrize("thickness", [1.2e-9, 3e-9, 8e-9])
def test_density_of_the_carbon_film(thickness):
    """1.8 to 2.0 g/cm3, the same all through the film."""
    atoms = CarbonFilm(1, 2e-9, thickness).atoms(np.zeros(2), np.full(2, 9e-9))
    density = len(atoms.positions) * 12.011 * 1.66054e-27 / (81e-18 * thickness)
    assert 1800 < density < 2000
    assert density == pytest.approx(DENSITY, rel=0.04)
    depths, _ = np.histogram(atoms.positions[:, 0], 6, (2e-9, 2e-9 + thickness))
    assert depths.min() > 0.9 * depths.max()


def test_the_film_has_the_shells_of_amorphous_carbon():
    """g(r) of a-C: bonds around 0.15 nm, three an atom, a gap at 0.2 nm, second neighbours at 0.25 nm, then nothing."""
    positions = CarbonFilm(1, 0.0, 3e-9).atoms(np.zeros(2), np.full(2, 6e-9)).positions
    inner = positions[((positions > 6e-10) & (positions < [2.4e-9, 5.4e-9, 5.4e-9])).all(axis=1)]
    tree = cKDTree(positions)
    edges = np.array([0.01, 1.0, 1.25, 1.75, 1.9, 2.05, 2.35, 2.65, 3.5, 4.5, 5.5]) * 1e-10
    distances = tree.query(inner, 120)[0][:, 1:].ravel()
    shells = np.histogram(distances, edges)[0] / np.diff(4 / 3 * np.pi * edges ** 3) / len(inner) / 9.53e28
    assert shells[0] == 0
    assert shells[2] > 1.6
    assert shells[1] < 0.3
    assert shells[4] < 0.4
    assert shells[6] > 1.1
    assert shells[7:] == pytest.approx(1, abs=0.1)
    assert (distances < 1.95e-10).sum() / len(inner) == pytest.approx(3.0, abs=0.25)
    assert np.median(tree.query(inner, 2)[0][:, 1]) == pytest.approx(BOND, rel=0.1)


def test_the_film_is_amorphous():
    """The structure factor of a film has no peak as a crystal's would be (it would reach the number of atoms)."""
    positions = CarbonFilm(1, 0.0, 3e-9).atoms(np.zeros(2), np.full(2, 4e-9)).positions[:, 1:]
    axes = np.arange(2e9, 12e9, 0.17e9), np.arange(-12e9, 12e9, 0.17e9)
    waves = 2 * np.pi * np.stack(np.meshgrid(*axes), -1).reshape(-1, 2)
    amplitude = np.stack([np.exp(1j * positions @ wave).sum() for wave in waves[::45]])
    factor = np.abs(amplitude) ** 2 / len(positions)
    assert factor.max() < 15
    assert factor.mean() == pytest.approx(1, abs=0.5)


def test_packing_keeps_no_conflict_and_leaves_no_room():
    places = site_noise.uniform(1, np.arange(6000).reshape(-1, 3), "place")
    pairs = cKDTree(places).query_pairs(0.1, output_type="ndarray")
    stays = packing.kept(site_noise.words(1, np.arange(2000), "rank"), pairs)
    assert not (stays[pairs[:, 0]] & stays[pairs[:, 1]]).any()
    blocked = np.zeros(2000, bool)
    blocked[pairs[stays[pairs[:, 0]], 1]] = blocked[pairs[stays[pairs[:, 1]], 0]] = True
    assert (stays | blocked).mean() > 0.98


@pytest.mark.parametrize("twinned", [False, True])
@pytest.mark.parametrize("radius", [1e-9, 2.2e-9, 3e-9])
def test_a_particle_has_the_lattice_and_volume_of_gold(twinned, radius):
    counts = []
    for identity in range(7):
        turn = random_rotation(site_noise.uniform(1, np.arange(3) + identity))
        particle = Particle(identity * 1000, radius, turn, twinned)
        places, indices = particle.atoms()
        counts.append(len(places))
        assert len(np.unique(indices, axis=0)) == len(places)
        distances, _ = cKDTree(places).query(places, 13)
        assert distances[:, 1] == pytest.approx(LATTICE / np.sqrt(2))
        bulk = distances[:, 12] < LATTICE / np.sqrt(2) * 1.001
        assert bulk.mean() > 0.25
        assert np.linalg.norm(places, axis=1).max() < 1.14 * radius
    assert np.mean(counts) * LATTICE ** 3 / 4 == pytest.approx(4 / 3 * np.pi * radius ** 3, rel=0.09)


def test_a_twin_is_its_own_mirror_image_and_a_single_crystal_is_not():
    normal = np.array([1, 1, -1]) / np.sqrt(3)
    for twinned in (True, False):
        places, _ = Particle(77, 2e-9, np.eye(3), twinned).atoms()
        mirrored = places - 2 * np.outer(places @ normal, normal)
        core = np.linalg.norm(places, axis=1) < 1.2e-9
        apart, _ = cKDTree(places).query(mirrored[core])
        assert (apart.max() < 1e-13) == twinned


@pytest.mark.parametrize("condition", [NOW, Condition(alpha=0.2, beta=-0.1)])
def test_cuts_agree(condition):
    specimen, low, high = gold(), np.array([14e-9, 15e-9]), np.array([24e-9, 25e-9])
    whole = specimen.atoms(low, high, condition)
    middle = 19.3e-9
    halves = [specimen.atoms(low, np.array([high[0], middle]), condition),
              specimen.atoms(np.array([low[0], middle]), high, condition)]
    identity = np.concatenate([half.identity for half in halves])
    order, wholes = np.argsort(identity), np.argsort(whole.identity)
    assert np.array_equal(identity[order], whole.identity[wholes])
    assert np.array_equal(np.concatenate([half.positions for half in halves])[order], whole.positions[wholes])
    assert len(np.unique(identity)) == len(identity)
    assert (whole.atomic_numbers == 79).sum() > 500
    assert ((whole.positions >= [0, *low]) & (whole.positions < [specimen.thickness, *high])).all()
    distances, _ = cKDTree(whole.positions).query(whole.positions, 2)
    assert distances[:, 1].min() > 1.05e-10


def test_truth_is_what_the_atoms_do():
    """Thickness by the number of gold atoms in a pixel; outline, height and diameter by where they are."""
    specimen = gold(5)
    low, high = np.full(2, 10e-9), np.full(2, 30e-9)
    atoms = specimen.atoms(low, high, NOW)
    places = atoms.positions[atoms.atomic_numbers == 79]
    fine = low + grid(201, (20e-9, 20e-9))
    volume = specimen.truth("thickness", fine, NOW).mean() * 400e-18
    assert volume == pytest.approx(len(places) * LATTICE ** 3 / 4, rel=0.04)
    assert (specimen.truth("particle", places[:, 1:], NOW) == 1).mean() > 0.999
    bare = fine[specimen.truth("particle", fine, NOW) == 0]
    assert cKDTree(places[:, 1:]).query(bare)[0].min() > 0.5e-10
    height = specimen.truth("height", places[:, 1:], NOW)
    above = specimen.thickness - places[:, 0]
    assert (above < height + 1e-13).all()
    centre, shapes = specimen.particles(low + 3.5e-9, high - 3.5e-9)
    for middle, shape in zip(centre, shapes, strict=True):
        own = places[np.linalg.norm(places[:, 1:] - middle, axis=1) < 1.2 * shape.radius]
        if np.ptp(own[:, 1:], axis=0).min() > 0 and ((middle > low + 3.5e-9) & (middle < high - 3.5e-9)).all():
            diameter = (6 / np.pi * len(own) * LATTICE ** 3 / 4) ** (1 / 3)
            assert diameter == pytest.approx(2 * shape.radius, rel=0.1)
            assert 2e-9 <= 2 * shape.radius <= 6e-9


def test_orientation_is_that_of_the_rows():
    """The azimuth and the zone axis angle of a single crystal, from its nearest-neighbour bonds."""
    for chance in site_noise.uniform(9, np.arange(18).reshape(6, 3)):
        particle = Particle(5, 2e-9, random_rotation(chance), False)
        places, _ = particle.atoms()
        centre = np.argmin(np.linalg.norm(places, axis=1))
        _, near = cKDTree(places).query(places[centre], 13)
        bonds = (places[near[1:]] - places[centre]) / (LATTICE / np.sqrt(2))
        flat = bonds[np.argmin(np.abs(bonds[:, 0]))]
        azimuth, angle = particle.directions()[0]
        assert abs(np.sin(azimuth - np.arctan2(flat[1], flat[2]))) < 1e-6
        assert angle == pytest.approx(np.arccos(np.abs(bonds[:, 0]).max()), abs=1e-6)
    assert Particle(5, 2e-9, on_facet(0.3), False).directions()[0][1] == pytest.approx(np.radians(35.2644), abs=1e-6)


def test_particles_do_not_touch_and_one_is_in_a_small_field():
    centres, shapes = gold().particles(np.zeros(2), np.full(2, 100e-9))
    apart, near = cKDTree(centres).query(centres, 2)
    radii = np.array([shape.radius for shape in shapes])
    assert (apart[:, 1] > radii + radii[near[:, 1]]).all()
    covered = np.pi * (radii ** 2).sum() / 1e-14
    assert 0.1 < covered < 0.4
    assert 0.1 < np.mean([shape.twinned for shape in shapes]) < 0.5
    for seed in range(5):
        small = make_specimen("gold", (8e-9, 8e-9), seed, SpecimenOptions())
        assert small.truth("particle", grid(20, (8e-9, 8e-9)), NOW).mean() > 0.1


def test_a_uniform_rotation_is_one():
    turns = np.stack([random_rotation(chance) for chance in site_noise.uniform(4, np.arange(6000).reshape(-1, 3))])
    assert np.einsum("nij,nkj->nik", turns, turns) == pytest.approx(np.broadcast_to(np.eye(3), turns.shape), abs=1e-12)
    assert np.linalg.det(turns) == pytest.approx(1)
    assert np.abs(turns.mean(axis=0)).max() < 0.05
    assert np.square(turns).mean(axis=0) == pytest.approx(np.full((3, 3), 1 / 3), abs=0.03)


def test_seed_layers_and_refusals():
    first, again, other = (gold(seed).atoms(np.zeros(2), np.full(2, 5e-9), NOW).positions for seed in (1, 1, 2))
    assert np.array_equal(first, again)
    assert first.shape != other.shape or not np.array_equal(first, other)
    specimen = gold(film_thickness=5e-9)
    layers = specimen.layers(grid(), NOW)
    assert layers["carbon"] == pytest.approx(5e-9)
    assert np.array_equal(layers["Au"], specimen.truth("thickness", grid(), NOW))
    assert specimen.edge_distance(grid()) is None
    with pytest.raises(ValueError, match="strain_xx"):
        specimen.truth("strain_xx", grid(3), NOW)
    with pytest.raises(ValueError, match="1e-10 m"):
        gold(film_thickness=1e-10)


def test_particles_lie_every_way():
    """Of some 400: four in ten on a {111} facet, the others uniform over all rotations, three in ten twinned."""
    _, shapes = gold().particles(np.zeros(2), np.full(2, 260e-9))
    turns = np.stack([shape.orientation for shape in shapes])
    on_beam = np.abs(turns[:, 0] @ np.ones(3)) / np.sqrt(3) > 1 - 1e-9
    assert on_beam.mean() == pytest.approx(0.4, abs=0.08)
    assert np.square(turns[~on_beam]).mean(axis=0) == pytest.approx(np.full((3, 3), 1 / 3), abs=0.07)
    assert np.mean([shape.twinned for shape in shapes]) == pytest.approx(0.3, abs=0.08)
    radii = np.array([shape.radius for shape in shapes])
    assert 1.02e-9 > radii.min() > 1e-9
    assert 3e-9 > radii.max() > 2.9e-9
