"""Two matrix products behind each other: Y[b,m,n] = epilogue((X[b,m,k] A[k,r] + c[r]) B[r,n]), A and B constant, r small.

The rank-r rows between them never leave the cache: for each block of rows, T = X A + c goes to scratch, then panels of B stream
past T as past the X of a matrix product. Both run on its register tile, with tiles of their own.

Family `pair`: params batch, m, k, r, n, a and w (numbers of the constants [k,r] and [r,n]), c (number of a constant [r], or
None); operand x over i0=b, i1=m, r0=k; acc at i0=b, i1=m, i2=n.

Outer tiles: batch x blocks of rows x panels of B; T is made anew when a call enters a block.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np

from ..device import Device
from ..space import Knobs, Space
from ..task import Task
from ..template import Pack, Template
from . import registertile as rt
from .gemm import XAt, all_steps, block_rows, row_tiles, rows_of_x, shape_of, view_of
from .registertile import up

if TYPE_CHECKING:
    from ..tir import Kernel

PrimExpr = Any

INNER = 6           # vectors of the first product's register tile, at most
CACHE = 2           # part of L1 that T may fill


class Pair(Template):
    name, family = "f32-pair-fused", "pair"

    def refuses(self, task: Task, device: Device) -> str | None:
        if any(task.buffers[task.params[name]].dtype != "float32" for name in ("a", "w")):
            return "weights are not float32"
        if 0 in (task.params[name] for name in ("batch", "m", "n", "k", "r")):
            return "the product is empty"
        return None if task.operands["x"].dtype == "float32" else "the operand is not float32"

    def space(self, task: Task, device: Device) -> Space:
        p, wide = shape_of(task), up(task.params["n"], device.lanes)
        return (Space.of(rows=range(1, min(p.m, 16) + 1), vectors=range(1, min(wide, 12) + 1), first=_first(task, device),
                         blocks=_blocks(task, device))
                .require(lambda k: rt.fits(k.rows, k.vectors, device), "accumulators would spill")
                .require(lambda k: k.rows * k.vectors >= min(rt.LATENCY, p.m, 16) or k.vectors == wide, "too few accumulators")
                .require(lambda k: up(p.m, k.blocks) >= k.rows or k.blocks == 1, "blocks smaller than a register tile"))

    def cost(self, task: Task, knobs: Knobs, device: Device) -> float:
        p, r = shape_of(task), task.params["r"]
        rows, l2 = block_rows(p.m, knobs), device.l2_kib * 1024
        blocks, inner = up(p.m, rows), first_rows(rows, knobs.first, device)
        view = view_of(task)
        pitch, between = (view[1] if view else p.k) * 4, _pitch(r, device) * 4

        def product(tile: int, vectors: int, columns: int, steps: int, pitch: int, epilogue: int) -> float:
            wide = up(columns, device.lanes)
            panels = [vectors] * (wide // vectors) + [wide % vectors] * (wide % vectors > 0)
            return sum(up(rows, tile) * (steps * rt.step_cost(tile, v, v * device.lanes * steps * 4, pitch, device)
                                         + tile * v * epilogue + 20) for v in panels)

        total = blocks * (product(inner, knobs.first, r, p.k, pitch, 2)
                          + product(knobs.rows, knobs.vectors, p.n, r, between, rt.weight(task.stores) + 2))
        weights, x = (p.k + p.n) * r * 4, rows * p.k * 4
        total += (blocks - 1) * weights * rt.MISS if weights > 0.75 * l2 else 0
        total += (up(up(r, device.lanes), knobs.first) - 1) * p.m * p.k * 4 * rt.MISS if x > 0.75 * l2 else 0
        total += p.m * r * 4 * rt.MISS * up(up(p.n, device.lanes), knobs.vectors) if rows * between > 0.75 * l2 else 0
        count = self.tiles(task, knobs, device)
        return p.batch * total * up(count, device.cores) * device.cores / count

    def features(self, task: Task, knobs: Knobs, device: Device) -> Mapping[str, float]:
        p, r, view = shape_of(task), task.params["r"], view_of(task)
        rows, l2 = block_rows(p.m, knobs), device.l2_kib * 1024
        blocks, wide, panel = up(p.m, rows), up(p.n, device.lanes), knobs.vectors * device.lanes * r * 4
        return {**rt.features(knobs.rows, knobs.vectors, panel, _pitch(r, device) * 4, r, task.stores, device),
                "macs": p.batch * p.m * r * (p.k + p.n), "tiles": self.tiles(task, knobs, device), "blocks": blocks,
                "waste_rows": blocks * up(rows, knobs.rows) * knobs.rows / p.m, "waste_columns": wide * device.lanes / p.n,
                "ragged": wide % knobs.vectors / wide, "panels": up(wide, knobs.vectors), "row_tiles": up(rows, knobs.rows),
                "block_l2": rows * (p.k + r) * 4 / l2, "w_l2": (p.k + p.n) * r * 4 / l2, "x_step": view[2] if view else 1,
                "result_accumulators": knobs.first * first_rows(rows, knobs.first, device),
                "result_ragged": up(r, device.lanes) % knobs.first}

    def tiles(self, task: Task, knobs: Knobs, device: Device) -> int:
        p = shape_of(task)
        return p.batch * up(p.m, block_rows(p.m, knobs)) * up(p.n, knobs.vectors * device.lanes)

    def scratch(self, task: Task, knobs: Knobs, device: Device) -> int:
        rows = block_rows(shape_of(task).m, knobs)
        return (_copied(task, rows) + rows * _pitch(task.params["r"], device)) * 4

    def pack(self, task: Task, knobs: Knobs, device: Device) -> Mapping[int, Pack]:
        first, second, c = knobs.first * device.lanes, knobs.vectors * device.lanes, task.params["c"]
        packs: dict[int, Pack] = {task.params["a"]: lambda a: rt.pack_panels(a, first).reshape(-1),
                                  task.params["w"]: lambda w: rt.pack_panels(w, second).reshape(-1)}
        return packs if c is None else {**packs, c: lambda c: np.pad(c, (0, -len(c) % first))}

    def emit(self, task: Task, knobs: Knobs, device: Device) -> Any:
        from ..tir import Kernel, T, ld

        p, r, width = shape_of(task), task.params["r"], knobs.vectors * device.lanes
        rows, panels = block_rows(p.m, knobs), up(p.n, width)
        blocks, pitch, start = up(p.m, rows), _pitch(r, device), _copied(task, rows)
        wide = up(r, knobs.first * device.lanes) * knobs.first * device.lanes
        sizes = {task.params["a"]: wide * p.k, task.params["w"]: panels * r * width}
        if task.params["c"] is not None:
            sizes[task.params["c"]] = wide
        kernel = Kernel(task, self.scratch(task, knobs, device), sizes)

        def body(begin: PrimExpr, end: PrimExpr) -> None:
            w = kernel.arrays[task.params["w"]]
            with T.serial(0, end - begin) as t:
                z = T.Bind(begin + t)
                q, b = T.Bind(z % panels), T.Bind(z // (panels * blocks))
                first = T.Bind(T.min(z // panels % blocks * rows, p.m - rows))
                fresh = T.Bind(T.Or(t == 0, q == 0))
                x = rows_of_x(kernel, task, device, b, first, rows, fresh)
                with T.If(fresh), T.Then():
                    _between(kernel, task, knobs, device, rows, x, start, pitch)
                reduce = all_steps(r, lambda k, v: ld(w, (q * r + k) * width + v * device.lanes, device.lanes))
                rt.each_panel(q, panels, p.n, width, lambda columns: row_tiles(
                    kernel, task, knobs, device, b, first, rows, q, columns,
                    lambda i, row, k: kernel.scratch[start + (i + row) * pitch + k], reduce))

        return kernel.write(body)


def first_rows(rows: int, inner: int, device: Device) -> int:
    """Rows of the first product's register tile: as many as the registers hold, tiles as equal as can be."""
    most = min(rows, 16, (device.vector_registers - 1) // inner - 1)
    return up(rows, up(rows, most))


def _pitch(r: int, device: Device) -> int:
    """Floats between the rows of T: whole vectors."""
    return up(r, device.lanes) * device.lanes


def _copied(task: Task, rows: int) -> int:
    """Floats of scratch in front of T: rows of x that have no simple address."""
    return 0 if view_of(task) else rows * up(shape_of(task).k, rt.LINE) * rt.LINE


def _first(task: Task, device: Device) -> tuple[int, ...]:
    """Widths of the first product's register tile that waste the fewest vectors of T."""
    wide = up(task.params["r"], device.lanes)
    fits = [v for v in range(1, min(wide, INNER) + 1) if rt.fits(1, v, device)]
    least = min(up(wide, v) * v for v in fits)
    return tuple(v for v in fits if up(wide, v) * v == least)[-3:]


@lru_cache(maxsize=64)      # asked for by every candidate
def _blocks(task: Task, device: Device) -> tuple[int, ...]:
    """Blocks of rows: one; as many as make X and T fill half of L2, or T half of L1; and a multiple of that for threads."""
    p, pitch = shape_of(task), _pitch(task.params["r"], device)
    fill, near = up(p.m * (p.k + pitch) * 4, device.l2_kib * 512), up(p.m * pitch * 4, device.l1_kib * 1024 // CACHE)
    return tuple(sorted({min(b, up(p.m, 16)) for b in (1, fill, near, 2 * fill, 4 * fill)}))


def _between(kernel: Kernel, task: Task, knobs: Knobs, device: Device, rows: int, x: XAt, start: int, pitch: int) -> None:
    """T of a block of rows, to scratch."""
    from ..tir import T, ld, st

    p, r, width, tall = shape_of(task), task.params["r"], knobs.first * device.lanes, first_rows(rows, knobs.first, device)
    a, c = kernel.arrays[task.params["a"]], task.params["c"]
    with T.serial(0, up(r, width)) as q:
        def panel(columns: int) -> None:
            reduce = all_steps(p.k, lambda k, v: ld(a, (q * p.k + k) * width + v * device.lanes, device.lanes))
            with T.serial(0, up(rows, tall)) as t:
                i = T.Bind(T.min(t * tall, rows - tall)) if rows % tall else t * tall
                tile = rt.Tile(kernel, (), tall, columns, device.lanes)
                reduce(tile, lambda row, k: x(i, row, k))
                for row in range(tall):
                    for at in range(0, tile.pitch, device.lanes):
                        value = ld(tile.acc, row * tile.pitch + at, device.lanes)
                        if c is not None:
                            value = value + ld(kernel.arrays[c], q * width + at, device.lanes)
                        st(kernel.scratch, start + (i + row) * pitch + q * width + at, value, device.lanes)
        rt.each_panel(q, up(r, width), r, width, panel)
