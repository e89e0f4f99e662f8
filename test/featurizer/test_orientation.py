"""Orientations of kinematic patterns made by a formula of the test's own, of the virtual microscope's, and what is refused."""

import numpy as np
import pytest
from ase.build import bulk
from ase.spacegroup import crystal
from scipy.spatial.transform import Rotation
from tilted_crystal import expected_pattern

from edgetem_nodes.featurizer.features import CountingNoise
from edgetem_nodes.featurizer.orientation.crystal import Crystal, excitation_errors
from edgetem_nodes.featurizer.orientation.disks import DiskSearch, Peaks
from edgetem_nodes.featurizer.orientation.dynamical import BlochWaves, DynamicalRefinement
from edgetem_nodes.featurizer.orientation.library import Library
from edgetem_nodes.featurizer.orientation.mapping import OrientationMapper, Settings
from edgetem_nodes.featurizer.orientation.matching import SECTORS, correlate
from edgetem_nodes.featurizer.orientation.misorientation import misorientation
from edgetem_nodes.featurizer.orientation.rotations import about_beam, upright
from edgetem_nodes.featurizer.patterns.events import Events
from edgetem_nodes.featurizer.patterns.geometry import DetectorGeometry
from edgetem_nodes.physics.electrons import lorentz_factor, wavelength
from edgetem_nodes.physics.optics import Camera
from edgetem_nodes.physics.scattering_factors import scattering_factor

WAVELENGTH = wavelength(200e3)
GOLD = bulk("Au", "fcc", a=4.0782, cubic=True)
TITANATE = crystal(("Sr", "Ti", "O"), [(0, 0, 0), (.5, .5, .5), (.5, .5, 0)], spacegroup=221, cellpar=[3.905] * 3 + [90] * 3)
PHASES = (Crystal.of(GOLD, "gold"), Crystal.of(TITANATE, "SrTiO3"))
GEOMETRY = DetectorGeometry((63.4, 64.7), 0.8e-3, 1.5e-3)
LARGEST = 49e-3
LIBRARY = Library(PHASES, 200e3, LARGEST, thickness=4e-9)
SHAPE = (128, 128)
RADIUS = GEOMETRY.semi_convergence_angle / GEOMETRY.pixel_angle


def kinematic_spots(phase, turn, thickness=4e-9):
    """Places (n, 2) [1/m] and fractions of the beam: (gamma lambda |F| t / V)^2 times the shape function of a slab on the Ewald
    sphere (De Graef, section 2.6), F by selection rules."""
    constant = (4.0782e-10, 3.905e-10)[phase]
    h = np.stack(np.meshgrid(*[np.arange(-9, 10)] * 3, indexing="ij"), -1).reshape(-1, 3)
    h = h[np.any(h, axis=1)]
    g = h[:, ::-1] / constant
    length = np.linalg.norm(g, axis=1)
    if phase == 0:
        factor = 4 * scattering_factor(79, length) * ((h % 2).sum(axis=1) % 3 == 0)
    else:
        strontium, titanium, oxygen = (scattering_factor(z, length) for z in (38, 22, 8))
        signs = (-1.0) ** h
        factor = strontium + titanium * signs.prod(axis=1) + oxygen * (
            signs[:, 0] * signs[:, 1] + signs[:, 1] * signs[:, 2] + signs[:, 0] * signs[:, 2])
    q = g @ turn.T
    # the sphere of radius 1/lambda about the end of the incident wave vector
    missed = np.sqrt(WAVELENGTH ** -2 - q[:, 1] ** 2 - q[:, 2] ** 2) - 1 / WAVELENGTH - q[:, 0]
    strength = lorentz_factor(200e3) * WAVELENGTH * thickness / constant ** 3 * factor * np.exp(-0.125e-20 * length ** 2)
    intensity = (strength * np.sinc(missed * thickness)) ** 2
    kept = (np.abs(missed) < 0.8e9) & (np.hypot(q[:, 1], q[:, 2]) * WAVELENGTH < LARGEST)
    return q[kept, 1:], intensity[kept]


