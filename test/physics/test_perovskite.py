"""Perovskite foils: literature values, cuts that agree, and the truth against the atoms' own positions."""

import numpy as np
import pytest
from ase.data import atomic_masses
from scipy.spatial import cKDTree

from edgetem_nodes.physics.electrons import ELEMENTARY_CHARGE
from edgetem_nodes.physics.specimens import Condition
from edgetem_nodes.physics.specimens.catalogue import SpecimenOptions, make_specimen
from edgetem_nodes.physics.specimens.perovskite import CRYSTALS
from edgetem_nodes.physics.specimens.perovskite_domains import Walls

EXTENT = (40e-9, 44e-9)
LOW, HIGH = np.array([14e-9, 15e-9]), np.array([22e-9, 23e-9])
NOW = Condition()
HOT = Condition(elapsed=30.0, holder=np.array([[0.0, 800.0, 0.0]]))


def foil(name, seed=3, **options):
    return make_specimen(name, EXTENT, seed, SpecimenOptions(**options))


def grid(number=50):
    return np.stack(np.meshgrid(*[np.linspace(0, side, number) for side in EXTENT], indexing="ij"), axis=-1).reshape(-1, 2)


def mass_density(atoms, volume):
    return atomic_masses[atoms.atomic_numbers].sum() * 1.66054e-27 / volume


@pytest.mark.parametrize(("name", "density"), [("SrTiO3", 5117), ("PbTiO3", 7960)])
def test_density_is_that_of_the_literature(name, density):
    """Within what the surfaces and borders of a box cut off at random."""
    atoms = foil(name, strain=0.0).atoms(LOW, HIGH, NOW)
    assert mass_density(atoms, np.prod(HIGH - LOW) * 20e-9) == pytest.approx(density, rel=0.025)


def test_bonds_of_strontium_titanate():
    atoms = foil("SrTiO3", strain=0.0, domain_size=0.0).atoms(LOW, HIGH, NOW)
    inner = ((atoms.positions > [1e-9, *(LOW + 1e-9)]) & (atoms.positions < [19e-9, *(HIGH - 1e-9)])).all(axis=1)
    oxygen = cKDTree(atoms.positions[atoms.atomic_numbers == 8])
    for number, neighbours, length in ((22, 6, 3.905 / 2), (38, 12, 3.905 / np.sqrt(2))):
        distances, _ = oxygen.query(atoms.positions[inner & (atoms.atomic_numbers == number)], neighbours)
        assert distances == pytest.approx(length * 1e-10, rel=1e-6)
    assert sorted(set(zip(atoms.atomic_numbers, atoms.displacement_rms, strict=True))) == [
        (8, 9.63e-12), (22, 7.46e-12), (38, 8.87e-12)]


def test_bonds_of_lead_titanate():
    """Short and long Ti-O bond along the polar axis: 0.177 and 0.238 nm (Shirane et al., 1956: 1.78 and 2.38 A)."""
    atoms = foil("PbTiO3", domain_size=0.0).atoms(LOW, HIGH, NOW)
    inner = ((atoms.positions > [1e-9, *(LOW + 1e-9)]) & (atoms.positions < [19e-9, *(HIGH - 1e-9)])).all(axis=1)
    bonds, _ = cKDTree(atoms.positions[atoms.atomic_numbers == 8]).query(
        atoms.positions[inner & (atoms.atomic_numbers == 22)], 6)
    assert bonds[:, 0] == pytest.approx(1.777e-10, rel=0.01)
    assert bonds[:, 1:5] == pytest.approx(1.975e-10, rel=0.01)
    assert bonds[:, 5] == pytest.approx(2.374e-10, rel=0.01)


@pytest.mark.parametrize("name", ["SrTiO3", "PbTiO3"])
@pytest.mark.parametrize("condition", [NOW, Condition(alpha=0.05, beta=-0.3), HOT])
def test_cuts_agree(name, condition):
    specimen = foil(name, transition=True, tilt=(0.01, -0.02), thickness=8e-9)
    whole = specimen.atoms(LOW, HIGH, condition)
    middle = LOW[1] + 0.37 * (HIGH[1] - LOW[1])
    halves = [specimen.atoms(LOW, np.array([HIGH[0], middle]), condition),
              specimen.atoms(np.array([LOW[0], middle]), HIGH, condition)]
    identity = np.concatenate([half.identity for half in halves])
    order = np.argsort(identity)
    assert np.array_equal(identity[order], whole.identity)
    assert np.array_equal(np.concatenate([half.positions for half in halves])[order], whole.positions)
    assert np.array_equal(np.concatenate([half.atomic_numbers for half in halves])[order], whole.atomic_numbers)
    assert len(np.unique(identity)) == len(identity)
    assert (np.diff(whole.identity.astype(np.int64)) > 0).all()
    assert ((whole.positions >= [0, *LOW]) & (whole.positions < [specimen.thickness, *HIGH])).all()


