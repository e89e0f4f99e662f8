"""The virtual microscope as a whole: can one measure with it, does it obey, is it a function of its arguments?"""

import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest

from edgetem_nodes.graph.instrument import Instrument, Simulated, simulation
from edgetem_nodes.graph.simulated_instrument import DamageGroup, InstabilitiesGroup, NumericsGroup, Structure
from edgetem_nodes.physics import counting
from edgetem_nodes.physics.electrons import electrons
from edgetem_nodes.physics.exposure import Exposure, ReferenceImage

KY, KX = np.mgrid[-32:32, -32:32]
ELECTRONS = electrons(40e-12, 2e-3)
SMALL = Simulated(rows=12, columns=12, field_nm=11.0)


def microscope(virtual=SMALL, seed=7, **beam):
    return simulation(Instrument(simulated=virtual, **beam), seed)


def exposure(simulated, candidates, sequence=0, elapsed=0.0, dwell=2e-3, period=None, **commanded):
    optics = {**simulated.settings.optics, **commanded.pop("optics", {})}
    return Exposure(sequence, elapsed, simulated.field(optics).positions(np.asarray(candidates)), dwell, period or dwell, optics,
                    **commanded)


def survey(simulated, elapsed=0.0, **commanded):
    field = simulated.settings.field
    whole = exposure(simulated, np.arange(np.prod(field.shape)), counting.SURVEY, elapsed, 20e-6, **commanded)
    return simulated.image(whole, field.shape)


@pytest.fixture(scope="module")
def sheet():
    return simulation(Instrument(), 7)


def lattice(frames):
    """Displacement gradient (n, 2, 2) from the centroids of twelve discs, by least squares; reference: the ideal lattice."""
    orders = [(r * np.sin(a), r * np.cos(a)) for r, a0 in ((15.258, np.pi / 6), (26.428, 0.0))
              for a in a0 + np.arange(6) * np.pi / 3]
    ideal = np.array(orders)
    found = np.empty((len(frames), 12, 2))
    for number, order in enumerate(ideal):
        place = np.tile(order, (len(frames), 1))
        for _ in range(3):
            window = frames * (np.hypot(KY - place[:, 0, None, None], KX - place[:, 1, None, None]) < 3.2)
            place = np.stack([(window * k).sum(axis=(1, 2)) for k in (KY, KX)], axis=-1) / window.sum(axis=(1, 2))[:, None]
        found[:, number] = place
    return np.stack([np.linalg.inv(np.linalg.lstsq(ideal, f, rcond=None)[0].T).T - np.eye(2) for f in found])


def test_strain_is_measurable_from_every_pattern(sheet):
    """A plain centroid of the discs, at the default dose, is good to 0.2 %, and unbiased."""
    chosen = np.random.default_rng(0).choice(4096, 300, replace=False)
    gradient = lattice(sheet.frames(exposure(sheet, chosen), 0, 300).astype(float))
    for quantity, measured in (("strain_xx", gradient[:, 1, 1]), ("strain_yy", gradient[:, 0, 0]),
                               ("strain_xy", (gradient[:, 0, 1] + gradient[:, 1, 0]) / 2)):
        error = measured - sheet.truth(quantity)[1].ravel()[chosen]
        assert error.std() < 2e-3, quantity
        assert abs(error.mean()) < 3e-4, quantity


def test_counts_follow_the_expected_pattern(sheet):
    there = exposure(sheet, [2000] * 400, sequence=1)
    frames = sheet.frames(there, 0, 400).astype(float)
    expected = sheet.expected(there, 0, 1)[0] * ELECTRONS
    bright = expected > 2
    deviation = (frames.mean(axis=0) - expected)[bright] / np.sqrt(expected[bright] / len(frames))
    assert 0.8 < deviation.std() < 1.2
    assert frames.sum(axis=(1, 2)).mean() == pytest.approx(expected.sum(), rel=1e-3)
    assert 0.98 < expected.sum() / ELECTRONS < 1


