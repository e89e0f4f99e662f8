"""The bound of strain against what theory says of Gaussian spots, and of a disk's edge."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from bragg_patterns import INDICES, ideal, profile
from scipy.special import ndtr

from edgetem_nodes.featurizer.bragg import Pattern, lattice_bound, strain_bound

SIGMA = 3.0


def gaussian(dy: np.ndarray, dx: np.ndarray) -> np.ndarray:
    """Gaussian spot integrated over pixels, exactly."""
    return np.prod([ndtr((d + 0.5) / SIGMA) - ndtr((d - 0.5) / SIGMA) for d in (dy, dx)], axis=0)


def spots(electrons: float, background: float = 1e-12) -> Pattern:
    """Four Gaussian spots, 20 pixels from the middle."""
    return Pattern((80, 80), gaussian, np.array([39.7, 40.1]), 20.0 * np.eye(2), np.array([(1, 0), (-1, 0), (0, 1), (0, -1)]),
                   np.full(4, electrons), background)


def test_gaussian_spots_have_the_textbook_bound():
    """A spot's place is known to sigma / sqrt(N); pixels add 1/12 to sigma^2. Two opposite spots: a vector to that / sqrt 2."""
    covariance = lattice_bound(spots(1000.0))
    place = np.sqrt((SIGMA**2 + 1 / 12) / 1000.0)
    assert np.sqrt(np.diag(covariance)[:2]) == pytest.approx([place / 2] * 2, rel=5e-3)
    assert np.sqrt(np.diag(covariance)[2:]) == pytest.approx([place / np.sqrt(2)] * 4, rel=5e-3)
    bound = strain_bound(spots(1000.0))
    assert bound["exx"] == pytest.approx(place / np.sqrt(2) / 20.0, rel=5e-3)
    assert bound["exy"] == pytest.approx(bound["exx"] / np.sqrt(2), rel=5e-3)
    assert bound["rotation"] == pytest.approx(bound["exy"], rel=5e-3)


def test_the_bound_falls_with_the_root_of_the_dose():
    low, high = strain_bound(ideal(1e3)), strain_bound(ideal(1e5))
    for name, value in low.items():
        assert value / high[name] == pytest.approx(10.0, rel=1e-6)


def test_a_disk_is_located_by_its_edge():
    """For an edge narrow against the radius the information of a uniform disk without background is that of a line of edge:
    2 pi R times half the integral of (dI/dr)^2 / I; between 1 and 1.5 times the bound by the moments of the disk."""
    pattern = replace(ideal(1e4, weights=np.ones(len(INDICES))), background=1e-6)
    electrons = pattern.electrons[0]
    r = np.linspace(-4, 9, 40001)
    from scipy.special import erfc
    level = 0.5 * erfc((r - 4.0) / (np.sqrt(2) * 0.5))
    density = electrons / (np.pi * (16.0 + 0.25))
    information = np.trapezoid(np.pi * np.abs(r) * density * np.gradient(level, r)**2 / np.maximum(level, 1e-12), r)
    one = np.sqrt(np.diag(lattice_bound(pattern, known_amplitudes=True))[0] * len(INDICES))
    assert 1.0 < one * np.sqrt(information) < 1.25


def test_what_is_unknown_costs_nothing_where_it_is_even():
    """Amplitudes and background are even about a disk, its shift odd: they hardly add to the bound."""
    free, given = strain_bound(ideal(1e4), known_background=False), strain_bound(ideal(1e4), known_amplitudes=True)
    for name, value in free.items():
        assert given[name] <= value < 1.02 * given[name]


def test_noise_background_and_masks_raise_the_bound():
    clean = strain_bound(ideal(1e4, background=0.01))
    mask = np.ones((96, 96), bool)
    mask[:40] = False
    for other in (ideal(1e4, background=0.5), replace(ideal(1e4), readout=1.0), replace(ideal(1e4), mask=mask)):
        assert strain_bound(other)["exx"] > 1.05 * clean["exx"]


def test_disks_on_a_line_have_no_bound():
    with pytest.raises(ValueError, match="on one line"):
        strain_bound(ideal(1e4, indices=np.array([(1, 0), (-1, 0), (2, 0)])))


def test_the_profile_is_normalised():
    y, x = np.indices((31, 31)) - 15.3
    assert profile(y, x).sum() == pytest.approx(1.0, rel=2e-4)