def columns(specimen, number, condition=NOW, low=LOW, high=HIGH):
    """Mean (y, x) of every column of an element, tilts of the columns, and its mean z spacing."""
    atoms = specimen.atoms(low, high, condition)
    kind = atoms.atomic_numbers == number
    key = atoms.identity[kind] >> np.uint64(20)
    positions = atoms.positions[kind]
    means, slopes = [], []
    for name in np.unique(key):
        column = positions[key == name]
        if np.ptp(column[:, 0]) > 0.9 * specimen.thickness:
            means.append(column.mean(axis=0)[1:])
            slopes.append(np.polyfit(column[:, 0], column[:, 1:], 1)[0])
    return np.array(means), np.array(slopes)


@pytest.mark.parametrize("name", ["SrTiO3", "PbTiO3"])
def test_strain_and_rotation_are_what_the_columns_do(name):
    """The lattice of A columns, fitted to each one's four neighbours, away from walls, against the truth at that column."""
    specimen = foil(name, strain=0.01, domain_size=0.0 if name == "SrTiO3" else 12e-9, thickness=5e-9)
    low, high = np.array([5e-9, 5e-9]), np.array([25e-9, 25e-9])
    places, _ = columns(specimen, {"SrTiO3": 38, "PbTiO3": 82}[name], NOW, low, high)
    inner = np.flatnonzero(((places > low + 1e-9) & (places < high - 1e-9)).all(axis=1))
    if name == "PbTiO3":
        steps = 2e-9 * np.array([(0, 0), (1, 0), (-1, 0), (0, 1), (0, -1)])
        domains = np.stack([specimen.truth("domain", places[inner] + step, NOW) for step in steps])
        inner = inner[(domains == domains[0]).all(axis=0)]
    assert len(inner) > 300
    _, neighbours = cKDTree(places).query(places[inner], 5)
    bonds = places[neighbours[:, 1:]] - places[inner, None]
    perfect = np.where(np.abs(bonds) > 1e-10, np.sign(bonds), 0) * CRYSTALS[name].cubic
    assert np.count_nonzero(perfect) == 4 * len(inner)
    gradient = np.stack([np.linalg.lstsq(p, b, rcond=None)[0].T for p, b in zip(perfect, bonds, strict=True)]) - np.eye(2)
    for quantity, measured in (("strain_yy", gradient[:, 0, 0]), ("strain_xx", gradient[:, 1, 1]),
                               ("strain_xy", (gradient[:, 0, 1] + gradient[:, 1, 0]) / 2),
                               ("rotation", (gradient[:, 0, 1] - gradient[:, 1, 0]) / 2)):
        assert measured == pytest.approx(specimen.truth(quantity, places[inner], NOW), abs=4e-4), quantity


def test_largest_strain_is_the_one_asked_for_and_none_is_a_perfect_crystal():
    values = np.stack([foil("SrTiO3", strain=0.015).truth(q, grid(), NOW) for q in ("strain_xx", "strain_yy")])
    assert np.abs(values).max() == pytest.approx(0.015, rel=0.05)
    perfect = foil("SrTiO3", strain=0.0, domain_size=0.0)
    for quantity in ("strain_xx", "strain_xy", "rotation", "tilt_x", "tilt_y", "domain"):
        assert perfect.truth(quantity, grid(9), NOW) == pytest.approx(np.zeros(81), abs=1e-12), quantity


