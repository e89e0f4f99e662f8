"""Electrons in silicon: range, backscattering, deposited energy and sharpness against tables and measurements; dead time."""

import numpy as np
import pytest
from scipy import stats

from edgetem_nodes.physics.cameras import HybridPixel, landau, silicon
from edgetem_nodes.physics.cameras.dead_time import corrected, surviving, throughput


@pytest.mark.parametrize(("energy", "micrometres"), [(100e3, 77.2), (200e3, 239.0)])
def test_range_is_near_the_tabulated_one(energy, micrometres):
    # about 1.80e-2 and 5.57e-2 g/cm^2 (ESTAR, NIST)
    assert silicon.csda_range(energy) * 1e6 == pytest.approx(micrometres, rel=0.05)


def test_as_many_electrons_scatter_back_as_from_real_silicon():
    energies, _ = silicon.tracks(60e3, 1.0, 6000, np.random.default_rng(1))
    back = (energies.sum(axis=1) < 0.98 * 60e3).mean()
    # 0.16 to 0.19 measured above 20 keV (Reimer, Scanning Electron Microscopy, 1998, ch. 4)
    assert 0.13 < back < 0.20


def test_tracks_do_not_depend_on_the_number_of_steps():
    depths = [(positions[..., 0] * energies).sum() / energies.sum() for energies, positions in
              (silicon.tracks(100e3, 1.0, 4000, np.random.default_rng(2), steps) for steps in (48, 160))]
    assert depths[0] == pytest.approx(depths[1], rel=0.04)


def test_no_electron_leaves_more_energy_than_it_has_and_most_leave_nearly_all():
    energy = silicon.deposits(80e3, 55e-6, 300e-6, 100.0)[0].sum(axis=(1, 2))
    assert energy.max() <= 80e3 * 1.0001
    assert (energy > 0.95 * 80e3).mean() == pytest.approx(0.84, abs=0.05)


def test_energy_is_left_at_the_measured_depths():
    # measured in aluminium, oxide and silicon at 5 to 25 kV (Everhart & Hoff, J. Appl. Phys. 42, 5837 (1971)): depth in
    # units of Gruen's range, 0.0398 um (E / keV)^1.75 / density
    energies, positions = silicon.tracks(20e3, 1.0, 6000, np.random.default_rng(3), 100)
    reach = 0.0398e-6 / silicon.DENSITY * 20 ** 1.75
    edges = np.linspace(0, 1.1, 12)
    left = np.histogram(positions[..., 0] / reach, edges, weights=energies)[0] / energies.sum()
    middle = (edges[1:] + edges[:-1]) / 2
    measured = np.clip(0.6 + 6.21 * middle - 12.4 * middle ** 2 + 5.69 * middle ** 3, 0, None)
    assert left == pytest.approx(measured / measured.sum(), abs=0.02)
    # backscattered electrons take about a tenth of the energy with them
    assert 0.07 < 1 - energies.sum() / (6000 * 20e3) < 0.13


@pytest.mark.parametrize("high_tension", [60e3, 80e3])
def test_a_threshold_above_half_makes_pixels_sharper_than_perfect_ones_as_measured_with_medipix3(high_tension):
    # Mir et al., Ultramicroscopy 182, 44 (2017): in single pixel mode the threshold trades MTF against DQE
    sharp, efficient = (HybridPixel(high_tension=high_tension, threshold=part * high_tension).response
                        for part in (0.75, 0.1))
    assert sharp.modulation_transfer(np.array([0.5]))[0] > 2 / np.pi
    assert efficient.detective_quantum_efficiency > 0.8 > 0.6 > sharp.detective_quantum_efficiency


