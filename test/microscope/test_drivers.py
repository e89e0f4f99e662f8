"""Drivers: simulated and replayed column, survey, truth and dose."""

import subprocess
import sys

import numpy as np
import pytest

from edgetem_nodes.graph.instrument import Instrument, Replay, Simulated
from edgetem_nodes.microscope.drivers import NotSimulated, NotSupported, make_driver

SMALL = Simulated(rows=12, columns=16, field_nm=8.0)


@pytest.fixture(scope="module")
def simulated():
    driver = make_driver(Instrument(simulated=SMALL), 3)
    yield driver
    driver.close()


@pytest.fixture
def replayed(synthetic):
    return make_driver(Instrument(driver="replay", replay=Replay(file=str(synthetic / "synthetic_eels.hspy"),
                                                                 survey=str(synthetic / "synthetic_haadf.hspy"))), 0)


def test_survey_of_the_simulated_sheet(simulated):
    survey = simulated.overview()
    assert (survey.channels, survey.data.shape, survey.data.dtype) == (["haadf"], (1, 12, 16), np.float64)
    assert survey.duration == pytest.approx(12 * 16 * 20e-6)
    assert survey.dose == pytest.approx(12 * 16 * 40e-12 * 20e-6 / 1.602176634e-19)


def test_truth_of_the_simulated_sheet(simulated):
    assert {"strain_xx", "strain_yy", "strain_xy", "dilation"} <= set(simulated.truths())
    unit, dilation = simulated.truth("dilation")
    assert (unit, dilation.shape) == ("", (12, 16))
    with pytest.raises(ValueError, match="there is no truth 'colour'"):
        simulated.truth("colour")


def test_measured_specimens_have_no_truth(replayed):
    with pytest.raises(NotSimulated, match="synthetic_eels.hspy was measured"):
        replayed.truths()
    with pytest.raises(NotSimulated, match="strain_xx"):
        replayed.truth("strain_xx")


def test_survey_and_conditions_of_a_replay(replayed):
    survey, state = replayed.overview(), replayed.state()
    assert survey.channels == ["synthetic_haadf"]
    assert survey.data.shape == (1, *replayed.field.shape)
    assert state.commanded_optics["high_tension"] == 200e3
    assert state.commanded_optics["semi_convergence_angle"] == pytest.approx(20e-3)
    assert state.sensed_optics == {}


@pytest.mark.parametrize("which", ["simulated", "replayed"])
def test_controls_that_do_not_exist_are_refused(request, which):
    driver = request.getfixturevalue(which)
    driver.set_optics(high_tension=driver.state().commanded_optics["high_tension"])
    with pytest.raises(NotSupported, match="defocus"):
        driver.set_optics(defocus=5e-8)
    with pytest.raises(ValueError, match=r"x 1 is outside the range of the stage, -0.0015 to 0.0015"):
        driver.move_stage(x=1.0)
    with pytest.raises(NotSupported, match="alpha"):
        driver.move_stage(alpha=0.1)
    with pytest.raises(ValueError, match="brightness"):
        driver.set_optics(brightness=1.0)


def test_blanker_and_dose(simulated):
    simulated.blank(False)
    assert not simulated.state().beam_blanked
    simulated.blank(True)
    assert simulated.state().beam_blanked
    assert simulated.electrons(10, 1e-3) == pytest.approx(10 * 40e-12 * 1e-3 / 1.602176634e-19)
    assert simulated.pixel_area_m2 == pytest.approx((8e-9 / 15) ** 2)


def test_a_replay_without_a_file_is_refused():
    with pytest.raises(ValueError, match="instrument.replay.file is empty"):
        make_driver(Instrument(driver="replay"), 0)


def test_a_replay_loads_no_simulation(synthetic):
    code = ("import sys; from edgetem_nodes.graph.instrument import Instrument, Replay; "
            "from edgetem_nodes.microscope.drivers import make_driver; "
            f"make_driver(Instrument(driver='replay', replay=Replay(file={str(synthetic / 'synthetic_eels.hspy')!r}, "
            "survey_signal='total')), 0).overview(); "
            "print([m for m in ('scipy', 'ase', 'torch', 'rclpy', 'dask.array') if m in sys.modules])")
    output = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert output.strip() == "[]"
