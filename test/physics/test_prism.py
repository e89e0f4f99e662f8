"""The compact scattering matrix: against our own and abTEM's multislice on the same potential, and what it refuses."""

import abtem_peer
import numpy as np
import pytest
import torch

from edgetem_nodes.physics.diffraction import Diffraction
from edgetem_nodes.physics.multislice import ProbeWaves, exit_waves, propagator, transmission
from edgetem_nodes.physics.optics import Annulus, Camera, Probe
from edgetem_nodes.physics.potential import potential_slices
from edgetem_nodes.physics.prism import ScatteringMatrix, probe_lattice
from edgetem_nodes.physics.numerics import Numerics, equal_slices
from edgetem_nodes.physics.specimens import Atoms
from edgetem_nodes.physics.specimens.catalogue import SpecimenOptions, make_specimen

LATTICE_PARAMETER = 3.905e-10
BASIS = ((38, (0.0, 0.0, 0.0)), (22, (0.5, 0.5, 0.5)), (8, (0.0, 0.5, 0.5)), (8, (0.5, 0.0, 0.5)), (8, (0.5, 0.5, 0.0)))
DISPLACEMENT = {38: 0.0887e-10, 22: 0.0746e-10, 8: 0.0947e-10}
BANDS = [(0.0, 20e-3), (24e-3, 40e-3), (40e-3, 62e-3)]


def strontium_titanate(cells: int, layers: int, samples: int, configurations: int) -> tuple[np.ndarray, float, float]:
    """Potentials [V m] (configurations, slices, N, N) of unit cells; sampling; slice thickness [m]."""
    shift = np.stack(np.meshgrid(np.arange(layers), np.arange(cells), np.arange(cells), indexing="ij"), -1).reshape(-1, 3)
    places = np.concatenate([shift + np.array(place) + 0.25 for _, place in BASIS]) * LATTICE_PARAMETER
    numbers = np.repeat([number for number, _ in BASIS], len(shift))
    rms = np.array([DISPLACEMENT[number] for number in numbers])
    atoms = Atoms(places, numbers, rms, np.arange(len(numbers), dtype=np.uint64))
    step, thickness = cells * LATTICE_PARAMETER / samples, layers * LATTICE_PARAMETER
    rng = np.random.default_rng(7)
    slices = [potential_slices(atoms, np.zeros(2), step, (samples, samples), equal_slices(thickness, 2 * layers),
                               rng.normal(size=places.shape) * rms[:, None]).numpy() for _ in range(configurations)]
    return np.stack(slices), step, LATTICE_PARAMETER / 2


class Crystal:
    """A periodic piece of SrTiO3, its scattering matrix and its multislice patterns."""

    def __init__(self, cells: int, layers: int, samples: int, configurations: int, probe: Probe, core: float) -> None:
        self.slices, self.step, self.slice_thickness = strontium_titanate(cells, layers, samples, configurations)
        self.probe, self.samples, self.thickness = probe, samples, layers * LATTICE_PARAMETER
        self.layers = [transmission(torch.from_numpy(one), self.step, probe.high_tension) for one in self.slices]
        self.step_on = propagator((samples, samples), self.step, self.slice_thickness, probe.high_tension)
        self.waves = ProbeWaves(probe, samples, self.step)
        self.low, self.high = samples / 2 - core / self.step / 2, samples / 2 + core / self.step / 2
        self.matrix = self.scattering_matrix(core=core)

    def scattering_matrix(self, core: float, **settings: object) -> ScatteringMatrix:
        return ScatteringMatrix(self.layers.__getitem__, len(self.layers), self.step_on, self.waves, self.probe,
                                self.thickness, core / self.step, **settings)

    def multislice(self, positions: np.ndarray) -> np.ndarray:
        total = 0.0
        for layers in self.layers:
            waves = exit_waves(self.waves(positions), layers, np.zeros((len(positions), 2), int), self.step_on)
            total = total + np.abs(np.fft.fftshift(np.fft.fft2(waves.numpy(), norm="ortho"), axes=(-2, -1))) ** 2
        return (total / len(self.layers)).astype(np.float32)

    def abtem(self, positions: np.ndarray) -> np.ndarray:
        return np.mean([abtem_peer.multislice_patterns(one, self.step, self.slice_thickness, self.probe, positions)
                        for one in self.slices], axis=0)

    @property
    def angle_step(self) -> float:
        return self.probe.wavelength / (self.samples * self.step)


