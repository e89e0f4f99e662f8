"""`python -m edgetem_nodes.featurizer.micro_scan graphene --step 220 --defocus 6`: what the network finds of what was drawn.

Micro-scans of the generator under one stated beam, with its unknown aberrations, source and jitter; the sheet is told. For
every class of defect: how many of those present were found, by how far they are beyond the outermost probes, and what counting
alone would allow (standard errors from the perfect column).
"""

from __future__ import annotations

import argparse
import sys
import time
from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch

from edgetem_nodes.featurizer.micro_scan.calibrating import matched
from edgetem_nodes.featurizer.micro_scan.columns import TELLING_SITE, judge
from edgetem_nodes.featurizer.micro_scan.conditions import MicroScan
from edgetem_nodes.featurizer.micro_scan.generator import MicroScanGenerator, Ranges
from edgetem_nodes.featurizer.micro_scan.hosts import BY_NAME, NAMES, Host
from edgetem_nodes.featurizer.micro_scan.limits import limits, telling
from edgetem_nodes.featurizer.micro_scan.network import MicroScanNetwork
from edgetem_nodes.physics.optics import Probe

ZONES = np.array([0.0, 0.5, 1.0, 1.5, 2.0]) * 1e-10
"""Edges [m] of distances beyond the outermost probes."""

_REGISTRIES = ((0.2, 0.0, 0.0), (0.5, 0.7e-10, 0.3e-10), (0.9, 0.2e-10, 1e-10), (0.05, 1e-10, 0.0))
"""Turns [rad] and origins [m] over which limits are averaged."""


@dataclass
class Found:
    """What was found of what was there.

    Attributes
    ----------
    drawn, accepted : micro-scans; areas : footprints [m^2] of those accepted.
    there, found, named : numbers (ZONES + 1,) by (class, class of the perfect column): present in neighbourhoods of accepted
        micro-scans, told from the perfect column, and given their own class.
    told, false : perfect columns in footprints that can be told, and those taken for defects.
    stated, true : probability of every column that can be told to be perfect, and whether it is.
    chi_square : squared distances of atoms from where they were placed, in standard errors.
    reasons : why others were refused; seconds : of processor time a micro-scan.
    """

    drawn: int = 0
    accepted: int = 0
    areas: list[float] = field(default_factory=list)
    there: dict = field(default_factory=lambda: defaultdict(lambda: np.zeros(len(ZONES) + 1, int)))
    found: dict = field(default_factory=lambda: defaultdict(lambda: np.zeros(len(ZONES) + 1, int)))
    named: dict = field(default_factory=lambda: defaultdict(lambda: np.zeros(len(ZONES) + 1, int)))
    told: int = 0
    false: int = 0
    stated: list[float] = field(default_factory=list)
    true: list[bool] = field(default_factory=list)
    chi_square: list[float] = field(default_factory=list)
    reasons: list[str] = field(default_factory=list)
    seconds: float = 0.0


def evaluate_generated(network: MicroScanNetwork, host: Host, scan: MicroScan, count: int, rng: np.random.Generator,
                       ranges: Ranges | None = None) -> Found:
    """Of `count` micro-scans of a sheet that is told; conditions that the scan does not state are drawn from `ranges`."""
    from dataclasses import replace

    generator = MicroScanGenerator(replace(ranges or Ranges(), foreign=0.0), (host,))
    batch, result = generator.draw(count, rng, scan), Found(count)
    electrons = np.array([scan.electrons])
    begun = time.process_time()
    for row, piece in enumerate(batch.pieces):
        columns = network.columns(batch.signals[row:row + 1], electrons, scan)
        judged = judge(columns, scan, network.calibration, (host,))
        if judged.reason:
            result.reasons.append(judged.reason)
            continue
        result.accepted += 1
        result.areas.append((2 * judged.half) ** 2)
        sure = judged.inside & (judged.detection >= TELLING_SITE) & (judged.posterior.max(axis=1) > 0.5)
        sites, true = matched(columns, piece, sure)
        likeliest, expected = judged.posterior[sites].argmax(axis=1), judged.expected[sites]
        actual = piece.classes[true]
        perfect = actual == expected
        result.told += int(perfect.sum())
        result.false += int((likeliest != expected)[perfect].sum())
        result.stated += judged.posterior[sites, expected].tolist()
        result.true += perfect.tolist()
        there = (actual > 0) & (likeliest > 0)
        off = (piece.sites[true] - columns.sites[sites] - columns.offsets[sites])[there]
        result.chi_square += np.einsum("ni,nij,nj->n", off, np.linalg.inv(columns.covariances[sites][there]), off).tolist()
        answer = dict(zip(true.tolist(), likeliest.tolist(), strict=True))
        for site in np.flatnonzero(piece.classes != piece.hosts):
            beyond = np.abs(piece.sites[site]).max() - scan.span / 2
            if beyond > 3e-10:
                continue
            key, zone = (int(piece.classes[site]), int(piece.hosts[site])), int(np.digitize(beyond, ZONES))
            result.there[key][zone] += 1
            result.found[key][zone] += answer.get(int(site), piece.hosts[site]) != piece.hosts[site]
            result.named[key][zone] += answer.get(int(site), piece.hosts[site]) == piece.classes[site]
    result.seconds = (time.process_time() - begun) / count
    return result


