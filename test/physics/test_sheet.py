"""The sheets: their truth against the positions of their own atoms, and every atom the same however the plane is cut."""

import time

import numpy as np
import pytest
from scipy.spatial import cKDTree

from edgetem_nodes.physics.specimens import Condition
from edgetem_nodes.physics.specimens.catalogue import SpecimenOptions, make_specimen
from edgetem_nodes.physics.specimens.sheet import KINETICS, Sheet, crystal
from edgetem_nodes.physics.specimens.thermal import crystal_displacement

EXTENT = np.array([20e-9, 24e-9])
GRID = np.stack(np.meshgrid(*[np.linspace(0, length, 60) for length in EXTENT], indexing="ij"), axis=-1).reshape(-1, 2)
COLD = Condition()
HOT = Condition(28.0, np.array([[0.0, KINETICS.critical_temperature + 60, 0.0]]))
PERFECT = SpecimenOptions(strain=0.0, vacancy_density=0.0, domain_size=0.0)
EVERYTHING = {
    "MoS2": SpecimenOptions(dopant="V", dopant_fraction=0.05, grain_size=7e-9, transition=True),
    "graphene": SpecimenOptions(dopant="N", dopant_fraction=0.05, grain_size=7e-9),
}


def sheet(name="MoS2", options=None, seed=5, extent=EXTENT):
    return Sheet(name, tuple(extent), seed, options)


@pytest.fixture(scope="module")
def molybdenite():
    return sheet()


@pytest.fixture(scope="module")
def atoms(molybdenite):
    return molybdenite.atoms(-np.ones(2) * 3e-9, EXTENT + 3e-9, COLD)


def metal_of(atoms):
    return atoms.positions[np.isin(atoms.atomic_numbers, (42, 74)), 1:]


def test_unit_cell_has_the_lattice_of_molybdenum_disulphide():
    unit = crystal("MoS2")
    a, b = unit.cell
    assert np.linalg.norm(a) == pytest.approx(3.16e-10)
    assert abs(a @ b) / (np.linalg.norm(a) * np.linalg.norm(b)) == pytest.approx(0.5)
    assert sorted(unit.atomic_numbers) == [16, 16, 42]
    assert np.ptp(unit.heights) == pytest.approx(3.17e-10)


@pytest.mark.parametrize(("name", "cell"), [("MoS2", 3.16e-10 ** 2 * np.sqrt(3) / 6),
                                            ("graphene", 2.46e-10 ** 2 * np.sqrt(3) / 4)])
@pytest.mark.parametrize("grain_size", [0.0, 1e-6])
def test_density_of_a_perfect_sheet(name, cell, grain_size):
    perfect = sheet(name, SpecimenOptions(strain=0, vacancy_density=0, domain_size=0, grain_size=grain_size))
    found = perfect.atoms(np.zeros(2), np.array([40e-9, 50e-9]), COLD)
    assert len(found.identity) == pytest.approx(40e-9 * 50e-9 / cell, rel=4e-3)


@pytest.mark.parametrize(("name", "condition"), [("MoS2", COLD), ("MoS2", HOT), ("graphene", COLD)])
@pytest.mark.parametrize("everything", [False, True])
def test_an_atom_is_the_same_however_the_plane_is_cut(name, condition, everything):
    specimen = sheet(name, EVERYTHING[name] if everything else None)
    whole = specimen.atoms(np.array([-5e-9, -3e-9]), np.array([22e-9, 18e-9]), condition)
    assert (np.diff(whole.identity.astype(object)) > 0).all()
    seen = 0
    for y in (-5e-9, 4.3e-9, 12.1e-9):
        for x in (-3e-9, 1e-9, 7.7e-9):
            low, high = np.array([y, x]), np.array([{-5e-9: 4.3e-9, 4.3e-9: 12.1e-9, 12.1e-9: 22e-9}[y],
                                                    {-3e-9: 1e-9, 1e-9: 7.7e-9, 7.7e-9: 18e-9}[x]])
            part = specimen.atoms(low, high, condition)
            lateral = whole.positions[:, 1:]
            inside = ((lateral >= low) & (lateral < high)).all(axis=1)
            for field in ("positions", "atomic_numbers", "displacement_rms", "identity"):
                assert np.array_equal(getattr(part, field), getattr(whole, field)[inside]), field
            seen += len(part.identity)
    assert seen == len(whole.identity)


