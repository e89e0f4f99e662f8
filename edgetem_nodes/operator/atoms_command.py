"""The command `edgetem atoms`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer


def atoms(file: Annotated[Path, typer.Argument(help="an atomic-resolution image: .npy, or what RosettaSciIO reads")],
          pixel_size: Annotated[float, typer.Option(metavar="PM", min=0.0, help="edge of a pixel; 0: what the file says")] = 0.0,
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
