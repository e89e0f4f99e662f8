"""Strain of a hexagonal sheet from the Bragg disks of nanobeam diffraction.

Each disk's place is the centre of mass within a round window, refined by moving the window onto the disk; a weighted
least-squares lattice through all disks gives the deformation (e.g. Ozdol et al., Appl. Phys. Lett. 106, 253107, 2015). The
central disk is not used for the lattice: its inside is shifted by the specimen's fields, while Bragg disks come in pairs.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from edgetem_nodes.featurizer.deformation import Fit, fit_lattice, reciprocal_vectors, strain
from edgetem_nodes.featurizer.features import CountingNoise, Features, angles, centre, finished
from edgetem_nodes.featurizer.parameters import Lattice
from edgetem_nodes.physics.electrons import wavelength
from edgetem_nodes.physics.scan import Axis
from edgetem_nodes.physics.specimens.sheet import GRAPHENE_LATTICE, MOS2_LATTICE

LATTICE_CONSTANTS = {"MoS2": MOS2_LATTICE, "graphene": GRAPHENE_LATTICE}
"""Unstrained lattice constant of each material [m]."""
FEWEST_DISKS = 4
DETECTION = 3.0
"""A disk counts as found where its net counts are this many standard errors, and `FEWEST_ELECTRONS`, above zero."""
FEWEST_ELECTRONS = 5.0
REFINEMENTS = 3
SOFTNESS = 0.5
"""Half-width of a window's edge [pixel]: pixels on it count in part, so that a window can move by less than a pixel."""

COLUMNS = {"dilation": "%", "exx": "%", "eyy": "%", "exy": "%", "rotation": "deg"}


def lattice_constant(settings: Lattice) -> float:
    """Unstrained lattice constant [m]."""
    return settings.lattice_constant_nm * 1e-9 or LATTICE_CONSTANTS[settings.material]


@dataclass(frozen=True)
class Disks:
    """Disks found in frames, one row a frame. Angles in mrad, (y, x).

    Attributes
    ----------
    places : (rows, disks, 2).
    variances : (rows, disks) of either component [mrad^2]; infinite where the disk was not found.
    net : (rows, disks) counts above the background.
    saturated : (rows,) number of saturated pixels in the windows.
    """

    places: np.ndarray
    variances: np.ndarray
    net: np.ndarray
    saturated: np.ndarray


