"""What the run is judged by, after it has ended: the full map, and other strategies at equal dose on the same field.

Nothing here is used while an experiment runs: the planner never sees a pixel that it did not ask for.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from edgetem_nodes.detector.sources import make_source
from edgetem_nodes.featurizer.parameters import Parameters as FeaturizerParameters
from edgetem_nodes.featurizer.scalarizers import build
from edgetem_nodes.graph.configuration import Configuration
from edgetem_nodes.graph.instrument import Instrument
from edgetem_nodes.graph.simulated_instrument import DamageGroup
from edgetem_nodes.microscope.drivers import initial_exposure, make_driver
from edgetem_nodes.operator.experiment import SCHEMAS
from edgetem_nodes.physics.scan import ScanField

_UNSTEADY = ("drift_nm_per_min", "drift_wander_nm", "drift_relaxation_nm", "defocus_drift_nm_per_min", "defocus_wander_nm",
             "current_decay_percent", "current_drift_percent_per_h", "current_noise_percent")
"""Instabilities that change with time."""
CHUNK = 256
"""Frames read at once."""
REFERENCE_SEQUENCE = 2**31
"""Acquisition number of the reference scan: its noise is independent of every acquisition's of the run."""


@dataclass(frozen=True)
class FullMap:
    """Every position of the field, measured once: values and standard errors (rows, columns); NaN where it failed."""

    values: np.ndarray
    standard_errors: np.ndarray


def at_rest(instrument: Instrument) -> Instrument:
    """The instrument at once, and without what time does to it: no drift, no change of focus or current, no damage.

    Errors that stay (scan, descan, aberrations, faults from the beginning on) are those of the run.
    """
    simulated, steady = instrument.simulated, dict.fromkeys(_UNSTEADY, 0.0)
    simulated = replace(simulated, damage=DamageGroup(), instabilities=replace(simulated.instabilities, **steady))
    return replace(instrument, simulated=simulated, replay=replace(instrument.replay, real_time=False))


def measure_full_map(configuration: Configuration, field: ScanField,
                     featurizer: FeaturizerParameters | None = None) -> FullMap:
    """Measure the whole field with the run's own source and scalarizer: what a perfect run would have found.

    Of a replay these are the measured data. A simulated specimen is measured as it was when the run began, undamaged, with
    the instrument `at_rest`, whatever the run did to it: drift, damage and transitions are the run's part in its errors.
    `featurizer` : its parameters; the configured ones by default.
    """
    detector = configuration.parameters("detector", SCHEMAS["detector"])
    instrument = at_rest(detector.instrument)
    driver, source = make_driver(instrument, detector.seed), make_source(instrument, detector.seed)
    try:
        scalarizer = build(featurizer or configuration.parameters("featurizer", FeaturizerParameters), tuple(source.axes))
        dwell = instrument.dwell_ms * 1e-3
        exposure = replace(initial_exposure(driver, dwell, dwell, REFERENCE_SEQUENCE), positions=field.positions())
        parts = [scalarizer(source.read(exposure, start, min(CHUNK, exposure.count - start)))
                 for start in range(0, exposure.count, CHUNK)]
    finally:
        driver.close()
        source.close()
    return FullMap(np.concatenate([part.values[:, 0] for part in parts]).reshape(field.shape),
                   np.concatenate([part.standard_errors[:, 0] for part in parts]).reshape(field.shape))
