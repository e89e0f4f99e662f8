"""The shipped nanobeam network: accuracy, stated errors, what it refuses, and that a pattern is read by itself."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from nanobeam_patterns import PIXEL, drawn, mos2_basis, nearest_equivalent, sheet_pattern, simple_geometry, strains

from edgetem_nodes.featurizer.cbed.descriptors import UNKNOWN
from edgetem_nodes.featurizer.cbed.nanobeam import NanobeamNetwork
from edgetem_nodes.featurizer.features import CountingNoise
from edgetem_nodes.featurizer.patterns.geometry import DetectorGeometry
from edgetem_nodes.physics.electrons import wavelength


@pytest.fixture(scope="module")
def network() -> NanobeamNetwork:
    return NanobeamNetwork.shipped()


@pytest.fixture(scope="module")
def sheets(network):
    batch, exposures = drawn("MoS2", 1e5, 320, seed=1)
    return batch, exposures, network.describe(batch.patterns, exposures, material="MoS2")


def test_strain_and_rotation_of_drawn_patterns(sheets):
    batch, _, found = sheets
    known = found.identifiable["strain"]
    assert known.mean() > 0.85
    error = (found.strain - strains(nearest_equivalent(batch.deformation)))[known]
    assert np.median(np.abs(error)) < 0.003
    nearest = nearest_equivalent(batch.deformation)
    turn = np.arctan2(nearest[:, 0, 1] - nearest[:, 1, 0], np.trace(nearest, axis1=1, axis2=2))
    off = found.rotation - turn
    assert np.median(np.abs(off[known])) < np.radians(0.2)
    assert (np.abs(found.rotation[known]) < np.radians(31)).all()  # the nearest equivalent, but for what strain adds


def test_stated_errors_hold_nine_of_ten(sheets):
    batch, _, found = sheets
    known = found.identifiable["strain"]
    score = np.abs(found.strain - strains(nearest_equivalent(batch.deformation))) / found.strain_error
    # binomial: 3 x 270 correlated values
    assert 0.83 < (score[known] < 1.645).mean() < 0.97


def test_a_row_depends_on_its_own_pattern_alone(network, sheets):
    batch, exposures, found = sheets
    for row in (0, 77, 319):
        alone = network.describe(batch.patterns[row:row + 1], exposures.rows(slice(row, row + 1)), material="MoS2")
        for name in (field.name for field in dataclasses.fields(alone)):
            value = getattr(alone, name)
            if isinstance(value, np.ndarray):
                np.testing.assert_array_equal(value[0], getattr(found, name)[row], err_msg=name)


def test_footprint_is_probe_and_spread(sheets):
    batch, exposures, found = sheets
    probe = 0.61 * wavelength(80e3) / exposures.semi_convergence_angle
    thickness = np.nan_to_num(found.thickness)
    np.testing.assert_allclose(found.footprint[~found.rejected],
                               (probe + thickness * exposures.semi_convergence_angle)[~found.rejected])


def test_what_is_not_identifiable_is_nan(network):
    batch, exposures = drawn("graphene", 1e6, 128, seed=2)
    found = network.describe(batch.patterns, exposures, material="graphene")
    single = found.identifiable["phase"] & (batch.thickness < 0.4e-9)
    assert single.sum() > 20
    # one layer's rocking curves do not change within these tilts
    assert found.identifiable["tilt"][single].mean() < 0.1
    np.testing.assert_array_equal(np.isnan(found.tilt).any(axis=1), ~found.identifiable["tilt"])
    np.testing.assert_array_equal(np.isnan(found.thickness), ~found.identifiable["thickness"])


def test_beam_off_its_nominal_place_and_cropped_cameras(network):
    expected = sheet_pattern(mos2_basis(PIXEL, 0.1), 3e5, centre=(33.3, 30.9))
    pattern = np.random.default_rng(3).poisson(expected)
    reference = np.linalg.inv(wavelength(80e3) / PIXEL * np.eye(2)) @ mos2_basis(PIXEL, 0.1)
    for frames, centre in ((pattern, (32.0, 32.0)), (pattern[4:60], (28.0, 32.0)), (pattern[:, 5:], (32.0, 27.0))):
        found = network(frames[None], DetectorGeometry(centre, PIXEL, 3 * PIXEL), 80e3, 3 * PIXEL)
        assert not found.rejected[0], found.reasons
        place = np.array([33.3, 30.9]) - (np.array([32.0, 32.0]) - centre)
        np.testing.assert_allclose(found.centre[0], place, atol=0.1)
        ratio = np.linalg.inv(reference) @ found.reciprocal[0]
        np.testing.assert_allclose(ratio, np.rint(ratio), atol=0.006)


def test_strain_of_even_disks_against_their_own_lattice(network):
    """Uniform disks on an exact lattice, strained by 1 % along x: nothing of the generator is in them."""
    stretch = np.diag([1.0, 1.01])
    basis = np.linalg.inv(stretch).T @ mos2_basis(PIXEL, 0.05)
    patterns = np.random.default_rng(4).poisson(sheet_pattern(basis, 1e6), (20, 64, 64))
    reference = np.linalg.inv(mos2_basis(1.0, 0.0, length=1.0))
    found = network(patterns, simple_geometry(), 80e3, 3 * PIXEL, reference=reference)
    assert found.identifiable["strain"].all()
    # edges without any blur, three pixels from the middle, are sharper than any camera's that was trained: 0.2 % of bias
    np.testing.assert_allclose(found.strain.mean(axis=0), [0.01, 0.0, 0.0], atol=0.0025)
    np.testing.assert_allclose(found.rotation.mean(), 0.05, atol=np.radians(0.1))
    turned = network(patterns, simple_geometry(), 80e3, 3 * PIXEL, reference=reference, orientation=0.05)
    np.testing.assert_allclose(turned.rotation.mean(), 0.0, atol=np.radians(0.1))


def test_detector_turned_against_the_scan(network):
    """F of the crystal stays the same when the detector is turned or flipped, and its geometry says so."""
    basis = np.linalg.inv(np.diag([1.0, 1.015])).T @ mos2_basis(PIXEL, 0.03)
    reference = np.linalg.inv(mos2_basis(1.0, 0.0, length=1.0))
    for rotation, flipped in ((0.0, False), (0.7, False), (-1.1, True)):
        geometry = dataclasses.replace(simple_geometry(), rotation=rotation, flipped=flipped)
        pattern = np.random.default_rng(5).poisson(sheet_pattern(geometry.to_detector() @ basis, 1e6))
        found = network(pattern[None], geometry, 80e3, 3 * PIXEL, reference=reference)
        np.testing.assert_allclose(found.strain[0], [0.015, 0.0, 0.0], atol=0.003)
        np.testing.assert_allclose(found.rotation[0], 0.03, atol=np.radians(0.25))


def test_a_phase_is_told_where_it_is_probable_enough(network, sheets):
    """MoS2 and WS2 differ in 0.2 % of their lattices and in intensities."""
    batch, exposures, stated = sheets
    found = network.describe(batch.patterns, exposures)
    answered, told = ~found.rejected, found.identifiable["phase"]
    mos2 = found.phases.index("MoS2")
    np.testing.assert_array_equal(told, found.phase != UNKNOWN)
    assert (found.phase_probability[told] >= 0.95).all()
    assert (found.phase_probability[answered & ~told] < 0.95).all()
    # a binomial of a few hundred at most
    assert (found.phase[told] == mos2).mean() > 0.9 if told.any() else True
    left = found.left.any(axis=1)
    assert found.left[left, mos2].mean() > 0.9
    assert left.mean() > 0.5
    assert (found.left.sum(axis=1)[answered & ~told & left] > 1).all()
    for row in np.flatnonzero(answered & ~told)[:20]:
        assert "not identifiable" in found.reasons[row] or "none of the trained" in found.reasons[row]
    np.testing.assert_allclose(found.probabilities[answered].sum(axis=1), 1.0)
    # another limit tells more, and what does not hang on the phase stays
    more = network.describe(batch.patterns, exposures, least_probability=0.6)
    assert (more.phase[told] == found.phase[told]).all()
    assert more.identifiable["phase"].sum() > told.sum()
    np.testing.assert_array_equal(more.reciprocal, found.reciprocal)
    assert stated.identifiable["phase"].mean() > told.mean()


def test_strain_where_the_phases_that_are_left_agree(network, sheets):
    batch, exposures, _ = sheets
    found = network.describe(batch.patterns, exposures, least_probability=0.999)
    several = found.left.sum(axis=1) > 1
    given = several & found.identifiable["strain"]
    assert given.sum() > 10
    # the lattices of MoS2 and WS2 differ by 0.2 %: strain is known where the error is not much less
    assert np.median(found.strain_error[given].max(axis=1)) > 0.0008
    error = (found.strain - strains(nearest_equivalent(batch.deformation)))[given]
    assert (np.abs(error) < 1.645 * found.strain_error[given]).mean() > 0.75
    undeformed = network.phases.lattices[network.phases.number("MoS2")]
    stated = network.describe(batch.patterns, exposures, least_probability=0.999, reference=undeformed)
    assert stated.identifiable["strain"][several].all()
    np.testing.assert_array_equal(stated.phase, found.phase)
    with pytest.raises(ValueError, match=r"least probability of 1\.0"):
        network.describe(batch.patterns[:1], exposures.rows(slice(1)), least_probability=1.0)


def test_no_strain_where_the_phases_that_are_left_are_farther_apart_than_the_error(network):
    """Graphene and boron nitride, 1.8 % apart, of which a single layer's pattern does not always tell which it is."""
    batch, exposures = drawn("graphene", 3e5, 160, seed=1)
    found = network.describe(batch.patterns, exposures)
    several = found.left.sum(axis=1) > 1
    assert several.sum() > 20 and (~found.identifiable["strain"][several]).mean() > 0.8
    assert found.identifiable["rotation"][several].mean() > 0.8


