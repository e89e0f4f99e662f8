"""EELS edge, X-ray window and total counts: against theory, Monte Carlo and measured data."""

from __future__ import annotations

import h5py
import numpy as np
import pytest
from scipy.optimize import minimize

from edgetem_nodes.featurizer.features import ELECTRONVOLT, CountingNoise
from edgetem_nodes.featurizer.parameters import EdsWindow, EelsEdge, Parameters
from edgetem_nodes.featurizer.scalarizers import build, measure
from edgetem_nodes.featurizer.spectroscopy.spectra import background_of, fit_power_law
from edgetem_nodes.physics.scan import Axis


def energy_axis(offset_ev: float, step_ev: float, size: int, name: str = "energy_loss") -> Axis:
    return Axis(name, "J", step_ev * ELECTRONVOLT, offset_ev * ELECTRONVOLT, size)


EELS_AXIS = energy_axis(700, 8, 162)
ENERGIES = 700.0 + 8 * np.arange(162)


def eels(background: tuple[float, float] = (750, 920), signal: tuple[float, float] = (930, 1010), **others) -> Parameters:
    return Parameters(scalarizer="eels_edge", eels_edge=EelsEdge(list(background), list(signal)), **others)


def spectrum(level: float, exponent: float, edge: float) -> np.ndarray:
    """Expected counts: power law with `level` counts a channel at 835 eV, `edge` counts a channel from 928 eV."""
    return level * (ENERGIES / 835)**-exponent + edge * (ENERGIES >= 928)


def test_noise_free_power_law_is_removed_exactly():
    features = measure(spectrum(1000, 3.1, 40)[None], (EELS_AXIS,), eels())
    in_window = ((ENERGIES >= 930) & (ENERGIES <= 1010)).sum()
    assert features.values[0, 0] == pytest.approx(40 * in_window, rel=1e-9)
    assert features.values[0, 2] == pytest.approx(3.1, rel=1e-9)


@pytest.mark.parametrize(("level", "edge", "gain"), [(4.0, 1.0, 1.0), (40.0, 5.0, 1.0), (4000.0, 200.0, 4.0)])
def test_net_signal_is_unbiased_and_its_standard_error_covers(level, edge, gain):
    """Monte Carlo: mean, spread and 68/95 % coverage, from 4 electrons a channel up. The bias is of second order."""
    rng = np.random.default_rng(3)
    expected = spectrum(level, 3.0, edge)
    counts = gain * rng.poisson(expected / gain, size=(6000, len(ENERGIES)))
    features = measure(counts, (EELS_AXIS,), eels(counts_per_electron=gain))
    assert features.valid.mean() > 0.999
    net, error = features.values[features.valid, 0], features.standard_errors[features.valid, 0]
    truth = edge * ((ENERGIES >= 930) & (ENERGIES <= 1010)).sum()
    assert abs(net.mean() - truth) < 4 * net.std() / np.sqrt(len(net)) + 0.1 * net.std() / np.sqrt(level)
    assert np.sqrt((error**2).mean()) == pytest.approx(net.std(), rel=0.05)
    assert (np.abs(net - truth) < error).mean() == pytest.approx(0.683, abs=0.025)
    assert (np.abs(net - truth) < 1.96 * error).mean() == pytest.approx(0.95, abs=0.015)
    assert features.values[features.valid, 3].mean() == pytest.approx(1.0, abs=0.05)


def test_background_for_a_picture_is_the_one_that_is_subtracted():
    counts = np.random.default_rng(8).poisson(spectrum(200, 3, 20)).astype(np.int16)
    background = background_of(counts, (EELS_AXIS,), EelsEdge())
    features = measure(counts[None], (EELS_AXIS,), eels())
    window = (ENERGIES >= 930) & (ENERGIES <= 1010)
    assert background[window].sum() == pytest.approx(features.values[0, 1])
    assert np.isnan(background[[0, -1]]).all()
    assert np.isnan(background_of(0 * counts, (EELS_AXIS,), EelsEdge())).all()


