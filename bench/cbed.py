"""How fast diffraction patterns are, and how right: `edgetem bench cbed`, against abTEM's multislice and PRISM.

Rates are patterns a CPU second of one thread, means over the phonon configurations included, after everything that is made
once (potentials, just-in-time compilation, plans of transforms) was made. abTEM gets the same atoms, slices, configurations
and illumination (the edge of the aperture is blurred, docs/diffraction.md; how far a sharp one is from that is said beside
it); for its rates in a supercell as large as our window, for R1 in one three times as wide as wavelength / pixel
angle, whose samples are summed over the pixels. R1 = sum |I - I'| / sum I against abTEM's multislice, the worst of all
positions and bands. With a scattering matrix the multislice runs of its lattice are shared by the probes of a window's
core: the rate is given without them, and with them for scans of several steps.
"""

from __future__ import annotations

import math
import sys
import time
from typing import NamedTuple

import numpy as np

ANGSTROM = 1e-10
FIELD = 4e-9
SCAN_STEPS = (0.05e-10, 0.1e-10, 0.15e-10, 0.2e-10, 0.4e-10)
_PAD = 12e-10
_WIDE = 3
"""Width of the reference's box over wavelength / pixel angle."""
_SPREAD = 0.4e-9


class Case(NamedTuple):
    """A specimen and how it is looked at: lengths [m], angles [rad], high tension [V]."""

    specimen: str
    method: str
    high_tension: float
    semi_convergence_angle: float
    pixels: int
    pixel_angle: float
    thickness: float = 0.0
    configurations: int = 8
    positions: int = 100
    compared: int = 100
    potential_apart: bool = False
    """Whether the runs of a scattering matrix are timed again in a second window, whose potential is known by then."""


def run(quick: bool = False) -> dict:
    """Measure all specimens; returns the record of the benchmark. The figures at its head are those of graphene."""
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        records = [_measured(case) for case in _cases(quick)]
    finally:
        torch.set_num_threads(threads)
    head = {key: records[0][key] for key in ("patterns_per_cpu_s", "abtem_multislice_per_cpu_s", "abtem_prism_per_cpu_s")}
    gpu = torch.cuda.is_available()
    errors = [record["r_factor"] for record in records]
    return {**head, "r_factor": None if None in errors else max(errors),
            "device": torch.cuda.get_device_name() if gpu else "cpu", "cases": records}


def _cases(quick: bool) -> list[Case]:
    positions = 10 if quick else 100
    sheets = [Case(name, "auto", 80e3, 20e-3, 128, 1e-3, positions=positions) for name in ("graphene", "MoS2")]
    sheets.append(Case("MoS2", "auto", 80e3, 30e-3, 128, 1e-3, positions=positions))
    if quick:
        return [*sheets, Case("SrTiO3", "multislice", 200e3, 20e-3, 96, 1e-3, 5e-9, 1, positions, 3)]
    return [*sheets, Case("SrTiO3", "multislice", 200e3, 20e-3, 128, 1e-3, 20e-9, 1, 4, 4),
            Case("SrTiO3", "prism", 200e3, 20e-3, 128, 1e-3, 20e-9, 1, 100, 4, True)]


