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


def test_time_advances_with_work_or_with_the_wall_clock_and_never_back():
    simulated, real = AcquisitionClock(False, 1000), AcquisitionClock(True, 1000)
    simulated.advance(1.5e-6)
    real.advance(1.5e-6)
    assert simulated.now(9999) == 2500
    assert real.now(9999) == 9999
    assert real.now(5000) == 9999
