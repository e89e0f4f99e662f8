"""A periodic cell with the atoms and defects that a micro-scan, or an image, found on a sheet.

The cell is the largest supercell of the measured lattice of which nearly every site was seen. Every measured atom is put
on the site of the cell that it is at, by as many lattice vectors of the supercell as are needed: of two that would be at the
same site the one nearer to the middle counts. Sites that were not seen have the perfect sheet's atoms, without a
measured place.

Of measured places only what is local counts: a stretch or turn of all of them together is the lattice's, which the cell has
from diffraction, or the scan's, and a periodic cell would be torn by it.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from edgetem_nodes.featurizer.parameters import Structure
from edgetem_nodes.featurizer.structures import checks
from edgetem_nodes.featurizer.structures.measured import (ANGSTROM, Defect, MeasuredStructure, NotIdentifiable,
                                                          relative_covariance)

SUPERCELLS = {"graphene": ((4, 0), (5, 0), (6, 1), (7, 3), (7, 1), (7, 0), (8, 2), (8, 0))}
"""Supercells that are used, of other sheets `USUAL`: the coefficients n, m of the first vector n a + m b in unit vectors at 120
degrees; the second is that turned by 120 degrees, so that there are n^2 - n m + m^2 unit cells. Numbers of cells that are
multiples of three fold graphene's Dirac points onto Gamma."""
USUAL = ((3, 0), (4, 0), (5, 0))
SEEN = 0.9
"""Part of the sites of a cell that must have been seen, unless it is the smallest one: of a square and a rhomb of one area
90 to 97 % overlap when they are moved by lattice vectors."""
LARGER = 1.05
"""Most area of a cell over that of the footprint, unless it is the smallest one."""
BUILT_IN = 0.5
"""Probability from which a defect is built in."""
LEAST_VACANCY, LEAST_ELEMENT = 0.02, 0.1
"""Probability from which a vacancy, or another element, is listed. What is less likely is mostly the prior that a network was
trained with: neighbours in the periodic system look alike, so every carbon atom is nitrogen with 0.5 %."""
UNCERTAIN = (0.2, 0.8)
"""Probabilities of the host between which a site is uncertain."""
FARTHEST = 0.2
"""Root mean square distance of atoms from their sites, in bonds, above which the lattice is not that of the atoms."""
FEWEST = 8
"""Atoms from which a common stretch and turn are told."""
LARGEST_STRETCH = 0.05
"""Of all atoms together against the lattice from diffraction."""
LEAST_ERROR = 0.001
"""[Angstrom] of a place, whatever is said of it."""
OTHER, VACANCY, VANADIUM = -1, 0, 23


@dataclass(frozen=True)
class SheetAtoms:
    """Atoms about a place, one entry for each atom that the perfect sheet has there. Coordinates (y, x) [m] from the place.

    Attributes
    ----------
    positions : (n, 2); covariances : (n, 2, 2).
    host : (n,) atomic number of the perfect sheet. layer : (n,) 0, or 1 for the second atom of a column.
    probabilities : (n, len(elements)); NaN: not identifiable. elements : atomic numbers, 0 a vacancy, -1 any other.
    footprint : [m^2] that was seen.
    """

    positions: np.ndarray
    covariances: np.ndarray
    host: np.ndarray
    layer: np.ndarray
    probabilities: np.ndarray
    elements: tuple[int, ...]
    footprint: float


@dataclass(frozen=True)
class _Registry:
    """Where the lattice lies: `nodes` (n, 2) int and `basis` (n,) of every entry, `ideal` (n, 2) its site [Angstrom, (x, y)],
    the root mean square distance from it, `turned` by 180 degrees."""

    nodes: np.ndarray
    basis: np.ndarray
    ideal: np.ndarray
    distance: float
    turned: bool


