"""The virtual microscope: specimen, column, stage, detectors and their failings under one seed.

Microscope and detector each evaluate it: every result is a pure function of the settings, the seed and the exposures in the
order in which they were made. Parts are made on first use, so the process that needs only surveys never loads torch.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Mapping
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from edgetem_nodes.physics import counting
from edgetem_nodes.physics.cameras import CameraModel, make_camera
from edgetem_nodes.physics.damage import CoatedSpecimen, DoseHistory, contamination, damaged
from edgetem_nodes.physics.exposure import Exposure
from edgetem_nodes.physics.illumination import Illumination
from edgetem_nodes.physics.optics import FWHM, Camera, Probe, full_width
from edgetem_nodes.physics.scan import Axis, ScanField
from edgetem_nodes.physics.settings import Settings
from edgetem_nodes.physics.specimens import Atoms, Condition, Specimen
from edgetem_nodes.physics.specimens.catalogue import make_specimen

if TYPE_CHECKING:
    from edgetem_nodes.physics.diffraction import Diffraction
    from edgetem_nodes.physics.energy_loss import EnergyLoss
    from edgetem_nodes.physics.survey import Survey

_KEPT = 8
"""Probes, and states of the specimen, that are kept ready."""
_INSTRUMENT = {"true_drift_y": "m", "true_drift_x": "m", "true_defocus": "m", "true_dose": "1/m^2", "true_contamination": "m"}
WIDEST_PROBE = 25e-9
"""[m] Radius of the widest probe that images are computed for; diffraction has limits of its own, of memory."""
PLASMON_ENERGY = 22.0
"""[eV]: the bulk plasmons of the specimens' materials lie within 18 to 30 eV."""
PLASMON_CUTOFF = 15e-3
"""[rad] beyond which a plasmon of that energy decays into single excitations: about its energy over twice the Fermi one."""


