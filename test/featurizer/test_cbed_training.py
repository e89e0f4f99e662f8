"""Training of the nanobeam network: settings, that it learns, that it is the same again, and what it writes."""

from __future__ import annotations

import json
import os
import signal
import uuid
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from nanobeam_patterns import generator
from scipy.stats import multivariate_normal

from edgetem_nodes.archive.contents import AcquisitionFacts
from edgetem_nodes.archive.writer import ArchiveWriter
from edgetem_nodes.compressor.codec import Codec
from edgetem_nodes.featurizer.cbed.lattice_solution import posterior, solve
from edgetem_nodes.featurizer.cbed.nanobeam import NanobeamNetwork
from edgetem_nodes.featurizer.cbed.networks import DiskNetwork
from edgetem_nodes.featurizer.cbed.posterior import moments
from edgetem_nodes.featurizer.cbed.training import disks
from edgetem_nodes.featurizer.cbed.training.calibration import error_scale, temperature
from edgetem_nodes.featurizer.cbed.training.curves import smoothed
from edgetem_nodes.featurizer.cbed.training.experiment import conditions_of
from edgetem_nodes.featurizer.cbed.training.registry import EndedTooSoon, TrainingError, TrainingRun, recipe
from edgetem_nodes.featurizer.cbed.training.run import run_training
from edgetem_nodes.featurizer.cbed.training.settings import NanobeamTraining, network_of, read_settings
from edgetem_nodes.featurizer.cbed.weights import read_weights
from edgetem_nodes.graph.configuration import ConfigurationError
from edgetem_nodes.physics.scan import Axis

SHIPPED = Path(__file__).parents[2] / "config" / "train_nanobeam.yaml"
TINY = {"workers": 1, "disk.patterns": 256, "disk.epochs": 2, "disk.batch": 64, "disk.width": 32, "pattern.patterns": 256,
        "pattern.epochs": 2, "pattern.batch": 32, "pattern.members": 1, "refining.epochs": 2, "refining.batch": 64,
        "refining.width": 32, "calibration_patterns": 256}


def test_shipped_configuration_equals_the_defaults():
    assert read_settings(SHIPPED, NanobeamTraining) == NanobeamTraining()
    assert network_of(SHIPPED) == "nanobeam"


@pytest.mark.parametrize(("text", "message"), [
    ("network: nanobeam\ndisk:\n  epoch: 3\n", r"c.yaml:3: 'disk.epoch' is no setting.*did you mean 'disk.epochs'\?"),
    ("seed: 1\nseed: 2\n", "c.yaml:2: 'seed' is given twice"),
    ("pattern:\n  members: 0\n", "c.yaml:2: pattern.members: 0 is below"),
    ("disk:\n  rate: fast\n", "c.yaml:2: disk.rate: 'fast' is not of type float"),
    ("- 1\n", "c.yaml:1: a configuration is a mapping"), ("a: [\n", "is not YAML")])
def test_wrong_settings_are_named_with_their_line(tmp_path, text, message):
    file = tmp_path / "c.yaml"
    file.write_text(text)
    with pytest.raises(ConfigurationError, match=message):
        read_settings(file, NanobeamTraining)


def test_unknown_networks_and_devices(tmp_path):
    file = tmp_path / "c.yaml"
    file.write_text("network: nanobean\n")
    with pytest.raises(ConfigurationError, match="did you mean 'nanobeam'"):
        recipe(network_of(file))
    with pytest.raises(TrainingError, match="--device 'tpu'"):
        run_training(SHIPPED, tmp_path / "out", device="tpu")
    with pytest.raises(TrainingError, match="conditions.electrons"):
        recipe("nanobeam").train(replace(NanobeamTraining(), materials=["MoS2"], conditions=replace(
            NanobeamTraining().conditions, electrons=[5.0, 1.0])), TrainingRun())


def test_a_few_steps_lower_the_loss():
    data = disks.draw_disks(generator("MoS2", 1e5), 192, 2, 0)
    torch.manual_seed(0)
    network = DiskNetwork(32)
    losses = list(map(float, disks.epochs(network, data, 8, 64, 5e-3, torch.Generator().manual_seed(0))))
    assert np.mean(losses[-6:]) < np.mean(losses[:6]) - 3.0


