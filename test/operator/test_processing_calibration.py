"""What `edgetem process` measures of the instrument, against scans of which it is known: descan, disk, pixel's angle, step."""

from __future__ import annotations

import math

import numpy as np
import pytest
from processed_scan import processed

from edgetem_nodes.operator.processing.known_lattice import KnownLattice
from edgetem_nodes.operator.processing.request import descan_option
from edgetem_nodes.operator.processing.results import ProcessingError
from edgetem_nodes.physics.diffraction import Diffraction
from edgetem_nodes.physics.electrons import wavelength
from edgetem_nodes.physics.optics import Camera, Probe
from edgetem_nodes.physics.specimens.catalogue import SpecimenOptions, make_specimen

ROWS, COLUMNS, STEP = 14, 16, 0.1e-9
MOVE = np.array([[0.06, 0.0], [0.02, -0.04]])
"""Movement of the disk of `moving` by the step, (y, x) by (y, x) [pixel]."""
WAVE = 0.3
"""[pixel] of what the specimen adds to it along x, two periods over the field."""


@pytest.fixture(scope="module")
def moving(tmp_path_factory):
    """Counted patterns of a disk that moves with the position, and by a wave of the specimen's."""
    generator, (y, x) = np.random.default_rng(3), np.mgrid[:48, :48]
    frames = np.empty((ROWS, COLUMNS, 48, 48), np.uint16)
    for place in np.ndindex(ROWS, COLUMNS):
        dy, dx = MOVE @ (np.array(place) - [(ROWS - 1) / 2, (COLUMNS - 1) / 2])
        distance = np.hypot(y - 23 - dy, x - 24 - dx - wave()[place[1]])
        frames[place] = generator.poisson(3000 / (np.pi * 81) / (1 + np.exp((distance - 9) / 0.4)))
    path = tmp_path_factory.mktemp("moving") / "scan.npy"
    np.save(path, frames)
    return path


def wave() -> np.ndarray:
    """Deflection along x by column [pixel]."""
    return WAVE * np.cos(4 * np.pi * (np.arange(COLUMNS) + 0.5) / COLUMNS)


def of(done, name: str) -> tuple[float, float]:
    """A number of the results and its standard error."""
    known = done.root().metadata["calibration"]._params
    return known[name], known.get(f"{name}_standard_error", 0.0)


def test_descan_is_measured_and_taken_out_of_deflections(moving, tmp_path):
    done = processed(moving, tmp_path / "out", "com", step=STEP, rotation=0.0)
    for name, truth in zip(("yy", "yx", "xy", "xx"), MOVE.ravel() / STEP, strict=True):
        value, error = of(done, f"descan_{name}")
        assert value == pytest.approx(truth, abs=4 * error) and error < 0.015 / STEP
    y, x = done.map("com")
    assert x.mean(axis=0) - x.mean() == pytest.approx(wave(), abs=0.15)
    assert np.ptp(y.mean(axis=1)) < 0.25, "the disk moves by 0.78 pixel along y"
    shown = next(line for line in done.lines if line.strip().startswith("descan_xx"))
    assert "pixel/nm" in shown and shown.endswith(" measured")


def test_descan_none_keeps_the_movement_and_says_so(moving, tmp_path):
    done = processed(moving, tmp_path / "out", "com", step=STEP, rotation=0.0, measure_descan=False)
    rows = done.map("com")[0].mean(axis=1)
    assert np.polyfit(np.arange(ROWS), rows, 1)[0] == pytest.approx(MOVE[0, 0], abs=0.012)
    assert "left as it is, as --descan none says" in done.text and "descan_yy" not in done.text


