"""Patterns that no network was trained on: held-out materials and conditions, computed by the whole virtual microscope.

Nothing here goes through the tables that training patterns come from: `physics.diffraction` propagates a probe through atoms
that are displaced by heat, at high tensions between those trained, with defocus, a misaligned camera, and a detector of its own
response. What is common is the list of materials and the scattering factors.
"""

from __future__ import annotations

import hashlib
import multiprocessing
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from edgetem_nodes.featurizer.cbed.evaluation import Truth
from edgetem_nodes.featurizer.cbed.generator import rotation
from edgetem_nodes.featurizer.cbed.materials import MATERIALS, Material, material
from edgetem_nodes.featurizer.cbed.uniform_slab import UniformSlab
from edgetem_nodes.physics.diffraction import Diffraction
from edgetem_nodes.physics.electrons import wavelength
from edgetem_nodes.physics.numerics import Numerics
from edgetem_nodes.physics.optics import Camera, Probe

PIXELS = 64
HIGH_TENSIONS = (100e3, 150e3, 250e3)
"""[V]; none is trained on."""
VIEWS = 2
"""Patterns of a specimen: two places, the camera shifted differently."""
_PLACES = 5
"""Over which a pattern is averaged: each meets other atoms, so that these stand for more frozen phonons."""
_AROUND = (0.05e-9, 0.5e-9)
"""[m] where they are: on one tile of the specimen, which is most of the work."""
_WIDEST = 5e-9
"""Largest wavelength over pixel angle [m]: work grows with its square."""
_MEMORY = tuple(64 << power for power in range(7))
"""[MiB]"""
_SHIFT = 2.5
"""Largest misalignment of the camera [pixel]."""
_THICKEST = 16e-9
_VERSION = 3


@dataclass(frozen=True)
class Case:
    """One specimen under one beam. SI units; see `NanobeamBatch` for what each is.

    `shifts`, (VIEWS, 2) [pixel] of the pattern, are of its views; `vacancies` is a fraction.
    """

    material: str
    high_tension: float
    semi_convergence_angle: float
    pixel_angle: float
    layers: int
    deformation: tuple[tuple[float, float], tuple[float, float]]
    tilt: tuple[float, float]
    defocus: float
    shifts: tuple[tuple[float, float], ...]
    vacancies: float = 0.0
    phonons: int = 1
    seed: int = 0


@dataclass(frozen=True)
class HeldOut:
    """Noiseless patterns and what is known of them.

    Attributes
    ----------
    expected : (n, pixels, pixels) float32, fraction of the beam in each pixel.
    pixel_angle, high_tension, semi_convergence_angle : (n,). centre : (n, 2) true place of the undiffracted beam [pixel].
    case : (n,) number of the specimen.
    truth : of the patterns; electrons are 1.
    """

    expected: np.ndarray
    pixel_angle: np.ndarray
    high_tension: np.ndarray
    semi_convergence_angle: np.ndarray
    centre: np.ndarray
    case: np.ndarray
    truth: Truth


def held_out_cases(seed: int, each: int = 2, names: Sequence[str] | None = None, thickest: float = _THICKEST,
                   phonons: int = 1) -> list[Case]:
    """Specimens and beams: `each` of every material, or of those named; half of them are out of focus.

    Parameters
    ----------
    thickest : largest thickness of a crystal [m]: thin ones cost less. phonons : frozen-phonon configurations.
    """
    cases = []
    for name in names or MATERIALS:
        # a case depends on its own name and number alone
        key = int.from_bytes(hashlib.sha256(name.encode()).digest()[:4], "big")
        cases += [_case(material(name), np.random.default_rng([seed, key, number]), thickest, phonons)
                  for number in range(each)]
    return cases


def _case(chosen: Material, rng: np.random.Generator, thickest: float, phonons: int) -> Case:
    tension = float(rng.choice(HIGH_TENSIONS))
    shell = chosen.shortest * wavelength(tension)
    angle = float(min(rng.uniform(1.2e-3, 2.8e-3), 0.42 * shell))
    reach = rng.uniform(1.6, min(3.2, 1.1e10 / chosen.shortest)) * shell
    reach = max(reach, 2.2 * shell if chosen.sheet else _WIDEST ** -1 * wavelength(tension) * PIXELS / 2)
    pixel_angle = float(min(reach / (PIXELS / 2), angle / 1.4))
    if chosen.sheet:
        layers = int(rng.integers(1, chosen.layers + 1))
    else:
        layers = chosen.nearest_layers(rng.uniform(chosen.thicknesses[0], min(thickest, chosen.thicknesses[1])))
    exx, eyy, exy = 0.02 * rng.uniform(-1, 1, 3)
    deformation = rotation(np.array(rng.uniform(-np.pi, np.pi))) @ np.array([[1 + eyy, exy], [exy, 1 + exx]])
    azimuth, size = rng.uniform(0, 2 * np.pi), 10e-3 * rng.random()
    shifts = _SHIFT * rng.uniform(-1, 1, (VIEWS, 2))
    return Case(chosen.name, tension, angle, pixel_angle, layers, tuple(map(tuple, deformation.tolist())),
                (float(size * np.sin(azimuth)), float(size * np.cos(azimuth))), float(rng.choice([0.0, 40e-9])),
                tuple(map(tuple, shifts.tolist())), float(rng.choice([0.0, 0.03])) if chosen.sheet else 0.0, phonons,
                int(rng.integers(1 << 31)))


