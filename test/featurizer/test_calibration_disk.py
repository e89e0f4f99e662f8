"""The fitted bright-field disk against exact patterns at finite dose, and what is refused."""

import numpy as np
import pytest
import torch
from calibration_truth import disk_pattern

from edgetem_nodes.featurizer.calibration.disk import LARGEST_MISFIT, LEAST_EDGE, fit_disk
from edgetem_nodes.featurizer.features import CountingNoise
from edgetem_nodes.physics.diffraction import Diffraction
from edgetem_nodes.physics.numerics import Numerics
from edgetem_nodes.physics.optics import Camera, Probe
from edgetem_nodes.physics.specimens.catalogue import SpecimenOptions
from edgetem_nodes.physics.specimens.perovskite import Perovskite

SHAPE, CENTER, RADIUS, ELLIPTICITY = (64, 64), (31.3, 32.8), 14.2, (0.02, -0.01)
TRUTH = np.array([*CENTER, RADIUS, *ELLIPTICITY])
PLAIN = disk_pattern(SHAPE, CENTER, RADIUS, ELLIPTICITY, subdivision=16)


def values(disk):
    return np.array([*disk.center, disk.radius, *disk.ellipticity])


def pulls(expected, count, truth=TRUTH, seed=0, **options):
    generator, result = np.random.default_rng(seed), []
    for _ in range(count):
        disk = fit_disk(generator.poisson(expected), **options)
        result.append((values(disk) - truth) / disk.standard_errors[:5])
    return np.array(result)


@pytest.mark.parametrize("dose", [3e4, pytest.param(3e5, marks=pytest.mark.slow)])
def test_pulls_have_unit_variance(dose):
    found = pulls(PLAIN * dose, 12)
    assert found.std(axis=0) == pytest.approx(1.0, abs=0.75)
    assert np.abs(found.mean(axis=0)).max() < 1.0
    assert (found**2).mean() == pytest.approx(1.0, abs=0.5)


def test_exact_pattern_gives_its_own_parameters():
    disk = fit_disk(PLAIN * 1e9)
    assert disk.center == pytest.approx(CENTER, abs=0.004)
    assert disk.radius == pytest.approx(RADIUS, abs=0.01)
    assert disk.ellipticity == pytest.approx(ELLIPTICITY, abs=4e-4)
    assert np.linalg.det(disk.distortion) == pytest.approx(1.0)
    assert disk.axis_ratio == pytest.approx(np.exp(2 * np.hypot(0.02, 0.01)), abs=1e-3)


def test_contrast_inside_the_disk_does_not_move_it():
    """Off-centre brightness moves the centre of mass by more than a pixel, the edge by a few hundredths."""
    uneven = disk_pattern(SHAPE, CENTER, RADIUS, ELLIPTICITY,
                          inside=lambda y, x: 1 + 0.4 * np.cos(7 * y) * np.cos(7 * x) + 0.35 * x)
    assert abs((uneven * np.arange(64)).sum() - CENTER[1]) > 1.0
    disk = fit_disk(np.random.default_rng(1).poisson(uneven * 1e6))
    assert disk.center == pytest.approx(CENTER, abs=0.06)
    assert disk.radius == pytest.approx(RADIUS, abs=0.15)
    assert disk.ellipticity == pytest.approx(ELLIPTICITY, abs=3e-3)


@pytest.mark.parametrize(("shape", "radius"), [((64, 64), 4.3), ((96, 160), 30.2)])
def test_small_and_large_disks_on_other_detectors(shape, radius):
    expected = disk_pattern(shape, (41.4, 40.1) if shape[0] > 64 else CENTER, radius)
    disk = fit_disk(np.random.default_rng(2).poisson(expected * 3e5))
    assert disk.radius == pytest.approx(radius, abs=4 * disk.standard_errors[2])
    assert disk.standard_errors[2] < 0.1


