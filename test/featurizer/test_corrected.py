"""Correction maps of the node's parameters: what they do to rows, and what is refused."""

import numpy as np
import pytest
from ase import Atoms
from ase.cell import Cell
from analytic_patterns import disk_image, hexagonal_places, pattern_axes

from edgetem_nodes.featurizer import scalarizers
from edgetem_nodes.featurizer.corrected import read_corrections
from edgetem_nodes.featurizer.live_images import LiveImages
from edgetem_nodes.featurizer.parameters import (BraggStrain, CenterOfMass, CorrectionMaps, Descriptor, Orientation,
                                               Parameters, VirtualDetector)
from edgetem_nodes.featurizer.patterns.instrument import PatternInstrument
from edgetem_nodes.physics.electrons import wavelength
from edgetem_nodes.physics.scan import ScanField

AXES = pattern_axes(24)
RANDOM = np.random.default_rng(3)
DARK, GAIN = RANDOM.uniform(5, 20, (24, 24)), RANDOM.uniform(0.8, 1.2, (24, 24))
DEAD = np.zeros((24, 24), bool)
DEAD[3, 4] = DEAD[12, 13] = True
TRUE = RANDOM.poisson(40, (6, 24, 24)).astype(float)


@pytest.fixture
def maps(tmp_path):
    for name, values in (("dark", DARK), ("gain", GAIN), ("dead", DEAD)):
        np.save(tmp_path / f"{name}.npy", values)
    return CorrectionMaps(*(str(tmp_path / f"{name}.npy") for name in ("dark", "gain", "dead")), interpolate=True)


def raw(dead_value):
    """What a detector with this dark signal and gain shows of TRUE; dead pixels show `dead_value`."""
    return np.where(DEAD, dead_value, TRUE / GAIN + DARK)


