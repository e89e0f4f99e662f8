"""Maps of `edgetem process` against direct sums in numpy, what it says of bad input, and what other programs read of it."""

from __future__ import annotations

import json

import h5py
import hdf5plugin
import matplotlib.image
import numpy as np
import pytest
from sparse_archive import sparse_archive
from processed_scan import CENTER, RADIUS, processed, scan

from edgetem_nodes.operator.processing.registry import FEATURES, chosen
from edgetem_nodes.operator.processing.results import ProcessingError
from edgetem_nodes.physics.electrons import wavelength

GEOMETRY = {"high_tension": 80e3, "semi_convergence_angle": 25e-3, "step": 20e-12, "center": CENTER, "radius": RADIUS}


@pytest.fixture(scope="module")
def frames() -> np.ndarray:
    return scan()


@pytest.fixture(scope="module")
def file(frames, tmp_path_factory):
    path = tmp_path_factory.mktemp("scan") / "scan.npy"
    np.save(path, frames)
    return path


def distances(shape=(64, 64)) -> np.ndarray:
    y, x = np.indices(shape)
    return np.hypot(y - CENTER[0], x - CENTER[1])


def test_detectors_and_moments_are_direct_sums(file, frames, tmp_path):
    done = processed(file, tmp_path / "out", "bf,adf,abf,sum,com,variance", block_bytes=50_000, **GEOMETRY)
    assert done.code == 0, done.text
    distance, values = distances(), frames.astype(float)
    pixel = 25e-3 / RADIUS
    np.testing.assert_array_equal(done.map("bf"), values[..., distance < RADIUS].sum(-1))
    np.testing.assert_array_equal(done.map("adf"), values[..., distance >= RADIUS].sum(-1))
    np.testing.assert_array_equal(done.map("abf"), values[..., (distance < RADIUS) & (distance >= RADIUS / 2)].sum(-1))
    np.testing.assert_array_equal(done.map("sum"), values.sum((-2, -1)))
    np.testing.assert_allclose(done.map("bf_standard_error"), np.sqrt(done.map("bf")))
    y, x = np.indices((64, 64))
    center = np.stack([(values * y).sum((-2, -1)), (values * x).sum((-2, -1))]) / values.sum((-2, -1))
    np.testing.assert_allclose(done.map("com"), (center - np.array(CENTER)[:, None, None]) * pixel, atol=1e-12)
    width = (values * (y - center[0, ..., None, None])**2).sum((-2, -1)) / values.sum((-2, -1))
    np.testing.assert_allclose(done.map("variance")[0], width * pixel**2, rtol=1e-9)
    np.testing.assert_allclose(done.map("mean_pattern"), values.mean((0, 1)))
    np.testing.assert_array_equal(done.map("maximum_pattern"), values.max((0, 1)))


def test_the_emd_file_says_axes_units_and_everything_that_was_used(file, tmp_path):
    done = processed(file, tmp_path / "out", "com,bf", high_tension=80e3, semi_convergence_angle=25e-3, step=20e-12)
    root = done.root()
    com = root.tree("com")
    assert (com.units, list(com.slicelabels), com.dim_names, com.dim_units) == ("rad", ["y", "x"], ("y", "x"), ("m", "m"))
    np.testing.assert_allclose(com.dims[1], 20e-12 * np.arange(11))
    known, did = root.metadata["calibration"], root.metadata["processing"]
    assert known["high_tension"] == 80e3 and known["high_tension_source"] == "stated"
    assert known["disk_radius_source"] == "measured" and known["disk_radius_standard_error"] > 0
    # The disk of the mean pattern lies at the mean of the disks.
    middle = CENTER[0] + 1.5 * np.sin(2 * np.pi * np.arange(9) / 6).mean()
    assert known["disk_radius"] == pytest.approx(RADIUS, abs=0.2) and known["center_y"] == pytest.approx(middle, abs=0.05)
    assert (did["status"], did["frames_read"], did["features"], did["format"]) == ("complete", 99, "com,bf", "npy")
    with h5py.File(tmp_path / "out" / "maps.emd") as plain:
        assert plain["experiment/bf/data"].shape == (9, 11) and not plain["experiment/failures/data"][:].any()
    assert any("disk_radius" in line and "measured" in line for line in done.lines)


def test_pictures_are_not_blank(file, tmp_path):
    done = processed(file, tmp_path / "out", "bf,com,sum,icom,segments,variance", pictures=True, rotation=0.0,
                     **GEOMETRY)
    names = {path.stem for path in done.folder.glob("*.png")}
    assert names == {"bf", "com", "sum", "mean_pattern", "maximum_pattern", "icom", "segments", "variance"}
    for path in done.folder.glob("*.png"):
        image = matplotlib.image.imread(path)[..., :3]
        assert image.std() > 0.05 and len(np.unique(image.reshape(-1, 3), axis=0)) > 50, path