def test_beam_stop_over_part_of_the_disk():
    mask = np.ones(SHAPE, bool)
    mask[28:36, :40] = False
    pattern = PLAIN * 1e5
    pattern[~mask] = np.nan
    disk = fit_disk(np.where(mask, np.random.default_rng(3).poisson(PLAIN * 1e5), np.nan))
    assert disk.left_out == 320 and disk.elliptical and 0.8 < disk.edge_seen < 1
    assert values(disk) == pytest.approx(TRUTH, abs=4 * disk.standard_errors[:5].max())
    assert np.abs(values(disk) - TRUTH)[3:].max() < 5e-3
    assert fit_disk(np.nan_to_num(pattern), mask).center == pytest.approx(CENTER, abs=0.01)


def test_half_an_edge_gives_a_circle_with_the_errors_of_an_unknown_ellipticity():
    mask = np.ones(SHAPE, bool)
    mask[:, 30:] = False
    found = pulls(PLAIN * 1e5, 4, mask=mask)
    disk = fit_disk(np.random.default_rng(4).poisson(PLAIN * 1e5), mask)
    assert not disk.elliptical and LEAST_EDGE < disk.edge_seen < 0.6
    assert np.abs(found[:, :3]).max() < 3.5
    assert disk.standard_errors[1] > 5 * fit_disk(PLAIN * 1e5).standard_errors[1]


def test_disk_cut_by_the_detector_edge():
    center = (5.3, 32.8)
    expected = disk_pattern(SHAPE, center, RADIUS, ELLIPTICITY)
    disk = fit_disk(np.random.default_rng(5).poisson(expected * 1e5))
    assert np.abs(values(disk) - [*center, RADIUS, *ELLIPTICITY]).max() < 4 * disk.standard_errors[:3].max()
    with pytest.raises(ValueError, match="no disk"):
        fit_disk(np.random.default_rng(6).poisson(disk_pattern(SHAPE, (-12.3, 32.8), RADIUS) * 1e5))


def test_the_bright_disk_is_found_among_bragg_disks():
    pattern = disk_pattern((96, 96), (48.3, 47.6), 3.7, background=0.0) * 1e5
    for angle in np.arange(6) * np.pi / 3 + 0.3:
        pattern += disk_pattern((96, 96), (48.3 + 15 * np.sin(angle), 47.6 + 15 * np.cos(angle)), 3.7, background=0.0) * 4e3
    disk = fit_disk(np.random.default_rng(9).poisson(pattern + 0.3))
    assert disk.center == pytest.approx((48.3, 47.6), abs=0.04) and disk.radius == pytest.approx(3.7, abs=0.05)


Y, X = np.mgrid[:64, :64] - 31.5


@pytest.mark.parametrize("scene", [np.ones(SHAPE), np.exp(-(Y**2 + X**2) / 128), np.exp(-(Y**2 + X**2) / 18),
                                   1 + X / 40, (np.hypot(Y, X) > 15) * 1.0], ids=["flat", "blob", "spot", "ramp", "hole"])
@pytest.mark.parametrize("dose", [3e3, 1e6])
def test_what_is_no_disk_is_refused(scene, dose):
    with pytest.raises(ValueError, match="disk"):
        fit_disk(np.random.default_rng(7).poisson(scene / scene.sum() * dose))


@pytest.fixture(scope="module")
def thick_crystal():
    """8 nm of SrTiO3 on a zone axis: the patterns at probe positions [m]."""
    torch.set_num_threads(1)
    specimen = Perovskite("SrTiO3", (2e-9, 2e-9), 0, SpecimenOptions(thickness=8e-9, domain_size=0.0, strain=0.0))
    return Diffraction(specimen, Probe(200e3, 21e-3), Camera(64, 1.5e-3), Numerics()).patterns


@pytest.mark.slow
def test_single_patterns_on_columns_of_a_thick_crystal_are_refused(thick_crystal):
    positions = 5e-10 + 3.905e-10 / 16 * np.array([(0, 0), (4, 4), (2, 6), (8, 8)])
    for pattern in thick_crystal(positions):
        with pytest.raises(ValueError, match="not of a disk|no disk"):
            fit_disk(np.random.default_rng(0).poisson(np.maximum(pattern, 0) * 1e6))


