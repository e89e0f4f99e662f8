"""Structure files: what ASE makes of them, tiled, against ASE's own supercells, and what is refused."""

import ase.io
import numpy as np
import pytest
from ase.build import bulk, fcc111, graphene, molecule, mx2
from ase.cluster import Octahedron
from ase.data import atomic_masses
from ase.spacegroup import crystal
from scipy.spatial import cKDTree

from edgetem_nodes.physics.specimens import Condition
from edgetem_nodes.physics.specimens.catalogue import SpecimenOptions, make_specimen
from edgetem_nodes.physics.specimens.structure_file import FORMATS, StructureFile

EXTENT = (4e-9, 5e-9)
COLD = Condition()
AMU = 1.66053906892e-27
LOW, HIGH = np.zeros(2), np.array([3.1e-9, 2.7e-9])


def strontium_titanate():
    return crystal(["Sr", "Ti", "O"], [(0, 0, 0), (0.5, 0.5, 0.5), (0.5, 0.5, 0)], spacegroup=221,
                   cellpar=[3.905, 3.905, 3.905, 90, 90, 90])


def specimen_of(tmp_path, atoms, name="structure.cif", thickness=20e-9, tilt=(0.0, 0.0)):
    ase.io.write(tmp_path / name, atoms)
    return make_specimen("file", EXTENT, 0, SpecimenOptions(file=str(tmp_path / name), thickness=thickness, tilt=tilt))


def same_places(found, expected, tolerance=1e-13):
    """Every place found is one expected and the other way round."""
    return (cKDTree(found).query(expected)[0].max() < tolerance) and (cKDTree(expected).query(found)[0].max() < tolerance)


@pytest.mark.parametrize("name", ["structure.cif", "POSCAR", "structure.xyz", "structure.pdb", "structure.xsf"])
def test_a_crystal_is_repeated_along_the_beam_and_tiled_across_it(tmp_path, name):
    specimen = specimen_of(tmp_path, strontium_titanate(), name, 2e-9)
    found = specimen.atoms(LOW, HIGH, COLD)
    supercell = strontium_titanate().repeat((20, 20, 5))
    positions = supercell.positions[:, ::-1] * 1e-10
    inside = ((positions[:, 1:] >= LOW - 1e-14) & (positions[:, 1:] < HIGH - 1e-14)).all(axis=1)
    assert specimen.thickness == pytest.approx(5 * 3.905e-10)
    assert specimen.crystalline
    assert len(found.identity) == inside.sum()
    tolerance = 1e-13 if name != "structure.pdb" else 1e-12
    assert same_places(found.positions, positions[inside], tolerance)
    assert sorted(found.atomic_numbers) == sorted(supercell.numbers[inside])


def test_an_oblique_cell_leans_as_it_should(tmp_path):
    """Primitive fcc: no right angle in the cell, the third vector leads aside."""
    gold = fcc111("Au", (1, 1, 3), a=4.08)
    gold.cell[2] = gold.cell[0] / 3 + gold.cell[1] / 3 + [0, 0, 3 * 4.08 / np.sqrt(3)]
    gold.pbc = True
    gold.info.clear()
    specimen = specimen_of(tmp_path, gold, "structure.xyz", 5e-9)
    found = specimen.atoms(LOW, HIGH, COLD)
    volume = (HIGH - LOW).prod() * specimen.thickness
    assert len(found.identity) == pytest.approx(volume * 4 / 4.08e-10 ** 3, rel=0.03)
    supercell = gold.repeat((24, 24, 7))
    shifted = supercell.positions - 8 * gold.cell[0] - 8 * gold.cell[1]
    positions = np.concatenate([shifted, shifted - 6 * gold.cell[0], shifted - 6 * gold.cell[1]])[:, ::-1] * 1e-10
    inside = ((positions[:, 1:] >= LOW) & (positions[:, 1:] < HIGH)).all(axis=1)
    middle = found.positions[abs(found.positions[:, 0] - 2.4e-9) < 1.5e-9]
    depth = positions[:, 0] - positions[:, 0].min() + found.positions[:, 0].min()
    assert cKDTree(np.column_stack([depth, positions[:, 1:]])[inside]).query(middle)[0].max() < 1e-13


