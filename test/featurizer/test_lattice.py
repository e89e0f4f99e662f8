"""Strain from Bragg disks: exact on noise-free patterns, unbiased and covered with Poisson noise, true on simulated ones."""

from __future__ import annotations

import numpy as np
import pytest
from analytic_patterns import deformation, disk_image, hexagonal_places, pattern_axes

from edgetem_nodes.featurizer.deformation import fit_lattice, reciprocal_vectors, strain
from edgetem_nodes.featurizer.features import CountingNoise
from edgetem_nodes.featurizer.lattice import LatticeScalarizer
from edgetem_nodes.featurizer.parameters import Lattice, Parameters
from edgetem_nodes.featurizer.scalarizers import build, measure
from edgetem_nodes.physics.electrons import wavelength

AXES = pattern_axes()
MOS2 = 3.16e-10
WAVELENGTH = wavelength(80e3)
STRAINS = [(0.0, 0.0, 0.0, 0.0), (0.02, -0.01, 0.005, 0.0), (-0.015, 0.02, -0.01, 0.02), (0.03, 0.03, 0.0, -0.03)]


def lattice(**settings) -> Parameters:
    return Parameters(scalarizer="lattice", lattice=Lattice(**settings))


def image(components=(0.0, 0.0, 0.0, 0.0), electrons: float = 1e4, shift=(0.0, 0.0), background: float = 0.0,
          turned: float = 0.0, uneven: bool = True) -> np.ndarray:
    """Expected pattern of a deformed MoS2 sheet: central disk 97 %, twelve Bragg disks of unequal strength 3 %."""
    exx, eyy, exy, rotation = components
    places = hexagonal_places(MOS2, WAVELENGTH, deformation(exx, eyy, exy, rotation + turned))
    strength = np.tile([1.0, 0.6, 0.8], 4) if uneven else np.ones(12)
    strength = 0.03 * electrons * strength / strength.sum()
    places = np.concatenate([[[0.0, 0.0]], places]) + np.asarray(shift)
    return disk_image(places, np.concatenate([[0.97 * electrons], strength]), 2.0, AXES, background)


def expected_values(components) -> dict[str, float]:
    exx, eyy, exy, rotation = components
    return {"dilation": 100 * (exx + eyy), "exx": 100 * exx, "eyy": 100 * eyy, "exy": 100 * exy,
            "rotation": np.degrees(rotation)}


@pytest.mark.parametrize("components", STRAINS)
def test_exact_spots_give_the_exact_strain(components):
    """The algebra alone: spots of a deformed direct lattice, worked out from its cell, give back the deformation."""
    exx, eyy, exy, rotation = components
    reference = hexagonal_places(MOS2, WAVELENGTH, np.eye(2))
    spots = hexagonal_places(MOS2, WAVELENGTH, deformation(exx, eyy, exy, rotation)) + [0.3, -0.2]
    fit = fit_lattice(reference, spots[None], np.ones((1, 12)))
    found = strain(fit.matrix, fit.covariance[:, 1:, 1:])
    assert fit.centre[0] == pytest.approx([0.3, -0.2], abs=1e-9)
    assert (found.exx[0], found.eyy[0], found.exy[0], found.rotation[0]) == pytest.approx(components, abs=1e-9)
    assert found.deformation[0] == pytest.approx(deformation(exx, eyy, exy, rotation), abs=1e-9)


def test_reciprocal_vectors_are_those_of_the_direct_lattice():
    shells = reciprocal_vectors(MOS2, 0.1, 4)
    assert [len(shell) for shell in shells] == [6, 6, 6, 12]
    direct = MOS2 * np.array([[np.sin(0.1), np.cos(0.1)], [np.sin(0.1 + 2 * np.pi / 3), np.cos(0.1 + 2 * np.pi / 3)]])
    for shell in shells:
        products = shell @ direct.T
        assert products == pytest.approx(np.rint(products), abs=1e-9)
    assert np.linalg.norm(shells[0], axis=1) == pytest.approx(2 / (np.sqrt(3) * MOS2))


