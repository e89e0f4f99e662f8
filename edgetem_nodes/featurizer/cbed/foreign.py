"""Patterns of which nothing should be said: no crystal, not one crystal, no beam, no detector.

Films and grains go through the virtual microscope, the others are drawn.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from edgetem_nodes.featurizer.cbed.disk_drawing import EDGE_REACH, draw_radial, edge_profiles
from edgetem_nodes.featurizer.cbed.evaluation import Truth
from edgetem_nodes.featurizer.cbed.generator import rotation
from edgetem_nodes.featurizer.cbed.held_out import PIXELS, stored
from edgetem_nodes.featurizer.cbed.materials import material
from edgetem_nodes.featurizer.cbed.uniform_slab import UniformSlab
from edgetem_nodes.physics.diffraction import Diffraction
from edgetem_nodes.physics.electrons import wavelength
from edgetem_nodes.physics.numerics import Numerics
from edgetem_nodes.physics.optics import Camera, Probe
from edgetem_nodes.physics.specimens import Atoms, Condition
from edgetem_nodes.physics.specimens.carbon_film import CarbonFilm

_RINGS = {"gold": (4.078e-10, (3, 4, 8, 11, 12), (1.0, 0.5, 0.4, 0.5, 0.15)),
          "aluminium": (4.050e-10, (3, 4, 8, 11, 12), (1.0, 0.5, 0.3, 0.3, 0.1))}
"""Lattice parameter [m], h^2 + k^2 + l^2 and relative strength of the first rings of face-centred powders."""
SATURATED = 4095.0
"""Counts at which the pixels of saturated patterns end."""


@dataclass(frozen=True)
class Foreign:
    """Patterns (n, pixels, pixels) float64 of 1 electron, their kinds (n,), and the beam that all of them share. SI units."""

    expected: np.ndarray
    kinds: np.ndarray
    pixel_angle: float
    high_tension: float
    semi_convergence_angle: float


class _Film:
    """Amorphous carbon as a specimen of the virtual microscope."""

    name, crystalline = "amorphous carbon", True
    quantities: dict[str, str] = {}

    def __init__(self, seed: int, thickness: float) -> None:
        self._film, self.thickness = CarbonFilm(seed, 0.0, thickness), thickness

    def atoms(self, low: np.ndarray, high: np.ndarray, condition: Condition | None = None) -> Atoms:
        return self._film.atoms(low, high)


def foreign_patterns(seed: int, each: int = 2, film_thickness: float = 6e-9, cache: Path | None = None) -> Foreign:
    """`each` of every kind, at 100 kV, a semi-convergence angle of 2 mrad and pixels of 0.9 mrad.

    Kinds: film (amorphous carbon), grains (two of one sheet, turned), rings (of a powder), vacuum (the direct beam alone),
    noise (the same everywhere), empty, saturated. Films are one place of a film, turned and mirrored. Kept below `cache`.
    """
    import torch

    torch.set_num_threads(1)
    rng = np.random.default_rng([seed, 0xF0])
    tension, angle, pixel_angle = 100e3, 2e-3, 0.9e-3
    probe, camera = Probe(tension, angle), Camera(PIXELS, pixel_angle)
    disk = _disk(angle / pixel_angle, PIXELS // 2 + rng.uniform(-1, 1, (each, 2)))
    numerics = Numerics(phonon_configurations=1)
    film = stored(("film", seed, film_thickness, probe, camera), cache,
                  lambda: Diffraction(_Film(seed, film_thickness), probe, camera, numerics).patterns(np.zeros((1, 2))))[0]
    films = [np.rot90(film[::1 - 2 * (number // 4 % 2)], number % 4) for number in range(each)]
    grains = [_grains(name, rng, probe, camera) for name in ("MoS2", "graphene", "WS2", "h-BN") * each][:each]
    kinds = {"film": np.array(films), "grains": np.array(grains),
             "rings": np.array([_rings(one, rng, pixel_angle, tension) for one in disk]), "vacuum": disk,
             "noise": np.full((each, PIXELS, PIXELS), 1 / PIXELS ** 2), "empty": np.zeros((each, PIXELS, PIXELS)),
             "saturated": disk}
    expected = np.concatenate(list(kinds.values())).astype(float)
    return Foreign(expected, np.repeat(list(kinds), each), pixel_angle, tension, angle)


def foreign_counts(foreign: Foreign, electrons: float, rng: np.random.Generator) -> np.ndarray:
    """Counts (n, pixels, pixels) float32 of each pattern; those that saturate end at `SATURATED`."""
    counts = rng.poisson(foreign.expected * electrons).astype(np.float32)
    full = foreign.kinds == "saturated"
    counts[full] = np.where(foreign.expected[full] > 1e-4, np.float32(SATURATED), counts[full])
    return counts


def foreign_truth(foreign: Foreign, electrons: float) -> Truth:
    """That there is nothing to be known."""
    rows = len(foreign.kinds)
    nothing = np.full(rows, np.nan)
    return Truth(np.full((rows, 2, 2), np.nan), np.full(rows, ""), np.zeros(rows, bool), np.ones(rows, bool), nothing,
                 np.zeros(rows, bool), np.full((rows, 2), np.nan), np.full(rows, float(electrons)), foreign.kinds)


def _grains(name: str, rng: np.random.Generator, probe: Probe, camera: Camera) -> np.ndarray:
    """Half of the beam on either of two grains, turned against each other by 8 to 22 degrees."""
    first = rng.uniform(-np.pi, np.pi)
    patterns = []
    for turn in (first, first + np.radians(rng.uniform(8, 22))):
        slab = UniformSlab(material(name), 1, rotation(np.array(turn)), (0.0, 0.0))
        patterns.append(Diffraction(slab, probe, camera).patterns(np.zeros((1, 2)))[0])
    return np.mean(patterns, axis=0)


def _disk(radius: float, centres: np.ndarray) -> np.ndarray:
    """A disk of the aperture alone at each centre (n, 2) [pixel], its sum 1: (n, pixels, pixels)."""
    profile, whole = edge_profiles(np.array([radius]), np.array([0.6]))
    y, x = np.indices((PIXELS, PIXELS))
    distance = np.hypot(y - centres[:, 0, None, None], x - centres[:, 1, None, None]) - radius
    points = np.linspace(-EDGE_REACH, EDGE_REACH, profile.shape[1])
    return np.interp(distance, points, profile[0], right=0.0) / whole[0]


def _rings(disk: np.ndarray, rng: np.random.Generator, pixel_angle: float, tension: float) -> np.ndarray:
    """A powder's rings as wide as the disk, with half of the electrons."""
    lattice, squares, strengths = _RINGS[rng.choice(list(_RINGS))]
    step = 0.25e-3
    angle = np.arange(400) * step
    width = 0.6 * 2e-3
    radii = wavelength(tension) * np.sqrt(squares) / lattice
    profile = (np.array(strengths) / radii * np.exp(-0.5 * ((angle[:, None] - radii) / width) ** 2)).sum(axis=1)
    image = np.zeros((PIXELS, PIXELS), np.float32)
    middle = float(PIXELS // 2)
    draw_radial(image, profile, step, np.array([middle, middle]), pixel_angle * np.eye(2), np.zeros(2))
    return 0.5 * disk + 0.5 * image / image.sum()