def spoiled(kind: str) -> np.ndarray:
    rng, y, x = np.random.default_rng(6), *np.indices((64, 64)) - 32.0
    pattern = rng.poisson(sheet_pattern(mos2_basis(PIXEL), 1e5)).astype(float)
    if kind == "nan":
        pattern[3, 3] = np.nan
    rings = np.exp(-((np.hypot(y, x) - 14) / 4)**2) + 3 * np.exp(-(y**2 + x**2) / 8)
    other = sheet_pattern(mos2_basis(PIXEL, np.radians(17)), 1e5)
    return {"empty": 0 * pattern, "nan": pattern, "noise": rng.poisson(25.0, pattern.shape).astype(float),
            "amorphous": rng.poisson(1e5 * rings / rings.sum()).astype(float), "few": rng.poisson(0.02, pattern.shape) * 1.0,
            "saturated": np.minimum(pattern, 100), "negative": pattern - 50.0,
            "two": rng.poisson(sheet_pattern(mos2_basis(PIXEL), 1e5) + other).astype(float)}[kind]


@pytest.mark.parametrize(("kind", "reason"), [
    ("empty", "is empty"), ("nan", "1 of the 4096 pixels .* not finite"), ("noise", "no lattice"), ("amorphous", "lattice"),
    ("few", "electrons are fewer"), ("saturated", "saturated"), ("negative", "below zero"),
    ("two", "several crystals|chi-square")])
