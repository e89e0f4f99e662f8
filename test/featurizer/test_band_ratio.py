"""Ratio of two energy windows: against its definition, Monte Carlo, and a drifting zero-loss peak."""

from __future__ import annotations

import numpy as np
import pytest

from edgetem_nodes.featurizer.features import ELECTRONVOLT
from edgetem_nodes.featurizer.parameters import EelsBandRatio, Parameters
from edgetem_nodes.featurizer.scalarizers import build, measure
from edgetem_nodes.physics.scan import Axis

ENERGIES = -10 + 0.1 * np.arange(512)
AXIS = Axis("energy_loss", "J", 0.1 * ELECTRONVOLT, -10 * ELECTRONVOLT, 512)


def parameters(gain: float = 1.0, **settings) -> Parameters:
    return Parameters(scalarizer="eels_band_ratio", counts_per_electron=gain, eels_band_ratio=EelsBandRatio(**settings))


def spectrum(low: float, high: float, offset: float = 0.0, zero_loss: float = 1e5) -> np.ndarray:
    """Expected counts: Gaussian peaks at 0, 3 and 19 eV, of so many counts each, on an axis that is off by `offset`."""
    energies = ENERGIES - offset
    peaks = [(zero_loss, 0.0, 0.15), (low, 3.0, 0.3), (high, 19.0, 1.2)]
    return sum(area * 0.1 / (width * np.sqrt(2 * np.pi)) * np.exp(-0.5 * ((energies - centre) / width)**2)
               for area, centre, width in peaks)


def test_ratio_is_the_regularised_ratio_of_the_windows():
    counts = spectrum(5000.0, 8000.0)[None]
    features = measure(counts, (AXIS,), parameters(regularisation_counts=250.0))
    low = counts[0, (ENERGIES > 1.95) & (ENERGIES < 4.05)].sum()
    high = counts[0, (ENERGIES > 14.95) & (ENERGIES < 23.05)].sum()
    assert features.values[0] == pytest.approx([(low + 250) / (high + 250), low, high, 0.0])
    assert build(parameters(), (AXIS,)).names == ("band_ratio", "low_counts", "high_counts", "zero_loss_shift")


def test_value_of_a_spectrum_does_not_depend_on_what_else_is_measured():
    counts = np.stack([spectrum(low, 3000.0) for low in (10.0, 500.0, 9000.0)])
    together = measure(counts, (AXIS,), parameters()).values
    assert np.array_equal(together[1], measure(counts[1:2], (AXIS,), parameters()).values[0])


@pytest.mark.parametrize(("low", "high", "gain", "aligned"), [(400.0, 900.0, 1.0, False), (40.0, 0.5, 1.0, False),
                                                              (5000.0, 9000.0, 7.0, False), (900.0, 2500.0, 1.0, True)])
def test_standard_error_is_that_of_a_monte_carlo(low, high, gain, aligned):
    rng = np.random.default_rng(9)
    counts = gain * rng.poisson(spectrum(low, high) / gain, (4000, len(ENERGIES)))
    features = measure(counts, (AXIS,), parameters(gain, regularisation_counts=100.0, align_zero_loss=aligned))
    assert features.valid.all()
    values, errors = features.values, features.standard_errors
    assert np.sqrt((errors[:, 0]**2).mean()) == pytest.approx(values[:, 0].std(), rel=0.06)
    assert values[:, 0].mean() == pytest.approx((low + 100) / (high + 100), rel=0.03)


def test_empty_place_is_a_quiet_one():
    """No material: the ratio is 1 whatever the beam, and its error stays below the regularisation's inverse."""
    rng = np.random.default_rng(4)
    features = measure(rng.poisson(spectrum(0.0, 0.0), (500, 512)), (AXIS,), parameters(regularisation_counts=100.0))
    assert features.valid.all()
    assert np.abs(features.values[:, 0] - 1).max() < 0.1


@pytest.mark.parametrize("offset", [-0.73, 0.25, 1.2])
def test_windows_follow_a_zero_loss_peak_that_has_moved(offset):
    settings = {"low_eV": [2.6, 3.4], "regularisation_counts": 10.0}
    still = measure(spectrum(5000.0, 8000.0)[None], (AXIS,), parameters(**settings)).values[0]
    moved = spectrum(5000.0, 8000.0, offset)[None]
    aligned = measure(moved, (AXIS,), parameters(align_zero_loss=True, **settings)).values[0]
    assert aligned[3] == pytest.approx(offset, abs=0.01)
    assert aligned[0] == pytest.approx(still[0], rel=0.02)
    assert abs(measure(moved, (AXIS,), parameters(**settings)).values[0, 0] / still[0] - 1) > 0.1


def test_shift_error_is_that_of_the_centroid():
    rng = np.random.default_rng(5)
    counts = rng.poisson(spectrum(100.0, 100.0, 0.33, zero_loss=2000.0), (2000, 512))
    features = measure(counts, (AXIS,), parameters(align_zero_loss=True))
    assert 0.4 < features.values[:, 3].std() / features.standard_errors[:, 3].mean() < 1.6


def test_what_cannot_be_measured_is_marked_with_the_reason():
    counts = np.stack([spectrum(100.0, 100.0)] * 4)
    counts[1, 130] = np.nan
    counts[2] = 0.0
    counts[3] = spectrum(100.0, 100.0, -2.0)
    features = measure(counts, (AXIS,), parameters(align_zero_loss=True, high_eV=[15.0, 41.0]))
    assert features.valid.tolist() == [True, False, False, True]
    assert "not finite numbers" in features.failures[1]
    assert "there is no zero-loss peak within eels_band_ratio.zero_loss_search_eV" in features.failures[2]
    late = measure(spectrum(100.0, 100.0, 2.0)[None], (AXIS,), parameters(align_zero_loss=True, high_eV=[15.0, 40.5]))
    assert "moves a window off the energy axis" in late.failures[0]
    saturated = np.full((1, 512), 65535, np.uint16)
    assert "saturated" in measure(saturated, (AXIS,), parameters()).failures[0]


@pytest.mark.parametrize(("settings", "message"), [
    ({"low_eV": [2.0, 16.0]}, "share 11 channels: the windows of a ratio do not overlap"),
    ({"high_eV": [15.0, 60.0]}, "eels_band_ratio.high_eV 15 to 60 eV reaches outside the energy axis"),
    ({"low_eV": [4.0, 2.0]}, "must be two numbers, the smaller first"),
    ({"regularisation_counts": 0.0}, "regularisation_counts 0.0 is not positive"),
    ({"align_zero_loss": True, "zero_loss_search_eV": 0.1}, "zero_loss_search_eV .* holds 3 channels")])
def test_settings_that_do_not_fit_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        build(parameters(**settings), (AXIS,))
