"""A microscope whose specimen drifts: reference images are taken when due, counted, and later positions are corrected."""

import numpy as np
import pytest
from spotted_specimen import SpottedSpecimen

from edgetem.srv import AcquireOverview, MoveStage
from edgetem_nodes.graph.column import exposure_of
from test_column_control import pose

NM_PER_MIN = 1e-9 / 60
DRIFT = (1.5 * NM_PER_MIN, -1.0 * NM_PER_MIN)
POINTS = np.random.default_rng(3).uniform(10e-9, 50e-9, (20, 2))


def tracked(bench, driver: SpottedSpecimen, **parameters: object):
    """A bench that tracks drift every 20 points, activated and surveyed."""
    lab = bench(driver=driver, **{"drift_tracking.every_points": 20, "drift_tracking.dwell_us": 100.0,
                                  "instrument.survey_dwell_us": 100.0, **parameters})
    lab.activate()
    assert lab.call(AcquireOverview, "acquire_overview").error_code == 0
    return lab


def visit(lab, number: int) -> None:
    """Twenty points of a second each."""
    assert lab.acquire(POINTS, number + 1, dwell=1.0).error_code == 0


def test_positions_follow_the_drift(bench):
    lab = tracked(bench, SpottedSpecimen(DRIFT))
    for number in range(9):
        visit(lab, number)
    assert len(lab.driver.images) == 8, "one before every acquisition but the first"
    residuals = []
    for path in lab.paths[2:]:
        exposure = exposure_of(path)
        truth = exposure.times()[:, None] * DRIFT
        residuals.append(exposure.steered() - exposure.positions - truth)
        assert np.array_equal(exposure.positions, POINTS), "positions stay nominal: the correction is told apart"
    residual = np.abs(residuals)
    assert np.abs(truth).max() > 4e-9, "without correction it would be pixels"
    assert residual.max() < 0.25e-9
    assert lab.paths[-1].correction_rate == pytest.approx(DRIFT, abs=0.2 * NM_PER_MIN)
    values = lab.microscope._values
    assert "drift_nm" in values and values["drift_nm_per_min"].startswith("(1.")


def test_a_reference_image_is_counted_in_time_and_dose(bench):
    lab = tracked(bench, SpottedSpecimen(DRIFT), overhead_ms=10.0)
    visit(lab, 0)
    before = lab.microscope.console.dose.total
    result = lab.acquire(POINTS, 2, dwell=1.0)
    assert result.error_code == 0
    assert result.dose == pytest.approx(lab.microscope.console.dose.total - before), "whoever asked learns of its cost"
    image, each = lab.driver.images[0], lab.driver.electrons(1, 1e-4)
    assert (image.count, image.sequence, image.dwell) == (32 * 32, 2**64 - 2, pytest.approx(1e-4))
    assert lab.microscope.console.dose.total - before == pytest.approx(1024 * each + lab.driver.electrons(20, 1.0))
    assert lab.paths[1].elapsed - image.elapsed == pytest.approx(1024 * 1e-4 + 10e-3)
    candidates = lab.driver.field.candidates(image.positions)
    areal = lab.microscope.console.dose.areal
    untouched = np.setdiff1d(np.arange(64 * 64), np.concatenate([candidates, lab.driver.field.candidates(POINTS)]))
    survey = each / 1e-18
    assert areal[untouched] == pytest.approx(survey), "only the region has received it"
    region = np.setdiff1d(candidates, lab.driver.field.candidates(POINTS))
    assert areal[region] == pytest.approx(2 * survey)
    assert lab.driver.blanked[-1] is True


def test_it_is_due_by_time_too(bench):
    lab = tracked(bench, SpottedSpecimen(DRIFT), **{"drift_tracking.every_points": 0, "drift_tracking.every_s": 30.0})
    for number in range(4):
        visit(lab, number)
    assert len(lab.driver.images) == 1, "21 s after the survey none is due, 42 s after it is"


def test_an_image_that_does_not_match_is_a_warning(bench):
    lab = tracked(bench, SpottedSpecimen(DRIFT))
    visit(lab, 0)
    lab.driver.lost = True
    warnings = []
    lab.microscope.warn = lambda message, **_values: warnings.append(message)
    visit(lab, 1)
    assert len(lab.driver.images) == 1
    assert warnings and "the drift was not measured" in warnings[0]
    assert lab.paths[1].correction.tolist() == [0.0, 0.0]


def test_an_image_that_cannot_be_afforded_is_a_warning(bench):
    cost = 64 * 64 * 100 + 2 * 20 * 1e6 + 50_000
    lab = tracked(bench, SpottedSpecimen(DRIFT), **{"instrument.limits.electrons": cost})
    warnings = []
    lab.microscope.warn = lambda message, **_values: warnings.append(message)
    visit(lab, 0)
    visit(lab, 1)
    assert not lab.driver.images
    assert warnings and "no reference image for drift tracking: an image of 1024 pixels would cost" in warnings[0]


def test_another_view_needs_another_survey(bench):
    lab = tracked(bench, SpottedSpecimen(DRIFT))
    visit(lab, 0)
    visit(lab, 1)
    assert lab.call(MoveStage, "move_stage", pose=pose(x=5e-9)).error_code == 0
    visit(lab, 2)
    visit(lab, 3)
    assert len(lab.driver.images) == 1, "there is nothing to compare with"
    assert lab.paths[-1].correction.tolist() == [0.0, 0.0]
    assert lab.call(AcquireOverview, "acquire_overview").error_code == 0
    visit(lab, 4)
    visit(lab, 5)
    assert len(lab.driver.images) == 2


def test_a_survey_that_may_show_an_aliased_lattice_is_told(bench):
    driver = SpottedSpecimen(DRIFT)
    driver.optics["semi_convergence_angle"] = 10e-3
    lab = bench(driver=driver, **{"drift_tracking.every_points": 20})
    lab.activate()
    warnings = []
    lab.microscope.warn = lambda message, **_values: warnings.append(message)
    for _ in range(2):
        assert lab.call(AcquireOverview, "acquire_overview").error_code == 0
    assert len(warnings) == 1 and "the survey's step, 1 nm, is longer than 0.104 nm" in warnings[0]


def test_without_a_survey_the_log_says_that_nothing_is_tracked(bench):
    lab = bench(driver=SpottedSpecimen(DRIFT), **{"drift_tracking.every_points": 20})
    lab.activate()
    warnings = []
    lab.microscope.warn = lambda message, **_values: warnings.append(message)
    visit(lab, 0)
    visit(lab, 1)
    assert warnings == ["drift is not tracked: there is no survey of this view to compare with, take one"]


def test_a_field_too_small_to_track_in_is_a_warning(bench):
    lab = bench(**{"drift_tracking.every_points": 3})
    lab.activate()
    warnings = []
    lab.microscope.warn = lambda message, **_values: warnings.append(message)
    assert lab.call(AcquireOverview, "acquire_overview").error_code == 0
    said = ["drift cannot be tracked: field 4 x 5 is too small to track drift: 16 x 16 at least"]
    assert warnings == said
    assert lab.acquire(np.zeros((1, 2)), 1).error_code == 0
    assert warnings == said, "another survey would not help"