def kinematic_peaks(phase, turn, rng, geometry=GEOMETRY, position=(0.0, 0.0), electrons=1e5, blur=0.1):
    """Peaks [pixel] and electrons, the direct beam first; those below 15 electrons are not found."""
    places, intensity = kinematic_spots(phase, turn)
    direct = electrons * max(1 - intensity.sum(), 0.2)
    counts = rng.poisson(electrons * intensity)
    places, counts = places[counts > 15], counts[counts > 15]
    angles = np.concatenate([[(0.0, 0.0)], places]) * WAVELENGTH
    pixels = angles @ geometry.to_detector().T @ np.linalg.inv(geometry.distortion).T / geometry.pixel_angle
    pixels += np.asarray(geometry.center) + np.asarray(geometry.descan) @ position
    return pixels + rng.normal(scale=blur, size=pixels.shape), np.append(direct, counts)


def turn_between(matrix, truth, phase):
    """Rotation vector (x, y, z) [deg] from the closest equivalent of `truth` to an orientation."""
    between = matrix @ PHASES[phase].symmetry.rotations @ truth.T
    return Rotation.from_matrix(between[np.argmax(np.trace(between, axis1=1, axis2=2))][::-1, ::-1]).as_rotvec(degrees=True)


def errors(phases, matrices, turns, phase):
    """In-plane error and tilt error (n,) [deg] under symmetry; NaN where not indexed as this phase."""
    result = np.full((len(turns), 2), np.nan)
    for i in np.flatnonzero(phases == phase):
        vector = turn_between(matrices[i], turns[i], phase)
        result[i] = abs(vector[2]), np.hypot(*vector[:2])
    return result.T


def judged(found, turns, phase):
    """In-plane error and tilt error (n,) [deg] of the best orientation or, where it says itself that the second fits as well (a
    zone and its half turn have the same reflections), of the closer one of the two; and how many are of that kind."""
    first = errors(found.phases, found.matrices, turns, phase)
    second = errors(found.second_phases, found.second_matrices, turns, phase)
    ambiguous = found.reliability < 0.02
    use = ambiguous & ~(np.hypot(*first) <= np.hypot(*second)) & np.isfinite(second[0])
    return *np.where(use, second, first), int(use.sum())


def random_turns(count, seed):
    return Rotation.random(count, rng=np.random.default_rng(seed)).as_matrix()


@pytest.mark.parametrize("phase", [0, 1])
def test_orientation_and_phase_of_kinematic_patterns(phase):
    rng, turns = np.random.default_rng(10), random_turns(40, 11 + phase)
    peaks = Peaks.of(*zip(*(kinematic_peaks(phase, turn, rng) for turn in turns), strict=True))
    found = OrientationMapper(LIBRARY, GEOMETRY).of_peaks(peaks)
    in_plane, tilt, ambiguous = judged(found, turns, phase)
    good = (in_plane < 1.0) & (tilt < 2.0)
    assert found.indexed.mean() >= 0.95 and (found.phases[found.indexed] == phase).all()
    assert (found.phase_reliability[found.indexed] > 0).all()
    assert good.mean() >= 0.9 and ambiguous <= 8, (np.round(in_plane, 2), np.round(tilt, 2), ambiguous)
    assert np.sqrt(np.mean(in_plane[good] ** 2)) < 0.2 and np.sqrt(np.mean(tilt[good] ** 2)) < 0.7


