"""`edgetem process` on energy-loss spectra whose zero loss wanders and that have spikes, against what was drawn."""

from __future__ import annotations

import re

import numpy as np
import pytest
from processed_scan import processed
from rsciio.hspy import file_writer

from edgetem_nodes.featurizer.features import CountingNoise
from edgetem_nodes.operator.processing.results import ProcessingError
from edgetem_nodes.operator.processing.zero_loss import ZeroLossAxis, without_spikes

STEP, CHANNELS, SCAN = 0.25, 320, (6, 8)
ENERGIES = -12 + STEP * np.arange(CHANNELS)
PLASMON, WIDTH, LOSSES = 15.0, 3.0, 0.5


def expected(shift: float, electrons: float) -> np.ndarray:
    """Electrons a channel of a zero loss and one plasmon of `PLASMON`, all `shift` [eV] too high, (channels,)."""
    energy = ENERGIES - shift
    loss = np.maximum(energy, 0)
    plasmon = loss * WIDTH * PLASMON**2 / ((loss**2 - PLASMON**2)**2 + (loss * WIDTH)**2)
    peak = np.exp(-energy**2 / (2 * 0.4**2))
    return electrons * (np.exp(-LOSSES) * peak / peak.sum() + (1 - np.exp(-LOSSES)) * plasmon / plasmon.sum())


def drawn(seed: int, electrons: float = 2e4) -> tuple[np.ndarray, np.ndarray]:
    """Counts (rows, columns, channels) and the shift of every spectrum [eV]: 1.5 all, 1 over the columns, steps of half."""
    shift = 1.5 + np.add.outer(0.5 * (np.arange(SCAN[0]) % 2), np.linspace(0, 1, SCAN[1]))
    counts = np.array([[expected(one, electrons) for one in row] for row in shift])
    return np.random.default_rng(seed).poisson(counts).astype(np.uint32), shift


def written(folder, counts: np.ndarray):
    """The file of a spectrum image."""
    axes = [{"_type": "UniformDataAxis", "name": name, "size": size, "scale": scale, "offset": offset, "units": unit,
             "navigate": navigate, "is_binned": False}
            for name, size, scale, offset, unit, navigate in (("y", SCAN[0], 1.0, 0.0, "nm", True), (
                "x", SCAN[1], 1.0, 0.0, "nm", True), ("Energy loss", CHANNELS, STEP, ENERGIES[0], "eV", False))]
    path = folder / "map.hspy"
    file_writer(str(path), {
        "data": counts, "axes": axes, "original_metadata": {}, "package_info": {"package": "edgetem", "package_version": ""},
        "learning_results": {}, "models": {}, "tmp_parameters": {}, "attributes": {"_lazy": False, "ragged": False},
        "metadata": {"General": {"title": "spectra"}, "Signal": {"signal_type": "EELS"}}})
    return path


def spiked(counts: np.ndarray, number: int) -> tuple[np.ndarray, np.ndarray]:
    """Counts with spikes of 3000 far from the zero loss, and where (rows, columns, channels) bool."""
    generator, hit = np.random.default_rng(7), np.zeros(counts.shape, bool)
    places = generator.choice(SCAN[0] * SCAN[1], number, replace=number > SCAN[0] * SCAN[1])
    hit.reshape(-1, CHANNELS)[places, generator.integers(100, 300, number)] = True
    return counts + np.where(hit, 3000, 0).astype(counts.dtype), hit


def test_spectra_move_by_whole_channels_to_their_zero_loss():
    counts, shift = drawn(0)
    rows = counts.reshape(-1, CHANNELS)
    axis = ZeroLossAxis(rows, ENERGIES, 5.0, CountingNoise())
    moved, failures = axis(rows)
    assert not any(failures)
    assert (np.abs(axis.energies[moved.argmax(axis=1)]) <= STEP).all()
    assert axis.spread == pytest.approx(np.ptp(shift), abs=2 * STEP)
    assert axis.offset == pytest.approx(np.median(shift), abs=STEP)
    away = np.rint((shift.ravel() - axis.offset) / STEP).astype(int)
    for row, steps in zip(range(len(rows)), away, strict=True):
        start = axis.margin + steps
        choices = [rows[row, start + k:start + k + len(axis.energies)] for k in (-1, 0, 1)]
        assert any(np.array_equal(moved[row], choice) for choice in choices), "counts are those of the camera"


