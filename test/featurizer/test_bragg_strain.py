"""Strain of any crystal from Bragg disks: at the Cramer-Rao bound, unbiased, with errors that cover, or with a reason."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from analytic_patterns import deformation
from bragg_patterns import BASIS, CENTRE, EDGE, GEOMETRY, INDICES, RADIUS, SHAPE, counted, ideal

from edgetem_nodes.featurizer.bragg import Reference, StrainMapper, Template, strain_bound, strained
from edgetem_nodes.featurizer.features import CountingNoise
from edgetem_nodes.featurizer.patterns.events import Events
from edgetem_nodes.featurizer.patterns.geometry import DetectorGeometry

COMPONENTS = {"exx": 0.010, "eyy": -0.006, "exy": 0.004, "rotation": np.radians(1.5)}
NAMES = list(COMPONENTS)
DEFORMED = deformation(**COMPONENTS)


def known(mapper: StrainMapper) -> StrainMapper:
    """The mapper relative to the undeformed lattice, in the indexing that the mapper found, free of the sample's noise."""
    to_scan = mapper.geometry.to_scan() @ (mapper.geometry.pixel_angle * mapper.geometry.distortion)
    integer = np.rint(np.linalg.solve(BASIS, mapper.model.lattice.basis))
    return mapper.with_reference(Reference("undeformed", to_scan @ BASIS @ integer))


@pytest.fixture(scope="module")
def mapper() -> StrainMapper:
    """Learnt from 60 undeformed patterns of 1e4 electrons."""
    return known(StrainMapper.learn(counted(ideal(1e4), 60, np.random.default_rng(0)), GEOMETRY))


@pytest.mark.parametrize(("electrons", "limit"), [(1e3, 0.011), (1e4, 0.0025), (1e5, 1e-3)])
def test_ideal_disks_reach_the_cramer_rao_bound(electrons, limit):
    """Learnt and mapped at one dose; the bound's derivatives are differences of patterns drawn by brute force."""
    rng = np.random.default_rng(1)
    mapper = known(StrainMapper.learn(counted(ideal(electrons), 60, rng), GEOMETRY))
    strained_pattern = ideal(electrons, DEFORMED, shift=(0.4, -0.7))
    features = mapper(counted(strained_pattern, 300, rng))
    assert features.valid.mean() > 0.99, features.failures
    bound = strain_bound(strained_pattern)
    for column, name in enumerate(NAMES):
        errors = features.values[features.valid, column] - COMPONENTS[name]
        stated = features.standard_errors[features.valid, column]
        assert np.sqrt((errors**2).mean()) < 1.25 * bound[name], name
        assert np.sqrt((errors**2).mean()) < limit, name
        assert abs(errors.mean()) < 0.25 * bound[name], name
        assert (errors / stated).std() == pytest.approx(1.0, abs=0.12), name
    assert np.nanmedian(features.values[:, mapper.names.index("lattice_chi_square")]) == pytest.approx(1.0, abs=0.15)


def test_rotation_is_within_a_fifth_of_a_degree(mapper):
    rng = np.random.default_rng(2)
    for degrees in (-4.0, -1.0, 2.0, 4.0):
        features = mapper(counted(ideal(1e4, deformation(rotation=np.radians(degrees))), 20, rng))
        found = np.degrees(features.values[:, NAMES.index("rotation")])
        assert features.valid.all(), features.failures
        assert np.abs(found - degrees).max() < 0.2, degrees


@pytest.mark.parametrize("flipped", [False, True])
def test_strain_comes_in_the_axes_of_the_scan(flipped):
    """A detector turned by 30 degrees, flipped and elliptical: the same strain in the scan's axes."""
    distortion = np.array([[1.02, 0.015], [0.015, (1 + 0.015**2) / 1.02]])
    geometry = DetectorGeometry((48.0, 48.0), 1e-3, 4.05e-3, distortion=distortion, rotation=np.radians(30.0), flipped=flipped)
    to_pixels = np.linalg.inv(distortion) @ geometry.to_detector()
    rng = np.random.default_rng(3)
    # F in the scan's axes; reciprocal vectors g' = F^-T g there, seen on the detector through to_pixels
    vectors = np.linalg.solve(to_pixels, BASIS)
    basis = to_pixels @ np.linalg.inv(DEFORMED).T @ vectors
    model = StrainMapper.learn(counted(ideal(1e5), 20, rng), geometry, template=Template.disk(RADIUS, EDGE))
    features = known(model)(counted(ideal(1e5, basis=basis), 40, rng))
    assert features.valid.all(), features.failures
    for column, name in enumerate(NAMES):
        assert features.values[:, column].mean() == pytest.approx(COMPONENTS[name], abs=2e-4), name