def test_a_frame_is_the_same_whatever_is_asked_before_it(sheet):
    whole = exposure(sheet, [5, 900, 4000], sequence=3)
    together = sheet.frames(whole, 0, 3)
    assert np.array_equal(sheet.frames(whole, 2, 1)[0], together[2])
    assert not np.array_equal(sheet.frames(exposure(sheet, [5, 900, 4000], sequence=4), 0, 3), together)
    assert np.array_equal(simulation(Instrument(), 7).frames(whole, 0, 3), together)


def test_survey_shows_the_domain_with_poisson_noise(sheet):
    image, domain = survey(sheet), sheet.truth("domain")[1]
    inside, outside = image[domain > 0.9], image[domain < 0.05]
    assert 1.6 < inside.mean() / outside.mean() < 2.4
    assert outside.var() == pytest.approx(outside.mean(), rel=0.25)
    assert np.array_equal(image, survey(sheet))


def test_graphene_diffracts_at_its_own_angle():
    graphene = microscope(replace(SMALL, specimen="graphene"))
    pattern = graphene.expected(exposure(graphene, [0]), 0, 1)[0]
    ring = np.hypot(KY, KX)
    assert pattern[np.abs(ring - 19.6) < 2.6].sum() > 10 * pattern[np.abs(ring - 10.0) < 2.6].sum()


def test_dose_per_area_is_current_times_dwell_over_step_squared():
    """40 pA for 2 ms are 4.99e5 electrons; on every square nanometre, 4990 a square Angstrom."""
    simulated = microscope(replace(SMALL, field_nm=11.0))
    brought = simulated.illumination.electrons(exposure(simulated, [0, 1]), 0, 2)
    step = np.prod(simulated.settings.field.step)
    assert brought / step * 1e-20 == pytest.approx(40e-12 * 2e-3 / 1.602176634e-19 / 100, rel=1e-12)


def test_camera_length_scales_the_pattern_and_a_fault_of_it_does_not_show_in_the_metadata():
    at = {name: microscope(replace(SMALL, instabilities=InstabilitiesGroup(faults=faults)))
          for name, faults in (("sound", []), ("faulty", ["camera_length hidden factor=1.03"]))}
    radii = {}
    for name, simulated in at.items():
        pattern = simulated.expected(exposure(simulated, [60]), 0, 1)[0].astype(float)
        radii[name] = 1 / (1 + lattice(pattern[None])[0].trace() / 2)
        optics, _, _ = simulated.sensed(0.0, simulated.settings.optics, {}, {})
        assert optics["camera_length"] == simulated.settings.optics["camera_length"]
        assert simulated.axes({})[0].scale == pytest.approx(1e-3)
    assert radii["faulty"] / radii["sound"] == pytest.approx(1.03, abs=2e-3)
    sound = at["sound"]
    longer = exposure(sound, [60], optics={"camera_length": 1.1 * sound.settings.optics["camera_length"]})
    assert sound.axes(longer.optics)[0].scale == pytest.approx(1e-3 / 1.1)


def test_stage_and_beam_shift_move_what_is_seen_against_each_other(sheet):
    """A whole step of the grid, two rows: the survey moves by two pixels, exactly but for its noise."""
    step = sheet.settings.field.step[0]
    expected = survey(sheet)[2:].mean()
    shifted = sheet.truth("domain", exposure(sheet, np.arange(4096), optics={"beam_shift_y": 2 * step}))[1]
    moved = sheet.truth("domain", exposure(sheet, np.arange(4096), stage={"y": -2 * step}))[1]
    assert np.allclose(shifted[:-2], sheet.truth("domain")[1][2:])
    assert np.allclose(moved, shifted)
    seen = survey(sheet, optics={"beam_shift_y": 2 * step})
    assert np.corrcoef(seen[:-2].ravel(), survey(sheet)[2:].ravel())[0, 1] > 2 * np.corrcoef(
        seen[2:].ravel(), survey(sheet)[:-2].ravel())[0, 1] or seen.mean() == pytest.approx(expected, rel=0.05)


