"""Drivers: simulated and replayed column, survey, truth and dose."""

import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest

from edgetem_nodes.graph.instrument import Instrument, Replay, Simulated
from edgetem_nodes.microscope.drivers import NotSimulated, NotSupported, initial_exposure, make_driver
from edgetem_nodes.physics.counting import SURVEY
from edgetem_nodes.physics.scan import ScanField

SMALL = Simulated(rows=12, columns=16, field_nm=8.0)


@pytest.fixture(scope="module")
def simulated():
    driver = make_driver(Instrument(simulated=SMALL), 3)
    yield driver
    driver.close()


@pytest.fixture
def own():
    """A simulated driver that a test may command."""
    driver = make_driver(Instrument(simulated=SMALL), 3)
    yield driver
    driver.close()


@pytest.fixture
def replayed(synthetic):
    return make_driver(Instrument(driver="replay", replay=Replay(file=str(synthetic / "synthetic_eels.hspy"),
                                                                 survey=str(synthetic / "synthetic_haadf.hspy"))), 0)


def test_survey_of_the_simulated_sheet(simulated):
    survey = simulated.overview(initial_exposure(simulated, 20e-6, 20e-6, SURVEY))
    assert (survey.channels, survey.data.shape, survey.data.dtype) == (["haadf"], (1, 12, 16), np.float64)
    assert survey.duration == pytest.approx(12 * 16 * 20e-6)
    assert survey.dose == pytest.approx(12 * 16 * 40e-12 * 20e-6 / 1.602176634e-19)


def test_truth_of_the_simulated_sheet(simulated):
    assert {"strain_xx", "strain_yy", "strain_xy", "dilation"} <= set(simulated.truths())
    unit, dilation = simulated.truth("dilation", initial_exposure(simulated, 0.0, 0.0, 0))
    assert (unit, dilation.shape) == ("", (12, 16))
    with pytest.raises(ValueError, match="there is no truth 'colour'"):
        simulated.truth("colour", initial_exposure(simulated, 0.0, 0.0, 0))


def test_measured_specimens_have_no_truth(replayed):
    with pytest.raises(NotSimulated, match="synthetic_eels.hspy was measured"):
        replayed.truths()
    with pytest.raises(NotSimulated, match="strain_xx"):
        replayed.truth("strain_xx", initial_exposure(replayed, 0.0, 0.0, 0))
    with pytest.raises(NotSimulated, match="nobody knows its atoms"):
        replayed.atoms(np.zeros(2), np.ones(2), initial_exposure(replayed, 0.0, 0.0, 0))


def test_survey_and_conditions_of_a_replay(replayed):
    survey, state = replayed.overview(initial_exposure(replayed, 20e-6, 20e-6, SURVEY)), replayed.state(0.0)
    assert survey.channels == ["synthetic_haadf"]
    assert survey.data.shape == (1, *replayed.field.shape)
    assert state.commanded_optics["high_tension"] == 200e3
    assert state.commanded_optics["semi_convergence_angle"] == pytest.approx(20e-3)
    assert state.sensed_optics == {}


def test_measured_data_does_not_obey(replayed):
    replayed.set_optics(high_tension=replayed.state(0.0).commanded_optics["high_tension"])
    with pytest.raises(NotSupported, match="defocus"):
        replayed.set_optics(defocus=5e-8)
    with pytest.raises(ValueError, match=r"x 1 is outside the range of the stage, -0.0015 to 0.0015 m$"):
        replayed.move_stage(x=1.0)
    with pytest.raises(NotSupported, match="alpha"):
        replayed.move_stage(alpha=0.1)
    with pytest.raises(NotSupported, match="temperature cannot be changed to 300"):
        replayed.set_holder(temperature=300.0)
    with pytest.raises(ValueError, match="brightness"):
        replayed.set_optics(brightness=1.0)


def test_an_image_of_measured_data_is_a_piece_of_its_survey(replayed):
    survey = replayed.overview(initial_exposure(replayed, 20e-6, 20e-6, SURVEY)).data[0]
    rows, columns = np.meshgrid(np.arange(3, 11), np.arange(5, 17), indexing="ij")
    positions = np.stack([rows.ravel(), columns.ravel()], axis=1) * replayed.field.step + replayed.field.origin
    exposure = replace(initial_exposure(replayed, 1e-5, 1e-5, SURVEY - 1), positions=positions, correction=(3e-9, 3e-9))
    assert np.array_equal(replayed.image(exposure, (8, 12)), survey[3:11, 5:17]), "what was measured follows no correction"


def test_the_simulated_column_obeys_and_its_sensors_say_so(own):
    commands = {"defocus": 5e-8, "astigmatism": 1e-9, "coma": 1e-8, "spherical_aberration": 1e-3, "beam_shift_y": 2e-9,
                "camera_length": 0.1, "probe_current": 2e-11}
    own.set_optics(**commands)
    own.move_stage(x=1e-9, y=-1e-9, z=2e-9, alpha=0.1, beta=-0.05)
    own.set_holder(temperature=400.0, bias=5.0)
    state = own.state(1.0)
    assert commands.items() <= state.commanded_optics.items()
    assert state.commanded_stage == {"x": 1e-9, "y": -1e-9, "z": 2e-9, "alpha": 0.1, "beta": -0.05}
    assert state.commanded_holder == {"temperature": 400.0, "bias": 5.0}
    assert state.sensed_optics.keys() == state.commanded_optics.keys()
    assert own.electrons(10, 1e-3) == pytest.approx(10 * 2e-11 * 1e-3 / 1.602176634e-19), "dose follows the current"


