"""The default simulated experiment: can what it asks be measured, and is it a function of its arguments alone?"""

import numpy as np
import pytest

from edgetem_nodes.graph.instrument import Instrument, Simulated, simulation
from edgetem_nodes.physics.electrons import electrons

KY, KX = np.mgrid[-32:32, -32:32]
ELECTRONS = electrons(40e-12, 2e-3)


@pytest.fixture(scope="module")
def sheet():
    return simulation(Instrument(), 7)


def lattice(frames):
    """Displacement gradient (n, 2, 2) from the centroids of twelve discs, by least squares; reference: the ideal lattice."""
    orders = [(r * np.sin(a), r * np.cos(a)) for r, a0 in ((15.258, np.pi / 6), (26.428, 0.0))
              for a in a0 + np.arange(6) * np.pi / 3]
    ideal = np.array(orders)
    found = np.empty((len(frames), 12, 2))
    for number, order in enumerate(ideal):
        place = np.tile(order, (len(frames), 1))
        for _ in range(3):
            window = frames * (np.hypot(KY - place[:, 0, None, None], KX - place[:, 1, None, None]) < 3.2)
            place = np.stack([(window * k).sum(axis=(1, 2)) for k in (KY, KX)], axis=-1) / window.sum(axis=(1, 2))[:, None]
        found[:, number] = place
    return np.stack([np.linalg.inv(np.linalg.lstsq(ideal, f, rcond=None)[0].T).T - np.eye(2) for f in found])


def test_strain_is_measurable_from_every_pattern(sheet):
    """A plain centroid of the discs, at the default dose, is good to 0.2 %, and unbiased."""
    chosen = np.random.default_rng(0).choice(4096, 300, replace=False)
    positions = sheet.settings.field.positions(chosen)
    gradient = lattice(sheet.frames(positions, ELECTRONS, 0, 0).astype(float))
    for quantity, measured in (("strain_xx", gradient[:, 1, 1]), ("strain_yy", gradient[:, 0, 0]),
                               ("strain_xy", (gradient[:, 0, 1] + gradient[:, 1, 0]) / 2)):
        error = measured - sheet.truth(quantity)[1].ravel()[chosen]
        assert error.std() < 2e-3, quantity
        assert abs(error.mean()) < 3e-4, quantity


def test_counts_follow_the_expected_pattern(sheet):
    position = np.tile(sheet.settings.field.positions([2000]), (400, 1))
    frames = sheet.frames(position, ELECTRONS, 1, 0).astype(float)
    expected = sheet.phase_object.patterns(position[:1])[0] * ELECTRONS
    bright = expected > 2
    deviation = (frames.mean(axis=0) - expected)[bright] / np.sqrt(expected[bright] / len(frames))
    assert 0.8 < deviation.std() < 1.2
    assert frames.sum(axis=(1, 2)).mean() == pytest.approx(expected.sum(), rel=1e-3)
    assert frames.max() < 65535


def test_a_frame_is_the_same_whatever_is_asked_before_it(sheet):
    positions = sheet.settings.field.positions([5, 900, 4000])
    together = sheet.frames(positions, ELECTRONS, 3, 10)
    assert np.array_equal(sheet.frames(positions[2:], ELECTRONS, 3, 12), together[2:])
    assert not np.array_equal(sheet.frames(positions[2:], ELECTRONS, 4, 12), together[2:])
    assert np.array_equal(simulation(Instrument(), 7).frames(positions, ELECTRONS, 3, 10), together)


def test_survey_shows_the_domain_with_poisson_noise(sheet):
    dose = electrons(40e-12, 20e-6)
    image, domain = sheet.survey(dose), sheet.truth("domain")[1]
    inside, outside = image[domain > 0.9], image[domain < 0.05]
    assert 1.6 < inside.mean() / outside.mean() < 2.4
    assert outside.var() == pytest.approx(outside.mean(), rel=0.25)
    assert np.array_equal(image, sheet.survey(dose))


def test_graphene_diffracts_at_its_own_angle():
    graphene = simulation(Instrument(simulated=Simulated(specimen="graphene", rows=8, columns=8, field_nm=10.0)), 0)
    pattern = graphene.phase_object.patterns(graphene.settings.field.positions([0]))[0]
    ring = np.hypot(KY, KX)
    assert pattern[np.abs(ring - 19.6) < 2.6].sum() > 10 * pattern[np.abs(ring - 10.0) < 2.6].sum()


def test_contradicting_parameters_are_refused():
    with pytest.raises(ValueError, match="dark_field_outer_mrad"):
        simulation(Instrument(simulated=Simulated(dark_field_outer_mrad=50.0)), 0)
    with pytest.raises(ValueError, match="semi_convergence_mrad"):
        simulation(Instrument(semi_convergence_mrad=40.0), 0)
