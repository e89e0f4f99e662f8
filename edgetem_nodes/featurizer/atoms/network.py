"""A small fully convolutional network from an image of atomic columns to a map of where they are."""

from __future__ import annotations

import hashlib
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.nn import functional

WEIGHTS = Path(__file__).parent / "weights" / "atoms.npz"
CHANNELS = (10, 20, 32)
PIXEL_SIZE = (12e-12, 30e-12)
"""Range of pixel sizes [m] that the network knows; others are resampled to its middle."""
STRIDE = 4
"""Rows and columns are padded to a multiple of this [pixel]."""
BORDER = 24
"""Reflected around an image [pixel], so that its edge is not taken for one of the crystal's."""
BACKGROUND = 20.0
"""Width of the Gaussian whose mean is taken off the image [pixel]."""


class ColumnNetwork(nn.Module):
    """U-shaped, three scales: (batch, 1, rows, columns) to logits of the same shape. Rows and columns divide by `STRIDE`."""

    def __init__(self, channels: tuple[int, int, int] = CHANNELS) -> None:
        super().__init__()
        first, second, third = channels
        self.fine = _pair(1, first)
        self.middle = _pair(first, second)
        self.coarse = _pair(second, third)
        self.up_middle = nn.Conv2d(third + second, second, 3, padding=1)
        self.up_fine = nn.Conv2d(second + first, first, 3, padding=1)
        self.head = nn.Conv2d(first, 1, 1)
        nn.init.constant_(self.head.bias, -3.0)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        fine = self.fine(image)
        middle = self.middle(functional.avg_pool2d(fine, 2))
        coarse = self.coarse(functional.avg_pool2d(middle, 2))
        middle = functional.relu(self.up_middle(torch.cat([_larger(coarse), middle], 1)))
        return self.head(functional.relu(self.up_fine(torch.cat([_larger(middle), fine], 1))))


def _pair(inputs: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(inputs, outputs, 3, padding=1), nn.ReLU(),
                         nn.Conv2d(outputs, outputs, 3, padding=1), nn.ReLU())


def _larger(image: torch.Tensor) -> torch.Tensor:
    return functional.interpolate(image, scale_factor=2, mode="bilinear", align_corners=False)


def normalised(image: np.ndarray) -> np.ndarray:
    """The image (rows, columns) as the network sees it: smooth background off, standard deviation 1, float32."""
    from scipy.ndimage import gaussian_filter

    image = np.asarray(image, np.float32)
    flat = image - gaussian_filter(image, BACKGROUND, mode="reflect")
    low, high = (float(v) for v in np.percentile(flat, (0.5, 99.8)))
    flat = np.clip(flat, low - 0.5 * (high - low), high + 0.5 * (high - low))
    spread = float(flat.std())
    return flat / spread if spread > 0 else flat


def column_map(network: ColumnNetwork, image: np.ndarray) -> np.ndarray:
    """Heat map (rows, columns) float32 in 0..1: near 1 where a column's centre is."""
    rows, columns = image.shape
    border = min(BORDER, rows - 1, columns - 1)
    bottom, right = (border + (-(n + 2 * border)) % STRIDE for n in (rows, columns))
    padded = np.pad(normalised(image), ((border, bottom), (border, right)), mode="symmetric")
    with torch.no_grad():
        heat = torch.sigmoid(network(torch.from_numpy(padded)[None, None]))[0, 0].numpy()
    return heat[border:border + rows, border:border + columns]


def save_weights(network: nn.Module, path: Path) -> str:
    """Write the weights as float16 arrays (.npz); returns the file's SHA-256."""
    np.savez_compressed(path, **{name: value.detach().cpu().numpy().astype(np.float16)
                                 for name, value in network.state_dict().items()})
    return weights_hash(path)


def load_weights(path: Path) -> ColumnNetwork:
    """The network of a weights file.

    Raises
    ------
    ValueError : the file is not there or does not hold this network's weights.
    """
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = {name: torch.from_numpy(file[name].astype(np.float32)) for name in file.files}
        channels = tuple(len(arrays[f"{part}.0.bias"]) for part in ("fine", "middle", "coarse"))
        network = ColumnNetwork(channels)
        network.load_state_dict(arrays)
    except (OSError, KeyError, ValueError, RuntimeError) as error:
        raise ValueError(f"{path} holds no weights of a column network ({error}): make them with "
                         "'edgetem train', see docs/atoms.md") from None
    return network.eval()


@lru_cache(maxsize=1)
def shipped_network() -> ColumnNetwork:
    """The network whose weights come with the package."""
    return load_weights(WEIGHTS)


def weights_hash(path: Path = WEIGHTS) -> str:
    """SHA-256 of a weights file, hexadecimal."""
    return hashlib.sha256(path.read_bytes()).hexdigest()
