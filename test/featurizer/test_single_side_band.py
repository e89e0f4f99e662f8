"""Single side band ptychography: against the definition, a known phase, the virtual microscope, and a Monte Carlo."""

from dataclasses import replace

import numpy as np
import pytest
from weak_phase import ANGLE, HIGH_TENSION, direct_single_side_band, weak_phase

from edgetem_nodes.featurizer.patterns.events import Events
from edgetem_nodes.featurizer.patterns.geometry import DetectorGeometry
from edgetem_nodes.featurizer.ptychography.single_side_band import SingleSideBand, check_raster, largest_step
from edgetem_nodes.physics.diffraction import Diffraction
from edgetem_nodes.physics.optics import Camera, Probe
from edgetem_nodes.physics.scan import ScanField
from edgetem_nodes.physics.specimens import Condition
from edgetem_nodes.physics.specimens.catalogue import SpecimenOptions, make_specimen

PROBE = Probe(HIGH_TENSION, ANGLE)
ABERRATED = Probe(HIGH_TENSION, ANGLE, defocus=4e-9, astigmatism=2e-9, astigmatism_angle=0.5, coma=150e-9, coma_angle=1.0,
                  spherical_aberration=5e-6)
ABERRATIONS = {"defocus": 4e-9, "astigmatism": 2e-9, "astigmatism_angle": 0.5, "coma": 150e-9, "coma_angle": 1.0,
               "spherical_aberration": 5e-6}


@pytest.fixture(scope="module")
def weak():
    return weak_phase()


@pytest.fixture(scope="module")
def counted(weak):
    """Counts of 2000 electrons a frame."""
    phase, patterns, field, geometry = weak
    return np.random.default_rng(1).poisson(2000 * patterns).astype(np.uint16), field, geometry


def reconstructed(frames, field, geometry, aberrations=None, **settings):
    band = SingleSideBand(field, frames.shape[-2:], geometry, HIGH_TENSION, aberrations, **settings)
    band.add(0, frames)
    return band.phase()


def relative(value, expected):
    return np.sqrt(np.mean((value - expected) ** 2) / np.mean(expected**2))


@pytest.mark.parametrize("aberrations", [None, ABERRATIONS], ids=["in focus", "aberrated"])
def test_is_the_definition_computed_directly(counted, aberrations):
    frames, field, geometry = counted
    geometry = replace(geometry, center=(16.3, 15.6), rotation=0.4, flipped=True, distortion=np.diag([1.02, 1 / 1.02]))
    expected = direct_single_side_band(frames, field, geometry, ABERRATED if aberrations else PROBE)
    assert relative(reconstructed(frames, field, geometry, aberrations), expected) < 1e-5


def test_an_odd_raster_with_unequal_steps_is_the_definition_as_well():
    rng = np.random.default_rng(3)
    field = ScanField((0.0, 0.0), (0.2e-10, 0.3e-10), (9, 13))
    geometry = DetectorGeometry((11.2, 12.7), 4e-3, ANGLE)
    frames = rng.poisson(20, (117, 24, 26)).astype(np.uint8)
    expected = direct_single_side_band(frames, field, geometry, PROBE)
    assert relative(reconstructed(frames, field, geometry), expected) < 1e-5


def test_recovers_a_known_phase(weak):
    """The trotters' means are a few percent low where the regions are thin: that is in the definition."""
    phase, patterns, field, geometry = weak
    seen = reconstructed(patterns * np.float32(1e5), field, geometry)
    assert np.corrcoef(seen.ravel(), phase.ravel())[0, 1] > 0.995
    assert 0.85 < np.vdot(phase, seen) / np.vdot(phase, phase) < 1.0


def test_least_squares_recover_the_phase_in_size_as_well(weak):
    phase, patterns, field, geometry = weak
    assert relative(reconstructed(patterns * np.float32(1e5), field, geometry, weights="least squares"), phase) < 0.02


