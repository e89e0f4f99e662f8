"""The specimens by name, and what can be asked of them. Others may add theirs: entry point `edgetem.specimens`."""

from __future__ import annotations

import difflib
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from importlib.metadata import entry_points

from edgetem_nodes.physics.specimens import Specimen

GROUP = "edgetem.specimens"

SPECIMENS = {"MoS2": ("sheet", "Sheet"), "graphene": ("sheet", "Sheet"), "SrTiO3": ("perovskite", "Perovskite"),
             "PbTiO3": ("perovskite", "Perovskite"), "gold": ("nanoparticles", "GoldOnCarbon"), "MnPS3": ("flake", "Flake"),
             "file": ("structure_file", "StructureFile")}
"""Module in this folder, and class, of every specimen."""


@dataclass(frozen=True)
class SpecimenOptions:
    """What a specimen is made of and like; each specimen uses what concerns it. Lengths [m], angles [rad].

    Attributes
    ----------
    strain : largest absolute normal strain component of a sheet or of a crystal's strain field.
    vacancy_density : missing atoms [1/m^2] of a sheet.
    dopant, dopant_fraction : element that replaces part of a sheet's metal or carbon, and its fraction; "" for none.
    grain_size : mean distance between the seeds of the grains of a sheet; 0: one grain.
    thickness : of a crystal or flake.
    film_thickness : of the amorphous carbon film that supports particles.
    tilt : of the zone axis against the beam, about x and about y.
    domain_size : mean width of the domains of a crystal; 0: one domain, and no domain in a sheet.
    transition : whether heating or biasing transforms the specimen: a new phase nucleates and grows.
    hole_size : diameter of a round hole in a flake; 0: none.
    edge_mode : whether a flake has an edge plasmon; without one it is the control.
    file : structure file that ASE reads.
    rim_width : standard deviation of the strained rim's profile in a sheet; 0: an eighteenth of the field.
    irradiated_radius : standard deviation of the one spot in the field where a sheet has its vacancies and dopants; 0: the
        vacancies gather at the rim, the dopants are everywhere.
    """

    strain: float = 0.02
    vacancy_density: float = 0.025e18
    dopant: str = ""
    dopant_fraction: float = 0.0
    grain_size: float = 0.0
    thickness: float = 20e-9
    film_thickness: float = 3e-9
    tilt: tuple[float, float] = (0.0, 0.0)
    domain_size: float = 15e-9
    transition: bool = False
    hole_size: float = 0.0
    edge_mode: bool = True
    file: str = ""
    rim_width: float = 0.0
    irradiated_radius: float = 0.0


def make_specimen(name: str, extent: tuple[float, float], seed: int, options: SpecimenOptions | None = None) -> Specimen:
    """The specimen of this name.

    Parameters
    ----------
    extent : height and width of the scan field [m]; what is worth seeing lies in it.
    seed : of everything random in the specimen.

    Raises
    ------
    ValueError : the name is unknown, or an option does not fit the specimen.
    """
    return _factory(name)(name, extent, seed, options or SpecimenOptions())


def _factory(name: str) -> Callable[[str, tuple[float, float], int, SpecimenOptions], Specimen]:
    """What builds the specimen of a name. A built-in name cannot be taken over."""
    if name in SPECIMENS:
        module, kind = SPECIMENS[name]
        return getattr(import_module(f"edgetem_nodes.physics.specimens.{module}"), kind)
    added = {point.name: point for point in entry_points(group=GROUP)}
    if name in added:
        try:
            return added[name].load()
        except Exception as error:  # noqa: BLE001  (whatever somebody else's module raises)
            raise ValueError(f"specimen {name!r} cannot be loaded from {added[name].value}: {error}") from error
    known = [*SPECIMENS, *added]
    close = difflib.get_close_matches(name, known, 1, 0.5)
    raise ValueError(f"specimen {name!r} is not known; there are {', '.join(known)}"
                     + (f"; did you mean {close[0]!r}?" if close else ""))