def test_solution_in_use_is_that_of_training():
    """The same Gaussian product in torch and in numba."""
    rng = np.random.default_rng(1)
    index = rng.integers(-3, 4, (9, 2))
    offset, lower = 0.2 * rng.standard_normal((9, 2)), np.abs(rng.standard_normal((9, 3))) * 10
    design = np.concatenate([np.ones((9, 1)), index / 3.0], axis=1)
    information, right = posterior(*(torch.tensor(value[None]) for value in (design, offset, lower)), torch.ones(1, 9).double(),
                                   4.0)
    mean = torch.linalg.solve(information, right)
    change, covariance = np.zeros(6), np.zeros((6, 6))
    solve(index, 9, offset, lower, 4.0, change, covariance)
    np.testing.assert_allclose(change, mean[0].numpy(), rtol=1e-9)
    np.testing.assert_allclose(covariance, np.linalg.inv(information[0].numpy()), rtol=1e-9)
    # the loss is the negative log density, relative to the prior's, of which 6 / 2 log(prior) is kept
    true = 0.1 * rng.standard_normal(6)
    value = disks.loss((torch.tensor(offset[None]), torch.tensor(lower[None])), torch.tensor(index[None]), torch.ones(1, 9),
                       torch.tensor(true[None]), 4.0)
    density = multivariate_normal(change, covariance).logpdf(true)
    np.testing.assert_allclose(float(value[0]), -density - 3 * np.log(2 * np.pi) + 3 * np.log(4.0), rtol=1e-9)


def test_calibration_of_errors():
    rng = np.random.default_rng(2)
    assert error_scale(rng.standard_normal(200_000) * 1.7, np.ones(200_000)) == pytest.approx(1.7, rel=0.01)
    label = rng.integers(0, 4, 4000)
    right = rng.random(4000) < 0.8
    logits = 12.0 * np.eye(4)[np.where(right, label, (label + 1) % 4)]
    # at temperature T the stated probability is 1 / (1 + 3 exp(-12 / T)) = 0.8 for T = 12 / log(12); the grid ends below that
    assert temperature(logits[None], label) == pytest.approx(2.5)


def test_mixtures_with_two_peaks_are_seen():
    def component(weight: float, place: float) -> list[float]:
        return [np.log(weight), place, 0, 0, np.log(0.1), 0, 0]

    one = moments(np.array([[[component(0.5, 0.0), component(0.3, 0.05), component(0.2, -0.05)]]]))
    two = moments(np.array([[[component(0.5, 0.0), component(0.5, 1.0), component(1e-9, 0)]]]))
    assert one.between[0, 0] < 1 < two.between[0, 0]
    np.testing.assert_allclose(two.mean[0, 0], 0.5, atol=1e-6)
    np.testing.assert_allclose(two.covariance[0, 0, 0], 0.25 + 0.01, rtol=1e-6)


def test_camera_and_dose_of_an_experiment(tmp_path):
    frames = np.random.default_rng(3).poisson(2.0, (20, 96, 96)).astype(np.uint16)
    axes = tuple(Axis(name, "rad", 1e-3, -48e-3, 96) for name in ("ky", "kx"))
    with ArchiveWriter(tmp_path / "archive.h5", Codec(), reserve=0) as archive:
        writer = archive.begin(AcquisitionFacts(uuid.uuid4(), "camera", 20, 1e-3, 1e-3))
        writer.append(0, frames, np.zeros((20, 2)), axes, 0)
        writer.finish("complete", requested=20, sent=20)
    adapted = conditions_of(str(tmp_path / "archive.h5"), NanobeamTraining().conditions)
    assert adapted.pixels == [96] and adapted.high_tensions_kV == NanobeamTraining().conditions.high_tensions_kV
    low, high = adapted.electrons
    assert low == pytest.approx(2 * 96**2 / 3, rel=0.03) and high == pytest.approx(2 * 96**2 * 3, rel=0.03)
    with pytest.raises(TrainingError, match="there is no archive"):
        conditions_of(str(tmp_path / "none.h5"), NanobeamTraining().conditions)


def test_running_mean():
    np.testing.assert_allclose(smoothed([1.0, 3.0, 5.0, 7.0], 2), [1.0, 2.0, 4.0, 6.0])


def interrupting(stage):
    """A report that sends the signal of Ctrl-C at the first word of a stage."""
    done = []

    def report(name, *_):
        if name == stage and not done:
            done.append(name)
            os.kill(os.getpid(), signal.SIGINT)

    return report


ONE = {**TINY, "materials": ["graphene"], "others": ["h-BN"]}


@pytest.mark.parametrize("stage", ["rocking curves", "patterns for disks", "disk network"])
def test_ended_before_anything_is_of_use_nothing_is_written(tmp_path, stage):
    with pytest.raises(EndedTooSoon, match="(disk|refining) network was ended at"):
        run_training(SHIPPED, tmp_path / "new" / "out", device="cpu", quick=True, changed=ONE, report=interrupting(stage))
    assert not (tmp_path / "new").exists()


