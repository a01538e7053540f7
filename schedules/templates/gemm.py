"""Matrix multiplication on a register tile: Y[b,m,n] = epilogue(sum_k X[b,m,k] W[b,k,n]).

Weights are packed as panels [ceil(N/NR)][K][NR], NR = vectors * lanes: constant ones when compiling, computed ones by the kernel,
into scratch, once per panel (`ComputedGemm`). X is read in place where its address is affine in m and k (a plain matrix, a head
of a [N,T,3,H,D] projection, a transposed matrix), else its rows are evaluated into scratch once per block of rows.

Tiles: batch x blocks of rows x panels, panels innermost, so that a block of X stays in L2 while the weights stream past it
(computed w: blocks of rows innermost). The last register tile of a block and the last block move up: they overlap their
predecessors rather than be ragged.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import TYPE_CHECKING, Any

from ..affine import lanewise, strides, within
from ..device import Device
from ..expr import Expr
from ..space import Knobs, Space
from ..task import Task
from ..template import Pack, Template
from . import registertile as rt
from .registertile import up

if TYPE_CHECKING:
    from ..tir import Kernel

PrimExpr = Any
Reduce = Callable[[rt.Tile, Callable[[int, PrimExpr], PrimExpr]], None]     # (tile, (row, k) -> scalar of x): all steps of a tile


class Gemm(Template):
    """W constant: packed when compiling."""

    name, family = "f32-gemm-packed", "gemm"

    def refuses(self, task: Task, device: Device) -> str | None:
        if ("w" in task.operands) == ("w" in task.params):
            return "exactly one of operand w and parameter w"
        if self.computed != ("w" in task.operands):
            return "w is computed" if not self.computed else "w is constant"
        if not self.computed and task.buffers[task.params["w"]].dtype != "float32":
            return "w is not float32"
        if 0 in (task.params[name] for name in ("batch", "m", "n", "k")):
            return "the product is empty"
        return None if all(e.dtype == "float32" for e in task.operands.values()) else "operands are not float32"

    computed = False

    def space(self, task: Task, device: Device) -> Space:
        p = shape_of(task)
        wide = up(p.n, device.lanes)
        return (Space.of(rows=range(1, min(p.m, 16) + 1), vectors=range(1, min(wide, 12) + 1), blocks=self._blocks(task, device),
                         ahead=(0, 4096) if device.arch == "x86_64" and not self.computed else (0,))
                .require(lambda k: rt.fits(k.rows, k.vectors, device), "accumulators would spill")
                .require(lambda k: k.rows * k.vectors >= min(rt.LATENCY, p.m, 16) or k.vectors == wide, "too few accumulators")
                .require(lambda k: up(p.m, k.blocks) >= k.rows or k.blocks == 1, "blocks smaller than a register tile"))

    def _blocks(self, task: Task, device: Device) -> tuple[int, ...]:
        """Blocks of rows: one, as many as make a block fill half of L2, and a multiple of that for threads."""
        p = shape_of(task)
        fill = up(p.m * p.k * 4, device.l2_kib * 512)
        return tuple(sorted({min(b, up(p.m, 16)) for b in (1, fill, 2 * fill, 4 * fill)}))

    def cost(self, task: Task, knobs: Knobs, device: Device) -> float:
        p = shape_of(task)
        rows = block_rows(p.m, knobs)
        blocks, row_tiles = up(p.m, rows), up(rows, knobs.rows)
        wide = up(p.n, device.lanes)
        panels = [knobs.vectors] * (wide // knobs.vectors) + [wide % knobs.vectors] * (wide % knobs.vectors > 0)
        epilogue = rt.weight(task.stores) + 2
        view = view_of(task)
        pitch = (view[1] if view else p.k) * 4
        x_bytes, w_bytes, l2 = rows * p.k * 4, p.k * p.n * 4, device.l2_kib * 1024
        total = 0.0
        for v in panels:
            step = rt.step_cost(knobs.rows, v, v * device.lanes * p.k * 4, pitch, device)
            total += blocks * row_tiles * (p.k * step + knobs.rows * v * epilogue + 20)
        if x_bytes > 0.75 * l2:
            total += len(panels) * p.m * p.k * 4 * rt.MISS
        if w_bytes > 0.75 * l2:
            total += (blocks - 1) * w_bytes * rt.MISS
        if self.computed:
            total += p.k * p.n * 2 * min(blocks, device.cores)
        if knobs.ahead:      # pays where the weights are streamed once, from beyond L2
            total *= 0.99 if w_bytes > l2 / 2 else 1.01
        count = self.tiles(task, knobs, device)
        idle = up(count, device.cores) * device.cores / count
        return p.batch * total * idle

    def features(self, task: Task, knobs: Knobs, device: Device) -> Mapping[str, float]:
        p, view = shape_of(task), view_of(task)
        rows, wide, l2 = block_rows(p.m, knobs), up(p.n, device.lanes), device.l2_kib * 1024
        blocks = up(p.m, rows)
        copied = (0 if view else p.m * p.k) + (blocks * p.k * p.n if self.computed else 0)
        return {**rt.features(knobs.rows, knobs.vectors, knobs.vectors * device.lanes * p.k * 4,
                              (view[1] if view else p.k) * 4, p.k, task.stores, device),
                "macs": p.batch * p.m * p.n * p.k, "tiles": self.tiles(task, knobs, device), "blocks": blocks,
                "waste_rows": blocks * up(rows, knobs.rows) * knobs.rows / p.m, "waste_columns": wide * device.lanes / p.n,
                "ragged": wide % knobs.vectors / wide, "panels": up(wide, knobs.vectors), "row_tiles": up(rows, knobs.rows),
                "block_l2": rows * p.k * 4 / l2, "x_l1": knobs.rows * p.k * 4 / (device.l1_kib * 1024),
                "w_l2": p.k * p.n * 4 / l2, "copied": copied / (p.m * p.n * p.k), "x_step": view[2] if view else 1,
                "w_per_mac": 4 * blocks / p.m, "x_per_mac": 4 * up(wide, knobs.vectors) / p.n}

    def tiles(self, task: Task, knobs: Knobs, device: Device) -> int:
        p = shape_of(task)
        return p.batch * up(p.m, block_rows(p.m, knobs)) * up(p.n, knobs.vectors * device.lanes)

    def scratch(self, task: Task, knobs: Knobs, device: Device) -> int:
        return 0 if view_of(task) else block_rows(shape_of(task).m, knobs) * shape_of(task).k * 4

    def pack(self, task: Task, knobs: Knobs, device: Device) -> Mapping[int, Pack]:
        width = knobs.vectors * device.lanes
        return {task.params["w"]: lambda w: rt.pack_panels(w, width).reshape(-1)}

    def emit(self, task: Task, knobs: Knobs, device: Device) -> Any:
        from ..tir import Kernel, T

        p, width = shape_of(task), knobs.vectors * device.lanes
        rows, panels = block_rows(p.m, knobs), up(p.n, width)
        blocks = up(p.m, rows)
        kernel = Kernel(task, self.scratch(task, knobs, device), {task.params["w"]: panels * p.k * width})

        def body(begin: PrimExpr, end: PrimExpr) -> None:
            w = kernel.arrays[task.params["w"]]
            with T.serial(0, end - begin) as t:
                z = T.Bind(begin + t)
                q, b = T.Bind(z % panels), T.Bind(z // (panels * blocks))
                first = T.Bind(T.min(z // panels % blocks * rows, p.m - rows))
                x = rows_of_x(kernel, task, device, b, first, rows, fresh=T.Bind(T.Or(t == 0, q == 0)))
                reduce = self.reduction(task, knobs, device, w, q)
                rt.each_panel(q, panels, p.n, width, lambda columns: row_tiles(
                    kernel, task, knobs, device, b, first, rows, q, columns, x, reduce))

        return kernel.write(body)

    def reduction(self, task: Task, knobs: Knobs, device: Device, w: Any, q: PrimExpr) -> Reduce:
        """What a register tile sums over panel q of the packed weights `w`."""
        from ..tir import ld

        k_size, width = shape_of(task).k, knobs.vectors * device.lanes
        ahead = (w, lambda k: (q * k_size + k) * width + knobs.ahead) if knobs.ahead else None
        return all_steps(k_size, lambda k, v: ld(w, (q * k_size + k) * width + v * device.lanes, device.lanes), ahead)


class ComputedGemm(Gemm):
    """W computed at run time (both operands of the matmul are activations): each panel is evaluated into scratch first."""

    name = "f32-gemm-computed"
    computed = True

    def scratch(self, task: Task, knobs: Knobs, device: Device) -> int:
        return super().scratch(task, knobs, device) + shape_of(task).k * knobs.vectors * device.lanes * 4

    def pack(self, task: Task, knobs: Knobs, device: Device) -> Mapping[int, Pack]:
        return {}

    def _blocks(self, task: Task, device: Device) -> tuple[int, ...]:
        return tuple(b for b in (1, 2, 4) if b == 1 or shape_of(task).m >= 32 * b)   # each thread evaluates the panel again

    def emit(self, task: Task, knobs: Knobs, device: Device) -> Any:
        from ..tir import Kernel, T, ld

        p, width = shape_of(task), knobs.vectors * device.lanes
        panels, rows = up(p.n, width), block_rows(p.m, knobs)
        blocks = up(p.m, rows)
        kernel = Kernel(task, self.scratch(task, knobs, device))
        start = super().scratch(task, knobs, device) // 4     # the panel lies behind the rows of x

        def body(begin: PrimExpr, end: PrimExpr) -> None:
            with T.serial(0, end - begin) as t:
                z = T.Bind(begin + t)
                block, q, b = T.Bind(z % blocks), T.Bind(z // blocks % panels), T.Bind(z // (panels * blocks))
                first = T.Bind(T.min(block * rows, p.m - rows))
                fresh = T.Or(t == 0, q == 0) if blocks == 1 else T.bool(True)
                x = rows_of_x(kernel, task, device, b, first, rows, fresh)

                def panel(columns: int) -> None:
                    with T.If(T.Or(t == 0, block == 0)), T.Then():
                        _evaluate_panel(kernel, task, device, b, q * width, columns, width, start)

                    def weights(k: PrimExpr, v: int) -> PrimExpr:
                        return ld(kernel.scratch, start + k * width + v * device.lanes, device.lanes)
                    row_tiles(kernel, task, knobs, device, b, first, rows, q, columns, x, all_steps(p.k, weights))
                rt.each_panel(q, panels, p.n, width, panel)

        return kernel.write(body)


# ---- Shape -------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Shape:
    batch: int
    m: int
    n: int
    k: int


def shape_of(task: Task) -> Shape:
    return Shape(*(task.params[name] for name in ("batch", "m", "n", "k")))


def extents_of(task: Task) -> dict[str, int]:
    p = shape_of(task)
    return {"i0": p.batch, "i1": p.m, "i2": p.n, "r0": p.k}


def block_rows(m: int, knobs: Knobs) -> int:
    """Rows of a block: whole register tiles, blocks as equal as can be."""
    return min(m, up(up(m, knobs.blocks), knobs.rows) * knobs.rows)


@lru_cache(maxsize=64)      # asked for by every candidate
def view_of(task: Task) -> tuple[int, int, int, Expr] | None:
    """X as (buffer, stride of m, stride of k, offset of the batch) where it can be read in place."""
    x = within(task.operands["x"], extents_of(task))
    found = strides(x, ("i1", "r0"), [b.shape for b in task.buffers])
    if found is None:
        return None
    buffer, (m, k), rest = found
    return buffer, m, k, rest


# ---- Emitting ----------------------------------------------------------------------------------------------------------


XAt = Callable[[PrimExpr, int, PrimExpr], PrimExpr]     # (first row of the tile in its block, row, k) -> scalar


def rows_of_x(kernel: Kernel, task: Task, device: Device, b: PrimExpr, first: PrimExpr, rows: int, fresh: PrimExpr) -> XAt:
    """How the rows first … first + rows of x are read; those that have no simple address are evaluated into scratch."""
    from ..tir import T

    k_size, operand = shape_of(task).k, within(task.operands["x"], extents_of(task))
    if view := view_of(task):
        buffer, sm, sk, rest = view
        base = T.Bind(kernel.value(rest, {"i0": b}) + first * sm)
        return lambda i, r, k: kernel.arrays[buffer][base + i * sm + r * sm + k * sk]
    with T.If(fresh), T.Then(), T.serial(0, rows) as r:
        rt.over(k_size, device.lanes, lambda at, n: evaluate(
            kernel, operand, "r0", at, n, device.lanes, {"i0": b, "i1": first + r}, r * k_size, 1))
    return lambda i, r, k: kernel.scratch[(i + r) * k_size + k]


def _evaluate_panel(kernel: Kernel, task: Task, device: Device, b: PrimExpr, j: PrimExpr, columns: int, width: int,
                    start: int) -> None:
    """Evaluates w for columns j … j + columns into scratch as [K][width], in vectors along the axis that lies contiguously."""
    from ..tir import T, splat, st

    w, k_size = within(task.operands["w"], extents_of(task)), shape_of(task).k
    view = strides(w, ("i2", "r0"), [buf.shape for buf in task.buffers])
    if columns < width:      # lanes that nobody stores, but denormals and NaNs of old scratch could slow them down
        with T.serial(0, k_size) as k:
            at = columns // device.lanes * device.lanes
            st(kernel.scratch, start + k * width + at, splat(0, device.lanes), device.lanes)
    if view is not None and view[1][1] == 1 and view[1][0] != 1:
        with T.serial(0, columns) as c:
            rt.over(k_size, device.lanes, lambda at, n: evaluate(
                kernel, w, "r0", at, n, device.lanes, {"i0": b, "i2": j + c}, start + c, width))
        return
    with T.serial(0, k_size) as k:
        rt.over(columns, device.lanes, lambda at, n: evaluate(
            kernel, w, "i2", j + at, n, n, {"i0": b, "r0": k}, start + k * width + at, None))


def evaluate(kernel: Kernel, e: Expr, name: str, base: PrimExpr, n: int, align: int, env: Mapping[str, PrimExpr], out: PrimExpr,
              stride: int | None) -> None:
    """scratch[out + (base + lane) * stride] (stride None: scratch[out + lane]) = e with `name` = base + lane, for n lanes."""
    from ..tir import T, put

    def body(lane: PrimExpr) -> None:
        x = kernel.value(lanewise(e, name, n, align if n == align else 1), {**env, "base": base, "lane": lane})
        put(kernel.scratch, out + lane if stride is None else out + (base + lane) * stride, x, "float32")

    if n == 1:
        body(T.int32(0))
    else:
        with T.vectorized(0, n) as lane:
            body(lane)


def all_steps(k_size: int, weights: Callable[[PrimExpr, int], PrimExpr], ahead: Any = None) -> Reduce:
    """weights(k, vector); ahead: (array, its offset of k) of what is asked for in advance."""
    from ..tir import T, prefetch

    def reduce(tile: rt.Tile, x: Callable[[int, PrimExpr], PrimExpr]) -> None:
        with T.serial(0, k_size) as k:
            if ahead:
                for o in range(0, tile.pitch, rt.LINE):
                    prefetch(ahead[0], ahead[1](k) + o)
            tile.multiply(lambda r: x(r, k), partial(weights, k))

    return reduce


def row_tiles(kernel: Kernel, task: Task, knobs: Knobs, device: Device, b: PrimExpr, first: PrimExpr, rows: int, q: PrimExpr,
               columns: int, x: XAt, reduce: Reduce) -> None:
    """All register tiles of one block of rows and one panel."""
    from ..tir import T

    width, stores = knobs.vectors * device.lanes, rt.plain(task, extents_of(task))
    with T.serial(0, up(rows, knobs.rows)) as t:
        i = T.Bind(T.min(t * knobs.rows, rows - knobs.rows)) if rows % knobs.rows else t * knobs.rows
        tile = rt.Tile(kernel, stores, knobs.rows, columns, device.lanes)
        reduce(tile, lambda r, k: x(i, r, k))
        tile.finish(lambda r: {"i0": b, "i1": first + i + r}, "i2", q * width, width)
