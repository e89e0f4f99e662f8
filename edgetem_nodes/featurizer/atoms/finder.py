"""From an image to columns, lattice and candidates for defects: the whole way."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from scipy.spatial import cKDTree

from edgetem_nodes.featurizer.atoms import network as networks
from edgetem_nodes.featurizer.atoms.fitting import ColumnFits, column_width, fit_columns, without_columns
from edgetem_nodes.featurizer.atoms.found import Completeness, FoundAtoms, SublatticeResult
from edgetem_nodes.featurizer.atoms.image import ImageError, PreparedImage, magnified, prepared
from edgetem_nodes.featurizer.atoms.lattice_fit import LatticeFit, fit_lattice, predicted
from edgetem_nodes.featurizer.atoms.peaks import local_maxima
from edgetem_nodes.featurizer.atoms.significance import NARROWEST, standing_out
from edgetem_nodes.featurizer.atoms.species import KINDS, Classified, classify
from edgetem_nodes.featurizer.atoms.translations import NoLattice, nearest_distance
from edgetem_nodes.featurizer.atoms.unit_cell import centred, faint_sites

SIGNIFICANT = 1.5
"""Standard errors by which the amplitude of a column that the network saw is to exceed zero: it saw more than one window."""
FAINT_SIGNIFICANT = 8.0
"""Standard errors by which a sublattice's mean amplitude is to exceed zero where its columns were not found one by one."""
FAINT_PART = 0.05
"""Least amplitude of such a sublattice over the strongest's."""
FEWEST_COLUMNS = 4
SURER = 0.1
"""By how much the network's mean height is to be greater for the other contrast to be mentioned."""
CONTAMINATED = 6.0
"""Robust standard deviations by which the background around a site is to exceed the median."""
CLOSEST = 0.5
"""Distance over that of nearest columns below which two columns are one seen twice."""
CLAIMED = 0.6
"""How far from an empty site a column may be to count as that site's, over the distance of nearest columns."""
CLEAR = 8.0
"""Standard errors of a sublattice's typical amplitude below which amplitudes are measured at the lattice's sites, whether a
column was found or not: places fitted to noise make amplitudes too high, and what was not found too low."""
SPLIT = 0.8
"""Distance over that of nearest columns below which a column beside the lattice is a site's column seen twice: lines of a scan
that slip tear it in two."""
CREDIBLE = 4.0
"""Standard errors by which a column's amplitude is to exceed zero where no site of the lattice speaks for it."""
DAMAGED = 0.5
"""Part of the sites around without a column."""
GROUPED = 2
"""Deviating columns among the six nearest with which a deviating one counts as contaminated: dopants are seldom that dense."""
DEVIATING = (0.15, 2.5)
"""Least deviation of a column's amplitude from the host's: part, and standard errors."""


@dataclass
class _Sites:
    """Columns that were found, then sites that were looked at: rows as in FoundAtoms, in pixels of the prepared image."""

    fits: ColumnFits
    found: np.ndarray
    nodes: np.ndarray
    sublattice: np.ndarray
    confidence: np.ndarray
    resolved: int


def find_atoms(image: np.ndarray, pixel_size: float | None = None, contrast: str = "bright", material: str | None = None,
               network: networks.ColumnNetwork | None = None) -> FoundAtoms:
    """Find the columns of an image and what is wrong with their lattice.

    Parameters
    ----------
    image : (rows, columns), dark field or a reconstructed phase. pixel_size : [m], square pixels; None: not known.
    contrast : "bright" or "dark" columns. material : named in the result, for `structure.to_atoms`.
    network : another than the shipped one.

    Raises
    ------
    ImageError : nothing can be looked for, or no column is there.
    """
    if contrast not in ("bright", "dark"):
        raise ImageError(f"contrast {contrast!r} is neither 'bright' nor 'dark'")
    ready = prepared(image, pixel_size)
    if contrast == "dark":
        ready = replace(ready, data=-ready.data)
    own, network = network is not None, network or networks.shipped_network()
    places, confidence = _seen(network, ready)
    fits, places_kept = _fitted(ready, places, confidence)
    ready = replace(ready, notes=(*ready.notes, *_other_contrast(network, ready, contrast, confidence)))
    confidence = confidence[places_kept]
    lattice, reason = None, ""
    try:
        lattice = fit_lattice(fits.positions, fits.amplitudes, ready.data.shape)
    except NoLattice as error:
        reason = str(error)
    sites = _Sites(fits, np.ones(len(fits.positions), bool), np.zeros((len(fits.positions), 2), int),
                   np.full(len(fits.positions), -1), confidence, 0)
    if lattice is not None:
        lattice, sites = _all_sites(ready, lattice, fits, confidence)
    return _result(ready, np.asarray(image).shape, lattice, reason, sites, material, "" if own else networks.weights_hash())


