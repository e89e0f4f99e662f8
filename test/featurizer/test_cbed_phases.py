"""Which phases are left, and what is known where more than one is: against cases whose answer is known."""

from __future__ import annotations

import numpy as np
import pytest

from edgetem_nodes.featurizer.cbed.phases import Phases, agreement, matches, mixed
from edgetem_nodes.featurizer.cbed.rejection import _left
from edgetem_nodes.featurizer.deformation import strain


def test_the_likeliest_phases_that_are_probable_enough_together():
    probability = np.array([[0.96, 0.03, 0.00, 0.01], [0.60, 0.36, 0.03, 0.01], [0.50, 0.20, 0.00, 0.30], [0.1, 0.1, 0.1, 0.7]])
    left = _left(probability, 0.95)
    # the third pattern may as well be of none of the phases, and so may the fourth
    np.testing.assert_array_equal(left, [[True, False, False], [True, True, False], [False] * 3, [False] * 3])
    assert _left(probability, 0.55)[1].tolist() == [True, False, False]


def test_mean_and_covariance_over_phases():
    """Two matrices with weights 3 and 1: mean at a quarter of the way, variance 3/16 of the squared distance."""
    matrices = np.stack([np.eye(2), np.array([[1.004, 0.0], [0.0, 1.008]]), np.full((2, 2), np.nan)])[None]
    mean, between = mixed(matrices, np.array([[0.6, 0.2, 0.0]]))
    np.testing.assert_allclose(mean[0], [[1.001, 0.0], [0.0, 1.002]])
    np.testing.assert_allclose(between[0, [0, 3, 0], [0, 3, 3]], 3 / 16 * np.array([0.004**2, 0.008**2, 0.004 * 0.008]))
    assert np.isnan(mixed(matrices, np.zeros((1, 3)))[0]).all()


@pytest.mark.parametrize("turn", [0.0, 0.5, -0.7])
def test_lattices_of_another_size_agree_in_the_turn_alone(turn):
    """Hexagonal lattices of 0.3160 and 0.3153 nm, the pattern turned: whatever the turn, they differ by 0.11 % each way."""
    def lattice(length: float) -> np.ndarray:
        return length * np.array([[0.0, 1.0], [np.sqrt(3) / 2, -0.5]])

    lattices = np.stack([lattice(0.3160e-9), lattice(0.3153e-9)])
    phases = Phases(("a", "b"), lattices, np.ones(2, bool), np.ones(2), np.ones((2, 2)))
    rotation = np.array([[np.cos(turn), np.sin(turn)], [-np.sin(turn), np.cos(turn)]])
    measured = (rotation @ np.linalg.inv(lattice(0.3157e-9)))[None]
    mean, between = mixed(matches(phases, measured)[0], np.array([[0.5, 0.5]]))
    for error, same in ((0.0005, False), (0.0015, True)):
        within = error**2 * np.eye(4)[None]
        agree, agree_in_turn = agreement(mean, within, between)
        assert agree.tolist() == [same]
        assert agree_in_turn.tolist() == [True]
    found = strain(mean, within + between)
    assert found.exx[0] == pytest.approx(0.3157 / 0.31565 - 1, abs=1e-5)
    assert np.sqrt(found.variances["exx"][0]) == pytest.approx(np.hypot(0.0015, 0.0011), rel=0.02)
    assert np.sqrt(found.variances["rotation"][0]) == pytest.approx(0.0015 / np.sqrt(2), rel=0.02)


def test_lattices_turned_against_each_other_do_not_agree_in_the_turn():
    apart = np.stack([np.array([[np.cos(one), np.sin(one)], [-np.sin(one), np.cos(one)]]) for one in (0.30, 0.32)])[None]
    mean, between = mixed(apart, np.array([[0.5, 0.5]]))
    assert agreement(mean, 0.005**2 * np.eye(4)[None], between)[1].tolist() == [False]
    assert agreement(mean, 0.02**2 * np.eye(4)[None], between)[1].tolist() == [True]
