"""Monte Carlo: what the shipped micro-scan network states holds on fresh beams, foreign pieces are refused, training runs."""

import numpy as np
import pytest
import torch

from edgetem_nodes.featurizer.cbed.training.registry import EndedTooSoon, TrainingRun
from edgetem_nodes.featurizer.micro_scan.calibrating import matched
from edgetem_nodes.featurizer.micro_scan.columns import judge
from edgetem_nodes.featurizer.micro_scan.generator import MicroScanGenerator, Ranges
from edgetem_nodes.featurizer.micro_scan.network import MicroScanNetwork
from edgetem_nodes.featurizer.micro_scan.training import SETTINGS, train

pytestmark = pytest.mark.slow


def test_probabilities_and_ellipses_hold_on_fresh_beams():
    torch.set_num_threads(1)
    network, generator = MicroScanNetwork.shipped(), MicroScanGenerator(Ranges(foreign=0.0))
    stated, true, chi_square = [], [], []
    for number in range(10):
        batch = generator.draw(10, np.random.default_rng([4711, number]))
        electrons = np.array([batch.scan.electrons])
        for row, piece in enumerate(batch.pieces):
            columns = network.columns(batch.signals[row:row + 1], electrons, batch.scan)
            judged = judge(columns, batch.scan, network.calibration, (piece.host,))
            if judged.reason:
                continue
            found, sites = matched(columns, piece, judged.inside & (judged.detection > 3))
            expected = judged.expected[found]
            stated.append(judged.posterior[found, expected])
            true.append(piece.classes[sites] == expected)
            there = piece.classes[sites] > 0
            off = (piece.sites[sites] - columns.sites[found] - columns.offsets[found])[there]
            chi_square.append(np.einsum("ni,nij,nj->n", off, np.linalg.inv(columns.covariances[found][there]), off))
    stated, true, chi_square = np.concatenate(stated), np.concatenate(true), np.concatenate(chi_square)
    assert len(stated) > 400
    assert (chi_square < 4.605).mean() == pytest.approx(0.9, abs=0.05)
    for low, high in ((0.0, 0.5), (0.5, 0.97), (0.97, 1.01)):
        here = (stated >= low) & (stated < high)
        # four standard errors of a mean, and sites of one micro-scan are not independent
        error = 4 * np.sqrt((stated * (1 - stated))[here].mean() / max(here.sum(), 1)) + 0.03
        assert abs(true[here].mean() - stated[here].mean()) < error


def test_foreign_pieces_are_refused():
    torch.set_num_threads(1)
    network, generator = MicroScanNetwork.shipped(), MicroScanGenerator(Ranges(foreign=1.0))
    accepted = 0
    for number in range(4):
        batch = generator.draw(8, np.random.default_rng([4712, number]))
        found = network(batch.signals, np.full(8, batch.scan.electrons), batch.scan)
        accepted += sum(not failure for failure in found.failures)
        assert np.isnan(found.defects[[bool(failure) for failure in found.failures]]).all()
    assert accepted <= 1


def test_a_training_ended_early_makes_nothing():
    with pytest.raises(EndedTooSoon, match="drawing of micro-scans"):
        train(SETTINGS(), TrainingRun(quick=True, stopped=lambda: True))


def test_a_quick_training_makes_a_network_that_loads_and_is_the_same_again():
    first, second = (train(SETTINGS(), TrainingRun(quick=True)) for _ in range(2))
    assert first.settings["network"] == "micro_scan"
    network = MicroScanNetwork.of(first.arrays, first.settings)
    assert len(network.site_networks) == 1
    for name, values in first.arrays.items():
        np.testing.assert_array_equal(values, second.arrays[name])
