"""Patterns and currents of sheets and crystals: conservation, theory, seams, abTEM's multislice on the same potential."""

import math

import abtem_peer
import numpy as np
import pytest
from lattice_specimen import STO, Vacuum, sheet, strontium_titanate

from edgetem_nodes.physics.diffraction import Diffraction, coverage
from edgetem_nodes.physics.electrons import interaction_constant, wavelength
from edgetem_nodes.physics.multislice import ProbeWaves
from edgetem_nodes.physics.optics import Annulus, Camera, Probe
from edgetem_nodes.physics.numerics import Numerics, Slicing, equal_slices
from edgetem_nodes.physics.pixels import pixel_weights
from edgetem_nodes.physics.potential import potential_slices, thermal_displacements
from edgetem_nodes.physics.scattering_factors import potential_spectrum
from edgetem_nodes.physics.specimens import Atoms

KY, KX = np.mgrid[-32:32, -32:32]
NANOBEAM, CAMERA = Probe(80e3, 2e-3), Camera(64, 1e-3)
RANDOM = np.random.default_rng(5)


def bands(camera, probe):
    edge = (camera.pixels // 2 - 1) * camera.pixel_angle
    middle = (probe.semi_convergence_angle + edge) / 2
    return [(0.0, probe.semi_convergence_angle), (probe.semi_convergence_angle, middle), (middle, edge)]


def reference(specimen, length, samples, slicing, probe, camera, positions, configurations=(None,), seed=0, wide=1):
    """abTEM's patterns in a box of `length`, `wide` times wavelength / pixel angle: sums over its samples in each pixel."""
    total, step = 0.0, length / samples
    blur = Numerics().blur(probe.semi_convergence_angle, camera.pixel_angle)
    waves = ProbeWaves(probe, samples, step, blur=blur)(positions / step)
    pixels = camera.pixels * wide
    first = samples // 2 - camera.pixels // 2 * wide - wide // 2
    for configuration in configurations:
        atoms = specimen.atoms(np.full(2, -1e-13), np.full(2, length - 1e-13))
        moved = None if configuration is None else thermal_displacements(atoms, seed, configuration)
        potential = potential_slices(atoms, np.zeros(2), step, (samples, samples), slicing, moved)
        seen = abtem_peer.waves_patterns(potential.numpy(), step, slicing.distance, probe, waves.numpy())
        if wide == 1:
            seen = sum(weight * sum(w * np.roll(seen, (y, x), (1, 2)) for x, w in pixel_weights(1).items())
                       for y, weight in pixel_weights(1).items())
        seen = seen[:, first:first + pixels, first:first + pixels]
        total = total + seen.reshape(len(seen), camera.pixels, wide, camera.pixels, wide).sum(axis=(2, 4))
    return total / len(configurations)


def test_beam_without_specimen_falls_on_the_camera():
    for probe, camera in ((NANOBEAM, CAMERA), (Probe(80e3, 25e-3), Camera(128, 1e-3)),
                          (Probe(200e3, 9e-3), Camera(33, 0.7e-3))):
        patterns = Diffraction(Vacuum(), probe, camera).patterns(RANDOM.uniform(-50e-9, 50e-9, (3, 2)))
        assert patterns.dtype == np.float32
        assert patterns.sum(axis=(1, 2)) == pytest.approx(1.0, abs=5e-4)


@pytest.mark.parametrize("thickness", [0.0, 0.5e-9])
def test_disc_has_the_radius_of_the_aperture(thickness):
    """Second moment of a disc: radius^2 / 2."""
    image = Diffraction(Vacuum(thickness), Probe(80e3, 8e-3), Camera(64, 0.35e-3)).patterns([[1e-9, 2e-9]])[0]
    assert 0.35 * np.sqrt(2 * (image * (KY ** 2 + KX ** 2)).sum() / image.sum()) == pytest.approx(8.0, rel=3e-3)


def test_descan_moves_the_pattern():
    specimen, _ = sheet("MoS2", (7, 12))
    shifts = np.array([[0.0, 0.0], [1.7e-3, -2.4e-3], [3e-3, 0.4e-3]])
    diffraction = Diffraction(specimen, NANOBEAM, CAMERA, Numerics(largest_shift=3e-3))
    patterns = diffraction.patterns(np.zeros((3, 2)), shifts)
    disc = patterns * (np.hypot(KY - shifts[:, 0, None, None] * 1e3, KX - shifts[:, 1, None, None] * 1e3) < 4)
    centre = np.stack([(disc * k).sum(axis=(1, 2)) / disc.sum(axis=(1, 2)) for k in (KY, KX)], -1)
    assert centre - centre[0] == pytest.approx(shifts * 1e3, abs=0.03)
    assert np.array_equal(patterns[0], diffraction.patterns(np.zeros((1, 2)), np.zeros((1, 2)))[0])
    with pytest.raises(ValueError, match="descan shift of 3.5 mrad is more than the 3 mrad"):
        diffraction.patterns(np.zeros((1, 2)), np.array([[0, 3.5e-3]]))


def test_a_pattern_does_not_depend_on_its_companions():
    crystal = strontium_titanate(4)
    for diffraction in (Diffraction(sheet("MoS2", (7, 12))[0], NANOBEAM, CAMERA),
                        Diffraction(crystal, Probe(200e3, 20e-3, source_size=0.5e-10), Camera(40, 2e-3),
                                    Numerics(phonon_configurations=2))):
        positions = RANDOM.uniform(-10e-9, 10e-9, (4, 2))
        together = diffraction.patterns(positions)
        assert np.array_equal(together[::-1], diffraction.patterns(positions[::-1]))
        for one, place in zip(together, positions, strict=True):
            assert np.array_equal(one, diffraction.patterns(place[None])[0])


@pytest.mark.parametrize(("name", "repeats"), [("graphene", (27, 48)), ("MoS2", (21, 36))])
def test_multislice_of_sheets_against_abtem_in_a_wider_box(name, repeats):
    pytest.importorskip("abtem", reason="abTEM is not installed: the peer's check of patterns is skipped")
    specimen, length = sheet(name, repeats)
    probe = Probe(80e3, 25e-3, defocus=5e-9, spherical_aberration=10e-6)
    camera = Camera(96, 3 * probe.wavelength / length)
    diffraction = Diffraction(specimen, probe, camera, Numerics(method="multislice", slice_thickness=0.8e-10))
    positions = length / 2 + RANDOM.uniform(0, 0.5e-9, (3, 2))
    slicing = Slicing(diffraction.window.slicing.count, max(diffraction.window.slicing.distance, 1e-11),
                      diffraction.window.slicing.first, False)
    samples = 6 * round(length / diffraction.window.step / 6)
    theirs = reference(specimen, length, samples, slicing, probe, camera, positions, wide=3)
    error = abtem_peer.r1(diffraction.patterns(positions), theirs, camera.pixel_angle, bands(camera, probe))
    assert error.max() < 0.02


@pytest.mark.parametrize(("name", "repeats", "convergence", "pixels"), [
    ("graphene", (9, 16), 30e-3, 128), ("MoS2", (7, 12), 30e-3, 128), ("MoS2", (7, 12), 8e-3, 64)])
def test_thin_sheets_against_finely_sliced_abtem(name, repeats, convergence, pixels):
    """The fast way of thin specimens, against slices so thin that sulphur and metal lie where they are."""
    pytest.importorskip("abtem", reason="abTEM is not installed: the peer's check of patterns is skipped")
    specimen, length = sheet(name, repeats)
    probe = Probe(80e3, convergence)
    camera = Camera(pixels, probe.wavelength / length)
    positions = RANDOM.uniform(0, length, (3, 2))
    fine = equal_slices(max(specimen.thickness, 1e-11), 21 if specimen.thickness > 1e-11 else 1)
    theirs = reference(specimen, length, 450 if pixels == 128 else 280, fine, probe, camera, positions)
    ours = Diffraction(specimen, probe, camera).patterns(positions)
    assert abtem_peer.r1(ours, theirs, camera.pixel_angle, bands(camera, probe)).max() < 0.02


def crystal_error(layers, positions, configurations, **numerics):
    """R1 of a crystal against abTEM in a box three times as wide as wavelength / pixel angle, with the same atoms."""
    length = 24 * STO
    crystal, probe = strontium_titanate(layers, period=24), Probe(200e3, 20e-3)
    camera = Camera(72, 3 * probe.wavelength / length)
    diffraction = Diffraction(crystal, probe, camera, Numerics(
        phonon_configurations=configurations, sampling=0.12e-10, **numerics), seed=3)
    positions = length / 2 + positions
    samples = 24 * math.ceil(length / 24 / diffraction.window.step)
    theirs = reference(crystal, length, samples, diffraction.window.slicing, probe, camera, positions, range(configurations),
                       seed=3, wide=3)
    return abtem_peer.r1(diffraction.patterns(positions), theirs, camera.pixel_angle, bands(camera, probe)).max()


def test_crystal_against_abtem_in_a_wider_box():
    pytest.importorskip("abtem", reason="abTEM is not installed: the peer's check of a crystal is skipped")
    assert crystal_error(8, RANDOM.uniform(0, 0.6e-9, (2, 2)), 1) < 0.02


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("method", ["multislice", "prism"])
def test_twenty_nanometres_of_crystal_against_abtem_in_a_wider_box(method):
    pytest.importorskip("abtem", reason="abTEM is not installed: the peer's check of a crystal is skipped")
    assert crystal_error(51, RANDOM.uniform(0, 0.5e-9, (10, 2)), 1, method=method) < 0.02


class Moved:
    """A specimen moved by (y, x) [m]; everything else is the same."""

    def __init__(self, specimen, by):
        self.specimen, self.by = specimen, np.asarray(by, float)
        self.name, self.thickness, self.crystalline = specimen.name, specimen.thickness, specimen.crystalline

    def atoms(self, low, high, condition):
        atoms = self.specimen.atoms(low - self.by, high - self.by, condition)
        return Atoms(atoms.positions + [0, *self.by], atoms.atomic_numbers, atoms.displacement_rms, atoms.identity)


@pytest.mark.parametrize("kind", ["sheet", "crystal"])
def test_seams_do_not_show(kind):
    """The same probe on the same atoms, once in the middle of a tile and once at a corner of one."""
    specimen = strontium_titanate(10) if kind == "crystal" else sheet("MoS2", (7, 12))[0]
    probe = Probe(200e3, 20e-3) if kind == "crystal" else Probe(80e3, 30e-3, defocus=10e-9)
    camera, numerics = (Camera(64, 1.2e-3), Numerics(phonon_configurations=2))
    diffraction = Diffraction(specimen, probe, camera, numerics)
    layout = diffraction._beam(diffraction.window)._layout
    by = layout.core // 2 * diffraction.window.step
    place = np.array([[2.3, 1.7]]) * diffraction.window.step
    there = Diffraction(Moved(specimen, (by, by)), probe, camera, numerics)
    first, second = diffraction.patterns(place), there.patterns(place + by)
    assert abtem_peer.r1(first[:, :, :], second, camera.pixel_angle, bands(camera, probe)).max() < 1e-3


def cell_image(specimen, probe, camera, select, points=6, **numerics):
    """Signal over one cell (points, points) from patterns at its positions."""
    axes = [np.arange(points) / points * edge for edge in specimen.cell]
    grid = np.stack(np.meshgrid(*axes, indexing="ij"), -1).reshape(-1, 2)
    patterns = Diffraction(specimen, probe, camera, Numerics(**numerics)).patterns(grid)
    return select(patterns).reshape(points, points)


def test_weak_object_is_imaged_with_the_contrast_transfer_function():
    """Axial bright field of graphene by reciprocity: a Fourier coefficient is sigma V_g times the transfer, sign and all."""
    specimen, _ = sheet("graphene", (9, 16))
    frequency = 2 / specimen.cell[0]
    camera = Camera(64, 1e-3)
    scherzer = np.sqrt(1.5 * 10e-6 * wavelength(80e3))
    for defocus, spread, spherical in ((5e-9, 0.0, 0.0), (-5e-9, 0.0, 0.0), (5e-9, 0.6, 0.0), (scherzer, 0.0, 10e-6)):
        probe = Probe(80e3, 25e-3, defocus=defocus, chromatic_aberration=1e-3 if spread else 0.0, energy_spread=spread,
                      spherical_aberration=spherical)
        image = cell_image(specimen, probe, camera, lambda p: p[:, 32, 32])
        found = (np.fft.fft2(image) / image.sum())[2, 0]
        atoms = specimen.atoms(np.full(2, -1e-13), specimen.cell - 1e-13)
        ramps = np.exp(-2 * (np.pi * 0.065e-10 * frequency) ** 2 - 2j * np.pi * frequency * atoms.positions[:, 1])
        series = potential_spectrum(6, np.array([frequency]))[0] * ramps.sum() / specimen.cell.prod()
        expected = interaction_constant(80e3) * series * probe.contrast_transfer(frequency, 0.0)
        assert found == pytest.approx(expected, rel=0.12, abs=0.02 * abs(interaction_constant(80e3) * series))
        assert abs(expected) > 0.2 * abs(interaction_constant(80e3) * series)


@pytest.mark.parametrize("points", [7, 16])
def test_source_size_blurs_by_a_gaussian(points):
    """The image is convolved with the source: its Fourier coefficients fall by exp(-2 pi^2 s^2 g^2)."""
    specimen, _ = sheet("graphene", (9, 16))
    dark = np.hypot(KY, KX) > 29
    probe = Probe(80e3, 25e-3)
    sharp, blurred = (cell_image(specimen, Probe(80e3, 25e-3, source_size=size), CAMERA,
                                 lambda p: (p * dark).sum(axis=(1, 2)), source_points=points) for size in (0.0, 0.7e-10))
    assert blurred.mean() == pytest.approx(sharp.mean(), rel=2e-3)
    ratio = np.abs(np.fft.fft2(blurred)[2, 0]) / np.abs(np.fft.fft2(sharp)[2, 0])
    frequency = 2 / specimen.cell[0]
    sigma = Probe(80e3, 25e-3, source_size=0.7e-10).source_sigma
    assert probe.source_sigma == 0
    assert ratio == pytest.approx(np.exp(-2 * (np.pi * sigma * frequency) ** 2), rel=0.03)


def test_currents_agree_with_patterns_and_conserve_the_beam():
    specimen, _ = sheet("MoS2", (7, 12), rms=0.0)
    diffraction = Diffraction(specimen, Probe(80e3, 20e-3), Camera(128, 1e-3))
    positions = RANDOM.uniform(0, 2e-9, (2, 2))
    currents = diffraction.currents(positions, [Annulus(0, 10e-3), Annulus(10e-3, 50e-3), Annulus(50e-3, 160e-3)])
    patterns = diffraction.patterns(positions)
    for number, annulus in enumerate((Annulus(0, 10e-3), Annulus(10e-3, 50e-3))):
        seen = np.fft.fftshift(coverage(annulus, 128, 1e-3).numpy())
        assert currents[:, number] == pytest.approx((patterns * seen).sum(axis=(1, 2)), rel=3e-3)
    assert currents.sum(axis=1) == pytest.approx(1.0, abs=6e-3)


def test_a_changed_probe_keeps_what_is_known_of_the_specimen():
    diffraction = Diffraction(sheet("graphene", (9, 16))[0], Probe(80e3, 20e-3), CAMERA)
    diffraction.patterns([[0.0, 0.0]])
    kept = list(diffraction._tiles.cache._values)
    changed = diffraction.with_probe(Probe(80e3, 20e-3, defocus=2e-9))
    pattern = changed.patterns([[0.0, 0.0]])
    assert list(diffraction._tiles.cache._values) == kept
    assert np.array_equal(pattern, Diffraction(sheet("graphene", (9, 16))[0], changed.probe, CAMERA).patterns([[0.0, 0.0]]))


def test_memory_stays_bounded_and_what_does_not_fit_is_refused():
    diffraction = Diffraction(sheet("graphene", (9, 16))[0], Probe(80e3, 20e-3), CAMERA, Numerics(memory_mib=16))
    diffraction.patterns(np.arange(12)[:, None] * np.array([[20e-9, 0.0]]))
    assert diffraction._tiles.cache._held <= 16 * 2 ** 20
    with pytest.raises(ValueError, match=r"needs tiles of \d+ MiB, and memory_mib allows 16"):
        Diffraction(strontium_titanate(51), Probe(80e3, 20e-3, defocus=300e-9), CAMERA, Numerics(memory_mib=16))


@pytest.mark.parametrize(("settings", "message"), [
    ({"method": "born"}, "method 'born' is not one of"), ({"slice_thickness": 0.0}, "slice_thickness 0 Angstrom"),
    ({"source_points": 5}, "source_points 5 is neither 7 nor a square"), ({"sampling": -1e-10}, "sampling -1 Angstrom"),
    ({"phonon_configurations": -1}, "phonon_configurations -1 is less than 0")])
def test_impossible_numerics_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        Numerics(**settings)


def test_a_disc_that_does_not_fit_is_refused():
    with pytest.raises(ValueError, match="semi-convergence angle 40 mrad does not fit on a camera of 64 pixels of 1 mrad"):
        Diffraction(Vacuum(), Probe(80e3, 40e-3), CAMERA)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_heat_brightens_a_titanium_column_in_dark_field():
    """A lattice at rest channels without thermal diffuse scattering: a fraction of the signal of a Ti/O column in 20 nm."""
    crystal, probe, camera = strontium_titanate(51), Probe(200e3, 20e-3), Camera(56, 0.9e-3)
    column, detector = np.array([[STO / 2, STO / 2]]), [Annulus(60e-3, 120e-3)]
    hot = Diffraction(crystal, probe, camera, Numerics(phonon_configurations=2, memory_mib=3000)).currents(column, detector)
    still = strontium_titanate(51)
    still.rms = still.rms * 0
    cold = Diffraction(still, probe, camera, Numerics(phonon_configurations=1, memory_mib=3000)).currents(column, detector)
    assert 0.1 < cold[0, 0] / hot[0, 0] < 0.7
