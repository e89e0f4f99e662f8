"""`edgetem train`: train the networks that read diffraction patterns."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from edgetem_nodes.operator.atoms_command import train_atoms

app = typer.Typer(no_args_is_help=True, help="Train networks, and fine-tune them.")
app.command("atoms")(train_atoms)


@app.callback()
def training() -> None:
    """Train networks, and fine-tune them."""


@app.command()
def cbed(configuration: Annotated[Path, typer.Argument(help="configuration of the training: a file, or the name of a shipped "
                                                       "one, train_nanobeam or train_micro_scan")],
         output: Annotated[Path | None, typer.Option("--output", "-o", help="folder for weights.npz, model_card.md and .json, "
                                                     "curves.png and .csv; default: trained/<configuration's name>")] = None,
         seed: Annotated[int | None, typer.Option(min=0, help="of everything random; default: the configuration's")] = None,
         device: Annotated[str, typer.Option(help="cpu, cuda, ...; auto: a GPU where there is one")] = "auto",
         overwrite: Annotated[bool, typer.Option("--overwrite", help="replace weights in the folder")] = False,
         quick: Annotated[bool, typer.Option("--quick", help="as little as shows that everything works")] = False,
         initial: Annotated[Path | None, typer.Option("--from", help="weights to begin with: fine-tuning")] = None,
         archive: Annotated[Path | None, typer.Option(help="archive.h5 of an experiment: patterns are drawn for its camera "
                                                      "and dose")] = None,
         settings: Annotated[list[str], typer.Option("--set", metavar="KEY=VALUE", help="override a setting, e.g. "
                                                     "--set disk.epochs=4")] = []) -> None:  # noqa: B006
    """Train a network for diffraction patterns. Ctrl-C ends it and writes what there is, if it is of use; twice: nothing."""
    import yaml
    from rich.console import Console

    from edgetem_nodes.featurizer.cbed.training.command import train
    try:
        changed = {}
        for text in settings:
            key, equals, value = text.partition("=")
            if not equals:
                raise ValueError(f"{text!r} is not KEY=VALUE, e.g. disk.epochs=4")
            changed[key] = yaml.safe_load(value)
        configuration = _found(configuration)
        folder = output or Path("trained") / configuration.stem
        print(train(configuration, folder, Console(stderr=True), seed=seed, device=device, quick=quick, initial=initial,
                    archive=archive, changed=changed, overwrite=overwrite))
    except (ValueError, OSError, yaml.YAMLError) as error:
        print(f"error: {error}", file=sys.stderr)
        raise typer.Exit(2) from None
    except KeyboardInterrupt as error:
        print(f"ended, nothing was written: {error}".removesuffix(": "), file=sys.stderr)
        raise typer.Exit(130) from None


def _found(configuration: Path) -> Path:
    """A file as it is, or the shipped configuration of this name."""
    from edgetem_nodes.graph.environment import share_directory
    if configuration.exists() or configuration.name != str(configuration):
        return configuration
    shipped = share_directory() / "config" / configuration.with_suffix(".yaml")
    return shipped if shipped.exists() else configuration