def test_magnification_takes_a_smaller_field_about_the_same_centre(sheet):
    near = exposure(sheet, np.arange(4096), optics={"magnification": 4.0})
    assert np.ptp(near.positions[:, 0]) == pytest.approx(10e-9)
    assert near.positions.mean(axis=0) == pytest.approx([20e-9, 20e-9])
    domain = sheet.truth("domain", near)[1]
    assert domain[32, 32] == pytest.approx(sheet.truth("domain")[1][32, 32], abs=0.05)


def test_drift_moves_the_specimen_and_a_correction_brings_it_back():
    drifting = microscope(replace(SMALL, instabilities=InstabilitiesGroup(drift_nm_per_min=60.0, drift_deg=90.0)))
    calm = microscope()
    late = exposure(drifting, [40], elapsed=2.0)
    whole = replace(late, positions=drifting.settings.field.positions())
    assert drifting.truth("true_drift_y", whole)[1] == pytest.approx(2e-9)
    there = calm.expected(exposure(calm, [40]), 0, 1)
    assert np.abs(drifting.expected(late, 0, 1) - there).sum() > 1e-3
    steered = exposure(drifting, [40], elapsed=2.0, correction=(2e-9, 0.0), correction_rate=(1e-9, 0.0))
    assert np.abs(drifting.expected(steered, 0, 1) - there).sum() < 1e-5


def test_defocus_drift_changes_the_probe_in_mid_exposure():
    drifting = microscope(replace(SMALL, instabilities=InstabilitiesGroup(defocus_drift_nm_per_min=1000.0)),
                          semi_convergence_mrad=20.0)
    path = exposure(drifting, [40, 40], dwell=1.0)
    first, second = drifting.expected(path, 0, 2)
    assert np.abs(first - second).sum() > 1e-2
    assert np.array_equal(drifting.expected(path, 1, 1)[0], second)
    later = exposure(drifting, np.arange(144), elapsed=6.0)
    assert drifting.truth("true_defocus", later)[1] == pytest.approx(100e-9)


def test_current_drift_changes_what_arrives():
    fading = microscope(replace(SMALL, instabilities=InstabilitiesGroup(current_drift_percent_per_h=-50.0)))
    late = fading.frames(exposure(fading, [40], elapsed=3600.0), 0, 1).sum(dtype=float)
    assert late / fading.frames(exposure(fading, [40]), 0, 1).sum(dtype=float) == pytest.approx(0.5, rel=0.01)


def test_descan_moves_the_pattern_in_proportion_to_the_way_from_the_centre():
    moving = microscope(replace(SMALL, instabilities=InstabilitiesGroup(descan_mrad_per_um=400.0)))
    calm = microscope()
    for candidate in (0, 11):
        pattern, still = (one.expected(exposure(one, [candidate]), 0, 1)[0].astype(float) for one in (moving, calm))
        place = moving.settings.field.positions([candidate])[0] - 5.5e-9
        for axis, k in enumerate((KY, KX)):
            disc = np.hypot(KY, KX) < 6
            shift = (pattern * k * disc).sum() / (pattern * disc).sum() - (still * k * disc).sum() / (still * disc).sum()
            assert shift * 1e-3 == pytest.approx(400e3 * place[axis], abs=0.05e-3)


def test_damage_hits_where_the_beam_stood_and_nowhere_else():
    suffering = microscope(replace(SMALL, damage=DamageGroup(displacement=True, cross_section_barn=2e4)))
    path = exposure(suffering, [40])
    before, elsewhere = suffering.expected(path, 0, 1), suffering.expected(exposure(suffering, [103]), 0, 1)
    suffering.expose(path)
    assert np.abs(suffering.expected(path, 0, 1) - before).sum() > 1e-3
    assert np.abs(suffering.expected(exposure(suffering, [103]), 0, 1) - elsewhere).sum() < 1e-4
    dose = suffering.truth("true_dose", exposure(suffering, np.arange(144)))[1]
    assert dose.argmax() == 40