def test_a_stated_descan_is_used_and_compared(moving, tmp_path):
    stated, measure = descan_option("0.6,0,0.2,0.4")
    done = processed(moving, tmp_path / "out", "com", step=STEP, rotation=0.0, descan=stated, measure_descan=measure)
    assert of(done, "descan_xx") == (0.4 / 1e-9, 0.0)
    assert of(done, "descan_xx_measured")[0] == pytest.approx(-0.4 / 1e-9, abs=0.12 / 1e-9)
    assert of(done, "descan_xx_difference_in_standard_errors")[0] > 5 > of(done, "descan_yy_difference_in_standard_errors")[0]
    columns = done.map("com")[1].mean(axis=0) - wave()
    assert np.polyfit(np.arange(COLUMNS), columns, 1)[0] == pytest.approx(MOVE[1, 1] - 0.04, abs=0.012)


def test_without_a_step_descan_is_known_by_the_step_and_cannot_be_stated(moving, tmp_path):
    done = processed(moving, tmp_path / "out", "com", rotation=0.0)
    value, error = of(done, "descan_yy")
    assert value == pytest.approx(MOVE[0, 0], abs=4 * error)
    assert done.root().metadata["calibration"]["descan_yy_unit"] == "pixel/step"
    with pytest.raises(ProcessingError, match="scan's step is not known: state --step NM"):
        processed(moving, tmp_path / "none", "com", rotation=0.0, descan=np.eye(2))


def test_a_scan_without_descan_has_none(tmp_path):
    generator, (y, x) = np.random.default_rng(0), np.mgrid[:48, :48]
    disk = 3000 / (np.pi * 81) / (1 + np.exp((np.hypot(y - 23, x - 24) - 9) / 0.4))
    np.save(tmp_path / "scan.npy", generator.poisson(disk, (ROWS, COLUMNS, 48, 48)).astype(np.uint16))
    done = processed(tmp_path / "scan.npy", tmp_path / "out", "com", step=STEP, rotation=0.0)
    assert "no descan is seen" in done.text and "descan_yy" not in done.root().metadata["calibration"]._params


def test_the_direct_beam_among_disks_of_equal_strength(tmp_path):
    generator, (y, x) = np.random.default_rng(4), np.mgrid[:96, :96]
    expected = np.zeros((96, 96))
    for h, k in np.ndindex(5, 5):
        distance = np.hypot(y - 46.3 - 17 * (h - 2), x - 48.1 - 17 * (k - 2))
        expected += 1 / (1 + np.exp(np.clip((distance - 4.2) / 0.3, -50, 50)))
    np.save(tmp_path / "scan.npy", generator.poisson(expected / expected.sum() * 1e5, (4, 8, 96, 96)).astype(np.uint16))
    done = processed(tmp_path / "scan.npy", tmp_path / "out", "strain", pixel_angle=5e-4, rotation=0.0)
    for name, truth in (("center_y", 46.3), ("center_x", 48.1), ("disk_radius", 4.2)):
        value, error = of(done, name)
        assert value == pytest.approx(truth, abs=4 * error) and error < 0.05
    assert "25 on a lattice of vectors 17.00, 17.00 pixels" in done.text
    assert np.abs(done.map("strain")).max() < 5 * done.map("strain_standard_error").max()


@pytest.fixture(scope="module")
def molybdenum_disulphide(tmp_path_factory):
    """Nanobeam patterns of a MoS2 sheet by the virtual microscope, 0.6 mrad a pixel."""
    specimen = make_specimen("MoS2", (8e-9, 8e-9), 0, SpecimenOptions(strain=0.0, vacancy_density=0.0))
    places = np.stack(np.mgrid[:4, :4].reshape(2, -1), axis=1) * 2e-9
    expected = Diffraction(specimen, Probe(80e3, 2e-3), Camera(128, 0.6e-3)).patterns(places).astype(float)
    path = tmp_path_factory.mktemp("mos2") / "scan.npy"
    np.save(path, np.random.default_rng(0).poisson(expected * 1e6).astype(np.uint32).reshape(4, 4, 128, 128))
    return path


