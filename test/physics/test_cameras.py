"""Every camera: statistics against theory, limits, references, and that a frame is its own."""

import numpy as np
import pytest

from edgetem_nodes.physics import counting
from edgetem_nodes.physics.cameras import CAMERAS, ActivePixel, HybridPixel, Ideal, Integrating, make_camera
from edgetem_nodes.physics.cameras.clusters import Response, electron_pixels
from edgetem_nodes.physics.cameras.dead_time import throughput
from edgetem_nodes.physics.cameras.fixed_pattern import Pattern

DWELL = 2e-3
EVEN = Pattern()
SILICON = sorted(set(CAMERAS) - {"ideal"})


def camera(name: str, **options):
    """A camera for 80 kV without a fixed pattern."""
    if name == "hybrid_pixel":
        options = {"pulse_dead_time": 0.0, **options}
    return make_camera(name, 80e3, **({} if name == "ideal" else {"pattern": EVEN, **options}))


def flat_frames(model, dose, count=60, shape=(32, 32), seed=5, sequence=1):
    """Evenly lit frames, float64, of which the camera sees `dose` electrons per pixel."""
    expected = np.full((count, *shape), dose / model.live_fraction(DWELL), np.float32)
    return model.frames(expected, DWELL, seed, sequence, 0).astype(float)


@pytest.mark.parametrize("name", list(CAMERAS))
@pytest.mark.parametrize("shape", [(9, 12), (25,)])
def test_a_frame_does_not_depend_on_how_blocks_are_cut(name, shape):
    model = make_camera(name, 80e3)
    rng = np.random.default_rng(0)
    expected = (rng.random((16, *shape)) * 10 ** rng.uniform(-2, 3, (16, *shape))).astype(np.float32)
    whole = model.frames(expected, DWELL, 3, 4, 10)
    single = [model.frames(expected[n:n + 1], DWELL, 3, 4, 10 + n)[0] for n in range(16)]
    assert whole.dtype == model.dtype and whole.shape == expected.shape
    assert np.array_equal(whole, np.stack(single))
    assert not np.array_equal(whole, model.frames(expected, DWELL, 3, 5, 10))


WIDE = {"hybrid_pixel": {"depth": 24, "shortest_frame": DWELL / 2, "readout_dead_time": 0.0},
        "active_pixel": {"converter_bits": 16}}
"""Modes in which a bright pixel does not saturate."""


@pytest.mark.parametrize("name", list(CAMERAS))
@pytest.mark.parametrize("dose", [0.3, 5.0, 100.0])
def test_mean_variance_and_dqe_agree_with_the_response(name, dose):
    model = camera(name, **WIDE.get(name, {}))
    expected = np.zeros((500, 24, 24), np.float32)
    expected[:, 6:18, 6:18] = dose / model.live_fraction(DWELL)
    sums = (model.frames(expected, DWELL, 5, 1, 0) - float(getattr(model, "offset", 0))).sum(axis=(1, 2))
    electrons, noise = dose * 144, getattr(model, "read_noise", 0.0)
    efficiency = model.response.detective_quantum_efficiency if name in SILICON else 1.0
    # the signal of n electrons: mean n <s>, variance n <s^2> = n <s>^2 / DQE(0), and the read noise of every pixel
    variance = electrons * model.counts_per_electron ** 2 / efficiency + 576 * (noise ** 2 + 1 / 12 * (noise > 0))
    assert sums.mean() == pytest.approx(electrons * model.counts_per_electron, abs=4 * np.sqrt(variance / 500))
    assert sums.var(ddof=1) == pytest.approx(variance, rel=0.28)


@pytest.mark.parametrize("name", ["ideal", "hybrid_pixel"])
def test_counts_where_an_electron_gives_at_most_one_are_poisson_distributed(name):
    counts = flat_frames(camera(name, **({"threshold": 45e3} if name == "hybrid_pixel" else {})), 3.0, count=150)
    inner = counts[:, 3:-3, 3:-3]
    assert inner.var() == pytest.approx(inner.mean(), rel=0.02)


def test_the_ideal_camera_is_poisson_counting_bit_for_bit():
    expected = np.random.default_rng(1).random((5, 16, 16)).astype(np.float32)
    assert np.array_equal(Ideal().frames(expected, 1e-3, 1, 2, 3), counting.count(expected, 1, 2, 3, np.dtype("<u2")))


@pytest.mark.parametrize(("depth", "largest"), [(6, 63), (12, 4095), (24, 2 ** 24 - 1)])
def test_hybrid_counters_saturate_at_their_depth(depth, largest):
    model = HybridPixel(high_tension=80e3, depth=depth, pulse_dead_time=0.0, pattern=EVEN)
    frames = model.frames(np.full((1, 4, 4), 1e9, np.float32), 4e-3, 0, 0, 0)
    assert frames.dtype == np.dtype("<u4" if depth == 24 else "<u2")
    assert (frames == largest).all()


