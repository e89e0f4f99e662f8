"""Patterns that are not the learnt lattice's end as failures or with larger errors; turned lattices have a median."""

import numpy as np
import pytest
from analytic_patterns import disk_image, hexagonal_places, pattern_axes
from bragg_patterns import GEOMETRY as IDEAL
from bragg_patterns import EDGE, RADIUS, counted, ideal

from edgetem_nodes.featurizer.bragg import StrainMapper, Template
from edgetem_nodes.featurizer.deformation import median_lattice
from edgetem_nodes.featurizer.patterns.geometry import DetectorGeometry
from edgetem_nodes.physics.electrons import wavelength

AXES = pattern_axes(96)
GEOMETRY = DetectorGeometry.of_axes(AXES, 3e-3)


def patterns(places, strengths, count, seed, background=0.3):
    expected = disk_image(np.concatenate([[[0, 0]], places]), np.r_[2e4, strengths], 3.0, AXES) + background
    return np.random.default_rng(seed).poisson(expected, (count, 96, 96)).astype(np.uint16)


def turned(angle, places):
    cosine, sine = np.cos(angle), np.sin(angle)
    return places @ np.array([[cosine, -sine], [sine, cosine]])


HEXAGONAL = hexagonal_places(3.16e-10, wavelength(80e3), np.eye(2))


@pytest.fixture(scope="module")
def mapper():
    return StrainMapper.learn(patterns(HEXAGONAL, np.full(len(HEXAGONAL), 800.0), 40, 0), GEOMETRY, contrast="uniform")


def test_the_right_lattice_passes(mapper):
    rows = mapper(patterns(HEXAGONAL, np.full(len(HEXAGONAL), 800.0), 40, 1))
    assert rows.valid.all(), rows.failures
    pulls = rows.values[:, :3] / rows.standard_errors[:, :3]
    assert pulls.std() == pytest.approx(1.0, abs=0.2)


def test_another_crystal_is_no_strain(mapper):
    radius = np.hypot(*HEXAGONAL.T).min()
    square = radius * np.array([[0, 1], [1, 0], [0, -1], [-1, 0], [1, 1], [1, -1], [-1, 1], [-1, -1.0]])
    rows = mapper(patterns(square, np.full(8, 1200.0), 40, 2))
    assert not rows.valid.any(), rows.values[rows.valid]


def test_disks_anywhere_are_no_strain(mapper):
    rng = np.random.default_rng(3)
    frames = [patterns(rng.uniform(-40, 40, (12, 2)), np.full(12, 800.0), 1, seed) for seed in range(30)]
    assert mapper(np.concatenate(frames)).valid.sum() <= 1


def test_overlapping_grains_have_larger_errors(mapper):
    both = np.concatenate([HEXAGONAL, turned(np.radians(12), HEXAGONAL)])
    strengths = np.r_[np.full(len(HEXAGONAL), 520.0), np.full(len(HEXAGONAL), 280.0)]
    rows, plain = mapper(patterns(both, strengths, 30, 4)), mapper(patterns(HEXAGONAL, np.full(len(HEXAGONAL), 800.0), 30, 5))
    if rows.valid.any():
        assert np.nanmedian(rows.standard_errors[:, 0]) > 1.3 * np.median(plain.standard_errors[:, 0])


def test_the_median_of_turned_lattices_is_no_shorter():
    vectors = np.array([[9.0, 4.5], [0.5, 8.0]])
    angles = np.radians(np.random.default_rng(6).choice([-6.0, 6.0], 201) + np.random.default_rng(7).normal(0, 0.1, 201))
    lattices = np.array([[[np.cos(a), np.sin(a)], [-np.sin(a), np.cos(a)]] for a in angles]) @ vectors
    middle = median_lattice(lattices)
    np.testing.assert_allclose(middle.T @ middle, vectors.T @ vectors, rtol=1e-4)


def test_grains_turned_apart_do_not_bias_the_strain():
    sample = np.concatenate([patterns(turned(np.radians(a), HEXAGONAL), np.full(len(HEXAGONAL), 800.0), 20, seed)
                             for seed, a in enumerate((-4, 4))])
    mapper = StrainMapper.learn(sample, GEOMETRY, contrast="uniform")
    rows = mapper(sample)
    assert rows.valid.all(), rows.failures
    assert np.abs(rows.values[:, :3].mean(axis=0)).max() < 5e-4
    assert np.degrees(np.abs(rows.values[:, 3] - np.median(rows.values[:, 3]))).max() < 8.5


def falling(basis, electrons):
    """Disks to 40 pixels from the middle whose electrons fall off with the angle."""
    indices = np.array([(h, k) for h in range(-4, 5) for k in range(-4, 5) if (h, k) != (0, 0)])
    distance = np.hypot(*(indices @ basis.T).T)
    inside = distance < 40
    return ideal(electrons, basis=basis, indices=indices[inside], weights=np.exp(-distance[inside] / 15))


HEXAGONS, SQUARES = np.array([[0.0, 12.12], [14.0, 7.0]]), np.array([[0.0, 14.0], [14.0, 0.0]])


def test_a_lattice_that_shares_every_second_row_is_another_crystal():
    """A square under a hexagonal model fits with 13 % of strain, half of the learnt disks absent."""
    rng = np.random.default_rng(8)
    mapper = StrainMapper.learn(counted(falling(HEXAGONS, 1e4), 60, rng), IDEAL)
    rows = mapper(counted(falling(SQUARES, 1e4), 50, rng))
    assert not rows.valid.any(), rows.values[rows.valid]


def test_pixels_are_judged_by_what_the_sample_shows():
    """A gain of 10 told as 1 gives every pattern a chi-square of 10: theirs is the sample's and they pass, errors larger;
    against a sample of the true gain they do not."""
    strengths = np.full(len(HEXAGONAL), 800.0)
    sample, rows = patterns(HEXAGONAL, strengths, 40, 9), patterns(HEXAGONAL, strengths, 15, 10)
    alike = StrainMapper.learn(10 * sample, GEOMETRY, contrast="uniform")(10 * rows)
    assert alike.valid.all(), alike.failures
    assert (alike.values[:, :3] / alike.standard_errors[:, :3]).std() < 1.2
    right = StrainMapper.learn(sample, GEOMETRY, contrast="uniform")
    noisier = np.random.default_rng(11).negative_binomial(rows / 9.0 + 1e-9, 0.1)
    assert not right(noisier.astype(np.uint16)).valid.any()


def test_a_few_electrons_are_not_called_another_crystal():
    sample = counted(falling(HEXAGONS, 150.0), 150, np.random.default_rng(12))
    reasons = StrainMapper.learn(sample, IDEAL, template=Template.disk(RADIUS, EDGE))(sample).failures
    assert not any("another crystal" in reason for reason in reasons), reasons
