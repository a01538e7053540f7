"""Emits fused attention (see attention.py): pack keys and values; scores, softmax and results of groups of queries."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from tvm import tirx

from ..affine import lanewise, within
from ..mathlib import F32, bits, dtype_of, floating, hold, like
from ..task import Buffer, Task
from ..tir import Kernel, T, alloc, ld, put, splat, st
from . import registertile as rt
from .attention import Layout, View, score
from .registertile import up

PrimExpr = Any

LOWEST = -3.4028234663852886e38
# 2^r = 1 + r P(r) for |r| <= 1/2, relative error 9e-8 (Lawson's iteration; 1 is exact, see `power`)
EXP2 = (1.0, 0.6931469775987165, 0.24022242084635162, 0.05550733743574668, 0.009671512688146769, 0.001326472724690761)
# The numbers of the softmax lie in scratch (behind the scores, which may overwrite them for all that LLVM knows): literals would
# be held in registers throughout the kernel, and accumulators spilled in their place.
NUMBERS = (LOWEST, -127.0, F32.rounder, math.log2(math.e), *EXP2)


def emit(task: Task, layout: Layout) -> Any:
    """The kernel: a tile is a block of queries of one head of one batch."""
    scratch = Buffer((layout.floats,), "float32", "output")     # a buffer like the others, so that scores are a Store
    kernel = Kernel(replace(task, buffers=(*task.buffers, scratch)))
    s = layout.shape
    blocks = up(s.nq, layout.block)

    def body(begin: PrimExpr, end: PrimExpr) -> None:
        for n, number in enumerate(NUMBERS):
            st(kernel.arrays[-1], layout.at_numbers + n, T.float32(number), 1)
        with T.serial(0, end - begin) as t:
            z = T.Bind(begin + t)
            block, h, b = T.Bind(z % blocks), T.Bind(z // blocks % s.heads), T.Bind(z // (blocks * s.heads))
            first = T.Bind(T.min(block * layout.block, s.nq - layout.block))
            Block(kernel, task, layout, b, h, first).emit(fresh=T.Or(t == 0, block == 0))

    return kernel.write(body)


class Block:
    """A block of queries of one head, while it is emitted."""

    def __init__(self, kernel: Kernel, task: Task, layout: Layout, b: PrimExpr, h: PrimExpr, first: PrimExpr) -> None:
        self.kernel, self.task, self.a, self.first = kernel, task, layout, first
        self.head = {"i0": b, "i1": h}
        self.scratch = kernel.arrays[len(task.buffers)]
        self.stores = rt.plain(task, layout.shape.extents(""))
        self.score = score(task)
        self.masked = "mask" in task.operands

    def emit(self, fresh: PrimExpr) -> None:
        a, s = self.a, self.a.shape
        self.q = self._queries()
        if a.splits == 1:
            with T.If(fresh), T.Then():
                self._pack(T.int32(0), s.nk)
            self._groups(T.int32(0), s.nk)
            return
        rows = up(a.tiles, a.group) * a.padded
        begun = ((a.at_results, a.tiles * a.rows * a.vp, 0.0), (a.at_total, rows, 0.0), (a.at_top, rows, LOWEST))
        for start, count, value in begun:
            with T.serial(0, count // a.lanes) as n:
                st(self.scratch, start + n * a.lanes, splat(value, a.lanes), a.lanes)
        with T.serial(0, a.splits) as split:
            first = T.Bind(split * a.keys)
            count = T.Bind(T.min(a.keys, s.nk - first)) if s.nk % a.keys else a.keys
            self._pack(first, count)
            self._groups(first, count)
        self._finish()

    # ---- Operands ----------------------------------------------------------------------------------------------------------

    def _base(self, view: View) -> PrimExpr:
        return T.Bind(self.kernel.value(view.rest, self.head))

    def _queries(self) -> Callable[[PrimExpr, PrimExpr], PrimExpr]:
        """q(query of the block, r0): in place, or evaluated into scratch."""
        a, s = self.a, self.a.shape
        if a.q:
            view, base = a.q, T.Bind(self._base(a.q) + self.first * a.q.stride)
            return lambda i, r: self.kernel.arrays[view.buffer][base + i * view.stride + r * view.step]
        with T.serial(0, a.block) as i:
            self._evaluate("q", s.d, self.first + i, a.at_queries + i * s.d)
        return lambda i, r: self.scratch[a.at_queries + i * s.d + r]

    def _evaluate(self, operand: str, count: int, position: PrimExpr, start: PrimExpr) -> None:
        """scratch[start …] = the `count` elements of a row of q, k or v."""
        e = within(self.task.operands[operand], self.a.shape.extents(operand))
        env = {**self.head, "i2": position}

        def piece(at: PrimExpr, n: int) -> None:
            def body(lane: PrimExpr) -> None:
                x = self.kernel.value(lanewise(e, "r0", n, n), {**env, "base": at, "lane": lane})
                put(self.scratch, start + at + lane, x, "float32")
            if n == 1:
                body(T.int32(0))
            else:
                with T.vectorized(0, n) as lane:
                    body(lane)
        rt.over(count, self.a.lanes, piece)

    def _pack(self, first: PrimExpr, count: PrimExpr) -> None:
        """Keys first … first + count as panels [d][width], scaled for scores in base 2 (base e where a mask is added: times
        log2 e its lowest values would overflow), and values as rows of whole vectors."""
        a, s, L = self.a, self.a.shape, self.a.lanes
        unit = s.scale if self.masked else s.scale * math.log2(math.e)
        base = self._base(a.k) if a.k else None

        def position(key: PrimExpr) -> PrimExpr:
            return T.min(key, s.nk - 1) if s.nk % L else key        # lanes past the end repeat the last key; nobody looks at them

        with T.serial(0, (count + L - 1) // L) as c:
            if a.k is None:
                with T.serial(0, L) as i:
                    self._evaluate("k", s.d, T.Bind(position(first + c * L + i)), a.at_stage + i * a.stage_pitch)
            with T.serial(0, up(s.d, L)) as piece:
                r = T.Bind(T.min(piece * L, max(0, s.d - L)))       # the last piece overlaps the one before
                rows = []
                for i in range(L):
                    if a.k:
                        x = ld(self.kernel.arrays[a.k.buffer], base + position(first + c * L + i) * a.k.stride + r, L)
                    else:
                        x = ld(self.scratch, a.at_stage + i * a.stage_pitch + r, L)
                    rows.append(T.Bind(x))
                start = T.Bind(a.at_keys + (c * L // a.width * s.d + r) * a.width + c * L % a.width)
                for i, x in enumerate(transpose(rows)[:s.d]):
                    st(self.scratch, start + i * a.width, x * splat(unit, L), L)
        if a.v is None:
            with T.serial(0, count) as j:
                if s.dv % L:
                    st(self.scratch, a.at_values + j * a.vp + s.dv // L * L, splat(0, L), L)
                self._evaluate("v", s.dv, first + j, a.at_values + j * a.vp)

    # ---- A group of register tiles -----------------------------------------------------------------------------------------

    def _query(self, tile: PrimExpr) -> PrimExpr:
        """The first query of a register tile within the block; the last tile overlaps the one before."""
        a = self.a
        return T.Bind(T.min(tile * a.rows, a.block - a.rows)) if a.block % a.rows else tile * a.rows

    def _groups(self, first: PrimExpr, count: PrimExpr) -> None:
        """All queries of the block against keys first … first + count."""
        a = self.a
        with T.serial(0, up(a.tiles, a.group)) as g:
            tile = T.Bind(g * a.group)
            tiles = T.Bind(T.min(a.group, a.tiles - tile)) if a.tiles % a.group else a.group
            seen = count
            if a.shape.causal:      # keys behind the last query are not looked at
                last = self.first + self._query(tile + tiles - 1) + (a.rows - 1)
                seen = T.Bind(T.max(0, T.min(count, last + 1 - first)))
            self._scores(tile, tiles, first, seen)
            self._softmax(g, tiles, seen)
            self._results(tile, tiles, first, seen)

    def _scores(self, tile: PrimExpr, tiles: PrimExpr, first: PrimExpr, count: PrimExpr) -> None:
        a, s, L = self.a, self.a.shape, self.a.lanes
        with T.serial(0, (count + a.width - 1) // a.width) as q:
            def panel(columns: int) -> None:
                with T.serial(0, tiles) as j:
                    i, row = self._query(tile + j), T.Bind(a.at_scores + j * (a.rows * a.pitch))
                    acc = rt.Tile(self.kernel, (self.score,), a.rows, columns, L)
                    with T.serial(0, s.d) as r:
                        acc.multiply(lambda n: self.q(i + n, r), lambda v: ld(
                            self.scratch, a.at_keys + (q * s.d + r) * a.width + v * L, L))
                    if columns % L:     # lanes past the last key
                        with T.serial(0, a.rows) as n:
                            st(self.scratch, row + n * a.pitch + q * a.width + columns // L * L, splat(-math.inf, L), L)
                    acc.finish(lambda n: {**self.head, "i2": self.first + i + n, "row": row + n * a.pitch - first},
                               "i3", first + q * a.width, a.width)
            rt.each_panel(first // a.width + q, up(s.nk, a.width), s.nk, a.width, panel)

    def _softmax(self, group: PrimExpr, tiles: PrimExpr, count: PrimExpr) -> None:
        """Scores become exponentials. Leaves the factor of each row: of the results to come, or of those so far. As many rows as
        can be folded into one vector go at a time: a row alone would wait for its maximum and its sum."""
        a, L = self.a, self.a.lanes
        vectors, rows = (count + L - 1) // L, tiles * a.rows
        with T.serial(0, (rows + a.fold - 1) // a.fold) as c:
            chunk = T.Bind(c * a.fold)
            held = T.Bind(group * a.padded + chunk)
            here = T.min(a.fold, rows - chunk)
            parts = alloc(a.fold * L)       # of each row
            lowest, *numbers = (T.Bind(splat(self.scratch[a.at_numbers + n], L)) for n in range(len(NUMBERS)))
            with T.serial(0, here) as n:
                row, top = T.Bind(a.at_scores + (chunk + n) * a.pitch), alloc(L)
                st(top, 0, lowest, L)
                with T.serial(0, vectors) as v:
                    st(top, 0, T.max(ld(top, 0, L), ld(self.scratch, row + v * L, L)), L)
                st(parts, n * L, ld(top, 0, L), L)
            peak = fold([ld(parts, n * L, L) for n in range(a.fold)], T.max)
            if a.splits > 1:
                before = T.Bind(ld(self.scratch, a.at_top + held, L))
                peak = T.Bind(T.max(before, peak))
                fix = T.Bind(power(before - peak, numbers, self.masked))
                st(self.scratch, a.at_top + held, peak, L)
            st(self.scratch, a.at_factor + chunk, peak, L)
            with T.serial(0, here) as n:
                row, total = T.Bind(a.at_scores + (chunk + n) * a.pitch), alloc(L)
                highest = T.Bind(splat(self.scratch[a.at_factor + chunk + n], L))
                st(total, 0, splat(0, L), L)
                with T.serial(0, vectors) as v:
                    p = T.Bind(power(ld(self.scratch, row + v * L, L) - highest, numbers, self.masked))
                    st(self.scratch, row + v * L, p, L)
                    st(total, 0, ld(total, 0, L) + p, L)
                st(parts, n * L, ld(total, 0, L), L)
            total = fold([ld(parts, n * L, L) for n in range(a.fold)], lambda x, y: x + y)
            if a.splits > 1:
                st(self.scratch, a.at_total + held, ld(self.scratch, a.at_total + held, L) * fix + total, L)
            st(self.scratch, a.at_factor + chunk, fix if a.splits > 1 else inverse(total), L)

    def _results(self, tile: PrimExpr, tiles: PrimExpr, first: PrimExpr, count: PrimExpr) -> None:
        a, L = self.a, self.a.lanes
        values, base, stride = self.scratch, T.int32(a.at_values), a.vp
        if a.v:
            values, base, stride = self.kernel.arrays[a.v.buffer], T.Bind(self._base(a.v) + first * a.v.stride), a.v.stride

        def panel(q: PrimExpr, columns: int) -> None:
            with T.serial(0, tiles) as j:
                row = T.Bind(j * a.rows)
                factor = T.Bind(a.at_factor + row)
                acc = rt.Tile(self.kernel, self.stores, a.rows, columns, L)
                if a.splits > 1:
                    self._load(acc, tile * a.rows + row, q, lambda n: splat(self.scratch[factor + n], L))
                with T.serial(0, count) as k:
                    acc.multiply(lambda n: self.scratch[a.at_scores + (row + n) * a.pitch + k],
                                 lambda v: ld(values, base + k * stride + q * (a.dims * L) + v * L, L))
                if a.splits > 1:
                    for n, v, at in _each(acc):
                        st(self.scratch, self._result(tile * a.rows + row + n, q, v), ld(acc.acc, at, L), L)
                else:
                    for n, _, at in _each(acc):
                        st(acc.acc, at, ld(acc.acc, at, L) * splat(self.scratch[factor + n], L), L)
                    self._store(acc, tile + j, q)
        self._dims(panel)

    def _finish(self) -> None:
        """The sums of all blocks of keys are complete."""
        a, L = self.a, self.a.lanes

        def panel(q: PrimExpr, columns: int) -> None:
            with T.serial(0, a.tiles) as tile:
                row = T.Bind(tile * a.rows)
                total = T.Bind(a.at_total + tile // a.group * a.padded + tile % a.group * a.rows)
                acc = rt.Tile(self.kernel, self.stores, a.rows, columns, L)
                self._load(acc, row, q, lambda n: inverse(splat(self.scratch[total + n], L)))
                self._store(acc, tile, q)
        self._dims(panel)

    def _dims(self, panel: Callable[[PrimExpr, int], None]) -> None:
        a, s = self.a, self.a.shape
        width = a.dims * a.lanes
        with T.serial(0, up(s.dv, width)) as q:
            rt.each_panel(q, up(s.dv, width), s.dv, width, lambda columns: panel(q, columns))

    def _result(self, row: PrimExpr, q: PrimExpr, v: int) -> PrimExpr:
        return self.a.at_results + row * self.a.vp + q * (self.a.dims * self.a.lanes) + v * self.a.lanes

    def _load(self, acc: rt.Tile, row: PrimExpr, q: PrimExpr, factor: Callable[[int], PrimExpr]) -> None:
        for n, v, at in _each(acc):
            st(acc.acc, at, ld(self.scratch, self._result(row + n, q, v), self.a.lanes) * factor(n), self.a.lanes)

    def _store(self, acc: rt.Tile, tile: PrimExpr, q: PrimExpr) -> None:
        i, width = self._query(tile), self.a.dims * self.a.lanes
        acc.finish(lambda n: {**self.head, "i2": self.first + i + n}, "i3", q * width, width)


def _each(tile: rt.Tile) -> list[tuple[int, int, int]]:
    """(row, vector, place) of the accumulators."""
    return [(n, v, n * tile.pitch + v * tile.lanes) for n in range(tile.rows) for v in range(tile.vectors)]


# ---- Vectors -----------------------------------------------------------------------------------------------------------------


def power(x: PrimExpr, numbers: Sequence[PrimExpr], natural: bool) -> PrimExpr:
    """2^x, or e^x, for x <= 0; exactly 0 for 2^-127 and less, where the exponent of 1.0 comes to nothing. NaN goes through.
    numbers: NUMBERS, but the first."""
    least, rounder, log2e, *coefficients = numbers
    x = hold(T.max(least, x * log2e if natural else x))
    k = hold(bits(x + rounder))                             # the integer lies in the low bits
    r = hold(x - (floating(k, F32) - rounder))
    y = coefficients[-1]
    for c in coefficients[-2::-1]:
        y = y * r + c
    return floating(bits(y) + (k << like(F32.mantissa, k)), F32)


def inverse(total: PrimExpr) -> PrimExpr:
    """1 / total, 0 of 0: a row without keys."""
    total = hold(total)
    return tirx.Select(total > like(0, total), like(1, total) / total, like(0, total))


def fold(rows: list[PrimExpr], op: Callable[[PrimExpr, PrimExpr], PrimExpr]) -> PrimExpr:
    """`op` over the lanes of each of n vectors, n a power of two: lane i of the result is that of vector i modulo n."""
    lanes, size = dtype_of(rows[0])[1], 1
    while size < lanes:
        rows = [T.Bind(x) for x in rows]
        low = [lanes + j - size if j & size else j for j in range(lanes)]
        high = [lanes + j if j & size else j + size for j in range(lanes)]
        pairs = list(zip(rows[::2], rows[1::2], strict=True)) if len(rows) > 1 else [(rows[0], rows[0])]
        rows = [op(tirx.Shuffle(list(pair), low), tirx.Shuffle(list(pair), high)) for pair in pairs]
        size *= 2
    return T.Bind(rows[0])


def transpose(rows: list[PrimExpr]) -> list[PrimExpr]:
    """n vectors of n lanes (a power of two), transposed: ever larger blocks change places across the diagonal."""
    n, size = len(rows), 1
    while size < n:
        upper = [n + j - size if j & size else j for j in range(n)]
        lower = [n + j if j & size else j + size for j in range(n)]
        pairs = {i: (rows[i & ~size], rows[i | size]) for i in range(n)}
        rows = [T.Bind(tirx.Shuffle(list(pairs[i]), lower if i & size else upper)) for i in range(n)]
        size *= 2
    return rows
