"""The autonomous experiment as ask and tell: no clock, no graph, no file. One seed, one sequence of decisions.

    experiment = ActiveExperiment(survey, field, parameters, seed=0)
    while not experiment.stop_reason(spent):
        proposal = experiment.ask()
        experiment.tell(proposal.candidates, values, standard_errors, valid)
    mean, standard_deviation = experiment.predict()
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass

import numpy as np

from edgetem_nodes.physics.scan import ScanField
from edgetem_nodes.planner import stopping
from edgetem_nodes.planner.acquisition import BatchChooser, batch_functions
from edgetem_nodes.planner.initial_design import best_candidate_design
from edgetem_nodes.planner.parameters import Parameters
from edgetem_nodes.planner.patches import grid_coordinates, patch_components

STATE_VERSION = 1
BUDGET_KEYS = ("output", "point_budget", "dose_budget", "time_budget_s", "target_standard_deviation",
               "measurement_timeout_s", "energetics")
"""Parameters that may differ between a checkpoint and the experiment that goes on from it."""


class ExperimentError(ValueError):
    """An experiment that cannot go on; the message says why and what to do."""


@dataclass(frozen=True)
class Proposal:
    """What to measure next, and all that is needed to say why and to repeat the choice."""

    candidates: np.ndarray
    """(count,) int64 grid indices, row * columns + column, no two alike."""
    positions: np.ndarray
    """(count, 2) (y, x) [m]."""
    acquisition_function: str
    """Name; two joined by "+" where a share explores; empty for the initial scan."""
    values: np.ndarray
    """(count,) acquisition value of each when it was chosen."""
    reason: str
    model: str
    """JSON: surrogate and its hyperparameters; empty for the initial scan."""
    generator_state: str
    """JSON of the random generator's state before the choice."""
    acquisition: np.ndarray | None
    """(rows, columns) map of the acquisition function; NaN where measured or forbidden. None for the initial scan."""


