"""Counts in cells about disks of many patterns at once, on a torch device: what `sampling` and `insides` do one by one.

Places are (y, x) [pixel], lattices (n, 6) as in `sampling`; rows of lattices that are not finite give zeros.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch.nn.functional import grid_sample, pad

from edgetem_nodes.featurizer.cbed.insides import MOST
from edgetem_nodes.featurizer.cbed.sampling import DISK_SQUARE, FARTHEST, INNER_CELLS, INNER_REACH, RING_SQUARE


@dataclass(frozen=True)
class Tables:
    """Of patterns, on the device.

    Attributes
    ----------
    sums : (n, rows + 1, columns + 1) summed-area tables, double.
    images : (n, rows, columns). radii, total : (n,) [pixel], counts.
    beams : (n, 3) reciprocal nanometres of a pixel, high tension [V], semi-convergence angle [rad].
    """

    sums: torch.Tensor
    images: torch.Tensor
    radii: torch.Tensor
    total: torch.Tensor
    beams: torch.Tensor

    @classmethod
    def of(cls, images: torch.Tensor, radii: torch.Tensor, total: torch.Tensor, beams: torch.Tensor) -> Tables:
        """From images (n, rows, columns)."""
        return cls(pad(images.double().cumsum(dim=2).cumsum(dim=1), (1, 0, 1, 0)), images, radii, total, beams)

    def corners(self, y: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        """The tables (n, k) at places (n, k), 0 being the middle of the first pixel."""
        return _bilinear(self.sums, y + 0.5, x + 0.5, "border")

    def boxes(self, y: torch.Tensor, x: torch.Tensor, half: torch.Tensor) -> torch.Tensor:
        """Counts (n, k) in squares of half a side `half` (n, 1) about places (n, k)."""
        above, below, left, right = y - half, y + half, x - half, x + half
        values = self.corners(torch.cat([below, above, below, above], dim=1), torch.cat([right, right, left, left], dim=1))
        one, two, three, four = values.chunk(4, dim=1)
        return one - two - three + four


def _bilinear(images: torch.Tensor, y: torch.Tensor, x: torch.Tensor, padding: str) -> torch.Tensor:
    """Values (n, k) of images at places (n, k) in pixels."""
    rows, columns = images.shape[1:]
    grid = torch.stack([2 * x / (columns - 1) - 1, 2 * y / (rows - 1) - 1], dim=-1)
    return grid_sample(images[:, None], grid[:, None].to(images.dtype), mode="bilinear", padding_mode=padding,
                       align_corners=True)[:, 0, 0]


def _places(lattice: torch.Tensor, index: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Of reflections (n, k, 2) from the middle of the pattern: y, x (n, k)."""
    h, k = index[..., 0], index[..., 1]
    return h * lattice[:, 1:2] + k * lattice[:, 2:3], h * lattice[:, 4:5] + k * lattice[:, 5:6]


def ranked_reflections(tables: Tables, lattice: torch.Tensor, most: int) -> tuple[torch.Tensor, torch.Tensor]:
    """`sampling.choose_disks`: indices (n, most, 2) and their number (n,)."""
    given = torch.isfinite(lattice).all(dim=1, keepdim=True)
    filled = torch.where(given, lattice, 0.0)
    one = torch.arange(-FARTHEST, FARTHEST + 1, device=lattice.device)
    everything = torch.stack(torch.meshgrid(one, one, indexing="ij"), dim=-1).reshape(1, -1, 2)
    v, u = _places(filled, everything.double())
    y, x, radius = filled[:, 0:1] + v, filled[:, 3:4] + u, tables.radii[:, None]
    rows, columns = tables.images.shape[1:]
    whole = given & (y >= radius - 0.5) & (x >= radius - 0.5) & (y <= rows - 0.5 - radius) & (x <= columns - 0.5 - radius)
    inner, outer = DISK_SQUARE * radius, RING_SQUARE * radius
    ratio = inner**2 / (outer**2 - inner**2)
    inside = tables.boxes(y, x, inner)
    about = tables.boxes(y, x, outer) - inside
    worth = (inside - ratio * about) / torch.sqrt(inside + ratio**2 * about + 1.0)
    worth = torch.where(whole, worth, -torch.inf)
    order = torch.sort(worth, dim=1, descending=True, stable=True).indices[:, :most]
    count = whole.sum(dim=1).clamp(max=most)
    return everything[0][order], count


