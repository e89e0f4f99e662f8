"""A strained two-dimensional crystal: 1H-MoS2 with a tungsten-substituted domain, or graphene with a bilayer patch.

The rim of the domain carries an eigenstrain on two arcs, one that wants to grow and one that wants to shrink, as where
sulphur is missing or in excess; the sheet around it gives way elastically. A dark-field survey shows the whole domain, the
strain sits only at parts of its rim: related, not identical. Vacancies gather at the rim, or in a spot that was irradiated.
The sheet may be doped, of many grains, and transform from 2H to 1T' where it is heated or gated.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from edgetem_nodes.physics import site_noise
from edgetem_nodes.physics.specimens import Atoms, Condition, require_quantity
from edgetem_nodes.physics.specimens.catalogue import SpecimenOptions
from edgetem_nodes.physics.specimens.domain import ElasticField, Rim
from edgetem_nodes.physics.specimens.grains import Crystal, Polycrystal, SingleCrystal, Sites, turned
from edgetem_nodes.physics.specimens.thermal import crystal_displacement, sheet_displacement
from edgetem_nodes.physics.specimens.tilt import sheared
from edgetem_nodes.physics.specimens.transition import Kinetics, Transition, holder_state

MOS2_LATTICE = 3.16e-10
"""In-plane lattice parameter of 1H-MoS2 [m] (Wildervanck & Jellinek, Z. anorg. allg. Chem. 328, 309, 1964)."""
MOS2_THICKNESS = 3.17e-10
"""Distance of the two sulphur planes [m]."""
GRAPHENE_LATTICE = 2.46e-10
"""[m]."""
SPACING = {"MoS2": 6.147e-10, "graphene": 3.354e-10}
"""Distance of two layers in the bulk [m] (MoS2 as above; graphite: Trucano & Chen, Nature 258, 136, 1975)."""
SHEETS = tuple(SPACING)

DOPANTS = {"MoS2": {42: ("Ti", "V", "Cr", "Mn", "Fe", "Co", "Ni", "Nb", "Ta", "W", "Re"), 16: ("O", "Se", "Te")},
           "graphene": {6: ("B", "N", "Si", "P")}}
"""What may replace an element of the sheet, by the atomic number of that element."""

KINETICS = Kinetics(critical_temperature=873.0, bias_shift=-100.0, mobility=5e-12)
"""Of 2H to 1T' MoS2. Under the beam 1T grows between 400 and 700 C (Lin et al., Nature Nanotech. 9, 391, 2014), and
electrons from a gate favour 1T' (MoTe2: Wang et al., Nature 550, 487, 2017). A temperature within that range, the shift by
bias, and a speed at which half of the sheet transforms within a minute 30 K above are chosen, not measured."""

_POISSON_RATIO = {"MoS2": 0.25, "graphene": 0.165}
_CLOSEST = {"MoS2": 2.0e-10, "graphene": 1.2e-10}
"""Atoms of two grains nearer than this [m], 0.84 of a bond, are not both there."""
_LARGEST_TURN = {"MoS2": np.pi / 3, "graphene": np.pi / 6}
_DEBYE = {"MoS2": 600.0, "graphene": 2312.0}
"""[K]; about (Dai et al., Surf. Sci. 660, 16, 2017); in the plane (Tewary & Yang, Phys. Rev. B 79, 125416, 2009)."""
_GRAPHENE_SIZE = 1e-6
"""Size of a graphene sheet [m], of which its thermal displacement depends logarithmically."""
_PAIRING = 0.231e-10
"""Displacement of metal rows in 1T' that brings atoms of two rows to 2.77 A [m], the order of what diffraction (2.8 A) and
theory find for the zigzag chains (structure: Calandra, Phys. Rev. B 88, 245428, 2013)."""
_NEAR = 0.5e-9
"""Within which vacancies and dopants are counted [m]."""
_STRAINS = ("strain_yy", "strain_xx", "strain_xy")


def crystal(name: str) -> Crystal:
    """The unit cell of a sheet, from ASE.

    Raises
    ------
    ValueError : the sheet is unknown.
    """
    from ase.build import graphene, mx2

    if name == "MoS2":
        atoms = mx2("MoS2", kind="2H", a=MOS2_LATTICE * 1e10, thickness=MOS2_THICKNESS * 1e10)
    elif name == "graphene":
        atoms = graphene("C2", a=GRAPHENE_LATTICE * 1e10)
    else:
        raise ValueError(f"sheet {name!r} is not one of {', '.join(SHEETS)}")
    cell = atoms.cell.array[:2, 1::-1] * 1e-10
    basis = atoms.positions[:, 1::-1] * 1e-10 @ np.linalg.inv(cell)
    heights = (atoms.positions[:, 2] - atoms.positions[:, 2].min()) * 1e-10
    return Crystal(cell, basis, heights, atoms.numbers)


@dataclass(frozen=True)
class _Sheet:
    """Sites of a piece of sheet and what became of them: place (n, 3), (z, y, x) [m], element; vacant, doped or never filled
    (absent: of the second layer of graphene)."""

    sites: Sites
    places: np.ndarray
    numbers: np.ndarray
    vacant: np.ndarray
    doped: np.ndarray
    absent: np.ndarray


class Sheet:
    """A sheet without end; a pure function of its arguments. See `Specimen` for what it answers."""

    crystalline = False

    def __init__(self, name: str, extent: tuple[float, float], seed: int, options: SpecimenOptions | None = None) -> None:
        """Describe the sheet.

        Parameters
        ----------
        name : one of `SHEETS`.
        extent : height and width of the scan field [m]; the domain lies inside.
        seed : of shape, occupation, vacancies, dopants, grains and nuclei.
        options : strain, vacancy_density, dopant, dopant_fraction, grain_size, transition, rim_width and irradiated_radius
            concern a sheet; domain_size 0 leaves the domain out. Densities are means over the field.

        Raises
        ------
        ValueError : an option does not fit the sheet.
        """
        self.options = options or SpecimenOptions()
        _check(name, self.options)
        self.name, self.extent, self.seed = name, np.asarray(extent, float), seed
        self._unit = _stacked(name)
        self.thickness = MOS2_THICKNESS if name == "MoS2" else SPACING[name]
        self._rim = Rim.drawn(self.extent, np.random.default_rng([seed, 0x53484545]), self.options.rim_width)
        self._spot = self.extent * np.random.default_rng([seed, 0x53504F54]).uniform(0.25, 0.75, 2)
        self._lattice = SingleCrystal(self._unit) if self.options.grain_size == 0 else Polycrystal(
            self._unit, self.options.grain_size, _LARGEST_TURN[name], _CLOSEST[name], seed)
        self._transition = Transition(KINETICS, seed) if self.options.transition else None
        self.quantities = {**dict.fromkeys((*_STRAINS, "dilation", "domain", "vacancies", "dopants", "defects"), ""),
                           "orientation": "rad", "thickness": "m"}
        if self.options.grain_size:
            self.quantities["grain_boundary"] = "m"
        if self._transition is not None:
            self.quantities["transformed"] = ""

    @cached_property
    def _field(self) -> ElasticField:
        return ElasticField(self._rim, _POISSON_RATIO[self.name], self.options.strain)

    @cached_property
    def _mean_weight(self) -> float:
        """Mean of `_weight` over the field."""
        axes = [np.linspace(0, length, 128) for length in self.extent]
        return float(self._weight(np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1)).mean())

    def _weight(self, material: np.ndarray) -> np.ndarray:
        """In proportion to which vacancies, and in an irradiated spot dopants too, are found at places (..., 2) [m]."""
        if self.options.irradiated_radius:
            square = np.square((material - self._spot) / self.options.irradiated_radius).sum(axis=-1)
            return 0.02 + np.exp(-square / 2)
        return 0.02 + np.abs(self._rim.eigenstrain(material))

    def atoms(self, low: np.ndarray, high: np.ndarray, condition: Condition) -> Atoms:
        """Every atom with low <= (y, x) < high [m], in the order of their sites; see `Specimen.atoms`."""
        low, high = np.asarray(low, float), np.asarray(high, float)
        sheet = self._built(low, high, condition)
        kept = ~(sheet.vacant | sheet.absent) & ((sheet.places[:, 1:] >= low) & (sheet.places[:, 1:] < high)).all(axis=1)
        # a substitute moves as its site does: the force constants are the host's
        displacement = self._thermal(condition)[sheet.sites.basis[kept]]
        return Atoms(sheet.places[kept], sheet.numbers[kept], displacement, sheet.sites.identity[kept])

    def _thermal(self, condition: Condition) -> np.ndarray:
        """Thermal displacement of each basis atom [m]."""
        from ase.data import atomic_masses

        temperature = max(holder_state(condition)[0], 1.0)
        masses = atomic_masses[self._unit.atomic_numbers]
        if self.name == "graphene":
            area = crystal("graphene").area / 2
            return np.array([sheet_displacement(m, _DEBYE["graphene"], temperature, area, _GRAPHENE_SIZE) for m in masses])
        return np.array([crystal_displacement(m, _DEBYE["MoS2"], temperature) for m in masses])

    def _built(self, low: np.ndarray, high: np.ndarray, condition: Condition) -> _Sheet:
        """Every site whose atom may lie in the rectangle, some around it too."""
        reach = self._field.reach + (MOS2_LATTICE if self._transition is not None else 0.0)
        reach += self.thickness * np.tan(np.abs([condition.alpha, condition.beta]))
        sites = self._lattice.sites(low - reach, high + reach)
        if self.name == "graphene" and not self.options.domain_size:
            sites = sites.chosen(sites.basis < 2)
        numbers = self._unit.atomic_numbers[sites.basis]
        doped, substituted = self._doped(sites, numbers)
        vacant, absent = self._vacant(sites, numbers), np.zeros(len(numbers), bool)
        if self.options.domain_size:
            inside = site_noise.uniform(self.seed, sites.identity, "domain") < self._rim.fraction(sites.positions)
            if self.name == "MoS2":
                substituted = np.where((numbers == 42) & inside & ~doped, 74, substituted)
            else:
                absent = (sites.basis >= 2) & ~inside
        lateral = sites.positions + self._field.displacement(sites.positions)
        if self._transition is not None:
            lateral += self._shift(sites, numbers, condition)
        heights = self._unit.heights[sites.basis] - self._unit.heights.min()
        places = sheared(np.column_stack([heights, lateral]), condition.alpha, condition.beta, self.thickness / 2)
        return _Sheet(sites, places, substituted, vacant, doped & ~vacant & ~absent, absent)

    def _doped(self, sites: Sites, numbers: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Which sites hold a dopant, and the elements (n,) with it."""
        if not self.options.dopant or not self.options.dopant_fraction:
            return np.zeros(len(numbers), bool), numbers
        from ase.data import atomic_numbers

        host = _host(self.name, self.options.dopant)
        chance = self.options.dopant_fraction
        if self.options.irradiated_radius:
            chance = chance * self._weight(sites.positions) / self._mean_weight
        doped = (numbers == host) & (site_noise.uniform(self.seed, sites.identity, "dopant") < chance)
        return doped, np.where(doped, atomic_numbers[self.options.dopant], numbers)

    def _vacant(self, sites: Sites, numbers: np.ndarray) -> np.ndarray:
        """Which sites of sulphur, or of the lower layer of graphene, are empty."""
        vacant = np.zeros(len(numbers), bool)
        if self.options.vacancy_density:
            removable = np.flatnonzero(numbers == 16 if self.name == "MoS2" else sites.basis < 2)
            mean = self.options.vacancy_density * self._unit.area / 2
            chance = mean * self._weight(sites.positions[removable]) / self._mean_weight
            vacant[removable] = site_noise.uniform(self.seed, sites.identity[removable], "vacancy") < chance
        return vacant

    def _shift(self, sites: Sites, numbers: np.ndarray, condition: Condition) -> np.ndarray:
        """Displacement (n, 2) [m] from 2H to 1T' where the sheet is transformed.

        The upper sulphur plane glides by a / sqrt(3), and rows of metal approach each other in pairs; the direction of the
        rows is one of three, chosen by the grain of the new phase.
        """
        shift = np.zeros((len(numbers), 2))
        distance, grain = self._transition.front(sites.positions, condition)
        cell, lower = self._unit.cell, sites.basis == int(np.argmin(self._unit.heights))
        glide = min((-2 * self._unit.basis[1] @ cell + np.array([i, j]) @ cell for i in range(-2, 3) for j in range(-2, 3)),
                    key=np.linalg.norm)
        shift[(numbers == 16) & ~lower] = glide
        variant = (grain % np.uint64(3)).astype(int)
        rows = np.stack([cell[0], cell[1], cell[0] + cell[1]])
        across = np.stack([-rows[:, 1], rows[:, 0]], axis=-1) / MOS2_LATTICE
        i, j = sites.cells.T
        parity = 1 - 2 * (np.stack([j, i, i - j])[variant, np.arange(len(i))] % 2)
        shift = np.where((numbers == 42)[:, None], _PAIRING * parity[:, None] * across[variant], shift)
        return np.where((distance < 0)[:, None], turned(shift, sites.turn), 0.0)

    def truth(self, quantity: str, positions: np.ndarray, condition: Condition) -> np.ndarray:
        """Value (n,) of a quantity at positions (n, 2), (y, x) [m].

        Strains are the components of the displacement gradient of the material at that place, not averaged over a probe;
        `domain` is the expected fraction of substituted metal (MoS2) or of second layer (graphene); `vacancies`, `dopants`
        and both, `defects`, are counts within 0.5 nm; `orientation` is the turn of the lattice [rad] from x towards y;
        `grain_boundary` the distance from the nearest one [m]; `transformed` 1 in 1T', 0 in 2H.

        Raises
        ------
        ValueError : the quantity is unknown.
        """
        require_quantity(self, quantity)
        positions = np.asarray(positions, float).reshape(-1, 2)
        if len(positions) == 0:
            return np.zeros(0)
        if quantity in ("vacancies", "dopants", "defects"):
            return self._counted(quantity, positions, condition)
        material = self._field.material(positions)
        if quantity in _STRAINS or quantity == "dilation":
            strain = self._field.strain(material)
            return strain[:, :2].sum(axis=1) if quantity == "dilation" else strain[:, _STRAINS.index(quantity)].copy()
        if quantity in ("orientation", "grain_boundary"):
            known = self._lattice.orientation if quantity == "orientation" else self._lattice.boundary_distance
            return known(material)
        if quantity == "transformed":
            return self._transition.transformed(material, condition)
        domain = self._rim.fraction(material) if self.options.domain_size else np.zeros(len(material))
        if quantity == "domain":
            return domain
        return SPACING[self.name] * (1 + (domain if self.name == "graphene" else np.zeros(len(domain))))

    def _counted(self, quantity: str, positions: np.ndarray, condition: Condition) -> np.ndarray:
        """Vacancies, dopants or both within `_NEAR` of positions (n, 2) [m]."""
        from scipy.spatial import cKDTree

        sheet = self._built(positions.min(axis=0) - _NEAR, positions.max(axis=0) + _NEAR, condition)
        which = {"vacancies": sheet.vacant, "dopants": sheet.doped, "defects": sheet.vacant | sheet.doped}[quantity]
        if not which.any():
            return np.zeros(len(positions))
        found = cKDTree(sheet.places[which, 1:]).query_ball_point(positions, _NEAR, return_length=True)
        return np.asarray(found, float)

    def layers(self, positions: np.ndarray, condition: Condition) -> dict[str, np.ndarray]:
        """Thickness (n,) [m] of the sheet's material at positions (n, 2)."""
        return {self.name: self.truth("thickness", positions, condition)}

    def edge_distance(self, positions: np.ndarray) -> None:
        """None: a sheet has no edge in the field."""
        return None