@pytest.mark.slow
def test_ended_late_the_weights_say_so(tmp_path):
    run_training(SHIPPED, tmp_path / "out", device="cpu", changed=ONE, quick=True, report=interrupting("calibration"))
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"weights.npz", "model_card.md", "model_card.json",
                                                                    "curves.png", "curves.csv"}
    weights = read_weights(tmp_path / "out" / "weights.npz", "nanobeam")
    assert "ended early by hand" in weights.caveats and any("quick" in one for one in weights.caveats)
    assert "ended early by hand" in (tmp_path / "out" / "model_card.md").read_text()


def test_half_of_the_first_stage_is_needed():
    run = TrainingRun(stopped=lambda: True)
    with pytest.raises(EndedTooSoon, match="disk network was ended at 49 %"):
        run.needs("disk network", 0.49)
    run.needs("disk network", 1.0)
    assert not run.caveats
    run.needs("disk network", 0.6)
    assert run.caveats == ["the disk network was ended by hand at 60 %"]
    TrainingRun(stopped=lambda: True, initial=({}, {})).needs("disk network", 0.1)
    TrainingRun().needs("disk network", 0.1)


@pytest.mark.parametrize("stage", ["disk", "refining"])
def test_a_network_that_is_left_as_it_begins_needs_weights_before_anything_is_done(tmp_path, stage):
    said = []
    with pytest.raises(TrainingError, match=rf"{stage}.epochs 0 leaves a network as it begins"):
        run_training(SHIPPED, tmp_path / "out", device="cpu", quick=True, changed={f"{stage}.epochs": 0},
                     report=lambda *one: said.append(one))
    assert not said and not (tmp_path / "out").exists()


def test_where_nothing_can_be_written_no_training_begins(tmp_path):
    said = []
    (tmp_path / "file").write_text("")
    for folder in (tmp_path / "file" / "below", Path("/proc/trained")):
        with pytest.raises(TrainingError, match="cannot be written to"):
            run_training(SHIPPED, folder, device="cpu", quick=True, report=lambda *one: said.append(one))
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "weights.npz").write_bytes(b"earlier")
    with pytest.raises(TrainingError, match="weights.npz exists.*--overwrite"):
        run_training(SHIPPED, tmp_path / "out", device="cpu", quick=True, report=lambda *one: said.append(one))
    assert not said and (tmp_path / "out" / "weights.npz").read_bytes() == b"earlier"


@pytest.mark.slow
def test_training_is_reproduced_to_the_bit_and_written(tmp_path):
    runs = []
    for name in ("first", "second"):
        seen = []
        digest, trained = run_training(SHIPPED, tmp_path / name, device="cpu", quick=True, changed=TINY,
                                       report=lambda stage, *_, seen=seen: seen.append(stage))
        runs.append((digest, {key: value for key, value in trained.curves.items()}))
    assert runs[0] == runs[1]
    assert list(dict.fromkeys(seen)) == ["rocking curves", "patterns for disks", "disk network", "patterns for the rest",
                                         "refining network", "pattern network 1", "calibration"]
    card = json.loads((tmp_path / "first" / "model_card.json").read_text())
    assert card["weights_sha256"] == runs[0][0] and card["seed"] == 0
    assert card["materials"] == ["graphene", "h-BN", "MoS2", "WS2"]
    assert runs[0][0] in (tmp_path / "first" / "model_card.md").read_text()
    assert (tmp_path / "first" / "curves.png").stat().st_size > 5000
    network = NanobeamNetwork.load(tmp_path / "first" / "weights.npz")
    assert network.phases.names == ("graphene", "h-BN", "MoS2", "WS2")
    other, _ = run_training(SHIPPED, tmp_path / "third", device="cpu", quick=True, changed=TINY, seed=1)
    assert other != runs[0][0]
    tuned, after = run_training(SHIPPED, tmp_path / "tuned", device="cpu", quick=True, changed=TINY,
                                initial=tmp_path / "first" / "weights.npz")
    assert tuned != runs[0][0] and f"begun with weights {runs[0][0]}" in after.card["notes"]
    begun = {name: values[0] for name, values in after.curves.items()}
    assert begun["disk network: loss"] < runs[0][1]["disk network: loss"][0]
    with pytest.raises(TrainingError, match="do not fit its network"):
        run_training(SHIPPED, tmp_path / "wide", device="cpu", quick=True, changed={**TINY, "disk.width": 64},
                     initial=tmp_path / "first" / "weights.npz")
