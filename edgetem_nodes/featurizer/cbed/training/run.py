"""One training from a configuration to a folder with weights, model card and curves."""

from __future__ import annotations

import hashlib
import json
import platform
import signal
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch

from edgetem_nodes import __version__
from edgetem_nodes.featurizer.cbed.training.curves import draw_curves, write_curves
from edgetem_nodes.featurizer.cbed.training.registry import Trained, TrainingError, TrainingRun, recipe
from edgetem_nodes.featurizer.cbed.training.settings import network_of, read_settings
from edgetem_nodes.featurizer.cbed.weights import read_weights, write_weights

WEIGHTS, CARD, CURVES = "weights.npz", "model_card", "curves"
UNFINISHED = "unfinished.npz"
"""What a training that has not ended has so far; it is left behind only where one breaks off."""


def chosen_device(name: str) -> str:
    """The device of torch; "auto" is a GPU where there is one.

    Raises
    ------
    TrainingError : there is no such device here.
    """
    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        torch.zeros(1, device=name)
    except (RuntimeError, AssertionError) as error:
        raise TrainingError(f"--device {name!r} cannot be used here: {str(error).splitlines()[0]}") from None
    return name


def run_training(configuration: Path, output: Path, *, seed: int | None = None, device: str = "auto", quick: bool = False,
                 initial: Path | None = None, archive: Path | None = None, changed: dict[str, Any] | None = None,
                 report: Callable[[str, int, int, str], None] = lambda *_: None,
                 overwrite: bool = False) -> tuple[str, Trained]:
    """Train the network that a configuration names and write it to a folder; the hash of the weights, and what was written.

    An interrupt (Ctrl-C) ends the training with what there is, which weights and model card then say; a second one ends it at
    once.

    Parameters
    ----------
    overwrite : whether weights in the folder are replaced.

    Raises
    ------
    ConfigurationError, TrainingError, WeightsError : with what is wrong; before the training where it can be known.
    EndedTooSoon, KeyboardInterrupt : it was ended before there was anything of use; nothing is written.
    """
    network = network_of(configuration)
    module = recipe(network)
    settings = read_settings(configuration, module.SETTINGS, {**(changed or {}), **({} if seed is None else {"seed": seed})})
    if initial is not None:
        weights = read_weights(initial, network)
    where = chosen_device(device)
    with prepared(output, WEIGHTS, overwrite), interruptible() as stopped:
        run = TrainingRun(where, quick, (weights.arrays, weights.settings) if initial is not None else None,
                          str(archive or ""), report, stopped,
                          lambda arrays, described: write_weights(
                              output / UNFINISHED, arrays, {**described, "caveats": ["the training was not finished"]}))
        if initial is not None:
            run.notes.append(f"begun with weights {weights.hash}")
        if quick:
            run.caveats.append("quick: shows that training works; of no other use")
        trained = module.train(settings, run)
        if stopped():
            run.caveats.append("ended early by hand")
        digest = write(trained, output, settings, configuration, run)
        (output / UNFINISHED).unlink(missing_ok=True)
    return digest, trained


@contextmanager
def prepared(output: Path, weights: str, overwrite: bool) -> Iterator[None]:
    """A folder that can be written to, before hours are spent; after an interrupt nothing new is left in it.

    Raises
    ------
    TrainingError : it holds weights that are not to be overwritten, or cannot be written to.
    """
    if (output / weights).exists() and not overwrite:
        raise TrainingError(f"{output / weights} exists: name another folder with --output, or give --overwrite")
    made = [one for one in (output, *output.parents) if not one.exists()]
    try:
        output.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=output):
            pass
    except OSError as error:
        raise TrainingError(f"--output {output} cannot be written to: {error.strerror}") from None
    try:
        yield
    except KeyboardInterrupt:
        (output / UNFINISHED).unlink(missing_ok=True)
        raise
    finally:
        for one in made:
            if one.is_dir() and not any(one.iterdir()):
                one.rmdir()


@contextmanager
def interruptible() -> Iterator[Callable[[], bool]]:
    """Says whether there was an interrupt; a second one raises KeyboardInterrupt."""
    seen = False

    def handle(_: int, __: Any) -> None:
        nonlocal seen
        if seen:
            raise KeyboardInterrupt
        seen = True

    try:
        before = signal.signal(signal.SIGINT, handle)
    except ValueError:  # not the main thread: who runs it there looks after interrupts
        yield lambda: False
        return
    try:
        yield lambda: seen
    finally:
        signal.signal(signal.SIGINT, before)


def write(trained: Trained, output: Path, settings: Any, configuration: Path, run: TrainingRun) -> str:
    """Write weights, model card and curves to a folder; the hash of the weights."""
    if run.caveats:
        trained.settings["caveats"] = list(run.caveats)
    digest = write_weights(output / WEIGHTS, trained.arrays, trained.settings)
    card = {**trained.card, "weights_sha256": digest, "seed": settings.seed, "device": run.device, "version": __version__,
            "torch": torch.__version__, "numpy": np.__version__, "machine": platform.machine(),
            "configuration": configuration.name, "notes": [*run.caveats, *run.notes],
            "configuration_sha256": hashlib.sha256(configuration.read_bytes()).hexdigest(),
            "settings": trained.settings.get("training", {})}
    (output / f"{CARD}.json").write_text(json.dumps(card, indent=1, sort_keys=True) + "\n")
    (output / f"{CARD}.md").write_text(card_text(card))
    write_curves(output / f"{CURVES}.csv", trained.curves)
    draw_curves(output / f"{CURVES}.png", trained.curves)
    return digest


def card_text(card: dict[str, Any]) -> str:
    """A model card for people, in Markdown."""
    lines = [f"# Weights of the network `{card['network']}`", "", f"SHA-256 `{card['weights_sha256']}`, made by `edgetem train "
             f"cbed {card['configuration']}` of version {card['version']}, seed {card['seed']}, on {card['device']} "
             f"({card['machine']}, torch {card['torch']}, numpy {card['numpy']}).", ""]
    lines += [f"- {note}" for note in card["notes"]]
    for name, value in card.items():
        if name in ("figures", "notes", "settings", "network", "weights_sha256", "configuration", "version", "seed", "device",
                    "machine", "torch", "numpy", "configuration_sha256"):
            continue
        shown = ", ".join(map(str, value)) if isinstance(value, list) else value
        lines.append(f"- {name.replace('_', ' ')}: {shown:.4g}" if isinstance(shown, float) else
                     f"- {name.replace('_', ' ')}: {shown}")
    figures = card.get("figures") or []
    if figures:
        names = list(figures[0])
        lines += ["", "On patterns that were not trained on:", "", "| " + " | ".join(name.replace("_", " ") for name in names)
                  + " |", "|" + "---|" * len(names)]
        lines += ["| " + " | ".join(_cell(row.get(name)) for name in names) + " |" for row in figures]
    return "\n".join([*lines, ""])


def _cell(value: Any) -> str:
    if isinstance(value, list):
        return " to ".join(f"{one:g}" for one in value)
    return "" if value is None else f"{value:.3g}" if isinstance(value, float) else str(value)
