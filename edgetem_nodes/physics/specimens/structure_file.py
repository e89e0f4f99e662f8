"""A specimen from a structure file that ASE reads: tiled without end where it is periodic across the beam, else one piece.

The beam runs along the file's z axis. Only formats that are plain data are read: nothing in a file is evaluated or
unpickled, and no database is asked.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from edgetem_nodes.physics import site_noise
from edgetem_nodes.physics.specimens import Atoms, Condition, require_quantity
from edgetem_nodes.physics.specimens.catalogue import SpecimenOptions
from edgetem_nodes.physics.specimens.grains import Crystal, lattice
from edgetem_nodes.physics.specimens.thermal import TYPICAL, classical_displacement
from edgetem_nodes.physics.specimens.tilt import sheared
from edgetem_nodes.physics.specimens.transition import holder_state

FORMATS = ("aims", "cfg", "cif", "cube", "espresso-in", "extxyz", "gen", "gromacs", "mol", "mustem",
           "prismatic", "proteindatabank", "res", "sdf", "turbomole", "v-sim", "vasp", "vasp-xdatcar", "xsf", "xyz")
"""ASE's names of the formats that are read: those that name the elements and are plain data."""
THICKEST = 200e-9
"""[m]"""
LARGEST_FILE = 256 << 20
"""[bytes]"""
MOST_ATOMS = 1 << 24
VACUUM = 7e-10
"""A gap along the beam wider than this [m] is vacuum, not a layer spacing: the structure is not repeated there."""

_BESIDE = 1e-10
"""Room above and below the outermost atoms of a piece that is not periodic along the beam [m]."""
_BLUR = 0.25e-9
"""Standard deviation of the Gaussian over which the projected mass is averaged [m]."""
_COLUMN = 0.2e-9
"""Width of the columns in which a thickness is looked for [m]."""
_ATOMIC_MASS = 1.66053906892e-27
_COMPOSITIONS = {frozenset({"Mo", "S"}): "MoS2", frozenset({"Sr", "Ti", "O"}): "SrTiO3",
                 frozenset({"Pb", "Ti", "O"}): "PbTiO3", frozenset({"Au"}): "Au", frozenset({"Mn", "P", "S"}): "MnPS3"}


@dataclass(frozen=True)
class _Structure:
    """Content of the file: lateral cell (2, 2) rows (y, x) [m], None for one piece; positions (n, 3), (z, y, x) [m] from the
    entrance surface; atomic numbers; isotropic displacement at room temperature (n,) [m]; thickness [m]; whether it is
    periodic along the beam."""

    cell: np.ndarray | None
    positions: np.ndarray
    numbers: np.ndarray
    displacement: np.ndarray
    thickness: float
    continuous: bool
    occupants: tuple[dict[int, float], ...]
    """Occupancies by atomic number of the kinds of sites that are not simply filled."""
    kinds: np.ndarray
    """Which of them a site is (n,), -1 for one filled by its own element."""


