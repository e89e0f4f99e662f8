"""The whole calibration against the virtual microscope: detector turned, flipped and descanned by known amounts."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from calibration_truth import turn_between

from edgetem_nodes.featurizer.calibration.calibrate import Known, calibrate
from edgetem_nodes.featurizer.calibration.plane_lattice import PlaneLattice
from edgetem_nodes.featurizer.calibration.rotation import fit_rotation
from edgetem_nodes.featurizer.calibration.scan_data import ScanData
from edgetem_nodes.featurizer.patterns.detectors import bright_field
from edgetem_nodes.featurizer.patterns.geometry import DetectorGeometry
from edgetem_nodes.physics.diffraction import Diffraction
from edgetem_nodes.physics.numerics import Numerics
from edgetem_nodes.physics.optics import Camera, Probe
from edgetem_nodes.physics.scan import ScanField
from edgetem_nodes.physics.specimens.catalogue import SpecimenOptions
from edgetem_nodes.physics.specimens.sheet import MOS2_LATTICE, Sheet

PIXEL, CONVERGENCE, PIXELS = 2.5e-3, 25e-3, 40
FIELD = ScanField((0.0, 0.0), (0.3e-10, 0.26e-10), (36, 44))
TRUTH = DetectorGeometry((PIXELS // 2, PIXELS // 2), PIXEL, CONVERGENCE, descan=np.array([[1.2e9, -0.4e9], [0.2e9, 0.8e9]]),
                         rotation=np.radians(-131.0), flipped=True)


def patterns(name, convergence=CONVERGENCE, **aberrations):
    """Expected patterns on a detector that lies as TRUTH says: the specimen's axes are the detector's."""
    torch.set_num_threads(1)
    specimen = Sheet(name, (1e-9, 1e-9), 0, SpecimenOptions(domain_size=0.0, strain=0.0, vacancy_density=0.0))
    diffraction = Diffraction(specimen, Probe(80e3, convergence, **aberrations), Camera(PIXELS, PIXEL),
                              Numerics(largest_shift=6e-3, method="single_slice"))
    positions = FIELD.positions()
    return diffraction.patterns(positions @ TRUTH.to_detector().T, PIXEL * TRUTH.shifts(positions))


@pytest.fixture(scope="module")
def mos2():
    return patterns("MoS2")


def scan_of(expected, dose, seed=0, frames=None):
    """Scan data of Poisson patterns, and their sum."""
    counts = np.random.default_rng(seed).poisson(expected[:frames] * dose).astype(float)
    total, index = counts.sum(axis=(1, 2)), np.arange(PIXELS)
    first = np.stack([(counts * index[:, None]).sum(axis=(1, 2)), (counts * index).sum(axis=(1, 2))], -1) / total[:, None]
    second = np.stack([(counts * index[:, None]**2).sum(axis=(1, 2)), (counts * index**2).sum(axis=(1, 2))], -1)
    errors = np.sqrt((second / total[:, None] - first**2) / total[:, None])
    angle = np.hypot(*(np.mgrid[:PIXELS, :PIXELS] - PIXELS // 2)) * PIXEL
    dark = counts[:, angle > 1.3 * CONVERGENCE].sum(axis=1)
    return ScanData(FIELD, first, errors, None, dark, np.sqrt(dark + 1)), counts.sum(axis=0)


def test_everything_at_once(mos2):
    scan, pattern = scan_of(mos2, 1e4)
    stated = DetectorGeometry(TRUTH.center, PIXEL, 26e-3, descan=TRUTH.descan, rotation=TRUTH.rotation)
    found = calibrate(pattern, scan, Known(stated, scan_lattice=PlaneLattice.hexagonal(MOS2_LATTICE)))
    geometry = found.geometry
    assert geometry.flipped and geometry.pixel_angle == PIXEL and "pixel_angle" not in geometry.errors
    assert np.degrees(turn_between(geometry.rotation, TRUTH.rotation)) == pytest.approx(
        0, abs=4 * np.degrees(geometry.errors["rotation"]))
    assert np.degrees(geometry.errors["rotation"]) < 0.25
    assert np.abs((geometry.descan - TRUTH.descan) / geometry.errors["descan"]).max() < 4
    # The mean of many patterns has a centre to 0.002 pixels; the disk of a sheet is not quite uniform.
    assert geometry.center == pytest.approx(TRUTH.center + TRUTH.shifts(geometry.descan_origin)[0], abs=0.02)
    assert geometry.shifts(FIELD.positions()) + geometry.center == pytest.approx(TRUTH.shifts(FIELD.positions()) + TRUTH.center,
                                                                               abs=0.1)
    assert geometry.semi_convergence_angle == pytest.approx(CONVERGENCE, rel=5e-3)
    assert geometry.distortion == pytest.approx(np.eye(2), abs=3e-3)
    assert found.scan_scale.steps == pytest.approx(FIELD.step, rel=5e-3)
    assert "DIFFERS" in found.comparisons["semi_convergence_angle"].line()
    assert found.comparisons["rotation"].standard_errors < 4
    assert any(line.startswith("rotation: -13") and "sign determined" in line for line in found.lines())


def test_rotation_is_right_to_a_fifth_of_a_degree(mos2):
    scan, _ = scan_of(mos2, 1e5, seed=1)
    shape = FIELD.shape
    found = fit_rotation(scan.center_of_mass.reshape(*shape, 2), FIELD.step, scan.errors.reshape(*shape, 2),
                         scan.dark_field.reshape(shape))
    assert np.degrees(turn_between(found.rotation, TRUTH.rotation)) == pytest.approx(0, abs=0.2)
    by_skewness = fit_rotation(scan.center_of_mass.reshape(*shape, 2), FIELD.step, scan.errors.reshape(*shape, 2))
    assert by_skewness.determined and by_skewness.rotation == pytest.approx(found.rotation)


def test_electrons_are_drawn_to_atoms_out_of_focus_too():
    """At 10 nm defocus too the dark field tells the sign, where the skewness of the divergence must not be trusted."""
    scan, _ = scan_of(patterns("MoS2", 21e-3, defocus=12e-9), 1e6)
    shape = FIELD.shape
    arguments = scan.center_of_mass.reshape(*shape, 2), FIELD.step, scan.errors.reshape(*shape, 2)
    found = fit_rotation(*arguments, scan.dark_field.reshape(shape))
    assert found.determined and found.flipped
    assert np.degrees(turn_between(found.rotation, TRUTH.rotation)) == pytest.approx(0, abs=2.0)
    alone = fit_rotation(*arguments)
    assert not alone.determined or abs(turn_between(alone.rotation, TRUTH.rotation)) < 0.1


def test_scan_aborted_half_way(mos2):
    scan, pattern = scan_of(mos2, 1e4, frames=20 * 44 + 17)
    found = calibrate(pattern, scan, Known(semi_convergence_angle=CONVERGENCE))
    assert np.degrees(turn_between(found.geometry.rotation, TRUTH.rotation)) == pytest.approx(0, abs=2.0)
    assert "20 rows" in found.quantities["rotation"].note
    assert found.geometry.pixel_angle == pytest.approx(PIXEL, rel=5e-3)
    scan, pattern = scan_of(mos2, 1e4, frames=8 * 44)
    found = calibrate(pattern, scan, Known(semi_convergence_angle=CONVERGENCE))
    assert not found.quantities["rotation"].determined and found.geometry.errors["rotation"] == np.inf
    assert "8 rows of the 36 x 44 scan" in found.quantities["flipped"].line()


def test_nothing_known_and_nothing_seen():
    found = calibrate(np.zeros((32, 32)))
    assert not any(one.determined for one in found.quantities.values())
    with pytest.raises(ValueError, match="there is no detector geometry: center: not determined: the pattern holds 0"):
        found.geometry
    stated = DetectorGeometry((16.0, 15.0), 1e-3, rotation=0.1)
    found = calibrate(np.zeros((32, 32)), known=Known(stated))
    assert found.geometry.center == (16.0, 15.0) and found.geometry.rotation == pytest.approx(0.1)
    assert "stated (not measured: the pattern holds 0 electrons" in found.lines()[0]
    with pytest.raises(ValueError, match="needs the high tension"):
        Known(diffraction_lattice=PlaneLattice.hexagonal(3e-10))
    with pytest.raises(ValueError, match="errors of 3 frames do not fit"):
        ScanData(FIELD, np.zeros((5, 2)), np.zeros((3, 2)))


def moving_disk(field, descan):
    """Scan data of a Poisson disk of 10 electrons a pixel that moves by `descan` [pixel/m] about the field's middle, and the
    sum. A pixel is as bright as the part of it that lies in the disk, to a sixteenth."""
    positions, radius = field.positions(), CONVERGENCE / PIXEL
    centers = PIXELS // 2 + (positions - positions.mean(axis=0)) @ np.asarray(descan).T
    place = (np.arange(4 * PIXELS) - 1.5) / 4
    distance = np.hypot(place[:, None] - centers[:, :1, None], place[None, :] - centers[:, 1:, None])
    part = (distance < radius).reshape(len(centers), PIXELS, 4, PIXELS, 4).mean(axis=(2, 4))
    counts = np.random.default_rng(5).poisson(part * 10.0)
    total, axis = counts.sum(axis=(1, 2)), np.arange(PIXELS)
    com = np.stack([(counts.sum(axis=2) * axis).sum(axis=1), (counts.sum(axis=1) * axis).sum(axis=1)], -1) / total[:, None]
    return ScanData(field, com, np.full(com.shape, radius / 2) / np.sqrt(total)[:, None]), counts.sum(axis=0)


SMALL = ScanField((0.0, 0.0), (25e-12, 25e-12), (20, 24))


@pytest.mark.parametrize("origin", [0.0, 50e-9, 1e-6])
def test_where_the_scan_lies_does_not_move_the_disk(origin):
    """An insignificant descan, carried on to a far scan position 0, would."""
    field = replace(SMALL, origin=(origin, origin))
    scan, pattern = moving_disk(field, np.zeros((2, 2)))
    found = calibrate(pattern, scan, Known(DetectorGeometry((PIXELS // 2,) * 2, PIXEL)))
    geometry = found.geometry
    assert not geometry.descan.any() and "taken as none" in found.quantities["descan"].line()
    assert geometry.center == pytest.approx((PIXELS // 2,) * 2, abs=0.02) and geometry.errors["center"].max() < 0.02
    truth = DetectorGeometry((PIXELS // 2,) * 2, PIXEL, geometry.semi_convergence_angle)
    seen, expected = ((pattern * bright_field(pattern.shape, one)).sum() for one in (geometry, truth))
    assert seen == pytest.approx(expected, rel=0.01) and expected > 0.95 * pattern.sum()


@pytest.mark.parametrize("origin", [0.0, 1e-6])
def test_descan_pivots_about_the_middle_of_the_scan(origin):
    field, descan = replace(SMALL, origin=(origin, origin)), np.array([[2e9, 0.0], [-1e9, 1.5e9]])
    scan, pattern = moving_disk(field, descan)
    geometry = calibrate(pattern, scan, Known(pixel_angle=PIXEL)).geometry
    positions = field.positions()
    middle = positions.mean(axis=0)
    assert geometry.descan_origin == pytest.approx(middle)
    expected = PIXELS // 2 + (positions - middle) @ descan.T
    assert geometry.center + geometry.shifts(positions) == pytest.approx(expected, abs=0.15)


def test_a_stated_descan_stands_where_none_is_measured():
    field, descan = replace(SMALL, origin=(1e-6, 0.0)), np.array([[1e6, 0.0], [0.0, 1e6]])
    middle = field.positions().mean(axis=0)
    stated = DetectorGeometry((PIXELS // 2,) * 2, PIXEL, descan=descan, descan_origin=tuple(middle))
    scan, pattern = moving_disk(field, descan)
    found = calibrate(pattern, scan, Known(stated))
    assert found.geometry.descan == pytest.approx(descan)
    assert "stated (not measured: 480 positions, 0 left out; within its errors" in found.quantities["descan"].line()
    wrong = calibrate(pattern, scan, Known(replace(stated, descan=descan * 1e4)))
    assert not wrong.geometry.descan.any() and "DIFFERS" in wrong.comparisons["descan"].line()
    line = ScanData(field, scan.center_of_mass[:24], scan.errors[:24])
    along = calibrate(pattern, line, Known(stated))
    assert along.geometry.descan == pytest.approx(descan) and "lie on a line" in along.quantities["descan"].note
    assert along.geometry.descan_origin == pytest.approx(field.positions()[:24].mean(axis=0))
    # Without a disk the stated centre is where the stated geometry has it in the middle of the scan.
    away = replace(stated, descan=descan * 1e3, descan_origin=(0.0, 0.0))
    blind = calibrate(np.zeros_like(pattern), scan, Known(away))
    assert blind.geometry.center == pytest.approx(away.center + away.shifts(middle)[0])
