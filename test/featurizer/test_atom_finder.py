"""From images with known truth to columns, lattice and defects; images in which there is nothing to find."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter, maximum_filter
from scipy.spatial import cKDTree

from edgetem_nodes.featurizer.atoms import ImageError, find_atoms
from edgetem_nodes.featurizer.atoms.drawing import HOST, ImageRanges, draw
from edgetem_nodes.featurizer.atoms.image import plane_spacing, prepared
from edgetem_nodes.featurizer.atoms.significance import maxima_of_noise, standing_out
from edgetem_nodes.physics.optics import Annulus, Probe
from edgetem_nodes.physics.specimens import Condition
from edgetem_nodes.physics.specimens.catalogue import SpecimenOptions, make_specimen
from edgetem_nodes.physics.survey import Survey

torch.set_num_threads(1)
GOOD = ImageRanges(pixel_size=(18e-12, 18e-12), probe_sigma=(45e-12, 45e-12), stretch=(-0.02, 0.02), shear=(-0.02, 0.02),
                   peak_counts=(60.0, 60.001), background=(0.1, 0.2), jitter=(0.0, 0.1), flicker=(0.0, 0.0), tail=(0.0, 0.1),
                   defects=(0.02, 0.02), contamination=(0.0, 0.0), damaged=0.0)
SHAPE = (192, 192)


def inner(places, margin=9):
    return ((places > margin) & (places < np.array(SHAPE) - 1 - margin)).all(axis=1)


@pytest.fixture(scope="module")
def molybdenum_disulphide():
    drawn = draw(np.random.default_rng(3), SHAPE, GOOD, crystal=2)
    return drawn, find_atoms(drawn.image, drawn.pixel_size, material="MoS2")


def test_every_column_is_found_where_it_is(molybdenum_disulphide):
    drawn, found = molybdenum_disulphide
    places = found.positions[found.found]
    near, truth = cKDTree(drawn.positions).query(places)
    assert (near[inner(places)] < 2).mean() > 0.98
    recall, _ = cKDTree(places).query(drawn.positions[inner(drawn.positions)])
    assert (recall < 2).mean() > 0.97
    good = inner(places) & (near < 2)
    deviation = ((places - drawn.positions[truth]) / found.position_errors[found.found])[good]
    assert 0.8 < np.sqrt(np.median(deviation**2) / 0.455) < 1.6


def test_lattice_within_its_error(molybdenum_disulphide):
    drawn, found = molybdenum_disulphide
    lattice = found.lattice
    change = np.rint(lattice.vectors @ np.linalg.inv(drawn.vectors))
    deviation = (lattice.vectors - change @ drawn.vectors).ravel() / np.sqrt(np.diag(lattice.covariance))
    assert np.abs(deviation).max() < 4.5
    assert (lattice.length_errors / lattice.lengths).max() < 2e-3
    assert found.sublattices[0].completeness.fraction > 0.97
    assert found.sublattices[1].amplitude == pytest.approx(2 * (16 / 42) ** 1.7, rel=0.1)


def test_defects_are_named(molybdenum_disulphide):
    drawn, found = molybdenum_disulphide
    truth = np.vstack([drawn.positions, drawn.vacancies])
    kinds = np.r_[drawn.kinds, np.full(len(drawn.vacancies), 3)]
    near, site = cKDTree(found.positions).query(truth)
    counted = inner(truth, 12) & (near < 3) & np.isfinite(found.probabilities[site, 0])
    called = ~np.isin(found.kinds[site], ("host", "unknown", "off-lattice"))
    real = kinds != HOST
    assert real[counted].sum() >= 5
    assert (called & real & counted).sum() >= 0.8 * (real & counted).sum()
    assert (called & ~real & counted).sum() <= 2
    rows = found.candidates()
    assert np.all(np.diff(found.probabilities[rows, 0]) >= 0)


def test_the_virtual_microscope_is_read():
    """A doped sheet of the virtual microscope, imaged atom by atom with physical cross-sections, which were not trained on."""
    options = SpecimenOptions(strain=0.0, vacancy_density=0.0, dopant="V", dopant_fraction=0.03, domain_size=0.0)
    specimen = make_specimen("MoS2", (4e-9, 4e-9), 5, options)
    pixel = 20e-12
    grid = np.stack(np.meshgrid(np.arange(192), np.arange(192), indexing="ij"), -1).reshape(-1, 2) * pixel
    survey = Survey(specimen, Probe(60e3, 30e-3, source_size=0.8e-10), Annulus(70e-3, 200e-3))
    current = survey.currents(grid).reshape(192, 192)
    image = np.random.default_rng(0).poisson(current / current.max() * 80).astype(float)
    found = find_atoms(image, pixel, material="MoS2")
    constant = np.sqrt(found.lattice.area * 2 / np.sqrt(3)) * pixel
    assert constant == pytest.approx(3.16e-10, rel=3e-3)
    assert found.sublattices[0].completeness.fraction > 0.97
    atoms = specimen.atoms(np.array([0.3e-9, 0.3e-9]), np.array([3.5e-9, 3.5e-9]), Condition())
    vanadium = atoms.positions[atoms.atomic_numbers == 23][:, 1:] / pixel
    assert len(vanadium) >= 2
    metal = np.flatnonzero(found.sublattice == 0)
    near, site = cKDTree(found.positions[metal]).query(vanadium)
    assert near.max() < 2
    assert (found.kinds[metal[site]] == "lighter").mean() >= 0.8
    hosts = atoms.positions[atoms.atomic_numbers == 42][:, 1:] / pixel
    _, site = cKDTree(found.positions[metal]).query(hosts)
    assert (found.kinds[metal[site]] == "host").mean() > 0.97


def test_fine_pixels_are_binned_and_dark_columns_found():
    drawn = draw(np.random.default_rng(4), (384, 384), replace(GOOD, pixel_size=(9e-12, 9e-12), defects=(0.0, 0.0)), crystal=4)
    bright = find_atoms(drawn.image, drawn.pixel_size)
    dark = find_atoms(100.0 - drawn.image, drawn.pixel_size, contrast="dark")
    assert bright.pixel_size == pytest.approx(9e-12)
    near, _ = cKDTree(drawn.positions).query(bright.positions[bright.found])
    assert np.median(near) < 0.5
    assert bright.lattice.area == pytest.approx(abs(np.linalg.det(drawn.vectors)), rel=5e-3)
    assert np.allclose(np.sort(dark.positions[dark.found], axis=0), np.sort(bright.positions[bright.found], axis=0), atol=1e-6)


def test_unknown_pixel_size_gives_pixels():
    drawn = draw(np.random.default_rng(5), SHAPE, replace(GOOD, defects=(0.0, 0.0)), crystal=4)
    found = find_atoms(drawn.image)
    assert found.pixel_size is None and any("not known" in note for note in found.notes)
    assert found.lattice.area == pytest.approx(abs(np.linalg.det(drawn.vectors)), rel=5e-3)


def test_amorphous_atoms_have_no_lattice():
    from edgetem_nodes.featurizer.atoms.drawing import render

    rng = np.random.default_rng(6)
    places = rng.uniform(0, 192, (160, 2))
    image = rng.poisson(render(places, np.full(160, 40.0), SHAPE, 2.5) + 5.0)
    found = find_atoms(image, 20e-12)
    assert found.lattice is None and found.no_lattice
    assert set(found.kinds) == {"off-lattice"} and len(found.candidates()) == 0
    near, _ = cKDTree(places).query(found.positions)
    assert (near < 3).mean() > 0.8


@pytest.mark.parametrize("mean", [0.2, 1.0, 5.0, 100.0])
def test_counting_noise_has_no_columns(mean):
    for seed in (0, 5):
        with pytest.raises(ImageError, match="columns"):
            find_atoms(np.random.default_rng(seed).poisson(mean, (256, 256)), 20e-12)


@pytest.mark.parametrize("image", [np.random.default_rng(7).normal(10, 1, (128, 128)),
                                   np.random.default_rng(8).random((128, 160))])
def test_noise_alone_has_no_columns(image):
    for pixel in (12e-12, 40e-12, None):
        with pytest.raises(ImageError, match="columns"):
            find_atoms(image, pixel)


@pytest.mark.parametrize("sigma", [3.0, 5.0])
def test_maxima_of_smoothed_noise_are_counted(sigma):
    """Against white noise smoothed with a column's Gaussian, the field of what a matched filter gives."""
    rng, shape, heights = np.random.default_rng(9), (512, 512), np.array([3.0, 3.5])
    counted = np.zeros(2)
    for _ in range(24):
        field = gaussian_filter(rng.normal(size=shape), sigma, mode="wrap") * (2 * np.sqrt(np.pi) * sigma)
        top = (field == maximum_filter(field, 3, mode="wrap"))
        counted += [(field[top] > height).sum() for height in heights]
    expected = 24 * maxima_of_noise(heights, sigma, shape)
    assert (np.abs(counted - expected) < 3 * np.sqrt(expected) + 0.08 * expected).all()


