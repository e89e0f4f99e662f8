"""Crystals and sheets whose nanobeam patterns are learnt, kept back to test what was learnt, or learnt as none of them.

Positions are (z, y, x) [m], z along the beam. A material lies so that the first vector of its reference lattice is along x.
Lattice parameters and Debye-Waller factors B = 8 pi^2 <u^2> are of room temperature; of the elements by Peng, Ren, Dudarev &
Whelan, Acta Cryst. A 52, 456 (1996), of the others by what is named, rounded: they differ between authors by a tenth.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np

from edgetem_nodes.physics.specimens.sheet import GRAPHENE_LATTICE, MOS2_LATTICE, MOS2_THICKNESS, SPACING

_SQUARE = ((1, 1), (-1, 1))
"""The cell of a centred square lattice in vectors of its projection."""
_RECTANGLE = ((1, 0), (-1, 2))
"""The cell of a centred rectangle in vectors of its projection."""


@dataclass(frozen=True)
class Material:
    """A crystal along a zone axis, or a sheet.

    Attributes
    ----------
    name : with the zone axis.
    cell : (3, 3) rows a, b, across the beam, and c along it, (z, y, x) [m]; of a sheet c is the spacing of layers.
    basis : (atoms, 3) fractions of a, b, c. Of a sheet: of its odd layers, the first being number 1.
    atomic_numbers : (atoms,).
    b_factors : (atoms,) isotropic B [m^2].
    sheet : whether thickness comes in layers, of which there are few.
    trained : whether networks are trained on it; else it is kept back for evaluation.
    reference_lattice : (2, 2) rows a, b (y, x) [m] of the lattice of atomic columns in projection, which is that of the disks:
        where columns are shifted along the beam only, it is finer than the cell.
    stacked : (atoms, 3) basis of the even layers of a sheet; None: as the odd ones.
    thicknesses : least and largest thickness of a crystal [m]; of a sheet, of one layer and of the most layers.
    thickness_step : [m] at which rocking curves are tabulated.
    """

    name: str
    cell: np.ndarray
    basis: np.ndarray
    atomic_numbers: np.ndarray
    b_factors: np.ndarray
    sheet: bool
    trained: bool
    reference_lattice: np.ndarray
    stacked: np.ndarray | None = None
    thicknesses: tuple[float, float] = (4e-9, 50e-9)
    thickness_step: float = 1e-9
    zone_axis: str = field(default="[001]", compare=False)

    @property
    def displacement_rms(self) -> np.ndarray:
        """Thermal displacement (atoms,) along one axis [m]."""
        return np.sqrt(self.b_factors / (8 * np.pi ** 2))

    @property
    def spacing(self) -> float:
        """Length of the cell along the beam [m]."""
        return float(self.cell[2, 0])

    @property
    def layers(self) -> int:
        """Most layers of a sheet, or cells along the beam of a crystal."""
        return round(self.thicknesses[1] / self.spacing)

    @cached_property
    def reciprocal_reference(self) -> np.ndarray:
        """(2, 2) rows a*, b* (y, x) [1/m] with a . a* = 1."""
        return np.linalg.inv(self.reference_lattice).T

    @cached_property
    def shortest(self) -> float:
        """Length of the shortest reciprocal vector [1/m]: the first shell of disks."""
        order = np.array([(h, k) for h in range(-2, 3) for k in range(-2, 3) if (h, k) != (0, 0)])
        return float(np.hypot(*(order @ self.reciprocal_reference).T).min())

    @cached_property
    def cell_in_reference(self) -> np.ndarray:
        """Integers (2, 2): rows a and b of the cell in vectors of the reference lattice."""
        return np.rint(self.cell[:2, 1:] @ np.linalg.inv(self.reference_lattice)).astype(int)

    def layer(self, number: int) -> np.ndarray:
        """Fractions (atoms, 3) of layer or cell `number`, counted from 0 at the entrance surface; c counts from the first."""
        basis = self.stacked if self.stacked is not None and number % 2 else self.basis
        return basis + np.array([0.0, 0.0, number])

    def positions(self, layers: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Atoms of one column of `layers` cells: (n, 3), (z, y, x) [m], atomic numbers (n,), displacements (n,) [m]."""
        fractions = np.concatenate([self.layer(number) for number in range(layers)])
        return fractions @ self.cell, np.tile(self.atomic_numbers, layers), np.tile(self.displacement_rms, layers)

    def nearest_layers(self, thickness: float) -> int:
        """Number of layers or cells of which a slab of this thickness [m] consists, at least 1."""
        return max(1, round(thickness / self.spacing))


