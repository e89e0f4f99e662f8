"""The node in this process, between publishers and subscribers of a test: rows, gaps, damage, credit, structures."""

from __future__ import annotations

import time
import uuid

import numpy as np
import pytest
import rclpy
from edgetem.msg import Overview, ScanField
from edgetem.srv import GetStructure
from featurizer_bench import AXES, Bench, patterns
from sensor_msgs.msg import Image

from edgetem_nodes.featurizer import scalarizers
from edgetem_nodes.featurizer.live_images import LiveImages
from edgetem_nodes.featurizer.parameters import Parameters
from edgetem_nodes.featurizer.patterns.instrument import PatternInstrument
from edgetem_nodes.graph.messages import numbers, to_uuid
from edgetem_nodes.graph.quality_of_service import STATE
from edgetem_nodes.physics import scan


@pytest.fixture
def bench(request):
    made = Bench(**getattr(request, "param", {}))
    made.activate()
    yield made
    made.close()


def test_every_frame_becomes_the_row_that_measure_gives(bench):
    name, frames = uuid.uuid4(), patterns(10)
    before = time.monotonic_ns()
    positions = bench.path(name, 10)
    bench.block(name, 0, 0, frames[:6], positions)
    bench.block(name, 1, 6, frames[6:], positions)
    bench.end(name, 10, 10)
    bench.until(lambda: len(bench.collected(name)) == 10)
    reference = scalarizers.measure(frames, AXES, Parameters())
    collected = bench.collected(name)
    assert np.stack([collected[i][2] for i in range(10)]).tobytes() == reference.values.tobytes()
    assert np.stack([collected[i][3] for i in range(10)]) == pytest.approx(positions)
    message = bench.rows[0]
    assert list(message.names)[:2] == ["dilation", "exx"]
    assert list(message.units)[0] == "%"
    assert (message.scalarizer, message.scalarizer_version, len(message.scalarizer_hash)) == ("lattice", 1, 64)
    assert before < message.received_ns < time.monotonic_ns()
    assert message.source_duration == 0.25
    assert message.header.stamp.sec == 100
    bench.until(lambda: bench.credits[-1].consumed_through == 10)
    assert to_uuid(bench.credits[-1].acquisition_id) == name
    assert bench.credits[0].window == 16 << 20


def test_gap_damage_and_abort_are_marked_with_their_reasons(bench):
    name, frames = uuid.uuid4(), patterns(12)
    positions = bench.path(name, 12)
    bench.block(name, 0, 0, frames[:2], positions)
    bench.block(name, 2, 4, frames[4:6], positions)
    bench.block(name, 3, 6, frames[6:8], positions, damaged=True)
    bench.end(name, 12, 6, "consumer compressor said nothing for 5 s")
    bench.until(lambda: len(bench.collected(name)) == 12)
    rows = bench.collected(name)
    assert [rows[i][0] for i in range(12)] == [True] * 2 + [False] * 2 + [True] * 2 + [False] * 6
    assert "blocks were lost" in rows[2][1]
    assert "damaged" in rows[6][1]
    assert "ended early: consumer compressor" in rows[11][1]
    assert rows[11][3] == pytest.approx(positions[11])
    assert np.isnan(rows[3][2]).all()
    assert bench.node.active


@pytest.mark.parametrize("bench", [{"straggler_timeout_s": 0.05}], indirect=True)
def test_a_sent_block_that_never_arrives_is_marked(bench):
    name = uuid.uuid4()
    positions = bench.path(name, 4)
    bench.block(name, 0, 0, patterns(2), positions)
    bench.end(name, 4, 4)
    bench.until(lambda: len(bench.collected(name)) == 4)
    assert "2 of 4 frames that the detector sent did not arrive" in bench.collected(name)[3][1]


def test_an_acquisition_that_never_began_is_marked(bench):
    name = uuid.uuid4()
    bench.path(name, 3)
    bench.end(name, 3, 0, "the camera failed")
    bench.until(lambda: len(bench.collected(name)) == 3)
    assert {row[1] for row in bench.collected(name).values()} == {"the acquisition ended early: the camera failed"}


@pytest.mark.parametrize("bench", [{"scalarizer": "eels_edge"}], indirect=True)
def test_frames_that_the_scalarizer_cannot_use_are_failures_not_a_dead_node(bench):
    name = uuid.uuid4()
    positions = bench.path(name, 2)
    bench.block(name, 0, 0, patterns(2), positions)
    bench.until(lambda: len(bench.collected(name)) == 2)
    assert "eels_edge cannot be used on these frames: eels_edge needs spectra" in bench.collected(name)[0][1]
    answer = bench.structure(name, 0)
    assert answer.error_code == GetStructure.Response.NO_STRUCTURE_MODEL


