"""The table against Rutherford scattering, and against the values of other authors."""

import numpy as np
import pytest

from edgetem_nodes.physics.scattering_factors import (
    annular_cross_section,
    largest_atomic_number,
    potential_spectrum,
    scattering_factor,
)

NUMBERS = (5, 6, 7, 8, 16, 22, 34, 38, 42, 74, 79, 82)
BOHR = 0.529177e-10


@pytest.mark.parametrize("number", NUMBERS)
def test_large_angles_are_rutherford(number):
    k = np.array([60e10])
    rutherford = number / (2 * np.pi ** 2 * BOHR * k ** 2)
    assert scattering_factor(number, k) == pytest.approx(rutherford, rel=0.04)


@pytest.mark.parametrize("number", NUMBERS)
def test_factors_fall_monotonically(number):
    factor = scattering_factor(number, np.linspace(0, 20e10, 400))
    assert (factor > 0).all()
    assert (np.diff(factor) < 0).all()


def test_forward_factor_of_carbon():
    """Doyle & Turner (1968): f_e(0) = 2.509 Angstrom, relativistic Hartree-Fock."""
    assert scattering_factor(6, np.array([0.0]))[0] * 1e10 == pytest.approx(2.509, rel=0.02)


def test_projected_potential_in_its_own_unit():
    assert potential_spectrum(6, np.array([0.0]))[0] * 1e30 == pytest.approx(47.878 * 2.49, rel=0.02)


def test_dark_field_grows_less_than_with_the_square_of_atomic_number():
    mo, w = (annular_cross_section(z, 80e3, 60e-3, 200e-3) for z in (42, 74))
    assert 1.4 < np.log(w / mo) / np.log(74 / 42) < 2.0


def test_an_element_that_is_not_in_the_table_is_named():
    assert largest_atomic_number() >= 92
    with pytest.raises(ValueError, match="atomic number 119.*from 1 to 103"):
        scattering_factor(119, np.array([0.0]))


def test_the_table_is_in_the_order_of_the_periodic_system():
    """Forward factors of Doyle & Turner (1968) [Angstrom] for elements across the table."""
    for number, expected in ((1, 0.53), (2, 0.42), (14, 5.83), (29, 5.60), (47, 8.67), (79, 10.6)):
        assert scattering_factor(number, np.array([0.0]))[0] * 1e10 == pytest.approx(expected, rel=0.05), number
