"""Rows of analogue frames whose electrons are counted first, against the electrons that were put in."""

import numpy as np
import pytest
from analytic_patterns import pattern_axes

from edgetem_nodes.featurizer import scalarizers
from edgetem_nodes.featurizer.counted import FrameCounter
from edgetem_nodes.featurizer.parameters import CenterOfMass, CorrectionMaps, Counting, Parameters

AXES = pattern_axes(64)
DARK = np.random.default_rng(0).uniform(90, 110, (64, 64))


def exposed(count, electrons, seed):
    """Analogue frames of electrons of unequal height on a dark signal with noise, and the pixels (y, x) of each frame's."""
    rng = np.random.default_rng(seed)
    frames, places = DARK + rng.normal(0, 2.0, (count, 64, 64)), []
    for frame in frames:
        # Apart from one another, so that coincidence hides none.
        cells = rng.choice(256, rng.poisson(electrons), replace=False)
        place = np.stack([cells // 16 * 4 + 1, cells % 16 * 4 + 1], axis=1) + rng.integers(0, 2, (len(cells), 2))
        frame[place[:, 0], place[:, 1]] += rng.gamma(16.0, 5.0, len(cells))
        places.append(place)
    return np.clip(frames, 0, 65535).astype(np.uint16), places


@pytest.fixture
def parameters(tmp_path):
    np.save(tmp_path / "sample.npy", exposed(60, 30, 1)[0])
    np.save(tmp_path / "dark.npy", DARK)
    return Parameters(scalarizer="total_counts", counting=Counting(str(tmp_path / "sample.npy")),
                      center_of_mass=CenterOfMass("y"), corrections=CorrectionMaps(dark=str(tmp_path / "dark.npy")))


def test_rows_are_numbers_of_electrons_with_their_errors(parameters):
    frames, places = exposed(20, 30, 2)
    rows = scalarizers.measure(frames, AXES, parameters)
    assert rows.valid.all(), rows.failures
    number = np.array([len(place) for place in places])
    assert np.abs(rows.values[:, 0] - number).max() <= 1
    assert rows.standard_errors[:, 0] == pytest.approx(np.sqrt(rows.values[:, 0]))


def test_the_centre_of_mass_is_that_of_the_electrons(parameters):
    frames, places = exposed(20, 30, 3)
    parameters.scalarizer = "center_of_mass"
    rows = scalarizers.measure(frames, AXES, parameters)
    truth = np.array([(place[:, 0] * AXES[0].scale + AXES[0].offset).mean() * 1e3 for place in places])
    assert np.median(np.abs(rows.values[:, 0] - truth)) < 0.02 * np.median(rows.standard_errors[:, 0]) + 1e-9


def test_a_frame_counts_alike_in_whatever_block(parameters):
    frames, _ = exposed(9, 30, 4)
    whole = scalarizers.measure(frames, AXES, parameters)
    parts = [scalarizers.measure(frames[k:k + 1], AXES, parameters) for k in range(9)]
    assert np.concatenate([part.values for part in parts]).tobytes() == whole.values.tobytes()


def test_frames_that_are_too_dense_or_not_finite_are_failures(parameters):
    frames = exposed(3, 30, 5)[0].astype(np.float32)
    frames[1, 5, 5] = np.nan
    frames[2] += 400.0 * (np.random.default_rng(6).random((64, 64)) < 0.2)
    rows = scalarizers.measure(frames, AXES, parameters)
    assert rows.failures[0] == ""
    assert "not numbers" in rows.failures[1]
    assert "too densely to be counted" in rows.failures[2] and np.isnan(rows.values[2, 0])


@pytest.mark.parametrize("electrons", [100, 1000, 30000])
def test_a_disk_of_many_electrons_is_never_taken_for_few(parameters, electrons):
    rng, (y, x) = np.random.default_rng(9), np.mgrid[:64, :64]
    disk = np.flatnonzero(np.hypot(y - 30, x - 36).ravel() < 8)
    frames = DARK + rng.normal(0, 2.0, (10, 64, 64))
    for frame in frames:
        hit = np.bincount(rng.choice(disk, rng.poisson(electrons)), minlength=4096)
        frame += (hit * rng.gamma(16.0, 5.0, 4096)).reshape(64, 64)
    rows = scalarizers.measure(np.clip(frames, 0, 65535).astype(np.uint16), AXES, parameters)
    assert not rows.valid.any(), rows.values
    assert all("too densely" in failure or "saturated" in failure for failure in rows.failures)


def test_saturated_frames_are_failures(parameters):
    frames = exposed(2, 30, 10)[0]
    frames[0], frames[1, 8:16, 8:16] = 65535, 65535
    rows = scalarizers.measure(frames, AXES, parameters)
    assert "4096 pixels are saturated" in rows.failures[0] and "64 pixels are saturated" in rows.failures[1]


def test_the_sample_is_part_of_the_hash_and_bad_ones_are_refused(parameters, tmp_path):
    one = scalarizers.define(parameters).hash
    np.save(tmp_path / "sample.npy", exposed(60, 30, 7)[0])
    assert scalarizers.define(parameters).hash != one
    np.save(tmp_path / "sample.npy", np.random.default_rng(8).normal(100, 2, (60, 64, 64)).astype(np.float32))
    with pytest.raises(ValueError, match="counting.sample .*sample.npy"):
        FrameCounter(parameters.counting, None, 0.0)
