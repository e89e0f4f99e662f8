"""From columns on a lattice to a judgement: which sheet, which part of it is seen, what stands where, and is it credible."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np

from edgetem_nodes.featurizer.micro_scan.amplitudes import InContext
from edgetem_nodes.featurizer.micro_scan.conditions import PIXEL, MicroScan
from edgetem_nodes.featurizer.micro_scan.descriptors import ELEMENTS, MOST, UNKNOWN, MicroScanDescriptors
from edgetem_nodes.featurizer.micro_scan.hosts import CLASSES, HOSTS, NAMES, Host
from edgetem_nodes.featurizer.micro_scan.images import Images
from edgetem_nodes.featurizer.micro_scan.linear_imaging import REFERENCE
from edgetem_nodes.featurizer.micro_scan.registry import Lattice
from edgetem_nodes.featurizer.micro_scan.sheets import Seen, Sheets, alike, column_amplitudes
from edgetem_nodes.featurizer.micro_scan.species import apart
from edgetem_nodes.physics.scattering_factors import annular_cross_section, potential_spectrum

TELLING = 4.0
"""Amplitude of the host's lighter atom, if it stood alone, over its standard error from counting alone, at which a site can be
told: measured, see docs/micro_scan.md."""
TELLING_SITE = 3.0
"""Detection index, the same with all columns fitted together and what the fit leaves unexplained taken for noise, below which a
site within the footprint is not identifiable."""
_UNTOLD = 1.2e-10
"""By how much less [m] than the fine grid the footprint reaches beyond the outermost probes, at most."""
_LEAST_SCORE = 0.25
_RIVAL = 0.85
"""Over the best lattice's score, from which a rival makes the registry ambiguous."""
_CONSTANT_SPREAD = 0.035
_FARTHEST_CONSTANT = 0.055
"""Part by which the lattice constant may be off the sheet's: with more the scan's step is wrong, or it is another sheet."""
STATED_ODDS = 20.0
"""Prior odds of a sheet that is named over one that is not: it may be the wrong specimen."""
DENIED = 0.15
"""Probability of what was named, odds included, below which it is refused as another sheet."""
APART = 3.0
"""By how many standard errors an element must differ from the sheet's to be told from it at all."""
_TEMPER = 1.2
"""Log densities of sheets count so much less; the log loss of 800 micro-scans is least between 1 and 1.5."""
_SURE = 0.7
_UNSURE = 0.5


@dataclass(frozen=True)
class Columns:
    """What the network reads on one micro-scan.

    Attributes
    ----------
    lattice : None where there is none; sites : (n, 2) its sites [m]; context : of the sites, and their sublattices.
    probabilities : of classes (n, K), given the class (n,) that the perfect sheet has on every site.
    offsets : (n, 2) of atoms from sites; covariances : (n, 2, 2) [m^2].
    precision : (n,) one over the variance of a column's amplitude in the phase, all columns fitted together, in units of the
        reference atom; 0: nothing is known.
    images : of this micro-scan; electrons : in a pattern.
    """

    lattice: Lattice | None
    sites: np.ndarray
    context: InContext
    probabilities: Callable[[np.ndarray], np.ndarray]
    offsets: np.ndarray
    covariances: np.ndarray
    precision: np.ndarray
    images: Images
    electrons: float

    @property
    def seen(self) -> Seen:
        """What the sheet looks like."""
        return Seen(self.context.sheet, self.context.sheet_errors, self.context.contrast)


@dataclass(frozen=True)
class Calibration:
    """What makes probabilities and intervals hold on a validation set, and what the training set looks like.

    Attributes
    ----------
    temperature : logits of classes are divided by it; spread : factor of covariances.
    sheets : what sheets look like.
    typical, deviation : (features,) mean and standard deviation of `Judgement.features` for sheets of the set.
    limit : rejection of all but a hundredth of them.
    """

    temperature: float = 1.0
    spread: float = 1.0
    sheets: Sheets = field(default_factory=lambda: Sheets({}, {}))
    typical: tuple[float, ...] = (0.0, 0.0, 0.0, 0.0)
    deviation: tuple[float, ...] = (1.0, 1.0, 1.0, 1.0)
    limit: float = 3.0