def test_patterns_that_say_nothing_are_rejected_with_the_reason(network, kind, reason):
    found = network(spoiled(kind)[None], simple_geometry(), 80e3, 3 * PIXEL, noise=CountingNoise(saturation=100.0)
                    if kind == "saturated" else CountingNoise())
    assert found.rejected[0] and found.phase[0] == UNKNOWN
    import re
    assert re.search(reason, found.reasons[0]), found.reasons
    for name in ("deformation", "thickness", "tilt", "reciprocal", "strain", "footprint"):
        assert np.isnan(getattr(found, name)).all()
    assert not any(flag.any() for flag in found.identifiable.values())


def test_unknown_materials_have_a_lattice_but_no_strain(network):
    """A square lattice of 0.34 nm is that of no phase."""
    basis = wavelength(80e3) / PIXEL / 0.34e-9 * np.eye(2)
    pattern = np.random.default_rng(8).poisson(sheet_pattern(basis, 3e5))
    found = network(pattern[None], simple_geometry(), 80e3, 3 * PIXEL)
    assert not found.rejected[0] and found.phase[0] == UNKNOWN and "none of the trained materials" in found.reasons[0]
    assert np.isfinite(found.reciprocal).all() and np.isnan(found.strain).all() and np.isnan(found.thickness).all()
    assert found.rejection[0] > 1
    stated = network(pattern[None], simple_geometry(), 80e3, 3 * PIXEL, reference=0.335e-9 * np.array([[0, 1], [1, 0]]))
    np.testing.assert_allclose(stated.strain[0], [0.34 / 0.335 - 1, 0.34 / 0.335 - 1, 0.0], atol=0.004)


