"""What networks say of nanobeam patterns and micro-scans that they were not trained on: `edgetem bench descriptors`.

Patterns come from the whole virtual microscope (`featurizer.cbed.held_out`): held-out materials, and trained ones at high
tensions, doses, defocus, misalignment and detector that were not trained. Figures at the head are those at 1e4 electrons with a
camera that counts every electron once; strain and lattice over all materials, thickness, phase and rejection over trained ones.
Beside them: the Bragg-disk fit (`featurizer.bragg`), which learns the lattice from 60 patterns of the very specimen, on the
same patterns, and the Cramer-Rao bound of the places of their disks.

Noiseless patterns are kept in $XDG_CACHE_HOME/edgetem (~/.cache/edgetem): the first full run makes them, in some minutes.
"""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

from edgetem_nodes.featurizer.bragg import StrainMapper
from edgetem_nodes.featurizer.bragg.cramer_rao import Pattern, strain_bound
from edgetem_nodes.featurizer.cbed.disk_drawing import EDGE_REACH, edge_profiles
from edgetem_nodes.featurizer.cbed.evaluation import Predictions, Truth, lattice_errors, measured, rejections
from edgetem_nodes.featurizer.cbed.foreign import Foreign, foreign_counts, foreign_patterns, foreign_truth
from edgetem_nodes.featurizer.cbed.held_out import PIXELS, VIEWS, HeldOut, held_out, held_out_cases
from edgetem_nodes.featurizer.patterns.geometry import DetectorGeometry
from edgetem_nodes.physics.cameras import make_camera
from edgetem_nodes.physics.electrons import wavelength

DOSES = (1e3, 1e4, 1e5)
MAIN = 1e4
SEED = 20
QUICK = ("graphene", "MoS2", "h-BN", "WSe2", "Al [001]", "Cu [001]")
_LEARNT, _MAPPED = 60, 8
"""Patterns from which the Bragg-disk fit learns a specimen, and that are mapped by both methods."""
_ABSOLUTE = np.sqrt(2 / np.pi)
"""Mean absolute value of a normal error over its standard deviation."""
_FAINTEST = 2e-5
"""Part of the beam in a disk that counts in the bound."""
KEYS = ("strain_mae", "rotation_mae_deg", "lattice_mae", "thickness_mae_nm", "phase_accuracy", "coverage90")
PHASES = ("phase_accuracy", "phase_told", "phase_likeliest")
"""Accuracy of the phases that are told, part of the patterns whose phase is, and accuracy of the likeliest, told or not."""


def run(quick: bool = False) -> dict[str, Any]:
    """Measure everything; figures that need weights which are not there are None."""
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        return _run(quick)
    finally:
        torch.set_num_threads(threads)


def _run(quick: bool) -> dict[str, Any]:
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "edgetem" / "descriptors"
    cases = held_out_cases(SEED, 1, QUICK, 6e-9) if quick else held_out_cases(SEED, 2)

    def progress(done: int, total: int) -> None:
        print(f"specimen {done} of {total}", file=sys.stderr, flush=True)

    data = held_out(cases, cache, min(2, os.cpu_count() or 1), progress)
    foreign = foreign_patterns(SEED, 4 if quick else 8, 3e-9 if quick else 6e-9, cache)
    print("bounds", file=sys.stderr, flush=True)
    bounds = np.array([bound(data, row, MAIN) for row in range(len(data.expected))])
    network = _network()
    record: dict[str, Any] = dict.fromkeys((*KEYS, "rejection_auc"))
    details: dict[str, Any] = {}
    if network is not None:
        details = _cases(network, data, foreign, bounds, 2 if quick else 6)
        head = details[f"{MAIN:.0e}"]
        record |= {key: head["all"][key] for key in KEYS}
        record |= {key: head["trained"][key] for key in ("thickness_mae_nm", *PHASES)}
        record["untrained_told"] = head["untrained"]["untrained_told"]
        record["rejection_auc"] = head["foreign"]["rejection_auc"]
    record |= _speed(network, data, quick)
    print("Bragg-disk fit", file=sys.stderr, flush=True)
    details["same_patterns"] = _beside_bragg(network, data, bounds, 2 if quick else len(cases))
    record |= {"bragg_strain_mae": details["same_patterns"]["bragg_strain_mae"]}
    print("micro-scans", file=sys.stderr, flush=True)
    details["defects"] = _defects(1 if quick else 16)
    record |= {"defect_precision": details["defects"].get("precision"), "defect_recall": details["defects"].get("recall")}
    return {**record, "specimens": len(cases), "cases": details}


