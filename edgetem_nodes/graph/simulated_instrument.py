"""Parameters of the virtual microscope, in the units of the console. Imports no ROS, and physics only when it is built."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from edgetem_nodes.graph.configuration import group, parameter
from edgetem_nodes.physics.scan import ScanField

if TYPE_CHECKING:
    from edgetem_nodes.graph.instrument import Instrument
    from edgetem_nodes.physics.damage import Damage
    from edgetem_nodes.physics.energy_loss.spectrometer import Spectrometer
    from edgetem_nodes.physics.instabilities import Instabilities
    from edgetem_nodes.physics.numerics import Numerics
    from edgetem_nodes.physics.simulation import Simulation
    from edgetem_nodes.physics.specimens.catalogue import SpecimenOptions


@dataclass(frozen=True)
class Structure:
    """What the specimen is like; each specimen uses what concerns it (docs/specimens.md)."""

    vacancies_per_nm2: float = parameter(0.025, "missing atoms of a sheet", unit="1/nm^2", minimum=0.0, maximum=5.0)
    dopant: str = parameter("", "element that replaces part of a sheet's metal, chalcogen or carbon; empty: none")
    dopant_percent: float = parameter(0.0, "share of the sites that the dopant takes", unit="%", minimum=0.0, maximum=100.0)
    rim_nm: float = parameter(0.0, "standard deviation of the strained rim's profile in a sheet; 0: an eighteenth of the field",
                              unit="nm", minimum=0.0, maximum=100.0)
    irradiated_nm: float = parameter(0.0, "standard deviation of the one spot where a sheet has its vacancies and dopants; 0: "
                                          "vacancies gather at the rim, dopants are everywhere", unit="nm", minimum=0.0,
                                     maximum=100.0)
    grain_nm: float = parameter(0.0, "mean distance of the grains' centres in a sheet; 0: one grain", unit="nm", minimum=0.0,
                                maximum=1000.0)
    thickness_nm: float = parameter(20.0, "of a crystal or a flake", unit="nm", minimum=0.3, maximum=200.0)
    film_nm: float = parameter(3.0, "thickness of the carbon film under particles", unit="nm", minimum=0.3, maximum=100.0)
    hole_nm: float = parameter(0.0, "diameter of holes in a flake; 0: none", unit="nm", minimum=0.0, maximum=1000.0)
    tilt_x_mrad: float = parameter(0.0, "tilt of a crystal's zone axis about x", unit="mrad", minimum=-300.0, maximum=300.0)
    tilt_y_mrad: float = parameter(0.0, "tilt of a crystal's zone axis about y", unit="mrad", minimum=-300.0, maximum=300.0)
    domain_nm: float = parameter(15.0, "mean width of a crystal's domains; 0: one domain", unit="nm", minimum=0.0,
                                 maximum=1000.0)
    transition: bool = parameter(False, "heating or biasing transforms the specimen: a new phase nucleates and grows")
    edge_mode: bool = parameter(True, "a flake has an edge plasmon; without it, it is the control")
    height_nm: float = parameter(0.0, "height above the eucentric plane: defocus, and shift on tilting", unit="nm",
                                 minimum=-1e5, maximum=1e5)
    file: str = parameter("", "structure file that ASE reads, for the specimen 'file'", path=True)


@dataclass(frozen=True)
class Aberrations:
    """How the probe differs from an ideal one."""

    astigmatism_nm: float = parameter(0.0, "two-fold astigmatism", unit="nm", minimum=0.0, maximum=1e4)
    astigmatism_deg: float = parameter(0.0, "its azimuth", unit="deg", minimum=-180.0, maximum=180.0)
    coma_nm: float = parameter(0.0, "axial coma", unit="nm", minimum=0.0, maximum=1e5)
    coma_deg: float = parameter(0.0, "its azimuth", unit="deg", minimum=-180.0, maximum=180.0)
    spherical_mm: float = parameter(0.0, "third-order spherical aberration", unit="mm", minimum=-10.0, maximum=10.0)
    chromatic_mm: float = parameter(0.0, "chromatic aberration", unit="mm", minimum=0.0, maximum=20.0)
    energy_spread_eV: float = parameter(0.0, "full width at half maximum of the beam's energy", unit="eV", minimum=0.0,
                                        maximum=10.0)
    source_size_pm: float = parameter(0.0, "full width at half maximum of the source's image", unit="pm", minimum=0.0,
                                      maximum=1e4)


@dataclass(frozen=True)
class SpectrometerGroup:
    """The energy axis and aperture of the detector 'eels'."""

    offset_eV: float = parameter(-10.0, "energy loss of the first channel", unit="eV", minimum=-1000.0, maximum=3000.0)
    dispersion_eV: float = parameter(0.1, "energy a channel", unit="eV", minimum=1e-4, maximum=10.0)
    channels: int = parameter(512, "channels of a spectrum", minimum=16, maximum=8192)
    resolution_eV: float = parameter(0.4, "full width at half maximum of the zero-loss peak", unit="eV", minimum=1e-3,
                                     maximum=20.0)
    collection_mrad: float = parameter(20.0, "collection semi-angle", unit="mrad", minimum=0.1, maximum=200.0)


@dataclass(frozen=True)
class NumericsGroup:
    """How diffraction is computed."""

    method: str = parameter("auto", "auto: one slice for what is thinner than 1 nm, else multislice",
                            choices=("auto", "single_slice", "multislice", "prism"))
    slice_nm: float = parameter(0.2, "thickness of a slice", unit="nm", minimum=0.02, maximum=2.0)
    phonon_configurations: int = parameter(8, "frozen-phonon configurations averaged in a crystal; 0: none, a Debye-Waller "
                                              "factor instead", minimum=0, maximum=256)
    source_points: int = parameter(7, "probe positions averaged for the source's size: 7 or a square", minimum=1, maximum=64)
    focus_points: int = parameter(7, "defocus values averaged for the energy spread", minimum=1, maximum=31)
    device: str = parameter("cpu", "where it is computed: cpu, cuda")
    memory_mib: float = parameter(3072.0, "memory for the parts of the specimen that are kept", unit="MiB", minimum=64.0)


@dataclass(frozen=True)
class InstabilitiesGroup:
    """How the instrument misbehaves; all off by default (docs/instruments.md)."""

    drift_nm_per_min: float = parameter(0.0, "steady drift of the stage", unit="nm/min", minimum=0.0, maximum=1000.0)
    drift_deg: float = parameter(30.0, "its direction, from x to y", unit="deg", minimum=-360.0, maximum=360.0)
    drift_wander_nm: float = parameter(0.0, "standard deviation of a slow random wander about it", unit="nm", minimum=0.0,
                                       maximum=1000.0)
    drift_wander_s: float = parameter(300.0, "correlation time of the wander", unit="s", minimum=1.0, maximum=1e6)
    drift_relaxation_nm: float = parameter(0.0, "way of a stage that creeps to rest, in the same direction", unit="nm",
                                           minimum=-1000.0, maximum=1000.0)
    drift_relaxation_s: float = parameter(600.0, "time constant of the creep", unit="s", minimum=1.0, maximum=1e6)
    scan_scale_y_percent: float = parameter(0.0, "the scan is larger than it says, along y", unit="%", minimum=-20.0,
                                            maximum=20.0)
    scan_scale_x_percent: float = parameter(0.0, "the scan is larger than it says, along x", unit="%", minimum=-20.0,
                                            maximum=20.0)
    scan_shear_mrad: float = parameter(0.0, "shear of x by y", unit="mrad", minimum=-200.0, maximum=200.0)
    scan_rotation_mrad: float = parameter(0.0, "rotation of the scan", unit="mrad", minimum=-3200.0, maximum=3200.0)
    line_noise_pm: float = parameter(0.0, "amplitude of the mains hum on the scan", unit="pm", minimum=0.0, maximum=1e4)
    line_noise_Hz: float = parameter(50.0, "its frequency", unit="Hz", minimum=1.0, maximum=1e5)
    flyback_percent: float = parameter(0.0, "part of a jump of the probe that is still to go once commanded", unit="%",
                                       minimum=0.0, maximum=100.0)
    flyback_us: float = parameter(20.0, "time constant with which it goes", unit="us", minimum=0.01, maximum=1e6)
    defocus_drift_nm_per_min: float = parameter(0.0, "drift of the defocus", unit="nm/min", minimum=-1000.0, maximum=1000.0)
    defocus_wander_nm: float = parameter(0.0, "standard deviation of a slow random wander of the defocus", unit="nm",
                                         minimum=0.0, maximum=1000.0)
    current_decay_percent: float = parameter(0.0, "part of the current that a cold tip loses after its flash", unit="%",
                                             minimum=0.0, maximum=100.0)
    current_decay_min: float = parameter(60.0, "time constant with which it loses it", unit="min", minimum=0.1, maximum=1e5)
    current_drift_percent_per_h: float = parameter(0.0, "drift of the probe current", unit="%/h", minimum=-1000.0,
                                                   maximum=1000.0)
    current_noise_percent: float = parameter(0.0, "flicker of the probe current", unit="%", minimum=0.0, maximum=30.0)
    descan_mrad_per_um: float = parameter(0.0, "shift of the pattern with the scan position", unit="mrad/um",
                                          minimum=-1000.0, maximum=1000.0)
    holder_s: float = parameter(0.0, "time constant with which the specimen follows the commanded temperature", unit="s",
                                minimum=0.0, maximum=1e5)
    sensor_noise: float = parameter(0.0, "noise of the sensors, as a multiple of what makers state", minimum=0.0,
                                    maximum=100.0)
    faults: list[str] = parameter([], "wrong metadata, e.g. 'camera_length hidden factor=1.03'; kinds: hidden, "
                                      "unresponsive, sensor; then factor=, offset=, held= (SI), since= (s)")


@dataclass(frozen=True)
class DamageGroup:
    """What the beam does to the specimen; nothing by default."""

    displacement: bool = parameter(False, "atoms are knocked out")
    cross_section_barn: float = parameter(0.0, "of one atom of the specimen, every element; 0: calculated", unit="barn",
                                          minimum=0.0, maximum=1e8)
    contamination: bool = parameter(False, "carbon grows where the beam stands")
    contamination_nm: float = parameter(10.0, "thickness at which it levels off", unit="nm", minimum=0.1, maximum=1000.0)


@dataclass(frozen=True)
class Simulated:
    """The virtual microscope."""

    specimen: str = parameter("MoS2", "what lies under the beam: MoS2, graphene, SrTiO3, PbTiO3, gold, MnPS3, file, or one "
                                      "that was added (docs/specimens.md)")
    field_nm: float = parameter(40.0, "width of the scan field, first to last column", unit="nm", minimum=0.1, maximum=200.0)
    rows: int = parameter(64, "rows of the scan grid", minimum=2, maximum=1024)
    columns: int = parameter(64, "columns of the scan grid", minimum=2, maximum=1024)
    strain_percent: float = parameter(2.0, "largest normal strain", unit="%", minimum=0.0, maximum=5.0)
    detector: str = parameter("pixelated", "pixelated: a camera behind the specimen; annular: bright-field, dark-field and "
                                           "high-angle currents; eels: a spectrometer",
                              choices=("pixelated", "annular", "eels"))
    camera_pixels: int = parameter(64, "camera pixels along each axis", minimum=16, maximum=512)
    pixel_mrad: float = parameter(1.0, "angle that a camera pixel subtends", unit="mrad", minimum=0.01, maximum=10.0)
    camera: str = parameter("ideal", "what the camera makes of electrons (docs/cameras.md)",
                            choices=("ideal", "hybrid_pixel", "integrating", "active_pixel"))
    counter_bits: int = parameter(12, "depth of a hybrid pixel camera's counters", choices=(6, 12, 24))
    defocus_nm: float = parameter(0.0, "defocus, positive is underfocus", unit="nm", minimum=-2000.0, maximum=2000.0)
    dark_field_inner_mrad: float = parameter(60.0, "inner angle of the dark-field detector", unit="mrad", minimum=1.0)
    dark_field_outer_mrad: float = parameter(200.0, "outer angle of the dark-field detector", unit="mrad", minimum=1.0)
    plasmon_background: bool = parameter(False, "patterns hold the electrons that excited a plasmon")
    structure: Structure = group(Structure)
    aberrations: Aberrations = group(Aberrations)
    spectrometer: SpectrometerGroup = group(SpectrometerGroup)
    numerics: NumericsGroup = group(NumericsGroup)
    instabilities: InstabilitiesGroup = group(InstabilitiesGroup)
    damage: DamageGroup = group(DamageGroup)


def simulation(instrument: Instrument, seed: int) -> Simulation:
    """The virtual microscope that the instrument's parameters describe.

    Raises
    ------
    ValueError : parameters that contradict each other or make no instrument; the message names value and limit.
    """
    from edgetem_nodes.physics.optics import Annulus, Camera, Probe
    from edgetem_nodes.physics.settings import Settings
    from edgetem_nodes.physics.simulation import Simulation

    chosen, bent = instrument.simulated, instrument.simulated.aberrations
    if chosen.dark_field_outer_mrad <= chosen.dark_field_inner_mrad:
        raise ValueError(f"simulated.dark_field_outer_mrad {chosen.dark_field_outer_mrad} must be larger than "
                         f"dark_field_inner_mrad {chosen.dark_field_inner_mrad}")
    half = chosen.camera_pixels // 2 * chosen.pixel_mrad
    if chosen.detector == "pixelated" and instrument.semi_convergence_mrad >= half:
        raise ValueError(f"semi_convergence_mrad {instrument.semi_convergence_mrad} does not fit on a camera that reaches "
                         f"{half} mrad: enlarge simulated.pixel_mrad or simulated.camera_pixels")
    _concerning(instrument)
    step = chosen.field_nm * 1e-9 / (chosen.columns - 1)
    probe = Probe(instrument.high_tension_kV * 1e3, instrument.semi_convergence_mrad * 1e-3, chosen.defocus_nm * 1e-9,
                  bent.astigmatism_nm * 1e-9, math.radians(bent.astigmatism_deg), bent.coma_nm * 1e-9,
                  math.radians(bent.coma_deg), bent.spherical_mm * 1e-3, bent.source_size_pm * 1e-12,
                  bent.chromatic_mm * 1e-3, bent.energy_spread_eV)
    field = ScanField((0.0, 0.0), (step, step), (chosen.rows, chosen.columns))
    descan = chosen.instabilities.descan_mrad_per_um * 1e3
    reach = abs(descan) * step * max(chosen.rows, chosen.columns)
    return Simulation(Settings(
        specimen=chosen.specimen, options=_options(chosen), field=field, probe=probe,
        probe_current=instrument.probe_current_pA * 1e-12, camera=Camera(chosen.camera_pixels, chosen.pixel_mrad * 1e-3),
        camera_model=chosen.camera, counter_depth=chosen.counter_bits, detector=chosen.detector,
        spectrometer=_spectrometer(chosen.spectrometer),
        dark_field=Annulus(chosen.dark_field_inner_mrad * 1e-3, chosen.dark_field_outer_mrad * 1e-3),
        numerics=_numerics(chosen.numerics, reach), instabilities=_instabilities(chosen.instabilities),
        damage=_damage(chosen.damage), height=chosen.structure.height_nm * 1e-9, descan=descan,
        plasmon_background=chosen.plasmon_background), seed)


def _concerning(instrument: Instrument) -> None:
    """Refuse settings that would do nothing, or without which nothing would be done (ValueError).

    What an added specimen takes is its own affair.
    """
    from edgetem_nodes.physics.specimens.catalogue import SPECIMENS

    specimen, asked = instrument.simulated.specimen, instrument.simulated.structure
    if specimen == "file" and not asked.file:
        raise ValueError("instrument.simulated.specimen is 'file', but instrument.simulated.structure.file is empty: name a "
                         "structure file")
    if asked.file and specimen in SPECIMENS and specimen != "file":
        raise ValueError(f"instrument.simulated.structure.file {asked.file!r} has no effect on the specimen {specimen!r}: "
                         "set instrument.simulated.specimen to 'file', or leave the file out")
    sheets = [name for name, (module, _) in SPECIMENS.items() if module == "sheet"]
    if (asked.dopant or asked.dopant_percent) and specimen in SPECIMENS and specimen not in sheets:
        raise ValueError(f"instrument.simulated.structure.dopant {asked.dopant!r} ({asked.dopant_percent:g} %) does "
                         f"nothing in the specimen {specimen!r}: only {' and '.join(sheets)} take a dopant")
    for name in ("rim_nm", "irradiated_nm"):
        if getattr(asked, name) and specimen in SPECIMENS and specimen not in sheets:
            raise ValueError(f"instrument.simulated.structure.{name} {getattr(asked, name):g} does nothing in the specimen "
                             f"{specimen!r}: only {' and '.join(sheets)} have a strained rim and a spot of defects")
    if asked.dopant and not asked.dopant_percent:
        raise ValueError(f"instrument.simulated.structure.dopant {asked.dopant!r} has no effect with dopant_percent 0: set "
                         "instrument.simulated.structure.dopant_percent, or leave the dopant out")
    if asked.dopant_percent and not asked.dopant:
        raise ValueError(f"instrument.simulated.structure.dopant_percent {asked.dopant_percent:g} has no effect without a "
                         "dopant: set instrument.simulated.structure.dopant")
    if instrument.probe_current_pA <= 0:
        raise ValueError(f"instrument.probe_current_pA {instrument.probe_current_pA:g} gives no electrons: a simulated "
                         "instrument needs a current above 0 pA")


def _options(chosen: Simulated) -> SpecimenOptions:
    from edgetem_nodes.physics.specimens.catalogue import SpecimenOptions

    asked = chosen.structure
    return SpecimenOptions(
        strain=chosen.strain_percent / 100, vacancy_density=asked.vacancies_per_nm2 * 1e18, dopant=asked.dopant,
        dopant_fraction=asked.dopant_percent / 100, grain_size=asked.grain_nm * 1e-9, thickness=asked.thickness_nm * 1e-9,
        tilt=(asked.tilt_x_mrad * 1e-3, asked.tilt_y_mrad * 1e-3), domain_size=asked.domain_nm * 1e-9,
        film_thickness=asked.film_nm * 1e-9, hole_size=asked.hole_nm * 1e-9, transition=asked.transition,
        edge_mode=asked.edge_mode, file=asked.file, rim_width=asked.rim_nm * 1e-9,
        irradiated_radius=asked.irradiated_nm * 1e-9)


def _spectrometer(asked: SpectrometerGroup) -> Spectrometer:
    from edgetem_nodes.physics.energy_loss.spectrometer import Spectrometer

    return Spectrometer(asked.offset_eV, asked.dispersion_eV, asked.channels, asked.resolution_eV,
                        asked.collection_mrad * 1e-3)


def _numerics(asked: NumericsGroup, largest_shift: float) -> Numerics:
    from edgetem_nodes.physics.numerics import Numerics

    return Numerics(method=asked.method, slice_thickness=asked.slice_nm * 1e-9,
                    phonon_configurations=asked.phonon_configurations, device=asked.device, memory_mib=int(asked.memory_mib),
                    source_points=asked.source_points, focus_points=asked.focus_points, largest_shift=largest_shift)


def _instabilities(asked: InstabilitiesGroup) -> Instabilities:
    from edgetem_nodes.physics.faults import Fault
    from edgetem_nodes.physics.instabilities import Instabilities

    a_minute, an_hour = 1e-9 / 60, 1e-2 / 3600
    return Instabilities(
        drift_speed=asked.drift_nm_per_min * a_minute, drift_direction=math.radians(asked.drift_deg),
        drift_wander=asked.drift_wander_nm * 1e-9, drift_wander_time=asked.drift_wander_s,
        drift_relaxation=asked.drift_relaxation_nm * 1e-9, drift_relaxation_time=asked.drift_relaxation_s,
        scan_scale_y=asked.scan_scale_y_percent / 100, scan_scale_x=asked.scan_scale_x_percent / 100,
        scan_shear=asked.scan_shear_mrad * 1e-3,
        scan_rotation=asked.scan_rotation_mrad * 1e-3, line_noise=asked.line_noise_pm * 1e-12,
        line_noise_frequency=asked.line_noise_Hz, flyback=asked.flyback_percent / 100, flyback_time=asked.flyback_us * 1e-6,
        defocus_drift=asked.defocus_drift_nm_per_min * a_minute,
        defocus_wander=asked.defocus_wander_nm * 1e-9, current_decay=asked.current_decay_percent / 100,
        current_decay_time=asked.current_decay_min * 60, current_rate=asked.current_drift_percent_per_h * an_hour,
        current_noise=asked.current_noise_percent / 100, holder_time=asked.holder_s, sensor_noise=asked.sensor_noise,
        faults=tuple(Fault.parse(text) for text in asked.faults))


def _damage(asked: DamageGroup) -> Damage:
    from edgetem_nodes.physics.damage import Damage

    sections = dict.fromkeys(range(1, 104), asked.cross_section_barn * 1e-28) if asked.cross_section_barn else {}
    return Damage(displacement=asked.displacement, cross_sections=sections, contamination=asked.contamination,
                  contamination_saturation=asked.contamination_nm * 1e-9)