def test_aberrations_are_corrected():
    phase, patterns, field, geometry = weak_phase(probe=ABERRATED)
    frames = patterns * np.float32(1e5)
    assert np.corrcoef(reconstructed(frames, field, geometry).ravel(), phase.ravel())[0, 1] < 0.9
    assert np.corrcoef(reconstructed(frames, field, geometry, ABERRATIONS).ravel(), phase.ravel())[0, 1] > 0.98
    squares = reconstructed(frames, field, geometry, ABERRATIONS, weights="least squares")
    assert np.corrcoef(squares.ravel(), phase.ravel())[0, 1] > 0.99


def test_atoms_of_the_virtual_microscope_are_bright_in_and_out_of_focus():
    specimen = make_specimen("graphene", (3e-9, 3e-9), 0, SpecimenOptions(strain=0.0, vacancy_density=0.0, domain_size=0.0))
    field = ScanField((1e-9, 1e-9), (0.3e-10, 0.3e-10), (32, 32))
    geometry = DetectorGeometry((24, 24), 1.6e-3, ANGLE)
    atoms = specimen.atoms(np.full(2, 1.05e-9), np.full(2, 1.88e-9), Condition()).positions[:, 1:]
    places = np.unique(field.candidates(atoms))
    assert len(places) > 20
    phases = []
    for defocus in (0.0, 8e-9):
        patterns = Diffraction(specimen, Probe(HIGH_TENSION, ANGLE, defocus=defocus), Camera(48, 1.6e-3)).patterns(
            field.positions()) * 1e5
        phases.append(reconstructed(patterns, field, geometry, {"defocus": defocus}))
        assert phases[-1].ravel()[places].mean() > 1.5 * phases[-1].std()
    assert np.corrcoef(phases[0].ravel(), phases[1].ravel())[0, 1] > 0.95


def test_the_last_live_frame_is_the_offline_result_bit_for_bit(counted):
    frames, field, geometry = counted
    offline = SingleSideBand(field, frames.shape[1:], geometry, HIGH_TENSION)
    offline.add(0, frames)
    live = SingleSideBand(field, frames.shape[1:], geometry, HIGH_TENSION)
    rng = np.random.default_rng(2)
    blocks = np.split(np.arange(len(frames)), np.sort(rng.choice(np.arange(1, len(frames)), 30, replace=False)))
    for number, block in enumerate(rng.permutation(len(blocks))):
        live.add(blocks[block], frames[blocks[block]])
        if number == 20:
            seen = np.isfinite(live.phase()).ravel()
            assert seen.sum() == live.visited.sum() and all(len(set(seen[block])) == 1 for block in blocks)
    assert np.array_equal(live.image(), offline.image())
    assert live.caution == "" and live.standard_error == offline.standard_error


def test_an_image_grows_with_the_scan(weak):
    phase, patterns, field, geometry = weak
    band = SingleSideBand(field, patterns.shape[1:], geometry, HIGH_TENSION)
    half = len(patterns) // 2 + 10
    band.add(0, patterns[:half] * np.float32(1e5))
    seen = band.phase()
    assert np.isnan(seen.ravel()[half:]).all() and np.isfinite(seen.ravel()[:half]).all()
    assert "502 of 1024 positions" in band.caution and "16 of 32 rows are complete" in band.caution
    inner = slice(4, 13)
    assert np.corrcoef(seen[inner].ravel(), phase[inner].ravel())[0, 1] > 0.95


def test_a_strong_phase_is_cautioned():
    _, patterns, field, geometry = weak_phase(size=16, rms=0.8, subdivision=2)
    band = SingleSideBand(field, patterns.shape[1:], geometry, HIGH_TENSION)
    band.add(0, patterns * np.float32(1e5))
    band.image()
    assert "rad rms is not weak" in band.caution


def test_events_are_as_good_as_frames(counted):
    frames, field, geometry = counted
    assert np.array_equal(reconstructed(Events.of(frames), field, geometry), reconstructed(frames, field, geometry))
    assert np.array_equal(reconstructed(Events.of(frames), field, geometry, binning=2),
                          reconstructed(frames, field, geometry, binning=2))