def _network() -> Any:
    """The shipped network; None, with a word why, where there are no weights."""
    from edgetem_nodes.featurizer.cbed.nanobeam import NanobeamNetwork

    try:
        return NanobeamNetwork.shipped()
    except (OSError, ValueError) as error:
        print(f"the nanobeam network has no weights: {error}", file=sys.stderr)
        return None


def _exposures(data: HeldOut, rows: np.ndarray) -> Any:
    """What an operator knows: the camera's middle for the centre."""
    from edgetem_nodes.featurizer.cbed.reading import Exposures

    return Exposures(data.pixel_angle[rows, None, None] * np.eye(2), np.full((len(rows), 2), PIXELS / 2),
                     data.high_tension[rows], data.semi_convergence_angle[rows], np.eye(2))


def _said(network: Any, counts: np.ndarray, exposures: Any) -> Predictions:
    found = network.describe(counts, exposures)
    names = np.array([*found.phases, ""])
    return Predictions(found.reciprocal, found.reciprocal_covariance, names[found.phase], names[found.likeliest],
                       found.phase_probability, found.identifiable["strain"], found.thickness, found.thickness_error,
                       found.tilt, found.tilt_covariance, found.rejection, found.rejected)


def _truth(data: HeldOut, rows: np.ndarray, electrons: float) -> Truth:
    truth = data.truth.rows(rows)
    return Truth(**{**vars(truth), "electrons": np.full(len(rows), electrons)})


def _counts(data: HeldOut, rows: np.ndarray, electrons: float, camera: str, seed: int) -> np.ndarray:
    """Electrons per pixel (rows, pixels, pixels) as a camera gives them."""
    if camera == "ideal":
        rng = np.random.default_rng([SEED, seed, int(electrons)])
        return rng.poisson(data.expected[rows] * electrons).astype(np.float32)
    frames = np.empty((len(rows), PIXELS, PIXELS), np.float32)
    for tension in np.unique(data.high_tension[rows]):
        model = make_camera(camera, float(tension))
        here = np.flatnonzero(data.high_tension[rows] == tension)
        frames[here] = model.electrons(model.frames(data.expected[rows[here]] * electrons, 1e-2, SEED, seed, 0), 1e-2)
    return frames


def _cases(network: Any, data: HeldOut, foreign: Foreign, bounds: np.ndarray, repeats: int) -> dict[str, Any]:
    """Figures by dose, and in each by class of material, camera, and of foreign patterns.

    `bound_strain_mae` is what the Cramer-Rao bound leaves of patterns that have an answer.
    """
    rows = np.tile(np.arange(len(data.expected)), repeats)
    result = {}
    for dose in DOSES:
        print(f"{dose:.0e} electrons", file=sys.stderr, flush=True)
        truth, exposures = _truth(data, rows, dose), _exposures(data, rows)
        said = _said(network, _counts(data, rows, dose, "ideal", 1), exposures)
        groups = {"all": np.ones(len(rows), bool), "trained": truth.trained, "untrained": ~truth.trained,
                  "sheets": truth.sheet, "crystals": ~truth.sheet}
        entry = {name: measured(truth.rows(which), said.rows(which)) for name, which in groups.items() if which.any()}
        for name, figures in entry.items():
            known = groups[name] & ~said.rejected
            figures["bound_strain_mae"] = _plain(_mean(bounds[rows][known]) * _ABSOLUTE * np.sqrt(MAIN / dose))
        entry["hybrid_pixel_camera"] = measured(truth, _said(network, _counts(data, rows, dose, "hybrid_pixel", 2), exposures))
        entry["materials"] = {str(name): measured(truth.rows(truth.material == name), said.rows(truth.material == name))
                              for name in np.unique(truth.material)}
        entry["foreign"] = _foreign(network, foreign, dose, repeats, truth, said)
        result[f"{dose:.0e}"] = entry
    return result


def _foreign(network: Any, foreign: Foreign, dose: float, repeats: int, truth: Truth, said: Predictions) -> dict[str, Any]:
    from edgetem_nodes.featurizer.cbed.reading import Exposures

    rng = np.random.default_rng([SEED, 7, int(dose)])
    counts = np.concatenate([foreign_counts(foreign, dose, rng) for _ in range(repeats)])
    geometry = DetectorGeometry((PIXELS / 2, PIXELS / 2), foreign.pixel_angle)
    exposures = Exposures.of(len(counts), geometry, foreign.high_tension, foreign.semi_convergence_angle)
    others = _said(network, counts, exposures)
    both = [foreign_truth(foreign, dose)] * repeats
    joined = Truth(**{name: np.concatenate([getattr(truth, name), *(getattr(one, name) for one in both)])
                      for name in vars(truth)})
    return rejections(joined, Predictions(**{name: np.concatenate([getattr(said, name), getattr(others, name)])
                                             for name in vars(said)}))


