"""Materials as energy-loss spectra see them: composition, density, valence oscillators, band gap, fine structure.

Energies in eV, as in the field's formulas; lengths in m, densities in kg/m^3, high tension in V, angles in rad.

The valence electrons are Drude-Lorentz oscillators. Each is given by the electrons a formula unit that it carries, so the
Bethe f-sum rule holds by construction; resonances and widths are chosen so that the peaks of the loss function lie where
the reference of the material puts them.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np

from edgetem_nodes.physics.electrons import AVOGADRO, ELECTRON_MASS, ELEMENTARY_CHARGE, SPEED_OF_LIGHT, lorentz_factor

BOHR_RADIUS = 5.29177210544e-11
"""[m], CODATA 2022."""
VACUUM_PERMITTIVITY = 8.8541878188e-12
"""[F/m], CODATA 2022."""
REDUCED_PLANCK = 1.054571817e-34
"""[J s]."""
LARGEST_INELASTIC_ANGLE = 20e-3
"""[rad], cut-off of the inelastic scattering in Iakoubovskii's formula."""
ATOMIC_MASSES = {"C": 12.011, "O": 15.999, "P": 30.974, "S": 32.06, "Ti": 47.867, "Mn": 54.938, "Sr": 87.62, "Mo": 95.95,
                 "Au": 196.967, "Pb": 207.2}
"""[g/mol], IUPAC 2021."""


@dataclass(frozen=True)
class Oscillator:
    """A Drude-Lorentz oscillator: electrons a formula unit, resonance and full width [eV]; resonance 0: free electrons."""

    electrons: float
    resonance: float
    width: float


@dataclass(frozen=True)
class FinePeak:
    """A peak of the near-edge structure on top of the saw-tooth.

    Attributes
    ----------
    element, energy, width : symbol; centre and full width at half maximum [eV].
    area : over the height of the edge's step [eV].
    edge : tabulated energy of the edge [eV] whose step it is measured against.
    """

    element: str
    energy: float
    width: float
    area: float
    edge: float


@dataclass(frozen=True)
class EdgeMode:
    """A plasmon bound to the rim of a flake.

    Attributes
    ----------
    energy, width : of its Lorentzian loss peak [eV], full width at half maximum.
    probability : of exciting it with the probe on the rim.
    penetration : 1/e depth of its excitation probability into the flake [m].
    """

    energy: float
    width: float
    probability: float
    penetration: float


@dataclass(frozen=True)
class Material:
    """A material as an energy-loss spectrometer sees it.

    Attributes
    ----------
    name, composition : atoms a formula unit by symbol.
    density : [kg/m^3].
    oscillators : of its valence (and shallow core) electrons.
    gap : band gap [eV] below which nothing is lost; 0: none.
    join : energy loss [eV] above which photoabsorption data take over from the oscillators.
    chemical_shift : of an element's deepest tabulated edges [eV]: solid less free atom.
    fine_structure : near-edge peaks.
    edge_mode : of a flake's rim; None where none is known.
    monolayer : a sheet thinner than the formula for the mean free path holds for: its oscillators are taken as they are.
    source : of the numbers.
    """

    name: str
    composition: dict[str, float]
    density: float
    oscillators: tuple[Oscillator, ...]
    source: str
    gap: float = 0.0
    join: float = 60.0
    chemical_shift: dict[str, float] = field(default_factory=dict)
    fine_structure: tuple[FinePeak, ...] = ()
    edge_mode: EdgeMode | None = None
    monolayer: bool = False

    @property
    def molar_mass(self) -> float:
        """[kg/mol] of a formula unit."""
        return 1e-3 * sum(number * ATOMIC_MASSES[element] for element, number in self.composition.items())

    @property
    def formula_density(self) -> float:
        """Formula units a volume [1/m^3]."""
        return self.density / self.molar_mass * AVOGADRO

    @property
    def number_densities(self) -> dict[str, float]:
        """Atoms a volume [1/m^3] of each element."""
        return {element: number * self.formula_density for element, number in self.composition.items()}

    @property
    def plasmon_energy(self) -> float:
        """Free-electron plasmon energy [eV] of all electrons in the oscillators (Egerton, EELS in the EM, 3.3.1)."""
        electrons = sum(oscillator.electrons for oscillator in self.oscillators)
        return math.sqrt(plasma_energy_squared(electrons * self.formula_density))

    def permittivity(self, energies: np.ndarray) -> np.ndarray:
        """Relative permittivity, complex128 of the shape of `energies` [eV] > 0, of the oscillators."""
        energies = np.asarray(energies, float)
        result = np.ones(energies.shape, complex)
        for oscillator in self.oscillators:
            strength = plasma_energy_squared(oscillator.electrons * self.formula_density)
            result += strength / (oscillator.resonance ** 2 - energies ** 2 - 1j * oscillator.width * energies)
        return result

    def mean_free_path(self, high_tension: float, semi_convergence_angle: float, collection_angle: float) -> float:
        """Inelastic mean free path [m] (Iakoubovskii et al., Microsc. Res. Tech. 71, 626 (2008), eq. 9).

        Parameters
        ----------
        high_tension : [V].
        semi_convergence_angle, collection_angle : half angles [rad].
        """
        kilovolts, density = 1e-3 * high_tension, 1e-3 * self.density
        relativistic = (1 + kilovolts / 1022) / (1 + kilovolts / 511) ** 2
        characteristic = 5.5 * density ** 0.3 / (relativistic * kilovolts)
        cutoff = 1e3 * LARGEST_INELASTIC_ANGLE
        larger = 2 * (1e3 * max(semi_convergence_angle, collection_angle)) ** 2
        ratio = (larger + 2 * characteristic ** 2) / (larger + 2 * cutoff ** 2)
        logarithm = math.log(ratio * (cutoff / characteristic) ** 2)
        return 1e-9 * 200 * relativistic * kilovolts / (11 * density ** 0.3 * logarithm)


