"""Masks of virtual detectors: areas by geometry, edges by angle, segments that make up their ring."""

from __future__ import annotations

import math

import numpy as np
import pytest

from edgetem_nodes.featurizer.patterns.detectors import (
    annular_bright_field,
    annular_dark_field,
    annulus,
    bright_field,
    high_angle_annular_dark_field,
    segments,
)
from edgetem_nodes.featurizer.patterns.geometry import DetectorGeometry

SHAPE = (256, 240)
GEOMETRY = DetectorGeometry((130.3, 117.8), 0.5e-3, 20e-3)


def test_areas_are_those_of_disks_and_rings():
    """20 mrad are 40 pixels."""
    assert bright_field(SHAPE, GEOMETRY).sum() == pytest.approx(math.pi * 40**2, rel=0.01)
    assert annular_bright_field(SHAPE, GEOMETRY).sum() == pytest.approx(math.pi * (40**2 - 20**2), rel=0.01)
    assert annular_dark_field(SHAPE, GEOMETRY, outer=50e-3).sum() == pytest.approx(math.pi * (100**2 - 40**2), rel=0.01)
    corners = np.hypot(*(np.indices(SHAPE) - np.reshape(GEOMETRY.center, (2, 1, 1)))) * 0.5e-3 >= 60e-3
    assert np.array_equal(high_angle_annular_dark_field(SHAPE, GEOMETRY), corners)


def test_bright_and_dark_field_are_the_whole_detector():
    assert np.array_equal(bright_field(SHAPE, GEOMETRY), ~annular_dark_field(SHAPE, GEOMETRY))


def test_an_elliptic_detector_has_elliptic_masks():
    stretch = 1.1
    geometry = DetectorGeometry(GEOMETRY.center, 0.5e-3, 20e-3, np.diag([stretch, 1 / stretch]))
    rows, columns = (np.ptp(index) for index in np.nonzero(bright_field(SHAPE, geometry)))
    assert rows == pytest.approx(80 / stretch, abs=1.5)
    assert columns == pytest.approx(80 * stretch, abs=1.5)


@pytest.mark.parametrize("count", [2, 4, 8])
def test_segments_share_out_their_ring(count):
    masks = segments(SHAPE, GEOMETRY, count, 5e-3)
    ring = annulus(SHAPE, GEOMETRY, 5e-3, 20e-3)
    assert np.array_equal(np.sum(list(masks.values()), axis=0), ring)
    for mask in masks.values():
        assert mask.sum() == pytest.approx(ring.sum() / count, rel=0.03)


def test_the_first_of_four_segments_looks_along_x_and_the_next_along_y():
    masks = segments(SHAPE, GEOMETRY)
    y, x = (np.indices(SHAPE) - np.reshape(GEOMETRY.center, (2, 1, 1)))
    assert x[masks["segment_0"]].min() > 0
    assert y[masks["segment_1"]].min() > 0
    assert x[masks["segment_2"]].max() < 0
    assert y[masks["segment_3"]].max() < 0


def test_a_segment_of_an_annulus_is_cut_by_azimuth():
    mask = annulus(SHAPE, GEOMETRY, 0, 20e-3, (math.radians(80), math.radians(100)))
    y, x = (np.indices(SHAPE) - np.reshape(GEOMETRY.center, (2, 1, 1)))
    assert np.array_equal(mask, (np.hypot(y, x) < 40) & (y > 0) & (np.abs(x) < y * math.tan(math.radians(10))))


def test_detectors_that_cannot_be_are_refused():
    for call, message in (
            (lambda: annulus(SHAPE, GEOMETRY, 0.2, 0.3), "no pixel lies between 200 and 300 mrad; the detector covers"),
            (lambda: annulus(SHAPE, GEOMETRY, 0.02, 0.01), "must be 0 or more, the outer one above it"),
            (lambda: annulus(SHAPE, GEOMETRY, 0, 0.02, (1.0, 0.5)), "last azimuth must be above"),
            (lambda: bright_field(SHAPE, DetectorGeometry((500.0, 500.0), 0.5e-3, 20e-3)), "no pixel lies"),
            (lambda: bright_field(SHAPE, DetectorGeometry((128.0, 128.0), 0.5e-3)), "semi-convergence angle is not known"),
            (lambda: segments(SHAPE, GEOMETRY, 1), "2 or more"),
            (lambda: segments((8, 8), DetectorGeometry((3.5, 3.5), 1.0, 1.2), 16), "holds no pixel")):
        with pytest.raises(ValueError, match=message):
            call()
