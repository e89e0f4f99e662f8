"""Engines: what computes energy, forces and stress of a structure, through ASE. Imports ASE only when it computes."""

from __future__ import annotations

import importlib.util
import json
import math
from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Any

import numpy as np

from edgetem_nodes.graph.configuration import build, checked, declared, nearest
from edgetem_nodes.hpc_bridge.parameters import Calculation

ELECTRONVOLT = 1.602176634e-19
"""[J] (exact)."""
EV_PER_ANGSTROM = ELECTRONVOLT * 1e10
"""[N]."""
EV_PER_ANGSTROM3 = ELECTRONVOLT * 1e30
"""[Pa]."""


FAILURES = (RuntimeError, ValueError, np.linalg.LinAlgError)
"""What engines raise where they give up; ASE's own errors are RuntimeErrors."""
RELAXING = "GFN1-xTB"
"""Method of tblite that relaxes for engines that have no forces."""


class SettingsError(ValueError):
    """Settings that the engine does not take; the message names the value and the rule."""


class EngineError(RuntimeError):
    """The engine gave no result; the message says why."""


class Canceled(Exception):
    """The calculation was told to end."""


@dataclass(frozen=True)
class Engine:
    """An engine: the elements it knows, its methods, the ASE calculator (settings, charge) that it runs, whether that has
    forces and stress, and the package that it needs."""

    name: str
    elements: frozenset[int]
    methods: tuple[str, ...]
    calculator: Callable[[Calculation, int], Any]
    forces: bool = True
    package: str = ""


def _tblite(settings: Calculation, charge: int) -> Any:
    from tblite.ase import TBLite

    return TBLite(method=settings.method, charge=charge, accuracy=settings.accuracy,
                  electronic_temperature=settings.electronic_temperature_k, verbosity=0)


def _effective_medium(_settings: Calculation, charge: int) -> Any:
    from ase.calculators.emt import EMT

    if charge:
        raise EngineError(f"the charge is {charge}; effective medium theory is for neutral metals")
    return EMT()


def _density_functional(settings: Calculation, charge: int) -> Any:
    from edgetem_nodes.hpc_bridge.density_functional import BASES, PeriodicPBE

    return PeriodicPBE(charge, basis=BASES[settings.method])


def _projector_augmented_wave(settings: Calculation, charge: int) -> Any:
    from gpaw import GPAW, FermiDirac

    return GPAW(mode="lcao", basis="dzp", xc="PBE", charge=charge, txt=None,
                occupations=FermiDirac(max(settings.electronic_temperature_k, 300.0) * 8.617333262e-5))


ENGINES = {
    "tblite": Engine("tblite", frozenset(range(1, 87)), ("GFN1-xTB", "GFN2-xTB"), _tblite),
    "emt": Engine("emt", frozenset({13, 28, 29, 46, 47, 78, 79}), ("EMT",), _effective_medium),
    "pyscf": Engine("pyscf", frozenset({1, 5, 6, 7, 8, 9, 14, 15, 16, 17}), ("PBE", "PBE-SZV"), _density_functional,
                    forces=False, package="pyscf"),
    "gpaw": Engine("gpaw", frozenset(range(1, 87)), ("PBE",), _projector_augmented_wave, package="gpaw"),
}
"""tblite: extended tight binding, GFN1 (Grimme et al., J. Chem. Theory Comput. 13, 1989, 2017) and GFN2 (Bannwarth et al.,
ibid. 15, 1652, 2019), Gamma point only. emt: Jacobsen, Stoltze & Norskov, Surf. Sci. 366, 394 (1996). pyscf: PBE in Gaussian
bases, see `density_functional`. gpaw: PBE in atomic orbitals (Larsen et al., Phys. Rev. B 80, 195112, 2009)."""


@dataclass(frozen=True)
class Outcome:
    """Energy [J], forces (atoms, 3) [N], positions (atoms, 3) [m] after relaxation, stress (3, 3) [Pa] (NaN where the
    structure is not periodic), whether the relaxation has converged, and its steps (0: single point)."""

    energy: float
    forces: np.ndarray
    positions: np.ndarray
    stress: np.ndarray
    converged: bool
    steps: int


def engine(name: str) -> Engine:
    """The engine of that name.

    Raises
    ------
    KeyError : there is none, the message names those that are known; or its package is not installed.
    """
    if name not in ENGINES:
        raise KeyError(f"there is no engine {name!r}; the engines are {', '.join(ENGINES)}" + nearest(name, ENGINES))
    found = ENGINES[name]
    if found.package and importlib.util.find_spec(found.package) is None:
        raise KeyError(f"the engine {name!r} needs the package {found.package}, which is not installed: pip install "
                       f"{found.package}, or choose another of {', '.join(ENGINES)}")
    return found