def _seen(network: networks.ColumnNetwork, ready: PreparedImage) -> tuple[np.ndarray, np.ndarray]:
    """Maxima (n, 2) of the network's map, in pixels of the prepared image, and their heights (n,)."""
    enlarged, factor = magnified(ready.data, ready.magnification)
    heat = networks.column_map(network, enlarged)
    places, heights = local_maxima(heat)
    places = places / factor
    index = tuple(np.clip(np.rint(places).astype(int), 0, np.array(ready.data.shape) - 1).T)
    sound = ~ready.missing[index]
    if sound.sum() < FEWEST_COLUMNS:
        raise ImageError(f"{sound.sum()} columns were found, {FEWEST_COLUMNS} or more are needed: no atomic resolution, too "
                         "low a dose, a wrong pixel size, or dark columns (contrast 'dark')")
    return places[sound], heights[sound]


def _other_contrast(network: networks.ColumnNetwork, ready: PreparedImage, contrast: str,
                    confidence: np.ndarray) -> list[str]:
    """What to say where the network is surer of the columns of the other contrast."""
    try:
        _, other = _seen(network, replace(ready, data=-ready.data))
    except ImageError:
        return []
    if other.mean() < confidence.mean() + SURER:
        return []
    opposite = "dark" if contrast == "bright" else "bright"
    return [f"as {opposite} columns the image looks more like a crystal: the network's mean height is {other.mean():.2f}, not "
            f"{confidence.mean():.2f}; if it is inverted, ask for contrast {opposite!r}"]


def _fitted(ready: PreparedImage, places: np.ndarray, confidence: np.ndarray) -> tuple[ColumnFits, np.ndarray]:
    """Fits of the columns that hold, and which of the places they are."""
    sigma = column_width(ready.data, places[confidence >= np.median(confidence)], nearest_distance(places))
    rows = np.arange(len(places))
    try:
        for _ in range(4):
            fits = fit_columns(ready.data, places, sigma)
            error = fits.amplitude_errors
            keep = fits.usable & (fits.amplitudes > SIGNIFICANT * np.nan_to_num(error, nan=np.inf)) & _apart(fits)
            changed = abs(np.log(fits.sigma / sigma)) > 0.12
            sigma = float(np.clip(fits.sigma, 0.8, 0.3 * nearest_distance(places) + 1.0))
            if keep.all() and not changed:
                break
            if keep.sum() < FEWEST_COLUMNS:
                raise ImageError(f"of {len(places)} columns that the network saw {keep.sum()} stand out of the noise: too low "
                                 "a dose, or no atomic resolution")
            places, rows = fits.positions[keep], rows[keep]
        else:
            fits = _part(fits, keep)
    except ValueError as error:
        raise error if isinstance(error, ImageError) else ImageError(str(error)) from None
    clear = _significant(ready, fits)
    return _part(fits, clear), rows[clear]


def _significant(ready: PreparedImage, fits: ColumnFits) -> np.ndarray:
    """(n,) bool, columns that stand out of what the best of all places of noise would give; too few: there are none."""
    if fits.sigma < NARROWEST:
        raise ImageError(f"what looks like columns has a width of {fits.sigma:.2f} pixel, below {NARROWEST}: single noisy "
                         "pixels, no atomic columns; more dose or finer pixels are needed")
    clear = standing_out(fits.amplitudes / fits.amplitude_errors, fits.sigma, ready.data.shape)
    if clear.sum() < FEWEST_COLUMNS:
        raise ImageError(f"{clear.sum()} of {len(clear)} maxima exceed what noise alone gives in {ready.data.size} pixels: no "
                         "columns are there, or the dose is too low")
    return clear


def _apart(fits: ColumnFits) -> np.ndarray:
    """(n,) bool, False for the weaker of two columns that have run into each other."""
    keep = np.ones(len(fits.positions), bool)
    for i, j in cKDTree(fits.positions).query_pairs(max(1.1 * fits.sigma, CLOSEST * nearest_distance(fits.positions))):
        keep[i if fits.amplitudes[i] < fits.amplitudes[j] else j] = False
    return keep


def _part(fits: ColumnFits, keep: np.ndarray) -> ColumnFits:
    return replace(fits, positions=fits.positions[keep], amplitudes=fits.amplitudes[keep], backgrounds=fits.backgrounds[keep],
                   covariance=fits.covariance[keep], usable=fits.usable[keep])