class StructureFile:
    """The structure of a file as a specimen; see `Specimen` for what it answers."""

    def __init__(self, name: str, extent: tuple[float, float], seed: int, options: SpecimenOptions | None = None) -> None:
        """Read the file.

        Parameters
        ----------
        extent : height and width of the scan field [m]; one piece is centred in it.
        seed : of who sits on a site that the file gives to several elements, or leaves empty at times.
        options : file; thickness, to which a structure that is periodic along the beam is repeated; tilt.

        Raises
        ------
        ValueError : there is no file, its format is not among `FORMATS`, or what it holds cannot be put under the beam.
        """
        options = options or SpecimenOptions()
        self.name, self.extent, self.seed, self._tilt = name, np.asarray(extent, float), seed, options.tilt
        self._structure = _placed(_read(options.file), options.file, options.thickness)
        self.thickness = self._structure.thickness
        self.crystalline = self.thickness > 1e-9
        self.quantities = {"thickness": "m", "projected_mass": "kg/m^2"}

    @cached_property
    def _unit(self) -> Crystal:
        """The tile; for one piece, a box around it."""
        structure = self._structure
        cell = structure.cell
        if cell is None:
            # a margin of vacuum, so that maps of the piece do not wrap around
            cell = np.diag(np.ptp(structure.positions[:, 1:], axis=0) + 4e-9)
        basis = structure.positions[:, 1:] @ np.linalg.inv(cell)
        return Crystal(cell, basis, structure.positions[:, 0], structure.numbers)

    @cached_property
    def _origin(self) -> np.ndarray:
        """Where the tile's corner, or the piece's, lies (y, x) [m]."""
        if self._structure.cell is not None:
            return np.zeros(2)
        lateral = self._structure.positions[:, 1:]
        return self.extent / 2 - (lateral.min(axis=0) + lateral.max(axis=0)) / 2

    def atoms(self, low: np.ndarray, high: np.ndarray, condition: Condition) -> Atoms:
        """Every atom with low <= (y, x) < high [m], tile by tile; see `Specimen.atoms`."""
        low, high = np.asarray(low, float), np.asarray(high, float)
        alpha, beta = self._tilt[0] + condition.alpha, self._tilt[1] + condition.beta
        reach = self.thickness / 2 * np.tan(np.abs([alpha, beta])) + 1e-15
        structure = self._structure
        if structure.cell is None:
            lateral = structure.positions[:, 1:] + self._origin
            index = np.flatnonzero(((lateral >= low - reach) & (lateral < high + reach)).all(axis=1))
            lateral, identity = lateral[index], index.astype(np.uint64)
        else:
            lateral, cells, index = lattice(self._unit, self._origin, 0.0, low - reach, high + reach)
            tile = ((cells + (1 << 19)) & ((1 << 20) - 1)).astype(np.uint64)
            identity = (tile[:, 0] << np.uint64(44)) | (tile[:, 1] << np.uint64(24)) | index.astype(np.uint64)
        places = sheared(np.column_stack([structure.positions[index, 0], lateral]), alpha, beta, self.thickness / 2)
        kept = ((places[:, 1:] >= low) & (places[:, 1:] < high)).all(axis=1)
        numbers = self._occupants(index, identity)
        kept &= numbers > 0
        growth = classical_displacement(1.0, max(holder_state(condition)[0], 1.0))
        return Atoms(places[kept], numbers[kept], growth * structure.displacement[index[kept]], identity[kept])

    def _occupants(self, index: np.ndarray, identity: np.ndarray) -> np.ndarray:
        """Atomic numbers (n,) of those who sit on sites of the tile; 0 where a site is empty."""
        numbers, kinds = self._structure.numbers[index], self._structure.kinds[index]
        for kind, occupancies in enumerate(self._structure.occupants):
            sites = np.flatnonzero(kinds == kind)
            drawn = site_noise.uniform(self.seed, identity[sites], "occupancy")
            elements = np.array([*occupancies, 0])
            numbers[sites] = elements[np.searchsorted(np.cumsum(list(occupancies.values())), drawn, side="right")]
        return numbers

    @cached_property
    def _masses(self) -> np.ndarray:
        """Expected mass (n,) [kg] of the sites of the tile."""
        from ase.data import atomic_masses

        masses = atomic_masses[self._structure.numbers]
        for kind, occupancies in enumerate(self._structure.occupants):
            masses[self._structure.kinds == kind] = sum(share * atomic_masses[z] for z, share in occupancies.items())
        return masses * _ATOMIC_MASS

    def truth(self, quantity: str, positions: np.ndarray, condition: Condition) -> np.ndarray:
        """Value (n,) of a quantity at positions (n, 2), (y, x) [m].

        `thickness` is that of the slab, or from the first to the last atom of a column 0.6 nm wide; `projected_mass`
        [kg/m^2] is averaged over a Gaussian of 0.25 nm standard deviation. Both are those of the untilted structure.

        Raises
        ------
        ValueError : the quantity is unknown.
        """
        require_quantity(self, quantity)
        positions = np.asarray(positions, float).reshape(-1, 2)
        if quantity == "thickness" and self._structure.continuous:
            return np.full(len(positions), self.thickness)
        map_, order = (self._thickness_map, 0) if quantity == "thickness" else (self._mass_map, 3)
        return self._looked_up(map_, order, positions)

    def _looked_up(self, map_: np.ndarray, order: int, positions: np.ndarray) -> np.ndarray:
        """Values (n,) at positions of a map over the tile; outside of a single piece 0."""
        from scipy.ndimage import map_coordinates

        corner = self._origin if self._structure.cell is not None else self._origin + self._corner
        fractions = (positions - corner) @ np.linalg.inv(self._unit.cell)
        coordinates = fractions * map_.shape - (0.5 if order == 0 else 0.0)
        values = map_coordinates(map_, coordinates.T, order=order, mode="grid-wrap")
        if self._structure.cell is None:
            values[((fractions < 0) | (fractions >= 1)).any(axis=1)] = 0.0
        return values

    @cached_property
    def _corner(self) -> np.ndarray:
        """Corner of the box around a single piece, in the file's coordinates (y, x) [m]."""
        return self._structure.positions[:, 1:].min(axis=0) - 2e-9

    @cached_property
    def _fractions(self) -> np.ndarray:
        """Fractional coordinates (n, 2) of the atoms in the tile or box, in [0, 1)."""
        corner = np.zeros(2) if self._structure.cell is not None else self._corner
        return ((self._structure.positions[:, 1:] - corner) @ np.linalg.inv(self._unit.cell)) % 1.0 % 1.0

    @cached_property
    def _mass_map(self) -> np.ndarray:
        """Areal mass [kg/m^2] over the tile on the nodes of a grid."""
        lengths = np.linalg.norm(self._unit.cell, axis=1)
        shape = np.maximum(np.ceil(lengths / 0.04e-9).astype(int), 4)
        node = np.floor(self._fractions * shape).astype(int)
        share = self._fractions * shape - node
        mass = np.zeros(shape)
        # shared by the four nodes around an atom, so that it stays where it is
        for corner in ((0, 0), (0, 1), (1, 0), (1, 1)):
            weight = np.where(corner, share, 1 - share).prod(axis=1)
            np.add.at(mass, tuple(((node + corner) % shape).T), weight * self._masses)
        reciprocal = np.linalg.inv(self._unit.cell).T
        orders = np.meshgrid(*[np.fft.fftfreq(n, 1 / n) for n in shape], indexing="ij")
        square = sum((orders[0] * reciprocal[0, i] + orders[1] * reciprocal[1, i]) ** 2 for i in (0, 1))
        blurred = np.fft.ifft2(np.fft.fft2(mass) * np.exp(-2 * (np.pi * _BLUR) ** 2 * square)).real
        return blurred * shape.prod() / self._unit.area

    @cached_property
    def _thickness_map(self) -> np.ndarray:
        """Thickness [m] of columns, from their first to their last atom, over the tile in the middle of grid cells."""
        from scipy.ndimage import maximum_filter, minimum_filter

        shape = np.maximum((np.linalg.norm(self._unit.cell, axis=1) / _COLUMN).astype(int), 1)
        bins = tuple(np.minimum((self._fractions * shape).astype(int), shape - 1).T)
        first, last = np.full(shape, np.inf), np.full(shape, -np.inf)
        depth = self._structure.positions[:, 0]
        np.minimum.at(first, bins, depth)
        np.maximum.at(last, bins, depth)
        first, last = minimum_filter(first, 3, mode="wrap"), maximum_filter(last, 3, mode="wrap")
        return np.where(np.isfinite(last), np.where(np.isfinite(first), last - first, 0.0) + 2 * _BESIDE, 0.0)

    def layers(self, positions: np.ndarray, condition: Condition) -> dict[str, np.ndarray]:
        """Thickness (n,) [m] of the material that has these elements.

        Raises
        ------
        ValueError : there are no energy-loss data for such a composition.
        """
        from ase.data import chemical_symbols

        present = set(self._structure.numbers[self._structure.kinds < 0].tolist()).union(*self._structure.occupants)
        elements = frozenset(chemical_symbols[z] for z in present)
        material = _COMPOSITIONS.get(elements)
        if elements == {"C"}:
            material = "graphene" if self.thickness < 1e-9 else "carbon"
        if material is None:
            raise ValueError(f"there are no energy-loss data for a structure of {', '.join(sorted(elements))}: "
                             f"there are C, {', '.join(sorted(set(_COMPOSITIONS.values())))}")
        return {material: self.truth("thickness", positions, condition)}

    def edge_distance(self, positions: np.ndarray) -> None:
        """None: the outline of a file's structure is not known."""
        return None