@pytest.mark.parametrize("paralysable", [True, False])
@pytest.mark.parametrize("dose", [20.0, 1000.0])
def test_hybrid_count_rate_follows_the_dead_time_formula(paralysable, dose):
    dead = 2e-5 if dose < 100 else 1e-6
    model = HybridPixel(high_tension=60e3, threshold=40e3, pulse_dead_time=dead, paralysable=paralysable, pattern=EVEN)
    counted = flat_frames(model, dose, count=12)[:, 4:-4, 4:-4].mean()
    rate = dose * model.counts_per_electron / DWELL
    assert counted == pytest.approx(dose * model.counts_per_electron * throughput(rate * dead, paralysable), rel=0.01)


@pytest.mark.parametrize("paralysable", [True, False])
def test_electrons_of_a_counting_camera_are_corrected_for_dead_time(paralysable):
    model = HybridPixel(high_tension=60e3, pulse_dead_time=1e-6, paralysable=paralysable, pattern=EVEN)
    frames = flat_frames(model, 800.0, count=10)
    assert model.electrons(frames)[:, 4:-4, 4:-4].mean() < 700
    assert model.electrons(frames, dwell=DWELL)[:, 4:-4, 4:-4].mean() == pytest.approx(800, rel=0.01)


@pytest.mark.parametrize("name", SILICON)
@pytest.mark.parametrize("dose", [2.0, 1500.0])
def test_point_spread_is_that_of_the_response_and_conserves_the_signal(name, dose):
    model = camera(name, **({"converter_bits": 16, "pairs_per_count": 100.0} if name == "active_pixel" else {}))
    expected = np.zeros((600, 15, 15), np.float32)
    expected[:, 7, 7] = dose / model.live_fraction(DWELL)
    mean = model.frames(expected, DWELL, 1, 1, 0).mean(axis=0) - getattr(model, "offset", 0)
    spread = model.response.point_spread
    up = spread.shape[0] // 2
    seen = mean[7 - up:8 + up, 7 - up:8 + up] / dose
    error = 6 * model.counts_per_electron / np.sqrt(600 * dose) + 4 * getattr(model, "read_noise", 0) / np.sqrt(600) / dose
    assert seen == pytest.approx(spread, abs=error)
    assert seen.sum() == pytest.approx(model.counts_per_electron, abs=4 * error)


def test_a_lower_threshold_counts_more_and_blurs_more():
    low, high = (HybridPixel(high_tension=80e3, threshold=value).response for value in (10e3, 45e3))
    nyquist = np.array([0.5])
    assert low.gain > 1.3 > 0.9 > high.gain
    assert low.modulation_transfer(nyquist) < high.modulation_transfer(nyquist) < 2 / np.pi + 0.02
    assert low.detective_quantum_efficiency > high.detective_quantum_efficiency


def test_charge_summing_has_a_sharp_image_and_loses_few_electrons():
    single = HybridPixel(high_tension=80e3).response
    summing = HybridPixel(high_tension=80e3, threshold=20e3, charge_summing=True).response
    assert summing.library.sum(axis=(1, 2)).max() == 1
    assert summing.detective_quantum_efficiency > single.detective_quantum_efficiency + 0.05


def test_transfer_at_nyquist_measured_with_a_sine_pattern():
    model = camera("hybrid_pixel")
    wave = 50 * (1 + 0.5 * np.cos(np.pi * np.arange(64)))
    frames = model.frames(np.broadcast_to(wave.astype(np.float32), (40, 64, 64)), DWELL, 1, 1, 0).astype(float)
    inner = frames[:, 4:-4, 4:-4].mean(axis=(0, 1))
    contrast = (inner[::2].mean() - inner[1::2].mean()) / (inner[::2].mean() + inner[1::2].mean())
    # dose given per pixel is already averaged over the entrance pixel: the transform of the point spread between pixels
    across = model.response.point_spread.sum(axis=0)
    transfer = np.abs(across @ (-1.0) ** np.arange(len(across))) / across.sum()
    assert contrast == pytest.approx(0.5 * transfer, rel=0.02)


def test_a_perfect_pixel_transfers_a_sinc():
    entry = np.stack([np.full(1000, 0.5), (np.arange(1000) + 0.5) / 1000], axis=1)
    perfect = Response(np.ones((1000, 1, 1), np.int32), entry)
    assert perfect.modulation_transfer(np.array([0.0, 0.25, 0.5])) == pytest.approx(np.sinc([0, 0.25, 0.5]), abs=1e-5)


