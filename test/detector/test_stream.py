"""The streaming source: electrons drawn one by one have the statistics of Poisson counts; frames do not depend on reading."""

import numpy as np
import pytest
from scipy import stats

from edgetem_nodes.detector.sources import make_source
from edgetem_nodes.detector.sources.drawing import alias_table, draw
from edgetem_nodes.graph.instrument import Instrument, Replay, Simulated
from edgetem_nodes.graph.simulated_instrument import DamageGroup, InstabilitiesGroup, Structure
from edgetem_nodes.physics.exposure import Exposure

KEY = np.uint64(0x1234567890ABCDEF)
SIMULATED = {"rows": 9, "columns": 17, "field_nm": 3.2, "camera_pixels": 32, "pixel_mrad": 2.0}
INSTRUMENT = Instrument(semi_convergence_mrad=12.0, probe_current_pA=1.6, simulated=Simulated(**SIMULATED))


def drawn(pattern, mean, frames, dtype=np.uint16, first=0):
    """Frames (frames, pixels) from one pattern."""
    counts = np.full((frames, pattern.size), 77, dtype)
    draw(alias_table(pattern)[None], np.zeros(frames, np.int64), np.full(frames, float(mean)), KEY, first, counts)
    return counts


def exposure(source, positions, sequence=0):
    return Exposure(sequence, 0.0, np.asarray(positions, float), 1e-4, 1e-4, source._inner.simulation.settings.optics)


@pytest.fixture(scope="module")
def source():
    made = make_source(INSTRUMENT, 3, 3)
    made.prepare()
    return made


@pytest.mark.parametrize("pixels", [1, 2, 7, 1000])
def test_the_table_holds_the_pattern(pixels):
    pattern = np.random.default_rng(pixels).gamma(0.3, size=pixels) * (np.arange(pixels) % 3 != 1)
    table = alias_table(pattern)
    own, other = (table >> np.uint64(32)) / 2.0**32, (table & np.uint64(0xFFFFFFFF)).astype(int)
    share = own / pixels
    np.add.at(share, other, (1 - own) / pixels)
    assert share == pytest.approx(pattern / pattern.sum(), abs=1e-9)
    assert not share[pattern == 0].any() or share[pattern == 0].max() < 1e-9


@pytest.mark.parametrize("bad", [np.zeros(4), np.array([1.0, -1e-9]), np.array([1.0, np.nan])])
def test_what_is_no_pattern_is_refused(bad):
    with pytest.raises(ValueError, match="needs finite intensities"):
        alias_table(bad)


@pytest.mark.parametrize("mean", [0.0, 0.3, 9.9, 10.1, 60.0, 1000.0])
def test_electrons_of_a_frame_are_poisson_distributed(mean):
    totals = drawn(np.array([1.0, 2.0, 0.5]), mean, 40_000).sum(axis=1, dtype=int)
    if mean == 0:
        assert not totals.any()
        return
    edges = np.unique(stats.poisson.ppf(np.linspace(0, 1, 22)[1:-1], mean))
    bounds = np.r_[-np.inf, edges, np.inf]
    expected = np.diff(stats.poisson.cdf(bounds, mean)) * len(totals)
    observed = np.histogram(totals, np.r_[-1, edges, 10**9] + 0.5)[0]
    assert stats.chisquare(observed, expected * observed.sum() / expected.sum()).pvalue > 1e-4


def test_pixels_are_independent_poisson_counts():
    pattern = np.array([0.0, 1.0, 4.0, 0.5, 2.5, 2.0])
    counts = drawn(pattern, 20.0, 60_000).astype(float)
    expected = 20.0 * pattern / pattern.sum()
    error = np.sqrt(expected / len(counts))
    assert np.all(np.abs(counts.mean(axis=0) - expected) <= 4.5 * error)
    lit = counts[:, 1:]
    covariance = np.cov(lit, rowvar=False)
    # Variance of the sample variance of a Poisson count: (mean + 2 mean^2) / n.
    assert np.diag(covariance) == pytest.approx(expected[1:], abs=5 * np.sqrt((expected + 2 * expected**2).max() / len(counts)))
    between = covariance - np.diag(np.diag(covariance))
    assert np.abs(between).max() < 5 * expected.max() / np.sqrt(len(counts))
    one = counts[:, 5].astype(int)
    observed = np.bincount(np.minimum(one, 9), minlength=10)
    assert stats.chisquare(observed, np.r_[stats.poisson.pmf(range(9), 4.0), stats.poisson.sf(8, 4.0)] * len(one)).pvalue > 1e-4