def test_an_empty_or_distant_piece_is_a_sheet_too(molybdenite):
    assert len(molybdenite.atoms(np.zeros(2), np.array([1e-12, 1e-12]), COLD).identity) <= 1
    far = molybdenite.atoms(np.array([1e-3, -1e-3]), np.array([1e-3 + 3e-9, -1e-3 + 3e-9]), COLD)
    assert len(far.identity) == pytest.approx(9e-18 * 34.7e18, rel=0.1)
    distance, _ = cKDTree(metal_of(far)).query(metal_of(far), 2)
    assert distance[:, 1] == pytest.approx(3.16e-10, rel=1e-5)


def test_strain_truth_is_what_the_atoms_do(molybdenite, atoms):
    """The local lattice of metal atoms, fitted to each one's six neighbours, against the truth at that atom."""
    metal = metal_of(atoms)
    inside = np.flatnonzero(((metal > -2e-9) & (metal < EXTENT + 2e-9)).all(axis=1))[::7]
    _, neighbours = cKDTree(metal).query(metal[inside], 7)
    bonds = metal[neighbours[:, 1:]] - metal[inside, None]
    angle = np.round(np.arctan2(bonds[..., 0], bonds[..., 1]) / (np.pi / 3)) * np.pi / 3
    perfect = 3.16e-10 * np.stack([np.sin(angle), np.cos(angle)], axis=-1)
    gradient = np.stack([np.linalg.lstsq(p, b, rcond=None)[0].T for p, b in zip(perfect, bonds, strict=True)]) - np.eye(2)
    for quantity, measured in (("strain_yy", gradient[:, 0, 0]), ("strain_xx", gradient[:, 1, 1]),
                               ("strain_xy", (gradient[:, 0, 1] + gradient[:, 1, 0]) / 2)):
        assert measured == pytest.approx(molybdenite.truth(quantity, metal[inside], COLD), abs=6e-4), quantity


def test_largest_normal_strain_is_the_one_asked_for(molybdenite):
    xx, yy, total = (molybdenite.truth(q, GRID, COLD) for q in ("strain_xx", "strain_yy", "dilation"))
    assert max(abs(xx).max(), abs(yy).max()) == pytest.approx(0.02, rel=0.02)
    assert total == pytest.approx(xx + yy)
    assert total.min() < -0.008 < 0.012 < total.max()


def test_the_dilation_is_goodiers():
    """(1 + nu) times the stress-free strain, of which the largest is 1 in its own units: proportional in the field."""
    specimen = sheet("graphene")
    eigenstrain = specimen._rim.eigenstrain(specimen._field.material(GRID))
    dilation = specimen.truth("dilation", GRID, COLD)
    slope, offset = np.polyfit(eigenstrain, dilation, 1)
    assert dilation == pytest.approx(slope * eigenstrain + offset, abs=1e-3)
    assert abs(offset) < 1e-3


def test_strain_ends_far_outside_without_a_step(molybdenite):
    line = np.column_stack([np.full(4000, 10e-9), np.linspace(-60e-9, 80e-9, 4000)])
    strain = np.stack([molybdenite.truth(q, line, COLD) for q in ("strain_xx", "strain_yy", "strain_xy")])
    outside = (line[:, 1] < -20e-9) | (line[:, 1] > 44e-9)
    assert abs(strain[:, outside]).max() < 1e-9
    assert abs(np.diff(strain, axis=1)).max() < 5e-4


