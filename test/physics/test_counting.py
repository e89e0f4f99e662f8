"""Counting statistics, and that noise belongs to the frame."""

import numpy as np
import pytest

from edgetem_nodes.physics.counting import SURVEY, count, generator

U2 = np.dtype("<u2")


def test_mean_equals_variance():
    expected = np.broadcast_to(np.array([0.05, 3.0, 400.0], np.float32), (20000, 3))
    counts = count(expected, 1, 2, 0, U2).astype(float)
    assert counts.mean(axis=0) == pytest.approx([0.05, 3.0, 400.0], rel=0.05)
    assert counts.var(axis=0) == pytest.approx(counts.mean(axis=0), rel=0.05)


def test_noise_does_not_depend_on_how_frames_are_cut_into_blocks():
    expected = np.full((7, 5, 5), 12.0, np.float32)
    whole = count(expected, 3, 4, 10, U2)
    parts = np.concatenate([count(expected[:3], 3, 4, 10, U2), count(expected[3:], 3, 4, 13, U2)])
    assert np.array_equal(whole, parts)


def test_seed_sequence_and_index_each_change_the_noise():
    draws = {tuple(generator(*key).integers(1 << 40, size=4)) for key in
             [(0, 0, 0), (1, 0, 0), (0, 1, 0), (0, 0, 1), (0, SURVEY, 0)]}
    assert len(draws) == 5


def test_counters_saturate():
    assert count(np.full((1, 1), 1e6), 0, 0, 0, U2).item() == 65535


def test_a_negative_seed_is_refused():
    with pytest.raises(ValueError, match="seed -1"):
        generator(-1, 0, 0)
