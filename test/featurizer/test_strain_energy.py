"""Elastic energy of a sheet: the energy of known strains, no energy on average without strain, errors as a Monte Carlo's."""

from __future__ import annotations

import numpy as np
import pytest
from analytic_patterns import deformation, disk_image, hexagonal_places, pattern_axes

from edgetem_nodes.featurizer import scalarizers
from edgetem_nodes.featurizer.parameters import Parameters, StrainEnergy
from edgetem_nodes.physics.electrons import wavelength

AXES = pattern_axes()


def expected(strained: np.ndarray, electrons: float) -> np.ndarray:
    places = np.concatenate([[[0, 0]], hexagonal_places(3.16e-10, wavelength(80e3), strained)])
    return disk_image(places, np.r_[10 * electrons, np.full(12, electrons)], 2.0, AXES)


def measured(frames: np.ndarray, **more):
    return scalarizers.measure(frames, AXES, Parameters(scalarizer="strain_energy", **more))


def test_uniaxial_stress_gives_young_modulus_and_poisson_ratio():
    """A ribbon that contracts as it likes: u = Y e^2 / 2 with Y = C11 - C12^2 / C11 = 122.1 N/m and ratio C12 / C11."""
    strain = 0.02
    features = measured(expected(deformation(exx=strain, eyy=-strain * 32 / 130, rotation=0.05), 1e6)[None])
    assert features.values[0, 1] == pytest.approx(122.12 * strain**2 / 2, rel=0.02)
    # One cell of MoS2 is 0.0865 nm^2: 1 J/m^2 is 539.8 meV.
    assert features.values[0, 0] / features.values[0, 1] == pytest.approx(539.8, rel=1e-3)


def test_pure_shear_gives_the_shear_modulus():
    """Engineering shear 2 exy against C66 = (C11 - C12) / 2 = 49 N/m: u = 2 C66 exy^2."""
    features = measured(expected(deformation(exy=0.015), 1e6)[None])
    assert features.values[0, 1] == pytest.approx(2 * 49 * 0.015**2, rel=0.03)


@pytest.mark.parametrize("strained", [deformation(), deformation(0.01, 0.005, 0.004, 0.1)])
def test_noise_adds_no_energy_and_the_standard_error_covers(strained):
    pattern, count = expected(strained, 300), 1500
    features = measured(np.random.default_rng(8).poisson(pattern, (count, *pattern.shape)).astype(np.uint16))
    stretch = strained.T @ strained
    root = np.linalg.eigh(stretch)
    exx, eyy, exy = (lambda u: (u[1, 1] - 1, u[0, 0] - 1, u[0, 1]))(root[1] @ np.diag(np.sqrt(root[0])) @ root[1].T)
    truth = 65 * (exx**2 + eyy**2) + 32 * exx * eyy + 98 * exy**2
    energy, error = features.values[:, 1], np.sqrt((features.standard_errors[:, 1]**2).mean())
    # Uncorrected, the mean would be too large by trace(M S), which is about the standard error without strain: 2e-4.
    assert energy.mean() == pytest.approx(truth, abs=4e-5 + 0.03 * truth)
    assert 0.9 * energy.std() < error < 1.5 * energy.std()


def test_constants_can_be_given_and_must_be_stable():
    frames = expected(deformation(exx=0.01, eyy=0.01), 1e5)[None]
    soft = measured(frames, strain_energy=StrainEnergy(13.0, 3.2)).values[0, 1]
    assert soft == pytest.approx(measured(frames).values[0, 1] / 10, rel=1e-6)
    with pytest.raises(ValueError, match="else no sheet is stable"):
        measured(frames, strain_energy=StrainEnergy(10.0, 20.0))


def test_what_is_no_lattice_is_the_failure_of_lattice():
    frames = np.zeros((1, 64, 64), np.uint16)
    features = measured(frames)
    assert features.failures == ["the pattern is empty"]
