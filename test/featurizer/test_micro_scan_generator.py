"""The fast patterns of the micro-scan generator against the virtual microscope, and its linear theory against both."""

import numpy as np
import pytest
import torch

from micro_scan_truth import PieceSpecimen, altered, perfect, sites_near

from edgetem_nodes.featurizer.micro_scan.amplitudes import site_features
from edgetem_nodes.featurizer.micro_scan.conditions import MicroScan
from edgetem_nodes.featurizer.micro_scan.generator import MicroScanGenerator, Ranges
from edgetem_nodes.featurizer.micro_scan.hosts import BY_NAME
from edgetem_nodes.featurizer.micro_scan.linear_imaging import (REFERENCE, LinearImaging, LinearModel, atom_signals, dark_field,
                                                                point_spread, whitened)
from edgetem_nodes.featurizer.micro_scan.patterns import DetectorSignals
from edgetem_nodes.featurizer.micro_scan.reduction import BRIGHT, CHANNELS, Reduction, sampled_detectors
from edgetem_nodes.featurizer.micro_scan.specimens import Piece
from edgetem_nodes.featurizer.patterns.geometry import DetectorGeometry
from edgetem_nodes.physics.diffraction import Diffraction
from edgetem_nodes.physics.optics import Camera, Probe
from edgetem_nodes.physics.scattering_factors import potential_spectrum

ALPHA = 30e-3


@pytest.fixture(autouse=True)
def one_thread():
    torch.set_num_threads(1)


def signals_of(piece, scan):
    fast = DetectorSignals(scan, scan.outer_angle)
    masks = sampled_detectors(fast.angle_step, fast.reach, ALPHA, scan.outer_angle, subsamples=8)
    return fast(piece, scan.probe, scan.positions(), torch.from_numpy(masks))


@pytest.mark.parametrize("host", ["graphene", "MoS2"])
def test_signals_are_those_of_the_virtual_microscope(host):
    camera = Camera(64, 2.05e-3)
    scan = MicroScan(Probe(60e3, ALPHA, 1e-9), 3, 1.1e-10, 31 * camera.pixel_angle, 1e5)
    piece = perfect(host, 3)
    specimen = PieceSpecimen(piece)
    patterns = Diffraction(specimen, scan.probe, camera).patterns(scan.positions())
    reduction = Reduction(DetectorGeometry((32, 32), camera.pixel_angle, ALPHA), (64, 64), ALPHA)
    # about the true centre: what its estimate is off is the network's to bear, not the generator's
    virtual = patterns.reshape(9, -1) @ reduction._detectors(np.array([32.0, 32.0])).T
    # one slice in the sheet's middle, where the focus lies less deep
    fast = signals_of(piece, scan.with_defocus(scan.probe.defocus - specimen.thickness / 2))
    rms = np.sqrt(((virtual - fast) ** 2).mean(axis=0))
    assert (rms[:BRIGHT] < 0.012 * virtual.mean(axis=0)[:BRIGHT]).all()
    assert rms[BRIGHT] < 0.05 * virtual[:, BRIGHT].mean()
    contrast = virtual.std(axis=0)
    off = (virtual - virtual.mean(axis=0)) - (fast - fast.mean(axis=0))
    assert np.sqrt((off ** 2).mean()) < 0.05 * np.sqrt((contrast ** 2).mean())


def lone(number, place):
    empty = np.zeros(0, int)
    nowhere = np.zeros((0, 2))
    return Piece(np.array([place]), np.array([number]), np.array([0.07e-10]), np.ones(1), nowhere, nowhere, empty, empty, empty,
                 None, np.eye(2), np.zeros(2))


def test_point_spread_is_what_a_weak_atom_does():
    scan = MicroScan(Probe(100e3, ALPHA, 2e-9, source_size=1e-15), 4, 1.3e-10, 60e-3, 1e5)
    spread, grid = point_spread(scan), scan.grid()
    y, x = 6, 9
    # a twentieth of an atom, so that the second order is small
    piece = lone(REFERENCE, (grid[y], grid[x]))
    weak = Piece(**{**vars(piece), "weights": np.array([0.05])})
    change = (signals_of(weak, scan) - signals_of(Piece(**{**vars(piece), "weights": np.zeros(1)}), scan))[:, :BRIGHT] / 0.05
    predicted = spread.bright[:, :, y, :, x].reshape(BRIGHT, -1).T.numpy()
    assert np.corrcoef(change.ravel(), predicted.ravel())[0, 1] > 0.97
    assert np.abs(predicted).max() == pytest.approx(np.abs(change).max(), rel=0.15)


