"""The fused pass against plain numpy in float64, and against Poisson statistics."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgetem_nodes.featurizer.features import CountingNoise
from edgetem_nodes.featurizer.patterns.events import Events
from edgetem_nodes.featurizer.patterns.reduction import PatternSum, Reduced, Reduction

TYPES = ["u1", "u2", "u4", "u8", "i1", "i2", "i4", "i8", "f2", "f4", "f8", ">u2", ">i4", ">f4", ">f8", "g"]


def disk(shape: tuple[int, int], radius: float, inner: float = 0.0) -> np.ndarray:
    r = np.hypot(*(np.indices(shape) - (np.reshape(shape, (2, 1, 1)) - 1) / 2))
    return (r >= inner) & (r < radius)


def reference(frames: np.ndarray, masks: dict, inside: np.ndarray) -> dict[str, np.ndarray]:
    """Sums, centres and second moments from their definitions."""
    counts = frames.astype(float)
    y, x = np.indices(frames.shape[1:]).astype(float)
    within = counts * inside
    total = within.sum(axis=(1, 2))
    center = np.stack([(within * w).sum(axis=(1, 2)) / total for w in (y, x)], axis=1)
    dy, dx = y - center[:, 0, None, None], x - center[:, 1, None, None]
    second = [[(within * a * b).sum(axis=(1, 2)) / total for b in (dy, dx)] for a in (dy, dx)]
    return {"counts": np.stack([(counts * mask).sum(axis=(1, 2)) for mask in masks.values()], axis=1), "total": total,
            "center_of_mass": center, "variance": np.moveaxis(np.array(second), 2, 0)}


def random_frames(rng: np.random.Generator, dtype: np.dtype, shape: tuple[int, int, int], full_range: bool) -> np.ndarray:
    if dtype.kind == "f":
        return (rng.random(shape) * (1e4 if dtype.itemsize == 2 else 1e6)).astype(dtype)
    largest = min(int(np.iinfo(dtype).max) - 1, 2**40) if full_range else 20
    return rng.integers(0, largest, shape, endpoint=True).astype(dtype)


@settings(deadline=None, max_examples=60)
@given(dtype=st.sampled_from(TYPES), rows=st.integers(1, 40), columns=st.integers(1, 75), seed=st.integers(0, 2**32 - 1),
       full_range=st.booleans(), restricted=st.booleans())
def test_every_type_and_shape_is_numpys_sum(dtype, rows, columns, seed, full_range, restricted):
    rng, shape, dtype = np.random.default_rng(seed), (rows, columns), np.dtype(dtype)
    frames = random_frames(rng, dtype, (3, *shape), full_range)
    frames[:, rows // 2, columns // 2] = 7
    masks = {"one": rng.random(shape) < 0.4, "two": rng.random(shape) < 0.8, "weights": rng.normal(size=shape)}
    for name in ("one", "two"):
        masks[name][rows // 2, columns // 2] = True
    reduced = Reduction(shape, masks, moments_mask=masks["two"] if restricted else None)(frames)
    expected = reference(frames, masks, masks["two"] if restricted else np.ones(shape))
    assert not any(reduced.failures)
    assert reduced.names == ("one", "two", "weights")
    scale = np.abs(frames.astype(float)).sum(axis=(1, 2)).max()
    assert reduced.counts == pytest.approx(expected["counts"], rel=1e-12, abs=1e-12 * scale)
    assert reduced.total == pytest.approx(expected["total"], rel=1e-12)
    assert reduced.center_of_mass == pytest.approx(expected["center_of_mass"], rel=1e-10, abs=1e-9)
    assert reduced.variance == pytest.approx(expected["variance"], rel=1e-8, abs=1e-8)


@pytest.mark.parametrize("dtype", ["u1", "u2", "u4", "i2"])
def test_integers_are_exact_up_to_the_largest_value_on_a_large_detector(dtype):
    """Running sums of running sums of the largest values would overflow 32 bits after 64 rows of uint16."""
    shape = (300, 130)
    frames = np.full((2, *shape), np.iinfo(dtype).max, dtype)
    reduced = Reduction(shape, {"all": np.ones(shape)}, noise=CountingNoise(saturation=1e10))(frames)
    assert reduced.counts[:, 0].tolist() == [300 * 130 * int(np.iinfo(dtype).max)] * 2
    assert reduced.center_of_mass == pytest.approx(np.full((2, 2), [149.5, 64.5]), rel=1e-13)
    assert reduced.variance[0] == pytest.approx(np.diag([(300**2 - 1) / 12, (130**2 - 1) / 12]), rel=1e-11, abs=1e-7)


def test_negative_counts_of_signed_types_keep_their_sign():
    frames = np.random.default_rng(1).integers(-30, 60, (4, 33, 47)).astype(np.int16)
    masks = {"disk": disk((33, 47), 9)}
    reduced, expected = Reduction((33, 47), masks)(frames), reference(frames, masks, np.ones((33, 47)))
    assert reduced.counts == pytest.approx(expected["counts"], rel=1e-14)
    assert reduced.center_of_mass == pytest.approx(expected["center_of_mass"], rel=1e-12)


@pytest.mark.parametrize("dtype", [np.uint16, np.float32])
@pytest.mark.parametrize("weighted", [False, True])
def test_a_row_depends_on_its_own_frame_alone(dtype, weighted):
    rng = np.random.default_rng(2)
    frames = (rng.random((90, 40, 50)) * 1000).astype(dtype)
    masks = {"disk": disk((40, 50), 12), **({"weights": rng.normal(size=(40, 50))} if weighted else {})}
    together, threaded = Reduction((40, 50), masks)(frames), Reduction((40, 50), masks, threads=2)(frames)
    alone = Reduced.joined([Reduction((40, 50), masks)(frame[None]) for frame in frames])
    strided = Reduction((40, 50), masks)(np.ascontiguousarray(frames[:, :, ::-1])[:, :, ::-1])
    for other in (alone, threaded, strided):
        for name in ("counts", "standard_errors", "total", "center_of_mass", "center_of_mass_errors",
                     "center_of_mass_covariance", "variance"):
            assert getattr(together, name).tobytes() == getattr(other, name).tobytes()


def test_events_are_reduced_like_the_frames_they_make():
    frames = np.random.default_rng(3).poisson(0.05, (30, 37, 41)).astype(np.uint8)
    frames[4] = 0
    masks = {"disk": disk((37, 41), 9), "weights": np.random.default_rng(4).normal(size=(37, 41))}
    for threads in (1, 2):
        reduction = Reduction((37, 41), masks, threads=threads)
        dense, sparse = reduction(frames), reduction(Events.of(frames))
        assert dense.failures == sparse.failures
        assert "the frame is empty" in sparse.failures[4]
        for name in ("counts", "standard_errors", "center_of_mass", "center_of_mass_errors", "variance"):
            assert getattr(sparse, name) == pytest.approx(getattr(dense, name), rel=1e-11, abs=1e-11, nan_ok=True)
        assert np.array_equal(dense["disk"], sparse["disk"])
    with pytest.raises(ValueError, match="events on frames of .37, 41. do not fit"):
        Reduction((41, 37), {})(Events.of(frames))


def test_descan_shifts_move_the_centre_of_mass_alone():
    frames = np.random.default_rng(5).poisson(1.0, (6, 20, 20)).astype(np.uint16)
    shifts = np.random.default_rng(6).normal(size=(6, 2))
    reduction = Reduction((20, 20), {"disk": disk((20, 20), 5)})
    still, moved = reduction(frames), reduction(frames, shifts)
    assert moved.center_of_mass == pytest.approx(still.center_of_mass - shifts)
    assert np.array_equal(moved.variance, still.variance)
    assert np.array_equal(moved.counts, still.counts)
    with pytest.raises(ValueError, match="shifts of shape .5, 2. do not fit 6 frames"):
        reduction(frames, shifts[:5])


@pytest.mark.parametrize(("gain", "readout"), [(1.0, 0.0), (12.0, 5.0)])
def test_standard_errors_are_the_spread_of_a_poisson_monte_carlo(gain, readout):
    """Binary and weighted detectors, and both components of the centre of mass."""
    rng, shape = np.random.default_rng(7), (24, 30)
    y, x = np.indices(shape)
    expected = 2.0 * np.exp(-((y - 10)**2 / 30 + (x - 17)**2 / 60))
    frames = gain * rng.poisson(expected, (6000, *shape)) + readout * rng.normal(size=(6000, *shape))
    masks = {"disk": disk(shape, 8), "slope": (x - 15) * 0.25}
    reduced = Reduction(shape, masks, moments_mask=disk(shape, 11), noise=CountingNoise(gain, readout))(frames)
    for values, errors in ((reduced.counts, reduced.standard_errors),
                           (reduced.center_of_mass, reduced.center_of_mass_errors)):
        assert np.sqrt((errors**2).mean(axis=0)) == pytest.approx(values.std(axis=0), rel=0.04)


def test_few_electrons_have_honest_errors():
    """Two electrons: the spread of their centre is right on average; one has a centre but no spread, and no error."""
    rng = np.random.default_rng(8)
    places = rng.integers(0, 64, (20000, 2, 2))
    frames = np.zeros((20000, 64, 64), np.uint8)
    for k in range(2):
        np.add.at(frames, (np.arange(20000), places[:, k, 0], places[:, k, 1]), 1)
    reduced = Reduction((64, 64), {})(frames)
    assert np.sqrt((reduced.center_of_mass_errors**2).mean(axis=0)) == pytest.approx(
        reduced.center_of_mass.std(axis=0), rel=0.03)
    single = np.zeros((1, 64, 64), np.uint8)
    single[0, 5, 9] = 1
    one = Reduction((64, 64), {"nothing": disk((64, 64), 4)})(single)
    assert one.center_of_mass.tolist() == [[5.0, 9.0]]
    assert np.isnan(one.center_of_mass_errors).all()
    assert one.counts[0, 0] == 0
    assert one.standard_errors[0, 0] == 1


def test_empty_saturated_and_not_finite_frames_say_so():
    frames = np.ones((5, 32, 32), np.float32)
    frames[1] = 0
    frames[2, 16, 16], frames[3, 16, 16], frames[4, 16, 16] = np.nan, 1000, -np.inf
    reduced = Reduction((32, 32), {"disk": disk((32, 32), 5)}, noise=CountingNoise(saturation=1000))(frames)
    assert [bool(failure) for failure in reduced.failures] == [False, True, True, True, True]
    assert "empty" in reduced.failures[1]
    assert reduced.counts[1, 0] == 0
    assert np.isnan(reduced.center_of_mass[1]).all()
    assert "1 of the 1024 pixels in use are not finite" in reduced.failures[2]
    assert "1 of the 1024 pixels in use are saturated, at 1000 counts or more" in reduced.failures[3]
    assert "not finite" in reduced.failures[4]
    for name in ("counts", "standard_errors", "total", "center_of_mass", "variance", "center_of_mass_errors"):
        assert np.isnan(getattr(reduced, name)[2:]).all()


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.uint32, np.dtype(">u2"), np.int8, np.int16, np.int32])
def test_the_largest_value_of_an_integer_type_is_saturated(dtype):
    frames = np.ones((3, 20, 37), dtype)
    frames[1, 19, 36] = np.iinfo(dtype).max
    frames[2, 3, 3] = np.iinfo(dtype).max - 1
    reduced = Reduction((20, 37), {"disk": disk((20, 37), 6)})(frames)
    assert [bool(failure) for failure in reduced.failures] == [False, True, False]
    assert not any(Reduction((20, 37), {"disk": disk((20, 37), 6)}, moments=False)(frames).failures)


def test_what_lies_outside_all_masks_does_not_matter():
    frames = np.ones((2, 40, 40), np.float32)
    frames[0, 0, 0], frames[1, 0, 1] = np.nan, 1e9
    mask = disk((40, 40), 12)
    reduced = Reduction((40, 40), {"disk": mask}, moments_mask=mask, noise=CountingNoise(saturation=1e6))(frames)
    assert not any(reduced.failures)
    assert reduced.total.tolist() == [mask.sum()] * 2
    assert reduced.center_of_mass == pytest.approx(np.full((2, 2), 19.5))


def test_masks_and_frames_that_do_not_fit_are_refused():
    shape = (16, 16)
    with pytest.raises(ValueError, match=r"mask of 'disk' has shape \(8, 8\), frames have \(16, 16\)"):
        Reduction(shape, {"disk": np.ones((8, 8))})
    with pytest.raises(ValueError, match="'disk' holds no pixel.*a disk off the detector"):
        Reduction(shape, {"disk": np.zeros(shape, bool)})
    with pytest.raises(ValueError, match="'disk' holds 1 weights that are not finite"):
        Reduction(shape, {"disk": np.where(np.eye(16) * np.arange(16) == 3, np.nan, 1.0)})
    with pytest.raises(ValueError, match="0 threads"):
        Reduction(shape, {}, threads=0)
    with pytest.raises(ValueError, match="mask of 'disk': values of complex128 cannot be counted"):
        Reduction(shape, {"disk": np.ones(shape, complex)})
    reduction = Reduction(shape, {"disk": disk(shape, 5)})
    masked = np.ma.masked_less(np.arange(256.0).reshape(1, *shape), 3)
    for refusing in (reduction, PatternSum(shape).add, Events.of, Reduction(shape, {}, moments=False)):
        with pytest.raises(ValueError, match="3 values of the array are masked.*Corrections.dead"):
            refusing(masked)
    with pytest.raises(ValueError, match="mask of 'disk': 3 values of the array are masked"):
        Reduction(shape, {"disk": masked[0]})
    assert reduction(np.ma.array(np.ones((1, *shape))))["disk"][0] == disk(shape, 5).sum()
    for frames, message in ((np.ones(shape), "frames of shape"), (np.ones((2, 8, 8)), "do not fit the masks'"),
                            (np.ones((2, *shape), complex), "cannot be counted")):
        with pytest.raises(ValueError, match=message):
            reduction(frames)
    assert reduction(np.ones((0, *shape), np.uint8)).counts.shape == (0, 1)


def test_pattern_sum_is_numpys_sum_maximum_and_variance():
    rng = np.random.default_rng(9)
    frames = rng.poisson(3.0, (50, 21, 34)).astype(np.uint16)
    patterns = PatternSum((21, 34))
    assert np.isnan(patterns.mean).all()
    assert np.isnan(patterns.variance).all()
    patterns.add(frames[:20])
    patterns.add(Events.of(frames[20:30]))
    for part, dtype in zip(np.split(frames[30:], 4), (">f4", "f2", "g", "i8"), strict=True):
        patterns.add(part.astype(dtype))
    assert patterns.count == 50
    assert np.array_equal(patterns.sum, frames.sum(axis=0, dtype=float))
    assert np.array_equal(patterns.maximum, frames.max(axis=0))
    assert patterns.mean == pytest.approx(frames.mean(axis=0))
    assert patterns.variance == pytest.approx(frames.var(axis=0, ddof=1))
    with pytest.raises(ValueError, match="cannot be added"):
        patterns.add(frames[:, :5])
    bad = np.ones((1, 21, 34))
    bad[0, 3, 4] = np.nan
    patterns.add(bad)
    patterns.add(np.ones((1, 21, 34)))
    assert np.argwhere(np.isnan(patterns.maximum)).tolist() == [[3, 4]]
    assert np.argwhere(np.isnan(patterns.sum)).tolist() == [[3, 4]]
