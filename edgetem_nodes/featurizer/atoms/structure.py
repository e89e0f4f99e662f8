"""Found columns as an ASE structure: atoms of the named host, defects named."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from edgetem_nodes.featurizer.atoms.found import FoundAtoms
from edgetem_nodes.physics.specimens.sheet import GRAPHENE_LATTICE, MOS2_LATTICE, MOS2_THICKNESS

if TYPE_CHECKING:
    from ase import Atoms

ANGSTROM = 1e-10
UNKNOWN_ELEMENT = "X"
UNDECIDED = "undecided"
"""Kind of a column that deviates from the host, and may be more than one thing."""
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
LATTICES = {"MoS2": MOS2_LATTICE, "graphene": GRAPHENE_LATTICE}
"""Lattice constants [m] of hexagonal cells of the same area."""
SAME_SIZE = 0.12
"""Part by which the lattice constant may differ: scales and distortions of scans are seldom worse."""
SECOND = {"MoS2": (0.12, 0.75), "graphene": (0.75, 1.0)}
"""Amplitude of the second sublattice over the first's: of Z^1.7, 0.39 and 1, with room for the probe's tails."""


def to_atoms(found: FoundAtoms, lighter: str = UNKNOWN_ELEMENT, heavier: str = UNKNOWN_ELEMENT,
             pixel_size: float | None = None) -> Atoms:
    """The structure as ASE `Atoms` [angstrom]: x along the rows of the image, y down, not periodic.

    Arrays: `kind`, `probability` of it, `position_error` (n, 3) in (x, y, z), NaN where the place is the lattice's or, for
    z, the material's; `sublattice`; `ratio` of amplitudes. Missing columns are no atoms: `info["vacancies"]` has them as JSON.
    An element that the image does not tell is X, and so is a column whose kind has a probability below `found.CERTAIN`; array
    `possible` and `info["undecided"]` (JSON) then say what it may be, with both probabilities of `FoundAtoms.possible`. Of a
    column of two sulphur atoms a lighter one has lost one of them.

    Parameters
    ----------
    lighter, heavier : symbols of the dopants that such columns are taken for.
    pixel_size : [m]; None: the image's.

    Raises
    ------
    ValueError : the pixel size is not known, a symbol is no element's, the material is not one of HOSTS, or the image
        contradicts it.
    """
    from ase import Atoms

    size = pixel_size or found.pixel_size
    if size is None:
        raise ValueError("the image's pixel size is not known: positions have no length; give pixel_size in metres")
    if found.material is not None and found.material not in HOSTS:
        raise ValueError(f"material {found.material!r} is not one of {', '.join(HOSTS)}; leave it out for a structure without "
                         "elements")
    for which, symbol in (("lighter", lighter), ("heavier", heavier)):
        check_symbol(which, symbol)
    if found.material is not None:
        _check_material(found, size)
    scale = size / ANGSTROM
    rows, symbols, heights = _atoms(found, {"lighter": lighter, "heavier": heavier})
    undecided = found.undecided()
    kinds, errors = found.kinds, found.position_errors * scale
    kinds[undecided] = UNDECIDED
    positions = np.column_stack([found.positions[rows][:, ::-1] * scale, np.array(heights) / ANGSTROM + VACUUM / 2])
    atoms = Atoms(symbols, positions=positions, cell=[found.shape[1] * scale, found.shape[0] * scale, VACUUM], pbc=False)
    atoms.new_array("kind", kinds[rows])
    atoms.new_array("probability", found.certainty[rows])
    may = {row: ",".join(f"{_named(kind, lighter, heavier)}:{p:.2f}/{q:.2f}" for kind, p, q in found.possible(row))
           for row in undecided.tolist()}
    atoms.new_array("possible", np.array([may.get(row, "-") for row in rows.tolist()]))
    atoms.new_array("position_error", np.column_stack([errors[rows][:, ::-1], np.full(len(rows), np.nan)]))
    atoms.new_array("sublattice", found.sublattice[rows])
    atoms.new_array("ratio", found.ratio[rows])
    vacant = np.setdiff1d(found.vacancies, undecided)
    atoms.info |= {
        "material": found.material or "not named", "pixel_size_pm": size * 1e12, "weights_sha256": found.weights,
        "vacancies": json.dumps([{"x": round(float(x), 4), "y": round(float(y), 4), "sublattice": int(s),
                                  "probability": round(float(p), 4)}
                                 for (y, x), s, p in zip(found.positions[vacant] * scale, found.sublattice[vacant],
                                                         found.certainty[vacant], strict=True)]),
        "undecided": json.dumps([{"x": round(float(found.positions[row, 1] * scale), 4),
                                  "y": round(float(found.positions[row, 0] * scale), 4), "possible": text}
                                 for row, text in may.items()]),
        "defects": json.dumps({kind: int((kinds == kind).sum()) for kind in np.unique(kinds)
                               if kind not in ("host", "unknown")})}
    return atoms


def check_symbol(which: str, symbol: str) -> None:
    """Raise ValueError where a symbol is not X and no element's."""
    from ase.data import atomic_numbers

    if symbol not in atomic_numbers:
        raise ValueError(f"{which} {symbol!r} is no chemical symbol: name an element, e.g. V, or X for one that is not known")


