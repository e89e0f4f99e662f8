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
        self._features = torch.tensor(features, dtype=torch.float64)
        self.components = components.shape[1]
        self.others = self._table.shape[1] - self.components + features.shape[1]
        self.other_lengths = torch.tensor(lengths + [SETTING_LENGTH] * features.shape[1], dtype=torch.float64)

    def __len__(self) -> int:
        return len(self._table)

    def at(self, candidates: np.ndarray, settings: np.ndarray) -> torch.Tensor:
        """(rows, inputs) of candidates measured with settings, both by index."""
        table = self._table[torch.as_tensor(candidates)]
        return torch.cat([table, self._features[torch.as_tensor(settings)]], dim=1)

    def everywhere(self, setting: int) -> torch.Tensor:
        """(candidates, inputs) of all candidates at one setting."""
        if not self._features.shape[1]:
            return self._table
        return torch.cat([self._table, self._features[setting].expand(len(self._table), -1)], dim=1)
