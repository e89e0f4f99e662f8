"""A weak phase object and its diffraction patterns, computed wave by wave: the truth for ptychography."""

from dataclasses import replace

import numpy as np

from edgetem_nodes.featurizer.patterns.geometry import DetectorGeometry
from edgetem_nodes.physics.optics import Probe
from edgetem_nodes.physics.scan import ScanField

HIGH_TENSION, ANGLE = 80e3, 30e-3


def weak_phase(size: int = 32, rms: float = 0.01, probe: Probe | None = None, subdivision: int = 3, seed: int = 0,
               highest: float = 1.8) -> tuple[np.ndarray, np.ndarray, ScanField, DetectorGeometry]:
    """Phase (size, size), patterns (size * size, size, size), parts of the beam, the scan and the detector.

    The object repeats with the field, so a pixel of the detector is wavelength / field wide, and the sharp aperture is sampled
    `subdivision` times along it. Frequencies go to `highest` times the semi-convergence angle. Nothing is linearised.
    """
    probe = probe or Probe(HIGH_TENSION, ANGLE)
    step = 0.97 * probe.wavelength / (4 * ANGLE)
    pitch = probe.wavelength / (size * step)
    rng = np.random.default_rng(seed)
    index = np.rint(np.fft.fftfreq(size) * size).astype(int)
    band = np.hypot(*np.meshgrid(index, index)) * pitch < highest * ANGLE
    spectrum = np.fft.fft2(rng.standard_normal((size, size))) * band
    spectrum[0, 0] = 0
    phase = np.fft.ifft2(spectrum).real
    phase *= rms / phase.std()

    fine = 2 * size
    m = np.rint(np.fft.fftfreq(fine) * fine)
    padded = np.zeros((fine, fine), complex)
    padded[np.ix_(index % fine, index % fine)] = np.fft.fft2(phase) * (fine / size) ** 2
    transmission = np.exp(1j * np.fft.ifft2(padded).real)
    ramp = np.exp(-2j * np.pi * np.outer(np.arange(size) / size, m))
    patterns = np.zeros((size, size, fine, fine), np.float32)
    parts = (np.arange(subdivision) + 0.5) / subdivision - 0.5
    for dy in parts:
        for dx in parts:
            y, x = (m[:, None] + dy) * pitch, (m[None, :] + dx) * pitch
            aperture = (np.hypot(y, x) <= ANGLE) * np.exp(-1j * probe.aberration_phase(y, x))
            for row in range(size):
                waves = np.fft.ifft2(aperture * ramp[row][:, None] * ramp[:, None, :])
                patterns[row] += np.abs(np.fft.fft2(waves * transmission)) ** 2
    patterns = np.fft.fftshift(patterns / patterns[0, 0].sum(), axes=(2, 3)).reshape(size * size, fine, fine)
    middle = slice(size // 2, size // 2 + size)
    field = ScanField((0.0, 0.0), (step, step), (size, size))
    return phase, np.ascontiguousarray(patterns[:, middle, middle]), field, DetectorGeometry((size / 2, size / 2), pitch, ANGLE)


def direct_single_side_band(patterns: np.ndarray, field: ScanField, geometry: DetectorGeometry, probe: Probe) -> np.ndarray:
    """Phase (rows, columns) by the definition, frequency by frequency, in plain double precision.

    The transform over the scan of every pixel; for each frequency the mean over either region of single overlap, half their
    difference; antialiased disks; regions of less than a pixel left out. Defocus and astigmatism make the phase run within a
    pixel: each frequency is divided by the mean of that over the pixel, by quadrature.
    """
    nodes, shares = np.polynomial.legendre.leggauss(8)
    within = np.stack(np.meshgrid(nodes / 2, nodes / 2, indexing="ij"), -1).reshape(-1, 2) @ geometry.to_scan().T
    shares = np.outer(shares, shares).ravel() / 4
    second = replace(probe, coma=0.0, spherical_aberration=0.0)
    rows, columns = field.shape
    spectra = np.fft.fft2(patterns.reshape(rows, columns, -1).astype(float), axes=(0, 1))
    angle = np.stack(geometry.angles(patterns.shape[1:]), -1).reshape(-1, 2) @ geometry.to_scan().T / geometry.pixel_angle
    radius = geometry.semi_convergence_angle / geometry.pixel_angle

    def disk(places: np.ndarray) -> np.ndarray:
        return np.clip(radius + 0.5 - np.hypot(*places.T), 0, 1)

    def chi(places: np.ndarray, probe: Probe = probe) -> np.ndarray:
        return probe.aberration_phase(*(places.T * geometry.pixel_angle))

    def left(shift: np.ndarray) -> float:
        return abs(shares @ np.exp(1j * (chi(within, second) - chi(within - shift, second))))

    result = np.zeros((rows, columns), complex)
    for i, fy in enumerate(np.fft.fftfreq(rows, field.step[0])):
        for j, fx in enumerate(np.fft.fftfreq(columns, field.step[1])):
            shift = np.array([fy, fx]) * probe.wavelength / geometry.pixel_angle
            plus, minus = disk(angle - shift), disk(angle + shift)
            positive, negative = disk(angle) * plus * (minus == 0), disk(angle) * minus * (plus == 0)
            inside = (i, j) != (0, 0) and 2 * i != rows and 2 * j != columns
            if inside and left(shift) >= 0.25 and positive.sum() >= 1 and negative.sum() >= 1:
                back = np.exp(1j * (chi(angle - shift) - chi(angle))), np.exp(1j * (chi(angle) - chi(angle + shift)))
                result[i, j] = (spectra[i, j] @ (positive * back[0]) / positive.sum()
                                - spectra[i, j] @ (negative * back[1]) / negative.sum()) / 2 / left(shift)
    level = patterns.reshape(rows * columns, -1).mean(axis=0) @ disk(angle) / disk(angle).sum()
    return np.fft.ifft2(result).imag / level
