"""Frames of a scan, read block by block from any file, against the arrays that were written and direct reading of the bytes."""

from __future__ import annotations

import emdfile
import h5py
import hdf5plugin
import numpy as np
import pytest
from archive_samples import new_archive, poisson_frames, write_acquisition
from hypothesis import given, settings
from hypothesis import strategies as st

from edgetem_nodes.archive.contents import AcquisitionFacts
from edgetem_nodes.archive.pattern_file import FrameStore, PatternFile, PatternFileError
from edgetem_nodes.archive.pattern_formats import open_patterns
from edgetem_nodes.archive.raster import raster_of
from edgetem_nodes.archive.vendor_axes import VendorFileError
from edgetem_nodes.physics.electrons import wavelength
from edgetem_nodes.physics.scan import ScanField

SCAN = np.random.default_rng(3).poisson(3.0, (5, 7, 8, 6)).astype(np.uint16)


def gathered(source: PatternFile, block_bytes: int) -> np.ndarray:
    """All frames by place; fails where a place comes twice or not at all."""
    frames, seen = np.zeros((source.places, *source.frame_shape), source.dtype), np.zeros(source.places, int)
    for places, block in source.blocks(block_bytes):
        frames[places] = block
        np.add.at(seen, places, 1)
    assert (seen == 1).all()
    return frames


@pytest.mark.parametrize("block_bytes", [1, 200, 1000, 10**6])
@pytest.mark.parametrize("chunks", [None, (2, 3, 8, 6), (5, 1, 4, 3), (1, 7, 8, 6)])
def test_hdf5_by_path_in_blocks_of_any_size(tmp_path, chunks, block_bytes):
    with h5py.File(tmp_path / "scan.h5", "w") as file:
        file.create_dataset("a/b/patterns", data=SCAN, chunks=chunks, **({} if chunks is None else hdf5plugin.Bitshuffle()))
        file["a/other"] = SCAN[:2]
    source = open_patterns(tmp_path / "scan.h5", "a/b/patterns")
    assert (source.field.shape, source.frame_shape, source.calibrated) == ((5, 7), (8, 6), False)
    np.testing.assert_array_equal(gathered(source, block_bytes).reshape(SCAN.shape), SCAN)
    largest = max(len(places) for places, _ in source.blocks(block_bytes)) * source.store.frame_bytes
    assert largest <= max(block_bytes, source.store.chunk_bytes, source.store.frame_bytes)


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_blocks_cover_every_frame_once(data):
    shape = data.draw(st.lists(st.integers(1, 9), min_size=1, max_size=2))
    array = np.arange(int(np.prod(shape)) * 6, dtype=np.int32).reshape(*shape, 2, 3)
    chunks = tuple(data.draw(st.integers(1, 9)) for _ in shape) + (2, 3)
    store = FrameStore([_Chunked(array, chunks)], len(shape))
    plan = store.plan(data.draw(st.integers(1, 3000)))
    places = np.concatenate([store.places(block) for block in plan])
    frames = np.concatenate([store.read(block) for block in plan])
    assert sorted(places) == list(range(store.count))
    np.testing.assert_array_equal(frames[np.argsort(places)], array.reshape(-1, 2, 3))


class _Chunked:
    """An array that says it is stored in chunks."""

    def __init__(self, array: np.ndarray, chunks: tuple[int, ...]) -> None:
        self._array, self.chunks, self.shape, self.dtype = array, chunks, array.shape, array.dtype

    def __getitem__(self, where: tuple[slice, ...]) -> np.ndarray:
        return self._array[where]


def test_numpy_and_raw_files(tmp_path):
    np.save(tmp_path / "scan.npy", SCAN)
    SCAN.astype(">u2").tofile(tmp_path / "scan.raw")
    (tmp_path / "header.raw").write_bytes(b"x" * 100 + SCAN.tobytes())
    for source in (open_patterns(tmp_path / "scan.npy"),
                   open_patterns(tmp_path / "scan.raw", shape=SCAN.shape, dtype=">u2"),
                   open_patterns(tmp_path / "header.raw", shape=SCAN.shape, dtype="uint16", offset=100)):
        assert source.dtype == np.uint16 and source.dtype.isnative
        np.testing.assert_array_equal(gathered(source, 500).reshape(SCAN.shape), SCAN)


