"""Conditions of a training from those of an experiment: its camera, and the electrons in its patterns."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from edgetem_nodes.archive.contents import ArchiveError
from edgetem_nodes.archive.reader import Archive
from edgetem_nodes.featurizer.cbed.training.registry import TrainingError
from edgetem_nodes.featurizer.cbed.training.settings import NanobeamConditions

_LOOKED_AT = 64
_WIDER = 3.0
"""By what factor doses are drawn about those of the patterns."""


def conditions_of(archive: str, conditions: NanobeamConditions) -> NanobeamConditions:
    """The conditions with camera and dose of an archive's patterns. High tension and semi-convergence angle stay: set them.

    Counts are taken for electrons.

    Raises
    ------
    TrainingError : there is no such archive, or no square pattern in it.
    """
    try:
        with Archive.open(archive, live=True) as held:
            patterns = [one for one in held.acquisitions() if one.count and len(one.signal_shape) == 2]
            if not patterns:
                raise TrainingError(f"archive {archive} holds no diffraction patterns")
            last = patterns[-1]
            shape, frames = last.signal_shape, np.asarray(last.rows(0, min(last.count, _LOOKED_AT)))
    except (ArchiveError, OSError, RuntimeError) as error:
        raise TrainingError(f"archive {archive} cannot be used: {error}") from None
    if shape[0] != shape[1]:
        raise TrainingError(f"patterns of {shape[0]} x {shape[1]} pixels are not square, and others are not drawn: train "
                            "without the archive; the network reads them all the same")
    counts = np.sort(frames.reshape(len(frames), -1).sum(axis=1, dtype=float))
    counts = counts[np.isfinite(counts) & (counts > 0)]
    if not len(counts):
        raise TrainingError(f"the patterns of archive {archive} are empty")
    low, high = np.quantile(counts, [0.05, 0.95])
    return replace(conditions, pixels=[int(shape[0])], electrons=[float(low / _WIDER), float(high * _WIDER)])
