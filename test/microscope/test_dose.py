"""Dose and acquisition time: conservation, and limits at the edge."""

import numpy as np
import pytest

from edgetem_nodes.microscope.clock import AcquisitionClock
from edgetem_nodes.microscope.dose import DoseAccount, DoseLimitError
from edgetem_nodes.physics.scan import ScanField

FIELD = ScanField((0.0, 0.0), (1e-10, 1e-10), (8, 8))
AREA = 1e-20


def test_the_areal_dose_integrates_to_the_total():
    dose = DoseAccount(FIELD, AREA)
    rng = np.random.default_rng(1)
    dose.add_survey(640.0)
    for _ in range(20):
        dose.add(rng.integers(0, 64, 10), 7.0)
    assert dose.total == pytest.approx(640 + 20 * 10 * 7)
    assert dose.areal.sum() * AREA == pytest.approx(dose.total)
    assert dose.peak == dose.areal.max()


def test_a_limit_may_be_reached_but_not_passed():
    dose = DoseAccount(FIELD, AREA, total_limit=100.0, areal_limit=50 / AREA)
    dose.check(np.array([3]), 50.0)
    dose.add(np.array([3]), 50.0)
    with pytest.raises(DoseLimitError, match=r"position \(0, 3\) would come to 51 e/Å², the limit is 50"):
        dose.check(np.array([3]), 1.0)
    dose.check(np.array([4]), 50.0)
    with pytest.raises(DoseLimitError, match="would cost 51 electrons after 50; the limit is 100"):
        dose.check(np.array([4, 5, 6]), 17.0)
    with pytest.raises(DoseLimitError, match="a survey would bring a position"):
        dose.check_survey(40.0)


def test_what_was_spent_before_counts_in_the_total():
    dose = DoseAccount(FIELD, AREA, total_limit=100.0, initial=90.0)
    with pytest.raises(DoseLimitError, match="after 90"):
        dose.check(np.array([0]), 11.0)
    assert dose.peak == 0.0


def test_an_image_is_counted_where_it_lies_and_in_whole():
    dose = DoseAccount(FIELD, AREA, total_limit=100.0, areal_limit=30 / AREA)
    assert dose.add_image(np.array([0, 0, 9]), 10.0, 5) == 50.0, "two of its pixels lie outside the field"
    assert dose.total == 50.0 and dose.areal.sum() * AREA == pytest.approx(30.0)
    dose.check_image(np.array([0, 9]), 10.0, 5)
    with pytest.raises(DoseLimitError, match="an image of 6 pixels would cost 60 electrons after 50; the limit is 100"):
        dose.check_image(np.array([0]), 10.0, 6)
    with pytest.raises(DoseLimitError, match=r"position \(0, 0\) would come to 40 e/Å²"):
        dose.check_image(np.array([0, 0]), 10.0, 2)


def test_a_question_about_what_is_planned_changes_nothing():
    dose = DoseAccount(FIELD, AREA, total_limit=100.0)
    after = dose.after(np.array([1, 2]), 45.0)
    with pytest.raises(DoseLimitError, match="after 90"):
        after.check(np.array([3]), 11.0)
    assert dose.total == dose.peak == 0.0


@pytest.mark.parametrize("magnification", [0.5, 2.0, 3.0])
def test_another_field_keeps_what_a_place_has_received(magnification):
    """The nearest old grid point of every new one, looked for one by one."""
    dose = DoseAccount(FIELD, AREA, total_limit=1e6)
    dose.add(np.arange(64), 7.0)
    dose.add(np.random.default_rng(2).integers(0, 64, 40), 11.0)
    field = FIELD.magnified(magnification)
    moved = dose.regridded(FIELD, field, AREA / magnification ** 2)
    assert moved.total == dose.total
    old = FIELD.positions()
    for index, position in enumerate(field.positions()):
        distance = np.abs(old - position).max(axis=1)
        nearest = distance <= distance.min() * (1 + 1e-6)
        possible = dose.areal[nearest] if distance.min() <= 0.5e-10 * (1 + 1e-9) else np.zeros(1)
        assert moved.areal[index] in possible or (distance.min() > 0.499e-10 and moved.areal[index] == 0.0)


def test_elapsed_time_counts_from_the_start():
    simulated, real = AcquisitionClock(False, 1000), AcquisitionClock(True, 1000)
    simulated.advance(0.25)
    assert simulated.elapsed(9999) == 0.25 and simulated.now(9999) == 1000 + 250_000_000
    assert real.elapsed(1000 + 2_000_000_000) == 2.0


def test_time_advances_with_work_or_with_the_wall_clock_and_never_back():
    simulated, real = AcquisitionClock(False, 1000), AcquisitionClock(True, 1000)
    simulated.advance(1.5e-6)
    real.advance(1.5e-6)
    assert simulated.now(9999) == 2500
    assert real.now(9999) == 9999
    assert real.now(5000) == 9999
