"""Reservoirs: where the atoms that a defective sheet lacks or has too many come from, and their chemical potentials.

Every reservoir is computed by the engine of the structure itself. Dopants of a dichalcogenide are taken from its isostructural
sheet, where the errors of an engine cancel best; oxygen from water and hydrogen, because its molecule has two unpaired
electrons that an engine of closed shells does not describe.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from edgetem_nodes.hpc_bridge.sheets import SHEETS, Match, Sheet, build

EV = 1.602176634e-19
"""[J]."""
RINGS = {"S8": (16, 2.05), "Se8": (34, 2.34)}
"""Crown molecules of eight atoms: atomic number, bond length [Angstrom]; their bond angle is about 108 degrees."""
CRYSTALS = {"Si": ("diamond", 5.431)}
"""Elements by crystal structure and lattice constant [Angstrom]. No metals: at Gamma alone they would need hundreds of
atoms."""
FORMATION = {"MoS2": -276.1e3 / 6.02214076e23}
"""Enthalpies of formation of the crystals a formula unit [J]: how much lower the anion's chemical potentials are, together,
where the compound is in equilibrium with its metal. As tables quote it, not checked at the source; measured equilibria gave
0.08 eV a sulphur atom less (docs/excess_energies.md)."""
ISOSTRUCTURAL = {22: ("TiS2", 3.36, 2.85), 23: ("VS2", 3.17, 2.98), 24: ("CrS2", 3.04, 2.94), 41: ("NbS2", 3.33, 3.13),
                 73: ("TaS2", 3.34, 3.13), 74: ("WS2", 3.153, 3.14), 75: ("ReS2", 3.06, 3.15)}
"""Disulphides that dopants on metal sites come from: name, lattice constant and thickness [Angstrom] where the search for the
engine's own begins. All as 2H sheets, which is not the stable form of TiS2 and ReS2."""


@dataclass(frozen=True)
class Reservoir:
    """What is computed: `kind` "molecule", "crystal" or "sheet", its `name`; `sheet` where it is one."""

    kind: str
    name: str
    sheet: Sheet | None = None

    @property
    def words(self) -> str:
        """For a person."""
        return f"{self.name} {self.kind}"


@dataclass(frozen=True)
class Potential:
    """Chemical potential of an element: `own` times the energy of the structure's own perfect sheet a unit cell, plus the sum
    of factor times the energy a formula unit of each reservoir in `terms`, plus a measured `enthalpy` [J]. `words` names
    it."""

    element: int
    own: float
    terms: tuple[tuple[float, Reservoir], ...]
    words: str
    enthalpy: float = 0.0


def potentials(match: Match, environment: str) -> tuple[tuple[Potential, ...], str]:
    """Chemical potentials of a match's surplus elements; none, and why, where one has no reservoir."""
    found = []
    for element, _ in match.surplus:
        potential = _potential(element, match.sheet, environment)
        if potential is None:
            return (), (f"no reservoir is known for {_symbol(element)} in {match.sheet.name}: the energy of its atoms is not "
                        "defined")
        found.append(potential)
    return tuple(found), ""


def _potential(element: int, sheet: Sheet, environment: str) -> Potential | None:
    elements = dict(sheet.formula)
    if elements == {element: sheet.atoms}:
        return Potential(element, 1 / sheet.atoms, (), f"{_symbol(element)} from the perfect sheet")
    if element in elements:
        return _of_compound(element, sheet, environment)
    cation = sheet.formula[0][0]
    if sheet.thickness and element in ISOSTRUCTURAL and dict(sheet.formula).get(16):
        name, lattice, thickness = ISOSTRUCTURAL[element]
        other = Sheet(name, ((element, 1), (16, 2)), lattice * 1e-10, thickness * 1e-10)
        return _less(element, Reservoir("sheet", name, other), 2, _potential(16, sheet, environment))
    if sheet.thickness and element in (16, 34):
        other = next((s for s in SHEETS if dict(s.formula) == {cation: 1, element: 2}), None)
        host = _potential(cation, sheet, environment)
        return None if other is None or host is None else _halved(element, Reservoir("sheet", other.name, other), host)
    return _element(element)


def _element(element: int) -> Potential | None:
    """From the pure element, or for O, B from a compound."""
    simple = {1: ("molecule", "H2", 0.5), 7: ("molecule", "N2", 0.5), 16: ("molecule", "S8", 0.125),
              34: ("molecule", "Se8", 0.125), 14: ("crystal", "Si", 1.0)}
    if element in simple:
        kind, name, factor = simple[element]
        reservoir = Reservoir(kind, name)
        return Potential(element, 0.0, ((factor, reservoir),), f"{_symbol(element)} from the {reservoir.words}")
    if element == 8:
        return Potential(8, 0.0, ((1.0, Reservoir("molecule", "H2O")), (-1.0, Reservoir("molecule", "H2"))),
                         "O from H2O less H2 molecules")
    sheets = {sheet.name: Reservoir("sheet", sheet.name, sheet) for sheet in SHEETS}
    if element == 6:
        return Potential(6, 0.0, ((0.5, sheets["graphene"]),), "C from graphene")
    if element == 5:
        return _less(5, sheets["h-BN"], 1, _element(7))
    return None


