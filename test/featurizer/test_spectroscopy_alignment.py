"""Alignment of spectra and removal of spikes, against shifts and spikes that were put in, and the Cramer-Rao bound."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgetem_nodes.featurizer.features import CountingNoise
from edgetem_nodes.featurizer.spectroscopy import common_shifts, remove_spikes, shifted, zero_loss_shifts

ENERGIES = -10 + 0.1 * np.arange(400)
CORE = 400 + 0.5 * np.arange(400)


def low_loss(shift: np.ndarray, electrons: float) -> np.ndarray:
    """Expected low-loss spectra (rows, channels), displaced by `shift` (rows,) [eV]: zero loss of 0.7 eV and a plasmon."""
    energies = ENERGIES - shift[:, None]
    shape = np.exp(-energies**2 / (2 * 0.3**2)) + 0.01 * np.exp(-(energies - 20)**2 / (2 * 3.0**2))
    return electrons * shape / shape.sum(axis=1, keepdims=True)


def core_loss(shift: np.ndarray, level: np.ndarray, tilt: np.ndarray, counts: float) -> np.ndarray:
    """Expected core-loss spectra: two white lines on a falling background, displaced by `shift` (rows,) [channels]."""
    energies = CORE - 0.5 * shift[:, None]
    edge = 1 / (1 + np.exp(-(energies - 458) / 1.0)) + 2 * np.exp(-(energies - 460)**2 / 4) + np.exp(-(energies - 466)**2 / 5)
    shape = 4 * (energies / 400)**-3.0 + edge
    return counts * level[:, None] * shape * (1 + tilt[:, None] * (CORE - 500) / 100)


def test_zero_loss_shift_is_unbiased_and_its_error_covers():
    rng = np.random.default_rng(1)
    truth = rng.uniform(-1.5, 1.5, 500)
    found = zero_loss_shifts(rng.poisson(low_loss(truth, 2e4)), ENERGIES, 3.0)
    error = (found.channels * 0.1 - truth) / (found.standard_errors * 0.1)
    assert not any(found.failures)
    assert abs(error.mean()) < 0.2
    assert 0.9 < error.std() < 1.15
    assert np.median(found.standard_errors) * 0.1 < 0.01


def test_aligned_spectra_are_sharper_and_keep_their_counts():
    rng = np.random.default_rng(2)
    truth = rng.uniform(-0.8, 0.8, 200)
    spectra = rng.poisson(low_loss(truth, 1e4))
    aligned = shifted(spectra, zero_loss_shifts(spectra, ENERGIES).channels)
    inside = np.abs(ENERGIES) < 3
    assert np.nansum(aligned[:, inside]) == pytest.approx(spectra.sum() * 0.752 / (0.752 + 0.0752), rel=0.01)

    def width(sum_of_all: np.ndarray) -> float:
        energies = ENERGIES[inside]
        mean = (sum_of_all * energies).sum() / sum_of_all.sum()
        return np.sqrt((sum_of_all * (energies - mean)**2).sum() / sum_of_all.sum())

    assert width(aligned[:, inside].sum(axis=0)) == pytest.approx(0.3, rel=0.03)
    assert width(spectra[:, inside].sum(axis=0)) > 0.5


@settings(max_examples=40, deadline=None)
@given(st.floats(-20, 20), st.integers(0, 2**32 - 1))
def test_shifting_keeps_counts_and_moves_the_mean(shift, seed):
    spectrum = np.zeros(200)
    spectrum[80:120] = np.random.default_rng(seed).integers(0, 1000, 40)
    spectrum[100] += 1
    moved = np.nan_to_num(shifted(spectrum[None], np.array([shift]))[0])
    assert moved.sum() == pytest.approx(spectrum.sum(), rel=1e-9)
    channel = np.arange(200)
    assert (moved * channel).sum() / moved.sum() == pytest.approx((spectrum * channel).sum() / spectrum.sum() - shift, abs=1e-6)


def test_channels_beyond_the_axis_and_unknown_shifts_are_nan():
    moved = shifted(np.arange(12.0).reshape(2, 6) + 1, np.array([1.5, np.nan]))
    assert np.isnan(moved[0]).tolist() == [False] * 4 + [True] * 2
    assert moved[0, 0] == 2.5
    assert np.isnan(moved[1]).all()


def test_core_losses_are_aligned_by_what_they_have_in_common():
    """Levels and backgrounds differ from row to row; the error is that of the Cramer-Rao bound with known shape."""
    rng = np.random.default_rng(3)
    rows = 80
    truth, level, tilt = rng.uniform(-4, 4, rows), rng.uniform(0.4, 2.0, rows), rng.uniform(-0.2, 0.2, rows)
    expected = core_loss(truth, level, tilt, 300.0)
    found = common_shifts(rng.poisson(expected), 8)
    assert not any(found.failures)
    off = found.channels - (truth - truth.mean())
    slope = np.gradient(expected, axis=1)
    bound = 1 / np.sqrt((slope**2 / expected)[:, 10:-10].sum(axis=1))
    assert off.std() < 1.5 * np.sqrt((bound**2).mean())
    assert 0.8 < (off / found.standard_errors).std() < 1.25


def test_gain_enters_the_errors_of_shifts():
    rng = np.random.default_rng(4)
    ones = np.ones(60)
    truth = rng.uniform(-2, 2, 60)
    spectra = 5 * rng.poisson(core_loss(truth, ones, 0 * ones, 100.0))
    found = common_shifts(spectra, 5, CountingNoise(5.0))
    assert 0.8 < ((found.channels - truth + truth.mean()) / found.standard_errors).std() < 1.25


def test_spectra_that_cannot_be_aligned_are_failures():
    rng = np.random.default_rng(5)
    spectra = rng.poisson(core_loss(np.zeros(20), np.ones(20), np.zeros(20), 100.0)).astype(float)
    spectra[3] = 0
    spectra[4, 7] = np.nan
    found = common_shifts(spectra, 5)
    assert [row for row, failure in enumerate(found.failures) if failure] == [3, 4]
    assert np.isnan(found.channels[[3, 4]]).all()
    assert np.isfinite(np.delete(found.channels, [3, 4])).all()
    low = low_loss(np.array([0.0, 0.0]), 1e3)
    low[1] = 0
    shifts = zero_loss_shifts(low, ENERGIES)
    assert [bool(failure) for failure in shifts.failures] == [False, True]
    assert "no zero-loss peak" in shifts.failures[1]


@pytest.mark.parametrize(("spectra", "most", "message"), [
    (np.ones((4, 10)), 5, "too few of 10 channels"),
    (np.ones((4, 100)), 0, "less than 1"),
    (np.ones((4, 4, 100)), 3, "reshape a spectrum image"),
])
def test_bad_input_of_alignment_is_refused(spectra, most, message):
    with pytest.raises(ValueError, match=message):
        common_shifts(spectra, most)


def spiked(counts: float, rows: int = 200, gain: float = 1.0) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Spectra, the same with 60 spikes, and where those are: two thirds of one channel, the others of two."""
    rng = np.random.default_rng(6)
    ones = np.ones(rows)
    clean = (gain * rng.poisson(core_loss(0 * ones, rng.uniform(0.5, 1.5, rows), 0 * ones, counts))).astype(np.int32)
    row, channel = rng.choice(rows, 60, replace=False), rng.integers(10, 380, 60)
    dirty = clean.copy()
    size = (gain * rng.uniform(12, 40, 60) * np.sqrt(5 * counts)).astype(np.int32) + 30
    dirty[row, channel] += size
    dirty[row[40:], channel[40:] + 1] += size[40:]
    return clean, dirty, np.concatenate([row, row[40:]]), np.concatenate([channel, channel[40:] + 1])