def test_zone_axis_and_in_plane_rotation_are_those_of_the_matrix():
    turn = random_turns(1, 20)[0]
    found = OrientationMapper(LIBRARY, GEOMETRY).of_peaks(
        Peaks.of(*([part] for part in kinematic_peaks(0, turn, np.random.default_rng(21)))))
    assert found.matrices[0] @ found.zone_axes[0] == pytest.approx([1, 0, 0], abs=1e-9)
    again = about_beam(upright(found.zone_axes)[0], found.in_plane[0])
    assert again == pytest.approx(found.matrices[0], abs=1e-9)
    assert PHASES[0].indices(found.zone_axes)[0] == pytest.approx(
        found.zone_axes[0, ::-1] / np.abs(found.zone_axes[0]).max())


def test_detector_rotation_flip_ellipse_and_descan_are_taken_off():
    geometry = DetectorGeometry((60.0, 66.0), 0.8e-3, 1.5e-3, distortion=np.array([[1.02, 0.01], [0.01, (1 + 1e-4) / 1.02]]),
                                descan=np.array([[3e7, 0.0], [1e7, -2e7]]), rotation=np.radians(37), flipped=True)
    rng, turns, positions = np.random.default_rng(30), random_turns(15, 31), np.linspace(0, 1e-7, 30).reshape(15, 2)
    peaks = Peaks.of(*zip(*(kinematic_peaks(0, turn, rng, geometry, position)
                            for turn, position in zip(turns, positions, strict=True)), strict=True))
    mapper = OrientationMapper(Library(PHASES[:1], 200e3, 45e-3, thickness=4e-9), geometry)
    in_plane, tilt, _ = judged(mapper.of_peaks(peaks, positions), turns, 0)
    assert np.median(in_plane) < 0.15 and np.median(tilt) < 0.5 and ((in_plane < 1) & (tilt < 2)).mean() > 0.8
    with pytest.raises(ValueError, match="has a descan"):
        mapper.of_peaks(peaks)
    with pytest.raises(ValueError, match="3 scan positions do not fit 15"):
        mapper.of_peaks(peaks, positions[:3])


def test_standard_error_in_plane_is_the_scatter_of_a_monte_carlo():
    turn, rng = near_zone((0, 0, 1), 1.5, 0.3, 0.7), np.random.default_rng(41)
    peaks = Peaks.of(*zip(*(kinematic_peaks(1, turn, rng, blur=0.2) for _ in range(80)), strict=True))
    found = OrientationMapper(LIBRARY, GEOMETRY).of_peaks(peaks)
    misses = np.array([turn_between(matrix, turn, 1) for matrix in found.matrices])
    expected = np.degrees(np.median(found.standard_errors, axis=0))
    assert expected[0] == pytest.approx(np.sqrt(np.mean(misses[:, 2] ** 2)), rel=0.3)
    # of the tilt, it holds what the model misses as well, which does not scatter from pattern to pattern
    assert (np.std(misses[:, :2], axis=0) < 2 * expected[:0:-1]).all()
    assert np.hypot(*misses[:, :2].T).max() < 1.0


@pytest.mark.parametrize("phase", [0, 1])
def test_standard_errors_of_the_tilt_hold_what_two_beam_intensities_miss(phase):
    rng, turns = np.random.default_rng(42), random_turns(40, 43 + phase)
    found = OrientationMapper(LIBRARY, GEOMETRY).of_peaks(
        Peaks.of(*zip(*(kinematic_peaks(phase, turn, rng) for turn in turns), strict=True)))
    right = [i for i in range(40) if found.phases[i] == phase
             and np.linalg.norm(turn_between(found.matrices[i], turns[i], phase)) < 3]
    misses = np.array([turn_between(found.matrices[i], turns[i], phase)[1::-1] for i in right])
    ratios = misses / np.degrees(found.standard_errors[right, 1:])
    assert len(right) > 25 and (np.abs(ratios) < 2).mean() > 0.93
    assert 0.1 < np.sqrt(np.mean(ratios ** 2)) < 1.2