class LatticeScalarizer:
    """Strain tensor, dilation and rotation of a hexagonal sheet against a reference lattice.

    Columns: the chosen component first, then the others of dilation, exx, eyy, exy [%] and rotation [deg], the lattice's
    reduced chi-square, and the counts in the disks. Standard errors are those of counting statistics alone.
    """

    def __init__(self, settings: Lattice, noise: CountingNoise, axes: tuple[Axis, ...]) -> None:
        self.y, self.x = angles(axes, "lattice")
        if min(len(self.y), len(self.x)) < 8:
            raise ValueError(f"lattice: patterns of {len(self.y)} x {len(self.x)} pixels hold no lattice: 8 x 8 or more")
        self.settings, self.noise = settings, noise
        self.pitch = np.array([axes[0].scale, axes[1].scale]) * 1e3
        self.origin = np.array([self.y[0], self.x[0]])
        self.middle = np.array(centre(settings.center_mrad, "lattice.center_mrad"))
        self.pixel = float(np.abs(self.pitch).mean())
        self.window = settings.semi_convergence_mrad + settings.margin_mrad
        self.order = [settings.component, *(name for name in COLUMNS if name != settings.component)]
        self.names = (*self.order, "lattice_chi_square", "disk_counts")
        self.units = (*(COLUMNS[name] for name in self.order), "", "counts")
        scale = wavelength(settings.high_tension_kV * 1e3) * 1e3
        orientation = np.radians(settings.rotation_deg)
        shells = [scale * shell for shell in reciprocal_vectors(lattice_constant(settings), orientation, settings.shells)]
        self.radius = float(np.linalg.norm(shells[0][0]))
        fitting = [shell for shell in shells if self._fits(shell, settings.free_rotation)]
        low, high = min(self.y.min(), self.x.min()), max(self.y.max(), self.x.max())
        if not fitting or fitting[0] is not shells[0]:
            raise ValueError(f"lattice: the innermost disks of {settings.material}, {self.radius:.3g} mrad from the centre "
                             f"with windows of {self.window:.3g} mrad, do not fit on the detector, {low:.3g} to {high:.3g} "
                             "mrad: lower the camera length, or correct material, high tension or centre")
        if 2 * settings.semi_convergence_mrad >= self.radius:
            raise ValueError(f"lattice: disks of {settings.semi_convergence_mrad:g} mrad {self.radius:.3g} mrad apart "
                             "overlap: lower the semi-convergence angle")
        self.window = min(self.window, self.radius / 2)
        self.reference = np.concatenate(fitting)
        self._prepare_search()

    def _fits(self, shell: np.ndarray, any_angle: bool) -> bool:
        if any_angle:
            shell = np.linalg.norm(shell, axis=1, keepdims=True).max() * np.array([[1.0, 0], [-1.0, 0], [0, 1.0], [0, -1.0]])
        places = shell + self.middle
        low = np.array([self.y.min(), self.x.min()]) - self.pixel / 2
        high = np.array([self.y.max(), self.x.max()]) + self.pixel / 2
        return bool(((places - self.window >= low) & (places + self.window <= high)).all())

    def _prepare_search(self) -> None:
        """Fixed weights that find the beam's centre, and the lattice's angle by the sixth harmonic of its inmost ring."""
        y, x = (grid.ravel() for grid in np.meshgrid(self.y - self.middle[0], self.x - self.middle[1], indexing="ij"))
        radius, angle = np.hypot(y, x), np.arctan2(y, x)
        self.central = np.flatnonzero(radius <= self.radius / 2)
        self.central_angles = np.stack([y[self.central], x[self.central]], axis=1)
        half = self.settings.semi_convergence_mrad + 0.06 * self.radius
        self.ring = np.flatnonzero(np.abs(radius - self.radius) <= half)
        self.harmonic = np.exp(6j * angle[self.ring])
        first = self.reference[0]
        self.reference_phase = np.exp(6j * np.arctan2(first[0], first[1]))

    def __call__(self, frames: np.ndarray) -> Features:
        pixels = frames.reshape(len(frames), -1)
        failures = [""] * len(frames)
        if pixels.dtype.kind == "f":
            finite = np.isfinite(pixels).all(axis=1)
            failures = ["" if good else "the pattern holds pixels that are not finite numbers" for good in finite]
            pixels = np.where(finite[:, None], pixels, 0.0)
        disks, fit, empty = self._locate(pixels)
        return self._features(disks, fit, failures, empty)

    def windows(self, frame: np.ndarray) -> tuple[np.ndarray, float]:
        """Where the lattice found in one frame (rows, columns) puts its disks, (disks, 2), (y, x) [mrad], and the radius of
        the windows [mrad]: for a picture. Disks that were not found are left out."""
        disks, _, _ = self._locate(np.nan_to_num(np.asarray(frame, float)).reshape(1, -1))
        return disks.places[0][np.isfinite(disks.variances[0])], self.window

    def _locate(self, pixels: np.ndarray) -> tuple[Disks, Fit, np.ndarray]:
        """Disks and lattice of frames (rows, pixels), and which of them are empty."""
        shift, empty = self._beam_centre(pixels)
        start = self._orientation(pixels)
        reference = self.reference @ np.swapaxes(start, 1, 2)
        places, images = reference + (self.middle + shift)[:, None], pixels.reshape(-1, len(self.y), len(self.x))
        for _ in range(REFINEMENTS):
            disks = self._refine(images, places)
            fit = fit_lattice(self.reference, disks.places, disks.variances)
            lattice = fit.centre[:, None] + self.reference @ np.swapaxes(fit.matrix, 1, 2)
            near = np.linalg.norm(lattice - places, axis=-1).max(axis=1) < self.window
            places = np.where(near[:, None, None], lattice, places)
        return disks, fit, empty

    def _features(self, disks: Disks, fit: Fit, failures: list[str], empty: np.ndarray) -> Features:
        result = strain(fit.matrix, fit.covariance[:, 1:, 1:])
        largest = np.nanmax(np.abs(np.nan_to_num(np.stack([result.exx, result.eyy, result.exy]), nan=0.0)), axis=0) * 100
        found = np.isfinite(disks.variances).sum(axis=1)
        limit, total = self.settings.largest_strain_percent, disks.variances.shape[1]
        reasons = (
            (empty, lambda row: "the pattern is empty"),
            (disks.saturated > 0, lambda row: f"{disks.saturated[row]} pixels of the disks are saturated"),
            (found < FEWEST_DISKS, lambda row: f"{found[row]} of {total} disks were found, {FEWEST_DISKS} or more are "
                                               "needed: too low a dose, or no such lattice here"),
            (~np.isfinite(result.exx), lambda row: f"the {found[row]} disks that were found lie on one line"),
            (largest > limit, lambda row: f"a strain of {largest[row]:.3g} % is above the limit of {limit:g} %: "
                                          "no such lattice here"),
            (fit.residual > self.settings.semi_convergence_mrad / 2,
             lambda row: f"the disks are {fit.residual[row]:.2g} mrad off a lattice: no such lattice here"),
        )
        for bad, reason in reasons:
            for row in np.flatnonzero(bad):
                failures[row] = failures[row] or reason(row)
        factors = {name: 180 / np.pi if name == "rotation" else 100.0 for name in COLUMNS}
        freedom = np.maximum(2.0 * found - 6.0, 1.0)
        net = np.where(np.isfinite(disks.variances), disks.net, 0.0).sum(axis=1)
        values = [factors[name] * getattr(result, name) for name in self.order]
        variances = [factors[name]**2 * result.variances[name] for name in self.order]
        return finished(np.stack([*values, fit.chi_square, net], axis=1),
                        np.stack([*variances, 2.0 / freedom, self.noise.variance(net)], axis=1), failures,
                        {"deformation": result.deformation, "deformation_covariance": result.deformation_covariance})

    def _beam_centre(self, pixels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Shift (rows, 2) [mrad] of the central disk from its nominal place, and whether the pattern is empty (rows,)."""
        counts = np.take(pixels, self.central, axis=1).astype(float)
        total = counts.sum(axis=1)
        empty = total <= 0
        moments = np.stack([(counts * self.central_angles[:, i]).sum(axis=1) for i in (0, 1)], axis=1)
        return np.where(empty[:, None], 0.0, moments / np.where(empty, 1.0, total)[:, None]), empty

    def _orientation(self, pixels: np.ndarray) -> np.ndarray:
        """Rotation (rows, 2, 2) that brings the reference near the pattern; the identity unless `free_rotation`."""
        turn = np.zeros(len(pixels))
        if self.settings.free_rotation:
            counts = np.take(pixels, self.ring, axis=1).astype(float)
            wave = (counts * self.harmonic.real).sum(axis=1) + 1j * (counts * self.harmonic.imag).sum(axis=1)
            turn = np.angle(wave * np.conj(self.reference_phase)) / 6
        cosine, sine = np.cos(turn), np.sin(turn)
        return np.stack([cosine, sine, -sine, cosine], axis=-1).reshape(-1, 2, 2)

    def _refine(self, images: np.ndarray, places: np.ndarray) -> Disks:
        """Centres of mass in round windows about `places` (rows, disks, 2) [mrad], less the mean of a ring around each."""
        rows, disks = places.shape[:2]
        shape = np.array(images.shape[1:])
        radius, reach = self.window / self.pixel, int(np.ceil(self.window / self.pixel + 2))
        target = (places - self.origin) / self.pitch
        corner = np.clip(np.rint(target).astype(int) - reach, 0, np.maximum(shape - 2 * reach - 1, 0))
        span = np.arange(min(2 * reach + 1, int(shape.min())))
        iy, ix = corner[..., 0, None] + span, corner[..., 1, None] + span
        patch = images[np.arange(rows)[:, None, None, None], iy[..., :, None], ix[..., None, :]].astype(float)
        dy, dx = iy - target[..., 0, None], ix - target[..., 1, None]
        distance = np.sqrt((dy**2)[..., :, None] + (dx**2)[..., None, :])
        inside = np.clip((radius + SOFTNESS - distance) / (2 * SOFTNESS), 0.0, 1.0)
        around = ((distance > radius + SOFTNESS) & (distance <= radius + SOFTNESS + 1.0)).astype(float)
        saturated = ((patch >= self.noise.saturation_level(images.dtype)) & (inside > 0)).sum(axis=(-2, -1)).sum(axis=1)
        cut = ((target < radius - 1.0) | (target > shape - radius)).any(axis=-1)
        offset, variances, net = self._moments(patch, inside, around, (dy, dx), cut)
        return Disks(places + offset * self.pitch, variances, net, saturated)

    def _moments(self, patch: np.ndarray, inside: np.ndarray, around: np.ndarray, grid: tuple[np.ndarray, np.ndarray],
                 cut: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Offset (rows, disks, 2) [pixel] of each disk from its window's middle, its variance [mrad^2], net counts."""
        dy, dx = grid
        gain, readout = self.noise.counts_per_electron, self.noise.readout_noise
        both = (-2, -1)
        area, ring_pixels = inside.sum(axis=both), np.maximum(around.sum(axis=both), 1.0)
        background = (patch * around).sum(axis=both) / ring_pixels
        gross = (patch * inside).sum(axis=both)
        net = gross - background * area
        error = np.sqrt(gain * np.maximum(gross, gain) + area * readout**2
                        + (area / ring_pixels)**2 * (gain * np.maximum(background, 0) + readout**2) * ring_pixels)
        lean = (patch - background[..., None, None]) * inside
        safe = np.where(net > 0, net, 1.0)
        offset_y, offset_x = (lean * dy[..., :, None]).sum(axis=both) / safe, (lean * dx[..., None, :]).sum(axis=both) / safe
        found = (net > DETECTION * error) & (net > FEWEST_ELECTRONS * gain) & ~cut
        found &= np.hypot(offset_y, offset_x) * self.pixel < self.window
        spread = inside**2 * (gain * np.maximum(patch, 0) + readout**2)
        square = ((dy[..., :, None] - offset_y[..., None, None])**2 + (dx[..., None, :] - offset_x[..., None, None])**2) / 2
        second = np.where(found, (spread * square).sum(axis=both), 0.0)
        noise = np.where(found, spread.sum(axis=both), 0.0)
        mean_square = second.sum(axis=1) / np.maximum(noise.sum(axis=1), 1e-300)
        variances = np.where(found, noise * mean_square[:, None] / safe**2, np.inf) * self.pixel**2
        return np.where(found[..., None], np.stack([offset_y, offset_x], axis=-1), 0.0), variances, net