@pytest.fixture(scope="module")
def thin() -> Crystal:
    """4 nm, defocused and aberrated, so that aberrations would show."""
    return Crystal(6, 10, 160, 2, Probe(200e3, 15e-3, defocus=8e-9, spherical_aberration=1e-4), 2e-10)


def whole(patterns: np.ndarray) -> np.ndarray:
    """Patterns of 2 kept + 1 samples as the peer's even number of samples, the lowest row and column dark."""
    return np.pad(np.asarray(patterns), ((0, 0), (1, 0), (1, 0)))


def test_patterns_agree_with_multislice_on_the_same_potential(thin: Crystal) -> None:
    positions = np.random.default_rng(1).uniform(thin.low, thin.high, (12, 2))
    ours = whole(thin.matrix.intensities(positions).numpy())
    bands = [(0.0, 15e-3), (18e-3, 40e-3), (40e-3, 54e-3)]
    assert abtem_peer.r1(ours, thin.multislice(positions), thin.angle_step, bands).max() < 0.01
    assert abtem_peer.r1(ours, thin.abtem(positions), thin.angle_step, bands).max() < 0.01


def test_a_position_has_the_same_bits_alone_and_in_company(thin: Crystal) -> None:
    positions = np.random.default_rng(2).uniform(thin.low, thin.high, (40, 2))
    together = thin.matrix.intensities(positions)
    assert torch.equal(thin.matrix.intensities(positions[37:38])[0], together[37])
    assert torch.equal(thin.matrix.intensities(positions[::-1].copy()), together.flip(0))


def test_currents_are_the_sums_of_the_patterns(thin: Crystal) -> None:
    positions = np.random.default_rng(3).uniform(thin.low, thin.high, (5, 2))
    patterns = thin.matrix.intensities(positions)
    detectors = torch.zeros((2, *patterns.shape[1:]))
    detectors[0, 60:100, 60:100] = 1
    detectors[1, :40] = 0.5
    expected = torch.einsum("nyx,dyx->nd", patterns.double(), detectors.double())
    assert thin.matrix.currents(positions, detectors).numpy() == pytest.approx(expected.numpy(), rel=1e-4)


def test_the_beam_is_conserved(thin: Crystal) -> None:
    total = thin.matrix.intensities(np.full((1, 2), thin.samples / 2)).sum()
    assert float(total) == pytest.approx(float(thin.multislice(np.full((1, 2), thin.samples / 2)).sum()), rel=2e-3)


def test_a_whole_shift_moves_the_pattern_by_whole_samples(thin: Crystal) -> None:
    centre = np.full((1, 2), thin.samples / 2)
    still = thin.matrix.intensities(centre)
    moved = thin.matrix.intensities(centre, np.array([[3.0, -2.0]]))
    assert moved[0].roll((-3, 2), (0, 1)).numpy() == pytest.approx(still[0].numpy(), abs=1e-7)


@pytest.mark.parametrize("edge", [0.4, 3.0, 7.6, 14.0])
def test_weights_reproduce_plane_waves_through_the_aperture(edge: float) -> None:
    lattice = probe_lattice(edge)
    rng = np.random.default_rng(0)
    positions = rng.uniform(-edge / 2, edge / 2, (40, 2))
    radius, turn = np.sqrt(rng.uniform(0, 1, 2000)) / 2, rng.uniform(0, 2 * np.pi, 2000)
    q = np.stack([radius * np.sin(turn), radius * np.cos(turn)])
    missed = np.exp(-2j * np.pi * positions @ q) - lattice.weights(positions) @ np.exp(-2j * np.pi * lattice.points @ q)
    error = np.sqrt((np.abs(missed) ** 2).mean(axis=1))
    assert error.max() < 0.0075
    assert lattice.error(positions) == pytest.approx(error, abs=1e-3)


def test_a_lattice_point_is_propagated_once(thin: Crystal) -> None:
    matrix = thin.scattering_matrix(core=2e-10)
    centre = np.full((3, 2), thin.samples / 2)
    matrix.intensities(centre)
    once = matrix.propagated
    matrix.intensities(centre + 0.5)
    assert matrix.propagated == once == 2 * len(matrix.lattice.points)


