"""A scan and its survey together: registration, binning, errors."""

import h5py
import numpy as np
import pytest

from edgetem_nodes.archive.replay import ReplaySet, _sum_dtype
from edgetem_nodes.archive.vendor_axes import VendorFileError
from edgetem_nodes.physics.spectra import particles_on_carbon


@pytest.fixture
def pair(synthetic):
    return synthetic / "synthetic_eels.hspy", synthetic / "synthetic_haadf.hspy"


def test_synthetic_set_is_what_the_function_makes(pair):
    """The committed files, the script that makes them, and the truth belong together."""
    replay, truth = ReplaySet(pair[0], survey=pair[1]), particles_on_carbon(2026)
    assert np.array_equal(replay.frames(np.arange(480)).reshape(24, 20, 80), truth.counts)
    assert np.array_equal(replay.survey(), truth.dark_field)
    assert (replay.detector, replay.field.shape, replay.dtype.name) == ("eels", (24, 20), "uint16")
    assert replay.field.step == (pytest.approx(1e-9), pytest.approx(1e-9))


def test_net_signal_of_the_synthetic_set_is_the_truth(pair):
    """Power law through 750-920 eV, window 930-1010 eV, as on the measured set."""
    replay, truth = ReplaySet(pair[0], survey=pair[1]), particles_on_carbon(2026)
    spectra = replay.frames(np.arange(480)).astype(float)
    before, window = (truth.energy >= 750) & (truth.energy <= 920), (truth.energy >= 930) & (truth.energy <= 1010)
    fits = np.polynomial.polynomial.polyfit(np.log(truth.energy[before]), np.log(spectra[:, before]).T, 1)
    background = np.exp(fits[0][:, None] + fits[1][:, None] * np.log(truth.energy[window]))
    net = (spectra[:, window] - background).sum(axis=1)
    assert np.corrcoef(net, truth.edge_counts.ravel())[0, 1] > 0.95
    assert np.corrcoef(replay.survey().ravel(), truth.edge_counts.ravel())[0, 1] < 0.85


def test_files_can_be_made_again(tmp_path, pair, synthetic):
    import runpy
    runpy.run_path(str(synthetic / "make_synthetic.py"))["write"](tmp_path)
    for path in pair:
        with h5py.File(path) as kept, h5py.File(tmp_path / path.name) as made:
            name, = kept["Experiments"]
            assert np.array_equal(kept[f"Experiments/{name}/data"][()], made[f"Experiments/{name}/data"][()])


def test_small_files(pair):
    assert sum(path.stat().st_size for path in pair) < 150_000


def test_bins_are_sums(pair):
    replay, truth = ReplaySet(pair[0], survey=pair[1], bin=4), particles_on_carbon(2026)
    direct = truth.counts.reshape(6, 4, 5, 4, 80).sum(axis=(1, 3), dtype=np.uint64)
    assert np.array_equal(replay.frames(np.arange(30)).reshape(6, 5, 80), direct)
    assert np.array_equal(replay.survey(), truth.dark_field.reshape(6, 4, 5, 4).sum(axis=(1, 3)))
    assert replay.dtype == np.dtype("<u4")
    assert replay.field.step[0] == pytest.approx(4e-9)
    assert replay.field.origin[0] == pytest.approx(1.5e-9)


def test_binned_measured_set(data_root):
    replay = ReplaySet(data_root / "replay/L2083-K-4-1_EDS_HAADF/L2083_tilt_0.bcf", bin=4)
    assert (replay.field.shape, replay.dtype.name, replay.survey_title) == ((64, 64), "uint16", "HAADF")
    assert replay.frames(np.arange(0, 4096, 16)).sum(axis=1).mean() == pytest.approx(13.5 * 16, rel=0.1)


def test_total_counts_as_survey(data_root):
    replay = ReplaySet(data_root / "replay/core_shell_EDS/core_shell.hspy", survey_signal="total")
    assert replay.survey().mean() == pytest.approx(216, abs=0.5)
    energy = replay.axes[0].values() / 1.602176634e-16
    platinum = replay.frames(np.arange(4096))[:, (energy >= 9.2) & (energy <= 9.7)].sum(axis=1)
    assert platinum.mean() == pytest.approx(3.1, abs=0.1)


@pytest.mark.parametrize(("dtype", "count", "expected"), [("u1", 16, "<u2"), ("u1", 257, "<u4"), ("<u2", 16, "<u4"),
                                                          ("<i2", 4, "<i4"), ("<u4", 16, "<u8"), ("<f4", 16, "<f4"),
                                                          ("u1", 1, "u1")])
def test_sums_fit_their_type(dtype, count, expected):
    assert _sum_dtype(np.dtype(dtype), count) == np.dtype(expected)


def test_errors_say_what_to_do(pair, data_root):
    with pytest.raises(VendorFileError, match="survey_signal: total"):
        ReplaySet(pair[0])
    with pytest.raises(VendorFileError, match=r"shape \(50, 40\), the scan has \(24, 20\)"):
        ReplaySet(pair[0], survey=data_root / "replay/CuZn_EELS_HAADF/CuZn_HAADF.hspy")
    with pytest.raises(VendorFileError, match="cannot be binned by 7"):
        ReplaySet(pair[0], survey=pair[1], bin=7)
    with pytest.raises(VendorFileError, match="no signal 'EDS'"):
        ReplaySet(pair[0], signal="EDS", survey=pair[1])
    with pytest.raises(VendorFileError, match="does not exist"):
        ReplaySet(pair[0], survey="nowhere.hspy")