def _all_sites(ready: PreparedImage, lattice: LatticeFit, fits: ColumnFits,
               confidence: np.ndarray) -> tuple[LatticeFit, _Sites]:
    """Every site of the lattice in the image: amplitudes where no column was found, faint sublattices included."""
    resolved = len(lattice.offsets)
    rest = without_columns(ready.data, fits)
    extended = lattice
    for offset in faint_sites(rest, lattice, fits.sigma):
        extended = _with_faint(ready.data, rest, extended, fits, offset)
    extended, single = _once(_claimed(extended, fits, ready.data.shape), fits, confidence)
    fits, confidence, extended = _part(fits, single), confidence[single], _of_columns(extended, single)
    credible = (extended.sublattice >= 0) | (fits.amplitudes > CREDIBLE * fits.amplitude_errors)
    fits, confidence = _part(fits, credible), confidence[credible]
    extended = _of_columns(extended, credible)
    nodes, sublattice, places = _empty_sites(extended, fits, ready.data.shape)
    at_site = _unclear(extended, fits)
    own = fits.positions.copy()
    own[at_site] = predicted(extended, extended.nodes[at_site], extended.sublattice[at_site], fits.positions)
    found = np.r_[np.ones(len(own), bool), np.zeros(len(places), bool)]
    joint = fit_columns(ready.data, np.vstack([own, places]), fits.sigma, fits.shape, np.r_[at_site, ~found[len(own):]])
    joint.positions[:len(own)][at_site] = fits.positions[at_site]
    joint.covariance[:len(own), 1:3, 1:3][at_site] = fits.position_covariance[at_site]
    index = tuple(np.clip(np.rint(joint.positions).astype(int), 0, np.array(ready.data.shape) - 1).T)
    keep = (joint.usable | found) & ~ready.missing[index]
    sites = _Sites(_part(joint, keep), found[keep], np.vstack([extended.nodes, nodes])[keep],
                   np.r_[extended.sublattice, sublattice][keep], np.r_[confidence, np.zeros(len(places))][keep], resolved)
    return _of_columns(extended, keep[:len(own)]), sites


def _of_columns(lattice: LatticeFit, chosen: np.ndarray) -> LatticeFit:
    """The lattice with the columns chosen, (n,) bool."""
    return replace(lattice, nodes=lattice.nodes[chosen], sublattice=lattice.sublattice[chosen],
                   residuals=lattice.residuals[chosen])


def _unclear(lattice: LatticeFit, fits: ColumnFits) -> np.ndarray:
    """(n,) bool, columns of sublattices whose typical amplitude is below `CLEAR` standard errors."""
    result = np.zeros(len(fits.positions), bool)
    for number in range(len(lattice.offsets)):
        mine = lattice.sublattice == number
        if mine.any() and np.nanmedian(fits.amplitudes[mine] / fits.amplitude_errors[mine]) < CLEAR:
            result |= mine
    return result


def _claimed(lattice: LatticeFit, fits: ColumnFits, shape: tuple[int, int]) -> LatticeFit:
    """The lattice with columns beside it given to empty sites near them, the nearest first."""
    nodes, sublattice, places = _empty_sites(lattice, fits, shape, margin=-0.3 * fits.window)
    free = np.flatnonzero(lattice.sublattice < 0)
    if not len(free) or not len(places):
        return lattice
    gap, site = cKDTree(places).query(fits.positions[free])
    new_nodes, new_sublattice, residuals = lattice.nodes.copy(), lattice.sublattice.copy(), lattice.residuals.copy()
    taken: set[int] = set()
    for k in np.argsort(gap):
        if gap[k] < CLAIMED * lattice.nearest and int(site[k]) not in taken:
            taken.add(int(site[k]))
            row = free[k]
            new_nodes[row], new_sublattice[row] = nodes[site[k]], sublattice[site[k]]
            residuals[row] = fits.positions[row] - lattice.smooth(nodes[site[k]][None], sublattice[site[k]][None])[0]
    return replace(lattice, nodes=new_nodes, sublattice=new_sublattice, residuals=residuals)


