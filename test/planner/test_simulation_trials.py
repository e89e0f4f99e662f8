"""What sampling strategies are judged by: dose, error, calibration, on a small field that is fully known."""

import math

import numpy as np
import pytest
from measured_maps import particles

from edgetem_nodes.operator.mapped_fields import FieldDefinition, MappedField
from edgetem_nodes.operator.sampling_trial import METHODS, dose_to_find, pooled, random_dose, settings, trial
from edgetem_nodes.physics.scan import ScanField
from edgetem_nodes.planner.parameters import Model
from edgetem_nodes.planner.calibration import REGIONS
from edgetem_nodes.planner.simulation import top_positions


@pytest.fixture(scope="module")
def field():
    survey, values, errors = particles(hidden=0.0)
    return MappedField("particles", FieldDefinition("none", True, True), ScanField((0.0, 0.0), (1e-9, 1e-9), values.shape),
                       survey, values, errors, values, "measured map", 0.0, 10.24, Model())


def test_dose_to_find_counts_every_position_and_the_survey():
    top = np.array([3, 5, 8, 13, 21, 34, 55, 89, 144, 233])
    # Nine of ten are needed: the ninth of them is the twelfth position measured.
    candidates = np.array([3, 5, 1, 8, 13, 2, 21, 34, 4, 55, 89, 144, 233])
    assert dose_to_find(candidates, top, 0.0) == 12.0
    assert dose_to_find(candidates, top, 40.96) == pytest.approx(52.96)
    assert dose_to_find(candidates[:11], top, 0.0) == math.inf


@pytest.mark.parametrize(("positions", "top"), [(1000, 20), (2000, 41)])
def test_random_dose_is_the_mean_over_random_orders(positions, top):
    generator = np.random.default_rng(0)
    doses = [dose_to_find(generator.permutation(positions), np.arange(top), 0.0) for _ in range(4000)]
    error = np.std(doses) / np.sqrt(len(doses))
    assert random_dose(positions, top) == pytest.approx(np.mean(doses), abs=4 * error)


def test_brightest_pays_for_the_survey_and_random_does_not(field):
    brightest, random = (trial(field, method, "discovery", 0) for method in ("brightest", "random"))
    order = np.argsort(-field.survey[0].ravel(), kind="stable")
    assert brightest["dose"] == pytest.approx(10.24 + dose_to_find(order, top_positions(field.truth), 0.0))
    assert random["dose"] == int(random["dose"])
    assert brightest["dose"] < 0.3 * random["dose"]


@pytest.mark.parametrize("method", ["random", "random_position_gp"])
def test_maps_are_compared_at_equal_dose(field, method):
    made = trial(field, method, "mapping", 0)
    survey = 10.24 if "mapping" in METHODS[method].survey else 0.0
    assert made["points"] == int(0.1 * field.values.size - survey)
    assert 0 < made["error"] < np.std(field.truth)


def test_calibration_is_judged_on_what_was_never_offered(field):
    made = trial(field, "random", "mapping", 0)
    counts = {region: found["count"] for region, found in made["calibration"].items()}
    assert counts["all"] == 102 == sum(counts[region] for region in REGIONS)
    together = pooled([made, made], "all")
    assert together["coverage"] == pytest.approx(made["calibration"]["all"]["coverage"])
    assert together["score"] > 0


def test_the_survey_helps_where_it_is_related(field):
    errors = {method: trial(field, method, "mapping", 0)["error"] for method in ("random", "random_position_gp")}
    assert errors["random"] < errors["random_position_gp"]


def test_an_unknown_method_is_refused(field):
    with pytest.raises(ValueError, match="there is no method 'brightest' for 'mapping'"):
        trial(field, "brightest", "mapping", 0)


def test_each_goal_has_its_own_acquisition_function():
    assert settings("discovery").acquisition_function == "expected_improvement"
    assert settings("mapping").acquisition_function != "expected_improvement"
