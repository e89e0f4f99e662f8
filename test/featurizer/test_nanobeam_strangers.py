"""Second crystals and rings beside a lattice, on patterns of even disks and even rings that no generator has drawn."""

from __future__ import annotations

import numpy as np
import pytest
from nanobeam_patterns import PIXEL, drawn, mos2_basis, sheet_pattern, simple_geometry

from edgetem_nodes.featurizer.cbed.guided import ordered_nodes
from edgetem_nodes.featurizer.cbed.nanobeam import NanobeamNetwork
from edgetem_nodes.featurizer.cbed.peaks import score_map
from edgetem_nodes.featurizer.cbed.strangers import beside, ring_share, second_lattice


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


def test_figures_of_what_is_beside_a_lattice():
    """With the lattice of the first crystal given; disks of two pixels' radius, 12 pixels apart."""
    centre, basis, nodes = np.array([32.0, 32.0]), mos2_basis(PIXEL, 0.1) * 0.55, np.zeros((60, 2))
    one, two = (sheet_pattern(0.55 * mos2_basis(PIXEL, turn), 1e5, radius=2.0) for turn in (0.1, 0.35))
    circle = float(np.hypot(*basis[:, 0]))
    found = []
    for expected in (one, one + 0.3 * two, one + 1e5 * rings((circle, np.sqrt(3) * circle), 1.5)):
        score = score_map(np.random.default_rng(4).poisson(expected).astype(np.float32), 2.0)
        count, others = min(ordered_nodes(basis, nodes), 36), beside(score, centre, basis, 2.0)
        # nothing is left of the lattice's own disks
        assert all(np.isnan(others[tuple(np.rint(centre + basis @ one).astype(int))]) for one in nodes[:12])
        found.append((second_lattice(others, centre, basis, 2.0, nodes, count),
                      ring_share(score, others, centre, basis, 2.0, nodes, count)))
    (alone, even), (second, _), (_, ring) = found
    assert alone < 3.5
    assert even < 0.02
    assert second > 12
    assert ring > 0.1
