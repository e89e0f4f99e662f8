"""Second crystals and rings beside a lattice, on patterns of even disks and even rings that no generator has drawn."""

from __future__ import annotations

import numpy as np
import pytest
from nanobeam_patterns import PIXEL, drawn, mos2_basis, sheet_pattern, simple_geometry

from edgetem_nodes.featurizer.cbed.nanobeam import NanobeamNetwork
from edgetem_nodes.featurizer.cbed.reading import Exposures, read_patterns


@pytest.fixture(scope="module")
def network() -> NanobeamNetwork:
    return NanobeamNetwork.shipped()


def rings(radii: tuple[float, ...], width: float = 2.5) -> np.ndarray:
    """Even rings (64, 64) of one electron about the middle."""
    y, x = np.indices((64, 64)) - 32.0
    image = sum(np.exp(-0.5 * ((np.hypot(y, x) - radius) / width)**2) / radius for radius in radii)
    return image / image.sum()


def refused(network: NanobeamNetwork, expected: np.ndarray, seed: int, count: int = 20) -> list[str]:
    patterns = np.random.default_rng(seed).poisson(expected, (count, 64, 64))
    found = network(patterns, simple_geometry(), 80e3, 3 * PIXEL)
    return [reason for reason, rejected in zip(found.reasons, found.rejected, strict=True) if rejected]


@pytest.mark.parametrize(("weaker", "least"), [(0.3, 10), (0.5, 18)])
def test_a_second_grain_of_few_electrons(network, weaker, least):
    """At 1e4 electrons a disk of the weaker grain has 30 or 50 electrons."""
    one, two = (sheet_pattern(mos2_basis(PIXEL, turn), 1e4) for turn in (0.1, 0.1 + np.radians(14)))
    reasons = refused(network, (1 - weaker) * one + weaker * two, 1)
    assert len(reasons) >= least
    assert sum("several crystals" in reason for reason in reasons) >= 0.7 * least


def test_one_crystal_is_not_two(network):
    assert not refused(network, sheet_pattern(mos2_basis(PIXEL, 0.1), 1e4), 2)
    batch, exposures = drawn("MoS2", 3e4, 200, seed=41)
    found = network.describe(batch.patterns, exposures)
    # drawn with amorphous layers and everything else that disturbs
    assert sum("second lattice" in reason or "rings" in reason for reason in found.reasons) <= 2


def test_rings(network):
    """Of gold, at 1e4 electrons with half of them in rings: whatever lattice is found on them is none."""
    direct = sheet_pattern(mos2_basis(PIXEL), 1.0, share=0.0)
    ratio = np.sqrt(np.array([3, 4, 8, 11]) / 3)
    reasons = refused(network, 1e4 * (0.5 * direct + 0.5 * rings(tuple(11.0 * ratio))), 3)
    assert len(reasons) == 20


def test_figures_of_what_is_beside_a_lattice(network):
    basis = mos2_basis(PIXEL, 0.1)
    one, two = sheet_pattern(basis, 1e6), sheet_pattern(mos2_basis(PIXEL, 0.35), 1e6)
    expected = np.stack([one, one + 0.3 * two, one + 2e6 * rings((9.0, 16.0))])
    frames = np.random.default_rng(4).poisson(expected).astype(np.float32)
    exposures = Exposures.of(3, simple_geometry(), 80e3, 3 * PIXEL)
    found = read_patterns(network.lattice_networks, network.references, frames, exposures).lattices
    assert found.second[0] < 4
    assert found.second[1] > 12
    assert found.ring[0] < 0.02
    assert found.ring[2] > 0.1
