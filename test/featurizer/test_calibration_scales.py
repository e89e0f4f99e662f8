"""Descan, disk positions, pixel angle and scan steps against exact patterns and images at finite dose; comparisons."""

import math

import numpy as np
import pytest
from analytic_patterns import deformation, disk_image, hexagonal_places, pattern_axes
from calibration_truth import deflections, disk_pattern

from edgetem_nodes.featurizer.calibration.descan import fit_descan
from edgetem_nodes.featurizer.calibration.detector_scale import fit_pixel_angle, pixel_angle_of_disks
from edgetem_nodes.featurizer.calibration.disk import fit_disk
from edgetem_nodes.featurizer.calibration.disk_positions import disk_positions
from edgetem_nodes.featurizer.calibration.plane_lattice import PlaneLattice
from edgetem_nodes.featurizer.calibration.quantity import MEASURED, Quantity, compare
from edgetem_nodes.featurizer.calibration.rings import pixel_angle_of_rings
from edgetem_nodes.featurizer.calibration.scan_scale import fit_scan_steps
from edgetem_nodes.featurizer.patterns.events import Events
from edgetem_nodes.physics.electrons import wavelength

MATRIX = np.array([[0.03e9, -0.01e9], [0.02e9, 0.04e9]])
ORIGIN = np.array([15.3, 16.2])
POSITIONS = np.stack(np.meshgrid(np.arange(10) * 2e-9, np.arange(12) * 2e-9, indexing="ij"), -1).reshape(-1, 2)
WAVELENGTH = wavelength(80e3)


def descan_values(found):
    return np.concatenate([found.center, found.matrix.ravel()]), np.concatenate([found.center_errors,
                                                                                 found.matrix_errors.ravel()])


def test_disk_positions_and_descan_from_frames_and_events():
    truth = ORIGIN + POSITIONS @ MATRIX.T
    expected = np.stack([disk_pattern((32, 32), center, 8.2, (0.02, 0.0), subdivision=5) for center in truth])
    frames = np.random.default_rng(0).poisson(expected * 1500).astype(np.uint16)
    disk = fit_disk(frames.sum(axis=0))
    found = disk_positions(frames, disk)
    assert found.found.all()
    assert ((found.centers - truth) / found.errors).std() == pytest.approx(1.0, abs=0.2)
    assert disk_positions(Events.of(frames), disk).centers == pytest.approx(found.centers, abs=1e-6)
    values, errors = descan_values(fit_descan(found.centers, POSITIONS, found.errors))
    assert np.abs((values - [*ORIGIN, *MATRIX.ravel()]) / errors).max() < 4
    frames[3], frames[4] = 0, 65535
    failures = disk_positions(frames[:6], disk).failures
    assert failures[3] == "the pattern is empty" and "saturated" in failures[4] and not failures[5]


def test_descan_pulls_with_scatter_beyond_the_errors():
    generator, pulls = np.random.default_rng(1), []
    truth = np.concatenate([ORIGIN, MATRIX.ravel()])
    for _ in range(100):
        centers = ORIGIN + POSITIONS @ MATRIX.T + generator.normal(0, math.hypot(0.1, 0.07), POSITIONS.shape)
        found = fit_descan(centers, POSITIONS, np.full(POSITIONS.shape, 0.1))
        values, errors = descan_values(found)
        pulls.append((values - truth) / errors)
    assert np.std(pulls, axis=0) == pytest.approx(1.0, abs=0.25)
    assert found.scatter == pytest.approx(0.07, abs=0.035)


def test_descan_leaves_out_what_is_lost_and_refuses_lines():
    centers = ORIGIN + POSITIONS @ MATRIX.T + np.random.default_rng(2).normal(0, 0.1, POSITIONS.shape)
    centers[5], centers[9] = np.nan, 40.0
    found = fit_descan(centers, POSITIONS)
    assert found.left_out == 2 and "2 left out" in found.line()
    assert np.abs(found.matrix - MATRIX).max() < 4 * found.matrix_errors.max()
    with pytest.raises(ValueError, match="lie on a line"):
        fit_descan(centers[:12], POSITIONS[:12])
    with pytest.raises(ValueError, match="are too few for the descan"):
        fit_descan(centers[:8], POSITIONS[:8])
    with pytest.raises(ValueError, match="do not belong together"):
        fit_descan(centers, POSITIONS[:8])


def bragg(scale, angle, generator):
    """Poisson pattern of MoS2 with the pixel `scale` [mrad] and the lattice turned."""
    places = hexagonal_places(3.16e-10, WAVELENGTH, deformation(rotation=angle))
    electrons = np.concatenate([[1e5], np.full(6, 4e3), np.full(6, 1.5e3)])
    return generator.poisson(disk_image(np.concatenate([[[0.0, 0.0]], places]) + [0.3, -0.4], electrons, 3.9,
                                        pattern_axes(96, scale), background=0.3))


def test_pixel_angle_from_bragg_disks_in_any_rotation():
    generator, pulls = np.random.default_rng(3), []
    for _ in range(8):
        pattern = bragg(1.07, generator.uniform(0, np.pi), generator)
        found = pixel_angle_of_disks(pattern, fit_disk(pattern), PlaneLattice.hexagonal(3.16e-10), WAVELENGTH,
                                     generator.uniform(0.97e-3, 1.15e-3))
        assert found.used == 12
        pulls.append((found.pixel_angle - 1.07e-3) / found.standard_error)
        assert np.abs((found.distortion - np.eye(2)) / found.distortion_errors).max() < 4.5
    assert found.standard_error < 1e-3 * found.pixel_angle
    assert np.sqrt(np.mean(np.square(pulls))) == pytest.approx(1.0, abs=0.6)


