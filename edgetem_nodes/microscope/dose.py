"""What the specimen has received, in total and where, and what it may receive."""

from __future__ import annotations

import copy

import numpy as np

from edgetem_nodes.physics.scan import ScanField

PER_SQUARE_ANGSTROM = 1e20
"""1/Å² in 1/m²."""


class DoseLimitError(ValueError):
    """Something would exceed a dose limit; the message names dose, limit and what to do."""


class DoseAccount:
    """Electrons on the specimen: the total, and the areal dose of every position of the field.

    Parameters
    ----------
    field : grid of positions.
    pixel_area : [m²] that the electrons of one position are spread over.
    total_limit : [electrons]; 0: none.
    areal_limit : [1/m²] at any position; 0: none.
    initial : [electrons] spent before; not known where, so only the total counts them.
    """

    def __init__(self, field: ScanField, pixel_area: float, total_limit: float = 0.0, areal_limit: float = 0.0,
                 initial: float = 0.0) -> None:
        self.total = float(initial)
        self._pixel_area = pixel_area
        self._total_limit = total_limit
        self._areal_limit = areal_limit
        self._columns = field.shape[1]
        self.areal = np.zeros(field.shape[0] * field.shape[1])
        """Areal dose (positions,) [1/m²] by flat grid index."""

    @property
    def peak(self) -> float:
        """Largest areal dose of any position [1/m²]."""
        return float(self.areal.max())

    def check(self, candidates: np.ndarray, electrons: float) -> None:
        """Raise DoseLimitError where `electrons` at each of the positions (flat grid indices) would exceed a limit."""
        self._check_total(electrons * len(candidates), f"{len(candidates)} positions")
        self._check_areal(candidates, electrons)

    def check_image(self, candidates: np.ndarray, electrons: float, pixels: int) -> None:
        """The same for an image of `pixels`, of which those at `candidates` lie in the field."""
        self._check_total(electrons * pixels, f"an image of {pixels} pixels")
        self._check_areal(candidates, electrons)

    def _check_areal(self, candidates: np.ndarray, electrons: float) -> None:
        if self._areal_limit:
            visits = np.bincount(candidates, minlength=self.areal.size)
            after = np.where(visits > 0, self.areal + visits * electrons / self._pixel_area, 0.0)
            worst = int(after.argmax())
            if after[worst] > self._areal_limit * (1 + 1e-9):
                row, column = divmod(worst, self._columns)
                raise DoseLimitError(f"position ({row}, {column}) would come to {after[worst] / PER_SQUARE_ANGSTROM:.4g} "
                                     f"e/Å², the limit is {self._areal_limit / PER_SQUARE_ANGSTROM:.4g} e/Å²: take a "
                                     "shorter dwell time or another position; positions are (row, column)")

    def check_survey(self, electrons: float) -> None:
        """Raise DoseLimitError where `electrons` spread over the whole field would exceed a limit."""
        self._check_total(electrons, "a survey")
        after = self.peak + electrons / (self.areal.size * self._pixel_area)
        if self._areal_limit and after > self._areal_limit * (1 + 1e-9):
            raise DoseLimitError(f"a survey would bring a position to {after / PER_SQUARE_ANGSTROM:.4g} e/Å², the limit is "
                                 f"{self._areal_limit / PER_SQUARE_ANGSTROM:.4g} e/Å²")

    def recall(self, candidates: np.ndarray, dose: float | np.ndarray) -> None:
        """Note an areal dose [1/m²] that positions (flat grid indices) received before; the total counts it already."""
        np.add.at(self.areal, candidates, dose)

    def after(self, candidates: np.ndarray, electrons: float) -> DoseAccount:
        """A copy in which `electrons` at each of the positions are counted: for questions about what is planned."""
        account = copy.copy(self)
        account.areal = self.areal.copy()
        account.add(candidates, electrons)
        return account

    def add(self, candidates: np.ndarray, electrons: float) -> float:
        """Count `electrons` at each of the positions; returns their sum."""
        np.add.at(self.areal, candidates, electrons / self._pixel_area)
        self.total += electrons * len(candidates)
        return electrons * len(candidates)

    def add_image(self, candidates: np.ndarray, electrons: float, pixels: int) -> float:
        """Count `electrons` at each pixel of an image, of which those at `candidates` lie in the field; returns the sum."""
        self.add(candidates, electrons)
        self.total += electrons * (pixels - len(candidates))
        return electrons * pixels

    def add_survey(self, electrons: float) -> None:
        """Count `electrons` spread over the whole field."""
        self.areal += electrons / (self.areal.size * self._pixel_area)
        self.total += electrons

    def regridded(self, old: ScanField, new: ScanField, pixel_area: float) -> DoseAccount:
        """The account of a new field of the same specimen: the total goes on.

        A new position has the areal dose of the old one nearest to it; one outside the old field has none.
        """
        account = DoseAccount(new, pixel_area, self._total_limit, self._areal_limit, self.total)
        positions = new.positions()
        inside = old.contains(positions)
        account.areal[inside] = self.areal[old.candidates(positions[inside])]
        return account

    def _check_total(self, electrons: float, what: str) -> None:
        if self._total_limit and self.total + electrons > self._total_limit * (1 + 1e-9):
            raise DoseLimitError(f"{what} would cost {electrons:.4g} electrons after {self.total:.4g}; the limit is "
                                 f"{self._total_limit:.4g}: ask for fewer positions, a shorter dwell time or a higher limit")
