"""Training of the micro-scan network from nothing: generator, ensemble, calibration, model card."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from edgetem_nodes.featurizer.micro_scan.calibrating import calibrated
from edgetem_nodes.featurizer.micro_scan.fitting import Curves, FittingSettings, fit
from edgetem_nodes.featurizer.micro_scan.generator import MicroScanGenerator, Ranges
from edgetem_nodes.featurizer.micro_scan.hosts import BY_NAME, CLASSES
from edgetem_nodes.featurizer.micro_scan.network import Calibration, MicroScanNetwork
from edgetem_nodes.featurizer.micro_scan.training_set import training_set


@dataclass(frozen=True)
class Training:
    """What a training consists of; the keys of config/train_micro_scan.yaml.

    Attributes
    ----------
    batches : conditions drawn; rows : micro-scans under each; validation : conditions kept apart.
    members : networks of the ensemble; fitting : of each; hosts : sheets, by `hosts.BY_NAME`; ranges : of conditions.
    cache : folder of training sets; empty: none is kept.
    """

    batches: int = 100
    rows: int = 64
    validation: int = 10
    members: int = 2
    hosts: tuple[str, ...] = ("graphene", "h-BN", "MoS2", "WS2")
    fitting: FittingSettings = FittingSettings()
    ranges: Ranges = Ranges()
    cache: str = ""

    @classmethod
    def of(cls, config: Mapping[str, Any]) -> Training:
        """From a configuration's mapping.

        Raises
        ------
        ValueError : a key is not known, or a host is not.
        """
        values = dict(config)
        groups = {"fitting": FittingSettings, "ranges": Ranges}
        for name, kind in groups.items():
            if name in values:
                values[name] = kind(**{key: tuple(value) if isinstance(value, list) else value
                                       for key, value in _known(values[name], kind, f"{name}.").items()})
        result = cls(**{key: tuple(value) if isinstance(value, list) else value
                        for key, value in _known(values, cls, "").items()})
        for host in result.hosts:
            if host not in BY_NAME:
                raise ValueError(f"host {host!r} is not one of {', '.join(BY_NAME)}")
        return result


def _known(values: Mapping[str, Any], kind: type, prefix: str) -> Mapping[str, Any]:
    names = [one.name for one in fields(kind)]
    for key in values:
        if key not in names:
            raise ValueError(f"{prefix}{key} is not a key of a micro-scan training: there are {', '.join(names)}")
    return values


def train(config: Mapping[str, Any], output: Path, seed: int = 0, device: str = "cpu",
          progress: Callable[[str], None] = lambda _: None) -> MicroScanNetwork:
    """Train, calibrate and write weights `output` with a model card (`.json`) beside it.

    Parameters
    ----------
    config : keys of `Training`.
    device : where networks are fitted, "cpu" or "cuda"; patterns are made on the CPU.

    Raises
    ------
    ValueError : a key or value of the configuration that cannot be.
    """
    settings = Training.of(config)
    torch.set_num_threads(1)
    generator = MicroScanGenerator(settings.ranges, tuple(BY_NAME[name] for name in settings.hosts))
    data = training_set(generator, settings.batches + settings.validation, settings.rows, seed,
                        Path(settings.cache) if settings.cache else None, progress)
    training, validation = data[:settings.batches], data[settings.batches:]
    members, curves = [], []
    for number in range(settings.members):
        member, curve = fit(training, validation, settings.fitting, seed + number, device,
                            lambda text, number=number: progress(f"member {number + 1} of {settings.members}, {text}"))
        members.append(member)
        curves.append(curve)
    # probabilities are calibrated as they will be used: from half-precision weights
    draft = Path(output).with_suffix(".draft.npz")
    MicroScanNetwork(members, Calibration()).save(draft)
    network = MicroScanNetwork.load(draft)
    draft.unlink()
    calibration, figures = calibrated(network, generator, seed + 7919, progress=progress)
    network = MicroScanNetwork(network.members, calibration)
    network.save(output)
    network = MicroScanNetwork.load(output)
    card = _card(settings, seed, device, curves, figures, network.digest)
    Path(output).with_suffix(".json").write_text(json.dumps(card, indent=1) + "\n", encoding="utf-8")
    return network


def _card(settings: Training, seed: int, device: str, curves: Sequence[Curves], figures: Mapping[str, Any],
          digest: str) -> dict[str, Any]:
    return {
        "model": "micro-scan site network: residual convolutions on phase and dark-field images of a fine grid",
        "sha256": digest, "seed": seed, "device": device, "torch": torch.__version__,
        "training": asdict(replace(settings, cache="")), "classes": [name for name, _ in CLASSES],
        "micro_scans": settings.batches * settings.rows,
        "curves": [{"training": np.round(curve.training, 4).tolist(), "validation": np.round(curve.validation, 4).tolist()}
                   for curve in curves],
        "calibration": figures,
        "not_for": "thick crystals, bilayers, amorphous films, edges of sheets, optics or doses outside the ranges",
    }
