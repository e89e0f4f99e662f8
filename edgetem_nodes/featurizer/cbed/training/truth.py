"""The truth of drawn patterns in the terms of the networks."""

from __future__ import annotations

import numpy as np

from edgetem_nodes.featurizer.cbed.generator import NanobeamBatch
from edgetem_nodes.featurizer.cbed.indexing import reduce_basis
from edgetem_nodes.physics.electrons import wavelength


def wavelengths(high_tension: np.ndarray) -> np.ndarray:
    """[m] of each high tension [V]."""
    known = {value: wavelength(value) for value in np.unique(high_tension).tolist()}
    return np.array([known[value] for value in high_tension.tolist()])


def true_lattices(batch: NanobeamBatch) -> np.ndarray:
    """Lattices (n, 6) of patterns with reduced vectors: centre, a*, b* of y, then of x [pixel]."""
    vectors = wavelengths(batch.high_tension)[:, None, None] * np.swapaxes(batch.reciprocal, 1, 2)
    vectors = np.linalg.inv(batch.pixel_angle[:, None, None] * batch.distortion) @ vectors
    result = np.empty((len(vectors), 6))
    result[:, 0], result[:, 3] = batch.centre.T
    for row, basis in enumerate(vectors):
        a, b = basis[:, 0].copy(), basis[:, 1].copy()
        reduce_basis(a, b)
        result[row, 1], result[row, 4], result[row, 2], result[row, 5] = a[0], a[1], b[0], b[1]
    return result


def radii(batch: NanobeamBatch) -> np.ndarray:
    """Of a disk (n,) [pixel]."""
    return batch.semi_convergence_angle / batch.pixel_angle


def nominal_centres(batch: NanobeamBatch) -> np.ndarray:
    """Middle (n, 2) of the camera, where the beam should be [pixel]."""
    return np.tile(np.array(batch.patterns.shape[1:]) // 2, (len(batch.patterns), 1)).astype(float)
