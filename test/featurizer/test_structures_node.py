"""`get_structure` of a pattern and a micro-scan together, and of rows that failed: no structure goes out, whoever asks."""

from __future__ import annotations

import uuid

import numpy as np
import pytest
from ase.build import graphene
from edgetem.srv import GetStructure
from featurizer_bench import Bench
from test_structures_defects import seen

from edgetem_nodes.featurizer.micro_scan.descriptors import ELEMENTS
from edgetem_nodes.graph.messages import from_uuid, numbers

Codes = GetStructure.Response
PATTERN, SCAN = uuid.UUID(int=1), uuid.UUID(int=2)
SITE = np.array([[3e-9, 5e-9]])


@pytest.fixture
def bench():
    made = Bench(scalarizer="lattice", lattice__material="graphene")
    made.activate()
    yield made
    made.close()


def remember(bench, key, details, position=SITE, failure=""):
    """What a row leaves behind in the node."""
    bench.node.memory.add(key, 0, position, [7], {name: np.array([value]) for name, value in details.items()}, [failure])


def pattern(**more):
    return {"deformation": np.diag([1.01, 0.99]), "deformation_covariance": np.eye(4) * 1e-6, **more}


def scan(**changes):
    found = seen(graphene(a=2.46, vacuum=5), np.diag([1.01, 0.99]), (0.4, 0.1), defects={0: 0})
    probabilities = np.zeros((len(found.host), len(ELEMENTS)))
    for ours, theirs in ((0, 0), (2, ELEMENTS.index(6))):
        probabilities[:, theirs] = found.probabilities[:, ours]
    return {"atoms": found.positions, "atom_covariance": found.covariances, "host": found.host, "layer": found.layer,
            "species_probability": probabilities, "footprint": found.footprint, **changes}


def ask(bench, micro_scan=SCAN):
    request = GetStructure.Request(acquisition_id=from_uuid(PATTERN), micro_scan_id=from_uuid(micro_scan))
    future = bench.client.call_async(request)
    bench.until(future.done)
    return future.result()


def test_a_pattern_and_a_micro_scan_become_one_cell(bench):
    remember(bench, PATTERN, pattern())
    remember(bench, SCAN, scan(), SITE + 0.2e-9)
    answer = ask(bench)
    assert answer.error_code == 0, answer.error_msg
    told = answer.structure
    assert (told.material, len(told.atomic_numbers), told.charge) == ("graphene", 31, 0)
    assert (told.micro_scan_id, told.acquisition_id) == (from_uuid(SCAN), from_uuid(PATTERN))
    assert list(told.defects) == ["V_C"] and told.defect_probabilities[0] == pytest.approx(0.97)
    assert told.footprint_area == pytest.approx(0.8464e-18)
    np.testing.assert_allclose(told.seen_probabilities, [0.97])
    np.testing.assert_allclose(told.seen_positions, scan()["atoms"][0, ::-1], atol=1e-12)
    assert list(told.seen_in_cell) == [True]
    covariances = numbers(told.position_covariances, (31, 2, 2))
    assert np.isfinite(covariances).all(axis=(1, 2)).sum() > 20
    assert numbers(told.deformation_covariance, (4, 4))[0, 0] == pytest.approx(1e-6 / 0.99 ** 2)
    bench.until(lambda: bench.structures)
    assert str(bench.structures[0]) == str(told)


def test_a_phase_chooses_the_crystal(bench):
    remember(bench, PATTERN, pattern(phase=0, material="SrTiO3 [001]", phase_probability=0.99))
    answer = ask(bench, uuid.UUID(int=0))
    assert answer.error_code == 0, answer.error_msg
    assert np.bincount(np.array(answer.structure.atomic_numbers))[[8, 22, 38]].tolist() == [27, 9, 9]
    assert list(answer.structure.periodic) == [True] * 3 and answer.structure.material == "SrTiO3 [001]"


@pytest.mark.parametrize(("told", "micro_scan", "code", "message"), [
    (dict(details=pattern(), failure="the pattern is rejected: it is empty"), None, Codes.NOT_IDENTIFIABLE,
     "rejected: it is empty"),
    (dict(details=pattern()), dict(details=scan(), failure="rejected: unlike the training set"), Codes.NOT_IDENTIFIABLE,
     "unlike"),
    (dict(details=pattern()), dict(details=scan(), position=SITE + 5e-9), Codes.NOT_IDENTIFIABLE, "7.07 nm apart"),
    (dict(details=pattern()), dict(details=pattern()), Codes.NO_STRUCTURE_MODEL, "is no micro-scan"),
    (dict(details=pattern(phase=-1, material="", phase_probability=0.2)), None, Codes.NOT_IDENTIFIABLE, "none of those"),
    (dict(details=pattern(phase=0, material="graphene", phase_probability=0.6)), None, Codes.NOT_IDENTIFIABLE, "0.6, below"),
    (dict(details=pattern(phase=0, material="MoS2", phase_probability=1.0)), dict(details=scan()), Codes.NOT_IDENTIFIABLE,
     "contradict"),
    (dict(details=pattern(phase=0, material="Si [110]", phase_probability=1.0)), dict(details=scan()), Codes.NOT_IDENTIFIABLE,
     "is a crystal"),
])
def test_what_is_rejected_or_contradictory_never_reaches_an_engine(bench, told, micro_scan, code, message):
    remember(bench, PATTERN, **told)
    if micro_scan:
        remember(bench, SCAN, **micro_scan)
    answer = ask(bench, SCAN if micro_scan else uuid.UUID(int=0))
    assert answer.error_code == code and message in answer.error_msg
    assert not len(answer.structure.atomic_numbers) and not bench.structures


def test_an_unknown_micro_scan_is_said(bench):
    remember(bench, PATTERN, pattern())
    assert ask(bench).error_code == Codes.UNKNOWN_MEASUREMENT
