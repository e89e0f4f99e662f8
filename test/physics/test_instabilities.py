"""What misbehaves, against theory: drift by rate, Gaussian processes, RC lag, wrong metadata; nothing does by default."""

from __future__ import annotations

import math

import numpy as np
import pytest

from edgetem_nodes.physics.faults import Fault
from edgetem_nodes.physics.instabilities import Instabilities, InstrumentState, SmoothNoise
from edgetem_nodes.physics.specimens import ROOM_TEMPERATURE

TIMES = np.linspace(0.0, 1800.0, 181)
OPTICS = {"high_tension": 80e3, "probe_current": 4e-11, "camera_length": 0.1, "defocus": 5e-8}
STAGE = {"x": 1e-6, "alpha": 0.1}
RAMP = np.array([[100.0, 900.0, 0.0], [400.0, 500.0, 2.0]])


def scan(rows: int = 12, columns: int = 16, step: float = 2e-10) -> np.ndarray:
    y, x = np.divmod(np.arange(rows * columns), columns)
    return np.stack([y, x], axis=-1) * step


def test_nothing_misbehaves_by_default() -> None:
    state = InstrumentState(Instabilities(), 3)
    positions = scan()
    assert not state.stage_drift(TIMES).any()
    assert (state.defocus(TIMES, 3e-8) == 3e-8).all()
    assert (state.current_factor(TIMES) == 1).all()
    assert (state.probe_positions(positions, 1e-3 * np.arange(len(positions)), 1e-3) == positions).all()
    assert state.true_optics(OPTICS, 900.0) == OPTICS
    assert state.sensed(900.0, OPTICS, STAGE, {"temperature": 300.0}) == (OPTICS, STAGE, {"temperature": 300.0})


def test_drift_goes_at_its_speed_in_its_direction() -> None:
    drift = InstrumentState(Instabilities(drift_speed=1e-9 / 60, drift_direction=math.radians(30)), 0).stage_drift(TIMES)
    assert np.allclose(np.hypot(*drift.T), TIMES * 1e-9 / 60, rtol=1e-12)
    assert np.allclose(drift[-1], [15e-9, 30e-9 * math.cos(math.radians(30))])


def test_a_creeping_stage_comes_to_rest() -> None:
    state = InstrumentState(Instabilities(drift_relaxation=5e-9, drift_relaxation_time=300.0), 0)
    x = state.stage_drift(np.array([0.0, 300.0, 1e5]))[:, 1]
    assert x == pytest.approx([0.0, 5e-9 * (1 - math.exp(-1)), 5e-9])


def test_smooth_noise_is_a_gaussian_process() -> None:
    many = np.array([SmoothNoise(np.random.default_rng(seed), 100.0)(np.array([0.0, 100.0, 1e6]))[:, 0]
                     for seed in range(4000)])
    assert many.std(axis=0) == pytest.approx([1, 1, 1], abs=0.05)
    correlation = np.corrcoef(many.T)
    assert correlation[0, 1] == pytest.approx(math.exp(-0.5), abs=0.04)
    assert correlation[0, 2] == pytest.approx(0, abs=0.05)


def test_any_moment_can_be_had_alone_and_only_the_seed_decides() -> None:
    wrong = Instabilities(drift_wander=1e-9, defocus_wander=5e-9, current_noise=0.02, line_noise=2e-11, sensor_noise=1.0)
    state, again, other = InstrumentState(wrong, 7), InstrumentState(wrong, 7), InstrumentState(wrong, 8)
    for method in (lambda s, t: s.stage_drift(t), lambda s, t: s.defocus(t, 0.0), lambda s, t: s.current_factor(t)):
        assert (method(state, TIMES)[40:50] == method(again, TIMES[40:50])).all()
        assert not np.allclose(method(state, TIMES[1:]), method(other, TIMES[1:]), rtol=1e-3, atol=1e-14)
    assert state.sensed(12.5, OPTICS, STAGE, {}) == again.sensed(12.5, OPTICS, STAGE, {})
    assert state.sensed(12.5, OPTICS, STAGE, {}) != state.sensed(12.6, OPTICS, STAGE, {})


