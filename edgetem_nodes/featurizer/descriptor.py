"""One column of another scalarizer's rows as the scalar."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from edgetem_nodes.featurizer.features import CountingNoise, Features, Scalarizer, finished
from edgetem_nodes.graph.configuration import nearest
from edgetem_nodes.physics.scan import Axis


@dataclass(frozen=True)
class Column:
    """Which column of which scalarizer: its name, factory and settings, and the column's name."""

    source: str
    factory: Callable[[Any, CountingNoise, tuple[Axis, ...]], Scalarizer]
    settings: Any
    column: str


class DescriptorScalarizer:
    """The rows of `source` with the column `column` first. A row without a finite number there is a marked failure.

    Raises
    ------
    ValueError : the source has no such column (with the nearest one), or its settings do not fit the axes.
    """

    def __init__(self, settings: Column, noise: CountingNoise, axes: tuple[Axis, ...]) -> None:
        self.source = settings.factory(settings.settings, noise, axes)
        names, units = [str(name) for name in self.source.names], [str(unit) for unit in self.source.units]
        if settings.column not in names:
            raise ValueError(f"descriptor.column {settings.column!r} is no column of {settings.source!r}, which has "
                             f"{', '.join(names)}" + nearest(settings.column, names))
        chosen = names.index(settings.column)
        self.order = [chosen, *(place for place in range(len(names)) if place != chosen)]
        self.names, self.units = tuple(names[place] for place in self.order), tuple(units[place] for place in self.order)

    def __call__(self, frames: np.ndarray) -> Features:
        features = self.source(frames)
        values, errors = np.asarray(features.values), np.asarray(features.standard_errors)
        return finished(values[:, self.order], errors[:, self.order]**2, list(features.failures), features.details)
