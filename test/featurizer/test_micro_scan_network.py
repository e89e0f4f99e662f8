"""Atoms, vacancies and dopants that the shipped network finds on micro-scans of the virtual microscope, and what it refuses."""

import warnings
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from micro_scan_truth import QUICK, altered, axes, frames, perfect, sites_near

from edgetem_nodes.featurizer.cbed.weights import WeightsError
from edgetem_nodes.featurizer.features import CountingNoise
from edgetem_nodes.featurizer.micro_scan.conditions import PIXEL, BeatingWarning, MicroScan
from edgetem_nodes.featurizer.micro_scan.descriptors import ELEMENTS
from edgetem_nodes.featurizer.micro_scan.evaluation import Conditions, described
from edgetem_nodes.featurizer.micro_scan.network import WEIGHTS, MicroScanNetwork
from edgetem_nodes.featurizer.micro_scan.parameters import MicroScanAtoms
from edgetem_nodes.featurizer.micro_scan.registry import RegistryFinder
from edgetem_nodes.featurizer.micro_scan.hosts import BY_NAME, honeycomb
from edgetem_nodes.featurizer.micro_scan.reduction import Reduction
from edgetem_nodes.featurizer.micro_scan.scalarizer import NAMES, MicroScanScalarizer
from edgetem_nodes.featurizer.micro_scan.specimens import Defects, sheet
from edgetem_nodes.featurizer.patterns.geometry import DetectorGeometry
from edgetem_nodes.featurizer.patterns.instrument import PatternInstrument
from edgetem_nodes.physics.optics import Camera, Probe

CONDITIONS = replace(QUICK, points=7, defocus=0.5e-9)
WIDE = Conditions(80e3, 27e-3, 8, 2.5e-10, 2.5e5, 64, 39 / 27, defocus=7e-9, commanded=7e-9, source_size=0.0, astigmatism=0.0,
                  density=0.0)
"""The beam of config/energetics.yaml."""


class Settings:
    group = MicroScanAtoms(semi_convergence_mrad=30.0)
    instrument = PatternInstrument(60e3, 2e-3)


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    torch.set_num_threads(1)


def scalarizer(camera, site=(0.0, 0.0), noise=None):
    return MicroScanScalarizer(Settings, noise or CountingNoise(),
                               axes(CONDITIONS.points, CONDITIONS.step, camera.pixels, camera.pixel_angle, site))


@pytest.fixture(scope="module")
def graphene():
    """A vacancy and a silicon atom in graphene, and the counts of its micro-scan."""
    piece = perfect("graphene", 11)
    vacant, silicon = sites_near(piece, 0)[0], sites_near(piece, 1, 4)[3]
    piece = altered(piece, {vacant: "vacancy", silicon: "Si"})
    counts, camera = frames(piece, CONDITIONS, np.random.default_rng(1))
    return piece, vacant, silicon, counts, camera


@pytest.fixture(scope="module")
def disulphide():
    """A column without one of its two sulphur atoms, and a tungsten atom, in MoS2."""
    piece = perfect("MoS2", 12)
    half, tungsten = sites_near(piece, 1)[0], sites_near(piece, 0, 3)[2]
    piece = altered(piece, {half: "S", tungsten: "W"})
    counts, camera = frames(piece, CONDITIONS, np.random.default_rng(2))
    return piece, half, tungsten, counts, camera


def entry(rows, place, layer=0, row=0):
    """Index of the listed atom nearest to a place."""
    distance = np.linalg.norm(rows.details["atoms"][row] - place, axis=1)
    distance[rows.details["layer"][row] != layer] = np.nan
    nearest = int(np.nanargmin(distance))
    assert distance[nearest] < 0.4e-10
    return nearest


def test_vacancy_and_dopant_of_graphene_are_found_with_their_species(graphene):
    piece, vacant, silicon, counts, camera = graphene
    rows = scalarizer(camera)(counts)
    assert rows.failures == [""]
    assert rows.details["material"][0] == "graphene"
    species, host = rows.details["species"][0], rows.details["host"][0]
    assert species[entry(rows, piece.sites[vacant])] == 0
    assert species[entry(rows, piece.sites[silicon])] == 14
    listed = host >= 0
    assert (host[listed] == 6).all()
    assert ((species != host) & listed & rows.details["identifiable"][0]).sum() <= 3
    assert rows.values[0, NAMES.index("vacancies")] == pytest.approx(1, abs=0.5)
    # as many sites as the footprint has room for: two a cell
    cell = np.sqrt(3) / 2 * piece.host.lattice ** 2 * np.linalg.det(piece.deformation)
    assert listed.sum() == pytest.approx(2 * rows.details["footprint"][0] / cell, rel=0.15)