def test_contamination_darkens_the_discs_and_brightens_the_dark_field():
    dirty = microscope(replace(SMALL, damage=DamageGroup(contamination=True, contamination_nm=20.0)))
    calm = microscope()
    path = exposure(dirty, [40] * 2000)
    clean = calm.expected(exposure(calm, [40]), 0, 1)[0]
    dirty.expose(path)
    assert dirty.truth("true_contamination", exposure(dirty, np.arange(144)))[1].ravel()[40] > 1e-9
    disc = np.hypot(KY, KX) < 3
    pattern = dirty.expected(exposure(dirty, [40]), 0, 1)[0]
    assert pattern[disc].sum() < 0.99 * clean[disc].sum()
    assert pattern[np.abs(np.hypot(KY, KX) - 8) < 2].sum() > 1.5 * clean[np.abs(np.hypot(KY, KX) - 8) < 2].sum()


def test_heating_transforms_the_specimen_from_nuclei():
    hot = microscope(Simulated(rows=24, columns=24, field_nm=40.0, structure=Structure(transition=True)))
    programme = np.array([[0.0, 1100.0, 0.0]])
    fractions = [hot.truth("transformed", exposure(hot, np.arange(576), elapsed=t, holder=programme))[1].mean()
                 for t in (0.0, 20.0, 60.0, 600.0)]
    assert fractions[0] == 0 and all(np.diff(fractions) >= 0) and fractions[-1] > 0.5
    assert hot.truth("transformed", exposure(hot, np.arange(576), elapsed=600.0))[1].max() == 0


def test_plasmon_background_conserves_electrons_and_blurs():
    crystal = Simulated(specimen="SrTiO3", rows=4, columns=4, field_nm=1.2, structure=Structure(thickness_nm=4.0),
                        numerics=NumericsGroup(phonon_configurations=1))
    plain, blurred = (microscope(replace(crystal, plasmon_background=on), high_tension_kV=200.0) for on in (False, True))
    one, other = (m.expected(exposure(m, [5]), 0, 1)[0] for m in (plain, blurred))
    assert other.sum() == pytest.approx(one.sum(), rel=0.02)
    assert other.max() < one.max()
    assert np.median(other) > np.median(one)


def test_currents_of_the_annular_detectors_are_what_is_lost_from_the_bright_field():
    thin = microscope(replace(SMALL, detector="annular", dark_field_inner_mrad=50.0, dark_field_outer_mrad=90.0),
                      semi_convergence_mrad=20.0)
    path = exposure(thin, [40, 41])
    bright, dark, high = thin.expected(path, 0, 2).T
    assert ((0 < high) & (high < dark) & (dark < bright)).all()
    assert (bright + dark + high) == pytest.approx(1.0, abs=0.02)
    counts = thin.frames(path, 0, 2)
    assert counts.shape == (2, 3) and counts.dtype == np.uint32
    assert counts[:, 0] == pytest.approx(bright * ELECTRONS, rel=0.01)


def test_spectra_have_the_edge_mode_at_the_rim():
    flake = microscope(Simulated(specimen="MnPS3", detector="eels", rows=32, columns=32, field_nm=60.0,
                                 structure=Structure(thickness_nm=6.0)), semi_convergence_mrad=10.0)
    energies = flake.axes({})[0].values() / 1.602176634e-19
    distance = np.abs(flake.truth("edge_distance")[1]).ravel()
    inside = int(np.argmin(flake.truth("edge_distance")[1].ravel()))
    rim = int(distance.argmin())
    spectra = flake.expected(exposure(flake, [rim, inside]), 0, 2)
    mode = (energies > 2) & (energies < 4)
    assert spectra[0, mode].sum() / spectra[0].sum() > 3 * spectra[1, mode].sum() / spectra[1].sum()
    frames = flake.frames(exposure(flake, [rim, inside]), 0, 2)
    assert frames.shape == (2, 512)


def test_cameras_refuse_a_dwell_that_they_cannot_follow():
    slow = microscope(replace(SMALL, camera="integrating"))
    with pytest.raises(ValueError, match="shorter than a frame of the integrating camera"):
        slow.frames(exposure(slow, [0], dwell=1e-4), 0, 1)
    assert slow.frames(exposure(slow, [0], dwell=5e-3), 0, 1).dtype == slow.camera_model.dtype