@dataclass(frozen=True)
class Judgement:
    """A micro-scan judged.

    Attributes
    ----------
    posterior : (n, K) probabilities of classes given the sheet.
    apart : (n, K) by how many standard errors each class would differ from the perfect column, see `species.apart`.
    host : likeliest sheet; probability : of it; swapped : whether its first site is on sublattice 1.
    half : half of the footprint's edge [m]; detection : (n,) detection index of each site.
    features : (features,) how good lattice, host, scattering and places are; rejection : how unlike training, 1 is the limit.
    reason : why the row is rejected; empty: it is not.
    """

    columns: Columns
    posterior: np.ndarray
    apart: np.ndarray
    host: Host | None
    probability: float
    swapped: bool
    half: float
    detection: np.ndarray
    features: np.ndarray
    rejection: float
    reason: str

    @property
    def expected(self) -> np.ndarray:
        """Class (n,) of the perfect sheet on every site."""
        return self.host.classes()[self.columns.context.side ^ int(self.swapped)]

    @property
    def inside(self) -> np.ndarray:
        """Sites (n,) bool within the footprint."""
        return (np.abs(self.columns.sites) < self.half).all(axis=1)

    def write(self, result: MicroScanDescriptors, row: int) -> str:
        """Enter the judgement into a row (in place); returns why it fails, or nothing."""
        result.rejection[row] = self.rejection
        result.defocus[row] = self.columns.images.defocus[0]
        if self.host is not None:
            result.material[row], result.material_probability[row] = self.host.name, self.probability
        if self.reason:
            return self.reason
        result.footprint[row] = (2 * self.half) ** 2
        result.lattice[row] = self.columns.lattice.vectors
        result.lattice_covariance[row] = self.columns.lattice.covariance[:4, :4]
        _enter(self, result, row)
        return ""


def judge(columns: Columns, scan: MicroScan, calibration: Calibration, hosts: Sequence[Host] = HOSTS) -> Judgement:
    """Which sheet of `hosts` it is, what stands on its sites, and whether that is credible."""
    if columns.lattice is None:
        return _nothing(columns, "no lattice of sites was found")
    host, probability, swapped, order, rival = identify(columns, scan, calibration.sheets, hosts)
    if host is None:
        return _nothing(columns, "too few columns stand out to tell which sheet it is")
    perfect = host.classes()[columns.context.side ^ int(swapped)]
    posterior = columns.probabilities(perfect)
    distance = apart(columns.context.sites, perfect, column_amplitudes(alike(scan)))
    seen = columns.seen.turned() if swapped else columns.seen
    detection = detection_index(columns, host)
    half = footprint(columns, host, scan)
    dark = abs(np.log(max(columns.images.dark[0], 1e-6) / expected_dark(host, scan)))
    unlike = calibration.sheets.distance(host, seen, scan)
    features = np.array([-columns.lattice.score, unlike, dark,
                         np.log(max(columns.lattice.misfit, 1e-3))])
    excess = (features - np.array(calibration.typical)) / np.array(calibration.deviation)
    rejection = float(np.sqrt((np.maximum(excess, 0) ** 2).mean())) / calibration.limit
    lattice, reason, constant = columns.lattice, "", _constant(columns)
    if lattice.score < _LEAST_SCORE:
        reason = (f"no honeycomb of sites stands out (contrast {lattice.score:.2f}, {_LEAST_SCORE} is the least): no sheet, "
                  "or too low a dose")
    elif lattice.rival > _RIVAL * lattice.score:
        reason = (f"the registry is ambiguous: another lattice fits as well (contrast {lattice.rival:.2f} and "
                  f"{lattice.score:.2f})")
    elif rival is not None:
        stated = " or ".join(one.name for one in hosts)
        reason = (f"by how its columns scatter the sheet is rather {rival[0].name} (probability {rival[1]:.3f}) than {stated}, "
                  "as was stated")
    elif abs(np.log(constant / host.lattice)) > _FARTHEST_CONSTANT:
        reason = (f"the lattice constant {constant * 1e10:.3f} Å is {100 * (constant / host.lattice - 1):+.0f} % off that of "
                  f"{host.name}: another sheet, or a scan whose step is not as stated")
    elif probability < _SURE:
        reason = f"the sheet is not identifiable: {host.name} is likeliest with a probability of {probability:.2f}"
    elif order < _SURE:
        reason = (f"which sublattice of {host.name} is {host.sites[0]} and which {host.sites[1]} is not identifiable "
                  f"(probability {order:.2f}): a larger camera angle or a better focus tells")
    elif rejection > 1:
        worst = ("the lattice's contrast", "what stands on its sites", "how much it scatters", "where its atoms are")
        reason = (f"unlike the micro-scans of the training set (rejection {rejection:.2f}, 1 is the limit), first in "
                  f"{worst[int(np.argmax(excess))]}")
    elif half <= 0:
        reason = "at this dose no site can be told from a vacancy"
    return Judgement(columns, posterior, distance, host, probability, swapped, half, detection, features, rejection, reason)