@pytest.mark.parametrize(("control", "changes", "text"), [
    ("set_optics", {"defocus": 1e-3}, "defocus 0.001 is outside the range of the optics"),
    ("set_optics", {"magnification": 0.5}, "magnification 0.5 is outside the range of the optics, 1 to 100$"),
    ("set_optics", {"astigmatism": -1e-9}, "astigmatism -1e-09 is outside"),
    ("set_optics", {"brightness": 1.0}, "optics has no control 'brightness'"),
    ("set_optics", {"defocus": np.nan}, "defocus nan is outside"),
    ("move_stage", {"alpha": 2.0}, "alpha 2 is outside the range of the stage"),
    ("move_stage", {"z": 1e-3}, "z 0.001 is outside the range of the stage, -0.0004 to 0.0004 m$"),
    ("set_holder", {"temperature": 5000.0}, "temperature 5000 is outside the range of the holder, 80 to 1600 K$"),
])
def test_the_simulated_column_has_limits(own, control, changes, text):
    before = own.state(0.0)
    with pytest.raises(ValueError, match=text):
        getattr(own, control)(**changes)
    assert own.state(0.0) == before


def test_the_simulated_holder_has_no_gas(own):
    with pytest.raises(NotSupported, match="no control of flow; it has temperature, bias"):
        own.set_holder(flow=1.0)


def test_magnification_narrows_the_field_about_its_centre(own):
    nominal, area = own.field, own.pixel_area_m2
    own.set_optics(magnification=4.0)
    assert own.field.shape == nominal.shape
    assert own.field.positions().mean(axis=0) == pytest.approx(nominal.positions().mean(axis=0))
    assert np.ptp(own.field.positions(), axis=0) == pytest.approx(np.ptp(nominal.positions(), axis=0) / 4)
    assert own.pixel_area_m2 == pytest.approx(area / 16)
    own.set_optics(magnification=1.0)
    assert own.field == nominal


def test_an_image_shows_what_lies_under_the_steered_positions(own):
    """A correction moves the image as the same step of the positions does."""
    own.set_optics(probe_current=1e-8)
    grid = ScanField((2e-9, 2e-9), (2e-10, 2e-10), (16, 16))
    exposure = replace(initial_exposure(own, 1e-3, 1e-3, SURVEY - 1), positions=grid.positions())
    moved = replace(exposure, positions=grid.positions() - (4e-10, 0.0), correction=(4e-10, 0.0))
    assert np.array_equal(own.image(exposure, (16, 16)), own.image(moved, (16, 16)))
    elsewhere = replace(exposure, correction=(4e-10, 0.0))
    assert not np.array_equal(own.image(exposure, (16, 16)), own.image(elsewhere, (16, 16)))


def test_atoms_are_told_within_a_region(own):
    low, high = np.array([1e-9, 1e-9]), np.array([3e-9, 4e-9])
    atoms = own.atoms(low, high, initial_exposure(own, 0.0, 0.0, 0))
    assert ((atoms.positions[:, 1:] >= low) & (atoms.positions[:, 1:] < high)).all()
    cell = np.sqrt(3) / 2 * 3.18e-10 ** 2
    assert len(atoms.atomic_numbers) == pytest.approx(3 * 6e-18 / cell, rel=0.06), "three atoms to a cell of MoS2"


def test_blanker_and_dose(simulated):
    simulated.blank(False)
    assert not simulated.state(0.0).beam_blanked
    simulated.blank(True)
    assert simulated.state(0.0).beam_blanked
    assert simulated.electrons(10, 1e-3) == pytest.approx(10 * 40e-12 * 1e-3 / 1.602176634e-19)
    assert simulated.pixel_area_m2 == pytest.approx((8e-9 / 15) ** 2)


def test_a_replay_without_a_file_is_refused():
    with pytest.raises(ValueError, match="instrument.replay.file is empty"):
        make_driver(Instrument(driver="replay"), 0)


def test_a_replay_loads_no_simulation(synthetic):
    code = ("import sys; from edgetem_nodes.graph.instrument import Instrument, Replay; "
            "from edgetem_nodes.microscope.drivers import initial_exposure, make_driver; "
            f"driver = make_driver(Instrument(driver='replay', replay=Replay(file={str(synthetic / 'synthetic_eels.hspy')!r}, "
            "survey_signal='total')), 0); driver.overview(initial_exposure(driver, 1e-5, 1e-5, 0)); "
            "print([m for m in ('scipy', 'ase', 'torch', 'rclpy', 'dask.array') if m in sys.modules])")
    output = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert output.strip() == "[]"