def _stacked(name: str) -> Crystal:
    """The unit cell, of graphene with the second layer in AB stacking as basis atoms 2 and 3."""
    unit = crystal(name)
    if name != "graphene":
        return unit
    return Crystal(unit.cell, np.concatenate([unit.basis, unit.basis + unit.basis[1] - unit.basis[0]]),
                   np.concatenate([unit.heights, unit.heights + SPACING[name]]), np.tile(unit.atomic_numbers, 2))


def _host(name: str, dopant: str) -> int:
    """Atomic number of what a dopant replaces."""
    for host, elements in DOPANTS[name].items():
        if dopant in elements:
            return host
    known = [element for elements in DOPANTS[name].values() for element in elements]
    raise ValueError(f"dopant {dopant!r} is not known in {name}: choose of {', '.join(known)}")


def _check(name: str, options: SpecimenOptions) -> None:
    """Raises ValueError where an option does not fit the sheet."""
    unit = crystal(name)
    if not 0 <= abs(options.strain) <= 0.1:
        raise ValueError(f"strain {options.strain:g} of a sheet is beyond 0.1, where it tears")
    sites = 2 / unit.area
    if not 0 <= options.vacancy_density <= 0.1 * sites:
        raise ValueError(f"vacancy density {options.vacancy_density * 1e-18:g} /nm^2 is not between 0 and a tenth of the "
                         f"sites, {0.1 * sites * 1e-18:.3g} /nm^2")
    for name_, size in (("rim_width", options.rim_width), ("irradiated_radius", options.irradiated_radius)):
        if not 0 <= size < 1e-6:
            raise ValueError(f"{name_} {size * 1e9:g} nm is not between 0 and a micrometre")
    if not 0 <= options.dopant_fraction <= 1:
        raise ValueError(f"dopant fraction {options.dopant_fraction:g} is not between 0 and 1")
    if options.dopant:
        _host(name, options.dopant)
    elif options.dopant_fraction:
        raise ValueError(f"dopant fraction {options.dopant_fraction:g} has no dopant: name an element")
    if options.transition and name != "MoS2":
        raise ValueError(f"{name} has no transition: MoS2 transforms from 2H to 1T'")