def test_neighbouring_frames_have_nothing_in_common():
    counts = drawn(np.ones(50), 500.0, 4000).astype(float)
    a, b = counts[:-1] - 10.0, counts[1:] - 10.0
    assert abs((a * b).mean()) < 5 * 10.0 / np.sqrt(a.size)


def test_a_frame_is_the_same_alone_and_a_full_pixel_stays_full():
    whole = drawn(np.arange(1.0, 30.0), 100.0, 20)
    assert np.array_equal(drawn(np.arange(1.0, 30.0), 100.0, 3, first=11), whole[11:14])
    assert drawn(np.array([1.0, 0.0]), 2000.0, 5, np.uint8).tolist() == [[255, 0]] * 5


def test_frames_do_not_depend_on_how_they_are_read(source):
    positions = np.random.default_rng(1).uniform(0, 1.6e-9, (40, 2))
    path = exposure(source, positions, 5)
    whole = source.read(path, 0, 40)
    other = make_source(INSTRUMENT, 3, 3)
    assert np.array_equal(other.read(exposure(source, positions, 5), 17, 9), whole[17:26])
    room = np.full((7, *source.frame_shape), 9, source.dtype)
    source.read_into(path, 30, room)
    assert np.array_equal(room, whole[30:37])
    assert not np.array_equal(source.read(exposure(source, positions, 6), 0, 40), whole)
    assert (source.name, source.pausable, source.real_time, whole.dtype) == ("pixelated", True, False, np.uint16)
    assert [a.size for a in source.axes] == [32, 32]


def test_the_mean_frame_is_the_pattern_of_the_nearest_place(source):
    simulation, field = source._inner.simulation, source._inner.simulation.settings.field
    middle = np.array(field.step) * [4, 8]
    path = exposure(source, np.tile(middle + [0.2e-9, -0.3e-9], (4000, 1)))
    mean = source.read(path, 0, 4000).mean(axis=0, dtype=float)
    there = exposure(source, middle[None])
    expected = simulation.expected(there, 0, 1)[0] * simulation.illumination.electrons(there, 0, 1)[0]
    bright = expected > 0.01
    z = (mean - expected)[bright] / np.sqrt(expected[bright] / 4000)
    assert np.mean(z**2) == pytest.approx(1.0, abs=5 * np.sqrt(2 / bright.sum()))
    elsewhere = simulation.expected(exposure(source, [[0.0, 0.0]]), 0, 1)[0] * simulation.illumination.electrons(there, 0, 1)[0]
    assert np.mean((mean - elsewhere)[bright]**2 / (expected[bright] / 4000)) > 5


def test_a_position_outside_the_field_is_refused(source):
    with pytest.raises(ValueError, match="outside the"):
        source.read(exposure(source, [[0.0, 0.0], [0.0, 1e-6]]), 0, 1)


@pytest.mark.parametrize(("instrument", "why"), [
    (Instrument(driver="replay", replay=Replay(file="x")), "'replay'"),
    (Instrument(simulated=Simulated(**SIMULATED, camera="hybrid_pixel")), "'hybrid_pixel'"),
    (Instrument(simulated=Simulated(**SIMULATED, detector="eels")), "'eels'"),
    (Instrument(simulated=Simulated(**SIMULATED, instabilities=InstabilitiesGroup(drift_nm_per_min=1.0))), "instabilities"),
    (Instrument(simulated=Simulated(**SIMULATED, damage=DamageGroup(displacement=True))), "changes under the beam"),
    (Instrument(simulated=Simulated(**SIMULATED, structure=Structure(transition=True))), "changes under the beam"),
])
def test_what_cannot_be_drawn_beforehand_is_refused(instrument, why):
    with pytest.raises(ValueError, match=f"{why}.*stream.places"):
        make_source(instrument, 3, 3)
