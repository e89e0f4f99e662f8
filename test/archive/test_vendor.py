"""Vendors' files through RosettaSciIO, against direct reading of the same bytes and the numbers of the data's README."""

import shutil

import h5py
import numpy as np
import pytest

from edgetem_nodes.archive import vendor
from edgetem_nodes.archive.vendor import VendorFile, list_signals, open_scan, read_image
from edgetem_nodes.archive.vendor_axes import FileAxis, VendorFileError, scan_axes, signal_axis
from edgetem_nodes.physics.electrons import ELEMENTARY_CHARGE, wavelength

EV = ELEMENTARY_CHARGE
SCANS = [
    ("formats/merlin_mib/001_4x2_6bit.mib", "pixelated", (2, 4), (256, 256), "uint8", None),
    ("formats/merlin_mib/Single_9_Frame_CounterDepth_12_Rows_256.mib", "pixelated", (1, 9), (256, 256), "uint16", None),
    ("formats/blockfile/test1.blo", "pixelated", (3, 2), (144, 144), "uint8", 12.8),
    ("formats/gatan_dm/EELS_Spectrum_Image_25nm.dm3", "eels", (16, 16), (1024,), "float32", 24.58),
    ("formats/gatan_dm/EELS_SI.dm4", "eels", (2, 2), (2048,), "float32", 1.992),
    ("formats/velox_emd/Test_SI_16x16_215kx.emd", "eds", (16, 16), (4096,), "uint16", 3.599),
    ("formats/dectris_arina/test_00_master.h5", "pixelated", (4, 4), (192, 192), "uint16", None),
    ("formats/bruker/test_TEM.bcf", "eds", (64, 64), (2048,), "uint8", 0.771),
    ("formats/topspin/topspin_test_A.app5", "pixelated", (2, 5), (14, 12), "float32", 2.0),
    ("formats/hspy_lineprofile/LSMO_linescan.hspy", "eels", (1, 40), (586,), "float32", 3.219),
]


@pytest.mark.parametrize(("file", "detector", "scan", "signal", "dtype", "step"), SCANS,
                         ids=[s[0].split("/")[1] for s in SCANS])
def test_scans_of_every_format(data_root, file, detector, scan, signal, dtype, step):
    opened = open_scan(data_root / file)
    assert (opened.detector, opened.field.shape, opened.frame_shape, opened.dtype.name) == (detector, scan, signal, dtype)
    assert opened.dtype.byteorder in "<=|"
    assert opened.calibrated == (step is not None)
    assert opened.field.step[1] * 1e9 == pytest.approx(step or 1.0, rel=1e-3)
    frames = opened.frames([0, scan[0] - 1], [0, scan[1] - 1])
    assert frames.shape == (2, *signal)
    assert frames.dtype == opened.dtype


@pytest.mark.parametrize("lazy", [False, True])
def test_hyperspy_file_against_h5py(data_root, lazy):
    path = data_root / "replay/CuZn_EELS_HAADF/CuZn_EELS_mapping_tutorial.hspy"
    scan = VendorFile(path, lazy).scan()
    with h5py.File(path) as file:
        direct = file["Experiments/EELS Spectrum Image/data"][()]
    rows, columns = np.divmod(np.random.default_rng(0).permutation(2000)[:77], 40)
    assert np.array_equal(scan.frames(rows, columns), direct[rows, columns])
    energy = scan.axes[0]
    assert (energy.scale / EV, energy.offset / EV, energy.unit) == (pytest.approx(8.0), pytest.approx(700.0), "J")
    assert scan.conditions["high_tension"] == 200e3
    assert scan.conditions["semi_convergence_angle"] == pytest.approx(29e-3)
    assert scan.total_counts().mean() == pytest.approx(6e5, rel=0.05)


def test_a_lazy_scan_decodes_only_the_chunks_that_are_asked_for(data_root, monkeypatch):
    scan = VendorFile(data_root / "replay/core_shell_EDS/core_shell.hspy", lazy=True).scan()
    asked = []
    whole = scan.data

    class Watched:
        chunks, dtype, shape = whole.chunks, whole.dtype, whole.shape

        @property
        def blocks(self):
            class Blocks:
                def __getitem__(self, block):
                    asked.append(block)
                    return whole.blocks[block]
            return Blocks()

    scan.data = Watched()
    scan.frames([0, 1, 63], [0, 1, 0])
    scan.frames([2], [2])
    assert asked == [(0, 0), (4, 0)]
    monkeypatch.setattr(vendor, "CACHE", 1)
    scan.frames([0, 63], [0, 0])
    scan.frames([0], [0])
    assert asked == [(0, 0), (4, 0), (4, 0), (0, 0)]


def test_bruker_counts(data_root):
    scan = open_scan(data_root / "replay/L2083-K-4-1_EDS_HAADF/L2083_tilt_0.bcf")
    assert scan.total_counts().mean() == pytest.approx(13.5, abs=0.1)
    assert scan.field.step[0] == pytest.approx(13.08e-9, rel=1e-3)
    image = read_image(scan.path, "HAADF")
    assert image.data.shape == scan.field.shape
    assert (image.data == image.data.max()).mean() == pytest.approx(8e-4, rel=0.2)


