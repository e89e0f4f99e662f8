"""Thickness and plasmon fits against Monte Carlo, theory and the virtual microscope's spectra."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

from edgetem_nodes.featurizer.features import ELECTRONVOLT, CountingNoise
from edgetem_nodes.featurizer.spectroscopy import LogRatio, PlasmonFit, elastic_end
from edgetem_nodes.featurizer.spectroscopy.scalarizers import EelsPlasmonScalarizer, EelsThicknessScalarizer
from edgetem_nodes.featurizer.parameters import EelsPlasmon, EelsThickness
from edgetem_nodes.physics.energy_loss import EnergyLoss, Spectrometer
from edgetem_nodes.physics.energy_loss.materials import Material, Oscillator
from edgetem_nodes.physics.scan import Axis

ENERGIES = -10 + 0.2 * np.arange(600)
AXIS = (Axis("energy_loss", "J", 0.2 * ELECTRONVOLT, -10 * ELECTRONVOLT, 600),)


def drude(energy: float, width: float) -> np.ndarray:
    """A single loss on the axis, a probability a channel."""
    e = np.maximum(ENERGIES, 0)
    shape = e * width * energy**2 / ((e**2 - energy**2)**2 + (e * width)**2)
    return shape / shape.sum()


def spectra(losses: float, energy: float = 15.0, width: float = 3.0, single: np.ndarray | None = None) -> np.ndarray:
    """Expected probability (channels,): Poisson numbers of independent losses, by convolution one after the other."""
    single = drude(energy, width) if single is None else single
    no_loss = np.flatnonzero(np.isclose(ENERGIES, 0))[0]
    peak = np.exp(-ENERGIES**2 / (2 * 0.35**2))
    term = peak / peak.sum()
    total, factor = np.zeros(len(ENERGIES)), np.exp(-losses)
    for number in range(12):
        total += factor * term
        factor *= losses / (number + 1)
        term = np.convolve(term, single)[no_loss:no_loss + len(ENERGIES)]
    return total


@pytest.mark.parametrize(("losses", "electrons"), [(0.1, 1e4), (0.5, 3e3), (1.5, 1e5)])
def test_plasmon_is_found_and_its_errors_cover(losses, electrons):
    rng = np.random.default_rng(1)
    counts = rng.poisson(electrons * spectra(losses), size=(150, len(ENERGIES)))
    fit = PlasmonFit(ENERGIES, [7.0, 45.0], 3.0)(counts)
    assert not any(fit.failures)
    for value, error, truth in ((fit.energy, fit.energy_error, 15.0), (fit.width, fit.width_error, 3.0),
                                (fit.losses, fit.losses_error, losses)):
        assert abs(value.mean() - truth) < 4 * value.std() / np.sqrt(150) + 0.1 * value.std()
        assert np.sqrt((error**2).mean()) == pytest.approx(value.std(), rel=0.2)
    assert 0.5 < fit.chi_square.mean() < 1.1


def test_without_plural_scattering_a_thick_specimen_misleads():
    """The second plasmon is taken for a part of the first, unless the fit knows of it."""
    counts = 1e6 * spectra(1.0)[None]
    plural, single = (PlasmonFit(ENERGIES, [7.0, 45.0], 3.0, plural=plural)(counts) for plural in (True, False))
    assert plural.energy[0] == pytest.approx(15.0, abs=0.01)
    assert plural.losses[0] == pytest.approx(1.0, rel=0.005)
    assert single.chi_square[0] > 100 * plural.chi_square[0]
    assert abs(single.width[0] - 3.0) > 0.5


@pytest.mark.parametrize("model", ["lorentzian", "gaussian"])
def test_other_shapes(model):
    e = np.maximum(ENERGIES, 0)
    shape = np.where(e > 0, 1 / ((e - 22)**2 + 9) if model == "lorentzian" else np.exp(-4 * np.log(2) * ((e - 22) / 6)**2), 0)
    counts = 1e5 * spectra(0.4, single=shape / shape.sum())[None]
    fit = PlasmonFit(ENERGIES, [8.0, 60.0], 3.0, model=model)(counts)
    assert (fit.energy[0], fit.width[0]) == pytest.approx((22, 6), abs=0.05)
    # a Lorentzian's tail reaches beyond this axis, whose end cuts the truth here and not the fit's grid
    assert fit.losses[0] == pytest.approx(0.4, rel=0.04)
    assert PlasmonFit(ENERGIES, [8.0, 60.0], 3.0, model="drude")(counts).chi_square[0] > 100 * fit.chi_square[0]


def aluminium() -> Material:
    """Three free electrons an atom: E_p 15.8 eV by theory, and a width of 1 eV."""
    return Material("aluminium", {"S": 1.0}, 2700 * 32.06 / 26.982, (Oscillator(3.0, 0.0, 1.0),), "free electrons", join=200.0)


def test_plasmon_of_a_simulated_slab():
    """Energy of the free-electron gas within 0.15 eV (the rest is the zero loss' tail and the surface plasmon), and losses in
    proportion to the thickness."""
    material = aluminium()
    spectrometer = Spectrometer(-10.0, 0.1, 1200, 0.5, 10e-3)
    probe = SimpleNamespace(high_tension=200e3, semi_convergence_angle=5e-3, defocus=0.0, source_size=0.0)

    class Wedge:
        edge_mode = False

        def layers(self, positions, condition):
            return {"aluminium": positions[:, 1]}

    thickness = np.array([40e-9, 80e-9, 160e-9])
    model = EnergyLoss(Wedge(), probe, spectrometer, {"aluminium": material})
    counts = 1e6 * model.spectra(np.stack([0 * thickness, thickness], axis=1)).astype(float)
    fit = PlasmonFit(spectrometer.energies, [11.0, 40.0], 3.0)(counts)
    assert not any(fit.failures)
    assert fit.energy == pytest.approx(material.plasmon_energy, abs=0.15)
    assert fit.width == pytest.approx(1.0, abs=0.35)
    slope = np.diff(fit.losses) / np.diff(thickness)
    assert slope[1] == pytest.approx(slope[0], rel=0.05)
    ratio = LogRatio(spectrometer.energies, 3.0)(counts).mean_free_paths
    assert (ratio > fit.losses).all()
    assert np.diff(ratio)[1] / np.diff(ratio)[0] == pytest.approx(2.0, rel=0.1)


def test_log_ratio_is_unbiased_and_its_error_covers():
    rng = np.random.default_rng(2)
    expected = spectra(0.7)
    below = ENERGIES < 3
    truth = np.log(expected.sum() / expected[below].sum())
    for gain in (1.0, 6.0):
        counts = gain * rng.poisson(800 * expected, size=(3000, len(ENERGIES)))
        found = LogRatio(ENERGIES, 3.0, CountingNoise(gain))(counts)
        assert found.mean_free_paths.mean() == pytest.approx(truth, abs=4 * found.mean_free_paths.std() / np.sqrt(3000) + 1e-3)
        assert np.sqrt((found.standard_errors**2).mean()) == pytest.approx(found.mean_free_paths.std(), rel=0.05)
    assert truth == pytest.approx(0.7, abs=0.01)


def test_end_of_the_zero_loss_lies_between_the_peaks():
    assert 1.0 < elastic_end(1e6 * spectra(0.5)[None], ENERGIES) < 8.0
    with pytest.raises(ValueError, match="no minimum"):
        elastic_end(np.exp(-np.abs(ENERGIES) / 3)[None], ENERGIES)


def test_rows_that_cannot_be_used_are_failures():
    counts = np.repeat(1e5 * spectra(0.5)[None], 5, axis=0)
    counts[1, 150] = np.nan
    counts[2] = 0
    counts[3] = 1e5 * spectra(0.0)
    counts[4, 50] = 7e4
    noise = CountingNoise(saturation=65000.0)
    fit, ratio = PlasmonFit(ENERGIES, [7.0, 45.0], 3.0, noise=noise)(counts), LogRatio(ENERGIES, 3.0, noise)(counts)
    assert [bool(failure) for failure in fit.failures] == [False, True, True, True, True]
    assert [bool(failure) for failure in ratio.failures] == [False, True, True, False, True]
    assert "not finite" in fit.failures[1]
    assert "no counts" in fit.failures[2]
    assert "saturated" in fit.failures[4]
    assert np.isnan(fit.energy[1:]).all()
    assert np.isnan(ratio.mean_free_paths[[1, 2, 4]]).all()
    assert ratio.mean_free_paths[3] == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize(("make", "message"), [
    (lambda: PlasmonFit(ENERGIES, [7.0, 45.0], 3.0, model="hydrogenic"), "not one of drude"),
    (lambda: PlasmonFit(ENERGIES, [2.0, 45.0], 3.0), "below the end of the zero loss"),
    (lambda: PlasmonFit(ENERGIES, [7.0, 450.0], 3.0), "reaches outside the energy axis"),
    (lambda: PlasmonFit(ENERGIES + 20, [15.0, 45.0], 13.0), "must rise from below zero"),
    (lambda: LogRatio(ENERGIES, -1.0), "not all on the energy axis"),
    (lambda: LogRatio(np.geomspace(1, 100, 50), 5.0), "not evenly spaced"),
    (lambda: LogRatio(ENERGIES, 3.0)(np.ones((2, 3, 600))), "reshape a spectrum image"),
])
def test_bad_input_is_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_scalarizers_say_what_the_fits_say_and_rows_stand_alone():
    rng = np.random.default_rng(3)
    counts = rng.poisson(1e4 * spectra(0.6), size=(12, len(ENERGIES)))
    counts[5] = 0
    settings = EelsPlasmon(quantity="losses", window_eV=[7.0, 45.0])
    plasmon = EelsPlasmonScalarizer(settings, CountingNoise(), AXIS)
    assert plasmon.names == ("plasmon_losses", "plasmon_energy", "plasmon_width", "plasmon_chi_square")
    features, fit = plasmon(counts), PlasmonFit(ENERGIES, [7.0, 45.0], 3.0)(counts)
    assert features.values[:, 1] == pytest.approx(fit.energy, rel=1e-9, nan_ok=True)
    assert features.valid.tolist() == [row != 5 for row in range(12)]
    for scalarizer in (plasmon, EelsThicknessScalarizer(EelsThickness(mean_free_path_nm=120.0), CountingNoise(), AXIS)):
        whole = scalarizer(counts)
        for cut in (1, 5):
            parts = np.concatenate([scalarizer(counts[first:first + cut]).values for first in range(0, 12, cut)])
            assert np.array_equal(parts, whole.values, equal_nan=True)
    assert scalarizer.units == ("nm", "counts")
    assert scalarizer(counts).values[0, 0] == pytest.approx(120 * LogRatio(ENERGIES, 3.0)(counts).mean_free_paths[0])


@pytest.mark.parametrize("white", [0.002, 0.3])
def test_where_there_is_no_specimen_there_is_no_plasmon(white):
    """Spectra of a zero loss over a little white noise: marked failures, hardly ever a number."""
    rng = np.random.default_rng(4)
    fit = PlasmonFit(ENERGIES, [7.0, 45.0], 3.0)(rng.poisson(1e5 * spectra(0.0) + white, size=(20, len(ENERGIES))))
    assert np.mean([bool(failure) for failure in fit.failures]) > 0.85
