"""What orientation mapping returns."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from edgetem_nodes.featurizer.orientation.rotations import upright


@dataclass(frozen=True)
class Orientations:
    """Orientations of patterns; NaN (phase -1) where `failures` says why a pattern is not indexed.

    Attributes
    ----------
    phases : (n,) int, number of the crystal in the library.
    matrices : (n, 3, 3), from the crystal's axes to the scan's, (z, y, x).
    standard_errors : (n, 3) of turns about z (in-plane), y and x (tilt) [rad], from the scatter of places about the fitted
        model, taken as independent, and of intensities, taken as all alike: dynamical diffraction biases them together.
    scores : (n,) cosine between the weights of the peaks and of the model, 0 to 1; given for refused patterns, too.
    second_matrices : (n, 3, 3) the best orientation that differs by more than `Settings.distinct`, in whatever phase; given
        for refused patterns, too. second_scores : (n,) its score, 0 where there is none; second_phases : (n,) its phase.
    other_phase_scores : (n,) of the best orientation in another phase; NaN with one phase.
    matched : (n,) number of peaks that are reflections. scales : (n,) size of the pattern over the model's.
    thicknesses : (n,) [m] along the beam, where orientations were refined dynamically, else NaN.
    failures : (n,) why a pattern is not indexed; empty where it is.
    """

    phases: np.ndarray
    matrices: np.ndarray
    standard_errors: np.ndarray
    scores: np.ndarray
    second_matrices: np.ndarray
    second_scores: np.ndarray
    second_phases: np.ndarray
    other_phase_scores: np.ndarray
    matched: np.ndarray
    scales: np.ndarray
    thicknesses: np.ndarray
    failures: list[str]

    def __len__(self) -> int:
        """Number of patterns."""
        return len(self.failures)

    @property
    def indexed(self) -> np.ndarray:
        """(n,) bool."""
        return self.phases >= 0

    @property
    def reliability(self) -> np.ndarray:
        """(n,) 1 - second score / score (Rauch & Dupuy 2005): 0 where another orientation fits as well."""
        return np.where(self.indexed, 1 - self.second_scores / np.where(self.indexed, self.scores, 1.0), np.nan)

    @property
    def phase_reliability(self) -> np.ndarray:
        """(n,) 1 - score of the best other phase / score; NaN with one phase."""
        return np.where(self.indexed, 1 - self.other_phase_scores / np.where(self.indexed, self.scores, 1.0), np.nan)

    @property
    def zone_axes(self) -> np.ndarray:
        """(n, 3) unit vectors (z, y, x) in the crystal's axes that lie along the beam."""
        return self.matrices[:, 0]

    @property
    def in_plane(self) -> np.ndarray:
        """(n,) [rad, 0 to 2 pi, x towards y] turn about the beam after the shortest turn that lays the zone axis along it."""
        rest = np.einsum("nij,nkj->nik", np.nan_to_num(self.matrices), upright(np.nan_to_num(self.zone_axes)))
        return np.where(self.indexed, np.arctan2(rest[:, 1, 2], rest[:, 2, 2]) % (2 * np.pi), np.nan)


def not_indexed(count: int) -> Orientations:
    """`count` patterns without an orientation; what is found is entered."""
    blank = np.full(count, np.nan)
    turns = np.full((count, 3, 3), np.nan)
    return Orientations(
        phases=np.full(count, -1), matrices=turns, standard_errors=np.full((count, 3), np.nan), scores=blank.copy(),
        second_matrices=turns.copy(), second_scores=blank.copy(), second_phases=np.full(count, -1),
        other_phase_scores=blank.copy(), matched=np.zeros(count, np.int64), scales=blank.copy(), thicknesses=blank.copy(),
        failures=[""] * count)