@pytest.mark.slow
def test_errors_of_the_mean_of_a_thick_crystal_cover(thick_crystal):
    """Of whole unit cells; the mean of one row is up to a third of a pixel off, which its errors say to a factor of six."""
    cell = 3.905e-10 / 8 * np.mgrid[:8, :8].reshape(2, -1).T
    patterns = np.maximum(thick_crystal(5e-10 + cell), 0).reshape(8, 8, 64, 64)
    disk = fit_disk(np.random.default_rng(0).poisson(patterns.mean(axis=(0, 1)) * 1e7))
    assert disk.chi_square > 10 and 0.02 < disk.misfit < 0.06
    assert np.abs((np.array(disk.center) - 32) / disk.standard_errors[:2]).max() < 3
    assert abs(disk.radius - 14) < 3 * disk.standard_errors[2]
    row = fit_disk(np.random.default_rng(0).poisson(patterns[0].mean(axis=0) * 1e7))
    assert 1.3 * disk.misfit < row.misfit < LARGEST_MISFIT
    assert np.abs(np.array(row.center) - 32).max() < 0.35
    assert np.abs((np.array(row.center) - 32) / row.standard_errors[:2]).max() < 6


def test_contrast_that_hides_the_edge_is_refused():
    uneven = disk_pattern(SHAPE, CENTER, RADIUS, inside=lambda y, x: 1 + 0.9 * np.cos(7 * y) * np.cos(7 * x))
    with pytest.raises(ValueError, match="contrast of .* % of the disk that is not of a disk, more than 15 %"):
        fit_disk(np.random.default_rng(1).poisson(uneven * 1e6))


def test_misfit_does_not_grow_with_the_dose_and_gain_does_not_change_it():
    uneven = disk_pattern(SHAPE, CENTER, RADIUS, ELLIPTICITY, inside=lambda y, x: 1 + 0.3 * np.cos(7 * y) * np.cos(7 * x))
    electrons = [np.random.default_rng(1).poisson(uneven * dose) for dose in (1e6, 1e7)]
    weak, strong = (fit_disk(one) for one in electrons)
    assert strong.chi_square > 5 * weak.chi_square and strong.misfit == pytest.approx(weak.misfit, rel=0.1)
    assert strong.misfit == pytest.approx(fit_disk(electrons[1] * 30.0, noise=CountingNoise(30.0)).misfit, rel=1e-3)
    # 0.3 cos cos has an rms of 0.15, of which the half outside the edge has none and the harmonics take a part.
    assert 0.05 < strong.misfit < 0.15 / np.sqrt(2)
    assert np.abs((values(strong) - TRUTH) / strong.standard_errors[:5]).max() < 4
    assert fit_disk(np.random.default_rng(2).poisson(PLAIN * 1e5)).misfit < 0.03


def test_refusals_name_the_reason():
    with pytest.raises(ValueError, match="the pattern holds 0 electrons: a disk needs 200"):
        fit_disk(np.zeros(SHAPE))
    with pytest.raises(ValueError, match="no pixel of the pattern may be used"):
        fit_disk(np.full(SHAPE, np.nan))
    with pytest.raises(ValueError, match=r"mask of shape \(3, 3\) does not fit"):
        fit_disk(PLAIN, np.ones((3, 3), bool))
    with pytest.raises(ValueError, match="8 x 8 or more"):
        fit_disk(np.ones(5))
    with pytest.raises(ValueError, match="part of the disk|no disk"):
        mask = np.ones(SHAPE, bool)
        mask[10:53, 10:56] = False
        fit_disk(PLAIN * 1e5, mask)


def test_gain_scales_the_errors_not_the_values():
    electrons = np.random.default_rng(8).poisson(PLAIN * 1e5)
    one, other = fit_disk(electrons), fit_disk(electrons * 30.0, noise=CountingNoise(30.0))
    assert values(other) == pytest.approx(values(one), abs=1e-4)
    assert other.standard_errors == pytest.approx(one.standard_errors, rel=0.02)
    noisy = fit_disk(electrons, noise=CountingNoise(1.0, 2.0), frames=100)
    assert (noisy.standard_errors[:3] > 1.5 * one.standard_errors[:3]).all()