def test_strain_sits_at_parts_of_the_rim(molybdenite):
    """Related to what the survey shows, but not the same."""
    domain = molybdenite.truth("domain", GRID, COLD).reshape(60, 60)
    dilation = np.abs(molybdenite.truth("dilation", GRID, COLD)).reshape(60, 60)
    rim = np.hypot(*np.gradient(domain))
    assert 0.15 < np.corrcoef(rim.ravel(), dilation.ravel())[0, 1] < 0.8
    assert abs(np.corrcoef(domain.ravel(), dilation.ravel())[0, 1]) < 0.5


def test_tungsten_is_in_the_domain(molybdenite, atoms):
    metal = np.isin(atoms.atomic_numbers, (42, 74))
    tungsten = atoms.atomic_numbers == 74
    inside = molybdenite.truth("domain", atoms.positions[:, 1:], COLD) > 0.9
    assert tungsten[metal & inside].mean() == pytest.approx(0.955, abs=0.03)
    assert tungsten[metal & ~inside].mean() < 0.06


@pytest.mark.parametrize("name", ["MoS2", "graphene"])
def test_vacancies_have_the_density_asked_for_and_gather_at_the_rim(name):
    extent = np.array([60e-9, 60e-9])
    options = SpecimenOptions(vacancy_density=0.1e18)
    full, missing = (sheet(name, o, extent=extent).atoms(np.zeros(2), extent, COLD)
                     for o in (SpecimenOptions(vacancy_density=0.0), options))
    gone = full.positions[~np.isin(full.identity, missing.identity), 1:]
    assert np.isin(missing.identity, full.identity).all()
    assert len(gone) == pytest.approx(360, abs=4 * np.sqrt(360))
    specimen = sheet(name, options, extent=extent)
    assert specimen.truth("vacancies", gone, COLD).min() >= 1
    total = specimen.truth("vacancies", np.random.default_rng(0).uniform(0, 60e-9, (20_000, 2)), COLD).mean()
    assert total == pytest.approx(len(gone) * np.pi * 0.25e-18 / 3600e-18, rel=0.05)
    grid = np.random.default_rng(1).uniform(0, 60e-9, (2000, 2))
    assert abs(specimen.truth("dilation", gone, COLD)).mean() > 2 * abs(specimen.truth("dilation", grid, COLD)).mean()


@pytest.mark.parametrize(("name", "dopant", "number", "partners"), [
    ("MoS2", "V", 23, (42, 74)), ("MoS2", "Se", 34, (16,)), ("graphene", "B", 5, (6,)), ("graphene", "N", 7, (6,))])
def test_dopants_replace_what_they_resemble(name, dopant, number, partners):
    specimen = sheet(name, SpecimenOptions(dopant=dopant, dopant_fraction=0.1))
    found = specimen.atoms(np.zeros(2), EXTENT, COLD)
    doped = found.atomic_numbers == number
    total = doped.sum() + np.isin(found.atomic_numbers, partners).sum()
    assert doped.sum() / total == pytest.approx(0.1, abs=4 * 0.3 / np.sqrt(total))
    pure = sheet(name).atoms(np.zeros(2), EXTENT, COLD)
    assert np.array_equal(found.identity, pure.identity) and np.array_equal(found.positions, pure.positions)
    assert np.isin(pure.atomic_numbers[doped], partners).all()
    places = found.positions[doped, 1:]
    expected = cKDTree(places).query_ball_point(GRID, 0.5e-9, return_length=True)
    inner = ((GRID > 0.5e-9) & (GRID < EXTENT - 0.5e-9)).all(axis=1)
    assert np.array_equal(specimen.truth("dopants", GRID, COLD)[inner], expected[inner])
    both = specimen.truth("dopants", GRID, COLD) + specimen.truth("vacancies", GRID, COLD)
    assert np.array_equal(specimen.truth("defects", GRID, COLD), both)


