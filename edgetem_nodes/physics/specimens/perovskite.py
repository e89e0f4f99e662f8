"""Perovskite crystals seen along [001]: SrTiO3 as a strained mosaic, PbTiO3 with ferroelectric domains.

PbTiO3 is polydomain with its polar axes in the plane of the foil (what a cross-section of an a/c film shows), and, if asked,
becomes cubic above 763 K, and above more under bias, through nuclei that grow.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from edgetem_nodes.physics.electrons import ELEMENTARY_CHARGE
from edgetem_nodes.physics.specimens import Atoms, Condition, require_quantity, slab
from edgetem_nodes.physics.specimens.catalogue import SpecimenOptions
from edgetem_nodes.physics.specimens.perovskite_domains import Columns, Mosaic, Twins
from edgetem_nodes.physics.specimens.thermal import classical_displacement
from edgetem_nodes.physics.specimens.transition import Kinetics, Transition, holder_state

_LEAN = 4e-3
"""Root-mean-square misorientation of mosaic blocks about each axis [rad]."""
_MOSAIC_WALL = 0.05
"""Half-width (of tanh) of the walls of blocks over the thickness: it keeps the strain of leaning columns below 3 %."""
_WALLS_90, _WALLS_180 = 0.5e-9, 0.25e-9
"""Half-widths (of tanh) [m]: 90 degree walls of PbTiO3 are 1.0(3) nm wide (Stemmer et al., Phil. Mag. A 71, 713, 1995), 180
degree ones about a lattice parameter (Meyer & Vanderbilt, Phys. Rev. B 65, 104111, 2002)."""
_FRONT = 1.2e-9
"""Width of the front between tetragonal and cubic phase [m]."""
_KINETICS = Kinetics(critical_temperature=763.0, bias_shift=14.0, mobility=4e-12)
"""Curie temperature of PbTiO3, 490 C (Shirane & Hoshino, J. Phys. Soc. Jpn. 6, 265, 1951). A field favours the polar phase:
1.4e-5 K m/V in BaTiO3 (Merz, Phys. Rev. 91, 513, 1953), here over the 1 um gap of a biasing chip. The front is slow enough
to watch."""
_STRAINED = (2e-9, 12e-9)
"""Least and most distance from the front [m] in which the strains of the variants decay: half a domain (St Venant)."""
_CHUNK = 1 << 14
"""Positions at a time: memory does not grow with the map."""
_TRUTHS = {"strain_xx": "", "strain_yy": "", "strain_xy": "", "rotation": "rad", "domain": "", "tilt_x": "rad",
           "tilt_y": "rad", "thickness": "m"}
_POLAR_TRUTHS = {"polarization_y": "C/m^2", "polarization_x": "C/m^2", "transformed": ""}


@dataclass(frozen=True)
class Crystal:
    """A cubic perovskite ABO3 and its tetragonal phase.

    Attributes
    ----------
    symbols : of A, B and O.
    cubic : lattice parameter [m].
    tetragonal : lattice parameters a and c [m]; the cubic one twice where there is no such phase.
    shifts : of A, B and O along the polarisation, in units of c.
    born_charges : of A, B, of O along its bond to B, and across it [e].
    displacement_rms : of A, B, O at 300 K along one axis [m].
    poisson_ratio : how much a foil thins when it is strained in its plane.
    """

    symbols: tuple[str, str, str]
    cubic: float
    tetragonal: tuple[float, float]
    shifts: tuple[float, float, float]
    born_charges: tuple[float, float, float, float]
    displacement_rms: tuple[float, float, float]
    poisson_ratio: float

    def polarization(self) -> float:
        """Spontaneous polarisation [C/m^2]: e / V times the sum of Born charge and displacement, over a unit cell."""
        a, c = self.tetragonal
        of_a, of_b, along, across = self.born_charges
        dipole = of_a * self.shifts[0] + of_b * self.shifts[1] + (along + 2 * across) * self.shifts[2]
        return ELEMENTARY_CHARGE * dipole * c / (a * a * c)


CRYSTALS = {
    # a = 3.9053 A at 293 K (Jauch & Reehuis, Acta Cryst. A 61, 411, 2005); thermal: B = 0.62, 0.44 and 0.73 A^2 (Abramov et
    # al., Acta Cryst. B 51, 942, 1995); charges of the cubic phases: Zhong, King-Smith & Vanderbilt, PRL 72, 3618 (1994)
    "SrTiO3": Crystal(("Sr", "Ti", "O"), 3.905e-10, (3.905e-10, 3.905e-10), (0.0, 0.0, 0.0), (2.54, 7.12, -5.66, -2.00),
                      (8.87e-12, 7.46e-12, 9.63e-12), 0.24),
    # tetragonal: Shirane, Pepinsky & Frazer, Acta Cryst. 9, 131 (1956): Ti moves by 0.040 c, a rigid octahedron by 0.112 c
    # against Pb; here about the centre of mass. The cubic parameter is about that just above the transition. Thermal:
    # chosen, of the order of refinements. With the cubic phase's charges the polarisation is 0.99 C/m^2; measured about 0.75
    "PbTiO3": Crystal(("Pb", "Ti", "O"), 3.970e-10, (3.904e-10, 4.150e-10), (0.0, -0.040, -0.112),
                      (3.90, 7.06, -5.83, -2.56), (11.2e-12, 7.5e-12, 9.5e-12), 0.3),
}


class Perovskite:
    """A foil of SrTiO3 or PbTiO3, endless in its plane."""

    crystalline = True

    def __init__(self, name: str, extent: tuple[float, float], seed: int, options: SpecimenOptions) -> None:
        """The foil `options.thickness` thick, its [001] axis tilted by `options.tilt`; domains of `options.domain_size`.

        Raises
        ------
        ValueError : the name is neither SrTiO3 nor PbTiO3, or a length or an angle is impossible.
        """
        if name not in CRYSTALS:
            raise ValueError(f"there is no perovskite {name!r}; there are {', '.join(CRYSTALS)}")
        if not options.thickness > 0 or options.domain_size < 0 or not 0 <= options.strain < 0.2:
            raise ValueError(f"{name} cannot be {options.thickness} m thick with domains of {options.domain_size} m and a "
                             f"strain of {options.strain}: thickness > 0, domain_size >= 0, 0 <= strain < 0.2")
        if 0 < options.domain_size < 3e-9:
            raise ValueError(f"domains of {options.domain_size} m are narrower than two walls: 3e-9 m or more, or 0 for one")
        slab.rotation(*options.tilt)
        self.name, self.seed, self.options, self.crystal = name, seed, options, CRYSTALS[name]
        self.thickness, self._polar = options.thickness, name == "PbTiO3"
        self.quantities = {**_TRUTHS, **(_POLAR_TRUTHS if self._polar else {})}
        self._extent = np.asarray(extent, float)
        self._centre = np.array([self.thickness / 2, *(self._extent / 2)])
        self._basis()
        self._fields()
        self._mean = (None, 0.0)

    def _basis(self) -> None:
        """Places in the unit cell (5, 3), (z, y, x) in cells; numbers, thermal and polar displacements of its atoms."""
        from ase.data import atomic_masses
        from ase.spacegroup import crystal

        places = [(0, 0, 0), (0.5, 0.5, 0.5), (0.5, 0.5, 0)]
        cell = crystal(self.crystal.symbols, places, spacegroup=221, cellpar=[self.crystal.cubic * 1e10] * 3 + [90] * 3)
        self._numbers = cell.numbers.astype(np.int64)
        species = [self.crystal.symbols.index(symbol) for symbol in cell.get_chemical_symbols()]
        # off the planes of atoms, so that no surface of the slab cuts through one
        self._places = cell.get_scaled_positions()[:, ::-1] + np.array([0.237, 0.0, 0.0])
        self._thermal = np.array(self.crystal.displacement_rms)[species]
        shifts = np.array(self.crystal.shifts)[species] * self.crystal.tetragonal[1]
        self._shifts = shifts - np.average(shifts, weights=atomic_masses[cell.numbers])

    def _fields(self) -> None:
        options, crystal = self.options, self.crystal
        self.transition = Transition(_KINETICS, self.seed) if self._polar and options.transition else None
        if self._polar:
            a, c = crystal.tetragonal
            strains = (c / crystal.cubic - 1, a / crystal.cubic - 1)
            self.domains = Twins(self.seed, options.domain_size, strains, (_WALLS_90, _WALLS_180))
        else:
            wall = max(_MOSAIC_WALL * self.thickness, 0.5e-9)
            lean = _LEAN * min(1.0, options.domain_size / (4 * wall))
            self.domains = Mosaic(self.seed, tuple(self._extent), options.strain, options.domain_size, lean, wall,
                                  crystal.poisson_ratio)

    def _turn(self, condition: Condition) -> np.ndarray:
        """Rotation of the crystal: its own tilt and then the stage's."""
        return slab.rotation(self.options.tilt[0] + condition.alpha, self.options.tilt[1] + condition.beta)

    def _columns(self, places: np.ndarray, condition: Condition) -> Columns:
        """State of the columns at places (n, 2) [m] of the cubic lattice, from the centre of the field."""
        if not self._polar:
            return self.domains.at(places)
        return self.domains.at(places, *self._transformed(places, condition), self._mean_transformed(condition))

    def _displacement(self, places: np.ndarray, condition: Condition) -> np.ndarray:
        """Displacement (n, 2) alone of the columns at places (n, 2)."""
        return self._columns(places, condition).displacement if self._polar else self.domains.displacement(places)

    def _transformed(self, places: np.ndarray, condition: Condition) -> tuple[np.ndarray, np.ndarray]:
        """Fraction (n,) of the cubic phase, and how far the tetragonal strains have gone, 0 to 1 (n,)."""
        if self.transition is None:
            return np.zeros(len(places)), np.zeros(len(places))
        # the field favours the polar phase whichever way it points
        holder = np.array(condition.holder, float).reshape(-1, 3)
        holder[:, 2] = np.abs(holder[:, 2])
        distance, _ = self.transition.front(places + self._centre[1:], replace(condition, holder=holder))
        reach = np.clip(self.options.domain_size / 2, *_STRAINED)
        return (1 - np.tanh(2 * distance / _FRONT)) / 2, (1 - np.sin(np.pi / 2 * np.clip(distance / reach, -1, 1))) / 2

    def _mean_transformed(self, condition: Condition) -> float:
        """Transformed fraction of the field."""
        if self.transition is None:
            return 0.0
        key = (condition.elapsed, np.asarray(condition.holder, float).tobytes())
        if self._mean[0] != key:
            axes = [np.linspace(-0.5, 0.5, 48) * side for side in self._extent]
            grid = np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1).reshape(-1, 2)
            self._mean = (key, float(self._transformed(grid, condition)[1].mean()))
        return self._mean[1]

    def _material(self, lateral: np.ndarray, condition: Condition) -> np.ndarray:
        """Places (n, 2) of the cubic lattice that are displaced to `lateral` (n, 2) [m]; six steps reach 1e-6 of it."""
        places = lateral
        for _ in range(6):
            places = lateral - self._displacement(places, condition)
        return places

    def _lattice(self, low: np.ndarray, high: np.ndarray, condition: Condition) -> list[np.ndarray]:
        """Ranges of unit cells along z, y, x that may have atoms in a box (3,) of the crystal's frame."""
        axes = [np.linspace(low[i], high[i], 9) for i in (1, 2)]
        grid = np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1).reshape(-1, 2)
        places = self._material(grid, condition)
        thinnest = 0.95 if self._polar else 1 - self.options.strain
        first = np.array([low[0] / thinnest, *places.min(axis=0)]) / self.crystal.cubic
        last = np.array([high[0] / thinnest, *places.max(axis=0)]) / self.crystal.cubic
        leaning = int(np.ceil(3 * _LEAN * self.thickness / self.crystal.cubic))
        reach = np.array([2, 3 + leaning, 3 + leaning])
        return [np.arange(a, b) for a, b in zip((np.floor(first) - reach).astype(np.int64),
                                                (np.ceil(last) + reach).astype(np.int64), strict=True)]

    def atoms(self, low: np.ndarray, high: np.ndarray, condition: Condition) -> Atoms:
        """Every atom with low <= (y, x) < high [m], in the order of identity; the same atoms however the plane is cut."""
        turn = self._turn(condition)
        box = slab.enclosing_box(low, high, (0.0, self.thickness), turn, self._centre)
        along, rows, columns = self._lattice(*box, condition)
        constant = self.crystal.cubic
        places = np.stack(np.broadcast_arrays((rows[:, None, None] + self._places[:, 1]) * constant,
                                              (columns[:, None] + self._places[:, 2]) * constant), axis=-1)
        state = self._columns(places.reshape(-1, 2), condition)
        shape = (len(rows), len(columns), len(self._places), 1)
        height = (along + self._places[:, :1]) * constant * (1 + state.extension.reshape(shape))
        lateral = places + state.displacement.reshape(places.shape)
        lateral = lateral + state.polarization.reshape(places.shape) * self._shifts[:, None]
        lean = state.lean.reshape(places.shape)
        parts = [height, *(lateral[..., i, None] + lean[..., i, None] * height for i in (0, 1))]
        if not np.array_equal(turn, np.eye(3)):
            parts = [sum(turn[i, j] * parts[j] for j in range(3)) for i in range(3)]
        parts = [part + middle for part, middle in zip(parts, self._centre, strict=True)]
        inside = (parts[0] >= 0) & (parts[0] < self.thickness)
        for part, least, limit in zip(parts[1:], low, high, strict=True):
            inside &= (part >= least) & (part < limit)
        row, column, site, layer = np.nonzero(inside)
        thermal = self._thermal * classical_displacement(1.0, max(holder_state(condition)[0], 1.0))
        return Atoms(np.stack([part[inside] for part in parts], axis=-1), self._numbers[site], thermal[site],
                     _identity(rows[row], columns[column], site, along[layer]))

    def truth(self, quantity: str, positions: np.ndarray, condition: Condition) -> np.ndarray:
        """Value (n,) of a quantity at positions (n, 2), (y, x) [m], in the middle of the foil.

        Strains are components of the displacement gradient against the cubic lattice, in the frame of the crystal, and
        `rotation` is its antisymmetric part, from x to y. `tilt_x`, `tilt_y` are of the [001] axis about x and about y.
        `domain`: for PbTiO3 the direction of the polarisation, 0 to 3 for +x, +y, -x, -y and 4 for cubic; for SrTiO3 a
        random number in [0, 1) that a mosaic block has for a name.

        Raises
        ------
        ValueError : the quantity is unknown.
        """
        require_quantity(self, quantity)
        positions = np.asarray(positions, float).reshape(-1, 2)
        if quantity == "thickness":
            return np.full(len(positions), self.thickness)
        if len(positions) > _CHUNK:
            parts = np.array_split(positions, -(-len(positions) // _CHUNK))
            return np.concatenate([self.truth(quantity, part, condition) for part in parts])
        turn = self._turn(condition)
        middle = np.concatenate([np.zeros((len(positions), 1)), positions - self._centre[1:]], axis=1) @ turn
        places = self._material(middle[:, 1:], condition)
        if quantity.startswith(("strain", "rotation")):
            return self._deformation(quantity, places, condition)
        state = self._columns(places, condition)
        if quantity.startswith("tilt"):
            axes = np.concatenate([np.ones((len(places), 1)), state.lean], axis=1) @ turn.T
            return slab.axis_tilt(axes)[quantity == "tilt_y"]
        if quantity.startswith("polarization"):
            return self.crystal.polarization() * state.polarization[:, int(quantity == "polarization_x")]
        return {"domain": state.domain, "transformed": state.transformed}[quantity]

    def _deformation(self, quantity: str, places: np.ndarray, condition: Condition) -> np.ndarray:
        """A component of the displacement gradient, from differences over 0.02 nm."""
        step = 1e-11
        gradient = np.stack([(self._displacement(places + offset, condition)
                              - self._displacement(places - offset, condition)) / (2 * step)
                             for offset in step * np.eye(2)], axis=-1)
        if quantity == "rotation":
            return (gradient[:, 0, 1] - gradient[:, 1, 0]) / 2
        return {"strain_yy": gradient[:, 0, 0], "strain_xx": gradient[:, 1, 1],
                "strain_xy": (gradient[:, 0, 1] + gradient[:, 1, 0]) / 2}[quantity]

    def layers(self, positions: np.ndarray, condition: Condition) -> dict[str, np.ndarray]:
        """Thickness (n,) [m] of the crystal at positions (n, 2)."""
        return {self.name: np.full(len(positions), self.thickness)}

    def edge_distance(self, positions: np.ndarray) -> np.ndarray | None:
        """None: the foil has no edge."""
        return None


def _identity(row: np.ndarray, column: np.ndarray, site: np.ndarray, layer: np.ndarray) -> np.ndarray:
    """Number of the atom on a site of unit cell (layer, row, column), in the order in which `atoms` gives them."""
    offset = 1 << 19
    return ((row + offset) << 43 | (column + offset) << 23 | site << 20 | (layer + offset)).astype(np.uint64)
