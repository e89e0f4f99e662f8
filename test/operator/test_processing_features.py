"""Features of `edgetem process` on scans of known content: rotation and phases from the virtual microscope, strain of ideal
disks, counted electrons, measured spectra."""

from __future__ import annotations

import math

import numpy as np
import pytest
from processed_scan import processed

from edgetem_nodes.archive.pattern_formats import open_patterns
from edgetem_nodes.operator.processing.known_lattice import KnownLattice
from edgetem_nodes.physics.diffraction import Diffraction
from edgetem_nodes.physics.numerics import Numerics
from edgetem_nodes.physics.optics import Camera, Probe
from edgetem_nodes.physics.specimens.catalogue import SpecimenOptions, make_specimen

ROTATION, STEP, SIDE = math.radians(25.0), 25e-12, 40


@pytest.fixture(scope="module")
def graphene(tmp_path_factory):
    """Counted patterns of graphene, the scan turned by `ROTATION` from x towards y on the detector."""
    specimen = make_specimen("graphene", (10e-9, 10e-9), 0, SpecimenOptions(strain=0.0, vacancy_density=0.0))
    along_y = np.array([math.cos(ROTATION), -math.sin(ROTATION)])
    along_x = np.array([math.sin(ROTATION), math.cos(ROTATION)])
    row, column = np.mgrid[:SIDE, :SIDE].reshape(2, -1)
    places = (row[:, None] * along_y + column[:, None] * along_x) * STEP
    expected = Diffraction(specimen, Probe(80e3, 30e-3), Camera(64, 1.25e-3)).patterns(places).astype(float)
    path = tmp_path_factory.mktemp("graphene") / "scan.npy"
    np.save(path, np.random.default_rng(0).poisson(expected * 1e5).astype(np.uint16).reshape(SIDE, SIDE, 64, 64))
    return path


def test_rotation_is_measured_and_phases_are_bright_where_atoms_are(graphene, tmp_path):
    done = processed(graphene, tmp_path / "out", "adf,com,icom,div,ssb", step=STEP, high_tension=80e3,
                     semi_convergence_angle=30e-3)
    assert done.code == 0, done.text
    known = done.root().metadata["calibration"]
    assert known["pixel_angle"] == pytest.approx(1.25e-3, rel=0.01) and known["rotation_source"] == "measured"
    assert math.remainder(known["rotation"] - ROTATION, 2 * math.pi) == pytest.approx(0, abs=math.radians(2)), done.text
    assert not known["flipped"]
    ssb, icom = done.map("ssb"), done.map("icom")
    assert np.corrcoef(ssb.ravel(), icom.ravel())[0, 1] > 0.7
    # The divergence is negative at atoms, where the phase is large.
    assert np.corrcoef(ssb.ravel(), done.map("div").ravel())[0, 1] < -0.7
    assert "signal-to-noise ratio" in done.text


def test_a_stated_rotation_is_used(graphene, tmp_path):
    known = {"step": STEP, "high_tension": 80e3, "semi_convergence_angle": 30e-3}
    turned = processed(graphene, tmp_path / "a", "com", rotation=ROTATION, **known).map("com")
    straight = processed(graphene, tmp_path / "b", "com", rotation=0.0, **known).map("com")
    cosine, sine = math.cos(ROTATION), math.sin(ROTATION)
    # Turned back: y' = y cos - x sin, x' = y sin + x cos.
    np.testing.assert_allclose(turned, np.stack([straight[0] * cosine - straight[1] * sine,
                                                 straight[0] * sine + straight[1] * cosine]), atol=1e-12)


@pytest.mark.parametrize("stated", [0.0, 26.5e-12])
def test_the_scan_step_is_that_of_the_lattice(graphene, tmp_path, stated):
    done = processed(graphene, tmp_path / "out", "adf,div", step=stated, high_tension=80e3, semi_convergence_angle=30e-3,
                     rotation=ROTATION, lattice=KnownLattice.of("graphene"), use_measured=True)
    known = done.root().metadata["calibration"]._params
    for name in ("step_y", "step_x"):
        assert known[name] == pytest.approx(STEP, abs=4 * known[f"{name}_standard_error"])
        assert 0 < known[f"{name}_standard_error"] < 0.04 * STEP and known[f"{name}_source"] == "measured"
        assert known.get(f"{name}_stated", 0.0) == stated
    y = done.root().tree("adf").dims[0]
    assert y[1] - y[0] == pytest.approx(known["step_y"], rel=1e-9) and done.map("div").shape == (SIDE, SIDE)


def test_a_lattice_that_is_not_there_leaves_the_step_as_it_is(graphene, tmp_path):
    done = processed(graphene, tmp_path / "out", "adf", step=STEP, high_tension=80e3, semi_convergence_angle=30e-3,
                     rotation=ROTATION, lattice=KnownLattice.of("square:0.5"), use_measured=True)
    known = done.root().metadata["calibration"]._params
    assert known["step_y"] == STEP and known["step_y_source"] == "stated"
    assert "square:0.5 does not tell the scan's step" in done.text


