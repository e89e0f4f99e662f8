"""What was found in an image: columns and missing sites, their lattice, and candidates for defects."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from edgetem_nodes.featurizer.atoms.lattice_fit import LatticeFit, local_vectors
from edgetem_nodes.featurizer.atoms.species import FALSE_DISCOVERY, KINDS, VACANCY

if TYPE_CHECKING:
    from ase import Atoms

CERTAIN = 0.95
"""Probability from which a kind is taken for known: a structure has X where it is lower."""
NAMED = 0.05
"""Probability from which a kind is said to be possible."""
OFF_LATTICE = "off-lattice"
UNKNOWN = "unknown"


@dataclass(frozen=True)
class Completeness:
    """How many sites of a sublattice have a column that was found by itself, not by being looked for there.

    Attributes
    ----------
    sites, found : in the image but for a margin of one window. sound_sites, sound_found : of those, outside contaminated
    and damaged parts. resolved : False where the sublattice shows only in the mean cell.
    """

    sites: int
    found: int
    sound_sites: int
    sound_found: int
    resolved: bool

    @property
    def fraction(self) -> float:
        """Of all sites."""
        return self.found / self.sites if self.sites else float("nan")

    @property
    def sound_fraction(self) -> float:
        """Of the sites outside contaminated and damaged parts."""
        return self.sound_found / self.sound_sites if self.sound_sites else float("nan")


@dataclass(frozen=True)
class SublatticeResult:
    """A sublattice: mean offset (2,) fractional, `amplitude` over the strongest's, `spread` of hosts, `separation` of host and
    vacancy in standard deviations of one column, whether kinds are `identifiable`, and completeness."""

    offset: np.ndarray
    amplitude: float
    spread: float
    separation: float
    identifiable: bool
    completeness: Completeness


@dataclass(frozen=True)
class FoundAtoms:
    """Columns of an image, one row each, then sites of the lattice where none was found. Places (y, x) [pixel of the image].

    Attributes
    ----------
    shape : of the image. pixel_size : [m]; None: not known.
    positions : (n, 2). position_covariance : (n, 2, 2) [pixel^2]; NaN where the place is that of the lattice.
    amplitudes, amplitude_errors, backgrounds : (n,), the image's unit. confidence : (n,) height of the network's map.
    found : (n,) bool, columns found by themselves; the others are sites where the amplitude alone was measured.
    sublattice : (n,) int, the strongest is 0; -1: off the lattice. nodes : (n, 2) int.
    ratio, ratio_error : (n,) amplitude over that of the host around.
    probabilities : (n, kinds) in the order KINDS, NaN where not identifiable and for columns cut by the edge.
    q_values : (n,) false discovery rate.
    sound : (n,) bool, outside contaminated and damaged parts.
    sigma : covariance matrix (2, 2) of a column's Gaussian [pixel^2]. noise : of a pixel.
    lattice : of the rows that are `found`, in their order; None where there is none: `no_lattice` then says why.
    sublattices : in order.
    notes : for people. weights : SHA-256 of the network's.
    alone : (n, kinds) as `probabilities`, without what the other columns say of how frequent kinds are; None: not known.
    """

    shape: tuple[int, int]
    pixel_size: float | None
    positions: np.ndarray
    position_covariance: np.ndarray
    amplitudes: np.ndarray
    amplitude_errors: np.ndarray
    backgrounds: np.ndarray
    confidence: np.ndarray
    found: np.ndarray
    sublattice: np.ndarray
    nodes: np.ndarray
    ratio: np.ndarray
    ratio_error: np.ndarray
    probabilities: np.ndarray
    q_values: np.ndarray
    sound: np.ndarray
    sigma: np.ndarray
    noise: float
    lattice: LatticeFit | None
    no_lattice: str = ""
    sublattices: tuple[SublatticeResult, ...] = ()
    notes: tuple[str, ...] = ()
    weights: str = ""
    material: str | None = None
    alone: np.ndarray | None = None
    _kinds: tuple[str, ...] = field(default=KINDS, repr=False)

    def __len__(self) -> int:
        return len(self.positions)

    @property
    def position_errors(self) -> np.ndarray:
        """(n, 2) standard errors [pixel]."""
        return np.sqrt(np.diagonal(self.position_covariance, axis1=1, axis2=2))

    @property
    def kinds(self) -> np.ndarray:
        """(n,) str: the likeliest kind; a defect only where it is also a candidate; off-lattice or unknown."""
        result = np.full(len(self), UNKNOWN, dtype="U12")
        known = np.isfinite(self.probabilities).all(axis=1)
        likeliest = self.probabilities[known].argmax(axis=1) if known.any() else np.zeros(0, int)
        result[known] = np.array(self._kinds)[likeliest]
        result[known & (result != "host") & ~(self.q_values <= FALSE_DISCOVERY)] = "host"
        result[self.sublattice < 0] = OFF_LATTICE
        return result

    @property
    def kind_probabilities(self) -> np.ndarray:
        """(n,) probability of the kind that `kinds` says; NaN where it is off-lattice or unknown."""
        kinds = self.kinds
        result = np.full(len(self), np.nan)
        for number, kind in enumerate(self._kinds):
            mine = kinds == kind
            result[mine] = self.probabilities[mine, number]
        return result

    @property
    def certainty(self) -> np.ndarray:
        """(n,) probability of the kind that `kinds` says; that of the column alone where it says rather something else, and
        only the frequency of the kind, which depends on what a crop has of a specimen, speaks for it. NaN: as there."""
        result, kinds = self.kind_probabilities, self.kinds
        if self.alone is not None:
            for number, kind in enumerate(self._kinds):
                mine = (kinds == kind) & (self.alone[:, number] < 0.5)
                result[mine] = np.minimum(result[mine], self.alone[mine, number])
        return result

    def undecided(self) -> np.ndarray:
        """Rows of candidates for defects of whose kind the `certainty` is below `CERTAIN`, in the order of candidates."""
        rows = self.candidates()
        return rows[self.certainty[rows] < CERTAIN]

    def possible(self, row: int) -> list[tuple[str, float, float]]:
        """Kinds that a column may be, the likeliest first: kind, its probability, and that without what others say of how
        frequent kinds are."""
        alone = self.probabilities[row] if self.alone is None else self.alone[row]
        both = [(kind, float(p), float(q)) for kind, p, q in zip(self._kinds, self.probabilities[row], alone, strict=True)]
        return sorted((one for one in both if max(one[1:]) >= NAMED), key=lambda one: -one[1])

    def candidates(self) -> np.ndarray:
        """Rows of candidates for defects, the surest first: outside the host's distribution at the false discovery rate."""
        rows = np.flatnonzero(~np.isin(self.kinds, ("host", OFF_LATTICE, UNKNOWN)))
        return rows[np.lexsort((self.q_values[rows], self.probabilities[rows, 0]))]

    @property
    def vacancies(self) -> np.ndarray:
        """Rows of sites that are probably empty."""
        return np.flatnonzero(self.kinds == KINDS[VACANCY])

    def to_atoms(self, lighter: str = "X", heavier: str = "X", pixel_size: float | None = None) -> Atoms:
        """The structure, see `structure.to_atoms`."""
        from edgetem_nodes.featurizer.atoms.structure import to_atoms
        return to_atoms(self, lighter, heavier, pixel_size)

    def uniformity(self) -> np.ndarray:
        """Standard deviations (3,), over blocks of the image, of the lengths of the lattice vectors, parts of the mean.

        The slow distortion of the scan, or of the crystal, which statistical errors leave out.
        """
        if self.lattice is None:
            return np.full(3, np.nan)
        vectors = local_vectors(self.lattice, self.positions[self.found])
        if len(vectors) < 2:
            return np.full(3, np.nan)
        lengths = np.linalg.norm(np.stack([vectors[:, 0], vectors[:, 1], vectors[:, 0] - vectors[:, 1]], axis=1), axis=-1)
        return lengths.std(axis=0) / lengths.mean(axis=0)

    def held_out_anisotropy(self, symmetry: str | None = None) -> np.ndarray:
        """Anisotropy (4,) that is left in each half of the image when the other half's affine distortion is taken off, see
        `distortion.held_out_anisotropy`; `symmetry` "hexagonal", "square" or None: the nearer one."""
        from edgetem_nodes.featurizer.atoms.distortion import affine_distortion, held_out_anisotropy
        if self.lattice is None:
            return np.full(4, np.nan)
        symmetry = symmetry or affine_distortion(self.lattice.vectors).symmetry
        return held_out_anisotropy(self.lattice, self.positions[self.found], symmetry)
