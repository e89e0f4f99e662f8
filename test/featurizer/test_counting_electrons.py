"""Electron counting against the electrons that the simulated cameras are known to have received, and against theory."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

from edgetem_nodes.featurizer.patterns.counting import ElectronCounter, corrected, corrected_error, mean_loss
from edgetem_nodes.featurizer.patterns.events import Events
from edgetem_nodes.physics import counting
from edgetem_nodes.physics.cameras import make_camera
from edgetem_nodes.physics.cameras.clusters import electron_pixels

SHAPE, SEED = (128, 128), 3
DWELL = {"active_pixel": 1e-3, "integrating": 10e-3}
CAMERAS = [("active_pixel", 80e3), ("active_pixel", 300e3), ("integrating", 80e3), ("integrating", 200e3)]


class Camera:
    """A simulated camera that also tells which electrons reached it."""

    def __init__(self, name: str, high_tension: float, **options) -> None:
        self.model = make_camera(name, high_tension, **options)
        self.dwell = DWELL[name]
        self.live = self.model.live_fraction(self.dwell)

    def frames(self, pattern: np.ndarray, count: int, sequence: int) -> np.ndarray:
        """Frames of a pattern (rows, columns) of mean electrons that the camera sees."""
        expected = np.repeat((pattern / self.live).astype(np.float32)[None], count, axis=0)
        return self.model.frames(expected, self.dwell, SEED, sequence, 0)

    def truth(self, pattern: np.ndarray, count: int, sequence: int) -> list[np.ndarray]:
        """Pixels of the electrons of each of those frames: the first that the camera draws from the frame's own generator."""
        mean = (pattern / self.live).astype(np.float32).astype(float) * self.live
        return [electron_pixels(mean, counting.generator(SEED, sequence, index)) for index in range(count)]

    def references(self) -> tuple[np.ndarray, np.ndarray]:
        """Dark reference, and the true gain: one measured from few flat frames would be noisier than the pixels are unequal."""
        maps = self.model.pixel_maps(SHAPE, SEED)
        return self.model.dark_reference(SHAPE, SEED, self.dwell), maps.gain * maps.alive


def even(rate: float) -> np.ndarray:
    return np.full(SHAPE, rate)


@pytest.fixture(scope="module")
def cameras() -> dict[tuple[str, float], tuple[Camera, ElectronCounter]]:
    """Every camera with a counter that has learned from 100 frames of 0.003 electrons a pixel."""
    made = {}
    for key in CAMERAS:
        camera = Camera(*key)
        made[key] = camera, ElectronCounter.learn(camera.frames(even(0.003), 100, 0), *camera.references())
    return made