def test_tilt_is_the_slope_of_the_columns():
    """Own tilt, stage and mosaic together; a turn about x by alpha leans columns to -y, one about y by beta to +x."""
    specimen = foil("SrTiO3", strain=0.0, tilt=(0.01, 0.0))
    condition = Condition(alpha=0.02, beta=-0.015)
    places, slopes = columns(specimen, 38, condition)
    for quantity, slope in (("tilt_x", -slopes[:, 0]), ("tilt_y", slopes[:, 1])):
        truth = specimen.truth(quantity, places, condition)
        assert np.tan(truth) == pytest.approx(slope, abs=5e-4)
        assert truth.mean() == pytest.approx({"tilt_x": 0.03, "tilt_y": -0.015}[quantity], abs=6e-3)
        assert 1e-3 < np.std(specimen.truth(quantity, grid(), condition)) < 8e-3


def test_polarization_is_the_dipole_of_the_unit_cells():
    """Born charges times the offsets of each Pb-centred cell's atoms, inside a domain, against the truth."""
    specimen = foil("PbTiO3", thickness=2e-9)
    atoms = specimen.atoms(LOW - 4e-9, HIGH + 4e-9, NOW)
    lead = np.flatnonzero((atoms.atomic_numbers == 82)
                          & (np.abs(atoms.positions - [1e-9, *((LOW + HIGH) / 2)]) < [3e-10, 7e-9, 7e-9]).all(axis=1))
    places = atoms.positions[lead]
    ring = 1.2e-9 * np.array([(0, 0), (1, 0), (-1, 0), (0, 1), (0, -1)])
    polar = np.stack([[specimen.truth(f"polarization_{axis}", places[:, 1:] + offset, NOW) for axis in "yx"]
                      for offset in ring])
    uniform = np.ptp(polar, axis=0).max(axis=0) < 0.02
    assert uniform.sum() > 100
    places, polar = places[uniform], polar[0][:, uniform].T
    along_y = np.abs(polar[:, 0]) > np.abs(polar[:, 1])
    assert 10 < along_y.sum() < len(along_y) - 10
    crystal = CRYSTALS["PbTiO3"]
    _, _, parallel, across = crystal.born_charges
    dipole = np.zeros((len(places), 2))
    for number, neighbours in ((22, 8), (8, 12)):
        others = atoms.positions[atoms.atomic_numbers == number]
        _, near = cKDTree(others).query(places, neighbours)
        bonds = others[near] - places[:, None]
        if number == 22:
            dipole += crystal.born_charges[1] * bonds[..., 1:].mean(axis=1)
            continue
        # three oxygens a cell; the one whose bond to Ti lies along the axis is the one in the plane across it
        for axis in (0, 1):
            in_plane = np.abs(bonds[..., axis + 1]) < 0.9e-10
            charge = np.where(in_plane, parallel, across)
            dipole[:, axis] += (charge * bonds[..., axis + 1]).sum(axis=1) / 4
    measured = ELEMENTARY_CHARGE * dipole / (3.904e-10 ** 2 * 4.150e-10)
    assert measured == pytest.approx(polar, abs=0.06)
    assert np.linalg.norm(measured, axis=1).mean() == pytest.approx(0.99, abs=0.03)


def test_walls_of_lead_titanate_carry_no_charge_and_fit():
    """div P vanishes against |grad P| outside corners; neighbouring variants differ by the clapping angle, 3.5 degrees."""
    specimen, step = foil("PbTiO3"), 2e-11
    place = grid(70)[::3]

    def slope(quantity, axis):
        offset = step * np.eye(2)[axis]
        return (specimen.truth(quantity, place + offset, NOW) - specimen.truth(quantity, place - offset, NOW)) / (2 * step)

    divergence = slope("polarization_y", 0) + slope("polarization_x", 1)
    curl = slope("polarization_x", 0) - slope("polarization_y", 1)
    assert np.abs(divergence).mean() < 0.1 * np.abs(curl).mean()
    rotation = specimen.truth("rotation", grid(), NOW)
    assert np.degrees(np.percentile(rotation, 95) - np.percentile(rotation, 5)) == pytest.approx(3.55, abs=0.1)
    assert set(specimen.truth("domain", grid(), NOW)) == {0.0, 1.0, 2.0, 3.0}


def test_sign_of_walls_is_the_slope_of_its_integral():
    walls = Walls(5, 12e-9, 0.5e-9, "test")
    place = np.linspace(-100e-9, 100e-9, 4001)
    slope = np.gradient(walls.integral(place), place)
    assert slope[1:-1] == pytest.approx(walls.sign(place)[1:-1], abs=2e-3)
    assert np.diff(walls.positions).mean() == pytest.approx(12e-9, rel=0.01)
    assert np.diff(walls.positions).min() > 5.9e-9