def defect_cell(sheet: Any, deformation: np.ndarray, covariance: np.ndarray, found: SheetAtoms, settings: Structure,
                name: str) -> MeasuredStructure:
    """The cell.

    Parameters
    ----------
    sheet : ASE atoms [Angstrom] of the undeformed unit cell of one layer, in the plane of x and y.
    deformation, covariance : F (2, 2), (y, x), of the lattice, and (4, 4) of F flattened (yy, yx, xy, xx).
    name : of the material.

    Raises
    ------
    NotIdentifiable : strain, lattice or elements are not known well enough, or the result is not sound.
    """
    error = checks.known_deformation(deformation, covariance, settings)
    kept = np.isfinite(found.positions).all(axis=1) & (found.host > 0)
    if not kept.any():
        raise NotIdentifiable("no atom was found: there is nothing to build a cell from; measure the place again")
    foreign = set(found.host[kept].tolist()) - set(sheet.numbers.tolist())
    if foreign:
        raise NotIdentifiable(f"the pattern says {name}, the atoms are those of a sheet with atomic number {min(foreign)}: "
                              "the two measurements contradict one another")
    bond = checks.shortest_distance(_periodic(sheet))
    plane = deformation[::-1, ::-1]
    strained = sheet.copy()
    cell = sheet.cell.array.copy()
    cell[:2, :2] = cell[:2, :2] @ plane.T
    strained.set_cell(cell, scale_atoms=True)
    places = found.positions[kept][:, ::-1] / ANGSTROM
    registry = _register(strained, places, found.host[kept], found.layer[kept])
    if registry.distance > FARTHEST * bond:
        raise NotIdentifiable(f"the atoms are {registry.distance:.2g} Å off the sites of {name} in the measured lattice, "
                              f"root mean square; {FARTHEST * bond:.2g} Å is the limit: pattern and atoms contradict one "
                              "another")
    identified = np.isfinite(found.probabilities[kept]).all(axis=1)
    most = min(settings.largest_atoms, LARGER * len(sheet) * found.footprint / _area(strained))
    supercells = [_supercell(strained, *each) for each in SUPERCELLS.get(name, USUAL)]
    supercell, chosen = _largest_seen(registry, places, identified, len(sheet), supercells, most)
    checks.small_enough(len(sheet) * _cells(supercell), settings)
    return _assembled(strained, registry, places, chosen, supercell, found, kept, settings,
                      dict(bond=bond, error=error, name=name, relative=relative_covariance(deformation, covariance)))


def _periodic(sheet: Any) -> Any:
    result = sheet.copy()
    result.pbc = (True, True, False)
    return result


def _supercell(strained: Any, first: int, second: int) -> np.ndarray:
    """Rows (2, 2): the supercell's vectors in those of the unit cell, which meet at about 120 or 60 degrees."""
    vectors = strained.cell.array[:2, :2]
    if vectors[0] @ vectors[1] < 0:
        return np.array([[first, second], [-second, first - second]])
    return np.array([[first - second, second], [-first, first - second]]) if second else first * np.eye(2, dtype=int)


def _area(strained: Any) -> float:
    """Of the unit cell [m^2]."""
    return abs(float(np.linalg.det(strained.cell.array[:2, :2]))) * ANGSTROM ** 2


def _cells(supercell: np.ndarray) -> int:
    return abs(round(np.linalg.det(supercell)))


def _reduced(nodes: np.ndarray, supercell: np.ndarray) -> np.ndarray:
    """Nodes (n, 2) moved by vectors of the supercell into its first copy; exact in integers."""
    (a, b), (c, d) = supercell.tolist()
    fractions = nodes @ np.array([[d, -b], [-c, a]])
    return nodes - fractions // (a * d - b * c) @ supercell