@pytest.mark.slow
def test_parallax_finds_the_defocus(tmp_path):
    specimen = make_specimen("graphene", (10e-9, 10e-9), 0, SpecimenOptions(strain=0.0, vacancy_density=0.0))
    places = np.mgrid[:SIDE, :SIDE].reshape(2, -1).T * 40e-12
    defocus = 12e-9
    expected = Diffraction(specimen, Probe(80e3, 25e-3, defocus=defocus), Camera(48, 1.5e-3)).patterns(places).astype(float)
    np.save(tmp_path / "scan.npy", np.random.default_rng(0).poisson(expected * 1e5).reshape(SIDE, SIDE, 48, 48))
    done = processed(tmp_path / "scan.npy", tmp_path / "out", "parallax", step=40e-12, high_tension=80e3,
                     semi_convergence_angle=25e-3, rotation=0.0, center=(24.0, 24.0), pictures=True,
                     settings={"parallax.least_defocus_nm": -40.0, "parallax.largest_defocus_nm": 40.0})
    assert done.code == 0, done.text
    assert done.root().metadata["calibration"]["defocus"] == pytest.approx(defocus, abs=1e-9), done.text
    assert done.map("parallax").shape == (SIDE, SIDE) and (done.folder / "parallax.png").exists()


def bragg_scan(rows: int, columns: int, strained: np.ndarray, electrons: float) -> np.ndarray:
    """Square lattice of uniform disks, the right half deformed by `strained` (2, 2), (y, x) in real space."""
    generator, (y, x) = np.random.default_rng(4), np.mgrid[:96, :96]
    frames = np.zeros((rows, columns, 96, 96), np.uint16)
    for half, matrix in enumerate((np.eye(2), strained)):
        basis = 17.0 * np.linalg.inv(matrix).T
        expected = np.zeros((96, 96))
        for h, k in np.ndindex(5, 5):
            dy, dx = (np.stack([y, x], -1) - [46.3, 48.1] - basis @ [h - 2, k - 2]).transpose(2, 0, 1)
            expected += np.exp(-((h - 2)**2 + (k - 2)**2) / 5) / (1 + np.exp(np.clip((np.hypot(dy, dx) - 4.2) / 0.3, -50, 50)))
        part = slice(half * columns // 2, (half + 1) * columns // 2)
        frames[:, part] = generator.poisson(expected / expected.sum() * electrons, frames[:, part].shape)
    return frames


def test_strain_of_ideal_disks(tmp_path):
    deformation = np.eye(2) + [[0.02, 0.0], [0.01, -0.01]]
    np.save(tmp_path / "scan.npy", bragg_scan(4, 8, deformation, 1e5))
    done = processed(tmp_path / "scan.npy", tmp_path / "out", "strain", center=(46.3, 48.1), radius=4.2, pixel_angle=5e-4,
                     rotation=0.0, settings={"strain.region": [0, 0, 4, 4]})
    exx, eyy, exy = done.map("strain")
    errors = done.map("strain_standard_error")
    # To first order: the symmetric part of the displacement's gradient; second order is below 0.0003.
    for values, error, truth in zip((exx, eyy, exy), errors, (-0.01, 0.02, 0.005), strict=True):
        assert np.abs(values[:, :4]).max() < 5 * error.max()
        assert values[:, 4:].mean() == pytest.approx(truth, abs=5 * error.mean() / 4 + 3e-4)
    # u_x grows along y by 0.01: the lattice turns from y towards x, against the sign of a turn from x towards y.
    assert done.map("lattice_rotation")[:, 4:].mean() == pytest.approx(-0.005, abs=5e-4)
    assert not (done.map("strain_failures") > 0).any()


def test_a_pattern_without_a_lattice_is_a_failure_of_strain_alone(tmp_path):
    frames = bragg_scan(4, 8, np.eye(2), 1e5)
    frames[1, 2] = np.random.default_rng(0).poisson(10.0, (96, 96))
    np.save(tmp_path / "scan.npy", frames)
    done = processed(tmp_path / "scan.npy", tmp_path / "out", "strain,sum", center=(46.3, 48.1), radius=4.2, pixel_angle=5e-4,
                     rotation=0.0)
    assert np.argwhere(np.isnan(done.map("strain")[0])).tolist() == [[1, 2]]
    assert np.argwhere(done.map("strain_failures")).tolist() == [[1, 2]] and not done.map("failures").any()
    assert "1 places without strain" in done.text and done.code == 0


def test_electrons_of_an_analogue_camera_are_counted(tmp_path):
    generator = np.random.default_rng(1)
    y, x = np.mgrid[:64, :64]
    disk = (np.hypot(y - 31, x - 33) < 15).astype(float)
    electrons = generator.poisson(disk / disk.sum() * 10, (12, 20, 64, 64))
    charge = np.where(electrons > 0, generator.gamma(9.0 * np.maximum(electrons, 1), 100 / 9), 0.0)
    frames = charge + generator.normal(100, 4, charge.shape)
    np.save(tmp_path / "scan.npy", np.clip(frames, 0, 60000).astype(np.uint16))
    done = processed(tmp_path / "scan.npy", tmp_path / "out", "sum", count=True)
    measured, truth = np.nan_to_num(done.map("sum")), electrons.sum((-2, -1))
    assert measured.sum() == pytest.approx(truth.sum(), rel=0.12) and measured.sum() < truth.sum()
    assert np.corrcoef(measured.ravel(), truth.ravel())[0, 1] > 0.9
    assert "counts an electron" in done.text and "were hidden by others" in done.text


def test_edge_of_a_measured_map(data_root, tmp_path):
    folder = data_root / "replay" / "CuZn_EELS_HAADF"
    done = processed(folder / "CuZn_EELS_mapping_tutorial.hspy", tmp_path / "out", "spectrum,edge,com",
                     settings={"edge.background_eV": [750, 920], "edge.signal_eV": [930, 1010]})
    from edgetem_nodes.archive.vendor import read_image
    haadf = read_image(folder / "CuZn_HAADF.hspy").data
    # The correlation that comes with the data; its background was fitted by least squares.
    assert np.corrcoef(done.map("edge").ravel(), haadf.ravel())[0, 1] == pytest.approx(0.80, abs=0.03)
    assert done.code == 1 and "com works on patterns" in done.text
    spectra = next(frames for _, frames in open_patterns(folder / "CuZn_EELS_mapping_tutorial.hspy").blocks(1 << 30))
    np.testing.assert_allclose(done.map("mean_spectrum"), spectra.mean(axis=0))


def test_window_sums_of_elements(data_root, tmp_path):
    path = data_root / "replay" / "core_shell_EDS" / "core_shell.hspy"
    done = processed(path, tmp_path / "out", "elements", settings={"elements.lines": ["Fe_Ka", "Pt_La"],
                                                                   "elements.background": False})
    source = open_patterns(path)
    frames = np.zeros((source.places, *source.frame_shape))
    for places, block in source.blocks():
        frames[places] = block
    energies = source.axes[0].values() / 1.602176634e-19
    for line, energy in (("Fe_Ka", 6404), ("Pt_La", 9442)):
        # Two widths about the line, of a detector with 130 eV at Mn; a channel at either end may count or not.
        half = math.sqrt(2.5 * (energy - 5895) + 130**2)
        most, least = (frames[:, np.abs(energies - energy) <= half + more].sum(1) for more in (10, -10))
        counts = done.map(f"element_{line}").ravel()
        assert (counts <= most).all() and (counts >= least).all() and counts.max() > 20
    with pytest.raises(ValueError, match="elements.lines=.Fe_Ka, Pt_La"):
        processed(path, tmp_path / "none", "elements")


@pytest.mark.slow
def test_orientation_of_a_tilted_crystal(tmp_path):
    from ase.io import write
    from ase.spacegroup import crystal

    write(tmp_path / "SrTiO3.cif", crystal(["Sr", "Ti", "O"], [(0, 0, 0), (0.5, 0.5, 0.5), (0.5, 0.5, 0)], spacegroup=221,
                                           cellpar=[3.905, 3.905, 3.905, 90, 90, 90]))
    tilt = math.radians(3.0)
    specimen = make_specimen("SrTiO3", (4e-9, 4e-9), 0, SpecimenOptions(strain=0.0, thickness=8e-9, tilt=(tilt, 0.0)))
    numerics = Numerics(phonon_configurations=1, method="multislice")
    beam = Diffraction(specimen, Probe(200e3, 1.5e-3), Camera(128, 0.6e-3), numerics)
    places = np.stack(np.mgrid[:2, :2].reshape(2, -1), axis=1) * 0.3e-9
    frames = np.random.default_rng(0).poisson(beam.patterns(places).astype(float) * 1e6)
    np.save(tmp_path / "scan.npy", frames.astype(np.uint32).reshape(2, 2, 128, 128))
    done = processed(tmp_path / "scan.npy", tmp_path / "out", "orientation", high_tension=200e3, pixel_angle=0.6e-3,
                     radius=2.5, rotation=0.0, step=0.3e-9, structures=(tmp_path / "SrTiO3.cif",), pictures=True)
    assert done.code == 0, done.text
    zones = np.abs(done.map("zone_axis").reshape(3, -1).T)
    away = np.degrees(np.arccos(zones.max(axis=1) / np.linalg.norm(zones, axis=1)))
    assert away == pytest.approx(np.full(4, 3.0), abs=1.0), done.text
    assert (done.folder / "orientation_colour.png").exists() and not (done.folder / "zone_axis.png").exists()


def test_orientation_needs_a_structure(tmp_path):
    np.save(tmp_path / "scan.npy", bragg_scan(2, 2, np.eye(2), 1e4))
    with pytest.raises(ValueError, match="--structure FILE.cif"):
        processed(tmp_path / "scan.npy", tmp_path / "out", "orientation")
