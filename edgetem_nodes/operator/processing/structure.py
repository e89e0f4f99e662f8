"""Features of crystals: strain from Bragg disks, orientation by template matching."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any, ClassVar

import numpy as np

from edgetem_nodes.featurizer.bragg import Limits, Reference, StrainMapper, strained
from edgetem_nodes.featurizer.features import Features
from edgetem_nodes.operator.processing.feature import Feature
from edgetem_nodes.operator.processing.results import FeatureRefused, Result, ScanMap

SAMPLE = 256
"""Patterns that a model is learnt from."""


class Strain(Feature):
    """Strain and rotation of the lattice at every place, relative to the median of a region or of all places."""

    name, summary = "strain", "strain tensor and rotation of the lattice, from Bragg disks"
    reads: ClassVar[bool] = True
    turns: ClassVar[bool] = True
    settings: ClassVar[dict[str, Any]] = {"contrast": "linear", "search": 3, "most_disks": 24, "region": [],
                                          "largest_error": Limits.error, "largest_strain": Limits.strain}

    def prepare(self) -> None:
        self.context.calibration.require(self.name, "disk_radius")
        region = self.values["region"]
        if region and (len(region) != 4 or self.context.source.field is None):
            raise FeatureRefused(f"strain.region {region} must be [first row, first column, end row, end column] of a raster")
        self._limits = Limits(float(self.values["largest_error"]), float(self.values["largest_strain"]))
        self._rows: list[Features] = []
        self._places: list[np.ndarray] = []

    def start(self) -> None:
        context = self.context
        sample = context.sample(SAMPLE)
        # The scan's axes are known at the end of the pass only: vectors are turned into them then.
        geometry = replace(context.geometry, rotation=0.0, flipped=False)
        self._mapper = StrainMapper.learn(
            sample, geometry, limits=self._limits, contrast=str(self.values["contrast"]), search=int(self.values["search"]),
            most_disks=int(self.values["most_disks"]), mask=context.corrections.live(context.source.frame_shape),
            noise=context.noise, threads=context.request.threads)

    def add(self, places: np.ndarray, frames: np.ndarray) -> None:
        self._rows.append(self._mapper(frames, self.context.source.all_positions()[places]))
        self._places.append(places)

    def finish(self) -> list[Result]:
        if not self._rows:
            raise FeatureRefused("strain: no frame was sound")
        places, source = np.concatenate(self._places), self.context.source
        rows = self._turned()
        rows = strained(rows, Reference.of_region(rows, self._region(places)), self._limits)
        self.note_failures(places, rows.failures)
        names = self._mapper.names
        on = {name: source.scattered(places, rows.values[:, k]) for k, name in enumerate(names)}
        errors = {name: source.scattered(places, rows.standard_errors[:, k]) for k, name in enumerate(names)}
        tensor = names[:3]
        return [ScanMap("strain", np.stack([on[n] for n in tensor], 1), "", np.stack([errors[n] for n in tensor], 1), tensor,
                        "diverging", "Strain"),
                ScanMap("lattice_rotation", on["rotation"], "rad", errors["rotation"], style="diverging",
                        title="Rotation of the lattice"),
                ScanMap("lattice_chi_square", on["lattice_chi_square"], "", title="Misfit of the lattice, reduced chi-square")]

    def _turned(self) -> Features:
        """All rows, their vectors in the scan's axes; rows that failed for strain against the sample are judged again."""
        matrix = self.context.geometry.to_scan()
        scale = np.kron(matrix, np.eye(2))
        vectors = np.concatenate([row.details["vectors"] for row in self._rows])
        covariance = np.concatenate([row.details["vectors_covariance"] for row in self._rows])
        details = {"vectors": matrix @ vectors, "vectors_covariance": scale @ covariance @ scale.T}
        return Features(np.concatenate([row.values for row in self._rows]), np.concatenate([row.standard_errors for row in
                        self._rows]), [failure for row in self._rows for failure in row.failures], details)

    def _region(self, places: np.ndarray) -> np.ndarray:
        """Which rows are the reference."""
        if not self.values["region"]:
            return np.ones(len(places), bool)
        top, left, bottom, right = map(int, self.values["region"])
        row, column = np.divmod(places, self.context.source.field.shape[1])
        return (row >= top) & (row < bottom) & (column >= left) & (column < right)


