"""Measures of descriptors against Monte Carlo and what they must be on cases made up; patterns of which nothing is known."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.stats import norm

from edgetem_nodes.featurizer.cbed.evaluation import (
    Predictions,
    Truth,
    area_under_curve,
    lattice_errors,
    measured,
    rejections,
)
from edgetem_nodes.featurizer.cbed.foreign import SATURATED, foreign_counts, foreign_patterns, foreign_truth

LATTICE = np.array([[3e9, 1e9], [0.2e9, 4e9]])
"""Columns [1/m]."""
DEFORMED = np.array([[1.002, 0.003], [-0.001, 0.999]])
"""eyy 0.2 %, exx -0.1 %, exy 0.1 %, rotation 2 mrad."""
COVARIANCE = np.diag([1.0, 4.0, 2.0, 3.0]) * 1e14


def many(matrix: np.ndarray, count: int) -> np.ndarray:
    return np.repeat(np.asarray(matrix, float)[None], count, axis=0)


@pytest.mark.parametrize("basis", [[[1, 0], [0, 1]], [[1, 1], [0, -1]], [[2, 1], [1, 1]]])
def test_errors_are_those_of_the_lattice_whatever_its_vectors(basis):
    found = np.linalg.inv(DEFORMED).T @ LATTICE @ np.array(basis)
    errors = lattice_errors(LATTICE[None], found[None], COVARIANCE[None])
    assert errors.strain[0] == pytest.approx([-0.001, 0.002, 0.001], abs=1e-9)
    assert errors.rotation[0] == pytest.approx(0.002, abs=1e-9)
    assert not errors.wrong[0]
    assert not errors.partial[0]
    direct = DEFORMED @ np.linalg.inv(LATTICE).T
    lengths = np.hypot(*direct) / np.hypot(*np.linalg.inv(LATTICE).T) - 1
    assert errors.length[0] == pytest.approx(np.abs(lengths).max(), abs=1e-9)


def test_stated_errors_are_those_of_a_monte_carlo():
    rng = np.random.default_rng(0)
    count, basis = 20000, np.array([[1, 1], [0, -1]])
    noise = rng.multivariate_normal(np.zeros(4), COVARIANCE, count).reshape(count, 2, 2)
    found = LATTICE @ basis + noise
    errors = lattice_errors(many(LATTICE, count), found, many(COVARIANCE, count))
    assert errors.strain.std(axis=0) / errors.strain_error[0] == pytest.approx(np.ones(3), abs=0.03)
    assert errors.rotation.std() / errors.rotation_error[0] == pytest.approx(1, abs=0.03)


def test_another_lattice_is_wrong_and_every_other_disk_is_not():
    turn = np.array([[np.cos(0.3), np.sin(0.3)], [-np.sin(0.3), np.cos(0.3)]])
    found = np.stack([turn @ LATTICE, LATTICE @ np.array([[1, 1], [1, -1]]), 1.2 * LATTICE, np.full((2, 2), np.nan)])
    errors = lattice_errors(many(LATTICE, 4), found, many(COVARIANCE, 4))
    assert errors.wrong.tolist() == [True, False, True, False]
    assert errors.partial.tolist() == [False, True, False, False]
    assert np.isnan(errors.strain[[0, 2, 3]]).all()
    assert errors.strain[1] == pytest.approx(np.zeros(3), abs=1e-12)


def test_the_area_under_the_curve_of_two_normals():
    rng = np.random.default_rng(1)
    assert area_under_curve(rng.normal(0, 1, 20000), rng.normal(1, 1, 20000)) == pytest.approx(norm.cdf(np.sqrt(0.5)), abs=0.01)
    assert area_under_curve(np.zeros(3), np.zeros(5)) == 0.5
    assert np.isnan(area_under_curve(np.zeros(0), np.ones(2)))


def made_up(count: int, rng: np.random.Generator, **changes: np.ndarray) -> tuple[Truth, Predictions]:
    """Right answers with normal errors as large as stated."""
    noise = rng.multivariate_normal(np.zeros(4), COVARIANCE, count).reshape(count, 2, 2)
    truth = Truth(many(LATTICE, count), np.full(count, "A"), np.ones(count, bool), np.zeros(count, bool),
                  np.full(count, 20e-9), np.zeros(count, bool), np.zeros((count, 2)), np.full(count, 1e4), np.full(count, "x"))
    said = {"reciprocal": many(LATTICE, count) + noise, "reciprocal_covariance": many(COVARIANCE, count),
            "phase": np.full(count, "A"), "likeliest": np.full(count, "A"), "phase_probability": np.full(count, 0.95),
            "strain_given": np.ones(count, bool),
            "thickness": 20e-9 + 1e-9 * rng.normal(size=count), "thickness_error": np.full(count, 1e-9),
            "tilt": 1e-3 * rng.normal(size=(count, 2)), "tilt_covariance": many(1e-6 * np.eye(2), count),
            "rejection": np.full(count, 0.3), "rejected": np.zeros(count, bool)}
    return truth, Predictions(**{**said, **changes})


def test_figures_of_right_answers():
    """Normal errors: nine of ten held, mean absolute error sqrt(2 / pi) standard errors."""
    rng = np.random.default_rng(2)
    truth, said = made_up(20000, rng)
    figures = measured(truth, said)
    for name in ("coverage90", "coverage90_strain", "coverage90_rotation", "coverage90_thickness", "coverage90_tilt"):
        assert figures[name] == pytest.approx(0.9, abs=0.012), name
    assert figures["thickness_mae_nm"] == pytest.approx(np.sqrt(2 / np.pi), rel=0.03)
    assert figures["tilt_mae_mrad"] == pytest.approx(np.sqrt(2 / np.pi), rel=0.03)
    assert figures["phase_accuracy"] == 1
    assert figures["wrong_lattice"] == 0
    # errors half as large as they are: 90 % of a normal within 0.82 standard deviations are 59 %
    _, sure = made_up(20000, rng, thickness_error=np.full(20000, 0.5e-9))
    assert measured(truth, sure)["coverage90_thickness"] == pytest.approx(2 * norm.cdf(1.6449 / 2) - 1, abs=0.012)


def test_what_is_not_said_is_not_counted_as_right():
    rng = np.random.default_rng(3)
    phase = np.array(["A", "B", "", "A"])
    thickness = np.array([21e-9, np.nan, np.nan, 19e-9])
    truth, said = made_up(4, rng, phase=phase, likeliest=np.array(["A", "B", "A", "A"]), thickness=thickness,
                          rejected=np.array([False, False, False, True]))
    figures = measured(truth, said)
    assert figures["phase_accuracy"] == pytest.approx(1 / 2)
    assert figures["phase_told"] == figures["phase_likeliest"] == pytest.approx(2 / 3)
    assert figures["thickness_given"] == pytest.approx(1 / 3)
    assert figures["answered"] == pytest.approx(3 / 4)


def test_phases_that_are_told_of_untrained_materials():
    truth, said = made_up(4, np.random.default_rng(4), phase=np.array(["A", "A", "", "A"]),
                          rejected=np.array([False, True, False, False]))
    untrained = Truth(**{**vars(truth), "trained": np.zeros(4, bool), "material": np.full(4, "C")})
    assert measured(untrained, said)["untrained_told"] == pytest.approx(1 / 2)
    assert measured(untrained, said)["phase_accuracy"] is None


def test_rejection_of_foreign_patterns():
    truth, said = made_up(6, np.random.default_rng(5), rejection=np.array([0.1, 0.2, 0.6, 0.5, 2.0, np.nan]),
                          rejected=np.array([False, False, False, False, True, True]))
    foreign = Truth(**{**vars(truth), "foreign": np.arange(6) > 2, "kind": np.array(["x"] * 3 + ["film", "noise", "noise"])})
    figures = rejections(foreign, said)
    # eight of nine pairs in order
    assert figures["rejection_auc"] == pytest.approx(8 / 9)
    assert figures["foreign_rejected"] == pytest.approx(2 / 3)
    assert figures["confident_nonsense"] == pytest.approx(1 / 3)
    assert figures["rejected_noise"] == 1
    assert figures["rejected_film"] == 0


def test_foreign_patterns_are_what_they_are_called():
    before = torch.get_num_threads()
    patterns = foreign_patterns(7, 1, 1e-9)
    torch.set_num_threads(before)
    shown = dict(zip(patterns.kinds.tolist(), patterns.expected, strict=True))
    assert list(shown) == ["film", "grains", "rings", "vacuum", "noise", "empty", "saturated"]
    sums = {kind: pattern.sum() for kind, pattern in shown.items()}
    assert sums["empty"] == 0
    assert all(0.95 < sums[kind] < 1.005 for kind in ("film", "grains", "rings", "vacuum", "noise"))
    # a film is diffuse: what is beyond the direct beam is spread evenly round the axis, that of grains is in disks
    y, x = np.indices((64, 64)) - 32
    ring = (np.hypot(y, x) > 17) & (np.hypot(y, x) < 23)
    evenness = {kind: shown[kind][ring].std() / shown[kind][ring].mean() for kind in ("film", "grains", "rings")}
    assert evenness["grains"] > 1.5
    assert evenness["rings"] < 0.7
    counts = foreign_counts(patterns, 1e4, np.random.default_rng(0))
    assert counts[-1].max() == SATURATED
    assert (counts[-1] == SATURATED).sum() > 10
    assert foreign_truth(patterns, 1e4).foreign.all()