def _once(lattice: LatticeFit, fits: ColumnFits, confidence: np.ndarray) -> tuple[LatticeFit, np.ndarray]:
    """The lattice, and which columns (n,) to keep: of a site's column and one beside it that is too near, the one of which the
    network is surer; it is the site's."""
    keep, on = np.ones(len(fits.positions), bool), np.flatnonzero(lattice.sublattice >= 0)
    nodes, sublattice, residuals = lattice.nodes.copy(), lattice.sublattice.copy(), lattice.residuals.copy()
    beside = np.flatnonzero(lattice.sublattice < 0)
    gap, near = cKDTree(fits.positions[on]).query(fits.positions[beside])
    for row, distance, site in zip(beside, gap, on[near], strict=True):
        if distance > SPLIT * lattice.nearest or not keep[site]:
            continue
        if confidence[row] > confidence[site]:
            nodes[row], sublattice[row] = nodes[site], sublattice[site]
            residuals[row] = fits.positions[row] - lattice.smooth(nodes[site][None], sublattice[site][None])[0]
            row, site = site, row
        keep[row] = False
    return replace(lattice, nodes=nodes, sublattice=sublattice, residuals=residuals), keep


def _with_faint(image: np.ndarray, rest: np.ndarray, lattice: LatticeFit, fits: ColumnFits, offset: np.ndarray) -> LatticeFit:
    """The lattice with a faint sublattice more, if its mean amplitude is significant; else as it was."""
    trial = replace(lattice, offsets=np.vstack([lattice.offsets, offset]))
    number = len(trial.offsets) - 1
    nodes, sublattice, places = _empty_sites(trial, fits, image.shape, only=number)
    if len(places) < 8:
        return lattice
    shift = centred(rest, places, fits.sigma)
    trial.offsets[-1] += shift @ np.linalg.inv(lattice.vectors)
    start = np.vstack([fits.positions, places + shift])
    fixed = np.r_[np.zeros(len(fits.positions), bool), np.ones(len(places), bool)]
    joint = fit_columns(image, start, fits.sigma, fits.shape, fixed)
    mine = fixed & joint.usable
    amplitudes = joint.amplitudes[mine]
    mean, error = float(np.mean(amplitudes)), float(np.std(amplitudes) / np.sqrt(max(mine.sum(), 1)))
    strongest = float(np.median(fits.amplitudes[lattice.sublattice == 0]))
    return trial if mean > max(FAINT_SIGNIFICANT * error, FAINT_PART * strongest) else lattice


