"""What one electron writes into the pixels around it, and what many write: exact sampling for any dose.

A `Response` is a library of equally likely answers to one electron that arrives at a pixel. Sparse frames are sampled
electron by electron. Where a pixel receives many, a counting response is drawn from the multinomial distribution of its
distinct answers, which is exact, and an analogue one from the normal distribution with the library's mean and covariance.
"""

from __future__ import annotations

from functools import cached_property

import numpy as np

_DENSE = 64
"""Mean electrons in a pixel above which the normal distribution serves."""
_WORTHWHILE = 8
"""Mean electrons in a pixel above which drawing the number of each distinct answer is quicker than drawing each answer."""
_SMALL = 1e-5
"""Part of the mean answer below which an entry of the library is dropped."""


class Response:
    """Equally likely answers of a detector to one electron.

    Parameters
    ----------
    library : (answers, rows, columns) written into the pixels around the one that the electron enters, rows and columns odd;
        integers for a counting detector, floats for an analogue one.
    entry : (answers, 2), (y, x), where the electron enters the pixel, as a part of it.

    Raises
    ------
    ValueError : the library has the wrong shape.
    """

    def __init__(self, library: np.ndarray, entry: np.ndarray) -> None:
        if library.ndim != 3 or not (library.shape[1] % 2 and library.shape[2] % 2):
            raise ValueError(f"library of shape {library.shape} is not (answers, odd rows, odd columns)")
        self.library, self.entry = library, entry
        self.counting = library.dtype.kind in "iu"

    @cached_property
    def line(self) -> Response:
        """The response of a line of channels: every channel sums a column of pixels."""
        return Response(self.library.sum(axis=1, keepdims=True, dtype=self.library.dtype), self.entry)

    @cached_property
    def point_spread(self) -> np.ndarray:
        """Mean answer (rows, columns) to an electron; its sum is the mean signal."""
        return self.library.mean(axis=0, dtype=np.float64)

    @property
    def gain(self) -> float:
        """Mean signal of an electron, summed over pixels."""
        return float(self.point_spread.sum())

    @cached_property
    def detective_quantum_efficiency(self) -> float:
        """DQE(0) of the response, <s>^2 / <s^2> of the summed signal s (McMullan et al., Ultramicroscopy 109, 1126)."""
        signal = self.library.sum(axis=(1, 2), dtype=np.float64)
        return float(signal.mean() ** 2 / (signal ** 2).mean())

    def modulation_transfer(self, frequency: np.ndarray) -> np.ndarray:
        """Presampled MTF at spatial frequencies (n,) along a row [1/pixel]; 0.5 is the Nyquist frequency.

        The transform of where a signal is written relative to where its electron entered, so the pixel's own aperture is
        included: sinc(frequency) for a perfect pixel.
        """
        across = self.library.sum(axis=1, dtype=np.float64)
        columns = np.arange(across.shape[1]) - across.shape[1] // 2
        signal = [(across * np.exp(-2j * np.pi * one * (columns - self.entry[:, 1:] + 0.5))).sum()
                  for one in np.asarray(frequency, float).ravel()]
        return np.abs(signal) / across.sum()

    @cached_property
    def _entries(self) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """Library as compressed rows: first entry and number of entries of an answer; row, column and value of an entry."""
        answer, row, column = np.nonzero(self.library > _SMALL * self.gain)
        lengths = np.bincount(answer, minlength=len(self.library))
        values = self.library[answer, row, column].astype(np.float64)
        return np.cumsum(lengths) - lengths, lengths, row, column, values

    @cached_property
    def _distinct(self) -> tuple[np.ndarray, np.ndarray]:
        """Distinct answers (kinds, rows * columns), the most frequent first, and their probabilities (kinds,)."""
        flat = self.library.reshape(len(self.library), -1)
        kinds, numbers = np.unique(flat, axis=0, return_counts=True)
        order = np.argsort(-numbers, kind="stable")
        return kinds[order].astype(np.float64), numbers[order] / len(flat)

    @cached_property
    def _moments(self) -> tuple[np.ndarray, np.ndarray]:
        """Mean (cells,) of an answer and a matrix (cells, cells) whose product with its transpose is <s s^T>."""
        flat = self.library.reshape(len(self.library), -1).astype(np.float64)
        values, vectors = np.linalg.eigh(flat.T @ flat / len(flat))
        return flat.mean(axis=0), vectors * np.sqrt(np.clip(values, 0, None))

    def sample(self, expected: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Signal (rows, columns) float64 of one frame; what would fall outside the frame is lost.

        Parameters
        ----------
        expected : (rows, columns) float64, mean number of electrons that enter each pixel.
        rng : of this frame.
        """
        up, left = self.library.shape[1] // 2, self.library.shape[2] // 2
        padded = (expected.shape[0] + 2 * up, expected.shape[1] + 2 * left)
        limit = max(_WORTHWHILE, len(self._distinct[1])) if self.counting else _DENSE
        dense = np.flatnonzero(expected > limit)
        sparse = expected
        if len(dense):
            sparse = expected.copy()
            sparse.flat[dense] = 0
        pixels = electron_pixels(sparse, rng)
        corner = np.arange(expected.size).reshape(expected.shape)
        corner = (corner // expected.shape[1] * padded[1] + corner % expected.shape[1]).ravel()
        total = self._scatter(corner[pixels], padded, rng)
        if len(dense):
            answers = self._many(expected.flat[dense], rng)
            cells = np.add.outer(np.arange(self.library.shape[1]) * padded[1], np.arange(self.library.shape[2])).ravel()
            places = corner[dense][:, None] + cells
            total += np.bincount(places.ravel(), answers.ravel(), minlength=total.size)
        total = total.reshape(padded)
        return total[up:padded[0] - up, left:padded[1] - left]

    def _scatter(self, corners: np.ndarray, padded: tuple[int, int], rng: np.random.Generator) -> np.ndarray:
        """Sum of an answer for every electron; `corners` are flat indices, in the padded frame, of their windows."""
        first, lengths, row, column, values = self._entries
        answer = rng.integers(len(self.library), size=len(corners))
        numbers = lengths[answer]
        starts = np.cumsum(numbers) - numbers
        entry = np.arange(numbers.sum()) + np.repeat(first[answer] - starts, numbers)
        places = np.repeat(corners, numbers) + row[entry] * padded[1] + column[entry]
        # where there is no electron bincount makes integers
        return np.bincount(places, values[entry], minlength=padded[0] * padded[1]).astype(np.float64)

    def _many(self, expected: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Summed answers (pixels, cells) where `expected` electrons (pixels,) arrive on average."""
        if self.counting:
            kinds, probabilities = self._distinct
            return rng.multinomial(rng.poisson(expected), probabilities) @ kinds
        mean, root = self._moments
        noise = rng.standard_normal((len(expected), len(mean))) @ root.T
        return expected[:, None] * mean + np.sqrt(expected)[:, None] * noise


def electron_pixels(expected: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Flat pixel index (electrons,) of every electron of a Poisson process with mean `expected` electrons in each pixel.

    Either the number of all electrons and then where each one falls, or the number in each pixel, whichever is quicker: both
    are exact.
    """
    # a cumulative sum adds in order: the same on every processor, which a plain sum is not
    cumulative = np.cumsum(expected, dtype=np.float64)
    total = cumulative[-1]
    if total * 8 < expected.size:
        drawn = rng.random(rng.poisson(total)) * total
        return np.minimum(np.searchsorted(cumulative, drawn, side="right"), expected.size - 1)
    return np.repeat(np.arange(expected.size), rng.poisson(expected).ravel())