def test_merlin_frames_against_the_bytes(data_root):
    path = data_root / "formats/merlin_mib/001_4x2_6bit.mib"
    raw = np.fromfile(path, np.uint8).reshape(8, 384 + 65536)[:, 384:].reshape(8, 256, 256)
    frames = open_scan(path).frames([0, 0, 1, 1], [0, 3, 0, 3])
    assert np.array_equal(np.sort(frames, axis=None), np.sort(raw[[0, 3, 4, 7]], axis=None))
    assert np.array_equal(frames[1].sum(), raw[3].sum())


def test_energy_axis_that_comes_first_is_the_signal(data_root):
    from rsciio.digitalmicrograph import file_reader
    path = data_root / "formats/gatan_dm/EELS_Spectrum_Image_25nm.dm3"
    direct = file_reader(str(path))[0]["data"]
    assert direct.shape == (1024, 16, 16)
    assert np.array_equal(open_scan(path).frames([3, 15], [7, 0]), direct[:, [3, 15], [7, 0]].T)


def test_list_of_signals_for_people(data_root):
    summaries = list_signals(data_root / "formats/velox_emd/Test_SI_16x16_215kx.emd")
    assert [s.kind for s in summaries].count("scan") == 1
    assert "HAADF" in [s.title for s in summaries if s.kind == "image"]
    assert "3.5992 from" in next(s for s in summaries if s.kind == "scan").axes[0]


@pytest.mark.parametrize("file", ["replay/CuZn_EELS_HAADF/CuZn_EELS_mapping_tutorial.hspy", "formats/bruker/test_TEM.bcf",
                                  "formats/merlin_mib/001_4x2_6bit.mib", "formats/blockfile/test1.blo",
                                  "formats/gatan_dm/EELS_SI.dm4", "formats/velox_emd/Test_SI_16x16_215kx.emd"])
@pytest.mark.parametrize("part", [0.97, 0.5, 0.01])
def test_a_truncated_file_is_found_out_before_it_is_used(data_root, tmp_path, file, part):
    source, path = data_root / file, tmp_path / file.rsplit("/", 1)[1]
    content = source.read_bytes()
    path.write_bytes(content[:int(len(content) * part)])
    if source.suffix == ".mib":
        shutil.copy(source.with_suffix(".hdr"), path.with_suffix(".hdr"))
    with pytest.raises(VendorFileError, match=path.name):
        scan = open_scan(path)
        scan.frames([scan.field.shape[0] - 1], [scan.field.shape[1] - 1])


def test_what_is_no_scan_says_what_it_is(data_root, tmp_path):
    with pytest.raises(VendorFileError, match="no signal with scan axes; it holds 0 '01-EELS Acquire_STO' other"):
        open_scan(data_root / "formats/gatan_dm/EELS_STO.dm3")
    with pytest.raises(VendorFileError, match=r"signal 'HAADF' .* has shape \(64, 64\) and is no scan"):
        open_scan(data_root / "formats/bruker/test_TEM.bcf", "HAADF")
    with pytest.raises(VendorFileError, match="does not exist"):
        open_scan(tmp_path / "absent.hspy")
    with pytest.raises(VendorFileError, match="is not a file"):
        open_scan(tmp_path)


@pytest.mark.parametrize(("name", "message"), [("a.xyz", "no reader knows the extension"), ("a.nc", "evaluates text"),
                                               ("a.hspy", "cannot be read"), ("a.bcf", "does not begin"),
                                               ("a.mib", "does not begin"), ("a.h5", "cannot be read")])
def test_foreign_content_is_refused(tmp_path, name, message):
    (tmp_path / name).write_bytes(b"not what the extension says" * 100)
    with pytest.raises(VendorFileError, match=message):
        open_scan(tmp_path / name)
    (tmp_path / name).write_bytes(b"")
    with pytest.raises(VendorFileError, match="empty"):
        open_scan(tmp_path / name)


def test_axes_in_si_units():
    inverse = FileAxis("kx", "1/nm", 0.1, -3.2, 64, False)
    assert signal_axis(inverse, 80e3).scale == pytest.approx(0.1e9 * wavelength(80e3))
    assert signal_axis(inverse, 0.0).unit == ""
    assert signal_axis(FileAxis("E", "keV", 0.01, -0.2, 9, False), 0.0).offset == pytest.approx(-200 * EV)
    assert signal_axis(FileAxis("ky", "mrad", 0.5, 0.0, 9, False), 0.0).scale == pytest.approx(5e-4)


def test_scan_axes_by_name_and_by_flag():
    def axis(name, navigate, unit=""):
        return FileAxis(name, unit, 1.0, 0.0, 4, navigate)

    assert scan_axes([axis("Energy", True, "eV"), axis("y", False), axis("x", False)]) == ([1, 2], [0])
    assert scan_axes([axis("", None)] * 4) == ([0, 1], [2, 3])
    assert scan_axes([axis("y", False), axis("x", False)]) is None
    assert scan_axes([axis("", True)] * 3 + [axis("", False)] * 2) is None
