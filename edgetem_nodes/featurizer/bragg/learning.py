"""What a scan's patterns have in common, learnt from a sample of them: lattice, disks, edge, background, contrast, scatter.

Amplitudes and contrast of the disks are random effects: their mean and variance over the sample (expectation-maximisation)
become the prior of every pattern's fit. Where disks are uniform the variance comes out as zero and the fit is that of uniform
disks, at the Cramer-Rao bound; where diffraction is dynamical the inside of a disk may vary as much as it did in the sample,
and the place is taken from what is left, the edge.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from scipy.ndimage import binary_dilation, binary_opening, gaussian_filter
from scipy.optimize import minimize

from edgetem_nodes.featurizer.bragg.correlation import BraggDetector
from edgetem_nodes.featurizer.bragg.fitting import CONVERGED
from edgetem_nodes.featurizer.bragg.identification import completed, identify
from edgetem_nodes.featurizer.bragg.likelihood import CONTRASTS, Fits, Lattice, LatticeLikelihood
from edgetem_nodes.featurizer.bragg.template import MARGIN, Template
from edgetem_nodes.featurizer.deformation import median_lattice
from edgetem_nodes.featurizer.features import CountingNoise
from edgetem_nodes.featurizer.patterns.events import Frames, dense
from edgetem_nodes.featurizer.patterns.geometry import DetectorGeometry

_FAINT = 0.02
_TOLERANCE = 1.5
_SAMPLE, _EDGE_SAMPLE = 256, 16
_ROUNDS = 6
_FIRST_CONTRAST = 0.3
_UNEVEN = 0.1
_FIRM = 100.0
"""Electrons that a disk must have for its own place to be told: with fewer its errors are not those of its curvature."""
_ACCELERATION = 2.0
_AMPLITUDE = 0.5
"""Least relative standard deviation of a disk's amplitude from pattern to pattern: to know it better gains no place."""
_ENOUGH = 1.5
"""Log-likelihood ratio a degree of freedom that a pattern must have for its lattice to count."""
_USUAL = 0.95
"""Part of the sample's patterns whose pixels are taken to fit as well as the model can."""
_SILENT = 20.0
"""Electrons that pixels must have missed all of to be dead or behind a beam stop: by chance once in 5e8."""


def learn(sample: Frames, geometry: DetectorGeometry, *, template: Template | None = None, vectors: np.ndarray | None = None,
          contrast: str = "linear", search: int = 3, most_disks: int = 24, mask: np.ndarray | None = None,
          noise: CountingNoise | None = None, fit_edge: bool | None = None, threads: int = 1) -> LatticeLikelihood:
    """The model of a scan, from patterns of it spread over what it shows.

    Parameters
    ----------
    sample : some ten to a few hundred patterns; more than 256 are thinned out evenly.
    geometry : centre of the direct beam to half a lattice vector, semi-convergence angle, distortion.
    template : of a disk, e.g. `Template.of_image` of a vacuum image; None: calculated from the geometry.
    vectors : (2, 2) two lattice vectors as columns (y, x) [pixel], to half a disk at the outermost; None: identified.
    contrast : of the disks' inside, of `CONTRASTS`.
    search : how far disks may lie from where the sample's median has them [pixel].
    most_disks : the strongest so many are fitted.
    mask : (rows, columns) bool, pixels to use: False on dead pixels and a beam stop. The central disk is not needed. Pixels
        that never count where the background has electrons to spare are left out by themselves.
    fit_edge : fit radius and edge of a calculated disk to the sample; None: yes, unless a template was given.

    Raises
    ------
    ValueError : no usable pattern, no lattice, disks that overlap, or a contrast that there is not.
    """
    if contrast not in CONTRASTS:
        raise ValueError(f"there is no contrast {contrast!r}; there is {', '.join(CONTRASTS)}")
    noise = noise or CountingNoise()
    frames = _usable(sample, mask, noise)
    fit_edge = template is None if fit_edge is None else fit_edge
    template = template or Template.of_geometry(geometry)
    mask = np.ones(frames.shape[1:], bool) if mask is None else np.asarray(mask, bool)
    lattice = _lattice(frames, template, np.array(geometry.center), vectors, mask, noise)
    window = _window(template, lattice)
    model = LatticeLikelihood(template, lattice, np.zeros((0, 2), int), mask.astype(float), mask, window, search, 1,
                              noise=noise, threads=threads)
    model = _with_disks(model, frames, most_disks)
    silent = _silent(model, frames)
    if silent.any():
        model = _with_disks(replace(model, background=np.where(silent, 0.0, model.background)), frames, most_disks)
    if fit_edge:
        model = _with_edge(model, frames)
    model = replace(model, background=_background(model, frames), terms=CONTRASTS[contrast])
    model = _with_priors(model, frames)
    if fit_edge and _uneven(model):
        model = _with_priors(_with_edge(model, frames), frames)
    model = _with_scatter(model, frames)
    fits = model.fit(frames)
    usual = np.quantile(fits.pixel_chi_square[_kept(fits)], _USUAL)
    return replace(model, usual_chi_square=max(float(usual), 1.0))