def _read(file: str) -> object:
    """The file's structure as ase.Atoms, the last one where there are many."""
    from ase.io import read
    from ase.io.formats import UnknownFileTypeError, filetype

    path = Path(file)
    if not file or not path.is_file():
        raise ValueError(f"structure file {file!r} is not a file: give the path of one, e.g. a CIF or POSCAR")
    if path.stat().st_size > LARGEST_FILE:
        raise ValueError(f"structure file {file} has {path.stat().st_size >> 20} MiB; at most {LARGEST_FILE >> 20} are read")
    if path.suffix.lower() in (".gz", ".bz2", ".xz"):
        raise ValueError(f"structure file {file} is compressed: unpack it")
    try:
        found = filetype(str(path.resolve()))
    except UnknownFileTypeError as error:
        raise ValueError(f"structure file {file} is of no format that is known: {error}") from error
    if found not in FORMATS:
        raise ValueError(f"structure file {file} is of the format {found}, which is not read: convert it to one of "
                         f"{', '.join(FORMATS)}")
    try:
        return read(str(path.resolve()), format=found, index=-1, do_not_split_by_at_sign=True)
    except Exception as error:
        # a parser of a hundred formats raises anything; what matters is which file
        raise ValueError(f"structure file {file} cannot be read as {found}: "
                         f"{str(error).strip() or type(error).__name__}") from error


