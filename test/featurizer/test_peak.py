"""Energy of a peak and largest intensity in a band, against Monte Carlo of Poisson spectra with a known answer."""

from __future__ import annotations

import numpy as np
import pytest

from edgetem_nodes.featurizer import scalarizers
from edgetem_nodes.featurizer.features import ELECTRONVOLT
from edgetem_nodes.featurizer.parameters import EelsBandMaximum, EelsPeak, Parameters
from edgetem_nodes.physics.scan import Axis

AXES = (Axis("energy_loss", "J", 0.25 * ELECTRONVOLT, -5 * ELECTRONVOLT, 240),)
ENERGY = AXES[0].values() / ELECTRONVOLT
PLASMON = 22.37
BACKGROUNDS = {"none": (0 * ENERGY, []), "constant": (5 + 0 * ENERGY, [40.0, 50.0]),
               "power_law": (2000 * (np.maximum(ENERGY, 1) / 10)**-2.0, [4.0, 11.0])}


def spectrum(height: float, background: str = "none", centre: float = PLASMON, loss: float = 0.0) -> np.ndarray:
    """Expected counts of a Gaussian of 3 eV on a background, and a zero-loss peak where it is not at 0 eV."""
    peak = height * np.exp(-((ENERGY - centre) / 3)**2 / 2)
    return peak + BACKGROUNDS[background][0] + (3000 * np.exp(-((ENERGY - loss) / 0.4)**2 / 2) if loss else 0)


def peak(background: str = "none", gain: float = 1.0, **more) -> scalarizers.Bound:
    settings = EelsPeak([12.0, 34.0], 7.0, background, BACKGROUNDS[background][1], **more)
    return scalarizers.build(Parameters(scalarizer="eels_peak", eels_peak=settings, counts_per_electron=gain), AXES)


@pytest.mark.parametrize(("height", "background", "gain"), [
    (200, "none", 1.0), (30, "none", 1.0), (300, "none", 4.0), (100, "constant", 1.0), (500, "power_law", 1.0)])
def test_peak_is_unbiased_and_its_standard_errors_are_those_of_a_monte_carlo(height, background, gain):
    rng, count = np.random.default_rng(2), 6000
    counts = rng.poisson(spectrum(height, background) / gain, (count, len(ENERGY))) * gain
    features = peak(background, gain)(counts)
    assert features.valid.mean() > 0.98
    energy, top = features.values[features.valid][:, :2].T
    errors = np.sqrt((features.standard_errors[features.valid]**2).mean(axis=0))
    assert energy.mean() == pytest.approx(PLASMON, abs=0.01 + 4 * energy.std() / np.sqrt(count))
    assert top.mean() == pytest.approx(height, rel=0.03)
    assert errors[:2] == pytest.approx([energy.std(), top.std()], rel=0.1)


def test_peak_follows_the_zero_loss_peak():
    rng = np.random.default_rng(3)
    counts = rng.poisson(spectrum(500, centre=PLASMON + 0.8, loss=0.8), (500, len(ENERGY)))
    features = peak(align_zero_loss=True)(counts)
    assert features.values[:, 0].mean() == pytest.approx(PLASMON, abs=0.02)
    assert features.values[:, 2].mean() == pytest.approx(0.8, abs=0.02)
    far = rng.poisson(spectrum(500), (2, len(ENERGY)))
    assert "no zero-loss peak" in peak(align_zero_loss=True)(far).failures[0]


def test_no_peak_is_a_marked_failure():
    rng = np.random.default_rng(4)
    flat = peak()(rng.poisson(50, (4000, len(ENERGY))))
    assert flat.valid.mean() < 2e-3
    edge = peak()(rng.poisson(spectrum(500, centre=36.0), (50, len(ENERGY))))
    assert not edge.valid.any()
    assert sum("at the edge of eels_peak.window_eV" in text or "no maximum" in text for text in edge.failures) > 40
    weak = peak()(rng.poisson(spectrum(2), (50, len(ENERGY))))
    assert any("smallest_significance is 5" in text for text in weak.failures)
    empty = peak()(np.zeros((1, len(ENERGY))))
    assert empty.failures[0]
    spoilt = spectrum(500)[None].repeat(2, axis=0)
    spoilt[1, 100] = np.nan
    assert peak()(spoilt).valid.tolist() == [True, False]


@pytest.mark.parametrize(("settings", "message"), [
    (EelsPeak([12.0, 14.0], 7.0), "holds 9 channels"),
    (EelsPeak([12.0, 34.0], 7.0, "constant"), "needs a window, eels_peak.background_eV"),
    (EelsPeak([12.0, 34.0], 7.0, "none", [40.0, 50.0]), "leave the window empty"),
    (EelsPeak([12.0, 34.0], 7.0, "power_law", [-2.0, 8.0]), "a power law needs energy losses above zero"),
    (EelsPeak([12.0, 34.0], 7.0, "constant", [30.0, 50.0]), "overlaps with eels_peak.window_eV"),
])
def test_peak_settings_that_do_not_fit_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        scalarizers.build(Parameters(scalarizer="eels_peak", eels_peak=settings), AXES)


def band_maximum(background: str = "none", width: int = 4, **more) -> scalarizers.Bound:
    settings = EelsBandMaximum([12.0, 34.0], width, background, BACKGROUNDS[background][1], **more)
    return scalarizers.build(Parameters(scalarizer="eels_band_maximum", eels_band_maximum=settings), AXES)


def true_maximum(expected: np.ndarray, width: int) -> float:
    band = expected[(ENERGY >= 12) & (ENERGY <= 34)]
    return max(band[start:start + width].mean() for start in range(len(band) - width + 1))


def test_maximum_of_a_band_without_one_is_its_level():
    """Where the plain largest mean of four of 89 channels is 8 counts, more than two standard errors, too large."""
    counts = np.random.default_rng(5).poisson(50, (6000, len(ENERGY)))
    features = band_maximum()(counts)
    assert features.values[:, 0].mean() == pytest.approx(50, abs=0.2)
    assert features.values[:, 2].mean() > 57


@pytest.mark.parametrize(("height", "background", "width", "low"), [
    (40, "none", 4, 0.05), (400, "constant", 8, 0.01), (400, "power_law", 8, 0.02)])
def test_maximum_is_not_too_large_and_its_standard_error_covers(height, background, width, low):
    expected = spectrum(height, background)
    features = band_maximum(background, width)(np.random.default_rng(6).poisson(expected, (6000, len(ENERGY))))
    truth = true_maximum(expected - BACKGROUNDS[background][0], width)
    value, error = features.values[:, 0], np.sqrt((features.standard_errors[:, 0]**2).mean())
    assert truth * (1 - low) < value.mean() < truth + 4 * value.std() / np.sqrt(len(value))
    assert features.values[:, 2].mean() > truth
    assert 0.8 * value.std() < error < 1.05 * value.std()
    assert features.values[:, 1].mean() == pytest.approx(PLASMON, abs=0.1)
    assert 0.75 < np.sqrt((features.standard_errors[:, 1]**2).mean()) / features.values[:, 1].std() < 1.2


def test_band_maximum_settings_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match="smoothing_channels 3 must be even"):
        band_maximum(width=3)
    with pytest.raises(ValueError, match="holds 89 channels"):
        band_maximum(width=100)
