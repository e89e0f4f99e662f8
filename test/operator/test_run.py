"""`edgetem run` leaves a complete folder behind, and the planner never sees a pixel that it did not ask for."""

import json
import shutil
from html.parser import HTMLParser

import h5py
import jsonschema
import numpy as np
import pytest
from command_line import SYNTHETIC
from PIL import Image
from rosbags.highlevel import AnyReader

from edgetem_nodes.archive.reader import Archive
from edgetem_nodes.operator.outcome import read_outcome
from edgetem_nodes.operator.summary import SCHEMA_FILE

POINTS, CANDIDATES = 48, 480


def test_summary_fits_its_schema_and_the_plan(finished):
    summary = json.loads((finished / "summary.json").read_text())
    jsonschema.validate(summary, json.loads(SCHEMA_FILE.read_text()))
    assert summary["counts"]["points"] == POINTS
    assert summary["counts"]["candidates"] == CANDIDATES
    assert summary["stop_reason"] == "point_budget"
    assert summary["exit_code"] == 0
    assert summary["latency"]["decision_to_first_block_ms"]["count"] == 5


def test_the_archive_holds_exactly_the_measured_file_s_spectra(finished):
    outcome = read_outcome(finished)
    with h5py.File(SYNTHETIC.parent / "synthetic_eels.hspy") as file:
        cube = next(item["data"][:] for item in file["Experiments"].values())
    columns = outcome.scan_field.shape[1]
    with Archive.open(finished) as archive:
        for row in outcome.rows:
            measured = archive.frame(row.acquisition_id, row.index)
            np.testing.assert_array_equal(measured, cube[divmod(row.candidate, columns)])


def test_the_bag_is_read_by_rosbags_and_refers_to_the_archive(finished):
    with AnyReader([finished / "bag"]) as reader, Archive.open(finished) as archive:
        topics = {connection.topic for connection in reader.connections}
        assert {"/decision", "/measurements", "/experiment_map", "/experiment", "/overview", "/probe_path", "/archived_block",
                "/credit", "/microscope_state", "/acquisition_end", "/diagnostics"} <= topics
        assert "/detector_block" not in topics
        frames = 0
        for connection, _, data in reader.messages():
            if connection.topic == "/archived_block":
                reference = reader.deserialize(data, connection.msgtype)
                archive.verify(reference)
                frames += reference.count
    assert frames == POINTS


def test_the_report_shows_pictures_that_open(finished):
    images = []

    class Images(HTMLParser):
        def handle_starttag(self, tag, attributes):
            if tag == "img":
                images.append(dict(attributes))

    text = (finished / "report.html").read_text()
    Images().feed(text)
    names = {image["alt"] for image in images}
    assert {"survey.png", "samples.png", "map.png", "uncertainty.png", "learning_curve_map.png", "point_largest.png"} <= names
    for image in images:
        assert image["src"].startswith("data:image/png;base64,")
        with Image.open(finished / "pictures" / image["alt"]) as picture:
            pixels = np.asarray(picture.convert("L"))
        assert pixels.std() > 5, f"{image['alt']} is blank"
    assert "e/Å²" in text


def test_a_replay_makes_every_decision_again(edgetem, finished):
    command = edgetem("replay", finished)
    assert command.finish() == 0, command.output
    assert "all 6 decisions are the same" in command.output


def test_altering_every_pixel_that_was_not_asked_for_changes_no_decision(edgetem, finished, tmp_path):
    first = read_outcome(finished)
    for name in ("synthetic_eels.hspy", "synthetic_haadf.hspy", "synthetic.yaml"):
        shutil.copy(SYNTHETIC.parent / name, tmp_path)
    asked = np.zeros(first.scan_field.shape, bool)
    asked.ravel()[[row.candidate for row in first.rows]] = True
    with h5py.File(tmp_path / "synthetic_eels.hspy", "r+") as file:
        data = next(item["data"] for item in file["Experiments"].values())
        cube = data[:]
        cube[~asked] = cube[~asked][:, ::-1] // 2 + 7
        data[...] = cube
    command = edgetem("run", tmp_path / "synthetic.yaml", "--output", tmp_path / "run")
    assert command.finish() == 0, command.output
    second = read_outcome(tmp_path / "run")
    assert len(first.decisions) == len(second.decisions)
    for one, other in zip(first.decisions, second.decisions, strict=True):
        for name in ("index", "action", "candidates", "positions", "acquisition_values", "reason", "input_hash", "model",
                     "generator_state", "points", "dose", "stop_reason", "best_value", "mean_standard_deviation"):
            np.testing.assert_array_equal(getattr(one, name), getattr(other, name), err_msg=name)
    full = [json.loads((folder / "comparison.json").read_text())["correlation"] for folder in (finished, tmp_path / "run")]
    assert full[0] != full[1], "the report reads the full map, and must have seen the change"


@pytest.mark.slow
def test_seeds_are_judged_by_their_median(edgetem, tmp_path):
    command = edgetem("run", SYNTHETIC, "--seeds", "3", "--output", tmp_path / "runs")
    assert command.finish() == 0, command.output
    result = json.loads((tmp_path / "runs" / "seeds.json").read_text())
    assert [run["seed"] for run in result["runs"]] == [0, 1, 2]
    for quantity in ("found", "correlation", "error"):
        for who, value in result["median"][quantity].items():
            assert value == sorted(run[quantity][who] for run in result["runs"])[1]


@pytest.mark.slow
def test_the_default_experiment_maps_the_true_strain_and_computes_energies(edgetem, tmp_path):
    from edgetem_nodes.microscope.drivers import initial_exposure, make_driver
    from edgetem_nodes.operator.experiment import SCHEMAS
    command = edgetem("run", "default", "--output", tmp_path / "run")
    assert command.finish() == 0, command.output
    outcome = read_outcome(tmp_path / "run")
    instrument = outcome.configuration.parameters("microscope", SCHEMAS["microscope"]).instrument
    driver = make_driver(instrument, outcome.configuration.nodes["microscope"]["seed"])
    _, truth = driver.truth("dilation", initial_exposure(driver, 0.0, 0.0, 0))
    driver.close()
    mean = np.asarray(outcome.last_map.mean).reshape(truth.shape)
    assert np.corrcoef(mean.ravel(), 100 * truth.ravel())[0, 1] > 0.9
    good = [energy for energy in outcome.energies if energy.error_code == 0]
    assert good
    assert all(energy.excess_energy > 0 for energy in good)


@pytest.mark.slow
def test_nodes_that_share_a_process_decide_alike(edgetem, finished, tmp_path):
    command = edgetem("run", SYNTHETIC, "--output", tmp_path / "run", "--set",
                      "operator.together=[compressor, featurizer, detector]")
    assert command.finish() == 0, command.output
    rows = [[(row.candidate, row.value) for row in read_outcome(folder).rows] for folder in (tmp_path / "run", finished)]
    assert rows[0] == rows[1]