@pytest.mark.parametrize("phase", [0, 1])
def test_a_zone_axis_has_a_rival_and_a_reliability(phase):
    rng = np.random.default_rng(44)
    turns = [near_zone((0, 0, 1), tilt, 0.3, 0.7) for tilt in np.linspace(0, 2, 12)]
    found = OrientationMapper(Library(PHASES[phase:phase + 1], 200e3, LARGEST, thickness=4e-9), GEOMETRY).of_peaks(
        Peaks.of(*zip(*(kinematic_peaks(phase, turn, rng) for turn in turns), strict=True)))
    assert found.indexed.all(), found.failures
    assert (found.second_scores > 0).all() and ((found.reliability >= 0) & (found.reliability < 1)).all()
    apart, _ = misorientation(found.matrices, found.second_matrices, PHASES[phase].symmetry)
    assert (apart > Settings().distinct).all()


def mapped_with_pixel_angle(times, count, seed):
    """Kinematic patterns of gold, indexed as if the camera length were that much shorter."""
    rng, turns = np.random.default_rng(seed), random_turns(count, seed + 1)
    peaks = Peaks.of(*zip(*(kinematic_peaks(0, turn, rng) for turn in turns), strict=True))
    geometry = DetectorGeometry(GEOMETRY.center, times * GEOMETRY.pixel_angle, GEOMETRY.semi_convergence_angle)
    return OrientationMapper(Library(PHASES[:1], 200e3, LARGEST, thickness=4e-9), geometry).of_peaks(peaks)


@pytest.mark.parametrize(("wrong", "text"), [(0.95, "smaller"), (0.96, "smaller"), (1.04, "larger"), (1.05, "larger")])
def test_a_size_at_the_bound_is_refused_by_name(wrong, text):
    found = mapped_with_pixel_angle(wrong, 15, 45)
    assert not found.indexed.any(), (found.scores[found.indexed], found.scales[found.indexed], found.matched[found.indexed])
    assert np.isnan(found.matrices).all()
    named = [failure for failure in found.failures if f"{text} than the library says" in failure]
    assert named and all("check camera length and high tension" in failure for failure in named)


@pytest.mark.parametrize("wrong", [0.8, 0.85, 0.9, 1.1, 1.15, 1.2])
def test_a_size_far_off_is_seldom_indexed_without_a_rival(wrong):
    """Near sqrt(3/4) and sqrt(4/3) the 111 and 200 reflections of a cubic lattice trade places: a few spots then truly fit."""
    found = mapped_with_pixel_angle(wrong, 30, 50)
    assert (found.indexed & (found.reliability >= 0.02)).mean() <= 0.05
    assert found.indexed.mean() <= (0.25 if wrong in (0.85, 1.15) else 0.1), (found.scores[found.indexed], found.matched)


def test_a_size_within_the_bound_is_fitted():
    found = mapped_with_pixel_angle(1.015, 12, 47)
    assert found.indexed.mean() > 0.9 and found.scales[found.indexed] == pytest.approx(1.015, abs=0.004)


def test_correlation_is_that_of_polar_images_by_fourier_transforms():
    """Ring by ring as Ophus et al. do it, in an image of the azimuth fine enough to know the shared votes."""
    rng = np.random.default_rng(50)
    radii = np.sort(rng.choice([4e9, 5e9, 7e9], 14))
    azimuths, weights = rng.uniform(0, 2 * np.pi, 14), rng.uniform(size=14)
    templates = LIBRARY.templates
    spots = [(np.sort(rng.choice([4e9, 5e9, 7e9], 9)), rng.uniform(0, 2 * np.pi, 9), rng.uniform(size=9)) for _ in range(5)]
    starts = np.arange(0, 46, 9)
    scores, turns, opposite = np.empty(5), np.empty(5), np.empty(5)
    correlate(radii, azimuths, weights, starts, *(np.concatenate(part) for part in zip(*spots, strict=True)), 1e8, scores,
              turns, opposite)
    fine = 20
    triangle = np.maximum(0, 1 - np.abs(np.fft.fftfreq(SECTORS * fine, 1 / (SECTORS * fine))) / fine)

    def image(r, a, w):
        result = np.zeros((3, SECTORS * fine))
        np.add.at(result, (np.searchsorted([4.5e9, 6e9], r), np.rint(a / (2 * np.pi) * SECTORS * fine).astype(int) % (
            SECTORS * fine)), w)
        return np.fft.fft(result, axis=1)

    for i, template in enumerate(spots):
        product = (image(radii, azimuths, weights) * image(*template).conj()).sum(axis=0) * np.fft.fft(triangle)
        correlation = np.fft.ifft(product).real[::fine]
        assert scores[i] == pytest.approx(correlation.max(), rel=0.08)
        step = 2 * np.pi / SECTORS
        assert min((turns[i] - correlation.argmax() * step) % (2 * np.pi), (correlation.argmax() * step - turns[i])
                   % (2 * np.pi)) <= step
    assert templates.starts[-1] == len(templates.weights)


