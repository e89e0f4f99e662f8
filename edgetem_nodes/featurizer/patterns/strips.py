"""The fused pass over frames: vector loops down strips of columns, in LLVM's vector types, and the loops over frames around.

Every number in a frame is read from memory once, and goes into all sums; running sums stay in registers for all rows.
A frame's sums depend on that frame alone, bit for bit: no sum reaches over frames. Moments are the sums of 1, y, x, yy, yx
and xx with the counts, in pixels from pixel (0, 0). All is in one file, since the cache on disk knows a loop by the file that
it stands in, and not what it calls.

A compiler makes no such loop of plain code: there running sums over rows live in memory, and every row loads and stores them.
A strip is `lanes(type)` columns wide. Masks are unsigned integers as wide as the pixels, all bits set inside: what a mask
leaves out becomes zero, NaN as well. Sums wrap or round like the type that holds them; the caller bounds the rows.
"""

from __future__ import annotations

import numpy as np
from llvmlite import ir
from numba import njit, types
from numba.core import cgutils
from numba.extending import intrinsic

INDEX = ir.IntType(64)
CACHE_LINE = 64
WEIGHTED_LANES, TOGETHER = 16, 4
"""Columns of a strip of weighted sums, and weight maps that share a reading of it: enough to hide the time of an addition."""
NEXT_LEVEL_CACHE = 2
REORDERED = {"reassoc", "contract", "nsz"}
"""Sums of real numbers may be taken in another order (the same for every frame), so that they use vectors; NaN stays NaN."""


