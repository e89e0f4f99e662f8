"""Materials for training against ASE's own builders, and rocking curves against what is known of them."""

from __future__ import annotations

import numpy as np
import pytest
from ase.build import bulk, graphene, mx2
from ase.neighborlist import neighbor_list
from ase.spacegroup import crystal

from edgetem_nodes.featurizer.cbed import rocking
from edgetem_nodes.featurizer.cbed.disk_drawing import edge_profiles
from edgetem_nodes.featurizer.cbed.materials import (MATERIALS, OUTLIERS, held_out_materials, material, outlier_materials,
                                                     trained_materials)
from edgetem_nodes.featurizer.cbed.rocking import RockingTable, rocking_table
from edgetem_nodes.physics.electrons import lorentz_factor, wavelength
from edgetem_nodes.physics.optics import Probe
from edgetem_nodes.physics.scattering_factors import scattering_factor

PEERS = {
    "SrTiO3 [001]": lambda: crystal(("Sr", "Ti", "O"), [(0, 0, 0), (0.5, 0.5, 0.5), (0.5, 0.5, 0)], spacegroup=221,
                                    cellpar=[3.905] * 3 + [90] * 3),
    "Si [110]": lambda: bulk("Si", "diamond", a=5.431), "GaAs [110]": lambda: bulk("GaAs", "zincblende", a=5.653),
    "Au [001]": lambda: bulk("Au", "fcc", a=4.078), "Au [110]": lambda: bulk("Au", "fcc", a=4.078),
    "Fe [001]": lambda: bulk("Fe", "bcc", a=2.866), "MgO [001]": lambda: bulk("MgO", "rocksalt", a=4.212),
    "PbS [001]": lambda: bulk("PbS", "rocksalt", a=5.936), "InP [110]": lambda: bulk("InP", "zincblende", a=5.869),
    "W [001]": lambda: bulk("W", "bcc", a=3.165), "Pt [110]": lambda: bulk("Pt", "fcc", a=3.924),
    "diamond [110]": lambda: bulk("C", "diamond", a=3.567), "NaCl [001]": lambda: bulk("NaCl", "rocksalt", a=5.640),
    "Ge [110]": lambda: bulk("Ge", "diamond", a=5.658)}


def neighbours(numbers: np.ndarray, positions: np.ndarray, cell: np.ndarray, periodic: tuple[bool, ...]) -> dict:
    """Distances [Angstrom, sorted] from atoms of one element to those of another within 5 Angstrom, per atom."""
    from ase import Atoms

    atoms = Atoms(numbers, positions=positions, cell=cell, pbc=periodic)
    first, second, distance = neighbor_list("ijd", atoms, 5.0)
    return {(a, b): np.sort(distance[(numbers[first] == a) & (numbers[second] == b)]).round(2).tolist()
            for a in set(numbers.tolist()) for b in set(numbers.tolist())}


def per_atom(found: dict, numbers: np.ndarray) -> dict:
    """Every n-th distance, so that cells of different size compare."""
    return {pair: values[::int((numbers == pair[0]).sum())] for pair, values in found.items()}


@pytest.mark.parametrize("name", PEERS)
def test_crystals_are_those_of_ase(name):
    own, peer = material(name), PEERS[name]()
    positions, numbers, _ = own.positions(1)
    cell = own.cell[:, ::-1] * 1e10
    ours = per_atom(neighbours(numbers, positions[:, ::-1] * 1e10, cell, (True,) * 3), numbers)
    theirs = per_atom(neighbours(peer.numbers, peer.positions, peer.cell.array, (True,) * 3), peer.numbers)
    assert ours == theirs
    assert len(numbers) / abs(np.linalg.det(cell)) == pytest.approx(len(peer) / peer.get_volume(), rel=1e-6)


@pytest.mark.parametrize(("name", "peer"), [("MoS2", lambda: mx2("MoS2", kind="2H", a=3.16, thickness=3.17)),
                                            ("TiS2", lambda: mx2("TiS2", kind="1T", a=3.407, thickness=2.84)),
                                            ("MoTe2", lambda: mx2("MoTe2", kind="2H", a=3.519, thickness=3.60)),
                                            ("WSe2", lambda: mx2("WSe2", kind="2H", a=3.282, thickness=3.34)),
                                            ("graphene", lambda: graphene(a=2.46))])