def _uneven(model: LatticeLikelihood) -> bool:
    """Whether the inside of disks varies so much that their edge must be seen again with it."""
    slopes = (model.prior_mean[:, 1:]**2 + 1 / model.prior_weight[:, 1:]) / np.maximum(model.prior_mean[:, :1], 1e-9)**2
    return bool(slopes.size and np.median(slopes) > _UNEVEN**2)


def good(fits: Fits) -> np.ndarray:
    """(rows,) bool: a lattice stands out of the background, and its fit has ended."""
    terms = 2 * fits.amplitudes.shape[1] + 6
    return (fits.outcome == CONVERGED) & (fits.log_ratio > _ENOUGH * terms)


def _usable(sample: Frames, mask: np.ndarray | None, noise: CountingNoise) -> np.ndarray:
    step = max(1, len(sample) // _SAMPLE)
    if isinstance(sample, np.ndarray):
        kept = sample[::step]
    else:
        kept = np.concatenate([dense(sample[i:i + 1]) for i in range(0, len(sample), step)]) if len(sample) else dense(sample)
    if not len(kept):
        raise ValueError("nothing can be learnt from no patterns: give some ten or more")
    if mask is not None and mask.shape != kept.shape[1:]:
        raise ValueError(f"the mask has the shape {mask.shape} and the patterns {kept.shape[1:]}: they must be the same")
    inside = kept.reshape(len(kept), -1) if mask is None else kept[:, mask]
    usable = np.isfinite(inside).all(axis=1) & (inside.sum(axis=1) > 0)
    if not usable.any():
        raise ValueError(f"none of the {len(kept)} patterns of the sample is usable: all are empty or hold pixels that are not "
                         "finite numbers; mask such pixels")
    kept = np.asarray(kept[usable], np.float32)
    return np.where(mask, kept, np.float32(0)) if mask is not None else kept


def _lattice(frames: np.ndarray, template: Template, centre: np.ndarray, vectors: np.ndarray | None, mask: np.ndarray,
             noise: CountingNoise) -> Lattice:
    """Lattice of the summed pattern, or else of the map of all patterns' disks."""
    detector = BraggDetector(template, "plain", "parabola", mask=mask, noise=noise)
    total = frames.sum(axis=0, dtype=np.float64)
    spots, weights = _spots(detector, total, centre)
    if vectors is not None:
        basis = np.asarray(vectors, float)
    else:
        tolerance, shortest = max(_TOLERANCE, 0.3 * template.radius), 1.6 * template.radius
        try:
            basis = identify(spots, weights, tolerance, shortest)
        except ValueError as problem:
            spots, weights = _spots(detector, _vector_map(detector, frames, template), centre)
            try:
                basis = identify(spots, weights, tolerance, shortest)
            except ValueError:
                raise problem from None
    if len(spots) < 3:
        raise ValueError(f"{len(spots)} disks stand out of the sum of the sample, and 3 or more are needed: add patterns")
    return Lattice(completed(basis, spots, centre), basis)


def _spots(detector: BraggDetector, total: np.ndarray, centre: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    disks = detector(total[None])
    count = disks.count[0]
    places, height = disks.places[0, :count], disks.significance[0, :count]
    away = np.hypot(*(places - centre).T) > detector.template.radius
    kept = height > _FAINT * height[away].max(initial=0.0)
    return places[kept], np.sqrt(height[kept])


def _vector_map(detector: BraggDetector, frames: np.ndarray, template: Template) -> np.ndarray:
    """The Bragg vector map: every pattern's disks in one image, drawn as disks again so that the same detector reads it."""
    disks = detector(frames[::max(1, len(frames) // 64)])
    places = np.rint(disks.places[np.isfinite(disks.places).all(axis=-1)]).astype(int)
    image = np.zeros(frames.shape[1:])
    places = places[((places >= 0) & (places < np.array(image.shape))).all(axis=1)]
    np.add.at(image, tuple(places.T), 100.0)
    return gaussian_filter(image, template.radius / 2)


def _window(template: Template, lattice: Lattice) -> float:
    spacing = min(np.hypot(*vector) for vector in (*lattice.basis.T, lattice.basis.sum(axis=1), lattice.basis @ [1, -1]))
    room = spacing - template.radius - 2 * template.edge
    if room < template.radius + 1.0:
        raise ValueError(f"disks of a radius of {template.radius:.3g} pixels, {spacing:.3g} apart, overlap: lower the "
                         "semi-convergence angle")
    return min(template.radius + MARGIN + template.edge, room)


def _with_disks(model: LatticeLikelihood, frames: np.ndarray, most: int) -> LatticeLikelihood:
    """The strongest disks, at least half of each on the detector, with the lattice refined from the innermost outwards."""
    shape = np.array(frames.shape[1:])
    total = frames.sum(axis=0, dtype=np.float64)[None]
    reach = int(np.ceil(np.hypot(*shape) / np.abs(np.linalg.eigvals(model.lattice.basis.T @ model.lattice.basis)).min()**0.5))
    order = np.arange(-reach, reach + 1)
    indices = np.stack(np.meshgrid(order, order, indexing="ij"), axis=-1).reshape(-1, 2)
    indices = indices[(indices != 0).any(axis=1)]
    extent = np.hypot(*(indices @ model.lattice.basis.T).T)
    indices = indices[np.argsort(extent, kind="stable")]
    for limit in (12, 36, None):
        inside = indices[_on_detector(model, indices) >= 0.5][:limit]
        model = replace(model, indices=inside, gaps=_gaps(model, indices), threads=1)
        fit = model.fit(total)
        if good(fit)[0]:
            model = replace(model, lattice=Lattice.of(fit.lattice[0]))
    if len(inside) < 3 or np.linalg.matrix_rank(inside) < 2:
        raise ValueError(f"{len(inside)} disks besides the central one fall on the detector, and 3 that are not on one line "
                         "are needed: lower the camera length")
    fit = model.fit(total)
    counts = fit.amplitudes[0, :, 0]
    strong = np.argsort(counts)[::-1][:most]
    strong = np.sort(strong[counts[strong] > _FAINT * counts.max()])
    if len(strong) < 3 or np.linalg.matrix_rank(inside[strong]) < 2:
        raise ValueError(f"{len(strong)} disks besides the central one hold electrons; 3 that are not on one line are needed")
    return replace(model, indices=inside[strong], gaps=_gaps(model, indices))


def _on_detector(model: LatticeLikelihood, indices: np.ndarray) -> np.ndarray:
    """Part (n,) of each disk that falls on pixels in use."""
    offsets = model.disk_pixels()
    places = np.rint(model.lattice.places(indices)).astype(int)[:, None] + offsets
    shape = np.array(model.background.shape)
    on = ((places >= 0) & (places < shape)).all(axis=-1)
    places = np.clip(places, 0, shape - 1)
    return (on & (model.background[places[..., 0], places[..., 1]] > 0)).mean(axis=1)


def _gaps(model: LatticeLikelihood, indices: np.ndarray) -> np.ndarray:
    """Pixels in use that no disk of the lattice, the central one included, covers."""
    y, x = np.indices(model.background.shape)
    free = model.background > 0
    spacing = np.sqrt(np.abs(np.linalg.det(model.lattice.basis)))
    away = min(model.template.radius + 3 * model.template.edge + 2, max(0.6 * spacing, model.template.radius + 1))
    for row, column in model.lattice.places(np.concatenate([indices, [[0, 0]]])):
        top, left = max(int(row - away), 0), max(int(column - away), 0)
        part = slice(top, max(int(row + away) + 2, 0)), slice(left, max(int(column + away) + 2, 0))
        free[part] &= np.hypot(y[part] - row, x[part] - column) > away
    return free


def _with_edge(model: LatticeLikelihood, frames: np.ndarray) -> LatticeLikelihood:
    """Radius and edge of greatest likelihood, the lattices being fitted anew each time."""
    some = frames[::max(1, len(frames) // _EDGE_SAMPLE)]
    start = np.array([model.template.radius, np.log(max(model.template.edge, 0.1))])

    def loss(values: np.ndarray) -> float:
        radius, edge = values[0], np.exp(values[1])
        if not (0.7 * start[0] < radius < 1.3 * start[0] and radius >= 1 and 0.1 <= edge < radius / 2):
            return np.inf
        fits = replace(model, template=Template.disk(radius, edge, model.template.axes)).fit(some)
        return -float(fits.log_ratio[np.isfinite(fits.log_ratio)].sum())

    simplex = start + np.array([[0, 0], [0.1, 0], [0, 0.3]])
    best = minimize(loss, start, method="Nelder-Mead", options={"xatol": 0.01, "fatol": 0.5, "maxfev": 40,
                                                               "initial_simplex": simplex})
    template = Template.disk(best.x[0], float(np.exp(best.x[1])), model.template.axes)
    return replace(model, template=template, window=_window(template, model.lattice))


def _background(model: LatticeLikelihood, frames: np.ndarray) -> np.ndarray:
    """Shape of the background by distance from the direct beam, from the pixels between disks; flat where these are few."""
    y, x = np.indices(model.background.shape)
    distance = np.hypot(y - model.lattice.centre[0], x - model.lattice.centre[1])
    gaps, used = model.gaps & (model.background > 0), model.background > 0
    total = frames.sum(axis=0, dtype=np.float64)
    bins = np.arange(0, distance[used].max() + 4, 4.0)
    which = np.digitize(distance, bins)
    counts = np.bincount(which[gaps], total[gaps], len(bins) + 1)
    pixels = np.bincount(which[gaps], minlength=len(bins) + 1)
    enough = (counts > 100) & (pixels > 10)
    if enough.sum() < 3:
        return used.astype(float)
    middle = np.bincount(which[gaps], distance[gaps], len(bins) + 1)[enough] / pixels[enough]
    shape = np.exp(np.interp(distance, middle, np.log(counts[enough] / pixels[enough])))
    return np.where(used, np.maximum(shape / shape[gaps].mean(), 1e-3), 0.0)


def _silent(model: LatticeLikelihood, frames: np.ndarray) -> np.ndarray:
    """Pixels (rows, columns) bool in use that have no count in all of the sample, where the background between disks is
    `_SILENT` electrons or more on them, or on a square of them; squares with their partly shaded rim."""
    total = frames.sum(axis=0, dtype=np.float64)
    used, gaps = model.background > 0, model.gaps & (model.background > 0)
    zero, silent = used & (total == 0), np.zeros(used.shape, bool)
    if not zero.any() or not gaps.any():
        return silent
    expected = _background(model, frames) * total[gaps].mean() / model.noise.counts_per_electron
    for size in (1, 3, 5):
        blocks = binary_opening(zero & (expected * size**2 >= _SILENT), np.ones((size, size), bool))
        silent |= blocks if size == 1 else binary_dilation(blocks)
    return silent & used


def _with_priors(model: LatticeLikelihood, frames: np.ndarray) -> LatticeLikelihood:
    """Mean and variance of the amplitudes over the sample, and the lattice's median."""
    terms, count = model.terms, len(model.indices)
    if model.prior_mean is None or model.prior_mean.shape[1] != terms:
        fits = replace(model, terms=1, prior_mean=None, prior_weight=None).fit(frames)
        rows = _kept(fits)
        relative = np.maximum(fits.amplitudes[rows, :, 0] / fits.strength[rows, None], 0.0)
        mean = np.zeros((count, terms))
        mean[:, 0] = relative.mean(axis=0)
        variance = np.repeat((_FIRST_CONTRAST * mean[:, :1])**2, terms, axis=1)
        variance[:, 0] = np.maximum(relative.var(axis=0), mean[:, 0]**2)
    else:
        mean, variance = model.prior_mean, 1.0 / model.prior_weight
    for _ in range(_ROUNDS):
        model = replace(model, prior_mean=mean, prior_weight=1.0 / variance)
        fits = model.fit(frames)
        rows = _kept(fits)
        relative = fits.amplitudes[rows] / fits.strength[rows, None, None]
        own = fits.variances[rows] / fits.strength[rows, None, None]**2
        mean = relative.mean(axis=0)
        # expectation-maximisation takes for ever to arrive at zero: longer steps
        variance *= (((relative - mean)**2 + own).mean(axis=0) / variance)**_ACCELERATION
        scale = np.maximum(mean[:, :1], 1e-3 * mean[:, 0].max())
        pooled = np.median(variance / scale**2, axis=0) * scale**2
        variance = (len(rows) * variance + 10 * pooled) / (len(rows) + 10)
        variance = np.maximum(variance, (1e-3 * scale)**2)
    variance[:, 0] = variance[:, 0] + (_AMPLITUDE * scale[:, 0])**2
    middle = np.median(fits.lattice[rows], axis=0)
    middle[2:] = median_lattice(fits.lattice[rows, 2:].reshape(-1, 2, 2)).ravel()
    return replace(model, prior_mean=mean, prior_weight=1.0 / variance, lattice=Lattice.of(middle))


def _kept(fits: Fits) -> np.ndarray:
    rows = np.flatnonzero(good(fits))
    if not len(rows):
        raise ValueError(f"in none of the {len(fits.outcome)} patterns of the sample does a lattice stand out of the "
                         "background: learn from patterns of a higher dose, or of where the crystal is")
    return rows


def _with_scatter(model: LatticeLikelihood, frames: np.ndarray) -> LatticeLikelihood:
    """Scatter of disks about the lattice beyond counting, where the sample shows it with two standard errors."""
    square = 0.0
    for _ in range(4):
        fits = replace(model, scatter=np.sqrt(square)).fit(frames)
        rows = good(fits)
        a, b, d = np.moveaxis(fits.information[rows], -1, 0)
        volume = a * d - b**2
        counts = fits.amplitudes[rows, :, 0]
        firm = (counts > _FIRM * model.noise.counts_per_electron) & (volume > 0)
        firm &= counts > 5 * np.sqrt(fits.variances[rows, :, 0])
        if firm.sum() < 20:
            return model
        variance = ((a + d) / np.where(volume > 0, volume, 1.0))[firm] / 2
        freedom = 1 - 3 / max(firm.sum() / max(rows.sum(), 1), 4)
        excess = (fits.shift[rows]**2).sum(axis=-1)[firm] / 2 / freedom - variance
        weight = 1 / variance**2
        step = (weight * excess).sum() / weight.sum()
        if square == 0.0 and step < 2 / np.sqrt(weight.sum()):
            return model
        square = max(square + step, 0.0)
    return replace(model, scatter=float(np.sqrt(square)))
