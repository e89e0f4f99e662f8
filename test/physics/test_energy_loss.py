"""Spectra of specimens: plural scattering, thickness, conservation, probe, and the edge mode of a flake with its control."""

from __future__ import annotations

import math
import time
from types import SimpleNamespace

import h5py
import numpy as np
import pytest

from edgetem_nodes.featurizer.parameters import EelsBandRatio, Parameters
from edgetem_nodes.featurizer.scalarizers import measure
from edgetem_nodes.physics.electrons import ELEMENTARY_CHARGE
from edgetem_nodes.physics.energy_loss import MATERIALS, EnergyLoss, Spectrometer
from edgetem_nodes.physics.energy_loss.low_loss import delocalisation_length, edge_excitation, zero_loss_peak
from edgetem_nodes.physics.specimens import Condition
from edgetem_nodes.physics.specimens.catalogue import SpecimenOptions, make_specimen

LOW_LOSS = Spectrometer(-10.0, 0.1, 1024, 0.4, 40e-3)


def probe(high_tension: float = 100e3, source_size: float = 0.0) -> SimpleNamespace:
    return SimpleNamespace(high_tension=high_tension, semi_convergence_angle=30e-3, defocus=0.0, source_size=source_size)


class Steps:
    """A flake that fills x < 0 and ends there in a straight rim; thinner, by half, where y > 0."""

    def __init__(self, thickness: float = 20e-9, name: str = "MnPS3", edge_mode: bool = False) -> None:
        self.thickness, self.name, self.edge_mode = thickness, name, edge_mode

    def layers(self, positions, condition):
        thickness = self.thickness * np.where(positions[:, 0] > 0, 0.5, 1.0)
        return {self.name: np.where(positions[:, 1] < 0, thickness, 0.0)}

    def edge_distance(self, positions):
        return positions[:, 1]


class Slab:
    edge_mode = False

    def __init__(self, **layers: float) -> None:
        self.thicknesses = layers

    def layers(self, positions, condition):
        return {name: np.full(len(positions), thickness) for name, thickness in self.thicknesses.items()}


def one(specimen, spectrometer: Spectrometer = LOW_LOSS, **optics) -> np.ndarray:
    return EnergyLoss(specimen, probe(**optics), spectrometer).spectra(np.zeros((1, 2)))[0].astype(float)


@pytest.mark.parametrize("thickness", [0.0, 5e-9, 40e-9, 150e-9])
def test_every_electron_is_somewhere(thickness):
    """On an axis up to 4 keV, whatever is not beyond its end."""
    spectrum = one(Slab(carbon=thickness), Spectrometer(-500.0, 1.0, 4500, 2.0, 40e-3))
    assert spectrum.sum() == pytest.approx(1.0, abs=3e-4)
    assert spectrum.min() >= 0


def test_empty_place_gives_the_zero_loss_peak():
    expected = zero_loss_peak(LOW_LOSS.energies, 0.4, 0.1)
    assert one(Slab(carbon=0.0)) == pytest.approx(expected, rel=1e-3, abs=1e-9)


@pytest.mark.parametrize("name", ["carbon", "MnPS3", "SrTiO3", "Au"])
def test_log_ratio_gives_the_thickness_back(name):
    """t = lambda ln(I / I0) (Egerton, 5.1.1), up to what the faces add or take."""
    spectrometer = Spectrometer(-50.0, 0.5, 2048, 1.0, 40e-3)
    path = MATERIALS[name].mean_free_path(100e3, 30e-3, 40e-3)
    zero_loss = [one(Slab(**{name: thickness}), spectrometer)[spectrometer.energies < 0].sum()
                 for thickness in (0.0, 40e-9, 80e-9, 160e-9)]
    ratios = np.log(zero_loss[0] / np.array(zero_loss[1:]))
    assert ratios[2] - ratios[1] == pytest.approx(80e-9 / path, rel=0.02)
    assert ratios[1] == pytest.approx(80e-9 / path, rel=0.25)