def test_optics_that_make_no_probe_are_refused(sheet):
    with pytest.raises(ValueError, match="does not fit on a camera"):
        sheet.check({"semi_convergence_angle": 40e-3})
    with pytest.raises(ValueError, match="high tension"):
        sheet.check({"high_tension": -1.0})
    with pytest.raises(ValueError, match="there is no truth 'colour'"):
        sheet.truth("colour")


def test_contradicting_parameters_are_refused():
    with pytest.raises(ValueError, match="dark_field_outer_mrad"):
        microscope(Simulated(dark_field_outer_mrad=50.0))
    with pytest.raises(ValueError, match="semi_convergence_mrad"):
        microscope(Simulated(), semi_convergence_mrad=40.0)
    with pytest.raises(ValueError, match="camera_lenght"):
        microscope(replace(SMALL, instabilities=InstabilitiesGroup(faults=["camera_lenght hidden factor=1.03"])))


def test_a_survey_needs_no_torch():
    code = ("import sys, numpy as np; from edgetem_nodes.graph.instrument import Instrument, Simulated; "
            "from edgetem_nodes.microscope.drivers import make_driver; from edgetem_nodes.physics.exposure import Exposure; "
            "d = make_driver(Instrument(simulated=Simulated(rows=8, columns=8, field_nm=5.0)), 0); "
            "e = Exposure(0, 0.0, d.field.positions(), 2e-5, 2e-5, dict(d.state(0.0).commanded_optics)); d.overview(e); "
            "d.set_optics(defocus=1e-8); print([m for m in ('torch', 'abtem', 'rclpy') if m in sys.modules])")
    output = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert output.strip() == "[]"


def test_images_of_a_part_of_the_field_damage_what_they_have_seen_once():
    """Their place is that of drift, beam shift and stage at the time of the image, not of the exposure that tells of it."""
    virtual = replace(SMALL, damage=DamageGroup(contamination=True),
                      instabilities=InstabilitiesGroup(drift_nm_per_min=60.0, drift_deg=0.0))
    simulated = microscope(virtual)
    image = ReferenceImage(2.0, (1e-9, 1e-9), (2e-9, 3e-9), 4e21, (0.5e-9, 0.0), (3e-9, 0.0), {"y": 1e-9})
    told = exposure(simulated, [0], elapsed=100.0, reference_images=(image,))
    simulated.expose(told, 0)
    drift = simulated.illumination.state.stage_drift(np.array([2.0]))[0]
    assert np.hypot(*drift) == pytest.approx(2e-9)
    corner = np.array([1e-9, 1e-9]) + [0.5e-9 + 3e-9 - 1e-9, 0.0] - drift
    assert simulated.dose.dose_at((corner + [1e-9, 1.5e-9])[None]) == pytest.approx(4e21, rel=1e-6)
    assert simulated.dose.electrons == pytest.approx(4e21 * 6e-18, rel=1e-6)
    simulated.expose(replace(told, sequence=1), 0)
    simulated.expose(replace(told, sequence=2, reference_images=(image, replace(image, elapsed=3.0))), 0)
    assert simulated.dose.electrons == pytest.approx(2 * 4e21 * 6e-18, rel=1e-6), "what was told twice counts once"


def test_faults_of_beam_shift_magnification_and_holder_act():
    """A hidden shift of 1 nm and the same beam shift without a fault see the same; so do magnifications and temperatures."""
    def truth(faults, quantity="domain", virtual=SMALL, **commanded):
        simulated = microscope(replace(virtual, instabilities=InstabilitiesGroup(faults=faults)))
        return simulated.truth(quantity, exposure(simulated, np.arange(144), **commanded))[1]

    shifted = truth([], optics={"beam_shift_x": 1e-9})
    assert np.allclose(truth(["beam_shift_x hidden offset=1e-9"]), shifted) and not np.allclose(shifted, truth([]))
    assert np.allclose(truth(["magnification hidden factor=1.5"]), truth([], optics={"magnification": 1.5}))
    hot = {"elapsed": 300.0, "holder": np.array([[0.0, 1200.0, 0.0]]), "quantity": "transformed",
           "virtual": replace(SMALL, structure=Structure(transition=True))}
    assert truth([], **hot).max() > 0
    assert truth(["temperature hidden held=293"], **hot).max() == 0