def test_what_compares_directions_is_refused_where_the_rotation_is_not_known(frames, tmp_path):
    alike = frames.reshape(-1, 64, 64).mean(axis=0)
    np.save(tmp_path / "noise.npy", np.random.default_rng(0).poisson(alike, (6, 6, 64, 64)).astype(np.uint16))
    done = processed(tmp_path / "noise.npy", tmp_path / "out", "com,icom,div,field", **GEOMETRY)
    refused = json.loads(done.root().metadata["processing"]["refused"])
    assert done.code == 1 and set(refused) == {"icom", "div", "field"}
    assert all("state --rotation" in reason for reason in refused.values())


@pytest.mark.parametrize("wrong", [{"step": np.nan}, {"high_tension": -1.0}, {"pixel_angle": -1e-3}, {"rotation": np.nan},
                                   {"counts_per_electron": 0.0}])
def test_options_that_are_no_numbers_are_refused(file, tmp_path, wrong):
    with pytest.raises(ProcessingError, match=next(iter(wrong)).replace("_", " ")):
        processed(file, tmp_path / "out", "bf", **(GEOMETRY | wrong))


def test_derived_fields_follow_from_the_deflection(file, tmp_path):
    done = processed(file, tmp_path / "out", "com,curl,div,icom,field", rotation=0.0, flipped=False, **GEOMETRY)
    y, x = done.map("com")
    divergence = np.gradient(y, 20e-12, axis=0) + np.gradient(x, 20e-12, axis=1)
    np.testing.assert_allclose(done.map("div"), divergence)
    np.testing.assert_allclose(done.map("curl"), np.gradient(y, 20e-12, axis=1) - np.gradient(x, 20e-12, axis=0))
    # The phase climbs between neighbours by the mean deflection times 2 pi / wavelength; the mean slope is taken away.
    phase, slope = done.map("icom"), 2 * np.pi / wavelength(80e3) * (x - x.mean())
    rise = np.diff(phase, axis=1)
    expected = (slope[:, 1:] + slope[:, :-1]) / 2 * 20e-12
    assert np.corrcoef(rise.ravel(), expected.ravel())[0, 1] > 0.9
    assert np.sign(done.map("field")[0]).tolist() == np.sign(-y).tolist()


@pytest.mark.parametrize("block_bytes", [8192, 100_000, 10**8])
def test_blocks_of_any_size_give_the_same_maps(file, tmp_path, block_bytes):
    done = processed(file, tmp_path / "out", "bf,com,ssb", block_bytes=block_bytes, rotation=0.0, **GEOMETRY)
    again = processed(file, tmp_path / "again", "bf,com,ssb", rotation=0.0, **GEOMETRY)
    for name in ("bf", "com", "ssb"):
        np.testing.assert_array_equal(done.map(name), again.map(name))


def test_dead_pixels_dark_and_gain_are_corrected(frames, tmp_path):
    generator = np.random.default_rng(1)
    dead = generator.random((64, 64)) < 0.02
    dark, gain = generator.random((64, 64)), 1 + 0.1 * generator.random((64, 64))
    raw = frames / gain + dark
    raw[..., dead] = np.nan
    for name, values in {"scan": raw, "dead": dead, "dark": dark, "gain": gain}.items():
        np.save(tmp_path / f"{name}.npy", values)
    done = processed(tmp_path / "scan.npy", tmp_path / "out", "bf", **GEOMETRY,
                     **{name: tmp_path / f"{name}.npy" for name in ("dead", "dark", "gain")})
    chosen_pixels = (distances() < RADIUS) & ~dead
    np.testing.assert_allclose(done.map("bf"), frames[..., chosen_pixels].sum(-1), rtol=1e-6)
    with pytest.raises(ProcessingError, match=r"--dead .*has shape \(9, 11, 64, 64\), frames have \(64, 64\)"):
        processed(tmp_path / "scan.npy", tmp_path / "x", "bf", dead=tmp_path / "scan.npy", **GEOMETRY)


def test_bad_frames_are_counted_named_and_mapped(frames, tmp_path):
    bad = frames.astype(np.float32)
    bad[0, 3], bad[1, 4, 5, 6], bad[2, 5] = 0, np.nan, 0
    np.save(tmp_path / "scan.npy", bad)
    done = processed(tmp_path / "scan.npy", tmp_path / "out", "bf,com", **GEOMETRY)
    codes = done.map("failures")
    assert sorted(map(tuple, np.argwhere(codes))) == [(0, 3), (1, 4), (2, 5)] and codes[0, 3] == codes[2, 5] != codes[1, 4]
    assert np.isnan(done.map("com")[:, codes > 0]).all() and np.isfinite(done.map("com")[:, codes == 0]).all()
    reasons = json.loads(done.root().metadata["failures"]["reasons"])
    assert "empty" in reasons[codes[0, 3]] and "finite" in reasons[codes[1, 4]]
    assert "2 places without value: place 3: the frame is empty" in done.text
    assert done.code == 0
    np.save(tmp_path / "scan.npy", np.where(np.arange(11)[:, None, None] == 2, 65535, frames).astype(np.uint16))
    done = processed(tmp_path / "scan.npy", tmp_path / "saturated", "bf", **GEOMETRY)
    assert np.isnan(done.map("bf"))[:, 2].all() and "saturated" in done.text