def _speed(network: Any, data: HeldOut, quick: bool) -> dict[str, Any]:
    """Patterns a CPU second on one core, from counts to descriptors; and a second with a GPU, where there is one."""
    import torch

    if network is None:
        return {"patterns_per_s": None, "patterns_per_s_gpu": None, "device": "cpu"}
    count = 256 if quick else 2048
    rows = np.arange(count) % len(data.expected)
    counts, exposures = _counts(data, rows, MAIN, "ideal", 3), _exposures(data, rows)
    network.describe(counts[:64], exposures.rows(slice(64)))
    seconds = []
    for _ in range(2):
        before = time.process_time()
        network.describe(counts, exposures)
        seconds.append(time.process_time() - before)
    record = {"patterns_per_s": count / min(seconds), "patterns_per_s_gpu": None, "device": "cpu",
              "frame_shape": [PIXELS, PIXELS]}
    if torch.cuda.is_available():
        record |= {"device": torch.cuda.get_device_name()} | _speed_on_gpu(network, data, count if quick else 65536)
    return record


def _speed_on_gpu(network: Any, data: HeldOut, count: int) -> dict[str, Any]:
    """A specimen after the other, as in an experiment; all cores search."""
    from edgetem_nodes.featurizer.cbed.nanobeam import NanobeamNetwork
    from edgetem_nodes.featurizer.cbed.throughput import rate
    from edgetem_nodes.featurizer.cbed.training.workers import cores

    rows = np.sort(np.arange(count) % len(data.expected))
    counts, exposures = _counts(data, rows, MAIN, "ideal", 3), _exposures(data, rows)
    fast = NanobeamNetwork(network.weights, "cuda", cores())
    fast.describe(counts, exposures)
    return {"patterns_per_s_gpu": rate(fast, counts, exposures), "gpu_threads": cores()}


def _beside_bragg(network: Any, data: HeldOut, bounds: np.ndarray, most: int) -> dict[str, Any]:
    """Both methods on the same patterns at `MAIN` electrons, with the bound; a specimen's first view each.

    Figures are over the specimens of which the fit could learn; means of `common` over patterns that both gave a lattice of.
    """
    specimens, errors = [], {"bragg": [], "network": []}
    chosen = np.flatnonzero(np.arange(len(data.expected)) % VIEWS == 0)
    for row in chosen[np.linspace(0, len(chosen) - 1, min(most, len(chosen))).astype(int)]:
        counts = _counts(data, np.full(_LEARNT + _MAPPED, row), MAIN, "ideal", 10 + int(row))
        true = np.repeat(data.truth.reciprocal[row][None], _MAPPED, axis=0)
        found = {"bragg": _bragg(counts, data, row), "network": None}
        if network is not None:
            said = _said(network, counts[_LEARNT:], _exposures(data, np.full(_MAPPED, row)))
            found["network"] = said.reciprocal, said.reciprocal_covariance
        nothing = np.full((_MAPPED, 3), np.nan)
        strain = {name: nothing if one is None else np.abs(lattice_errors(true, *one).strain) for name, one in found.items()}
        specimens.append({"material": str(data.truth.material[row]), "learnt": found["bragg"] is not None,
                          "bound_strain_mae": _plain(bounds[row] * _ABSOLUTE), **{f"{name}_strain_mae": _plain(_mean(one))
                                                                               for name, one in strain.items()}})
        if found["bragg"] is not None:
            for name, one in strain.items():
                errors[name].append(one)
    joined = {name: np.concatenate(one) if one else np.zeros((0, 3)) for name, one in errors.items()}
    both = np.isfinite(joined["bragg"]).all(axis=1) & np.isfinite(joined["network"]).all(axis=1)
    learnt = [one["bound_strain_mae"] for one in specimens if one["learnt"] and one["bound_strain_mae"] is not None]
    return {"bragg_learnt": sum(one["learnt"] for one in specimens), "of": len(specimens),
            **{f"{name}_given": _mean(np.isfinite(one[:, 0])) for name, one in joined.items()},
            **{f"{name}_strain_mae": _plain(_mean(one)) for name, one in joined.items()},
            **{f"{name}_strain_median": _plain(np.nanmedian(one)) if np.isfinite(one).any() else None
               for name, one in joined.items()},
            "common": {f"{name}_strain_mae": _plain(_mean(one[both])) for name, one in joined.items()},
            "bound_strain_mae": _plain(_mean(np.array(learnt))), "bound_strain_median": _plain(_median(learnt)),
            "specimens": specimens}


