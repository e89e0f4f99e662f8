"""The autonomous experiment as ask and tell: no clock, no graph, no file. One seed, one sequence of decisions.

    experiment = ActiveExperiment(survey, field, parameters, seed=0)
    while not experiment.stop_reason(spent):
        proposal = experiment.ask()
        experiment.tell(proposal.candidates, values, standard_errors)
    mean, standard_deviation = experiment.predict()
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, replace
from typing import TYPE_CHECKING

import numpy as np

from edgetem_nodes.physics.scan import ScanField
from edgetem_nodes.planner import checkpoint, stopping
from edgetem_nodes.planner.actions import ActionSpace, short_tour
from edgetem_nodes.planner.checkpoint import ExperimentError
from edgetem_nodes.planner.discovery import verdict
from edgetem_nodes.planner.initial_design import best_candidate_design
from edgetem_nodes.planner.observations import LARGEST_VALUE, Observations
from edgetem_nodes.planner.parameters import Parameters
from edgetem_nodes.planner.patches import grid_coordinates, patch_components
from edgetem_nodes.planner.proposal import Proposal
from edgetem_nodes.planner.regions import ADD, Region, allowed_by

if TYPE_CHECKING:
    from edgetem_nodes.planner.belief import Belief
    from edgetem_nodes.planner.surrogates import Surrogate


class ActiveExperiment:
    """Ask/tell core of the planner.

    Parameters
    ----------
    survey : (channels, rows, columns) [counts], one pixel a candidate position.
    field : grid of candidate positions.
    parameters : the planner's.
    seed : of everything random; replaces `parameters.seed`.
    allowed : (rows, columns) bool, where the probe may go; everywhere by default.
    survey_dose : [electrons] that the survey gave to each position.
    descriptors : (descriptors, rows, columns) known at every position, as from a coarse scan; further inputs of the model.

    Raises
    ------
    ExperimentError : survey of another shape than the field, not finite, or nothing is allowed.
    ValueError : a patch that does not fit the survey, an unknown model, too many settings.
    """

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
        self._components = patch_components(survey, model.patch_size, model.patch_components)
        if not model.use_survey:
            self._components = self._components[:, :0]
        elif not model.use_position and not self._descriptors.shape[1] and not np.ptp(self._components) > 0:
            raise ExperimentError("the survey has no contrast and the position is not used: nothing tells one place from "
                                  "another; set model.use_position")
        self.observations = Observations.none(1 + len(parameters.outputs))
        self.regions: tuple[Region, ...] = ()
        self._visits: tuple[str, ...] = ()
        self._barred = np.zeros(0, np.int64)
        self._batch, self._setting = 0, 0
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
        """SHA-256 (32 byte) of survey, positions, values and standard errors, rows in the order told; NaN for failures."""
        digest = hashlib.sha256(np.array(self.survey.shape, "<u8").tobytes())
        digest.update(np.ascontiguousarray(self.survey + 0.0, "<f8").tobytes())
        self.observations.update_hash(digest, self.field.positions(self.observations.candidates))
        return digest.digest()

    def generator_state(self) -> str:
        """JSON of the random generator's state now."""
        return json.dumps(self._generator.bit_generator.state)

    def tell(self, positions: np.ndarray, values: np.ndarray, standard_errors: np.ndarray, valid: np.ndarray | None = None,
             setting: int = 0, doses: np.ndarray | float = 0.0) -> None:
        """Add measurements, in the order that decisions are to see them: sorted by (acquisition, index).

        Parameters
        ----------
        positions : (rows, 2) (y, x) [m], or (rows,) grid indices as in `Proposal.candidates`.
        values, standard_errors : (rows,) or (rows, outputs) [scalar].
        valid : (rows,) bool, False for a marked failure. A row whose first value is not finite, or beyond LARGEST_VALUE,
            is one, too.
        setting : index of the setting they were measured with, as in `Proposal.setting_index`.
        doses : [electrons] that each cost.

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
        valid = valid & np.isfinite(values[:, 0])
        whole = np.ones(len(candidates), np.int64)
        self.observations = self.observations.with_rows(
            candidates=candidates, settings=setting * whole, batches=self._batch * whole,
            values=np.where(valid[:, None], values, np.nan), standard_errors=np.where(valid[:, None], errors, np.nan),
            valid=valid, doses=np.broadcast_to(doses, candidates.shape),
            predicted=self._expected[candidates, 0], predicted_deviations=self._expected[candidates, 1])
        self._pending = self._pending[~np.isin(self._pending, candidates)]
        self._batch, self._setting = self._batch + 1, setting
        self._expected[:] = np.nan
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
        unknown = np.full(len(values), np.nan)
        self.observations = replace(self.observations, values=np.where(valid[:, None], values, np.nan), valid=valid,
                                    standard_errors=np.where(valid[:, None], errors, np.nan), predicted=unknown,
                                    predicted_deviations=unknown)
        self._expected[:] = np.nan
        self._learned = None
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
        self._barred = np.union1d(self._barred, rejected).astype(np.int64)
        return rejected

    def withdraw(self) -> None:
        """Forget the batch that was asked for; its positions may be proposed again."""
        self._pending = np.zeros(0, np.int64)
        self._expected[:] = np.nan

    # ---- what to do next --------------------------------------------------------------------------------------

    def stop_reason(self, spent: stopping.Spent, budget: stopping.Budget | None = None) -> str:
        """Why the experiment ends now (a constant of `stopping`); empty while it goes on."""
        budget = budget or self.budget()
        left = max(int(self.available(setting).sum()) for setting in range(len(self.actions)))
        return stopping.stop_reason(budget, spent, self._evidence(budget), left)

    def budget(self) -> stopping.Budget:
        """The configured budget and targets."""
        p = self.parameters
        return stopping.Budget(p.point_budget, p.dose_budget, p.time_budget_s, p.target_standard_deviation,
                               p.predictability_target, p.convergence_target, p.convergence_batches, p.stop_when == "all")

    def _evidence(self, budget: stopping.Budget) -> stopping.Evidence:
        """What is known of the targets that are set; the rest is not worked out."""
        deviation = float("nan")
        if budget.target_standard_deviation > 0 and self.observations.valid.any():
            deviation = float(self.predict()[1].max())
        changes = self._changes
        if budget.convergence > 0 and self._has_news:
            changes = (*changes, self._map_change())
        return stopping.Evidence(deviation, self.predictability, changes)

    @property
    def _has_news(self) -> bool:
        """Whether anything valid was measured since the last map: a batch that was rejected changes none."""
        return int(self.observations.valid.sum()) > self._mapped

    def _map_change(self) -> float:
        """Root-mean-square change of the map by the latest batch, over its standard deviation; infinite at first."""
        mean = self.predict()[0].ravel()
        spread = float(mean.std())
        if np.isnan(self._last_map).any():
            return float("inf")
        change = float(np.sqrt(np.mean(np.square(mean - self._last_map))))
        return change / spread if spread > 0 else 0.0 if change == 0 else float("inf")

    def ask(self, count: int | None = None) -> Proposal:
        """Choose the next positions.

        Parameters
        ----------
        count : how many at most; by default the initial scan's number, then the batch's, within the point budget.

        Raises
        ------
        ExperimentError : nothing is left to choose, no measurement so far is valid, or less than one is asked for.
        """
        parameters, before = self.parameters, self.generator_state()
        if count is None:
            count = parameters.batch_points if self.points else parameters.initial_points
            count = min(count, max(1, parameters.point_budget - self.points))
        if count < 1:
            raise ExperimentError(f"a batch of {count} positions cannot be chosen: ask for at least one")
        free = [self.available(setting) for setting in range(len(self.actions))]
        if not any(each.any() for each in free):
            raise ExperimentError("no position is left: every one is measured, failed or forbidden")
        region = self._region_to_visit(free)
        if self.points == 0 and not region:
            proposal = self._initial(count, free[0], before)
        else:
            proposal = self._choose(count, free, region, before)
        self._visits = tuple(name for name in self._visits if name != region)
        self._pending = np.concatenate([self._pending, proposal.candidates])
        self._expected[proposal.candidates] = np.stack([proposal.predicted, proposal.predicted_deviations], axis=1)
        return proposal

    def _initial(self, count: int, free: np.ndarray, before: str) -> Proposal:
        over = self._coordinates
        if self.parameters.initial_design == "survey":
            over = np.concatenate([self._components, over], axis=1)
        chosen = best_candidate_design(over, free, count, self._generator)
        unknown = np.full(len(chosen), np.nan)
        return Proposal(chosen, self.field.positions(chosen), "", np.zeros(len(chosen)),
                        f"sparse initial scan: {len(chosen)} positions that keep their distance", "", before, None,
                        setting=self.actions.settings[0], predicted=unknown, predicted_deviations=unknown)

    def _region_to_visit(self, free: list[np.ndarray]) -> str:
        """The first added region that is still to be looked at and has something left; `free` is confined to it."""
        if not self.points:
            return ""
        for name in self._visits:
            inside = next(r for r in self.regions if r.name == name).contains(self.field.positions())
            if any((each & inside).any() for each in free):
                for each in free:
                    each &= inside
                return name
        return ""

    def _choose(self, count: int, free: list[np.ndarray], region: str, before: str) -> Proposal:
        from edgetem_nodes.planner.choosing import Situation, choose

        belief = self._belief()
        situation = Situation(self.parameters, self.actions, self.field, self.observations,
                              allowed_by(self.regions, self._allowed, self.field), free, self._setting, region,
                              self._coordinates)
        choice = choose(belief, situation, count, self._generator)
        if self._has_news:
            self._changes = (*self._changes, self._map_change())[-1000:]
            self._last_map, self._mapped = self.predict()[0].ravel(), int(self.observations.valid.sum())
        batch, reference = choice.batch, belief.posterior()
        chosen = batch.candidates
        if self.parameters.actions.travel_ms_per_um:
            order = short_tour(self.field.positions(chosen), self._last_position())
            batch = replace(batch, candidates=chosen[order], values=batch.values[order])
            chosen = batch.candidates
        reason = choice.reason
        if belief.trained.training_failure:
            reason += f"; the model keeps its prior hyperparameters ({belief.trained.training_failure})"
        predicted = choice.posterior if self.actions.features.shape[1] else reference
        return Proposal(chosen, self.field.positions(chosen), "+".join(dict.fromkeys(batch.functions)), batch.values, reason,
                        belief.trained.description, before, batch.acquisition.reshape(self.field.shape), choice.setting,
                        self.actions.settings[choice.setting], predicted.mean[chosen], predicted.standard_deviation[chosen],
                        choice.watchdogs)

    def _last_position(self) -> np.ndarray:
        return self.field.positions(self.observations.candidates[-1:])[0]

    # ---- what is believed -------------------------------------------------------------------------------------

    @property
    def predictability(self) -> float:
        """Prequential R² of what was predicted before it was measured; NaN while too little is known."""
        from edgetem_nodes.planner.belief import prequential_r_squared

        return prequential_r_squared(self.observations)

    def discovery(self) -> str:
        """The verdict on what was looked for, for people; empty where nothing was said beforehand."""
        rows = self.observations.only_valid()
        return verdict(self.parameters.discovery, rows.values[:, 0], rows.standard_errors[:, 0])

    def predict(self, output: int = 0, setting: int = 0) -> tuple[np.ndarray, np.ndarray]:
        """Mean and standard deviation of a latent scalar over the field, two (rows, columns) arrays [scalar].

        Does not change what `ask` will choose.
        """
        posterior = self._belief().posterior(setting, output)
        return posterior.mean.reshape(self.field.shape), posterior.standard_deviation.reshape(self.field.shape)

    @property
    def unexplained_variance(self) -> float:
        """Of a measurement beside its own standard error, as the model learned it [scalar squared]."""
        return self._belief().posterior().learned_noise_variance

    def model_description(self) -> str:
        """JSON of the present model; empty where nothing valid was measured."""
        return self._belief().trained.description if self.observations.valid.any() else ""

    def most_telling(self, separation: float = 0.05) -> np.ndarray:
        """Measured candidates by predicted value, largest first: where a closer look pays.

        Parameters
        ----------
        separation : none is closer to a larger one than this, as a fraction of the field's longer side.

        Returns
        -------
        (count,) int64 candidates; empty where nothing valid was measured.
        """
        measured = np.unique(self.measured)
        if not len(measured):
            return measured
        kept: list[int] = []
        for candidate in measured[np.argsort(-self._belief().posterior().mean[measured], kind="stable")]:
            distances = np.square(self._coordinates[kept] - self._coordinates[candidate]).sum(axis=1)
            if not kept or distances.min() >= separation**2:
                kept.append(int(candidate))
        return np.array(kept, np.int64)

    def _model_seed(self) -> int:
        """Of the model's initial weights: of the experiment's seed and the number of rows alone, so that neither a look at
        the map, nor a batch that was rejected, nor a restart gives another model of the same measurements."""
        return int(np.random.Generator(np.random.PCG64([self.seed, 3, len(self.observations)])).integers(2**62))

    def _belief(self) -> Belief:
        """What the experiment believes now, learned once for every state of its measurements."""
        if self._learned is None:
            if not self.observations.valid.any():
                raise ExperimentError(f"none of the {len(self.observations)} measurements so far is valid: look at the "
                                      "failures that the featurizer marked")
            # Torch is imported late: configuration, checks and the bring-up of other nodes do without.
            from edgetem_nodes.planner.belief import believe

            self._learned = believe(self._make_surrogate(), self.observations.only_valid(), self._model_seed())
        return self._learned

    def _make_surrogate(self) -> Surrogate:
        from edgetem_nodes.planner.surrogates import Inputs, Surrogate, SurrogateSettings

        if self._surrogate is None:
            model = asdict(self.parameters.model)
            settings = SurrogateSettings(**{name: model[name] for name in SurrogateSettings.__dataclass_fields__})
            placed = self._coordinates if settings.use_position or not settings.use_survey else None
            self._surrogate = Surrogate(Inputs(self._components, placed, self.actions.features, self._descriptors), settings)
        return self._surrogate

    # ---- checkpoint -------------------------------------------------------------------------------------------

    def progress(self) -> dict[str, object]:
        """What a checkpoint keeps as JSON, besides what others can see."""
        return {"visits": list(self._visits), "batch": self._batch, "setting": self._setting, "mapped": self._mapped}

    def arrays(self) -> dict[str, np.ndarray]:
        """What a checkpoint keeps as arrays, besides survey and observations."""
        return {"allowed": self._allowed.reshape(self.field.shape), "pending": self._pending, "barred": self._barred,
                "expected": self._expected.copy(), "last_map": self._last_map, "changes": np.array(self._changes, np.float64),
                "descriptors": self._descriptors}

    def restore(self, progress: dict, arrays: dict[str, np.ndarray]) -> None:
        """Go on from `progress` and `arrays`; the generator's state is in the first as "generator"."""
        self._generator.bit_generator.state = progress["generator"]
        self._visits, self._batch, self._setting = tuple(progress["visits"]), progress["batch"], progress["setting"]
        self._mapped = progress["mapped"]
        self._pending, self._barred = (np.asarray(arrays[name], np.int64) for name in ("pending", "barred"))
        self._expected, self._last_map = (np.array(arrays[name], np.float64) for name in ("expected", "last_map"))
        self._changes = tuple(float(change) for change in arrays["changes"])

    def state_dict(self) -> dict[str, np.ndarray]:
        """All that a restart needs, as arrays (one of them holds JSON); `np.savez` writes it without pickle."""
        return checkpoint.state_of(self)

    @classmethod
    def load_state(cls, state: dict[str, np.ndarray], parameters: Parameters | None = None) -> ActiveExperiment:
        """The experiment that `state_dict` described; it decides from there on as if it had never stopped.

        Parameters
        ----------
        parameters : the present ones; they may differ from the saved ones in budgets and time-outs alone. The saved ones
            where not given.

        Raises
        ------
        ExperimentError : something is missing or wrong, or the parameters differ in what decisions depend on.
        """
        return checkpoint.experiment_of(cls, state, parameters)


def _known(values: np.ndarray) -> np.ndarray:
    """Values, NaN where they are not finite or beyond LARGEST_VALUE."""
    return np.where(np.abs(values) <= LARGEST_VALUE, values, np.nan)


def _bounded(errors: np.ndarray) -> np.ndarray:
    """Standard errors, no finite one larger than LARGEST_VALUE."""
    return np.where(np.isfinite(errors), np.minimum(errors, LARGEST_VALUE), errors)
