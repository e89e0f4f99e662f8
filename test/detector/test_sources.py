"""Sources: simulated patterns and replayed frames as the detector node asks for them."""

import time

import numpy as np
import pytest

from edgetem_nodes.detector.sources import make_source
from edgetem_nodes.graph.instrument import Instrument, Replay, Simulated
from edgetem_nodes.microscope.drivers import make_driver
from edgetem_nodes.physics.exposure import Exposure

SIMULATED = Instrument(simulated=Simulated(rows=12, columns=16, field_nm=8.0))


def exposure(positions, dwell=1e-3, sequence=0):
    """As a probe path of the nominal column asks for it."""
    return Exposure(sequence, 0.0, positions, dwell, dwell, make_driver(SIMULATED, 3).state(0.0).commanded_optics)


def replay(synthetic, **options):
    return Instrument(driver="replay", replay=Replay(file=str(synthetic / "synthetic_eels.hspy"), survey_signal="total",
                                                     **options))


def test_simulated_frames():
    source = make_source(SIMULATED, 3)
    field = make_driver(SIMULATED, 3).field
    frames = source.read(exposure(field.positions(), 2e-3), 0, field.shape[0] * field.shape[1])
    assert (source.name, source.pausable, source.real_time) == ("pixelated", True, False)
    assert (frames.shape, frames.dtype) == ((192, *source.frame_shape), source.dtype)
    assert frames.sum(axis=(1, 2)).mean() == pytest.approx(0.995 * 40e-12 * 2e-3 / 1.602176634e-19, rel=3e-3)
    ky = source.axes[0]
    assert (ky.unit, ky.values()[32]) == ("rad", pytest.approx(0.0))
    beam = frames.sum(axis=0)[28:37, 28:37]
    assert (np.indices(beam.shape) * beam).sum(axis=(1, 2)) / beam.sum() == pytest.approx([4.0, 4.0], abs=0.01)
    source.close()


def test_simulated_frames_do_not_depend_on_how_they_are_read():
    first, second = make_source(SIMULATED, 3), make_source(SIMULATED, 3)
    positions = np.random.default_rng(1).uniform(0, 5e-9, (5, 2))
    whole = first.read(exposure(positions, sequence=2), 0, 5)
    assert np.array_equal(second.read(exposure(positions, sequence=2), 3, 2), whole[3:])
    assert not np.array_equal(first.read(exposure(positions, sequence=3), 3, 2), whole[3:])


def test_any_place_that_the_microscope_allows_can_be_simulated():
    source, field = make_source(SIMULATED, 3), make_driver(SIMULATED, 3).field
    half = np.array(field.step) * 0.49
    corners = np.array([-half, np.array([11, 15]) * field.step + half])
    assert source.read(exposure(corners), 0, 2).shape == (2, 64, 64)


def test_replayed_frames_are_the_measured_ones(synthetic):
    from edgetem_nodes.physics.spectra import particles_on_carbon
    source, truth = make_source(replay(synthetic), 0), particles_on_carbon(2026)
    positions = np.array([[3e-9, 5e-9], [23.4e-9, 0.4e-9]])
    assert np.array_equal(source.read(exposure(positions), 0, 2), truth.counts[[3, 23], [5, 0]])
    assert (source.name, source.frame_shape, source.dtype.name, source.axes[0].unit) == ("eels", (80,), "uint16", "J")


@pytest.mark.parametrize("kind", ["simulated", "replay"])
def test_positions_outside_the_field_are_refused(kind, synthetic):
    source = make_source(SIMULATED if kind == "simulated" else replay(synthetic), 0)
    with pytest.raises(ValueError, match="outside the"):
        source.read(exposure(np.array([[0.0, 1e-6]])), 0, 1)


def test_real_time_takes_the_dwell_time(synthetic):
    source = make_source(replay(synthetic, real_time=True), 0)
    start = time.monotonic()
    source.read(exposure(np.zeros((20, 2)), 5e-3), 0, 20)
    assert source.real_time
    assert time.monotonic() - start >= 0.1


def test_a_dwell_time_that_the_camera_cannot_follow_is_refused(synthetic):
    slow = make_source(Instrument(simulated=Simulated(rows=12, columns=16, field_nm=8.0, camera="integrating")), 3)
    with pytest.raises(ValueError, match=r"dwell time 0.01 ms is shorter than a frame .* instrument.dwell_ms"):
        slow.check_dwell(1e-5)
    slow.check_dwell(0.1)
    make_source(SIMULATED, 3).check_dwell(1e-6)
    make_source(replay(synthetic), 0).check_dwell(1e-9)


def test_nothing_is_computed_before_it_is_prepared(monkeypatch):
    from edgetem_nodes.physics.simulation import Simulation
    computed = []
    monkeypatch.setattr(Simulation, "expected", lambda *_: computed.append(1))
    source = make_source(SIMULATED, 3)
    assert not computed
    source.prepare()
    assert computed
