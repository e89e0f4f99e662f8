"""The detector "micro_scan": what it is made of, what it refuses."""

from dataclasses import replace

import numpy as np
import pytest

from edgetem_nodes.detector.sources import make_micro_scan_source, make_source
from edgetem_nodes.graph.instrument import Instrument, Limits, MicroScanGroup, Replay, Simulated
from edgetem_nodes.physics.exposure import Exposure, MicroScan

INSTRUMENT = Instrument(micro_scan=MicroScanGroup(points=4, step_pm=100.0),
                        simulated=Simulated(specimen="graphene", rows=8, columns=8, field_nm=8.0, camera_pixels=32,
                                            pixel_mrad=2.5))


def both(instrument=INSTRUMENT):
    camera = make_source(instrument, 3)
    return camera, make_micro_scan_source(camera, instrument)


def exposure(camera, sites, **changes):
    simulation = camera.simulation
    optics = {**simulation.settings.optics, "semi_convergence_angle": 25e-3, "camera_length": 27.5e-3}
    return Exposure(1, 0.0, simulation.settings.field.positions(np.asarray(sites)), 16e-3, 16e-3, optics,
                    micro_scan=MicroScan(4, 100e-12), **changes)


def test_a_frame_is_a_square_of_patterns_with_four_axes():
    camera, source = both()
    frames = source.read(exposure(camera, [9, 30]), 0, 2)
    assert (source.name, source.frame_shape, source.dtype) == ("micro_scan", (4, 4, 32, 32), camera.dtype)
    assert frames.shape == (2, 4, 4, 32, 32) and frames.dtype == source.dtype
    assert [(axis.name, axis.unit, axis.size) for axis in source.axes] == [
        ("y", "m", 4), ("x", "m", 4), ("ky", "rad", 32), ("kx", "rad", 32)]
    assert source.axes[1].values() == pytest.approx([-150e-12, -50e-12, 50e-12, 150e-12])
    assert source.axes[3].scale == pytest.approx(2e-3), "the camera length of the exposure"
    disk = frames.sum(axis=(0, 1, 2)) > 0.3 * frames.sum(axis=(0, 1, 2)).max()
    radius = np.sqrt(disk.sum() / np.pi) * source.axes[3].scale
    assert radius == pytest.approx(25e-3, rel=0.03), "position-averaged, the bright-field disk"


def test_another_micro_scan_than_the_configured_one_is_refused():
    camera, source = both()
    asked = replace(exposure(camera, [9]), micro_scan=MicroScan(5, 100e-12))
    with pytest.raises(ValueError, match=r"give microscope and detector the same instrument\.micro_scan"):
        source.read(asked, 0, 1)


def test_each_probe_needs_the_shortest_dwell_time():
    source = both(replace(INSTRUMENT, limits=Limits(shortest_dwell_ms=0.5)))[1]
    source.check_dwell(8e-3)
    with pytest.raises(ValueError, match="dwell time 4 ms gives each of the 16 probes of a micro-scan 0.25 ms"):
        source.check_dwell(4e-3)
    slow = both(replace(INSTRUMENT, simulated=replace(INSTRUMENT.simulated, camera="integrating")))[1]
    with pytest.raises(ValueError, match="shorter than a frame of the integrating camera"):
        slow.check_dwell(1e-3)


def test_the_camera_and_its_micro_scans_share_what_the_specimen_received():
    damaging = replace(INSTRUMENT.simulated, damage=replace(INSTRUMENT.simulated.damage, contamination=True))
    camera, source = both(replace(INSTRUMENT, simulated=damaging))
    first = exposure(camera, [27])
    source.read(first, 0, 1)
    later = replace(first, sequence=2, micro_scan=None, positions=first.positions + 5e-11)
    camera.read(later, 0, 1)
    assert camera.simulation.dose.dose_at(first.positions)[0] > 0, "when the next exposure begins"


@pytest.mark.parametrize(("changes", "reason"), [
    ({"simulated": replace(INSTRUMENT.simulated, detector="eels")}, "the detector is 'eels'"),
    ({"simulated": replace(INSTRUMENT.simulated, detector="annular")}, "the detector is 'annular'")])
def test_only_a_camera_takes_micro_scans(changes, reason):
    instrument = replace(INSTRUMENT, **changes)
    with pytest.raises(ValueError, match=reason):
        make_micro_scan_source(make_source(instrument, 0), instrument)


def test_measured_data_and_streams_take_none(synthetic):
    measured = Instrument(driver="replay", replay=Replay(file=str(synthetic / "synthetic_eels.hspy"), survey_signal="total"))
    with pytest.raises(ValueError, match="'replay' takes no micro-scans"):
        make_micro_scan_source(make_source(measured, 0), measured)
    with pytest.raises(ValueError, match=r"set stream\.places to 0"):
        make_micro_scan_source(make_source(INSTRUMENT, 0, 2), INSTRUMENT)