def _placed(atoms: object, file: str, thickness: float) -> _Structure:
    """The file's structure under the beam."""
    from ase import Atoms as Structure

    assert isinstance(atoms, Structure)
    positions, numbers = atoms.positions[:, ::-1] * 1e-10, atoms.numbers.astype(np.int64)
    if len(numbers) == 0:
        raise ValueError(f"structure file {file} has no atoms")
    if not np.isfinite(positions).all() or numbers.min() < 1:
        raise ValueError(f"structure file {file} has positions or elements that are not known")
    displacement = np.full(len(numbers), TYPICAL)
    if "bfactor" in atoms.arrays and (atoms.arrays["bfactor"] > 0).all():
        displacement = np.sqrt(atoms.arrays["bfactor"] / (8 * np.pi ** 2)) * 1e-10
    occupants, kinds = _occupancies(atoms, file)
    vectors, periodic = atoms.cell.array[:, ::-1] * 1e-10, atoms.pbc & (np.linalg.norm(atoms.cell.array, axis=1) > 0)
    cell = _lateral(vectors, periodic, file)
    continuous = cell is not None and bool(periodic[2]) and not _vacuum(positions, vectors)
    repeats, total = 1, 0.0
    if continuous:
        upright = vectors[2] * np.sign(vectors[2, 0])
        repeats = max(1, round(thickness / upright[0]))
        total = repeats * upright[0]
    else:
        depth = positions[:, 0]
        if cell is not None and periodic[2]:
            depth = _unwrapped(depth, abs(vectors[2, 0]))
        positions = np.column_stack([depth - depth.min() + _BESIDE, positions[:, 1:]])
        total = float(np.ptp(positions[:, 0])) + 2 * _BESIDE
    if total > THICKEST:
        raise ValueError(f"structure file {file} is {total * 1e9:.4g} nm thick along the beam (z), more than "
                         f"{THICKEST * 1e9:g} nm: electrons do not get through")
    if len(numbers) * repeats > MOST_ATOMS:
        raise ValueError(f"structure file {file} has {len(numbers) * repeats} atoms in a tile of the thickness asked for; "
                         f"at most {MOST_ATOMS} are dealt with")
    if continuous:
        inside = positions - np.floor(positions[:, :1] / upright[0]) * upright
        positions = (np.arange(repeats)[:, None, None] * upright + inside).reshape(-1, 3)
        numbers, displacement, kinds = (np.tile(values, repeats) for values in (numbers, displacement, kinds))
    if cell is not None:
        fractions = positions[:, 1:] @ np.linalg.inv(cell)
        positions = np.column_stack([positions[:, 0], (fractions - np.floor(fractions)) @ cell])
    return _Structure(cell, positions, numbers, displacement, total, continuous, occupants, kinds)


