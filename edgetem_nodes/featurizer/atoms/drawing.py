"""Images of atomic columns drawn fast, with known truth: incoherent imaging of lattices with a basis, and what goes wrong.

Each column adds its weight, the sum of Z^1.7 of its atoms (exponent of Z-contrast, e.g. Krivanek et al., Nature 464, 571,
2010), times the probe's intensity, a Gaussian with a weak wide tail. `physics/survey.py` draws slower and is the check.
"""

from __future__ import annotations

from dataclasses import dataclass

import numba
import numpy as np
from scipy.ndimage import gaussian_filter

EXPONENT = 1.7
FAINTEST = 0.06
"""Part of the strongest column's weight below which a column is not said to be there."""
ANGSTROM = 1e-10
HOST, LIGHTER, HEAVIER, VACANCY = range(4)
_THIRDS = ((1 / 3, 2 / 3), (2 / 3, 1 / 3))
_HEXAGONAL = ((1.0, 0.0), (-0.5, 0.75 ** 0.5))
_SQUARE = ((1.0, 0.0), (0.0, 1.0))

CRYSTALS = (
    # cell vectors over the constant, constant [angstrom], basis (fractional), atomic numbers of each column.
    (_HEXAGONAL, 2.46, _THIRDS, ((6,), (6,))),
    (_HEXAGONAL, 2.50, _THIRDS, ((5,), (7,))),
    (_HEXAGONAL, 3.16, _THIRDS, ((42,), (16, 16))),
    (_HEXAGONAL, 3.29, _THIRDS, ((74,), (34, 34))),
    (_HEXAGONAL, 2.88, ((0.0, 0.0),), ((79,) * 4,)),
    (_SQUARE, 3.905, ((0, 0), (0.5, 0.5), (0.5, 0), (0, 0.5)), ((38,) * 5, (22, 8) * 5, (8,) * 5, (8,) * 5)),
    (_SQUARE, 4.08, ((0.0, 0.0), (0.5, 0.5)), ((79,) * 3, (79,) * 3)),
    (_SQUARE, 4.21, ((0, 0), (0.5, 0.5), (0.5, 0), (0, 0.5)), ((12, 8) * 3,) * 4),
    (((1.0, 0.0), (0.0, 0.7071)), 5.65, ((0, 0), (0.25, 0), (0.5, 0.5), (0.75, 0.5)), ((31,) * 5, (33,) * 5) * 2),
)


@dataclass(frozen=True)
class ImageRanges:
    """What is drawn at random; pairs are least and greatest, uniform or, where said, log-uniform.

    Attributes
    ----------
    pixel_size, probe_sigma : [m]. stretch, shear : of scan distortion, parts. peak_counts : electrons a pixel on the strongest
    column (log-uniform). background : of that peak. jitter : standard deviation of a line's shift [pixel]. flicker : of a
    line's intensity. tail : part of the probe in a tail two to three times as wide. defects : part of columns, of each kind.
    contamination : height of spots over the peak. damaged : chance that part of an image has no crystal.
    """

    pixel_size: tuple[float, float] = (12e-12, 30e-12)
    probe_sigma: tuple[float, float] = (35e-12, 80e-12)
    stretch: tuple[float, float] = (-0.12, 0.12)
    shear: tuple[float, float] = (-0.08, 0.08)
    peak_counts: tuple[float, float] = (3.0, 300.0)
    background: tuple[float, float] = (0.0, 0.8)
    jitter: tuple[float, float] = (0.0, 0.9)
    flicker: tuple[float, float] = (0.0, 0.04)
    tail: tuple[float, float] = (0.0, 0.35)
    defects: tuple[float, float] = (0.0, 0.04)
    contamination: tuple[float, float] = (0.0, 1.2)
    damaged: float = 0.3


@dataclass(frozen=True)
class DrawnImage:
    """An image and its truth.

    Attributes
    ----------
    image : (rows, columns) float32, electrons. pixel_size : [m].
    positions : (n, 2), (y, x) [pixel], of sites that have a column. weights : (n,), the strongest host column 1.
    kinds : (n,) int, one of HOST, LIGHTER, HEAVIER. sublattices : (n,) int. vacancies : (m, 2) sites without a column.
    vectors : (2, 2) lattice vectors, rows (y, x) [pixel]. sigma : of the probe [pixel].
    """

    image: np.ndarray
    pixel_size: float
    positions: np.ndarray
    weights: np.ndarray
    kinds: np.ndarray
    sublattices: np.ndarray
    vacancies: np.ndarray
    vectors: np.ndarray
    sigma: float


