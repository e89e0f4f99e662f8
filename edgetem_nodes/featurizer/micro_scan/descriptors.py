"""What is known of the atoms at a site after a micro-scan."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from edgetem_nodes.featurizer.micro_scan.hosts import CLASSES

ELEMENTS = (0, *sorted({number for _, numbers in CLASSES for number in numbers if number > 0}), -1)
"""What the last axis of `species_probability` runs over: atomic numbers, 0 for nothing there, -1 for any other element."""
MOST = 256
"""Atoms of one footprint that are listed."""
UNKNOWN = -1
"""Species of an atom that cannot be identified."""


@dataclass(frozen=True)
class MicroScanDescriptors:
    """Atoms of micro-scans, one row each. Coordinates (y, x) [m] relative to the site; what is not known is NaN or -1.

    A column of two atoms, as sulphur's in MoS2, is two entries at one place: entry `layer` 0 is there unless both are gone,
    entry 1 unless one is; which of the two is above is not known.

    Attributes
    ----------
    atoms : (rows, MOST, 2) places of atoms, or of what is left of them; NaN after the last.
    atom_covariance : (rows, MOST, 2, 2) [m^2].
    species : (rows, MOST) atomic number of what is likeliest there; 0: a vacancy; -1: not identifiable, or no entry.
    species_probability : (rows, MOST, len(ELEMENTS)); NaN where not identifiable: the prior is all that is known.
    told_apart : (rows, MOST, len(ELEMENTS)) bool, which elements would be seen to be another than the sheet's own there; of
        others the probability is the prior's.
    host : (rows, MOST) atomic number that the perfect sheet has there; -1: no entry.
    layer : (rows, MOST) 0 or 1; -1: no entry.
    identifiable : (rows, MOST) bool.
    footprint : (rows,) [m^2] of the square about the site, its edges along the scan's, that holds every entry.
    material : (rows,) name of the host, "" where none was found; material_probability : (rows,).
    lattice : (rows, 2, 2) lattice vectors, rows [m]; lattice_covariance : (rows, 4, 4) of them, row by row.
    defects, vacancies, dopants : (rows,) expected numbers in the footprint, of dopants those that are `told_apart`;
        defects_variance, ... : (rows,).
    atom_count : (rows,) expected number of atoms; not identifiable ones count as the host's.
    defocus : (rows,) [m], what images were made with.
    rejection : (rows,) how unlike the training set; 1 is the limit.
    failures : (rows,) why a row holds nothing; empty where it does.
    """

    atoms: np.ndarray
    atom_covariance: np.ndarray
    species: np.ndarray
    species_probability: np.ndarray
    told_apart: np.ndarray
    host: np.ndarray
    layer: np.ndarray
    identifiable: np.ndarray
    footprint: np.ndarray
    material: np.ndarray
    material_probability: np.ndarray
    lattice: np.ndarray
    lattice_covariance: np.ndarray
    defects: np.ndarray
    defects_variance: np.ndarray
    vacancies: np.ndarray
    vacancies_variance: np.ndarray
    dopants: np.ndarray
    dopants_variance: np.ndarray
    atom_count: np.ndarray
    defocus: np.ndarray
    rejection: np.ndarray
    failures: list[str]

    @classmethod
    def empty(cls, rows: int) -> MicroScanDescriptors:
        """Nothing known of `rows` micro-scans."""
        nan = lambda *shape: np.full((rows, *shape), np.nan)  # noqa: E731
        none = lambda: np.full((rows, MOST), -1)  # noqa: E731
        return cls(nan(MOST, 2), nan(MOST, 2, 2), none(), nan(MOST, len(ELEMENTS)),
                   np.zeros((rows, MOST, len(ELEMENTS)), bool), none(), none(),
                   np.zeros((rows, MOST), bool), nan(), np.full(rows, "", "<U16"), nan(), nan(2, 2), nan(4, 4), nan(), nan(),
                   nan(), nan(), nan(), nan(), nan(), nan(), nan(), [""] * rows)

    def arrays(self) -> dict[str, np.ndarray]:
        """Every array with one entry a row."""
        return {name: value for name, value in vars(self).items() if name != "failures"}