@pytest.mark.parametrize(("counts", "gain"), [(0.2, 1.0), (20.0, 1.0), (2000.0, 1.0), (200.0, 4.0)])
def test_spikes_are_found_and_nothing_else(counts, gain):
    clean, dirty, rows, channels = spiked(counts, gain=gain)
    result = remove_spikes(dirty, CountingNoise(gain))
    found, true = set(zip(result.rows, result.channels, strict=True)), set(zip(rows, channels, strict=True))
    assert len(true - found) <= 1
    assert len(found - true) <= 2
    left = (result.spectra - clean)[rows, channels]
    assert np.abs(left).max() < 8 * gain * np.sqrt(8 * counts + 1) + 8
    assert result.spectra.dtype == dirty.dtype


def test_what_was_removed_restores_the_spectra():
    _, dirty, _, _ = spiked(20.0)
    result = remove_spikes(dirty)
    restored = result.spectra.astype(float)
    restored[result.rows, result.channels] += result.removed
    assert np.array_equal(restored, dirty)
    assert (result.removed > 0).all()


def test_clean_spectra_keep_every_count():
    """White lines and the steep sides of a zero-loss peak are no spikes: 0.1 false alarms are expected in each."""
    rng = np.random.default_rng(7)
    ones = np.ones(200)
    removed = 0
    for spectra in (rng.poisson(core_loss(0 * ones, ones, 0 * ones, 50.0)), rng.poisson(low_loss(0 * ones, 1e5)),
                    rng.poisson(0.02, (200, 400))):
        removed += len(remove_spikes(spectra).rows)
    assert removed <= 2


def test_broad_features_of_one_row_are_no_spikes():
    rng = np.random.default_rng(8)
    expected = np.full((50, 300), 100.0)
    expected[20, 100:106] = 400
    found = remove_spikes(rng.poisson(expected))
    assert not ((found.rows == 20) & (found.channels >= 98) & (found.channels < 108)).any()


