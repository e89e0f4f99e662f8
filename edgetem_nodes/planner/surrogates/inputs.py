"""What a surrogate knows of every candidate before anything is measured."""

from __future__ import annotations

import numpy as np
import torch

POSITION_LENGTH = 0.4
"""Median of the prior of the length scale along the field, in units of its longer side."""
SETTING_LENGTH = 1.0
"""The same of a free quantity, in units of its range."""
DESCRIPTOR_LENGTH = 1.0
"""The same of a descriptor, in units of its standard deviation."""


class Inputs:
    """Patch components, position, descriptors and settings as one table.

    Parameters
    ----------
    components : (candidates, components) of the survey patches; no columns where they are not used.
    coordinates : (candidates, 2) position in units of the field's longer side; None: not used.
    features : (settings, free quantities) from 0 to 1; one setting without any by default.
    descriptors : (candidates, descriptors) known everywhere, any unit; none by default.
    """

    def __init__(self, components: np.ndarray, coordinates: np.ndarray | None, features: np.ndarray | None = None,
                 descriptors: np.ndarray | None = None) -> None:
        contrast = bool(components.shape[1]) and bool(np.ptp(components) > 0)
        components = components if contrast else components[:, :0]
        others, lengths = [], []
        if descriptors is not None and descriptors.shape[1]:
            spread = descriptors.std(axis=0)
            others.append((descriptors - descriptors.mean(axis=0)) / np.where(spread > 0, spread, 1.0))
            lengths += [DESCRIPTOR_LENGTH] * descriptors.shape[1]
        if coordinates is not None:
            others.append(coordinates)
            lengths += [POSITION_LENGTH] * coordinates.shape[1]
        if not components.shape[1] and not others:
            raise ValueError("the survey has no contrast and the position is not used: nothing tells one place from another; "
                             "set model.use_position")
        self._table = torch.tensor(np.concatenate([components, *others], axis=1), dtype=torch.float64)
        features = np.zeros((1, 0)) if features is None else features
        self._traits = torch.tensor(traits(components), dtype=torch.float64)
        self._features = torch.tensor(features, dtype=torch.float64)
        self.components = components.shape[1]
        self.others = self._table.shape[1] - self.components + features.shape[1]
        self.traits = self._traits.shape[1]
        self.other_lengths = torch.tensor(lengths + [SETTING_LENGTH] * features.shape[1], dtype=torch.float64)

    def __len__(self) -> int:
        return len(self._table)

    def at(self, candidates: np.ndarray, settings: np.ndarray) -> torch.Tensor:
        """(rows, inputs) of candidates measured with settings, both by index: components, others, traits."""
        candidates = torch.as_tensor(candidates)
        return torch.cat([self._table[candidates], self._features[torch.as_tensor(settings)], self._traits[candidates]], dim=1)

    def places(self, candidates: np.ndarray) -> np.ndarray:
        """(rows, inputs) of candidates, each input in units of the length scale that is expected of it; no settings."""
        table = self._table[torch.as_tensor(candidates)].clone()
        others = table.shape[1] - self.components
        table[:, self.components:] /= self.other_lengths[:others]
        return table.numpy()

    def everywhere(self, setting: int) -> torch.Tensor:
        """(candidates, inputs) of all candidates at one setting."""
        return torch.cat([self._table, self._features[setting].expand(len(self._table), -1), self._traits], dim=1)


def traits(components: np.ndarray) -> np.ndarray:
    """What a scalar's variability may follow: brightness, its square, and local contrast, each standardised.

    Parameters
    ----------
    components : (candidates, components) of survey patches, the first of them brightness.

    Returns
    -------
    (candidates, 3) of zero mean and unit variance, at most three standard deviations; no columns without components.
    """
    if not components.shape[1]:
        return np.zeros((len(components), 0))
    brightness = components[:, 0]
    contrast = np.sqrt(np.square(components[:, 1:]).sum(axis=1))
    columns = np.stack([brightness, np.square(brightness), contrast], axis=1)
    spread = columns.std(axis=0)
    return np.clip((columns - columns.mean(axis=0)) / np.where(spread > 0, spread, 1.0), -3.0, 3.0)