def draw(rng: np.random.Generator, shape: tuple[int, int], ranges: ImageRanges | None = None,
         crystal: int | None = None) -> DrawnImage:
    """Draw one image.

    Parameters
    ----------
    shape : rows, columns. crystal : index into CRYSTALS; None: one of those or a random cell.
    """
    ranges = ranges or ImageRanges()
    pixel = rng.uniform(*ranges.pixel_size)
    vectors, basis, weights = _lattice(rng, crystal)
    vectors = vectors @ _distortion(rng, ranges).T / pixel
    places, sublattices = sites(vectors, basis, shape, rng.uniform(0, 1, 2), margin=6 * ranges.probe_sigma[1] / pixel)
    nearest = _nearest(vectors, basis)
    sigma = min(rng.uniform(*ranges.probe_sigma) / pixel, 0.36 * nearest)
    kinds, factors = defects(rng, len(places), rng.uniform(*ranges.defects, 3))
    strength = weights[sublattices] / weights.max() * factors
    present = kinds != VACANCY
    crystalline = _crystalline(rng, shape, places) if rng.uniform() < ranges.damaged else np.ones(len(places), bool)
    clean = render(places[present & crystalline], strength[present & crystalline], shape, sigma, rng.uniform(*ranges.tail),
                   _line_shifts(rng, shape[0], rng.uniform(*ranges.jitter)))
    if not crystalline.all():
        clean += _amorphous(rng, places[~crystalline], strength[~crystalline], shape, sigma)
    image = expose(rng, clean + _contamination(rng, shape, rng.uniform(*ranges.contamination), ranges), ranges)
    inside = ((places >= 0) & (places <= np.array(shape) - 1)).all(axis=1) & crystalline
    seen = inside & present
    return DrawnImage(image, pixel, places[seen], strength[seen], kinds[seen], sublattices[seen], places[inside & ~present],
                      vectors, sigma)


def sites(vectors: np.ndarray, basis: np.ndarray, shape: tuple[int, int], phase: np.ndarray,
          margin: float) -> tuple[np.ndarray, np.ndarray]:
    """Places (n, 2) [pixel] and sublattices (n,) of all sites of a lattice in an image and a margin around it."""
    corners = np.array([(y, x) for y in (-margin, shape[0] + margin) for x in (-margin, shape[1] + margin)])
    bounds = corners @ np.linalg.inv(vectors)
    low, high = np.floor(bounds.min(axis=0)).astype(int) - 1, np.ceil(bounds.max(axis=0)).astype(int) + 1
    nodes = np.stack(np.meshgrid(*(np.arange(a, b + 1) for a, b in zip(low, high, strict=True)), indexing="ij"), -1)
    places = (nodes.reshape(-1, 1, 2) + basis[None] + phase) @ vectors
    sublattices = np.broadcast_to(np.arange(len(basis)), places.shape[:2]).ravel()
    places = places.reshape(-1, 2)
    near = ((places > -margin) & (places < np.array(shape) + margin)).all(axis=1)
    return places[near], sublattices[near]


def defects(rng: np.random.Generator, count: int, fractions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Kinds (count,) and factors (count,) on the weights, for fractions of lighter, heavier and missing columns."""
    kinds = rng.choice(4, count, p=[1 - fractions.sum(), *fractions])
    factors = np.ones(count)
    factors[kinds == LIGHTER] = rng.uniform(0.25, 0.7, (kinds == LIGHTER).sum())
    factors[kinds == HEAVIER] = rng.uniform(1.4, 2.8, (kinds == HEAVIER).sum())
    factors[kinds == VACANCY] = 0.0
    return kinds, factors


def render(places: np.ndarray, weights: np.ndarray, shape: tuple[int, int], sigma: float, tail: float = 0.0,
           shifts: np.ndarray | None = None) -> np.ndarray:
    """Noise-free image (rows, columns): Gaussians of `sigma` [pixel], height `weights`; `tail` of it 2.5 times as wide;
    `shifts` (rows,) [pixel] moves the lines along x."""
    image = np.zeros(shape)
    shifts = np.zeros(shape[0]) if shifts is None else shifts
    places, weights = np.ascontiguousarray(places, float), np.ascontiguousarray(weights, float)
    _add_gaussians(image, places, weights * (1 - tail), sigma, shifts)
    if tail > 0:
        _add_gaussians(image, places, weights * tail, 2.5 * sigma, shifts)
    return image


@numba.njit(cache=True)
def _add_gaussians(image, places, weights, sigma, shifts):
    rows, columns = image.shape
    reach = 4.5 * sigma
    for k in range(len(places)):
        y0, x0 = places[k]
        for y in range(max(0, int(y0 - reach)), min(rows, int(y0 + reach) + 2)):
            line = weights[k] * np.exp(-0.5 * ((y - y0) / sigma) ** 2)
            x1 = x0 + shifts[y]
            for x in range(max(0, int(x1 - reach)), min(columns, int(x1 + reach) + 2)):
                image[y, x] += line * np.exp(-0.5 * ((x - x1) / sigma) ** 2)


def _lattice(rng: np.random.Generator, crystal: int | None) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Lattice vectors [m], basis (fractional) and weights of the columns."""
    if crystal is None and rng.uniform() < 0.4:
        return _random_lattice(rng)
    cell, constant, basis, numbers = CRYSTALS[rng.integers(len(CRYSTALS)) if crystal is None else crystal]
    scale = constant * ANGSTROM * (rng.uniform(0.94, 1.08) if crystal is None else 1.0)
    weights = np.array([sum(z ** EXPONENT for z in column) for column in numbers])
    return np.array(cell) * scale, np.array(basis, float), weights


def _random_lattice(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    a = rng.uniform(2.4, 4.5) * ANGSTROM
    b, angle = a * rng.uniform(1.0, 1.7), np.radians(rng.uniform(60, 120))
    vectors = np.array([[a, 0.0], [b * np.cos(angle), b * np.sin(angle)]])
    basis = np.zeros((1, 2))
    for _ in range(rng.integers(0, 4)):
        trial = np.vstack([basis, rng.uniform(0, 1, 2)])
        if _nearest(vectors, trial) > 1.25 * ANGSTROM:
            basis = trial
    return vectors, basis, rng.uniform(0.12, 1.0, len(basis))


def _nearest(vectors: np.ndarray, basis: np.ndarray) -> float:
    """Shortest distance of two sites, in the unit of the vectors."""
    difference = (basis[:, None] - basis[None])[:, :, None, None] + np.stack(
        np.meshgrid(np.arange(-2, 3), np.arange(-2, 3), indexing="ij"), -1)
    lengths = np.linalg.norm(difference @ vectors, axis=-1)
    return float(lengths[lengths > 1e-6 * np.abs(vectors).max()].min())


def _distortion(rng: np.random.Generator, ranges: ImageRanges) -> np.ndarray:
    """A rotation by any angle, then the scan's stretch and shear."""
    turn = rng.uniform(0, 2 * np.pi)
    rotation = np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])
    scan = np.array([[1 + rng.uniform(*ranges.stretch), 0.0], [rng.uniform(*ranges.shear), 1 + rng.uniform(*ranges.stretch)]])
    return scan @ rotation