def _made(name: str, reference: list, multiples: tuple, height: float, atoms: list, trained: bool, **more: object) -> Material:
    """A material from its reference lattice (y, x) [Angstrom]; atoms are (Z, B [Angstrom^2], (a, b, c))."""
    lattice = np.array(reference, float) * 1e-10
    cell = np.zeros((3, 3))
    cell[:2, 1:] = np.array(multiples) @ lattice
    cell[2, 0] = height * 1e-10
    return Material(name, cell, np.array([place for _, _, place in atoms], float), np.array([z for z, _, _ in atoms]),
                    np.array([b for _, b, _ in atoms]) * 1e-20, bool(more.pop("sheet", False)), trained, lattice, **more)


def _centred(sites: list) -> list:
    """Atoms (Z, B, place) of a face- or body-centred cell from those at one of its two lattice points."""
    return [(z, b, tuple((np.array(place) + move) % 1.0)) for move in (0.0, 0.5) for z, b, place in sites]


def _face_centred_001(name: str, a: float, sites: list, trained: bool, **more: object) -> Material:
    side = a / 2
    return _made(f"{name} [001]", [[0, side], [side, 0]], _SQUARE, a, _centred(sites), trained, **more)


def _body_centred_001(name: str, a: float, sites: list, trained: bool, **more: object) -> Material:
    side = a / math.sqrt(2)
    return _made(f"{name} [001]", [[0, side], [side, 0]], _SQUARE, a, _centred(sites), trained, **more)


def _face_centred_110(name: str, a: float, sites: list, trained: bool, **more: object) -> Material:
    along = a / math.sqrt(2)
    return _made(f"{name} [110]", [[0, along], [a / 2, along / 2]], _RECTANGLE, along, _centred(sites), trained,
                 zone_axis="[110]", **more)


def _diamond_110(name: str, a: float, first: tuple[int, float], second: tuple[int, float], trained: bool,
                 **more: object) -> Material:
    return _face_centred_110(name, a, [(*first, (0, 0, 0)), (*second, (0, 0.25, 0.5))], trained, **more)


def _perovskite_001(name: str, a: float, c: float, kinds: list[tuple[int, float]], trained: bool,
                    **more: object) -> Material:
    (big, b_big), (small, b_small), (oxygen, b_oxygen) = kinds
    atoms = [(big, b_big, (0, 0, 0)), (small, b_small, (0.5, 0.5, 0.5)), (oxygen, b_oxygen, (0.5, 0.5, 0)),
             (oxygen, b_oxygen, (0, 0.5, 0.5)), (oxygen, b_oxygen, (0.5, 0, 0.5))]
    return _made(f"{name} [001]", [[0, a], [a, 0]], ((1, 0), (0, 1)), c, atoms, trained, **more)


def _hexagonal(name: str, a: float, spacing: float, odd: list, even: list, trained: bool, most: int) -> Material:
    """A sheet; heights of atoms are [Angstrom] from the middle of their layer."""
    def placed(atoms: list) -> list:
        return [(z, b, (u, v, 0.5 + height / spacing)) for z, b, (u, v, height) in atoms]

    stacked = np.array([place for _, _, place in placed(even)], float)
    return _made(name, [[0, a], [a * math.sqrt(3) / 2, -a / 2]], ((1, 0), (0, 1)), spacing, placed(odd), trained, sheet=True,
                 stacked=stacked, thicknesses=(spacing * 1e-10, most * spacing * 1e-10), thickness_step=spacing * 1e-10)


_SITE, _OTHER = (0.0, 0.0), (1 / 3, 2 / 3)


def _dichalcogenide(name: str, a: float, spacing: float, apart: float, metal: int, chalcogen: int, trained: bool) -> Material:
    """2H: metal over chalcogen in the next layer; `apart` is the distance of the two chalcogen planes [Angstrom]."""
    def layer(m: tuple, x: tuple) -> list:
        return [(metal, 0.35, (*m, 0.0)), (chalcogen, 0.5, (*x, -apart / 2)), (chalcogen, 0.5, (*x, apart / 2))]

    return _hexagonal(name, a, spacing, layer(_SITE, _OTHER), layer(_OTHER, _SITE), trained, 3)


def _octahedral(name: str, a: float, spacing: float, apart: float, metal: int, chalcogen: int) -> Material:
    """1T: chalcogens over different places, every layer alike; not trained."""
    layer = [(metal, 0.5, (*_SITE, 0.0)), (chalcogen, 0.6, (*_OTHER, -apart / 2)), (chalcogen, 0.6, (2 / 3, 1 / 3, apart / 2))]
    return _hexagonal(name, a, spacing, layer, layer, False, 3)


def _flat(name: str, a: float, spacing: float, first: tuple, second: tuple, even: tuple, trained: bool) -> Material:
    def layer(p: tuple, q: tuple) -> list:
        return [(*first, (*p, 0.0)), (*second, (*q, 0.0))]

    return _hexagonal(name, a, spacing, layer(_SITE, _OTHER), layer(*even), trained, 3)


