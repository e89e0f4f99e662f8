"""The reading of nanobeam patterns with pixels and networks on a GPU; the search for lattices among peaks stays on the CPU.

It computes what `peaks`, `lattices`, `sampling` and `insides` compute for one pattern after the other, here for many at once.
Sums over pixels are in double precision, networks in single precision. Vectors (y, x), lattices as in `sampling`.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from threading import local

import numpy as np
import torch

from edgetem_nodes.featurizer.cbed.gathered import Tables, inside_inputs, ranked_reflections, sampled_disks
from edgetem_nodes.featurizer.cbed.insides import search_figures
from edgetem_nodes.featurizer.cbed.lattice_solution import INDEX_SCALE
from edgetem_nodes.featurizer.cbed.lattices import (FIGURES, FIRST_DISKS, PRIOR, LatticeNetworks, Lattices, reduce_rows,
                                                    search_maps)
from edgetem_nodes.featurizer.cbed.peaks import binning, disk_and_ring
from edgetem_nodes.featurizer.cbed.reading import Exposures, Reading, beams_of, known_lattices
from edgetem_nodes.featurizer.cbed.sampling import CELLS, DISKS, FINE_CELLS, FINE_REACH, REACH


class DeviceReader:
    """Reads patterns on a torch device. Several threads may use one: each call has a stream of its own."""

    def __init__(self, networks: LatticeNetworks, members: torch.nn.Module, references: np.ndarray,
                 device: torch.device) -> None:
        """The networks are moved to the device."""
        self._disk, self._members = networks.disk.to(device), members.to(device)
        self._refining = None if networks.refining is None else networks.refining.to(device)
        self._references, self._device, self._own = references, device, local()
        # torch loads its solvers when they are first called, and several threads must not do that at once
        one = torch.eye(6, dtype=torch.float64, device=device)[None]
        torch.cholesky_inverse(torch.linalg.cholesky_ex(one).L)

    def __call__(self, frames: np.ndarray, exposures: Exposures,
                 usable: np.ndarray) -> tuple[Reading, np.ndarray, np.ndarray, np.ndarray]:
        """What `read_patterns` gives, without the inputs of the pattern networks, and what these say: logits, mixtures and last
        layer, each with the rows first and members second."""
        with torch.inference_mode(), self._stream():
            return self._read(frames, exposures, usable)

    def _stream(self) -> AbstractContextManager:
        """One a thread: memory is kept for each."""
        if self._device.type != "cuda":
            return nullcontext()
        if not hasattr(self._own, "stream"):
            self._own.stream = torch.cuda.Stream(self._device)
        return torch.cuda.stream(self._own.stream)

    def _read(self, frames: np.ndarray, exposures: Exposures,
              usable: np.ndarray) -> tuple[Reading, np.ndarray, np.ndarray, np.ndarray]:
        images, radii = torch.from_numpy(np.ascontiguousarray(frames, np.float32)).to(self._device), exposures.radii
        found, beams = Lattices.empty(len(frames)), beams_of(exposures)
        found.total[:] = images.sum(dim=(1, 2), dtype=torch.float64).cpu().numpy()
        nominal, figures = np.ascontiguousarray(exposures.centre, float), np.zeros((len(frames), FIGURES))
        search_maps(significance_maps(images, radii).cpu().numpy(), usable, radii, nominal,
                    known_lattices(self._references, exposures), found.lattice, found.peaks, figures)
        found.take(figures)
        tables = Tables.of(images, self._to(radii), self._to(found.total), self._to(beams))
        most = DISKS if self._refining is None else FIRST_DISKS
        lattice = self._round(tables, self._to(found.lattice), found, most, None)
        self._round(tables, lattice, found, DISKS, self._refining)
        reduce_rows(found.lattice, found.covariance, found.index, found.count)
        search = search_figures(found.share, found.clear, found.peaks, found.strongest, found.joint)
        *inputs, axes = inside_inputs(tables, self._to(found.lattice), torch.from_numpy(found.index).to(self._device),
                                      torch.from_numpy(found.count).to(self._device), self._to(search))
        outputs = [one.cpu().numpy() for one in self._members(*inputs)]
        nothing = np.zeros((len(frames), 0), np.float32)
        return Reading(found, nothing, nothing, nothing, axes.cpu().numpy()), *outputs

    def _to(self, values: np.ndarray) -> torch.Tensor:
        return torch.from_numpy(np.ascontiguousarray(values, float)).to(self._device)

    def _round(self, tables: Tables, lattice: torch.Tensor, found: Lattices, most: int,
               refining: torch.nn.Module | None) -> torch.Tensor:
        """Read disks and solve; the lattices, which are also put in `found` with what goes with them."""
        index, count = ranked_reflections(tables, lattice, most)
        present = torch.arange(most, device=lattice.device) < count[:, None]
        if refining is None:
            rows = sampled_disks(tables, lattice, index, present, CELLS, REACH, False)
            offset, lower = self._disk(rows)
        else:
            rows = sampled_disks(tables, lattice, index, present, FINE_CELLS, FINE_REACH, True)
            offset, lower = refining(rows, present.float())
        solution = solved(index.double(), present, offset.double(), lower.double(), tables.radii, lattice)
        names = ("lattice", "covariance", "chi_square", "freedom", "worst")
        for name, value in zip(names, solution, strict=True):
            getattr(found, name)[:] = value.cpu().numpy()
        found.index[:, :most], found.count[:] = index.cpu().numpy(), count.cpu().numpy()
        return solution[0]


def significance_maps(images: torch.Tensor, radii: np.ndarray) -> torch.Tensor:
    """`peaks.score_map` of images (n, rows, columns) with disks of `radii` (n,) [pixel], each in the upper left of (n, rows,
    columns) float32."""
    result = torch.zeros(images.shape, dtype=torch.float32, device=images.device)
    # radii of one camera may differ in their last bits
    radii = np.round(radii, 9)
    for radius in np.unique(radii).tolist():
        rows, bin_ = np.flatnonzero(radii == radius), binning(radius)
        here = images if len(rows) == len(images) else images[torch.from_numpy(rows).to(images.device)]
        n, height, width = len(rows), images.shape[1] // bin_, images.shape[2] // bin_
        small = here[:, :height * bin_, :width * bin_].double().view(n, height, bin_, width, bin_).sum(dim=(2, 4))
        score = _significance(small, radius / bin_).float()
        if len(rows) == len(images):
            result[:, :height, :width] = score
        else:
            result[torch.from_numpy(rows).to(images.device), :height, :width] = score
    return result


def _significance(image: torch.Tensor, radius: float) -> torch.Tensor:
    """`peaks.significance` of images (n, rows, columns) in double precision."""
    inner, outer = disk_and_ring(radius)
    (n, rows, columns), a, b = image.shape, len(inner) // 2, len(outer) // 2
    sums = torch.zeros((n, rows + 2 * b, columns + 2 * b + 1), dtype=torch.float64, device=image.device)
    sums[:, b:b + rows, b + 1:b + 1 + columns] = image.cumsum(dim=2)
    sums[:, b:b + rows, b + 1 + columns:] = sums[:, b:b + rows, b + columns:b + columns + 1]
    inside, about = (torch.zeros_like(image) for _ in range(2))
    for total, halves, reach in ((about, outer, b), (inside, inner, a)):
        for m, half in enumerate(halves.tolist()):
            line = sums[:, b - reach + m:b - reach + m + rows]
            total += line[:, :, b + half + 1:b + half + 1 + columns]
            total -= line[:, :, b - half:b - half + columns]
    i, j = np.arange(rows), np.arange(columns)
    whole = np.zeros((rows, columns))
    for m, half in enumerate(outer.tolist()):
        length = np.minimum(j + half, columns - 1) - np.maximum(j - half, 0) + 1
        whole += ((i + m - b >= 0) & (i + m - b < rows))[:, None] * length
    area = float((2 * inner + 1).sum())
    ratio = torch.from_numpy(area / np.maximum(whole - area, 1.0)).to(image.device)
    rest = (about - inside).clamp(min=0.0)
    result = (inside - ratio * rest) / torch.sqrt(inside.clamp(min=0.0) + ratio**2 * rest + 1.0)
    framed = torch.zeros_like(result)
    framed[:, a:rows - a, a:columns - a] = result[:, a:rows - a, a:columns - a]
    return framed


def solved(index: torch.Tensor, present: torch.Tensor, offset: torch.Tensor, lower: torch.Tensor, radii: torch.Tensor,
           lattice: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """`lattice_solution.solve` for many patterns: lattice (n, 6) and covariance (n, 6, 6) [pixel], reduced chi-square, degrees
    of freedom, and by how much the worst disk is off (n,)."""
    design = torch.cat([torch.ones_like(index[..., :1]), index / INDEX_SCALE], dim=-1)
    a, b, c = (lower * present[..., None]).unbind(-1)
    yy, yx, xx = a * a, a * b, b * b + c * c
    blocks = [[(design * one[..., None]).mT @ design for one in row] for row in ((yy, yx), (yx, xx))]
    information = torch.cat([torch.cat(row, dim=-1) for row in blocks], dim=-2)
    information = information + PRIOR * torch.eye(6, dtype=information.dtype, device=information.device)
    dy, dx = offset.unbind(-1)
    right = torch.cat([(design * (yy * dy + yx * dx)[..., None]).sum(dim=1),
                       (design * (yx * dy + xx * dx)[..., None]).sum(dim=1)], dim=-1)
    covariance = torch.cholesky_inverse(torch.linalg.cholesky_ex(information).L)
    change = (covariance @ right[..., None])[..., 0]
    dy = dy - (design * change[:, None, :3]).sum(dim=-1)
    dx = dx - (design * change[:, None, 3:]).sum(dim=-1)
    one = ((a * dy + b * dx)**2 + (c * dx)**2) * (a * a + c * c >= 2 * 25.0)
    freedom = 2 * (a * a + c * c >= 2 * 25.0).sum(dim=1) - 6
    scale = radii[:, None] * torch.tensor([1.0, 1 / INDEX_SCALE, 1 / INDEX_SCALE] * 2, dtype=radii.dtype, device=radii.device)
    lattice = lattice + change * scale
    nothing = torch.where(torch.isfinite(lattice).all(dim=1), 0.0, torch.nan)
    return (lattice + nothing[:, None], covariance * scale[:, :, None] * scale[:, None, :] + nothing[:, None, None],
            one.sum(dim=1) / freedom.clamp(min=1) + nothing, torch.where(torch.isfinite(nothing), freedom, 0).double(),
            torch.sqrt(one.amax(dim=1)) + nothing)
