"""The field of an experiment: what was measured of it so far, and what of it may be measured yet."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from edgetem_nodes.physics.scan import ScanField
from edgetem_nodes.planner.actions import ActionSpace
from edgetem_nodes.planner.observations import LARGEST_VALUE, ExperimentError, Observations
from edgetem_nodes.planner.parameters import Parameters
from edgetem_nodes.planner.patches import grid_coordinates, patch_components
from edgetem_nodes.planner.regions import ADD, Region, allowed_by
from edgetem_nodes.planner.sights import Sight, to_json

if TYPE_CHECKING:
    from collections.abc import Sequence

    from edgetem_nodes.planner.belief import Belief
    from edgetem_nodes.planner.surrogates import Surrogate


class MeasuredField:
    """Measurements of a field, regions, and availability; the parameters are those of `ActiveExperiment`."""

    def __init__(self, survey: np.ndarray, field: ScanField, parameters: Parameters, seed: int,
                 allowed: np.ndarray | None = None, survey_dose: float = 0.0,
                 descriptors: np.ndarray | None = None) -> None:
        survey = np.array(survey, np.float64)
        if survey.ndim != 3 or survey.shape[0] < 1 or survey.shape[1:] != tuple(field.shape):
            raise ExperimentError(f"a survey of shape {survey.shape} does not fit a field of {field.shape[0]} x "
                                  f"{field.shape[1]} positions; it must be (channels, rows, columns)")
        if (bad := ~(np.abs(survey) <= LARGEST_VALUE)).any():
            raise ExperimentError(f"{int(bad.sum())} of {survey.size} survey values are not finite or beyond "
                                  f"{LARGEST_VALUE:g}: repair the survey before the experiment")
        allowed = np.ones(field.shape, bool) if allowed is None else np.array(allowed, bool)
        if allowed.shape != tuple(field.shape) or not allowed.any():
            raise ExperimentError(f"the mask of allowed positions, shape {allowed.shape}, must fit the field of "
                                  f"{field.shape[0]} x {field.shape[1]} and allow at least one position")
        self.survey, self.field, self.parameters, self.seed = survey, field, parameters, int(seed)
        self.configured, self.survey_dose = parameters, float(survey_dose)
        self.actions = ActionSpace(parameters.actions)
        self._generator = np.random.Generator(np.random.PCG64(self.seed))
        self._allowed = allowed.ravel()
        self._descriptors = self._descriptor_table(descriptors)
        self._coordinates = grid_coordinates(field.shape, field.step)
        model = parameters.model
        self._components = (patch_components(survey, model.patch_size, model.patch_components) if model.use_survey
                            else np.zeros((survey[0].size, 0)))
        if model.use_survey and not model.use_position and not self._descriptors.shape[1] and not np.ptp(self._components) > 0:
            raise ExperimentError("the survey has no contrast and the position is not used: nothing tells one place from "
                                  "another; set model.use_position")
        self.levels = 2 if parameters.energetics.mapped and parameters.energetics.high_fidelity.points else 1
        self.observations = Observations.none(len(parameters.outputs) + self.levels)
        self.regions: tuple[Region, ...] = ()
        self._visits: tuple[str, ...] = ()
        self._visiting = ""
        self._barred = np.zeros(0, np.int64)
        self._batch, self._setting, self._retold = 0, 0, False
        self._deepened: tuple[int, ...] = ()
        self.sights: tuple[Sight | None, ...] = ()
        """What each row saw; None: not known. Of an averaged map: what was seen need not be expected."""
        self._pending = np.zeros(0, np.int64)
        self._expected = np.full((field.shape[0] * field.shape[1], 2), np.nan)
        self._forget_maps()
        self._surrogate: Surrogate | None = None
        self._learned: Belief | None = None

    def _forget_maps(self) -> None:
        """Convergence is judged from here on: no map yet, no changes, no measurements behind it."""
        self._last_map, self._changes = np.full(self.field.shape[0] * self.field.shape[1], np.nan), ()
        self._mapped = 0

    def _descriptor_table(self, descriptors: np.ndarray | None) -> np.ndarray:
        """(candidates, descriptors) float64, also from a checkpoint, which keeps them so."""
        shape = tuple(self.field.shape)
        if descriptors is None:
            return np.zeros((shape[0] * shape[1], 0))
        descriptors = np.array(descriptors, np.float64)
        table = descriptors if descriptors.ndim == 2 else descriptors.reshape(len(descriptors), -1).T
        fits = len(table) == shape[0] * shape[1] if descriptors.ndim == 2 else descriptors.shape[1:] == shape
        if not fits or not (np.abs(table) <= LARGEST_VALUE).all():
            raise ExperimentError(f"descriptors of shape {descriptors.shape} must be (descriptors, rows, columns) of the "
                                  f"{shape[0]} x {shape[1]} field, finite and within {LARGEST_VALUE:g}")
        return table

    # ---- what was measured ------------------------------------------------------------------------------------

    @property
    def points(self) -> int:
        """Positions visited so far, failures counted."""
        return len(self.observations)

    @property
    def measured(self) -> np.ndarray:
        """(valid measurements,) int64 candidate of each, in the order told."""
        return self.observations.only_valid().candidates

    @property
    def values(self) -> np.ndarray:
        """(valid measurements,) [scalar] of the first output."""
        return self.observations.only_valid().values[:, 0]

    @property
    def best_value(self) -> float:
        """Largest measured scalar; NaN without a measurement."""
        return float(self.values.max()) if self.observations.valid.any() else float("nan")

    @property
    def input_rows(self) -> int:
        """Measurements that the next decision rests on, marked failures counted."""
        return len(self.observations)

    def input_hash(self) -> bytes:
        """SHA-256 (32 byte) of survey, positions, values and standard errors, rows in the order told, NaN for failures, and of
        what sites saw."""
        digest = hashlib.sha256(np.array(self.survey.shape, "<u8").tobytes())
        digest.update(np.ascontiguousarray(self.survey + 0.0, "<f8").tobytes())
        self.observations.update_hash(digest, self.field.positions(self.observations.candidates))
        if any(sight is not None for sight in self.sights):
            digest.update(to_json(self.sights).encode())
        return digest.digest()

    def generator_state(self) -> str:
        """JSON of the random generator's state now."""
        return json.dumps(self._generator.bit_generator.state)

    def tell(self, positions: np.ndarray, values: np.ndarray, standard_errors: np.ndarray, valid: np.ndarray | None = None,
             setting: int = 0, doses: np.ndarray | float = 0.0, sights: Sequence[Sight | None] = ()) -> None:
        """Add measurements, in the order that decisions are to see them: sorted by (acquisition, index).

        Parameters
        ----------
        positions : (rows, 2) (y, x) [m], or (rows,) grid indices as in `Proposal.candidates`.
        values, standard_errors : (rows,) or (rows, outputs) [scalar]. The energy of the better level, where there is one,
            is told later (`tell_high`).
        valid : (rows,) bool, False for a marked failure. A row whose first value is not finite, or beyond LARGEST_VALUE,
            is one, too.
        setting : index of the setting they were measured with, as in `Proposal.setting_index`.
        doses : [electrons] that each cost.
        sights : what each saw, where readings are of places with single defects; none: not known.

        Raises
        ------
        ExperimentError : lengths differ, a position is outside the field, a dose is negative, or there is no such setting.
        """
        candidates = self._told(positions)
        values, errors = _known(self._columns(values)), _bounded(self._columns(standard_errors))
        valid = np.ones(len(candidates), bool) if valid is None else np.array(valid, bool).ravel()
        if not len(candidates) == len(values) == len(errors) == len(valid):
            raise ExperimentError(f"{len(candidates)} candidates, {len(values)} values, {len(errors)} standard errors and "
                                  f"{len(valid)} marks do not belong together: one of each a measurement")
        if not 0 <= setting < len(self.actions):
            raise ExperimentError(f"setting {setting} is not one of the experiment's {len(self.actions)}")
        doses = np.asarray(doses, float)
        if doses.shape not in ((), candidates.shape) or not (doses >= 0).all():
            raise ExperimentError(f"doses of shape {doses.shape} for {len(candidates)} measurements must be one, or one each, "
                                  "in electrons and not negative")
        sights = tuple(sights) or (None,) * len(candidates)
        if len(sights) != len(candidates):
            raise ExperimentError(f"{len(sights)} sights for {len(candidates)} measurements: one each is needed, or none")
        valid = valid & np.isfinite(values[:, 0])
        values, errors = values / self.actions.counts(setting), errors / self.actions.counts(setting)
        whole = np.ones(len(candidates), np.int64)
        self.observations = self.observations.with_rows(
            candidates=candidates, settings=setting * whole, batches=self._batch * whole,
            values=np.where(valid[:, None], values, np.nan), standard_errors=np.where(valid[:, None], errors, np.nan),
            valid=valid, doses=np.broadcast_to(doses, candidates.shape),
            predicted=self._expected[candidates, 0], predicted_deviations=self._expected[candidates, 1])
        self.sights += sights
        self._pending = self._pending[~np.isin(self._pending, candidates)]
        self._batch, self._setting, self._visiting = self._batch + 1, setting, ""
        self._expected[:] = np.nan
        self._learned = None

    @property
    def deepened(self) -> np.ndarray:
        """(sites,) int64 rows, in the order asked, whose energy was asked for at the better level."""
        return np.array(self._deepened, np.int64)

    def tell_high(self, rows: np.ndarray, values: np.ndarray, standard_errors: np.ndarray) -> None:
        """Add energies of the better level to rows that were told.

        Parameters
        ----------
        rows : (sites,) numbers of the rows. values, standard_errors : (sites,) [scalar]; NaN where the computation failed.

        Raises
        ------
        ExperimentError : the experiment has one level, or a row is not one of its valid ones.
        """
        rows = np.asarray(rows, np.int64)
        if self.levels < 2:
            raise ExperimentError("the experiment has one level of energies: set energetics.mapped and "
                                  "energetics.high_fidelity.points")
        if len(rows) and not (0 <= rows.min() and rows.max() < len(self.observations) and self.observations.valid[rows].all()):
            raise ExperimentError(f"rows {rows.tolist()} are not all valid ones of the {len(self.observations)} told")
        told, errors = (array.copy() for array in (self.observations.values, self.observations.standard_errors))
        told[rows, -1], errors[rows, -1] = _known(np.asarray(values, float)), _bounded(np.asarray(standard_errors, float))
        self.observations = replace(self.observations, values=told, standard_errors=errors)
        self._deepened += tuple(int(row) for row in rows)
        self._learned = None

    def retell(self, values: np.ndarray, standard_errors: np.ndarray, valid: np.ndarray) -> None:
        """Replace the values of every row told so far, in their order: another scalarizer has read the same data.

        What the model expected of the rows before, and how its map changed, is forgotten: it was of another scalar.
        Parameters as in `tell`.

        Raises
        ------
        ExperimentError : not one value a row.
        """
        values, errors = _known(self._columns(values)), _bounded(self._columns(standard_errors))
        valid = np.array(valid, bool).ravel()
        if not len(values) == len(errors) == len(valid) == len(self.observations):
            raise ExperimentError(f"{len(values)} new values for {len(self.observations)} measurements: one each is needed")
        valid = valid & np.isfinite(values[:, 0])
        counts = np.array([self.actions.counts(int(setting)) for setting in self.observations.settings])[:, None]
        values, errors = values / counts, errors / counts
        unknown = np.full(len(values), np.nan)
        self.observations = replace(self.observations, values=np.where(valid[:, None], values, np.nan), valid=valid,
                                    standard_errors=np.where(valid[:, None], errors, np.nan), predicted=unknown,
                                    predicted_deviations=unknown)
        self._expected[:] = np.nan
        self._learned = None
        self._retold = True
        self._forget_maps()

    def _told(self, positions: np.ndarray) -> np.ndarray:
        positions = np.asarray(positions)
        if positions.ndim == 2 and positions.shape[1] == 2:
            try:
                return self.field.candidates(positions)
            except ValueError as error:
                raise ExperimentError(str(error)) from None
        candidates = positions.ravel()
        if len(candidates) and candidates.dtype.kind not in "iu":
            raise ExperimentError(f"candidates of shape {positions.shape} and type {positions.dtype} are neither grid indices, "
                                  "which are whole numbers, nor positions (rows, 2) [m]")
        candidates = candidates.astype(np.int64)
        outside = (candidates < 0) | (candidates >= len(self._allowed))
        if outside.any():
            raise ExperimentError(f"candidate {candidates[outside][0]} is outside the field of {len(self._allowed)} "
                                  "positions")
        return candidates

    def _columns(self, values: np.ndarray) -> np.ndarray:
        values = np.array(values, np.float64)
        values = values[:, None] if values.ndim == 1 else values
        if self.levels == 2 and values.ndim == 2 and values.shape[1] == self.observations.outputs - 1:
            values = np.column_stack([values, np.full(len(values), np.nan)])
        if values.ndim != 2 or values.shape[1] != self.observations.outputs:
            raise ExperimentError(f"values of shape {values.shape} do not fit an experiment of {self.observations.outputs} "
                                  "outputs: one column each")
        return values

    # ---- what may be measured ---------------------------------------------------------------------------------

    def available(self, setting: int = 0) -> np.ndarray:
        """(candidates,) bool: allowed, not measured in this way, not asked for now, not failed too often, and within the
        dose that a position may receive."""
        rows, limit = self.observations, self.parameters.position_dose_limit
        free = allowed_by(self.regions, self._allowed, self.field)
        free[self._reserved()] = False
        free[self._barred] = False
        free[self._pending] = False
        alike = self.actions.alike(setting)[rows.settings]
        free[rows.candidates[rows.valid & alike]] = False
        failures = np.bincount(rows.candidates[~rows.valid & alike], minlength=len(free))
        free &= failures <= self.parameters.failure_retries
        if limit > 0:
            visited = np.bincount(rows.candidates, rows.doses, minlength=len(free))
            free &= self.survey_dose + visited + self._visit_dose(setting) <= limit * (1 + 1e-9)
        return free

    def _visit_dose(self, setting: int) -> float:
        """[electrons] that a visit will cost, from those that were; 0 before the first."""
        rows = self.observations
        if not len(rows):
            return 0.0
        doses = np.array([self.actions.relative_dose(int(s)) for s in rows.settings])
        return float(np.median(rows.doses / doses)) * self.actions.relative_dose(setting)

    def _reserved(self) -> np.ndarray:
        """Candidates that are kept to judge the map by, and never measured: the same for the same seed."""
        count = int(self.parameters.reserved_fraction * len(self._allowed))
        return np.random.Generator(np.random.PCG64([self.seed, 2])).permutation(len(self._allowed))[:count]

    def set_region(self, region: Region) -> None:
        """Add a region, or replace the one of its name."""
        self.regions = (*(r for r in self.regions if r.name != region.name), region)
        self._visits = (*(name for name in self._visits if name != region.name),
                        *([region.name] if region.kind == ADD else []))

    def remove_region(self, name: str) -> None:
        """Forget a region; nothing where there is none of the name."""
        self.regions = tuple(r for r in self.regions if r.name != name)
        self._visits = tuple(n for n in self._visits if n != name)

    def reject(self) -> np.ndarray:
        """Forget the batch that was asked for; its positions, which are returned, are never proposed again."""
        rejected, self._pending = self._pending, np.zeros(0, np.int64)
        self._visit_again()
        self._barred = np.union1d(self._barred, rejected).astype(np.int64)
        return rejected

    def withdraw(self) -> None:
        """Forget the batch that was asked for; its positions may be proposed again."""
        self._pending = np.zeros(0, np.int64)
        self._expected[:] = np.nan
        self._visit_again()

    def _visit_again(self) -> None:
        """The region of a batch that was not measured is still to be looked at."""
        if self._visiting in [region.name for region in self.regions]:
            self._visits = (self._visiting, *(name for name in self._visits if name != self._visiting))
        self._visiting = ""


def _known(values: np.ndarray) -> np.ndarray:
    """Values, NaN where they are not finite or beyond LARGEST_VALUE."""
    return np.where(np.abs(values) <= LARGEST_VALUE, values, np.nan)


def _bounded(errors: np.ndarray) -> np.ndarray:
    """Standard errors, no finite one larger than LARGEST_VALUE."""
    return np.where(np.isfinite(errors), np.minimum(errors, LARGEST_VALUE), errors)
