"""The measured image of a vanadium-doped MoS2 monolayer."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from edgetem_nodes.featurizer.atoms import find_atoms
from edgetem_nodes.featurizer.atoms.distortion import affine_distortion

torch.set_num_threads(1)
FIELD = 9e-9
"""Height and width of the image [m], from the file's own metadata."""


@pytest.fixture(scope="module")
def measured(data_root):
    image = np.load(data_root / "images" / "MoS2_stem_Exp-000-2.npy", allow_pickle=False)
    return find_atoms(image, FIELD / image.shape[0], material="MoS2")


def test_metal_sites_are_found(measured):
    metal = measured.sublattices[0].completeness
    assert (metal.sites, metal.found) == (890, 888)
    assert metal.fraction > 0.95 and metal.sound_fraction > 0.95
    assert metal.sound_sites > 0.9 * metal.sites


def test_sulphur_is_found_with_the_amplitude_of_two_atoms(measured):
    """Two sulphur atoms have (16 / 42)^1.7 x 2 = 0.39 of molybdenum's intensity; probe tails and detector angles alter it."""
    sulphur = measured.sublattices[1]
    assert 0.25 < sulphur.amplitude < 0.5
    assert sulphur.completeness.fraction > 0.7
    offset = np.mod(sulphur.offset, 1.0)
    centre = min((np.array([1, 1]) / 3, np.array([2, 2]) / 3), key=lambda c: np.linalg.norm(offset - c))
    assert np.linalg.norm((offset - centre) @ measured.lattice.vectors) * measured.pixel_size < 25e-12


def test_lattice_vectors(measured):
    """Statistical errors to 0.2 %. Lengths are those of the file's pixels: not corrected, and not equal, see the distortion."""
    lattice = measured.lattice
    assert (lattice.length_errors / lattice.lengths).max() < 2e-3
    lengths = lattice.lengths * measured.pixel_size
    assert 2.9e-10 < lengths.min() and lengths.max() < 3.5e-10
    distortion = affine_distortion(lattice.vectors, "hexagonal")
    assert distortion.anisotropy > 0.1
    assert measured.uniformity().max() < 0.013
    assert measured.held_out_anisotropy().max() < 0.025


def test_candidates_for_vanadium(measured):
    """About one per cent of 890 sites is doped, says the file; (23 / 42)^1.7 = 0.36 of molybdenum's intensity."""
    rows = measured.candidates()
    lighter = rows[(measured.kinds[rows] == "lighter") & (measured.sublattice[rows] == 0)]
    assert 5 <= len(lighter) <= 14
    assert (measured.probabilities[lighter, 0] < 0.5).all() and (measured.q_values[lighter] <= 0.1).all()
    sure = lighter[measured.probabilities[lighter, 1] > 0.95]
    assert len(sure) >= 4
    assert np.mean(measured.ratio[sure]) == pytest.approx(0.36, abs=0.12)


def test_a_crop_does_not_turn_a_dopant_into_a_vacancy(measured, data_root):
    """A column of 0.1 of its neighbours, where others of 0.3 are many in the whole image and none in this quarter."""
    whole = np.load(data_root / "images" / "MoS2_stem_Exp-000-2.npy", allow_pickle=False)
    quarter = find_atoms(whole[:256, :256], FIELD / whole.shape[0], material="MoS2")
    for found in (measured, quarter):
        row = int(np.argmin(np.linalg.norm(found.positions - [39, 120], axis=1)))
        assert row in found.undecided() and {kind for kind, *_ in found.possible(row)} == {"lighter", "vacancy"}
        atoms = found.to_atoms(lighter="V")
        near = np.argmin(np.linalg.norm(atoms.positions[:, :2] - found.positions[row, ::-1] * found.pixel_size * 1e10, axis=1))
        assert atoms.symbols[near] == "X" and atoms.arrays["kind"][near] == "undecided"


def test_another_material_is_refused(measured):
    with pytest.raises(ValueError, match="316.9 pm, graphene has 246 pm"):
        replace(measured, material="graphene").to_atoms()


def test_inverted_image_is_noticed(data_root):
    image = np.load(data_root / "images" / "MoS2_stem_Exp-000-2.npy", allow_pickle=False)[:256, :256]
    found = find_atoms(image, FIELD / 512, contrast="dark", material="MoS2")
    assert any("as bright columns the image looks more like a crystal" in note for note in found.notes)
    with pytest.raises(ValueError, match="contrast"):
        found.to_atoms()


def test_structure(measured):
    atoms = measured.to_atoms(lighter="V")
    counts = {symbol: list(atoms.symbols).count(symbol) for symbol in ("Mo", "S", "V")}
    assert counts["Mo"] > 850 and counts["V"] >= 4
    assert np.ptp(atoms.positions[atoms.symbols == "S", 2]) == pytest.approx(3.17)
    assert "vacancies" in atoms.info
