"""Templates, detection by correlation, and lattices that nobody named."""

from __future__ import annotations

import numpy as np
import pytest
from bragg_patterns import BASIS, CENTRE, EDGE, GEOMETRY, INDICES, RADIUS, SHAPE, counted, ideal, profile

from edgetem_nodes.featurizer.bragg import BraggDetector, StrainMapper, Template, learn
from edgetem_nodes.featurizer.bragg.correlation import CORRELATIONS, REFINEMENTS
from edgetem_nodes.featurizer.bragg.identification import completed, identify, reduced
from edgetem_nodes.featurizer.patterns.geometry import DetectorGeometry

TEMPLATE = Template.disk(RADIUS, EDGE)


def drawn(offset, reach: int) -> np.ndarray:
    y, x = np.indices((2 * reach + 1, 2 * reach + 1)) - reach
    return profile(y - offset[0], x - offset[1])


@pytest.mark.parametrize("offset", [(0.0, 0.0), (0.3, -0.2), (0.49, 0.125), (-0.06, 0.11)])
def test_a_calculated_disk_is_that_drawn_by_brute_force(offset):
    truth = drawn(offset, TEMPLATE.reach)
    assert TEMPLATE.patch(offset) == pytest.approx(truth / truth.sum(), abs=1e-3 * truth.max())


def test_an_elliptical_disk_has_its_axes():
    axes = np.array([[1.1, 0.0], [0.0, 1 / 1.1]])
    patch = Template.disk(6.0, 0.5, axes).patch()
    y, x = np.indices(patch.shape) - len(patch) // 2
    moments = [(patch * d**2).sum() for d in (y, x)]
    # a uniform ellipse of half-axes a has a^2 / 4, its blurred edge and the pixel a little more of either alike
    assert moments[0] == pytest.approx((6 / 1.1)**2 / 4, rel=0.05)
    assert moments[1] / moments[0] == pytest.approx(1.1**4, rel=0.02)


def test_a_vacuum_image_makes_a_template():
    y, x = np.indices((64, 64))
    image = np.random.default_rng(0).poisson(1e7 * profile(y - 30.3, x - 33.1) + 5.0)
    patch, truth = Template.of_image(image).patch((0.2, -0.4)), drawn((0.2, -0.4), Template.of_image(image).reach)
    assert np.abs(patch - truth).max() < 0.05 * truth.max()
    cells = np.arange(len(patch)) - len(patch) // 2
    assert [(patch.sum(axis=1) * cells).sum(), (patch.sum(axis=0) * cells).sum()] == pytest.approx([0.2, -0.4], abs=0.01)


@pytest.mark.parametrize(("image", "message"), [
    (np.zeros((32, 32)), "no disk"),
    (np.full((32, 32), np.nan), "not finite"),
    (profile(np.indices((32, 32))[0] - 0.0, np.indices((32, 32))[1] - 16.0) * 1e6, "cuts its disk"),
])
def test_an_image_without_a_whole_disk_is_refused(image, message):
    with pytest.raises(ValueError, match=message):
        Template.of_image(image)


@pytest.mark.parametrize("correlation", CORRELATIONS)
@pytest.mark.parametrize("refinement", REFINEMENTS)
def test_every_correlation_finds_a_lone_disk(correlation, refinement):
    rng, (y, x) = np.random.default_rng(1), np.indices(SHAPE)
    places = rng.uniform(30, 60, (12, 2))
    frames = np.stack([rng.poisson(2e4 * profile(y - a, x - b) + 0.1) for a, b in places])
    disks = BraggDetector(TEMPLATE, correlation, refinement)(frames)
    assert (disks.count >= 1).all()
    error = np.sqrt(((disks.places[:, 0] - places)**2).mean())
    # whitened spectra weigh the noise of high frequencies up: phase correlation is no better than a pixel
    limit = {"plain": 0.05, "hybrid": 0.2, "phase": 1.2}[correlation]
    assert error < (max(limit, 0.45) if refinement == "pixel" else limit), (correlation, refinement)


def test_plain_correlation_finds_all_disks_of_a_pattern():
    pattern = ideal(1e5, weights=np.ones(len(INDICES)))
    disks = BraggDetector(TEMPLATE)(counted(pattern, 4, np.random.default_rng(1), central=0.05))
    truth = np.concatenate([pattern.places(), [CENTRE]])
    for row in range(4):
        distance = np.linalg.norm(disks.places[row, :disks.count[row], None] - truth, axis=-1)
        assert disks.count[row] == len(truth)
        assert np.sqrt((distance.min(axis=1)**2).mean()) < 0.08
        assert sorted(distance.argmin(axis=1)) == list(range(len(truth)))


def test_plain_correlation_of_pure_noise_finds_next_to_nothing():
    frames = np.random.default_rng(2).poisson(1.0, (20, *SHAPE))
    assert BraggDetector(TEMPLATE, "plain", significance=5.0)(frames).count.sum() <= 2