def test_scale_shear_and_rotation_are_those_of_a_matrix() -> None:
    center = (1e-9, 2e-9)
    positions = scan() + 1e-10
    wrong = Instabilities(scan_scale_y=0.01, scan_scale_x=-0.02, scan_rotation=0.05)
    seen = InstrumentState(wrong, 0, center).probe_positions(positions, np.zeros(len(positions)), 1e-3)
    matrix, *_ = np.linalg.lstsq(positions - center, seen - center, rcond=None)
    assert np.allclose(seen - center, (positions - center) @ matrix, atol=1e-22)
    assert np.linalg.det(matrix) == pytest.approx(1.01 * 0.98)
    assert np.linalg.norm(matrix[0]) == pytest.approx(1.01)
    assert math.atan2(matrix[0, 1], matrix[0, 0]) == pytest.approx(-0.05)
    sheared = InstrumentState(Instabilities(scan_shear=0.02), 0).probe_positions(positions, np.zeros(len(positions)), 1e-3)
    assert np.allclose(sheared[:, 1] - positions[:, 1], math.tan(0.02) * positions[:, 0])


def test_mains_hum_has_its_frequency_and_is_averaged_by_a_whole_period() -> None:
    state = InstrumentState(Instabilities(line_noise=3e-11), 1)
    positions, period = np.zeros((4000, 2)), 1e-4
    times = period * np.arange(4000)
    along = np.linalg.norm(state.probe_positions(positions, times, period), axis=1)
    assert along.max() == pytest.approx(3e-11, rel=0.01)
    spectrum = np.abs(np.fft.rfft(state.probe_positions(positions, times, period).sum(axis=1)))
    assert np.fft.rfftfreq(4000, period)[spectrum.argmax()] == pytest.approx(50.0)
    whole = state.probe_positions(positions, 0.02 * np.arange(4000), 0.02)
    assert np.abs(whole).max() < 1e-20


def test_the_probe_lags_as_a_first_order_low_pass_does() -> None:
    period, settling, time = 50e-6, 20e-6, 30e-6
    state = InstrumentState(Instabilities(flyback=1.0, flyback_time=time), 0)
    steered = scan(4, 8)
    seen = state.probe_positions(steered, period * np.arange(32), period, dwell=period - settling)
    fine, probe, expected = 5000, steered[0].copy(), []
    for target in steered:
        mean = np.zeros(2)
        for tick in range(fine):
            at = period * (tick + 0.5) / fine
            where = target + (probe - target) * math.exp(-at / time)
            mean += where * (at >= settling)
        expected.append(mean / (fine * (period - settling) / period))
        probe = target + (probe - target) * math.exp(-period / time)
    assert np.allclose(seen, expected, atol=2e-4 * 1.4e-9)
    assert np.linalg.norm(seen - steered, axis=1).argmax() % 8 == 0


@pytest.mark.parametrize("cut", [1, 7, 100])
def test_a_path_may_be_cut_anywhere(cut: int) -> None:
    state = InstrumentState(Instabilities(flyback=0.5, flyback_time=1e-4, line_noise=1e-11, scan_shear=0.01), 5)
    steered, period = scan(), 50e-6
    times = period * np.arange(len(steered))
    whole = state.probe_positions(steered, times, period)
    before = steered[max(cut - state.memory(period), 0):cut]
    assert (state.probe_positions(steered[cut:], times[cut:], period, previous=before) == whole[cut:]).all()


def test_the_tip_loses_current() -> None:
    state = InstrumentState(Instabilities(current_decay=0.3, current_decay_time=600.0, current_rate=-1e-3), 0)
    assert state.current_factor(np.array([600.0])) == pytest.approx(1 - 0.6 - 0.3 * (1 - math.exp(-1)))
    assert state.current_factor(np.array([1e5])) == 0
    assert state.true_optics(OPTICS, 600.0)["probe_current"] == pytest.approx(4e-11 * (0.4 - 0.3 * (1 - math.exp(-1))))


def test_defocus_drifts_and_the_sensor_does_not_see_it() -> None:
    state = InstrumentState(Instabilities(defocus_drift=1e-11), 0)
    assert state.true_optics(OPTICS, 1000.0)["defocus"] == pytest.approx(6e-8)
    assert state.sensed(1000.0, OPTICS, STAGE, {})[0]["defocus"] == 5e-8


@pytest.mark.parametrize(("text", "true", "sensed"), [("camera_length hidden factor=1.03", 0.103, 0.1),
                                                      ("camera_length unresponsive held=0.2", 0.2, 0.2),
                                                      ("camera_length sensor offset=0.01", 0.1, 0.11)])
