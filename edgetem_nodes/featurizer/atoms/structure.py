"""Found columns as an ASE structure: atoms of the named host, defects named."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from edgetem_nodes.featurizer.atoms.found import FoundAtoms
from edgetem_nodes.physics.specimens.sheet import MOS2_THICKNESS

if TYPE_CHECKING:
    from ase import Atoms

ANGSTROM = 1e-10
UNKNOWN_ELEMENT = "X"
VACUUM = 20.0
"""Height of the cell [angstrom]."""


@dataclass(frozen=True)
class HostColumn:
    """Symbols of a column's atoms and their heights about the sheet's plane [m]."""

    symbols: tuple[str, ...]
    heights: tuple[float, ...]


_SULPHUR = HostColumn(("S", "S"), (MOS2_THICKNESS / 2, -MOS2_THICKNESS / 2))
_CARBON = HostColumn(("C",), (0.0,))
HOSTS = {"MoS2": (HostColumn(("Mo",), (0.0,)), _SULPHUR), "graphene": (_CARBON, _CARBON)}
"""Columns of each sublattice, the strongest first."""


def to_atoms(found: FoundAtoms, lighter: str = UNKNOWN_ELEMENT, heavier: str = UNKNOWN_ELEMENT,
             pixel_size: float | None = None) -> Atoms:
    """The structure as ASE `Atoms` [angstrom]: x along the rows of the image, y down, not periodic.

    Arrays: `kind`, `probability` of it, `position_error` (n, 3) in (x, y, z), NaN where the place is the lattice's or, for
    z, the material's; `sublattice`; `ratio` of amplitudes. Missing columns are no atoms: `info["vacancies"]` has them as JSON.
    An element that the image does not tell is X. Of a column of two sulphur atoms a lighter one has lost one of them.

    Parameters
    ----------
    lighter, heavier : symbols of the dopants that such columns are taken for.
    pixel_size : [m]; None: the image's.

    Raises
    ------
    ValueError : the pixel size is not known, or the material is not one of HOSTS.
    """
    from ase import Atoms

    size = pixel_size or found.pixel_size
    if size is None:
        raise ValueError("the image's pixel size is not known: positions have no length; give pixel_size in metres")
    if found.material is not None and found.material not in HOSTS:
        raise ValueError(f"material {found.material!r} is not one of {', '.join(HOSTS)}; leave it out for a structure without "
                         "elements")
    scale = size / ANGSTROM
    rows, symbols, heights = _atoms(found, {"lighter": lighter, "heavier": heavier})
    kinds, errors = found.kinds, found.position_errors * scale
    positions = np.column_stack([found.positions[rows][:, ::-1] * scale, np.array(heights) / ANGSTROM + VACUUM / 2])
    atoms = Atoms(symbols, positions=positions, cell=[found.shape[1] * scale, found.shape[0] * scale, VACUUM], pbc=False)
    atoms.new_array("kind", kinds[rows])
    atoms.new_array("probability", found.kind_probabilities[rows])
    atoms.new_array("position_error", np.column_stack([errors[rows][:, ::-1], np.full(len(rows), np.nan)]))
    atoms.new_array("sublattice", found.sublattice[rows])
    atoms.new_array("ratio", found.ratio[rows])
    vacant = found.vacancies
    atoms.info |= {
        "material": found.material or "not named", "pixel_size_pm": size * 1e12, "weights_sha256": found.weights,
        "vacancies": json.dumps([{"x": round(float(x), 4), "y": round(float(y), 4), "sublattice": int(s),
                                  "probability": round(float(p), 4)}
                                 for (y, x), s, p in zip(found.positions[vacant] * scale, found.sublattice[vacant],
                                                         found.kind_probabilities[vacant], strict=True)]),
        "defects": json.dumps({kind: int((kinds == kind).sum()) for kind in np.unique(kinds)
                               if kind not in ("host", "unknown")})}
    return atoms


def _atoms(found: FoundAtoms, dopants: dict[str, str]) -> tuple[np.ndarray, list[str], list[float]]:
    """Rows of `found` that the atoms come from, symbols and heights [m]."""
    rows: list[int] = []
    symbols: list[str] = []
    heights: list[float] = []
    host = HOSTS.get(found.material or "", ())
    for row, (kind, sublattice) in enumerate(zip(found.kinds, found.sublattice, strict=True)):
        column = host[sublattice] if 0 <= sublattice < len(host) else HostColumn((UNKNOWN_ELEMENT,), (0.0,))
        for symbol, height in _column(str(kind), column, dopants):
            rows.append(row), symbols.append(symbol), heights.append(height)
    if host and found.lattice is not None and len(found.lattice.offsets) == 1 < len(host):
        raise ValueError(f"{found.material} has {len(host)} columns a cell, the image shows 1: the second is too faint to be "
                         "placed; use more dose, or leave the material out")
    return np.array(rows, int), symbols, heights


def _column(kind: str, host: HostColumn, dopants: dict[str, str]) -> list[tuple[str, float]]:
    """Symbols and heights of what a column of a kind holds."""
    both = list(zip(host.symbols, host.heights, strict=True))
    if kind == "vacancy":
        return []
    if kind == "lighter" and len(both) > 1:
        return both[:-1]
    if kind in dopants:
        return [(dopants[kind], height) for _, height in both]
    if kind == "off-lattice":
        return [(UNKNOWN_ELEMENT, 0.0)]
    return both
