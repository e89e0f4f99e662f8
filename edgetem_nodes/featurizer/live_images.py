"""Images of a scan that grow while it runs: virtual detectors, deflections and what follows from them, ptychography. No ROS.

One fused pass serves all of them. What needs neighbours (integral, divergence, curl, single side band ptychography) needs a
raster; asked for of a sparse scan it is refused with that reason, and the others go on.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from edgetem_nodes.featurizer.features import CountingNoise
from edgetem_nodes.featurizer.patterns import detectors, fields, vector_field
from edgetem_nodes.featurizer.patterns.corrections import Corrections
from edgetem_nodes.featurizer.patterns.events import Frames, dense
from edgetem_nodes.featurizer.patterns.geometry import DetectorGeometry
from edgetem_nodes.featurizer.patterns.instrument import PatternInstrument
from edgetem_nodes.featurizer.patterns.reduction import Reduction
from edgetem_nodes.featurizer.ptychography.single_side_band import SingleSideBand
from edgetem_nodes.physics.scan import Axis, ScanField

MASKS = {"bf": detectors.bright_field, "abf": detectors.annular_bright_field, "adf": detectors.annular_dark_field,
         "haadf": detectors.high_angle_annular_dark_field}
DEFLECTIONS = ("com_y", "com_x", "com_magnitude", "com_angle")
QUADRANTS = ("dpc_y", "dpc_x")
DERIVED = ("icom", "div", "curl")
IMAGES = ("sum", *MASKS, *DEFLECTIONS, *QUADRANTS, *DERIVED, "ssb")
"""Names: counts; deflections in the scan's axes [rad], com_angle [rad]; icom and ssb [rad]; div and curl [rad/m]."""