def sampled_disks(tables: Tables, lattice: torch.Tensor, index: torch.Tensor, present: torch.Tensor, cells: int, reach: float,
                  fine: bool) -> torch.Tensor:
    """`sampling.sample_disk` of reflections (n, k, 2), with what `sample_finely` adds if `fine`: (n, k, numbers) float32."""
    count, disks = index.shape[:2]
    v, u = _places(torch.where(torch.isfinite(lattice), lattice, 0.0), index.double())
    y, x, radius = torch.nan_to_num(lattice[:, 0:1]) + v, torch.nan_to_num(lattice[:, 3:4]) + u, tables.radii[:, None]
    steps = 2 * torch.arange(cells + 1, device=y.device, dtype=y.dtype) / cells - 1
    offset = reach * radius[..., None] * steps
    ys = (y[..., None] + offset)[..., :, None].expand(-1, -1, -1, cells + 1)
    xs = (x[..., None] + offset)[..., None, :].expand(-1, -1, cells + 1, -1)
    corner = tables.corners(ys.reshape(count, -1), xs.reshape(count, -1)).view(count, disks, cells + 1, cells + 1)
    values = corner.diff(dim=2).diff(dim=3).clamp(min=0.0).flatten(2)
    counts = values.sum(dim=2)
    looks = torch.sqrt(values / (counts / cells**2 + 0.05)[..., None]) - 0.8
    total = tables.total[:, None]
    columns = [torch.log(counts + 1.0) / 3.0 - 1.5, torch.log((counts + 1.0) / (total + 1.0)) / 3.0 + 1.0,
               tables.boxes(y, x, DISK_SQUARE * radius) / (counts + 1.0), torch.log(radius) - 1.2,
               (y - torch.floor(y + 0.5)) * 2.0 / radius, (x - torch.floor(x + 0.5)) * 2.0 / radius, 1.0 / radius]
    if fine:
        nanometre, tension, angle = (one[:, None] for one in tables.beams.unbind(1))
        columns += [v * nanometre / 8.0, u * nanometre / 8.0, v / radius / 10.0, u / radius / 10.0,
                    (v * v + u * u) * nanometre**2 / 64.0, (index == 0).all(dim=2).double(),
                    torch.log10(total + 1.0) / 2.0 - 2.0, tension / 2e5 - 0.8, angle * 1e3 - 2.0]
    scalars = torch.stack([one.expand(count, disks) for one in columns], dim=2)
    return (torch.cat([looks, scalars], dim=2) * present[..., None]).float()