@pytest.mark.parametrize(("name", "lattice"), [("MoS2", 3.16e-10), ("graphene", 2.46e-10)])
def test_grains_have_the_orientation_that_truth_says(name, lattice):
    options = SpecimenOptions(strain=0, vacancy_density=0, domain_size=0, grain_size=8e-9)
    specimen = sheet(name, options)
    found = specimen.atoms(np.zeros(2), EXTENT, COLD)
    # one sublattice: metal, or every second carbon, by the basis atom in the identity
    chosen = found.positions[(found.identity & np.uint64(15)) == 0, 1:]
    inner = chosen[((chosen > 1e-9) & (chosen < EXTENT - 1e-9)).all(axis=1)]
    inner = inner[specimen.truth("grain_boundary", inner, COLD) > 0.7e-9]
    assert len(inner) > 500
    distance, neighbours = cKDTree(chosen).query(inner, 7)
    assert distance[:, 1:] == pytest.approx(lattice, rel=1e-6)
    bonds = chosen[neighbours[:, 1:]] - inner[:, None]
    measured = np.arctan2(bonds[..., 0], bonds[..., 1])
    truth = specimen.truth("orientation", inner, COLD)[:, None]
    assert np.exp(6j * measured) == pytest.approx(np.exp(6j * truth) * np.ones((1, 6)), abs=1e-6)
    angles = np.unique(truth)
    assert 4 < len(angles) < 15 and np.ptp(angles) > 0.4


def test_boundaries_are_those_of_voronoi_cells_and_no_atoms_touch_there():
    specimen = sheet("graphene", SpecimenOptions(strain=0, vacancy_density=0, domain_size=0, grain_size=6e-9))
    found = specimen.atoms(np.zeros(2), EXTENT, COLD).positions
    distance, _ = cKDTree(found).query(found, 2)
    assert distance[:, 1].min() >= 1.2e-10
    at_boundary = specimen.truth("grain_boundary", found[:, 1:], COLD) < 0.1e-9
    assert 1.2e-10 <= distance[at_boundary, 1].min() < 1.38e-10
    # atoms lost at boundaries: fewer than one per 2 A of it, and never a gap wider than a few bonds
    spots = np.random.default_rng(0).uniform(1e-9, EXTENT - 1e-9, (20_000, 2))
    assert cKDTree(found[:, 1:]).query(spots)[0].max() < 2.6e-10
    fine = np.random.default_rng(1).uniform(0, EXTENT, (4000, 2))
    apart, turn = specimen.truth("grain_boundary", fine, COLD), specimen.truth("orientation", fine, COLD)
    tree = cKDTree(fine)
    for index in range(0, 4000, 40):
        same = tree.query_ball_point(fine[index], 0.999 * apart[index])
        assert (turn[same] == turn[index]).all()
        angle = np.linspace(0, 2 * np.pi, 200)
        around = fine[index] + 1.02 * apart[index] * np.column_stack([np.sin(angle), np.cos(angle)])
        assert (specimen.truth("orientation", around, COLD) != turn[index]).any()


def test_every_height_is_in_the_slab(molybdenite, atoms):
    assert molybdenite.thickness < 1e-9 and not molybdenite.crystalline
    assert 0 <= atoms.positions[:, 0].min() < atoms.positions[:, 0].max() <= molybdenite.thickness
    assert np.unique(atoms.positions[:, 0][atoms.atomic_numbers == 16]) == pytest.approx(
        molybdenite.thickness / 2 + np.array([-1.585e-10, 1.585e-10]))
    bond, _ = cKDTree(atoms.positions).query(atoms.positions[atoms.atomic_numbers == 42], 2)
    assert np.median(bond[:, 1]) == pytest.approx(2.42e-10, rel=0.01)