def test_a_lattice_tells_the_pixels_angle(molybdenum_disulphide, tmp_path):
    lattice = {"lattice": KnownLattice.of("MoS2"), "rotation": 0.0, "step": 2e-9, "high_tension": 80e3}
    alone = processed(molybdenum_disulphide, tmp_path / "alone", "com", **lattice)
    value, error = of(alone, "pixel_angle")
    assert value == pytest.approx(0.6e-3, rel=2e-3) and 0 < error < 1e-6
    assert of(alone, "semi_convergence_angle")[0] == pytest.approx(2e-3, rel=0.03)
    assert "does not tell the scan's step: its planes are 0.274 nm apart, positions 2 nm" in alone.text

    stated = processed(molybdenum_disulphide, tmp_path / "stated", "com", pixel_angle=6.3e-4, **lattice)
    assert of(stated, "pixel_angle")[0] == 6.3e-4 and of(stated, "pixel_angle_measured") == pytest.approx((value, error))
    assert any(line.strip().startswith("pixel_angle") and "stated 0.63" in line for line in stated.lines)
    preferred = processed(molybdenum_disulphide, tmp_path / "preferred", "com", pixel_angle=6.3e-4, use_measured=True,
                          **lattice)
    assert of(preferred, "pixel_angle") == pytest.approx((value, error)) and of(preferred, "pixel_angle_stated")[0] == 6.3e-4
    np.testing.assert_allclose(preferred.map("com") * 6.3e-4, stated.map("com") * value)


def test_rings_tell_the_pixels_angle(tmp_path):
    generator, (y, x) = np.random.default_rng(1), np.mgrid[:128, :128]
    spacings, truth = (0.2355e-9, 0.2039e-9, 0.1442e-9), 0.4e-3
    distance = np.hypot(y - 63.2, x - 64.4)
    expected = 4 / (1 + np.exp((distance - 4) / 0.4)) + 0.01 * np.exp(-distance / 30)
    for spacing in spacings:
        expected += 0.04 * np.exp(-0.5 * ((distance - wavelength(200e3) / spacing / truth) / 1.5)**2)
    np.save(tmp_path / "scan.npy", generator.poisson(30 * expected, (3, 8, 128, 128)).astype(np.uint16))
    lattice = KnownLattice.of("rings:" + ",".join(f"{spacing * 1e9:g}" for spacing in spacings))
    done = processed(tmp_path / "scan.npy", tmp_path / "out", "com", high_tension=200e3, rotation=0.0, pixel_angle=0.41e-3,
                     lattice=lattice, use_measured=True)
    value, error = of(done, "pixel_angle")
    assert value == pytest.approx(truth, abs=4 * error) and error < 2e-3 * truth
    assert "rings are not of a lattice in the plane of the scan" in done.text
    silent = processed(tmp_path / "scan.npy", tmp_path / "silent", "com", high_tension=200e3, rotation=0.0, lattice=lattice)
    assert "rings need an approximate angle of a pixel" in silent.text


@pytest.mark.parametrize("text", ["graphite", "square:", "rectangular:0.3", "hexagonal:0.2,0.3", "square:-1", "rings:a",
                                  "round:1"])
def test_an_unknown_lattice_is_refused_with_the_forms(text):
    with pytest.raises(ProcessingError, match="is not a name .*rings:NM"):
        KnownLattice.of(text)


def test_options_of_descan():
    assert descan_option("measured")[1] and not descan_option("none")[1]
    np.testing.assert_allclose(descan_option("1,2,3,4")[0], np.array([[1, 2], [3, 4]]) * 1e9)
    for text in ("1,2,3", "on", "nan,0,0,0"):
        with pytest.raises(ProcessingError, match="--descan"):
            descan_option(text)
    assert math.isclose(KnownLattice.of("Si[001]").plane.reciprocal(1)[0] @ KnownLattice.of("Si[001]").plane.reciprocal(1)[0],
                        1 / 0.38403e-9**2)