def test_structure_of_a_measured_position(bench):
    name = uuid.uuid4()
    frames = patterns(2)
    frames[1] = 0
    positions = bench.path(name, 2)
    bench.block(name, 0, 0, frames, positions)
    bench.until(lambda: len(bench.collected(name)) == 2)
    answer = bench.structure(name, 0)
    assert answer.error_code == 0, answer.error_msg
    atoms = len(answer.structure.atomic_numbers)
    assert atoms == 27
    assert len(answer.structure.positions) == len(answer.structure.position_standard_errors) == 3 * atoms
    cell = np.reshape(answer.structure.cell, (3, 3))
    assert np.linalg.norm(cell[0]) == pytest.approx(3 * 3.16e-10 * 1.02, rel=5e-3)
    bench.until(lambda: bench.structures)
    assert bench.structures[0] == answer.structure
    assert bench.structure(name, 1).error_code == GetStructure.Response.NOT_IDENTIFIABLE
    assert bench.structure(name, 7).error_code == GetStructure.Response.UNKNOWN_MEASUREMENT


@pytest.mark.parametrize("bench", [{"preview_period_s": 1e-6}], indirect=True)
def test_live_image_is_the_pattern_then_the_map(bench):
    name = uuid.uuid4()
    positions = bench.path(name, 4)
    bench.block(name, 0, 0, patterns(2), positions)
    bench.until(lambda: bench.images)
    assert (bench.images[0].height, bench.images[0].width, bench.images[0].encoding) == (64, 64, "32FC1")
    bench.overviews.publish(Overview(field=ScanField(origin=[0.0, 0.0], step=[1e-9, 1e-9], shape=[5, 20])))
    bench.until(lambda: bench.node._preview.field is not None)
    bench.block(name, 1, 2, patterns(2), positions)
    bench.until(lambda: bench.images[-1].width == 20)
    picture = numbers(bench.images[-1].data, (5, 20), np.float32)
    assert np.isfinite(picture[2, 12]) and np.isfinite(picture[3, 13])
    assert np.isfinite(picture).sum() == 2


def test_unknown_scalarizer_is_refused_at_configuration():
    bench = Bench(scalarizer="latice")
    try:
        assert bench.node.trigger_configure() == rclpy.lifecycle.TransitionCallbackReturn.FAILURE
    finally:
        bench.close()


def test_without_torch():
    """The node must start fast: it needs no torch."""
    import subprocess
    import sys
    code = "import sys, edgetem_nodes.featurizer.node; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize("bench", [{"live__images": ["bf", "com_y", "icom", "ssb"], "scalarizer": "total_counts",
                                    "instrument__semi_convergence_mrad": 3.0}], indirect=True)
def test_a_raster_becomes_images_and_the_last_ones_are_those_of_the_whole_scan(bench):
    field = scan.ScanField((0.0, 0.0), (0.3e-9, 0.3e-9), (5, 6))
    frames, name, seen = patterns(30), uuid.uuid4(), {}
    for image in ("bf", "com_y", "icom", "ssb"):
        bench.outside.create_subscription(Image, f"images/{image}", lambda m, image=image: seen.__setitem__(image, m), STATE)
    # Block 0 is heard before its probe path.
    bench.block(name, 0, 0, frames[:11], field.positions())
    bench.until(lambda: bench.rows)
    bench.raster(name, field.positions())
    bench.block(name, 1, 11, frames[11:], field.positions())
    bench.end(name, 30, 30)
    whole = LiveImages(("bf", "com_y", "icom", "ssb"), PatternInstrument(80e3, 3e-3))
    whole.begin(field, True)
    whole.add(AXES, field.positions(), frames)
    assert not whole.refused

    def last(image):
        shown = np.frombuffer(seen[image].data, np.float32).reshape(5, 6)
        return shown if shown.tobytes() == whole.image(image).astype(np.float32).tobytes() else None

    bench.until(lambda: set(seen) == {"bf", "com_y", "icom", "ssb"} and all(last(image) is not None for image in seen))
    assert (seen["bf"].encoding, seen["bf"].header.frame_id) == ("32FC1", "scan")


@pytest.mark.parametrize("bench", [{"live__images": ["bf", "ssb"], "scalarizer": "total_counts"}], indirect=True)
def test_a_sparse_scan_fills_the_images_of_its_field_and_says_why_there_is_no_ptychography(bench):
    frames, seen = patterns(10), []
    bench.outside.create_subscription(Image, "images/bf", seen.append, STATE)
    bench.overviews.publish(Overview(field=ScanField(origin=[0.0, 0.0], step=[1e-9, 1e-9], shape=[12, 24])))
    bench.until(lambda: bench.node._preview.field is not None)
    for _ in range(2):
        name = uuid.uuid4()
        positions = bench.path(name, 10)
        bench.block(name, 0, 0, frames, positions)
        bench.end(name, 10, 10)
    bench.until(lambda: seen and np.isfinite(np.frombuffer(seen[-1].data, np.float32)).sum() == 10)
    assert (seen[-1].height, seen[-1].width) == (12, 24)
    bench.until(lambda: "no live image ssb: a raster is needed" in bench.node._message)