def plasma_energy_squared(density: float) -> float:
    """(hbar omega_p)^2 [eV^2] of `density` [1/m^3] electrons."""
    omega_squared = density * ELEMENTARY_CHARGE ** 2 / (VACUUM_PERMITTIVITY * ELECTRON_MASS)
    return REDUCED_PLANCK ** 2 * omega_squared / ELEMENTARY_CHARGE ** 2


def speed(high_tension: float) -> float:
    """Speed [m/s] of electrons accelerated by `high_tension` [V]."""
    return SPEED_OF_LIGHT * math.sqrt(1 - lorentz_factor(high_tension) ** -2)


_TITANATE_FINE_STRUCTURE = (
    FinePeak("Ti", 457.9, 1.0, 4.3, 453.7), FinePeak("Ti", 460.2, 1.5, 9.0, 453.7),
    FinePeak("Ti", 463.2, 1.4, 7.0, 453.7), FinePeak("Ti", 465.4, 2.0, 14.0, 453.7),
    FinePeak("O", 531.2, 2.2, 2.6, 543.0), FinePeak("O", 537.3, 3.0, 3.0, 543.0), FinePeak("O", 543.6, 3.0, 1.5, 543.0),
    FinePeak("O", 561.0, 14.0, 6.0, 543.0))
"""Ti L2,3 split by the octahedral crystal field, and O K, of SrTiO3: energies of de Groot et al., PRB 41, 928 (1990) and
48, 2074 (1993); areas and widths read off a measured spectrum."""

_CARBON_FINE_STRUCTURE = (FinePeak("C", 285.0, 2.0, 1.6, 284.1), FinePeak("C", 294.0, 7.0, 1.5, 284.1))