def near(pixels: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Which pixels have one of the others among themselves and their 8 neighbours."""
    lit = np.zeros((SHAPE[0] + 2, SHAPE[1] + 2), bool)
    rows, columns = np.divmod(others.astype(int), SHAPE[1])
    for y in range(3):
        for x in range(3):
            lit[rows + y, columns + x] = True
    rows, columns = np.divmod(pixels.astype(int), SHAPE[1])
    return lit[rows + 1, columns + 1]


@pytest.mark.parametrize("key", CAMERAS)
def test_electrons_that_arrive_alone_are_found_and_little_else(cameras, key):
    """Efficiency and false electrons against the truth, at 0.0005 electrons a pixel, and against what the counter says."""
    camera, counter = cameras[key]
    pattern, count = even(0.0005), 200
    counted = counter(camera.frames(pattern, count, 5))
    truth = camera.truth(pattern, count, 5)
    found = missed = false = 0
    for index, pixels in enumerate(truth):
        mine = counted.events[index:index + 1].pixels
        hit = near(pixels, mine)
        found, missed = found + hit.sum(), missed + (~hit).sum()
        false += (~near(mine, pixels)).sum()
    efficiency = found / (found + missed)
    assert efficiency > 0.985
    assert efficiency == pytest.approx(counter.learned.efficiency * (1 - counter.learned.xray_share), abs=0.008)
    # what lies beside no electron: noise, and electrons of 80 keV that scattered far in the thick sensor
    assert false / count < max(3 * counter.learned.false_positives, 0.5)


def test_noise_and_signal_of_an_electron_are_those_of_the_camera(cameras):
    for camera, counter in cameras.values():
        known = counter.learned
        assert known.background_noise == pytest.approx(camera.model.read_noise, rel=0.04)
        # the Landau tail, and what spreads over more than 5 x 5 pixels, is not in the mean
        assert known.counts_per_electron == pytest.approx(camera.model.counts_per_electron, rel=0.08)
        assert known.hot_pixels < 5


@pytest.mark.parametrize("sigmas", [3.0, 3.5])
def test_false_electrons_are_those_of_blank_frames(sigmas):
    """Told from the sample's minima, or from blank frames; counted in other blank frames; and by the normal distribution."""
    from scipy.stats import norm

    camera = Camera("active_pixel", 200e3)
    sample, blank = camera.frames(even(0.002), 60, 1), camera.frames(even(0.0), 60, 2)
    from_minima = ElectronCounter.learn(sample, camera.references()[0], sigmas=sigmas)
    from_blank = ElectronCounter.learn(sample, camera.frames(even(0.0), 60, 3), sigmas=sigmas)
    truth = len(from_minima(blank).heights) / 60
    assert from_minima.learned.false_positives == pytest.approx(truth, rel=0.2)
    assert from_blank.learned.false_positives == pytest.approx(len(from_blank(blank).heights) / 60, rel=0.2)
    assert truth == pytest.approx(SHAPE[0] * SHAPE[1] * norm.sf(sigmas), rel=0.35)


@pytest.mark.parametrize("key", CAMERAS)
@pytest.mark.parametrize("rate", [0.003, 0.02, 0.06])
def test_dose_is_linear_once_coincidence_is_corrected(cameras, key, rate):
    """At 0.06 electrons a pixel a quarter is hidden; the learned area gives them back within 1.5 % and its own error."""
    camera, counter = cameras[key]
    count = 60
    counted = counter(camera.frames(even(rate), count, 7))
    arrived = sum(map(len, camera.truth(even(rate), count, 7)))
    number, pixels = len(counted.heights), count * SHAPE[0] * SHAPE[1]
    expected = counter.learned.efficiency * (1 - counter.learned.xray_share)
    area, error = counter.learned.coincidence_area, counter.learned.coincidence_area_error
    estimate, more = (float(corrected(number / pixels, one)) * pixels for one in (area, area + error))
    assert more / estimate < 1.02
    assert estimate / arrived == pytest.approx(expected, abs=0.015 + (more - estimate) / arrived + 2 / np.sqrt(arrived))
    assert number / (1 - counted.coincidence_loss) == pytest.approx(estimate, rel=0.01)
    if rate == 0.06:
        assert number / arrived < 0.8


def test_coincidence_of_electrons_that_light_one_pixel_is_that_of_theory():
    """(1 - exp(-9 r)) / 9 by a Monte Carlo of point-like electrons; the learned area is 9 within its error."""
    rng = np.random.default_rng(4)
    heights = np.array([100.0, 37.0])

    def frames(rate: float, count: int) -> np.ndarray:
        hits = rng.poisson(rate, (count, *SHAPE))
        return (rng.normal(0, 1, hits.shape) + hits * (heights[0] + heights[1] * rng.random(hits.shape))).astype(np.float32)

    counter = ElectronCounter.learn(frames(0.005, 100), np.zeros(SHAPE), sigmas=6.0, xray_sigmas=100.0, largest_loss=1.0)
    known = counter.learned
    assert abs(known.coincidence_area - 9) < 3 * known.coincidence_area_error < 2
    for rate in (0.01, 0.05, 0.1):
        found = len(counter(frames(rate, 60)).heights) / 60 / (SHAPE[0] * SHAPE[1])
        assert found == pytest.approx((1 - np.exp(-9 * rate)) / 9, rel=0.01)
        assert float(corrected(found, 9.0)) == pytest.approx(rate, rel=0.02)
    assert np.isnan(corrected(np.array(0.12), 9.0))


def test_loss_of_a_bright_disk_is_not_diluted_by_the_dark_around_it():
    rows, columns = np.indices(SHAPE)
    disk = ((rows - 64)**2 + (columns - 64)**2 < 20**2) * 0.04
    camera = Camera("active_pixel", 200e3)
    counter = ElectronCounter.learn(camera.frames(disk, 60, 1), *camera.references())
    counted = counter(camera.frames(disk, 60, 2))
    arrived = sum(map(len, camera.truth(disk, 60, 2)))
    missing = 1 - len(counted.heights) / (arrived * counter.learned.efficiency)
    assert counted.coincidence_loss == pytest.approx(missing, abs=0.03)
    assert missing > 0.15
    assert mean_loss(np.zeros(SHAPE), 10, 9.0) == 0


def test_center_of_mass_of_events_is_that_of_the_electrons():
    """The error that counting adds is less than half of the shot noise, and the mean is right within its own error."""
    rows, columns = np.indices(SHAPE)
    disk = ((rows - 63.2)**2 + (columns - 65.7)**2 < 25**2) * 0.004
    camera = Camera("integrating", 200e3)
    counter = ElectronCounter.learn(camera.frames(disk, 100, 1), *camera.references())
    counted, truth = counter(camera.frames(disk, 200, 2)).events, camera.truth(disk, 200, 2)

    def center(pixels: np.ndarray) -> np.ndarray:
        return np.mean(np.divmod(pixels.astype(int), SHAPE[1]), axis=1)

    measured = np.array([center(counted[index:index + 1].pixels) for index in range(200)])
    true = np.array([center(pixels) for pixels in truth])
    shot = true.std(axis=0)
    assert (np.abs((measured - true).std(axis=0)) < 0.5 * shot).all()
    assert (np.abs((measured - true).mean(axis=0)) < 4 * (measured - true).std(axis=0) / np.sqrt(200)).all()
    assert np.allclose(true.mean(axis=0), [63.2, 65.7], atol=0.3)


def test_centroids_place_electrons_better_than_pixels():
    """Blots of 0.6 pixels at known places between pixels; the finer frame must place them three times as well as pixels do."""
    rng = np.random.default_rng(5)
    rows, columns = np.indices(SHAPE)
    frames, places = rng.normal(0, 1, (64, *SHAPE)).astype(np.float32), []
    corners = rng.integers(5, 13, (64, 2))
    for frame, corner in zip(frames, corners, strict=True):
        for y, x in corner + 12 * np.stack(np.indices((9, 9)), axis=-1).reshape(-1, 2):
            place = np.array([y, x]) + rng.uniform(-0.5, 0.5, 2)
            places.append(place)
            cut = np.s_[y - 4:y + 5, x - 4:x + 5]
            frame[cut] += 400 * np.exp(-((rows[cut] - place[0])**2 + (columns[cut] - place[1])**2) / (2 * 0.6**2))
    counter = ElectronCounter.learn(frames, np.zeros(SHAPE), sigmas=6.0)
    errors = {}
    for parts in (1, 8):
        events = ElectronCounter(counter.learned, subpixels=parts)(frames).events
        assert events.shape == (128 * parts, 128 * parts)
        assert len(events.pixels) == len(places)
        found = (np.stack(np.divmod(events.pixels.astype(int), events.shape[1]), axis=1) + 0.5) / parts - 0.5
        # events of a frame come row by row; those of the grid of blots are told apart by their cell
        frame = np.repeat(np.arange(64), np.diff(events.starts))
        cell = np.rint((found - corners[frame]) / 12).astype(int)
        order = frame * 100 + cell[:, 0] * 10 + cell[:, 1]
        errors[parts] = np.sqrt(((found[np.argsort(order)] - places)**2).mean())
    assert errors[1] == pytest.approx(1 / np.sqrt(12), rel=0.05)
    assert errors[8] < errors[1] / 3


def test_result_does_not_depend_on_blocks_threads_or_type(cameras):
    camera, counter = cameras["active_pixel", 300e3]
    frames = camera.frames(even(0.01), 30, 9)
    whole = counter(frames)
    parts = [counter(frames[first:first + 7]) for first in range(0, 30, 7)]
    assert np.array_equal(np.concatenate([part.events.pixels for part in parts]), whole.events.pixels)
    for other in (ElectronCounter(counter.learned, threads=3)(frames), counter(frames.astype(np.float32)),
                  counter(frames.astype(np.int32)), counter(frames.astype(">u2")),
                  counter(frames.astype(np.longdouble)), counter.found(frames.astype(">f8"))):
        assert np.array_equal(other.events.pixels, whole.events.pixels)
        assert np.array_equal(other.events.starts, whole.events.starts)
    half = frames.astype(np.float16)
    assert np.array_equal(counter(half).events.pixels, counter(half.astype(float)).events.pixels)


def test_plain_numpy_finds_the_same_maxima(cameras):
    """Local maxima by scipy's filter."""
    from scipy.ndimage import maximum_filter

    camera, counter = cameras["integrating", 200e3]
    known = counter.learned
    for frame in camera.frames(even(0.02), 3, 11):
        value = np.where(known.inverse_gain > 0, (frame - known.dark) * known.inverse_gain, -np.inf)
        peak = (value == maximum_filter(value, 3, mode="constant", cval=-np.inf)) & (value > known.threshold)
        peak &= value <= known.xray_threshold
        assert np.array_equal(counter(frame[None]).events.pixels, np.flatnonzero(peak))


@pytest.mark.parametrize("dtype", [np.float16, np.longdouble])
def test_a_counter_learns_from_any_floating_type(dtype):
    rng = np.random.default_rng(20)
    frames = (100 * rng.poisson(0.01, (40, 64, 64)) + rng.normal(0, 1, (40, 64, 64))).astype(dtype)
    ours, theirs = (ElectronCounter.learn(one, np.zeros((64, 64)), sigmas=6.0).learned
                    for one in (frames, frames.astype(float)))
    assert ours.electrons == theirs.electrons > 1000


def test_error_of_a_corrected_dose_is_that_of_a_monte_carlo():
    rng = np.random.default_rng(21)
    counted, area = 0.05 + 3e-4 * rng.normal(size=100_000), 11.0 + 0.4 * rng.normal(size=100_000)
    spread = np.array([corrected(n, a) for n, a in zip(counted[:20_000], area, strict=False)]).std()
    assert corrected_error(0.05, 3e-4, 11.0, 0.4) == pytest.approx(spread, rel=0.03)
    assert corrected_error(0.05, 3e-4, 11.0, np.inf) == np.inf
    assert corrected_error(0.0, 1e-5, 9.0, np.inf) == pytest.approx(1e-5)
    assert np.isnan(corrected_error(0.12, 1e-4, 9.0, 0.3))


def test_small_samples_say_how_little_they_know():
    """Samples of some 300 electrons that light one pixel each, for which the area is 9: what they make of a dose of 0.03."""
    pulls = []
    for seed in range(30):
        rng = np.random.default_rng(seed)

        def frames(rate: float, count: int) -> np.ndarray:
            return 100.0 * rng.poisson(rate, (count, 64, 64)) + rng.normal(0, 1, (count, 64, 64))

        known = ElectronCounter.learn(frames(0.00125, 60), np.zeros((64, 64)), sigmas=6.0, xray_sigmas=1e6).learned
        assert 200 < known.electrons < 400
        counted = (1 - np.exp(-9 * 0.03)) / 9
        error = corrected_error(counted, 0.0, known.coincidence_area, known.coincidence_area_error)
        pulls.append((corrected(counted, known.coincidence_area) - 0.03) / error)
    assert np.sqrt(np.mean(np.square(pulls))) < 1.2


def test_dark_reference_from_the_sample_serves_as_well():
    camera = Camera("active_pixel", 200e3)
    dark, gain = camera.references()
    sample, frames = camera.frames(even(0.003), 100, 1), camera.frames(even(0.003), 50, 2)
    ours, theirs = (ElectronCounter.learn(sample, one, gain)(frames) for one in (None, dark))
    assert len(ours.heights) == pytest.approx(len(theirs.heights), rel=0.01)


def test_hot_and_dead_pixels_are_left_out(cameras):
    camera, _ = cameras["active_pixel", 300e3]
    rng = np.random.default_rng(6)
    dark, gain = camera.references()
    gain = gain.copy()
    sample, frames = camera.frames(even(0.003), 100, 0), camera.frames(even(0.003), 50, 1)
    for block in (sample, frames):
        block[:, 40, 50] += (rng.random(len(block)) < 0.7).astype(np.uint16) * 200
        block[:, 90, 20] = 4095
    gain[90, 20] = 0
    counter = ElectronCounter.learn(sample, dark, gain)
    fired = counter(frames).events.frames().sum(axis=0)
    assert counter.learned.hot_pixels == 1
    assert fired[40, 50] == fired[90, 20] == 0
    assert fired.sum() == pytest.approx(0.003 * 50 * 128**2, rel=0.1)


def test_xrays_and_saturated_pixels_are_told_and_not_counted(cameras):
    camera, counter = cameras["integrating", 200e3]
    frames = camera.frames(even(0.001), 3, 13)
    before = counter(frames)
    frames[1, 64, 64] += 200000
    after = ElectronCounter(counter.learned, saturation=150000.0)(frames)
    assert (after.rejected - before.rejected).tolist() == [0, 1, 0]
    assert after.saturated.tolist() == [0, 1, 0]
    assert not after.events.frames()[1, 63:66, 63:66].any()


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_empty_frames_and_values_that_are_no_numbers(cameras, bad):
    camera, counter = cameras["active_pixel", 300e3]
    frames = camera.frames(even(0.003), 4, 14).astype(np.float32)
    clean = counter(frames)
    frames[1] = counter.learned.dark
    frames[2, 5, 5] = bad
    counted = counter(frames)
    numbers = np.diff(counted.events.starts)
    assert numbers[1] == numbers[2] == 0
    assert numbers[[0, 3]].tolist() == np.diff(clean.events.starts)[[0, 3]].tolist()
    assert [bool(failure) for failure in counted.failures] == [False, False, True, False]
    assert "1 of the 16384 pixels" in counted.failures[2]
    nothing = counter(frames[:0])
    assert (len(nothing.events), nothing.coincidence_loss, nothing.failures) == (0, 0.0, [])


def test_frames_too_dense_to_count_are_refused(cameras):
    camera, counter = cameras["integrating", 200e3]
    frames = camera.frames(even(0.2), 5, 15)
    with pytest.raises(ValueError, match="coincidence hides"):
        counter(frames)
    dense = camera.frames(even(5.0), 20, 16)
    with pytest.raises(ValueError, match="does not belong to these frames, or the beam is not sparse"):
        ElectronCounter.learn(dense, counter.learned.dark)
    with pytest.raises(ValueError, match="sparse"):
        ElectronCounter.learn(dense)


@pytest.mark.parametrize(("frames", "options", "message"), [
    (np.zeros((20, 8)), {}, "not real numbers"),
    (np.zeros((20, 8, 8)), {}, "counted already"),
    (np.full((20, 8, 8), np.nan), {}, "not finite"),
    (np.random.default_rng(0).normal(0, 1, (20, 64, 64)), {}, "electrons; 200 or more"),
    (np.random.default_rng(0).normal(0, 1, (5, 64, 64)), {}, "16 or more"),
    (np.random.default_rng(0).normal(0, 1, (20, 64, 64)), {"dark": np.zeros((8, 8))}, "dark reference"),
    (np.random.default_rng(0).normal(0, 1, (20, 64, 64)), {"gain": np.zeros((64, 64))}, "every pixel as dead"),
    (np.random.default_rng(0).normal(0, 1, (20, 64, 64)), {"sigmas": 1.0}, "not between 3 and 12"),
    (np.random.default_rng(0).normal(0, 1, (20, 64, 64)), {"subpixels": 0}, "parts of a pixel"),
])
def test_bad_samples_are_refused(frames, options, message):
    with pytest.raises(ValueError, match=message):
        ElectronCounter.learn(frames, **options)


def test_the_largest_rate_is_where_counting_begins_to_be_refused(cameras):
    camera, counter = cameras["integrating", 200e3]
    rate = counter.largest_rate
    hit = rate * counter.learned.coincidence_area
    assert (1 - np.exp(-hit)) / hit == pytest.approx(0.7)
    assert counter(camera.frames(even(0.85 * rate), 20, 18)).coincidence_loss < 0.3
    with pytest.raises(ValueError, match="coincidence hides"):
        counter(camera.frames(even(1.2 * rate), 20, 19))
    assert ElectronCounter(counter.learned, largest_loss=1.0).largest_rate == np.inf


def test_frames_of_another_shape_are_refused(cameras):
    _, counter = cameras["integrating", 200e3]
    with pytest.raises(ValueError, match="do not fit"):
        counter(np.zeros((1, 64, 64), np.uint32))


def test_the_example_of_the_page_runs():
    page = (Path(__file__).resolve().parents[2] / "docs" / "counting.md").read_text()
    names = {}
    for code in re.findall(r"```python\n(.*?)```", page, re.DOTALL):
        exec(compile(code, "counting.md", "exec"), names)  # noqa: S102  (our own page)
    assert names["counted"].events.shape == (128, 128)
    assert names["dose"] == pytest.approx(0.003, rel=0.05)
    assert 0 < names["error"] < 0.02 * names["dose"]


def test_events_feed_what_takes_events(cameras):
    camera, counter = cameras["active_pixel", 300e3]
    counted = counter(camera.frames(even(0.003), 10, 17))
    assert isinstance(counted.events, Events)
    assert counted.events.frames().sum() == len(counted.heights)
