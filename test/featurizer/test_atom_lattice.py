"""Lattices of points whose lattice is known."""

import numpy as np
import pytest

from edgetem_nodes.featurizer.atoms.distortion import affine_distortion, held_out_anisotropy
from edgetem_nodes.featurizer.atoms.drawing import CRYSTALS, sites
from edgetem_nodes.featurizer.atoms.lattice_fit import fit_lattice, local_vectors, predicted
from edgetem_nodes.featurizer.atoms.translations import NoLattice, lattice_vectors, reduced

SHAPE = (300, 320)


def points_of(crystal, rng, noise=0.4, missing=0.03, turn=0.3, pixel=0.2):
    """Places, amplitudes and vectors [pixel] of a crystal of CRYSTALS turned by an angle."""
    cell, constant, basis, numbers = CRYSTALS[crystal]
    rotation = np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])
    vectors = np.array(cell) * constant / pixel @ rotation.T
    places, sublattice = sites(vectors, np.array(basis, float), SHAPE, rng.uniform(0, 1, 2), 0)
    weights = np.array([sum(z ** 1.7 for z in column) for column in numbers])[sublattice]
    keep = rng.uniform(size=len(places)) > missing
    return (places + rng.normal(0, noise, places.shape))[keep], (weights * rng.normal(1, 0.05, len(places)))[keep], vectors


@pytest.mark.parametrize("crystal, columns, cells", [(0, 2, 1), (2, 2, 1), (4, 1, 1), (5, 4, 1), (8, 2, 2)])
def test_cell_and_sublattices(crystal, columns, cells):
    """`cells`: primitive cells of the conventional one by which a crystal is described (gallium arsenide: centred)."""
    rng = np.random.default_rng(crystal)
    points, amplitudes, vectors = points_of(crystal, rng)
    fit = fit_lattice(points, amplitudes, SHAPE)
    assert fit.area == pytest.approx(abs(np.linalg.det(vectors)) / cells, rel=3e-3)
    if cells == 1:
        three = np.vstack([reduced(vectors), np.diff(reduced(vectors), axis=0)])
        assert np.allclose(np.sort(fit.lengths), np.sort(np.linalg.norm(three, axis=1)), rtol=3e-3)
    assert len(fit.offsets) == columns
    assert (fit.sublattice >= 0).mean() > 0.98
    ordered = [np.median(amplitudes[fit.sublattice == s]) for s in range(columns)]
    assert ordered == sorted(ordered, reverse=True)


def test_stated_errors_of_the_vectors():
    """Over seeds, deviations from the truth are as large as stated."""
    deviations = []
    for seed in range(8):
        rng = np.random.default_rng([7, seed])
        points, amplitudes, vectors = points_of(4, rng, noise=0.6, missing=0.0)
        fit = fit_lattice(points, amplitudes, SHAPE)
        truth = np.rint(fit.vectors @ np.linalg.inv(vectors)) @ vectors
        deviations.append((fit.vectors - truth).ravel() / np.sqrt(np.diag(fit.covariance)))
    assert 0.6 < np.std(deviations) < 1.6


def test_slow_distortion_is_followed():
    rng = np.random.default_rng(8)
    points, amplitudes, _ = points_of(2, rng, noise=0.2)
    bent = points + 4.0 * np.stack([((points[:, 1] - 160) / 160) ** 2, ((points[:, 0] - 150) / 150) ** 3], axis=1)
    fit = fit_lattice(bent, amplitudes, SHAPE)
    assert (fit.sublattice >= 0).mean() > 0.97
    on = fit.sublattice >= 0
    assert np.nanstd(fit.residuals) < 0.3
    assert np.std(predicted(fit, fit.nodes[on], fit.sublattice[on], bent) - bent[on]) < 0.35
    lengths = np.linalg.norm(local_vectors(fit, bent)[:, 0], axis=1)
    assert np.ptp(lengths) / lengths.mean() > 0.01


def test_no_lattice_in_random_points():
    rng = np.random.default_rng(9)
    with pytest.raises(NoLattice):
        fit_lattice(rng.uniform(0, 300, (400, 2)), np.ones(400), SHAPE)


def test_too_few_and_a_row():
    with pytest.raises(NoLattice, match="too few"):
        lattice_vectors(np.random.default_rng(0).uniform(0, 100, (8, 2)), np.ones(8), SHAPE)
    row = np.column_stack([np.full(40, 50.0), np.arange(40) * 7.0])
    with pytest.raises(NoLattice, match="one direction"):
        lattice_vectors(row, np.ones(40), SHAPE)


def test_amplitudes_tell_a_larger_cell():
    """A centred square lattice of two kinds of column has the cell of the square, of one kind half of it."""
    rng = np.random.default_rng(10)
    vectors, basis = np.array([[20.0, 3.0], [-3.0, 20.0]]), np.array([[0.0, 0.0], [0.5, 0.5]])
    points, sublattice = sites(vectors, basis, SHAPE, np.zeros(2), 0)
    for difference, area in ((0.0, 0.5), (0.4, 1.0)):
        amplitudes = 1 - difference * sublattice + rng.normal(0, 0.05, len(points))
        found = lattice_vectors(points + rng.normal(0, 0.3, points.shape), amplitudes, SHAPE)
        assert abs(np.linalg.det(found)) == pytest.approx(area * np.linalg.det(vectors), rel=0.02)


@pytest.mark.parametrize("seed", range(4))
def test_reduction_keeps_the_lattice(seed):
    rng = np.random.default_rng(seed)
    vectors = rng.normal(size=(2, 2)) * 5
    short = reduced(np.array([[2, 1], [5, 3]]) @ vectors)
    change = short @ np.linalg.inv(vectors)
    assert np.allclose(change, np.rint(change), atol=1e-6) and abs(round(np.linalg.det(change))) == 1
    assert 59.9 < np.degrees(np.arccos(short[0] @ short[1] / np.prod(np.linalg.norm(short, axis=1)))) < 90.1


def test_affine_distortion_is_recovered():
    stretch = np.array([[0.95, 0.02], [0.02, 1.06]])
    turn = np.array([[np.cos(0.4), -np.sin(0.4)], [np.sin(0.4), np.cos(0.4)]])
    vectors = np.array([[18.0, 0.0], [9.0, 18.0 * 0.75**0.5]]) @ (stretch @ turn).T
    found = affine_distortion(vectors)
    assert found.symmetry == "hexagonal"
    assert found.constant == pytest.approx(18.0 * np.sqrt(np.linalg.det(stretch)))
    assert np.allclose(found.matrix * np.sqrt(np.linalg.det(stretch)), stretch, atol=1e-9)
    values, axes = np.linalg.eigh(stretch)
    assert found.stretches[0] / found.stretches[1] == pytest.approx(values[1] / values[0])
    assert abs(np.sin(found.direction) * axes[0, 1] + np.cos(found.direction) * axes[1, 1]) == pytest.approx(1.0)


def test_uniform_distortion_holds_in_the_other_half():
    rng = np.random.default_rng(11)
    points, amplitudes, _ = points_of(4, rng, noise=0.2, missing=0.0)
    squeezed = points * np.array([0.93, 1.0])
    fit = fit_lattice(squeezed, amplitudes, SHAPE)
    assert affine_distortion(fit.vectors, "hexagonal").anisotropy > 0.03
    assert held_out_anisotropy(fit, squeezed, "hexagonal").max() < 0.01
