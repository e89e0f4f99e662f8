"""What nanobeam networks are trained on: shards, mirrors, other materials, several crystals, changes of lattices."""

from __future__ import annotations

import os

import numpy as np
import pytest
import torch
from nanobeam_patterns import generator

from edgetem_nodes.featurizer.cbed.generator import ConditionRanges, NanobeamGenerator
from edgetem_nodes.featurizer.cbed.lattices import LatticeNetworks
from edgetem_nodes.featurizer.cbed.materials import material
from edgetem_nodes.featurizer.cbed.networks import (DISK_INPUTS, FINE_INPUTS, INSIDE_INPUTS, DiskNetwork, PatternNetwork,
                                                    RefiningNetwork)
from edgetem_nodes.featurizer.cbed.sampling import sample_finely, sample_lattice, summed_area
from edgetem_nodes.featurizer.cbed.training import disks, patterns, samples
from edgetem_nodes.featurizer.cbed.training.calibration import Outputs, relative_sizes
from edgetem_nodes.featurizer.cbed.training.readings import (Sources, changes, counted_again, draw_readings, right_lattices)
from edgetem_nodes.featurizer.cbed.training.refining import Mirror
from edgetem_nodes.featurizer.cbed.training.samples import Descent, Samples
from edgetem_nodes.featurizer.cbed.training.several import draw_several
from edgetem_nodes.featurizer.cbed.training.workers import in_shards, shared_array

SHEETS = ConditionRanges(high_tensions=(80e3,), pixels=(64,), electrons=(1e5, 1e6))


def lattice_of(rng: np.random.Generator, count: int) -> np.ndarray:
    """Reduced lattices (count, 6) of nearly square cells [pixel]."""
    lattice = np.tile([32.0, 9.0, 0.0, 32.0, 0.0, 10.0], (count, 1))
    return lattice + rng.uniform(-1, 1, lattice.shape)


def test_shards_do_not_depend_on_who_does_them():
    results = []
    for workers in (1, 3):
        numbers = shared_array((6, 4), np.float64)

        def work(shard: int, numbers: np.ndarray = numbers) -> int:
            numbers[shard] = np.random.default_rng([5, shard]).random(4)
            return os.getpid()

        found = dict(in_shards(work, 6, workers))
        assert sorted(found) == list(range(6))
        assert (os.getpid() in found.values()) == (workers == 1)
        results.append(numbers.copy())
    np.testing.assert_array_equal(*results)
    assert (results[0] > 0).all()