def test_a_list_of_frames_becomes_a_raster_and_an_end_that_is_missing_is_said(tmp_path):
    np.save(tmp_path / "list.npy", SCAN.reshape(-1, 8, 6)[:30])
    source = open_patterns(tmp_path / "list.npy")
    assert source.field.shape == (1, 30) and "--scan-shape" in source.notes[0]
    raster = source.reshaped((5, 7))
    assert raster.places == 35 and raster.count == 30 and "end is missing" in raster.notes[-1]
    places = np.concatenate([p for p, _ in raster.blocks(200)])
    assert sorted(places) == list(range(30))
    with pytest.raises(PatternFileError, match="30 frames, a scan of 4 x 7 has 28 places"):
        source.reshaped((4, 7))


@pytest.mark.parametrize("shape", [SCAN.shape, (35, 8, 6)])
@pytest.mark.parametrize("kind", ["npy", "raw"])
def test_a_file_cut_short_holds_the_frames_that_are_whole(tmp_path, kind, shape):
    whole = tmp_path / f"whole.{kind}"
    np.save(whole, SCAN.reshape(shape)) if kind == "npy" else SCAN.tofile(whole)
    head = whole.stat().st_size - SCAN.nbytes
    cut = tmp_path / f"cut.{kind}"
    cut.write_bytes(whole.read_bytes()[:head + 23 * 96 + 50])
    source = open_patterns(cut, **({} if kind == "npy" else {"shape": shape, "dtype": "uint16"}))
    assert source.count == 23 and source.field.shape == ((5, 7) if len(shape) == 4 else (1, 23))
    assert f"has {head + 23 * 96 + 50} bytes" in source.notes[-1] and "the 23 whole frames there are read" in source.notes[-1]
    for block_bytes in (1, 500, 1 << 20):
        places, frames = (np.concatenate(part) for part in zip(*source.blocks(block_bytes), strict=True))
        np.testing.assert_array_equal(frames[np.argsort(places)], SCAN.reshape(-1, 8, 6)[:23])


def test_a_datacube_of_py4dstem_has_its_axes(tmp_path):
    cube = emdfile.Array(SCAN, name="datacube", units="counts", dims=[0.2, 0.2, 0.01, 0.01],
                         dim_names=["Rx", "Ry", "Qx", "Qy"], dim_units=["nm", "nm", "A^-1", "A^-1"])
    root = emdfile.Root(name="root")
    root.tree(cube)
    emdfile.save(tmp_path / "cube.h5", root)
    source = open_patterns(tmp_path / "cube.h5", high_tension=200e3)
    assert source.field.step == pytest.approx((0.2e-9, 0.2e-9)) and source.calibrated
    assert source.axes[1].unit == "rad" and source.axes[1].scale == pytest.approx(0.01e10 * wavelength(200e3))
    np.testing.assert_array_equal(gathered(source, 500).reshape(SCAN.shape), SCAN)


def test_an_archive_with_a_raster_a_sparse_scan_and_an_aborted_one(tmp_path):
    frames = poisson_frames(1, 12, (8, 6))
    raster = ScanField((0.0, 1e-9), (0.5e-9, 0.25e-9), (3, 4))
    order = np.random.default_rng(0).permutation(12)
    with new_archive(tmp_path) as archive:
        write_acquisition(archive, frames)
        for positions, count, status in ((raster.positions(order), 12, "complete"), (raster.positions()[:7], 12, "aborted")):
            writer = archive.begin(AcquisitionFacts(AcquisitionFacts.from_metadata(
                {"acquisition_id": f"00000000-0000-0000-0000-{len(positions):012d}"}).acquisition_id, "camera", count))
            writer.append(0, frames[:len(positions)], positions)
            writer.finish(status)
    with pytest.raises(PatternFileError, match="acquisition_0000 .12 frames.*name one with --signal"):
        open_patterns(tmp_path)
    sparse = open_patterns(tmp_path, "acquisition_0000")
    assert sparse.field is None and sparse.positions.shape == (12, 2)
    whole = open_patterns(tmp_path / "archive.h5", "0001")
    assert whole.field.shape == (3, 4) and whole.field.step == pytest.approx(raster.step) and not whole.notes
    np.testing.assert_array_equal(gathered(whole, 300)[order], frames)
    part = open_patterns(tmp_path, "acquisition_0002")
    assert (part.places, part.count, part.field.shape) == (12, 7, (3, 4)) and "aborted" in part.notes[0]
    everything = open_patterns(tmp_path, "all")
    assert everything.count == 31


