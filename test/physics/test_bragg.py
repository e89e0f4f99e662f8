"""Nanobeam diffraction of sheets against Bragg's law, the Fourier series of one cell, Friedel's law and mirror symmetry."""

import numpy as np
import pytest
from lattice_specimen import Lattice, sheet

from edgetem_nodes.physics.diffraction import Diffraction
from edgetem_nodes.physics.electrons import interaction_constant, wavelength
from edgetem_nodes.physics.optics import Camera, Probe
from edgetem_nodes.physics.numerics import Slicing
from edgetem_nodes.physics.potential import potential_slices

PROBE, CAMERA = Probe(80e3, 2e-3), Camera(64, 1e-3)
KY, KX = np.mgrid[-32:32, -32:32]


def stretched(specimen: Lattice, factor: float) -> Lattice:
    return Lattice(specimen.cell * factor, specimen.basis * [1, factor, factor], specimen.numbers, specimen.thickness,
                   specimen.rms)


def disc(pattern, order, specimen, radius=3.2):
    """Fraction of the beam in the disc of a reflection, and its centroid's distance from where Bragg's law has it [mrad]."""
    ky, kx = np.array(order) / specimen.cell * wavelength(80e3) * 1e3
    inside = pattern * ((KY - ky) ** 2 + (KX - kx) ** 2 < radius ** 2)
    return inside.sum(), np.hypot((inside * (KY - ky)).sum(), (inside * (KX - kx)).sum()) / inside.sum()


def pattern_of(specimen):
    return Diffraction(specimen, PROBE, CAMERA).patterns([[1.5e-9, 1.5e-9]])[0].astype(float)


@pytest.mark.parametrize("factor", [0.98, 1.0, 1.02])
def test_discs_lie_at_wavelength_over_spacing(factor):
    specimen = stretched(sheet("MoS2", (7, 12))[0], factor)
    pattern = pattern_of(specimen)
    for order in ((2, 0), (-2, 0), (1, 1), (1, -1), (-1, 1), (-1, -1)):
        assert disc(pattern, order, specimen)[1] < 0.06, order


def test_intensities_are_those_of_the_cells_fourier_series():
    """|T_g|^2 of exp(i sigma V) on one cell, sampled much more finely."""
    specimen, _ = sheet("MoS2", (7, 12))
    pattern = pattern_of(specimen)
    rows = 7 * specimen.cell[0]
    atoms = specimen.atoms(np.full(2, -1e-13), np.full(2, rows - 1e-13))
    assert rows == pytest.approx(12 * specimen.cell[1])
    phase = interaction_constant(80e3) * potential_slices(atoms, np.zeros(2), rows / 768, (768, 768),
                                                          Slicing(1, 0.0, 0.0, True)).numpy()[0]
    series = np.abs(np.fft.fft2(np.exp(1j * phase)) / phase.size) ** 2
    for order in ((0, 0), (2, 0), (-2, 0), (1, 1), (0, 2)):
        assert disc(pattern, order, specimen)[0] == pytest.approx(series[order[0] * 7, order[1] * 12], rel=0.03), order


def test_friedels_law_holds_for_a_centrosymmetric_sheet_and_nearly_for_the_other():
    for name, low, high in (("graphene", 0.0, 5e-3), ("MoS2", 0.01, 0.15)):
        specimen, _ = sheet(name, (7, 12))
        pattern = pattern_of(specimen)
        pair = [disc(pattern, order, specimen)[0] for order in ((2, 0), (-2, 0))]
        assert low <= abs(pair[0] / pair[1] - 1) < high


def test_mirror_symmetry():
    """The mirror plane of the sheet reverses x."""
    specimen, _ = sheet("MoS2", (7, 12))
    pattern = pattern_of(specimen)
    for row in (1, -1):
        assert disc(pattern, (row, 1), specimen)[0] == pytest.approx(disc(pattern, (row, -1), specimen)[0], rel=2e-3)


def test_most_but_not_all_electrons_reach_the_camera():
    assert 0.985 < pattern_of(sheet("MoS2", (7, 12))[0]).sum() < 0.999