def _nothing(columns: Columns, reason: str) -> Judgement:
    none = np.zeros((0, len(CLASSES)))
    unknown = np.zeros(len(columns.sites))
    return Judgement(columns, none, none, None, 0.0, False, 0.0, unknown, np.full(4, np.nan), np.inf, reason)


def identify(columns: Columns, scan: MicroScan, sheets: Sheets, hosts: Sequence[Host] = HOSTS
             ) -> tuple[Host | None, float, bool, float, tuple[Host, float] | None]:
    """Likeliest of `hosts`, its probability among them, whether its sublattices are the lattice's in reverse, and the
    probability of that; the likeliest sheet that was not named, and its probability, where those that were have less than
    `DENIED` in spite of their prior odds.

    The host is None where nothing is known.
    """
    constant = _constant(columns)
    options = []
    for host in HOSTS:
        for swapped in (False, True):
            seen = columns.seen.turned() if swapped else columns.seen
            total = sheets.log_density(host, seen, scan) / _TEMPER
            total -= 0.5 * (np.log(constant / host.lattice) / _CONSTANT_SPREAD) ** 2
            total += np.log(STATED_ODDS) * (host in hosts)
            if np.isfinite(total):
                options.append((total, host, swapped))
    named = [one for one in options if one[1] in hosts]
    if not named:
        return None, 0.0, False, 0.0, None
    totals = np.array([one[0] for one in options])
    weights = np.exp(totals - totals.max()) / np.exp(totals - totals.max()).sum()
    by_host = {one.name: 0.0 for one in HOSTS}
    for weight, one in zip(weights, options, strict=True):
        by_host[one[1].name] += float(weight)
    _, host, swapped = max(named, key=lambda one: one[0])
    chosen = sum(by_host[one.name] for one in hosts)
    other = max((one for one in HOSTS if one not in hosts), key=lambda one: by_host[one.name], default=None)
    rival = (other, by_host[other.name]) if other is not None and chosen < DENIED else None
    best = np.exp(max(one[0] for one in named) - totals.max()) / np.exp(totals - totals.max()).sum()
    order = 1.0 if host.sites[0] == host.sites[1] else float(best / max(by_host[host.name], 1e-300))
    return host, float(by_host[host.name] / max(chosen, 1e-300)), swapped, order, rival


def _constant(columns: Columns) -> float:
    """Lattice constant [m] of a honeycomb with the cell's area."""
    return float(np.sqrt(abs(np.linalg.det(columns.lattice.vectors)) * 2 / np.sqrt(3)))


def _phase(class_index: int, reference: bool = False) -> float:
    numbers = (REFERENCE,) if reference else CLASSES[class_index][1]
    return sum(float(potential_spectrum(number, np.zeros(1))[0]) for number in numbers)


def detection_index(columns: Columns, host: Host) -> np.ndarray:
    """(n,) amplitude of the host's lighter atom over its standard error, with all columns fitted together."""
    return min(_lightest(index) for index in host.classes()) / _phase(0, True) * np.sqrt(columns.precision)


def _lightest(class_index: int) -> float:
    """Phase integral of one atom of a column."""
    return min(float(potential_spectrum(number, np.zeros(1))[0]) for number in CLASSES[class_index][1])


def footprint(columns: Columns, host: Host, scan: MicroScan) -> float:
    """Half of the edge [m] of the largest square about the site on whose rim the detection index is on average `TELLING`."""
    information = columns.images.information[0]
    amplitude = min(_lightest(index) for index in host.classes()) / _phase(0, True)
    index = amplitude * np.sqrt(np.maximum(information, 0))
    axis = (np.arange(len(index)) - (len(index) - 1) / 2) * PIXEL
    reach, last = np.maximum(np.abs(axis)[:, None], np.abs(axis)[None, :]), 0.0
    for half in np.arange(0.5e-10, scan.span / 2 + scan.margin - _UNTOLD + 1e-13, PIXEL / 4):
        rim = np.abs(reach - half) <= PIXEL / 2
        if rim.any() and index[rim].mean() < TELLING:
            break
        last = float(half)
    return last