def _measured(case: Case) -> dict:
    from edgetem_nodes.physics.diffraction import Diffraction
    from edgetem_nodes.physics.optics import Camera, Probe
    from edgetem_nodes.physics.numerics import Numerics
    from edgetem_nodes.physics.specimens.catalogue import SpecimenOptions, make_specimen

    options = SpecimenOptions(thickness=case.thickness or 20e-9, domain_size=0.0)
    specimen = make_specimen(case.specimen, (FIELD, FIELD), 0, options)
    probe, camera = Probe(case.high_tension, case.semi_convergence_angle), Camera(case.pixels, case.pixel_angle)
    print(f"{case.specimen} {case.method}", file=sys.stderr, flush=True)
    numerics = Numerics(method=case.method, phonon_configurations=case.configurations, memory_mib=4096)
    diffraction = Diffraction(specimen, probe, camera, numerics)
    positions = _positions(case, diffraction)
    before = time.process_time()
    patterns = diffraction.patterns(positions)
    setup = time.process_time() - before
    many = np.tile(positions, (math.ceil((20 if case.method == "multislice" else 256) / len(positions)), 1))
    rate = _rate(lambda: diffraction.patterns(many), len(many))
    record = {"specimen": specimen.name, "thickness_nm": round(specimen.thickness * 1e9, 3), "method": case.method,
              "pattern_shape": list(patterns.shape[1:]), "window": [diffraction.window.samples] * 2,
              "slices": diffraction.window.slicing.count,
              "configurations": case.configurations if specimen.crystalline else 0,
              "patterns_per_cpu_s": rate, "setup_cpu_s": round(max(0.0, setup - len(positions) / rate), 3)}
    if case.potential_apart:
        cell, _ = diffraction.shared_window()
        before = time.process_time()
        diffraction.patterns(positions + [0.0, cell])
        record["runs_cpu_s"] = round(min(time.process_time() - before, record["setup_cpu_s"]), 3)
    peer = _Peer(specimen, diffraction)
    if peer.installed:
        record |= peer.rates(positions)
        record["ratio"] = round(rate / record["abtem_multislice_per_cpu_s"], 2)
        ours, places = patterns[:case.compared], positions[:case.compared]
        record |= _agreement(case, ours, peer.patterns(places))
        few = slice(0, 3)
        record["r1_against_abtems_own_probe"] = _agreement(case, ours[few], peer.patterns(places[few], own_probe=True))["r1"]
    else:
        record |= dict.fromkeys(("abtem_multislice_per_cpu_s", "abtem_prism_per_cpu_s", "ratio", "r_factor"))
    if case.method == "prism":
        record |= _amortised(diffraction, record)
    return record | _on_gpu(specimen, probe, camera, numerics, positions)


def _positions(case: Case, diffraction: object) -> np.ndarray:
    """Positions (n, 2) [m]; those for a scattering matrix share a window, the first of a tile that has several."""
    rng = np.random.default_rng(0)
    if case.method != "prism":
        return _SPREAD * (1 + rng.uniform(-1, 1, (case.positions, 2)))
    cell, _ = diffraction.shared_window()
    return cell * (0.5 + rng.uniform(-0.47, 0.47, (case.positions, 2)))


def _rate(work: object, count: int) -> float:
    """Items a CPU second of `work`, which does `count`; the better of two."""
    best = math.inf
    for _ in range(2):
        before = time.process_time()
        work()
        best = min(best, time.process_time() - before)
    return round(count / best, 2)


def _amortised(diffraction: object, record: dict) -> dict:
    """Rates with the multislice runs of a window's lattice counted, for scans of its core with several steps."""
    cell, runs = diffraction.shared_window()
    one = record.get("runs_cpu_s", record["setup_cpu_s"]) / runs
    peer = record["abtem_multislice_per_cpu_s"]
    rows = []
    for step in SCAN_STEPS:
        probes = (cell / step) ** 2
        rate = 1 / (runs * one / probes + 1 / record["patterns_per_cpu_s"])
        rows.append({"scan_step_pm": round(step * 1e12, 1), "patterns_per_tile": round(probes),
                     "patterns_per_cpu_s": round(rate, 2), "ratio": round(rate / peer, 2) if peer else None})
    result = {"tile_nm": round(cell * 1e9, 4), "runs_per_tile": runs, "setup_cpu_s_per_tile": round(runs * one, 2),
              "amortised": rows}
    if peer:
        result["patterns_per_tile_to_break_even"] = round(runs * one / (1 / peer - 1 / record["patterns_per_cpu_s"]))
    return result