@pytest.mark.parametrize("dtype", ["i2", "u4", "i8", "f4", "f8", ">u2", ">f4", "f2", "g"])
def test_the_type_of_the_frames_does_not_matter(counted, dtype):
    frames, field, geometry = counted
    assert np.array_equal(reconstructed(frames.astype(dtype), field, geometry), reconstructed(frames, field, geometry))


def test_standard_error_is_that_of_a_monte_carlo(weak):
    phase, patterns, field, geometry = weak
    rng = np.random.default_rng(5)
    for weights in ("trotters", "least squares"):
        band = SingleSideBand(field, patterns.shape[1:], geometry, HIGH_TENSION, weights=weights)
        runs = []
        for _ in range(12):
            band.add(0, rng.poisson(500 * patterns).astype(np.uint16))
            runs.append(band.phase())
        assert np.std(runs, axis=0, ddof=1).mean() == pytest.approx(band.standard_error, rel=0.05)


def turned(frames, quarters, flipped):
    return np.rot90(frames[:, ::-1] if flipped else frames, quarters, axes=(1, 2))


@pytest.mark.parametrize("flipped", [False, True])
@pytest.mark.parametrize("quarters", [0, 1, 2, 3])
def test_a_turned_detector_sees_the_same_object(weak, quarters, flipped):
    """np.rot90 takes what lies at +x to -y: a turn of the detector's picture by -90 degrees from x towards y."""
    phase, patterns, field, geometry = weak
    symmetric = patterns[:, 1:, 1:] * np.float32(1e5)
    centre = (geometry.center[0] - 1, geometry.center[1] - 1)
    to_picture = np.array([[0.0, -1.0], [1.0, 0.0]])
    seen_rotation = -quarters * np.pi / 2 if not flipped else quarters * np.pi / 2
    detector = replace(geometry, center=centre, rotation=seen_rotation, flipped=flipped)
    vector = np.linalg.matrix_power(to_picture, quarters) @ np.diag([-1.0 if flipped else 1.0, 1.0]) @ [0.3, 0.7]
    np.testing.assert_allclose(detector.to_scan() @ vector, [0.3, 0.7], atol=1e-12)
    expected = reconstructed(symmetric, field, replace(geometry, center=centre))
    frames = np.ascontiguousarray(turned(symmetric, quarters, flipped))
    assert relative(reconstructed(frames, field, detector), expected) < 1e-4


def test_descan_is_undone(counted):
    frames, field, geometry = counted
    frames = frames.reshape(32, 32, 32, 32)[:8, :8].reshape(64, 32, 32)
    field = replace(field, shape=(8, 8))
    per_step = np.array([[1.0, 0.0], [0.5, -0.5]]) / field.step
    descanned = replace(geometry, center=(12, 16), descan=per_step)
    moved = np.stack([np.roll(frame, (-4, 0), axis=(0, 1)) for frame in frames]).astype(np.float64)
    shifts = descanned.shifts(field.positions()).round(6)
    for index, (down, right) in enumerate(shifts):
        whole = np.roll(moved[index], (int(np.floor(down)), int(np.floor(right))), axis=(0, 1))
        part = right - np.floor(right)
        moved[index] = (1 - part) * whole + part * np.roll(whole, 1, axis=1)
    assert relative(reconstructed(moved, field, geometry), reconstructed(frames, field, geometry)) > 1
    whole = shifts[:, 1] % 1 == 0
    band = SingleSideBand(field, frames.shape[1:], descanned, HIGH_TENSION)
    band.add(0, moved)
    still = SingleSideBand(field, frames.shape[1:], geometry, HIGH_TENSION)
    still.add(0, frames)
    np.testing.assert_allclose(band.disk.totals[whole], still.disk.totals[whole], rtol=1e-6)
    assert whole.sum() == 32 and relative(band.phase(), still.phase()) < 0.5
    events = SingleSideBand(field, frames.shape[1:], descanned, HIGH_TENSION)
    events.add(0, Events.of(moved.astype(np.uint16)))
    band.add(0, moved.astype(np.uint16))
    assert np.array_equal(events.phase(), band.phase())
    band.add(0, moved.astype(np.uint16).astype(">f4"))
    assert np.array_equal(events.phase(), band.phase())


