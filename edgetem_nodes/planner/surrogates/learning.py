"""Learning: from measurements to a posterior. The model is a pure function of survey, measurements, settings and seed."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, field

import numpy as np
import torch
from scipy.spatial import cKDTree

from edgetem_nodes.planner.observations import LARGEST_VALUE
from edgetem_nodes.planner.surrogates.deep_kernel import Architecture, DeepKernel, first_guess, outputs_of, prior_of
from edgetem_nodes.planner.surrogates.inputs import Inputs
from edgetem_nodes.planner.surrogates.marginal_likelihood import HOPELESS, Objective, Rows, maximise
from edgetem_nodes.planner.surrogates.posterior import (EnsemblePosterior, ExactPosterior, InducingPosterior, Posterior,
                                                        Scale, robust_cholesky, signal_covariance)
from edgetem_nodes.planner.surrogates.settings import SurrogateSettings, one_deterministic_thread

LARGEST_ERROR = 1e3
"""Standard error over the values' spread above which a measurement "knows nothing": keeps the matrix well scaled."""
NEIGHBOURS = 8
"""Measurements over which variances of counting statistics are averaged."""
MEMBER_SHARE = 0.8
"""Share of the rows that each member of an ensemble is trained on, drawn at random; its posterior sees all."""


@dataclass(frozen=True)
class _Member:
    """One trained kernel."""

    kernel: DeepKernel
    evaluations: int
    objective: float
    failure: str


@dataclass
class TrainedSurrogate:
    """Trained models, which predict every output at every setting, and how they came about."""

    _members: list[_Member]
    _rows: Rows
    _inputs: Inputs
    _scales: list[Scale]
    _settings: SurrogateSettings
    seed: int
    _cache: dict[tuple[int, int], Posterior] = field(default_factory=dict)

    @property
    def training_failure(self) -> str:
        """Why a training ended early and the prior's parameters were taken; empty otherwise."""
        return next((member.failure for member in self._members if member.failure), "")

    @property
    def posterior(self) -> Posterior:
        """Of the first output at the first setting."""
        return self.predict()

    def predict(self, setting: int = 0, output: int = 0) -> Posterior:
        """Posterior of one output over all candidates, measured with one setting."""
        key = setting, output
        if key not in self._cache:
            inputs = self._inputs.everywhere(setting).to(self._settings.device)
            made = [self._posterior(member.kernel, inputs, output) for member in self._members]
            self._cache[key] = made[0] if len(made) == 1 else EnsemblePosterior(made)
        return self._cache[key]

    def _posterior(self, kernel: DeepKernel, inputs: torch.Tensor, output: int) -> Posterior:
        scale, rows = self._scales[output], self._rows
        if len(rows.values) <= self._settings.exact_points:
            return ExactPosterior(kernel, rows, inputs, output, scale)
        return InducingPosterior(kernel, rows, inputs, output, scale, self._settings.inducing_points)

    @property
    def deep(self) -> bool:
        """Whether a network is part of it."""
        return self._members[0].kernel.architecture.hidden > 0

    def surprise(self) -> tuple[np.ndarray, np.ndarray]:
        """Of the first output: correlations (rows, rows + candidates) of the kernel between measurements and, after them,
        all candidates, and how far (rows,) each measurement is from what all others predict, in standard deviations.

        Leave-one-out predictions: Rasmussen and Williams (2006), equation 5.12. Of an ensemble the first member's.
        """
        kernel = self._members[0].kernel
        rows, inverse = self._inverse()
        mine = range(len(rows.values))
        error = (inverse @ (rows.values - kernel.mean[0])).abs() / inverse.diagonal().sqrt()
        everywhere = self._inputs.everywhere(0).to(rows.inputs.device)
        place = kernel.place(torch.cat([rows.inputs, everywhere]))
        return kernel.correlation(place[:len(mine)], place).cpu().numpy(), error.cpu().numpy()

    def leave_one_out(self) -> np.ndarray:
        """Of the first output, (rows,) [scalar]: each of the latest `exact_points` measurements less what all others of them
        predict. Rasmussen and Williams (2006), equation 5.12. Of an ensemble the first member's."""
        rows, inverse = self._inverse()
        residual = inverse @ (rows.values - self._members[0].kernel.mean[0]) / inverse.diagonal()
        return self._scales[0].spread * residual.cpu().numpy()

    def _inverse(self) -> tuple[Rows, torch.Tensor]:
        """The latest `exact_points` rows of the first output, and the inverse of their covariance, noise included."""
        kernel = self._members[0].kernel
        mine = (self._rows.outputs == 0).nonzero()[:, 0][-self._settings.exact_points:]
        rows = Rows(*(t[mine] for t in (self._rows.inputs, self._rows.outputs, self._rows.values, self._rows.noise)))
        matrix = signal_covariance(kernel, rows)
        matrix.diagonal().add_(rows.noise + kernel.noise[0])
        return rows, torch.cholesky_inverse(robust_cholesky(matrix)[0])

    @property
    def extent(self) -> float:
        """Standard deviation of where the candidates lie, in length scales: near 0 the model tells none from another."""
        places = [member.kernel.place(self._inputs.everywhere(0).to(self._settings.device)) for member in self._members]
        return float(min(place.var(dim=0, correction=0).sum().sqrt() for place in places))

    @property
    def description(self) -> str:
        """JSON: settings, seed, learned hyperparameters of every member."""
        first, spread = self._scales[0], self._scales[0].spread
        members = [{"length_scales": torch.exp(m.kernel.parameters["lengths"]).tolist(),
                    "prior_mean": first.level + float(m.kernel.mean[0]) * spread,
                    "prior_standard_deviation": math.sqrt(float(m.kernel.between_outputs[0, 0])) * spread,
                    "amplitude": m.kernel.parameters["amplitude"].tolist(),
                    "learned_noise": math.sqrt(float(m.kernel.noise[0])) * spread, "evaluations": m.evaluations,
                    "objective": m.objective, "training_failure": m.failure} for m in self._members]
        return json.dumps({"surrogate": self._settings.surrogate, "kernel": self._settings.kernel, "seed": self.seed,
                           "measurements": len(self._rows.values), "jitter": self.posterior.jitter, "members": members})