@pytest.mark.parametrize("components", STRAINS)
def test_noise_free_patterns_give_the_strain(components):
    """Pixels half as wide as the disks' radius leave an error below 0.08 % of strain."""
    scalarizer = build(lattice(), AXES)
    features = scalarizer(image(components, 1e6, shift=(0.4, -0.3), background=1.0)[None])
    values = dict(zip(scalarizer.names, features.values[0], strict=True))
    assert features.valid[0], features.failures
    for name, truth in expected_values(components).items():
        assert values[name] == pytest.approx(truth, abs=0.08), name


@pytest.mark.parametrize("electrons", [8e3, 1e5])
def test_strain_is_unbiased_and_its_standard_error_covers(electrons):
    components = (0.01, -0.008, 0.004, 0.01)
    expected = image(components, electrons)
    frames = np.random.default_rng(1).poisson(expected, (1500, 64, 64)).astype(np.uint16)
    scalarizer = build(lattice(), AXES)
    features = scalarizer(frames)
    assert features.valid.mean() > 0.99
    exact = scalarizer(expected[None] * 1e3).values[0]
    for column, (name, truth) in enumerate(expected_values(components).items()):
        values, errors = (array[features.valid, column] for array in (features.values, features.standard_errors))
        assert abs(values.mean() - truth) < 0.05 + 0.15 * values.std(), name
        assert np.sqrt((errors**2).mean()) == pytest.approx(values.std(), rel=0.12), name
        inside = np.abs(values - exact[column]) < errors
        assert inside.mean() == pytest.approx(0.683, abs=0.06), name


def test_gain_scales_the_errors_not_the_strain():
    frames = np.random.default_rng(2).poisson(image(electrons=3e4), (50, 64, 64))
    one = measure(frames, AXES, lattice())
    ten = lattice()
    ten.counts_per_electron = 10.0
    scaled = measure(frames * 10.0, AXES, ten)
    assert scaled.values[:, :5] == pytest.approx(one.values[:, :5], abs=1e-9)
    assert scaled.standard_errors[:, :5] == pytest.approx(one.standard_errors[:, :5], rel=1e-9)


def test_any_orientation_is_found_where_it_is_free():
    angles = np.radians([-25.0, -8.0, 11.0, 27.0])
    frames = np.stack([image((0.01, 0.0, 0.0, 0.0), 1e5, turned=angle) for angle in angles])
    scalarizer = build(lattice(free_rotation=True, component="rotation"), AXES)
    features = scalarizer(frames)
    assert features.valid.all(), features.failures
    assert features.values[:, 0] == pytest.approx(np.degrees(angles), abs=0.1)
    assert features.values[:, scalarizer.names.index("exx")] == pytest.approx([1.0] * 4, abs=0.08)


def test_the_instruments_beam_is_used_unless_the_lattice_has_its_own():
    parameters = lattice()
    assert (parameters.resolved_lattice().high_tension_kV, parameters.resolved_lattice().semi_convergence_mrad) == (80, 2)
    parameters = lattice(high_tension_kV=60.0, semi_convergence_mrad=1.5)
    assert (parameters.resolved_lattice().high_tension_kV, parameters.resolved_lattice().semi_convergence_mrad) == (60, 1.5)


def test_windows_for_a_picture_lie_on_the_disks():
    scalarizer = LatticeScalarizer(lattice().resolved_lattice(), CountingNoise(), AXES)
    places, radius = scalarizer.windows(image((0.02, 0.0, 0.0, 0.01), 1e5, shift=(0.4, 0.0)))
    truth = hexagonal_places(MOS2, WAVELENGTH, deformation(0.02, 0.0, 0.0, 0.01)) + [0.4, 0.0]
    distance = np.linalg.norm(places[:, None] - truth, axis=-1).min(axis=1)
    assert len(places) == 12
    assert distance.max() < 0.05
    assert radius == pytest.approx(3.25)


def test_component_chooses_the_scalar():
    for component in ("dilation", "exx", "eyy", "exy", "rotation"):
        scalarizer = build(lattice(component=component), AXES)
        assert scalarizer.names[0] == component
        assert sorted(scalarizer.names) == sorted(build(lattice(), AXES).names)


