"""What the nanobeam network does on a torch device, here the CPU, against the same pattern after pattern; and on threads."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from nanobeam_patterns import drawn

from edgetem_nodes.featurizer.cbed.accelerated import DeviceReader, significance_maps
from edgetem_nodes.featurizer.cbed.gathered import Tables, ranked_reflections, sampled_disks
from edgetem_nodes.featurizer.cbed.lattices import sample_fine_rows, sample_rows
from edgetem_nodes.featurizer.cbed.nanobeam import NanobeamNetwork
from edgetem_nodes.featurizer.cbed.networks import DISK_INPUTS, FINE_INPUTS
from edgetem_nodes.featurizer.cbed.peaks import binning, score_map
from edgetem_nodes.featurizer.cbed.reading import beams_of, read_patterns
from edgetem_nodes.featurizer.cbed.sampling import CELLS, DISKS, FINE_CELLS, FINE_REACH, REACH


@pytest.fixture(scope="module")
def sheets():
    return drawn("MoS2", 1e5, 40, seed=31)


@pytest.fixture(scope="module")
def reader():
    network = NanobeamNetwork(NanobeamNetwork.shipped().weights)
    return DeviceReader(network.lattice_networks, network.members, network.references, torch.device("cpu"))


def test_maps_of_significance_are_the_same(sheets):
    batch, exposures = sheets
    maps = significance_maps(torch.from_numpy(batch.patterns), exposures.radii).numpy()
    for row in range(20):
        one, rows = score_map(batch.patterns[row], exposures.radii[row]), 64 // binning(exposures.radii[row])
        np.testing.assert_allclose(maps[row, :rows, :rows], one, rtol=1e-5, atol=1e-4)
        assert not maps[row, rows:].any()


@pytest.mark.parametrize("fine", [False, True])
def test_disks_are_chosen_and_sampled_the_same(sheets, fine):
    batch, exposures = sheets
    network = NanobeamNetwork.shipped()
    lattices = read_patterns(network.lattice_networks, network.references, batch.patterns, exposures).lattices
    inputs, count = FINE_INPUTS if fine else DISK_INPUTS, len(batch.patterns)
    rows, index = np.zeros((count, DISKS, inputs), np.float32), np.zeros((count, DISKS, 2), np.int64)
    number = np.zeros(count, int)
    beams = beams_of(exposures)
    if fine:
        sample_fine_rows(batch.patterns, lattices.lattice, exposures.radii, beams, lattices.total, index, number, rows)
    else:
        sample_rows(batch.patterns, lattices.lattice, exposures.radii, lattices.total, index, number, rows)
    tables = Tables.of(torch.from_numpy(batch.patterns), *map(torch.from_numpy, (exposures.radii, lattices.total, beams)))
    lattice = torch.from_numpy(lattices.lattice)
    chosen, many = ranked_reflections(tables, lattice, DISKS)
    found = np.isfinite(lattices.lattice[:, 0])
    assert found.sum() > 30
    np.testing.assert_array_equal(many.numpy(), number)
    same = (chosen.numpy() == index).all(axis=2) | (np.arange(DISKS) >= number[:, None])
    assert same[found].all(axis=1).mean() > 0.95  # but for disks that stand out alike to the last bits
    present = torch.arange(DISKS) < many[:, None]
    ours = sampled_disks(tables, lattice, torch.from_numpy(index), present, FINE_CELLS if fine else CELLS,
                         FINE_REACH if fine else REACH, fine)
    np.testing.assert_allclose(ours.numpy()[found], rows[found], atol=1e-4)  # roots of what is empty but for rounding


def test_answers_are_those_of_the_cpu_to_single_precision(sheets, reader):
    batch, exposures = sheets
    network = NanobeamNetwork.shipped()
    one = network.describe(batch.patterns, exposures)
    other = NanobeamNetwork(network.weights)
    other._reader = reader
    two = other.describe(batch.patterns, exposures)
    np.testing.assert_array_equal(one.rejected, two.rejected)
    assert (one.phase == two.phase).mean() > 0.95
    off = np.abs(one.strain - two.strain)
    assert np.nanquantile(off, 0.95) < 1e-5
    assert np.nanmedian(np.abs(one.thickness / two.thickness - 1)) < 1e-4


def test_threads_change_nothing(monkeypatch):
    batch, exposures = drawn("MoS2", 1e4, 200, seed=32)
    monkeypatch.setattr("edgetem_nodes.featurizer.cbed.nanobeam._CHUNK", 64)
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        alone = NanobeamNetwork.shipped().describe(batch.patterns, exposures)
        shared = NanobeamNetwork(NanobeamNetwork.shipped().weights, threads=3).describe(batch.patterns, exposures)
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)
    for name in (field.name for field in dataclasses.fields(alone)):
        value = getattr(alone, name)
        if isinstance(value, np.ndarray):
            np.testing.assert_array_equal(value, getattr(shared, name), err_msg=name)


def test_devices_that_are_not_there():
    weights = NanobeamNetwork.shipped().weights
    with pytest.raises(ValueError, match="cannot use the device 'cuda:77'"):
        NanobeamNetwork(weights, device="cuda:77")
    with pytest.raises(ValueError, match="0 threads"):
        NanobeamNetwork(weights, threads=0)
