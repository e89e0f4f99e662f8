"""Micro-scans: where their probes stand and when, what each receives, and what the specimen does."""

import numpy as np
import pytest

from edgetem_nodes.physics.exposure import Exposure, MicroScan
from edgetem_nodes.physics.instabilities import Instabilities
from edgetem_nodes.physics.optics import Camera, Probe
from edgetem_nodes.physics.scan import ScanField
from edgetem_nodes.physics.settings import Settings
from edgetem_nodes.physics.simulation import Simulation
from edgetem_nodes.physics.specimens.catalogue import SpecimenOptions

SCAN = MicroScan(3, 110e-12)
FIELD = ScanField((0.0, 0.0), (1e-9, 1e-9), (4, 5))
DWELL = 9e-3
PERIOD = 10e-3


def virtual(**changes):
    settings = Settings("graphene", SpecimenOptions(strain=0.0), FIELD, Probe(80e3, 25e-3), 40e-12, Camera(32, 2.5e-3),
                        **changes)
    return Simulation(settings, 3)


def exposure(simulation, sites, **changes):
    return Exposure(0, 5.0, FIELD.positions(np.asarray(sites)), DWELL, PERIOD, simulation.settings.optics,
                    **{"micro_scan": SCAN, **changes})


def test_the_probes_form_a_square_about_their_position():
    offsets = SCAN.offsets
    assert offsets.shape == (9, 2)
    assert offsets.mean(axis=0) == pytest.approx([0.0, 0.0], abs=1e-25)
    assert offsets[1] - offsets[0] == pytest.approx([0.0, 110e-12]), "x runs fastest"
    assert offsets[3] - offsets[0] == pytest.approx([110e-12, 0.0])
    assert [axis.name for axis in SCAN.axes] == ["y", "x"] and SCAN.axes[0].values() == pytest.approx([-110e-12, 0, 110e-12])
    assert MicroScan(8, 1e-10).axes[0].values()[[3, 4]] == pytest.approx([-0.5e-10, 0.5e-10]), "none stands on the position"


@pytest.mark.parametrize(("points", "step"), [(1, 1e-10), (4, 0.0), (4, float("nan"))])
def test_a_micro_scan_of_one_probe_or_without_a_step_is_refused(points, step):
    with pytest.raises(ValueError, match="at least 2 x 2"):
        MicroScan(points, step)


def test_the_probes_share_the_dwell_and_follow_the_correction_of_drift():
    whole = exposure(virtual(), [3, 7, 12], correction=(1e-10, 0.0), correction_rate=(0.0, 2e-9))
    one = whole.at(2)
    assert one.dwell == pytest.approx(DWELL / 9) and one.period == one.dwell and one.count == 9
    assert one.times()[[0, -1]] == pytest.approx([5.0 + 2 * PERIOD + 1e-3, 5.0 + 2 * PERIOD + 9e-3])
    since = one.times() - whole.elapsed
    expected = FIELD.positions(np.array([12])) + SCAN.offsets + [1e-10, 0.0] + since[:, None] * [0.0, 2e-9]
    assert one.steered() == pytest.approx(expected, rel=1e-12)
    assert whole.probes(2) == pytest.approx(np.concatenate([whole.at(0).positions, whole.at(1).positions]))


def test_each_pattern_is_that_of_a_probe_which_stands_there():
    simulation = virtual()
    scanned = simulation.expected(exposure(simulation, [6, 13]), 1, 1)
    assert scanned.shape == (1, 3, 3, 32, 32)
    probes = (FIELD.positions(np.array([13])) + SCAN.offsets)
    alone = simulation.expected(Exposure(0, 5.0, probes, 1e-3, 1e-3, simulation.settings.optics), 0, 9)
    assert np.array_equal(scanned.reshape(9, 32, 32), alone)
    assert not np.allclose(alone[0], alone[1], rtol=0.01), "the disks of carbon interfere: the probe's place is seen"


def test_all_probes_together_count_the_electrons_of_the_dwell():
    simulation = virtual()
    frames = simulation.frames(exposure(simulation, range(20)), 0, 20)
    electrons = 40e-12 * DWELL / 1.602176634e-19
    on_camera = simulation.expected(exposure(simulation, range(20)), 0, 20).sum(axis=(-2, -1)).mean()
    mean = frames.sum(axis=(1, 2, 3, 4)).mean() / (electrons * on_camera)
    assert mean == pytest.approx(1.0, abs=5 / np.sqrt(20 * electrons))


def test_noise_is_new_in_every_pattern_and_the_same_however_frames_are_read():
    simulation = virtual()
    twice = exposure(simulation, [6, 6])
    frames = simulation.frames(twice, 0, 2)
    assert np.array_equal(virtual().frames(twice, 1, 1), frames[1:])
    assert not np.array_equal(frames[0], frames[1]), "the same places, other electrons"
    assert not np.array_equal(frames[0, 0, 0], simulation.frames(exposure(simulation, [6]), 0, 1)[0, 0, 1])


def test_the_specimen_drifts_while_the_probes_are_visited():
    simulation = virtual(instabilities=Instabilities(drift_speed=1e-8, drift_direction=0.0))
    whole = exposure(simulation, [6, 7])
    stood = simulation.illumination.positions(whole.at(1), 0, 9)
    drift = 1e-8 * whole.at(1).times()
    expected = FIELD.positions(np.array([7])) + SCAN.offsets - np.stack([np.zeros(9), drift], axis=1)
    assert stood == pytest.approx(expected, rel=1e-9)


def test_a_position_at_the_border_may_be_scanned_and_one_outside_may_not():
    simulation = virtual()
    assert simulation.frames(exposure(simulation, [0]), 0, 1).shape == (1, 3, 3, 32, 32)
    outside = Exposure(0, 0.0, np.array([[-1e-9, 0.0]]), DWELL, PERIOD, simulation.settings.optics, micro_scan=SCAN)
    with pytest.raises(ValueError, match="outside the 4 x 5 field"):
        simulation.frames(outside, 0, 1)


def test_the_dose_of_a_micro_scan_is_spread_over_its_probes():
    from edgetem_nodes.physics.damage import Damage

    simulation = virtual(damage=Damage(displacement=True))
    simulation.expose(exposure(simulation, [6, 8]), 1)
    axis = np.linspace(-1.5e-9, 1.5e-9, 301)
    grid = np.stack(np.meshgrid(axis, axis, indexing="ij"), axis=-1).reshape(-1, 2)
    there, beside = (FIELD.positions(np.array([site]))[0] for site in (6, 8))
    brought = simulation.dose.dose_at(grid + there).sum() * (axis[1] - axis[0]) ** 2
    assert brought == pytest.approx(40e-12 * DWELL / 1.602176634e-19, rel=0.02)
    assert simulation.dose.dose_at(beside[None])[0] < 1e-3 * simulation.dose.dose_at(there[None])[0], "only one was visited"
    assert simulation.dose.dose_at((there + SCAN.offsets[0])[None])[0] > 0
