"""An experiment goes on: time, dose, damage, drift and programme are as if it had never stopped, in both nodes."""


import numpy as np
import pytest
from rclpy.serialization import serialize_message
from spotted_specimen import SpottedSpecimen

from edgetem.srv import AcquireOverview, MoveStage, SetHolder
from edgetem_nodes.detector.sources.simulated import SimulatedSource
from edgetem_nodes.graph.column import exposure_of
from edgetem_nodes.graph.history import write_history
from edgetem_nodes.graph.instrument import Instrument, Simulated
from edgetem_nodes.graph.simulated_instrument import DamageGroup, InstabilitiesGroup
from edgetem_nodes.microscope.drivers.simulated import SimulatedDriver
from test_column_control import pose
from test_drift_following import DRIFT, POINTS, tracked, visit

SUFFERING = Instrument(simulated=Simulated(
    rows=24, columns=24, field_nm=20.0, damage=DamageGroup(contamination=True),
    instabilities=InstabilitiesGroup(drift_nm_per_min=30.0, current_drift_percent_per_h=-50.0)))
TRACKING = {"drift_tracking.every_points": 3, "drift_tracking.dwell_us": 100.0, "drift_tracking.region_px": 12}


class WatchedDriver(SimulatedDriver):
    """The simulated driver, and what its blanker was told."""

    def __init__(self, instrument: Instrument, seed: int) -> None:
        self.blanked: list[bool] = []
        super().__init__(instrument, seed)

    def blank(self, blanked: bool) -> None:
        self.blanked.append(blanked)
        super().blank(blanked)


def watched(bench, **parameters):
    """A microscope whose specimen suffers, activated."""
    lab = bench(driver=WatchedDriver(SUFFERING, 3), **{**TRACKING, **parameters})
    lab.activate()
    return lab


def work(lab, first: int, count: int) -> None:
    """Acquisitions of four positions each."""
    field = lab.driver.field
    for number in range(first, first + count):
        positions = field.positions(np.random.default_rng(number).choice(576, 4, replace=False))
        assert lab.acquire(positions, number + 1, dwell=0.5).error_code == 0


