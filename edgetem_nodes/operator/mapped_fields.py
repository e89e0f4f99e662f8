"""Fields that are fully measured, measured or simulated: what sampling strategies are compared on (docs/sampling.md).

Each is a shipped configuration with a few overrides, so survey, scalar, standard errors and dose are those of a run.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np

from edgetem_nodes.detector.sources import make_source
from edgetem_nodes.featurizer.scalarizers import build
from edgetem_nodes.graph.configuration import Configuration, ConfigurationError, data_root
from edgetem_nodes.microscope.drivers import initial_exposure, make_driver
from edgetem_nodes.operator.evaluation import CHUNK, REFERENCE_SEQUENCE, at_rest
from edgetem_nodes.operator.experiment import SCHEMAS, load_experiment
from edgetem_nodes.physics.scan import ScanField
from edgetem_nodes.planner.parameters import Model
from edgetem_nodes.planner.simulation import smoothed

SMOOTHING = 1.0
"""[pixel] of the Gaussian that makes a truth of a measured map."""
_ARRAYS = ("survey", "values", "standard_errors", "expected")


class FieldAbsent(ValueError):  # noqa: N818  (a fact about this machine)
    """The data of a field are not on this machine; the message says why."""


@dataclass(frozen=True)
class FieldDefinition:
    """What a field is: configuration and overrides, and what is asked of it.

    `localised` : the property lives at interfaces, defects or particles. `related` : the survey tells of it.
    """

    configuration: str
    localised: bool
    related: bool
    overrides: dict[str, Any] = field(default_factory=dict)


_SIMULATED, _REPLAY = "/**.instrument.simulated.", "/**.instrument.replay."
_L2083 = "replay/L2083-K-4-1_EDS_HAADF/L2083_tilt_0.bcf"
_WINDOW = "featurizer.eds_window.window_keV"
FIELDS: dict[str, FieldDefinition] = {
    "CuZn Cu-L": FieldDefinition("cuzn_eels", localised=False, related=True),
    "core_shell Pt-La": FieldDefinition("core_shell_fe", localised=True, related=True, overrides={_WINDOW: [9.2, 9.7]}),
    "core_shell Fe-K": FieldDefinition("core_shell_fe", localised=True, related=True),
    "L2083 Si-K": FieldDefinition("core_shell_fe", localised=False, related=False, overrides={
        _REPLAY + "file": _L2083, _REPLAY + "survey_signal": "", _REPLAY + "bin": 4, _WINDOW: [1.64, 1.84]}),
    "MnPS3 edge mode": FieldDefinition("edge_mode", localised=True, related=True),
    "MoS2 dilation": FieldDefinition("default", localised=True, related=True),
    "gold low loss": FieldDefinition("edge_mode", localised=True, related=True, overrides={
        _SIMULATED + "specimen": "gold", _SIMULATED + "structure.film_nm": 5.0, _SIMULATED + "structure.thickness_nm": 20.0,
        "planner.model.patch_size": 5, "planner.model.patch_components": 6, _SIMULATED + "field_nm": 60.0, "/**.instrument.high_tension_kV": 200.0,
        "/**.instrument.semi_convergence_mrad": 10.0, "featurizer.eels_band_ratio.low_eV": [2.0, 6.0],
        "featurizer.eels_band_ratio.high_eV": [-1.0, 1.0]}),
}
"""The fields by name; energies of Pt La, Fe Ka and Si K lines: NIST X-ray transition energies."""


@dataclass(frozen=True)
class MappedField:
    """Every position of a field, measured once.

    Attributes
    ----------
    survey : (channels, rows, columns) [counts].
    values, standard_errors : (rows, columns) [scalar], what a measurement gives; NaN where it fails.
    truth : (rows, columns) [scalar], what is judged by; truth_kind says what it is.
    noise_floor : root-mean-square noise that the truth itself holds [scalar]; 0 for a simulated one.
    survey_dose : in units of one position's dose.
    model : the surrogate of the field's configuration.
    """

    name: str
    definition: FieldDefinition
    field: ScanField
    survey: np.ndarray
    values: np.ndarray
    standard_errors: np.ndarray
    truth: np.ndarray
    truth_kind: str
    noise_floor: float
    survey_dose: float
    model: Model


def mapped_field(name: str) -> MappedField:
    """Load or simulate a field. Simulated ones are kept in the user's cache, by configuration and program.

    Raises
    ------
    FieldAbsent : the measured data are not on this machine.
    ValueError : there is no field of this name.
    """
    if name not in FIELDS:
        raise ValueError(f"there is no field {name!r}; there are {', '.join(FIELDS)}")
    definition = FIELDS[name]
    configuration = _configuration(definition)
    detector = configuration.parameters("detector", SCHEMAS["detector"])
    instrument = at_rest(detector.instrument)
    simulated = instrument.driver == "simulated"
    try:
        driver = make_driver(instrument, detector.seed)
    except (OSError, ValueError) as error:
        raise FieldAbsent(f"{name}: {error}") from None
    try:
        arrays = _cached(configuration, lambda: _measured(configuration, driver)) if simulated else _measured(configuration,
                                                                                                              driver)
        dose = driver.electrons(driver.field.shape[0] * driver.field.shape[1], instrument.survey_dwell_us * 1e-6)
        dose /= driver.electrons(1, instrument.dwell_ms * 1e-3)
    finally:
        driver.close()
    values, errors = arrays["values"], arrays["standard_errors"]
    truth, kind, floor = arrays["expected"], "noise-free simulation", 0.0
    if not simulated:
        truth, kind = smoothed(values, SMOOTHING), "measured map, smoothed by a Gaussian of one pixel"
        # Squares of a Gaussian's weights sum to 1 / (4 pi scale^2).
        floor = float(np.sqrt(np.nanmean(np.square(errors)) / (4 * np.pi * SMOOTHING**2)))
    return MappedField(name, definition, driver.field, arrays["survey"], values, errors, truth, kind, floor, dose,
                       configuration.parameters("planner", SCHEMAS["planner"]).model)


def _configuration(definition: FieldDefinition) -> Configuration:
    overrides = dict(definition.overrides)
    file = overrides.get(_REPLAY + "file")
    if file:
        overrides[_REPLAY + "file"] = str((data_root() or Path("/nowhere")) / file)
    try:
        return load_experiment(definition.configuration, overrides)
    except ConfigurationError as error:
        # A configuration of measured data names the folder of the data.
        raise FieldAbsent(str(error)) from None


def _measured(configuration: Configuration, driver: Any) -> dict[str, np.ndarray]:
    """Survey, and the whole field with and, of a simulation, without noise."""
    detector = configuration.parameters("detector", SCHEMAS["detector"])
    instrument = at_rest(detector.instrument)
    source = make_source(instrument, detector.seed)
    try:
        scalarizer = build(configuration.parameters("featurizer", SCHEMAS["featurizer"]), tuple(source.axes))
        dwell, short = instrument.dwell_ms * 1e-3, instrument.survey_dwell_us * 1e-6
        exposure = initial_exposure(driver, dwell, dwell, REFERENCE_SEQUENCE)
        starts = range(0, exposure.count, CHUNK)
        parts = [scalarizer(source.read(exposure, start, min(CHUNK, exposure.count - start))) for start in starts]
        expected = parts
        if instrument.driver == "simulated":
            electrons, simulation = driver.electrons(1, dwell), source.simulation
            expected = [scalarizer(electrons * simulation.expected(exposure, start, min(CHUNK, exposure.count - start))
                                   .astype(float)) for start in starts]
        survey = driver.overview(initial_exposure(driver, short, short, 0))
    finally:
        source.close()
    shape = driver.field.shape
    return {"survey": np.asarray(survey.data, float),
            "values": np.concatenate([part.values[:, 0] for part in parts]).reshape(shape),
            "standard_errors": np.concatenate([part.standard_errors[:, 0] for part in parts]).reshape(shape),
            "expected": np.concatenate([part.values[:, 0] for part in expected]).reshape(shape)}


def _cached(configuration: Configuration, measure: Callable[[], dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
    """What `measure` gives, from the cache where the same program has measured the same configuration before."""
    folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "edgetem" / "mapped_fields"
    path = folder / f"{_identity(configuration)}.npz"
    try:
        with np.load(path, allow_pickle=False) as stored:
            return {name: stored[name] for name in _ARRAYS}
    except (OSError, ValueError, KeyError, EOFError, BadZipFile):
        pass
    arrays = measure()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        temporary = path.with_suffix(f".{os.getpid()}.npz")
        np.savez(temporary, **arrays)
        temporary.replace(path)
    except OSError:
        pass  # A cache that cannot be written costs time, nothing else.
    return arrays


def _identity(configuration: Configuration) -> str:
    """SHA-256 (hex) of what the arrays follow from: parameters, and the program that simulates and measures."""
    nodes = {name: configuration.nodes[name] for name in ("detector", "featurizer")}
    digest = hashlib.sha256(json.dumps(nodes, sort_keys=True).encode())
    package = Path(__file__).resolve().parents[1]
    for room in ("physics", "featurizer"):
        for source in sorted((package / room).rglob("*.py")):
            if "node" not in source.relative_to(package).parts:
                digest.update(source.read_bytes())
    return digest.hexdigest()