def test_pixel_angle_of_a_distorted_lattice_and_refusals():
    distortion = np.array([[1.02, 0.01], [0.01, (1 + 0.0001) / 1.02]])
    vectors = PlaneLattice.hexagonal(3e-10).reciprocal(2)
    turn = np.array([[np.cos(0.3), np.sin(0.3)], [-np.sin(0.3), np.cos(0.3)]])
    places = 30 + WAVELENGTH * vectors @ turn.T @ np.linalg.inv(distortion).T / 1.1e-3
    found = fit_pixel_angle(places, vectors, WAVELENGTH, np.full(len(places), 0.01))
    assert found.pixel_angle == pytest.approx(1.1e-3) and found.rotation == pytest.approx(0.3)
    assert found.distortion == pytest.approx(distortion) and found.center == pytest.approx([30, 30])
    with pytest.raises(ValueError, match="2 disks with a place are too few"):
        fit_pixel_angle(places[:2], vectors[:2], WAVELENGTH, np.full(2, 0.01))
    with pytest.raises(ValueError, match="mirrored"):
        fit_pixel_angle(places * [1, -1], vectors, WAVELENGTH, np.full(len(places), 0.01))
    disk = fit_disk(disk_pattern((64, 64), (31, 31), 15.0) * 1e6)
    with pytest.raises(ValueError, match="overlap: lower the semi-convergence angle"):
        pixel_angle_of_disks(np.ones((64, 64)), disk, PlaneLattice.hexagonal(3.16e-10), WAVELENGTH, 1e-3)


def test_pixel_angle_from_rings():
    y, x = np.mgrid[:128, :128]
    distance, spacings = np.hypot(y - 63.2, x - 64.7), np.array([2.35e-10, 2.04e-10, 1.44e-10, 1.23e-10])
    expected = 3 + 20 * np.exp(-distance / 20) + sum(
        height * np.exp(-0.5 * ((distance - WAVELENGTH / (spacing * 0.6e-3)) / 1.4) ** 2)
        for height, spacing in zip((20, 10, 8, 8), spacings))
    generator, pulls = np.random.default_rng(4), []
    for _ in range(8):
        found = pixel_angle_of_rings(generator.poisson(expected), (63.2, 64.7), spacings, WAVELENGTH, 0.612e-3)
        pulls.append((found.pixel_angle - 0.6e-3) / found.standard_error)
    assert found.used == 4 and found.standard_error < 1e-3 * found.pixel_angle
    assert np.abs(pulls).max() < 4 and abs(np.mean(pulls)) < 1.2
    with pytest.raises(ValueError, match="none of 4 rings stands out|off their expected radii"):
        pixel_angle_of_rings(generator.poisson(np.full((128, 128), 20.0)), (63.2, 64.7), spacings, WAVELENGTH, 0.6e-3)
    with pytest.raises(ValueError, match="do not lie on the detector"):
        pixel_angle_of_rings(expected, (63.2, 64.7), spacings, WAVELENGTH, 0.1e-3)


@pytest.mark.parametrize(("kind", "lattice"), [("hexagonal", PlaneLattice.hexagonal(3e-10)),
                                               ("square", PlaneLattice.rectangular(3e-10, 3e-10))])
def test_scan_steps_that_are_not_square(kind, lattice):
    steps, generator, pulls = np.array([0.4e-10, 0.3e-10]), np.random.default_rng(5), []
    expected = (deflections(kind, (64, 80), steps, width=0.5e-10)[1] + 0.2) * 30
    for _ in range(15):
        found = fit_scan_steps(generator.poisson(expected), lattice, tuple(steps * generator.uniform(0.95, 1.05, 2)),
                               errors=np.sqrt(expected))
        pulls.append([*(found.steps - steps) / found.errors, found.shear / found.shear_error])
    assert np.std(pulls) == pytest.approx(1.0, abs=0.3)
    assert np.abs(np.mean(pulls, axis=0)).max() < 0.9
    assert (found.errors < 2e-3 * steps).all()


def test_scan_steps_refused_without_a_lattice():
    lattice = PlaneLattice.hexagonal(3e-10)
    with pytest.raises(ValueError, match="stand out of the noise"):
        fit_scan_steps(np.random.default_rng(6).normal(size=(64, 64)), lattice, (0.3e-10, 0.3e-10))
    with pytest.raises(ValueError, match="periods of the lattice, fewer than 3"):
        fit_scan_steps(np.ones((16, 16)), lattice, (0.3e-10, 0.3e-10))
    with pytest.raises(ValueError, match="step is too large"):
        fit_scan_steps(np.ones((64, 64)), lattice, (3e-10, 3e-10))


def test_comparison_counts_standard_errors_and_turns():
    measured = Quantity("pixel angle", 1.02e-3, 0.01e-3, "rad", MEASURED)
    assert compare(measured, 1e-3).standard_errors == pytest.approx(2.0)
    assert compare(measured, 1e-3, 0.01e-3).standard_errors == pytest.approx(math.sqrt(2))
    assert "differs slightly" in compare(measured, 0.99e-3).line() and "+3.03 %" in compare(measured, 0.99e-3).line()
    turned = compare(Quantity("rotation", 179.0, 1.0, "deg", MEASURED), -179.0)
    assert turned.difference == pytest.approx(-2.0) and turned.agrees
    with pytest.raises(ValueError, match=r"\[rad\] cannot be compared with .* \[m\]"):
        compare(measured, Quantity("step", 1.0, 0.1, "m", MEASURED))
    assert "cannot be compared" in compare(Quantity.undetermined("pixel angle", "rad", "there is no disk"), 1e-3).line()
    assert measured.line() == "pixel angle: 1.020 +- 0.010 mrad, measured"
