"""Drift tracking: what is left of a stage's drift of 1 nm/min in half an hour, and what the reference images cost.

Two synthetic specimens through Poisson noise: soft particles in any order, and a perfect lattice, whose images fit a unit
cell further as well.
"""

from __future__ import annotations

import math
import time
from typing import Any

import numpy as np

from edgetem_nodes.microscope.drift_tracking import DriftTracker, DriftTracking
from edgetem_nodes.physics.instabilities import Instabilities, InstrumentState
from edgetem_nodes.physics.scan import ScanField

SPEED = 1e-9 / 60
DURATION = 1800.0
SIDE = 96
CASES = [("particles", 6e-10, 60.0), ("particles", 2e-10, 20.0), ("particles", 1e-10, 10.0), ("lattice", 5e-11, 5.0)]
"""Specimen, survey step [m], every_s."""


class _Specimen:
    """Mean counts at any place: random particles, or a hexagonal lattice of 4.3 steps."""

    def __init__(self, kind: str, step: float, rng: np.random.Generator) -> None:
        self.kind, self.step = kind, step
        count = 4 * SIDE * SIDE // 150
        self.places = rng.uniform(-0.5, 1.5, (count, 2)) * SIDE * step
        self.widths, self.heights = rng.uniform(1.5, 3.5, count) * step, rng.uniform(0.3, 1.0, count)

    def __call__(self, seen: np.ndarray) -> np.ndarray:
        if self.kind == "lattice":
            waves = 2 * np.pi / (4.3 * self.step) * np.array([[1, 0], [0.5, math.sqrt(0.75)], [-0.5, math.sqrt(0.75)]])
            return (1.2 + np.cos(seen @ waves.T).sum(axis=1) / 3) / 1.2
        brightness = np.full(len(seen), 0.3)
        for place, width, height in zip(self.places, self.widths, self.heights, strict=True):
            near = np.flatnonzero(np.abs(seen - place).max(axis=1) < 5 * width)
            brightness[near] += height * np.exp(-((seen[near] - place) ** 2).sum(axis=1) / (2 * width ** 2))
        return brightness / 0.6


def _tracked(kind: str, step: float, every: float, dose: float, seed: int) -> tuple[np.ndarray, DriftTracker, float]:
    """Residuals (n,) [survey pixels] in half an hour, the tracker, and its CPU time for an image [s]."""
    rng = np.random.default_rng(seed)
    specimen = _Specimen(kind, step, rng)
    stage = InstrumentState(Instabilities(drift_speed=SPEED, drift_direction=rng.uniform(0, 2 * np.pi)), seed)
    field = ScanField((0.0, 0.0), (step, step), (SIDE, SIDE))
    tracker = DriftTracker(DriftTracking(every_s=every), field)

    def image(positions: np.ndarray, elapsed: float, shape: tuple[int, int]) -> np.ndarray:
        times = elapsed + tracker.dwell * np.arange(len(positions))
        (y, x), rate = tracker.correction(elapsed)
        seen = positions + [y, x] + (times - elapsed)[:, None] * rate - stage.stage_drift(times)
        return rng.poisson(dose * specimen(seen)).astype(float).reshape(shape)

    now, between, spent, residuals = 0.0, every / 8, 0.0, []
    tracker.set_survey(image(field.positions(), now, field.shape), now)
    while now < DURATION:
        (y, x), rate = tracker.correction(now)
        now += between
        residuals.append(np.hypot(*(np.array([y, x]) + between * np.array(rate) - stage.stage_drift([now])[0])) / step)
        if tracker.due(0, now):
            taken = image(tracker.positions(), now, tracker.region()[2:])
            start = time.process_time()
            tracker.update(taken, now)
            spent += time.process_time() - start
    return np.array(residuals), tracker, spent / max(tracker.used + tracker.refused, 1)


def run(quick: bool) -> dict[str, Any]:
    """Residual, share of the beam time, and failures for each specimen, step and dose (mean counts a pixel)."""
    cases = []
    for kind, step, every in CASES:
        for dose in (20.0,) if quick else (5.0, 10.0, 20.0, 100.0):
            runs = [_tracked(kind, step, every, dose, seed) for seed in range(1 if quick else 3)]
            residuals = np.concatenate([residual for residual, _, _ in runs])
            images = [tracker.used + tracker.refused for _, tracker, _ in runs]
            cases.append({
                "specimen": kind, "step_nm": step * 1e9, "every_s": every, "counts_per_pixel": dose,
                "residual_px_p95": float(np.percentile(residuals, 95)), "residual_px_max": float(residuals.max()),
                "uncorrected_px": SPEED * DURATION / step, "images": float(np.mean(images)),
                "refused": sum(tracker.refused for _, tracker, _ in runs),
                "beam_time_share": float(np.mean(images)) * math.prod(runs[0][1].side) * runs[0][1].dwell / DURATION,
                "cpu_ms_per_image": 1e3 * float(np.mean([spent for _, _, spent in runs]))})
    return {"minutes": DURATION / 60, "nm_per_min": SPEED * 60e9, "seeds": 1 if quick else 3, "cases": cases}