def test_weak_columns_are_kept_where_many_stand_out():
    """Four standard errors are rare in noise, but not as rare as in an image of which most places have a column."""
    strong, weak = np.full(400, 6.0), np.full(5, 3.0)
    assert standing_out(np.r_[strong, weak], 2.0, (128, 128)).all()
    assert not standing_out(weak, 2.0, (128, 128)).any()
    assert standing_out(np.r_[6.0, weak], 2.0, (128, 128)).tolist() == [True] + [False] * 5


def test_missing_pixels_are_left_out():
    drawn = draw(np.random.default_rng(8), SHAPE, replace(GOOD, defects=(0.0, 0.0)), crystal=4)
    image = drawn.image.astype(float)
    image[60:75, 60:75] = np.nan
    found = find_atoms(image, drawn.pixel_size)
    assert any("225 pixels" in note for note in found.notes)
    assert not ((found.positions > 60.5) & (found.positions < 73.5)).all(axis=1).any()


@pytest.mark.parametrize("image, pixel, message", [
    (np.zeros((0, 0)), 2e-11, "too small"),
    (np.ones((64, 64)), 2e-11, "constant"),
    (np.full((64, 64), np.nan), 2e-11, "not finite"),
    (np.zeros((64, 64, 3)), 2e-11, "no image"),
    (np.ones((64, 64), complex), 2e-11, "no image"),
    (np.eye(64) * 1e300, 2e-11, "no detector counts beyond"),
    (np.random.default_rng(0).normal(size=(64, 64)), 2e-10, "too coarse"),
    (np.random.default_rng(0).normal(size=(64, 64)), -1.0, "not a positive length"),
    (np.random.default_rng(0).normal(size=(64, 64)), 2e-13, "or more are needed"),
    (np.minimum(np.random.default_rng(0).normal(size=(64, 64)), 1.0), 2e-11, "saturated"),
])
def test_what_is_no_image_is_refused(image, pixel, message):
    with pytest.raises(ImageError, match=message):
        find_atoms(image, pixel)


def test_contrast_is_bright_or_dark():
    with pytest.raises(ImageError, match="neither"):
        find_atoms(np.ones((64, 64)), contrast="grey")


def test_plane_spacing():
    y, x = np.indices((128, 128))
    image = np.cos(2 * np.pi * (0.6 * y + 0.8 * x) / 11.0) + np.random.default_rng(9).normal(0, 0.5, (128, 128))
    assert plane_spacing(image) == pytest.approx(11.0, rel=0.05)
    assert prepared(image, None).pixel_size is None