def test_positions_off_a_grid_or_twice_on_one_are_no_raster():
    raster = ScanField((1e-9, -3e-9), (0.2e-9, 0.3e-9), (6, 5))
    field, places = raster_of(raster.positions()[::-1])
    assert field.shape == (6, 5) and field.step == pytest.approx(raster.step) and field.origin == pytest.approx(raster.origin)
    np.testing.assert_array_equal(places, np.arange(30)[::-1])
    jitter = raster.positions() + np.random.default_rng(0).normal(0, 0.05e-9, (30, 2))
    twice = raster.positions(np.r_[np.arange(29), 0])
    for positions in (jitter, twice, raster.positions()[::7], np.zeros((9, 2)), raster.positions()[:10]):
        assert raster_of(positions, 30 if len(positions) == 30 else len(positions) + 1) == (None, None)


def test_a_sample_is_bounded_and_spread(tmp_path):
    np.save(tmp_path / "scan.npy", np.arange(1000, dtype=np.uint16)[:, None, None] * np.ones((1, 8, 8), np.uint16))
    places, frames = open_patterns(tmp_path / "scan.npy").sample(24 * 128 * 2)
    assert frames.nbytes <= 24 * 128 * 2 and places.min() == 0 and places.max() > 990
    np.testing.assert_array_equal(frames[:, 0, 0], places)


@pytest.mark.parametrize(("file", "frames", "shape"), [
    ("merlin_mib/001_4x2_6bit.mib", 8, (2, 4)), ("blockfile/test1.blo", 6, (3, 2)), ("topspin/topspin_test_A.app5", 10, (2, 5)),
    ("dectris_arina/test_00_master.h5", 16, (4, 4)), ("gatan_dm/EELS_SI.dm4", 4, (2, 2)), 
    ("bruker/test_TEM.bcf", 4096, (64, 64)), ("velox_emd/Test_SI_16x16_215kx.emd", 256, (16, 16))])
def test_measured_files(data_root, file, frames, shape):
    source = open_patterns(data_root / "formats" / file)
    assert (source.count, source.field.shape) == (frames, shape)
    whole = gathered(source, 1 << 30)
    np.testing.assert_array_equal(gathered(source, 1 << 16), whole)
    assert whole.any() == ("arina" not in file)


def test_merlin_frames_are_those_behind_the_headers(data_root):
    path = data_root / "formats" / "merlin_mib" / "001_4x2_6bit.mib"
    raw = np.frombuffer(path.read_bytes(), np.uint8).reshape(8, 384 + 65536)[:, 384:].reshape(8, 256, 256)
    source = open_patterns(path)
    total = gathered(source, 1 << 17).sum(axis=(1, 2), dtype=float)
    np.testing.assert_array_equal(np.sort(total), np.sort(raw.sum(axis=(1, 2), dtype=float)))


def test_an_arina_master_says_high_tension_and_saturation(data_root):
    source = open_patterns(data_root / "formats" / "dectris_arina" / "test_00_master.h5")
    assert source.conditions["high_tension"] == 300e3 and source.saturation == 8352


