"""The energy of a cell whose defects are only probable: its expectation over what may be there.

The cell holds the defects of a probability of 0.5 and more. Where energies of defects add, the expectation is that of the cell
plus the sum of (p - b) e over all that may be there, of probability p and formation energy e, b being 1 for those in the cell;
it scatters by the sum over sites of p e^2 less the square of the sum of p e, because a site holds one thing or another. e is
that of the defect alone in the same supercell without strain; what defects in the cell cost together, which the cell itself
says, differs from the sum of theirs by strain and by their neighbourhood: the difference is shared out evenly.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from edgetem_nodes.hpc_bridge import reservoirs, sheets
from edgetem_nodes.hpc_bridge.reservoirs import EV
from edgetem_nodes.hpc_bridge.structures import BUILT_IN, SAME_SITE, Structure

if TYPE_CHECKING:
    from edgetem_nodes.hpc_bridge.energetics import Plan

START = 0.02e-10
"""[m] by which atoms are moved before a lone defect is relaxed: from exact symmetry it would not find its lower one."""
SEED = 20260102


@dataclass(frozen=True, order=True)
class Kind:
    """What stands in place of what: atomic numbers, `element` 0 is a vacancy."""

    element: int
    host: int

    @property
    def name(self) -> str:
        """For a person."""
        from ase.data import chemical_symbols

        return f"{chemical_symbols[self.element] if self.element else 'a vacancy'} on {chemical_symbols[self.host]}"

    @property
    def surplus(self) -> tuple[tuple[int, int], ...]:
        """Atoms by atomic number that it adds and takes."""
        return tuple(sorted([(self.host, -1), *([(self.element, 1)] if self.element else [])]))


def _kinds(structure: Structure) -> list[Kind]:
    return [Kind(*pair) for pair in zip(structure.defect_numbers.tolist(), structure.defect_hosts.tolist(), strict=True)]


def kinds(structure: Structure) -> tuple[Kind, ...]:
    """Of the defects whose energy alone is needed: what is in the cell, if all is of one kind, the cell says itself."""
    listed, built = _kinds(structure), structure.defect_probabilities >= BUILT_IN
    inside = {kind for kind, there in zip(listed, built, strict=True) if there}
    outside = {kind for kind, there in zip(listed, built, strict=True) if not there}
    return tuple(sorted(outside | (inside if len(inside) > 1 else set())))


def alone(work: Plan, kind: Kind) -> Plan | None:
    """The plan of one defect in the plan's supercell without strain; None: its energy is not defined, because an atom has no
    reservoir or the engine does not know it."""
    match = replace(work.match, deformation=np.eye(2), surplus=kind.surplus)
    potentials, missing = reservoirs.potentials(match, work.calculation.environment)
    if missing or kind.element and not all(kind.element in level.engine.elements for level in (work.relaxing, work.final)):
        return None
    whole = sheets.build(match.sheet, match.lattice, match.sheet.thickness, match.supercell, work.height)
    middle = whole.cell[:2, :2].sum(axis=0) / 2
    hosts = np.flatnonzero(whole.atomic_numbers == kind.host)
    if not len(hosts):
        return None
    site = hosts[np.argmin(np.linalg.norm(whole.positions[hosts, :2] - middle, axis=1))]
    numbers, positions = whole.atomic_numbers.copy(), whole.positions.copy()
    positions += np.random.default_rng(SEED).normal(0, START, positions.shape)
    numbers[site] = kind.element
    kept = numbers > 0
    return replace(work, structure=replace(whole, atomic_numbers=numbers[kept], positions=positions[kept]), match=match,
                   potentials=potentials)


def expected(structure: Structure, surplus: tuple[tuple[int, int], ...], together: float,
             energies: dict[Kind, float]) -> tuple[float, float]:
    """Expected energy of the defects, and its variance.

    Parameters
    ----------
    surplus : atoms by atomic number that the cell has above the perfect one.
    together : energy of the defects in the cell [J].
    energies : of one of each kind alone [J]; a defect of another kind counts as it stands in the cell.
    """
    listed, likely = _kinds(structure), structure.defect_probabilities
    built = likely >= BUILT_IN
    single = np.array([energies.get(kind, 0.0) for kind in listed])
    known = np.array([kind in energies for kind in listed], bool)
    inside = [kind for kind, there in zip(listed, built, strict=True) if there]
    if inside and (known[built].all() or len(set(inside)) == 1) and _adds(inside) == surplus:
        single[built] += (together - single[built].sum()) / len(inside)
        known |= built
    weighted, variance = single * known, 0.0
    for site in _sites(structure.defect_positions):
        chance, energy = likely[site], weighted[site]
        variance += float((chance * energy ** 2).sum() - (chance * energy).sum() ** 2)
    return together + float(((likely - built) * weighted).sum()), max(variance, 0.0)


def _adds(defects: list[Kind]) -> tuple[tuple[int, int], ...]:
    """Atoms by atomic number that defects add and take."""
    counted = Counter()
    for kind in defects:
        counted.update(dict(kind.surplus))
    return tuple(sorted((number, count) for number, count in counted.items() if count))


def _sites(positions: np.ndarray) -> list[np.ndarray]:
    """Indices of defects (n, 3) by site."""
    left, found = list(range(len(positions))), []
    while left:
        near = [i for i in left if np.linalg.norm(positions[i] - positions[left[0]]) < SAME_SITE]
        left = [i for i in left if i not in near]
        found.append(np.array(near))
    return found


def describe(structure: Structure, energies: dict[Kind, float]) -> dict[str, dict[str, float]]:
    """For the settings JSON: energy of each kind of defect alone [eV], and the expected number of those left out."""
    left_out, needed = Counter(), kinds(structure)
    for kind, chance in zip(_kinds(structure), structure.defect_probabilities.tolist(), strict=True):
        if kind in needed and kind not in energies:
            left_out[kind.name] += chance
    known = {kind.name: round(energy / EV, 4) for kind, energy in energies.items()}
    return ({"lone_defects_ev": known} if known else {}) | ({"defects_without_energy": dict(left_out)} if left_out else {})
