"""Aberrations, contrast transfer and probe size against theory and abTEM."""

import numpy as np
import pytest

from edgetem_nodes.physics.electrons import wavelength
from edgetem_nodes.physics.optics import FWHM, Annulus, Camera, Probe, gaussian_quadrature


def test_point_resolution_and_sign_at_scherzer_defocus():
    """Scherzer, J. Appl. Phys. 20, 20 (1949): at 1.2 sqrt(Cs lambda) atoms are dark down to 0.64 Cs^(1/4) lambda^(3/4)."""
    spherical, length = 1.2e-3, wavelength(200e3)
    probe = Probe(200e3, 50e-3, defocus=1.2 * np.sqrt(spherical * length), spherical_aberration=spherical)
    frequency = np.linspace(1e8, 8e9, 20000)
    transfer = probe.contrast_transfer(0.0, frequency)
    crossing = frequency[np.flatnonzero(np.diff(np.sign(transfer)) > 0)[0]]
    assert 1 / crossing == pytest.approx(0.645 * spherical ** 0.25 * length ** 0.75, rel=0.01)
    band = (frequency > 0.35 * crossing) & (frequency < 0.9 * crossing)
    assert (transfer[band] < -1.0).all()
    assert transfer.min() == pytest.approx(-2.0, abs=1e-3)


def test_aberrations_follow_abtem():
    abtem = pytest.importorskip("abtem", reason="abTEM is not installed: the peer's check of the aberrations is skipped")
    probe = Probe(80e3, 25e-3, defocus=12e-9, astigmatism=4e-9, astigmatism_angle=0.7, coma=300e-9, coma_angle=-0.4,
                  spherical_aberration=20e-6)
    peer = abtem.Probe(energy=80e3, semiangle_cutoff=25.0, extent=80.0, gpts=192, aberrations={
        "C10": -120.0, "C12": 40.0, "phi12": 0.7, "C21": 3000.0, "phi21": -0.4, "C30": 2e5})
    theirs = np.fft.fft2(np.asarray(peer.build(scan=abtem.CustomScan([(0.0, 0.0)]), lazy=False).array).squeeze()).T
    step = probe.wavelength / 8e-9
    ours = probe.aperture(step)
    order = np.arange(-(len(ours) // 2), len(ours) // 2 + 1)
    theirs = theirs[np.ix_(order, order)]
    theirs = theirs / np.sqrt((np.abs(theirs) ** 2).sum())
    centre = len(ours) // 2
    theirs = theirs * np.exp(1j * np.angle(ours[centre, centre] / theirs[centre, centre]))
    assert np.abs(ours - theirs).max() < 2e-3 * np.abs(ours).max()


def test_focal_spread_and_its_envelope():
    """Kirkland: Cc dE/E (1 + E/mc^2)/(1 + E/2mc^2); the mean over defocus of the transfer is the envelope times it."""
    probe = Probe(200e3, 15e-3, defocus=40e-9, chromatic_aberration=1.2e-3, energy_spread=0.8)
    assert probe.focal_spread == pytest.approx(1.2e-3 * 0.8 / FWHM / 200e3 * 1.3914 / 1.1957, rel=1e-3)
    points, weights = gaussian_quadrature(9)
    frequency = np.linspace(0, 4e9, 50)
    coherent = Probe(200e3, 15e-3, defocus=40e-9)
    mean = sum(w * coherent.refocused(40e-9 + p * probe.focal_spread).contrast_transfer(0.0, frequency)
               for p, w in zip(points, weights, strict=True))
    assert probe.contrast_transfer(0.0, frequency) == pytest.approx(mean, abs=1e-5)


def test_probe_radius_grows_with_defocus_and_thickness():
    focused = Probe(80e3, 25e-3)
    airy = 1.619 * focused.wavelength / 25e-3
    assert focused.radius() == pytest.approx(airy, rel=1e-6)
    assert focused.refocused(100e-9).radius() == pytest.approx(airy + 2.5e-9, rel=1e-3)
    assert focused.refocused(10e-9).radius(20e-9) > focused.refocused(10e-9).radius()
    aberrated = Probe(80e3, 25e-3, spherical_aberration=1e-3)
    assert aberrated.radius() == pytest.approx(airy + 1e-3 * 25e-3 ** 3, rel=0.05)


def test_most_of_the_beam_is_inside_the_radius():
    for probe in (Probe(80e3, 25e-3, defocus=60e-9), Probe(80e3, 20e-3, coma=2e-6), Probe(80e3, 20e-3, astigmatism=80e-9)):
        samples, length = 512, 16e-9
        step = probe.wavelength / length
        wave, reach = probe.aperture(step), probe.reach(step)
        full = np.zeros((samples, samples), complex)
        full[:2 * reach + 1, :2 * reach + 1] = wave
        intensity = np.abs(np.fft.fftshift(np.fft.ifft2(full))) ** 2
        place = (np.arange(samples) - samples // 2) * length / samples
        inside = np.hypot(place[:, None], place[None, :]) < probe.radius()
        assert intensity[inside].sum() / intensity.sum() > 0.95


@pytest.mark.parametrize(("settings", "message"), [
    ({"energy_spread": -0.5}, "energy spread -0.5 eV is negative"),
    ({"source_size": -1e-10}, "source size -0.1 nm is negative"),
    ({"chromatic_aberration": -1e-3}, "chromatic aberration -1 mm is negative"),
    ({"semi_convergence_angle": 0.0}, "semi-convergence angle 0 mrad"),
    ({"high_tension": 0.0}, "high tension 0.0 V is not positive"),
    ({"defocus": float("nan")}, "defocus nan is not a finite number"),
])
def test_unphysical_probes_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        Probe(**{"high_tension": 80e3, "semi_convergence_angle": 20e-3, **settings})


def test_unphysical_detectors_are_refused():
    with pytest.raises(ValueError, match="from 60 to 50 mrad is empty"):
        Annulus(60e-3, 50e-3)
    with pytest.raises(ValueError, match="0 pixels"):
        Camera(0, 1e-3)
    with pytest.raises(ValueError, match="pixel angle -0.001 rad"):
        Camera(64, -1e-3)
