"""A zero-loss peak is found where there is one, down to few electrons, and nowhere else; windows keep clear of neighbours."""

import numpy as np
import pytest

from edgetem_nodes.featurizer.spectroscopy import ElementWindows, LogRatio, PlasmonFit, zero_loss_shifts
from edgetem_nodes.featurizer.spectroscopy.zero_loss import no_zero_loss

ENERGIES = -20 + 0.5 * np.arange(300)
RANDOM = np.random.default_rng(0)


def low_loss(electrons, thickness=0.6, at=0.0, rows=400):
    """Zero loss of 1 eV and a plasmon at 17 eV of this mean number of losses."""
    elastic = np.exp(-(ENERGIES - at)**2 / 2 / 0.6**2)
    single = np.exp(-(ENERGIES - at - 17)**2 / 2 / 2.0**2)
    mean = np.exp(-thickness) * elastic / elastic.sum() + (1 - np.exp(-thickness)) * single / single.sum()
    return RANDOM.poisson(electrons * mean, (rows, len(ENERGIES)))


@pytest.mark.parametrize("level", [0.3, 1.0, 3.0, 30.0, 1000.0])
def test_flat_spectra_have_no_zero_loss(level):
    spectra = RANDOM.poisson(level, (400, len(ENERGIES)))
    assert np.isfinite(zero_loss_shifts(spectra, ENERGIES).channels).mean() < 0.01
    assert no_zero_loss(spectra.astype(float), ENERGIES, 3.0, 1.0).mean() > 0.99
    assert np.isfinite(LogRatio(ENERGIES, 3.0)(spectra).mean_free_paths).mean() < 0.01


def test_a_slope_has_no_zero_loss():
    spectra = RANDOM.poisson(50 * np.exp(-np.abs(ENERGIES + 20) / 30), (400, len(ENERGIES)))
    assert np.isfinite(zero_loss_shifts(spectra, ENERGIES).channels).mean() < 0.01


@pytest.mark.parametrize(("electrons", "least"), [(100, 0.9), (1000, 1.0), (1e6, 1.0)])
def test_a_zero_loss_of_a_hundred_electrons_is_found(electrons, least):
    spectra = low_loss(electrons)
    assert np.isfinite(zero_loss_shifts(spectra, ENERGIES).channels).mean() >= least
    found = LogRatio(ENERGIES, 3.0)(spectra)
    good = np.isfinite(found.mean_free_paths)
    assert good.mean() >= least
    assert np.median(found.mean_free_paths[good]) == pytest.approx(0.6, abs=0.12 if electrons < 1e3 else 0.03)


def test_a_zero_loss_beyond_its_end_gives_no_thickness_and_no_plasmon():
    spectra = low_loss(1e5, at=4.0, rows=20)
    assert not np.isfinite(LogRatio(ENERGIES, 3.0)(spectra).mean_free_paths).any()
    found = PlasmonFit(ENERGIES, [8.0, 40.0], 3.0)(spectra)
    assert all("no zero-loss peak within 3 eV" in failure for failure in found.failures)


def test_losses_below_zero_give_no_thickness():
    spectrum = np.zeros((1, len(ENERGIES)))
    spectrum[0, np.abs(ENERGIES) < 0.6], spectrum[0, 100] = 100.0, -80.0
    assert "fewer counts than none" in LogRatio(ENERGIES, 3.0)(spectrum).failures[0]


@pytest.mark.parametrize(("lines", "present"), [(["Ni_Ka"], ("Co",)), (["Cu_Ka"], ("Ni",)), (["Mo_Ka"], ("Zr",))])
def test_a_neighbour_whose_flank_lies_in_the_window_is_refused(lines, present):
    with pytest.raises(ValueError, match="lies in the window of"):
        ElementWindows(lines, np.arange(100.0, 20000.0, 10.0), present=present)