def _mean(values: np.ndarray) -> float:
    """Of what is finite; NaN where nothing is."""
    known = np.asarray(values, float)
    known = known[np.isfinite(known)]
    return float(known.mean()) if len(known) else float("nan")


def _median(values: list[float]) -> float:
    return float(np.median(values)) if values else float("nan")


def _bragg(counts: np.ndarray, data: HeldOut, row: int) -> tuple[np.ndarray, np.ndarray] | None:
    """Reciprocal lattices (mapped, 2, 2) and covariances by the Bragg-disk fit; None where it finds none to learn."""
    geometry = DetectorGeometry((PIXELS / 2, PIXELS / 2), float(data.pixel_angle[row]), float(data.semi_convergence_angle[row]))
    try:
        mapper = StrainMapper.learn(counts[:_LEARNT].astype(np.uint16), geometry)
    except ValueError as error:
        print(f"{data.truth.material[row]}: {error}", file=sys.stderr)
        return None
    features = mapper(counts[_LEARNT:].astype(np.uint16))
    length = wavelength(float(data.high_tension[row]))
    vectors = features.details["vectors"] / length
    vectors[~features.valid] = np.nan
    return vectors, features.details["vectors_covariance"] / length ** 2


def bound(data: HeldOut, row: int, electrons: float) -> float:
    """Root mean square over exx, eyy, exy of the smallest standard errors from the places of the disks; NaN: no lattice.

    Disks are taken as evenly filled with what they hold, their electrons as unknown, and what is between as known and flat.
    """
    angle_step = float(data.pixel_angle[row])
    radius = float(data.semi_convergence_angle[row]) / angle_step
    profile, whole = edge_profiles(np.array([radius]), np.array([0.6]))
    points = np.linspace(-EDGE_REACH, EDGE_REACH, profile.shape[1])

    def disk(dy: np.ndarray, dx: np.ndarray) -> np.ndarray:
        return np.interp(np.hypot(dy, dx) - radius, points, profile[0], right=0.0) / whole[0]

    basis = wavelength(float(data.high_tension[row])) * data.truth.reciprocal[row] / angle_step
    h, k = np.meshgrid(np.arange(-9, 10), np.arange(-9, 10), indexing="ij")
    indices = np.stack([h.ravel(), k.ravel()], axis=1)
    places = data.centre[row] + indices @ basis.T
    y, x = np.indices((PIXELS, PIXELS))
    image, background = data.expected[row].astype(float), max(float(np.quantile(data.expected[row], 0.1)), 1e-9)
    kept, held = [], []
    for index, place in zip(indices, places, strict=True):
        if (place > -0.5).all() and (place < PIXELS - 0.5).all():
            inside = np.hypot(y - place[0], x - place[1]) < radius + 1
            electrons_here = (image[inside] - background).sum()
            if electrons_here > _FAINTEST:
                kept.append(index)
                held.append(electrons_here)
    try:
        errors = strain_bound(Pattern((PIXELS, PIXELS), disk, data.centre[row], basis, np.array(kept).reshape(-1, 2),
                                      np.array(held) * electrons, background * electrons))
    except ValueError:
        return float("nan")
    return float(np.sqrt(np.mean([errors[name] ** 2 for name in ("exx", "eyy", "exy")])))


def _defects(count: int) -> dict[str, Any]:
    """Precision and recall of the micro-scan's network on sheets with defects, against distance from the site."""
    try:
        from edgetem_nodes.featurizer.micro_scan.evaluation import evaluate_defects
        from edgetem_nodes.featurizer.micro_scan.network import MicroScanNetwork

        found = evaluate_defects(MicroScanNetwork.shipped(), np.random.default_rng(SEED), count=count)
    except (ImportError, OSError, ValueError) as error:
        print(f"the micro-scan network has no weights: {error}", file=sys.stderr)
        return {}
    return {name: _plain(value) for name, value in vars(found).items()}


def _plain(value: Any) -> Any:
    """As JSON has it."""
    if isinstance(value, np.ndarray):
        return [_plain(one) for one in value.tolist()]
    if isinstance(value, (list, tuple)):
        return [_plain(one) for one in value]
    if isinstance(value, (float, np.floating)):
        return None if not np.isfinite(value) else float(value)
    return value.item() if isinstance(value, np.generic) else value