def test_sheets_are_those_of_ase(name, peer):
    own, peer = material(name), peer()
    positions, numbers, _ = own.positions(1)
    cell = own.cell[:, ::-1] * 1e10
    other = peer.cell.array + np.diag([0, 0, 30.0])
    flat = (True, True, False)
    assert per_atom(neighbours(numbers, positions[:, ::-1] * 1e10, cell, flat), numbers) == \
        per_atom(neighbours(peer.numbers, peer.positions, other, flat), peer.numbers)


def test_bilayers_have_the_stacking_of_the_bulk():
    """2H: every metal atom lies over a chalcogen column; Bernal: half of the atoms over atoms, half over hollows."""
    def over(name: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        positions, numbers, _ = material(name).positions(2)
        lattice = material(name).cell[:2, 1:]
        first, second = np.split(np.arange(len(numbers)), 2)
        apart = (positions[second, None, 1:] - positions[None, first, 1:]) @ np.linalg.inv(lattice)
        return np.abs(apart - np.rint(apart)).max(axis=2) < 1e-6, numbers[second], numbers[first]

    together, upper, lower = over("MoS2")
    assert together[upper == 42][:, lower == 16].all()
    assert not together[upper == 42][:, lower == 42].any()
    together, _, _ = over("graphene")
    assert together.any(axis=1).tolist().count(True) == 1
    together, upper, lower = over("h-BN")
    assert together[upper == 5][:, lower == 7].all()


@pytest.mark.parametrize("name", [*MATERIALS, *OUTLIERS])
def test_the_reference_lattice_is_that_of_the_columns(name):
    """Moved by a reference vector the projection is the same, and by half of one it is not."""
    own = material(name)
    fractions, numbers = own.basis, own.atomic_numbers
    across = own.cell[:2, 1:]

    def repeats(move: np.ndarray) -> bool:
        shifted = fractions[:, :2] + move @ np.linalg.inv(across)
        apart = shifted[:, None] - fractions[None, :, :2]
        same = (np.abs(apart - np.rint(apart)).max(axis=2) < 1e-6) & (numbers[:, None] == numbers)
        return bool(same.any(axis=1).all())

    assert own.reference_lattice[0, 0] == pytest.approx(0, abs=1e-15)
    for vector in own.reference_lattice:
        assert repeats(vector)
    for half in (*own.reference_lattice / 2, own.reference_lattice.sum(axis=0) / 2):
        assert not repeats(half)
    assert np.allclose(own.cell_in_reference @ own.reference_lattice, across, atol=1e-15)


def test_trained_and_held_out_are_apart():
    names = {one.name for one in trained_materials()}, {one.name for one in held_out_materials()}
    assert not names[0] & names[1]
    assert names[0] | names[1] == set(MATERIALS)
    # what stands for everything else is neither: the held-out materials stay unseen
    others = {one.name for one in outlier_materials()}
    assert others == set(OUTLIERS) and not others & set(MATERIALS)
    kinds = {tuple(sorted(set(one.atomic_numbers.tolist()))) for one in held_out_materials()}
    assert not kinds & {tuple(sorted(set(one.atomic_numbers.tolist()))) for one in outlier_materials()}
    with pytest.raises(ValueError, match="'steel' is not known"):
        material("steel")


@pytest.fixture(scope="module")
def graphene_table() -> RockingTable:
    return rocking_table(material("graphene"), 80e3, 6e-3, absorption=False)


def test_a_single_layer_scatters_kinematically(graphene_table):
    """I_g = |lambda gamma F_g / A|^2 of weakly scattering atoms, F_g with Debye-Waller factors."""
    own = material("graphene")
    area = 2.46e-10 ** 2 * np.sqrt(3) / 2
    factor = wavelength(80e3) * lorentz_factor(80e3) / area
    # {10} of a honeycomb has |1 + exp(2 pi i / 3)| = 1, {11} has 2
    for length, atoms in ((1 / (2.46e-10 * np.sqrt(3) / 2), 1), (2 / 2.46e-10, 2)):
        damping = np.exp(-2 * (np.pi * own.displacement_rms[0] * length) ** 2)
        expected = (factor * atoms * scattering_factor(6, np.array(length)) * damping) ** 2
        found = graphene_table.intensities((0, 0), own.spacing)
        shell = np.isclose(np.hypot(*(graphene_table.indices @ own.reciprocal_reference).T), length, rtol=1e-6)
        assert shell.sum() == 6
        assert found[shell] == pytest.approx(np.full(6, expected), rel=0.03)


def test_two_layers_rock_as_their_distance_says(graphene_table):
    """Bernal stacking at a tilt u: {11} of two equal layers is 4 cos^2(pi g u d), kinematically."""
    own = material("graphene")
    vectors = graphene_table.indices @ own.reciprocal_reference
    outer = np.isclose(np.hypot(*vectors.T), 2 / 2.46e-10, rtol=1e-6)
    tilt = np.array([3e-3, -1.5e-3])
    single, double = (graphene_table.intensities(tilt, layers * own.spacing)[outer] for layers in (1, 2))
    # the excitation error of the straight beam, g^2 lambda / 2, too
    phase = np.pi * own.spacing * (vectors[outer] @ tilt + wavelength(80e3) * (vectors[outer] ** 2).sum(axis=1) / 2)
    assert double / single == pytest.approx(4 * np.cos(phase) ** 2, rel=0.05)


def test_without_absorption_no_electron_is_lost():
    table = rocking_table(material("Al [001]"), 200e3, 2e-3, 1e-3, absorption=False)
    assert table.elastic[:, 2, 2] == pytest.approx(np.ones(len(table.thicknesses)), abs=0.02)
    assert (table.elastic <= 1.0001).all()
    absorbed = rocking_table(material("Al [001]"), 200e3, 2e-3, 1e-3)
    assert (np.diff(absorbed.elastic[:, 2, 2]) < 0).all()


def test_symmetry_fills_a_table_with_what_a_run_gives():
    """Tilts that were not run, against a run of their own."""
    own = material("Si [110]")
    table = rocking_table(own, 200e3, 4e-3, 2e-3)
    grid = rocking._Grid(own, 200e3, True)
    tilts = np.array([[1, -1], [-1, 0], [-2, 0]])
    kept = [round(thickness / own.spacing) for thickness in table.thicknesses[:3]]
    rows, columns = (table.indices @ own.cell_in_reference.T % np.array(grid.shape)).T
    length = wavelength(200e3)
    runs = rocking._run(grid, rocking._layers(own, grid), own.spacing, tilts * 2e-3 / length, length, kept)
    for number, spectrum in enumerate(runs):
        expected = np.abs(spectrum[:, rows, columns]) ** 2
        stored = np.array([table.intensities(tilt * 2e-3, table.thicknesses[number]) for tilt in tilts])
        assert stored == pytest.approx(expected, abs=2e-3)
        assert stored[:, 0] == pytest.approx(expected[:, 0], rel=1e-3)


def test_tables_are_stored_and_read_again(tmp_path):
    first = rocking_table(material("h-BN"), 60e3, 3e-3, cache=tmp_path)
    files = list(tmp_path.glob("*.npz"))
    assert len(files) == 1
    before = files[0].stat().st_mtime_ns
    again = rocking_table(material("h-BN"), 60e3, 3e-3, cache=tmp_path)
    assert files[0].stat().st_mtime_ns == before
    assert np.array_equal(first.amplitudes, again.amplitudes)
    assert again.material == "h-BN"
    with pytest.raises(ValueError, match="is outside of the table's"):
        again.plane(5e-9)
    with pytest.raises(ValueError, match="beyond the table's"):
        again.intensities((10e-3, 0), first.thicknesses[0])


def test_an_edge_keeps_a_disk_its_size():
    """The aperture of the virtual microscope, finely sampled, summed over pixels: profile and sum."""
    for radius in (2.0, 5.0):
        profile, whole = edge_profiles(np.array([radius]), np.array([0.6]))
        fine = 15
        probe = Probe(200e3, radius * 1e-3)
        amplitude = np.abs(probe.aperture(1e-3 / fine, 0.6e-3))
        middle = len(amplitude) // 2
        reach = (middle - fine // 2) // fine
        cut = middle - reach * fine - fine // 2
        part = (amplitude ** 2)[cut:len(amplitude) - cut, cut:len(amplitude) - cut]
        side = 2 * reach + 1
        pixels = part.reshape(side, fine, side, fine).sum(axis=(1, 3))
        y, x = np.indices((side, side)) - reach
        drawn = np.interp(np.hypot(y, x) - radius, np.linspace(-4, 4, profile.shape[1]), profile[0], right=0.0) / whole[0]
        assert drawn.sum() == pytest.approx(1, abs=0.01)
        assert np.abs(drawn - pixels).sum() < 0.03
        assert drawn == pytest.approx(pixels, abs=0.06 * pixels.max())