def painted(peaks, rng, noise=0.02):
    """A counted frame: disks of electrons at peaks, a flat background."""
    y, x = np.mgrid[:SHAPE[0], :SHAPE[1]]
    frame = np.full(SHAPE, noise)
    for (py, px), counts in zip(*peaks, strict=True):
        disk = np.clip(RADIUS + 0.5 - np.hypot(y - py, x - px), 0, 1)
        frame += counts * disk / max(disk.sum(), 1)
    return rng.poisson(frame).astype(np.uint16)


def test_frames_and_events_give_the_same_and_the_right_orientation():
    rng, turns = np.random.default_rng(60), random_turns(8, 61)
    frames = np.array([painted(kinematic_peaks(1, turn, rng, blur=0.0), rng) for turn in turns])
    search, mapper = DiskSearch(SHAPE, RADIUS), OrientationMapper(LIBRARY, GEOMETRY)
    dense, sparse = mapper(frames, search), mapper(Events.of(frames), search)
    assert np.array_equal(dense.matrices, sparse.matrices, equal_nan=True) and dense.failures == sparse.failures
    in_plane, tilt, _ = judged(dense, turns, 1)
    assert np.median(in_plane) < 0.1 and np.median(tilt) < 0.5
    # a row depends on its own frame alone
    assert np.array_equal(mapper(frames[3:4], search).matrices[0], dense.matrices[3], equal_nan=True)


def test_disks_are_found_to_a_fraction_of_a_pixel_and_only_whole_ones():
    rng = np.random.default_rng(70)
    wanted = np.array([(20.3, 30.6), (64.0, 64.5), (90.2, 40.9), (100.7, 101.1)])
    given = (np.concatenate([wanted, [(-1.0, 50.0)]]), np.array([1000, 4000, 400, 2000, 3000]))
    search, misses = DiskSearch(SHAPE, RADIUS), []
    for _ in range(20):
        peaks = search(painted(given, rng)[None])
        assert len(peaks.positions) == 4, "the disk that is cut by the border, or noise, is taken for a disk"
        order = np.argsort(peaks.positions[:, 0])
        misses.append(peaks.positions[order] - wanted)
        assert peaks.intensities[order] == pytest.approx(given[1][:4], rel=0.25)
    # the mean of n electrons on a disk of radius R: R / 2 / sqrt(n), and the pixels beside it
    bound = RADIUS / 2 / np.sqrt(given[1][:4])
    assert (np.sqrt(np.mean(np.square(misses), axis=(0, 2))) < 2 * bound + 0.02).all()


