"""Which networks can be trained: by the key `network` of a configuration.

A recipe is a module with `SETTINGS`, a parameter dataclass with the fields `network` and `seed`, and `train(settings, run)`
that returns what is written. It is imported only when it is asked for.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from importlib import import_module
from types import ModuleType
from typing import Any

import numpy as np

from edgetem_nodes.graph.configuration import ConfigurationError, nearest

RECIPES: dict[str, str] = {
    "nanobeam": "edgetem_nodes.featurizer.cbed.training.nanobeam",
    "micro_scan": "edgetem_nodes.featurizer.micro_scan.training",
}
"""Module of each network's recipe."""


class TrainingError(ValueError):
    """A training that cannot be; the message says why."""


class EndedTooSoon(KeyboardInterrupt):
    """The person ended a training before there was anything of use; the message says what was missing."""


@dataclass
class Trained:
    """What a training leaves.

    Attributes
    ----------
    arrays, settings : of the weights file, see `weights.write_weights`; settings hold "network".
    card : for the model card: data, figures on patterns not trained on, limits; what JSON can hold.
    curves : numbers to draw by name, e.g. "disk: loss" -> one a step or epoch.
    """

    arrays: dict[str, np.ndarray]
    settings: dict[str, Any]
    card: dict[str, Any]
    curves: dict[str, list[float]]


@dataclass
class TrainingRun:
    """What a recipe is given beside its settings.

    Attributes
    ----------
    device : of torch.
    quick : whether to do as little as shows that everything works.
    initial : arrays and settings of weights to begin with (fine-tuning); None: from random numbers.
    archive : an experiment's archive.h5 whose patterns adapt the network; None: drawn patterns only.
    report : `report(stage, done, total, text)`, as often as one likes.
    stopped : whether the person wants to end: then finish quickly with the best so far.
    keep : `keep(arrays, settings)` writes weights at once, whatever comes after: for what would be a pity to lose.
    notes : for the model card. caveats : why the weights are not to be trusted, for model card and weights.
    """

    device: str = "cpu"
    quick: bool = False
    initial: tuple[dict[str, np.ndarray], dict[str, Any]] | None = None
    archive: str = ""
    report: Callable[[str, int, int, str], None] = lambda *_: None
    stopped: Callable[[], bool] = lambda: False
    keep: Callable[[dict[str, np.ndarray], dict[str, Any]], object] = lambda *_: None
    notes: list[str] = field(default_factory=list)
    caveats: list[str] = field(default_factory=list)

    def needs(self, stage: str, done: float) -> None:
        """To be called where a stage ends without which weights are of no use, with the part of it that was done.

        Raises
        ------
        EndedTooSoon : the person wanted to end before half of it was done, and there were no weights to begin with.
        """
        if done < 1 and self.stopped():
            if done < 0.5 and self.initial is None:
                raise EndedTooSoon(f"the {stage} was ended at {100 * done:.0f} %, and nothing is of use without it")
            self.caveats.append(f"the {stage} was ended by hand at {100 * done:.0f} %")


def recipe(network: str) -> ModuleType:
    """The module of a network.

    Raises
    ------
    ConfigurationError : there is none of this name.
    """
    if network not in RECIPES:
        raise ConfigurationError(f"network {network!r} is not known; there are {', '.join(RECIPES)}"
                                 + nearest(network, RECIPES))
    return import_module(RECIPES[network])
