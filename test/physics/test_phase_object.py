"""Diffraction of a thin crystal against Bragg's law, the Fourier series of one unit cell, symmetry and conservation."""

import numpy as np
import pytest

from edgetem_nodes.physics.electrons import interaction_constant, wavelength
from edgetem_nodes.physics.phase_object import Camera, PhaseObject, Probe, margin, projected_potential
from edgetem_nodes.physics.sheet import Sheet, crystal

PROBE, CAMERA = Probe(80e3, 2e-3), Camera(64, 1e-3)
EXTENT = (3e-9, 3e-9)
KY, KX = np.mgrid[-32:32, -32:32]
BRAGG = wavelength(80e3) / (3.16e-10 * np.sqrt(3) / 2) * 1e3
"""[mrad] lambda / d of {10-10}."""
CENTRE = np.array([[1.5e-9, 1.5e-9]])


def perfect(specimen="MoS2", vacancies=True, probe=PROBE, strain=0.0):
    unit = crystal(specimen)
    reach = 8e-9 + margin(probe, CAMERA)
    n = int(2 * reach / 2.4e-10)
    steps = np.stack(np.meshgrid(np.arange(-n, n), np.arange(-n, n), indexing="ij"), -1).reshape(-1, 1, 2)
    sites = ((steps + unit.basis) @ unit.cell).reshape(-1, 2)
    numbers = np.tile(unit.atomic_numbers, len(steps))
    near = (np.abs(sites) < reach).all(axis=1)
    return PhaseObject(sites[near] * (1 + strain), numbers[near], EXTENT, probe, CAMERA)


def disc(pattern, ky, kx, radius=3.2):
    """Electrons in a disc, and its centroid (ky, kx) [mrad]."""
    inside = pattern * ((KY - ky) ** 2 + (KX - kx) ** 2 < radius ** 2)
    return inside.sum(), np.array([(inside * KY).sum(), (inside * KX).sum()]) / inside.sum()


@pytest.fixture(scope="module")
def pattern():
    return perfect().patterns(CENTRE)[0].astype(float)


def test_first_order_discs_lie_at_wavelength_over_spacing(pattern):
    for turn in range(6):
        angle = np.pi / 6 + turn * np.pi / 3
        expected = BRAGG * np.array([np.sin(angle), np.cos(angle)])
        assert disc(pattern, *expected)[1] == pytest.approx(expected, abs=0.06)


def test_strain_moves_the_discs_by_as_much():
    angle = np.pi / 6 + np.arange(6) * np.pi / 3
    radii = []
    for strain in (-0.02, 0.02):
        image = perfect(strain=strain).patterns(CENTRE)[0].astype(float)
        radius = BRAGG / (1 + strain)
        radii.append(np.mean([np.linalg.norm(disc(image, radius * np.sin(a), radius * np.cos(a))[1]) for a in angle]))
    assert radii[0] / radii[1] == pytest.approx(1.02 / 0.98, abs=2e-3)


def test_intensities_are_those_of_the_unit_cells_fourier_series(pattern):
    """|T_g|^2 of exp(i sigma V) on one rectangular cell, sampled ten times finer; two per cent for the coarser sampling."""
    unit = crystal("MoS2")
    size = np.array([3.16e-10 * np.sqrt(3), 3.16e-10])
    corners = np.array([[i, j] for i in range(-2, 3) for j in range(-2, 3)])
    sites = ((corners[:, None] + unit.basis) @ unit.cell).reshape(-1, 2) + 1e-12
    inside = ((sites >= 0) & (sites < size)).all(axis=1)
    numbers = np.tile(unit.atomic_numbers, len(corners))[inside]
    assert len(numbers) == 6
    potential = projected_potential(sites[inside], numbers, np.zeros(2), size, (220, 128), 0.065e-10)
    series = np.abs(np.fft.fft2(np.exp(1j * interaction_constant(80e3) * potential)) / potential.size) ** 2
    assert disc(pattern, 0, 0)[0] == pytest.approx(series[0, 0], rel=2e-3)
    for order in ((2, 0), (-2, 0), (1, 1), (0, 2)):
        angles = [n / length * wavelength(80e3) * 1e3 for n, length in zip(order, size, strict=True)]
        if np.linalg.norm(angles) < 27:
            assert disc(pattern, *angles)[0] == pytest.approx(series[order], rel=0.03), order