def test_multiple_plasmons_are_poisson_distributed():
    """With one sharp loss the areas of its overtones are P_n = (t/lambda)^n e^(-t/lambda) / n!."""
    from edgetem_nodes.physics.energy_loss.materials import EdgeMode, Material, Oscillator

    sharp = Material("rim", {"C": 1.0}, 2000.0, (Oscillator(4.0, 0.0, 1.0),), "", edge_mode=EdgeMode(15.0, 0.05, 0.7, 1e-9))
    flake = SimpleNamespace(edge_mode=True, layers=lambda positions, condition: {"rim": np.zeros(len(positions))},
                            edge_distance=lambda positions: np.zeros(len(positions)))
    spectrum = EnergyLoss(flake, probe(), LOW_LOSS, {"rim": sharp}).spectra(np.zeros((1, 2)))[0]
    areas = [spectrum[np.abs(LOW_LOSS.energies - 15.0 * order) < 5].sum() for order in range(5)]
    assert areas == pytest.approx([0.7 ** n * math.exp(-0.7) / math.factorial(n) for n in range(5)], rel=0.02)


def test_fourier_log_gives_the_single_scattering_of_a_thin_specimen():
    """ln of the spectrum over the zero-loss peak is proportional to the thickness (Egerton, 4.1.1)."""
    spectrometer = Spectrometer(-100.0, 0.4, 2500, 1.0, 40e-3)
    transforms = [np.fft.rfft(one(Slab(carbon=thickness), spectrometer)) for thickness in (0.0, 60e-9, 120e-9, 180e-9)]
    thin, thick, thicker = (np.log(each / transforms[0])[:300] for each in transforms[1:])
    assert np.abs((thicker - thick) - (thick - thin)).max() < 0.01 * np.abs(thick).max()


def test_result_does_not_depend_on_the_axis_that_it_is_asked_on():
    """The same losses on a short axis that starts late and on a long one: nothing wraps around, nothing is lost."""
    specimen = Slab(SrTiO3=60e-9)
    long = one(specimen, Spectrometer(-50.0, 0.25, 4096, 0.8, 30e-3))
    short = one(specimen, Spectrometer(10.0, 0.25, 160, 0.8, 30e-3))
    assert short == pytest.approx(long[240:400], rel=2e-3)
    core = one(specimen, Spectrometer(430.0, 0.25, 400, 0.8, 30e-3))
    assert core == pytest.approx(long[1920:2320], rel=2e-3)


def test_layers_scatter_one_after_the_other():
    """The spectrum of gold on carbon is the two convolved, but for the zero-loss peak that both have."""
    spectrometer = Spectrometer(-100.0, 0.5, 2048, 1.0, 40e-3)
    both, gold, carbon, nothing = (np.fft.rfft(one(Slab(**layers), spectrometer)) for layers in (
        {"Au": 5e-9, "carbon": 20e-9}, {"Au": 5e-9}, {"carbon": 20e-9}, {"carbon": 0.0}))
    assert (both * nothing)[:200] == pytest.approx((gold * carbon)[:200], rel=2e-3)


def test_a_row_depends_on_its_own_position_alone():
    positions = np.random.default_rng(2).uniform(-30e-9, 30e-9, (150, 2))
    loss = EnergyLoss(Steps(edge_mode=True), probe(), LOW_LOSS)
    together = loss.spectra(positions)
    assert together.dtype == np.float32 and together.shape == (150, 1024)
    apart = np.concatenate([loss.spectra(positions[i:j]) for i, j in ((0, 1), (1, 70), (70, 149), (149, 150))])
    assert np.array_equal(together, apart)
    assert loss.spectra(positions[:0]).shape == (0, 1024)


def test_small_aperture_takes_its_share_of_the_cone():
    narrow = EnergyLoss(Slab(carbon=10e-9), probe(), Spectrometer(-10.0, 0.1, 1024, 0.4, 15e-3))
    assert narrow.collected == pytest.approx(0.25)
    assert narrow.spectra(np.zeros((1, 2))).sum() == pytest.approx(0.25, rel=0.02)


def test_wide_probe_blurs_the_thickness_step():
    near = np.array([[-30e-9, -2e-9], [-30e-9, 2e-9]])
    sharp, blurred = (EnergyLoss(Steps(), probe(source_size=size), LOW_LOSS).excitations(near, Condition())[0]["MnPS3"]
                      for size in (0.0, 4e-9))
    assert sharp == pytest.approx([20e-9, 0.0])
    assert 10e-9 < blurred[0] < 19e-9 and 1e-9 < blurred[1] < 10e-9