def _largest_seen(registry: _Registry, places: np.ndarray, identified: np.ndarray, atoms: int, supercells: list[np.ndarray],
                  most: float) -> tuple[np.ndarray, dict[tuple[int, int, int], int]]:
    """A supercell, and what `_on_cell` says of it.

    Parameters
    ----------
    identified : (n,) whether it is known what an entry is. atoms : of the unit cell. supercells : to choose from.
    most : sites of any but the smallest.
    """
    smallest, *others = sorted(supercells, key=_cells)
    for supercell in reversed(others):
        chosen, sites = _on_cell(registry, places, supercell), atoms * _cells(supercell)
        seen = sum(bool(identified[entry]) for entry in chosen.values())
        if sites <= most and seen >= SEEN * sites:
            return supercell, chosen
    return smallest, _on_cell(registry, places, smallest)


def _register(strained: Any, places: np.ndarray, host: np.ndarray, layer: np.ndarray) -> _Registry:
    """Find which site every entry is at: each basis atom tried under the entry nearest to the middle, the lattice as it is and
    turned by 180 degrees, which disks alone do not tell from one another."""
    vectors = strained.cell.array[:2, :2]
    basis = _columns(strained)
    first = int(np.argmin((places ** 2).sum(axis=1)))
    best = None
    for turned in (False, True):
        sites = -strained.positions[:, :2] if turned else strained.positions[:, :2]
        for start in np.flatnonzero(strained.numbers == host[first]):
            origin = places[first] - sites[start]
            for _ in range(3):
                found = _assigned(places, host, layer, sites, strained.numbers, basis, vectors, origin)
                origin = origin + (places - found[2]).mean(axis=0)
            distance = float(np.sqrt(((places - found[2]) ** 2).sum(axis=1).mean()))
            if best is None or distance < best.distance - 1e-9:
                best = _Registry(*found, distance, turned)
    return best


def _columns(strained: Any) -> np.ndarray:
    """For every basis atom its number in its column, by height: 0, 1, ..."""
    places = strained.positions
    near = np.linalg.norm(places[:, None, :2] - places[None, :, :2], axis=2) < 0.2
    below = places[:, None, 2] > places[None, :, 2] + 1e-6
    return (near & below).sum(axis=1)