def test_a_beam_stop_hides_the_direct_beam_alone():
    rng, turn = np.random.default_rng(80), random_turns(1, 81)
    frame = painted(kinematic_peaks(1, turn[0], rng, blur=0.0), rng)
    y, x = np.mgrid[:SHAPE[0], :SHAPE[1]]
    mask = np.hypot(y - 63.4, x - 64.7) > 5
    frame[~mask] = 65535
    found = OrientationMapper(LIBRARY, GEOMETRY)(frame[None], DiskSearch(SHAPE, RADIUS, mask=mask))
    in_plane, tilt, _ = judged(found, turn, 1)
    assert in_plane[0] < 0.3 and tilt[0] < 1.0
    assert "saturated" in OrientationMapper(LIBRARY, GEOMETRY)(frame[None], DiskSearch(SHAPE, RADIUS)).failures[0]


def test_what_is_not_indexed_says_why():
    rng = np.random.default_rng(90)
    frames = np.zeros((3, *SHAPE), np.float32)
    frames[1, 3, 4] = np.nan
    frames[2] = painted((np.array([(63.4, 64.7)]), np.array([1e4])), rng)
    mapper = OrientationMapper(LIBRARY, GEOMETRY)
    found = mapper(frames, DiskSearch(SHAPE, RADIUS))
    assert [text in failure for text, failure in zip(("0 spots beside", "not finite", "0 spots beside"), found.failures,
                                                     strict=True)] == [True] * 3
    assert np.isnan(found.matrices).all() and np.isnan(found.reliability).all() and not found.indexed.any()
    line = np.array([(63.4 + 6 * i, 64.7 + 3 * i) for i in range(-6, 7)])
    assert "one line" in mapper.of_peaks(Peaks.of([line], [np.full(13, 100.0)])).failures[0]
    saturated = DiskSearch(SHAPE, RADIUS, noise=CountingNoise(saturation=100.0))(frames[2:])
    assert "saturated" in saturated.failures[0] and len(saturated.positions) == 0
    nothing = Peaks.of([np.array([[np.nan, 1.0]])], [np.array([1.0])])
    assert "not finite" in mapper.of_peaks(nothing).failures[0]
    assert len(mapper.of_peaks(Peaks.of([], []))) == 0


def test_spots_of_no_lattice_are_seldom_indexed():
    rng = np.random.default_rng(100)
    places = [np.concatenate([[(63.4, 64.7)], rng.uniform(5, 123, (16, 2))]) for _ in range(60)]
    strengths = [np.append(1e4, rng.uniform(50, 2000, 16)) for _ in range(60)]
    found = OrientationMapper(LIBRARY, GEOMETRY).of_peaks(Peaks.of(places, strengths))
    assert found.indexed.mean() < 0.1
    assert all("below lowest_score" in failure or "spots fit" in failure for failure in found.failures if failure)


def test_values_that_cannot_be_are_refused():
    for arguments, message in (((), "at least one crystal"), ((PHASES[0], PHASES[0]), "must differ")):
        with pytest.raises(ValueError, match=message):
            Library(arguments, 200e3, LARGEST)
    with pytest.raises(ValueError, match="between 0 and 0.3 rad"):
        Library(PHASES, 200e3, 0.5)
    with pytest.raises(ValueError, match="between 0.1 and 20 degrees"):
        Library(PHASES, 200e3, LARGEST, step=np.radians(30))
    with pytest.raises(ValueError, match="no reflection|has no reflection"):
        Library(PHASES, 200e3, 1e-3)
    with pytest.raises(ValueError, match="least_explained 1.2 is not in"):
        Settings(least_explained=1.2)
    with pytest.raises(ValueError, match="below 3"):
        Settings(fewest_spots=2)
    with pytest.raises(ValueError, match="cannot be found"):
        DiskSearch(SHAPE, 40.0)
    with pytest.raises(ValueError, match="was made for 128 x 128"):
        DiskSearch(SHAPE, 2.0)(np.zeros((1, 64, 64)))


