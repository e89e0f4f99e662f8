"""The incoherent dark-field image against lattice spacing, cross-sections, and the dynamical calculation."""

import subprocess
import sys

import numpy as np
import pytest
from lattice_specimen import sheet, strontium_titanate

from edgetem_nodes.physics.optics import Annulus, Probe
from edgetem_nodes.physics.scattering_factors import annular_cross_section
from edgetem_nodes.physics.survey import Survey

DETECTOR = Annulus(70e-3, 200e-3)


def test_lattice_spacing():
    """Spots of the image's transform lie where the lattice has them, to half a per cent."""
    specimen, _ = sheet("MoS2", (7, 12))
    step, samples = 0.25e-10, 512
    grid = np.stack(np.meshgrid(np.arange(samples), np.arange(samples), indexing="ij"), -1).reshape(-1, 2) * step
    image = Survey(specimen, Probe(80e3, 25e-3), DETECTOR).currents(grid).reshape(samples, samples)
    window = np.hanning(samples)
    spectrum = np.abs(np.fft.rfft2((image - image.mean()) * window[:, None] * window, s=(8192, 2048)))
    column = spectrum[:4096, 0]
    peak = np.argmax(column[600:]) + 600
    assert 8192 * step / peak == pytest.approx(specimen.cell[0] / 2, rel=5e-3)


def test_mean_is_the_cross_section_an_area():
    specimen, _ = sheet("MoS2", (7, 12))
    grid = np.stack(np.meshgrid(*[np.arange(12) / 12 * edge for edge in specimen.cell], indexing="ij"), -1).reshape(-1, 2)
    for probe in (Probe(80e3, 25e-3), Probe(80e3, 25e-3, defocus=20e-9, coma=300e-9, source_size=1e-10),
                  Probe(80e3, 2e-3, chromatic_aberration=1e-3, energy_spread=0.7)):
        expected = sum(annular_cross_section(z, 80e3, 70e-3, 200e-3) for z in specimen.numbers) / specimen.cell.prod()
        assert Survey(specimen, probe, DETECTOR).currents(grid).mean() == pytest.approx(expected, rel=0.02)


def test_agrees_with_the_dynamical_calculation():
    from edgetem_nodes.physics.diffraction import Diffraction
    from edgetem_nodes.physics.optics import Camera

    specimen, _ = sheet("graphene", (9, 16))
    probe, positions = Probe(80e3, 28e-3), np.random.default_rng(0).uniform(0, 2e-9, (24, 2))
    dynamical = Diffraction(specimen, probe, Camera(64, 1e-3)).currents(positions, [DETECTOR])[:, 0]
    survey = Survey(specimen, probe, DETECTOR).currents(positions)
    assert np.corrcoef(survey, dynamical)[0, 1] > 0.97
    assert survey.mean() == pytest.approx(dynamical.mean(), rel=0.2)


def test_tiles_do_not_show_and_companions_do_not_matter():
    specimen, _ = sheet("MoS2", (7, 12))
    survey = Survey(specimen, Probe(80e3, 25e-3, defocus=10e-9, coma=200e-9, coma_angle=0.3), DETECTOR)
    cells = np.arange(60)[:, None] * specimen.cell[1] * np.array([[0.0, 1.0]]) + 0.4e-10
    values = survey.currents(cells)
    assert np.ptp(values) < 1e-3 * values.mean()
    assert np.array_equal(values[::-1], survey.currents(cells[::-1]))
    assert values[7] == survey.currents(cells[7:8])[0]


def test_coma_points_the_same_way_as_in_diffraction():
    """The tail of the probe: a single atom is imaged as the probe's intensity turned by half a turn."""
    from edgetem_nodes.physics.multislice import probe_waves
    from edgetem_nodes.physics.specimens import Atoms

    class Atom:
        name, thickness, crystalline = "atom", 0.0, False

        def atoms(self, low, high, condition):
            there = ((np.zeros(2) >= low) & (np.zeros(2) < high)).all()
            number = int(there)
            return Atoms(np.zeros((number, 3)), np.full(number, 74), np.zeros(number), np.zeros(number, np.uint64))

    probe = Probe(80e3, 25e-3, coma=1e-6, coma_angle=0.6, astigmatism=5e-9)
    samples, step = 128, 0.25e-10
    places = (np.stack(np.meshgrid(np.arange(40), np.arange(40), indexing="ij"), -1).reshape(-1, 2) - 20)
    image = Survey(Atom(), probe, DETECTOR).currents(places * step)
    wave = probe_waves(probe, samples, step, np.array([[64.0, 64.0]]))[0].abs().numpy() ** 2
    assert np.corrcoef(image, wave[64 - places[:, 0], 64 - places[:, 1]])[0, 1] > 0.999
    assert np.corrcoef(image, wave[64 + places[:, 0], 64 + places[:, 1]])[0, 1] < 0.9


def test_thick_crystals_do_not_scatter_more_than_there_is():
    survey = Survey(strontium_titanate(40), Probe(200e3, 20e-3), Annulus(25e-3, 200e-3))
    image = survey.currents([[0.0, 0.0], [1e-10, 1e-10]])
    assert ((image > 0) & (image < 1)).all()


def test_it_needs_no_torch():
    program = "import sys; import edgetem_nodes.physics.survey; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0


def test_a_detector_in_the_beam_is_refused():
    with pytest.raises(ValueError, match="begins at 10 mrad, inside the undiffracted disc of 25 mrad"):
        Survey(strontium_titanate(1), Probe(80e3, 25e-3), Annulus(10e-3, 50e-3))