def test_strain_relative_to_a_region_is_that_between_the_regions(mapper):
    rng = np.random.default_rng(4)
    one, other = deformation(0.004, -0.002, 0.001, 0.01), DEFORMED
    features = mapper(np.concatenate([counted(ideal(1e5, one), 30, rng), counted(ideal(1e5, other), 30, rng)]))
    region = np.arange(60) < 30
    again = strained(features, Reference.of_region(features, region, "substrate"))
    assert np.abs(again.values[region, :4].mean(axis=0)).max() < 2e-4
    # F2 F1^-1 = R (1 + strain)
    relative = other @ np.linalg.inv(one)
    left, stretches, right = np.linalg.svd(relative)
    stretch = right.T @ np.diag(stretches) @ right
    expected = [stretch[1, 1] - 1, stretch[0, 0] - 1, stretch[0, 1]]
    assert again.values[~region, :3].mean(axis=0) == pytest.approx(expected, abs=2e-4)
    with pytest.raises(ValueError, match="reference region"):
        Reference.of_region(features, np.zeros(60, bool))


def test_a_crystal_known_in_metres_is_a_reference(mapper):
    wavelength = 2.5e-12
    crystal = Reference.of_crystal("crystal", mapper.reference.vectors / wavelength, wavelength)
    frames = counted(ideal(1e5, DEFORMED), 5, np.random.default_rng(5))
    assert mapper.with_reference(crystal)(frames).values == pytest.approx(mapper(frames).values, rel=1e-9)


def test_blocks_and_events_give_the_same_rows(mapper):
    frames = counted(ideal(3e3, DEFORMED), 30, np.random.default_rng(6))
    whole = mapper(frames)
    events = mapper(Events.of(frames))
    parts = [mapper(frames[first:first + size]) for first, size in ((0, 1), (1, 6), (7, 23))]
    assert np.array_equal(whole.values, events.values, equal_nan=True)
    assert np.array_equal(whole.standard_errors, events.standard_errors, equal_nan=True)
    assert np.array_equal(whole.values, np.concatenate([part.values for part in parts]), equal_nan=True)
    threads = StrainMapper(replace(mapper.model, threads=2), mapper.geometry, mapper.reference)(np.repeat(frames, 5, axis=0))
    assert np.array_equal(threads.values, np.repeat(whole.values, 5, axis=0), equal_nan=True)
    assert mapper(frames[:0]).values.shape == (0, len(mapper.names))


def test_descan_is_followed(mapper):
    geometry = replace(GEOMETRY, descan=np.array([[3e9, 0.0], [0.0, 3e9]]))
    positions = np.array([[0.0, 0.0], [2e-9, -2e-9]])
    frames = np.concatenate([counted(ideal(1e5, DEFORMED, shift=geometry.shifts(positions)[i]), 1, np.random.default_rng(i))
                             for i in (0, 1)])
    features = StrainMapper(mapper.model, geometry, mapper.reference)(frames, positions)
    assert features.valid.all(), features.failures
    assert features.details["centre"] - CENTRE == pytest.approx(geometry.shifts(positions), abs=0.05)
    assert features.values[:, 0] == pytest.approx([COMPONENTS["exx"]] * 2, abs=2e-3)


def test_gain_and_readout_noise_are_in_the_errors():
    rng = np.random.default_rng(7)

    def frames(pattern, rows):
        return 5.0 * counted(pattern, rows, rng) + rng.normal(0.0, 2.0, (rows, *SHAPE))
    mapper = known(StrainMapper.learn(frames(ideal(2e4), 40), GEOMETRY, noise=CountingNoise(5.0, 2.0), contrast="uniform",
                                      template=Template.disk(RADIUS, EDGE)))
    pattern = ideal(2e4, DEFORMED)
    features = mapper(frames(pattern, 200))
    bound = strain_bound(replace(pattern, readout=2.0 / 5.0))
    assert features.valid.all(), features.failures
    for column, name in enumerate(NAMES):
        errors = features.values[:, column] - COMPONENTS[name]
        assert np.sqrt((errors**2).mean()) < 1.25 * bound[name], name
        assert (errors / features.standard_errors[:, column]).std() == pytest.approx(1.0, abs=0.15), name


def test_a_beam_stop_does_not_matter():
    rng = np.random.default_rng(8)
    y, x = np.indices(SHAPE)
    mask = np.hypot(y - CENTRE[0], x - CENTRE[1]) > 6.0
    sample, pattern = counted(ideal(1e4), 40, rng, stop=6.0), ideal(1e4, DEFORMED)
    mapper = known(StrainMapper.learn(sample, GEOMETRY, mask=mask, template=Template.disk(RADIUS, EDGE)))
    features = mapper(counted(pattern, 100, rng, stop=6.0))
    assert features.valid.all(), features.failures
    bound = strain_bound(replace(pattern, mask=mask))
    for column, name in enumerate(NAMES):
        assert np.sqrt(((features.values[:, column] - COMPONENTS[name])**2).mean()) < 1.3 * bound[name], name