def test_bloch_waves_are_those_of_two_beams():
    """I = sin^2(pi t sqrt(s^2 + q^2)) q^2 / (s^2 + q^2), and no electron is lost with many beams (Hirsch et al., chapter 8)."""
    waves, turn = BlochWaves(PHASES[0], LIBRARY), random_turns(1, 110)[0]
    thicknesses = np.linspace(1e-9, 40e-9, 14)
    beams = waves.beams(turn)
    one = beams[:1]
    q = np.abs(waves.couplings[one[0]])
    s = excitation_errors(waves.vectors[one] @ turn.T, WAVELENGTH)[0]
    expected = np.sin(np.pi * thicknesses * np.hypot(s, q)) ** 2 * q ** 2 / (s ** 2 + q ** 2)
    assert waves.intensities(turn, one, thicknesses)[:, 1] == pytest.approx(expected, abs=1e-12)
    # gold's 111 at 100 kV: 15.9 nm (Hirsch et al., table of extinction distances), in proportion to the electron's velocity;
    # tables of scattering factors differ by as much
    strongest = np.abs(waves.couplings).max()
    assert 1 / strongest == pytest.approx(15.9e-9 * 0.6953 / 0.5482, rel=0.2)
    assert waves.intensities(turn, beams, thicknesses).sum(axis=1) == pytest.approx(1.0)


def near_zone(zone, tilt, azimuth, in_plane):
    """A crystal with `zone` (u, v, w) within `tilt` of the beam [deg]."""
    axis = np.array(zone, float) / np.linalg.norm(zone)
    onto, _ = Rotation.align_vectors([[0, 0, 1.0]], [axis])
    lean = Rotation.from_rotvec(np.radians(tilt) * np.array([np.cos(azimuth), np.sin(azimuth), 0]))
    return (lean * Rotation.from_euler("z", in_plane) * onto).as_matrix()[::-1, ::-1]


@pytest.fixture(scope="module")
def tilted_titanate():
    """Expected patterns of 10 nm of SrTiO3 tilted off low zone axes, by multislice, and the orientations."""
    rng = np.random.default_rng(120)
    zones = [(0, 0, 1), (0, 1, 1), (0, 0, 1), (0, 1, 1)]
    turns = np.array([near_zone(zone, rng.uniform(0.3, 2.5), *rng.uniform(0, 2 * np.pi, 2)) for zone in zones])
    return np.array([expected_pattern(TITANATE, turn, 10e-9, Camera(128, 0.8e-3), phonon_configurations=1)
                     for turn in turns]), turns


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize(("electrons", "two_beam_tilt"), [(1e4, 3.0), (1e5, 2.0)])
def test_orientation_of_multislice_patterns(tilted_titanate, electrons, two_beam_tilt):
    """0.2 degree in the plane; the tilt within 1 degree by Bloch waves, which find the thickness too."""
    expected, turns = tilted_titanate
    frames = np.random.default_rng(121).poisson(expected * electrons).astype(np.uint16)
    geometry, library = DetectorGeometry((64.0, 64.0), 0.8e-3, 1.5e-3), Library(PHASES, 200e3, 50e-3, thickness=10e-9)
    found = OrientationMapper(library, geometry)(frames, DiskSearch(SHAPE, RADIUS))
    in_plane, tilt, _ = judged(found, turns, 1)
    assert (in_plane < 0.2).all() and (tilt < two_beam_tilt).all(), (in_plane, tilt, found.failures)
    # single patterns are off by more (docs/orientation.md); independent residuals would make it sqrt(residuals) times that
    assert np.sqrt(np.mean((tilt / np.degrees(np.hypot(*found.standard_errors[:, 1:].T))) ** 2)) < 2
    refined = OrientationMapper(library, geometry, dynamical=DynamicalRefinement(library))(frames, DiskSearch(SHAPE, RADIUS))
    in_plane, tilt, _ = judged(refined, turns, 1)
    assert (in_plane < 0.2).all() and (tilt < 1.0).all(), (in_plane, tilt, refined.failures)
    assert refined.thicknesses == pytest.approx(10e-9, rel=0.21)
