"""Thermal displacements against Debye's integral done by quadrature, and tilts of endless slabs."""

import numpy as np
import pytest
from scipy.integrate import quad

from edgetem_nodes.physics.specimens import slab
from edgetem_nodes.physics.specimens.thermal import TYPICAL, classical_displacement, crystal_displacement, sheet_displacement
from edgetem_nodes.physics.specimens.tilt import sheared

HBAR, BOLTZMANN, AMU = 1.054571817e-34, 1.380649e-23, 1.66053906892e-27


def mode(omega, temperature):
    """<u^2> M of an oscillator: hbar coth(hbar omega / 2 k T) / (2 omega)."""
    return HBAR / (2 * omega) / np.tanh(HBAR * omega / (2 * BOLTZMANN * temperature))


@pytest.mark.parametrize("temperature", [4.0, 77.0, 293.15, 1200.0])
def test_a_crystal_is_the_mean_over_debyes_modes(temperature):
    cut = BOLTZMANN * 600 / HBAR
    square = quad(lambda x: 3 * x ** 2 * mode(x * cut, temperature), 0, 1)[0] / (96 * AMU)
    assert crystal_displacement(96, 600, temperature) == pytest.approx(np.sqrt(square), rel=1e-6)


@pytest.mark.parametrize("temperature", [77.0, 293.15, 1200.0])
def test_a_sheet_is_the_mean_over_debyes_modes_in_the_plane(temperature):
    cut, area, size = BOLTZMANN * 2312 / HBAR, 2.62e-20, 1e-6
    least = 2 * np.pi / size / np.sqrt(4 * np.pi / area)
    square = quad(lambda x: 2 * x * mode(x * cut, temperature), least, 1)[0] / (12 * AMU)
    assert sheet_displacement(12, 2312, temperature, area, size) == pytest.approx(np.sqrt(square), rel=1e-3)


def test_heat_and_size_increase_it():
    assert sheet_displacement(12, 2312, 293, 2.62e-20, 1e-5) > sheet_displacement(12, 2312, 293, 2.62e-20, 1e-7)
    assert classical_displacement(TYPICAL, 4 * 293.15) == pytest.approx(2 * TYPICAL)


def test_a_shear_is_a_turn_to_first_order():
    places = np.random.default_rng(0).uniform(-5e-9, 5e-9, (50, 3))
    turned = places @ slab.rotation(1e-4, -2e-4).T
    assert sheared(places, 1e-4, -2e-4)[:, 1:] == pytest.approx(turned[:, 1:], abs=1e-15)
    assert np.array_equal(sheared(places, 0.0, 0.0), places)
    middle = sheared(places, 0.1, 0.1, pivot=2e-9) - places
    assert np.array_equal(np.sign(middle[:, 2]), np.sign(places[:, 0] - 2e-9))


def test_a_tilt_that_no_holder_reaches_is_refused():
    with pytest.raises(ValueError, match=r"tilt \(0.8, 0\) rad is beyond the largest one, 0.7"):
        sheared(np.zeros((1, 3)), 0.8, 0.0)
