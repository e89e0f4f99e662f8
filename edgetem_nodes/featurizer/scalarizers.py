"""Registry of scalarizers: built in, or added by an installed package through the entry-point group `edgetem.scalarizers`.

A scalarizer is made by a factory `factory(settings, noise, axes)`. `settings` is the parameter group of the same name for
those built in, and the mapping in the parameter `settings` for others; the factory raises ValueError where the settings do
not fit the axes.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, replace
from importlib.metadata import entry_points
from typing import Any

import numpy as np

from edgetem_nodes.featurizer.cbed.scalarizer import CbedSettings, cbed_scalarizer
from edgetem_nodes.featurizer.corrected import CorrectedScalarizer, read_corrections
from edgetem_nodes.featurizer.counted import CountedScalarizer, FrameCounter
from edgetem_nodes.featurizer.crystals import BraggStrainScalarizer, CrystalSettings, OrientationScalarizer
from edgetem_nodes.featurizer.descriptor import Column, DescriptorScalarizer
from edgetem_nodes.featurizer.features import CountingNoise, Features, Scalarizer, failed
from edgetem_nodes.featurizer.lattice import LatticeScalarizer
from edgetem_nodes.featurizer.parameters import Parameters
from edgetem_nodes.featurizer.patterns.corrections import Corrections
from edgetem_nodes.featurizer.patterns.instrument import PatternInstrument
from edgetem_nodes.featurizer.spectroscopy.band_ratio import EelsBandRatioScalarizer
from edgetem_nodes.featurizer.spectroscopy.peak import EelsBandMaximumScalarizer, EelsPeakScalarizer
from edgetem_nodes.featurizer.spectroscopy.scalarizers import EelsPlasmonScalarizer, EelsThicknessScalarizer
from edgetem_nodes.featurizer.spectroscopy.spectra import EdsWindowScalarizer, EelsEdgeScalarizer, TotalCountsScalarizer
from edgetem_nodes.featurizer.strain_energy import ElasticSheet, StrainEnergyScalarizer
from edgetem_nodes.featurizer.virtual_detectors import CenterOfMassScalarizer, VirtualDetectorScalarizer
from edgetem_nodes.graph.configuration import nearest
from edgetem_nodes.physics.scan import Axis

GROUP = "edgetem.scalarizers"
CHUNK = 8 << 20
"""Detector data worked on at once [byte]: bounds the memory of float64 copies."""

Factory = Callable[[Any, CountingNoise, tuple[Axis, ...]], Scalarizer]

BUILT_IN: dict[str, Factory] = {
    "eels_edge": EelsEdgeScalarizer,
    "eels_peak": EelsPeakScalarizer,
    "eels_band_maximum": EelsBandMaximumScalarizer,
    "eels_band_ratio": EelsBandRatioScalarizer,
    "eels_plasmon": EelsPlasmonScalarizer,
    "eels_thickness": EelsThicknessScalarizer,
    "eds_window": EdsWindowScalarizer,
    "total_counts": TotalCountsScalarizer,
    "virtual_detector": VirtualDetectorScalarizer,
    "center_of_mass": CenterOfMassScalarizer,
    "lattice": LatticeScalarizer,
    "strain_energy": StrainEnergyScalarizer,
    "bragg_strain": BraggStrainScalarizer,
    "orientation": OrientationScalarizer,
    "cbed": cbed_scalarizer,
    "descriptor": DescriptorScalarizer,
}
CORRECTING = (VirtualDetectorScalarizer, CenterOfMassScalarizer)
"""Built-in scalarizers that correct frames in their own pass."""
STRUCTURAL = ("lattice", "strain_energy", "cbed")
"""Built-in scalarizers whose details determine an atomic structure."""


@dataclass(frozen=True)
class Definition:
    """What a configuration says of its scalarizer, before any axes are known.

    Attributes
    ----------
    name : of the scalarizer.
    factory : makes it.
    settings : what the factory gets.
    label : name of the scalar on maps; empty: the scalarizer's own.
    hash : SHA-256 (hex) of name, settings, noise and origin: rows with equal hashes were made the same way.
    structural : its details determine an atomic structure.
    corrections : of the frames; None: they are taken as they come.
    counter : of the electrons of analogue frames; None: frames are not counted. It has the corrections in it.
    """

    name: str
    factory: Factory
    settings: Any
    noise: CountingNoise
    label: str
    hash: str
    structural: bool = False
    corrections: Corrections | None = None
    counter: FrameCounter | None = None

    def make(self, axes: tuple[Axis, ...]) -> Scalarizer:
        """The bare scalarizer for frames with these signal axes; raises ValueError where the settings do not fit them."""
        if self.counter is not None:
            return CountedScalarizer(self.factory(self.settings, CountingNoise(), axes), self.counter)
        if self.corrections is None:
            return self.factory(self.settings, self.noise, axes)
        if self.factory in CORRECTING:
            return self.factory(self.settings, self.noise, axes, corrections=self.corrections)
        if len(axes) != 2:
            raise ValueError(f"corrections are of diffraction patterns; the frames have {len(axes)} axis: leave them empty")
        return CorrectedScalarizer(self.factory(self.settings, self.noise, axes), self.corrections, self.noise,
                                   tuple(axis.size for axis in axes))

    def build(self, axes: tuple[Axis, ...]) -> Bound:
        """The scalarizer for frames with these signal axes; raises ValueError where the settings do not fit them."""
        return Bound(self, tuple(axes), self.make(tuple(axes)))


class Bound:
    """A scalarizer bound to the axes of its frames. It never raises on data: what goes wrong is a marked failure."""

    def __init__(self, definition: Definition, axes: tuple[Axis, ...], scalarizer: Scalarizer) -> None:
        self.definition, self.axes, self._scalarizer = definition, axes, scalarizer
        names = tuple(str(name) for name in scalarizer.names)
        self.units = tuple(str(unit) for unit in scalarizer.units)
        if not names or len(names) != len(self.units):
            raise ValueError(f"scalarizer {definition.name!r} has {len(names)} names and {len(self.units)} units: "
                             "one unit a name, and at least one name, are needed")
        self.names = (definition.label or names[0], *names[1:])

    def __call__(self, frames: np.ndarray) -> Features:
        """Rows of frames (rows, *signal)."""
        frames = np.asarray(frames)
        signal = tuple(axis.size for axis in self.axes)
        if frames.shape[1:] != signal:
            return failed(len(frames), len(self.names), f"frames of shape {frames.shape[1:]} do not fit the axes' {signal}")
        step = max(1, CHUNK // max(1, frames[:1].nbytes))
        parts = [self._part(frames[start:start + step]) for start in range(0, max(len(frames), 1), step)]
        if len(parts) == 1:
            return parts[0]
        kept = set.intersection(*(set(part.details) for part in parts))
        return Features(np.concatenate([part.values for part in parts]),
                        np.concatenate([part.standard_errors for part in parts]),
                        [failure for part in parts for failure in part.failures],
                        {key: np.concatenate([part.details[key] for part in parts]) for key in kept})

    def _part(self, frames: np.ndarray) -> Features:
        shape = (len(frames), len(self.names))
        try:
            features = self._scalarizer(frames)
            if {features.values.shape, features.standard_errors.shape} != {shape} or len(features.failures) != shape[0]:
                raise ValueError(f"it returned values of shape {features.values.shape}, standard errors of shape "
                                 f"{features.standard_errors.shape} and {len(features.failures)} failures for {shape}")
        except Exception as error:  # noqa: BLE001  (a third party's code; its message goes to the planner with every row)
            return failed(*shape, f"scalarizer {self.definition.name} failed: {type(error).__name__}: {error}")
        return features


def available() -> dict[str, Any]:
    """Factory, or unloaded entry point, of every scalarizer by name. A built-in name cannot be taken over."""
    return {**{point.name: point for point in entry_points(group=GROUP)}, **BUILT_IN}


def unknown(name: str, known: Iterable[str]) -> str:
    """What to say of a name that is not one of the known scalarizers'."""
    return f"scalarizer {name!r} is not known; there are {', '.join(sorted(known))}" + nearest(name, known)