def test_a_dead_pixel_is_kept_out_wherever_descan_takes_it(counted):
    frames, field, geometry = counted
    field = replace(field, shape=(8, 8))
    usable = np.ones((32, 32), bool)
    usable[17, 15] = False
    hot = frames[:64].copy()
    hot[:, 17, 15] = 60000
    descanned = replace(geometry, descan=np.diag([0.0, 0.4 / field.step[1]]))
    phases = []
    for block in (frames[:64], hot):
        band = SingleSideBand(field, (32, 32), descanned, HIGH_TENSION, usable=usable)
        band.add(0, block)
        phases.append(band.phase())
    assert np.array_equal(*phases) and len(band.disk.angles) < 215


def test_binning_keeps_the_picture(weak):
    phase, patterns, field, geometry = weak
    seen = reconstructed(patterns * np.float32(1e5), field, geometry, binning=2)
    assert np.corrcoef(seen.ravel(), phase.ravel())[0, 1] > 0.97


def test_a_coarse_step_is_refused_with_the_numbers():
    limit = largest_step(200e3, 20e-3)
    assert limit == pytest.approx(2.5079e-12 / 80e-3, rel=1e-4)
    check_raster(ScanField((0.0, 0.0), (limit, limit), (16, 16)), 200e3, 20e-3)
    with pytest.raises(ValueError, match=r"step of 0\.05 nm is too coarse .* 0\.03135 nm at 200 kV and 20 mrad"):
        SingleSideBand(ScanField((0.0, 0.0), (5e-11, 3e-11), (16, 16)), (64, 64), DetectorGeometry((32, 32), 1e-3, 20e-3),
                       200e3)


def test_a_sparse_scan_is_refused(counted):
    frames, field, geometry = counted
    chosen = np.random.default_rng(6).permutation(len(frames))[:300]
    with pytest.raises(ValueError, match="300 scattered positions of 1024.*sparse scan.*raster without gaps"):
        check_raster(field, HIGH_TENSION, ANGLE, chosen)
    band = SingleSideBand(field, frames.shape[1:], geometry, HIGH_TENSION)
    band.add(chosen, frames[chosen])
    with pytest.raises(ValueError, match="sparse scan"):
        band.image()


@pytest.mark.parametrize(("change", "message"), [
    ({"semi_convergence_angle": 0.0}, "semi-convergence angle is not known"),
    ({"center": (3.0, 16.0)}, "not all of it on the 32 x 32 detector"),
    ({"descan": np.full((2, 2), 1e11)}, "over the scan, not all of it"),
    ({"pixel_angle": 20e-3}, "radius of 1.5 pixels"),
])
def test_a_geometry_that_cannot_work_is_refused(counted, change, message):
    frames, field, geometry = counted
    with pytest.raises(ValueError, match=message):
        SingleSideBand(field, frames.shape[1:], replace(geometry, **change), HIGH_TENSION)


def test_bad_settings_are_refused(counted):
    frames, field, geometry = counted
    for settings, message in (({"aberrations": {"focus": 1e-9}}, "aberration 'focus' is not known"),
                              ({"weights": "flat"}, "weights 'flat' are not known"),
                              ({"memory_limit": 2**18}, "bin the detector by 2"),
                              ({"binning": 0}, "binning 0"),
                              ({"usable": np.ones((3, 3), bool)}, "usable has shape")):
        with pytest.raises(ValueError, match=message):
            SingleSideBand(field, frames.shape[1:], geometry, HIGH_TENSION, **settings)
    band = SingleSideBand(field, frames.shape[1:], geometry, HIGH_TENSION)
    for indices, block, message in ((1020, frames[:10], "index 1029 is outside the 32 x 32 field"),
                                    (0, frames[:, :10], "frames of 10 x 32"),
                                    (np.arange(3), frames[:10], "3 indices for 10 frames")):
        with pytest.raises(ValueError, match=message):
            band.add(indices, block)
    with pytest.raises(ValueError, match="no frame that can be used"):
        band.image()


