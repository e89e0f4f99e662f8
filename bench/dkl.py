"""How fast deep kernel learning decides, and how right it is: `edgetem bench dkl`, against AtomAI's dklGPR.

A step: learn afresh from N measurements at random positions, predict at all candidates, choose one by expected
improvement; on one thread. What is done once an experiment (principal components of the patches) is `setup_seconds`.
R2 = 1 - sum (predicted - true)^2 / sum (true - mean)^2 over the candidates that were not measured; seconds and R2 are
medians over the seeds, each of which draws a specimen and the positions. Both sides see patches alone, no positions,
AtomAI (200 training cycles, default network, everything standardised, which serves it better than scaling to 0-1) in a
process of its own: this interpreter's where it has atomai, else the one that EDGETEM_ATOMAI_PYTHON names.

The data: an image of elliptical particles, 1 - exp(-1.5 sum of Gaussians), a particle each 400 pixels, of 5-8 pixels, aspect
ratio up to 1.6 and height 0.5-1, with 3 % noise; a candidate every 4 pixels, seen through its 16 x 16 patch. The property is
tanh(1.5 s) + 4 |grad s|, s the image without noise, smoothed by 4 pixels, the gradient a pixel: brightness that saturates,
and edges. Coverage is of the central 90 % interval of a measurement there: what noise in the patch hides of the property is
learned as noise, and counts.
"""

from __future__ import annotations

import contextlib
import importlib.util
import io
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

import numpy as np

PATCH, STEP = 16, 4
ROWS = 50
"""Candidates along each side: 2,500 in all."""
MANY_ROWS = 317
"""The same for 100,489 candidates."""
SMOOTHING = 4.0
NOISE = 0.03
"""Standard deviation in every pixel of the image; contrast is 1."""
TRAINING_CYCLES = 200
NINETY_PERCENT = 1.6448536
"""Standard normal quantile at 0.95."""


class Specimen(NamedTuple):
    """What is seen and what is sought."""

    patches: np.ndarray
    """(candidates, 256) float64."""
    truth: np.ndarray
    """(candidates,) the property, without noise."""
    rows: int
    """Candidates along each side of the field."""


class Step(NamedTuple):
    """What one step took and gave."""

    seconds: float
    cpu_seconds: float
    mean: np.ndarray
    """(candidates,) predicted."""
    deviation: np.ndarray
    """(candidates,) standard deviation of a measurement there, the learned noise counted."""
    setup_seconds: float = 0.0