def test_the_second_layer_of_graphene_lies_in_bernal_stacking():
    graphene = sheet("graphene", SpecimenOptions(strain=0.0, vacancy_density=0.0))
    found = graphene.atoms(np.zeros(2), EXTENT, COLD).positions
    lower, upper = found[found[:, 0] < 3e-10], found[found[:, 0] > 3e-10]
    assert upper[:, 0].mean() - lower[:, 0].mean() == pytest.approx(3.35e-10, abs=0.01e-10)
    inner = upper[((upper[:, 1:] > 1e-9) & (upper[:, 1:] < EXTENT - 1e-9)).all(axis=1)]
    distance, _ = cKDTree(lower[:, 1:]).query(inner[:, 1:])
    on_top = distance < 1e-13
    assert on_top.mean() == pytest.approx(0.5, abs=0.03)
    assert distance[~on_top] == pytest.approx(1.42e-10, rel=0.01)
    domain = graphene.truth("domain", upper[:, 1:], COLD)
    assert (domain > 0.5).mean() > 0.85
    assert graphene.truth("thickness", GRID, COLD) == pytest.approx(3.354e-10 * (1 + graphene.truth("domain", GRID, COLD)))
    assert graphene.layers(GRID, COLD)["graphene"] == pytest.approx(graphene.truth("thickness", GRID, COLD))


def transformed_sheet():
    specimen = sheet("MoS2", SpecimenOptions(strain=0, vacancy_density=0, domain_size=0, transition=True))
    found = specimen.atoms(-np.ones(2) * 40e-9, np.ones(2) * 60e-9, HOT)
    return specimen, found


def test_a_transformed_sheet_is_octahedral_with_paired_metal():
    """1T': six sulphur atoms around each metal in a trigonal antiprism, metal in zigzag chains 2.77 A apart."""
    specimen, found = transformed_sheet()
    metal, sulphur = found.positions[found.atomic_numbers == 42], found.positions[found.atomic_numbers == 16]
    distance, _ = specimen._transition.front(metal[:, 1:], HOT)
    assert 0.2 < (distance < 0).mean() < 0.8
    fraction = specimen.truth("transformed", metal[:, 1:], HOT)
    # a metal atom is displaced by 0.2 A, so the truth at its place may differ at the front alone
    assert np.array_equal(fraction[abs(distance) > 0.3e-10], (distance < 0)[abs(distance) > 0.3e-10])
    inside = metal[(distance < -1.2e-9) & ((metal[:, 1:] > -38e-9) & (metal[:, 1:] < 58e-9)).all(axis=1)]
    _, nearest = cKDTree(sulphur).query(inside, 6)
    bonds = sulphur[nearest] - inside[:, None]
    assert (np.sort(bonds[..., 0], axis=1) * np.array([-1, -1, -1, 1, 1, 1]) > 0).all()
    angles = np.arctan2(bonds[..., 1], bonds[..., 2])
    lower, upper = (np.exp(3j * angles[bonds[..., 0] * side > 0].reshape(-1, 3)).mean(axis=1) for side in (-1, 1))
    assert (lower * upper.conj()).real.max() < 0
    chain, _ = cKDTree(metal).query(inside, 3)
    # two grains of the new phase meet somewhere: there pairs are broken
    assert np.isclose(chain[:, 1:], 2.77e-10, rtol=0.01).mean() > 0.8
    outside = metal[(distance > 0.5e-9) & ((metal[:, 1:] > -38e-9) & (metal[:, 1:] < 58e-9)).all(axis=1)]
    assert cKDTree(metal).query(outside, 2)[0][:, 1] == pytest.approx(3.16e-10, rel=1e-6)


def test_a_transition_keeps_every_atom_and_reverses():
    specimen = sheet("MoS2", SpecimenOptions(transition=True))
    low, high = np.zeros(2), EXTENT
    cold, hot = (specimen.atoms(low, high, c) for c in (COLD, HOT))
    both = np.intersect1d(cold.identity, hot.identity)
    assert len(both) > 0.97 * len(cold.identity)
    cooled = Condition(1e4, np.array([[0, KINETICS.critical_temperature + 60, 0], [28, 293.15, 0]]))
    again = specimen.atoms(low, high, cooled)
    assert np.array_equal(again.positions, cold.positions)
    assert specimen.truth("transformed", GRID, COLD).max() == 0 == specimen.truth("transformed", GRID, cooled).max()