def _check_material(found: FoundAtoms, pixel_size: float) -> None:
    """Raise ValueError where the lattice of the image is not that of the material."""
    name, lattice = found.material or "", found.lattice
    if lattice is None:  # then every column is off the lattice, and X
        return
    constant = float(np.sqrt(2 / np.sqrt(3) * lattice.area)) * pixel_size
    if abs(constant / LATTICES[name] - 1) > SAME_SIZE:
        raise ValueError(f"the image's cell has the area of a hexagonal lattice of {constant * 1e12:.4g} pm, {name} has "
                         f"{LATTICES[name] * 1e12:.4g} pm: another material, a wrong pixel size, or the wrong contrast (holes "
                         "taken for columns); correct it or leave the material out")
    if len(lattice.offsets) < len(HOSTS[name]):
        raise ValueError(f"{name} has {len(HOSTS[name])} columns a cell, the image shows {len(lattice.offsets)}: the second is "
                         "too faint to be placed, or the contrast is inverted; use more dose, or leave the material out")
    second, (least, most) = found.sublattices[1].amplitude, SECOND[name]
    if not least <= second <= most:
        raise ValueError(f"the second column of a cell has {second:.2f} of the first's amplitude, in {name} it has {least} to "
                         f"{most}: another material, the wrong contrast, or no incoherent dark field; correct it or leave "
                         "the material out")


def _named(kind: str, lighter: str, heavier: str) -> str:
    """A kind, or the element that it is taken for."""
    element = {"lighter": lighter, "heavier": heavier}.get(kind, UNKNOWN_ELEMENT)
    return kind if element == UNKNOWN_ELEMENT else element


def _atoms(found: FoundAtoms, dopants: dict[str, str]) -> tuple[np.ndarray, list[str], list[float]]:
    """Rows of `found` that the atoms come from, symbols and heights [m]."""
    rows: list[int] = []
    symbols: list[str] = []
    heights: list[float] = []
    host, undecided = HOSTS.get(found.material or "", ()), set(found.undecided().tolist())
    for row, (kind, sublattice) in enumerate(zip(found.kinds, found.sublattice, strict=True)):
        column = host[sublattice] if 0 <= sublattice < len(host) else HostColumn((UNKNOWN_ELEMENT,), (0.0,))
        atoms = [(UNKNOWN_ELEMENT, 0.0)] if row in undecided else _column(str(kind), column, dopants)
        for symbol, height in atoms:
            rows.append(row), symbols.append(symbol), heights.append(height)
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