def _table(found: Found, host: Host, scan: MicroScan) -> str:
    allowed = telling(limits(host, scan), host, scan)
    between = [f"{low * 1e10:g} to {high * 1e10:g} Å" for low, high in zip(ZONES[:-1], ZONES[1:], strict=True)]
    names = ["inside", *between, "beyond"]
    lines = ["| defect | " + " | ".join(names) + " | named inside | standard errors by counting |",
             "|---" * (len(names) + 3) + "|"]
    for (actual, own), there in sorted(found.there.items()):
        name = f"{NAMES[actual]} for {NAMES[own]}"
        cells = [f"{int(hit)} of {int(of)}" for hit, of in zip(found.found[actual, own], there, strict=True)]
        lines.append(f"| {name} | " + " | ".join(cells)
                     + f" | {found.named[actual, own][0]} | {allowed.get(name, np.nan):.3g} |")
    return "\n".join(lines)


def _allowed(host: Host, scan: MicroScan) -> str:
    found = [limits(host, scan, turn, (y, x)) for turn, y, x in _REGISTRIES]
    inside = [one.detection[(np.abs(one.sites) < scan.span / 2).all(axis=1)] for one in found]
    told = ", ".join(f"{name} {value:.3g}" for name, value in telling(found[0], host, scan).items())
    area = np.mean([one.footprint() for one in found]) * 1e18
    return (f"worst detection index between the outermost probes {np.mean([one.min() for one in inside]):.3g}, median "
            f"{np.mean([np.median(one) for one in inside]):.3g}; footprint {area:.3g} nm^2; standard errors from the perfect "
            f"column: {told}")


def _sentences(found: Found) -> list[str]:
    stated, true = np.array(found.stated), np.array(found.true, bool)
    lines = [f"accepted {found.accepted} of {found.drawn}; footprint {np.mean(found.areas or [np.nan]) * 1e18:.3g} nm^2 on "
             f"average; {found.false} of {found.told} perfect columns taken for defects; "
             f"90 % ellipses hold {np.mean(np.array(found.chi_square) < 4.605):.3f}; {found.seconds:.2f} CPU s a micro-scan"]
    for low, high in ((0, 0.1), (0.1, 0.5), (0.5, 0.9), (0.9, 0.97), (0.97, 1.01)):
        here = (stated >= low) & (stated < high)
        if here.any():
            lines.append(f"perfect with a probability of {low:g} to {min(high, 1):g}: stated {stated[here].mean():.3f}, true "
                         f"{true[here].mean():.3f} of {here.sum()}")
    return lines + [f"refused: {reason}" for reason in found.reasons]


def main(arguments: list[str] | None = None) -> int:
    """Print the table; the exit code."""
    parser = argparse.ArgumentParser(prog="python -m edgetem_nodes.featurizer.micro_scan", description=__doc__)
    parser.add_argument("host", choices=list(BY_NAME))
    for name, default, meaning in (("--high-tension", 80.0, "kV"), ("--semi-convergence", 27.0, "mrad"),
                                   ("--outer", 39.0, "mrad, of the camera"), ("--step", 110.0, "pm"),
                                   ("--defocus", 0.0, "nm"), ("--electrons", 1e5, "in a pattern"),
                                   ("--density", 0.1, "most defects a site")):
        parser.add_argument(name, type=float, default=default, help=meaning)
    parser.add_argument("--points", type=int, default=8)
    parser.add_argument("--count", type=int, default=40, help="micro-scans")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--weights", type=Path)
    parser.add_argument("--limits", action="store_true", help="only what counting alone would allow")
    given = parser.parse_args(arguments)
    torch.set_num_threads(1)
    scan = MicroScan(Probe(given.high_tension * 1e3, given.semi_convergence * 1e-3, given.defocus * 1e-9), given.points,
                     given.step * 1e-12, given.outer * 1e-3, given.electrons)
    host = BY_NAME[given.host]
    if given.limits:
        print(_allowed(host, scan))
        return 0
    network = MicroScanNetwork.load(given.weights) if given.weights else MicroScanNetwork.shipped()
    found = evaluate_generated(network, host, scan, given.count, np.random.default_rng([given.seed, 99]),
                               Ranges(density=given.density))
    print(_table(found, host, scan), *_sentences(found), sep="\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