def test_bad_frames_are_left_out_and_named(counted):
    frames, field, geometry = counted
    spoilt = frames.astype(np.float32)
    spoilt[500, 16, 16] = np.nan
    spoilt[600] = 0
    band = SingleSideBand(field, frames.shape[1:], geometry, HIGH_TENSION)
    band.add(0, spoilt)
    seen = band.phase()
    assert np.isnan(seen).sum() == 2 and np.isnan(seen.ravel()[[500, 600]]).all()
    assert "1 pixels of the bright-field disk" in band.disk.failures[500]
    assert "empty frame among frames of" in band.disk.failures[600]
    whole = reconstructed(frames, field, geometry)
    assert relative(np.where(np.isnan(seen), whole, seen), whole) < 0.2
    saturated = frames.copy()
    saturated[7, 15, 14] = 65535
    band.add(0, saturated)
    assert np.flatnonzero(np.isnan(band.phase())).tolist() == [7]
    band.add(7, frames[7:8])
    assert np.array_equal(band.phase(), whole) and not band.disk.failures


def test_a_beam_stop_is_noticed_and_can_be_excluded(counted):
    frames, field, geometry = counted
    usable = np.ones(frames.shape[1:], bool)
    usable[15:18, 14:] = False
    shadowed = frames * usable
    with pytest.raises(ValueError, match="pixels inside the bright-field disk hold less than a tenth"):
        reconstructed(shadowed, field, geometry)
    whole = reconstructed(frames, field, geometry)
    seen = reconstructed(shadowed, field, geometry, usable=usable)
    assert np.corrcoef(seen.ravel(), whole.ravel())[0, 1] > 0.9
    with pytest.raises(ValueError, match="holds no electrons in any frame"):
        reconstructed(np.zeros_like(frames), field, geometry)


def test_a_falling_axis_is_refused(counted):
    frames, field, geometry = counted
    for step in ((-field.step[0], field.step[1]), (field.step[0], -field.step[1])):
        with pytest.raises(ValueError, match="is negative"):
            SingleSideBand(ScanField((0.0, 0.0), step, field.shape), frames.shape[-2:], geometry, HIGH_TENSION)


@pytest.mark.parametrize("defocus", [4.0, 1e-6])
def test_aberrations_that_leave_nothing_are_refused(counted, defocus):
    frames, field, geometry = counted
    with pytest.raises(ValueError, match="averaged away"):
        reconstructed(frames, field, geometry, {"defocus": defocus})


def test_coma_in_the_wrong_unit_is_refused_and_a_large_defocus_cautioned(counted):
    frames, field, geometry = counted
    for aberrations in ({"coma": 150.0}, {"spherical_aberration": 1.2}):
        with pytest.raises(ValueError, match="averaged away"):
            SingleSideBand(field, frames.shape[1:], geometry, HIGH_TENSION, aberrations)
    band = SingleSideBand(field, frames.shape[1:], geometry, HIGH_TENSION, {"defocus": 30e-9})
    band.add(0, frames)
    band.image()
    assert "of the frequencies are lost" in band.caution


def test_a_high_tension_in_kilovolts_is_noticed(counted):
    frames, field, geometry = counted
    with pytest.raises(ValueError, match="no frequency .* check high tension"):
        SingleSideBand(field, frames.shape[1:], geometry, HIGH_TENSION / 1e3)
    band = SingleSideBand(replace(field, shape=(160, 160)), frames.shape[1:], geometry, HIGH_TENSION / 1e3)
    band.add(0, np.tile(frames[:160], (160, 1, 1)))
    band.image()
    assert "of the raster's frequencies lie within" in band.caution


def test_rows_left_out_and_empty_frames_are_a_sparse_scan(counted):
    frames, field, geometry = counted
    index = np.arange(len(frames)).reshape(field.shape)
    for rows, message in ((slice(0, None, 2), "16 of the 31 rows from 0 to 30"), ([0, 31], "2 of the 32 rows"),
                          ([0, 2], "2 of the 3 rows"), (np.arange(32) % 4 > 0, "both neighbours in their column")):
        chosen = index[rows].ravel()
        band = SingleSideBand(field, frames.shape[-2:], geometry, HIGH_TENSION)
        band.add(chosen, frames[chosen])
        with pytest.raises(ValueError, match=message + ".*sparse scan"):
            band.image()
    rng = np.random.default_rng(0)
    for empty in (rng.random(len(frames)) < 0.8, np.arange(len(frames)) % 2 == 0):
        with pytest.raises(ValueError, match="sparse scan"):
            reconstructed(np.where(empty[:, None, None], 0, frames), field, geometry)


