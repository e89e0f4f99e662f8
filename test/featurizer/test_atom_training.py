"""The network: that it learns, that the shipped weights are what the card says, and that foreign weights are refused."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

from edgetem_nodes.featurizer.atoms import network as networks
from edgetem_nodes.featurizer.atoms.drawing import ImageRanges
from edgetem_nodes.featurizer.atoms.peaks import local_maxima
from edgetem_nodes.featurizer.atoms.training import TrainingSettings, evaluate, label, ranges_of, train

torch.set_num_threads(1)
CONFIG = Path(__file__).resolve().parents[2] / "config" / "train_atoms.yaml"


@pytest.mark.slow
def test_training_lowers_the_loss_and_repeats(tmp_path):
    config = {"training": {"steps": 200, "batch": 6, "edge": 48, "held_out": 2, "learning_rate": 0.006},
              "images": {"pixel_size": [20e-12, 24e-12], "peak_counts": [100.0, 200.0], "damaged": 0.0, "defects": [0.0, 0.0],
                         "contamination": [0.0, 0.0], "background": [0.0, 0.0]}}
    losses = []
    path = train(config, tmp_path / "a", 3, progress=lambda step, steps, loss: losses.append(loss))
    assert path == tmp_path / "a" / "atoms.npz" and losses[-1] < 0.93 * losses[0]
    config["training"]["steps"] = 3
    first, second = (train(config, tmp_path / name, 3) for name in "bc")
    assert networks.weights_hash(first) == networks.weights_hash(second)
    assert networks.weights_hash(path) in (tmp_path / "a" / "model_card.md").read_text()
    assert set(json.loads((tmp_path / "a" / "curves.json").read_text())) == {"loss_every_50_steps", "held_out"}


def test_shipped_weights_are_those_of_the_card():
    card = (networks.WEIGHTS.parent / "model_card.md").read_text()
    assert networks.weights_hash() in card
    assert networks.WEIGHTS.stat().st_size < 500_000
    count = sum(p.numel() for p in networks.shipped_network().parameters())
    assert f"{count} parameters" in card and count < 100_000


def test_shipped_configuration_is_that_of_the_card():
    config = yaml.safe_load(CONFIG.read_text())
    assert config["network"] == "atoms"
    assert TrainingSettings.of(config["training"]) == TrainingSettings() and ranges_of(config["images"]) == ImageRanges()


def test_shipped_network_on_new_images():
    """Precision and recall of the map by itself on images that it was not trained on (the card's seed is another)."""
    figures = evaluate(networks.shipped_network(), 24, np.random.default_rng(99), ImageRanges())
    assert figures["precision"] > 0.88 and figures["recall"] > 0.85
    assert figures["median_distance_pixels"] < 0.7


def test_turned_images_give_turned_maps():
    from edgetem_nodes.featurizer.atoms.drawing import draw

    drawn = draw(np.random.default_rng(11), (96, 96), ImageRanges(peak_counts=(100.0, 101.0), damaged=0.0), crystal=4)
    network = networks.shipped_network()
    upright, _ = local_maxima(networks.column_map(network, drawn.image))
    turned, _ = local_maxima(networks.column_map(network, np.ascontiguousarray(drawn.image[::-1])))
    inner = upright[((upright > 10) & (upright < 86)).all(axis=1)]
    back = turned * [-1, 1] + [95, 0]
    assert (np.linalg.norm(inner[:, None] - back[None], axis=-1).min(axis=1) < 1).mean() > 0.97


def test_labels_mark_columns():
    from edgetem_nodes.featurizer.atoms.drawing import draw

    drawn = draw(np.random.default_rng(12), (64, 64), crystal=2)
    heat = label(drawn)
    assert heat.max() <= 1 and heat.dtype == np.float32
    index = np.rint(drawn.positions).astype(int)
    assert heat[index[:, 0], index[:, 1]].min() > 0.8


def test_foreign_weights_are_refused(tmp_path):
    np.savez(tmp_path / "other.npz", a=np.ones(3))
    with pytest.raises(ValueError, match="no weights of a column network"):
        networks.load_weights(tmp_path / "other.npz")
    with pytest.raises(ValueError, match="no weights of a column network"):
        networks.load_weights(tmp_path / "nothing.npz")


@pytest.mark.parametrize("config, message", [({"training": {"stepz": 3}}, "stepz"),
                                             ({"training": {"edge": 33}}, "multiple of 4"),
                                             ({"training": {"steps": 0}}, "positive"), ({"images": {"colour": 1}}, "colour")])
def test_wrong_configurations_are_refused(config, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        train(config, tmp_path, 0)
