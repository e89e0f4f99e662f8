"""What an experiment believes after it has learned: posteriors, how far they were right so far, and what was put right.

Deep kernel learning is known to fail in three ways, each of which is looked for before every decision, named, and met:
a collapsed embedding (the network maps everything to one place: learn again without it), overconfidence (predictions miss
by more than they say: widen them), and an experiment trapped in one place (explore elsewhere for a batch).
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field, replace

import numpy as np
from scipy.stats import chi2

from edgetem_nodes.planner.averaging import AveragedMap
from edgetem_nodes.planner.fidelity import Correction, CorrectedPosterior, root_mean_square
from edgetem_nodes.planner.observations import Observations
from edgetem_nodes.planner.scatter import ROUNDS, scatter
from edgetem_nodes.planner.surrogates import Surrogate, TrainedSurrogate
from edgetem_nodes.planner.surrogates.posterior import InflatedPosterior, Posterior

COLLAPSED_EXTENT = 0.05
"""Spread of all candidates, in length scales, below which a model tells none from another."""
JUDGED = 40
"""Latest predictions that R-squared judges."""
JUDGED_INTERVALS = 100
"""Latest predictions whose stated uncertainty is judged."""
FEWEST_JUDGED = 15
"""Predictions below which nothing is said of them."""
INTERPOLATION = 0.5
"""Residuals of readings over those of readings left out, below which a model follows their scatter."""
FEWEST_TO_DIFFER = 5
"""Readings of which not all should be the same."""
CONFIDENCE = 0.999
"""With which a model is called overconfident."""
LEAST_INFLATION, LARGEST_INFLATION = 1.5, 25.0
"""Factor of the variances below which nothing is done, and beyond which no more."""


@dataclass(frozen=True)
class Belief:
    """A trained surrogate as decisions use it.

    Attributes
    ----------
    trained : the surrogate. inflation : factor of its posterior variances.
    watchdogs : failures that were noticed and what was done about each, for people.
    scatter_factor : by which the variance of a reading grows with what is expected of it [scalar]; 0: it does not.
    errors : (rows,) standard errors of the first output that it was learned with: their real scatter counted, where it does.
    correction : of the first output to the better of two levels; None: there is one level, or nothing of the better yet.
    places : (candidates, 2) positions that the correction depends on; None without.
    cache : what whoever holds the belief has worked out from it.
    """

    trained: TrainedSurrogate
    inflation: float
    watchdogs: tuple[str, ...]
    scatter_factor: float = 0.0
    errors: np.ndarray = field(default_factory=lambda: np.zeros(0))
    correction: Correction | None = None
    places: np.ndarray | None = None
    cache: dict = field(default_factory=dict, compare=False)

    def posterior(self, setting: int = 0, output: int = 0) -> Posterior:
        """Of one output over all candidates, measured with one setting; of two levels the one that readings are of."""
        posterior = self.trained.predict(setting, output)
        return posterior if self.inflation == 1.0 else InflatedPosterior(posterior, self.inflation)

    def mapped(self, setting: int = 0) -> Posterior:
        """Of what the map is of: the first output, at the better level where one is known."""
        posterior = self.posterior(setting)
        return posterior if self.correction is None else self.correction.applied(posterior, self.places)

    def corrected(self, averages: AveragedMap) -> AveragedMap | Posterior:
        """An averaged map of what readings are of, at the better level where one is known."""
        averages = AveragedMap(averages.mean, self.inflation * averages.variance)
        return averages if self.correction is None else self.correction.applied(averages, self.places)

    @property
    def correction_share(self) -> float:
        """Of the map's mean variance that is the correction's: no further site of the low level lowers it. NaN without one."""
        mapped = self.mapped()
        if not isinstance(mapped, CorrectedPosterior):
            return float("nan")
        return float(mapped.correction_variance.mean() / mapped.variance.mean())

    @property
    def description(self) -> str:
        """JSON: the surrogate's, and the correction between levels."""
        if self.correction is None:
            return self.trained.description
        return json.dumps({**json.loads(self.trained.description), "correction": self.correction.description()})


def believe(surrogate: Surrogate, rows: Observations, seed: int, levels: int = 1,
            places: np.ndarray | None = None, scatters: bool = False) -> Belief:
    """Learn from valid rows; look for a collapsed embedding and for overconfidence, and meet them.

    Parameters
    ----------
    levels : 2: the last output is the first one at a better level, known at a few rows.
    places : (candidates, 2) positions in units of the field's longer side, for two levels.
    scatters : whether readings of the first output scatter the more the larger it is, as energies of single defects do.
    """
    learned = slice(0, rows.outputs - levels + 1)

    def learn(plain: bool) -> TrainedSurrogate:
        return surrogate.learn(rows.candidates, rows.values[:, learned], rows.standard_errors[:, learned], seed, rows.settings,
                               plain)

    own = rows.standard_errors

    trained, watchdogs = learn(plain=False), []
    if len(rows) >= FEWEST_JUDGED and trained.deep and trained.extent < COLLAPSED_EXTENT:
        watchdogs.append(f"collapsed embedding: the model spreads the whole field over {trained.extent:.2g} length scales; "
                         "this decision is made without the network")
        trained = learn(plain=True)
    factor = 0.0
    for _ in range(ROUNDS if scatters and _interpolates(trained, rows) else 0):
        rows, factor = _scattered(trained, rows, own)
        if not factor:
            break
        trained = learn(plain=not trained.deep)
    if len(rows) >= FEWEST_TO_DIFFER and not np.ptp(rows.values[:, 0]) > 0:
        watchdogs.append(f"constant data: all {len(rows)} readings are {rows.values[0, 0]:.6g}, and no place can be told from "
                         "another; look at the scalarizer")
    noise = trained.predict().learned_noise_variance
    inflation = overconfidence(rows, noise)
    if inflation > 1.0:
        watchdogs.append(f"overconfident: the latest predictions missed by {np.sqrt(inflation):.3g} times what they "
                         f"allowed for; variances are multiplied by {inflation:.3g}")
    correction = _correction(rows, places) if levels == 2 else None
    return Belief(trained, inflation, tuple(watchdogs), factor, rows.standard_errors[:, 0], correction, places)


