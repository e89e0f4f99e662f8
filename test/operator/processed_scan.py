"""A small scan whose maps are known, and `edgetem process` run on files in this process."""

from __future__ import annotations

import io
from dataclasses import dataclass
from pathlib import Path

import emdfile
import numpy as np
from rich.console import Console

from edgetem_nodes.operator.processing.process import process
from edgetem_nodes.operator.processing.request import Request

CENTER, RADIUS = (30.2, 33.7), 14.3
"""[pixel] of the bright-field disk of `scan`."""


def scan(rows: int = 9, columns: int = 11, seed: int = 0, dose: float = 3000.0) -> np.ndarray:
    """Counted patterns (rows, columns, 64, 64) uint16: a disk that moves with the position, over a weak halo."""
    generator = np.random.default_rng(seed)
    y, x = np.mgrid[:64, :64]
    frames = np.empty((rows, columns, 64, 64), np.uint16)
    for row in range(rows):
        for column in range(columns):
            dy, dx = 1.5 * np.sin(2 * np.pi * row / 6), 1.5 * np.sin(2 * np.pi * column / 5)
            distance = np.hypot(y - CENTER[0] - dy, x - CENTER[1] - dx)
            disk = dose / (np.pi * RADIUS**2) / (1 + np.exp((distance - RADIUS) / 0.5))
            frames[row, column] = generator.poisson(disk + 0.02 * (2 + np.cos(row)) * np.exp(-(distance / 25)**2))
    return frames


@dataclass
class Processed:
    """What a call left: exit code, lines for people, folder."""

    code: int
    lines: list[str]
    folder: Path

    @property
    def text(self) -> str:
        return "\n".join(self.lines)

    def root(self) -> emdfile.Root:
        """Root of the EMD file, read by emdfile."""
        return emdfile.read(self.folder / "maps.emd")

    def map(self, name: str) -> np.ndarray:
        """Data of an array in it."""
        return self.root().tree(name).data


def processed(file: Path, folder: Path, features: str, **options: object) -> Processed:
    """Run `edgetem process` in this process."""
    lines: list[str] = []
    options = {"pictures": False, **options}
    code = process(Request(file, tuple(features.split(",")), folder, **options), Console(file=io.StringIO()), lines.append)
    return Processed(code, lines, folder)