def test_atoms_move_more_when_hot():
    """Against the classical limit of the Debye model, <u^2> = 3 hbar^2 T / (M k D^2)."""
    specimen = sheet()
    cold, hot = (np.unique(specimen.atoms(np.zeros(2), np.ones(2) * 2e-9, c).displacement_rms) for c in (COLD, HOT))
    assert (1.5 < hot / cold).all() and (hot / cold < np.sqrt(933 / 293)).all()
    assert 3e-12 < cold.min() < cold.max() < 8e-12
    classical = np.sqrt(3 * 1.054571817e-34 ** 2 * 5000 / (32 * 1.66053907e-27 * 1.380649e-23 * 600 ** 2))
    assert crystal_displacement(32, 600, 5000) == pytest.approx(classical, rel=1e-3)
    zero_point = np.sqrt(3 * 1.054571817e-34 ** 2 / (4 * 32 * 1.66053907e-27 * 1.380649e-23 * 600))
    assert crystal_displacement(32, 600, 1) == pytest.approx(zero_point, rel=1e-3)
    assert 5e-12 < sheet("graphene").atoms(np.zeros(2), np.ones(2) * 1e-9, COLD).displacement_rms[0] < 8e-12


def test_a_tilted_sheet_keeps_its_middle_plane():
    specimen, tilted = sheet(), Condition(alpha=0.1, beta=-0.05)
    flat, turned = (specimen.atoms(np.zeros(2), EXTENT, c) for c in (COLD, tilted))
    _, i, j = np.intersect1d(flat.identity, turned.identity, return_indices=True)
    moved = (turned.positions[j] - flat.positions[i])[:, 1:]
    height = flat.positions[i, 0] - specimen.thickness / 2
    assert moved == pytest.approx(height[:, None] * np.tan([-0.1, -0.05]), abs=1e-18)


def test_the_seed_is_all_there_is_to_it():
    first, again, other = (sheet(seed=seed).atoms(np.zeros(2), EXTENT, COLD) for seed in (1, 1, 2))
    assert np.array_equal(first.positions, again.positions) and np.array_equal(first.atomic_numbers, again.atomic_numbers)
    assert first.positions.shape != other.positions.shape or not np.array_equal(first.positions, other.positions)


@pytest.mark.parametrize(("name", "options", "message"), [
    ("graphene", {"dopant": "V"}, "dopant 'V' is not known in graphene"),
    ("MoS2", {"dopant_fraction": 0.1}, "name an element"),
    ("MoS2", {"strain": 0.3}, "strain 0.3"), ("MoS2", {"vacancy_density": 1e20}, "vacancy density 100 /nm"),
    ("graphene", {"transition": True}, "graphene has no transition"), ("MoS2", {"grain_size": 1e-9}, "grain size 1 nm"),
    ("MoS2", {"dopant": "V", "dopant_fraction": 1.5}, "dopant fraction 1.5")])
def test_options_that_do_not_fit_are_refused(name, options, message):
    with pytest.raises(ValueError, match=message):
        make_specimen(name, (1e-8, 1e-8), 0, SpecimenOptions(**options))


def test_an_unknown_truth_or_sheet_is_named(molybdenite):
    with pytest.raises(ValueError, match="strain_zz"):
        molybdenite.truth("strain_zz", np.zeros((1, 2)), COLD)
    with pytest.raises(ValueError, match="MoSe2"):
        crystal("MoSe2")
    assert molybdenite.edge_distance(GRID) is None
    assert set(molybdenite.layers(GRID, COLD)) == {"MoS2"}


def test_a_field_of_a_single_point_has_a_specimen():
    single = sheet(extent=np.zeros(2))
    assert len(single.atoms(-np.ones(2) * 2e-9, np.ones(2) * 2e-9, COLD).identity) > 400