def _interpolates(trained: TrainedSurrogate, rows: Observations) -> bool:
    """Whether scatter was taken for structure: the model is much nearer to the readings than to those it has not seen."""
    seen = rows.values[:, 0] - trained.predict().mean[rows.candidates]
    return root_mean_square(seen) < INTERPOLATION * root_mean_square(trained.leave_one_out())


def _scattered(trained: TrainedSurrogate, rows: Observations, own: np.ndarray) -> tuple[Observations, float]:
    """The rows with standard errors that count their real scatter as well, and by which factor it grows with the scalar.

    Parameters
    ----------
    own : (rows, outputs) standard errors as they were told.
    """
    known = trained.leave_one_out()
    expected = trained.predict().mean[rows.candidates]
    latest = slice(len(rows) - len(known), len(rows))
    expected[latest] = rows.values[latest, 0] - known
    variances, factor = scatter(expected, rows.values[:, 0] - expected, own[:, 0])
    errors = own.copy()
    errors[:, 0] = np.sqrt(np.square(np.nan_to_num(own[:, 0])) + variances)
    return replace(rows, standard_errors=errors), factor


def _correction(rows: Observations, places: np.ndarray) -> Correction | None:
    """Between the two levels of the first output; None where nothing of the better one is known."""
    both = np.isfinite(rows.values[:, -1])
    if not both.any():
        return None
    return Correction(rows.values[both, 0], rows.values[both, -1], places[rows.candidates[both]],
                      root_mean_square(rows.values[:, 0]))


def _judged(rows: Observations, most: int = JUDGED) -> Observations:
    """The latest rows that had been predicted before they were measured, `most` of them at most."""
    known = np.flatnonzero(rows.valid & np.isfinite(rows.predicted) & (rows.predicted_deviations > 0))[-most:]
    return Observations(**{name: array[known] for name, array in rows.arrays().items()})


def overconfidence(rows: Observations, noise_variance: float) -> float:
    """Factor by which predictive variances were too small in the latest predictions; 1 where they may have been right.

    Errors of one batch share one posterior: where its positions lie close they are nearly the same error. Each batch
    therefore counts as one reading, its mean square as one square, which is the worst case; under a model that is right
    the sum over batches is then at most a chi-square's. One wild reading is a wild reading: the largest square is left out.

    Parameters
    ----------
    noise_variance : of a measurement beside its standard error [scalar squared].
    """
    judged = _judged(rows, JUDGED_INTERVALS)
    if len(judged) < FEWEST_JUDGED:
        return 1.0
    errors = np.nan_to_num(judged.standard_errors[:, 0], nan=0.0)
    expected = np.square(judged.predicted_deviations) + noise_variance + np.square(errors)
    squares = np.square(judged.values[:, 0] - judged.predicted) / expected
    kept = np.argsort(squares, kind="stable")[:-1]
    batches = [squares[kept][judged.batches[kept] == batch].mean() for batch in np.unique(judged.batches[kept])]
    ratio = float(np.mean(batches))
    if ratio < LEAST_INFLATION or sum(batches) < chi2.ppf(CONFIDENCE, len(batches)):
        return 1.0
    return min(ratio, LARGEST_INFLATION)


def prequential_r_squared(rows: Observations) -> float:
    """Share of the variance of all measured values that predictions made beforehand explained, of the latest JUDGED rows.

    Dawid, J. R. Stat. Soc. A 147, 278 (1984): a forecaster is judged by forecasts made before the fact. NaN with fewer than
    FEWEST_JUDGED of them, or where all values are alike.
    """
    judged, valid = _judged(rows), rows.only_valid()
    spread = float(valid.values[:, 0].var()) if len(valid) else 0.0
    if len(judged) < FEWEST_JUDGED or not spread > 0:
        return float("nan")
    return 1.0 - float(np.square(judged.values[:, 0] - judged.predicted).mean()) / spread


def trapped(rows: Observations, coordinates: np.ndarray, free: np.ndarray, level: float | None, recent: int) -> np.ndarray:
    """Where the experiment has been caught: the mean position (2,) of its latest measurements; empty where it is not.

    It is caught where its latest `recent` measurements lie closer together than a twentieth of what is free to be measured,
    or nearly as close as positions that are all different can, and hardly any of them reached what was sought.

    Parameters
    ----------
    rows : all measurements. coordinates : (candidates, 2) any unit of length. free : (candidates,) bool.
    level : value that is sought [scalar]; None where only the map counts.
    """
    if len(rows) < 2 * recent or not free.any():
        return np.zeros(0)
    latest = slice(len(rows) - recent, len(rows))
    at = coordinates[rows.candidates[latest]]
    spread = np.sqrt(at.var(axis=0).sum())
    whole = np.sqrt(coordinates[free].var(axis=0).sum())
    # A full disc of so many grid points has this spread: closer than that the latest measurements cannot lie.
    cell = np.ptp(coordinates, axis=0).prod() / len(coordinates)
    packed = np.sqrt(recent * cell / (2.0 * np.pi))
    if spread > max(0.05 * whole, min(1.5 * packed, 0.25 * whole)):
        return np.zeros(0)
    if level is not None and np.mean(np.nan_to_num(rows.values[latest, 0], nan=-np.inf) >= level) > 0.2:
        return np.zeros(0)
    return at.mean(axis=0)