def settings(engine_: Engine, configured: Calculation, overrides: str) -> Calculation:
    """The configured settings with those of a JSON object on top.

    Raises
    ------
    SettingsError : not a JSON object, an unknown key, a wrong value, or a method that the engine does not have.
    """
    known = declared(Calculation)
    values = {field.name: getattr(configured, field.name) for field in fields(Calculation)}
    given = {}
    if overrides.strip():
        try:
            given = json.loads(overrides)
        except json.JSONDecodeError as error:
            raise SettingsError(f"the settings are not JSON: {error}") from None
        if not isinstance(given, dict):
            raise SettingsError(f"the settings are a JSON {type(given).__name__}; they must be an object, "
                                'e.g. {"method": "GFN2-xTB"}')
    for key, value in given.items():
        if key not in known:
            raise SettingsError(f"{key!r} is not a setting; the settings are {', '.join(known)}" + nearest(key, known))
        try:
            values[key] = checked(known[key], value)
        except ValueError as error:
            raise SettingsError(str(error)) from None
    if values["method"] not in engine_.methods:
        if "method" in given or len(engine_.methods) > 1:
            raise SettingsError(f"the engine {engine_.name} has no method {values['method']!r}; it has "
                                + ", ".join(engine_.methods))
        values["method"] = engine_.methods[0]
    return build(Calculation, values)


def settings_json(calculation: Calculation, **more: Any) -> str:
    """Settings as a JSON object, with further entries."""
    values = {field.name: getattr(calculation, field.name) for field in fields(Calculation)}
    return json.dumps({**values, **more})


def energy(atoms: Any, engine_: Engine, calculation: Calculation, charge: int = 0) -> float:
    """Energy [J] of the atoms as they stand; they keep their calculator.

    Raises
    ------
    EngineError : as `calculate`.
    """
    still = atoms.copy()
    still.set_constraint()
    attach(still, engine_, calculation, charge)
    try:
        found = float(still.get_potential_energy())
    except FAILURES as error:
        raise EngineError(f"{engine_.name} {calculation.method} gave no energy: {error}") from error
    if not math.isfinite(found):
        raise EngineError(f"the engine's energy is {found} eV; it must be finite")
    return found * ELECTRONVOLT


def attach(atoms: Any, engine_: Engine, calculation: Calculation, charge: int = 0) -> Any:
    """The atoms with the engine's calculator attached; returns them."""
    atoms.calc = engine_.calculator(calculation, charge)
    return atoms


def calculate(atoms: Any, engine_: Engine, calculation: Calculation, charge: int = 0,
              step: Callable[[int, float, float], None] = lambda *_: None,
              canceled: Callable[[], bool] = lambda: False) -> Outcome:
    """Single point, or relaxation of the positions in the given cell (BFGS). The atoms are moved in place.

    ASE constraints on the atoms, a restraint among them, act on the relaxation; energies and forces are the engine's alone.

    Parameters
    ----------
    atoms : ASE atoms [Å].
    step : called with (step, energy [J], largest force [N]) at the start and after every step.
    canceled : asked before every step.

    Raises
    ------
    EngineError : no self-consistency, or numbers that are not finite.
    Canceled : `canceled` said so.
    """
    from ase.optimize import BFGS

    attach(atoms, engine_, calculation, charge)
    steps, converged = 0, True
    if canceled():
        raise Canceled
    try:
        if calculation.relax:
            optimizer = BFGS(atoms, logfile=None)
            for converged in optimizer.irun(fmax=calculation.max_force_ev_per_angstrom, steps=calculation.max_steps):
                steps = optimizer.nsteps
                _report(atoms, steps, step)
                if canceled():
                    raise Canceled
        else:
            _report(atoms, 0, step)
    except FAILURES as error:
        if isinstance(error, EngineError):
            raise
        raise EngineError(f"{engine_.name} {calculation.method} gave up after {steps} steps: {error}; are the distances "
                          "sound, and is the electronic temperature high enough for a metal?") from error
    return outcome(atoms, bool(converged), steps)


def outcome(atoms: Any, converged: bool, steps: int) -> Outcome:
    """What the attached calculator says of the atoms, in SI units."""
    stress = np.full((3, 3), math.nan)
    if atoms.pbc.all():
        stress = atoms.get_stress(voigt=False) * EV_PER_ANGSTROM3
    return Outcome(float(atoms.get_potential_energy(apply_constraint=False)) * ELECTRONVOLT,
                   atoms.get_forces(apply_constraint=False) * EV_PER_ANGSTROM, atoms.positions * 1e-10, stress, converged,
                   steps)


def _report(atoms: Any, number: int, step: Callable[[int, float, float], None]) -> None:
    energy, forces = float(atoms.get_potential_energy()), atoms.get_forces()
    if not (math.isfinite(energy) and np.isfinite(forces).all()):
        raise EngineError(f"the engine's energy is {energy} eV after {number} steps; energy and forces must be finite")
    step(number, energy * ELECTRONVOLT, float(np.linalg.norm(forces, axis=1).max()) * EV_PER_ANGSTROM)