def ratio(spectra: np.ndarray, beam: float = 1e6) -> np.ndarray:
    settings = EelsBandRatio(low_eV=[2.0, 4.0], high_eV=[15.0, 23.0], regularisation_counts=2e4)
    return measure(beam * spectra.astype(float), (LOW_LOSS.axis,), Parameters(scalarizer="eels_band_ratio",
                                                                             eels_band_ratio=settings)).values[:, 0]


def across_the_rim(edge_mode: bool, y: float = -30e-9) -> tuple[np.ndarray, np.ndarray]:
    x = 1e-9 * np.arange(-50, 51)
    spectra = EnergyLoss(Steps(edge_mode=edge_mode), probe(), LOW_LOSS).spectra(np.stack([np.full(101, y), x], axis=-1))
    return x, spectra


def test_edge_mode_makes_the_band_ratio_largest_at_the_rim():
    """The experiment of the roadmap paper: the ratio of a low to a high loss peaks where the material ends."""
    x, spectra = across_the_rim(True)
    values = ratio(spectra)
    assert abs(x[values.argmax()]) <= 1e-9
    assert values.max() > 1.15 * values[[0, -1]].max()
    low = (LOW_LOSS.energies >= 2) & (LOW_LOSS.energies <= 4)
    inside, far = spectra[x < -1e-9][:, low].sum(axis=1), spectra[0, low].sum()
    assert inside[-1] > 2 * far


def test_rim_is_felt_outside_as_far_as_the_mode_is_delocalised():
    x, spectra = across_the_rim(True)
    low = np.abs(LOW_LOSS.energies - 3.0) < 1.0
    aloof = spectra[:, low].sum(axis=1)[x > 1e-9].astype(float)
    aloof -= zero_loss_peak(LOW_LOSS.energies, 0.4, 0.1)[low].sum()
    theory = edge_excitation(x[x > 1e-9], MATERIALS["MnPS3"].edge_mode, 100e3)
    assert aloof / aloof[0] == pytest.approx(theory / theory[0], abs=0.01)
    tenth = x[x > 1e-9][(aloof < 0.1 * aloof[0]).argmax()]
    assert 0.2 < tenth / delocalisation_length(3.0, 100e3) < 2.0


def test_without_an_edge_mode_the_ratio_follows_the_thickness_alone():
    """The control: constant on either side of the rim and on either terrace; thinner material has the higher ratio."""
    x, spectra = across_the_rim(False)
    values = ratio(spectra)
    assert np.ptp(values[x < -0.5e-9]) < 1e-6 and np.ptp(values[x > 0.5e-9]) < 1e-6
    terrace = ratio(across_the_rim(False, y=30e-9)[1])
    assert values[-1] > terrace[0] > 1.05 * values[0]


def test_brightest_positions_of_a_flake_are_its_rim_and_of_the_control_the_vacuum():
    """Counted spectra of the whole field, 1e6 electrons each: what an autonomous experiment would find."""
    places = np.stack(np.meshgrid(*[np.linspace(0, 100e-9, 50)] * 2, indexing="ij"), axis=-1).reshape(-1, 2)
    rng = np.random.default_rng(0)
    brightest = {}
    for edge_mode in (True, False):
        flake = make_specimen("MnPS3", (100e-9, 100e-9), 0, SpecimenOptions(edge_mode=edge_mode))
        counts = rng.poisson(1e6 * EnergyLoss(flake, probe(), LOW_LOSS).spectra(places).astype(float))
        values = ratio(counts, beam=1.0)
        brightest[edge_mode] = np.abs(flake.edge_distance(places))[np.argsort(-values)[:50]]
        thickness = flake.layers(places, Condition())["MnPS3"]
        inside = (thickness > 0) & (flake.edge_distance(places) < -12e-9)
        terraces = [values[inside & (thickness == each)].mean() for each in np.unique(thickness[inside])]
        assert len(terraces) == 2 and terraces[0] > 1.2 * terraces[1]
    assert brightest[True].max() < 2e-9
    assert np.median(brightest[False]) > 5e-9


