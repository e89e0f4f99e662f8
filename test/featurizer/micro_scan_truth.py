"""Micro-scans of the virtual microscope with known atoms, for tests."""

from __future__ import annotations

import numpy as np

from edgetem_nodes.featurizer.micro_scan.evaluation import Conditions, PieceSpecimen, drawn_sheet, frames
from edgetem_nodes.featurizer.micro_scan.hosts import BY_NAME, NAMES
from edgetem_nodes.featurizer.micro_scan.specimens import Piece
from edgetem_nodes.physics.scan import Axis

QUICK = Conditions(source_size=0.0, astigmatism=0.0, density=0.0)
"""A point source: a seventh of the time."""


def perfect(host: str, seed: int) -> Piece:
    """A sheet of random direction, registry and strain without defects."""
    return drawn_sheet(BY_NAME[host], QUICK, np.random.default_rng(seed))


def altered(piece: Piece, changes: dict[int, str]) -> Piece:
    """The piece with other columns on some of its sites, by index; its undisturbed atoms stay where they are."""
    from dataclasses import replace

    from edgetem_nodes.featurizer.micro_scan.specimens import _atoms

    classes = piece.classes.copy()
    for site, name in changes.items():
        classes[site] = NAMES.index(name)
    positions, numbers = _atoms(piece.sites, classes, np.random.default_rng(0))
    return replace(piece, classes=classes, positions=positions, numbers=numbers, widths=np.full(len(numbers), piece.widths[0]),
                   weights=np.ones(len(numbers)))


def sites_near(piece: Piece, sublattice: int, count: int = 1, apart: float = 2.9e-10) -> list[int]:
    """Indices of the sites of a sublattice nearest to the middle, at least `apart` [m] from each other."""
    order = [k for k in np.argsort(np.hypot(*piece.sites.T)) if piece.sublattice[k] == sublattice]
    chosen: list[int] = []
    for site in order:
        if all(np.linalg.norm(piece.sites[site] - piece.sites[other]) >= apart for other in chosen):
            chosen.append(int(site))
        if len(chosen) == count:
            break
    return chosen


def axes(points: int, step: float, pixels: int, pixel_angle: float, site: tuple[float, float] = (0.0, 0.0)) -> tuple[Axis, ...]:
    """Of a micro-scan's frame: 0 is the site."""
    first = -(points - 1) / 2 * step
    return (Axis("y", "m", step, first + site[0], points), Axis("x", "m", step, first + site[1], points),
            Axis("ky", "rad", pixel_angle, -(pixels // 2) * pixel_angle, pixels),
            Axis("kx", "rad", pixel_angle, -(pixels // 2) * pixel_angle, pixels))


__all__ = ["QUICK", "PieceSpecimen", "altered", "axes", "frames", "perfect", "sites_near"]