def test_sharpness_at_100_and_200_kV_is_of_the_order_measured_with_timepix4():
    # 0.16 and 0.005 at the Nyquist frequency, DQE(0) above 0.9 (Dimova et al., arXiv:2411.16258; Ding et al., 2603.06857):
    # the simulation is sharper by 0.1, as the sensor's bias and the optics of the knife edge are not known
    hundred, two = (HybridPixel(high_tension=ht, threshold=3e3).response for ht in (100e3, 200e3))
    assert hundred.modulation_transfer(np.array([0.5]))[0] == pytest.approx(0.16, abs=0.12)
    assert two.modulation_transfer(np.array([0.5]))[0] == pytest.approx(0.005, abs=0.12)
    assert min(hundred.detective_quantum_efficiency, two.detective_quantum_efficiency) > 0.85


def test_sharpness_falls_with_the_high_tension():
    nyquist = [HybridPixel(high_tension=ht, threshold=20e3).response.modulation_transfer(np.array([0.5]))[0]
               for ht in (60e3, 80e3, 120e3, 200e3)]
    assert nyquist == sorted(nyquist, reverse=True)


def test_landau_deviates_follow_the_landau_distribution():
    # SciPy's has scale 1 where Landau's has pi/2
    independent = stats.landau(loc=np.log(np.pi / 2), scale=np.pi / 2)
    assert stats.kstest(landau.standard(20000, np.random.default_rng(3)), independent.cdf).pvalue > 1e-3
    values = np.linspace(-1, 1, 20001)
    assert values[independent.pdf(values).argmax()] == pytest.approx(landau.MODE, abs=1e-3)


def test_most_probable_loss_in_ten_micrometres_is_that_of_the_drawn_losses():
    losses = landau.losses(300e3, 10e-6, 200000, np.random.default_rng(4))
    peak, xi = landau.most_probable(300e3, 10e-6), landau.width(300e3, 10e-6)
    counts, edges = np.histogram(losses, np.arange(peak - 3 * xi, peak + 4 * xi, xi / 4))
    near = counts.argmax()
    fit = np.polyfit(edges[near - 3:near + 4] + xi / 8, counts[near - 3:near + 4], 2)
    assert -fit[1] / (2 * fit[0]) == pytest.approx(peak, abs=0.15 * xi)
    # about 75 pairs a micrometre are most probable at 300 kV
    assert 60 < peak / silicon.PAIR_ENERGY / 10 < 90


@pytest.mark.parametrize("high_tension", [100e3, 300e3])
def test_mean_loss_is_that_of_the_bethe_formula(high_tension):
    losses = landau.losses(high_tension, 10e-6, 400000, np.random.default_rng(5))
    assert losses.mean() == pytest.approx(silicon.stopping_power(high_tension) * 10e-6, rel=0.06)
    assert losses.max() <= high_tension / 2


@pytest.mark.parametrize("paralysable", [True, False])
@pytest.mark.parametrize(("pulses", "dead"), [(2, 0.1), (5, 0.02), (8, 0.1), (12, 0.02), (60, 0.02), (200, 0.02),
                                              (30, 0.001), (100, 0.0003)])
def test_dead_time_given_the_number_of_pulses_agrees_with_a_simulation_of_arrivals(paralysable, pulses, dead):
    rng = np.random.default_rng(6)
    brute = []
    for times in np.sort(rng.random((3000, pulses)), axis=1):
        last, counted = -1.0, 0
        for time in times:
            if time - last >= dead:
                counted, last = counted + 1, time
            elif paralysable:
                last = time
        brute.append(counted)
    drawn = surviving(np.full(3000, pulses), dead, paralysable, rng)
    assert drawn.mean() == pytest.approx(np.mean(brute), abs=6 * np.std(brute) / np.sqrt(3000))
    assert drawn.std() == pytest.approx(np.std(brute), rel=0.12)


@pytest.mark.parametrize("paralysable", [True, False])
def test_the_dead_time_correction_inverts_the_throughput(paralysable):
    load = np.linspace(0, 0.9, 50)
    counted = load / 1e-3 * throughput(load, paralysable)
    assert corrected(counted, 1e-3, paralysable) == pytest.approx(load / 1e-3, rel=1e-6, abs=1e-6)