def test_the_active_pixel_cameras_transfer_is_that_of_its_diffusion():
    response = ActivePixel(high_tension=300e3, diffusion=3e-6, pitch=6e-6).response
    frequency = np.array([0.1, 0.25, 0.5])
    theory = np.sinc(frequency) * np.exp(-2 * (np.pi * 0.5 * frequency) ** 2)
    assert response.modulation_transfer(frequency) == pytest.approx(theory, abs=0.02)


def test_the_integrating_camera_spans_a_million_to_one_in_a_frame():
    model = Integrating(high_tension=200e3, pattern=EVEN)
    assert model.dynamic_range > 1e5
    live = model.live_fraction(DWELL)
    dose = np.zeros((400, 9, 21), np.float32)
    dose[:, 4, 4], dose[:, 4, 16] = 9e5 / live, 1.0 / live
    frames = model.frames(dose, DWELL, 1, 1, 0)
    bright, faint = (model.electrons(frames[:, 2:7, c - 2:c + 3]).sum(axis=(1, 2)) for c in (4, 16))
    assert frames.max() < model.saturation
    assert bright.mean() == pytest.approx(9e5, rel=2e-3)
    assert bright.mean() / max(faint.mean(), 1e-9) > 1e5
    assert faint.mean() == pytest.approx(1.0, abs=0.25)


def test_one_electron_of_200_keV_stands_140_times_above_the_integrating_cameras_noise():
    model = Integrating(high_tension=200e3, pattern=EVEN)
    blank = model.frames(np.zeros((20, 32, 32), np.float32), DWELL, 1, 1, 0).astype(float)
    whole = 200e3 * model.gain
    assert whole / blank.std() == pytest.approx(140, rel=0.02)
    assert 0.85 * whole < model.counts_per_electron < whole


def test_events_of_the_active_pixel_camera_have_landau_amplitudes():
    from scipy import stats

    from edgetem_nodes.physics.cameras import landau, silicon

    model = ActivePixel(high_tension=300e3, pattern=EVEN, noise_pairs=0.0, pairs_per_count=1.0, converter_bits=16)
    expected = np.zeros((3000, 7, 7), np.float32)
    expected[:, 3, 3] = 0.02
    frames = model.frames(expected, DWELL, 1, 1, 0).astype(float) - model.offset
    pairs = frames.sum(axis=(1, 2))
    energies = pairs[pairs > 100] * silicon.PAIR_ENERGY
    xi, peak = landau.width(300e3, 10e-6), landau.most_probable(300e3, 10e-6)
    assert 35 < len(energies) < 90
    law = stats.landau(loc=np.log(np.pi / 2), scale=np.pi / 2)
    assert stats.kstest((energies - peak) / xi + landau.MODE, law.cdf).pvalue > 1e-3


@pytest.mark.parametrize("name", SILICON)
def test_references_recover_the_true_maps_and_flatten_an_image(name):
    model = make_camera(name, 80e3, pattern=Pattern(gain=0.03, dark=0 if name == "hybrid_pixel" else 30.0, dead=0.01),
                        **({"pulse_dead_time": 0.0} if name == "hybrid_pixel" else {}),
                        **({"converter_bits": 16} if name == "active_pixel" else {}))
    shape, seed = (24, 24), 9
    dark = model.dark_reference(shape, seed, DWELL, frames=40)
    gain = model.gain_reference(shape, seed, DWELL, frames=40)
    true = model.pixel_maps(shape, seed)
    assert dark.dtype == gain.dtype == np.float32
    assert np.array_equal(gain == 0, true.alive == 0)
    if name != "hybrid_pixel":
        assert np.corrcoef(dark.ravel(), true.dark.ravel())[0, 1] > 0.9
    inner = (slice(4, -4), slice(4, -4))
    good = (true.alive > 0)[inner]
    assert np.corrcoef(gain[inner][good], true.gain[inner][good])[0, 1] > 0.7
    frames = model.frames(np.full((30, *shape), 50 / model.live_fraction(DWELL), np.float32), DWELL, seed, 1, 0)
    electrons = model.electrons(frames, DWELL, dark, gain).mean(axis=0)[inner][good]
    assert electrons.mean() == pytest.approx(50, rel=0.03)
    raw = model.electrons(frames, DWELL).mean(axis=0)[inner][good]
    assert electrons.std() < raw.std()


def test_fixed_patterns_belong_to_the_seed():
    model = HybridPixel(high_tension=80e3)
    assert np.array_equal(model.pixel_maps((32, 32), 1).gain, model.pixel_maps((32, 32), 1).gain)
    assert not np.array_equal(model.pixel_maps((32, 32), 1).gain, model.pixel_maps((32, 32), 2).gain)