def test_patterns_without_a_lattice_are_marked_failures():
    rng = np.random.default_rng(4)
    good = rng.poisson(image(electrons=2e5)).astype(np.uint16)
    empty = np.zeros_like(good)
    vacuum = rng.poisson(disk_image(np.zeros((1, 2)), np.array([1e5]), 2.0, AXES)).astype(np.uint16)
    noise = rng.poisson(5.0, good.shape).astype(np.uint16)
    saturated = good.copy()
    row, column = np.rint(hexagonal_places(MOS2, WAVELENGTH, np.eye(2))[0]).astype(int) + 32
    saturated[row, column] = 65535
    features = measure(np.stack([good, empty, vacuum, noise, saturated]), AXES, lattice())
    assert features.valid.tolist() == [True, False, False, False, False], features.failures
    assert "empty" in features.failures[1]
    assert "disks were found" in features.failures[2]
    assert "disks were found" in features.failures[3]
    assert "saturated" in features.failures[4]
    assert np.isnan(features.values[1:]).all()
    undefined = good.astype(float)
    undefined[0, 0] = np.nan
    assert not measure(undefined[None], AXES, lattice()).valid[0]


def test_saturated_central_disk_does_not_matter():
    frame = image(electrons=1e5)
    frame[30:35, 30:35] = 65535
    assert measure(frame.astype(np.uint16)[None], AXES, lattice()).valid[0]


@pytest.mark.parametrize(("settings", "axes", "message"), [
    ({"material": "graphene"}, pattern_axes(32), "innermost disks of graphene.*do not fit on the detector"),
    ({"semi_convergence_mrad": 9.0}, pattern_axes(128), "overlap"),
    ({}, (AXES[0],), "needs patterns with two axes in rad"),
    ({"center_mrad": [0.0]}, AXES, "two numbers"),
])
def test_settings_that_do_not_fit_are_refused(settings, axes, message):
    with pytest.raises(ValueError, match=message):
        build(lattice(**settings), axes)


def test_simulated_sheet_gives_its_true_strain():
    """The physics of the simulated specimen against its own displacement field, without noise."""
    from edgetem_nodes.physics.diffraction import Diffraction
    from edgetem_nodes.physics.optics import Camera, Probe
    from edgetem_nodes.physics.scan import Axis
    from edgetem_nodes.physics.specimens import Condition
    from edgetem_nodes.physics.specimens.catalogue import SpecimenOptions, make_specimen

    camera = Camera(64, 1e-3)
    sheet = make_specimen("MoS2", (12e-9, 12e-9), 7, SpecimenOptions(strain=0.02))
    grid = np.linspace(0, 12e-9, 15)
    positions = np.stack(np.meshgrid(grid, grid, indexing="ij"), axis=-1).reshape(-1, 2)
    patterns = Diffraction(sheet, Probe(80e3, 2e-3), camera).patterns(positions)
    axes = tuple(Axis(name, "rad", 1e-3, camera.offset, 64) for name in ("ky", "kx"))
    scalarizer = build(lattice(), axes)
    features = scalarizer(patterns * 1e8)
    assert features.valid.all(), features.failures
    for name, quantity in (("dilation", "dilation"), ("exx", "strain_xx"), ("eyy", "strain_yy"), ("exy", "strain_xy")):
        truth = 100 * sheet.truth(quantity, positions, Condition())
        found = features.values[:, scalarizer.names.index(name)]
        assert np.corrcoef(found, truth)[0, 1] > 0.97, name
        assert abs((found - truth).mean()) < 0.05, name
        assert (found - truth).std() < 0.2, name


def test_thousands_of_patterns_a_second():
    import time
    frames = np.random.default_rng(0).poisson(image(electrons=1e5), (300, 64, 64)).astype(np.uint16)
    scalarizer = build(lattice(), AXES)
    start = time.process_time()
    scalarizer(frames)
    assert 300 / (time.process_time() - start) > 1000
