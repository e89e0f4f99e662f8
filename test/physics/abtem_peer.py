"""abTEM's multislice and PRISM of a given potential, and R1 of patterns by band: what our own patterns are held against."""

from __future__ import annotations

import numpy as np

from edgetem_nodes.physics.optics import Probe

ANGSTROM = 1e-10


def single_threaded() -> None:
    """Make abTEM compute with one thread and no progress bar, so that CPU seconds count the same things as ours."""
    import abtem
    import dask

    abtem.config.set({"diagnostics.progress_bar": False, "fftw.threads": 1})
    dask.config.set(scheduler="synchronous")


def multislice_patterns(slices: np.ndarray, step: float, slice_thickness: float, probe: Probe,
                        positions: np.ndarray) -> np.ndarray:
    """abTEM's patterns, float32 (n, N, N), fraction of the beam a sample, undiffracted beam at N // 2.

    Parameters
    ----------
    slices : projected potentials [V m], (slices, N, N), periodic; step : sampling [m].
    positions : (n, 2), (y, x) [samples].
    """
    import abtem

    single_threaded()
    potential = _potential(slices, step, slice_thickness)
    illumination = abtem.Probe(**_settings(probe), extent=potential.extent, gpts=potential.gpts)
    scan = abtem.CustomScan(np.asarray(positions) * (step / ANGSTROM))
    return _intensities(illumination.multislice(potential, scan=scan, lazy=False).array)


def waves_patterns(slices: np.ndarray, step: float, slice_thickness: float, probe: Probe, waves: np.ndarray) -> np.ndarray:
    """The same under incident waves (n, N, N) of our own."""
    import abtem

    single_threaded()
    potential = _potential(slices, step, slice_thickness)
    spectra = []
    for wave in waves:
        incident = abtem.Waves(wave, energy=probe.high_tension, extent=potential.extent)
        spectra.append(np.fft.fft2(incident.multislice(potential).array, norm="ortho"))
    return np.abs(np.fft.fftshift(np.stack(spectra), axes=(-2, -1))).astype(np.float32) ** 2


def prism_patterns(slices: np.ndarray, step: float, slice_thickness: float, probe: Probe, positions: np.ndarray,
                   interpolation: int) -> np.ndarray:
    """The same by abTEM's PRISM; (n, N / interpolation, N / interpolation)."""
    import abtem

    single_threaded()
    potential = _potential(slices, step, slice_thickness)
    matrix = abtem.SMatrix(potential=potential, energy=probe.high_tension, interpolation=interpolation, downsample=False,
                           semiangle_cutoff=probe.semi_convergence_angle * 1e3).build(lazy=False)
    transfer = abtem.CTF(**_settings(probe))
    waves = matrix.reduce(scan=abtem.CustomScan(np.asarray(positions) * (step / ANGSTROM)), ctf=transfer)
    return _intensities(waves.array)


def r1(ours: np.ndarray, theirs: np.ndarray, angle_step: float, bands: list[tuple[float, float]]) -> np.ndarray:
    """Sum |ours - theirs| / sum theirs of each pattern and band, (n, bands); patterns (n, N, N), bands [rad]."""
    samples = theirs.shape[-1]
    angle = (np.arange(samples) - samples // 2) * angle_step
    radius = np.hypot(angle[:, None], angle[None, :])
    result = []
    for inner, outer in bands:
        inside = (radius >= inner) & (radius < outer)
        result.append(np.abs(ours - theirs)[:, inside].sum(axis=1) / theirs[:, inside].sum(axis=1))
    return np.stack(result, axis=-1)


def _potential(slices: np.ndarray, step: float, slice_thickness: float):  # noqa: ANN202
    import abtem

    extent = tuple(n * step / ANGSTROM for n in slices.shape[1:])
    return abtem.PotentialArray(np.asarray(slices, np.float32) / ANGSTROM, slice_thickness=slice_thickness / ANGSTROM,
                                extent=extent)


def _settings(probe: Probe) -> dict:
    return {"energy": probe.high_tension, "semiangle_cutoff": probe.semi_convergence_angle * 1e3,
            "defocus": probe.defocus / ANGSTROM, "Cs": probe.spherical_aberration / ANGSTROM}


def _intensities(waves: np.ndarray) -> np.ndarray:
    spectrum = np.fft.fftshift(np.fft.fft2(waves), axes=(-2, -1))
    return np.abs(spectrum).astype(np.float32) ** 2
