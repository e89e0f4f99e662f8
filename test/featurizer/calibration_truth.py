"""Patterns, fields and images whose calibration is known, written from definitions, independent of the code under test."""

import numpy as np
from scipy.linalg import expm
from scipy.ndimage import gaussian_filter

from edgetem_nodes.featurizer.patterns.geometry import DetectorGeometry


def disk_pattern(shape, center, radius, ellipticity=(0.0, 0.0), blur=0.6, inside=None, background=0.02, subdivision=8):
    """Expected pattern of a disk |D (p - c)| <= R, D = exp([[e1, e2], [e2, -e1]]), blurred and integrated over pixels; its sum
    is one. `inside(y, x)`: brightness by stretched offset over the radius."""
    sub = (np.arange(subdivision) + 0.5) / subdivision - 0.5
    y, x = np.meshgrid(*(np.add.outer(np.arange(n), sub).ravel() - c for n, c in zip(shape, center)), indexing="ij")
    e1, e2 = ellipticity
    stretched = np.einsum("ij,jkl->ikl", expm(np.array([[e1, e2], [e2, -e1]])), np.stack([y, x]))
    distance = np.hypot(*stretched)
    level = 1.0 if inside is None else inside(*(stretched / radius))
    fine = (distance <= radius) * level + background * np.exp(-distance / (2 * radius))
    fine = gaussian_filter(fine, blur * subdivision) if blur else fine
    pattern = fine.reshape(shape[0], subdivision, shape[1], subdivision).mean(axis=(1, 3))
    return pattern / pattern.sum()


def atoms(kind, extent, spacing=3e-10, angle=0.2, seed=0):
    """Places (count, 2), (y, x) [m], of atoms in and around a field: "random", "hexagonal" or "square"."""
    if kind == "random":
        number = int((extent[0] + 6e-10) * (extent[1] + 6e-10) / spacing**2)
        return np.random.default_rng(seed).uniform([-3e-10] * 2, np.array(extent) + 3e-10, (number, 2))
    count = int(2 * max(extent) / spacing)
    i, j = np.mgrid[-count:count + 1, -count:count + 1].reshape(2, -1)
    places = np.stack([i * np.sqrt(0.75), j + i / 2], -1) if kind == "hexagonal" else np.stack([i, j], -1)
    y, x = (places * spacing).T
    places = np.stack([y * np.cos(angle) + x * np.sin(angle), x * np.cos(angle) - y * np.sin(angle)], -1)
    return places[((places > -3e-10) & (places < np.array(extent) + 3e-10)).all(axis=1)]


def deflections(kind, shape, steps, width=0.35e-10):
    """Gradient of the phase of Gaussian atoms, towards which electrons are drawn, (rows, columns, 2) of unit spread in the
    scan's axes, and an image in which the atoms are bright."""
    y, x = (np.arange(n) * step for n, step in zip(shape, steps))
    field, image = np.zeros((*shape, 2)), np.zeros(shape)
    for py, px in atoms(kind, (shape[0] * steps[0], shape[1] * steps[1])):
        along_y, along_x = np.exp(-((y - py) / width) ** 2 / 2)[:, None], np.exp(-((x - px) / width) ** 2 / 2)[None]
        image += along_y * along_x
        field[..., 0] += -(y - py)[:, None] / width * along_y * along_x
        field[..., 1] += -(x - px)[None] / width * along_y * along_x
    return field / field.std(), image


def on_detector(field, rotation, flipped):
    """A field of the scan's axes as a detector turned and flipped against them sees it."""
    return field @ DetectorGeometry((0.0, 0.0), 1e-3, rotation=rotation, flipped=flipped).to_detector().T


def turn_between(one, other):
    """Difference of two angles [rad], -pi to pi."""
    return (one - other + np.pi) % (2 * np.pi) - np.pi
