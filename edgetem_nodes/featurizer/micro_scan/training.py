"""Training of the micro-scan network from nothing, as `edgetem train cbed` runs it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from edgetem_nodes.featurizer.cbed.training.registry import Trained, TrainingError, TrainingRun
from edgetem_nodes.featurizer.cbed.training.workers import cores
from edgetem_nodes.featurizer.micro_scan.calibrating import calibrated
from edgetem_nodes.featurizer.micro_scan.columns import Calibration
from edgetem_nodes.featurizer.micro_scan.fitting import FittingSettings, fit, pooled
from edgetem_nodes.featurizer.micro_scan.generator import MicroScanGenerator, Ranges
from edgetem_nodes.featurizer.micro_scan.hosts import BY_NAME, HOSTS
from edgetem_nodes.featurizer.micro_scan.model import SiteNetwork
from edgetem_nodes.featurizer.micro_scan.network import MicroScanNetwork
from edgetem_nodes.featurizer.micro_scan.sheets import Seen, Sheets
from edgetem_nodes.featurizer.micro_scan.species import SpeciesNetwork
from edgetem_nodes.featurizer.micro_scan.species_fitting import SiteTable, fit_species
from edgetem_nodes.featurizer.micro_scan.training_set import LabelledImages, training_set
from edgetem_nodes.graph.configuration import ConfigurationError, group, parameter


@dataclass
class Conditions:
    """From what conditions micro-scans are drawn: least and greatest; see `generator.Ranges` for the others."""

    high_tension_kV: list[float] = parameter([60.0, 100.0], "of the beam", unit="kV")
    semi_convergence_mrad: list[float] = parameter([25.0, 30.0], "of the probe", unit="mrad")
    step_pm: list[float] = parameter([40.0, 250.0], "between probes", unit="pm")
    points: list[int] = parameter([4, 8], "along each axis")
    electrons: list[float] = parameter([3e3, 1e6], "in a pattern, logarithmic")
    defocus_nm: list[float] = parameter([-2.0, 9.0], "stated; the true one is up to 2 nm off", unit="nm")
    source_size_pm: list[float] = parameter([0.0, 80.0], "full width at half maximum, unknown", unit="pm")

    def ranges(self) -> Ranges:
        """In SI units.

        Raises
        ------
        ConfigurationError : an entry is not a least and a greatest value.
        """
        for name, value in vars(self).items():
            if len(value) != 2 or value[0] > value[1]:
                raise ConfigurationError(f"conditions.{name} {value} must be a least and a greatest value")
        scaled = lambda pair, factor: (pair[0] * factor, pair[1] * factor)  # noqa: E731
        return Ranges(scaled(self.high_tension_kV, 1e3), scaled(self.semi_convergence_mrad, 1e-3), scaled(self.step_pm, 1e-12),
                      (self.points[0], self.points[1]), electrons=scaled(self.electrons, 1.0),
                      defocus=scaled(self.defocus_nm, 1e-9), source_size=scaled(self.source_size_pm, 1e-12))


@dataclass
class Fitting:
    """Fitting of each network."""

    epochs: int = parameter(16, "of the site network, over the set, each time turned or mirrored anew", minimum=1, maximum=1000)
    rows: int = parameter(64, "micro-scans in a step", minimum=2, maximum=4096)
    rate: float = parameter(3e-3, "largest learning rate", minimum=1e-6, maximum=0.1)
    width: int = parameter(32, "channels of the site network", minimum=4, maximum=512)
    species_epochs: int = parameter(16, "of the species network", minimum=1, maximum=1000)
    species_sites: int = parameter(4096, "sites in a step", minimum=2, maximum=10**6)
    species_rate: float = parameter(3e-3, "its largest learning rate", minimum=1e-6, maximum=0.1)
    species_width: int = parameter(64, "its neurons in a layer", minimum=4, maximum=2048)


@dataclass
class MicroScanTraining:
    """The micro-scan network."""

    network: str = parameter("micro_scan", "which network", choices=("micro_scan",))
    seed: int = parameter(1, "of everything random", minimum=0, maximum=2**31 - 1)
    workers: int = parameter(0, "processes that draw and calibrate; 0: one for each core", minimum=0, maximum=1024)
    hosts: list[str] = parameter(["graphene", "h-BN", "MoS2", "WS2"], "sheets")
    batches: int = parameter(176, "conditions that are drawn", minimum=1, maximum=100_000)
    rows: int = parameter(64, "micro-scans under each", minimum=2, maximum=4096)
    validation: int = parameter(12, "conditions kept apart", minimum=1, maximum=1000)
    members: int = parameter(2, "networks of the ensemble", minimum=1, maximum=8)
    calibration_batches: int = parameter(40, "conditions of 12 micro-scans from which errors are calibrated", minimum=1,
                                         maximum=1000)
    cache: str = parameter("", "folder that keeps training sets; empty: none is kept", path=True)
    conditions: Conditions = group(Conditions)
    fitting: Fitting = group(Fitting)


SETTINGS = MicroScanTraining


def train(settings: MicroScanTraining, run: TrainingRun) -> Trained:
    """Train and calibrate an ensemble.

    Raises
    ------
    ConfigurationError : a host is not known, or a condition is not a range.
    """
    for host in settings.hosts:
        if host not in BY_NAME:
            raise ConfigurationError(f"host {host!r} is not one of {', '.join(BY_NAME)}")
    if run.quick:
        settings = replace(settings, batches=min(settings.batches, 3), rows=min(settings.rows, 8), validation=1, members=1,
                           calibration_batches=1, fitting=replace(settings.fitting, epochs=1, species_epochs=1))
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        return _trained(settings, run)
    finally:
        torch.set_num_threads(threads)


def _trained(settings: MicroScanTraining, run: TrainingRun) -> Trained:
    workers = settings.workers or cores()
    generator = MicroScanGenerator(settings.conditions.ranges(), tuple(BY_NAME[name] for name in settings.hosts))
    data = training_set(generator, settings.batches + settings.validation, settings.rows, settings.seed,
                        Path(settings.cache) if settings.cache else None, _stage(run, "micro-scans"), workers, run.stopped)
    run.needs("drawing of micro-scans", len(data) / (settings.batches + settings.validation))
    if len(data) <= settings.validation:
        raise TrainingError(f"{len(data)} conditions were drawn before the training was ended, and {settings.validation} of "
                            "them are for validation: nothing is left to train on")
    kept, data = data[-settings.validation:], data[:-settings.validation]
    fitting = FittingSettings(**vars(settings.fitting))
    sheets = Calibration(sheets=Sheets.of(described_sheets(data)))
    networks, curves = _fitted(settings, fitting, data, kept, run)
    # as they will be used: in half precision
    draft = MicroScanNetwork.of(*MicroScanNetwork(*networks, sheets).described())
    run.keep(*draft.described())
    count = len(data)
    del data, kept
    calibration, figures = calibrated(draft, generator, settings.seed + 7919, settings.calibration_batches,
                                      progress=_stage(run, "calibration"), lenient=run.quick, workers=workers)
    arrays, described = MicroScanNetwork(*networks, calibration).described()
    described["training"] = {name: value for name, value in asdict(settings).items() if name not in ("cache", "workers")}
    run.keep(arrays, described)
    return Trained(arrays, described, _card(settings, count, figures), curves)


def _fitted(settings: MicroScanTraining, fitting: FittingSettings, data: list[LabelledImages], kept: list[LabelledImages],
            run: TrainingRun) -> tuple[tuple[list[SiteNetwork], list[SpeciesNetwork]], dict[str, list[float]]]:
    """Members of both kinds, and their curves."""
    sites, species, curves = [], [], {}
    tables = [SiteTable.of(one, run.device) for one in (data, kept)]
    for number in range(settings.members):
        stage = f"{number + 1} of {settings.members}"
        network, curve = fit_species(*tables, fitting, settings.seed + number, _stage(run, f"species network {stage}"),
                                     run.stopped)
        run.needs(f"species network {stage}", len(curve.training) / fitting.species_epochs)
        species.append(network)
        curves[f"species network {stage}: loss"] = curve.training
        curves[f"species network {stage}: validation"] = curve.validation
    del tables
    pools = [pooled(one, run.device) for one in (data, kept)]
    for number in range(settings.members):
        stage = f"site network {number + 1} of {settings.members}"
        if number and run.stopped():
            break
        network, curve = fit(*pools, fitting, settings.seed + number, _stage(run, stage), run.stopped)
        done = len(curve.training) / fitting.epochs
        if not number:
            run.needs(stage, done)
        elif done < 1:
            break
        sites.append(network)
        curves[f"{stage}: loss"], curves[f"{stage}: validation"] = curve.training, curve.validation
    return (sites, species[:len(sites)]), curves


def described_sheets(data: list[LabelledImages]) -> list[tuple[tuple[int, int], Seen, np.ndarray]]:
    """Micro-scans of sheets as `Sheets.of` takes them."""
    return [((int(pair[0]), int(pair[1])), Seen(seen[:4], seen[4:8], seen[8:]), amplitudes) for one in data
            for pair, seen, amplitudes in zip(one.pairs, one.sheets, one.amplitudes, strict=True)
            if pair.min() >= 0 and np.isfinite(seen).all()]


def _stage(run: TrainingRun, name: str) -> Callable[[int, int, str], None]:
    return lambda done, total, text="": run.report(name, done, total, text)


def _card(settings: MicroScanTraining, count: int, figures: dict[str, Any]) -> dict[str, Any]:
    return {
        "network": "micro_scan",
        "purpose": "atoms, vacancies and dopants of a sheet from a square of focused-probe patterns",
        "data": f"{count * settings.rows} micro-scans of {', '.join(settings.hosts)} under {count} "
                "beams, drawn by featurizer/micro_scan/generator.py",
        "not_trained_on": ", ".join(host.name for host in HOSTS if host.name not in settings.hosts),
        "figures": [figures],
        "not_for": "thick crystals, several layers, amorphous films, edges of sheets, optics or doses outside the conditions",
        "notes": [f"position error calibrated on {figures['sites']:.0f} sites; 90 % ellipses held "
                  f"{figures['coverage90_before']:.3f} of them before"],
    } if np.isfinite(figures.get("sites", np.nan)) else {"network": "micro_scan", "figures": [], "notes": ["not calibrated"]}
