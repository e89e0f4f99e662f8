"""What is read from drawn patterns whose lattices were searched for, as they will be in use: what the refining network and the
pattern networks are trained on.

Most patterns are of the materials that are to be known; some are of others, or of more than one crystal.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from edgetem_nodes.featurizer.cbed.generator import ConditionRanges, NanobeamBatch, NanobeamGenerator
from edgetem_nodes.featurizer.cbed.lattices import PRIOR, LatticeNetworks, Lattices, find_lattices, sample_fine_rows
from edgetem_nodes.featurizer.cbed.networks import FINE_INPUTS
from edgetem_nodes.featurizer.cbed.posterior import standardised, to_lattice_axes
from edgetem_nodes.featurizer.cbed.reading import Exposures, beams_of, known_lattices, look_into
from edgetem_nodes.featurizer.cbed.sampling import DISKS
from edgetem_nodes.featurizer.cbed.training.disks import SCALE, SHARD, DiskData
from edgetem_nodes.featurizer.cbed.training.patterns import PatternData
from edgetem_nodes.featurizer.cbed.training.several import draw_several
from edgetem_nodes.featurizer.cbed.training.truth import nominal_centres, true_lattices
from edgetem_nodes.featurizer.cbed.training.workers import in_shards, shared_array


@dataclass(frozen=True)
class Sources:
    """Where patterns come from.

    Attributes
    ----------
    trained : of the materials to be known. others : of materials that are none of them; there may be none.
    other_share, several_share : parts of the patterns that are of others, and of more than one crystal.
    countings : times that each drawn pattern is counted, each time with another number of electrons.
    """

    trained: NanobeamGenerator
    others: tuple[NanobeamGenerator, ...] = ()
    other_share: float = 0.0
    several_share: float = 0.0
    countings: int = 1


@dataclass
class Readings:
    """Of n patterns.

    Attributes
    ----------
    disks : for the refining network; right : (n,) bool, whether the lattice is the true one.
    patterns : for the pattern networks; found : (n,) bool, whether there is any lattice.
    """

    disks: DiskData
    right: np.ndarray
    patterns: PatternData
    found: np.ndarray


def exposures_of(batch: NanobeamBatch) -> Exposures:
    """What is known of drawn patterns beforehand."""
    return Exposures(batch.pixel_angle[:, None, None] * batch.distortion, nominal_centres(batch), batch.high_tension,
                     batch.semi_convergence_angle, np.eye(2))


def _basis(lattice: np.ndarray) -> np.ndarray:
    """(n, 2, 2) vectors as columns of lattices (n, 6)."""
    return lattice[:, [1, 2, 4, 5]].reshape(-1, 2, 2)


def right_lattices(found: np.ndarray, truth: np.ndarray, radii: np.ndarray) -> np.ndarray:
    """Whether found lattices (n, 6) are the true ones, or every other or every fourth of their disks: (n,) bool."""
    ok = np.isfinite(found).all(axis=1)
    found = np.where(ok[:, None], found, truth)
    multiples = np.linalg.inv(_basis(truth)) @ _basis(found)
    whole = np.rint(multiples)
    size = np.abs(np.rint(np.linalg.det(whole)))
    # relative to what was found, so that multiples are not judged more severely
    off = np.abs(multiples - whole).max(axis=(1, 2))
    centred = np.hypot(*(found[:, [0, 3]] - truth[:, [0, 3]]).T) < 0.7 * radii
    return ok & centred & (off < 0.15) & np.isin(size, (1, 2, 4))


def changes(found: np.ndarray, truth: np.ndarray, radii: np.ndarray) -> np.ndarray:
    """From found lattices (n, 6) to the true ones in their basis (n, 6) [radii], indices divided by `INDEX_SCALE`."""
    basis = _basis(truth)
    wanted = truth.copy()
    wanted[:, [1, 2, 4, 5]] = (basis @ np.rint(np.linalg.inv(basis) @ _basis(found))).reshape(-1, 4)
    return (wanted - found) / (SCALE * radii[:, None])


def draw_readings(networks: LatticeNetworks, references: np.ndarray, sources: Sources, patterns: int, seed: int,
                  advance: Callable[[int], None] = lambda _: None, workers: int = 1,
                  stopped: Callable[[], bool] = lambda: False) -> Readings:
    """Read `patterns` patterns, each counted `countings` times; the same however many `workers` there are.

    Rows of shards that were not drawn have neither a right lattice nor any.
    """
    total = patterns * sources.countings
    data = Readings(DiskData.allocated(total, DISKS, FINE_INPUTS, PRIOR), shared_array((total,), np.bool_),
                    PatternData.allocated(total), shared_array((total,), np.bool_))

    def shard(number: int) -> int:
        first = number * SHARD
        count = min(SHARD, patterns - first)
        _fill(data, networks, references, sources, first * sources.countings, count, np.random.default_rng([seed, 2, number]))
        return count

    for _, count in in_shards(shard, -(-patterns // SHARD), workers, stopped):
        advance(count)
    return data


def _fill(data: Readings, networks: LatticeNetworks, references: np.ndarray, sources: Sources, filled: int, count: int,
          rng: np.random.Generator) -> None:
    pixels = int(rng.choice(sources.trained.ranges.pixels))
    others = round(count * sources.other_share) if sources.others else 0
    several = round(count * sources.several_share)
    classes = len(sources.trained.materials)
    drawn = [(sources.trained.draw(count - others - several, rng, pixels), None)]
    if others:
        drawn.append((sources.others[rng.integers(len(sources.others))].draw(others, rng, pixels), classes))
    if several:
        drawn.append((draw_several(sources.trained, several, pixels, rng), classes + 1))
    for batch, label in drawn:
        for number in range(sources.countings):
            counted = batch if number == 0 else counted_again(batch, sources.trained.ranges, rng)
            _read(data, networks, references, counted, label, filled, classes)
            filled += len(batch.patterns)


def counted_again(batch: NanobeamBatch, ranges: ConditionRanges, rng: np.random.Generator) -> NanobeamBatch:
    """The same patterns with other electrons, and another number of them."""
    electrons = np.exp(rng.uniform(*np.log(ranges.electrons), len(batch.electrons)))
    ratio = electrons / batch.electrons
    expected = batch.expected * ratio[:, None, None].astype(np.float32)
    return replace(batch, expected=expected, electrons=electrons, patterns=rng.poisson(expected).astype(np.float32),
                   disk_counts=batch.disk_counts * ratio[:, None])


def _read(data: Readings, networks: LatticeNetworks, references: np.ndarray, batch: NanobeamBatch, label: int | None,
          filled: int, classes: int) -> None:
    """Enter what is read from a batch; `label` None: of its materials."""
    exposures, part = exposures_of(batch), slice(filled, filled + len(batch.patterns))
    lattices = find_lattices(networks, batch.patterns, exposures.radii, exposures.centre,
                             known_lattices(references, exposures), beams_of(exposures), refine=False)
    truth = true_lattices(batch)
    right = right_lattices(lattices.lattice, truth, exposures.radii)
    _enter_disks(data.disks, part, lattices, batch.patterns, exposures, np.where(
        right[:, None], changes(np.where(right[:, None], lattices.lattice, truth), truth, exposures.radii), 0.0))
    reading = look_into(lattices, batch.patterns, exposures)
    data.right[part] = right & (label is None or label == classes)
    data.found[part] = np.isfinite(lattices.lattice[:, 0])
    wanted = data.patterns
    wanted.disks[part], wanted.present[part], wanted.context[part] = reading.disks, reading.present, reading.context
    wanted.label[part] = np.where(right, batch.material, classes) if label is None else label
    wanted.target[part] = standardised(batch.thickness, to_lattice_axes(batch.tilt, reading.axes))


def _enter_disks(data: DiskData, part: slice, lattices: Lattices, frames: np.ndarray, exposures: Exposures,
                 change: np.ndarray) -> None:
    count = len(frames)
    index, number = np.zeros((count, DISKS, 2), np.int64), np.zeros(count, np.int64)
    rows = np.zeros((count, DISKS, FINE_INPUTS), np.float32)
    sample_fine_rows(frames, lattices.lattice, exposures.radii, beams_of(exposures), lattices.total, index, number, rows)
    data.rows[part], data.index[part], data.count[part], data.change[part] = rows, index, number, change
