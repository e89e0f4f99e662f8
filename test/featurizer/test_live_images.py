"""Images of a running scan against the same algorithms applied to the whole scan at once, and against known deflections."""

import math

import numpy as np
import pytest

from edgetem_nodes.featurizer.live_images import IMAGES, LiveImages
from edgetem_nodes.featurizer.patterns import vector_field
from edgetem_nodes.featurizer.patterns.events import Events
from edgetem_nodes.featurizer.patterns.geometry import DetectorGeometry
from edgetem_nodes.featurizer.patterns.instrument import PatternInstrument
from edgetem_nodes.featurizer.ptychography.single_side_band import SingleSideBand
from edgetem_nodes.physics.electrons import wavelength
from edgetem_nodes.physics.scan import Axis, ScanField

ALPHA, TENSION, PIXELS, PIXEL = 20e-3, 80e3, 32, 2e-3
AXES = tuple(Axis(name, "rad", PIXEL, -16 * PIXEL, PIXELS) for name in ("ky", "kx"))
STEP = wavelength(TENSION) / (4 * ALPHA) * 0.98
FIELD = ScanField((0.0, 0.0), (STEP, STEP), (12, 10))
OPTIONS = PatternInstrument(TENSION, ALPHA)
SEEN = tuple(name for name in IMAGES if name != "haadf")
"""What this small detector can show."""


def disks(deflections, electrons=4000.0, seed=0):
    """Counted patterns: a uniform disk that lies off the middle by deflections (frames, 2) [rad]."""
    k = (np.arange(PIXELS) - 16) * PIXEL
    radius = np.hypot(k[None, :, None] - deflections[:, 0, None, None], k[None, None, :] - deflections[:, 1, None, None])
    disk = np.clip((ALPHA - radius) / PIXEL + 0.5, 0, 1)
    return np.random.default_rng(seed).poisson(disk / disk.sum(axis=(1, 2), keepdims=True) * electrons).astype(np.uint16)


def saddle():
    y, x = np.divmod(np.arange(120), 10)
    return 1e-4 * np.stack([np.sin(2 * np.pi * y / 12), np.cos(2 * np.pi * x / 10)], axis=1)


def filled(frames, order, names=SEEN, options=OPTIONS, field=FIELD, raster=True):
    live = LiveImages(names, options)
    live.begin(field, raster)
    for part in np.array_split(order, 7):
        live.add(AXES, field.positions(part), frames[part])
    return live


def test_images_do_not_depend_on_the_order_in_which_frames_come():
    frames = disks(saddle())
    straight, mixed = (filled(frames, order) for order in (np.arange(120), np.random.default_rng(1).permutation(120)))
    assert not straight.refused
    for name in SEEN:
        assert straight.image(name).tobytes() == mixed.image(name).tobytes(), name


def test_the_last_image_of_a_running_scan_is_that_of_the_whole_scan():
    frames = disks(saddle())
    live = filled(frames, np.arange(120))
    offline = SingleSideBand(FIELD, (PIXELS, PIXELS), DetectorGeometry.of_axes(AXES, ALPHA), TENSION)
    offline.add(np.arange(120), frames)
    assert live.image("ssb").tobytes() == offline.phase().tobytes()
    k = (np.arange(PIXELS) - 16) * PIXEL
    radius = np.hypot(k[:, None], k[None, :])
    assert live.image("bf").ravel() == pytest.approx((frames * (radius < ALPHA)).sum(axis=(1, 2)))
    assert live.image("adf").ravel() == pytest.approx((frames * (radius >= ALPHA)).sum(axis=(1, 2)))
    assert live.image("sum").ravel() == pytest.approx(frames.sum(axis=(1, 2)))
    mean = (frames * k[:, None]).sum(axis=(1, 2)) / frames.sum(axis=(1, 2))
    assert live.image("com_y").ravel() == pytest.approx(mean, abs=1e-12)
    field = np.stack([live.image("com_y"), live.image("com_x")], -1)
    assert live.image("curl") == pytest.approx(vector_field.curl(field, FIELD.step))


def test_centre_of_mass_and_quadrants_agree_on_a_disk_that_moves():
    true = 5e-4 * np.random.default_rng(2).standard_normal((120, 2))
    live = filled(disks(true, 4e6), np.arange(120))
    for axis, number in (("y", 0), ("x", 1)):
        assert live.image(f"com_{axis}").ravel() == pytest.approx(true[:, number], abs=5e-5)
        assert live.image(f"dpc_{axis}").ravel() == pytest.approx(true[:, number], abs=2e-4)
    assert live.image("com_magnitude").ravel() == pytest.approx(np.hypot(*true.T), abs=5e-5)