def test_missing_sulphur_and_dopant_of_a_disulphide_are_found(disulphide):
    piece, half, tungsten, counts, camera = disulphide
    rows = scalarizer(camera)(counts)
    assert rows.failures == [""]
    assert rows.details["material"][0] == "MoS2"
    species = rows.details["species"][0]
    assert species[entry(rows, piece.sites[half], 0)] == 16
    assert species[entry(rows, piece.sites[half], 1)] == 0
    assert species[entry(rows, piece.sites[tungsten])] == 74


def test_lattice_and_places_are_those_of_the_specimen(graphene):
    piece, vacant, _, counts, camera = graphene
    rows = scalarizer(camera)(counts)
    lattice = rows.details["lattice"][0]
    area = np.sqrt(3) / 2 * piece.host.lattice ** 2 * np.linalg.det(piece.deformation)
    assert abs(np.linalg.det(lattice)) == pytest.approx(area, rel=0.02)
    known = np.flatnonzero(rows.details["identifiable"][0])
    distance = np.linalg.norm(rows.details["atoms"][0, known][:, None] - piece.sites, axis=-1).min(axis=1)
    assert np.sqrt((distance ** 2).mean()) < 0.25e-10


def test_places_are_counted_from_where_the_axes_are_zero(graphene):
    *_, counts, camera = graphene
    there = scalarizer(camera)(counts).details["atoms"]
    moved = scalarizer(camera, (2e-10, -1e-10))(counts).details["atoms"]
    np.testing.assert_allclose(moved - there, np.broadcast_to([2e-10, -1e-10], there.shape) + 0 * there, atol=1e-13)


def test_probabilities_are_probabilities_and_unlisted_entries_are_empty(disulphide):
    *_, counts, camera = disulphide
    details = scalarizer(camera)(counts).details
    known = details["identifiable"][0]
    np.testing.assert_allclose(details["species_probability"][0, known].sum(axis=1), 1, atol=1e-9)
    assert np.isnan(details["species_probability"][0, ~known]).all()
    padding = details["host"][0] < 0
    assert np.isnan(details["atoms"][0, padding]).all() and (details["species"][0, padding] == -1).all()
    assert details["species_probability"].shape[-1] == len(ELEMENTS)
    eigenvalues = np.linalg.eigvalsh(details["atom_covariance"][0, ~padding])
    assert (eigenvalues > 0).all()


def test_a_row_does_not_depend_on_its_companions_and_is_always_the_same(graphene, disulphide):
    counts, camera = graphene[3], graphene[4]
    together = scalarizer(camera)(np.concatenate([disulphide[3], counts, counts]))
    alone = scalarizer(camera)(counts)
    for row in (1, 2):
        np.testing.assert_array_equal(together.values[row], alone.values[0])
        for name, value in alone.details.items():
            np.testing.assert_array_equal(together.details[name][row], value[0])


def test_unusable_micro_scans_are_refused_with_a_reason(graphene):
    counts, camera = graphene[3], graphene[4]
    rng = np.random.default_rng(3)
    broken = counts[0].astype(float)
    broken[0, 0, 5, 5] = np.nan
    cut = counts[0].astype(float)
    cut[-1] = 0
    faint = rng.binomial(counts[0], 0.002).astype(float)
    flat = rng.poisson(25.0, counts[0].shape).astype(float)
    vacuum = np.broadcast_to(counts[0].mean(axis=(0, 1)), counts[0].shape)
    vacuum = rng.poisson(vacuum).astype(float)
    rows = scalarizer(camera)(np.stack([broken, cut, faint, flat, vacuum, 0 * broken]))
    told = ("not finite", "empty", "electrons", "bright-field disk", "", "finite")
    for reason, expected in zip(rows.failures, told, strict=True):
        assert reason and expected in reason
    assert np.isnan(rows.values).all()
    assert (rows.details["host"] == -1).all()


def test_saturated_pixels_are_refused(graphene):
    counts, camera = graphene[3], graphene[4]
    level = float(np.quantile(counts, 0.999))
    rows = scalarizer(camera, noise=CountingNoise(saturation=level))(counts)
    assert "saturated" in rows.failures[0]


