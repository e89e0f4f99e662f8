"""A strained two-dimensional crystal: the first simulated specimen.

A 1H-MoS2 sheet with a tungsten-substituted domain, or graphene with a bilayer patch. The rim of the domain carries an
eigenstrain on two arcs, one that wants to grow and one that wants to shrink, as where sulphur is missing or in excess; the
sheet around it gives way elastically. A dark-field survey shows the whole domain, the strain sits only at parts of its rim:
related, not identical. Lengths in m, coordinates (y, x), the corner grid point of the scan field is the origin.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

MOS2_LATTICE = 3.16e-10
"""In-plane lattice parameter of 1H-MoS2 [m] (Wildervanck & Jellinek, Z. anorg. allg. Chem. 328, 309, 1964)."""
MOS2_THICKNESS = 3.17e-10
"""Distance of the two sulphur planes [m]."""
GRAPHENE_LATTICE = 2.46e-10
"""[m]."""
SPECIMENS = ("MoS2", "graphene")

_POISSON_RATIO = {"MoS2": 0.25, "graphene": 0.165}
_ELASTIC_GRID = 256
_QUANTITIES = {"strain_xx": "", "strain_yy": "", "strain_xy": "", "dilation": "", "domain": "", "vacancies": ""}


@dataclass(frozen=True)
class Crystal:
    """Perfect sheet: `cell` (2, 2) rows are lattice vectors (y, x) [m]; `basis` (atoms, 2) fractional; atomic numbers."""

    cell: np.ndarray
    basis: np.ndarray
    atomic_numbers: np.ndarray


def crystal(specimen: str) -> Crystal:
    """The unit cell of a sheet, from ASE.

    Raises
    ------
    ValueError : the specimen is unknown.
    """
    from ase.build import graphene, mx2

    if specimen == "MoS2":
        atoms = mx2("MoS2", kind="2H", a=MOS2_LATTICE * 1e10, thickness=MOS2_THICKNESS * 1e10)
    elif specimen == "graphene":
        atoms = graphene("C2", a=GRAPHENE_LATTICE * 1e10)
    else:
        raise ValueError(f"specimen {specimen!r} is not one of {', '.join(SPECIMENS)}")
    cell = atoms.cell.array[:2, 1::-1] * 1e-10
    basis = atoms.positions[:, 1::-1] * 1e-10 @ np.linalg.inv(cell)
    return Crystal(cell, basis, atoms.numbers)


class Sheet:
    """The atoms of a strained sheet and the truth about it; a pure function of its arguments.

    Attributes: `positions` (atoms, 2) (y, x) [m], sorted as built; `atomic_numbers` (atoms,); `vacancies` (n, 2) [m].
    """

    def __init__(self, specimen: str, extent: tuple[float, float], margin: float, strain: float, seed: int) -> None:
        """Build the sheet.

        Parameters
        ----------
        specimen : one of `SPECIMENS`.
        extent : height and width of the scan field [m]; the domain lies inside.
        margin : how far the sheet goes on around the field [m].
        strain : largest absolute normal strain component, e.g. 0.02; 0 gives a perfect lattice.
        seed : of shape, occupation and vacancies.
        """
        self.specimen, self.extent, self.margin = specimen, np.asarray(extent, float), float(margin)
        self._generator = np.random.default_rng([seed, 0x53484545])
        self._rim = _Rim.drawn(self.extent, self._generator)
        self._solve_elasticity(strain)
        self._build()

    def _solve_elasticity(self, strain: float) -> None:
        """Displacement u = grad(phi), laplacian(phi) = (1 + nu) eigenstrain, in plane stress.

        After Goodier, Phil. Mag. 23, 1017 (1937), for thermal stress.
        """
        size = self.extent + 2 * self.margin
        axes = [(np.arange(_ELASTIC_GRID) * length / _ELASTIC_GRID) - self.margin for length in size]
        eigenstrain = self._rim.eigenstrain(np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1))
        ky = 2 * np.pi * np.fft.fftfreq(_ELASTIC_GRID, size[0] / _ELASTIC_GRID)[:, None]
        kx = 2 * np.pi * np.fft.rfftfreq(_ELASTIC_GRID, size[1] / _ELASTIC_GRID)[None, :]
        square = ky ** 2 + kx ** 2
        square[0, 0] = 1.0
        phi = -(1 + _POISSON_RATIO[self.specimen]) * np.fft.rfft2(eigenstrain) / square
        phi[0, 0] = 0.0
        wave = (ky, kx)
        tensor = np.stack([np.fft.irfft2(-phi * wave[i] * wave[j]) for i, j in ((0, 0), (1, 1), (0, 1))])
        scale = strain / np.abs(tensor[:2]).max()
        self._grid_step = size / _ELASTIC_GRID
        self._strain = scale * tensor
        self._displacement = scale * np.stack([np.fft.irfft2(1j * phi * wave[0]), np.fft.irfft2(1j * phi * wave[1])])

    def _interpolate(self, maps: np.ndarray, positions: np.ndarray) -> np.ndarray:
        from scipy.ndimage import map_coordinates

        coordinates = ((positions + self.margin) / self._grid_step).T
        return np.stack([map_coordinates(layer, coordinates, order=3, mode="grid-wrap") for layer in maps], axis=-1)

    def displacement(self, lattice_positions: np.ndarray) -> np.ndarray:
        """Displacement (n, 2), (y, x) [m], of material points given by their place in the perfect lattice (n, 2) [m]."""
        return self._interpolate(self._displacement, lattice_positions)

    def _material(self, positions: np.ndarray) -> np.ndarray:
        """Where the material now at `positions` sits in the perfect lattice; three fixed-point steps reach 1e-5 of |u|."""
        lattice = positions
        for _ in range(3):
            lattice = positions - self.displacement(lattice)
        return lattice

    def _build(self) -> None:
        unit = crystal(self.specimen)
        low, high = -self.margin * np.ones(2), self.extent + self.margin
        sites, numbers = _tiled(unit, low, high)
        if self.specimen == "MoS2":
            metal = numbers == 42
            tungsten = metal & (self._generator.random(len(sites)) < self._rim.fraction(sites))
            numbers = np.where(tungsten, 74, numbers)
            removable = numbers == 16
        else:
            removable = np.ones(len(sites), bool)
            patch = sites + (unit.cell[0] + unit.cell[1]) / 3
            patch = patch[self._generator.random(len(patch)) < self._rim.fraction(patch)]
            sites = np.concatenate([sites, patch])
            numbers = np.concatenate([numbers, np.full(len(patch), 6)])
            removable = np.concatenate([removable, np.zeros(len(patch), bool)])
        candidates = np.flatnonzero(removable)
        weights = 0.02 + np.abs(self._rim.eigenstrain(sites[candidates]))
        number = max(4, round(self.extent.prod() / 40e-18))
        gone = self._generator.choice(candidates, number, replace=False, p=weights / weights.sum())
        kept = np.ones(len(sites), bool)
        kept[gone] = False
        positions = sites + self.displacement(sites)
        self.positions, self.atomic_numbers, self.vacancies = positions[kept], numbers[kept], positions[gone]

    def quantities(self) -> list[str]:
        """Names that `truth` knows."""
        return list(_QUANTITIES)

    def truth(self, quantity: str, positions: np.ndarray) -> tuple[str, np.ndarray]:
        """Unit and value (n,) of a quantity at positions (n, 2), (y, x) [m].

        Strains are the components of the displacement gradient of the material at that place, not averaged over a probe;
        `domain` is the expected fraction of substituted metal (MoS2) or of second layer (graphene); `vacancies` counts
        missing atoms within 0.5 nm.

        Raises
        ------
        ValueError : the quantity is unknown.
        """
        if quantity not in _QUANTITIES:
            raise ValueError(f"there is no truth {quantity!r}; there are {', '.join(_QUANTITIES)}")
        positions = np.asarray(positions, float).reshape(-1, 2)
        if quantity == "vacancies":
            distance = np.linalg.norm(positions[:, None] - self.vacancies[None], axis=-1)
            return "", (distance < 0.5e-9).sum(axis=1).astype(float)
        material = self._material(positions)
        if quantity == "domain":
            return "", self._rim.fraction(material)
        yy, xx, xy = self._interpolate(self._strain, material).T
        return _QUANTITIES[quantity], {"strain_xx": xx, "strain_yy": yy, "strain_xy": xy, "dilation": xx + yy}[quantity]


@dataclass(frozen=True)
class _Rim:
    """Outline of the domain: radius(angle) around a centre, its eigenstrained arcs and their width. Lengths in m."""

    centre: np.ndarray
    radius: float
    amplitudes: np.ndarray
    phases: np.ndarray
    arcs: np.ndarray
    width: float

    @classmethod
    def drawn(cls, extent: np.ndarray, generator: np.random.Generator) -> _Rim:
        size = float(extent.min())
        centre = extent * (0.5 + generator.uniform(-0.06, 0.06, 2))
        first = generator.uniform(0, 2 * np.pi)
        arcs = np.array([first, first + generator.uniform(2.0, 3.6)])
        amplitudes, phases = generator.uniform(0.04, 0.09, 3), generator.uniform(0, 2 * np.pi, 3)
        return cls(centre, 0.27 * size, amplitudes, phases, arcs, size / 18)

    def _distance_and_angle(self, positions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Signed distance from the outline (inside negative, first order) [m] and polar angle [rad]."""
        offset = positions - self.centre
        angle = np.arctan2(offset[..., 0], offset[..., 1])
        order = np.arange(2, 5)
        waves = self.amplitudes * np.exp(1j * (order * angle[..., None] + self.phases))
        outline = self.radius * (1 + waves.real.sum(axis=-1))
        slope = -self.radius * (order * waves.imag).sum(axis=-1) / outline
        return (np.linalg.norm(offset, axis=-1) - outline) / np.sqrt(1 + slope ** 2), angle

    def fraction(self, positions: np.ndarray) -> np.ndarray:
        """Expected fraction of substituted atoms, 0.01 outside, 0.96 inside, over a rim 0.4 nm wide."""
        distance, _ = self._distance_and_angle(positions)
        return 0.01 + 0.475 * (1 - np.tanh(distance / 0.4e-9))

    def eigenstrain(self, positions: np.ndarray) -> np.ndarray:
        """Stress-free strain in arbitrary units, largest about 1: positive on the first arc, negative on the second."""
        distance, angle = self._distance_and_angle(positions)
        arcs = [np.exp(3.5 * (np.cos(angle - centre) - 1)) for centre in self.arcs]
        return np.exp(-0.5 * (distance / self.width) ** 2) * (arcs[0] - 0.8 * arcs[1])


def _tiled(unit: Crystal, low: np.ndarray, high: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Sites (n, 2) [m] and atomic numbers (n,) of the perfect lattice in the rectangle from `low` to `high` (y, x) [m]."""
    corners = np.array([[y, x] for y in (low[0], high[0]) for x in (low[1], high[1])]) @ np.linalg.inv(unit.cell)
    first, last = np.floor(corners.min(axis=0)).astype(int) - 1, np.ceil(corners.max(axis=0)).astype(int) + 1
    steps = np.stack(np.meshgrid(*[np.arange(a, b + 1) for a, b in zip(first, last, strict=True)], indexing="ij"), axis=-1)
    sites = (steps.reshape(-1, 1, 2) + unit.basis[None]) @ unit.cell
    numbers = np.broadcast_to(unit.atomic_numbers, sites.shape[:2])
    inside = ((sites >= low) & (sites < high)).all(axis=-1)
    return sites[inside], numbers[inside]