def test_a_core_that_leaves_less_margin_than_the_probe_needs_is_refused(thin: Crystal) -> None:
    with pytest.raises(ValueError, match=r"margin .* nm .* smaller than the defocused and broadened probe's radius"):
        thin.scattering_matrix(core=thin.samples * thin.step * 0.8)


def test_a_coarse_lattice_and_a_position_outside_are_refused(thin: Crystal) -> None:
    with pytest.raises(ValueError, match=r"tolerance 0.05 .* not between 0 and 0.01"):
        thin.scattering_matrix(core=2e-10, tolerance=0.05)
    with pytest.raises(ValueError, match=r"core of 30 times lambda / 2 alpha"):
        probe_lattice(30.0)
    with pytest.raises(ValueError, match="outside the window's core"):
        thin.matrix.intensities(np.array([[1.0, 1.0]]))


@pytest.fixture(scope="module")
def both() -> tuple[Diffraction, Diffraction]:
    """Diffraction of a thin crystal by multislice and by scattering matrices, with an extended source and descan errors."""
    specimen = make_specimen("SrTiO3", (3e-9, 3e-9), 0, SpecimenOptions(thickness=2e-9))
    probe, camera = Probe(200e3, 10e-3, source_size=0.05e-9), Camera(40, 1e-3)
    return tuple(Diffraction(specimen, probe, camera, Numerics(method=method, phonon_configurations=1, largest_shift=2e-3))
                 for method in ("multislice", "prism"))


def test_diffraction_by_scattering_matrices_agrees_with_multislice_all_over_a_specimen(both: tuple) -> None:
    multislice, prism = both
    positions = np.random.default_rng(5).uniform(0, 2.5e-9, (2, 2))
    shifts = np.random.default_rng(6).uniform(-2e-3, 2e-3, (2, 2))
    expected, ours = multislice.patterns(positions, shifts), prism.patterns(positions, shifts)
    angle = (np.arange(40) - 20) * 1e-3
    radius = np.hypot(angle[:, None] - shifts[:, 0, None, None], angle[None, :] - shifts[:, 1, None, None])
    for inner, outer, tolerance in ((0.0, 9e-3, 0.01), (12e-3, 18e-3, 0.02)):
        band = (radius >= inner) & (radius < outer)
        # Windows of multislice move with the probe, those of a scattering matrix do not: what wraps round them differs.
        error = (np.abs(ours - expected) * band).sum((1, 2)) / (expected * band).sum((1, 2))
        assert error.max() < tolerance
        assert (ours * band).sum((1, 2)) == pytest.approx((expected * band).sum((1, 2)), rel=0.02)


def test_currents_of_diffraction_agree_with_multislice(both: tuple) -> None:
    multislice, prism = both
    positions = np.random.default_rng(7).uniform(0, 1.2e-9, (3, 2))
    annuli = [Annulus(0.0, 8e-3), Annulus(15e-3, 30e-3)]
    assert prism.currents(positions, annuli) == pytest.approx(multislice.currents(positions, annuli), rel=0.01)


def test_patterns_do_not_depend_on_the_window_that_a_position_falls_into(both: tuple) -> None:
    prism = both[1]
    cell, runs = prism.shared_window()
    assert runs > 36
    seam = np.array([[0.5e-9, x] for x in np.arange(0, 3 * cell, 0.02e-9)])
    corners = prism.window_corners(seam)[:, 1]
    jump = int(np.flatnonzero(np.diff(corners))[0])
    left, right = prism.patterns(seam[jump:jump + 2])
    other = prism.patterns(seam[jump - 1:jump + 1])
    assert np.abs(left - right).sum() < 2 * np.abs(other[0] - other[1]).sum() + 0.02


@pytest.mark.slow
def test_twenty_nanometres_of_strontium_titanate_at_a_hundred_positions() -> None:
    crystal = Crystal(8, 51, 256, 2, Probe(200e3, 20e-3), 5e-10)
    positions = np.random.default_rng(4).uniform(crystal.low, crystal.high, (100, 2))
    ours = whole(crystal.matrix.intensities(positions).numpy())
    worst = abtem_peer.r1(ours, crystal.abtem(positions), crystal.angle_step, BANDS).max(axis=0)
    assert (worst < 0.02).all(), worst
