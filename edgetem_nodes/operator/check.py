"""What an experiment will do and cost, found out before it starts: opens its files, fits its scalarizer to its axes."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np

from edgetem_nodes.detector.sources import make_source
from edgetem_nodes.featurizer.cbed.completeness import WeightsWarning
from edgetem_nodes.featurizer.live_images import LiveImages
from edgetem_nodes.featurizer.micro_scan.conditions import BeatingWarning
from edgetem_nodes.featurizer.patterns.instrument import PatternInstrument
from edgetem_nodes.featurizer.scalarizers import STRUCTURAL, Bound, build
from edgetem_nodes.graph.configuration import Configuration, nearest
from edgetem_nodes.graph.instrument import Instrument
from edgetem_nodes.microscope.drift_tracking import SOONEST, DriftTracker
from edgetem_nodes.microscope.drivers import MicroscopeDriver, Survey, initial_exposure, make_driver
from edgetem_nodes.microscope.parameters import Parameters as MicroscopeParameters
from edgetem_nodes.operator.experiment import SCHEMAS
from edgetem_nodes.operator.settings import Settings, possible_micro_scan, possible_settings
from edgetem_nodes.physics.counting import SURVEY
from edgetem_nodes.physics.scan import Axis, ScanField
from edgetem_nodes.physics.summary import summary
from edgetem_nodes.planner import energy_map
from edgetem_nodes.planner.parameters import Parameters as PlannerParameters
from edgetem_nodes.planner.patches import patches

ANGSTROM2 = 1e-20
"""[m²]."""
MANY_CANDIDATES = 65536
"""Positions beyond which a decision takes long: the model's covariance with every one of them is worked out."""
CAVEATS = (WeightsWarning, BeatingWarning)
"""Warnings that belong to the plan."""
ELECTRONVOLT = 1.602176634e-19
"""[J], exact (SI)."""


class CheckError(ValueError):
    """A configuration that cannot be run; the message says what to change."""


@dataclass(frozen=True)
class Tracking:
    """Drift tracking of a plan: `images` at the usual interval, `most` where every one comes as soon as it may.

    `pixels` of an image, `electrons` and `seconds` that it costs; `remark` says what of the plan lasts longer than the
    interval, empty where nothing does.
    """

    images: int
    most: int
    pixels: int
    electrons: float
    seconds: float
    remark: str

    def line(self, electrons: float) -> str:
        """For people, given the electrons of everything else."""
        cost = self.images * self.electrons
        return (f"drift          {self.images} reference images of {self.pixels} pixels, at most {self.most}: {cost:.3g} "
                f"electrons ({100 * cost / electrons if electrons else 0:.1f} % of the rest), "
                f"{self.images * self.seconds:.2f} s, besides the cost above" + (f"; {self.remark}" if self.remark else ""))