class Surrogate:
    """Learns scalars from measurements at some candidates and predicts them at all.

    Parameters
    ----------
    inputs : what the model knows of every candidate.
    settings : what it is made of.
    """

    def __init__(self, inputs: Inputs, settings: SurrogateSettings) -> None:
        self.inputs, self.settings = inputs, settings

    def learn(self, measured: np.ndarray, values: np.ndarray, standard_errors: np.ndarray, seed: int,
              settings: np.ndarray | None = None, plain: bool = False) -> TrainedSurrogate:
        """Train on measurements.

        Parameters
        ----------
        measured : (measurements,) candidate indices; repeats are allowed.
        values : (measurements,) or (measurements, outputs) [scalar]; NaN where an output was not measured.
        standard_errors : like values; not finite or negative counts as not known (zero).
        seed : of the network's initial weights.
        settings : (measurements,) index of the setting of each; the first by default.
        plain : leave the network out.

        Raises
        ------
        ValueError : nothing measured, or a value beyond LARGEST_VALUE.
        """
        one_deterministic_thread()
        values = np.asarray(values, np.float64)
        values = values[:, None] if values.ndim == 1 else values
        errors = np.asarray(standard_errors, np.float64).reshape(values.shape)
        settings = np.zeros(len(values), np.int64) if settings is None else settings
        if not np.isfinite(values).any():
            raise ValueError("a surrogate needs at least one valid measurement")
        scales = [_scale(column[np.isfinite(column)]) for column in values.T]
        measured = np.asarray(measured, np.int64)
        settings = np.asarray(settings, np.int64)
        rows = self._rows(measured, settings, values, self._expected_errors(measured, settings, errors), scales)
        architecture = self._architecture(values.shape[1], plain)
        generator = torch.Generator().manual_seed(seed & (2**63 - 1))
        members = [self._train(architecture, rows, generator) for _ in range(self.settings.members)]
        device = self.settings.device
        if device != "cpu":
            rows = Rows(*(tensor.to(device) for tensor in (rows.inputs, rows.outputs, rows.values, rows.noise)))
        return TrainedSurrogate(members, rows, self.inputs, scales, self.settings, seed)

    def _expected_errors(self, measured: np.ndarray, settings: np.ndarray, errors: np.ndarray) -> np.ndarray:
        """Standard errors (measurements, outputs) as they are on average around each measurement.

        The error that goes with a count is the count's own square root: low readings call themselves precise, and taken at
        their word they pull the map down. The mean variance of NEIGHBOURS alike in patch and position, measured with the same
        setting, hardly depends on the reading itself.
        """
        result = errors.copy()
        for setting in np.unique(settings):
            rows = np.flatnonzero(settings == setting)
            for output in range(errors.shape[1]):
                column = errors[rows, output]
                known = np.isfinite(column) & (column > 0)
                if known.sum() > NEIGHBOURS:
                    mean = self.counting_variance(measured[rows], measured[rows[known]], column[known])
                    result[rows[known], output] = np.sqrt(mean[known])
        return result

    def counting_variance(self, candidates: np.ndarray, measured: np.ndarray, errors: np.ndarray) -> np.ndarray:
        """Variance (candidates,) that a measurement's own statistics will have: the mean of the NEIGHBOURS most alike.

        Parameters
        ----------
        measured : (measurements,) candidates whose errors are known. errors : (measurements,) [scalar], positive.
        """
        count = min(NEIGHBOURS, len(errors))
        if not count:
            return np.zeros(len(candidates))
        nearest = cKDTree(self.inputs.places(measured)).query(self.inputs.places(candidates), [*range(1, count + 1)])[1]
        return np.square(np.minimum(errors, LARGEST_VALUE))[nearest].mean(axis=1)

    def _architecture(self, outputs: int, plain: bool) -> Architecture:
        s, components = self.settings, self.inputs.components
        deep = s.surrogate == "deep_kernel_learning" and components > 0 and not plain
        embedded = min(s.embedding, components) if deep else components
        return Architecture(components, self.inputs.others, embedded, s.hidden if deep else 0,
                            self.inputs.traits if s.amplitude else 0, outputs)

    def _rows(self, measured: np.ndarray, settings: np.ndarray, values: np.ndarray, errors: np.ndarray,
              scales: list[Scale]) -> Rows:
        """One row a measured output, standardised."""
        known = np.isfinite(values)
        at, output = np.nonzero(known)
        spread = np.array([scale.spread for scale in scales])[output]
        level = np.array([scale.level for scale in scales])[output]
        error = errors[known]
        error = np.where(np.isfinite(error) & (error > 0), np.minimum(error, LARGEST_ERROR * spread), 0.0) / spread
        return Rows(self.inputs.at(measured[at], settings[at]), outputs_of(output),
                    torch.from_numpy((values[known] - level) / spread), torch.from_numpy(np.square(error)))

    def _train(self, architecture: Architecture, rows: Rows, generator: torch.Generator) -> _Member:
        prior = prior_of(architecture, self.inputs.other_lengths, generator)
        start = first_guess(architecture, prior, generator)
        seen = self._seen(rows, generator)
        objective = Objective(architecture, prior, seen, self.settings.kernel)
        found, evaluations, value = maximise(objective, start, self.settings.training_steps)
        failure = ""
        if value >= HOPELESS or not bool(torch.isfinite(found).all()):
            failure = f"no parameters were found for which the matrix of {len(seen.values)} measurements factorises"
            found = prior.centre
        kernel = DeepKernel(architecture, found.to(self.settings.device), self.settings.kernel)
        return _Member(kernel, evaluations, value, failure)

    def _seen(self, rows: Rows, generator: torch.Generator) -> Rows:
        """The rows that training looks at: all; a share for each member of an ensemble; never more than `exact_points`."""
        count = len(rows.values)
        share = math.ceil(MEMBER_SHARE * count) if self.settings.members > 1 else count
        share = min(share, self.settings.exact_points)
        if share == count:
            return rows
        chosen = torch.randperm(count, generator=generator)[:share].sort().values
        return Rows(rows.inputs[chosen], rows.outputs[chosen], rows.values[chosen], rows.noise[chosen])


def _scale(values: np.ndarray) -> Scale:
    """Level and spread of finite values; a spread of 1 in their own size where they are all alike."""
    if not len(values):
        return Scale(0.0, 1.0)
    if np.abs(values).max() > LARGEST_VALUE:
        raise ValueError(f"measured values up to {np.abs(values).max():g} overflow, {LARGEST_VALUE:g} at most can be learned: "
                         "check the scalarizer")
    level, spread = float(values.mean()), float(values.std())
    alike = spread <= max(1e-12 * abs(level), 1.0 / LARGEST_VALUE)
    return Scale(level, max(abs(level), 1.0) if alike else spread)