def inside_inputs(tables: Tables, lattice: torch.Tensor, index: torch.Tensor, count: torch.Tensor,
                  search: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """`insides.inside_rows`: disks, presence and context as the pattern networks take them, and axes of the lattices."""
    given = torch.isfinite(lattice).all(dim=1)
    lattice = torch.where(given[:, None], lattice, torch.tensor([0.0, 0.0, 1.0, 0.0, 1.0, 0.0], device=lattice.device,
                                                                dtype=lattice.dtype))
    index, most = index[:, :MOST].double(), MOST
    present = (torch.arange(most, device=lattice.device) < count[:, None]) & given[:, None]
    length = torch.hypot(lattice[:, 1], lattice[:, 4])
    cosine, sine = (lattice[:, 4] / length)[:, None], (lattice[:, 1] / length)[:, None]
    v, u = _places(lattice, index)
    y, x, radius, total = lattice[:, 0:1] + v, lattice[:, 3:4] + u, tables.radii[:, None], tables.total[:, None] + 1.0
    cells, nanometre = _insides(tables, y, x, cosine, sine), tables.beams[:, 0:1]
    inside = tables.boxes(y, x, DISK_SQUARE * radius)
    about = (tables.boxes(y, x, RING_SQUARE * radius) - inside) / (RING_SQUARE**2 / DISK_SQUARE**2 - 1.0)
    mean = cells.mean(dim=2) + 0.05 / (torch.pi * radius**2)
    looks = torch.sqrt(cells.clamp(min=0.0) / mean[..., None]) - 0.8
    gy, gx = (v * cosine - u * sine) * nanometre, (u * cosine + v * sine) * nanometre
    direct, strength = (index == 0).all(dim=2).double(), (inside - about).clamp(min=0.0)
    others = (1.0 - direct) * present
    typical = (strength * others).sum(dim=1, keepdim=True) / others.sum(dim=1, keepdim=True).clamp(min=1.0) + 0.5
    opposite = (index[:, :, None] == -index[:, None, :]).all(dim=3) & (present[:, :, None] & present[:, None, :])
    opposite = (opposite & (direct[:, :, None] == 0)).double()
    paired, other = opposite.sum(dim=2), (opposite @ strength[..., None])[..., 0]
    apart, both = (strength - other) * paired, strength + other + 1.0
    scalars = torch.stack([
        torch.sqrt(inside.clamp(min=0.0) / total) * 4.0, torch.sqrt(about.clamp(min=0.0) / total) * 4.0,
        torch.log((strength + 0.5) / total) / 3.0 + 1.5, gy / 8.0, gx / 8.0, (gy**2 + gx**2) / 64.0, direct,
        (torch.sqrt(strength / typical) - 1.0) * (1.0 - direct), apart / both,
        torch.sqrt(apart.abs() / both)], dim=2)
    disks = (torch.cat([looks, scalars], dim=2) * present[..., None]).float()
    context = _context(tables, lattice, present, search) * given[:, None]
    axes = torch.where(given[:, None], torch.cat([cosine, sine], dim=1), torch.tensor([1.0, 0.0], device=lattice.device,
                                                                                      dtype=lattice.dtype))
    return disks, present.float(), context.float(), axes


def _insides(tables: Tables, y: torch.Tensor, x: torch.Tensor, cosine: torch.Tensor, sine: torch.Tensor) -> torch.Tensor:
    """`sampling.sample_inside` (n, k, INNER_CELLS**2) of disks at places (n, k)."""
    fine = 2 * INNER_CELLS
    step = 2 * INNER_REACH * tables.radii / fine
    at = torch.arange(fine, device=y.device, dtype=y.dtype) + 0.5 - INNER_CELLS
    v, u = (one.flatten() * step[:, None] for one in torch.meshgrid(at, at, indexing="ij"))
    dy, dx = v * cosine + u * sine, u * cosine - v * sine
    ys, xs = (y[..., None] + dy[:, None]).flatten(1), (x[..., None] + dx[:, None]).flatten(1)
    rows, columns = tables.images.shape[1:]
    on = (ys >= 0) & (xs >= 0) & (ys < rows - 1) & (xs < columns - 1)
    values = torch.where(on, _bilinear(tables.images, ys, xs, "zeros"), 0.0).double()
    return values.view(*y.shape, INNER_CELLS, 2, INNER_CELLS, 2).mean(dim=(3, 5)).flatten(2)


def _context(tables: Tables, lattice: torch.Tensor, present: torch.Tensor, search: torch.Tensor) -> torch.Tensor:
    nanometre, tension, angle = tables.beams.unbind(1)
    a = torch.hypot(lattice[:, 1], lattice[:, 4]) * nanometre
    b = torch.hypot(lattice[:, 2], lattice[:, 5]) * nanometre
    dot = (lattice[:, 1] * lattice[:, 2] + lattice[:, 4] * lattice[:, 5]) * nanometre**2
    return torch.cat([torch.stack([
        torch.log10(tables.total + 1.0) / 2.0 - 2.0, tension / 2e5 - 0.8, angle * 1e3 - 2.0, (a - 4.5) / 1.5, (b - 4.5) / 1.5,
        dot / (a * b) * 2.0, torch.log(tables.radii) - 1.2, nanometre * tables.radii * 2.0 / a,
        present.sum(dim=1) / present.shape[1]], dim=1), search], dim=1)
