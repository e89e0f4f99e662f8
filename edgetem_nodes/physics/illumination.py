"""What an exposure really is: where the probe stands on the specimen, how it is focused, how many electrons it brings.

The specimen point under a probe is the scan position, as the scan errors leave it, plus the beam shift, less the way of stage
and drift. The specimen's height above the eucentric plane adds to the defocus, and moves it sideways when the stage tilts.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from edgetem_nodes.physics.electrons import electrons
from edgetem_nodes.physics.exposure import Exposure, ReferenceImage
from edgetem_nodes.physics.faults import check_positive, true_values
from edgetem_nodes.physics.instabilities import InstrumentState
from edgetem_nodes.physics.optics import Camera, Probe, check_camera
from edgetem_nodes.physics.scan import ScanField
from edgetem_nodes.physics.settings import CAMERA_PITCH, Settings
from edgetem_nodes.physics.specimens import Condition

FOCUS_STEP = 0.5e-9
"""[m] to which a drifting defocus is rounded, so that frames of nearly the same focus share a probe."""
_ABERRATIONS = ("defocus", "astigmatism", "astigmatism_angle", "coma", "coma_angle", "spherical_aberration")


class Illumination:
    """The column and the stage as they are, for what was commanded. A pure function of settings, seed and exposure."""

    def __init__(self, settings: Settings, seed: int) -> None:
        field = settings.field
        centre = tuple(field.origin[axis] + (field.shape[axis] - 1) / 2 * field.step[axis] for axis in (0, 1))
        self.settings = settings
        self.state = InstrumentState(settings.instabilities, seed, centre)
        self._centre = np.array(centre)
        wrong = settings.instabilities
        self._unsteady_focus = bool(wrong.defocus_drift or wrong.defocus_wander)

    def commanded(self, exposure: Exposure) -> dict[str, float]:
        """The optics that were commanded, by the names of Optics; where an exposure does not say, the configured ones."""
        return {**self.settings.optics, **exposure.optics}

    def field(self, optics: Mapping[str, float]) -> ScanField:
        """Grid of positions at a commanded magnification."""
        return self.settings.field.magnified(optics.get("magnification", 1.0))

    def check(self, optics: Mapping[str, float]) -> None:
        """Refuse commanded optics (all of them) that no column can have, or that its faults make so at any time.

        Raises
        ------
        ValueError : they are; the message names quantity, value and rule.
        """
        faults = self.settings.instabilities.faults
        for elapsed in (-1.0, *sorted(fault.since for fault in faults)):
            true = true_values(optics, faults, elapsed)
            check_positive(true)
            at_fault = [name for name in true if true[name] != optics[name]]
            try:
                probe = self.probe(true)
                if self.settings.detector != "eels":
                    check_camera(probe, self.camera(true))
            except ValueError as error:
                if not at_fault:
                    raise
                raise ValueError(f"{error} (with the fault of {', '.join(at_fault)})") from None

    def camera(self, optics: Mapping[str, float]) -> Camera:
        """The camera at a camera length."""
        return Camera(self.settings.camera.pixels, CAMERA_PITCH / optics["camera_length"])

    def true_camera(self, exposure: Exposure) -> Camera:
        """The camera at the camera length that the column really has."""
        return self.camera(self.state.true_optics(self.commanded(exposure), exposure.elapsed))

    def probe(self, optics: Mapping[str, float], defocus: float | None = None) -> Probe:
        """The probe of some optics; `defocus` [m] in place of theirs."""
        configured = self.settings.probe
        aberrations = {name: optics[name] for name in _ABERRATIONS}
        if defocus is not None:
            aberrations["defocus"] = defocus
        return Probe(optics["high_tension"], optics["semi_convergence_angle"], **aberrations,
                     source_size=configured.source_size, chromatic_aberration=configured.chromatic_aberration,
                     energy_spread=configured.energy_spread)

    def probes(self, exposure: Exposure, first: int, count: int) -> list[tuple[np.ndarray, Probe]]:
        """The true probe of each of `count` positions from `first` on: groups of positions, numbered from 0, that share one."""
        optics = self.state.true_optics(self.commanded(exposure), exposure.elapsed)
        start = optics["defocus"] + self.height(exposure)
        if not self._unsteady_focus:
            return [(np.arange(count), self.probe(optics, start))]
        times = exposure.times(first, count)
        change = self.state.defocus(times, 0.0) - self.state.defocus(np.array([exposure.elapsed]), 0.0)
        steps = np.rint((start + change) / FOCUS_STEP).astype(int)
        return [(np.flatnonzero(steps == step), self.probe(optics, float(step * FOCUS_STEP))) for step in np.unique(steps)]

    def height(self, exposure: Exposure) -> float:
        """Height of the specimen over the eucentric plane [m], towards the source."""
        return self.settings.height + self.state.true_stage(exposure.stage, exposure.elapsed).get("z", 0.0)

    def offset(self, exposure: Exposure) -> np.ndarray:
        """What beam shift and stage add to a scan position to give the specimen point, (y, x) [m]."""
        optics = true_values(self.commanded(exposure), self.settings.instabilities.faults, exposure.elapsed)
        stage = self.state.true_stage(exposure.stage, exposure.elapsed)
        beam = np.array([optics.get("beam_shift_y", 0.0), optics.get("beam_shift_x", 0.0)])
        way = np.array([stage.get("y", 0.0), stage.get("x", 0.0)])
        # A turn by beta moves what lies deeper to larger x, one by alpha to smaller y, as in the specimens.
        tilting = self.height(exposure) * np.sin([stage.get("alpha", 0.0), -stage.get("beta", 0.0)])
        return beam - way - tilting

    def _magnified(self, positions: np.ndarray, exposure: Exposure) -> np.ndarray:
        """Positions (n, 2) [m] as a magnification other than the commanded one spreads them."""
        commanded = self.commanded(exposure)
        true = true_values(commanded, self.settings.instabilities.faults, exposure.elapsed)
        return self._centre + (positions - self._centre) * (commanded["magnification"] / true["magnification"])

    def positions(self, exposure: Exposure, first: int, count: int) -> np.ndarray:
        """Specimen points (count, 2), (y, x) [m], under the probe."""
        times = exposure.times(first, count)
        memory = self.state.memory(exposure.period)
        previous = exposure.steered(max(0, first - memory - 1), min(first, memory + 1)) if first and memory else None
        scanned = self.state.probe_positions(exposure.steered(first, count), times, exposure.period, previous, exposure.dwell)
        return self._magnified(scanned, exposure) + self.offset(exposure) - self.state.stage_drift(times)

    def area(self, image: ReferenceImage) -> tuple[np.ndarray, np.ndarray]:
        """Corner and extent (y, x) [m] of the specimen that an image has seen.

        Both are as they were at its first pixel; a rotation or shear of the scan moves the area but does not turn it.
        """
        commanded = dict(zip(("beam_shift_y", "beam_shift_x"), image.beam_shift, strict=True))
        then = Exposure(0, image.elapsed, np.zeros((0, 2)), 0.0, 0.0, commanded, image.stage)
        corners = np.array([image.corner, np.add(image.corner, image.extent)])
        middle = self.state.distorted(corners.mean(axis=0, keepdims=True) + image.correction)[0] + self.offset(then)
        extent = np.asarray(image.extent, float)
        return middle - self.state.stage_drift(np.array([image.elapsed]))[0] - extent / 2, extent

    def nominal(self, exposure: Exposure) -> np.ndarray:
        """Specimen points (n, 2) that the exposure's nominal positions stood for before anything drifted."""
        return self._magnified(self.state.distorted(exposure.positions), exposure) + self.offset(exposure)

    def shifts(self, exposure: Exposure, first: int, count: int) -> np.ndarray | None:
        """Descan error: by how much the pattern moves on the camera, (count, 2), (y, x) [rad]; None: it stays."""
        if not self.settings.descan:
            return None
        return self.settings.descan * (exposure.steered(first, count) - self._centre)

    def electrons(self, exposure: Exposure, first: int, count: int) -> np.ndarray:
        """Mean electrons (count,) that the beam really brings to each position."""
        optics = true_values(self.commanded(exposure), self.settings.instabilities.faults, exposure.elapsed)
        return electrons(optics["probe_current"], exposure.dwell) * self.state.current_factor(exposure.times(first, count))

    def condition(self, exposure: Exposure) -> Condition:
        """What has been done to the specimen when the exposure begins.

        A transition is taken as still for a second; without one, only the present temperature matters, to 5 K.
        """
        stage = self.state.true_stage(exposure.stage, exposure.elapsed)
        tilt = {"alpha": stage.get("alpha", 0.0), "beta": stage.get("beta", 0.0)}
        programme = self._true_programme(exposure.holder)
        if self.settings.options.transition:
            return Condition(float(np.floor(exposure.elapsed)), self.state.real_programme(programme), **tilt)
        if not len(programme):
            return Condition(**tilt)
        temperature = float(self.state.temperature(np.array([exposure.elapsed]), programme)[0])
        return Condition(0.0, np.array([[0.0, 5 * np.rint(temperature / 5), 0.0]]), **tilt)

    def _true_programme(self, programme: np.ndarray) -> np.ndarray:
        """The holder's programme (steps, 3) as the holder follows it, faults included."""
        faults = self.settings.instabilities.faults
        rows = []
        for elapsed, temperature, bias in np.asarray(programme, float).reshape(-1, 3):
            true = true_values({"temperature": temperature, "bias": bias}, faults, elapsed)
            rows.append((elapsed, true["temperature"], true["bias"]))
        return np.array(rows).reshape(-1, 3)