def test_readout_noise_enters_the_standard_error():
    rng = np.random.default_rng(4)
    counts = rng.poisson(spectrum(200, 3, 0), size=(4000, len(ENERGIES))) + rng.normal(0, 12, (4000, len(ENERGIES)))
    features = measure(counts, (EELS_AXIS,), eels(readout_noise=12.0))
    assert np.median(features.standard_errors[:, 0]) == pytest.approx(features.values[:, 0].std(), rel=0.05)
    assert features.values[:, 3].mean() == pytest.approx(1.0, abs=0.05)


def test_fit_is_the_maximum_of_the_poisson_likelihood():
    """Against a general minimiser on the likelihood written out."""
    rng = np.random.default_rng(5)
    energies, counts = ENERGIES[6:28], rng.poisson(spectrum(3, 3, 0)[6:28], size=(3, 22))
    law = fit_power_law(energies, counts.astype(float), CountingNoise())
    for row in range(3):
        def loss(p, row=row):
            mean = np.exp(p[0] - p[1] * np.log(energies / law.pivot))
            return (mean - counts[row] * np.log(mean)).sum()
        best = minimize(loss, [1.0, 2.0], method="Nelder-Mead", options={"xatol": 1e-10, "fatol": 1e-12, "maxiter": 4000})
        assert (law.level[row], law.exponent[row]) == pytest.approx(best.x, abs=1e-5)


def test_measured_cu_l_edge_against_haadf(data_root):
    """The number of the data set's description: correlation of the Cu-L net signal with HAADF is 0.80."""
    folder = data_root / "replay" / "CuZn_EELS_HAADF"
    with h5py.File(folder / "CuZn_EELS_mapping_tutorial.hspy") as file:
        spectra = file["Experiments/EELS Spectrum Image/data"][...]
    with h5py.File(folder / "CuZn_HAADF.hspy") as file:
        haadf = file["Experiments/Gatan HAADF/data"][...]
    features = measure(spectra.reshape(-1, 162), (EELS_AXIS,), eels(counts_per_electron=4.0))
    assert features.valid.all()
    assert np.corrcoef(features.values[:, 0], haadf.ravel())[0, 1] == pytest.approx(0.80, abs=0.01)
    later = measure(spectra.reshape(-1, 162), (EELS_AXIS,), eels(signal=(1030, 1130)))
    assert np.corrcoef(later.values[:, 0], haadf.ravel())[0, 1] == pytest.approx(0.87, abs=0.01)
    assert np.median(features.values[:, 3]) == pytest.approx(1.0, abs=0.2)


def test_measured_iron_signal_is_the_window_sum(data_root):
    with h5py.File(data_root / "replay" / "core_shell_EDS" / "core_shell.hspy") as file:
        spectra = file["Experiments/Core shell/data"][...].reshape(-1, 992)
    energies = 0.16 + 0.02 * np.arange(992)
    axis = energy_axis(160, 20, 992, "energy")
    parameters = Parameters(scalarizer="eds_window", eds_window=EdsWindow([6.2, 6.6], []))
    features = measure(spectra, (axis,), parameters)
    reference = spectra[:, (energies > 6.195) & (energies < 6.605)].sum(axis=1)
    assert np.array_equal(features.values[:, 0], reference)
    assert features.standard_errors[:, 0] == pytest.approx(np.sqrt(np.maximum(reference, 1)))


@pytest.mark.parametrize("sides", [[5.7, 6.0], [5.7, 6.0, 6.8, 7.4]])
def test_line_above_side_windows_is_unbiased_and_covered(sides):
    rng = np.random.default_rng(6)
    energies = 0.16 + 0.02 * np.arange(600)
    slope = 0.0 if len(sides) == 2 else -1.5
    line = np.where((energies > 6.19) & (energies < 6.61), 4.0, 0.0)
    counts = rng.poisson(20 + slope * (energies - 6.4) + line, size=(5000, 600))
    features = measure(counts, (energy_axis(160, 20, 600, "energy"),),
                       Parameters(scalarizer="eds_window", eds_window=EdsWindow([6.2, 6.6], sides)))
    net, error = features.values[:, 0], features.standard_errors[:, 0]
    assert net.mean() == pytest.approx(4.0 * 21, abs=4 * net.std() / np.sqrt(5000))
    assert (np.abs(net - 84) < error).mean() == pytest.approx(0.683, abs=0.025)