class Simulation:
    """A virtual scanning transmission electron microscope.

    Parameters
    ----------
    settings : what is simulated. seed : of everything random.

    Raises
    ------
    ValueError : settings that contradict each other; the message names value and limit.
    """

    def __init__(self, settings: Settings, seed: int) -> None:
        self.settings, self.seed = settings, seed
        self.illumination = Illumination(settings, seed)
        self.check({})
        self.dose = DoseHistory()
        self._exposures = 0
        self._imaged = -np.inf
        self._ready: OrderedDict[Any, Any] = OrderedDict()

    @cached_property
    def specimen(self) -> Specimen:
        """What lies under the beam."""
        return make_specimen(self.settings.specimen, self.settings.extent, self.seed, self.settings.options)

    @cached_property
    def camera_model(self) -> CameraModel:
        """What the detector makes of the electrons."""
        settings = self.settings
        if settings.detector == "annular" or (settings.detector, settings.camera_model) == ("eels", "ideal"):
            return make_camera("ideal", settings.probe.high_tension, dtype=np.dtype("<u4"))
        options = {"depth": settings.counter_depth} if settings.camera_model == "hybrid_pixel" else {}
        return make_camera(settings.camera_model, settings.probe.high_tension, **options)

    # ---- the detector -----------------------------------------------------------------------------------------

    @property
    def frame_shape(self) -> tuple[int, ...]:
        """(ky, kx), (channels,) or (currents,)."""
        return tuple(axis.size for axis in self.axes(self.settings.optics))

    def axes(self, optics: Mapping[str, float]) -> list[Axis]:
        """Axes of a frame as the commanded optics say."""
        if self.settings.detector == "eels":
            return [self.settings.spectrometer.axis]
        if self.settings.detector == "annular":
            return [Axis("annulus", "", 1.0, 0.0, 3)]
        camera = self.illumination.camera({**self.settings.optics, **optics})
        return [Axis(name, "rad", camera.pixel_angle, camera.offset, camera.pixels) for name in ("ky", "kx")]

    def frames(self, exposure: Exposure, first: int, count: int) -> np.ndarray:
        """Frames (count, *frame_shape) of the camera's type, from position `first` of an exposure on.

        Of micro-scans (count, points, points, *frame_shape); a position must lie in the field, its probes need not.

        Raises
        ------
        ValueError : a position outside the field, a dwell time that the camera cannot follow, optics that cannot be.
        """
        self.field(exposure.optics).candidates(exposure.positions[first:first + count])
        scan = exposure.micro_scan
        if scan is None:
            return self._counted(exposure, first, count, first)
        frames = [self._counted(exposure.at(index), 0, scan.count, index * scan.count) for index in range(first, first + count)]
        return np.stack(frames).reshape(count, scan.points, scan.points, *self.frame_shape)

    def _counted(self, exposure: Exposure, first: int, count: int, number: int) -> np.ndarray:
        """Frames of the camera, whose noise is that of the frames from `number` on of the exposure's sequence."""
        expected = self.expected(exposure, first, count)
        arriving = self.illumination.electrons(exposure, first, count).astype(np.float32)
        expected *= arriving.reshape(-1, *[1] * (expected.ndim - 1))
        return self.camera_model.frames(expected, exposure.dwell, self.seed, exposure.sequence, number)

    def expected(self, exposure: Exposure, first: int, count: int) -> np.ndarray:
        """Fraction of the beam that reaches each pixel, channel or annulus, float32 (count, *frame_shape).

        Of micro-scans the same for each of their probes: (count, points, points, *frame_shape).
        """
        self._account(exposure)
        scan = exposure.micro_scan
        if scan is not None:
            patterns = [self.expected(exposure.at(index), 0, scan.count) for index in range(first, first + count)]
            return np.stack(patterns).reshape(count, scan.points, scan.points, *self.frame_shape)
        illumination, condition = self.illumination, self.illumination.condition(exposure)
        positions = illumination.positions(exposure, first, count)
        result = np.empty((count, *self.frame_shape), np.float32)
        signal = {"pixelated": self._patterns, "annular": self._currents, "eels": self._spectra}[self.settings.detector]
        for chosen, probe in illumination.probes(exposure, first, count):
            result[chosen] = signal(exposure, positions[chosen], first + chosen, probe, condition)
        return result

    def _patterns(self, exposure: Exposure, positions: np.ndarray, indices: np.ndarray, probe: Probe,
                  condition: Condition) -> np.ndarray:
        camera = self.illumination.true_camera(exposure)
        shifts = self.illumination.shifts(exposure, 0, exposure.count)
        patterns = self._diffraction(probe, camera, condition).patterns(positions, None if shifts is None else shifts[indices])
        return self._scattered_again(patterns, positions, camera, condition)

    def _currents(self, exposure: Exposure, positions: np.ndarray, _indices: np.ndarray, probe: Probe,
                  condition: Condition) -> np.ndarray:
        annuli = self.settings.annuli(probe.semi_convergence_angle)
        diffraction = self._diffraction(probe, self.illumination.true_camera(exposure), condition)
        currents = diffraction.currents(positions, annuli)
        if self.settings.damage.contamination:
            from edgetem_nodes.physics.inelastic import mean_free_path

            carbon = contamination(positions, self.dose, self.settings.damage)
            for number, annulus in enumerate(annuli[1:], start=1):
                gained = currents[:, 0] * -np.expm1(-carbon / mean_free_path(annulus, probe.high_tension))
                currents[:, number] += gained
                currents[:, 0] -= gained
        return currents

    def _spectra(self, _exposure: Exposure, positions: np.ndarray, _indices: np.ndarray, probe: Probe,
                 condition: Condition) -> np.ndarray:
        return self._energy_loss(probe).spectra(positions, condition)

    def _coated(self, positions: np.ndarray, condition: Condition) -> dict[str, np.ndarray]:
        """Layers of the specimen with what contamination has put on it."""
        layers = dict(self.specimen.layers(positions, condition))
        if self.settings.damage.contamination:
            layers["carbon"] = layers.get("carbon", 0.0) + contamination(positions, self.dose, self.settings.damage)
        return layers

    def verify(self) -> None:
        """Refuse what cannot be computed (ValueError) without computing a pattern, an image or a spectrum."""
        exposure = Exposure(0, 0.0, self.settings.field.positions(np.array([0])), 1e-3, 1e-3, self.settings.optics)
        illumination = self.illumination
        probe, condition = illumination.probes(exposure, 0, 1)[0][1], illumination.condition(exposure)
        self._dark_field(probe, condition)
        if self.settings.detector == "eels":
            self._energy_loss(probe)
        else:
            diffraction = self._diffraction(probe, illumination.true_camera(exposure), condition)
            if self.settings.detector == "annular":
                diffraction.verify(self.settings.annuli(probe.semi_convergence_angle))

    def prepare(self) -> None:
        """Load and compute what the first frame would wait for."""
        field = self.settings.field
        self.expected(Exposure(0, 0.0, field.positions(np.array([0])), 1e-3, 1e-3, self.settings.optics), 0, 1)

    # ---- the microscope's own images --------------------------------------------------------------------------

    def image(self, exposure: Exposure, shape: tuple[int, int]) -> np.ndarray:
        """Counted annular dark-field image, float64 `shape`, of an exposure whose positions are its pixels, row-major.

        Incoherent imaging, see `survey.Survey`. The noise is that of the exposure's sequence.
        """
        self._account(exposure)
        illumination, annulus = self.illumination, self.settings.dark_field
        positions, condition = illumination.positions(exposure, 0, exposure.count), illumination.condition(exposure)
        fraction = np.empty(exposure.count)
        for chosen, probe in illumination.probes(exposure, 0, exposure.count):
            fraction[chosen] = self._dark_field(probe, condition).currents(positions[chosen])
        if self.settings.damage.contamination:
            from edgetem_nodes.physics.inelastic import mean_free_path

            carbon = contamination(positions, self.dose, self.settings.damage)
            fraction += (1 - fraction) * -np.expm1(-carbon / mean_free_path(annulus, self.settings.probe.high_tension))
        expected = fraction * illumination.electrons(exposure, 0, exposure.count)
        counts = counting.generator(self.seed, exposure.sequence, 0).poisson(expected)
        return counts.astype(float).reshape(shape)

    def field(self, optics: Mapping[str, float]) -> ScanField:
        """Grid of positions at the commanded magnification."""
        return self.illumination.field(optics)

    def sensed(self, elapsed: float, optics: Mapping[str, float], stage: Mapping[str, float],
               holder: Mapping[str, float]) -> tuple[dict[str, float], dict[str, float], dict[str, float]]:
        """What the sensors say of optics, stage and holder (their names, SI units) at a time [s]."""
        return self.illumination.state.sensed(elapsed, optics, stage, holder)

    def check(self, optics: Mapping[str, float]) -> None:
        """Refuse optics (ValueError) that make no probe, or whose disc the camera does not hold, by a fault or without.

        Damage, cameras and free paths are those of the configured high tension: it cannot be changed on the way.
        """
        optics, settings = {**self.settings.optics, **optics}, self.settings
        if optics["high_tension"] != settings.probe.high_tension:
            raise ValueError(f"high tension {optics['high_tension'] * 1e-3:g} kV: the simulated column keeps the configured "
                             f"{settings.probe.high_tension * 1e-3:g} kV; set instrument.high_tension_kV")
        if settings.dark_field.inner < optics["semi_convergence_angle"]:
            raise ValueError(f"semi-convergence angle {optics['semi_convergence_angle'] * 1e3:g} mrad is larger than the inner "
                             f"angle of the dark-field detector, {settings.dark_field.inner * 1e3:g} mrad: set "
                             "instrument.simulated.dark_field_inner_mrad")
        self.illumination.check(optics)
        self._check_width(self.illumination.probe(optics, optics["defocus"] + settings.height))

    def check_stage(self, optics: Mapping[str, float], stage: Mapping[str, float]) -> None:
        """Refuse a pose of the stage (ValueError) to which the specimen cannot tilt, or that takes it out of focus."""
        somewhere = np.zeros(2)
        condition = Condition(alpha=stage.get("alpha", 0.0), beta=stage.get("beta", 0.0))
        self.specimen.atoms(somewhere, somewhere + 1e-10, condition)
        optics = {**self.settings.optics, **optics}
        self._check_width(self.illumination.probe(optics, optics["defocus"] + self.settings.height + stage.get("z", 0.0)))

    def _check_width(self, probe: Probe) -> None:
        radius = probe.radius(self.specimen.thickness)
        if radius > WIDEST_PROBE:
            raise ValueError(f"the probe would be {2e9 * radius:.3g} nm wide on the specimen, {2e9 * WIDEST_PROBE:g} nm is the "
                             "most that is simulated: less defocus (with the stage's height), aberration or angle")

    # ---- what the beam does -----------------------------------------------------------------------------------

    def expose(self, exposure: Exposure, count: int | None = None) -> None:
        """Account for the first `count` positions of an exposure: what comes later finds the specimen as they left it."""
        self._account(exposure)
        if not self._suffers:
            return
        count = exposure.count if count is None else count
        if exposure.micro_scan is None:
            self._receive(exposure, count)
        else:
            for index in range(count):
                self._receive(exposure.at(index), exposure.micro_scan.count)
        self._exposures += 1

    def _receive(self, exposure: Exposure, count: int) -> None:
        """Count the dose of the first `count` positions of an exposure."""
        positions, illumination = self.illumination.positions(exposure, 0, count), self.illumination
        brought = illumination.electrons(exposure, 0, count)
        for chosen, probe in illumination.probes(exposure, 0, count):
            self.dose.expose(positions[chosen], brought[chosen], full_width(probe) / FWHM * np.sqrt(2))

    @property
    def _suffers(self) -> bool:
        """Whether the specimen remembers what it has received."""
        return self.settings.damage.displacement or self.settings.damage.contamination

    def _account(self, exposure: Exposure) -> None:
        """Account for the microscope's own images before an exposure, each once: of the whole field, and of parts of it."""
        more = exposure.survey_dose - self.dose.uniform
        if more > 0:
            self.dose.add_uniform(more)
        images = [image for image in exposure.reference_images if image.elapsed > self._imaged]
        if images and self._suffers:
            for image in images:
                self.dose.add_rectangle(*self.illumination.area(image), image.dose)
            self._imaged = images[-1].elapsed
            self._exposures += 1

    @property
    def _atoms_filter(self) -> Callable[[Atoms], Atoms] | None:
        damage = self.settings.damage
        if not damage.displacement:
            return None
        return lambda atoms: damaged(atoms, self.dose, damage, self.settings.probe.high_tension, self.seed)

    def _scattered_again(self, patterns: np.ndarray, positions: np.ndarray, camera: Camera, condition: Condition) -> np.ndarray:
        """Patterns with what plasmons and contamination add."""
        from edgetem_nodes.physics import inelastic

        settings = self.settings
        if settings.plasmon_background:
            background = self._kept(("plasmon", camera), lambda: inelastic.PlasmonBackground(
                camera, settings.probe.high_tension, PLASMON_ENERGY, PLASMON_CUTOFF))
            patterns = background.add(patterns, self._relative_thickness(positions, condition))
        if settings.damage.contamination:
            layer = self._kept(("carbon", camera), lambda: inelastic.AmorphousLayer(camera, settings.probe.high_tension))
            patterns = layer.add(patterns, contamination(positions, self.dose, settings.damage))
        return patterns

    def _relative_thickness(self, positions: np.ndarray, condition: Condition) -> np.ndarray:
        """Thickness over inelastic mean free path (n,), for plasmon scattering up to its cut-off angle."""
        from edgetem_nodes.physics.energy_loss import material

        probe = self.settings.probe
        total = np.zeros(len(positions))
        for name, thickness in self.specimen.layers(positions, condition).items():
            total += thickness / material(name).mean_free_path(probe.high_tension, probe.semi_convergence_angle, PLASMON_CUTOFF)
        return total

    # ---- the truth --------------------------------------------------------------------------------------------

    def quantities(self) -> dict[str, str]:
        """Names of what `truth` knows, and their units: the specimen's, and the instrument's `true_...`."""
        return {**self.specimen.quantities, **_INSTRUMENT}

    def truth(self, quantity: str, exposure: Exposure | None = None) -> tuple[str, np.ndarray]:
        """Unit and map (rows, columns) of a quantity, where and when an exposure of the whole field finds the specimen.

        Without an exposure: at the configured field, before anything was done. Drift is left out, as drift tracking would;
        it is a truth of its own.

        Raises
        ------
        ValueError : the quantity is unknown.
        """
        if exposure is None:
            exposure = Exposure(0, 0.0, self.settings.field.positions(), 0.0, 0.0, self.settings.optics)
        units = self.quantities()
        if quantity not in units:
            raise ValueError(f"there is no truth {quantity!r}; there is {', '.join(units)}")
        positions = self.illumination.nominal(exposure)
        if quantity in self.specimen.quantities:
            values = self.specimen.truth(quantity, positions, self.illumination.condition(exposure))
        else:
            values = self._instrument_truth(quantity, positions, exposure)
        return units[quantity], np.broadcast_to(values, exposure.count).reshape(self.settings.field.shape)

    def _instrument_truth(self, quantity: str, positions: np.ndarray, exposure: Exposure) -> np.ndarray | float:
        if quantity in ("true_drift_y", "true_drift_x"):
            return float(self.illumination.state.stage_drift(np.array([exposure.elapsed]))[0, "yx".index(quantity[-1])])
        if quantity == "true_defocus":
            return self.illumination.probes(exposure, 0, 1)[0][1].defocus
        self._account(exposure)
        if quantity == "true_dose":
            return self.dose.dose_at(positions)
        return contamination(positions, self.dose, self.settings.damage)

    def atoms(self, low: np.ndarray, high: np.ndarray, exposure: Exposure) -> Atoms:
        """The atoms with low <= (y, x) < high [m] in the frame of the scan, at the specimen's depth z, as damaged as now."""
        self._account(exposure)
        offset = self.illumination.offset(exposure)
        found = self.specimen.atoms(np.asarray(low) + offset, np.asarray(high) + offset, self.illumination.condition(exposure))
        found = found if self._atoms_filter is None else self._atoms_filter(found)
        moved = found.positions - np.array([0.0, *offset])
        return Atoms(moved, found.atomic_numbers, found.displacement_rms, found.identity)

    # ---- what is kept ready -----------------------------------------------------------------------------------

    def _kept(self, key: Any, make: Callable[[], Any]) -> Any:
        """The value of a key, made where it is not kept any more."""
        if key in self._ready:
            self._ready.move_to_end(key)
        else:
            while len(self._ready) >= _KEPT:
                self._ready.popitem(last=False)
            self._ready[key] = make()
        return self._ready[key]

    def _diffraction(self, probe: Probe, camera: Camera, condition: Condition) -> Diffraction:
        """Patterns of a probe and a camera in a state of the specimen; what differs in the probe alone shares the specimen."""
        from edgetem_nodes.physics.diffraction import Diffraction

        state, settings = (camera, *self._state(condition)), self.settings
        first = self._kept(("camera", state), lambda: Diffraction(self.specimen, probe, camera, settings.numerics, self.seed,
                                                                  condition, self._atoms_filter))
        return first if first.probe == probe else self._kept(("probe", probe, state), lambda: first.with_probe(probe))

    def _dark_field(self, probe: Probe, condition: Condition) -> Survey:
        """The dark-field detector under a probe in a state of the specimen."""
        from edgetem_nodes.physics.survey import Survey

        return self._kept(("dark field", probe, self._state(condition)), lambda: Survey(
            self.specimen, probe, self.settings.dark_field, condition, self._atoms_filter))

    def _state(self, condition: Condition) -> tuple:
        """What tells one state of the specimen from another."""
        dose = (self._exposures, self.dose.uniform) if self._atoms_filter else ()
        return condition.elapsed, condition.holder.tobytes(), condition.alpha, condition.beta, dose

    def _energy_loss(self, probe: Probe) -> EnergyLoss:
        from edgetem_nodes.physics.energy_loss import EnergyLoss

        coated = CoatedSpecimen(self.specimen, self._coated)
        return self._kept(("losses", probe), lambda: EnergyLoss(coated, probe, self.settings.spectrometer))