def _empty_sites(lattice: LatticeFit, fits: ColumnFits, shape: tuple[int, int],
                 only: int | None = None, margin: float = 0.0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Nodes (m, 2), sublattices (m,) and places (m, 2) of sites without a column, a window and a margin inside the image."""
    corners = np.array([(y, x) for y in (0, shape[0]) for x in (0, shape[1])])
    corners = (corners - lattice.origin) @ np.linalg.inv(lattice.vectors)
    low, high = np.floor(corners.min(axis=0)).astype(int) - 2, np.ceil(corners.max(axis=0)).astype(int) + 3
    grid = np.stack(np.meshgrid(*(np.arange(a, b) for a, b in zip(low, high, strict=True)), indexing="ij"), -1).reshape(-1, 2)
    numbers = range(len(lattice.offsets)) if only is None else [only]
    nodes = np.tile(grid, (len(numbers), 1))
    sublattice = np.repeat(list(numbers), len(grid))
    rough = lattice.ideal(nodes, sublattice)
    near = ((rough > -lattice.nearest) & (rough < np.array(shape) + lattice.nearest)).all(axis=1)
    nodes, sublattice = nodes[near], sublattice[near]
    taken = {(*n, s) for n, s in zip(lattice.nodes.tolist(), lattice.sublattice.tolist(), strict=True)}
    empty = np.array([(*n, s) not in taken for n, s in zip(nodes.tolist(), sublattice.tolist(), strict=True)], bool)
    nodes, sublattice = nodes[empty], sublattice[empty]
    places = predicted(lattice, nodes, sublattice, fits.positions)
    edge = fits.window + margin
    inside = ((places >= edge) & (places <= np.array(shape) - 1 - edge)).all(axis=1)
    return nodes[inside], sublattice[inside], places[inside]


def _result(ready: PreparedImage, shape: tuple[int, int], lattice: LatticeFit | None, reason: str, sites: _Sites,
            material: str | None, weights: str) -> FoundAtoms:
    """Kinds, completeness, and everything in pixels of the file."""
    fits, count = sites.fits, len(sites.found)
    sound = _sound(sites, lattice)
    edge = np.array(ready.data.shape) - 1 - fits.window
    inner = ((fits.positions >= fits.window) & (fits.positions <= edge)).all(axis=1)
    ratio, ratio_error, q_values = (np.full(count, np.nan) for _ in range(3))
    probabilities, alone = (np.full((count, len(KINDS)), np.nan) for _ in range(2))
    members = []
    errors = np.where(fits.usable, fits.amplitude_errors, np.nan)
    for number in range(0 if lattice is None else len(lattice.offsets)):
        mine = np.flatnonzero((sites.sublattice == number) & inner)
        kinds = classify(fits.positions[mine], np.where(fits.usable[mine], fits.amplitudes[mine], np.nan), errors[mine])
        ratio[mine], ratio_error[mine], q_values[mine] = kinds.ratio, kinds.ratio_error, kinds.q_values
        probabilities[mine], alone[mine] = kinds.probabilities, kinds.alone
        members.append((mine, kinds))
    sound &= ~_grouped(fits.positions, ratio, ratio_error)
    sublattices = [_sublattice(number, mine, kinds, lattice, sites, sound) for number, (mine, kinds) in enumerate(members)]
    scale, shift = ready.binning, (ready.binning - 1) / 2
    covariance = np.where(sites.found[:, None, None], fits.position_covariance, np.nan) * scale**2
    notes = list(ready.notes)
    for number, s in enumerate(sublattices):
        if not s.identifiable:
            notes.append(f"sublattice {number}: a missing column lies {s.separation:.1f} standard deviations from a host; "
                         "kinds of its single columns are not identifiable")
    return FoundAtoms(shape, None if ready.pixel_size is None else ready.pixel_size / scale, fits.positions * scale + shift,
                      covariance, fits.amplitudes, errors, fits.backgrounds, sites.confidence, sites.found, sites.sublattice,
                      sites.nodes, ratio, ratio_error, probabilities, q_values, sound, fits.shape * scale**2, fits.noise,
                      None if lattice is None else _rescaled(lattice, scale, shift), reason, tuple(sublattices), tuple(notes),
                      weights, material, alone)


def _sublattice(number: int, mine: np.ndarray, kinds: Classified, lattice: LatticeFit, sites: _Sites,
                sound: np.ndarray) -> SublatticeResult:
    found, good = sites.found[mine], sound[mine]
    completeness = Completeness(len(mine), int(found.sum()), int(good.sum()), int((found & good).sum()),
                                number < sites.resolved)
    strongest = np.nanmedian(sites.fits.amplitudes[sites.sublattice == 0])
    return SublatticeResult(lattice.offsets[number], float(np.nanmedian(sites.fits.amplitudes[mine]) / strongest), kinds.spread,
                            kinds.separation, kinds.identifiable, completeness)


def _sound(sites: _Sites, lattice: LatticeFit | None) -> np.ndarray:
    """(n,) bool: the background around is not far above the median, and most sites around have a column."""
    count = len(sites.found)
    if lattice is None or count < 12:
        return np.ones(count, bool)
    places, background = sites.fits.positions, sites.fits.backgrounds
    on = np.flatnonzero((sites.sublattice >= 0) & (sites.sublattice < sites.resolved))
    _, near = cKDTree(places[on]).query(places, k=min(7, len(on)))
    around = background[on][near].mean(axis=1)
    middle = np.median(around)
    spread = 1.4826 * np.median(np.abs(around - middle))
    dense = sites.found[on][near[:, 1:]].mean(axis=1) > 1 - DAMAGED
    return (around < middle + CONTAMINATED * max(spread, 1e-12)) & dense


def _grouped(places: np.ndarray, ratio: np.ndarray, error: np.ndarray) -> np.ndarray:
    """(n,) bool, columns that deviate from the host in the same sense as several around them: contamination, or a cluster."""
    result = np.zeros(len(places), bool)
    known = np.flatnonzero(np.isfinite(ratio))
    if len(known) < 8:
        return result
    part, errors = DEVIATING
    deviation = ratio[known] - 1
    strong = np.abs(deviation) > np.maximum(part, errors * error[known])
    sense = np.where(strong, np.sign(deviation), 0)
    _, near = cKDTree(places[known]).query(places[known], k=7)
    result[known] = strong & ((sense[near[:, 1:]] == sense[:, None]).sum(axis=1) >= GROUPED)
    return result


def _rescaled(lattice: LatticeFit, scale: float, shift: float) -> LatticeFit:
    """The lattice in pixels of the file."""
    return replace(lattice, vectors=lattice.vectors * scale, covariance=lattice.covariance * scale**2,
                   origin=lattice.origin * scale + shift, residuals=lattice.residuals * scale,
                   polynomial=lattice.polynomial * scale, scale=lattice.scale * scale + np.array([[shift], [0.0]]),
                   nearest=lattice.nearest * scale)