def reduced(counts, camera):
    geometry = DetectorGeometry((camera.pixels // 2,) * 2, camera.pixel_angle, CONDITIONS.semi_convergence_angle)
    reduction = Reduction(geometry, counts.shape[-2:], CONDITIONS.semi_convergence_angle)
    return reduction(counts), MicroScan(Probe(CONDITIONS.high_tension, CONDITIONS.semi_convergence_angle), CONDITIONS.points,
                                        CONDITIONS.step, reduction.outer_angle, 1.0)


def test_a_scan_cut_short_is_refused_by_the_network_too(graphene):
    cut = graphene[3].copy()
    cut[0, -1, 2:] = 0
    signals, scan = reduced(cut, graphene[4])
    found = MicroScanNetwork.shipped()(signals.signals, signals.electrons, scan)
    assert "5 of 49 patterns are empty" in found.failures[0]


def test_a_step_that_is_not_as_stated_is_refused(graphene):
    signals, scan = reduced(graphene[3], graphene[4])
    found = MicroScanNetwork.shipped()(signals.signals, signals.electrons, replace(scan, step=1.1 * scan.step),
                                       (BY_NAME["graphene"],))
    assert found.failures[0] and np.isnan(found.defects[0])


def test_another_sheet_than_stated_is_refused_and_named(disulphide):
    signals, scan = reduced(disulphide[3], disulphide[4])
    found = MicroScanNetwork.shipped()(signals.signals, signals.electrons, scan, (BY_NAME["WS2"],))
    assert "rather MoS2" in found.failures[0]


def test_arguments_that_cannot_be_are_named(graphene):
    signals, scan = reduced(graphene[3], graphene[4])
    with pytest.raises(ValueError, match="no sheet is named"):
        MicroScanNetwork.shipped()(signals.signals, signals.electrons, scan, ())
    with pytest.raises(ValueError, match="lengths are in metres"):
        replace(scan, step=1.1)


def test_dopants_that_cannot_be_told_are_not_counted(graphene):
    *_, counts, camera = graphene
    rows = scalarizer(camera)(counts)
    known = rows.details["identifiable"][0]
    told = rows.details["told_apart"][0, known]
    assert told[:, ELEMENTS.index(0)].mean() > 0.9 and not told[:, ELEMENTS.index(6)].any()
    assert not told[:, ELEMENTS.index(7)].all()
    # the silicon atom, and no part of nitrogen and boron at every site
    assert rows.values[0, NAMES.index("dopants")] == pytest.approx(1, abs=0.3)


def test_spread_and_defocused_probes_see_a_larger_footprint():
    """The beam of config/energetics.yaml: 8 x 8 probes 250 pm apart, 7 nm out of focus."""
    conditions = replace(WIDE, defocus=7.5e-9)
    piece = perfect("graphene", 15)
    vacant = sites_near(piece, 0, 3, 5e-10)[1:] + sites_near(piece, 1)
    piece = altered(piece, dict.fromkeys(vacant, "vacancy"))
    counts, camera = frames(piece, conditions, np.random.default_rng(1))
    found = described(MicroScanNetwork.shipped(), counts, camera, conditions, (BY_NAME["graphene"],))
    assert found.failures == [""]
    assert found.footprint[0] > 3e-18
    gone = found.atoms[0, found.species[0] == 0]
    inside = [site for site in vacant if np.abs(piece.sites[site]).max() < found.footprint[0] ** 0.5 / 2 - 0.5e-10]
    assert len(inside) >= 2 and len(gone) == len(inside)
    for site in inside:
        assert np.linalg.norm(gone - piece.sites[site], axis=1).min() < 0.4e-10


@pytest.mark.parametrize(("step", "beats"), [(2.1e-10, True), (2.5e-10, False)])
def test_places_are_off_where_rows_of_atoms_along_the_scan_are_as_far_apart_as_its_probes(step, beats):
    """Rows of graphene are 213 pm apart. The part of the distance from the site by which atoms come out too far or too near."""
    conditions, host, stretch = replace(WIDE, step=step), BY_NAME["graphene"], []
    assert MicroScan(Probe(80e3, 27e-3), 8, step, 39e-3, 1e5).beats_with(host.row_spacing) == beats
    for number in range(3):
        rng = np.random.default_rng(number)
        piece = sheet(host, np.eye(2), rng.uniform(-1e-10, 1e-10, 2), 2.2e-9, Defects((0.0, 0.0)), 0.06e-10, rng)
        found = described(MicroScanNetwork.shipped(), *frames(piece, conditions, rng), conditions, (host,))
        assert found.failures == [""]
        atoms = found.atoms[0, np.isfinite(found.atoms[0, :, 0])]
        true = piece.sites[np.linalg.norm(piece.sites[:, None] - atoms[None], axis=2).argmin(axis=0)]
        design = np.column_stack([true, np.ones(len(true))])
        stretch.append(np.linalg.lstsq(design, atoms - true, rcond=None)[0][:2])
    across, along = np.mean(stretch, axis=0).diagonal()
    assert abs(along) < 0.004
    assert abs(across) > 0.008 if beats else abs(across) < 0.004


def test_a_step_that_beats_with_rows_of_the_sheet_is_told():
    camera = Camera(64, 1.25e-3)
    settings = SimpleNamespace(group=MicroScanAtoms(semi_convergence_mrad=27.0, hosts=["graphene"], defocus_nm=7.0),
                               instrument=PatternInstrument(80e3, 2e-3))
    with pytest.warns(BeatingWarning, match="220 pm is nearly the distance of graphene's rows.* less than 187 or more than 239"):
        MicroScanScalarizer(settings, CountingNoise(), axes(8, 2.2e-10, camera.pixels, camera.pixel_angle))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        MicroScanScalarizer(settings, CountingNoise(), axes(8, 2.5e-10, camera.pixels, camera.pixel_angle))


@pytest.mark.slow
def test_thick_amorphous_film_is_refused():
    from edgetem_nodes.featurizer.micro_scan.specimens import foreign

    network = MicroScanNetwork.shipped()
    for kind in ("amorphous", "square"):
        conditions = replace(CONDITIONS, points=5)
        counts, camera = frames(foreign(kind, 2e-9, np.random.default_rng(4)), conditions, np.random.default_rng(5))
        found = described(network, counts, camera, conditions)
        assert found.failures[0]
        assert np.isnan(found.defects[0])


def test_axes_that_are_no_micro_scan_are_refused(graphene):
    camera = graphene[4]
    good = axes(7, 1.1e-10, camera.pixels, camera.pixel_angle)
    for bad, message in ((good[2:], "has the axes"), ((replace(good[0], scale=1.4e-10), *good[1:]), "equal steps"),
                         ((*good[:2], *(replace(axis, size=24, offset=-12 * axis.scale) for axis in good[2:])), "camera sees")):
        with pytest.raises(ValueError, match=message):
            MicroScanScalarizer(Settings, CountingNoise(), bad)


def test_weights_are_small_and_hashed_and_others_are_refused(tmp_path):
    assert WEIGHTS.stat().st_size < 1.5e6
    network = MicroScanNetwork.shipped()
    again = tmp_path / "again.npz"
    assert network.save(again) == MicroScanNetwork.load(again).digest
    again.write_bytes(b"nothing")
    with pytest.raises(WeightsError):
        MicroScanNetwork.load(again)


def test_registry_of_a_drawn_map_is_found():
    rng = np.random.default_rng(6)
    size, half = 32, 4.4e-10
    axis = (np.arange(size) - (size - 1) / 2) * PIXEL
    for lattice in (2.46e-10, 3.16e-10):
        turn = rng.uniform(0, 2 * np.pi)
        vectors, basis = honeycomb(lattice * 1.015)
        rotation = np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])
        vectors, basis, origin = vectors @ rotation, basis @ rotation, rng.uniform(-1e-10, 1e-10, 2)
        i, j = np.meshgrid(np.arange(-9, 10), np.arange(-9, 10), indexing="ij")
        nodes = np.stack([i.ravel(), j.ravel()], axis=1) @ vectors + origin
        sites = np.concatenate([nodes, nodes + basis[1]])
        there = np.exp(-((axis[:, None, None] - sites[:, 0])**2 + (axis[None, :, None] - sites[:, 1])**2) / 2 / 0.35e-10**2)
        there = there.sum(axis=-1).clip(0, 1)

        def offsets(points, sites=sites):
            shift = sites[None] - points[:, None]
            nearest = np.linalg.norm(shift, axis=-1).argmin(axis=1)
            return shift[np.arange(len(points)), nearest], np.broadcast_to(np.eye(2) * 1e-23, (len(points), 2, 2))

        found = RegistryFinder(size, half)(there, offsets)
        distance = np.linalg.norm(found.sites(half)[0][:, None] - sites, axis=-1).min(axis=1)
        assert distance.max() < 0.02e-10
        assert abs(np.linalg.det(found.vectors)) == pytest.approx(abs(np.linalg.det(vectors)), rel=1e-3)
        assert found.rival < 0.85 * found.score