class ActiveExperiment:
    """Ask/tell core of the planner.

    Parameters
    ----------
    survey : (channels, rows, columns) [counts], one pixel a candidate position.
    field : grid of candidate positions.
    parameters : the planner's.
    seed : of everything random; replaces `parameters.seed`.
    allowed : (rows, columns) bool, where the probe may go; everywhere by default.

    Raises
    ------
    ExperimentError : survey of another shape than the field, not finite, or nothing is allowed.
    ValueError : a patch that does not fit the survey, an unknown model.
    """

    def __init__(self, survey: np.ndarray, field: ScanField, parameters: Parameters, seed: int,
                 allowed: np.ndarray | None = None) -> None:
        survey = np.array(survey, np.float64)
        if survey.ndim != 3 or survey.shape[0] < 1 or survey.shape[1:] != tuple(field.shape):
            raise ExperimentError(f"a survey of shape {survey.shape} does not fit a field of {field.shape[0]} x "
                                  f"{field.shape[1]} positions; it must be (channels, rows, columns)")
        if not np.isfinite(survey).all():
            raise ExperimentError(f"{int((~np.isfinite(survey)).sum())} of {survey.size} survey values are not finite: "
                                  "repair the survey before the experiment")
        allowed = np.ones(field.shape, bool) if allowed is None else np.array(allowed, bool)
        if allowed.shape != tuple(field.shape) or not allowed.any():
            raise ExperimentError(f"the mask of allowed positions, shape {allowed.shape}, must fit the field of "
                                  f"{field.shape[0]} x {field.shape[1]} and allow at least one position")
        self.survey, self.field, self.parameters, self.seed = survey, field, parameters, int(seed)
        self._generator = np.random.Generator(np.random.PCG64(self.seed))
        self._allowed = allowed.ravel()
        self._coordinates = grid_coordinates(field.shape, field.step)
        model = parameters.model
        self._components = patch_components(survey, model.patch_size, model.patch_components)
        self._candidates, self._valid = np.zeros(0, np.int64), np.zeros(0, bool)
        self._values, self._standard_errors = np.zeros(0), np.zeros(0)
        self._pending = np.zeros(0, np.int64)
        self._surrogate = self._trained = None

    # ---- what was measured ------------------------------------------------------------------------------------

    @property
    def points(self) -> int:
        """Positions visited so far, failures counted."""
        return len(self._candidates)

    @property
    def measured(self) -> np.ndarray:
        """(valid measurements,) int64 candidate of each, in the order told."""
        return self._candidates[self._valid]

    @property
    def values(self) -> np.ndarray:
        """(valid measurements,) [scalar]."""
        return self._values[self._valid]

    @property
    def best_value(self) -> float:
        """Largest measured scalar; NaN without a measurement."""
        return float(self.values.max()) if self._valid.any() else float("nan")

    @property
    def input_rows(self) -> int:
        """Measurements that the next decision rests on, marked failures counted."""
        return len(self._candidates)

    def input_hash(self) -> bytes:
        """SHA-256 (32 byte) of survey, positions, values and standard errors, rows in the order told; NaN for failures."""
        digest = hashlib.sha256(np.array(self.survey.shape, "<u8").tobytes())
        for array in (self.survey, self.field.positions(self._candidates), self._values, self._standard_errors):
            # Adding zero makes -0.0 and 0.0 alike, and one NaN stands for all.
            array = np.where(np.isnan(array), np.nan, array + 0.0)
            digest.update(np.ascontiguousarray(array, "<f8").tobytes())
        return digest.digest()

    def generator_state(self) -> str:
        """JSON of the random generator's state now."""
        return json.dumps(self._generator.bit_generator.state)

    def tell(self, candidates: np.ndarray, values: np.ndarray, standard_errors: np.ndarray,
             valid: np.ndarray | None = None) -> None:
        """Add measurements, in the order that decisions are to see them: sorted by (acquisition, index).

        Parameters
        ----------
        candidates : (rows,) grid indices.
        values, standard_errors : (rows,) [scalar].
        valid : (rows,) bool, False for a marked failure. A value that is not finite is one, too.

        Raises
        ------
        ExperimentError : lengths differ, or a candidate is outside the field.
        """
        candidates = np.array(candidates, np.int64).ravel()
        values, errors = np.array(values, np.float64).ravel(), np.array(standard_errors, np.float64).ravel()
        valid = np.ones(len(candidates), bool) if valid is None else np.array(valid, bool).ravel()
        if not len(candidates) == len(values) == len(errors) == len(valid):
            raise ExperimentError(f"{len(candidates)} candidates, {len(values)} values, {len(errors)} standard errors and "
                                  f"{len(valid)} marks do not belong together: one of each a measurement")
        outside = (candidates < 0) | (candidates >= len(self._allowed))
        if outside.any():
            raise ExperimentError(f"candidate {candidates[outside][0]} is outside the field of {len(self._allowed)} "
                                  "positions")
        valid = valid & np.isfinite(values)
        self._candidates = np.concatenate([self._candidates, candidates])
        self._values = np.concatenate([self._values, np.where(valid, values, np.nan)])
        self._standard_errors = np.concatenate([self._standard_errors, np.where(valid, errors, np.nan)])
        self._valid = np.concatenate([self._valid, valid])
        self._pending = self._pending[~np.isin(self._pending, candidates)]
        self._trained = None

    def available(self) -> np.ndarray:
        """(candidates,) bool: allowed, not measured, not asked for now, and not failed too often."""
        free = self._allowed.copy()
        free[self.measured] = False
        free[self._pending] = False
        failures = np.bincount(self._candidates[~self._valid], minlength=len(free))
        return free & (failures <= self.parameters.failure_retries)

    # ---- what to do next --------------------------------------------------------------------------------------

    def stop_reason(self, spent: stopping.Spent, budget: stopping.Budget | None = None) -> str:
        """Why the experiment ends now (a constant of `stopping`); empty while it goes on."""
        budget = budget or self.budget()
        deviation = float("nan")
        if budget.target_standard_deviation > 0 and self._valid.any():
            deviation = float(self.predict()[1].max())
        return stopping.stop_reason(budget, spent, deviation, int(self.available().sum()))

    def budget(self) -> stopping.Budget:
        """The configured budget."""
        p = self.parameters
        return stopping.Budget(p.point_budget, p.dose_budget, p.time_budget_s, p.target_standard_deviation)

    def ask(self, count: int | None = None) -> Proposal:
        """Choose the next positions.

        Parameters
        ----------
        count : how many at most; by default the initial scan's number, then the batch's, within the point budget.

        Raises
        ------
        ExperimentError : nothing is left to choose, or no measurement so far is valid.
        """
        parameters, before = self.parameters, self.generator_state()
        if count is None:
            count = parameters.batch_points if self.points else parameters.initial_points
            count = min(count, max(1, parameters.point_budget - self.points))
        free = self.available()
        if not free.any():
            raise ExperimentError("no position is left: every one is measured, failed or forbidden")
        if self.points == 0:
            chosen = best_candidate_design(self._coordinates, free, count, self._generator)
            proposal = Proposal(chosen, self.field.positions(chosen), "", np.zeros(len(chosen)),
                                f"sparse initial scan: {len(chosen)} positions that keep their distance", "", before, None)
        else:
            proposal = self._choose(count, free, before)
        self._pending = np.concatenate([self._pending, proposal.candidates])
        return proposal

    def _choose(self, count: int, free: np.ndarray, before: str) -> Proposal:
        parameters, trained = self.parameters, self._model()
        self._model_seed(self._generator)
        posterior = trained.posterior
        best, of_what = self._incumbent(posterior.mean)
        functions = batch_functions(parameters.acquisition_function, count, parameters.exploration,
                                    parameters.exploration_fraction)
        batch = BatchChooser(posterior, free, best, parameters.confidence, self._generator).choose(functions)
        used = list(dict.fromkeys(batch.functions))
        shares = " and ".join(f"{batch.functions.count(name)} by {name}" for name in used)
        reason = f"{shares}, from {len(self.values)} measurements; {of_what} {best:.6g}"
        if trained.training_failure:
            reason += f"; the model keeps its prior hyperparameters ({trained.training_failure})"
        return Proposal(batch.candidates, self.field.positions(batch.candidates), "+".join(used), batch.values, reason,
                        trained.description, before, batch.acquisition.reshape(self.field.shape))

    def _incumbent(self, mean: np.ndarray) -> tuple[float, str]:
        """The level that expected improvement is over [scalar], and what it is."""
        fraction = self.parameters.target_fraction
        if fraction > 0:
            # A set of positions is sought, not the one best: improvement counts from the level that the set exceeds.
            level = float(np.quantile(mean[self._allowed], 1.0 - fraction))
            return level, f"level of the highest {fraction:.3g} of the field"
        # Plug-in incumbent for noisy values: the best prediction at a measured position, not the luckiest reading.
        # Picheny, Wagner and Ginsbourger, Struct. Multidiscip. Optim. 48, 607 (2013), section 3.1.
        return float(mean[self.measured].max()), "best prediction"

    def predict(self) -> tuple[np.ndarray, np.ndarray]:
        """Mean and standard deviation of the latent scalar over the field, two (rows, columns) arrays [scalar].

        Does not change what `ask` will choose.
        """
        posterior = self._model().posterior
        return posterior.mean.reshape(self.field.shape), posterior.standard_deviation.reshape(self.field.shape)

    def model_description(self) -> str:
        """JSON of the present model; empty where nothing valid was measured."""
        return self._model().description if self._valid.any() else ""

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
        for candidate in measured[np.argsort(-self._model().posterior.mean[measured], kind="stable")]:
            distances = np.square(self._coordinates[kept] - self._coordinates[candidate]).sum(axis=1)
            if not kept or distances.min() >= separation**2:
                kept.append(int(candidate))
        return np.array(kept, np.int64)

    @staticmethod
    def _model_seed(generator: np.random.Generator) -> int:
        return int(generator.integers(2**62))

    def _model(self):  # noqa: ANN202  (the class is imported only when it is needed)
        if self._trained is None:
            if not self._valid.any():
                raise ExperimentError(f"none of the {len(self._candidates)} measurements so far is valid: look at the "
                                      "failures that the featurizer marked")
            # Torch is imported late: configuration, checks and the bring-up of other nodes do without.
            from edgetem_nodes.planner.surrogates import Surrogate, SurrogateSettings
            if self._surrogate is None:
                model = asdict(self.parameters.model)
                settings = SurrogateSettings(**{name: model[name] for name in SurrogateSettings.__dataclass_fields__})
                self._surrogate = Surrogate(self._components, self._coordinates, settings)
            twin = np.random.Generator(np.random.PCG64())
            twin.bit_generator.state = self._generator.bit_generator.state
            self._trained = self._surrogate.learn(self.measured, self.values, self._standard_errors[self._valid],
                                                  self._model_seed(twin))
        return self._trained

    # ---- checkpoint -------------------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, np.ndarray]:
        """All that a restart needs, as arrays (one of them holds JSON); `np.savez` writes it without pickle."""
        record = {"version": STATE_VERSION, "seed": self.seed, "generator": self._generator.bit_generator.state,
                  "parameters": asdict(self.parameters), "origin": list(self.field.origin), "step": list(self.field.step)}
        return {"experiment": np.array(json.dumps(record)), "survey": self.survey,
                "allowed": self._allowed.reshape(self.field.shape), "candidates": self._candidates, "values": self._values,
                "standard_errors": self._standard_errors, "valid": self._valid, "pending": self._pending}

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
        try:
            record = json.loads(str(state["experiment"]))
            if record["version"] != STATE_VERSION:
                raise ExperimentError(f"the checkpoint has version {record['version']}; this program reads {STATE_VERSION}")
            saved = record["parameters"]
            if parameters is None:
                parameters = _parameters(saved)
            now = asdict(parameters)
            differing = [key for key in now if key not in (*BUDGET_KEYS, "seed") and now[key] != saved.get(key)]
            if differing:
                key = differing[0]
                raise ExperimentError(f"the checkpoint was made with {key} = {saved.get(key)!r}, the configuration says "
                                      f"{now[key]!r}: resume with the same, only budgets and time-outs may change")
            survey = np.asarray(state["survey"], np.float64)
            field = ScanField(tuple(record["origin"]), tuple(record["step"]), tuple(int(n) for n in survey.shape[1:]))
            experiment = cls(survey, field, parameters, record["seed"], state["allowed"])
            experiment._generator.bit_generator.state = record["generator"]
            experiment.tell(state["candidates"], state["values"], state["standard_errors"], state["valid"])
            experiment._pending = np.asarray(state["pending"], np.int64)
        except (KeyError, TypeError, AttributeError, json.JSONDecodeError) as error:
            raise ExperimentError(f"the checkpoint is incomplete or damaged: {type(error).__name__} {error}") from None
        return experiment


def _parameters(saved: dict) -> Parameters:
    from edgetem_nodes.planner.parameters import Energetics, Model
    return Parameters(**{**saved, "model": Model(**saved["model"]), "energetics": Energetics(**saved["energetics"])})