def test_an_atom_is_the_same_however_the_plane_is_cut(tmp_path):
    specimen = specimen_of(tmp_path, strontium_titanate(), thickness=3e-9, tilt=(0.02, -0.03))
    condition = Condition(alpha=0.01)
    whole = specimen.atoms(np.array([-2e-9, -2e-9]), np.array([2e-9, 2e-9]), condition)
    assert (np.diff(whole.identity.astype(object)) > 0).all()
    for low, high in (([-2e-9, -2e-9], [0.3e-9, 1e-10]), ([0.3e-9, 1e-10], [2e-9, 2e-9]), ([0, 0], [3e-10, 3e-10])):
        part = specimen.atoms(np.array(low), np.array(high), condition)
        inside = ((whole.positions[:, 1:] >= low) & (whole.positions[:, 1:] < high)).all(axis=1)
        assert np.array_equal(part.identity, whole.identity[inside])
        assert np.array_equal(part.positions, whole.positions[inside])


def test_a_tilt_shears_the_crystal(tmp_path):
    straight, tilted = (specimen_of(tmp_path, strontium_titanate(), thickness=10e-9, tilt=t) for t in ((0, 0), (0.01, 0.02)))
    flat, turned = (s.atoms(-np.ones(2) * 3e-9, np.ones(2) * 3e-9, COLD) for s in (straight, tilted))
    _, i, j = np.intersect1d(flat.identity, turned.identity, return_indices=True)
    moved = turned.positions[j] - flat.positions[i]
    height = flat.positions[i, 0] - straight.thickness / 2
    assert moved[:, 1:] == pytest.approx(height[:, None] * np.array([-0.01, 0.02]), abs=2e-12)


def test_a_sheet_with_vacuum_is_not_stacked(tmp_path):
    sheet = mx2("MoS2", a=3.16, thickness=3.17, vacuum=6.0)
    sheet.pbc = True
    # straddling the border of the cell along the beam
    sheet.positions[:, 2] -= sheet.positions[0, 2]
    sheet.wrap()
    specimen = specimen_of(tmp_path, sheet)
    assert specimen.thickness == pytest.approx(5.17e-10) and not specimen.crystalline
    found = specimen.atoms(LOW, HIGH, COLD)
    assert np.unique(np.round(found.positions[:, 0], 14)) == pytest.approx([1e-10, 2.585e-10, 4.17e-10])
    assert len(found.identity) == pytest.approx((HIGH - LOW).prod() / (3.16e-10 ** 2 * np.sqrt(3) / 6), rel=0.05)
    assert specimen.truth("thickness", np.zeros((1, 2)), COLD) == pytest.approx(5.17e-10)
    assert specimen.layers(np.zeros((1, 2)), COLD)["MoS2"] == pytest.approx(5.17e-10)


def test_one_piece_is_centred_in_the_field(tmp_path):
    benzene = molecule("C6H6")
    specimen = specimen_of(tmp_path, benzene, "benzene.xyz")
    found = specimen.atoms(np.zeros(2), np.array(EXTENT), COLD)
    assert len(found.identity) == 12
    lateral = found.positions[:, 1:]
    assert (lateral.min(axis=0) + lateral.max(axis=0)) / 2 == pytest.approx(np.array(EXTENT) / 2)
    assert len(specimen.atoms(np.array(EXTENT), np.array(EXTENT) * 3, COLD).identity) == 0
    assert 0 < found.positions[:, 0].min() <= found.positions[:, 0].max() < specimen.thickness
    assert specimen.truth("projected_mass", np.array([[0.1e-9, 0.1e-9]]), COLD) == pytest.approx(0, abs=1e-12)
    with pytest.raises(ValueError, match="energy-loss data for a structure of C, H"):
        specimen.layers(np.zeros((1, 2)), COLD)


