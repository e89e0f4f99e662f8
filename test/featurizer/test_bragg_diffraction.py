"""Strain of simulated specimens against their own displacement fields: a strained sheet, and a thick crystal."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from analytic_patterns import deformation
from strained_crystal import strontium_titanate

from edgetem_nodes.featurizer.bragg import Reference, StrainMapper, strained
from edgetem_nodes.featurizer.patterns.geometry import DetectorGeometry
from edgetem_nodes.physics.diffraction import Diffraction
from edgetem_nodes.physics.electrons import wavelength
from edgetem_nodes.physics.numerics import Numerics
from edgetem_nodes.physics.optics import Camera, Probe
from edgetem_nodes.physics.specimens import Condition
from edgetem_nodes.physics.specimens.catalogue import SpecimenOptions, make_specimen


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def test_a_simulated_sheet_gives_its_true_strain():
    """MoS2 of up to 2 % strain, 64 x 64 pixels of 1 mrad, against a lattice of 3.16 Angstrom."""
    sheet = make_specimen("MoS2", (12e-9, 12e-9), 7, SpecimenOptions(strain=0.02))
    grid = np.linspace(0, 12e-9, 11)
    positions = np.stack(np.meshgrid(grid, grid, indexing="ij"), axis=-1).reshape(-1, 2)
    patterns = Diffraction(sheet, Probe(80e3, 2e-3), Camera(64, 1e-3)).patterns(positions)
    frames = np.random.default_rng(0).poisson(patterns * 1e6).astype(np.uint32)
    mapper = StrainMapper.learn(frames[::2], DetectorGeometry((32.0, 32.0), 1e-3, 2e-3))
    length = np.hypot(*mapper.reference.vectors)
    assert length == pytest.approx(wavelength(80e3) * 2 / (np.sqrt(3) * 3.16e-10), rel=0.02)
    # the sheet's own lattice: a1 along x, so reciprocal vectors at 30 and 90 degrees and so on; the nearest to what was learnt
    angles = np.radians(30 * np.rint(np.degrees(np.arctan2(*mapper.reference.vectors)) / 30))
    size = 2 / (np.sqrt(3) * 3.16e-10)
    reference = Reference.of_crystal("MoS2", size * np.stack([np.sin(angles), np.cos(angles)]), wavelength(80e3))
    features = mapper.with_reference(reference)(frames)
    assert features.valid.all(), features.failures
    for column, quantity in enumerate(("strain_xx", "strain_yy", "strain_xy")):
        truth = sheet.truth(quantity, positions, Condition())
        found = features.values[:, column]
        assert np.corrcoef(found, truth)[0, 1] > 0.97, quantity
        assert abs((found - truth).mean()) < 5e-4, quantity
        assert (found - truth).std() < 2e-3, quantity


def pattern(thickness: float, f: np.ndarray) -> np.ndarray:
    crystal = strontium_titanate(round(thickness / 3.905e-10), f)
    numerics = Numerics(phonon_configurations=0, slice_thickness=4e-10)
    return Diffraction(crystal, Probe(200e3, 2e-3), Camera(72, 0.7e-3), numerics).patterns([[1.1e-9, 0.9e-9]])[0]


@pytest.mark.slow
def test_dynamical_contrast_leaves_a_tenth_of_a_percent():
    """12 nm of SrTiO3 against an unstrained part of its own thickness at 1e5 electrons; rotation to 0.2 degree."""
    components = {"exx": 0.010, "eyy": -0.006, "exy": 0.004, "rotation": np.radians(1.0)}
    rng = np.random.default_rng(1)
    plain, moved = (rng.poisson(1e5 * pattern(12e-9, f), (30, 72, 72)) for f in (np.eye(2), deformation(**components)))
    mapper = StrainMapper.learn(np.concatenate([plain, moved]), DetectorGeometry((36.0, 36.0), 0.7e-3, 2e-3))
    reference = Reference.of_region(mapper(plain), np.ones(30, bool))
    features = strained(mapper(moved), reference)
    assert features.valid.all(), features.failures
    errors = features.values[:, :4] - list(components.values())
    assert np.abs(errors[:, :3].mean(axis=0)).max() < 1e-3
    assert np.degrees(np.abs(errors[:, 3])).max() < 0.2