def test_detection_says_of_empty_patterns_that_they_are():
    frames = np.zeros((2, *SHAPE))
    frames[1, 3, 3] = np.nan
    disks = BraggDetector(TEMPLATE)(frames)
    assert "empty" in disks.failures[0] and "not finite" in disks.failures[1]
    assert disks.count.tolist() == [0, 0]
    with pytest.raises(ValueError, match="no correlation 'best'; there is plain"):
        BraggDetector(TEMPLATE, "best")


LATTICES = {"square": [[15.0, 1.0], [-1.0, 15.0]], "hexagonal": [[16.0, 8.0], [0.0, 13.856]],
            "rectangular": [[11.0, 2.0], [-3.0, 16.5]], "oblique": [[14.0, 5.0], [3.0, 12.0]]}


@pytest.mark.parametrize("name", LATTICES)
@pytest.mark.parametrize("central", [True, False])
def test_a_lattice_is_identified_among_missing_and_foreign_spots(name, central):
    rng = np.random.default_rng(3)
    basis = np.array(LATTICES[name])
    indices = np.array([(h, k) for h in range(-3, 4) for k in range(-3, 4) if central or (h, k) != (0, 0)])
    spots = CENTRE + indices @ basis.T
    kept = ((spots > 2) & (spots < 94)).all(axis=1) & (rng.random(len(spots)) > 0.15)
    spots = spots[kept] + rng.normal(0, 0.1, (kept.sum(), 2))
    foreign = rng.uniform(5, 90, (2, 2))
    weights = np.concatenate([rng.uniform(0.5, 2.0, len(spots)), [0.4, 0.4]])
    found = identify(np.concatenate([spots, foreign]), weights, 1.0, 6.0)
    integer = np.linalg.solve(basis, found)
    assert integer == pytest.approx(np.rint(integer), abs=0.02)
    assert abs(np.linalg.det(np.rint(integer))) == pytest.approx(1.0)
    assert completed(found, spots, CENTRE + [2.0, -3.0]) == pytest.approx(CENTRE, abs=0.3)


def test_the_reduced_basis_is_the_shortest():
    basis = np.array([[14.0, 5.0], [3.0, 12.0]]) @ np.array([[2, 1], [3, 2]])
    short = reduced(basis)
    lengths = np.hypot(*short)
    every = [np.hypot(*(basis @ [h, k])) for h in range(-9, 10) for k in range(-9, 10) if (h, k) != (0, 0)]
    assert lengths.min() == pytest.approx(min(every))
    assert abs(np.linalg.det(short)) == pytest.approx(abs(np.linalg.det(basis)))


@pytest.mark.parametrize(("spots", "message"), [
    (np.zeros((2, 2)), "2 disks were found and 4 or more"),
    (np.arange(10)[:, None] * np.array([[7.0, 3.0]]), "on one line"),
])
def test_what_is_no_lattice_is_refused(spots, message):
    with pytest.raises(ValueError, match=message):
        identify(spots, np.ones(len(spots)), 1.0, 6.0)


def test_the_edge_is_learnt_from_the_sample():
    """From a radius that is 5 % off."""
    geometry = DetectorGeometry((48.0, 48.0), 1e-3, 4.2e-3)
    model = learn(counted(ideal(2e4), 30, np.random.default_rng(4)), geometry)
    assert model.template.radius == pytest.approx(RADIUS, abs=0.03)
    assert model.template.edge == pytest.approx(EDGE, abs=0.08)
    assert model.scatter < 0.02


def test_given_vectors_are_taken():
    model = learn(counted(ideal(2e4), 10, np.random.default_rng(5)), GEOMETRY, template=TEMPLATE, vectors=BASIS + 0.2,
                  contrast="uniform")
    assert model.lattice.basis == pytest.approx(BASIS, abs=0.03)


@pytest.mark.parametrize(("sample", "settings", "message"), [
    (np.zeros((0, *SHAPE)), {}, "nothing can be learnt from no patterns"),
    (np.zeros((3, *SHAPE)), {}, "none of the 3 patterns"),
    (np.full((3, *SHAPE), np.nan), {}, "none of the 3 patterns"),
    (np.ones((3, *SHAPE)), {"contrast": "best"}, "no contrast 'best'; there is uniform"),
    (np.ones((3, *SHAPE)), {"mask": np.ones((4, 4), bool)}, "mask has the shape"),
    (np.random.default_rng(6).poisson(1.0, (3, *SHAPE)), {}, "disks were found and 4 or more"),
    (counted(ideal(1e4), 5, np.random.default_rng(7)), {"template": Template.disk(7.5, 0.5), "vectors": BASIS}, "overlap"),
])
def test_what_cannot_be_learnt_is_refused(sample, settings, message):
    with pytest.raises(ValueError, match=message):
        StrainMapper.learn(sample, GEOMETRY, **settings)


def test_a_geometry_without_a_convergence_angle_is_refused():
    with pytest.raises(ValueError, match="no semi-convergence angle"):
        learn(np.ones((2, *SHAPE)), DetectorGeometry((48.0, 48.0), 1e-3))