def test_a_scan_in_progress_is_imaged_from_its_first_row_on(counted):
    frames, field, geometry = counted
    band = SingleSideBand(field, frames.shape[-2:], geometry, HIGH_TENSION)
    for first in range(0, len(frames), 7):
        band.add(first, frames[first:first + 7])
        assert np.isfinite(band.phase()).sum() == min(first + 7, len(frames))


@pytest.fixture(scope="module")
def dosed(weak):
    """Counts of 200 electrons a frame."""
    _, patterns, field, geometry = weak
    return np.random.default_rng(8).poisson(200 * patterns).astype(np.float32), field, geometry


def caution_of(frames, field, geometry, **settings):
    band = SingleSideBand(field, frames.shape[-2:], geometry, HIGH_TENSION, **settings)
    band.add(0, frames)
    band.image()
    return band.caution


def test_the_right_disk_needs_no_caution_nor_does_a_hot_pixel_beyond_it(dosed, counted):
    for frames, field, geometry in (dosed, counted):
        assert caution_of(frames, field, geometry) == ""
        for column in (24, 26, 28):
            hot = frames.copy()
            hot[:, 16, column] = 2000
            assert caution_of(hot, field, geometry) == ""


def test_a_disk_off_its_stated_centre_is_cautioned(dosed):
    """The electrons say by how much, (y, x), from the stated centre to theirs."""
    frames, field, geometry = dosed
    for down, right in ((0.8, 0.0), (-0.5, 0.6)):
        wrong = replace(geometry, center=(geometry.center[0] - down, geometry.center[1] - right))
        caution = caution_of(frames, field, wrong)
        told = [float(number) for number in caution.split("about (")[1].split(")")[0].split(", ")]
        np.testing.assert_allclose(told, (down, right), atol=0.15)
        assert "off the stated centre: calibrate the disk" in caution and "radius" not in caution
        assert caution_of(Events.of(frames), field, wrong) == caution


@pytest.mark.parametrize("factor", [0.8, 0.9, 1.1])
def test_a_wrong_convergence_angle_is_cautioned(dosed, factor):
    frames, field, geometry = dosed
    field = replace(field, step=tuple(0.9 * step for step in field.step))
    caution = caution_of(frames, field, replace(geometry, semi_convergence_angle=factor * ANGLE))
    told = float(caution.split("radius is about ")[1].split()[0]) * 1e-3
    assert told == pytest.approx(ANGLE, rel=0.06)


def test_a_dark_offset_is_cautioned(dosed):
    frames, field, geometry = dosed
    inside = 200 / (np.pi * (ANGLE / geometry.pixel_angle) ** 2)
    for offset in (0.35, -0.35):
        assert "a dark offset" in caution_of(frames + np.float32(offset * inside), field, geometry)


def test_the_edge_follows_descan_and_the_order_of_frames_does_not_matter(dosed):
    frames, field, geometry = dosed
    shifts = np.arange(len(frames)) // 32 // 11
    moved = np.stack([np.roll(frame, shift, axis=0) for frame, shift in zip(frames, shifts, strict=True)])
    descanned = replace(geometry, descan=np.array([[2 / 31 / field.step[0], 0.0], [0.0, 0.0]]))
    assert caution_of(moved, field, descanned) == ""
    whole = caution_of(moved, field, geometry)
    assert "off the stated centre" in whole
    band = SingleSideBand(field, frames.shape[1:], geometry, HIGH_TENSION)
    order = np.random.default_rng(9).permutation(len(frames))
    for block in np.split(order, 16):
        band.add(block, moved[block])
    band.image()
    assert band.caution == whole