def test_a_tilt_shifts_a_high_specimen_as_it_leans_its_columns():
    """Points above the eucentric plane go the way that the upper end of a column goes, for both axes."""
    high = microscope(replace(SMALL, specimen="SrTiO3", structure=Structure(thickness_nm=10.0, height_nm=100.0, domain_nm=0.0),
                              strain_percent=0.0), high_tension_kV=200.0)
    for axis, name in enumerate(("alpha", "beta")):
        tilted = exposure(high, [0], stage={name: 0.05})
        atoms = high.atoms(np.full(2, 4e-9), np.full(2, 8e-9), tilted)
        titanium = atoms.positions[atoms.atomic_numbers == 22]
        middle = titanium[np.abs(titanium[:, 1:] - 6e-9).max(axis=1) < 1e-9]
        chain = middle[np.linalg.norm(middle[:, 1:] - middle[middle[:, 0].argmin(), 1:]
                                      - np.outer(middle[:, 0], [-0.05, 0.05] * (np.arange(2) == axis)), axis=1) < 0.15e-9]
        slope = np.polyfit(chain[:, 0], chain[:, 1 + axis], 1)[0]
        moved = high.illumination.offset(exposure(high, [0])) - high.illumination.offset(tilted)
        assert moved[axis] == pytest.approx(-slope * 100e-9, rel=0.05), name


def test_contamination_reaches_currents_and_spectra():
    for detector in ("annular", "eels"):
        dirty = microscope(replace(SMALL, detector=detector, dark_field_inner_mrad=50.0, dark_field_outer_mrad=90.0,
                                   damage=DamageGroup(contamination=True, contamination_nm=20.0)))
        there = exposure(dirty, [40])
        clean = dirty.expected(there, 0, 1)[0]
        dirty.expose(exposure(dirty, [40] * 2000))
        changed = dirty.expected(exposure(dirty, [40], sequence=1), 0, 1)[0]
        assert changed.sum() == pytest.approx(clean.sum(), rel=0.05)
        assert (changed[-1] > 2 * clean[-1]) if detector == "annular" else (changed[200:].sum() > 2 * clean[200:].sum())


def test_vacuum_sends_nothing_into_the_dark_field_whatever_the_camera_length():
    empty = microscope(replace(SMALL, specimen="MnPS3", field_nm=200.0, detector="annular",
                               structure=Structure(thickness_nm=2.0), dark_field_outer_mrad=90.0,
                               numerics=NumericsGroup(phonon_configurations=1)), semi_convergence_mrad=20.0)
    for length in (1.0, 0.25):
        optics = {"camera_length": length * empty.settings.optics["camera_length"]}
        bright, *dark = empty.expected(exposure(empty, [0], optics=optics), 0, 1)[0]
        assert bright == pytest.approx(1.0, abs=1e-3) and max(dark) < 1e-4


def test_dose_at_the_middle_of_a_focused_probe_is_that_of_its_airy_disc():
    """1e6 electrons at 2 mrad and 80 kV, averaged over half a nanometre: 6569 a square Angstrom."""
    suffering = microscope(replace(SMALL, damage=DamageGroup(contamination=True)))
    path = exposure(suffering, [40], dwell=1e6 / ELECTRONS * 2e-3)
    suffering.expose(path)
    assert suffering.dose.dose_at(path.positions + 1e-12)[0] * 1e-20 == pytest.approx(6569, rel=0.35)


def test_what_the_simulation_cannot_follow_is_refused_before(sheet):
    with pytest.raises(ValueError, match="nm wide on the specimen"):
        sheet.check({"defocus": 2e-6, "semi_convergence_angle": 0.03, "camera_length": 0.02})
    with pytest.raises(ValueError, match="keeps the configured 80 kV"):
        sheet.check({"high_tension": 200e3})
    with pytest.raises(ValueError, match="0.7"):
        sheet.check_stage({}, {"alpha": 1.0})
    flat = microscope(SMALL, semi_convergence_mrad=20.0)
    with pytest.raises(ValueError, match="nm wide on the specimen"):
        flat.check_stage({}, {"z": 4e-4})
