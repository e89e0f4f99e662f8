"""Edges and element windows of whole spectrum images: Monte Carlo, and what they refuse."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

from edgetem_nodes.featurizer.features import CountingNoise
from edgetem_nodes.featurizer.parameters import EelsEdge, Parameters
from edgetem_nodes.featurizer.scalarizers import measure
from edgetem_nodes.featurizer.spectroscopy import (
    ElementCounts, ElementWindows, edge_signal, line_energies, line_energy, line_width, ratio, subtract_background,
    weight_fractions)
from edgetem_nodes.featurizer.spectroscopy.axes import energy_axis

ENERGIES = 700.0 + 8 * np.arange(162)
XRAY = 100 + 10.0 * np.arange(1100)


def edges(level: float, edge: float) -> np.ndarray:
    return level * (ENERGIES / 835)**-3.0 + edge * (ENERGIES >= 928)


def test_edge_signal_is_that_of_the_scalarizer_for_any_number_of_spectra():
    counts = np.random.default_rng(1).poisson(edges(500, 40), size=(300, 162))
    signal = edge_signal(counts, ENERGIES, [750, 920], [930, 1010])
    features = measure(counts, (energy_axis(ENERGIES),), Parameters(scalarizer="eels_edge",
                                                                  eels_edge=EelsEdge([750.0, 920.0], [930.0, 1010.0])))
    assert np.array_equal(signal.counts, features.values[:, 0])
    assert np.array_equal(signal.standard_errors, features.standard_errors[:, 0])
    assert edge_signal(counts[:0], ENERGIES, [750, 920], [930, 1010]).counts.shape == (0,)


@pytest.mark.parametrize(("kind", "window"), [("power_law", [750, 920]), ("constant", [1800, 1980])])
def test_net_spectra_are_unbiased_and_their_errors_are_the_spread(kind, window):
    rng = np.random.default_rng(2)
    expected = edges(300, 60) if kind == "power_law" else np.full(162, 50.0)
    net = subtract_background(rng.poisson(expected, size=(3000, 162)), ENERGIES, window, kind=kind)
    assert not any(net.failures)
    truth = (60.0 * (net.energies >= 928)) if kind == "power_law" else 0 * net.energies
    spread = net.counts.std(axis=0)
    assert (np.abs(net.counts.mean(axis=0) - truth) < 5 * spread / np.sqrt(3000)).all()
    outside = ~((net.energies >= window[0]) & (net.energies <= window[1]))
    assert np.sqrt((net.standard_errors**2).mean(axis=0))[outside] == pytest.approx(spread[outside], rel=0.06)


def test_background_that_cannot_be_fitted_is_a_failure():
    counts = np.zeros((2, 162))
    counts[1] = edges(100, 0)
    net = subtract_background(counts, ENERGIES, [750, 920])
    assert [bool(failure) for failure in net.failures] == [True, False]
    assert np.isnan(net.counts[0]).all()
    assert np.isnan(edge_signal(counts, ENERGIES, [750, 920], [930, 1010]).counts[0])
    with pytest.raises(ValueError, match="not power_law or constant"):
        subtract_background(counts, ENERGIES, [750, 920], kind="spline")


def test_error_of_a_ratio_and_a_denominator_that_is_no_number():
    rng = np.random.default_rng(3)
    first, second = rng.normal(200, 10, 20000), rng.normal(400, 15, 20000)
    quotient, error = ratio(first, np.full(20000, 10.0), second, np.full(20000, 15.0))
    assert error.mean() == pytest.approx(quotient.std(), rel=0.03)
    quotient, error = ratio(np.array([1.0, 1.0]), np.ones(2), np.array([2.0, -5.0]), np.ones(2))
    assert np.isnan(quotient).all() and np.isnan(error).all()


def xrays(heights: dict[str, float], background: float, resolution: float = 130.0) -> np.ndarray:
    """Expected counts (channels,): Gaussian lines of so many counts on a background that falls in a straight line."""
    counts = background * (1.5 - XRAY / XRAY.max())
    for line, height in heights.items():
        sigma = np.sqrt(2.5 * (line_energy(line) - 5895) + resolution**2) / 2.3548
        counts = counts + height * 10 * np.exp(-(XRAY - line_energy(line))**2 / (2 * sigma**2)) / (sigma * np.sqrt(2 * np.pi))
    return counts


def test_net_counts_of_lines_are_unbiased_and_their_errors_cover():
    """A window of twice the width holds 98.1 % of a Gaussian."""
    heights = {"Fe_Ka": 60.0, "Fe_Kb": 8.0, "Pt_La": 30.0, "O_Ka": 20.0, "Pt_Ma": 40.0}
    counts = np.random.default_rng(4).poisson(xrays(heights, 0.8), size=(4000, len(XRAY)))
    windows = ElementWindows(["Fe_Ka", "Pt_La", "O_Ka"], XRAY, present=("C",))
    assert [len(windows.sides[line]) for line in ("Fe_Ka", "Pt_La")] == [4, 4]
    for line, net in windows(counts).items():
        assert not any(net.failures)
        assert net.counts.mean() == pytest.approx(0.981 * heights[line], abs=5 * net.counts.std() / np.sqrt(4000) + 0.3)
        assert np.sqrt((net.standard_errors**2).mean()) == pytest.approx(net.counts.std(), rel=0.06)


@pytest.mark.parametrize(("line", "hidden"), [
    ("Ni_Ka", "Co_Kb"), ("Cu_Ka", "Ni_Kb"), ("Zn_Ka", "Cu_Kb"), ("K_Ka", "Ar_Kb"), ("Mo_Ka", "Zr_Kb"), ("Br_Ka", "As_Kb"),
    ("Se_Ka", "Ge_Kb"), ("Mo_La", "S_Ka"), ("Ti_Ka", "Ba_La")])
def test_flanks_of_weak_lines_are_refused(line, hidden):
    axis = 10.0 * np.arange(2000)
    with pytest.raises(ValueError, match=f"% of {hidden}"):
        ElementWindows([line], axis, present=(hidden.split("_")[0],))
    ElementWindows([line], axis)


@pytest.mark.parametrize("element", ["Fe", "Ni", "Cu", "Pt"])
def test_what_is_not_there_is_not_counted(element):
    """A million counts of every line of an element: less than one in a hundred in any line of others that is accepted."""
    accepted = 0
    for line in ("C_Ka", "O_Ka", "Si_Ka", "Ti_Ka", "Cr_Ka", "Mn_Ka", "Fe_Ka", "Co_Ka", "Ni_Ka", "Cu_Ka", "Zn_Ka", "Au_La",
                 "Mo_La"):
        if line.startswith(element):
            continue
        try:
            windows = ElementWindows([line], XRAY, present=(element,))
        except ValueError:
            continue
        accepted += 1
        for other in line_energies():
            if other.split("_")[0] == element and 100 < line_energy(other) < 11000:
                assert abs(windows(xrays({other: 1e6}, 0.0)[None])[line].counts[0]) < 1.1e4
    assert accepted >= 8


def test_share_of_a_line_that_is_counted():
    """98.14 % of a Gaussian lie within one full width on either side; side windows take off what reaches them."""
    whole = ElementWindows(["Fe_Ka", "Pt_La"], XRAY, background=False)
    net = ElementWindows(["Fe_Ka", "Pt_La"], XRAY)
    for line in ("Fe_Ka", "Pt_La"):
        assert whole.shares[line] == pytest.approx(0.9814, abs=0.005)
        counts = net(xrays({line: 1e6}, 0.0)[None])[line].counts[0]
        assert net.shares[line] == pytest.approx(counts / 1e6, abs=2e-3)
    # channels of 10 eV; by hand for Fe
    assert net.shares["Fe_Ka"] == pytest.approx(0.979, abs=0.001)


def test_side_windows_keep_clear_of_the_lines_of_what_is_present():
    windows = ElementWindows(["Fe_Ka"], XRAY, present=("Cr", "Co"))
    first, last = windows.windows["Fe_Ka"]
    for low, high in zip(windows.sides["Fe_Ka"][::2], windows.sides["Fe_Ka"][1::2], strict=True):
        assert high <= first or low >= last
        for line, energy in line_energies().items():
            if line.split("_")[0] in ("Fe", "Cr", "Co") and 100 < energy < 11000:
                assert not low < energy < high


@pytest.mark.parametrize(("lines", "options", "message"), [
    (["Fe_Xa"], {}, "Fe has Fe_Ka, Fe_Kb"),
    (["Qq_Ka"], {}, "are not known"),
    (["U_Ka"], {}, "not on the energy axis"),
    (["Fe_Ka", "Mn_Ka"], {"present": ("Mn",), "resolution": 300.0}, "lies in the window"),
    (["Co_Ka"], {"present": ("Fe",), "resolution": 200.0}, "Fe_Kb lies in the window of Co_Ka"),
    (["Fe_Ka"], {"widths": 0.0}, "must be positive"),
])
def test_lines_that_cannot_be_measured_are_refused(lines, options, message):
    with pytest.raises(ValueError, match=message):
        ElementWindows(lines, XRAY, **options)


def test_line_width_is_stated_at_manganese():
    assert line_width(5895.0, 128.0) == pytest.approx(128.0)
    assert line_width(277.0, 130.0) == pytest.approx(np.sqrt(130**2 - 2.5 * 5618))
    assert line_width(12000.0, 130.0) == pytest.approx(np.sqrt(130**2 + 2.5 * 6105))


def test_weight_fractions_sum_to_one_and_their_errors_are_the_spread():
    rng = np.random.default_rng(5)
    names, true, k = ["Fe_Ka", "Pt_La"], np.array([900.0, 300.0]), {"Fe_Ka": (1.4, 0.0), "Pt_La": (4.0, 0.0)}
    drawn = rng.poisson(true, size=(20000, 2)).astype(float)
    counts = {name: ElementCounts(one, np.sqrt(one), 0 * one, [""] * 20000) for name, one in zip(names, drawn.T, strict=True)}
    result = weight_fractions(counts, k)
    assert sum(value for value, _ in result.values()) == pytest.approx(1.0)
    expected = 1.4 * 900 / (1.4 * 900 + 4.0 * 300)
    assert result["Fe_Ka"][0].mean() == pytest.approx(expected, abs=1e-3)
    assert result["Fe_Ka"][1].mean() == pytest.approx(result["Fe_Ka"][0].std(), rel=0.03)
    uncertain = weight_fractions(counts, {"Fe_Ka": (1.4, 0.14), "Pt_La": (4.0, 0.0)})
    assert (uncertain["Fe_Ka"][1] > result["Fe_Ka"][1]).all()
    nothing = {name: ElementCounts(np.zeros(1), np.ones(1), np.zeros(1), [""]) for name in names}
    assert np.isnan(weight_fractions(nothing, k)["Fe_Ka"][0]).all()
    with pytest.raises(ValueError, match="needs a positive k factor"):
        weight_fractions(counts, {"Fe_Ka": (1.4, 0.0)})


def test_saturated_and_missing_channels_are_failures():
    counts = np.repeat(xrays({"Fe_Ka": 50.0}, 1.0)[None], 3, axis=0)
    counts[1, 630] = np.nan
    counts[2, 630] = 300
    net = ElementWindows(["Fe_Ka"], XRAY, noise=CountingNoise(saturation=255.0))(counts)["Fe_Ka"]
    assert [bool(failure) for failure in net.failures] == [False, True, True]
    assert np.isnan(net.counts[1:]).all()


def test_the_example_of_the_page_runs():
    page = (Path(__file__).resolve().parents[2] / "docs" / "spectroscopy.md").read_text()
    names = {}
    for code in re.findall(r"```python\n(.*?)```", page, re.DOTALL):
        exec(compile(code, "spectroscopy.md", "exec"), names)  # noqa: S102  (our own page)
    for result in (names["shifts"], names["thickness"], names["plasmon"], names["manganese"]):
        assert not any(result.failures)
    # MnPS3 has its bulk plasmon at 19 eV (Kinyanjui et al., PRB 98, 035417 (2018))
    assert np.median(names["plasmon"].energy) == pytest.approx(19.0, abs=0.6)
    assert (names["thickness"].mean_free_paths > 3 * names["thickness"].standard_errors).all()
    assert np.median(np.abs(names["shifts"].channels)) * 0.2 < 0.05


def test_spectra_of_another_length_are_refused():
    with pytest.raises(ValueError, match="reshape a spectrum image"):
        edge_signal(np.ones((3, 100)), ENERGIES, [750, 920], [930, 1010])
    with pytest.raises(ValueError, match="not evenly spaced"):
        energy_axis(np.array([1.0, 2.0, 4.0]))