def test_negative_net_signal_is_a_result():
    frames = spectrum(1000, 3.0, -20)[None]
    features = measure(frames, (EELS_AXIS,), eels())
    assert features.valid[0]
    assert features.values[0, 0] < 0 < features.standard_errors[0, 0]


def test_frames_that_cannot_be_used_are_marked_failures():
    frames = np.repeat(spectrum(1000, 3.0, 40)[None], 5, axis=0)
    frames[1, 10] = np.nan
    frames[2] = 0
    frames[3, 30] = 60000
    frames[4, 2] = np.inf
    features = measure(frames, (EELS_AXIS,), eels(saturation=50000.0))
    assert features.valid.tolist() == [True, False, False, False, True]
    assert "not finite" in features.failures[1]
    assert "could not be fitted to the 0 counts" in features.failures[2]
    assert "saturated" in features.failures[3]
    assert np.isnan(features.values[1:4]).all() and np.isnan(features.standard_errors[1:4]).all()
    assert np.isfinite(features.values[[0, 4]]).all()


def test_largest_value_of_an_unsigned_detector_counts_as_saturated():
    frames = np.repeat(spectrum(1000, 3.0, 40)[None], 2, axis=0).astype(np.uint16)
    frames[1, 30] = 65535
    assert measure(frames, (EELS_AXIS,), eels()).valid.tolist() == [True, False]


def test_all_counts_in_one_channel_is_a_failure_not_a_number():
    frames = np.zeros((1, 162), np.uint16)
    frames[0, 10] = 50
    features = measure(frames, (EELS_AXIS,), eels())
    assert not features.valid[0] or features.standard_errors[0, 0] >= 1


def test_empty_frame_has_zero_total_counts_with_the_error_of_one_electron():
    features = measure(np.zeros((1, 162), np.uint16), (EELS_AXIS,), Parameters(scalarizer="total_counts",
                                                                                counts_per_electron=3.0))
    assert (features.values[0, 0], features.standard_errors[0, 0]) == (0.0, 3.0)


@pytest.mark.parametrize(("parameters", "message"), [
    (eels(background=(500, 600)), "500 to 600 eV reaches outside the energy axis, 700 to 1988 eV"),
    (eels(signal=(930, 2500)), "930 to 2500 eV reaches outside"),
    (eels(background=(750, 770)), "holds 2 channels"),
    (eels(background=(750, 940)), "above the start of eels_edge.signal_eV"),
    (eels(signal=(1010, 930)), "the smaller first"),
    (Parameters(scalarizer="eds_window", eds_window=EdsWindow([6.2, 6.6], [])), "6.2 to 6.6 keV reaches outside"),
    (Parameters(scalarizer="eds_window", eds_window=EdsWindow([0.93, 1.01], [0.8, 0.95])), "overlaps"),
    (Parameters(scalarizer="eds_window", eds_window=EdsWindow([0.93, 1.01], [0.8])), "must hold no number, two"),
    (Parameters(scalarizer="virtual_detector"), "needs patterns with two axes in rad"),
])
def test_settings_that_do_not_fit_the_axes_are_refused_before_a_run(parameters, message):
    with pytest.raises(ValueError, match=message):
        build(parameters, (EELS_AXIS,))


def test_spectra_need_a_calibrated_axis():
    with pytest.raises(ValueError, match="calibrate the energy axis"):
        build(eels(), (Axis("channel", "", 1.0, 0.0, 162),))


def test_many_spectra_a_second():
    """Far above the rate of any spectrometer: 2000 spectra of 162 channels."""
    import time
    counts = np.random.default_rng(0).poisson(spectrum(100, 3, 5), size=(2000, 162)).astype(np.int16)
    scalarizer = build(eels(), (EELS_AXIS,))
    start = time.process_time()
    assert scalarizer(counts).valid.all()
    assert 2000 / (time.process_time() - start) > 3000