def _line_shifts(rng: np.random.Generator, rows: int, deviation: float) -> np.ndarray:
    """Shift of each line [pixel]: partly from line to line, partly wandering."""
    wander = gaussian_filter(rng.normal(size=rows), rng.uniform(1, 12), mode="wrap")
    part = rng.uniform(0.2, 0.8)
    return deviation * (part * rng.normal(size=rows) + (1 - part) * wander / max(wander.std(), 1e-12))


def _field(rng: np.random.Generator, shape: tuple[int, int], sigma: float) -> np.ndarray:
    """Smooth random field, mean 0, standard deviation 1."""
    field = gaussian_filter(rng.normal(size=shape), sigma, mode="wrap")
    return (field - field.mean()) / max(field.std(), 1e-12)


def _crystalline(rng: np.random.Generator, shape: tuple[int, int], places: np.ndarray) -> np.ndarray:
    """Which sites lie outside the damaged parts."""
    field = _field(rng, shape, rng.uniform(10, 25)) - rng.uniform(0.3, 1.5)
    index = np.clip(np.rint(places).astype(int), 0, np.array(shape) - 1)
    return field[tuple(index.T)] < 0


def _amorphous(rng: np.random.Generator, places: np.ndarray, weights: np.ndarray, shape: tuple[int, int],
               sigma: float) -> np.ndarray:
    """What is left of a damaged part: nothing, or its atoms anywhere, several on each other."""
    if rng.uniform() < 0.4 or not len(places):
        return np.zeros(shape)
    repeats = rng.integers(2, 5)
    anywhere = np.repeat(places, repeats, axis=0) + rng.normal(0, 3 * sigma, (repeats * len(places), 2))
    return render(anywhere, np.repeat(weights, repeats) / repeats, shape, sigma)


def _contamination(rng: np.random.Generator, shape: tuple[int, int], height: float, ranges: ImageRanges) -> np.ndarray:
    """Flat background, a slope and smooth spots, over the strongest column's height."""
    background = rng.uniform(*ranges.background) * (1 + 0.2 * _field(rng, shape, rng.uniform(20, 40)))
    if rng.uniform() < 0.5:
        background = background + height * np.clip(_field(rng, shape, rng.uniform(5, 30)) - 1, 0, 2)
    return np.maximum(background, 0)


def expose(rng: np.random.Generator, clean: np.ndarray, ranges: ImageRanges) -> np.ndarray:
    """Count electrons: Poisson, readout noise, lines of unequal intensity, sometimes a resampled image."""
    counts = np.exp(rng.uniform(*np.log(ranges.peak_counts)))
    lines = 1 + rng.uniform(*ranges.flicker) * rng.normal(size=(len(clean), 1))
    image = rng.poisson(np.maximum(clean * lines, 0) * counts).astype(np.float64)
    image += rng.normal(size=image.shape) * rng.uniform(0, 0.3) * np.sqrt(counts)
    if rng.uniform() < 0.4:
        image = gaussian_filter(image, rng.uniform(0.3, 0.8, 2))
    return image.astype(np.float32)
