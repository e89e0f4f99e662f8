"""Spectroscopy on measured files against HyperSpy and exSpy in the same run."""

from __future__ import annotations

import warnings
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from edgetem_nodes.featurizer.features import CountingNoise
from edgetem_nodes.featurizer.spectroscopy import (
    ElementWindows, LogRatio, PlasmonFit, edge_signal, elastic_end, line_energies, line_energy, line_width, remove_spikes,
    shifted, zero_loss_shifts)

pytestmark = [
    pytest.mark.filterwarnings(
        "ignore:Importing `Lazy.* from `hyperspy._signals.* is deprecated and will be removed in the HyperSpy 3.0 release"),
    pytest.mark.filterwarnings("ignore:Loading old file version. The binned attribute has been moved")]
COPPER = "replay/CuZn_EELS_HAADF/CuZn_EELS_mapping_tutorial.hspy"
LOW_LOSS = "formats/hspy_lineprofile/LSMO_linescan_low_loss.hspy"
PARTICLES = "replay/core_shell_EDS/core_shell.hspy"


@pytest.fixture(scope="module")
def hyperspy() -> ModuleType:
    pytest.importorskip("exspy", reason="exSpy, the peer of these tests, is not installed")
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Importing `Lazy.* from `hyperspy._signals.* is deprecated")
        import hyperspy.api

        hyperspy.api.preferences.General.show_progressbar = False
    return hyperspy.api


def loaded(hyperspy: ModuleType, data_root: Path, name: str) -> tuple[object, np.ndarray, np.ndarray]:
    """The peer's signal, its spectra (rows, channels), and its energies (channels,) in the file's unit."""
    signal = hyperspy.load(data_root / name)
    axis = signal.axes_manager[-1].axis.copy()
    return signal, signal.data.reshape(-1, len(axis)).copy(), axis


def test_copper_edge_agrees_within_its_errors(hyperspy, data_root):
    """HyperSpy's two fits of the same power law, neither of which knows of counting noise: their net signals lie within the
    standard errors of ours, and correlate with it."""
    signal, spectra, energies = loaded(hyperspy, data_root, COPPER)
    ours = edge_signal(spectra, energies, [750, 920], [930, 1010], CountingNoise(4.0))
    inside = (energies > 929) & (energies < 1011)
    fast = signal.deepcopy()
    fast.change_dtype("float64")
    net = fast.remove_background(signal_range=(750.0, 920.0), background_type="Power law", fast=True)
    theirs = net.data.reshape(len(spectra), -1)[:, inside].sum(axis=1)
    assert np.corrcoef(theirs, ours.counts)[0, 1] > 0.975
    part = signal.inav[:8, :8].deepcopy()
    part.change_dtype("float64")
    fitted = part.remove_background(signal_range=(750.0, 920.0), background_type="Power law", fast=False)
    theirs = fitted.data.reshape(64, -1)[:, inside].sum(axis=1)
    here = np.arange(2000).reshape(50, 40)[:8, :8].ravel()
    off = (theirs - ours.counts[here]) / ours.standard_errors[here]
    assert abs(off.mean()) < 0.5
    assert np.median(np.abs(off)) < 0.5


def test_power_law_is_that_of_a_poisson_fit(hyperspy, data_root):
    """The same maximum of the likelihood as HyperSpy's general minimiser finds on the counts over the gain."""
    signal, spectra, energies = loaded(hyperspy, data_root, COPPER)
    ours = edge_signal(spectra[:4] / 4, energies, [750, 920], [930, 1010])
    part = signal.inav[:4, 0].deepcopy()
    part.change_dtype("float64")
    part.data /= 4
    model = part.create_model(auto_background=False, auto_add_edges=False)
    law = hyperspy.model.components1D.PowerLaw()
    model.append(law)
    law.origin.free = False
    # channels from 756 to 916 eV: a range in eV is rounded to the nearest channels, beyond 750 eV
    inside = (energies >= 750) & (energies <= 920)
    model.set_signal_range_from_mask(inside)
    for column in range(2):
        model.axes_manager.indices = (column,)
        law.r.value = ours.exponent[column] * 1.05
        law.A.value = spectra[column, 10] / 4 * energies[10]**law.r.value
        model.fit(loss_function="ML-poisson", optimizer="Nelder-Mead", tol=1e-9, options={"maxiter": 2000})
        assert law.r.value == pytest.approx(ours.exponent[column], rel=2e-3)


def test_zero_loss_is_aligned_as_by_cross_correlation_and_better(hyperspy, data_root):
    signal, spectra, energies = loaded(hyperspy, data_root, LOW_LOSS)
    ours = zero_loss_shifts(spectra, energies, 5.0)
    assert not any(ours.failures)
    theirs = signal.deepcopy().estimate_shift1D(start=-5.0, end=15.0, interpolate=True, number_of_interpolation_points=20)
    differences = -np.asarray(theirs).ravel() - 0.5 * (ours.channels - ours.channels[0])
    # theirs are whole steps of 0.5 eV / 21
    assert differences.std() < 0.02
    aligned = signal.deepcopy()
    aligned.align_zero_loss_peak(calibrate=True, print_stats=False, subpixel=True)
    rest = zero_loss_shifts(aligned.data, aligned.axes_manager[-1].axis, 5.0).channels
    mine = zero_loss_shifts(np.nan_to_num(shifted(spectra, ours.channels)), energies, 5.0).channels
    assert mine.std() < rest.std()
    assert abs(mine.mean()) < 0.1


