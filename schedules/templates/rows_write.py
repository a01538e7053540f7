"""Writes the kernel of a `rows` plan. Only `emit` imports this module: it needs TVM.

A step takes `rows` positions along the row axis and `vectors` vectors along the column, each with accumulators of its own.
Blocks that do not fit end at the edge instead of beginning after the last one: what is computed twice comes out the same.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..affine import lanewise
from ..expr import Expr, variables
from ..tir import Kernel, T, alloc, constant, ld, splat, st, tirx
from .loops import nest, unflatten
from .rows_plan import Plan, Put, Sweep

PrimExpr = Any
Env = Mapping[str, PrimExpr]

COMBINE: dict[str, Callable[[PrimExpr, PrimExpr], PrimExpr]] = {
    "sum": lambda a, b: a + b, "prod": lambda a, b: a * b, "max": T.max, "min": T.min}
BETTER: dict[str, Callable[[PrimExpr, PrimExpr], PrimExpr]] = {     # is the later element b taken instead of a?
    "argmax": lambda a, b: b > a, "argmin": lambda a, b: b < a,
    "argmax_last": lambda a, b: b >= a, "argmin_last": lambda a, b: b <= a}


def identity(op: str, dtype: str) -> float | int:
    """What leaves the other side as it is."""
    if op in ("sum", "prod"):
        return 0 if op == "sum" else 1
    least = op.startswith(("max", "argmax"))
    if dtype.startswith("float"):
        return -math.inf if least else math.inf
    return int(np.iinfo(dtype).min if least else np.iinfo(dtype).max)


class Accumulators:
    """Partial results of one reduction: `groups` (one per row) of `vectors` vectors of `lanes`; with positions for argmax."""

    def __init__(self, op: str, dtype: str, groups: int, vectors: int, lanes: int) -> None:
        self.op, self.dtype, self.groups, self.vectors, self.lanes = op, dtype, groups, vectors, lanes
        self.values = alloc(groups * vectors * lanes, dtype)
        self.positions = alloc(groups * vectors * lanes, "int32") if op in BETTER else None

    def clear(self) -> None:
        start = splat(constant(identity(self.op, self.dtype), self.dtype), self.lanes)
        for at in range(0, self.groups * self.vectors * self.lanes, self.lanes):
            st(self.values, at, start, self.lanes)
            if self.positions is not None:
                st(self.positions, at, splat(T.int32(0), self.lanes), self.lanes)

    @property
    def result(self) -> Any:
        return self.values if self.positions is None else self.positions

    def take(self, at: PrimExpr, x: PrimExpr, position: PrimExpr) -> None:
        """One more element, inside of a vectorised loop."""
        if self.positions is None:
            T.buffer_store(self.values, COMBINE[self.op](self.values[at], x), [at])
            return
        x = T.Bind(x)
        best, better = self.values[at], BETTER[self.op]
        T.buffer_store(self.positions, tirx.Select(better(best, x), position, self.positions[at]), [at])
        T.buffer_store(self.values, tirx.Select(better(best, x), x, best), [at])

    def fold(self) -> Any:
        """An array with one result per group: vectors are added to vectors, then halves to halves."""
        source, vectors = self, self.vectors
        while vectors > 1:
            vectors //= 2
            for g, v in itertools.product(range(self.groups), range(vectors)):
                at = (g * self.vectors + v) * self.lanes
                self._combine(self, at, self, at, at + vectors * self.lanes, self.lanes)
        pitch, n = self.vectors * self.lanes, self.lanes
        while pitch > 1:
            n = max(1, n // 2)
            halves = Accumulators(self.op, self.dtype, self.groups, 1, n)
            for g in range(self.groups):
                self._combine(halves, g * n, source, g * pitch, g * pitch + n % source.lanes, n)
            source, pitch = halves, n
        return source.result

    def _combine(self, to: Accumulators, at: int, source: Accumulators, i: int, j: int, n: int) -> None:
        a, b = ld(source.values, i, n), ld(source.values, j, n)
        if self.positions is None:
            st(to.values, at, COMBINE[self.op](a, b), n)
            return
        p, q = ld(source.positions, i, n), ld(source.positions, j, n)
        nearer = T.max(p, q) if self.op.endswith("_last") else T.min(p, q)
        largest = self.op.startswith("argmax")
        st(to.positions, at, tirx.Select(tirx.EQ(a, b), nearer, tirx.Select(b > a if largest else b < a, q, p)), n)
        st(to.values, at, T.max(a, b) if largest else T.min(a, b), n)


@dataclass(frozen=True)
class Spot:
    """A vector of the reduction space (lanes on it) or of the row (lanes on the space) that code is emitted for.

    number: of its accumulator; step: the loops' variables; base: the column at its first lane, a multiple of `align`; skip:
    leading lanes that another vector counts already.
    """

    number: int
    step: Env
    base: PrimExpr
    align: int
    skip: int = 0


class Writer:
    """The kernel being written. rows, vectors: of a step; steps: per tile."""

    def __init__(self, kernel: Kernel, plan: Plan, rows: int, vectors: int, lanes: int, steps: int) -> None:
        self.kernel, self.plan, self.rows, self.vectors, self.lanes, self.steps = kernel, plan, rows, vectors, lanes, steps
        self._lanewise: dict[tuple[int, int], tuple[Expr, Expr]] = {}

    # ---- steps

    def body(self, begin: PrimExpr, end: PrimExpr) -> None:
        p, block = self.plan, self.vectors * self.lanes
        grid, total = p.grid(self.rows, block), p.steps(self.rows, block)
        if not total:
            return
        first = T.Bind(begin * self.steps)
        with T.serial(0, T.max(T.min(end * self.steps, total) - first, 0)) as t:
            place = dict(zip((a.name for a in grid), unflatten(first + t, [a.extent for a in grid]), strict=True))
            row = T.min(place.pop("row") * self.rows, p.row.extent - self.rows)
            left = T.min(place.pop("column") * block, p.column.extent - block) if p.on_space else T.int32(0)
            self.step([{**place, p.row.name: row + n} for n in range(self.rows)], left)

    def step(self, rows: list[Env], left: PrimExpr) -> None:
        """All of one step: the sweeps, then what is stored once per row."""
        done: dict[str, Any] = {}
        for s in self.plan.sweeps:
            partial = {r.name: Accumulators(r.op, r.value.dtype, self.rows, self.vectors, self.lanes) for r in s.reductions}
            for a in partial.values():
                a.clear()
            if self.plan.count:
                for spots in self.spots(s, left):
                    for (n, row), spot in itertools.product(enumerate(rows), spots):
                        self.emit(s, partial, done, n, row, spot)
            done |= {name: a.result if self.plan.on_space else a.fold() for name, a in partial.items()}
        spots = self.columns(left, {}) if self.plan.on_space else [Spot(0, {}, T.int32(0), 1)]
        for (n, row), spot in itertools.product(enumerate(rows), spots):
            with self.vectorized(self.lanes if self.plan.on_space else 1) as lane:
                self.put(self.plan.results, {**row, **self.known(done, n, spot, lane)}, spot)

    # ---- positions of a sweep

    def spots(self, s: Sweep, left: PrimExpr) -> Iterator[list[Spot]]:
        """The loops over the reduction space; what the caller emits for the spots of an item lands in their bodies."""
        p = self.plan
        if p.on_space:
            loops, unrolled = p.loops(s, self.rows * self.vectors)
            with nest([a.extent for a in loops]) as at:
                step = dict(zip((a.name for a in loops), at, strict=True))
                for taps in itertools.product(*(range(a.extent) for a in unrolled)):
                    names = (a.name for a in unrolled)
                    yield self.columns(left, {**step, **{k: T.int32(v) for k, v in zip(names, taps, strict=True)}})
            return
        n, w = p.column.extent, self.lanes
        together = self.vectors if s.reductions else 1
        with nest([a.extent for a in p.inner]) as at:
            step = dict(zip((a.name for a in p.inner), at, strict=True))
            whole, rest = divmod(n // w, together)
            if whole:
                with T.serial(0, whole) as c:
                    yield [Spot(v, step, (c * together + v) * w, w) for v in range(together)]
            if rest:
                with T.serial(0, rest) as c:
                    yield [Spot(0, step, (whole * together + c) * w, w)]
            if n % w:
                yield [Spot(0, step, T.int32(n - w), math.gcd(w, n), w - n % w)]

    def columns(self, left: PrimExpr, step: Env) -> list[Spot]:
        align = math.gcd(self.lanes, self.plan.column.extent)
        return [Spot(v, step, left + v * self.lanes, align) for v in range(self.vectors)]

    # ---- code of one vector

    @contextmanager
    def vectorized(self, lanes: int) -> Iterator[PrimExpr]:
        """Gives the lane: scalar code for it becomes vectors."""
        with ExitStack() as stack:
            yield T.int32(0) if lanes == 1 else stack.enter_context(T.vectorized(0, lanes))

    def emit(self, s: Sweep, partial: Mapping[str, Accumulators], done: Mapping[str, Any], n: int, row: Env, spot: Spot) -> None:
        """One vector of a sweep for row number `n` of the step."""
        own = {name for name, _ in s.kept}
        read = {v for v in variables([*s.roots, *(e for _, e in s.kept)]) if v.startswith("k")} - own
        with self.vectorized(self.lanes) as lane:
            position = self.position(spot, lane)
            env = {**row, **spot.step, **self.known(done, n, spot, lane)}
            env |= {name: self.kernel.scratch[self.saved(name, n, spot, position, lane)] for name in sorted(read)}
            for name, e in s.kept:
                env[name] = T.Bind(self.value(e, env, spot))
                T.buffer_store(self.kernel.scratch, env[name], [self.saved(name, n, spot, position, lane)])
            for r in s.reductions:
                x = self.value(r.value, env, spot)
                if spot.skip and r.op in ("sum", "prod"):
                    x = tirx.Select(lane >= spot.skip, x, constant(identity(r.op, r.value.dtype), r.value.dtype))
                partial[r.name].take((n * self.vectors + spot.number) * self.lanes + lane, x, position)
            self.put(s.puts, env, spot)

    def known(self, done: Mapping[str, Any], n: int, spot: Spot, lane: PrimExpr) -> Env:
        """Results of earlier sweeps, and the column."""
        at = (n * self.vectors + spot.number) * self.lanes + lane if self.plan.on_space else n
        return {"base": spot.base, "lane": lane, **{name: a[at] for name, a in done.items()}}

    def put(self, puts: tuple[Put, ...], env: Env, spot: Spot) -> None:
        for p in puts:
            index = [self.value(i, env, spot) for i in p.target.args]
            self.kernel.store(p.target.value, index, self.value(p.value, env, spot))

    def value(self, e: Expr, env: Env, spot: Spot) -> PrimExpr:
        key = id(e), spot.align
        if key not in self._lanewise:
            self._lanewise[key] = e, lanewise(e, self.plan.column.name, self.lanes, spot.align)    # with e, so that its id stays
        return self.kernel.value(self._lanewise[key][1], env)

    # ---- places

    def position(self, spot: Spot, lane: PrimExpr) -> PrimExpr:
        """Flat position in the reduction space."""
        p, position = self.plan, T.int32(0)
        for a in p.inner:
            position = position * a.extent + spot.step[a.name]
        return position if p.on_space else position * p.column.extent + spot.base + lane

    def saved(self, name: str, n: int, spot: Spot, position: PrimExpr, lane: PrimExpr) -> PrimExpr:
        """Where a kept value stands in scratch."""
        at = int(name[1:]) * self.rows + n
        if not self.plan.on_space:
            return at * self.plan.count + position
        return ((int(name[1:]) * self.plan.count + position) * self.rows + n) * self.vectors * self.lanes + (
            spot.number * self.lanes + lane)
