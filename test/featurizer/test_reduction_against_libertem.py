"""The fused pass against LiberTEM's user-defined functions on the same frames."""

from __future__ import annotations

import numpy as np
import pytest

from edgetem_nodes.featurizer.patterns.reduction import PatternSum, Reduction

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore:'where' used without 'out':UserWarning")]
SHAPE = (48, 40)


@pytest.fixture(scope="module")
def context():
    libertem = pytest.importorskip("libertem.api")
    with libertem.Context.make_with("inline") as made:
        yield made


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "float32"])
def test_detectors_sum_and_centre_of_mass_are_libertems(context, dtype):
    from libertem.udf.com import CoMUDF
    from libertem.udf.masks import ApplyMasksUDF
    from libertem.udf.sum import SumUDF

    rng = np.random.default_rng(0)
    y, x = np.indices(SHAPE)
    disk, ring = np.hypot(y - 24, x - 18) < 9, np.hypot(y - 24, x - 18) >= 12
    weights = rng.normal(size=SHAPE)
    scan = rng.poisson(4.0 * np.exp(-np.hypot(y - 22, x - 19) / 8) + 0.1, (6, 7, *SHAPE)).astype(dtype)
    dataset = context.load("memory", data=scan, sig_dims=2)
    masks, center, total = context.run_udf(dataset, [
        ApplyMasksUDF([lambda: disk.astype(float), lambda: ring.astype(float), lambda: weights], use_torch=False),
        CoMUDF.with_params(), SumUDF()])
    frames = scan.reshape(-1, *SHAPE)
    reduced = Reduction(SHAPE, {"disk": disk, "ring": ring, "weights": weights})(frames)
    assert reduced.counts == pytest.approx(masks["intensity"].data.reshape(-1, 3), rel=1e-6, abs=1e-4)
    assert reduced.center_of_mass == pytest.approx(center["raw_com"].data.reshape(-1, 2), rel=1e-6)
    patterns = PatternSum(SHAPE)
    patterns.add(frames)
    assert patterns.sum == pytest.approx(np.asarray(total["intensity"].data), rel=1e-6)