def test_thickness_and_mass_of_a_particle(tmp_path):
    """Thickness at points inside the outline from the atoms; the mass map sums up to the particle's mass."""
    gold = Octahedron("Au", 11, cutoff=3)
    specimen = specimen_of(tmp_path, gold, "gold.xyz")
    axes = [np.linspace(0, length, 161) for length in (4e-9, 5e-9)]
    grid = np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1).reshape(-1, 2)
    mass = specimen.truth("projected_mass", grid, COLD).sum() * axes[0][1] * axes[1][1]
    assert mass == pytest.approx(len(gold) * atomic_masses[79] * AMU, rel=0.01)
    height = np.ptp(gold.positions[:, 2]) * 1e-10 + 2e-10
    assert specimen.truth("thickness", np.array([EXTENT]) / 2, COLD) == pytest.approx(height, abs=0.3e-9)
    places = specimen.atoms(np.zeros(2), np.array(EXTENT), COLD).positions
    thickness = specimen.truth("thickness", grid, COLD)
    # the column is a square of three cells, 0.6 nm, around the cell of 0.2 nm in which the point lies
    for point, value in zip(grid[::97], thickness[::97], strict=True):
        apart = abs(places[:, 1:] - point).max(axis=1)
        narrow, wide = places[apart < 0.2e-9, 0], places[apart < 0.45e-9, 0]
        least, most = (np.ptp(z) + 2e-10 if len(z) else 0.0 for z in (narrow, wide))
        assert least - 1e-15 <= value <= most + 1e-15
    assert thickness[np.linalg.norm(grid - np.array(EXTENT) / 2, axis=1) > 2.2e-9].max() == 0
    assert specimen.layers(grid[:1], COLD)["Au"] == thickness[0]


def test_mass_of_a_crystal_is_its_density_times_thickness(tmp_path):
    specimen = specimen_of(tmp_path, strontium_titanate(), thickness=10e-9)
    mass = specimen.truth("projected_mass", np.random.default_rng(0).uniform(0, 4e-9, (200, 2)), COLD)
    assert mass == pytest.approx(5117 * specimen.thickness, rel=0.005)
    assert specimen.truth("thickness", np.zeros((2, 2)), COLD) == pytest.approx(specimen.thickness)


def test_mass_follows_what_is_under_the_probe(tmp_path):
    """Half of a cell is empty: against a plain Gaussian sum over the atoms."""
    sheet = graphene("C2", a=2.46, size=(12, 12, 1), vacuum=5.0)
    sheet.pbc = True
    del sheet[[atom.index for atom in sheet if atom.position[1] > 13.0]]
    specimen = specimen_of(tmp_path, sheet, "half.xyz")
    points = np.random.default_rng(0).uniform(1e-9, 4e-9, (100, 2))
    around = specimen.atoms(-np.ones(2) * 3e-9, np.ones(2) * 8e-9, COLD)
    square = ((points[:, None] - around.positions[None, :, 1:]) ** 2).sum(axis=-1)
    expected = (atomic_masses[6] * AMU * np.exp(-square / (2 * 0.25e-9 ** 2)) / (2 * np.pi * 0.25e-9 ** 2)).sum(axis=1)
    assert specimen.truth("projected_mass", points, COLD) == pytest.approx(expected, rel=0.01, abs=0.01 * expected.max())


def test_displacements_come_from_the_file_or_are_typical_and_grow_with_heat(tmp_path):
    specimen = specimen_of(tmp_path, strontium_titanate(), thickness=1e-9)
    hot = Condition(1.0, np.array([[0.0, 4 * 293.15, 0.0]]))
    cold, warm = (specimen.atoms(LOW, HIGH, c).displacement_rms for c in (COLD, hot))
    assert cold == pytest.approx(np.sqrt(0.5 / (8 * np.pi ** 2)) * 1e-10)
    assert warm == pytest.approx(2 * cold)
    benzene = molecule("C6H6")
    benzene.set_array("bfactor", np.full(12, 1.25))
    measured = specimen_of(tmp_path, benzene, "benzene.pdb").atoms(np.zeros(2), np.array(EXTENT), COLD).displacement_rms
    assert measured == pytest.approx(np.sqrt(1.25 / (8 * np.pi ** 2)) * 1e-10)


def test_a_site_is_shared_by_the_occupants_that_the_file_gives(tmp_path):
    """Barium strontium titanate with oxygen vacancies: counts within four standard deviations, and the mean mass."""
    mixed = strontium_titanate()
    mixed.info["occupancy"] = {"0": {"Sr": 0.3, "Ba": 0.7}, "1": {"Ti": 1.0}, "2": {"O": 0.9}}
    specimen = specimen_of(tmp_path, mixed, thickness=4e-9)
    found = specimen.atoms(-np.ones(2) * 1e-12, np.ones(2) * (16 * 3.905e-10 - 1e-12), COLD)
    counts = {z: (found.atomic_numbers == z).sum() for z in (38, 56, 22, 8)}
    cells = 16 * 16 * 10
    assert counts[22] == cells
    for z, expected, variance in ((38, 0.3 * cells, 0.21), (56, 0.7 * cells, 0.21), (8, 2.7 * cells, 0.27)):
        assert counts[z] == pytest.approx(expected, abs=4 * np.sqrt(variance * cells)), z
    part = specimen.atoms(np.array([1e-9, 2e-9]), np.array([3e-9, 4e-9]), COLD)
    inside = ((found.positions[:, 1:] >= [1e-9, 2e-9]) & (found.positions[:, 1:] < [3e-9, 4e-9])).all(axis=1)
    assert np.array_equal(part.atomic_numbers, found.atomic_numbers[inside])
    mass = (0.3 * 87.62 + 0.7 * 137.33 + 47.87 + 2.7 * 16.0) * AMU * 10 / 3.905e-10 ** 2
    assert specimen.truth("projected_mass", np.zeros((1, 2)), COLD) == pytest.approx(mass, rel=0.005)