def _occupancies(atoms: object, file: str) -> tuple[tuple[dict[int, float], ...], np.ndarray]:
    """Kinds of sites that are shared or at times empty, and which of them each atom is on (-1: on none)."""
    from ase.data import atomic_numbers

    kinds, occupants = np.full(len(atoms), -1), []
    given, labels = atoms.info.get("occupancy"), atoms.arrays.get("spacegroup_kinds")
    if not isinstance(given, dict) or labels is None:
        return (), kinds
    for label, shares in given.items():
        total = sum(shares.values())
        if min(shares.values()) < 0 or total > 1.01:
            raise ValueError(f"structure file {file} gives the occupancies {shares} to one site: they must be positive and "
                             "add up to at most 1")
        if len(shares) > 1 or total < 0.9999:
            kinds[labels == int(label)] = len(occupants)
            occupants.append({atomic_numbers[element]: share / max(total, 1.0) for element, share in shares.items()})
    return tuple(occupants), kinds


def _lateral(vectors: np.ndarray, periodic: np.ndarray, file: str) -> np.ndarray | None:
    """Lattice vectors across the beam (2, 2), (y, x) [m]; None where the structure is one piece."""
    if not periodic[0] and not periodic[1]:
        return None
    if periodic[0] != periodic[1]:
        raise ValueError(f"structure file {file} is periodic along one direction across the beam only: make it periodic "
                         "along both with vacuum between, or along neither")
    lengths = np.linalg.norm(vectors, axis=1)
    if (np.abs(vectors[:2, 0]) > 1e-6 * lengths[:2]).any():
        raise ValueError(f"structure file {file} has its first two lattice vectors not across the beam (z): turn the cell "
                         "so that they lie in the x-y plane")
    if abs(np.linalg.det(vectors[:2, 1:])) < 1e-3 * lengths[0] * lengths[1]:
        raise ValueError(f"structure file {file} has its first two lattice vectors along the same line")
    if periodic[2] and abs(vectors[2, 0]) < 1e-3 * lengths[2]:
        raise ValueError(f"structure file {file} has its third lattice vector across the beam (z): it must lead along it")
    return vectors[:2, 1:]


def _gap(depth: np.ndarray, period: float) -> tuple[float, float]:
    """Widest gap between atoms along the beam in a period, and the depth at which it ends [m]."""
    ordered = np.sort(depth % period)
    gaps = np.diff(ordered, append=ordered[0] + period)
    widest = int(np.argmax(gaps))
    return float(gaps[widest]), float(ordered[(widest + 1) % len(ordered)])


def _vacuum(positions: np.ndarray, vectors: np.ndarray) -> bool:
    """Whether there is vacuum between the periods along the beam."""
    return _gap(positions[:, 0], abs(vectors[2, 0]))[0] > VACUUM


def _unwrapped(depth: np.ndarray, period: float) -> np.ndarray:
    """Depths of a slab that may straddle the border of its cell, so that it is in one piece."""
    _, start = _gap(depth, period)
    # a hair before the first atom, so that rounding does not send it to the far side
    return (depth - start + 1e-14) % period
