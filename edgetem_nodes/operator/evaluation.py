"""What the run is judged by, after it has ended: the full map, and other strategies at equal dose on the same field.

Nothing here is used while an experiment runs: the planner never sees a pixel that it did not ask for.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from edgetem_nodes.detector.sources import make_source
from edgetem_nodes.featurizer.scalarizers import build
from edgetem_nodes.graph.configuration import Configuration
from edgetem_nodes.operator.experiment import SCHEMAS
from edgetem_nodes.physics.scan import ScanField

CHUNK = 256
"""Frames read at once."""
REFERENCE_SEQUENCE = 2**31
"""Acquisition number of the reference scan: its noise is independent of every acquisition's of the run."""


@dataclass(frozen=True)
class FullMap:
    """Every position of the field, measured once: values and standard errors (rows, columns); NaN where it failed."""

    values: np.ndarray
    standard_errors: np.ndarray


def measure_full_map(configuration: Configuration, field: ScanField) -> FullMap:
    """Measure the whole field with the run's own source and scalarizer."""
    detector = configuration.parameters("detector", SCHEMAS["detector"])
    replay = replace(detector.instrument.replay, real_time=False)
    source = make_source(replace(detector.instrument, replay=replay), detector.seed)
    try:
        scalarizer = build(configuration.parameters("featurizer", SCHEMAS["featurizer"]), tuple(source.axes))
        positions = field.positions()
        parts = [scalarizer(source.read(positions[start:start + CHUNK], detector.instrument.dwell_ms * 1e-3,
                                        REFERENCE_SEQUENCE, start))
                 for start in range(0, len(positions), CHUNK)]
    finally:
        source.close()
    return FullMap(np.concatenate([part.values[:, 0] for part in parts]).reshape(field.shape),
                   np.concatenate([part.standard_errors[:, 0] for part in parts]).reshape(field.shape))
