"""A crystal as electrons see it kinematically: reciprocal lattice, structure factors, symmetry, excitation errors."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from edgetem_nodes.featurizer.orientation.symmetry import Symmetry, laue_symmetry
from edgetem_nodes.physics.scattering_factors import scattering_factor
from edgetem_nodes.physics.specimens.structure_file import FORMATS, LARGEST_FILE
from edgetem_nodes.physics.specimens.thermal import TYPICAL

_MOST_ATOMS = 2000
_ABSENT = 1e-3
"""Structure factors below this fraction of the largest are taken as extinct."""


@dataclass(frozen=True)
class Crystal:
    """A phase. Vectors are (z, y, x) in the Cartesian axes of the structure.

    Attributes
    ----------
    name : of the phase.
    vectors : (3, 3) lattice vectors a, b, c, rows [m].
    places : (atoms, 3) in units of those.
    atomic_numbers : (atoms,) int.
    occupancies : (atoms,) in (0, 1].
    displacement_rms : (atoms,) thermal displacement along one axis [m].
    """

    name: str
    vectors: np.ndarray
    places: np.ndarray
    atomic_numbers: np.ndarray
    occupancies: np.ndarray
    displacement_rms: np.ndarray

    @classmethod
    def of(cls, structure: object, name: str = "") -> Crystal:
        """From ase.Atoms (periodic along all three axes), or the path of a structure file that ASE reads as plain data.

        Thermal displacements are those of the file's B factors, else typical ones. A site that the file gives to several
        elements scatters as their mean.

        Raises
        ------
        ValueError : there is no such file, its format is not among `FORMATS`, it is no crystal, or it holds too many atoms.
        """
        atoms = _read(Path(structure)) if isinstance(structure, (str, Path)) else structure
        cell = np.asarray(atoms.cell.array, float)
        shown = name or (Path(structure).stem if isinstance(structure, (str, Path)) else atoms.get_chemical_formula())
        if not len(atoms) or abs(np.linalg.det(cell)) < 1e-3 or not np.isfinite(atoms.positions).all():
            raise ValueError(f"{shown} has {len(atoms)} atoms in a cell of {abs(np.linalg.det(cell)):.3g} cubic Angstrom: a "
                             "crystal needs atoms and three independent lattice vectors")
        if not np.all(atoms.pbc):
            raise ValueError(f"{shown} is periodic along {np.count_nonzero(atoms.pbc)} of 3 axes: a sheet or a molecule has "
                             "no zone axes; set pbc=True for a crystal")
        if len(atoms) > _MOST_ATOMS:
            raise ValueError(f"{shown} has {len(atoms)} atoms in a cell; at most {_MOST_ATOMS} are matched: give a unit cell")
        atoms = _shared(atoms)
        displacement = np.full(len(atoms), TYPICAL)
        if "bfactor" in atoms.arrays and (atoms.arrays["bfactor"] > 0).all():
            displacement = np.sqrt(atoms.arrays["bfactor"] / (8 * np.pi ** 2)) * 1e-10
        return cls(shown, cell[:, ::-1] * 1e-10, atoms.get_scaled_positions(), np.asarray(atoms.numbers, np.int64),
                   atoms.arrays["share"], displacement)

    @cached_property
    def symmetry(self) -> Symmetry:
        """Proper rotations of the Laue class."""
        _, kinds = np.unique(np.column_stack([self.atomic_numbers, self.occupancies.round(3)]), axis=0, return_inverse=True)
        return laue_symmetry(self.vectors, self.places, kinds.ravel())

    def reflections(self, largest: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Miller indices (n, 3) int, reciprocal vectors (n, 3) [1/m] up to `largest`, and |F| (n,) [m].

        F = sum of occupancy f(g) exp(-2 pi^2 u^2 g^2) exp(-2 pi i g r). The direct beam and extinct reflections are left out.

        Raises
        ------
        ValueError : there are none, or more than a million.
        """
        indices, vectors, factors = self._structure_factors(largest)
        strength = np.abs(factors)
        present = strength > _ABSENT * strength.max(initial=0.0)
        if not present.any():
            raise ValueError(f"{self.name} has no reflection up to {largest * 1e-9:.3g} 1/nm: raise the angle up to which "
                             "patterns are matched")
        return indices[present], vectors[present], strength[present]

    def couplings(self, largest: float, wavelength: float, mass: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Miller indices, reciprocal vectors [1/m] and U_g = gamma lambda F_g / (pi V) (n,) complex [1/m]; |U| is 1 over the
        extinction distance. `mass` is the Lorentz factor gamma."""
        indices, vectors, factors = self._structure_factors(largest)
        return indices, vectors, mass * wavelength * factors / (np.pi * self.volume)

    def _structure_factors(self, largest: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        reciprocal = np.linalg.inv(self.vectors).T
        most = np.floor(largest * np.linalg.norm(self.vectors, axis=1)).astype(int)
        if np.prod(2 * most + 1.0) > 1e6:
            raise ValueError(f"{self.name} has about {np.prod(2 * most + 1.0):.2g} reflections up to {largest * 1e-9:.3g} "
                             "1/nm: lower the angle up to which patterns are matched")
        indices = np.stack(np.meshgrid(*(np.arange(-n, n + 1) for n in most), indexing="ij"), axis=-1).reshape(-1, 3)
        vectors = indices @ reciprocal
        length = np.linalg.norm(vectors, axis=1)
        inside = (length <= largest) & (length > 0)
        indices, vectors, length = indices[inside], vectors[inside], length[inside]
        factors = np.zeros(len(indices), complex)
        for number in np.unique(self.atomic_numbers):
            form = scattering_factor(int(number), length)
            for atom in np.flatnonzero(self.atomic_numbers == number):
                damping = np.exp(-2 * (np.pi * self.displacement_rms[atom] * length) ** 2)
                factors += self.occupancies[atom] * form * damping * np.exp(-2j * np.pi * (indices @ self.places[atom]))
        return indices, vectors, factors

    @property
    def volume(self) -> float:
        """Of a unit cell [m^3]."""
        return float(abs(np.linalg.det(self.vectors)))

    def indices(self, directions: np.ndarray) -> np.ndarray:
        """Zone axis [uvw] (n, 3), not whole, the largest of a row 1, of directions (n, 3) in the crystal's axes."""
        found = np.asarray(directions, float) @ np.linalg.inv(self.vectors)
        return found / np.abs(found).max(axis=-1, keepdims=True)


def excitation_errors(vectors: np.ndarray, wavelength: float) -> np.ndarray:
    """Excitation error (n,) [1/m] of reciprocal vectors (n, 3), (z, y, x) in the specimen's axes.

    Along the beam, from the lattice point to the Ewald sphere; positive: the point lies inside the sphere (Williams & Carter,
    Transmission Electron Microscopy, 12.6).
    """
    across = vectors[..., 1] ** 2 + vectors[..., 2] ** 2
    return -vectors[..., 0] - wavelength * across / (1 + np.sqrt(np.maximum(1 - wavelength ** 2 * across, 0.0)))


def _read(path: Path) -> object:
    """The structure of a file; its last image where it holds many."""
    from ase.io import read
    from ase.io.formats import UnknownFileTypeError, filetype

    if not path.is_file():
        raise ValueError(f"structure file {str(path)!r} is not a file: give the path of one, e.g. a CIF or POSCAR")
    if path.stat().st_size > LARGEST_FILE:
        raise ValueError(f"structure file {path} has {path.stat().st_size >> 20} MiB; at most {LARGEST_FILE >> 20} are read")
    try:
        found = filetype(str(path.resolve()))
    except UnknownFileTypeError as error:
        raise ValueError(f"structure file {path} is of no format that is known: {error}") from error
    if found not in FORMATS:
        raise ValueError(f"structure file {path} is of the format {found}, which is not read: convert it to one of "
                         f"{', '.join(FORMATS)}")
    try:
        return read(str(path.resolve()), format=found, index=-1, do_not_split_by_at_sign=True)
    except Exception as error:
        # a parser of a hundred formats raises anything; what matters is which file
        raise ValueError(f"structure file {path} cannot be read as {found}: "
                         f"{str(error).strip() or type(error).__name__}") from error


def _shared(atoms: object) -> object:
    """A copy with the array `share`, occupancies; a site of several elements holds an atom of each."""
    from ase.data import atomic_numbers

    result = atoms.copy()
    result.set_array("share", np.ones(len(result)))
    given, labels = atoms.info.get("occupancy"), atoms.arrays.get("spacegroup_kinds")
    if not isinstance(given, dict) or labels is None:
        return result
    for label, shares in given.items():
        sites = np.flatnonzero(labels == int(label))
        for order, (element, share) in enumerate(shares.items()):
            if not 0 < share <= 1.01:
                raise ValueError(f"an occupancy of {share:g} of {element} is not between 0 and 1")
            if order == 0:
                result.numbers[sites] = atomic_numbers[element]
                result.arrays["share"][sites] = min(share, 1.0)
            else:
                more = atoms[sites]
                more.set_array("share", np.full(len(sites), min(share, 1.0)))
                more.numbers[:] = atomic_numbers[element]
                result += more
    return result
