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


@pytest.mark.parametrize("origin", [0.0, 50e-9, 1e-6])
def test_where_the_scan_lies_does_not_move_the_disk(mos2, origin):
    """An insignificant descan, carried on to a far scan position 0, would."""
    still = DetectorGeometry(TRUTH.center, PIXEL)
    index = np.mgrid[:PIXELS, :PIXELS] - PIXELS // 2
    disk = np.hypot(*index) < CONVERGENCE / PIXEL
    counts = np.random.default_rng(5).poisson(disk * 10.0, (len(FIELD.positions()), PIXELS, PIXELS))
    total, axis = counts.sum(axis=(1, 2)), np.arange(PIXELS)
    com = np.stack([(counts.sum(axis=2) * axis).sum(axis=1), (counts.sum(axis=1) * axis).sum(axis=1)], -1) / total[:, None]
    field = replace(FIELD, origin=(origin, origin))
    scan = ScanData(field, com, np.full(com.shape, CONVERGENCE / PIXEL / 2) / np.sqrt(total)[:, None], None, None, None)
    geometry = calibrate(counts.sum(axis=0), scan, Known(still)).geometry
    assert not geometry.descan.any() and geometry.center == pytest.approx(still.center, abs=0.02)
