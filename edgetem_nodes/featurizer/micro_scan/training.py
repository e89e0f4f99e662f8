"""Training of the micro-scan network from nothing, as `edgetem train cbed` runs it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from edgetem_nodes.featurizer.cbed.training.registry import Trained, TrainingRun
from edgetem_nodes.featurizer.micro_scan.calibrating import calibrated
from edgetem_nodes.featurizer.micro_scan.columns import Calibration
from edgetem_nodes.featurizer.micro_scan.fitting import FittingSettings, described_sites, fit, fit_columns
from edgetem_nodes.featurizer.micro_scan.generator import MicroScanGenerator, Ranges
from edgetem_nodes.featurizer.micro_scan.hosts import BY_NAME, HOSTS
from edgetem_nodes.featurizer.micro_scan.network import MicroScanNetwork
from edgetem_nodes.featurizer.micro_scan.sheets import Sheets
from edgetem_nodes.featurizer.micro_scan.training_set import training_set
from edgetem_nodes.graph.configuration import ConfigurationError, group, parameter


@dataclass
class Conditions:
    """From what conditions micro-scans are drawn: least and greatest; see `generator.Ranges` for the others."""

    high_tension_kV: list[float] = parameter([60.0, 100.0], "of the beam", unit="kV")
    semi_convergence_mrad: list[float] = parameter([25.0, 30.0], "of the probe", unit="mrad")
    step_pm: list[float] = parameter([40.0, 130.0], "between probes", unit="pm")
    points: list[int] = parameter([4, 8], "along each axis")
    electrons: list[float] = parameter([3e3, 1e6], "in a pattern, logarithmic")
    defocus_nm: list[float] = parameter([-2.0, 2.0], "stated; the true one is up to 2 nm off", unit="nm")
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

    epochs: int = parameter(10, "of the site network, over the set, each time turned or mirrored anew", minimum=1, maximum=1000)
    rows: int = parameter(32, "micro-scans in a step", minimum=2, maximum=4096)
    rate: float = parameter(3e-3, "largest learning rate", minimum=1e-6, maximum=0.1)
    width: int = parameter(28, "channels of the site network", minimum=4, maximum=512)
    column_epochs: int = parameter(12, "of the column network", minimum=1, maximum=1000)
    column_rate: float = parameter(4e-3, "its largest learning rate", minimum=1e-6, maximum=0.1)
    column_width: int = parameter(48, "its neurons in a layer", minimum=4, maximum=2048)


@dataclass
class MicroScanTraining:
    """The micro-scan network."""

    network: str = parameter("micro_scan", "which network", choices=("micro_scan",))
    seed: int = parameter(1, "of everything random", minimum=0, maximum=2**31 - 1)
    hosts: list[str] = parameter(["graphene", "h-BN", "MoS2", "WS2"], "sheets")
    batches: int = parameter(60, "conditions that are drawn", minimum=1, maximum=100_000)
    rows: int = parameter(64, "micro-scans under each", minimum=2, maximum=4096)
    validation: int = parameter(6, "conditions kept apart", minimum=1, maximum=1000)
    members: int = parameter(2, "networks of the ensemble", minimum=1, maximum=8)
    calibration_batches: int = parameter(14, "conditions of 12 micro-scans from which errors are calibrated", minimum=1,
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
        settings = replace(settings, batches=2, rows=8, validation=1, members=1, calibration_batches=1,
                           fitting=Fitting(epochs=1, column_epochs=1))
    torch.set_num_threads(1)
    generator = MicroScanGenerator(settings.conditions.ranges(), tuple(BY_NAME[name] for name in settings.hosts))
    data = training_set(generator, settings.batches + settings.validation, settings.rows, settings.seed,
                        Path(settings.cache) if settings.cache else None, _stage(run, "micro-scans"))
    kept = data[settings.batches:]
    fitting = FittingSettings(**vars(settings.fitting))
    sites, columns, curves = [], [], {}
    for number in range(settings.members):
        stage = f"network {number + 1} of {settings.members}"
        column, curve = fit_columns(data[:settings.batches], kept, fitting, settings.seed + number, run.stopped)
        columns.append(column)
        curves[f"columns, {stage}: loss"], curves[f"columns, {stage}: validation"] = curve.training, curve.validation
        site, curve = fit(data[:settings.batches], kept, fitting, settings.seed + number, run.device, _stage(run, stage),
                          run.stopped)
        sites.append(site)
        curves[f"sites, {stage}: loss"], curves[f"sites, {stage}: validation"] = curve.training, curve.validation
    beams = [generator.scan(np.random.default_rng([settings.seed, number])) for number in range(settings.batches)]
    first = Calibration(sheets=Sheets.of([(pair, sheet, beams[number]) for pair, sheet, number
                                          in described_sites(data[:settings.batches]).sheets]))
    # as they will be used: in half precision
    draft = MicroScanNetwork.of(*MicroScanNetwork(sites, columns, first).described())
    calibration, figures = calibrated(draft, generator, settings.seed + 7919, settings.calibration_batches,
                                      progress=_stage(run, "calibration"), lenient=run.quick)
    arrays, described = MicroScanNetwork(sites, columns, calibration).described()
    described["training"] = asdict(settings) | {"cache": ""}
    return Trained(arrays, described, _card(settings, figures), curves)


def _stage(run: TrainingRun, name: str) -> Callable[[int, int, str], None]:
    return lambda done, total, text="": run.report(name, done, total, text)


def _card(settings: MicroScanTraining, figures: dict[str, Any]) -> dict[str, Any]:
    return {
        "network": "micro_scan",
        "purpose": "atoms, vacancies and dopants of a sheet from a square of focused-probe patterns",
        "data": f"{settings.batches * settings.rows} micro-scans of {', '.join(settings.hosts)} under {settings.batches} "
                "beams, drawn by featurizer/micro_scan/generator.py",
        "not_trained_on": ", ".join(host.name for host in HOSTS if host.name not in settings.hosts),
        "figures": [figures],
        "not_for": "thick crystals, several layers, amorphous films, edges of sheets, optics or doses outside the conditions",
        "notes": [f"position error calibrated on {figures['sites']:.0f} sites; 90 % ellipses held "
                  f"{figures['coverage90_before']:.3f} of them before"],
    } if np.isfinite(figures.get("sites", np.nan)) else {"network": "micro_scan", "figures": [], "notes": ["not calibrated"]}