def test_images_show_a_lone_atom_where_it_is():
    scan = MicroScan(Probe(60e3, ALPHA, 1e-9), 6, 1.1e-10, 63e-3, 1e6)
    place = np.array([0.9e-10, -1.3e-10])
    signals = torch.from_numpy(signals_of(lone(42, place), scan).T.reshape(CHANNELS, 6, 6).astype(np.float32))
    spread = point_spread(scan)
    phase = LinearImaging(LinearModel(spread), 1e-4).image(whitened(spread, signals))
    for image in (phase, dark_field(spread, signals, 1e6)[0]):
        y, x = np.unravel_index(int(image.argmax()), image.shape)
        assert np.hypot(*(np.array([scan.grid()[y], scan.grid()[x]]) - place)) < 0.55e-10


def test_evidence_prefers_the_true_defocus():
    scan = MicroScan(Probe(60e3, ALPHA, 3e-9), 6, 1.0e-10, 63e-3, 1e5)
    signals = signals_of(perfect("graphene", 4), scan).T.reshape(CHANNELS, 6, 6)
    counts = np.random.default_rng(0).poisson(signals * scan.electrons) / scan.electrons
    evidence = []
    for defocus in (-3e-9, 0.0, 3e-9):
        spread = point_spread(scan.with_defocus(defocus))
        measured = whitened(spread, torch.from_numpy(counts.astype(np.float32)))
        evidence.append(LinearImaging(LinearModel(spread), 1e-3).evidence(measured))
    assert np.argmax(evidence) == 2


def test_amplitudes_of_columns_are_found_where_the_sites_are_known():
    scan = MicroScan(Probe(60e3, ALPHA, 0.5e-9, source_size=1e-15), 6, 1.1e-10, 63e-3, 1e6)
    piece = perfect("graphene", 6)
    vacant = sites_near(piece, 0)[0]
    piece = altered(piece, {vacant: "vacancy"})
    signals = torch.from_numpy(signals_of(piece, scan).T.reshape(CHANNELS, 6, 6).astype(np.float32))
    features = site_features(atom_signals(scan), signals, 1e6, scan, piece.nodes, piece.sublattice)
    inner = np.flatnonzero(np.abs(piece.nodes).max(axis=1) < scan.span / 2)
    relative = features[:, 4]
    assert relative[vacant] < 0.35
    others = relative[[site for site in inner if site != vacant]]
    assert (others > 0.6).all()
    # carbon's phase integral over sulphur's, by the scattering factors
    expected = potential_spectrum(6, np.zeros(1))[0] / potential_spectrum(16, np.zeros(1))[0]
    assert np.median(features[inner, 0]) == pytest.approx(expected, rel=0.2)


def test_one_pattern_tells_a_vacancy_near_the_probe_and_nothing_of_one_three_angstrom_away():
    """Chi-square of all detectors at 1e5 electrons, by the full signals: with everything else known exactly."""
    scan = MicroScan(Probe(60e3, ALPHA), 2, 1e-15, 63e-3, 1e5)
    piece = perfect("graphene", 9)
    whole = signals_of(piece, scan)[0]
    distance = np.hypot(*piece.sites.T)
    chi_square = []
    for wanted in (0.7e-10, 3.2e-10):
        site = int(np.abs(distance - wanted).argmin())
        change = signals_of(altered(piece, {site: "vacancy"}), scan)[0] - whole
        chi_square.append(1e5 * (change ** 2 / whole).sum())
    assert chi_square[0] > 9
    assert chi_square[1] < 1.0


def test_pieces_have_the_bonds_and_the_number_of_defects_that_were_asked_for():
    generator = MicroScanGenerator(Ranges(foreign=0.0))
    rng = np.random.default_rng(5)
    rates = []
    for _ in range(12):
        piece = generator.piece(1.5e-9, rng)
        inner = np.abs(piece.sites).max(axis=1) < 1.2e-9
        distance = np.linalg.norm(piece.sites[inner][:, None] - piece.sites[None], axis=-1)
        distance[distance == 0] = np.inf
        bond = np.median(np.sort(distance, axis=1)[:, :3])
        assert bond == pytest.approx(piece.host.lattice / np.sqrt(3), rel=0.06)
        rates.append((piece.classes != piece.hosts).mean())
        assert len(piece.positions) == sum(_atoms_of(piece))
    assert 0.01 < np.mean(rates) < 0.1


def _atoms_of(piece):
    from edgetem_nodes.featurizer.micro_scan.hosts import CLASSES

    return [len(CLASSES[index][1]) for index in piece.classes]


def test_the_same_seed_draws_the_same_micro_scans():
    generator = MicroScanGenerator(hosts=(BY_NAME["graphene"],))
    scan = MicroScan(Probe(60e3, ALPHA), 4, 1.2e-10, 55e-3, 1e4)
    one, other = (generator.draw(2, np.random.default_rng(8), scan) for _ in range(2))
    np.testing.assert_array_equal(one.signals, other.signals)