def _listed() -> list[Material]:
    origin = (0, 0, 0)
    return [
        # B of graphene, in the plane: Shevitski et al., Phys. Rev. B 87, 045417 (2013); Bernal stacking
        _flat("graphene", GRAPHENE_LATTICE * 1e10, SPACING["graphene"] * 1e10, (6, 0.5), (6, 0.5),
              (_OTHER, (2 / 3, 1 / 3)), True),
        # Pease, Acta Cryst. 5, 356 (1952): boron over nitrogen
        _flat("h-BN", 2.504, 3.330, (5, 0.5), (7, 0.5), (_OTHER, _SITE), True),
        _dichalcogenide("MoS2", MOS2_LATTICE * 1e10, SPACING["MoS2"] * 1e10, MOS2_THICKNESS * 1e10, 42, 16, True),
        # Schutte, De Boer & Jellinek, J. Solid State Chem. 70, 207 (1987); B as of MoS2, chosen
        _dichalcogenide("WS2", 3.153, 6.162, 3.14, 74, 16, True),
        _dichalcogenide("WSe2", 3.282, 6.480, 3.34, 74, 34, False),
        # Abramov et al., Acta Cryst. B 51, 942 (1995)
        _perovskite_001("SrTiO3", 3.905, 3.905, [(38, 0.62), (22, 0.44), (8, 0.73)], True),
        # Harada, Pedersen & Barnea, Acta Cryst. A 26, 336 (1970), without the shift of Ti along the beam
        _perovskite_001("BaTiO3", 3.994, 4.034, [(56, 0.35), (22, 0.45), (8, 0.6)], False),
        _diamond_110("Si", 5.431, (14, 0.46), (14, 0.46), True, thicknesses=(4e-9, 60e-9), thickness_step=1.5e-9),
        _diamond_110("Ge", 5.658, (32, 0.57), (32, 0.57), False),
        # Blakemore, J. Appl. Phys. 53, R123 (1982); B: Reid, Acta Cryst. A 39, 1 (1983)
        _diamond_110("GaAs", 5.653, (31, 0.65), (33, 0.55), True),
        # Maeland & Flanagan, Can. J. Phys. 42, 2364 (1964)
        _face_centred_001("Au", 4.078, [(79, 0.62, origin)], True, thicknesses=(3e-9, 30e-9), thickness_step=0.4e-9),
        _face_centred_110("Au", 4.078, [(79, 0.62, origin)], True, thicknesses=(3e-9, 30e-9), thickness_step=0.5e-9),
        _face_centred_110("Pd", 3.890, [(46, 0.45, origin)], False, thicknesses=(3e-9, 40e-9), thickness_step=0.5e-9),
        _face_centred_001("Al", 4.050, [(13, 0.83, origin)], True, thicknesses=(4e-9, 60e-9)),
        _face_centred_001("Cu", 3.615, [(29, 0.55, origin)], False, thicknesses=(4e-9, 40e-9)),
        _body_centred_001("Fe", 2.866, [(26, 0.33, origin)], True, thicknesses=(4e-9, 40e-9)),
        # Lawrence, Acta Cryst. A 29, 94 (1973), near; NaCl: Abrahams & Bernstein, Acta Cryst. 18, 926 (1965)
        _face_centred_001("MgO", 4.212, [(12, 0.31, origin), (8, 0.34, (0, 0, 0.5))], True, thicknesses=(4e-9, 60e-9)),
        _face_centred_001("NaCl", 5.640, [(11, 1.7, origin), (17, 1.4, (0, 0, 0.5))], False, thicknesses=(4e-9, 60e-9)),
    ]