def test_thickness_is_that_of_the_log_ratio(hyperspy, data_root):
    signal, spectra, energies = loaded(hyperspy, data_root, LOW_LOSS)
    ours = LogRatio(energies, 10.0)(spectra)
    theirs = signal.estimate_thickness(threshold=10.0).data
    assert ours.mean_free_paths == pytest.approx(theirs, rel=1e-5)
    assert (ours.standard_errors < 0.01).all()


def test_plasmon_of_a_measured_oxide(hyperspy, data_root):
    """The least-squares fit of the peer's Drude component to the same spectrum, in a range where one loss dominates."""
    from exspy.components import VolumePlasmonDrude

    signal, spectra, energies = loaded(hyperspy, data_root, LOW_LOSS)
    spectra = np.nan_to_num(shifted(spectra, zero_loss_shifts(spectra, energies, 5.0).channels))
    assert 3.0 < elastic_end(spectra, energies) < 10.0
    ours = PlasmonFit(energies, [20.0, 42.0], 6.0, plural=False, noise=CountingNoise(1.0, 40.0))(spectra[:5])
    assert not any(ours.failures)
    for row in range(5):
        one = hyperspy.signals.Signal1D(spectra[row])
        one.axes_manager[0].scale, one.axes_manager[0].offset = 0.5, -50.0
        model = one.create_model()
        component = VolumePlasmonDrude(intensity=2000.0, plasmon_energy=30.0, fwhm=15.0)
        model.append(component)
        model.set_signal_range(20.0, 42.0)
        model.fit()
        assert ours.energy[row] == pytest.approx(component.plasmon_energy.value, abs=0.5)
        assert ours.width[row] == pytest.approx(component.fwhm.value, rel=0.15)


def test_injected_spikes_are_removed_from_a_measured_map(hyperspy, data_root):
    """X-rays of 2000 counts on Cu-L spectra of 2000 to 6000 counts a channel, next to edges and in them."""
    _, spectra, _ = loaded(hyperspy, data_root, COPPER)
    noise, rng = CountingNoise(4.0), np.random.default_rng(3)
    before = remove_spikes(spectra, noise)
    assert len(before.rows) < 0.0002 * spectra.size
    rows, channels = rng.choice(2000, 100, replace=False), rng.integers(6, 156, 100)
    dirty = spectra.astype(np.int32)
    dirty[rows, channels] += 2000
    after = remove_spikes(dirty, noise)
    found = set(zip(after.rows, after.channels, strict=True))
    assert len(set(zip(rows, channels, strict=True)) - found) <= 2
    hit = after.spectra[rows, channels] - spectra[rows, channels]
    assert np.median(np.abs(hit)) < 4 * np.sqrt(4.0 * np.median(spectra[rows, channels]))


def test_line_energies_are_those_of_another_table(hyperspy):
    """exSpy's energies are Chantler's; the alpha lines there are the first of each pair, up to 1 % above the mean."""
    from exspy.material import elements

    compared = 0
    for element, family, limit in [(e, f, w) for e in ("C", "O", "Al", "Si", "Ti", "Fe", "Cu", "Sr", "Mo", "Pt", "Au", "Pb")
                                   for f, w in (("Ka", 0.012), ("Kb", 0.006), ("La", 0.006), ("Lb1", 0.006), ("Ma", 0.01))]:
        ours = line_energies().get(f"{element}_{family.removesuffix('1')}")
        lines = elements[element]["Atomic_properties"]["Xray_lines"]
        if ours is None or family not in lines:
            continue
        assert ours == pytest.approx(1e3 * lines[family]["energy (keV)"], rel=limit, abs=12.0), f"{element} {family}"
        compared += 1
    assert compared > 35


def test_window_sums_and_net_counts_of_a_measured_map(hyperspy, data_root):
    signal, spectra, energies = loaded(hyperspy, data_root, PARTICLES)
    lines = ["Fe_Ka", "Pt_La"]
    eV = 1e3 * energies
    windows = ElementWindows(lines, eV, present=("Cu",))
    theirs = signal.estimate_integration_windows(windows_width=2.0, xray_lines=lines)
    for line, (low, high) in zip(lines, theirs, strict=True):
        assert windows.windows[line] == pytest.approx([1e3 * low, 1e3 * high], abs=12.0)
        assert line_width(line_energy(line)) == pytest.approx(500 * (high - low), rel=0.01)
    net = windows(spectra)
    for line in lines:
        own = [edge / 1e3 for edge in windows.windows[line]]
        inside = (energies >= own[0]) & (energies <= own[1])
        chosen = np.array([[edge / 1e3 for edge in windows.sides[line]]])
        (peer,) = signal.get_lines_intensity([line], integration_windows=[own], background_windows=chosen)
        peer = np.asarray(peer.data, float).ravel()
        error = net[line].standard_errors
        # the peer's windows end half a channel earlier or later
        assert np.median(np.abs(peer - net[line].counts) / error) < 0.6
        assert np.corrcoef(peer, net[line].counts)[0, 1] > 0.93
        assert (net[line].counts + net[line].background) == pytest.approx(spectra[:, inside].sum(axis=1))
    bare = ElementWindows(lines, eV, background=False)(spectra)
    plain = signal.get_lines_intensity(lines, integration_windows=[[edge / 1e3 for edge in windows.windows[line]]
                                                                   for line in lines])
    for line, peer in zip(lines, plain, strict=True):
        assert np.corrcoef(np.asarray(peer.data, float).ravel(), bare[line].counts)[0, 1] > 0.97