def define(parameters: Parameters) -> Definition:
    """The scalarizer that the parameters name.

    Raises
    ------
    ValueError : no scalarizer has this name (with the nearest known one), it cannot be loaded, or `settings` is not a
        JSON object, or is given to a scalarizer that has a parameter group.
    """
    known = available()
    name = parameters.scalarizer
    if name not in known:
        raise ValueError(unknown(name, known))
    noise = CountingNoise(parameters.counts_per_electron, parameters.readout_noise, parameters.saturation)
    source = None
    if name == "descriptor":
        source = _source(parameters)
        settings = Column(source.name, lambda _, __, axes: source.make(axes), None, parameters.descriptor.column)
        factory, origin, described = BUILT_IN[name], "edgetem", {"source": source.hash, "column": settings.column}
    elif name in BUILT_IN:
        if parameters.settings:
            raise ValueError(f"settings {parameters.settings!r}: scalarizer {name!r} is built in and takes them from "
                             f"the parameters {name}.*; leave settings empty")
        settings = _settings_of(parameters, name)
        factory, origin = BUILT_IN[name], "edgetem"
        described = {} if settings is None else settings.identity() if name == "cbed" else asdict(settings)
    else:
        point = known[name]
        settings = described = _json_object(parameters.settings)
        origin = f"{point.value} {point.dist.name} {point.dist.version}" if point.dist else point.value
        try:
            factory = point.load()
        except Exception as error:  # noqa: BLE001  (a third party's import)
            raise ValueError(f"scalarizer {name!r} ({point.value}) cannot be loaded: {error}") from error
    corrections, maps = read_corrections(parameters.corrections)
    counter = FrameCounter(parameters.counting, corrections, noise.saturation) if parameters.counting.sample else None
    if isinstance(settings, CrystalSettings):
        settings = _prepared(settings, corrections, counter)
    identity = json.dumps({"name": name, "origin": origin, "settings": described, "noise": asdict(noise)}
                          | ({"corrections": maps} if maps else {}) | ({"counting": counter.identity} if counter else {}),
                          sort_keys=True)
    # A descriptor's source has corrected and counted the frames already.
    return Definition(name, factory, settings, noise, parameters.label, hashlib.sha256(identity.encode()).hexdigest(),
                      name in STRUCTURAL or source is not None and source.structural, None if source else corrections,
                      None if source else counter)


