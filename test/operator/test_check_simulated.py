"""A simulated experiment is judged before it starts: by its settings, not by computing patterns."""

import time

import pytest
import yaml
from typer.testing import CliRunner

from edgetem_nodes.operator.cli import app


@pytest.fixture
def check(tmp_path):
    """Run `edgetem check` on a simulated experiment with some settings of the instrument, the microscope and the planner."""
    def run(microscope=None, planner=None, featurizer=None, **instrument):
        simulated = {"rows": 16, "columns": 16, "field_nm": 8.0, **instrument.pop("simulated", {})}
        content = {"/**": {"ros__parameters": {"instrument": {"high_tension_kV": 200.0, "semi_convergence_mrad": 10.0,
                                                              "simulated": simulated, **instrument}}},
                   "microscope": {"ros__parameters": microscope or {}},
                   "planner": {"ros__parameters": planner or {}},
                   "featurizer": {"ros__parameters": {"scalarizer": "virtual_detector", **(featurizer or {})}}}
        path = tmp_path / "simulated.yaml"
        path.write_text(yaml.safe_dump(content))
        return CliRunner().invoke(app, ["check", str(path)])
    return run


def refused(result, *words):
    assert result.exit_code == 2, result.output
    for word in words:
        assert word in " ".join(result.output.split()), result.output


def test_a_thick_crystal_is_checked_without_computing_it(check):
    from edgetem_nodes.physics import diffraction  # noqa: F401  (what is loaded does not count)
    start = time.process_time()
    result = check(simulated={"specimen": "SrTiO3", "camera": "integrating", "rows": 64, "columns": 64, "field_nm": 40.0,
                              "instabilities": {"drift_nm_per_min": 1.0}, "damage": {"contamination": True}}, dwell_ms=10.0)
    assert time.process_time() - start < 3.0
    assert result.exit_code == 0, result.output
    line = next(line for line in result.output.splitlines() if line.startswith("simulated"))
    assert line.split(maxsplit=1)[1] == ("SrTiO3 20 nm, pixelated camera integrating, multislice with 8 phonon "
                                         "configurations; switched on: drift 1 nm/min, contamination")


def test_a_dwell_time_shorter_than_a_frame(check):
    refused(check(simulated={"camera": "integrating"}, dwell_ms=0.01), "dwell time 0.01 ms is shorter than a frame",
            "instrument.dwell_ms", "instrument.simulated.camera", "counter_bits")


def test_drift_tracking_in_a_field_too_small(check):
    refused(check({"drift_tracking": {"every_points": 5}}, simulated={"rows": 12, "columns": 12}),
            "field 12 x 12 is too small to track drift: 16 x 16 at least")


@pytest.mark.parametrize(("settings", "words"), [
    ({"specimen": "SrTiO3", "structure": {"file": "some.cif"}}, ["structure.file", "no effect", "'SrTiO3'"]),
    ({"specimen": "file"}, ["structure.file is empty"]),
    ({"specimen": "SrTiO3", "structure": {"dopant": "Nb", "dopant_percent": 1.0}}, ["'Nb'", "MoS2 and graphene"]),
    ({"specimen": "MoS2", "structure": {"dopant": "V"}}, ["'V'", "dopant_percent 0"]),
    ({"specimen": "MoS2", "structure": {"dopant_percent": 1.0}}, ["dopant_percent 1", "without a dopant"]),
])
def test_settings_that_would_do_nothing(check, settings, words):
    refused(check(simulated=settings), *words)


def test_a_beam_without_electrons(check):
    refused(check(probe_current_pA=0.0), "instrument.probe_current_pA 0", "above 0 pA")


def test_what_is_free_besides_the_position_is_shown_and_paid_for(check):
    plain = check(planner={"point_budget": 100})
    free = check(planner={"point_budget": 100, "actions": {"dwell_ms": [1.0, 8.0], "defocus_nm": [0.0, 10.0]}})
    assert free.exit_code == 0, free.output
    assert "settings       4: dwell time 1 ms" in free.output

    def seconds(result):
        line = next(line for line in result.output.splitlines() if line.startswith("cost"))
        return float(line.split(" s of beam time")[0].split()[-1])
    assert seconds(free) == pytest.approx(seconds(plain) + 100 * 6e-3, abs=0.011), "8 ms in place of 2 ms, printed to 10 ms"