def expected_dark(host: Host, scan: MicroScan) -> float:
    """Dark field of the perfect sheet in the units of `Images.dark`."""
    from edgetem_nodes.featurizer.micro_scan.reduction import DARK_EDGE

    probe = scan.probe
    angles = probe.high_tension, DARK_EDGE * probe.semi_convergence_angle, scan.outer_angle
    total = sum(annular_cross_section(number, *angles) for name in host.sites for number in CLASSES[NAMES.index(name)][1])
    area = np.sqrt(3) / 2 * host.lattice ** 2
    return total / area / (0.4e20 * annular_cross_section(REFERENCE, *angles))


def _enter(judged: Judgement, result: MicroScanDescriptors, row: int) -> None:
    """Atoms and numbers of a credible micro-scan."""
    columns, inside = judged.columns, np.flatnonzero(judged.inside)
    count = 0
    numbers = {"defects": [], "vacancies": [], "dopants": []}
    atoms = 0.0
    for site in inside[np.argsort(np.hypot(*columns.sites[inside].T), kind="stable")]:
        expected = judged.expected[site]
        host_numbers = CLASSES[expected][1]
        probability = judged.posterior[site]
        known = judged.detection[site] >= TELLING_SITE and probability.max() > _UNSURE
        if known:
            present = np.array([len(elements) for _, elements in CLASSES])
            missing = np.maximum(len(host_numbers) - present, 0) * probability
            # what cannot be told from the sheet's own is not counted: its probability is the prior's
            foreign = np.array([sum(number not in host_numbers for number in elements) for _, elements in CLASSES])
            foreign = foreign * (judged.apart[site] >= APART)
            numbers["vacancies"].append((missing.sum(), (missing * np.maximum(len(host_numbers) - present, 0)).sum()))
            numbers["dopants"].append(((foreign * probability).sum(), (foreign ** 2 * probability).sum()))
            either = np.maximum(len(host_numbers) - present, 0) + foreign
            numbers["defects"].append(((either * probability).sum(), (either ** 2 * probability).sum()))
        atoms += float((probability * [len(elements) for _, elements in CLASSES]).sum()) if known else len(host_numbers)
        vacant = probability[0] > _UNSURE
        place = columns.sites[site] + (0 if vacant or not known else columns.offsets[site])
        covariance = columns.lattice.errors(columns.sites[site][None])[0] if vacant else columns.covariances[site]
        for layer, own in enumerate(host_numbers):
            if count == MOST:
                break
            shares = _shares(probability, layer)
            result.atoms[row, count], result.atom_covariance[row, count] = place, covariance
            result.host[row, count], result.layer[row, count], result.identifiable[row, count] = own, layer, known
            if known:
                result.species_probability[row, count] = shares
                result.told_apart[row, count] = _told(judged.apart[site], own)
            result.species[row, count] = ELEMENTS[int(np.argmax(shares))] if known else UNKNOWN
            count += 1
    for name, parts in numbers.items():
        mean, square = np.array(parts).reshape(-1, 2).T
        getattr(result, name)[row] = mean.sum()
        getattr(result, f"{name}_variance")[row] = np.maximum(square - mean ** 2, 0).sum()
    result.atom_count[row] = atoms


def _shares(probability: np.ndarray, layer: int) -> np.ndarray:
    """Probabilities (len(ELEMENTS),) of what the first or second atom of a column is: the lightest first."""
    shares = np.zeros(len(ELEMENTS))
    for value, (_, elements) in zip(probability, CLASSES, strict=True):
        number = elements[layer] if layer < len(elements) else 0
        shares[ELEMENTS.index(number)] += value
    return shares


def _told(distance: np.ndarray, own: int) -> np.ndarray:
    """Which of `ELEMENTS` (len(ELEMENTS),) bool would be seen to be another than the sheet's own atom."""
    told = np.zeros(len(ELEMENTS), bool)
    for place, element in enumerate(ELEMENTS):
        classes = [index for index, (_, numbers) in enumerate(CLASSES) if element in (numbers or (0,))]
        told[place] = element != own and all(distance[index] >= APART for index in classes)
    return told