def _others() -> list[Material]:
    """Of the kinds above, with lattice parameters spread about those trained; B rounded, and where no source is named those of
    relatives of similar Debye temperature."""
    origin, other = (0, 0, 0), (0, 0, 0.5)
    thin = {"thicknesses": (4e-9, 40e-9), "thickness_step": 1.5e-9}
    heavy = {"thicknesses": (3e-9, 30e-9), "thickness_step": 0.8e-9}
    return [
        # Puotinen & Newnham, Acta Cryst. 14, 691 (1961); James & Lavik, Acta Cryst. 16, 1183 (1963)
        _dichalcogenide("MoTe2", 3.519, 6.982, 3.60, 42, 52, False),
        _dichalcogenide("MoSe2", 3.288, 6.450, 3.34, 42, 34, False),
        # Marezio et al., J. Solid State Chem. 4, 425 (1972), layers stacked as of MoS2
        _dichalcogenide("NbSe2", 3.443, 6.274, 3.35, 41, 34, False),
        # Chianelli, Scanlon & Thompson, Mater. Res. Bull. 10, 1379 (1975)
        _octahedral("TiS2", 3.407, 5.695, 2.84, 22, 16),
        # Vousden, Acta Cryst. 4, 373 (1951); Nelmes & Kuhs, Solid State Commun. 54, 721 (1985), without shifts; cubic cells of
        # Howard, Kennedy & Chakoumakos, J. Phys. Condens. Matter 12, 349 (2000); Levin et al., J. Solid State Chem. 175, 170
        # (2003)
        _perovskite_001("KTaO3", 3.989, 3.989, [(19, 0.7), (73, 0.35), (8, 0.7)], False, **thin),
        _perovskite_001("PbTiO3", 3.904, 4.152, [(82, 1.0), (22, 0.45), (8, 0.7)], False, **thin),
        _perovskite_001("LaAlO3", 3.790, 3.790, [(57, 0.5), (13, 0.4), (8, 0.6)], False, **thin),
        _perovskite_001("BaZrO3", 4.193, 4.193, [(56, 0.5), (40, 0.35), (8, 0.7)], False, **thin),
        # elements: Wyckoff, Crystal Structures, vol. 1, 2nd ed. (1963); B: Peng et al.
        _face_centred_001("Ag", 4.086, [(47, 0.73, origin)], False, **heavy),
        _face_centred_001("Pt", 3.924, [(78, 0.37, origin)], False, **heavy),
        _face_centred_001("Ni", 3.524, [(28, 0.36, origin)], False, **thin),
        _face_centred_001("Pb", 4.951, [(82, 2.1, origin)], False, **heavy),
        _face_centred_110("Ag", 4.086, [(47, 0.73, origin)], False, **heavy),
        _face_centred_110("Pt", 3.924, [(78, 0.37, origin)], False, **heavy),
        _face_centred_110("Ni", 3.524, [(28, 0.36, origin)], False, **thin),
        _face_centred_110("Al", 4.050, [(13, 0.83, origin)], False, **thin),
        _body_centred_001("V", 3.024, [(23, 0.58, origin)], False, **thin),
        _body_centred_001("Nb", 3.301, [(41, 0.45, origin)], False, **thin),
        _body_centred_001("W", 3.165, [(74, 0.16, origin)], False, **heavy),
        # Madelung, Semiconductors: Data Handbook, 3rd ed. (2004); B: Reid, Acta Cryst. A 39, 1 (1983)
        _diamond_110("diamond", 3.567, (6, 0.14), (6, 0.14), False, **thin),
        _diamond_110("ZnS", 5.409, (30, 0.90), (16, 0.75), False, **thin),
        _diamond_110("AlAs", 5.661, (13, 0.70), (33, 0.60), False, **thin),
        _diamond_110("InP", 5.869, (49, 0.80), (15, 0.60), False, **thin),
        _diamond_110("GaSb", 6.096, (31, 0.85), (51, 0.75), False, **thin),
        _diamond_110("CdTe", 6.482, (48, 1.50), (52, 1.15), False, **thin),
        # Wyckoff (1963)
        _face_centred_001("LiF", 4.027, [(3, 1.0, origin), (9, 0.7, other)], False, **thin),
        _face_centred_001("TiN", 4.240, [(22, 0.35, origin), (7, 0.4, other)], False, **thin),
        _face_centred_001("CaO", 4.811, [(20, 0.5, origin), (8, 0.6, other)], False, **thin),
        _face_centred_001("PbS", 5.936, [(82, 1.5, origin), (16, 1.3, other)], False, **heavy),
        _face_centred_001("KCl", 6.293, [(19, 2.2, origin), (17, 2.2, other)], False, **thin),
    ]


MATERIALS: dict[str, Material] = {material.name: material for material in _listed()}
"""By name."""
OUTLIERS: dict[str, Material] = {material.name: material for material in _others()}
"""By name: networks are trained on these as examples of what is none of their phases; none of them is kept back."""


def trained_materials() -> tuple[Material, ...]:
    """Those that networks are trained on; their order is that of the classes."""
    return tuple(material for material in MATERIALS.values() if material.trained)


def held_out_materials() -> tuple[Material, ...]:
    """Those that are kept back."""
    return tuple(material for material in MATERIALS.values() if not material.trained)


def outlier_materials() -> tuple[Material, ...]:
    """Those that stand for everything else in training."""
    return tuple(OUTLIERS.values())


def material(name: str) -> Material:
    """The material of this name.

    Raises
    ------
    ValueError : there is none.
    """
    every = MATERIALS | OUTLIERS
    if name not in every:
        raise ValueError(f"material {name!r} is not known; there are {', '.join(every)}")
    return every[name]