def test_commanded_true_and_sensed_part_ways(text: str, true: float, sensed: float) -> None:
    state = InstrumentState(Instabilities(faults=(Fault.parse(text + " since=10"),)), 0)
    assert state.true_optics(OPTICS, 10.0)["camera_length"] == pytest.approx(true)
    assert state.sensed(10.0, OPTICS, STAGE, {})[0]["camera_length"] == pytest.approx(sensed)
    assert state.true_optics(OPTICS, 9.0) == OPTICS
    assert state.sensed(9.0, OPTICS, STAGE, {})[0] == OPTICS


def test_a_stuck_sensor_says_the_same_whatever_is_commanded() -> None:
    state = InstrumentState(Instabilities(faults=(Fault("defocus", "sensor", held=1e-8),)), 0)
    for defocus in (0.0, 1e-7):
        assert state.sensed(1.0, {"defocus": defocus}, {}, {})[0]["defocus"] == 1e-8
        assert state.true_optics({"defocus": defocus}, 1.0)["defocus"] == defocus


def test_sensor_noise_has_its_size() -> None:
    state = InstrumentState(Instabilities(sensor_noise=2.0), 11)
    values = [state.sensed(0.1 * k, OPTICS, STAGE, {})[0]["defocus"] for k in range(800)]
    assert np.mean(values) == pytest.approx(5e-8, abs=5e-11)
    assert np.std(values) == pytest.approx(4e-10, rel=0.1)


def test_the_specimen_follows_the_holder_as_an_rc_circuit() -> None:
    state = InstrumentState(Instabilities(holder_time=60.0), 0)
    times = np.linspace(0, 1000, 2001)
    seen, value, expected = state.temperature(times, RAMP), ROOM_TEMPERATURE, []
    fine = 0.01
    for tick in range(100001):
        if tick % 50 == 0:
            expected.append(value)
        target = ROOM_TEMPERATURE if tick * fine < 100 else 900.0 if tick * fine < 400 else 500.0
        value += (target - value) * fine / 60.0
    assert np.abs(seen - expected).max() < 0.1
    assert state.sensed(400.0, {}, {}, RAMP)[2] == {"temperature": pytest.approx(float(seen[800])), "bias": 2.0}


def test_the_real_programme_steps_along_the_lag() -> None:
    state = InstrumentState(Instabilities(holder_time=60.0), 0)
    real = state.real_programme(RAMP)
    times = np.linspace(100, 1000, 901)
    stepped = real[np.searchsorted(real[:, 0], times, side="right") - 1, 1]
    assert (np.diff(real[:, 0]) >= 0).all()
    assert np.abs(stepped - state.temperature(times, RAMP)).max() <= (900 - ROOM_TEMPERATURE) / 32 * 1.01
    early = state.real_programme(RAMP[:1])
    assert (real[real[:, 0] < 400] == early[early[:, 0] < 400]).all()


@pytest.mark.parametrize(("name", "value", "limit"), [
    ("flyback_time", -1e-6, "positive"), ("flyback_time", 0.0, "positive"), ("drift_speed", -1.0, "0 to inf"),
    ("flyback", 1.5, "0 to 1"), ("current_noise", 2.0, "0 to 0.3"), ("scan_scale_x", 3.0, "-0.5 to 0.5"),
    ("line_noise_frequency", math.nan, "finite")])
def test_unphysical_values_are_refused(name: str, value: float, limit: str) -> None:
    with pytest.raises(ValueError, match=f"{name} {value:g}.*{limit}"):
        Instabilities(**{name: value})


@pytest.mark.parametrize("text", ["camera_length", "camera_length hidden", "camera_lenght hidden factor=2",
                                  "camera_length gone factor=2", "x sensor factor=a", "x sensor speed=3",
                                  "x sensor factor=2 since=-1", "x hidden factor=inf"])
def test_a_fault_that_makes_no_sense_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="fault"):
        Fault.parse(text)


def test_dwell_longer_than_the_period_is_refused() -> None:
    with pytest.raises(ValueError, match=r"dwell time 2 s is outside the range, 0 to the period, 1 s"):
        InstrumentState(Instabilities(flyback=1.0), 0).probe_positions(np.zeros((1, 2)), np.zeros(1), 1.0, dwell=2.0)