def computed(case: Case) -> np.ndarray:
    """Patterns (VIEWS, pixels, pixels) float32 of a case, fractions of the beam, by the virtual microscope."""
    import torch

    torch.set_num_threads(1)
    specimen = UniformSlab(material(case.material), case.layers, np.array(case.deformation), case.tilt, case.vacancies,
                           case.seed)
    # slices no thinner than the distance of atomic planes, so that none is empty
    numerics = Numerics(phonon_configurations=case.phonons, slice_thickness=2.05e-10,
                        largest_shift=_SHIFT * case.pixel_angle, memory_mib=_MEMORY[0])
    probe = Probe(case.high_tension, case.semi_convergence_angle, case.defocus)
    beam = _fitted(specimen, probe, Camera(PIXELS, case.pixel_angle), numerics, case.seed)
    # a sheet has Debye-Waller factors; its vacancies are what differs from place to place
    around = np.random.default_rng(case.seed).uniform(*_AROUND, (VIEWS * _PLACES, 2))
    patterns = beam.patterns(around, np.repeat(np.array(case.shifts) * case.pixel_angle, _PLACES, axis=0))
    return patterns.reshape(VIEWS, _PLACES, PIXELS, PIXELS).mean(axis=1)


def _fitted(specimen: UniformSlab, probe: Probe, camera: Camera, numerics: Numerics, seed: int) -> Diffraction:
    """The microscope with the least memory that holds a tile, and so with the smallest tile."""
    for memory in _MEMORY[:-1]:
        try:
            return Diffraction(specimen, probe, camera, replace(numerics, memory_mib=memory), seed=seed)
        except ValueError:
            continue
    return Diffraction(specimen, probe, camera, replace(numerics, memory_mib=_MEMORY[-1]), seed=seed)


def stored(key: object, cache: Path | None, make: Callable[[], np.ndarray]) -> np.ndarray:
    """The array that `make` gives, read from below `cache` if it was stored there under the same key (its repr)."""
    if cache is None:
        return make()
    digest = hashlib.sha256(repr((_VERSION, PIXELS, key)).encode()).hexdigest()[:16]
    file = Path(cache) / f"held_out_{digest}.npy"
    if not file.is_file():
        file.parent.mkdir(parents=True, exist_ok=True)
        unfinished = file.with_suffix(f".{os.getpid()}.tmp")
        with unfinished.open("wb") as stream:
            np.save(stream, make())
        unfinished.replace(file)
    return np.load(file, allow_pickle=False)


def _stored(case: Case, cache: Path | None) -> np.ndarray:
    return stored(case, cache, lambda: computed(case))


def held_out(cases: Sequence[Case], cache: Path | None = None, processes: int = 1,
             progress: Callable[[int, int], None] | None = None) -> HeldOut:
    """Patterns of cases, read from below `cache` where they are there.

    Parameters
    ----------
    processes : that share the work. progress : is told how many of how many cases are done.
    """
    patterns = []
    for done, pair in enumerate(_mapped(cases, cache, processes)):
        patterns.append(pair)
        if progress is not None:
            progress(done + 1, len(cases))
    number = np.repeat(np.arange(len(cases)), VIEWS)
    return HeldOut(np.concatenate(patterns), *(np.array([getattr(cases[k], name) for k in number]) for name in
                                               ("pixel_angle", "high_tension", "semi_convergence_angle")),
                   PIXELS // 2 + np.concatenate([np.array(case.shifts) for case in cases]), number, _truth(cases, number))


def _mapped(cases: Sequence[Case], cache: Path | None, processes: int) -> Iterator[np.ndarray]:
    if processes <= 1:
        yield from (_stored(case, cache) for case in cases)
        return
    with ProcessPoolExecutor(processes, multiprocessing.get_context("spawn")) as pool:
        yield from pool.map(_stored, cases, [cache] * len(cases))


def _truth(cases: Sequence[Case], number: np.ndarray) -> Truth:
    materials = [material(cases[k].material) for k in number]
    deformation = np.array([cases[k].deformation for k in number])
    reference = np.array([one.reciprocal_reference for one in materials])
    return Truth(
        np.swapaxes(reference @ np.linalg.inv(deformation), 1, 2), np.array([one.name for one in materials]),
        np.array([one.trained for one in materials]), np.zeros(len(number), bool),
        np.array([cases[k].layers * one.spacing for k, one in zip(number, materials, strict=True)]),
        np.array([one.sheet for one in materials]), np.array([cases[k].tilt for k in number]), np.ones(len(number)),
        np.array(["sheet" if one.sheet else "crystal" for one in materials]))