def test_dead_pixels_are_dark_and_hot_ones_count_without_a_beam():
    model = HybridPixel(high_tension=80e3, pattern=Pattern(dead=0.05, hot=0.05))
    maps = model.pixel_maps((32, 32), 3)
    blank = model.frames(np.zeros((50, 32, 32), np.float32), DWELL, 3, 0, 0).sum(axis=0)
    lit = model.frames(np.full((50, 32, 32), 20, np.float32), DWELL, 3, 1, 0).sum(axis=0)
    assert (lit[maps.alive == 0] == 0).all() and (lit[maps.alive == 1] > 0).all()
    assert (blank[maps.heat == 0] == 0).all()
    assert blank.sum() == pytest.approx(maps.heat.sum() * 1e4 * DWELL * 50, rel=0.05)


@pytest.mark.parametrize("name", SILICON)
def test_a_spectrum_is_recorded_as_a_line_of_channels(name):
    model = camera(name, **({"converter_bits": 16} if name == "active_pixel" else {}))
    expected = np.full((30, 200), 40 / model.live_fraction(DWELL), np.float32)
    lines = model.electrons(model.frames(expected, DWELL, 1, 1, 0), DWELL)
    assert lines.shape == (30, 200)
    assert lines[:, 8:-8].mean() == pytest.approx(40, rel=0.02)


@pytest.mark.parametrize("name", SILICON)
def test_a_dwell_time_shorter_than_a_frame_is_refused_with_both_values(name):
    model = make_camera(name, 80e3)
    with pytest.raises(ValueError, match=r"dwell time 0.1 ms is shorter .* ms: raise instrument.dwell_ms"):
        model.frames(np.zeros((1, 4, 4), np.float32), 1e-4, 0, 0, 0)


def test_electrons_of_the_readout_dead_time_are_lost():
    model = Integrating(high_tension=80e3, pattern=EVEN)
    assert model.live_fraction(2e-3) == pytest.approx(1 - 0.86 / 2)
    frames = model.frames(np.full((20, 16, 16), 100, np.float32), 2e-3, 1, 1, 0)
    assert model.electrons(frames)[:, 3:-3, 3:-3].mean() == pytest.approx(57, rel=0.02)


@pytest.mark.parametrize("expected", [-1.0, np.nan, np.inf])
def test_impossible_doses_are_refused(expected):
    with pytest.raises(ValueError, match="finite and not negative"):
        HybridPixel(high_tension=80e3).frames(np.full((1, 4, 4), expected, np.float32), DWELL, 0, 0, 0)


@pytest.mark.parametrize(("options", "message"), [
    ({"high_tension": 1e3}, "high tension 1000 V"),
    ({"high_tension": 80e3, "depth": 13}, "counter depth 13"),
    ({"high_tension": 80e3, "threshold": 100.0}, "threshold 100 eV"),
    ({"high_tension": 80e3, "threshold": 90e3}, "threshold 90000 eV"),
    ({"high_tension": 80e3, "readout_dead_time": 1.0}, "readout dead time 1 s"),
])
def test_unphysical_cameras_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        HybridPixel(**options)


def test_an_unknown_camera_is_refused_with_the_list_of_cameras():
    with pytest.raises(ValueError, match="film.*ideal, hybrid_pixel"):
        make_camera("film", 80e3)


@pytest.mark.parametrize("dose", [0.02, 0.9])
def test_both_ways_to_place_electrons_give_a_poisson_process(dose):
    expected = np.tile([0.5 * dose, 1.5 * dose], 32).reshape(8, 8)
    counts = np.stack([np.bincount(electron_pixels(expected, counting.generator(1, 1, n)), minlength=64)
                       for n in range(4000)])
    assert counts.mean(axis=0) == pytest.approx(expected.ravel(), abs=5 * np.sqrt(1.5 * dose / 4000))
    assert counts[:, 1::2].var() == pytest.approx(1.5 * dose, rel=0.03)
    assert abs(np.corrcoef(counts[:, 0], counts[:, 1])[0, 1]) < 0.06


@pytest.mark.parametrize("dtype", [np.int32, np.float32])
def test_sparse_and_dense_sampling_have_the_moments_of_the_response(dtype):
    library = np.zeros((6, 3, 3), np.int32)
    library[1:, 1, 1], library[3:, 1, 2], library[5, 0, 1] = 1, 1, 1
    response = Response(library.astype(dtype), np.full((6, 2), 0.5))
    for index, number in enumerate((7.9, 70.0)):
        values = response.sample(np.full((90, 90), number), counting.generator(0, 0, index))[2:-2, 2:-2]
        assert values.mean() == pytest.approx(number * response.gain, rel=0.01)
        # <s_p s_p> summed over entrance pixels: variance of a pixel is dose times the sum of mean squares of the entries
        assert values.var() == pytest.approx(number * (library.astype(float) ** 2).mean(axis=0).sum(), rel=0.08)
        across = np.mean((values[:, 1:] - values.mean()) * (values[:, :-1] - values.mean()))
        assert across == pytest.approx(number * (library[:, 1, 1] * library[:, 1, 2]).mean(), rel=0.3)