def _of_compound(element: int, sheet: Sheet, environment: str) -> Potential | None:
    """The anion comes from its pure form, lowered by the enthalpy of formation in equilibrium with the metal; the cation from
    the sheet less that."""
    (_, cations), (anion, anions) = sheet.formula
    given = _element(anion)
    if given is None or environment == "cation-rich" and sheet.name not in FORMATION:
        return None
    if environment == "cation-rich":
        enthalpy = FORMATION[sheet.name] / anions
        given = replace(given, enthalpy=enthalpy, words=f"{given.words} lowered by the measured {-enthalpy / EV:.2f} eV of "
                                                        f"formation")
    if element == anion:
        return given
    return _combined(element, 1 / cations, Potential(element, 1.0, (), f"the {sheet.name} sheet"), -anions / cations, given)


def _combined(element: int, factor: float, first: Potential, second_factor: float, second: Potential) -> Potential:
    """factor times one potential plus second_factor, negative, times another."""
    return Potential(element, factor * first.own + second_factor * second.own,
                     tuple((factor * f, r) for f, r in first.terms) + tuple((second_factor * f, r) for f, r in second.terms),
                     f"{_symbol(element)} from {first.words} less {second.words}",
                     factor * first.enthalpy + second_factor * second.enthalpy)


def _less(element: int, reservoir: Reservoir, count: int, other: Potential | None) -> Potential | None:
    """A formula unit of a reservoir less `count` of another element."""
    whole = Potential(element, 0.0, ((1.0, reservoir),), f"the {reservoir.words}")
    return None if other is None else _combined(element, 1.0, whole, -count, other)


def _halved(element: int, reservoir: Reservoir, host: Potential) -> Potential:
    """Half of what a reservoir has above its host atom."""
    return _combined(element, 0.5, Potential(element, 0.0, ((1.0, reservoir),), f"the {reservoir.words}"), -0.5, host)


def energy_of_surplus(match: Match, found: tuple[Potential, ...], perfect: float, energies: dict[str, float]) -> float:
    """Sum over surplus atoms of their chemical potentials [J].

    Parameters
    ----------
    perfect : energy of the perfect supercell [J].
    energies : of reservoirs by name, a formula unit [J].
    """
    cell, total = perfect / match.cells, 0.0
    for (_, count), potential in zip(match.surplus, found, strict=True):
        total += count * (potential.own * cell + sum(factor * energies[r.name] for factor, r in potential.terms)
                          + potential.enthalpy)
    return total


def needed(found: tuple[Potential, ...]) -> dict[str, Reservoir]:
    """The reservoirs of potentials by name."""
    return {reservoir.name: reservoir for potential in found for _, reservoir in potential.terms}


def atoms_of(reservoir: Reservoir, cells: int, height: float) -> tuple[Any, float]:
    """ASE atoms [Angstrom] of a reservoir and the number of formula units in them.

    Parameters
    ----------
    cells : unit cells of the structure's own supercell: a sheet gets about as many.
    height : of a sheet's cell [m].
    """
    from ase import Atoms
    from ase.build import bulk, molecule

    if reservoir.kind == "sheet":
        side = max(3, round(cells ** 0.5))
        side += bool(reservoir.sheet.touching) and side % 3 == 0
        guess = (reservoir.sheet.lattice, reservoir.sheet.thickness)
        made = build(reservoir.sheet, *guess, side * np.eye(2, dtype=int), height)
        return Atoms(numbers=made.atomic_numbers, positions=made.positions * 1e10, cell=made.cell * 1e10, pbc=True), side ** 2
    if reservoir.kind == "crystal":
        structure, constant = CRYSTALS[reservoir.name]
        atoms = bulk(reservoir.name, structure, a=constant, cubic=True)
        atoms *= 3 if structure == "bcc" else 2
        return atoms, len(atoms)
    if reservoir.name in RINGS:
        return _ring(reservoir.name), 1
    return molecule(reservoir.name), 1


def _ring(name: str) -> Any:
    """A crown of eight atoms."""
    from ase import Atoms

    number, bond = RINGS[name]
    radius = np.sqrt(2) * bond * np.sin(np.radians(108.0) / 2)
    chord = 2 * radius * np.sin(np.pi / 8)
    turn = np.arange(8) * np.pi / 4
    rise = np.sqrt(bond ** 2 - chord ** 2) / 2 * (-1.0) ** np.arange(8)
    return Atoms(numbers=[number] * 8, positions=np.stack([radius * np.cos(turn), radius * np.sin(turn), rise], axis=1))


def _symbol(element: int) -> str:
    from ase.data import chemical_symbols

    return chemical_symbols[element]