class Orientation(Feature):
    """Orientation of crystals by matching with simulated patterns; needs the structure."""

    name, summary = "orientation", "orientation of crystals by template matching; needs --structure FILE.cif"
    reads: ClassVar[bool] = True
    turns: ClassVar[bool] = True
    needs_rotation: ClassVar[bool] = True
    settings: ClassVar[dict[str, Any]] = {"largest_mrad": 0.0, "thickness_nm": 10.0, "step_deg": 2.0, "lowest_score": 0.4,
                                          "fewest_spots": 5, "grain_deg": 5.0}

    def prepare(self) -> None:
        context = self.context
        if not context.request.structures:
            raise FeatureRefused("orientation needs the crystal: name its file with --structure FILE.cif")
        context.calibration.require(self.name, "high_tension", "pixel_angle", "disk_radius")
        self._found: list[tuple[np.ndarray, Any]] = []

    def start(self) -> None:
        from edgetem_nodes.featurizer.orientation.crystal import Crystal
        from edgetem_nodes.featurizer.orientation.disks import DiskSearch
        from edgetem_nodes.featurizer.orientation.library import Library
        from edgetem_nodes.featurizer.orientation.mapping import OrientationMapper, Settings

        context, shape = self.context, self.context.source.frame_shape
        geometry = context.geometry
        y, x = geometry.center
        reach = min(y, x, shape[0] - 1 - y, shape[1] - 1 - x) * geometry.pixel_angle
        largest = float(self.values["largest_mrad"]) * 1e-3 or reach
        self._crystals = [Crystal.of(path) for path in context.request.structures]
        library = Library(self._crystals, context.calibration["high_tension"], largest,
                          step=math.radians(float(self.values["step_deg"])),
                          thickness=float(self.values["thickness_nm"]) * 1e-9)
        self._mapper = OrientationMapper(library, geometry, Settings(fewest_spots=int(self.values["fewest_spots"]),
                                                                     lowest_score=float(self.values["lowest_score"])))
        self._search = DiskSearch(shape, context.calibration["disk_radius"], mask=context.corrections.live(shape),
                                  noise=context.noise)

    def add(self, places: np.ndarray, frames: np.ndarray) -> None:
        self._found.append((places, self._mapper(frames, self._search, self.context.source.all_positions()[places])))

    def finish(self) -> list[Result]:
        from edgetem_nodes.featurizer.orientation.colours import inverse_pole_figure_colours

        if not self._found:
            raise FeatureRefused("orientation: no frame was sound")
        source = self.context.source
        places = np.concatenate([p for p, _ in self._found])
        parts = [found for _, found in self._found]

        def of(name: str) -> np.ndarray:
            return np.concatenate([getattr(part, name) for part in parts])
        self.note_failures(places, [failure for part in parts for failure in part.failures])
        matrices, phases = of("matrices"), of("phases")
        colours, zones = np.full((len(places), 3), np.nan), np.full((len(places), 3), np.nan)
        for number, crystal in enumerate(self._crystals):
            mine = phases == number
            if mine.any():
                colours[mine] = inverse_pole_figure_colours(matrices[mine], crystal.symmetry)
                zones[mine] = crystal.indices(matrices[mine][:, 0])
        results = [
            ScanMap("orientation", source.scattered(places, matrices.reshape(-1, 9)), "",
                    labels=tuple(f"{a}{b}" for a in "zyx" for b in "zyx"), style="none", title="Crystal's axes to the scan's"),
            ScanMap("orientation_error", source.scattered(places, of("standard_errors")), "rad", labels=("z", "y", "x"),
                    style="none"),
            ScanMap("zone_axis", source.scattered(places, zones), "", labels=("u", "v", "w"), style="none"),
            ScanMap("orientation_colour", source.scattered(places, colours), "", labels=("red", "green", "blue"), style="rgb",
                    title="Orientation along the beam, inverse pole figure"),
            ScanMap("in_plane", source.scattered(places, of("in_plane")), "rad", style="angle", title="Turn about the beam"),
            ScanMap("orientation_score", source.scattered(places, of("scores")), "", title="Score of the best template"),
            ScanMap("orientation_reliability", source.scattered(places, of("reliability")), "", title="Reliability")]
        if len(self._crystals) > 1:
            results.append(ScanMap("phase", source.scattered(places, np.where(phases < 0, np.nan, phases)), "", style="labels",
                                   title="Phase: " + ", ".join(f"{k} {c.name}" for k, c in enumerate(self._crystals))))
        return results + self._misorientations(places, phases, matrices)

    def _misorientations(self, places: np.ndarray, phases: np.ndarray, matrices: np.ndarray) -> list[Result]:
        """Of neighbours, and grains, where the scan is a raster."""
        from edgetem_nodes.featurizer.orientation.misorientation import grains, kernel_average_misorientation

        source = self.context.source
        if source.field is None or min(source.field.shape) < 2:
            return []
        shape, symmetries = source.field.shape, tuple(crystal.symmetry for crystal in self._crystals)
        on_phases = np.nan_to_num(source.scattered(places, phases), nan=-1).astype(int).reshape(shape)
        on = source.scattered(places, matrices.reshape(-1, 9)).reshape(*shape, 3, 3)
        threshold = math.radians(float(self.values["grain_deg"]))
        misfit = kernel_average_misorientation(on_phases, on, symmetries, threshold)
        labels = grains(on_phases, on, symmetries, threshold).labels
        return [ScanMap("misorientation", misfit.ravel(), "rad", title="Mean misorientation to the neighbours"),
                ScanMap("grains", np.where(labels < 0, np.nan, labels).ravel(), "", style="labels", title="Grains")]
