"""The strained sheet: its truth against the positions of its own atoms."""

import numpy as np
import pytest
from scipy.spatial import cKDTree

from edgetem_nodes.physics.sheet import Sheet, crystal

EXTENT, MARGIN = (20e-9, 24e-9), 3e-9
GRID = np.stack(np.meshgrid(*[np.linspace(0, length, 60) for length in EXTENT], indexing="ij"), axis=-1).reshape(-1, 2)


@pytest.fixture(scope="module")
def sheet():
    return Sheet("MoS2", EXTENT, MARGIN, 0.02, 5)


def test_unit_cell_has_the_lattice_of_molybdenum_disulphide():
    unit = crystal("MoS2")
    a, b = unit.cell
    assert np.linalg.norm(a) == pytest.approx(3.16e-10)
    assert abs(a @ b) / (np.linalg.norm(a) * np.linalg.norm(b)) == pytest.approx(0.5)
    assert sorted(unit.atomic_numbers) == [16, 16, 42]


def test_density_of_a_perfect_sheet():
    perfect = Sheet("graphene", EXTENT, MARGIN, 0.0, 5)
    patch = perfect.truth("domain", perfect.positions)[1].mean()
    area = (EXTENT[0] + 2 * MARGIN) * (EXTENT[1] + 2 * MARGIN)
    monolayer = 2 / (2.46e-10 ** 2 * np.sqrt(3) / 2) * area
    assert monolayer < len(perfect.positions) + len(perfect.vacancies) < monolayer * (1 + 2 * patch)


def test_strain_truth_is_what_the_atoms_do(sheet):
    """The local lattice of metal atoms, fitted to each one's six neighbours, against the truth at that atom."""
    metal = sheet.positions[np.isin(sheet.atomic_numbers, (42, 74))]
    inside = np.flatnonzero(((metal > 1e-9) & (metal < np.array(EXTENT) - 1e-9)).all(axis=1))[::7]
    _, neighbours = cKDTree(metal).query(metal[inside], 7)
    bonds = metal[neighbours[:, 1:]] - metal[inside, None]
    angle = np.round(np.arctan2(bonds[..., 0], bonds[..., 1]) / (np.pi / 3)) * np.pi / 3
    perfect = 3.16e-10 * np.stack([np.sin(angle), np.cos(angle)], axis=-1)
    gradient = np.stack([np.linalg.lstsq(p, b, rcond=None)[0].T for p, b in zip(perfect, bonds, strict=True)]) - np.eye(2)
    for quantity, measured in (("strain_yy", gradient[:, 0, 0]), ("strain_xx", gradient[:, 1, 1]),
                               ("strain_xy", (gradient[:, 0, 1] + gradient[:, 1, 0]) / 2)):
        truth = sheet.truth(quantity, metal[inside])[1]
        assert measured == pytest.approx(truth, abs=6e-4), quantity


def test_largest_normal_strain_is_the_one_asked_for(sheet):
    xx, yy, total = (sheet.truth(q, GRID)[1] for q in ("strain_xx", "strain_yy", "dilation"))
    assert max(abs(xx).max(), abs(yy).max()) == pytest.approx(0.02, rel=0.02)
    assert total == pytest.approx(xx + yy)
    assert total.min() < -0.008 < 0.012 < total.max()


def test_strain_sits_at_parts_of_the_rim(sheet):
    """Related to what the survey shows, but not the same."""
    domain = sheet.truth("domain", GRID)[1].reshape(60, 60)
    dilation = np.abs(sheet.truth("dilation", GRID)[1]).reshape(60, 60)
    rim = np.hypot(*np.gradient(domain))
    assert 0.15 < np.corrcoef(rim.ravel(), dilation.ravel())[0, 1] < 0.8
    assert abs(np.corrcoef(domain.ravel(), dilation.ravel())[0, 1]) < 0.5


def test_tungsten_is_in_the_domain_and_vacancies_are_missing(sheet):
    metal = np.isin(sheet.atomic_numbers, (42, 74))
    tungsten = sheet.atomic_numbers == 74
    inside = sheet.truth("domain", sheet.positions)[1] > 0.9
    assert tungsten[metal & inside].mean() == pytest.approx(0.955, abs=0.03)
    assert tungsten[metal & ~inside].mean() < 0.06
    assert sheet.truth("vacancies", sheet.vacancies)[1].min() >= 1
    interior = ((sheet.positions > 0) & (sheet.positions < EXTENT)).all(axis=1)
    sulphur = (sheet.atomic_numbers[interior] == 16).sum()
    cut_at_the_border = 2 * 2 * sum(EXTENT) / 3.16e-10
    assert abs(2 * metal[interior].sum() - len(sheet.vacancies) - sulphur) < cut_at_the_border


def test_the_seed_is_all_there_is_to_it():
    first, again, other = (Sheet("MoS2", (8e-9, 8e-9), 1e-9, 0.02, seed) for seed in (1, 1, 2))
    assert np.array_equal(first.positions, again.positions)
    assert first.positions.shape != other.positions.shape or not np.array_equal(first.positions, other.positions)


def test_an_unknown_truth_or_specimen_is_named(sheet):
    with pytest.raises(ValueError, match="strain_zz"):
        sheet.truth("strain_zz", np.zeros((1, 2)))
    with pytest.raises(ValueError, match="MoSe2"):
        crystal("MoSe2")
