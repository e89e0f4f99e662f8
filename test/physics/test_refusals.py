"""What cannot be simulated is refused with value and limit, at once: no loop without end, no bare error of a library."""

import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest

from edgetem_nodes.graph.instrument import Instrument, Simulated, simulation
from edgetem_nodes.graph.simulated_instrument import InstabilitiesGroup, NumericsGroup, Structure
from edgetem_nodes.physics.cameras import landau, make_camera
from edgetem_nodes.physics.cameras.active_pixel import ActivePixel
from edgetem_nodes.physics.diffraction import Diffraction
from edgetem_nodes.physics.faults import Fault, true_values
from edgetem_nodes.physics.fourier import fast_length, is_fast
from edgetem_nodes.physics.numerics import Numerics
from edgetem_nodes.physics.optics import Annulus, Camera, Probe
from edgetem_nodes.physics.pixels import Pixels, finer
from edgetem_nodes.physics.sampling import Window, window
from edgetem_nodes.physics.specimens.catalogue import SpecimenOptions
from edgetem_nodes.physics.specimens.structure_file import StructureFile

SMALL = Simulated(rows=4, columns=4, field_nm=3.0)


def microscope(virtual=SMALL, **beam):
    return simulation(Instrument(simulated=virtual, **beam), 7)


def test_every_oversampling_has_fast_lengths():
    for quarters in range(4, 2000):
        ratio = quarters / 4
        fine = finer(ratio)
        assert fine >= ratio
        assert fine % 2
        assert is_fast(fine)
        assert fine <= max(3, 1.5 * ratio + 2)
    assert finer(2.5) == 3
    assert finer(9.0) == 9
    assert finer(12.25) == 15
    assert finer(23.0) == 25
    assert all(fast_length(n) >= n and fast_length(n) <= 2 * n + 2 for n in range(1, 3000))


