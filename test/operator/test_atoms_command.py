"""`edgetem atoms` and `edgetem train atoms` as a person calls them."""

import csv
import json

import h5py
import numpy as np
import pytest
import yaml
from typer.testing import CliRunner

from edgetem_nodes.featurizer.atoms.drawing import ImageRanges, draw
from edgetem_nodes.operator.cli import app

QUIET = ImageRanges(pixel_size=(20e-12, 20e-12), probe_sigma=(45e-12, 45e-12), peak_counts=(80.0, 80.001), damaged=0.0,
                    background=(0.1, 0.2), contamination=(0.0, 0.0), jitter=(0.0, 0.1), defects=(0.01, 0.02))


@pytest.fixture(scope="module")
def image():
    return draw(np.random.default_rng(2), (160, 160), QUIET, crystal=2).image


def invoke(*arguments):
    return CliRunner().invoke(app, [str(a) for a in arguments])


def test_writes_picture_table_and_structure(image, tmp_path):
    import ase.io

    np.save(tmp_path / "sheet.npy", image)
    result = invoke("atoms", tmp_path / "sheet.npy", "--pixel-size", 20, "--material", "MoS2", "--output", tmp_path / "out")
    assert result.exit_code == 0, result.output
    assert "sublattice 0" in result.output and "pm" in result.output
    summary = json.loads((tmp_path / "out" / "atoms.json").read_text())
    rows = list(csv.DictReader((tmp_path / "out" / "atoms.csv").read_text().splitlines()))
    assert len(rows) == summary["columns_found"] + summary["sites_looked_at"]
    assert summary["lattice"]["affine_distortion"]["of"] == "hexagonal"
    assert {"Mo", "S"} <= set(ase.io.read(tmp_path / "out" / "atoms.extxyz").symbols)
    assert (tmp_path / "out" / "atoms.png").read_bytes()[:4] == b"\x89PNG"
    again = invoke("atoms", tmp_path / "sheet.npy", "--pixel-size", 20, "--output", tmp_path / "out")
    assert again.exit_code == 2 and "--overwrite" in again.output


def test_pixel_size_of_a_file_is_used(image, tmp_path):
    """A HyperSpy file, written as its format says, states its scale in nm."""
    with h5py.File(tmp_path / "sheet.hspy", "w") as file:
        file.attrs["file_format"], file.attrs["file_format_version"] = "HyperSpy", "3.1"
        group = file.create_group("Experiments/haadf")
        group["data"] = image
        for number, name in enumerate("yx"):
            axis = group.create_group(f"axis-{number}")
            axis.attrs.update({"_type": "UniformDataAxis", "name": name, "units": "nm", "scale": 0.02, "offset": 0.0,
                               "size": 160, "navigate": False, "is_binned": False})
        for empty in ("metadata/General", "metadata/Signal", "original_metadata", "learning_results"):
            group.create_group(empty)
        group["metadata/General"].attrs["title"] = "haadf"
        group["metadata/Signal"].attrs["signal_type"] = ""
    result = invoke("atoms", tmp_path / "sheet.hspy", "--output", tmp_path / "out")
    assert result.exit_code == 0, result.output
    assert json.loads((tmp_path / "out" / "atoms.json").read_text())["pixel_size_pm"] == pytest.approx(20.0)


@pytest.mark.parametrize("arguments, message", [
    (("no.npy",), "no.npy"), (("flat.npy",), "constant"), (("flat.npy", "--material", "cheese"), "not one of"),
    (("flat.npy", "--contrast", "grey"), "neither"), (("words.npy",), "words.npy"),
    (("flat.npy", "--lighter", "Unobt"), "no chemical symbol"), (("objects.npy",), "Python objects"),
    (("noise.npy", "--pixel-size", "20"), "no atomic columns"), (("sheet.npy", "--pixel-size", "20", "--material", "graphene"),
                                                                    "graphene has 246 pm")])
def test_what_cannot_be_used_is_said(arguments, message, tmp_path, image):
    np.save(tmp_path / "flat.npy", np.ones((64, 64)))
    np.save(tmp_path / "objects.npy", np.array([None, "a"], object), allow_pickle=True)
    np.save(tmp_path / "noise.npy", np.random.default_rng(5).poisson(5, (256, 256)))
    np.save(tmp_path / "sheet.npy", image)
    (tmp_path / "words.npy").write_text("no array")
    result = invoke("atoms", tmp_path / arguments[0], *arguments[1:], "--output", tmp_path / "out")
    assert result.exit_code == 2 and message in result.output and "allow_pickle" not in result.output
    # the path, which the terminal may wrap, is said once at most
    assert "".join(result.output.replace("│", "").split()).count(arguments[0]) <= 1
    assert not (tmp_path / "out").exists()


def test_training_by_command(tmp_path):
    settings = {"network": "atoms", "seed": 1, "training": {"steps": 2, "batch": 2, "edge": 32, "held_out": 1}}
    (tmp_path / "small.yaml").write_text(yaml.safe_dump(settings))
    result = invoke("train", "atoms", tmp_path / "small.yaml", "--output", tmp_path / "out", "--device", "cpu")
    assert result.exit_code == 0, result.output
    assert {p.name for p in (tmp_path / "out").iterdir()} == {"atoms.npz", "curves.json", "model_card.md"}
    (tmp_path / "other.yaml").write_text("network: nanobeam\n")
    wrong = invoke("train", "atoms", tmp_path / "other.yaml", "--output", tmp_path / "other")
    assert wrong.exit_code == 2 and "network: atoms" in wrong.output
    again = invoke("train", "atoms", tmp_path / "small.yaml", "--output", tmp_path / "out", "--device", "cpu")
    assert again.exit_code == 2 and "--overwrite" in again.output
    assert invoke("train", "atoms", tmp_path / "small.yaml", "--output", tmp_path / "out", "--device", "cpu",
                  "--overwrite").exit_code == 0
    (tmp_path / "file").write_text("")
    nowhere = invoke("train", "atoms", tmp_path / "small.yaml", "--output", tmp_path / "file" / "out")
    assert nowhere.exit_code == 2 and "cannot be written to" in nowhere.output


def test_an_ended_training_leaves_nothing(tmp_path, monkeypatch):
    def ended(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("edgetem_nodes.featurizer.atoms.training.train", ended)
    (tmp_path / "small.yaml").write_text("network: atoms\n")
    result = invoke("train", "atoms", tmp_path / "small.yaml", "--output", tmp_path / "new" / "out")
    assert result.exit_code == 130 and "nothing was written" in result.output and not (tmp_path / "new").exists()


def test_training_of_patterns_does_not_overwrite(tmp_path):
    (tmp_path / "weights.npz").write_bytes(b"earlier")
    result = invoke("train", "cbed", "train_nanobeam", "--quick", "--output", tmp_path)
    assert result.exit_code == 2 and "--overwrite" in result.output
    assert (tmp_path / "weights.npz").read_bytes() == b"earlier"