def test_deflections_are_turned_into_the_axes_of_the_scan():
    # The scan's x axis is seen along the detector's y axis.
    frames = disks(np.tile([1e-3, 0.0], (120, 1)), 1e6)
    live = filled(frames, np.arange(120), ("com_y", "com_x"), PatternInstrument(TENSION, ALPHA, rotation=math.pi / 2))
    assert live.image("com_x").mean() == pytest.approx(1e-3, rel=0.02)
    assert live.image("com_y").mean() == pytest.approx(0.0, abs=2e-5)


def test_events_make_the_images_of_frames():
    frames = disks(saddle())
    dense, sparse = filled(frames, np.arange(120)), LiveImages(SEEN, OPTIONS)
    sparse.begin(FIELD, True)
    sparse.add(AXES, FIELD.positions(np.arange(120)), Events.of(frames))
    for name in SEEN:
        assert sparse.image(name) == pytest.approx(dense.image(name), rel=1e-9, abs=1e-12), name


def test_a_sparse_scan_has_no_ptychography_and_goes_on_where_it_was():
    frames, some = disks(saddle()), np.arange(0, 119, 7)
    live = filled(frames, some, raster=False)
    assert set(live.refused) == {"icom", "div", "curl", "ssb"} and "sparse scan" in live.refused["ssb"]
    assert live.image("ssb") is None
    assert np.count_nonzero(np.isfinite(live.image("bf"))) == len(some)
    live.begin(FIELD, False)
    live.add(AXES, FIELD.positions(some + 1), frames[some + 1])
    assert np.count_nonzero(np.isfinite(live.image("bf"))) == 2 * len(some)


def test_a_coarse_raster_has_no_ptychography_and_the_reason_names_the_step():
    field = ScanField((0.0, 0.0), (3 * STEP, 3 * STEP), (12, 10))
    live = filled(disks(saddle()), np.arange(120), field=field)
    assert "too coarse for single side band ptychography" in live.refused["ssb"]
    assert live.image("icom") is not None


def test_a_scan_that_was_aborted_leaves_the_rest_empty():
    live = filled(disks(saddle()), np.arange(70))
    for name in ("bf", "com_y", "icom", "ssb"):
        assert np.isfinite(live.image(name)).ravel()[:70].all() and np.isnan(live.image(name)).ravel()[70:].all(), name


def test_empty_and_saturated_frames_leave_holes():
    frames = disks(saddle())
    frames[3], frames[50, 16, 16] = 0, 65535
    live = filled(frames, np.arange(120))
    assert np.isnan(live.image("com_y")).ravel().nonzero()[0].tolist() == [3, 50]
    assert live.image("sum").ravel()[3] == 0 and np.isnan(live.image("sum").ravel()[50])


def test_a_detector_that_is_too_small_for_an_image_is_named_and_the_others_go_on():
    live = filled(disks(saddle()), np.arange(120), IMAGES)
    assert live.refused == {"haadf": "no pixel lies between 60 and inf mrad; the detector covers 0 to 45.2548 mrad"}
    assert live.image("haadf") is None and np.isfinite(live.image("bf")).all()


def test_bad_input_is_refused_by_name():
    with pytest.raises(ValueError, match="no live image 'bright'; there are sum, bf"):
        LiveImages(("bright",), OPTIONS)
    live = LiveImages(("bf",), OPTIONS)
    live.begin(FIELD, True)
    with pytest.raises(ValueError, match="two axes in rad"):
        live.add((Axis("energy", "J", 1.0, 0.0, 32),), FIELD.positions(np.arange(1)), np.zeros((1, 32)))


def test_an_image_that_cannot_be_made_takes_no_other_away():
    names = ("sum", "com_y", "dpc_y", "icom", "ssb", "bf")
    live = LiveImages(names, PatternInstrument(0.0, 0.0))
    live.begin(FIELD, True)
    live.add(AXES, FIELD.positions(), disks(saddle()))
    assert np.isfinite(live.image("sum")).all() and np.isfinite(live.image("com_y")).all()
    assert all(live.image(name) is None for name in ("dpc_y", "icom", "ssb", "bf"))
    assert set(live.refused) == {"dpc_y", "dpc_x", "icom", "ssb", "bf"} and all(live.refused.values())
