"""What was measured: one row a visit, in the order in which decisions are to see them."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, fields

import numpy as np

LARGEST_VALUE = 1e60
"""Magnitude beyond which a number counts as not finite: squares of its squares are still far from overflowing."""


class ExperimentError(ValueError):
    """An experiment that cannot go on; the message says why and what to do."""


@dataclass(frozen=True)
class Observations:
    """Measurements as parallel arrays; adding rows makes a new object.

    Attributes
    ----------
    candidates : (rows,) int64 grid index, row * columns + column.
    settings : (rows,) int64 number of the setting of the instrument that each was measured with.
    batches : (rows,) int64 number of the request that each answers, from 0.
    values, standard_errors : (rows, outputs) [scalar]; NaN where not valid.
    valid : (rows,) bool, False for a marked failure.
    doses : (rows,) [electrons] that each visit cost; 0 where not known.
    predicted, predicted_deviations : (rows,) [scalar] what the model expected of the first output, measurement noise left
        out, before it knew the row; NaN where there was no model.
    """

    candidates: np.ndarray
    settings: np.ndarray
    batches: np.ndarray
    values: np.ndarray
    standard_errors: np.ndarray
    valid: np.ndarray
    doses: np.ndarray
    predicted: np.ndarray
    predicted_deviations: np.ndarray

    @classmethod
    def none(cls, outputs: int) -> Observations:
        """No rows yet."""
        whole, real = np.zeros(0, np.int64), np.zeros(0)
        return cls(whole, whole, whole, np.zeros((0, outputs)), np.zeros((0, outputs)), np.zeros(0, bool), real, real, real)

    def __len__(self) -> int:
        return len(self.candidates)

    @property
    def outputs(self) -> int:
        """Scalars a row."""
        return self.values.shape[1]

    def with_rows(self, **rows: np.ndarray) -> Observations:
        """These rows and further ones, given as arrays by attribute."""
        return Observations(**{f.name: np.concatenate([getattr(self, f.name), rows[f.name]]) for f in fields(self)})

    def only_valid(self) -> Observations:
        """The rows that are not failures."""
        return Observations(**{f.name: getattr(self, f.name)[self.valid] for f in fields(self)})

    def update_hash(self, digest: hashlib._Hash, positions: np.ndarray) -> None:
        """Feed positions (rows, 2) [m], values and standard errors, rows in order, to a hash; all NaNs are alike."""
        for array in (positions, self.settings, self.values, self.standard_errors):
            # Adding zero makes -0.0 and 0.0 alike, and one NaN stands for all.
            array = np.where(np.isnan(array), np.nan, array + 0.0)
            digest.update(np.ascontiguousarray(array, "<f8").tobytes())

    def arrays(self) -> dict[str, np.ndarray]:
        """By attribute, for a checkpoint."""
        return {f.name: getattr(self, f.name) for f in fields(self)}
