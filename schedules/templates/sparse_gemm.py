"""Matrix multiplication with a constant W whose zeros lie in blocks: a register tile skips the blocks that its columns do not
keep. As `gemm` and `int_gemm`, but for the weights (`sparse`). A tile of x is read again for each panel, and little of it each
time: blocks of rows may be small enough for it to stay in L1, while the weights stream.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import numpy as np

from ..device import Device
from ..dot import Dot
from ..space import Knobs, Space
from ..task import Task
from ..template import Pack
from . import registertile as rt
from . import sparse
from .gemm import Gemm, Reduce, block_rows, shape_of, view_of
from .int_gemm import IntGemm, dot_of, fits
from .registertile import up

PrimExpr = Any
ROWS = 28


class SparseGemm(Gemm):
    name = "f32-gemm-sparse"
    algorithm = skips_zeros = True

    def refuses(self, task: Task, device: Device) -> str | None:
        return sparse.refuses(task) or super().refuses(task, device)

    def space(self, task: Task, device: Device) -> Space:
        device = sparse.device_for(task, device)
        return space_of(task, 4, device).require(lambda k: rt.fits(k.rows, k.vectors, device), "accumulators would spill")

    def cost(self, task: Task, knobs: Knobs, device: Device) -> float:
        narrow = sparse.device_for(task, device)
        return cost_of(task, knobs, narrow, 4, self.tiles(task, knobs, device), lambda panel, pitch: rt.step_cost(
            knobs.rows, knobs.vectors, panel, pitch, narrow))

    def features(self, task: Task, knobs: Knobs, device: Device) -> Mapping[str, float]:
        narrow = sparse.device_for(task, device)
        return thinner(super().features(task, knobs, narrow), task, knobs, narrow, 4)

    def tiles(self, task: Task, knobs: Knobs, device: Device) -> int:
        return super().tiles(task, knobs, sparse.device_for(task, device))

    def pack(self, task: Task, knobs: Knobs, device: Device) -> Mapping[int, Pack]:
        p, width = shape_of(task), knobs.vectors * sparse.device_for(task, device).lanes
        return {task.params["w"]: lambda w: sparse.Layout.floats(p.n, width).pack(w, np.arange(p.k))}

    def emit(self, task: Task, knobs: Knobs, device: Device) -> Any:
        return super().emit(task, knobs, sparse.device_for(task, device))

    def reduction(self, task: Task, knobs: Knobs, device: Device, w: Any, q: PrimExpr) -> Reduce:
        from ..tir import ld

        layout = sparse.Layout.floats(shape_of(task).n, knobs.vectors * device.lanes)
        return lambda tile, x: layout.each(w, q, lambda k, at: tile.multiply(
            lambda r: x(r, k), lambda v: ld(w, at + v * device.lanes, device.lanes)), knobs.ahead)


class SparseIntGemm(IntGemm):
    name = "u8s8-gemm-sparse"
    algorithm = skips_zeros = True

    def refuses(self, task: Task, device: Device) -> str | None:
        if why := sparse.refuses(task) or super().refuses(task, device):
            return why
        return "the reduction has no whole blocks" if task.params["k"] % sparse.STEP else None

    def space(self, task: Task, device: Device) -> Space:
        device = sparse.device_for(task, device)
        d = dot_of(task, device)
        return space_of(task, 1, device).require(lambda k: fits(k.rows, k.vectors, d, device), "accumulators would spill")

    def cost(self, task: Task, knobs: Knobs, device: Device) -> float:
        narrow = sparse.device_for(task, device)
        d = dot_of(task, narrow)
        return cost_of(task, knobs, narrow, 1, self.tiles(task, knobs, device), lambda panel, pitch: block_cost(
            rt.step_cost(knobs.rows, knobs.vectors, panel, pitch, narrow), knobs.rows, knobs.vectors, d))

    def features(self, task: Task, knobs: Knobs, device: Device) -> Mapping[str, float]:
        narrow = sparse.device_for(task, device)
        return thinner(super().features(task, knobs, narrow), task, knobs, narrow, 1)

    def scratch(self, task: Task, knobs: Knobs, device: Device) -> int:
        return super().scratch(task, knobs, sparse.device_for(task, device))

    def tiles(self, task: Task, knobs: Knobs, device: Device) -> int:
        return super().tiles(task, knobs, sparse.device_for(task, device))

    def pack(self, task: Task, knobs: Knobs, device: Device) -> Mapping[int, Pack]:
        device = sparse.device_for(task, device)
        return {task.params["w"]: packed_bytes(task, shape_of(task).n, knobs.vectors * device.lanes, dot_of(task, device),
                                               np.arange(0, shape_of(task).k, sparse.STEP))}

    def emit(self, task: Task, knobs: Knobs, device: Device) -> Any:
        return super().emit(task, knobs, sparse.device_for(task, device))

    def start(self, task: Task, knobs: Knobs, device: Device, w: Any, q: PrimExpr) -> Callable[[int], PrimExpr]:
        layout = sparse.Layout.bytes(shape_of(task).n, knobs.vectors * device.lanes, dot_of(task, device).depth)
        return lambda v: layout.start(w, q, v, device.lanes)

    def reduce(self, task: Task, knobs: Knobs, device: Device, tile: rt.Tile, x: Callable[[int, PrimExpr, int], PrimExpr], w: Any,
               q: PrimExpr) -> None:
        multiply_bytes(tile, dot_of(task, device), shape_of(task).n, knobs, w, q, lambda r, k: x(r, k, sparse.STEP))


# ---- Of floats and of bytes (size: of an element) ----------------------------------------------------------------------


def space_of(task: Task, size: int, device: Device) -> Space:
    p = shape_of(task)
    widths = sparse.widths(task, p.n, device)
    fill = min(up(p.m * p.k * size, device.l2_kib * 512), up(p.m, 16))
    blocks = sorted({1, fill, up(p.m, 16), up(p.m, 8)})     # all rows, half of L2, one or two register tiles each
    return (Space.of(rows=range(1, min(p.m, ROWS) + 1), vectors=widths, blocks=blocks, ahead=sparse.aheads(size, device))
            .require(lambda k: k.rows * k.vectors >= min(rt.LATENCY, p.m) or k.vectors == widths[-1], "too few accumulators")
            .require(lambda k: up(p.m, k.blocks) >= min(k.rows, 8) or k.blocks == 1, "blocks smaller than a register tile"))


def cost_of(task: Task, knobs: Knobs, device: Device, size: int, tiles: int, step: Callable[[int, int], float]) -> float:
    """step: cost in a dense kernel of what a block does, of the bytes of weights that stream and of those between rows of x."""
    p, kept = shape_of(task), task.params["kept"]
    rows, width, l2 = block_rows(p.m, knobs), knobs.vectors * device.lanes, device.l2_kib * 1024
    blocks, row_tiles, panels = up(p.m, rows), up(rows, knobs.rows), up(p.n, width)
    panel, view = kept * width * 4, view_of(task)
    streamed = panel if row_tiles > 1 else panel * panels
    each = sparse.step_cost(step(streamed, (view[1] if view else p.k) * size), knobs.rows, knobs.vectors)
    if row_tiles > 1 or rows * p.k * size > device.l1_kib * 768:    # x comes from L2: at most a line for each row and block
        each = max(each, knobs.rows * min(sparse.LINE, p.k * size / max(1, kept)) * sparse.FROM_L2)
    total = blocks * panels * row_tiles * (kept * each + knobs.rows * knobs.vectors * (rt.weight(task.stores) + 2) + 30)
    if rows * p.k * size > 0.75 * l2:
        total += panels * p.m * p.k * size * rt.MISS
    if row_tiles > 1 and panel * panels > 0.75 * l2:
        total += (blocks - 1) * panel * panels * rt.MISS
    if knobs.ahead:
        total *= 0.99 if panel * panels > l2 / 2 else 1.01
    return p.batch * total * up(tiles, device.cores) * device.cores / tiles


def block_cost(step: float, rows: int, vectors: int, d: Dot) -> float:
    """Of a block of bytes, where a dot product of four took `step`."""
    return sparse.STEP // d.depth * (step + rows * vectors * (d.work - 1) + rows * d.prepare)


def thinner(dense: Mapping[str, float], task: Task, knobs: Knobs, device: Device, size: int) -> dict[str, float]:
    """The features of a dense kernel, of the blocks that are kept."""
    p, view, kept = shape_of(task), view_of(task), max(1, task.params["kept"])
    density = kept * 4 / size / p.k
    tile = rt.features(knobs.rows, knobs.vectors, kept * knobs.vectors * device.lanes * 4, (view[1] if view else p.k) * size,
                       kept, task.stores, device)
    return {**dense, **tile, "macs": dense["macs"] * density, "w_l2": dense["w_l2"] * density,
            "x_per_mac": dense["x_per_mac"] / density, "copied": dense["copied"] / density}


def packed_bytes(task: Task, channels: int, width: int, d: Dot, places: np.ndarray) -> Pack:
    def pack(w: np.ndarray) -> np.ndarray:
        w = w.reshape(-1, channels)
        sums = (d.offset - task.params["zero"]) * w.sum(axis=0, dtype=np.int32)
        return sparse.Layout.bytes(channels, width, d.depth).pack(w, places, sums)
    return pack


def multiply_bytes(tile: rt.Tile, d: Dot, channels: int, knobs: Knobs, w: Any, q: PrimExpr,
                   x: Callable[[int, PrimExpr], PrimExpr]) -> None:
    """All blocks of panel q. x(row, place): the dot product's x."""
    width = knobs.vectors * d.lanes

    def block(place: PrimExpr, at: PrimExpr) -> None:
        for j in range(0, sparse.STEP, d.depth):
            tile.step(partial(add, place + j, at + j * width))

    def add(place: PrimExpr, at: PrimExpr, acc: PrimExpr, r: int, v: int) -> PrimExpr:
        return d(acc, x(r, place), d.w(w, at + v * d.lanes * d.depth))

    sparse.Layout.bytes(channels, width, d.depth).each(w, q, block, knobs.ahead)