@pytest.mark.parametrize("ratio", [12.25, 16.5, 22.75, 36.5])
@pytest.mark.parametrize("pixels", [13, 64])
def test_pixels_integrate_where_the_oversampling_has_a_large_prime_factor(ratio, pixels):
    import torch

    camera = Camera(pixels, 1e-3)
    samples = fast_length(int(1.2 * pixels * ratio))
    slicing = Numerics(method="multislice").slicing(2e-9, 2e-12, 0.1)
    seen = Pixels(Window(samples, 1e-11, ratio, slicing, 0.0), camera)
    assert not seen.direct
    # a narrow probe in the window's middle, whose spectrum is even
    spectra = torch.zeros((1, samples, samples), dtype=torch.complex64)
    order = np.fft.fftfreq(samples, 1 / samples)
    spread = torch.from_numpy(np.exp(-order ** 2 / (2 * (pixels * ratio / 8) ** 2)).astype(np.float32))
    middle = torch.from_numpy(np.where(order % 2, -1, 1).astype(np.float32))
    spectra[0] = ((spread * middle)[:, None] * (spread * middle)).to(torch.complex64)
    found = seen.of_transform(spectra)[0].numpy()
    total = float((spread ** 2).sum() ** 2)
    assert found.sum() == pytest.approx(total, rel=2e-3)
    peak = np.unravel_index(found.argmax(), found.shape)
    assert peak == (pixels // 2, pixels // 2)


def test_the_settings_that_never_ended_end():
    # in a process of its own: where a loop has no end, only a limit of time ends the test
    code = ("from edgetem_nodes.graph.instrument import Instrument, Simulated, simulation\n"
            "from edgetem_nodes.graph.simulated_instrument import Aberrations, Structure, NumericsGroup\n"
            "for defocus, thickness, spherical in ((700.0, 200.0, 10.0), (300.0, 50.0, 0.0), (0.0, 200.0, 10.0)):\n"
            "    virtual = Simulated(specimen='SrTiO3', rows=4, columns=4, field_nm=3.0, defocus_nm=defocus,\n"
            "                        structure=Structure(thickness_nm=thickness),\n"
            "                        aberrations=Aberrations(spherical_mm=spherical))\n"
            "    for angle in (2.0, 20.0):\n"
            "        try:\n"
            "            made = simulation(Instrument(simulated=virtual, semi_convergence_mrad=angle), 7)\n"
            "            made._diffraction(made.settings.probe, made.settings.camera, made.illumination.condition(\n"
            "                __import__('edgetem_nodes.physics.exposure', fromlist=['Exposure']).Exposure(\n"
            "                    0, 0.0, made.settings.field.positions([0]), 1e-3, 1e-3, made.settings.optics)))\n"
            "        except ValueError as error:\n"
            "            assert any(char.isdigit() for char in str(error)), error\n")
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def test_a_window_beyond_all_memory_is_refused():
    with pytest.raises(ValueError, match=r"a probe window of .* needs \d+ samples an axis, and at most 65536"):
        window(Probe(200e3, 30e-3, defocus=100e-6), Camera(64, 2e-3), 50e-9, Numerics(), 0.13)


@pytest.mark.parametrize(("pixels", "angle"), [(512, 10e-3), (64, 55e-3), (64, float("inf"))])
def test_a_camera_beyond_small_angles_is_refused(pixels, angle):
    with pytest.raises(ValueError, match=f"camera of {pixels} pixels .* beyond the 300 mrad"):
        Camera(pixels, angle)


def test_annuli_beyond_small_angles_are_refused():
    with pytest.raises(ValueError, match="to 5000 mrad reaches beyond the 500 mrad"):
        Annulus(60e-3, 5.0)
    widest = microscope(replace(SMALL, dark_field_inner_mrad=490.0, dark_field_outer_mrad=500.0))
    assert widest.settings.annuli(2e-3)[2] == Annulus(0.49, 0.5)


def test_configuration_and_commands_beyond_small_angles_are_refused():
    with pytest.raises(ValueError, match=r"512 pixels of 10 mrad reaches 2565 mrad, beyond the 300 mrad"):
        microscope(replace(SMALL, camera_pixels=512, pixel_mrad=10.0))
    with pytest.raises(ValueError, match="500 mrad"):
        microscope(replace(SMALL, dark_field_outer_mrad=5000.0))
    for detector in ("pixelated", "annular"):
        with pytest.raises(ValueError, match="beyond the 300 mrad"):
            microscope(replace(SMALL, detector=detector)).check({"camera_length": 1e-3})


def test_commands_are_refused_without_torch():
    code = ("import sys; from edgetem_nodes.graph.instrument import Instrument, Simulated\n"
            "from edgetem_nodes.microscope.drivers import make_driver\n"
            "d = make_driver(Instrument(simulated=Simulated(rows=8, columns=8, field_nm=5.0)), 0)\n"
            "try:\n    d.set_optics(camera_length=1e-3)\n"
            "except ValueError as error:\n    assert 'beyond the 300 mrad' in str(error), error\n"
            "else:\n    raise AssertionError('accepted')\n"
            "assert 'torch' not in sys.modules")
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


@pytest.mark.parametrize(("device", "message"), [
    ("gpu", "device 'gpu' is not known; use one of 'cpu', 'cuda'"), ("", "device '' is not known"),
    ("meta", "device 'meta' is not served"), ("cuda:99", "device 'cuda:99' is not available here.*use 'cpu'")])
def test_devices_that_are_not_there_are_refused(device, message):
    simulated = microscope(replace(SMALL, numerics=NumericsGroup(device=device)))
    with pytest.raises(ValueError, match=message):
        simulated.prepare()


@pytest.mark.parametrize(("text", "rule"), [
    ("camera_length hidden factor=0", "camera length 0 is not positive"),
    ("camera_length unresponsive held=-0.1", "camera length -0.1 is not positive"),
    ("probe_current hidden factor=-1", "probe current -1 A is negative"),
    ("high_tension hidden held=0", "high tension 0 is not positive"),
    ("semi_convergence_angle hidden factor=-2", "semi convergence angle -2 is not positive"),
    ("magnification hidden factor=0", "magnification 0 is not positive")])
def test_faults_that_leave_no_instrument_are_refused(text, rule):
    with pytest.raises(ValueError, match=f"fault of {text.split()[0]}.*{rule}"):
        Fault.parse(text)


def test_faults_that_leave_an_instrument_are_not_refused():
    for text in ("probe_current hidden factor=0", "probe_current hidden held=0", "defocus hidden factor=-1",
                 "camera_length sensor held=0", "camera_length hidden factor=-1 offset=0.3"):
        Fault.parse(text)


@pytest.mark.parametrize(("fault", "message"), [
    ("camera_length hidden offset=-5", "fault of camera_length .*offset -5.* is not positive"),
    ("probe_current hidden offset=-1", "fault of probe_current .*is negative"),
    ("camera_length hidden factor=0.01 since=60", r"beyond the 300 mrad.*with the fault of camera_length"),
    ("semi_convergence_angle hidden factor=50", r"does not fit on a camera.*with the fault of semi_convergence_angle")])
def test_faults_that_spoil_the_configured_optics_are_refused(fault, message):
    with pytest.raises(ValueError, match=message):
        microscope(replace(SMALL, instabilities=InstabilitiesGroup(faults=[fault])))


def test_faults_that_spoil_a_command_are_refused():
    faulty = microscope(replace(SMALL, instabilities=InstabilitiesGroup(faults=["camera_length hidden offset=-0.01"])))
    with pytest.raises(ValueError, match="fault of camera_length"):
        faulty.check({"camera_length": 0.009})
    with pytest.raises(ValueError, match="camera length 0 is not positive"):
        microscope().check({"camera_length": 0.0})
    with pytest.raises(ValueError, match="probe current -1e-12 A is negative"):
        microscope().check({"probe_current": -1e-12})
    with pytest.raises(ValueError, match="camera length -1 is not positive"):
        true_values({"camera_length": 1.0}, [Fault("camera_length", "hidden", offset=-2.0)], 0.0)


def test_too_little_memory_names_all_that_matters():
    thick = microscope(replace(SMALL, specimen="SrTiO3", structure=Structure(thickness_nm=100.0),
                               numerics=NumericsGroup(memory_mib=64.0)), semi_convergence_mrad=20.0)
    with pytest.raises(ValueError, match=r"slices of 0\.2 nm needs tiles of \d+ MiB, and memory_mib allows 64") as refusal:
        thick.prepare()
    assert all(word in str(refusal.value) for word in ("numerics.memory_mib", "numerics.slice_nm", "specimen than 100 nm"))


def test_a_parsers_silent_error_is_named(tmp_path, monkeypatch):
    import ase.io

    def fail(*_, **__):
        raise AssertionError

    (tmp_path / "silent.cif").write_text("data_x\n")
    monkeypatch.setattr(ase.io, "read", fail)
    with pytest.raises(ValueError, match="silent.cif cannot be read as cif: AssertionError$"):
        StructureFile("file", (1e-8, 1e-8), 0, SpecimenOptions(file=str(tmp_path / "silent.cif")))


def test_a_layer_that_stops_electrons_is_refused():
    with pytest.raises(ValueError, match=r"10 um of silicon are not thin for electrons of 20 kV"):
        make_camera("active_pixel", 20e3)
    with pytest.raises(ValueError, match="not thin"):
        landau.losses(20e3, 14e-6, 16, np.random.default_rng(0))
    assert ActivePixel(high_tension=60e3).response is not None