@pytest.mark.parametrize("options", [SpecimenOptions(), EVERYTHING["MoS2"]], ids=["default", "everything"])
def test_atoms_are_made_quickly(options):
    """Nothing is far slower than it need be: a hundred thousand atoms take a tenth of a second, ten nanometres milliseconds."""
    specimen = sheet(options=options, extent=np.array([56e-9, 56e-9]))
    specimen.atoms(np.zeros(2), np.ones(2) * 1e-9, HOT)

    def cpu_time(size):
        took = []
        for _ in range(3):
            start = time.process_time()
            count = len(specimen.atoms(np.zeros(2), np.ones(2) * size, HOT).identity)
            took.append(time.process_time() - start)
        return count, min(took)

    count, whole = cpu_time(56e-9)
    assert count > 100_000 and whole < 3.0
    assert cpu_time(10e-9)[1] < 0.3


@pytest.mark.parametrize(("extent", "strain"), [((20e-9, 20e-9), -0.02), ((4e-9, 60e-9), 0.03)])
def test_other_fields_and_signs_of_strain_lose_no_atom(extent, strain):
    options = SpecimenOptions(strain=strain, vacancy_density=0.0)
    specimen, flat = (sheet(options=o, extent=np.array(extent)) for o in (options, PERFECT))
    low, high = np.array(extent) / 2 - 3e-9, np.array(extent) / 2 + 3e-9
    strained, perfect = specimen.atoms(low, high, COLD), flat.atoms(low - 1e-9, high + 1e-9, COLD)
    moved = perfect.positions[:, 1:] + specimen._field.displacement(perfect.positions[:, 1:])
    inside = ((moved >= low) & (moved < high)).all(axis=1)
    assert np.array_equal(strained.identity, perfect.identity[inside])
    points = np.random.default_rng(0).uniform(0, extent, (500, 2))
    assert abs(specimen.truth("strain_xx", points, COLD)).max() > 0.2 * abs(strain)


def test_an_irradiated_spot_holds_vacancies_and_dopants():
    extent, radius = (40e-9, 40e-9), 4e-9
    spotted = make_specimen("graphene", extent, 3, SpecimenOptions(
        strain=0.0, domain_size=0.0, vacancy_density=0.3e18, dopant="N", dopant_fraction=0.02, irradiated_radius=radius))
    perfect = make_specimen("graphene", extent, 3, SpecimenOptions(strain=0.0, domain_size=0.0, vacancy_density=0.0))
    low, high = np.zeros(2), np.array(extent)
    left, whole = spotted.atoms(low, high, Condition()), perfect.atoms(low, high, Condition())
    missing = ~np.isin(whole.identity, left.identity)
    assert missing.sum() == pytest.approx(0.3 * 1600, abs=4 * np.sqrt(480)), "the mean over the field is what was asked for"
    doped = left.positions[left.atomic_numbers == 7, 1:]
    assert len(doped) == pytest.approx(0.02 * len(whole.identity), rel=0.2)
    for places in (whole.positions[missing, 1:], doped):
        middle = np.median(places, axis=0)
        spread = np.median(np.hypot(*(places - middle).T))
        # the radius that holds half of a Gaussian spot is sqrt(2 ln 2) times its standard deviation
        assert radius * np.sqrt(2 * np.log(2)) * 0.9 < spread < radius * np.sqrt(2 * np.log(2)) * 1.5
    assert np.linalg.norm(np.median(doped, axis=0) - np.median(whole.positions[missing, 1:], axis=0)) < radius


def test_a_wider_rim_strains_more_of_the_sheet():
    positions = np.stack(np.meshgrid(*[np.linspace(0, 17e-9, 32)] * 2, indexing="ij"), axis=-1).reshape(-1, 2)
    shares = []
    for width in (0.0, 2.5e-9):
        sheet = make_specimen("graphene", (17e-9, 17e-9), 0, SpecimenOptions(strain=0.03, rim_width=width, domain_size=0.0))
        largest = max(np.abs(sheet.truth(name, positions, Condition())).max() for name in ("strain_yy", "strain_xx"))
        assert largest == pytest.approx(0.03, rel=0.03), "the largest strain stays what was asked for"
        shares.append((np.abs(sheet.truth("dilation", positions, Condition())) > 0.01).mean())
    assert shares[1] > 1.5 * shares[0]
