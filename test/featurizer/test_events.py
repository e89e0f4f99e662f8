"""Electron events against counted frames, and the geometry of a detector against its own definition."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from edgetem_nodes.featurizer.patterns.events import Events, dense, native
from edgetem_nodes.featurizer.patterns.geometry import DetectorGeometry
from edgetem_nodes.physics.scan import Axis


@settings(max_examples=60, deadline=None)
@given(hnp.arrays(np.uint16, st.tuples(st.integers(0, 5), st.integers(1, 6), st.integers(1, 6)), elements=st.integers(0, 3)))
def test_frames_become_events_and_frames_again(frames):
    events = Events.of(frames)
    assert len(events) == len(frames) and len(events.pixels) == frames.sum()
    np.testing.assert_array_equal(dense(events), frames)
    np.testing.assert_array_equal(dense(events[1:3]), frames[1:3])


@pytest.mark.parametrize(("given", "expected"), [
    ("?", "u1"), ("i1", "i2"), (">u2", "u2"), ("i8", "f8"), ("u8", "f8"), ("f2", "f4"), (">f4", "f4"), ("g", "f8"),
    ("f8", "f8")])
def test_every_real_type_has_a_native_one_that_holds_it(given, expected):
    frames = np.array([[[0, 1], [1, 0]]]).astype(given)
    assert native(frames).dtype == np.dtype(expected)
    assert np.array_equal(native(frames[:, ::-1]), frames[:, ::-1])
    assert not native(frames).flags.writeable


def test_events_that_cannot_be_are_refused():
    with pytest.raises(ValueError, match="2.5 electrons"):
        Events.of(np.full((1, 1, 1), 2.5))
    for bad in (np.nan, np.inf):
        with pytest.raises(ValueError, match="1 values are not finite numbers of electrons"):
            Events.of(np.full((1, 1, 1), bad))
    with pytest.raises(ValueError, match="-1 electrons"):
        Events.of(np.full((1, 1, 1), -1))
    with pytest.raises(ValueError, match="pixel 4; a frame of 2 x 2"):
        Events(np.array([0, 1]), np.array([4], np.uint32), (2, 2))
    with pytest.raises(ValueError, match="rise from 0 to the number of electrons, 1"):
        Events(np.array([0, 2]), np.array([3], np.uint32), (2, 2))
    with pytest.raises(ValueError, match="step of 2"):
        Events.of(np.zeros((4, 2, 2), int))[::2]
    with pytest.raises(ValueError, match="300 electrons, more than uint8"):
        Events.of(np.full((1, 1, 1), 300)).frames(np.uint8)


@given(st.floats(-math.pi, math.pi), st.booleans())
def test_the_scan_axis_as_seen_on_the_detector_comes_back_as_the_scan_axis(rotation, flipped):
    geometry = DetectorGeometry((0.0, 0.0), 1e-3, rotation=rotation, flipped=flipped)
    # The scan's x axis lies at `rotation` on the detector, from x towards y; a flipped detector shows its y negated.
    seen = np.array([(-1 if flipped else 1) * math.sin(rotation), math.cos(rotation)])
    np.testing.assert_allclose(geometry.to_scan() @ seen, [0, 1], atol=1e-12)
    np.testing.assert_allclose(geometry.to_scan() @ geometry.to_detector(), np.eye(2), atol=1e-12)
    assert np.linalg.det(geometry.to_scan()) == pytest.approx(-1 if flipped else 1)


def test_angles_follow_centre_scale_and_distortion():
    geometry = DetectorGeometry((1.5, 2.0), 2e-3, distortion=np.array([[1.1, 0.0], [0.0, 1 / 1.1]]))
    y, x = geometry.angles((4, 5))
    assert y.shape == (4, 5)
    np.testing.assert_allclose([y[0, 0], x[0, 0]], [-1.5 * 2.2e-3, -2.0 * 2e-3 / 1.1])
    np.testing.assert_allclose(geometry.with_scale(1e-3).angles((4, 5))[0], y / 2)


def test_shifts_are_none_at_the_descan_origin_and_linear_about_it():
    descan = np.array([[1e9, 2e9], [0.0, -1e9]])
    plain = DetectorGeometry((3.0, 4.0), 1e-3, descan=descan)
    moved = DetectorGeometry((3.0, 4.0), 1e-3, descan=descan, descan_origin=(1e-6, 2e-6))
    np.testing.assert_allclose(plain.shifts([[1e-9, 2e-9]]), [[5.0, -2.0]])
    np.testing.assert_allclose(moved.shifts([[1e-6, 2e-6], [1e-6 + 1e-9, 2e-6 + 2e-9]]), [[0, 0], [5.0, -2.0]], atol=1e-6)
    np.testing.assert_allclose(moved.with_scale(2e-3).shifts([1e-6, 2e-6]), [[0, 0]])


def test_axes_in_radians_say_where_the_beam_is():
    axes = (Axis("ky", "rad", 1e-3, -15.5e-3, 32), Axis("kx", "rad", 1e-3, -15.0e-3, 32))
    assert DetectorGeometry.of_axes(axes).center == (15.5, 15.0)
    for bad, message in (((axes[0],), "need two axes"), ((axes[0], Axis("kx", "", 1.0, 0.0, 32)), "uncalibrated"),
                         ((axes[0], Axis("kx", "rad", 2e-3, 0.0, 32)), "not square"),
                         (tuple(Axis("k", "rad", -1e-3, 0.0, 32) for _ in "yx"), "falls along")):
        with pytest.raises(ValueError, match=message):
            DetectorGeometry.of_axes(bad)
    with pytest.raises(ValueError, match="pixel angle of 0"):
        DetectorGeometry((0.0, 0.0), 0.0)
