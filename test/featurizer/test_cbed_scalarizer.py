"""The scalarizer `cbed` on nanobeam patterns: columns, failures, details, and weights in the hash."""

from __future__ import annotations

import json

import numpy as np
import pytest
from nanobeam_patterns import PIXEL, drawn, mos2_basis, sheet_pattern

from edgetem_nodes.featurizer import scalarizers
from edgetem_nodes.featurizer.cbed.nanobeam import NanobeamNetwork
from edgetem_nodes.featurizer.cbed.weights import SHIPPED, WeightsError, read_weights, write_weights
from edgetem_nodes.featurizer.change import changed
from edgetem_nodes.featurizer.parameters import Cbed, Geometry, Parameters
from edgetem_nodes.graph.instrument import Beam
from edgetem_nodes.physics.scan import Axis

AXES = tuple(Axis(name, "rad", PIXEL, -32 * PIXEL, 64) for name in ("ky", "kx"))
REFERENCE = [float(value) for value in (1e9 * np.linalg.inv(mos2_basis(1.0, 0.0, length=1.0))).ravel()]


def parameters(**group: object) -> Parameters:
    return Parameters(scalarizer="cbed", instrument=Beam(80.0, 3 * PIXEL * 1e3), cbed=Cbed(**group))


def patterns(count: int = 12) -> np.ndarray:
    basis = np.linalg.inv(np.diag([1.0, 1.01])).T @ mos2_basis(PIXEL, 0.04)
    return np.random.default_rng(1).poisson(sheet_pattern(basis, 5e5), (count, 64, 64)).astype(np.uint16)


def test_columns_units_and_details():
    scalarizer = scalarizers.build(parameters(component="exx", reference_nm=REFERENCE), AXES)
    assert scalarizer.names == ("exx", "dilation", "eyy", "exy", "rotation", "thickness", "tilt_y", "tilt_x",
                                "phase_probability", "rejection")
    assert scalarizer.units == ("%", "%", "%", "%", "deg", "nm", "mrad", "mrad", "", "")
    rows = scalarizer(patterns())
    assert rows.valid.all()
    exx, dilation, eyy, exy, rotation = rows.values[:, :5].mean(axis=0)
    assert [exx, eyy, exy] == pytest.approx([1.0, 0.0, 0.0], abs=0.25)  # edges are sharper than those trained
    assert dilation == pytest.approx(exx + eyy) and rotation == pytest.approx(np.degrees(0.04), abs=0.1)
    stretched = rows.details["deformation"].mean(axis=0)
    assert stretched[1, 1] == pytest.approx(1.01, abs=0.003)
    spread = rows.values[:, 0].std(ddof=1)
    assert 0.4 < spread / rows.standard_errors[:, 0].mean() < 2.0  # 12 rows; the disks are not those of the training
    assert rows.details["deformation_covariance"].shape == (12, 4, 4)


def test_drawn_patterns_say_what_their_phase_may_be():
    """Single patterns differ in camera and angle, so each is bound by itself; MoS2 and WS2 are hardly told apart."""
    batch, _ = drawn("MoS2", 1e6, 12, seed=21)
    right, both = 0, [NanobeamNetwork.shipped().phases.number(name) for name in ("MoS2", "WS2")]
    for row in range(12):
        axes = tuple(Axis(name, "rad", batch.pixel_angle[row], -32 * batch.pixel_angle[row], 64) for name in ("ky", "kx"))
        one = Parameters(scalarizer="cbed", instrument=Beam(80.0, 1e3 * batch.semi_convergence_angle[row]), cbed=Cbed())
        rows = scalarizers.measure(batch.patterns[row:row + 1], axes, one)
        right += rows.details["phase_probabilities"][0, both].sum() > 0.9
        assert str(rows.details["material"][0]) in ("", "MoS2", "WS2")
        if not rows.valid[0]:
            assert "MoS2 (" in rows.failures[0]
            assert "WS2 (" in rows.failures[0]
    assert right >= 9