@pytest.mark.parametrize("rows", [1, 3, 30, 100])
@pytest.mark.parametrize("width", [0.6, 1.2, 2.0])
@pytest.mark.parametrize("jitter", [0.5, 2.0])
def test_undersampled_zero_losses_keep_their_counts(rows, width, jitter):
    """Full width in channels, displaced by as many channels: what looks like a spike there is left, and told."""
    rng = np.random.default_rng(9)
    at = 60 + rng.uniform(-jitter, jitter, rows)
    channel = np.arange(300) - at[:, None]
    peak = np.exp(-4 * np.log(2) * (channel / width)**2)
    expected = 1e5 * peak / peak.sum(axis=1, keepdims=True) + 40 * np.exp(-(channel - 80)**2 / 200) + 0.5
    spectra = rng.poisson(expected)
    result = remove_spikes(spectra)
    assert result.removed.sum() < 1e-3 * spectra.sum()
    if width == 0.6:
        assert (np.abs(result.doubtful[:, 1] - at[result.doubtful[:, 0]]) < 2).all()
        assert len(set(result.doubtful[:, 0])) > 0.9 * rows
    # spikes elsewhere go as before
    spectra[0, 200] += 500
    after = remove_spikes(spectra)
    assert (0, 200) in set(zip(after.rows, after.channels, strict=True))


def test_what_many_rows_have_in_one_place_is_left_and_told():
    rng = np.random.default_rng(10)
    spectra = rng.poisson(50.0, (100, 200))
    spectra[rng.choice(100, 20, replace=False), rng.integers(99, 102, 20)] += 400
    spectra[7, 30] += 400
    result = remove_spikes(spectra)
    assert (7, 30) in set(zip(result.rows, result.channels, strict=True))
    assert len(result.doubtful) == 20 and (np.abs(result.doubtful[:, 1] - 100) < 2).all()
    assert (np.abs(result.channels - 100) > 5).all()


@pytest.mark.parametrize("readout", [0.0, 4.0, 40.0])
@pytest.mark.parametrize("fall", [1.0, 4.0, 30.0, np.inf])
def test_neither_slopes_nor_noise_are_zero_losses(fall, readout):
    rng = np.random.default_rng(11)
    for level in (0.3, 3.0, 30.0, 300.0):
        expected = level * np.exp(-np.clip((ENERGIES + 3) / fall, 0, None)) * np.ones((300, 1))
        spectra = rng.poisson(expected) + rng.normal(0, readout, expected.shape)
        found = zero_loss_shifts(spectra, ENERGIES, 3.0, CountingNoise(1.0, readout))
        assert np.mean([not failure for failure in found.failures]) < 0.01


@pytest.mark.parametrize(("width", "electrons", "least"), [
    (1.5, 60, 0.95), (3.0, 60, 0.95), (7.0, 120, 0.95), (20.0, 400, 0.95), (3.0, 1e5, 1.0), (20.0, 1e5, 1.0)])
def test_few_electrons_show_a_zero_loss(width, electrons, least):
    """A Gaussian of this full width in channels; its mean, were the shape known, would have an error of sigma / sqrt(n)."""
    rng = np.random.default_rng(12)
    truth = rng.uniform(-10, 10, 500)
    peak = np.exp(-4 * np.log(2) * ((np.arange(400) - 100 - truth[:, None]) / width)**2)
    spectra = rng.poisson(electrons * peak / peak.sum(axis=1, keepdims=True) + 0.02)
    found = zero_loss_shifts(spectra, ENERGIES, 3.0)
    good = np.array([not failure for failure in found.failures])
    assert good.mean() >= least
    off = (found.channels - truth)[good]
    assert 0.8 < (off / found.standard_errors[good]).std() < 1.25
    assert np.sqrt((off**2).mean()) < 1.6 * width / 2.3548 / np.sqrt(electrons)


def test_a_zero_loss_within_a_channel_has_the_error_of_a_channel():
    rng = np.random.default_rng(14)
    truth = rng.uniform(-10, 10, 500)
    peak = np.exp(-4 * np.log(2) * ((np.arange(400) - 100 - truth[:, None]) / 0.8)**2)
    found = zero_loss_shifts(rng.poisson(1e4 * peak + 0.02), ENERGIES, 3.0)
    good = np.isfinite(found.channels)
    assert good.mean() > 0.5
    assert ((found.channels - truth) / found.standard_errors)[good].std() < 1.2


def test_readout_noise_is_in_the_errors_of_zero_losses():
    rng = np.random.default_rng(13)
    truth = rng.uniform(-1.5, 1.5, 600)
    expected = low_loss(truth, 2e4)
    spectra = rng.poisson(expected) + rng.normal(0, 60.0, expected.shape)
    found = zero_loss_shifts(spectra, ENERGIES, 3.0, CountingNoise(1.0, 60.0))
    good = np.array([not failure for failure in found.failures])
    assert good.mean() > 0.99
    assert 0.85 < ((found.channels - truth / 0.1) / found.standard_errors)[good].std() < 1.2


def test_bad_input_of_spike_removal_is_refused():
    with pytest.raises(ValueError, match="not finite"):
        remove_spikes(np.full((3, 40), np.nan))
    with pytest.raises(ValueError, match="widest must be less than reach"):
        remove_spikes(np.ones((3, 40)), widest=5)
    with pytest.raises(ValueError, match="reshape a spectrum image"):
        remove_spikes(np.ones((3, 3, 40)))