def _assigned(places: np.ndarray, host: np.ndarray, layer: np.ndarray, sites: np.ndarray, numbers: np.ndarray,
              columns: np.ndarray, vectors: np.ndarray, origin: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Nodes (n, 2), basis (n,) and ideal sites (n, 2) of entries, each at the nearest site of its element and layer."""
    inverse = np.linalg.inv(vectors)
    fractions = (places[:, None] - origin - sites[None]) @ inverse
    nodes = np.round(fractions)
    away = ((fractions - nodes) @ vectors)
    distance = (away ** 2).sum(axis=2)
    distance[(numbers[None] != host[:, None]) | (columns[None] != layer[:, None])] = np.inf
    basis = distance.argmin(axis=1)
    rows = np.arange(len(places))
    return nodes[rows, basis].astype(int), basis, places - away[rows, basis]


def _on_cell(registry: _Registry, places: np.ndarray, supercell: np.ndarray) -> dict[tuple[int, int, int], int]:
    """The entry for each site (i, j, basis) of the supercell: of several the one nearest to the middle."""
    chosen: dict[tuple[int, int, int], int] = {}
    nodes = _reduced(registry.nodes, supercell)
    for entry in np.argsort((places ** 2).sum(axis=1), kind="stable"):
        chosen.setdefault((int(nodes[entry, 0]), int(nodes[entry, 1]), int(registry.basis[entry])), int(entry))
    return chosen


def _nodes(supercell: np.ndarray) -> np.ndarray:
    """The nodes (cells, 2) of the supercell's first copy."""
    reach = np.arange(int(np.abs(supercell).sum()) + 1)
    return np.unique(_reduced(np.stack(np.meshgrid(reach, reach, indexing="ij"), -1).reshape(-1, 2), supercell), axis=0)


def _assembled(strained: Any, registry: _Registry, places: np.ndarray, chosen: dict, supercell: np.ndarray, found: SheetAtoms,
               kept: np.ndarray, settings: Structure, known: dict) -> MeasuredStructure:
    vectors, sign = strained.cell.array[:2, :2], -1.0 if registry.turned else 1.0
    probabilities, covariances = found.probabilities[kept], found.covariances[kept][:, ::-1, ::-1]
    vacant = probabilities[:, found.elements.index(VACANCY)] if VACANCY in found.elements else np.zeros(len(places))
    moved, shared = _local(registry, places, covariances, vacant, [*chosen.values()])
    numbers, positions, spread, defects, unseen, uncertain, small = [], [], [], [], 0, 0, 0.0
    for i, j in _nodes(supercell).tolist():
        for index, atom in enumerate(strained):
            site = np.array([*(sign * atom.position[:2] + [i, j] @ vectors), atom.position[2]])
            entry = chosen.get((i, j, index))
            likely, place, covariance = int(atom.number), site, np.full((2, 2), np.nan)
            if entry is None or not np.isfinite(probabilities[entry]).all():
                unseen += 1
            else:
                likely, listed, doubtful = _species(probabilities[entry], found.elements, int(atom.number), site)
                defects += listed
                uncertain += doubtful
                small += _unlisted(probabilities[entry], found.elements, int(atom.number))
            if entry is not None:
                place = np.array([*(site[:2] + moved[entry]), site[2]])
                covariance = covariances[entry]
            if likely != VACANCY:
                numbers.append(likely)
                positions.append(place)
                spread.append(covariance)
    sites = len(strained) * _cells(supercell)
    _certain(uncertain, unseen, sites, settings)
    cell = strained.cell.array.copy()
    cell[:2, :2] = supercell @ vectors
    cell[2] = (0.0, 0.0, np.ptp(strained.positions[:, 2]) + 20 * settings.vacuum_nm)
    positions = np.array(positions)
    lift = cell[2, 2] / 2 - (strained.positions[:, 2].min() + strained.positions[:, 2].max()) / 2
    positions[:, 2] += lift
    defects = [replace(defect, position=defect.position + [0.0, 0.0, lift * ANGSTROM]) for defect in defects]
    spread = np.array(spread)
    errors = np.zeros_like(positions)
    errors[:, :2] = np.sqrt(np.nan_to_num(np.diagonal(spread, axis1=1, axis2=2)))
    built = [defect for defect in defects if defect.probability >= BUILT_IN]
    source = (f"{known['name']} {supercell.tolist()} supercell of the lattice from nanobeam diffraction, standard error of the "
              f"strain up to {known['error']:.2g} %, with atoms and {len(built)} defects from a footprint of "
              f"{found.footprint * 1e18:.3g} nm^2 (less probable ones that are not listed would add up to {small:.2g}); "
              + (f"their common stretch or turn against the lattice, {100 * shared:.2g} %, is taken off; " if shared else "") +
              f"{unseen} of {sites} sites were not seen and are perfect; heights are "
              f"those of the unstrained sheet; {checks.electrons(np.array(numbers))}")
    result = MeasuredStructure(np.array(numbers), positions * ANGSTROM, errors, cell * ANGSTROM, (True, True, False), source,
                               known["name"], spread, known["relative"], found.footprint, tuple(defects), 0,
                               *_seen(registry, chosen, probabilities, found.elements, strained.numbers))
    return checks.checked(result, settings, known["bond"])


def _seen(registry: _Registry, chosen: dict, probabilities: np.ndarray, elements: tuple[int, ...],
          numbers: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Sites (n, 2) [m], (x, y) from the place, at which `_species` would list something, the probabilities (n,) that it is
    there, and whether (n,) the cell has them, where they are or as an image."""
    codes, least = np.array(elements), np.array([_least(element) for element in elements])
    foreign = (codes != OTHER) & (codes != numbers[registry.basis][:, None])
    told = np.minimum(np.where(foreign & (probabilities >= least), probabilities, 0.0).sum(axis=1), 1.0)
    listed = np.flatnonzero(np.isfinite(probabilities).all(axis=1) & (told > 0))
    return registry.ideal[listed] * ANGSTROM, told[listed], np.isin(listed, [*chosen.values()])


def _local(registry: _Registry, places: np.ndarray, covariances: np.ndarray, vacant: np.ndarray,
           entries: list[int]) -> tuple[np.ndarray, float]:
    """Displacements (n, 2) of all entries from their sites, less what a stretch and turn of the lattice explains of those on
    the cell, and the largest stretch or turn of a direction.

    Parameters
    ----------
    vacant : (n,) probability that nothing is there: the place then says nothing.
    """
    moved = places - registry.ideal
    weights = (np.nan_to_num(1 - vacant) / (np.trace(covariances, axis1=1, axis2=2) + LEAST_ERROR**2))[entries]
    usable = np.isfinite(weights) & (weights > 0)
    if usable.sum() < FEWEST:
        return moved, 0.0
    used = np.array(entries)[usable]
    centre = np.average(registry.ideal[used], axis=0, weights=weights[usable])
    root = np.sqrt(weights[usable])[:, None]
    design = np.column_stack([registry.ideal[used] - centre, np.ones(len(used))])
    found = np.linalg.lstsq(root * design, root * moved[used], rcond=None)[0]
    largest = float(np.linalg.norm(found[:2], 2))
    if largest > LARGEST_STRETCH:
        raise NotIdentifiable(f"the atoms are stretched or turned by {100 * largest:.2g} % against the measured lattice, "
                              f"{100 * LARGEST_STRETCH:g} % is the limit: a scan whose step or direction is not as stated, or "
                              "pattern and atoms contradict one another")
    return moved - (registry.ideal - centre) @ found[:2], largest


def _species(probabilities: np.ndarray, elements: tuple[int, ...], host: int,
             site: np.ndarray) -> tuple[int, list[Defect], bool]:
    """What is built in at a site, the defects that are listed, and whether it is uncertain which."""
    likely = elements[int(probabilities.argmax())]
    if likely == OTHER:
        raise NotIdentifiable(f"the likeliest atom at ({site[1] / 10:.2f}, {site[0] / 10:.2f}) nm is none of the elements "
                              "that are known: a dopant must be named before an engine is asked")
    listed = [Defect(_name(element, host), float(p), site * ANGSTROM, element, host)
              for element, p in zip(elements, probabilities, strict=True)
              if element not in (host, OTHER) and p >= _least(element)]
    built = next((defect.element for defect in listed if defect.probability >= BUILT_IN), host)
    of_host = float(probabilities[elements.index(host)])
    return built, listed, UNCERTAIN[0] < of_host < UNCERTAIN[1]


def _least(element: int) -> float:
    return LEAST_VACANCY if element == VACANCY else LEAST_ELEMENT


def _unlisted(probabilities: np.ndarray, elements: tuple[int, ...], host: int) -> float:
    """Sum of the probabilities of what is too unlikely to be listed."""
    return float(sum(p for element, p in zip(elements, probabilities, strict=True)
                     if element != host and (element == OTHER or p < _least(element))))


def _name(element: int, host: int) -> str:
    """Of a defect: V is a vacancy, so vanadium has its full name."""
    symbols = _symbols()
    first = "V" if element == VACANCY else symbols[element]
    return f"{'vanadium' if element == VANADIUM else first}_{symbols[host]}"


def _certain(uncertain: int, unseen: int, sites: int, settings: Structure) -> None:
    if uncertain > settings.uncertain_defects:
        raise NotIdentifiable(f"{uncertain} sites have the perfect sheet's atom with a probability between {UNCERTAIN[0]:g} "
                              f"and {UNCERTAIN[1]:g}; structure.uncertain_defects allows {settings.uncertain_defects}: measure "
                              "with more dose")
    if unseen > sites / 2:
        raise NotIdentifiable(f"{unseen} of the {sites} sites of the cell were not identified, more than half: the footprint "
                              "is too small or the dose too low")


def _symbols() -> list[str]:
    from ase.data import chemical_symbols

    return chemical_symbols