def test_heat_makes_lead_titanate_cubic():
    specimen = foil("PbTiO3", transition=True, thickness=4e-9)
    late = Condition(elapsed=3e5, holder=np.array([[0.0, 850.0, 0.0]]))
    assert specimen.truth("transformed", grid(), NOW).max() == 0
    early = specimen.truth("transformed", grid(), HOT).mean()
    assert 0 < early < specimen.truth("transformed", grid(), late).mean() == pytest.approx(1.0, abs=0.01)
    for quantity in ("strain_xx", "strain_yy", "strain_xy", "rotation", "polarization_x", "polarization_y"):
        assert np.percentile(np.abs(specimen.truth(quantity, grid(), late)), 98) < 2e-3, quantity
    bonds, _ = cKDTree((cut := specimen.atoms(LOW, HIGH, late)).positions).query(cut.positions[cut.atomic_numbers == 22], 2)
    assert np.median(bonds[:, 1]) == pytest.approx(3.970e-10 / 2, rel=2e-3)


def test_bias_of_either_sign_keeps_hot_lead_titanate_polar():
    specimen = foil("PbTiO3", transition=True)
    for bias in (4.0, -4.0):
        biased = Condition(elapsed=30.0, holder=np.array([[0.0, 800.0, bias]]))
        assert specimen.truth("transformed", grid(), biased).max() == 0
    assert 0.1 < specimen.truth("transformed", grid(), HOT).mean() < 0.9


def test_the_front_is_coherent():
    """Nowhere in a half transformed foil do atoms come nearer than the shortest bond, less 15 %."""
    specimen = foil("PbTiO3", transition=True, thickness=1.5e-9)
    cut = specimen.atoms(np.zeros(2), np.array(EXTENT) / 2, HOT)
    distances, _ = cKDTree(cut.positions).query(cut.positions, 2)
    assert distances[:, 1].min() > 0.85 * 1.777e-10


def test_the_seed_is_all_there_is_to_it():
    for name in CRYSTALS:
        first, again, other = (foil(name, seed, thickness=2e-9).atoms(LOW, HIGH, NOW) for seed in (1, 1, 2))
        assert np.array_equal(first.positions, again.positions)
        assert first.positions.shape != other.positions.shape or not np.array_equal(first.positions, other.positions)


def test_layers_and_refusals():
    specimen = foil("PbTiO3", thickness=7e-9)
    assert specimen.layers(grid(3), NOW)["PbTiO3"] == pytest.approx(specimen.truth("thickness", grid(3), NOW))
    assert specimen.edge_distance(grid(3)) is None
    with pytest.raises(ValueError, match="strain_zz"):
        specimen.truth("strain_zz", grid(3), NOW)
    with pytest.raises(ValueError, match="polarization_y"):
        foil("SrTiO3").truth("polarization_y", grid(3), NOW)
    with pytest.raises(ValueError, match="-1e-09 m thick"):
        foil("SrTiO3", thickness=-1e-9)
    with pytest.raises(ValueError, match="two walls"):
        foil("PbTiO3", domain_size=1e-9)
    with pytest.raises(ValueError, match="beyond the largest"):
        specimen.atoms(LOW, HIGH, Condition(alpha=0.8))


def test_strains_stay_elastic_at_fronts_and_in_mosaic_walls():
    specimen = foil("PbTiO3", transition=True)
    assert 0.1 < specimen.truth("transformed", grid(), HOT).mean() < 0.9
    for quantity in ("strain_xx", "strain_yy", "strain_xy"):
        assert np.abs(specimen.truth(quantity, grid(), HOT)).max() < 0.09, quantity
    thick = foil("SrTiO3", thickness=50e-9).atoms(LOW, LOW + 4e-9, NOW)
    assert cKDTree(thick.positions).query(thick.positions, 2)[0][:, 1].min() > 1.75e-10


@pytest.mark.parametrize("name", ["SrTiO3", "PbTiO3", "gold", "MnPS3"])
def test_atoms_vibrate_more_when_hot(name):
    """Classical vibrations: the mean square goes with the temperature."""
    cold, hot = (foil(name, thickness=2e-9).atoms(LOW, HIGH, condition).displacement_rms for condition in (NOW, HOT))
    assert hot.max() / cold.max() == pytest.approx(np.sqrt(800 / 293.15))