MATERIALS: dict[str, Material] = {material.name: material for material in (
    Material("carbon", {"C": 1.0}, 1900.0, (Oscillator(0.5, 4.6, 3.0), Oscillator(3.5, 9.8, 14.0)),
             "an evaporated film: pi plasmon near 6 eV, sigma plasmon near 24 eV, which goes as the root of the density "
             "(Ferrari et al., PRB 62, 11089 (2000))",
             chemical_shift={"C": 2.0}, fine_structure=_CARBON_FINE_STRUCTURE),
    Material("graphene", {"C": 1.0}, 2267.0,
             (Oscillator(0.45, 4.5, 1.5), Oscillator(2.2, 13.4, 5.5), Oscillator(1.35, 20.0, 17.0)),
             "one layer, 0.335 nm: peaks at 4.7 and 14.6 eV (Eberlein et al., PRB 77, 233406 (2008))",
             chemical_shift={"C": 5.5}, monolayer=True,
             fine_structure=(FinePeak("C", 285.3, 1.1, 1.6, 284.1), FinePeak("C", 288.4, 3.5, 0.9, 284.1),
                             FinePeak("C", 292.2, 1.6, 2.0, 284.1),
                             FinePeak("C", 298.0, 7.0, 2.0, 284.1))),
    Material("MoS2", {"Mo": 1.0, "S": 2.0}, 5000.0,
             (Oscillator(0.03, 1.95, 0.2), Oscillator(0.9, 3.0, 0.9), Oscillator(2.4, 4.4, 2.2), Oscillator(6.0, 6.5, 5.0),
              Oscillator(8.7, 11.0, 9.0), Oscillator(1.5, 42.0, 12.0)),
             "X-ray density of the cell; excitons at 2 and 3 eV, plasmon near 8.3 eV (Nerl et al., npj 2D Mater. Appl. 1, 2 "
             "(2017)), typical bulk plasmon 23 eV, Mo N2,3", gap=1.75, chemical_shift={"S": 1.5},
             fine_structure=(FinePeak("S", 165.5, 4.0, 3.0, 162.4),)),
    Material("SrTiO3", {"Sr": 1.0, "Ti": 1.0, "O": 3.0}, 5120.0,
             (Oscillator(1.9, 4.9, 1.6), Oscillator(2.3, 6.7, 2.2), Oscillator(5.0, 9.3, 4.0), Oscillator(6.5, 14.5, 8.0),
              Oscillator(4.5, 23.5, 4.0), Oscillator(4.0, 26.0, 11.0), Oscillator(3.3, 42.5, 8.0)),
             "X-ray density; interband peaks (van Benthem et al., J. Appl. Phys. 90, 6156 (2001)), O 2s, Sr 4p and Ti 3p, "
             "bulk plasmon near 30 eV; strengths and widths are chosen", gap=3.2, chemical_shift={"Ti": 7.0, "O": -13.0},
             fine_structure=_TITANATE_FINE_STRUCTURE),
    Material("PbTiO3", {"Pb": 1.0, "Ti": 1.0, "O": 3.0}, 7960.0,
             (Oscillator(1.9, 4.5, 1.6), Oscillator(2.5, 6.2, 2.4), Oscillator(5.5, 9.0, 4.5), Oscillator(7.0, 14.0, 8.0),
              Oscillator(4.0, 21.5, 4.0), Oscillator(7.0, 28.0, 14.0), Oscillator(3.3, 42.5, 9.0)),
             "X-ray density; chosen: as SrTiO3 with Pb 5d at 20 eV instead of Sr 4p", gap=3.4,
             chemical_shift={"Ti": 7.0, "O": -13.0}, fine_structure=_TITANATE_FINE_STRUCTURE),
    Material("Au", {"Au": 1.0}, 19300.0,
             (Oscillator(0.76, 0.0, 0.053), Oscillator(0.024, 0.415, 0.241), Oscillator(0.010, 0.830, 0.345),
              Oscillator(0.071, 2.969, 0.870), Oscillator(0.601, 4.304, 2.494), Oscillator(0.8, 7.5, 5.0),
              Oscillator(1.2, 14.8, 5.0), Oscillator(2.3, 21.9, 7.7), Oscillator(1.1, 31.1, 7.7),
              Oscillator(6.7, 48.2, 39.7)),
             "below 5 eV the Drude-Lorentz parameters of Rakic et al., Appl. Opt. 37, 5271 (1998); above it "
             "oscillators fitted by eye to peaks of equal height at 25 and 33 eV (Werner et al., J. Phys. Chem. Ref. Data "
             "38, 1013 (2009))"),
    Material("MnPS3", {"Mn": 1.0, "P": 1.0, "S": 3.0}, 2915.0,
             (Oscillator(1.2, 4.6, 1.4), Oscillator(3.0, 6.2, 2.4), Oscillator(9.0, 7.8, 5.0), Oscillator(10.8, 9.0, 9.0),
              Oscillator(1.8, 50.0, 6.0)),
             "X-ray density; bulk plasmon 19 eV (Kinyanjui et al., PRB 98, 035417 (2018)), gap 3.0 eV (Grasso et al., PRB "
             "44, 11060 (1991)), Mn M2,3; the rim's plasmon was found by Roccapriore et al., Adv. Sci. 9, 2203422 (2022): "
             "its energy, width and strength here are chosen, not measured", gap=3.0, join=70.0,
             chemical_shift={"Mn": 4.0, "S": 1.5, "P": 1.0},
             fine_structure=(FinePeak("Mn", 640.2, 2.4, 12.5, 638.6), FinePeak("Mn", 651.2, 3.2, 3.5, 638.6),
                             FinePeak("S", 165.5, 4.0, 3.0, 162.4), FinePeak("P", 136.0, 2.5, 1.5, 135.0)),
             edge_mode=EdgeMode(energy=3.0, width=0.9, probability=0.02, penetration=4e-9)),
)}
"""Materials by name; electrons, resonances and widths of oscillators are chosen for peaks to lie where the source has them.
White lines of Mn: area proportional to the empty 3d states (Pearson et al., PRB 47, 8471 (1993)), on the scale of Ti in
SrTiO3, L3 several times L2 as in Mn2+ (Kurata & Colliex, PRB 48, 2102 (1993)); other fine structure is typical."""


def material(name: str) -> Material:
    """The material of this name.

    Raises
    ------
    ValueError : no material has this name.
    """
    if name not in MATERIALS:
        raise ValueError(f"material {name!r} is not one of {', '.join(MATERIALS)}: use one of these names in layers()")
    return MATERIALS[name]