def make_specimen(seed: int, rows: int = ROWS) -> Specimen:
    """The data of the module's description, rows x rows candidates; a pure function of its arguments."""
    from scipy.ndimage import gaussian_filter

    generator = np.random.default_rng(seed)
    side = PATCH + STEP * (rows - 1)
    clean = _particles(side, generator)
    smooth = gaussian_filter(clean, SMOOTHING, mode="nearest")
    slope = np.hypot(*np.gradient(smooth))
    centre = np.ix_(*[PATCH // 2 + STEP * np.arange(rows)] * 2)
    truth = np.tanh(1.5 * smooth[centre]) + SMOOTHING * slope[centre]
    image = clean + NOISE * generator.standard_normal(clean.shape)
    windows = np.lib.stride_tricks.sliding_window_view(image, (PATCH, PATCH))[::STEP, ::STEP]
    return Specimen(windows.reshape(rows * rows, PATCH * PATCH), truth.ravel(), rows)


def _particles(side: int, generator: np.random.Generator) -> np.ndarray:
    """Image (side, side) from 0 to 1 of elliptical particles that saturate where they overlap."""
    thickness, margin = np.zeros((side, side)), 8
    for _ in range(generator.poisson(side * side / 400)):
        y, x = generator.uniform(-margin, side + margin, 2)
        radius, aspect = generator.uniform(5.0, 8.0), generator.uniform(1.0, 1.6)
        angle, height = generator.uniform(0.0, np.pi), generator.uniform(0.5, 1.0)
        reach = int(4 * radius * aspect) + 2
        across = [np.arange(max(0, int(c) - reach), min(side, int(c) + reach + 1)) for c in (y, x)]
        if not all(map(len, across)):
            continue
        dy, dx = across[0][:, None] - y, across[1][None, :] - x
        along = (np.cos(angle) * dx + np.sin(angle) * dy) / (radius * np.sqrt(aspect))
        beside = (np.cos(angle) * dy - np.sin(angle) * dx) * np.sqrt(aspect) / radius
        thickness[np.ix_(*across)] += height * np.exp(-0.5 * (along**2 + beside**2))
    return 1.0 - np.exp(-1.5 * thickness)


def measured_candidates(seed: int, candidates: int, n: int) -> np.ndarray:
    """n of the candidates at random: (n,) int64."""
    return np.random.default_rng([seed, 1]).permutation(candidates)[:n]


def run(quick: bool = False) -> dict:
    """Measure the planner and, where it is installed, AtomAI; returns the record of the benchmark."""
    import torch
    from threadpoolctl import threadpool_limits

    threads, deterministic = torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()
    small, seeds = (50, 150, 300), range(3 if quick else 10)
    grown = [(300, 2 * ROWS)] if quick else [(1000, ROWS), (300, MANY_ROWS), (1000, MANY_ROWS), (5000, MANY_ROWS)]
    try:
        with threadpool_limits(1):
            cases = [_case(n, ROWS, seeds) for n in small]
            cases += [_case(n, rows, range(1 if quick else 3)) for n, rows in grown]
            if torch.cuda.is_available():
                # Training stays on the processor; the posterior over all candidates moves.
                cases += [_case(n, rows, range(3), "cuda") for n, rows in grown]
    finally:
        torch.set_num_threads(threads)
        torch.use_deterministic_algorithms(deterministic)
    python = _atomai_python()
    peers = [(50, range(1))] if quick else [(n, range(5 if n < 300 else 3)) for n in small]
    return {"cases": cases, "peer": [_peer(python, n, some) for n, some in peers] if python else None}


def _case(n: int, rows: int, seeds: range, device: str = "cpu") -> dict:
    """The planner's steps with n measurements of rows x rows candidates."""
    print(f"{n} of {rows * rows} on {device}", file=sys.stderr, flush=True)
    planner_step(make_specimen(0, 20), measured_candidates(0, 400, 20), 0, device)
    steps, scores = [], []
    for seed in seeds:
        specimen = make_specimen(seed, rows)
        measured = measured_candidates(seed, len(specimen.truth), n)
        steps.append(planner_step(specimen, measured, seed, device))
        scores.append(_scores(steps[-1], specimen.truth, measured))
        steps[-1] = steps[-1]._replace(mean=None, deviation=None)
    record = _record(n, rows * rows, steps, scores)
    return record | {"device": device, "setup_seconds": round(float(np.median([step.setup_seconds for step in steps])), 4)}


def planner_step(specimen: Specimen, measured: np.ndarray, seed: int, device: str = "cpu") -> Step:
    """Tell the planner what was measured, ask it for the next position, and for its map.

    A patch's pixels are told as channels of a survey with one pixel a candidate: so candidates may lie further apart than
    the pixels of their patches, as they do here. The property itself is told, with no error known.
    """
    from edgetem_nodes.physics.scan import ScanField
    from edgetem_nodes.planner.experiment import ActiveExperiment
    from edgetem_nodes.planner.parameters import Model, Parameters

    model = Model("deep_kernel_learning", patch_size=1, use_position=False, device=device)
    parameters = Parameters(model=model, acquisition_function="expected_improvement", batch_points=1)
    survey = specimen.patches.T.reshape(-1, specimen.rows, specimen.rows)
    begun = time.perf_counter()
    experiment = ActiveExperiment(survey, ScanField((0.0, 0.0), (1e-9, 1e-9), (specimen.rows,) * 2), parameters, seed)
    setup = time.perf_counter() - begun
    begun, cpu = time.perf_counter(), time.process_time()
    experiment.tell(measured, specimen.truth[measured], np.zeros(len(measured)))
    experiment.ask(1)
    mean, deviation = experiment.predict()
    seconds, cpu_seconds = time.perf_counter() - begun, time.process_time() - cpu
    deviation = np.sqrt(np.square(deviation) + experiment.unexplained_variance)
    return Step(seconds, cpu_seconds, mean.ravel(), deviation.ravel(), setup)


def _scores(step: Step, truth: np.ndarray, measured: np.ndarray) -> tuple[float, float]:
    """R2 and the share of 90 % intervals that hold, on what was not measured."""
    unseen = np.ones(len(truth), bool)
    unseen[measured] = False
    error = (step.mean - truth)[unseen]
    holds = np.abs(error) < NINETY_PERCENT * step.deviation[unseen]
    return float(1.0 - np.square(error).mean() / truth[unseen].var()), float(holds.mean())


def _record(n: int, candidates: int, steps: list[Step], scores: list[tuple[float, float]]) -> dict:
    fits, coverage = np.array(scores).T
    return {"n": n, "candidates": candidates, "seconds": round(float(np.median([step.seconds for step in steps])), 4),
            "cpu_seconds": round(float(np.median([step.cpu_seconds for step in steps])), 4),
            "r2_unseen": round(float(np.median(fits)), 5), "r2_lowest": round(float(fits.min()), 5),
            "r2_highest": round(float(fits.max()), 5), "coverage90": round(float(np.median(coverage)), 3), "seeds": len(steps)}


def _atomai_python() -> str:
    """An interpreter that has atomai; empty where there is none."""
    if importlib.util.find_spec("atomai"):
        return sys.executable
    named = os.environ.get("EDGETEM_ATOMAI_PYTHON", "")
    if named and not Path(named).is_file():
        raise ValueError(f"EDGETEM_ATOMAI_PYTHON={named!r} is not a file; it must be a Python interpreter that has atomai")
    return named


def _peer(python: str, n: int, seeds: range) -> dict:
    """AtomAI's steps on the same data."""
    steps, scores = [], []
    for seed in seeds:
        print(f"AtomAI, {n}, seed {seed}", file=sys.stderr, flush=True)
        specimen = make_specimen(seed)
        measured = measured_candidates(seed, len(specimen.truth), n)
        steps.append(_atomai_apart(python, specimen, measured, seed))
        scores.append(_scores(steps[-1], specimen.truth, measured))
    return _record(n, ROWS * ROWS, steps, scores) | {"training_cycles": TRAINING_CYCLES}


def _atomai_apart(python: str, specimen: Specimen, measured: np.ndarray, seed: int) -> Step:
    """One step of AtomAI in its own process: importing it changes torch's defaults for good."""
    with tempfile.TemporaryDirectory() as folder:
        told, answer = Path(folder) / "told.npz", Path(folder) / "answer.npz"
        np.savez(told, patches=specimen.patches, values=specimen.truth[measured], measured=measured, seed=seed)
        single = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
        done = subprocess.run([python, __file__, told, answer], env=os.environ | single, capture_output=True, text=True,
                              check=False)
        if done.returncode:
            raise RuntimeError(f"AtomAI failed in {python}: {done.stderr.strip()[-500:]}")
        with np.load(answer, allow_pickle=False) as result:
            return Step(float(result["seconds"]), float(result["cpu_seconds"]), result["mean"], result["deviation"])


def atomai_step(patches: np.ndarray, values: np.ndarray, measured: np.ndarray, seed: int) -> Step:
    """Learn, predict and choose by expected improvement with AtomAI's dklGPR, the importing left out."""
    import atomai
    import torch
    from scipy.special import ndtr

    torch.set_num_threads(1)
    begun, cpu = time.perf_counter(), time.process_time()
    inputs = (patches - patches.mean()) / patches.std()
    level, spread = values.mean(), values.std()
    with contextlib.redirect_stdout(io.StringIO()):
        model = atomai.models.dklGPR(inputs.shape[1], embedim=2, precision="double", seed=seed)
        model.fit(inputs[measured], (values - level) / spread, TRAINING_CYCLES)
        mean, variance = model.predict(inputs, batch_size=len(inputs))
    mean, deviation = level + spread * mean, spread * np.sqrt(np.maximum(variance, 1e-12))
    score = (mean - values.max()) / deviation
    improvement = deviation * (np.exp(-0.5 * score**2) / np.sqrt(2.0 * np.pi) + score * ndtr(score))
    improvement[measured] = -np.inf
    improvement.argmax()
    seconds, cpu_seconds = time.perf_counter() - begun, time.process_time() - cpu
    deviation = np.sqrt(np.square(deviation) + spread**2 * float(model.likelihood.noise.detach()))
    return Step(seconds, cpu_seconds, mean, deviation)


def _answer(told: str, answer: str) -> None:
    """The other process's work: from one file of arrays to another."""
    with np.load(told, allow_pickle=False) as data:
        step = atomai_step(data["patches"], data["values"], data["measured"], int(data["seed"]))
    np.savez(answer, **{name: value for name, value in step._asdict().items() if name != "setup_seconds"})


if __name__ == "__main__":
    _answer(*sys.argv[1:])