def test_shards_end_when_asked_and_tell_of_errors():
    done = []
    for shard, _ in in_shards(lambda shard: shard, 10, 1, lambda: len(done) >= 3):
        done.append(shard)
    assert done == [0, 1, 2]
    assert len(list(in_shards(lambda shard: shard, 1000, 2, lambda: True))) == 0
    with pytest.raises(ZeroDivisionError):
        list(in_shards(lambda shard: 1 // (2 - shard), 5, 2))


@pytest.mark.parametrize(("flipped", "swapped"), [(False, True), (True, False), (True, True)])
def test_mirrored_inputs_are_those_of_mirrored_frames(flipped, swapped):
    frame = np.random.default_rng(0).poisson(5.0, (41, 41)).astype(np.float32)
    lattice, index = np.array([20.3, 7.0, 1.0, 19.8, 0.5, 8.0]), np.array([[0, 0], [1, 0], [0, 1], [-1, 1]])

    def inputs(image: np.ndarray, where: np.ndarray) -> np.ndarray:
        rows = np.zeros((4, FINE_INPUTS), np.float32)
        sample_finely(summed_area(image), where, 3.1, 1e4, np.array([0.3, 2e5, 2e-3]), index, 4, rows)
        return rows

    image, where, change = frame, lattice.copy(), np.arange(1.0, 7.0)
    if flipped:
        image = np.ascontiguousarray(image[::-1])
        where[:3] *= -1
        where[0] += 40
        change[:3] *= -1
    if swapped:
        image, where, change = np.ascontiguousarray(image.T), np.roll(where, 3), np.roll(change, 3)
    rows, moved = Mirror(flipped, swapped)(torch.from_numpy(inputs(frame, lattice)[None]), torch.arange(1.0, 7.0)[None])
    np.testing.assert_allclose(rows[0].numpy(), inputs(image, where), atol=1e-5)
    np.testing.assert_array_equal(moved[0].numpy(), change)


@pytest.mark.parametrize("network", [DiskNetwork(16), RefiningNetwork(16)])
def test_half_a_turn_turns_offsets(network):
    """Of a pattern turned about its centre each disk's offset is negated, and as well known."""
    rng = np.random.default_rng(1)
    frame = rng.poisson(20.0, (41, 41)).astype(np.float32)
    lattice, index = np.array([20.0, 9.1, 0.9, 20.0, -0.4, 8.2]), np.array([[0, 0], [1, 0], [-1, 0], [0, 1], [0, -1]])
    said = []
    for image, order in ((frame, index), (np.ascontiguousarray(frame[::-1, ::-1]), -index)):
        if isinstance(network, DiskNetwork):
            rows = np.zeros((5, DISK_INPUTS), np.float32)
            sample_lattice(summed_area(image), lattice, 3.1, 1e4, order, 5, rows)
            given = (torch.from_numpy(rows[None]),)
        else:
            rows = np.zeros((5, FINE_INPUTS), np.float32)
            sample_finely(summed_area(image), lattice, 3.1, 1e4, np.array([0.3, 2e5, 2e-3]), order, 5, rows)
            given = torch.from_numpy(rows[None]), torch.ones(1, 5)
        with torch.no_grad():
            said.append([one.numpy() for one in network(*given)])
    np.testing.assert_allclose(said[0][0], -said[1][0], atol=2e-6)
    np.testing.assert_allclose(said[0][1], said[1][1], rtol=2e-5)
    assert np.abs(said[0][0]).max() > 1e-4


def test_changes_lead_to_the_true_lattice_in_the_basis_that_was_found():
    rng = np.random.default_rng(2)
    truth, radii = lattice_of(rng, 40), rng.uniform(1.5, 4.0, 40)
    found = truth + 0.2 * rng.standard_normal(truth.shape)
    basis = found[:, [1, 2, 4, 5]].reshape(-1, 2, 2)
    found[::2, [1, 2, 4, 5]] = (basis @ np.array([[1, 1], [-1, 1]])).reshape(-1, 4)[::2]  # every other disk
    assert right_lattices(found, truth, radii).all()
    change = changes(found, truth, radii)
    solved = found + change * disks.SCALE * radii[:, None]
    np.testing.assert_allclose(solved[1::2], truth[1::2])
    multiple = truth[:, [1, 2, 4, 5]].reshape(-1, 2, 2) @ np.array([[1, 1], [-1, 1]])
    np.testing.assert_allclose(solved[::2, [1, 2, 4, 5]], multiple.reshape(-1, 4)[::2])
    wrong = found.copy()
    wrong[:, 1] *= 1.3
    assert not right_lattices(wrong, truth, radii).any()


def test_other_doses_of_the_same_patterns():
    batch = generator("MoS2", 1e5).draw(40, np.random.default_rng(3), 64)
    again = counted_again(batch, SHEETS, np.random.default_rng(4))
    ratio = again.electrons / batch.electrons
    assert ratio.std() > 0.5
    np.testing.assert_allclose(again.expected.sum(axis=(1, 2)), batch.expected.sum(axis=(1, 2)) * ratio, rtol=1e-4)
    total = again.expected.sum(axis=(1, 2))
    np.testing.assert_allclose(again.patterns.sum(axis=(1, 2)), total, atol=5 * np.sqrt(total.max()))


def test_several_crystals_are_two_lattices_or_rings():
    """Whatever of the beam is where, no electron is lost; rings do not depend on the azimuth, grains do."""
    batch = draw_several(NanobeamGenerator([material("MoS2")], SHEETS), 60, 64, np.random.default_rng(5))
    y, x = np.indices((64, 64))
    flat = 0
    for image, centre in zip(batch.expected, batch.centre, strict=True):
        radius = np.hypot(y - centre[0], x - centre[1])
        ring = (radius > 8) & (radius < 20)
        profile = np.array([image[ring & (np.abs(radius - r) < 0.5)].mean() for r in range(9, 20)])
        along = np.interp(radius[ring], np.arange(9, 20), profile)
        flat += np.abs(image[ring] - along).sum() < 0.5 * image[ring].sum()
    assert 0.2 < flat / 60 < 0.65
    electrons = batch.expected.sum(axis=(1, 2)) / batch.electrons
    assert (electrons < 1.01).all() and np.median(electrons) > 0.85


def test_what_is_read_is_the_same_for_any_number_of_processes():
    trained = NanobeamGenerator([material("MoS2"), material("WS2")], SHEETS)
    other = NanobeamGenerator([material("MoTe2")], SHEETS)
    sources = Sources(trained, (other,), 0.2, 0.1, 2)
    references = np.linalg.inv(material("MoS2").reference_lattice)[None]
    torch.manual_seed(0)
    networks = LatticeNetworks(DiskNetwork(8), RefiningNetwork(8))
    readings = [draw_readings(networks, references, sources, 300, 7, workers=workers) for workers in (1, 2)]
    for one, two in zip(*(vars(reading.patterns).values() for reading in readings), strict=True):
        np.testing.assert_array_equal(one, two)
    np.testing.assert_array_equal(readings[0].disks.rows, readings[1].disks.rows)
    first = readings[0]
    label = first.patterns.label
    # shares of others and of several, in shards of 256 and 44; each is counted twice
    assert (label == 3).sum() == 2 * (26 + 4) and (label == 2).sum() >= 2 * (51 + 9)
    assert first.right[label < 2].all() and not first.right[label == 3].any()
    assert first.right[label == 2].mean() > 0.5  # the lattice of another material is one to learn from


def test_samples_come_once_an_epoch():
    kept = np.array([1, 2, 5, 7, 9, 11, 12])
    every = Samples({"value": np.arange(20, dtype=np.float16)}, (), np.zeros(20), "cpu", kept)
    seen = [sum((part["value"].tolist() for part in batch), []) for batch in every.batches(3, torch.Generator().manual_seed(0))]
    assert [len(one) for one in seen] == [3, 3] and every.steps(3) == 2
    assert set(sum(seen, [])) <= set(kept.tolist()) and len(set(sum(seen, []))) == 6


def test_a_batch_s_parts_leave_out_only_disks_that_are_not_there():
    rng = np.random.default_rng(4)
    count = rng.integers(1, 25, 600)
    rows = np.where(np.arange(24) < count[:, None], rng.random((600, 24)), np.nan).astype(np.float32)
    every = Samples({"rows": rows, "number": np.arange(600)}, ("rows",), count, "cpu")
    parts = list(next(every.batches(600, torch.Generator().manual_seed(0))))
    numbers = torch.cat([part["number"] for part in parts])
    np.testing.assert_array_equal(numbers.sort().values, np.arange(600))
    total = sum(part["rows"].nan_to_num(0.0).double().sum() for part in parts)
    assert float(total) == pytest.approx(np.nansum(rows, dtype=float), rel=1e-6)
    empty = np.mean([float(torch.isnan(part["rows"]).float().mean()) for part in parts])
    assert len(parts) == 5 and empty < 0.25 < 0.4 < np.isnan(rows).mean()
    # what is made up is taken from the front of a part: it must not be those of few disks
    assert all(abs(np.corrcoef(np.arange(len(one)), count[one])[0, 1]) < 0.35
               for one in (part["number"].numpy() for part in parts))


def test_parts_of_a_batch_give_the_gradient_of_the_whole():
    torch.manual_seed(0)
    network = torch.nn.Linear(3, 1)
    values = torch.randn(40, 3)

    def mean(part: torch.Tensor) -> torch.Tensor:
        return (network(part)**2).sum() / 40

    before = mean(values)
    whole = torch.autograd.grad(before, list(network.parameters()))
    said = Descent(network, "cpu", 1e-2, 10, 0.0).step((mean(part), mean(part)) for part in values.split(16))
    assert said.item() == pytest.approx(before.item(), rel=1e-5) and mean(values).item() < before.item()
    for one, expected in zip(network.parameters(), whole, strict=True):
        np.testing.assert_allclose(one.grad, expected, rtol=1e-5)


def test_a_descent_in_parts_is_that_of_the_whole_batch(monkeypatch):
    data, losses = disks.draw_disks(generator("MoS2", 1e5), 64, 1, 0), []
    for part in (16, 4096):
        monkeypatch.setitem(samples._PART, "cpu", part)
        torch.manual_seed(0)
        steps = disks.epochs(DiskNetwork(16), data, 4, 32, 5e-3, torch.Generator().manual_seed(0))
        losses.append([one.item() for one in steps])
    assert len(losses[0]) == 8 and losses[0][-1] < losses[0][0]
    np.testing.assert_allclose(losses[0], losses[1], rtol=1e-3)


def test_the_phase_counts_most_at_first():
    assert [patterns.phase_weight(gone) for gone in (0.0, 0.4, 1.0)] == [40.0, 40.0, 1.0]
    assert patterns.phase_weight(0.7) == pytest.approx(40**0.5)


def test_inputs_are_standardised():
    rng = torch.Generator().manual_seed(1)
    disks_, present = 5 + 3 * torch.randn(50, 24, INSIDE_INPUTS, generator=rng), torch.ones(50, 24)
    context = torch.randn(50, 14, generator=rng)
    network = PatternNetwork(4, 16, 16)
    network.standardise(disks_, present, context)
    assert network.disk_mean.mean() == pytest.approx(5, abs=0.1) and network.disk_spread.mean() == pytest.approx(3.02, abs=0.1)
    assert [tuple(one.shape) for one in network(disks_, present, context)] == [(50, 4), (50, 3, 7), (50, 16)]


def test_error_of_a_cell_s_size_follows_from_its_vectors():
    """Against a Monte Carlo of vectors with a given covariance."""
    rng = np.random.default_rng(9)
    true = np.array([[4e9, 0.5e9], [0.3e9, 5e9]])
    root = 1e7 * rng.standard_normal((4, 4))
    vectors = true + (rng.standard_normal((50_000, 4)) @ root.T).reshape(-1, 2, 2)
    nothing = np.zeros(50_000)
    outputs = Outputs(vectors, np.broadcast_to(true, vectors.shape), np.broadcast_to(root @ root.T, (50_000, 4, 4)), nothing,
                      nothing, nothing, nothing, nothing, nothing, nothing, nothing)
    off, error = relative_sizes(outputs)
    assert (off / error).std() == pytest.approx(1, abs=0.02)
