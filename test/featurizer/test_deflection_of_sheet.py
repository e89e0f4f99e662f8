"""Deflections by graphene: size and noise from the virtual microscope, iCoM against abTEM's own potential and probe."""

import warnings

import numpy as np
import pytest

from edgetem_nodes.featurizer.patterns import fields, vector_field
from edgetem_nodes.featurizer.patterns.geometry import DetectorGeometry
from edgetem_nodes.physics.diffraction import Diffraction
from edgetem_nodes.physics.electrons import interaction_constant
from edgetem_nodes.physics.optics import Camera, Probe
from edgetem_nodes.physics.scan import Axis
from edgetem_nodes.physics.specimens.catalogue import SpecimenOptions, make_specimen


def deflections(patterns, geometry):
    y, x = geometry.angles(patterns.shape[1:])
    total = patterns.sum(axis=(1, 2))
    return np.stack([(patterns * y).sum(axis=(1, 2)), (patterns * x).sum(axis=(1, 2))], axis=-1) / total[:, None]


def test_graphene_deflects_by_some_tenths_of_a_milliradian_and_ten_thousand_electrons_show_it():
    graphene = make_specimen("graphene", (10e-9, 10e-9), 0, SpecimenOptions(strain=0.0, vacancy_density=0.0))
    camera = Camera(64, 1.25e-3)
    places = np.mgrid[:24, :24].reshape(2, -1).T * 0.02e-9
    patterns = Diffraction(graphene, Probe(80e3, 30e-3), camera).patterns(places).astype(float)
    geometry = DetectorGeometry.of_axes(tuple(Axis(k, "rad", camera.pixel_angle, camera.offset, 64) for k in ("ky", "kx")))
    exact = deflections(patterns, geometry)
    assert 0.7e-3 < np.hypot(*exact.T).max() < 0.8e-3
    electrons = 1e4
    counted = np.random.default_rng(0).poisson(patterns * electrons).astype(float)
    noisy = deflections(counted, geometry)
    y, x = geometry.angles((64, 64))
    away = [(angle - mean[:, None, None])**2 for angle, mean in zip((y, x), exact.T, strict=True)]
    spread = np.stack([(patterns * square).sum(axis=(1, 2)) for square in away], axis=1)
    errors = np.sqrt(spread / electrons)
    # Half the convergence angle over the root of the electrons, for a uniform disk.
    assert errors.mean() == pytest.approx(30e-3 / 2 / np.sqrt(electrons), rel=0.06)
    result = fields.signal_to_noise(noisy, errors)
    print(f"deflection of graphene at {electrons:g} electrons a pattern: peak {np.hypot(*exact.T).max() * 1e3:.2f} mrad, rms "
          f"signal {result.signal * 1e3:.2f} mrad, noise {errors.mean() * 1e3:.2f} mrad a component, ratio {result.ratio:.2f}")
    assert result.signal == pytest.approx(np.sqrt(exact.var(axis=0).sum()), rel=0.06)
    assert (noisy - exact).std() == pytest.approx(errors.mean(), rel=0.05)


@pytest.fixture(scope="module")
def scanned():
    """abTEM's patterns of a graphene cell, the angles, the potential's phase, the probe, and the scan's step [m]."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import abtem
        import ase.build
        cell = ase.build.graphene("C2", a=2.46, vacuum=2.0)
        cell = abtem.orthogonalize_cell(cell) * (3, 2, 1)
        abtem.config.set({"device": "cpu"})
        potential = abtem.Potential(cell, gpts=(60, 68), projection="infinite", slice_thickness=4.0)
        probe = abtem.Probe(energy=80e3, semiangle_cutoff=30)
        probe.grid.match(potential)
        scan = abtem.GridScan((0, 0), (1 / 3, 1 / 2), gpts=(20, 34), fractional=True, potential=potential, endpoint=False)
        patterns = probe.scan(potential, scan, detectors=abtem.PixelatedDetector(max_angle="valid")).compute(
            scheduler="synchronous", progress_bar=False)
        waves = probe.build().compute(scheduler="synchronous", progress_bar=False)
        # abTEM's first axis is x.
        angles = [np.asarray(axis) * 1e-3 for axis in patterns.angular_coordinates]
        phase = potential.build().compute(progress_bar=False).array.sum(axis=0) * 1e-10 * interaction_constant(80e3)
        step = np.array([cell.cell[0, 0] / 60, cell.cell[1, 1] / 68]) * 1e-10
        return np.asarray(patterns.array, float), angles, phase, np.abs(np.asarray(waves.array))**2, step


def test_integrated_deflections_are_the_phase_seen_through_the_probe(scanned):
    patterns, (first, second), phase, probe, step = scanned
    total = patterns.sum(axis=(2, 3))
    mean = [(patterns * angle).sum(axis=(2, 3)) / total for angle in (first[:, None], second)]
    field = np.stack(mean, axis=-1)
    image = vector_field.integrate(fields.phase_gradient(field, 80e3), tuple(step), "periodic")
    probe = np.fft.ifftshift(probe) if probe[0, 0] < probe.max() / 2 else probe
    # Correlation of the phase with the probe's intensity (Lazic et al. 2016, equation 20).
    seen = np.fft.ifft2(np.fft.fft2(phase) * np.conj(np.fft.fft2(probe / probe.sum()))).real[:20, :34]
    seen -= seen.mean()
    assert np.corrcoef(image.ravel(), seen.ravel())[0, 1] > 0.999
    assert np.vdot(image, seen) / np.vdot(seen, seen) == pytest.approx(1.0, abs=0.03)
    # Bright where the atoms are: electrons turn towards them, so the divergence of their deflection is negative there.
    assert vector_field.divergence(field, tuple(step)).ravel()[np.argmax(seen)] < 0