def test_thickness_changes_the_shape_through_faces_and_plural_scattering():
    """Were all losses bulk and single, the ratio of the bands' counts would not depend on the thickness."""
    energies = LOW_LOSS.energies
    low, high = (energies > 4) & (energies < 8), (energies > 16) & (energies < 22)
    shapes = []
    for thickness in (1e-9, 5e-9, 20e-9, 80e-9):
        spectrum = one(Slab(MnPS3=thickness)) - one(Slab(MnPS3=0.0)) * math.exp(-thickness / 96e-9)
        shapes.append(spectrum[low].sum() / spectrum[high].sum())
    assert shapes[0] > 2 * shapes[1] > 2 * shapes[2]


def test_low_loss_has_the_shape_of_a_measured_perovskite(data_root):
    """A La0.7Sr0.3MnO3 line scan at 80 kV: another perovskite, so only where the plasmon is and how fast the loss falls."""
    with h5py.File(data_root / "formats" / "hspy_lineprofile" / "LSMO_linescan_low_loss.hspy") as file:
        measured = next(iter(file["Experiments"].values()))["data"][5].astype(float)
    energies = -50 + 0.5 * np.arange(1024)
    energies -= energies[measured.argmax()]
    spectrometer = Spectrometer(-50.0, 0.5, 1024, 0.9, 33e-3)
    optics = SimpleNamespace(high_tension=80e3, semi_convergence_angle=27.4e-3, defocus=0.0, source_size=0.0)
    simulated = EnergyLoss(Slab(SrTiO3=40e-9), optics, spectrometer).spectra(np.zeros((1, 2)))[0]

    def shape(energy, counts):
        plasmon = counts[np.abs(energy - 30) < 3].mean()
        return [counts[np.abs(energy - at) < 3].mean() / plasmon for at in (14, 60, 90)]

    of_measured, of_simulated = shape(energies, measured), shape(spectrometer.energies, simulated)
    assert np.abs(np.log(np.array(of_simulated) / of_measured)).max() < math.log(2)
    window = (spectrometer.energies > 25) & (spectrometer.energies < 40)
    assert abs(spectrometer.energies[window][simulated[window].argmax()] - 30) < 2
    window = (energies > 25) & (energies < 40)
    assert abs(energies[window][measured[window].argmax()] - 30) < 3


def test_spectra_are_cheap():
    positions = np.random.default_rng(1).uniform(-40e-9, 40e-9, (4096, 2))
    loss = EnergyLoss(Steps(edge_mode=True), probe(), LOW_LOSS)
    loss.spectra(positions[:1])
    start = time.process_time()
    loss.spectra(positions)
    assert 4096 / (time.process_time() - start) > 1000


@pytest.mark.parametrize(("values", "message"), [
    ({"dispersion_eV": 0.0}, "dispersion 0.0 eV a channel is not positive"),
    ({"dispersion_eV": 0.5, "resolution_eV": 0.3}, "resolution 0.3 eV is narrower than a channel, 0.5 eV"),
    ({"resolution_eV": 0.001, "dispersion_eV": 0.0005}, "resolution 0.001 eV is better than the limit .* 0.003 eV"),
    ({"channels": 1}, "1 channels are not within 2 to 65536"),
    ({"collection_angle": 0.3}, "collection angle 300 mrad is not within 0 to 200 mrad"),
    ({"collection_angle": 0.0}, "collection angle 0 mrad is not within"),
    ({"offset_eV": math.nan}, "offset nan eV is not a number"),
    ({"offset_eV": 9000.0, "dispersion_eV": 0.05}, "points from the zero loss on, more than 131072: raise the dispersion")])
def test_unphysical_spectrometers_are_refused_with_value_and_limit(values, message):
    with pytest.raises(ValueError, match=message):
        Spectrometer(**values)


def test_axis_is_the_one_that_frames_carry():
    assert LOW_LOSS.axis.values() / ELEMENTARY_CHARGE == pytest.approx(LOW_LOSS.energies)
    assert (LOW_LOSS.axis.unit, LOW_LOSS.axis.size) == ("J", 1024)


def test_layers_and_edge_modes_are_checked():
    with pytest.raises(ValueError, match="material 'mica' is not one of"):
        one(Slab(mica=1e-9))
    with pytest.raises(ValueError, match="layer 'carbon' is -1e-09 m thick"):
        one(Slab(carbon=-1e-9))
    with pytest.raises(ValueError, match=r"none of its materials \(carbon\) has one: set its edge_mode to false"):
        one(Steps(name="carbon", edge_mode=True))
