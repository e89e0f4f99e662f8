"""The commands `edgetem atoms` and `edgetem train atoms`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer


def atoms(file: Annotated[Path, typer.Argument(help="an atomic-resolution image: .npy, or what RosettaSciIO reads")],
          pixel_size: Annotated[float, typer.Option(metavar="PM", min=0.0, help="edge of a pixel; 0: the file's")] = 0.0,
          output: Annotated[Path | None, typer.Option(help="folder for picture, table and structure; default FILE's name and "
                                                      "-atoms")] = None,
          signal: Annotated[str, typer.Option(help="title or number of the image in the file")] = "",
          contrast: Annotated[str, typer.Option(help="bright or dark columns")] = "bright",
          material: Annotated[str, typer.Option(help="MoS2 or graphene: names the columns' elements")] = "",
          lighter: Annotated[str, typer.Option(metavar="SYMBOL", help="element that lighter columns are taken for")] = "X",
          heavier: Annotated[str, typer.Option(metavar="SYMBOL", help="element that heavier columns are taken for")] = "X",
          overwrite: Annotated[bool, typer.Option("--overwrite", help="replace earlier results")] = False) -> None:
    """Find atomic columns, their lattice and candidates for defects in an image; writes PNG, CSV, JSON and extended XYZ."""
    from edgetem_nodes.operator.atoms import AtomsError, find_in_file
    try:
        for line in find_in_file(file, output or Path(f"{file.stem}-atoms"), pixel_size * 1e-12, signal, contrast, material,
                                 lighter, heavier, overwrite):
            print(line)
    except AtomsError as error:
        print(f"error: {error}", file=sys.stderr)
        raise typer.Exit(2) from None


def train_atoms(configuration: Annotated[Path, typer.Argument(help="configuration of the training, or a shipped one's name: "
                                                              "train_atoms")] = Path("train_atoms"),
                output: Annotated[Path | None, typer.Option("--output", "-o", help="folder for atoms.npz, model_card.md and "
                                                            "curves.json; default: trained/<configuration's name>")] = None,
                seed: Annotated[int | None, typer.Option(min=0, help="of everything random; default: the "
                                                                  "configuration's")] = None,
                device: Annotated[str, typer.Option(help="cpu, cuda, ...; auto: a GPU where there is one")] = "auto",
                overwrite: Annotated[bool, typer.Option("--overwrite", help="replace weights in the folder")] = False) -> None:
    """Train the network that finds atomic columns in images. Ctrl-C ends it, and nothing is written."""
    import torch
    import yaml
    from rich.console import Console

    from edgetem_nodes.featurizer.atoms.training import WEIGHTS, train
    from edgetem_nodes.featurizer.cbed.training.run import chosen_device, prepared
    from edgetem_nodes.graph.environment import share_directory
    if not configuration.exists() and configuration.name == str(configuration):
        shipped = share_directory() / "config" / configuration.with_suffix(".yaml")
        configuration = shipped if shipped.exists() else configuration
    try:
        config = yaml.safe_load(configuration.read_text())
        if not isinstance(config, dict) or config.get("network") != "atoms":
            raise ValueError(f"{configuration} has no 'network: atoms': it does not describe this training")
        torch.set_num_threads(1)
        chosen, folder = chosen_device(device), output or Path("trained") / configuration.stem
        with prepared(folder, WEIGHTS, overwrite), Console(stderr=True).status("network of atomic columns") as status:
            print(train(config, folder, config.get("seed", 0) if seed is None else seed, chosen, lambda step, steps, loss:
                        status.update(f"network of atomic columns: step {step} of {steps}, loss {loss:.4f}")))
    except (ValueError, OSError, RuntimeError, yaml.YAMLError) as error:
        print(f"error: {error}", file=sys.stderr)
        raise typer.Exit(2) from None
    except KeyboardInterrupt:
        print("ended: nothing was written", file=sys.stderr)
        raise typer.Exit(130) from None