def test_what_has_no_lattice_says_why(mapper):
    rng = np.random.default_rng(9)
    good = counted(ideal(1e4), 1, rng)[0]
    saturated = good.copy()
    row, column = np.rint(CENTRE + BASIS[:, 0]).astype(int)
    saturated[row, column] = 65535
    central = good.copy()
    central[tuple(np.rint(CENTRE).astype(int))] = 65535
    line = counted(ideal(1e4, indices=np.array([(1, 0), (-1, 0), (2, 0), (-2, 0)])), 1, rng)[0]
    frames = np.stack([good, np.zeros_like(good), rng.poisson(0.2, SHAPE).astype(np.uint16), saturated, line,
                       counted(ideal(10.0), 1, rng)[0], central])
    features = mapper(frames)
    reasons = features.failures
    assert [bool(reason) for reason in reasons] == [False, True, True, True, True, True, False], reasons
    assert "empty" in reasons[1]
    assert "no such lattice here" in reasons[2] and ("lattice here" in reasons[5] or "too few electrons" in reasons[5])
    assert "1 of the pixels in use are saturated" in reasons[3]
    assert "lie on one line" in reasons[4]
    assert np.isnan(features.values[~features.valid, :5]).all()
    undefined = good.astype(float)
    undefined[row, column] = np.nan
    assert "not finite" in mapper(undefined[None]).failures[0]


def test_noise_is_given_no_strain(mapper):
    rng = np.random.default_rng(12)
    assert not mapper(np.concatenate([rng.poisson(mean, (40, *SHAPE)) for mean in (0.01, 0.1, 1.0)])).valid.any()


def test_disks_off_the_detector_are_said_to_be(mapper):
    """A pattern that descan has moved by 45 pixels; and one moved by 12, half of whose disks are still there."""
    geometry = replace(GEOMETRY, descan=np.array([[1e9, 0.0], [0.0, 1e9]]))
    moved = StrainMapper(mapper.model, geometry, mapper.reference)
    far, near = np.array([[60e-9, 60e-9]]), np.array([[12e-9, 0.0]])
    features = moved(counted(ideal(1e4, shift=(60.0, 60.0)), 1, np.random.default_rng(10)), far)
    assert "off the detector" in features.failures[0]
    features = moved(counted(ideal(1e5, DEFORMED, shift=(12.0, 0.0)), 1, np.random.default_rng(11)), near)
    assert features.valid.all(), features.failures
    assert np.abs(features.values[0, :4] - list(COMPONENTS.values())).max() < 4 * features.standard_errors[0, :4].max()


def test_patterns_of_another_shape_are_refused(mapper):
    with pytest.raises(ValueError, match="64 x 64 pixels do not fit a model learnt from 96 x 96"):
        mapper(np.zeros((1, 64, 64), np.uint16))


def test_few_disks_of_known_indices_only(mapper):
    """The mapper's disks are those of the pattern, the central one left out."""
    places = mapper.model.lattice.places(mapper.model.indices)
    truth = CENTRE + INDICES @ BASIS.T
    assert len(places) == len(INDICES)
    assert np.linalg.norm(places[:, None] - truth, axis=-1).min(axis=1).max() < 0.1


@pytest.mark.parametrize("told", [False, True])
def test_a_stop_over_a_row_of_disks_biases_nothing(told):
    """A holder 6 pixels wide that cuts disks in part, named in a mask or found by its silence."""
    rng = np.random.default_rng(13)
    y, x = np.indices(SHAPE)
    hidden = (np.hypot(y - CENTRE[0], x - CENTRE[1]) < 6.0) | (np.abs(x - CENTRE[1]) < 3) & (y > CENTRE[0])
    sample, frames = (np.where(hidden, 0, counted(pattern, rows, rng)).astype(np.uint16)
                      for pattern, rows in ((ideal(2e4), 60), (ideal(2e4, DEFORMED), 300)))
    mapper = known(StrainMapper.learn(sample, GEOMETRY, mask=~hidden if told else None))
    features = mapper(frames)
    assert features.valid.all(), features.failures
    bound = strain_bound(replace(ideal(2e4, DEFORMED), mask=~hidden))
    for column, name in enumerate(NAMES):
        errors = features.values[:, column] - COMPONENTS[name]
        assert abs(errors.mean()) < 0.4 * bound[name], name
        assert np.sqrt((errors**2).mean()) < 1.25 * bound[name], name
