"""How good descriptors are: errors against truth, intervals, phases, and what is said where nothing should be said.

It takes arrays, however they were found. Vectors and matrices are (y, x); reciprocal lattices are matrices of two columns
[1/m], in whatever basis: a lattice is compared with the true one in the basis that they share. A value that is not a number
was not given, and is counted as that.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

import numpy as np
from scipy.stats import rankdata

NINETY = 1.6448536269514722
"""Standard errors that hold nine of ten of normal errors."""
GROSS = 0.05
"""Strain by which a lattice that is off is not a measurement of this one."""


@dataclass(frozen=True)
class Truth:
    """What is known of n patterns.

    Attributes
    ----------
    reciprocal : (n, 2, 2) columns a*, b* [1/m]; NaN where there is no lattice, or not one.
    material : (n,) names. trained : (n,) bool, whether it was trained on. foreign : (n,) bool: nothing should be said of it.
    thickness : (n,) [m]. sheet : (n,) bool. tilt : (n, 2) [rad]. electrons : (n,). kind : (n,) names for tables.
    """

    reciprocal: np.ndarray
    material: np.ndarray
    trained: np.ndarray
    foreign: np.ndarray
    thickness: np.ndarray
    sheet: np.ndarray
    tilt: np.ndarray
    electrons: np.ndarray
    kind: np.ndarray

    def rows(self, which: np.ndarray) -> Truth:
        """Some of them."""
        return Truth(**{part.name: getattr(self, part.name)[which] for part in fields(Truth)})


@dataclass(frozen=True)
class Predictions:
    """What was said of n patterns; NaN, or "" for a phase, where nothing was said.

    Strain is judged by the lattice; `strain_given` says whether it was given as such, against the phase's own lattice.

    Attributes
    ----------
    reciprocal : (n, 2, 2) columns; reciprocal_covariance : (n, 4, 4) of it row by row.
    phase : (n,) names of those that are told; likeliest : (n,) names of the likeliest, told or not; phase_probability : (n,)
        of it. strain_given : (n,) bool.
    thickness, thickness_error : (n,) [m]. tilt : (n, 2) [rad]; tilt_covariance : (n, 2, 2).
    rejection : (n,) the larger the less like what is known. rejected : (n,) bool.
    """

    reciprocal: np.ndarray
    reciprocal_covariance: np.ndarray
    phase: np.ndarray
    likeliest: np.ndarray
    phase_probability: np.ndarray
    strain_given: np.ndarray
    thickness: np.ndarray
    thickness_error: np.ndarray
    tilt: np.ndarray
    tilt_covariance: np.ndarray
    rejection: np.ndarray
    rejected: np.ndarray

    def rows(self, which: np.ndarray) -> Predictions:
        """Some of them."""
        return Predictions(**{part.name: getattr(self, part.name)[which] for part in fields(Predictions)})


@dataclass(frozen=True)
class LatticeErrors:
    """Of lattices, (n,) or (n, 3); NaN where none was given or it is another lattice.

    Attributes
    ----------
    strain : (n, 3) apparent exx, eyy, exy of the lattice found against the true one; strain_error : as stated.
    rotation, rotation_error : (n,) the same [rad].
    length : (n,) largest relative error of the two lattice parameters a, b.
    wrong : (n,) bool: a lattice was given that is another one: no common vectors, or off by more than `GROSS`.
    partial : (n,) bool: every other to every fourth of the disks was taken for the lattice: right where some are too faint,
        and as good for strain.
    """

    strain: np.ndarray
    strain_error: np.ndarray
    rotation: np.ndarray
    rotation_error: np.ndarray
    length: np.ndarray
    wrong: np.ndarray
    partial: np.ndarray


def lattice_errors(true: np.ndarray, found: np.ndarray, covariance: np.ndarray) -> LatticeErrors:
    """Compare lattices whose columns may be different vectors of the same lattice.

    The lattice found, in the true one's basis, is X times the true one; its deformation against it is D = X^-T (`deformation`),
    of which the symmetric part is the error of strain and the antisymmetric part that of rotation.

    Parameters
    ----------
    true, found : (n, 2, 2) columns [1/m]. covariance : (n, 4, 4) of `found` row by row.
    """
    given = np.isfinite(found).all(axis=(1, 2)) & np.isfinite(true).all(axis=(1, 2))
    filled, other = np.where(given[:, None, None], true, np.eye(2)), np.where(given[:, None, None], found, np.eye(2))
    integers = np.rint(np.linalg.inv(filled) @ other)
    size = np.rint(np.abs(np.linalg.det(integers)))
    same = given & (size >= 1) & (size <= 4)
    integers[~same] = np.eye(2)
    # found = X true N, so X = found (true N)^-1, and D^T = X^-1 is 1 - (X - 1) to first order
    back = np.linalg.inv(filled @ integers)
    moved = np.linalg.inv(np.where(same[:, None, None], other @ back, np.eye(2)))
    deformation = np.swapaxes(moved, 1, 2)
    strain = np.stack([deformation[:, 1, 1] - 1, deformation[:, 0, 0] - 1, (deformation[:, 0, 1] + deformation[:, 1, 0]) / 2],
                      axis=1)
    rotation = (deformation[:, 0, 1] - deformation[:, 1, 0]) / 2
    off = same & ((np.abs(strain).max(axis=1) > GROSS) | (np.abs(rotation) > GROSS))
    # d X_ij = sum_k d found_ik back_kj; rows of `linear` are exx, eyy, exy, rotation of D by d found row by row
    change = np.einsum("im,nkj->nijmk", np.eye(2), back).reshape(-1, 2, 2, 4)
    linear = -np.stack([change[:, 1, 1], change[:, 0, 0], (change[:, 0, 1] + change[:, 1, 0]) / 2,
                        (change[:, 1, 0] - change[:, 0, 1]) / 2], axis=1)
    variances = np.einsum("nra,nab,nrb->nr", linear, np.nan_to_num(covariance), linear)
    errors = np.sqrt(np.maximum(variances, 0.0))
    errors[~np.isfinite(covariance).all(axis=(1, 2))] = np.nan
    direct = np.linalg.inv(filled).transpose(0, 2, 1)
    length = np.hypot(*np.moveaxis(deformation @ direct, 1, 0)) / np.hypot(*np.moveaxis(direct, 1, 0)) - 1
    lost = ~same | off
    nothing = np.where(lost, np.nan, 0.0)
    return LatticeErrors(strain + nothing[:, None], errors[:, :3] + nothing[:, None], rotation + nothing,
                         errors[:, 3] + nothing, np.abs(length).max(axis=1) + nothing, given & lost, ~lost & (size > 1))


def area_under_curve(negative: np.ndarray, positive: np.ndarray) -> float:
    """Chance that a score of `positive` is above one of `negative`, ties counting half (Mann-Whitney); NaN without either."""
    if not len(negative) or not len(positive):
        return float("nan")
    ranks = rankdata(np.concatenate([negative, positive]))
    return float((ranks[len(negative):].mean() - (len(positive) + 1) / 2) / len(negative))


def _mean(values: np.ndarray) -> float | None:
    values = np.asarray(values, float)
    values = values[np.isfinite(values)]
    return float(values.mean()) if len(values) else None


def _held(errors: np.ndarray, stated: np.ndarray) -> np.ndarray:
    """1 where an interval of nine of ten holds an error, 0 where not, NaN where there is none; flat."""
    known = np.isfinite(errors) & np.isfinite(stated)
    return np.where(known, np.abs(errors) <= NINETY * stated, np.nan).ravel()


def measured(truth: Truth, predictions: Predictions) -> dict[str, float | int | None]:
    """Figures of patterns that have an answer; None where there are none to tell it from.

    Mean absolute errors are over what was given and is no other lattice; how often it was given, and how often wrong, stands
    beside them. `phase_accuracy` is of phases that were told, `phase_told` how many of those that are trained were,
    `phase_likeliest` the accuracy of the likeliest ones, told or not, `untrained_told` how often one was told of a material
    that is not trained; `strain_given` how often strain was told as such, against the lattice of what phases were left.
    Coverage pools intervals of strain, rotation, thickness and tilt. Strain in fractions, thickness in nm, tilt in mrad,
    rotation in degrees.
    """
    crystal = ~truth.foreign
    truth, predictions = truth.rows(crystal), predictions.rows(crystal)
    errors = lattice_errors(truth.reciprocal, predictions.reciprocal, predictions.reciprocal_covariance)
    answered = ~predictions.rejected & np.isfinite(predictions.reciprocal).all(axis=(1, 2))
    thickness, tilt = predictions.thickness - truth.thickness, predictions.tilt - truth.tilt
    tilt_error = np.sqrt(np.einsum("nii->ni", predictions.tilt_covariance))
    held = {"strain": _held(errors.strain, errors.strain_error), "rotation": _held(errors.rotation, errors.rotation_error),
            "thickness": _held(thickness, predictions.thickness_error), "tilt": _held(tilt, tilt_error)}
    known, told = truth.trained & ~predictions.rejected, (predictions.phase != "") & ~predictions.rejected
    right, likeliest = predictions.phase == truth.material, predictions.likeliest == truth.material
    return {
        "patterns": len(truth.material), "answered": _mean(answered), "wrong_lattice": _mean(errors.wrong[answered]),
        "partial_lattice": _mean(errors.partial[answered]),
        "strain_mae": _mean(np.abs(errors.strain)), "strain_rms": _root(errors.strain),
        "rotation_mae_deg": _mean(np.degrees(np.abs(errors.rotation))), "lattice_mae": _mean(errors.length),
        "thickness_mae_nm": _mean(np.abs(thickness) * 1e9), "thickness_given": _mean(np.isfinite(thickness[answered])),
        "thickness_mae_relative": _mean(np.abs(thickness) / truth.thickness),
        "tilt_mae_mrad": _mean(np.abs(tilt) * 1e3), "tilt_given": _mean(np.isfinite(tilt[answered]).all(axis=1)),
        "strain_given": _mean(predictions.strain_given[answered]),
        "phase_accuracy": _mean(right[known & told]), "phase_told": _mean(told[known]),
        "phase_likeliest": _mean(likeliest[known]), "phase_probability": _mean(predictions.phase_probability[known]),
        "coverage90": _mean(np.concatenate(list(held.values()))),
        **{f"coverage90_{name}": _mean(one) for name, one in held.items()},
        "untrained_told": _mean(told[~truth.trained]), "rejected": _mean(predictions.rejected)}


def _root(values: np.ndarray) -> float | None:
    square = _mean(values ** 2)
    return None if square is None else float(np.sqrt(square))


def rejections(truth: Truth, predictions: Predictions) -> dict[str, float | int | None]:
    """How foreign patterns are told from trained materials: by the score, and by what was rejected at its threshold.

    `confident_nonsense` is the part of the foreign patterns for which a phase is told, `answered` that for which anything is.
    """
    good, foreign = ~truth.foreign & truth.trained, truth.foreign
    score = np.nan_to_num(predictions.rejection, nan=np.inf)
    told = ~predictions.rejected & (predictions.phase != "")
    kinds = {str(kind): _mean(predictions.rejected[foreign & (truth.kind == kind)]) for kind in np.unique(truth.kind[foreign])}
    return {"patterns": int(foreign.sum()), "rejection_auc": area_under_curve(score[good], score[foreign]),
            "foreign_rejected": _mean(predictions.rejected[foreign]), "good_rejected": _mean(predictions.rejected[good]),
            "answered": _mean(~predictions.rejected[foreign]), "confident_nonsense": _mean(told[foreign]),
            **{f"rejected_{kind}": value for kind, value in kinds.items()}}