def test_a_plasmon_is_measured_from_its_own_zero_loss(tmp_path):
    path = written(tmp_path, drawn(1)[0])
    settings = {"plasmon.window_eV": [8, 40], "plasmon.plural": False}
    done = processed(path, tmp_path / "out", "plasmon", settings=settings)
    energy, error = (done.map(name) / 1.602176634e-19 for name in ("plasmon_energy", "plasmon_energy_standard_error"))
    assert np.isfinite(energy).all(), done.text
    # A zero loss lies within half a channel of zero, evenly.
    assert np.abs(energy - PLASMON).max() < 4 * error.max() + 0.5 * STEP and energy.mean() == pytest.approx(PLASMON, abs=0.1)
    assert "spectra are moved by whole channels of 0.25 eV" in done.text


def test_windows_of_an_edge_follow_the_zero_loss(tmp_path):
    """The background under an edge is that of the plasmon's tail, which windows that stay cut elsewhere in the last columns."""
    path = written(tmp_path, drawn(6, 1e6)[0])
    settings = {"edge.background_eV": [20, 30], "edge.signal_eV": [32, 40]}
    moved, left = (processed(path, tmp_path / name, "edge", settings={**settings, **more}).map("edge_background").mean(axis=0)
                   for name, more in (("moved", {}), ("left", {"edge.zero_loss_eV": 0.0})))
    assert np.log(moved[-2:].mean() / moved[:2].mean()) == pytest.approx(0, abs=0.03)
    assert abs(np.log(left[-2:].mean() / left[:2].mean())) > 0.05


def test_spikes_are_told_and_replaced_where_that_is_asked(tmp_path):
    counts, _ = drawn(2)
    damaged, hit = spiked(counts, 12)
    path = written(tmp_path, damaged)
    settings = {"edge.background_eV": [20, 30], "edge.signal_eV": [32, 50]}
    kept = processed(path, tmp_path / "kept", "edge", settings=settings)
    assert re.search(r"[1-9] channels of \d+ spectra of the sample have spikes", kept.text), kept.text
    clean = processed(path, tmp_path / "clean", "edge", settings={**settings, "edge.remove_spikes": True})
    assert "spikes were replaced in 12 channels" in clean.text
    truth = processed(written(tmp_path, counts), tmp_path / "truth", "edge", settings=settings)
    changed = hit.any(axis=2)
    assert np.array_equal(clean.map("edge")[~changed], truth.map("edge")[~changed])
    error = truth.map("edge_standard_error")[changed]
    assert (np.abs(clean.map("edge") - truth.map("edge"))[changed] < 4 * error).all()
    assert (np.abs(kept.map("edge") - truth.map("edge"))[changed] > 10 * error).any()


def test_so_many_spikes_are_noise_that_was_not_stated(tmp_path):
    """At 4 counts an electron told as 1 many channels lie too high: none is replaced, and the options are named."""
    path = written(tmp_path, 4 * drawn(3)[0])
    settings = {"edge.background_eV": [20, 30], "edge.signal_eV": [32, 50], "edge.remove_spikes": True}
    with pytest.raises(ProcessingError, match="too many for spikes: state --counts-per-electron"):
        processed(path, tmp_path / "out", "edge", settings=settings)
    done = processed(path, tmp_path / "right", "edge", settings=settings, counts_per_electron=4.0)
    assert done.code == 0, done.text


def test_spikes_do_not_depend_on_how_spectra_are_read():
    rows = spiked(drawn(4)[0], 12)[0].reshape(-1, CHANNELS)
    clean = without_spikes(rows, ENERGIES - 2.0, CountingNoise(), len(rows))
    whole, count = clean(rows)
    assert count == 12
    np.testing.assert_array_equal(whole, np.concatenate([clean(rows[first:first + 5])[0] for first in range(0, 48, 5)]))


def test_spectra_without_a_zero_loss_are_left_as_they_are_or_named(tmp_path):
    counts = drawn(5)[0]
    counts[2, 3] = np.random.default_rng(0).poisson(20, CHANNELS)
    done = processed(written(tmp_path, counts), tmp_path / "out", "plasmon", settings={"plasmon.window_eV": [8, 40],
                                                                                     "plasmon.plural": False})
    assert np.argwhere(np.isnan(done.map("plasmon_energy"))).tolist() == [[2, 3]]
    assert "there is no zero-loss peak" in done.text
    flat = np.random.default_rng(1).poisson(20, counts.shape).astype(np.uint32)
    done = processed(written(tmp_path, flat), tmp_path / "flat", "edge", settings={"edge.background_eV": [20, 30],
                                                                                  "edge.signal_eV": [32, 50]})
    assert "spectra are not aligned" in done.text and np.isfinite(done.map("edge")).all()