def test_stated_materials_and_wrong_options(network):
    pattern = np.random.default_rng(9).poisson(sheet_pattern(mos2_basis(PIXEL), 3e5))[None]
    with pytest.raises(ValueError, match="'MoS3' is none that the network was trained on: graphene"):
        network(pattern, simple_geometry(), 80e3, 3 * PIXEL, material="MoS3")
    with pytest.raises(ValueError, match="span an area"):
        network(pattern, simple_geometry(), 80e3, 3 * PIXEL, reference=np.ones((2, 2)))
    for tension, angle, geometry, message in (
            (80e3, 0.0, simple_geometry(), "semi-convergence angle of 0 rad"),
            (80.0, 2e-3, simple_geometry(), "80 V .* not in kV"),
            (80e3, 2.0, simple_geometry(), "angle of 2 rad .* not in mrad"), (np.nan, 2e-3, simple_geometry(), "of nan V"),
            (80e3, 2e-3, DetectorGeometry((32.0, 32.0), 0.7), "pixel of 0.7 rad"),
            (80e3, 2e-3, DetectorGeometry((np.nan, 32.0), PIXEL), "maps pixels to no angles"),
            (80e3, 2e-3, dataclasses.replace(simple_geometry(), distortion=np.zeros((2, 2))), "span an area")):
        with pytest.raises(ValueError, match=message):
            network(pattern, geometry, tension, angle)
    for frames in (pattern + 1j, np.full((1, 64, 64), "1")):
        with pytest.raises(ValueError, match="are no counts"):
            network(frames, simple_geometry(), 80e3, 3 * PIXEL)
    with pytest.raises(ValueError, match=r"\(1, 64\) are no patterns"):
        network(pattern[0][:1], simple_geometry(), 80e3, 3 * PIXEL)
    wrong = network(pattern, simple_geometry(), 80e3, 3 * PIXEL, material="graphene")
    assert wrong.phase[0] == UNKNOWN and "not that of the stated material" in wrong.reasons[0]
    assert len(network(pattern[:0], simple_geometry(), 80e3, 3 * PIXEL)) == 0


def test_one_frame_that_is_no_pattern_spoils_no_other(network, sheets):
    batch, exposures, _ = sheets
    frames = batch.patterns[:4].astype(float)
    frames[1, 20, 20] = 1e300
    found, alone = (network.describe(one, exposures.rows(slice(4))) for one in (frames, batch.patterns[:4]))
    assert found.rejected[1]
    assert "no counts" in found.reasons[1]
    np.testing.assert_array_equal(found.reciprocal[[0, 2, 3]], alone.reciprocal[[0, 2, 3]])


def test_a_stated_material_is_likelier_not_certain(network, sheets):
    """By Bayes' rule, with odds of 20: whoever states MoS2 for another material is told so where the pattern shows it."""
    batch, exposures, stated = sheets
    free = network.describe(batch.patterns, exposures, least_probability=0.95)
    mos2 = free.phases.index("MoS2")
    both = ~free.rejected & ~stated.rejected
    prior = free.probabilities[both, mos2]
    np.testing.assert_allclose(stated.probabilities[both, mos2], 20 * prior / (1 + 19 * prior), atol=1e-9)
    assert (stated.phase[stated.identifiable["phase"]] == mos2).all()
    other = network.describe(batch.patterns, exposures, material="WS2")
    sure = both & (free.phase == mos2) & (free.phase_probability > 0.99)
    assert not other.identifiable["phase"][sure].any()
    doubted = [reason for reason in other.reasons if "stated as WS2, but the pattern may be of another: MoS2" in reason]
    assert doubted