def test_an_arina_master_joins_its_data_files(tmp_path):
    frames = SCAN.reshape(-1, 8, 6)[:25]
    for number, part in enumerate((frames[:16], frames[16:])):
        with h5py.File(tmp_path / f"scan_data_{number + 1:06d}.h5", "w") as file:
            file.create_dataset("entry/data/data", data=part, chunks=(1, 8, 6), **hdf5plugin.Bitshuffle())
    mask = np.zeros((8, 6), np.uint32)
    mask[2, 3] = 1
    with h5py.File(tmp_path / "scan_master.h5", "w") as file:
        for number in (1, 2):
            file[f"entry/data/data_{number:06d}"] = h5py.ExternalLink(f"scan_data_{number:06d}.h5", "entry/data/data")
        file["entry/instrument/detector/detectorSpecific/photon_energy"] = 200e3
        file["entry/instrument/detector/detectorSpecific/pixel_mask"] = mask
    source = open_patterns(tmp_path / "scan_master.h5")
    assert source.field.shape == (5, 5) and source.conditions["high_tension"] == 200e3
    assert np.argwhere(source.dead).tolist() == [[2, 3]]
    np.testing.assert_array_equal(gathered(source, 400), frames)
    (tmp_path / "scan_data_000002.h5").unlink()
    with pytest.raises(PatternFileError, match="data files that this master file links to are missing"):
        open_patterns(tmp_path / "scan_master.h5")


def test_bad_files_are_refused_with_what_to_do(tmp_path):
    np.save(tmp_path / "flat.npy", SCAN[0, 0])
    np.save(tmp_path / "objects.npy", np.array([{}]), allow_pickle=True)
    np.save(tmp_path / "scan.npy", SCAN)
    (tmp_path / "short.npy").write_bytes((tmp_path / "scan.npy").read_bytes()[:200])
    (tmp_path / "header.npy").write_bytes((tmp_path / "scan.npy").read_bytes()[:60])
    np.save(tmp_path / "fortran.npy", np.asfortranarray(SCAN))
    (tmp_path / "fortran.npy").write_bytes((tmp_path / "fortran.npy").read_bytes()[:2000])
    (tmp_path / "noise.h5").write_bytes(b"not hdf5 at all" * 100)
    (tmp_path / "empty.mib").touch()
    (tmp_path / "scan.raw").write_bytes(SCAN.tobytes())
    (tmp_path / "notes.txt").write_text("text")
    with h5py.File(tmp_path / "two.h5", "w") as file:
        file["a"], file["b"], file["c"] = SCAN, SCAN, SCAN[0, 0]
    cases = {("gone.h5", ()): "does not exist", ("flat.npy", ()): "patterns are numbers in", ("objects.npy", ()): "of object",
             ("short.npy", ()): "no whole frame", ("header.npy", ()): "cannot be read as a numpy array",
             ("fortran.npy", ()): "no whole frame", ("noise.h5", ()): "cannot be opened as HDF5", ("empty.mib", ()): "is empty",
             ("scan.raw", ()): "--shape", ("notes.txt", ()): "no reader knows", ("two.h5", ()): "name one with --signal",
             ("two.h5", ("c",)): "patterns are numbers in"}
    for (name, signal), message in cases.items():
        with pytest.raises(VendorFileError, match=message):
            open_patterns(tmp_path / name, *signal)
    with pytest.raises(PatternFileError, match="3360 bytes.* needs 6720000.*no whole frame.*check --shape"):
        open_patterns(tmp_path / "scan.raw", shape=(5, 7, 800, 120), dtype="uint16")
    with pytest.raises(PatternFileError, match="check --shape, --dtype and --offset"):
        open_patterns(tmp_path / "scan.raw", shape=SCAN.shape, dtype="uint16", offset=-1)
    with pytest.raises(PatternFileError, match="no type of numbers"):
        open_patterns(tmp_path / "scan.raw", shape=SCAN.shape, dtype="eggs")


def test_damage_is_found_where_it_is_read(tmp_path):
    with h5py.File(tmp_path / "scan.h5", "w") as file:
        data = file.create_dataset("patterns", data=SCAN, chunks=(1, 7, 8, 6), **hdf5plugin.Bitshuffle())
        place = data.id.get_chunk_info(3)
    raw = bytearray((tmp_path / "scan.h5").read_bytes())
    raw[place.byte_offset:place.byte_offset + place.size] = bytes(place.size)
    (tmp_path / "scan.h5").write_bytes(raw)
    with pytest.raises(PatternFileError, match="could not be read from frame 21 on"):
        list(open_patterns(tmp_path / "scan.h5", "patterns").blocks(700))
