"""The generic template: every Store is a vectorised loop nest (family `generic`).

A tile is a run of rows of a nest of about `block` elements; the tiles of several Stores follow each other. Reads that are
contiguous along another axis than the stores are turned in registers, block by block of lanes x lanes.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ..affine import lanewise
from ..device import Device
from ..expr import Expr, post_order
from ..space import Knobs, Space
from ..task import ITEMSIZE, Task
from ..template import Template
from .loops import unflatten
from .nest import Nest, nest

if TYPE_CHECKING:
    from tvm.tirx import PrimFunc

PrimExpr = Any


@dataclass(frozen=True)
class Blocks:
    """How a nest is cut into tiles: axes before `axis` are walked tile by tile, `axis` in runs of `run`, the rest in loops."""

    nest: Nest
    axis: int
    run: int

    @property
    def runs(self) -> int:
        return -(-self.nest.extents[self.axis] // self.run) if self.nest.extents else 1

    @property
    def tiles(self) -> int:
        return math.prod(self.nest.extents[:self.axis]) * self.runs if self.nest.size else 0


def blocks(n: Nest, elements: int, lanes: int) -> Blocks:
    """Tiles of about `elements` each; a run along the vector axis, or along one that is turned, is whole vectors."""
    axis, inner = len(n.extents), 1
    while axis > 0 and (inner < elements or axis > len(n.extents) - (1 if n.turned is None else 2)):
        axis -= 1
        inner *= n.extents[axis]
    inner //= max(1, n.extents[axis]) if n.extents else 1
    run = max(1, elements // max(1, inner))
    if n.extents and (axis == len(n.extents) - 1 or axis == n.turned):
        run = -(-run // lanes) * lanes
    return Blocks(n, axis, run)


class Generic(Template):
    name, family = "any-generic", "generic"

    def space(self, task: Task, device: Device) -> Space:
        return Space.of(block=(4096, 16384))

    def cost(self, task: Task, knobs: Knobs, device: Device) -> float:
        """Small blocks share out better among cores; large ones cost fewer starts."""
        size = sum(math.prod(s.space) for s in task.stores)
        return size / 16 + 40 * size / knobs.block + (knobs.block if device.cores > 1 else 0) / 16

    def cut(self, task: Task, knobs: Knobs, device: Device) -> list[Blocks]:
        lanes = lanes_of(task, device)
        return [blocks(nest(task, s, lanes), knobs.block, lanes) for s in task.stores]

    def tiles(self, task: Task, knobs: Knobs, device: Device) -> int:
        return sum(b.tiles for b in self.cut(task, knobs, device))

    def emit(self, task: Task, knobs: Knobs, device: Device) -> PrimFunc:
        from ..tir import Kernel, T

        k, lanes = Kernel(task), lanes_of(task, device)

        def body(begin: PrimExpr, end: PrimExpr) -> None:
            first = 0
            for b in self.cut(task, knobs, device):
                if b.tiles:
                    start = T.Bind(T.max(begin - first, 0))
                    with T.serial(0, T.max(T.min(end - first, b.tiles) - start, 0)) as tile:
                        _tile(k, b, T.Bind(start + tile), lanes)
                first += b.tiles
        return k.write(body)


def lanes_of(task: Task, device: Device) -> int:
    """Elements of a vector: as many as fit for the widest type that is computed with."""
    widest = max((ITEMSIZE[e.dtype] for s in task.stores for e in post_order([s.value]) if e.dtype != "bool"), default=4)
    return max(1, device.lanes * 4 // max(4, widest))


def _tile(k: Any, b: Blocks, tile: PrimExpr, lanes: int) -> None:
    from ..tir import T

    n = b.nest
    if not n.extents:
        _element(k, n, {})
        return
    outer = unflatten(tile // b.runs if b.runs > 1 else tile, n.extents[:b.axis])
    start = T.Bind(tile % b.runs * b.run) if b.runs > 1 else T.int32(0)
    count = T.Bind(T.min(b.run, n.extents[b.axis] - start)) if b.runs > 1 else T.int32(n.extents[b.axis])
    if n.turned is None:
        _walk(k, b, outer, start, count, lanes)
    else:
        _turn(k, b, outer, start, count, lanes)


def _walk(k: Any, b: Blocks, at: list[PrimExpr], start: PrimExpr, count: PrimExpr, lanes: int) -> None:
    """Loops over the axes from `len(at)` on; the last in vectors."""
    from ..tir import T, vectors

    n, axis = b.nest, len(at)
    last = len(n.extents) - 1
    if axis < last:
        with T.serial(0, count if axis == b.axis else n.extents[axis]) as i:
            _walk(k, b, [*at, start + i if axis == b.axis else i], start, count, lanes)
        return
    extent = n.extents[last]
    cut = axis == b.axis and b.runs > 1
    if extent >= lanes:
        with T.serial(0, (count if cut else extent) // lanes) as v:
            _vector(k, n, at, start + v * lanes if cut else v * lanes, lanes)

    def tail() -> None:
        for offset, width in vectors(extent % lanes, lanes):
            _vector(k, n, at, T.int32(extent // lanes * lanes + offset), width)

    if extent % lanes and cut:
        with T.If(start + count == extent), T.Then():
            tail()
    else:
        tail()


def _vector(k: Any, n: Nest, at: list[PrimExpr], base: PrimExpr, width: int) -> None:
    """The elements base … base + width of the vector axis, in one vector; base is a multiple of width."""
    from ..tir import T

    axis = f"i{len(n.extents) - 1}"
    env = {f"i{m}": e for m, e in enumerate(at)}
    if width == 1:
        _element(k, n, {**env, axis: base})
        return
    if n.woven > 1:
        _weave(k, n, env, base, width)
        return
    value, position = (lanewise(e, axis, width, width) for e in (n.value, n.position))
    with T.vectorized(0, width) as lane:
        _put(k, n.buffer, position, value, {**env, axis: base + lane, "base": base, "lane": lane})


def _element(k: Any, n: Nest, env: dict[str, PrimExpr]) -> None:
    for c in range(n.woven):
        _put(k, n.buffer, n.position, n.value, {**env, f"i{len(n.extents)}": c} if n.woven > 1 else env)


def _weave(k: Any, n: Nest, env: dict[str, PrimExpr], base: PrimExpr, width: int) -> None:
    """The elements base … base + width of the vector axis, of all arrays that are woven, in one store."""
    from ..tir import T, alloc, put, tirx

    axis, other, dtype = f"i{len(n.extents) - 1}", f"i{len(n.extents)}", k.task.buffers[n.buffer].dtype
    value = lanewise(n.value, axis, width, width)
    parts = alloc(n.woven * width, "uint8" if dtype == "bool" else dtype)
    for c in range(n.woven):
        with T.vectorized(0, width) as lane:
            here = {**env, axis: base + lane, "base": base, "lane": lane, other: T.int32(c)}
            put(parts, c * width + lane, k.value(value, here), dtype)
    picks = [c * width + lane for lane in range(width) for c in range(n.woven)]
    woven = tirx.Shuffle([parts[T.ramp(c * width, 1, width)] for c in range(n.woven)], picks)
    first = k.value(n.position, {**env, axis: base, other: T.int32(0)})
    T.buffer_store(k.arrays[n.buffer], woven, [T.ramp(first, 1, n.woven * width)])


def _put(k: Any, buffer: int, position: Expr, value: Expr, env: dict[str, PrimExpr]) -> None:
    from ..tir import put

    put(k.arrays[buffer], k.value(position, env), k.value(value, env), k.task.buffers[buffer].dtype)


def _turn(k: Any, b: Blocks, outer: list[PrimExpr], start: PrimExpr, count: PrimExpr, lanes: int) -> None:
    """Blocks of lanes x lanes of the last two axes: evaluated in vectors along the first of them, where the reads are
    contiguous, stored in vectors along the second. The last block of an axis moves up over the one before."""
    from ..tir import T, alloc, put

    n = b.nest
    p, q = len(n.extents) - 2, len(n.extents) - 1
    dtype = k.task.buffers[n.buffer].dtype
    value = lanewise(n.value, f"i{p}", lanes, 1)
    position = lanewise(n.position, f"i{q}", lanes, 1)

    def block(at: list[PrimExpr], rows: PrimExpr, columns: PrimExpr) -> None:
        env = {f"i{m}": e for m, e in enumerate(at)}
        square = alloc(lanes * lanes, "uint8" if dtype == "bool" else dtype)
        for c in range(lanes):
            with T.vectorized(0, lanes) as lane:
                here = {**env, f"i{p}": rows + lane, "base": rows, "lane": lane, f"i{q}": columns + c}
                put(square, c * lanes + lane, k.value(value, here), dtype)
        turned = transpose([square[T.ramp(c * lanes, 1, lanes)] for c in range(lanes)])
        for r, vector in enumerate(turned):
            here = {**env, f"i{p}": rows + r, "base": columns, "lane": T.int32(0), f"i{q}": columns}
            T.buffer_store(k.arrays[n.buffer], vector, [T.ramp(k.value(position, here), 1, lanes)])

    def columns(at: list[PrimExpr], rows: PrimExpr, first: PrimExpr, amount: PrimExpr) -> None:
        with T.serial(0, (amount + lanes - 1) // lanes) as c:
            block(at, rows, T.Bind(T.min(first + c * lanes, n.extents[q] - lanes)))

    def rows(at: list[PrimExpr], first: PrimExpr, amount: PrimExpr) -> None:
        with T.serial(0, (amount + lanes - 1) // lanes) as r:
            columns(at, T.Bind(T.min(first + r * lanes, n.extents[p] - lanes)), T.int32(0), T.int32(n.extents[q]))

    def walk(at: list[PrimExpr]) -> None:
        if len(at) == p:
            rows(at, start, count) if b.axis == p else rows(at, T.int32(0), T.int32(n.extents[p]))
            return
        axis = len(at)
        with T.serial(0, count if axis == b.axis else n.extents[axis]) as i:
            walk([*at, start + i if axis == b.axis else i])

    walk(outer)


def transpose(rows: list[PrimExpr]) -> list[PrimExpr]:
    """n vectors of n lanes, turned by log2(n) rounds of two-input shuffles (Eklundh 1972)."""
    from ..tir import T, tirx

    n, step = len(rows), 1
    while step < n:
        rows = list(rows)
        for i in (i for i in range(n) if not i & step):
            low = [n + j - step if j & step else j for j in range(n)]
            high = [n + j if j & step else j + step for j in range(n)]
            rows[i], rows[i + step] = (T.Bind(tirx.Shuffle([rows[i], rows[i + step]], picks)) for picks in (low, high))
        step *= 2
    return rows