def lanes(item_bytes: int) -> int:
    """Columns of a strip of numbers of so many bytes: a cache line of them, 16 at least."""
    return max(16, CACHE_LINE // item_bytes)


class Matrix:
    """A two-dimensional array argument of an intrinsic, read and written a vector at a time."""

    def __init__(self, context, builder, kind, value, width: int) -> None:
        array = context.make_array(kind)(context, builder, value)
        self.builder, self.kind, self.item = builder, kind, kind.dtype.bitwidth // 8
        self.step = cgutils.unpack_tuple(builder, array.strides)[0]
        self.start = builder.ptrtoint(array.data, INDEX)
        element = ir.IntType(kind.dtype.bitwidth)
        self.bits = ir.VectorType(element, width)
        if isinstance(kind.dtype, types.Float):
            element = ir.FloatType() if kind.dtype.bitwidth == 32 else ir.DoubleType()
        self.vector = ir.VectorType(element, width)

    def address(self, row, column):
        """Of an element."""
        b = self.builder
        offset = b.add(b.mul(row, self.step), b.mul(column, ir.Constant(INDEX, self.item)))
        return b.add(self.start, offset)

    def load(self, address, as_bits: bool = False):
        """The vector that begins at an address."""
        vector = self.bits if as_bits else self.vector
        return self.builder.load(self.builder.inttoptr(address, vector.as_pointer()), align=self.item)

    def store(self, value, address) -> None:
        """Write a vector."""
        self.builder.store(value, self.builder.inttoptr(address, self.vector.as_pointer()), align=self.item)

    def masked(self, value, mask):
        """The vector where the mask's bits are set, else zero."""
        return self.builder.bitcast(self.builder.and_(self.builder.bitcast(value, self.bits), mask), self.vector)

    def larger(self, value, other):
        """The larger of two vectors, number by number; `other` where the value is NaN."""
        if isinstance(self.kind.dtype, types.Float):
            above = self.builder.fcmp_ordered(">", value, other)
        elif self.kind.dtype.signed:
            above = self.builder.icmp_signed(">", value, other)
        else:
            above = self.builder.icmp_unsigned(">", value, other)
        return self.builder.select(above, value, other)

    def wide(self, value, target: Matrix):
        """The vector in another array's type."""
        if isinstance(self.kind.dtype, types.Float):
            return value if self.item == target.item else self.builder.fpext(value, target.vector)
        return (self.builder.sext if self.kind.dtype.signed else self.builder.zext)(value, target.vector)

    def real(self, value, target: Matrix):
        """The vector in another array's type, which is real."""
        if isinstance(self.kind.dtype, types.Float):
            return self.wide(value, target)
        return (self.builder.sitofp if self.kind.dtype.signed else self.builder.uitofp)(value, target.vector)

    def sum(self, one, other):
        """one + other."""
        return (self.builder.fadd if isinstance(self.kind.dtype, types.Float) else self.builder.add)(one, other)


def _down(builder, first, last, walked, carried, step) -> list:
    """A loop over rows first <= row < last. `walked` are (address, step) pairs that move on with the row; `step(addresses,
    values)` returns the next values of those carried. Returns the last ones."""
    entry = builder.block
    head, body, done = (builder.append_basic_block(name) for name in ("rows", "row", "done"))
    builder.branch(head)
    builder.position_at_end(head)
    phis = [builder.phi(value.type) for value in (first, *(address for address, _ in walked), *carried)]
    for phi, value in zip(phis, (first, *(address for address, _ in walked), *carried), strict=True):
        phi.add_incoming(value, entry)
    row, addresses, values = phis[0], phis[1:1 + len(walked)], phis[1 + len(walked):]
    builder.cbranch(builder.icmp_signed("<", row, last), body, done)
    builder.position_at_end(body)
    following = [builder.add(row, ir.Constant(INDEX, 1))]
    results = step(addresses, values)
    following += [builder.add(address, by) for address, (_, by) in zip(addresses, walked, strict=True)]
    for phi, value in zip(phis, following + list(results), strict=True):
        phi.add_incoming(value, builder.block)
    builder.branch(head)
    builder.position_at_end(done)
    return values


def _prefetch(builder, address) -> None:
    """Ask for the cache line of an address; one that does not exist does no harm."""
    pointer, number = ir.IntType(8).as_pointer(), ir.IntType(32)
    function = builder.module.declare_intrinsic("llvm.prefetch", [pointer],
                                                ir.FunctionType(ir.VoidType(), [pointer, number, number, number]))
    read, data = ir.Constant(number, 0), ir.Constant(number, 1)
    builder.call(function, [builder.inttoptr(address, pointer), read, ir.Constant(number, NEXT_LEVEL_CACHE), data])


@intrinsic
def moment_strip(typing_context, frame, inside, used, masked, first, last, place, column, running, top, ahead):
    """Go down rows first to last - 1 of the strip that begins at a column: at `place` in the frame, at `column` elsewhere.

    To running (3, columns) add, row by row, the values to the first line, the first line to the second, the second to the
    third; to top (1, columns) the largest value. With `masked`, sums are of the pixels inside, `top` of those used; else both
    of all. From `ahead` bytes behind the frame's start on, as many bytes as the strip has are asked for: the next frame, in the
    order of its addresses, which the hardware then recognises; of strips it prefetches nothing.
    """
    def generate(context, builder, signature, arguments):
        width = lanes(frame.dtype.bitwidth // 8)
        masked, first, last, place, column, ahead = (arguments[k] for k in (3, 4, 5, 6, 7, 10))
        pixels, counted, kept, sums, largest = (Matrix(context, builder, kind, arguments[k], width) for k, kind in (
            (0, frame), (1, inside), (2, used), (8, running), (9, top)))
        homes = [sums.address(ir.Constant(INDEX, k), column) for k in range(3)]
        homes.append(largest.address(ir.Constant(INDEX, 0), column))
        walked = [(matrix.address(first, at), matrix.step) for matrix, at in (
            (pixels, place), (counted, column), (kept, column))]
        walked.append((builder.add(pixels.start, ahead), ir.Constant(INDEX, width * pixels.item)))

        def loop(with_mask: bool) -> None:
            def step(addresses, values):
                value = seen = pixels.load(addresses[0])
                for line in range(0, width * pixels.item, CACHE_LINE):
                    _prefetch(builder, builder.add(addresses[3], ir.Constant(INDEX, line)))
                if with_mask:
                    seen = pixels.masked(value, kept.load(addresses[2], as_bits=True))
                    value = pixels.masked(value, counted.load(addresses[1], as_bits=True))
                once = sums.sum(values[0], pixels.wide(value, sums))
                twice = sums.sum(values[1], once)
                return once, twice, sums.sum(values[2], twice), pixels.larger(seen, values[3])
            carried = [*(sums.load(home) for home in homes[:3]), largest.load(homes[3])]
            results = _down(builder, first, last, walked, carried, step)
            for matrix, value, home in zip((sums, sums, sums, largest), results, homes, strict=True):
                matrix.store(value, home)

        with builder.if_else(builder.icmp_signed("!=", masked, ir.Constant(masked.type, 0))) as (yes, no):
            with yes:
                loop(True)
            with no:
                loop(False)
        return context.get_dummy_value()
    return types.void(frame, inside, used, masked, first, last, place, column, running, top, ahead), generate


@intrinsic
def mask_strip(typing_context, frame, mask, first, last, place, column, region):
    """Add the values under a mask in rows first to last - 1 of a strip to region (1, lanes); it begins at the column `place`
    of the frame, `column` of the mask."""
    def generate(context, builder, signature, arguments):
        width = lanes(frame.dtype.bitwidth // 8)
        first, last, place, column = arguments[2:6]
        pixels, inside, sums = (Matrix(context, builder, kind, arguments[k], width)
                                for k, kind in ((0, frame), (1, mask), (6, region)))
        home = sums.address(ir.Constant(INDEX, 0), ir.Constant(INDEX, 0))

        def step(addresses, values):
            value = pixels.masked(pixels.load(addresses[0]), inside.load(addresses[1], as_bits=True))
            return [sums.sum(values[0], pixels.wide(value, sums))]
        walked = [(pixels.address(first, place), pixels.step), (inside.address(first, column), inside.step)]
        sums.store(_down(builder, first, last, walked, [sums.load(home)], step)[0], home)
        return context.get_dummy_value()
    return types.void(frame, mask, first, last, place, column, region), generate


@intrinsic
def weight_strip(typing_context, frame, used, first, last, place, column, weights, partial):
    """Add values times weights in rows first to last - 1 of a strip to partial (`TOGETHER`, `WEIGHTED_LANES`) float64.

    The strip begins at the column `place` of the frame, `column` of `used`, outside of which pixels count as zero. weights
    (rows, TOGETHER * WEIGHTED_LANES) float64 are those of the strip alone, one map after the other.
    """
    def generate(context, builder, signature, arguments):
        first, last, place, column = arguments[2:6]
        pixels, kept, factors, sums = (Matrix(context, builder, kind, arguments[k], WEIGHTED_LANES)
                                       for k, kind in ((0, frame), (1, used), (6, weights), (7, partial)))
        zero = ir.Constant(INDEX, 0)
        homes = [sums.address(ir.Constant(INDEX, k), zero) for k in range(TOGETHER)]

        def step(addresses, values):
            value = pixels.real(pixels.masked(pixels.load(addresses[0]), kept.load(addresses[1], as_bits=True)), sums)
            products = []
            for k, value_so_far in enumerate(values):
                offset = ir.Constant(INDEX, k * WEIGHTED_LANES * factors.item)
                product = builder.fmul(value, factors.load(builder.add(addresses[2], offset)), flags=("contract",))
                products.append(builder.fadd(value_so_far, product, flags=("contract",)))
            return products
        walked = [(pixels.address(first, place), pixels.step), (kept.address(first, column), kept.step),
                  (factors.address(first, zero), factors.step)]
        for result, home in zip(_down(builder, first, last, walked, [sums.load(home) for home in homes], step), homes,
                                strict=True):
            sums.store(result, home)
        return context.get_dummy_value()
    return types.void(frame, used, first, last, place, column, weights, partial), generate


@njit(cache=True, nogil=True)
def masked_sums(frames, masks, spans, inside, used, masked, most_rows, edge, running, regions, line, sums, moments, top):
    """Sums of frames (frames, rows, columns) under masks, their moments and their largest values.

    Masks are unsigned integers as wide as the pixels, all bits set inside; their columns are padded with zeros to whole strips.

    Parameters
    ----------
    masks : (masks, rows, padded columns) of the detectors.
    spans : (masks, strips, 2), the first row and one past the last that a mask has in each strip.
    inside, used : (rows, padded columns), pixels of the moments and of the largest value; looked at only where `masked`.
    most_rows : so many rows fit into the running sums' type without overflow.
    edge : (rows, width), zeros of the frames' type, for the columns beyond whole strips of that width; scratch.
    running : (3, padded columns), regions : (masks, width), line : (1, padded columns) of the frames' type; scratch.
    sums : (frames, masks), moments : (frames, 6), float64; top : (frames,) of the frames' type, 0 at least; all filled here.
    """
    rows, columns = frames.shape[1:]
    width = edge.shape[1]
    for index in range(len(frames)):
        frame = frames[index]
        _copy_edge(frame, edge)
        sums[index] = 0.0
        moments[index] = 0.0
        line[:] = 0
        for first in range(0, rows, most_rows):
            last = min(first + most_rows, rows)
            running[:] = 0
            regions[:] = 0
            for column in range(0, columns, width):
                whole = column + width <= columns
                source, place = (frame, column) if whole else (edge, 0)
                ahead = frames.strides[0] + (first * columns + column * (last - first)) * frames.itemsize if whole else 0
                moment_strip(source, inside, used, masked, first, last, place, column, running, line, ahead)
                for d in range(len(masks)):
                    start, stop = max(first, spans[d, column // width, 0]), min(last, spans[d, column // width, 1])
                    if start < stop:
                        mask_strip(source, masks[d], start, stop, place, column, regions[d:d + 1])
            _fold(last, running, moments[index])
            for d in range(len(masks)):
                sums[index, d] += regions[d].sum()
        top[index] = line.max()


@njit(cache=True, nogil=True)
def _copy_edge(frame, edge):
    """The columns beyond whole strips."""
    whole = frame.shape[1] // edge.shape[1] * edge.shape[1]
    for i in range(len(frame)):
        for j in range(whole, frame.shape[1]):
            edge[i, j - whole] = frame[i, j]


@njit(cache=True, nogil=True, fastmath=REORDERED)
def _fold(last, running, moments):
    """Add to the moments (6,) those of a band of rows that ends before row `last`.

    running (3, columns) holds, by column, the sums of 1, q and q (q + 1) / 2 with the counts, where q = last - row: what
    running sums of running sums come to, without one multiplication.
    """
    s0, s1, s2, t0, t1, u0 = 0.0, 0.0, 0.0, 0.0, 0.0, 0.0
    for j in range(running.shape[1]):
        x, s, t = float(j), float(running[0, j]), float(running[1, j])
        s0 += s
        s1 += x * s
        s2 += x * x * s
        t0 += t
        t1 += x * t
        u0 += float(running[2, j])
    end = float(last)
    moments[0] += s0
    moments[1] += end * s0 - t0
    moments[2] += s1
    moments[3] += end * end * s0 - 2.0 * end * t0 + 2.0 * u0 - t0
    moments[4] += end * s1 - t1
    moments[5] += s2


@njit(cache=True, nogil=True)
def weighted_sums(frames, weights, spans, used, edge, partial, sums):
    """sums (frames, groups * maps) float64 of frames with weight maps, several in a group.

    Parameters
    ----------
    weights : (groups, strips, rows, maps * width) float64, padded with zeros to whole strips.
    spans : (groups, strips, 2), the first row and one past the last that a group has in each strip.
    used : (rows, padded columns), as wide as the pixels, no bit set where a pixel counts as zero, whatever it holds.
    edge : (rows, width) of the frames' type, partial : (frames, maps, width) float64; scratch.
    """
    columns = frames.shape[2]
    maps, width = partial.shape[1:]
    for group in range(len(weights)):
        partial[:] = 0.0
        # frames innermost: they and a strip of weights fit into the cache, all weights do not
        for strip in range(weights.shape[1]):
            column = strip * width
            whole = column + width <= columns
            start, stop = spans[group, strip, 0], spans[group, strip, 1]
            for index in range(len(frames) if start < stop else 0):
                if not whole:
                    _copy_edge(frames[index], edge)
                source, place = (frames[index], column) if whole else (edge, 0)
                weight_strip(source, used, start, stop, place, column, weights[group, strip], partial[index])
        for index in range(len(frames)):
            for k in range(maps):
                sums[index, group * maps + k] = partial[index, k].sum()