def _prepared(settings: CrystalSettings, corrections: Corrections | None, counter: FrameCounter | None) -> CrystalSettings:
    """Settings of a scalarizer that learns from raw frames, which are made what it will be given."""
    if counter is not None:
        return replace(settings, prepare=lambda frames: counter(frames)[0].frames())
    if corrections is not None:
        mask = None if corrections.dead is None else corrections.known(corrections.dead.shape)
        return replace(settings, prepare=corrections.applied, mask=mask)
    return settings


def _source(parameters: Parameters) -> Definition:
    """The scalarizer whose column `descriptor` takes."""
    if parameters.descriptor.source == "descriptor":
        raise ValueError("descriptor.source is 'descriptor' itself: name the scalarizer that makes the columns")
    return define(replace(parameters, scalarizer=parameters.descriptor.source, label=""))


def _settings_of(parameters: Parameters, name: str) -> Any:
    """What the factory of a built-in scalarizer gets."""
    if name == "lattice":
        return parameters.resolved_lattice()
    if name == "strain_energy":
        return ElasticSheet(parameters.strain_energy, parameters.resolved_lattice())
    if name in ("bragg_strain", "orientation"):
        return CrystalSettings(getattr(parameters, name), PatternInstrument.of(parameters))
    if name == "cbed":
        return CbedSettings.of(parameters)
    return getattr(parameters, name, None)


def build(parameters: Parameters, axes: tuple[Axis, ...]) -> Bound:
    """The scalarizer that the parameters name, for frames with these signal axes: checks a configuration before a run.

    Raises
    ------
    ValueError : see `define`; or the settings do not fit the axes, e.g. a window outside the energy axis.
    """
    return define(parameters).build(axes)


def measure(frames: np.ndarray, axes: tuple[Axis, ...], parameters: Parameters) -> Features:
    """Exactly what the node computes, for frames (rows, *signal) at hand: a full map for a report or a baseline.

    Columns are named by `build(parameters, axes).names`.

    Raises
    ------
    ValueError : see `build`.
    """
    return build(parameters, axes)(frames)


def _json_object(text: str) -> dict[str, Any]:
    if not text:
        return {}
    try:
        value = json.loads(text)
    except json.JSONDecodeError as error:
        raise ValueError(f"settings {text!r} is not JSON: {error}") from None
    if not isinstance(value, dict):
        raise ValueError(f"settings {text!r} must be a JSON object, e.g. '{{\"order\": 2}}'")
    return value
