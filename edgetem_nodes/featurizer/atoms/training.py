"""Training of the column network on drawn images: data, seed, curves and a model card in one folder."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.nn import functional

from edgetem_nodes.featurizer.atoms.drawing import FAINTEST, DrawnImage, ImageRanges, draw, render
from edgetem_nodes.featurizer.atoms.network import CHANNELS, ColumnNetwork, column_map, normalised, save_weights

WEIGHTS = "atoms.npz"
LABEL_SIGMA = 1.3
"""Width of a column in the map that is learnt [pixel]."""
TOLERANCE = 3.0
"""Distance [pixel] within which a maximum counts as a column's."""
_REUSE = 6
"""Images are reused, turned and mirrored, this many times."""
_POOL = 20
"""Batches of images that are kept for that."""


@dataclass(frozen=True)
class TrainingSettings:
    """Steps of Adam, images a step, edge of an image [pixel], highest learning rate, widths, images of the held-out set."""

    steps: int = 3000
    batch: int = 12
    edge: int = 96
    learning_rate: float = 4e-3
    channels: tuple[int, int, int] = CHANNELS
    held_out: int = 64

    @classmethod
    def of(cls, config: dict[str, Any]) -> TrainingSettings:
        """From the group `training` of a configuration.

        Raises
        ------
        ValueError : a key is unknown, or a value is not a positive number.
        """
        known = {f.name for f in fields(cls)}
        unknown = sorted(set(config) - known)
        if unknown:
            raise ValueError(f"training.{unknown[0]} is not a setting of the column network; there are "
                             + ", ".join(sorted(known)))
        settings = cls(**{k: tuple(v) if k == "channels" else v for k, v in config.items()})
        if min(settings.steps, settings.batch, settings.held_out, *settings.channels) < 1 or settings.learning_rate <= 0:
            raise ValueError(f"steps, batch, held_out, channels and learning_rate are to be positive: {settings}")
        if settings.edge < 32 or settings.edge % 4:
            raise ValueError(f"training.edge {settings.edge} is to be a multiple of 4 pixels, 32 or more")
        return settings


def ranges_of(config: dict[str, Any]) -> ImageRanges:
    """Ranges of what is drawn from the group `images` of a configuration; what is not named keeps its default."""
    known = {f.name for f in fields(ImageRanges)}
    unknown = sorted(set(config) - known)
    if unknown:
        raise ValueError(f"images.{unknown[0]} is not a range of drawn images; there are {', '.join(sorted(known))}")
    return ImageRanges(**{k: tuple(v) if isinstance(v, (list, tuple)) else v for k, v in config.items()})


def train(config: dict[str, Any], output: Path, seed: int, device: str = "cpu",
          progress: Callable[[int, int, float], None] = lambda step, steps, loss: None) -> Path:
    """Train and write `atoms.npz`, `curves.json` and `model_card.md` into a folder; returns the path of the weights.

    Parameters
    ----------
    config : groups `training` (TrainingSettings) and `images` (ImageRanges).
    seed : of weights and images. device : for torch. progress : called with step, steps and mean loss.

    Raises
    ------
    ValueError : the configuration does not hold together.
    """
    settings, ranges = TrainingSettings.of(config.get("training", {})), ranges_of(config.get("images", {}))
    output.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(seed)
    network = ColumnNetwork(settings.channels).to(device)
    optimiser = torch.optim.Adam(network.parameters(), settings.learning_rate)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, settings.learning_rate, settings.steps, pct_start=0.1)
    losses: list[float] = []
    batches = _batches(np.random.default_rng([seed, 1]), settings, ranges)
    for step in range(settings.steps):
        images, labels = (torch.from_numpy(a).to(device) for a in next(batches))
        loss = functional.binary_cross_entropy_with_logits(network(images), labels)
        optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimiser.step()
        schedule.step()
        losses.append(loss.item())
        if step % 50 == 49 or step == settings.steps - 1:
            progress(step + 1, settings.steps, float(np.mean(losses[-50:])))
    network = network.cpu().eval()
    digest = save_weights(network, output / WEIGHTS)
    held_out = evaluate(network, settings.held_out, np.random.default_rng([seed, 2]), ranges)
    curve = [float(np.mean(losses[i:i + 50])) for i in range(0, len(losses), 50)]
    (output / "curves.json").write_text(json.dumps({"loss_every_50_steps": curve, "held_out": held_out}, indent=1) + "\n")
    (output / "model_card.md").write_text(_card(network, settings, ranges, seed, digest, held_out))
    return output / WEIGHTS