def test_a_file_without_a_sound_frame_is_an_error(frames, tmp_path):
    np.save(tmp_path / "scan.npy", np.zeros_like(frames))
    with pytest.raises(ProcessingError, match="none of 99 frames can be used; place 0: the frame is empty"):
        processed(tmp_path / "scan.npy", tmp_path / "out", "sum")
    assert not (tmp_path / "out").exists()


def test_a_sparse_scan_refuses_what_needs_a_raster_and_makes_the_rest(frames, tmp_path):
    positions = sparse_archive(tmp_path, frames.reshape(-1, 64, 64)[:30])
    done = processed(tmp_path, tmp_path / "out", "bf,com,ssb,icom", pictures=True, **{**GEOMETRY, "step": 0.0})
    assert done.code == 1 and set(json.loads(done.root().metadata["processing"]["refused"])) == {"ssb", "icom"}
    limit = wavelength(80e3) / (4 * 25e-3) * 1e9
    assert f"wavelength / (4 semi-convergence angle) = {limit:.4g} nm" in done.text and "30 sparse positions" in done.text
    assert done.map("bf").shape == (30,) and done.map("com").shape == (2, 30)
    np.testing.assert_array_equal(done.map("positions"), positions)
    assert (done.folder / "com.png").exists()


def test_an_aborted_scan_has_places_without_value(frames, tmp_path):
    np.save(tmp_path / "list.npy", frames.reshape(-1, 64, 64)[:50])
    done = processed(tmp_path / "list.npy", tmp_path / "out", "bf,com", scan_shape=(9, 11), **GEOMETRY)
    assert np.isnan(done.map("bf").ravel()).tolist() == [False] * 50 + [True] * 49
    assert done.root().metadata["processing"]["status"] == "incomplete" and "49 places without value: not measured" in done.text


def test_damage_in_the_middle_of_a_file_leaves_what_was_read(frames, tmp_path):
    with h5py.File(tmp_path / "scan.h5", "w") as file:
        data = file.create_dataset("patterns", data=frames, chunks=(1, 11, 64, 64), **hdf5plugin.Bitshuffle())
        chunk = data.id.get_chunk_info(5)
    raw = bytearray((tmp_path / "scan.h5").read_bytes())
    raw[chunk.byte_offset:chunk.byte_offset + chunk.size] = bytes(chunk.size)
    (tmp_path / "scan.h5").write_bytes(raw)
    done = processed(tmp_path / "scan.h5", tmp_path / "out", "bf", block_bytes=frames[0].nbytes, **GEOMETRY)
    assert done.code == 1 and "could not be read from frame 55 on" in done.text
    np.testing.assert_array_equal(np.isnan(done.map("bf")).any(axis=1), np.arange(9) >= 5)


def test_missing_values_name_the_option(file, tmp_path):
    for feature, option, known in (("ssb", "--high-tension", {"semi_convergence_angle": 25e-3, "step": 2e-11}),
                                   ("icom", "--step", {"high_tension": 80e3, "semi_convergence_angle": 25e-3}),
                                   ("div", "--pixel-angle", {"step": 2e-11})):
        with pytest.raises(ProcessingError, match=f"{feature} needs .*state it with {option}"):
            processed(file, tmp_path / "out", feature, **known)


def test_what_cannot_be_done_is_said(file, tmp_path):
    with pytest.raises(ProcessingError, match="no feature 'bff' .did you mean 'bf'"):
        chosen("com,bff")
    with pytest.raises(ProcessingError, match="abf has no setting 'iner_mrad'; it has inner_mrad"):
        processed(file, tmp_path / "out", "abf", settings={"abf.iner_mrad": 1.0}, **GEOMETRY)
    with pytest.raises(ProcessingError, match="no pixel lies between 300 and"):
        processed(file, tmp_path / "out", "adf", inner=0.3, **GEOMETRY)
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "maps.emd").touch()
    with pytest.raises(ProcessingError, match="exists: name another folder"):
        processed(file, tmp_path / "out", "bf", **GEOMETRY)
    assert processed(file, tmp_path / "out", "bf", overwrite=True, **GEOMETRY).code == 0


def test_every_feature_is_described():
    assert all(kind.summary and name == kind.name for name, kind in FEATURES.items())


def test_a_measured_scan_of_a_merlin_camera(data_root, tmp_path):
    path = data_root / "formats" / "merlin_mib" / "001_4x2_6bit.mib"
    raw = np.frombuffer(path.read_bytes(), np.uint8).reshape(8, 384 + 65536)[:, 384:].reshape(8, 256, 256).astype(float)
    done = processed(path, tmp_path / "out", "bf,sum", center=(127.5, 127.5), radius=40.0)
    y, x = np.indices((256, 256)) - 127.5
    np.testing.assert_array_equal(np.sort(done.map("bf").ravel()), np.sort(raw[:, np.hypot(y, x) < 40].sum(-1)))
    assert done.map("sum").sum() == raw.sum()
