"""A simulated experiment is judged before it starts: by its settings, not by computing patterns."""

import time

import pytest
import yaml
from typer.testing import CliRunner

from edgetem_nodes.operator.cli import app


@pytest.fixture
def check(tmp_path):
    """Run `edgetem check` on a simulated experiment with some settings of the instrument and of the microscope."""
    def run(microscope=None, **instrument):
        simulated = {"rows": 16, "columns": 16, "field_nm": 8.0, **instrument.pop("simulated", {})}
        content = {"/**": {"ros__parameters": {"instrument": {"high_tension_kV": 200.0, "semi_convergence_mrad": 10.0,
                                                              "simulated": simulated, **instrument}}},
                   "microscope": {"ros__parameters": microscope or {}},
                   "featurizer": {"ros__parameters": {"scalarizer": "virtual_detector"}}}
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