def history_of(lab, path, **parameters) -> dict[str, object]:
    """Parameters with which a microscope goes on from there; the old one is closed."""
    write_history(path, [(serialize_message(p), len(p.positions) // 2) for p in lab.paths],
                  serialize_message(lab.overviews[-1]), lab.overview_elapsed, 1)
    console = lab.microscope.console
    lab.close()
    return {"history": str(path), "initial_elapsed": console.elapsed(), "initial_dose": console.dose.total,
            "initial_sequence": len(lab.paths), **parameters}


def surveyed(lab) -> None:
    lab.overview_elapsed = lab.microscope.console.elapsed()
    assert lab.call(AcquireOverview, "acquire_overview").error_code == 0
    lab.wait(lambda: lab.overviews)


def dose_map(simulation) -> np.ndarray:
    where = np.stack(np.mgrid[-10:31:0.5, -10:31:0.5], axis=-1).reshape(-1, 2) * 1e-9
    return simulation.dose.dose_at(where)


def test_detector_and_microscope_agree_about_what_the_specimen_has_received(bench):
    lab = watched(bench)
    surveyed(lab)
    work(lab, 0, 4)
    told = [len(path.reference_images) for path in lab.paths]
    assert sum(told) >= 2 and told[0] == 0
    source = SimulatedSource(SUFFERING, 3)
    for path in lab.paths:
        source.read(exposure_of(path), 0, 4)
    source._simulation.expose(exposure_of(lab.paths[-1]), 4)
    microscope = lab.driver._simulation
    assert np.array_equal(dose_map(source._simulation), dose_map(microscope))
    images = [image for path in lab.paths for image in path.reference_images]
    assert microscope.dose.electrons > 0.999 * sum(image.dose * np.prod(image.extent) for image in images)
    assert lab.microscope.console.reference_images == []


def test_the_probe_path_says_what_the_reference_image_before_it_cost(bench):
    lab = watched(bench)
    surveyed(lab)
    before = lab.microscope.console.dose.total
    work(lab, 0, 3)
    spent = sum(path.reference_dose for path in lab.paths)
    assert spent == pytest.approx(sum(i.dose * np.prod(i.extent) for p in lab.paths for i in p.reference_images))
    assert lab.microscope.console.dose.total - before == pytest.approx(spent + lab.driver.electrons(12, 0.5))


def test_images_are_told_again_where_the_acquisition_exposed_nothing(bench):
    lab = watched(bench)
    surveyed(lab)
    work(lab, 0, 1)
    sending = lab.send(lab.driver.field.positions(np.arange(4)), 50, dwell=0.5).get_result_async()
    lab.wait(lambda: len(lab.paths) == 2)
    lab.end(lab.paths[-1], 0, 208, "the source failed")
    assert lab.result_of(sending).result.error_code
    work(lab, 1, 1)
    assert len(lab.paths[1].reference_images) == 1
    assert lab.paths[2].reference_images[0] == lab.paths[1].reference_images[0]


def test_it_goes_on(bench, tmp_path):
    lab = watched(bench)
    surveyed(lab)
    assert lab.call(SetHolder, "set_holder", temperature=400.0, bias=np.nan).error_code == 0
    work(lab, 0, 4)
    parameters = history_of(lab, tmp_path / "history.npz")
    on = watched(bench, **parameters)
    old, new = lab.microscope.console, on.microscope.console
    assert new.elapsed() == pytest.approx(old.elapsed(), abs=1e-9) and new.elapsed() > 8.0
    assert new.dose.total == old.dose.total
    assert new.dose.areal == pytest.approx(old.dose.areal, rel=1e-12)
    assert new.column.commanded_holder["temperature"] == 400.0
    assert np.array_equal(dose_map(on.driver._simulation), dose_map(lab.driver._simulation))
    assert new.tracker.surveyed
    predicted = [console.tracker.correction(console.elapsed())[0] for console in (new, old)]
    assert predicted[0] == pytest.approx(predicted[1], abs=1e-9)
    work(on, 4, 1)
    path, continued = exposure_of(lab.paths[-1]), exposure_of(on.paths[-1])
    assert len(continued.reference_images) == 1, "due at once"
    assert continued.sequence == 4 and continued.elapsed > parameters["initial_elapsed"]
    assert np.array_equal(continued.holder, path.holder) and len(path.holder) == 1
    assert continued.survey_dose == path.survey_dose
    source = SimulatedSource(SUFFERING, 3)
    source.resume([(exposure_of(p), 4) for p in lab.paths])
    source._simulation.expose(continued, 4)
    assert np.array_equal(dose_map(source._simulation), dose_map(on.driver._simulation))


def test_tracking_goes_on_with_the_same_reference(bench, tmp_path):
    lab = tracked(bench, SpottedSpecimen(DRIFT))
    lab.overview_elapsed = 0.0
    for number in range(6):
        visit(lab, number)
    lab.wait(lambda: lab.overviews)
    driver = SpottedSpecimen(DRIFT)
    driver.resume = lambda history: None
    on = bench(driver=driver, **{"drift_tracking.every_points": 20, "drift_tracking.dwell_us": 100.0,
                                 **history_of(lab, tmp_path / "history.npz")})
    on.activate()
    visit(on, 6)
    assert len(driver.images) == 1, "due at once"
    for path in on.paths:
        exposure = exposure_of(path)
        residual = exposure.steered() - exposure.positions - exposure.times()[:, None] * DRIFT
        assert np.abs(residual).max() < 0.3e-9
    assert exposure.elapsed > 120.0, "without what was known it would be pixels off"


def test_there_is_no_reference_where_the_view_has_changed_since_the_survey(bench, tmp_path):
    driver = SpottedSpecimen(DRIFT)
    lab = tracked(bench, driver)
    lab.overview_elapsed = 0.0
    visit(lab, 0)
    assert lab.call(MoveStage, "move_stage", pose=pose(x=5e-9)).error_code == 0
    visit(lab, 1)
    lab.wait(lambda: lab.overviews)
    driver.resume = lambda history: None
    on = bench(driver=driver, **{"drift_tracking.every_points": 20, **history_of(lab, tmp_path / "history.npz")})
    on.activate()
    assert not on.microscope.console.tracker.surveyed


def test_time_stands_still_while_the_microscope_is_inactive(bench):
    lab = watched(bench)
    surveyed(lab)
    before = lab.microscope.console.elapsed()
    assert lab.microscope.trigger_deactivate().name == "SUCCESS"
    assert lab.microscope.trigger_activate().name == "SUCCESS"
    assert before > 0 and lab.microscope.console.elapsed() == pytest.approx(before, abs=1e-12)


def test_an_acquisition_longer_than_the_interval_is_told_once(bench):
    lab = tracked(bench, SpottedSpecimen(DRIFT), **{"drift_tracking.every_s": 15.0})
    warnings = []
    lab.microscope.warn = lambda message, **_values: warnings.append(message)
    visit(lab, 0)
    visit(lab, 1)
    assert len(warnings) == 1 and "20 s is longer than drift_tracking.every_s, 15 s" in warnings[0]