@pytest.mark.parametrize(("actions", "words"), [
    ({"alpha_mrad": [0.0, 1500.0]}, ["alpha 1.5", "outside the range of the stage"]),
    ({"dwell_ms": [1.0, 2e4]}, ["dwell time 20000 ms is outside instrument.limits"]),
    ({"defocus_nm": [5.0, 5.0]}, ["repeats a value"]),
    ({"dwell_ms": [float(n) for n in range(1, 100)]}, ["99 settings, at most 64"])])
def test_settings_that_the_column_cannot_do(check, actions, words):
    refused(check(planner={"actions": actions}), "actions", *words)


def test_a_camera_length_at_which_the_scalarizer_finds_nothing(check):
    """A pixel's angle is as many times smaller as the camera length is larger: at 20 times, the ring is off the camera."""
    ring = {"virtual_detector": {"inner_mrad": 15.0, "outer_mrad": 30.0}}
    assert check(featurizer=ring).exit_code == 0
    refused(check(featurizer=ring, planner={"actions": {"camera_length_mm": [100.0, 2000.0]}}, semi_convergence_mrad=0.5),
            "planner.actions: the setting 'camera length 2000 mm' is not possible", "no pixel lies between 15 and 30 mrad")


def test_a_position_that_may_not_even_receive_the_initial_scan(check):
    """100 pA for 8 ms are 5e6 electrons, for 1 ms 6.2e5."""
    limit = {"position_dose_limit": 2e6}
    assert check(planner={**limit, "actions": {"dwell_ms": [1.0, 8.0]}}, probe_current_pA=100.0).exit_code == 0
    refused(check(planner={**limit, "actions": {"dwell_ms": [8.0, 1.0]}}, probe_current_pA=100.0),
            "planner.position_dose_limit 2e+06", "which the initial scan is measured with")


def test_a_field_of_very_many_positions_is_said_to_take_long(check):
    result = check(simulated={"rows": 512, "columns": 512, "field_nm": 8.0})
    assert result.exit_code == 0, result.output
    assert "will take long: the model predicts 262144 positions" in " ".join(result.output.split())
    assert "will take long" not in check().output


def test_measured_data_has_no_settings_but_its_own():
    from command_line import SYNTHETIC
    result = CliRunner().invoke(app, ["check", str(SYNTHETIC), "--set", "planner.actions.camera_length_mm=[100.0]"])
    refused(result, "'camera length 100 mm' is not possible", "was measured as it was")


def test_weights_that_are_not_to_be_trusted_are_said(check, tmp_path):
    """Those of a quick training work, and are of no use; broken ones are refused by name."""
    from edgetem_nodes.featurizer.cbed.weights import SHIPPED, read_weights, write_weights

    shipped = read_weights(SHIPPED, "nanobeam")
    write_weights(tmp_path / "w.npz", shipped.arrays, {**shipped.settings, "caveats": ["quick: of no other use"]})
    beam = {"semi_convergence_mrad": 2.0, "high_tension_kV": 80.0}
    result = check(featurizer={"scalarizer": "cbed", "cbed": {"weights": str(tmp_path / "w.npz")}}, **beam)
    assert result.exit_code == 0, result.output
    (line,) = [line for line in result.output.splitlines() if line.startswith("WARNING")]
    assert "w.npz are not for measurements: quick: of no other use" in line
    settings = dict(shipped.settings)
    settings.pop("phases")
    write_weights(tmp_path / "w.npz", shipped.arrays, settings)
    refused(check(featurizer={"scalarizer": "cbed", "cbed": {"weights": str(tmp_path / "w.npz")}}, **beam), "w.npz",
            "name no phases")