def test_dose_is_conserved():
    """Without scattering the camera gets everything; with it, what is missing went beyond the camera."""
    empty = PhaseObject(np.zeros((0, 2)), np.zeros(0, int), EXTENT, PROBE, CAMERA)
    patterns = empty.patterns(np.array([[0, 0], [1.23e-9, 2.9e-9]]))
    assert patterns.sum(axis=(1, 2)) == pytest.approx(1.0, abs=1e-5)
    assert disc(patterns[0], 0, 0)[0] == pytest.approx(1.0, abs=1e-5)


def test_most_but_not_all_electrons_reach_the_camera(pattern):
    assert 0.985 < pattern.sum() < 0.999


def test_disc_has_the_radius_of_the_aperture():
    empty = PhaseObject(np.zeros((0, 2)), np.zeros(0, int), EXTENT, Probe(80e3, 6e-3), CAMERA)
    image = empty.patterns(CENTRE)[0]
    second_moment = (image * (KY ** 2 + KX ** 2)).sum() / image.sum()
    assert np.sqrt(2 * second_moment) == pytest.approx(6.0, rel=0.02)


def test_mirror_symmetry(pattern):
    """a lies along x: the mirror plane of the sheet keeps y and reverses x; the pattern of a wide probe shows it."""
    first = [disc(pattern, BRAGG / 2 * s, BRAGG * np.sqrt(3) / 2 * t)[0] for s in (1, -1) for t in (1, -1)]
    assert first[0] == pytest.approx(first[1], rel=2e-3)
    assert first[2] == pytest.approx(first[3], rel=2e-3)


def test_friedels_law_holds_for_a_centrosymmetric_sheet_and_nearly_for_the_other(pattern):
    image = perfect("graphene").patterns(CENTRE)[0]
    radius = wavelength(80e3) / (2.46e-10 * np.sqrt(3) / 2) * 1e3
    pair = [disc(image, s * radius, 0)[0] for s in (1, -1)]
    assert pair[0] == pytest.approx(pair[1], rel=5e-3)
    pair = [disc(pattern, s * BRAGG, 0)[0] for s in (1, -1)]
    assert 0.01 < abs(pair[0] / pair[1] - 1) < 0.15


def test_patterns_do_not_depend_on_the_batch():
    lattice = perfect()
    positions = np.random.default_rng(0).uniform(0, 3e-9, (19, 2))
    together = lattice.patterns(positions)
    alone = np.concatenate([lattice.patterns(p[None]) for p in positions])
    assert np.array_equal(together, alone)


def test_potential_is_periodic_and_keeps_its_mean():
    potential = projected_potential(np.array([[0.0, 0.0], [3e-10, 2.1e-10]]), np.array([6, 42]), np.zeros(2),
                                    np.array([8e-10, 6e-10]), (80, 60), 0.0)
    from edgetem_nodes.physics.scattering_factors import potential_spectrum
    mean = (potential_spectrum(6, np.zeros(1)) + potential_spectrum(42, np.zeros(1))) / (8e-10 * 6e-10)
    assert potential.mean() == pytest.approx(mean[0], rel=1e-4)
    assert potential[0, 1] == pytest.approx(potential[0, -1], rel=1e-2)


def test_a_probe_outside_the_field_is_named():
    with pytest.raises(ValueError, match=r"\(5\.000, 1\.000\) nm is outside"):
        perfect().patterns(np.array([[5e-9, 1e-9]]))


def test_against_abtem():
    """The projected potential of one cell, and the diffracted intensities that follow, by a peer."""
    abtem = pytest.importorskip("abtem", reason="abTEM is not installed: the peer's check of the potential is skipped")
    from ase.build import mx2
    cell = abtem.orthogonalize_cell(mx2("MoS2", a=3.16, thickness=3.17, vacuum=2.0))
    size = cell.cell.lengths()[:2]
    peer = abtem.Potential(cell, gpts=(256, 440), slice_thickness=100, parametrization="lobato", projection="infinite")
    peer = peer.build(lazy=False)
    peer = np.asarray(peer.array).sum(axis=0).T * 1e-10
    ours = projected_potential(cell.positions[:, 1::-1] * 1e-10, cell.numbers, np.zeros(2), size[::-1] * 1e-10, (440, 256),
                               0.0)
    series = [np.abs(np.fft.fft2(np.exp(1j * interaction_constant(80e3) * v)) / v.size) ** 2 for v in (ours, peer)]
    for order in ((0, 0), (2, 0), (-2, 0), (1, 1), (0, 2)):
        assert series[0][order] == pytest.approx(series[1][order], rel=2e-3)