def test_formats_that_could_run_something_are_not_read(tmp_path):
    atoms = bulk("Au", cubic=True)
    for name in ("atoms.traj", "atoms.json", "atoms.db"):
        ase.io.write(tmp_path / name, atoms)
        with pytest.raises(ValueError, match="convert it to one of"):
            StructureFile("file", EXTENT, 0, SpecimenOptions(file=str(tmp_path / name)))
    (tmp_path / "atoms.py").write_text("raise SystemExit")
    (tmp_path / "atoms.pickle").write_bytes(b"\x80\x04K\x01.")
    for name in ("atoms.py", "atoms.pickle"):
        with pytest.raises(ValueError, match="structure file .*atoms.p"):
            StructureFile("file", EXTENT, 0, SpecimenOptions(file=str(tmp_path / name)))
    for address in ("postgresql://somewhere/atoms", "", str(tmp_path), "atoms.cif"):
        with pytest.raises(ValueError, match="is not a file"):
            StructureFile("file", EXTENT, 0, SpecimenOptions(file=address))


def test_a_trajectory_in_disguise_is_not_unpickled(tmp_path):
    ase.io.write(tmp_path / "atoms.traj", bulk("Au", cubic=True))
    (tmp_path / "atoms.traj").rename(tmp_path / "atoms.cif")
    with pytest.raises(ValueError, match="format traj"):
        StructureFile("file", EXTENT, 0, SpecimenOptions(file=str(tmp_path / "atoms.cif")))


def test_every_format_is_one_of_ases():
    from ase.io.formats import ioformats
    for name in FORMATS:
        assert ioformats[name].can_read, name


def leaning(vectors):
    atoms = bulk("Au", cubic=True)
    atoms.set_cell(vectors)
    return atoms


@pytest.mark.parametrize(("atoms", "message"), [
    (leaning([[4, 0, 1], [0, 4, 0], [0, 0, 4]]), "first two lattice vectors not across the beam"),
    (leaning([[4, 0, 0], [0, 4, 0], [4, 1, 0.001]]), "third lattice vector across the beam"),
    (leaning([[4, 0, 0], [8, 0.001, 0], [0, 0, 4]]), "along the same line"),
    (leaning([[4, 0, 0], [0, 4, 0], [0, 0, 4000]]).repeat((1, 1, 2)), "nm thick along the beam")])
def test_cells_that_cannot_be_put_under_the_beam_are_refused(tmp_path, atoms, message):
    with pytest.raises(ValueError, match=message):
        specimen_of(tmp_path, atoms, "structure.xyz")


def test_other_things_that_cannot_be_simulated_are_refused(tmp_path):
    wire = bulk("Au", cubic=True)
    wire.pbc = (True, False, False)
    with pytest.raises(ValueError, match="along one direction across the beam only"):
        specimen_of(tmp_path, wire, "wire.xyz")
    with pytest.raises(ValueError, match="has no atoms"):
        specimen_of(tmp_path, bulk("Au", cubic=True)[:0], "nothing.xyz")
    with pytest.raises(ValueError, match="nm thick along the beam"):
        specimen_of(tmp_path, bulk("Au", cubic=True), thickness=300e-9)
    (tmp_path / "broken.cif").write_text("data_x\n_cell_length_a 4\nloop_\n_atom_site_label\n")
    with pytest.raises(ValueError, match="broken.cif cannot be read as cif"):
        StructureFile("file", EXTENT, 0, SpecimenOptions(file=str(tmp_path / "broken.cif")))
    specimen = specimen_of(tmp_path, strontium_titanate())
    with pytest.raises(ValueError, match="no truth 'strain'"):
        specimen.truth("strain", np.zeros((1, 2)), COLD)
