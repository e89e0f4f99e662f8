"""Elements in X-ray spectra: windows about their lines, backgrounds beside them, and the ratio method."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from edgetem_nodes.featurizer.features import CountingNoise
from edgetem_nodes.featurizer.parameters import EdsWindow
from edgetem_nodes.featurizer.spectroscopy.axes import energy_axis, rows_of
from edgetem_nodes.featurizer.spectroscopy.spectra import EdsWindowScalarizer
from edgetem_nodes.featurizer.spectroscopy.xray_lines import line_energies, line_energy

MANGANESE = 5895.0
"""[eV] of Mn K-alpha, where the resolution of a detector is stated."""
LARGEST_SHARE = 0.01
"""Of any line of another element that may be counted, or taken off by side windows."""
CLEAR = 1.25
"""Widths that side windows keep away from lines: 0.16 % of a line lies farther off, on each side."""
FARTHEST_SIDE = 6.0
"""A side window lies within this many widths of its line."""


def line_width(energy: float, resolution: float = 130.0) -> float:
    """Full width at half maximum [eV] of a line at `energy` [eV], for a detector with `resolution` [eV] at Mn K-alpha.

    sqrt(2.5 eV (E - E_Mn) + resolution^2): Fano statistics of silicon and a constant noise (Fiori & Newbury, Scanning Electron
    Microscopy 1, 401 (1978)).
    """
    square = 2.5 * (energy - MANGANESE) + resolution**2
    return float(np.sqrt(max(square, (0.3 * resolution)**2)))


@dataclass(frozen=True)
class ElementCounts:
    """Net counts of a line in every spectrum; arrays (rows,), NaN where it failed.

    Attributes
    ----------
    counts, standard_errors, background : [counts]; negative net counts are a result.
    failures : why there are none; empty where there are.
    """

    counts: np.ndarray
    standard_errors: np.ndarray
    background: np.ndarray
    failures: list[str]


class ElementWindows:
    """Net counts of X-ray lines, above a background linear between two side windows.

    A window is `widths` times as wide as the line. Its side windows, one line width each, are the nearest that keep clear of
    all lines of the elements that are present, as far as `line_energies` knows them; where there is but one, the background is
    constant, and where there is none, nothing is taken off.

    Parameters
    ----------
    lines : such as "Fe_Ka". energies : (channels,) [eV].
    resolution : of the detector at Mn K-alpha [eV]. present : further elements in the specimen, grid and column.
    background : False for window sums.

    Attributes
    ----------
    windows : by line, first and last energy [eV]. sides : by line, two or four energies [eV], or none.
    shares : by line, part of its Gaussian that is counted: what lies in the window less what the side windows take off.

    Raises
    ------
    ValueError : a line is not known or not on the axis; or more than `LARGEST_SHARE` of a line, weak ones too, of another
        element that is present would be counted or taken off.
    """

    def __init__(self, lines: list[str], energies: np.ndarray, *, resolution: float = 130.0, widths: float = 2.0,
                 present: tuple[str, ...] = (), background: bool = True, noise: CountingNoise | None = None) -> None:
        self.energies, self.resolution, self.noise = np.asarray(energies, float), resolution, noise or CountingNoise()
        if not resolution > 0 or not widths > 0:
            raise ValueError(f"resolution {resolution:g} eV and widths {widths:g} must be positive")
        elements = {line.split("_")[0] for line in lines} | set(present)
        unknown = elements - {name.split("_")[0] for name in line_energies()}
        if unknown:
            raise ValueError(f"elements {', '.join(sorted(unknown))} are not known: they are Be to U")
        axis = energy_axis(self.energies, "energy")
        low, high = self.energies.min(), self.energies.max()
        # lines beyond the axis, too: their flanks may reach it
        others = {name: energy for name, energy in line_energies().items() if name.split("_")[0] in elements}
        self.windows, self.sides, self.shares, self._measured = {}, {}, {}, {}
        for line in lines:
            energy = line_energy(line)
            half = widths * line_width(energy, resolution) / 2
            if not low <= energy - half < energy + half <= high:
                raise ValueError(f"{line} at {energy:g} eV, with its window of {2 * half:g} eV, is not on the energy axis, "
                                 f"{low:g} to {high:g} eV: take another family of the element")
            self.windows[line] = [energy - half, energy + half]
            self.sides[line] = self._sides(energy, half, others) if background else []
            settings = EdsWindow([edge / 1e3 for edge in self.windows[line]], [edge / 1e3 for edge in self.sides[line]])
            self._measured[line] = EdsWindowScalarizer(settings, self.noise, (axis,))
            counted = self._counted(EdsWindowScalarizer(settings, CountingNoise(), (axis,)), others | {line: energy})
            self.shares[line] = counted[line]
            hidden = [f"{share:.1%} of {name}" for name, share in counted.items()
                      if name.split("_")[0] != line.split("_")[0] and abs(share) > LARGEST_SHARE]
            if hidden:
                raise ValueError(f"{', '.join(hidden)} lies in the window of {line} (negative: in its side windows), more than "
                                 f"{LARGEST_SHARE:.0%}: take another family or narrower windows, or a fit of all lines")

    def _counted(self, measured: EdsWindowScalarizer, lines: dict[str, float]) -> dict[str, float]:
        """Part of every line, a Gaussian at its energy [eV], that windows count, which is linear in the spectrum."""
        from scipy.special import erf

        step = abs(self.energies[1] - self.energies[0])
        shares = {}
        for name, energy in lines.items():
            scale = line_width(energy, self.resolution) / np.sqrt(4 * np.log(2))
            above, below = ((self.energies + sign * step / 2 - energy) / scale for sign in (1, -1))
            shares[name] = float(measured((erf(above) - erf(below))[None] / 2).values[0, 0])
        return shares

    def _sides(self, energy: float, half: float, others: dict[str, float]) -> list[float]:
        """Side windows of the line at `energy` with a window of +- `half` [eV]: two or four energies, or none."""
        width = line_width(energy, self.resolution)
        clear = [(other - CLEAR * line_width(other, self.resolution), other + CLEAR * line_width(other, self.resolution))
                 for other in others.values()]
        half = max(half, CLEAR * width)
        clear.append((energy - half, energy + half))
        step = abs(self.energies[1] - self.energies[0])
        sides: list[float] = []
        for sign in (-1, 1):
            for offset in np.arange(half + step, FARTHEST_SIDE * width, step):
                first, last = sorted((energy + sign * offset, energy + sign * (offset + width)))
                if first < self.energies.min() or last > self.energies.max():
                    break
                if all(last <= low or first >= high for low, high in clear):
                    sides += [first, last]
                    break
        return sides

    def __call__(self, spectra: np.ndarray) -> dict[str, ElementCounts]:
        """Of spectra (rows, channels), by line."""
        spectra = rows_of(spectra, len(self.energies))
        result = {}
        for line, measured in self._measured.items():
            features = measured(spectra)
            result[line] = ElementCounts(features.values[:, 0], features.standard_errors[:, 0], features.values[:, 1],
                                         features.failures)
        return result


def weight_fractions(counts: dict[str, ElementCounts], k_factors: dict[str, tuple[float, float]],
                     ) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Weight fractions (rows,) and standard errors of thin specimens by the ratio method (Cliff & Lorimer, J. Microsc. 103, 203
    (1975)): C_a / C_b = k_a I_a / (k_b I_b), and all fractions sum to 1.

    Absorption and fluorescence are left out. NaN where the weighted counts do not exceed three standard errors of their sum.

    Parameters
    ----------
    counts : by line. k_factors : by line, the factor, relative to any one element, and its standard error. There are no
        built-in ones: they belong to a detector, and are measured on standards.

    Raises
    ------
    ValueError : a line has no k factor, or one that is not positive.
    """
    for line in counts:
        if line not in k_factors or not k_factors[line][0] > 0 or not k_factors[line][1] >= 0:
            raise ValueError(f"{line} needs a positive k factor and its standard error, (k, error): measure it on a standard")
    weighted = {line: k_factors[line][0] * one.counts for line, one in counts.items()}
    variances = {line: (k_factors[line][0] * one.standard_errors)**2 + (k_factors[line][1] * one.counts)**2
                 for line, one in counts.items()}
    total, spread = sum(weighted.values()), sum(variances.values())
    with np.errstate(all="ignore"):
        known = total > 3 * np.sqrt(spread)
        result = {}
        for line in counts:
            fraction = weighted[line] / total
            variance = ((1 - fraction)**2 * variances[line] + fraction**2 * (spread - variances[line])) / total**2
            result[line] = (np.where(known, fraction, np.nan), np.where(known, np.sqrt(variance), np.nan))
    return result