@pytest.mark.parametrize("name", ["virtual_detector", "center_of_mass", "total_counts", "descriptor"])
def test_corrected_rows_are_those_of_true_counts_and_dead_pixels_do_not_matter(maps, name):
    settings = {"scalarizer": name, "virtual_detector": VirtualDetector(0.0, 9.0), "center_of_mass": CenterOfMass("x"),
                "descriptor": Descriptor("center_of_mass", "deflection_x")}
    rows = [scalarizers.measure(raw(value), AXES, Parameters(**settings, corrections=maps)) for value in (0.0, 1e6)]
    assert rows[0].valid.all(), rows[0].failures
    np.testing.assert_allclose(rows[0].values, rows[1].values, rtol=1e-9)
    # Interpolated pixels hold the mean of their eight neighbours.
    expected = TRUE.copy()
    for y, x in np.argwhere(DEAD):
        around = TRUE[:, y - 1:y + 2, x - 1:x + 2].sum(axis=(1, 2)) - TRUE[:, y, x]
        expected[:, y, x] = around / 8
    plain = scalarizers.measure(expected, AXES, Parameters(**settings))
    np.testing.assert_allclose(rows[0].values, plain.values, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("name", ["bragg_strain", "orientation"])
def test_crystals_are_learnt_from_a_raw_sample_and_leave_dead_pixels_out(name, tmp_path):
    rng, axes = np.random.default_rng(4), pattern_axes()
    strained = np.concatenate([[[0, 0]], hexagonal_places(3.16e-10, wavelength(80e3), np.diag([1.0, 1.02]))])
    places = np.concatenate([[[0, 0]], hexagonal_places(3.16e-10, wavelength(80e3), np.eye(2))])
    dark, gain, dead = rng.uniform(5, 20, (64, 64)), rng.uniform(0.7, 1.3, (64, 64)), np.zeros((64, 64), bool)
    dead[32, 46:50] = dead[10, 10] = True
    counts = [rng.poisson(disk_image(at, np.r_[1e4, np.full(12, 500.0)], 2.0, axes) + 0.1, (30, 64, 64))
              for at in (places, strained)]
    sample, frames = (np.where(dead, 7e4, values / gain + dark) for values in counts)
    for key, values in (("sample", sample.reshape(5, 6, 64, 64)), ("dark", dark), ("gain", gain), ("dead", dead)):
        np.save(tmp_path / f"{key}.npy", values)
    Atoms("Mo", cell=Cell.fromcellpar([3.16, 3.16, 4.0, 90, 90, 120]), pbc=True).write(tmp_path / "crystal.cif")
    maps = CorrectionMaps(*(str(tmp_path / f"{key}.npy") for key in ("dark", "gain", "dead")))
    rows = scalarizers.measure(frames, axes, Parameters(
        scalarizer=name, corrections=maps, bragg_strain=BraggStrain("exx", str(tmp_path / "sample.npy"), "uniform"),
        orientation=Orientation("misorientation", str(tmp_path / "crystal.cif"), thickness_nm=2.0, step_deg=4.0)))
    assert rows.valid.all(), rows.failures
    if name == "bragg_strain":
        # A hundredth of a strain of 2 % comes from the sample's own noise.
        assert rows.values[:, 0].mean() == pytest.approx(2.0, abs=4 * rows.standard_errors[:, 0].mean() / np.sqrt(15))


def test_dead_pixels_without_a_value_are_left_out_or_fail_where_they_are_needed(maps):
    maps.interpolate = False
    counts = scalarizers.measure(raw(np.nan), AXES, Parameters(scalarizer="virtual_detector", corrections=maps,
                                                              virtual_detector=VirtualDetector(0.0, 100.0)))
    assert counts.values[:, 0] == pytest.approx(TRUE[:, ~DEAD].sum(axis=1))
    total = scalarizers.measure(raw(7.0), AXES, Parameters(scalarizer="total_counts", corrections=maps))
    assert total.failures[0] == "2 of the 576 pixels in use are not finite numbers"


def test_saturation_is_that_of_the_raw_pixels(maps):
    frames = raw(0.0).astype(np.uint16)
    frames[2, 5, 5] = 65535
    for name in ("virtual_detector", "total_counts"):
        rows = scalarizers.measure(frames, AXES, Parameters(scalarizer=name, corrections=maps))
        assert [bool(failure) for failure in rows.failures] == [False, False, True, False, False, False]
        assert "saturated" in rows.failures[2] and np.isnan(rows.values[2, 0])


def test_live_images_are_corrected_too(maps):
    corrections, _ = read_corrections(maps)
    live = LiveImages(("sum",), PatternInstrument(80e3, 5e-3), corrections=corrections)
    live.begin(ScanField((0.0, 0.0), (1e-9, 1e-9), (2, 3)), True)
    live.add(AXES, live.field.positions(), raw(1e6))
    assert live.image("sum").ravel() == pytest.approx(corrections.applied(raw(0.0)).sum(axis=(1, 2)))


def test_the_hash_tells_maps_apart_and_stays_without_them(maps, tmp_path):
    plain = scalarizers.define(Parameters(scalarizer="virtual_detector")).hash
    one = scalarizers.define(Parameters(scalarizer="virtual_detector", corrections=maps)).hash
    np.save(tmp_path / "dark.npy", DARK + 1)
    other = scalarizers.define(Parameters(scalarizer="virtual_detector", corrections=maps)).hash
    assert len({plain, one, other}) == 3
    assert scalarizers.define(Parameters(scalarizer="virtual_detector", corrections=CorrectionMaps())).hash == plain


def test_what_is_no_map_is_refused_by_name(maps, tmp_path):
    def refused(message, axes=AXES):
        with pytest.raises(ValueError, match=message):
            scalarizers.build(Parameters(scalarizer="virtual_detector", corrections=maps), axes)

    np.save(tmp_path / "gain.npy", GAIN[:5])
    refused(r"the gain map has shape \(5, 24\), frames have \(24, 24\)")
    np.save(tmp_path / "gain.npy", np.zeros(3))
    refused("corrections.gain .*gain.npy holds float64 of shape")
    np.save(tmp_path / "gain.npy", np.array([{"a": 1}], object), allow_pickle=True)
    refused("corrections.gain .*cannot be read")
    maps.gain = str(tmp_path / "absent.npy")
    refused("absent.npy cannot be read")