def test_failures_say_why():
    rows = scalarizers.measure(np.zeros((2, 64, 64), np.uint16), AXES, parameters())
    assert rows.failures == ["the pattern is empty"] * 2
    square = np.random.default_rng(2).poisson(sheet_pattern(0.34 / 0.316 * 9 * np.eye(2), 3e5), (1, 64, 64))
    rows = scalarizers.measure(square, AXES, parameters())
    assert "none of the trained materials" in rows.failures[0]
    rows = scalarizers.measure(patterns(2), AXES, parameters(reference_nm=REFERENCE, largest_error_percent=0.001))
    assert all("above the limit of 0.001 %" in failure for failure in rows.failures)
    rows = scalarizers.measure(patterns(2), AXES, parameters(reference_nm=REFERENCE, component="tilt_x"))
    assert not rows.valid.any() and all(rows.failures)


def test_settings_that_cannot_be():
    for group, message in (({"material": "unobtainium"}, "is none that the network was trained on"),
                           ({"reference_nm": [1.0, 2.0]}, "must be four numbers"),
                           ({"lattice_constant_nm": 0.3}, "needs a lattice"),
                           ({"weights": "/no/such.npz"}, "cannot be read")):
        with pytest.raises(ValueError, match=message):
            scalarizers.build(parameters(**group), AXES)
    wide = Parameters(scalarizer="cbed", instrument=Beam(80.0, 27.0))
    with pytest.raises(ValueError, match="do not make a nanobeam pattern"):
        scalarizers.build(wide, AXES)


def test_orientation_and_geometry():
    turned = parameters(reference_nm=REFERENCE, component="rotation", rotation_deg=np.degrees(0.04))
    rows = scalarizers.measure(patterns(), AXES, turned)
    assert rows.values[:, 0].mean() == pytest.approx(0.0, abs=0.1)
    turned.geometry = Geometry(rotation_deg=10.0)
    rows = scalarizers.measure(patterns(), AXES, turned)
    assert rows.values[:, 0].mean() == pytest.approx(-10.0, abs=0.1)


def test_other_weights_have_another_hash(tmp_path):
    """As after fine-tuning in mid-run: settings change, and rows made before and after are told apart."""
    held = read_weights(SHIPPED, "nanobeam")
    same, other = tmp_path / "same.npz", tmp_path / "other.npz"
    same.write_bytes(SHIPPED.read_bytes())
    arrays = dict(held.arrays)
    arrays["disk/offset.bias"] = arrays["disk/offset.bias"] + np.float16(0.25)
    write_weights(other, arrays, held.settings)
    base = parameters(reference_nm=REFERENCE)
    first = scalarizers.define(base)
    after = {path: scalarizers.define(changed(base, "", json.dumps({"cbed.weights": str(path)}))) for path in (same, other)}
    assert after[other].hash != first.hash
    assert after[other].settings.weights == read_weights(other, "nanobeam").hash
    assert after[same].settings.weights == first.settings.weights
    before, changed_rows = first.build(AXES)(patterns(2)), after[other].build(AXES)(patterns(2))
    assert not np.array_equal(before.values, changed_rows.values)


def test_weights_are_plain_arrays_and_checked(tmp_path):
    held = read_weights(SHIPPED, "nanobeam")
    assert SHIPPED.stat().st_size < 1.5e6
    copy = tmp_path / "copy.npz"
    assert write_weights(copy, held.arrays, held.settings) == held.hash == NanobeamNetwork.load(copy).hash
    with pytest.raises(WeightsError, match="of the network 'nanobeam', not of 'micro_scan'"):
        read_weights(copy, "micro_scan")
    (tmp_path / "text.npz").write_text("weights")
    with pytest.raises(WeightsError, match="is no file of weights"):
        read_weights(tmp_path / "text.npz", "nanobeam")
    np.savez(tmp_path / "pickled.npz", settings=np.array({"network": "nanobeam"}, object))
    with pytest.raises(WeightsError, match="is no file of weights"):
        read_weights(tmp_path / "pickled.npz", "nanobeam")
    broken = {name: value for name, value in held.arrays.items() if name != "disk/offset.bias"}
    write_weights(copy, broken, held.settings)
    with pytest.raises(WeightsError, match="do not fit its network"):
        NanobeamNetwork.load(copy)
    broken["disk/offset.bias"] = np.full(2, np.nan, np.float16)
    write_weights(copy, broken, held.settings)
    with pytest.raises(WeightsError, match="not finite"):
        NanobeamNetwork.load(copy)
