"""The autonomous experiment as ask and tell: no clock, no graph, no file. One seed, one sequence of decisions.

    experiment = ActiveExperiment(survey, field, parameters, seed=0)
    while not experiment.stop_reason(spent):
        proposal = experiment.ask()
        experiment.tell(proposal.candidates, values, standard_errors)
    mean, standard_deviation = experiment.predict()
"""

from __future__ import annotations

from dataclasses import asdict, replace
from typing import TYPE_CHECKING

import numpy as np

from edgetem_nodes.planner import checkpoint, sights, stopping
from edgetem_nodes.planner.actions import short_tour
from edgetem_nodes.planner.discovery import verdict
from edgetem_nodes.planner.initial_design import best_candidate_design
from edgetem_nodes.planner.measured_field import MeasuredField
from edgetem_nodes.planner.observations import ExperimentError
from edgetem_nodes.planner.parameters import Parameters
from edgetem_nodes.planner.proposal import Proposal
from edgetem_nodes.planner.regions import allowed_by

if TYPE_CHECKING:
    from edgetem_nodes.planner.averaging import AveragedMap
    from edgetem_nodes.planner.belief import Belief
    from edgetem_nodes.planner.seen_map import NextReadings, SeenMap
    from edgetem_nodes.planner.surrogates import Surrogate
    from edgetem_nodes.planner.surrogates.posterior import Posterior

CONFIRMED = 2
"""Batches, the initial scan counted, before an uncertainty target of an energy map can be met."""