class LiveImages:
    """Maps over one field, filled as frames come, in any order.

    Attributes
    ----------
    field : the grid that is filled; None: none yet.
    raster : whether frames come for every place of it.
    refused : why an image cannot be made, by name.
    """

    def __init__(self, names: Sequence[str], instrument: PatternInstrument, noise: CountingNoise = CountingNoise(),
                 corrections: Corrections | None = None, defocus: float = 0.0) -> None:
        """Set up.

        Parameters
        ----------
        defocus : that ptychography corrects [m], positive: underfocus.

        Raises
        ------
        ValueError : a name that is not in `IMAGES`.
        """
        unknown = [name for name in names if name not in IMAGES]
        if unknown:
            raise ValueError(f"there is no live image {unknown[0]!r}; there are {', '.join(IMAGES)}")
        self.names, self.instrument, self._noise = tuple(dict.fromkeys(names)), instrument, noise
        self._corrections, self._defocus = corrections, defocus
        self.field: ScanField | None = None
        self.raster, self.refused = False, {}
        self._axes: tuple[Axis, ...] | None = None
        self._reduction: Reduction | None = None
        self._ptychography: SingleSideBand | None = None
        self._maps: dict[str, np.ndarray] = {}

    def begin(self, field: ScanField, raster: bool) -> None:
        """Frames of this field follow. Maps of the same field go on, of another start anew; a raster always starts anew."""
        if field == self.field and not raster and not self.raster:
            return
        self.field, self.raster, self._axes, self._reduction, self._ptychography = field, raster, None, None, None
        self.refused = {}
        self._maps = {name: np.full(field.shape, np.nan) for name in ("sum", *MASKS, *QUADRANTS, "com_y", "com_x")}

    def add(self, axes: tuple[Axis, ...], positions: np.ndarray, frames: Frames) -> None:
        """Enter frames (frames, rows, columns) at positions (frames, 2) [m]; those outside the field are left out.

        Raises
        ------
        ValueError : the frames are no patterns in angles.
        """
        if self.field is None or not self.names or not len(frames):
            return
        if axes != self._axes:
            self._prepare(axes)
        inside = np.isfinite(positions).all(axis=1)
        inside[inside] = self.field.contains(positions[inside])
        places = self.field.candidates(positions[inside])
        reduced = self._reduction(frames)
        self._enter("sum", places, reduced.total[inside])
        for k, name in enumerate(reduced.names):
            if name in MASKS:
                self._enter(name, places, reduced.counts[inside, k])
        self._deflect(places, reduced.center_of_mass[inside])
        if self._quadrants:
            columns = [reduced.names.index(name) for name in self._quadrants]
            quadrants = reduced.counts[inside][:, columns]
            shift = fields.differential_phase_contrast(quadrants, quadrants, self.instrument.semi_convergence_angle)
            self._vector("dpc", places, shift.deflection)
        if self._ptychography is not None:
            self._ptychography.add(places, self._corrected(frames if inside.all() else dense(frames)[inside]))

    def image(self, name: str) -> np.ndarray | None:
        """The present map (rows, columns) float64, NaN where nothing was measured; None where it is refused.

        Single side band ptychography takes as long as about 1/60000 s a position; the others some milliseconds at most.
        """
        if self.field is None or name in self.refused:
            return None
        if name == "com_magnitude":
            return np.hypot(self._maps["com_y"], self._maps["com_x"])
        if name == "com_angle":
            return np.arctan2(self._maps["com_y"], self._maps["com_x"])
        if name in DERIVED:
            return self._derived(name)
        if name == "ssb":
            return self._phase()
        return self._maps[name]

    def _prepare(self, axes: tuple[Axis, ...]) -> None:
        self._reduction = None
        geometry = self.instrument.geometry(axes)
        shape = (axes[0].size, axes[1].size)
        masks, self._quadrants, self.refused = {}, (), {}
        for name in MASKS:
            if name in self.names:
                try:
                    masks[name] = MASKS[name](shape, geometry)
                except ValueError as error:
                    self.refused[name] = str(error)
        if set(QUADRANTS) & set(self.names):
            try:
                # Quadrants around 45, 135, 225 and 315 degrees that reach beyond the disk, which moves.
                parts = detectors.segments(shape, geometry, 4, 0.0, 1.5 * self.instrument.semi_convergence_angle, 0.0)
                self._quadrants = tuple(parts)
                masks |= parts
            except ValueError as error:
                self.refused |= dict.fromkeys(QUADRANTS, str(error))
        for name in (*DERIVED, "ssb"):
            if name in self.names and not self.raster:
                self.refused[name] = ("a raster is needed: each place is compared with its neighbours, and a sparse scan has "
                                      "none")
        if "ssb" in self.names and self.raster:
            self._set_up_ptychography(shape, geometry)
        self._geometry, self._turn, self._axes = geometry, geometry.to_scan(), axes
        self._reduction = Reduction(shape, masks, corrections=self._corrections, noise=self._noise)

    def _set_up_ptychography(self, shape: tuple[int, int], geometry: DetectorGeometry) -> None:
        corrected = {"defocus": self._defocus} if self._defocus else {}
        try:
            self._ptychography = SingleSideBand(self.field, shape, geometry, self.instrument.high_tension, corrected,
                                                usable=self._corrections and self._corrections.known(shape), noise=self._noise)
        except ValueError as error:
            self.refused["ssb"] = str(error)

    def _corrected(self, frames: Frames) -> Frames:
        """Frames as ptychography takes them, which is told apart which pixels have no value."""
        return frames if self._corrections is None else np.nan_to_num(self._corrections.applied(dense(frames)))

    def _enter(self, name: str, places: np.ndarray, values: np.ndarray) -> None:
        self._maps[name].ravel()[places] = values

    def _deflect(self, places: np.ndarray, center_of_mass: np.ndarray) -> None:
        away = (center_of_mass - self._geometry.center) @ np.asarray(self._geometry.distortion).T
        self._vector("com", places, away * self._geometry.pixel_angle)

    def _vector(self, name: str, places: np.ndarray, vectors: np.ndarray) -> None:
        """Enter vectors (places, 2), (y, x), given in the detector's axes."""
        turned = vectors @ self._turn.T
        self._enter(f"{name}_y", places, turned[:, 0])
        self._enter(f"{name}_x", places, turned[:, 1])

    def _derived(self, name: str) -> np.ndarray | None:
        field = np.stack([self._maps["com_y"], self._maps["com_x"]], axis=-1)
        step = self.field.step
        try:
            if name == "icom":
                return vector_field.integrate(fields.phase_gradient(field, self.instrument.high_tension), step)
            return (vector_field.divergence if name == "div" else vector_field.curl)(field, step)
        except ValueError as error:
            self.refused[name] = str(error)
            return None

    def _phase(self) -> np.ndarray | None:
        if self._ptychography is None:
            return None
        try:
            return self._ptychography.phase()
        except ValueError as error:
            if np.isfinite(self._maps["sum"]).all():
                self.refused["ssb"] = str(error)
            return None
