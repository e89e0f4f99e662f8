"""What counting allows of micro-scans, and how classes are judged by it."""

from dataclasses import fields

import numpy as np
import pytest
import torch

from edgetem_nodes.featurizer.micro_scan.amplitudes import likeliest_source
from edgetem_nodes.featurizer.micro_scan.conditions import MicroScan
from edgetem_nodes.featurizer.micro_scan.generator import MicroScanGenerator, Ranges
from edgetem_nodes.featurizer.micro_scan.hosts import BY_NAME, CLASSES, HOSTS, NAMES, log_prior
from edgetem_nodes.featurizer.micro_scan.limits import limits, telling
from edgetem_nodes.featurizer.micro_scan.linear_imaging import atom_signals
from edgetem_nodes.featurizer.micro_scan.reduction import BRIGHT
from edgetem_nodes.featurizer.micro_scan.sheets import alike, column_amplitudes
from edgetem_nodes.featurizer.micro_scan.species import SpeciesNetwork, posterior
from edgetem_nodes.featurizer.micro_scan.training_set import LabelledImages, training_set
from edgetem_nodes.physics.optics import Probe
from edgetem_nodes.physics.scattering_factors import annular_cross_section

SCAN = MicroScan(Probe(60e3, 30e-3, source_size=0.5e-10), 6, 1.1e-10, 63e-3, 1e5)


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    torch.set_num_threads(1)


def test_least_errors_are_those_of_least_squares_fits_of_counted_signals():
    """Monte Carlo: Poisson counts of the linear model's own dark field, fitted by weighted least squares."""
    host, rng = BY_NAME["MoS2"], np.random.default_rng(0)
    found = limits(host, SCAN)
    amplitudes = column_amplitudes(alike(SCAN))[found.classes, 1]
    design = atom_signals(SCAN).at(found.sites)[BRIGHT].double().numpy()
    expected = design @ amplitudes * SCAN.electrons
    weight = np.sqrt(1 / np.maximum(expected, 1e-3 * expected.max()))
    # the sites' prior: as wide as themselves
    normal = design * SCAN.electrons * weight[:, None]
    hold = np.diag(1 / amplitudes ** 2)
    inverse = np.linalg.inv(normal.T @ normal + hold)
    fits = []
    for _ in range(400):
        off = (rng.poisson(expected) - expected) * weight
        fits.append(inverse @ normal.T @ off)
    scatter = np.std(fits, axis=0)
    inside = (np.abs(found.sites) < SCAN.span / 2).all(axis=1)
    np.testing.assert_allclose(found.errors[inside, 1], scatter[inside], rtol=0.25)


def test_errors_fall_with_the_root_of_the_dose_and_rise_towards_the_rim():
    host = BY_NAME["graphene"]
    few, many = (limits(host, MicroScan(SCAN.probe, 6, 1.1e-10, 63e-3, dose)) for dose in (1e6, 4e6))
    inside = (np.abs(few.sites) < SCAN.span / 2).all(axis=1)
    np.testing.assert_allclose(np.median(few.errors[inside] / many.errors[inside], axis=0), 2, rtol=0.1)
    assert np.median(few.errors[~inside, 0]) > 1.5 * np.median(few.errors[inside, 0])
    assert few.footprint() < many.footprint()
    assert few.footprint() == pytest.approx((2 * np.abs(few.sites[few.detection < 4]).max(axis=1).min()) ** 2)


def test_spread_probes_see_a_larger_footprint_and_neighbours_in_the_periodic_system_are_hardly_told():
    host = BY_NAME["graphene"]
    close = MicroScan(Probe(80e3, 27e-3), 8, 1.1e-10, 39e-3, 2.5e5)
    wide = MicroScan(Probe(80e3, 27e-3, 6e-9), 8, 2.2e-10, 39e-3, 2.5e5)
    assert limits(host, wide).footprint() > 2.5 * limits(host, close).footprint()
    told = telling(limits(host, wide), host, wide)
    assert told["N for C"] < 1.5 and told["vacancy for C"] > 8


def test_amplitudes_are_those_of_the_scattering_factors():
    """The dark field of one atom against its annular cross-section; a pair in line scatters in phase."""
    amplitudes = column_amplitudes(alike(SCAN))
    angles = SCAN.probe.high_tension, 1.14 * SCAN.probe.semi_convergence_angle, SCAN.outer_angle
    unit = annular_cross_section(16, *angles)
    for name, number in (("C", 6), ("Si", 14), ("Mo", 42), ("W", 74)):
        assert amplitudes[NAMES.index(name), 1] == pytest.approx(annular_cross_section(number, *angles) / unit, rel=0.02)
    assert amplitudes[NAMES.index("S")] == pytest.approx([1, 1])
    assert amplitudes[NAMES.index("S2")] == pytest.approx([2, 4])


def test_priors_are_distributions_with_the_weights_of_the_sheet():
    for host in HOSTS:
        for side, own in enumerate(host.classes()):
            prior = np.exp(log_prior(np.array([own]), 0.08)[0].astype(float))
            assert prior.sum() == pytest.approx(1, abs=1e-6)
            assert prior[own] == pytest.approx(0.92)
            weights = host.defects[side]
            assert prior[NAMES.index("vacancy")] == pytest.approx(0.08 * weights["vacancy"] / sum(weights.values()))


def test_posterior_follows_the_prior_by_the_law_of_bayes():
    torch.manual_seed(0)
    network, rng = SpeciesNetwork(8), np.random.default_rng(1)
    context, perfect = np.abs(rng.normal(1, 0.2, (5, 11))), np.full(5, NAMES.index("C"))
    amplitudes = column_amplitudes(alike(SCAN))
    two = [posterior([network], context, perfect, amplitudes, log_prior(perfect, rate), 1.0) for rate in (0.02, 0.2)]
    odds = [values[:, NAMES.index("vacancy")] / values[:, NAMES.index("C")] for values in two]
    np.testing.assert_allclose(odds[1] / odds[0], (0.2 / 0.8) / (0.02 / 0.98), rtol=1e-4)
    assert two[0].shape == (5, len(CLASSES))


def test_the_source_is_found_from_the_dark_field():
    host = BY_NAME["MoS2"]
    found = limits(host, SCAN)
    amplitudes = torch.from_numpy(column_amplitudes(alike(SCAN))[found.classes, 1])
    for size in (0.2e-10, 0.75e-10):
        atoms = atom_signals(SCAN)
        dark = (atoms.with_source(size).at(found.sites)[BRIGHT].double() @ amplitudes).float()
        assert likeliest_source(atoms, dark, 1e-5 * float(dark.mean()), found.sites) == pytest.approx(size, abs=0.1e-10)


def test_drawn_sets_do_not_depend_on_the_number_of_processes():
    generator = MicroScanGenerator(Ranges(points=(4, 4), span=(3e-10, 5e-10), foreign=0.0))
    one, other = (training_set(generator, 3, 2, 5, workers=workers) for workers in (1, 2))
    for a, b in zip(one, other, strict=True):
        for each in fields(LabelledImages):
            np.testing.assert_array_equal(getattr(a, each.name), getattr(b, each.name))