class ActiveExperiment(MeasuredField):
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
            # What the operator forbade cannot become certain, and is not asked to.
            within = allowed_by(self.regions, self._allowed, self.field)
            # A sparse initial scan of noisy energies can look like a flat map: a batch must have followed that was predicted.
            known = not self.parameters.energetics.mapped or self._batch >= CONFIRMED
            known = known and (self.levels == 1 or self._belief().correction is not None)
            known = known and sights.costs_known(self._known_sights())  # else the map leaves out defects that were seen
            deviation = float("nan") if not known else float(self.predict()[1].ravel()[within].max()) if within.any() else 0.0
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
        self._visits, self._visiting = tuple(name for name in self._visits if name != region), region
        self._pending = np.concatenate([self._pending, proposal.candidates])
        # What the model itself expected: whether it was right must not depend on how far it was widened.
        widened = np.sqrt(self._learned.inflation) if self._learned is not None else 1.0
        self._expected[proposal.candidates] = np.stack([proposal.predicted, proposal.predicted_deviations / widened], axis=1)
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
                              self._coordinates, self._next_readings())
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
                        belief.description, before, batch.acquisition.reshape(self.field.shape), choice.setting,
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
        if self._retold and self.parameters.discovery.confidence > 0:
            return "no verdict: the scalar was changed after the level of a discovery had been stated"
        rows = self.observations.only_valid()
        alike = self.actions.alike(0)[rows.settings]
        return verdict(self.parameters.discovery, rows.candidates[alike], rows.values[alike, 0], rows.standard_errors[alike, 0])

    def predict(self, output: int = 0, setting: int = 0) -> tuple[np.ndarray, np.ndarray]:
        """Mean and standard deviation of a latent scalar over the field, two (rows, columns) arrays [scalar].

        Output 0 is what is mapped: at the better of two levels, once one of its energies is known, and averaged over a disc,
        as the specimen really is, where the parameters say so. Does not change what `ask` will choose.
        """
        posterior = self._belief().posterior(setting, output) if output else self._mapped_posterior(setting)
        return posterior.mean.reshape(self.field.shape), posterior.standard_deviation.reshape(self.field.shape)

    def predict_low(self) -> tuple[np.ndarray, np.ndarray]:
        """The same of what readings are of, not averaged: of two levels of energies the low one."""
        posterior = self._belief().posterior()
        return posterior.mean.reshape(self.field.shape), posterior.standard_deviation.reshape(self.field.shape)

    def predict_measurement(self) -> tuple[np.ndarray, np.ndarray]:
        """Mean and standard deviation of what one more measurement would read with the first setting, (rows, columns) each.

        To the latent scalar's uncertainty comes what the model could not explain, and counting statistics as they were at
        the most similar positions: nothing of the reading itself.
        """
        mean, deviation = self.predict_low()
        rows, errors = self.observations.only_valid(), self._belief().errors
        errors = errors * np.sqrt([self.actions.relative_dose(int(setting)) for setting in rows.settings])
        known = np.isfinite(errors) & (errors > 0)
        counting = self._make_surrogate().counting_variance(np.arange(mean.size), rows.candidates[known], errors[known])
        return mean, np.sqrt(np.square(deviation) + self.unexplained_variance + counting.reshape(mean.shape))

    def _mapped_posterior(self, setting: int) -> Posterior | AveragedMap:
        """What `predict` says, worked out once for every belief."""
        belief = self._belief()
        if setting not in belief.cache:
            averages = self.parameters.energetics.averaging_nm
            belief.cache[setting] = self._averaged(belief) if averages else belief.mapped(setting)
        return belief.cache[setting]

    def _averaged(self, belief: Belief) -> Posterior | AveragedMap:
        """The map averaged over discs of the specimen as it is."""
        from edgetem_nodes.planner.averaging import averaged

        seen = self._seen_map()
        if seen is None:
            return averaged(belief.mapped(), self.field, self.parameters.energetics.averaging_nm * 1e-9)
        return belief.corrected(seen.discs_averaged())

    def _seen_map(self) -> SeenMap | None:
        """What was seen of an averaged map and what is expected of the rest; None where the map is not averaged, a reading does
        not tell what it is of, or no reading tells what a defect costs."""
        belief, radius, known = self._belief(), self.parameters.energetics.averaging_nm * 1e-9, self._known_sights()
        if not radius or any(sight is None for sight in known) or not sights.costs_known(known):
            return None
        if "seen" not in belief.cache:
            from edgetem_nodes.planner.seen_map import SeenMap

            rows = self.observations.only_valid()
            smooth, errors = np.array([[(sight.smooth, sight.error)] for sight in known]).transpose(2, 0, 1)
            trained = self._make_surrogate().learn(rows.candidates, smooth, errors, self._model_seed(), rows.settings,
                                                   not belief.trained.deep)
            belief.cache["seen"] = SeenMap(self.field, radius, self.field.positions(rows.candidates), known, trained.predict())
        return belief.cache["seen"]

    def _known_sights(self) -> list[sights.Sight | None]:
        """Of the valid measurements."""
        return [sight for sight, good in zip(self.sights, self.observations.valid, strict=True) if good]

    def _next_readings(self) -> NextReadings | None:
        """What the next readings tell of an averaged map, where batches are chosen by that."""
        if self.parameters.acquisition_function != "integrated_posterior_variance":
            return None
        seen = self._seen_map()
        if seen is None:
            return None
        known = self._known_sights()
        own = float(np.median([sight.error for sight in known])) ** 2
        return seen.next_readings(float(np.median([sight.area for sight in known])), own + seen.smooth.learned_noise_variance)

    @property
    def unexplained_variance(self) -> float:
        """Of a measurement beside its own standard error, as the model learned it [scalar squared]."""
        return self._belief().posterior().learned_noise_variance

    def model_description(self) -> str:
        """JSON of the present model; empty where nothing valid was measured."""
        return self._belief().description if self.observations.valid.any() else ""

    def deepen(self, ends: bool = False) -> np.ndarray:
        """Rows whose energy is to be computed at the better level now, (sites,) int64; see `fidelity`.

        Parameters
        ----------
        ends : whether the experiment ends without having reached its target: what is left of the allowance is then used.
        """
        rows, allowance = self.observations, self.parameters.energetics.high_fidelity.points
        if self.levels < 2 or not rows.valid.any():
            return np.zeros(0, np.int64)
        from edgetem_nodes.planner.fidelity import due, root_mean_square, telling_sites

        belief, valid = self._belief(), np.flatnonzero(rows.valid)
        computed = int(np.isfinite(rows.values[:, -1]).sum())
        count = due(allowance, computed, len(self._deepened), belief.correction_share, ends)
        # A site that was measured twice has one structure worth a long computation, and one that failed is not tried again.
        asked = np.isin(rows.candidates[valid], rows.candidates[self.deepened])
        chosen = telling_sites(rows.values[valid, 0], self._coordinates[rows.candidates[valid]], asked, count,
                               (belief.posterior().mean, self._coordinates), root_mean_square(rows.values[valid, 0]))
        return valid[chosen]

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

            self._learned = believe(self._make_surrogate(), self.observations.only_valid(), self._model_seed(), self.levels,
                                    self._coordinates, self.parameters.energetics.mapped)
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
        return {"visits": list(self._visits), "batch": self._batch, "setting": self._setting, "mapped": self._mapped,
                "retold": self._retold, "visiting": self._visiting, "deepened": list(self._deepened),
                "sights": sights.to_json(self.sights)}

    def arrays(self) -> dict[str, np.ndarray]:
        """What a checkpoint keeps as arrays, besides survey and observations."""
        return {"allowed": self._allowed.reshape(self.field.shape), "pending": self._pending, "barred": self._barred,
                "expected": self._expected.copy(), "last_map": self._last_map, "changes": np.array(self._changes, np.float64),
                "descriptors": self._descriptors}

    def restore(self, progress: dict, arrays: dict[str, np.ndarray]) -> None:
        """Go on from `progress` and `arrays`; the generator's state is in the first as "generator"."""
        self._generator.bit_generator.state = progress["generator"]
        self._visits, self._batch, self._setting = tuple(progress["visits"]), progress["batch"], progress["setting"]
        self._mapped, self._retold, self._visiting = progress["mapped"], bool(progress["retold"]), progress["visiting"]
        self._deepened = tuple(int(row) for row in progress["deepened"])
        try:
            self.sights = sights.of_json(progress["sights"])
        except ValueError as error:
            raise ExperimentError(f"the checkpoint is damaged: what sites saw cannot be read ({error})") from None
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
