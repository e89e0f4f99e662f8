"""The fast electron against values tabulated in Kirkland, Advanced Computing in Electron Microscopy, and Reimer."""

import pytest

from edgetem_nodes.physics.electrons import electrons, interaction_constant, lorentz_factor, wavelength


@pytest.mark.parametrize(("high_tension", "picometre"), [(60e3, 4.866), (80e3, 4.176), (100e3, 3.701), (200e3, 2.508),
                                                         (300e3, 1.969)])
def test_wavelength(high_tension, picometre):
    assert wavelength(high_tension) * 1e12 == pytest.approx(picometre, abs=5e-4)


@pytest.mark.parametrize(("high_tension", "radian"), [(100e3, 0.9244), (200e3, 0.7288), (300e3, 0.6526)])
def test_interaction_constant(high_tension, radian):
    """In radian per kilovolt Angstrom."""
    assert interaction_constant(high_tension) * 1e-7 == pytest.approx(radian, abs=5e-5)


def test_mass_at_its_own_rest_energy_is_doubled():
    assert lorentz_factor(510998.95) == pytest.approx(2.0, abs=1e-6)


def test_electrons_of_one_picoampere_second():
    assert electrons(1e-12, 1.0) == pytest.approx(6.241509e6, rel=1e-6)


def test_a_high_tension_that_is_not_positive_is_refused():
    with pytest.raises(ValueError, match="high_tension_kV"):
        wavelength(0.0)