@dataclass(frozen=True)
class Plan:
    """What the experiment will do.

    Attributes
    ----------
    points : positions to be measured at most, initial ones counted.
    point_electrons, survey_electrons : dose of a point, with the setting that costs most, and of the survey [electrons].
    beam_time : of all points, with the longest dwell time, and the survey [s].
    data_bytes : detector data before compression [byte].
    """

    source: str
    driver: str
    field: ScanField
    axes: tuple[Axis, ...]
    frame_bytes: int
    scalar: tuple[str, str]
    scalarizer: str
    acquisition_function: str
    points: int
    initial_points: int
    batch_points: int
    point_electrons: float
    survey_electrons: float
    beam_time: float
    energies: int
    tracking: Tracking | None = None
    simulated: str = ""
    """What is simulated; empty for measured data."""
    micro_scan: str = ""
    """Line on the micro-scan at each site; empty: none."""
    warnings: tuple[str, ...] = ()
    """What is to be known before the experiment is trusted."""
    aim: str = ""
    """What an energy map is of and how certain it is to be; empty: none is made."""
    settings: str = ""
    """Line on what is free besides the position; empty: nothing."""

    @property
    def candidates(self) -> int:
        """Positions of the field."""
        return int(np.prod(self.field.shape))

    def lines(self) -> list[str]:
        """The plan for people."""
        rows, columns = self.field.shape
        area = self.candidates * float(np.prod(self.field.step)) / ANGSTROM2
        electrons = self.survey_electrons + self.points * self.point_electrons
        unit = f" [{self.scalar[1]}]" if self.scalar[1] else ""
        batches = max(0, -(-(self.points - self.initial_points) // self.batch_points))
        result = [
            f"configuration  {self.source}",
            f"instrument     {self.driver}, field {rows} x {columns} positions, step "
            f"{self.field.step[0] * 1e9:.4g} x {self.field.step[1] * 1e9:.4g} nm",
            *([f"simulated      {self.simulated}"] if self.simulated else []),
            f"frames         {' x '.join(describe(axis) for axis in self.axes)}, {self.frame_bytes / 1024:.1f} KiB each",
            f"scalar         {self.scalar[0]}{unit} by {self.scalarizer}",
            f"plan           {self.initial_points} initial points, then {batches} batches of {self.batch_points} by "
            f"{self.acquisition_function.replace('_', ' ')}: {self.points} of {self.candidates} positions",
            f"cost           {self.points} points, {electrons:.3g} electrons ({electrons / area:.3g} e/Å² over the field, "
            f"{100 * self.survey_electrons / electrons if electrons else 0:.0f} % for the survey), "
            f"{self.beam_time:.2f} s of beam time, {self.points * self.frame_bytes / 1e6:.1f} MB of data"
            + (" (current and dwell time as configured)" if self.driver == "replay" else "")
            + (" at most" if self.settings else ""),
        ]
        result += [line for line in (self.settings, self.micro_scan) if line]
        result += [f"map            {self.aim}"] if self.aim else []
        result += [f"WARNING        {line}" for line in self.warnings]
        if self.candidates > MANY_CANDIDATES:
            result.append(f"decisions      will take long: the model predicts {self.candidates} positions for each, more than "
                          f"{MANY_CANDIDATES}; a field of fewer positions is decided on faster")
        if self.tracking is not None:
            result.append(self.tracking.line(electrons))
        return result + ([f"energies       {self.energies} structures"] if self.energies else [])


def check(configuration: Configuration) -> Plan:
    """Open what the configuration names and work out the plan.

    Raises
    ------
    CheckError : a file is missing, truncated or of an unknown kind, the survey has another shape, the scalarizer is
        unknown or does not fit the axes, the plan does not fit the field or a dose limit, or the planner asks for what there
        is not: a column, a device, a verdict without confidence.
    """
    microscope = configuration.parameters("microscope", SCHEMAS["microscope"])
    planner = configuration.parameters("planner", SCHEMAS["planner"])
    instrument = microscope.instrument
    driver = source = None
    consistent(configuration)
    try:
        driver = make_driver(instrument, microscope.seed)
        source = make_source(instrument, microscope.seed)
        dwell = instrument.dwell_ms * 1e-3
        source.check_dwell(dwell)
        featurizer = configuration.parameters("featurizer", SCHEMAS["featurizer"])
        caveats: list[str] = []
        with _heard(caveats):
            scalarizer = build(featurizer, tuple(source.axes))
        LiveImages(featurizer.live.images, PatternInstrument.of(featurizer))
        field = driver.field
        survey = _survey(instrument, driver)
        _has_columns(planner.outputs, scalarizer)
        settings = possible_settings(planner.actions, instrument, driver, source, scalarizer.definition)
        with _heard(caveats):
            scan = possible_micro_scan(planner.micro_scan, instrument, driver, source, scalarizer.definition)
        energy_map.check(planner)
        caveats += energy_map.caveats(planner)
        period = settings.dwell + instrument.settling_us * 1e-6 + (scan.dwell + instrument.settling_us * 1e-6 if scan else 0.0)
        electrons = settings.electrons + (scan.electrons if scan else 0.0)
        patches(survey.data, planner.model.patch_size)
        _position_is_paid_for(planner.position_dose_limit, survey.dose / int(np.prod(field.shape)), settings)
        points = affordable_points(planner, settings.kinds * int(np.prod(field.shape)), survey.dose, electrons, period)
        plan = Plan(source=str(configuration.source), driver=instrument.driver, field=field, axes=tuple(source.axes),
                    frame_bytes=int(np.prod(source.frame_shape)) * source.dtype.itemsize + (scan.frame_bytes if scan else 0),
                    scalar=(energy_map.NAME, energy_map.UNIT) if planner.energetics.mapped else
                    (scalarizer.names[0], scalarizer.units[0]), scalarizer=scalarizer.definition.name,
                    acquisition_function=planner.acquisition_function, points=points,
                    initial_points=min(planner.initial_points, points), batch_points=planner.batch_points,
                    point_electrons=electrons, survey_electrons=survey.dose,
                    beam_time=survey.duration + points * period,
                    energies=points if planner.energetics.mapped else planner.energetics.points,
                    micro_scan=scan.line() if scan else "",
                    warnings=tuple(dict.fromkeys(caveats)), aim=energy_map.aim(planner), settings=settings.line(),
                    tracking=_tracking(microscope, planner, driver, points, period),
                    simulated="" if instrument.driver == "replay" else
                    summary(source.simulation.settings, source.simulation.specimen))
    except CheckError:
        raise
    except (ValueError, OSError) as error:
        raise CheckError(f"{configuration.source.name}: {error}") from None
    finally:
        for opened in (driver, source):
            if opened is not None:
                opened.close()
    areal = plan.point_electrons / driver.pixel_area_m2 * ANGSTROM2
    if 0 < instrument.limits.areal_dose_e_per_A2 < areal:
        raise CheckError(f"{configuration.source.name}: one point costs {areal:.3g} e/Å², more than "
                         f"instrument.limits.areal_dose_e_per_A2, {instrument.limits.areal_dose_e_per_A2:.3g}: lower "
                         "instrument.dwell_ms or instrument.probe_current_pA")
    limit = instrument.limits.electrons
    total = plan.survey_electrons + plan.points * plan.point_electrons
    if plan.tracking is not None:
        total += plan.tracking.images * plan.tracking.electrons
    if limit and total > limit:
        raise CheckError(f"{configuration.source.name}: survey, reference images and {plan.points} points cost {total:.3g} "
                         f"electrons, more than instrument.limits.electrons, {limit:.3g}: lower planner.point_budget or the "
                         "dwell time")
    return plan


@contextmanager
def _heard(caveats: list[str]) -> Iterator[None]:
    """Meanwhile warnings of weights and micro-scans that are not to be trusted are kept for the plan; others go on."""
    with warnings.catch_warnings(record=True) as heard:
        for kept in CAVEATS:
            warnings.simplefilter("always", kept)
        yield
    for one in heard:
        if issubclass(one.category, CAVEATS):
            caveats.append(str(one.message))
        else:
            warnings.warn_explicit(one.message, one.category, one.filename, one.lineno)


def _survey(instrument: Instrument, driver: MicroscopeDriver) -> Survey:
    """The survey of measured data, which may not fit; of a simulated specimen only its size and cost: it takes seconds."""
    dwell = instrument.survey_dwell_us * 1e-6
    if instrument.driver == "replay":
        return driver.overview(initial_exposure(driver, dwell, dwell, SURVEY))
    positions = int(np.prod(driver.field.shape))
    return Survey(["haadf"], np.zeros((1, *driver.field.shape)), driver.electrons(positions, dwell), positions * dwell)


def _tracking(microscope: MicroscopeParameters, planner: PlannerParameters, driver: MicroscopeDriver, points: int,
              period: float) -> Tracking | None:
    """What drift tracking costs; None where there is none. It is looked at before every acquisition, never within one."""
    wanted, overhead = microscope.drift_tracking, microscope.overhead_ms * 1e-3
    if not wanted.enabled:
        return None
    batches = [min(planner.initial_points, points)]
    while sum(batches) < points:
        batches.append(min(planner.batch_points, points - sum(batches)))

    def images(part: float) -> int:
        """Reference images where one is taken after a part of the interval."""
        taken, visited, elapsed = 0, 0, 0.0
        for batch in batches:
            if 0 < part * wanted.every_points <= visited or 0 < part * wanted.every_s <= elapsed:
                taken, visited, elapsed = taken + 1, 0, 0.0
            visited, elapsed = visited + batch, elapsed + batch * period + overhead
        return taken

    tracker, longest = DriftTracker(wanted, driver.field), max(batches)
    if tracker.unfit:
        raise CheckError(f"drift cannot be tracked: {tracker.unfit}; take a larger field, or set "
                         "microscope.drift_tracking.every_points and every_s to 0")
    pixels = int(np.prod(tracker.side))
    remark = ""
    if 0 < wanted.every_points < longest or 0 < wanted.every_s < longest * period:
        remark = (f"{longest} points at once take longer than the interval: the rate measured last carries them; lower "
                  "planner.batch_points or planner.initial_points")
    return Tracking(images(1.0), images(SOONEST if wanted.largest_error_px else 1.0), pixels,
                    driver.electrons(pixels, tracker.dwell), pixels * tracker.dwell + overhead, remark)


def consistent(configuration: Configuration) -> None:
    """Check what one node's parameters demand of another's.

    Raises
    ------
    CheckError : nodes disagree about the instrument, a dwell time is outside its limits, energies are asked for of data
        that gives no structure, a discovery has a level but no confidence, the model's device is not there, or a node to
        bring up does not exist.
    """
    name, nodes = configuration.source.name, configuration.nodes
    for key, value in nodes["microscope"].items():
        for other in ("detector", "featurizer"):
            if key.startswith("instrument.") and nodes[other].get(key, value) != value:
                raise CheckError(f"{name}: {key} is {value!r} for microscope and {nodes[other][key]!r} for {other}: set it "
                                 "once, under '/**'")
    instrument = configuration.parameters("microscope", SCHEMAS["microscope"]).instrument
    if not instrument.limits.shortest_dwell_ms <= instrument.dwell_ms <= instrument.limits.longest_dwell_ms:
        raise CheckError(f"{name}: instrument.dwell_ms {instrument.dwell_ms:g} ms is outside instrument.limits, "
                         f"{instrument.limits.shortest_dwell_ms:g} to {instrument.limits.longest_dwell_ms:g} ms")
    asked = next((key for key in ("energetics.points", "energetics.mapped") if nodes["planner"][key]), None)
    if asked and nodes["featurizer"]["scalarizer"] not in STRUCTURAL:
        raise CheckError(f"{name}: planner.{asked} asks for energies, but scalarizer "
                         f"{nodes['featurizer']['scalarizer']!r} gives no structure: only "
                         f"{' and '.join(map(repr, STRUCTURAL))} do")
    _verdict_and_device(nodes["planner"], name)
    for node in nodes["operator"]["nodes"]:
        if node not in nodes:
            raise CheckError(f"{name}: operator.nodes names {node!r}, which is no node" + nearest(node, nodes))
    together = nodes["operator"]["together"]
    for node in together:
        if node not in nodes["operator"]["nodes"]:
            raise CheckError(f"{name}: operator.together names {node!r}, which is none of operator.nodes"
                             + nearest(node, nodes["operator"]["nodes"]))
    if len(together) == 1 or len(set(together)) < len(together):
        raise CheckError(f"{name}: operator.together {together} must name two nodes or more, each once, or none")


def _verdict_and_device(planner: dict[str, Any], name: str) -> None:
    """Refuse a level of discovery that nothing would be tested against, and a device that is not there (CheckError)."""
    level, device = planner["discovery.level"], planner["model.device"]
    if level and not planner["discovery.confidence"]:
        raise CheckError(f"{name}: planner.discovery.level {level:g} is set but planner.discovery.confidence is 0, so nothing "
                         "would be tested: set the confidence, e.g. 0.95, or take the level back to 0")
    if device == "cuda":
        # Torch takes seconds to import: only where its answer matters.
        import torch

        if not torch.cuda.is_available():
            raise CheckError(f"{name}: planner.model.device is 'cuda', but PyTorch finds no CUDA device on this machine: set "
                             "it to 'cpu', or run where there is one")


def _has_columns(outputs: list[str], scalarizer: Bound) -> None:
    """Refuse outputs that are no column of the scalarizer (CheckError)."""
    for output in outputs:
        if output not in scalarizer.names:
            raise CheckError(f"planner.outputs names {output!r}, which is no column of scalarizer "
                             f"{scalarizer.definition.name!r}; it has {', '.join(scalarizer.names)}"
                             + nearest(output, scalarizer.names))


def _position_is_paid_for(limit: float, survey: float, settings: Settings) -> None:
    """Refuse a dose limit of a position that no visit, or no visit of the initial scan, keeps (CheckError); 0: no limit."""
    for electrons, which in ((settings.cheapest, "the cheapest setting"),
                             (settings.first, "the first setting, which the initial scan is measured with")):
        if 0 < limit * (1 + 1e-9) < survey + electrons:
            raise CheckError(f"planner.position_dose_limit {limit:.4g} electrons is less than the survey's share of a "
                             f"position, {survey:.4g}, and one visit with {which}, {electrons:.4g}: raise it, or lower the "
                             "dwell time, the probe current or instrument.survey_dwell_us")


def affordable_points(planner: PlannerParameters, candidates: int, survey_dose: float, point_dose: float,
                      period: float) -> int:
    """Visits that every budget of the planner allows, at most all candidates.

    Raises
    ------
    CheckError : a budget does not pay for the survey and the initial scan.
    """
    points = min(planner.point_budget, candidates)
    limits = (("dose_budget", planner.dose_budget, survey_dose, point_dose, "electrons"),
              ("time_budget_s", planner.time_budget_s, 0.0, period, "s"))
    for key, budget, base, each, unit in limits:
        if budget <= 0 or each <= 0:
            continue
        allowed = int((budget - base) / each + 1e-9)
        if allowed < min(planner.initial_points, points):
            raise CheckError(f"planner.{key} {budget:.3g} {unit} does not pay for the survey ({base:.3g}) and "
                             f"{planner.initial_points} initial points of {each:.3g} {unit}: raise it, or lower "
                             "planner.initial_points or the dwell time")
        points = min(points, allowed)
    return points


def describe(axis: Axis) -> str:
    """An axis for people: size, range and unit in the field's habits (eV, mrad)."""
    factor, unit = {"J": (1 / ELECTRONVOLT, "eV"), "rad": (1e3, "mrad"), "m": (1e9, "nm")}.get(axis.unit, (1.0, axis.unit))
    low, high = axis.offset * factor, (axis.offset + axis.scale * (axis.size - 1)) * factor
    return f"{axis.size} {axis.name}" + (f" ({low:.4g} to {high:.4g} {unit})" if axis.unit else "")
