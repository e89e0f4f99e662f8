"""Files of weights that are broken, foreign, or not to be trusted."""

import io
import json
import shutil
import zipfile

import numpy as np
import pytest

from edgetem_nodes.featurizer.cbed.nanobeam import NanobeamNetwork
from edgetem_nodes.featurizer.cbed.training.run import run_training
from edgetem_nodes.featurizer.cbed.weights import SHIPPED, WeightsError, WeightsWarning, read_weights, write_weights
from edgetem_nodes.featurizer.parameters import Beam, Cbed, Parameters
from edgetem_nodes.featurizer.scalarizers import build
from edgetem_nodes.physics.scan import Axis

AXES = tuple(Axis(name, "rad", 1e-3, -32e-3, 64) for name in ("ky", "kx"))
CONFIGURATION = SHIPPED.parents[4] / "config" / "train_nanobeam.yaml"


@pytest.fixture(scope="module")
def shipped():
    return read_weights(SHIPPED, "nanobeam")


def test_the_shipped_ones_are_complete(shipped):
    assert shipped.caveats == () and NanobeamNetwork.load(SHIPPED).hash == shipped.hash


@pytest.mark.parametrize("place", [200, 5000, 0.5, 0.9])
def test_flipped_bytes_are_noticed(tmp_path, place):
    data = bytearray(SHIPPED.read_bytes())
    start = place if place > 1 else int(place * len(data))
    for number in range(start, start + 40):
        data[number] ^= 0xA5
    (tmp_path / "w.npz").write_bytes(data)
    with pytest.raises(WeightsError, match="w.npz is no file of weights"):
        NanobeamNetwork.load(tmp_path / "w.npz")


@pytest.mark.parametrize(("change", "message"), [
    (lambda arrays, settings: settings.pop("phases"), "name no phases"),
    (lambda arrays, settings: settings.update(members=10**9), "no number 'members'"),
    (lambda arrays, settings: settings.update(disk_width="wide"), "no number 'disk_width'"),
    (lambda arrays, settings: settings.update(members=0), "no pattern network"),
    (lambda arrays, settings: settings.update(pattern_widths=[96]), "'pattern_widths'"),
    (lambda arrays, settings: arrays.pop("calibration/chi_square_limit"), "lack 'calibration/chi_square_limit'"),
    (lambda arrays, settings: arrays.update({"phases/lattices": arrays["phases/lattices"][:3]}), r"shape \(3, 2, 2\)"),
    (lambda arrays, settings: arrays.update({"calibration/prior_spread": np.ones((2, 3))}), "prior_spread' of shape"),
    (lambda arrays, settings: arrays.update({"phases/spacings": np.array(["a"] * len(settings["phases"]))}), "no numbers"),
])
def test_what_is_missing_is_named_before_use_and_before_training(shipped, tmp_path, change, message):
    arrays, settings = dict(shipped.arrays), dict(shipped.settings)
    change(arrays, settings)
    write_weights(tmp_path / "w.npz", arrays, settings)
    with pytest.raises(WeightsError, match=message):
        NanobeamNetwork.load(tmp_path / "w.npz")
    with pytest.raises(WeightsError, match=message):
        run_training(CONFIGURATION, tmp_path / "out", device="cpu", initial=tmp_path / "w.npz")


def test_foreign_files_are_named(tmp_path):
    atoms = SHIPPED.parents[2] / "atoms" / "weights" / "atoms.npz"
    with pytest.raises(WeightsError, match="it has no settings"):
        read_weights(atoms, "nanobeam")
    np.save(tmp_path / "plain.npy", np.zeros(3))
    shutil.move(tmp_path / "plain.npy", tmp_path / "plain.npz")
    buffer = io.BytesIO()
    np.lib.format.write_array(buffer, np.array([{}], object), allow_pickle=True)
    with zipfile.ZipFile(tmp_path / "objects.npz", "w") as file:
        file.writestr("settings.npy", buffer.getvalue())
    np.savez(tmp_path / "list.npz", settings=np.array(json.dumps([1])))
    (tmp_path / "empty.npz").write_bytes(b"")
    for name, message in (("plain", "damaged or cut short"), ("objects", "Python objects, which are never loaded"),
                          ("list", "do not say of which network"), ("empty", "cut short")):
        with pytest.raises(WeightsError, match=message):
            read_weights(tmp_path / f"{name}.npz", "nanobeam")


def test_weights_of_a_quick_training_are_used_with_a_warning(shipped, tmp_path):
    write_weights(tmp_path / "w.npz", shipped.arrays, {**shipped.settings, "caveats": ["quick: of no other use"]})
    parameters = Parameters(scalarizer="cbed", instrument=Beam(80.0, 3.0), cbed=Cbed(weights=str(tmp_path / "w.npz")))
    with pytest.warns(WeightsWarning, match="w.npz are not for measurements: quick: of no other use"):
        build(parameters, AXES)