def label(drawn: DrawnImage) -> np.ndarray:
    """Map (rows, columns) float32 that is to be learnt: 1 at the centre of each column that is strong enough."""
    strong = drawn.weights >= FAINTEST
    heat = render(drawn.positions[strong], np.ones(strong.sum()), drawn.image.shape, LABEL_SIGMA)
    return np.minimum(heat, 1.0).astype(np.float32)


def _batches(rng: np.random.Generator, settings: TrainingSettings,
             ranges: ImageRanges) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Endless batches of images and labels (batch, 1, edge, edge); each drawn image is used about `_REUSE` times."""
    pool: list[tuple[np.ndarray, np.ndarray]] = []
    fresh = max(1, settings.batch // _REUSE)
    while True:
        for _ in range(fresh if pool else settings.batch):
            drawn = draw(rng, (settings.edge, settings.edge), ranges)
            pool.append((normalised(drawn.image), label(drawn)))
        pool = pool[-_POOL * settings.batch:]
        chosen = rng.integers(0, len(pool), settings.batch)
        chosen[:fresh] = np.arange(len(pool) - fresh, len(pool))
        pairs = [tuple(_turned(part, turns, mirrored) for part in pool[k]) for k, turns, mirrored in
                 zip(chosen, rng.integers(0, 4, settings.batch), rng.integers(0, 2, settings.batch), strict=True)]
        yield tuple(np.stack([pair[part] for pair in pairs])[:, None] for part in (0, 1))


def _turned(image: np.ndarray, turns: int, mirrored: int) -> np.ndarray:
    image = np.rot90(image, turns)
    return image[:, ::-1] if mirrored else image


def evaluate(network: ColumnNetwork, count: int, rng: np.random.Generator, ranges: ImageRanges,
             edge: int = 128) -> dict[str, float]:
    """Precision, recall and median distance [pixel] of maxima of the map, on images drawn from `rng`, before any fit.

    Counted 4 pixels and more from the edge, for columns of at least `FAINTEST` of the strongest's weight.
    """
    from edgetem_nodes.featurizer.atoms.peaks import local_maxima

    hits = found = there = 0
    distances: list[float] = []
    for _ in range(count):
        drawn = draw(rng, (edge, edge), ranges)
        maxima, _ = local_maxima(column_map(network, drawn.image))
        truth = drawn.positions
        nearest = np.linalg.norm(maxima[:, None] - truth[None], axis=-1) if len(truth) else np.full((len(maxima), 1), np.inf)
        inner = ((maxima > 4) & (maxima < edge - 5)).all(axis=1)
        inner_truth = ((truth > 4) & (truth < edge - 5)).all(axis=1) & (drawn.weights >= FAINTEST)
        found += int(inner.sum())
        there += int(inner_truth.sum())
        if len(truth) and len(maxima):
            hits += int((nearest.min(axis=1)[inner] < TOLERANCE).sum())
            recalled = nearest.min(axis=0)[inner_truth]
            distances += recalled[recalled < TOLERANCE].tolist()
    return {"images": count, "columns": there, "precision": hits / max(found, 1), "recall": len(distances) / max(there, 1),
            "median_distance_pixels": float(np.median(distances)) if distances else float("nan")}


def _card(network: ColumnNetwork, settings: TrainingSettings, ranges: ImageRanges, seed: int, digest: str,
          held_out: dict[str, float]) -> str:
    """The model card, for people."""
    count = sum(p.numel() for p in network.parameters())
    lines = [
        "# Column network", "",
        f"Finds atomic columns in annular dark-field and reconstructed images. Fully convolutional, {count} parameters, "
        "float16.",
        f"Weights SHA-256 {digest}.", "",
        f"Trained on drawn images only (`featurizer/atoms/drawing.py`), seed {seed}: {settings.steps} steps of "
        f"{settings.batch} images of {settings.edge} x {settings.edge} pixels, Adam, learning rate up to "
        f"{settings.learning_rate:g}. No measured image was used. Ranges (SI units):", "",
        *(f"- {name}: {value}" for name, value in asdict(ranges).items()), "",
        f"Held-out images of the same ranges ({held_out['images']}, {held_out['columns']} columns), maxima of the map before "
        f"any fit, within {TOLERANCE:g} pixels: precision {held_out['precision']:.3f}, recall {held_out['recall']:.3f}, median "
        f"distance {held_out['median_distance_pixels']:.2f} pixel. The ranges reach down to {ranges.peak_counts[0]:g} "
        "electrons on the strongest column and to columns of a twentieth of its weight, which are not always visible.", "",
        "Not for: dark-contrast images (invert them first), columns closer than 1.2 angstrom, moire patterns, pixels outside "
        "12-30 pm (the finder resamples).", ""]
    return "\n".join(lines)