def _agreement(case: Case, ours: np.ndarray, theirs: np.ndarray) -> dict:
    """R1 in the bright-field disc, from 1.2 to 2 times its angle, and on to the camera's edge: the worst of all positions.

    The disc's own edge, a few pixels wide, belongs to neither.
    """
    angle = (np.arange(case.pixels) - case.pixels // 2) * case.pixel_angle
    radius = np.hypot(angle[:, None], angle[None, :]) / case.semi_convergence_angle
    edge = case.pixels // 2 * case.pixel_angle / case.semi_convergence_angle
    bands = {"bf": radius < 1, "adf": (radius >= 1.2) & (radius < 2), "haadf": (radius >= 2) & (radius < edge)}
    worst = {name: float((np.abs(ours - theirs)[:, band].sum(axis=1) / theirs[:, band].sum(axis=1)).max())
             for name, band in bands.items()}
    return {"r1": {name: round(value, 6) for name, value in worst.items()}, "r_factor": round(max(worst.values()), 6),
            "positions": len(ours)}


class _Peer:
    """abTEM on what `Diffraction` computes: the same potential, in the same window, which it takes as a supercell."""

    def __init__(self, specimen: object, diffraction: object) -> None:
        try:
            import abtem
            import dask
        except ModuleNotFoundError:
            self.installed = False
            return
        self.installed, self._abtem = True, abtem
        from edgetem_nodes.physics.fourier import fast_length

        abtem.config.set({"diagnostics.progress_bar": False, "fftw.threads": 1})
        dask.config.set(scheduler="synchronous")
        self._specimen, self._diffraction = specimen, diffraction
        window = diffraction.window
        self._finer = 1 if window.band_limited else 2
        unit = diffraction.probe.wavelength / diffraction.camera.pixel_angle
        self._wide = fast_length(math.ceil(_WIDE * unit / window.step))
        self._wide_step = _WIDE * unit / self._wide
        self._samples = window.samples * self._finer
        count = diffraction.numerics.phonon_configurations if specimen.crystalline else 0
        self._configurations = list(range(count)) or [None]
        self._settings = {"energy": diffraction.probe.high_tension,
                          "semiangle_cutoff": diffraction.probe.semi_convergence_angle * 1e3}

    def _potential(self, corner: np.ndarray, samples: int, step: float, configuration: int | None) -> object:
        """abTEM's view of the potential in a box of `samples` of `step` [m] from sample `corner` (2,) on."""
        from edgetem_nodes.physics.potential import potential_layers, thermal_displacements
        from edgetem_nodes.physics.specimens import Condition

        slicing, finer = self._diffraction.window.slicing, self._finer
        pad = 2 * math.ceil(_PAD / step / 2)
        low, around = (corner - pad) * step, samples + 2 * pad
        atoms = self._specimen.atoms(low, low + around * step, Condition())
        moved = None if configuration is None else thermal_displacements(atoms, 0, configuration)
        cut = slice(pad * finer, (pad + samples) * finer)
        layers = potential_layers(atoms, low, step / finer, (around * finer, around * finer), slicing, moved)
        slices = np.stack([layer.numpy()[cut, cut] / np.float32(ANGSTROM) for layer in layers])
        extent = samples * step / ANGSTROM
        return self._abtem.PotentialArray(slices, slice_thickness=slicing.distance / ANGSTROM, extent=(extent, extent))

    def _multislice(self, potential: object, places: np.ndarray) -> np.ndarray:
        """Patterns (n, N, N) at places (n, 2) [m] from the window's corner, the undiffracted beam at N // 2."""
        probe = self._abtem.Probe(**self._settings, extent=potential.extent, gpts=potential.gpts)
        waves = probe.multislice(potential, scan=self._abtem.CustomScan(places / ANGSTROM), lazy=False)
        return waves.diffraction_patterns(max_angle=None, parity="same").array

    def rates(self, positions: np.ndarray) -> dict:
        """Multislice and PRISM rates, all configurations of a pattern counted."""
        window, count = self._diffraction.window, len(self._configurations)
        potential = self._potential(self._diffraction.window_corners(positions[:1])[0], window.samples, window.step,
                                    self._configurations[0])
        probes = 8 if window.slicing.count > 10 else 48
        places = np.random.default_rng(1).uniform(0.4, 0.6, (probes, 2)) * window.length
        self._multislice(potential, places[:2])
        multislice = _rate(lambda: self._multislice(potential, places), probes)
        interpolation = next(factor for factor in (4, 3, 2, 1) if self._samples % factor == 0)
        matrix = self._abtem.SMatrix(potential=potential, **self._settings, interpolation=interpolation, downsample=False)
        before = time.process_time()
        built = matrix.build(lazy=False)
        setup = time.process_time() - before
        places = np.random.default_rng(1).uniform(0.4, 0.6, (128, 2)) * window.length
        scan = self._abtem.CustomScan(places / ANGSTROM)
        built.reduce(scan=scan).diffraction_patterns(max_angle=None)
        prism = _rate(lambda: built.reduce(scan=scan).diffraction_patterns(max_angle=None), len(places))
        return {"abtem_multislice_per_cpu_s": round(multislice / count, 3), "abtem_prism_per_cpu_s": round(prism / count, 3),
                "abtem_prism_setup_cpu_s": round(setup * count, 3), "abtem_prism_interpolation": interpolation,
                "abtem_grid": [self._samples] * 2}

    def patterns(self, positions: np.ndarray, own_probe: bool = False) -> np.ndarray:
        """abTEM's multislice patterns in a wider box under our illumination, summed over pixels, (n, ky, kx).

        With `own_probe` under abTEM's, whose aperture has an edge one sample of the wider box wide.
        """
        from edgetem_nodes.physics.multislice import ProbeWaves
        from edgetem_nodes.physics.pixels import pixel_weights

        diffraction, samples, step = self._diffraction, self._wide, self._wide_step
        probe, camera, finer = diffraction.probe, diffraction.camera, self._finer
        blur = 0.0 if own_probe else diffraction.numerics.blur(probe.semi_convergence_angle, camera.pixel_angle)
        incident = ProbeWaves(probe, samples * finer, step / finer, blur=blur)
        corner = np.rint(positions.mean(axis=0) / step).astype(int) - samples // 2
        middle, weights = samples * finer // 2, pixel_weights(_WIDE)
        seen = middle + (np.arange(camera.pixels) - camera.pixels // 2) * _WIDE
        total = np.zeros((len(positions), camera.pixels, camera.pixels))
        for configuration in self._configurations:
            potential = self._potential(corner, samples, step, configuration)
            for number, position in enumerate(positions):
                wave = incident((position / step - corner)[None] * finer).numpy()[0]
                waves = self._abtem.Waves(wave, energy=probe.high_tension, extent=potential.extent)
                spectrum = np.fft.fftshift(np.fft.fft2(np.asarray(waves.multislice(potential).array), norm="ortho"))
                intensity = np.abs(spectrum) ** 2
                rows = sum(weight * intensity[seen + k] for k, weight in weights.items())
                total[number] += sum(weight * rows[:, seen + k] for k, weight in weights.items())
        return total / len(self._configurations)


def _on_gpu(specimen: object, probe: object, camera: object, numerics: object, positions: np.ndarray) -> dict:
    """Patterns per second of wall time on a GPU, where there is one."""
    import dataclasses

    import torch

    if not torch.cuda.is_available():
        return {"gpu_patterns_per_s": None}
    from edgetem_nodes.physics.diffraction import Diffraction

    diffraction = Diffraction(specimen, probe, camera, dataclasses.replace(numerics, device="cuda"))
    diffraction.patterns(positions)
    many = np.tile(positions, (math.ceil(1024 / len(positions)), 1))
    diffraction.patterns(many)
    before = time.perf_counter()
    diffraction.patterns(many)
    return {"gpu_patterns_per_s": round(len(many) / (time.perf_counter() - before), 1)}
