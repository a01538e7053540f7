"""Direct convolution with a constant W whose zeros lie in blocks: as `conv` and `int_conv`, but that a register tile walks the
taps and channels that its panel of output channels keeps (`sparse`). The place of a block is where its tap and first channel lie
in the input, from the tile's first tap.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from ..device import Device
from ..space import Knobs, Space
from ..task import Task
from ..template import Pack
from . import registertile as rt
from . import sparse
from .conv import DirectConv, Shape, block_rows, pixels, touched
from .int_conv import IntConv
from .int_gemm import dot_of, fits
from .registertile import up
from .sparse_gemm import block_cost, multiply_bytes, packed_bytes

PrimExpr = Any


class SparseConv(DirectConv):
    name = "f32-conv-sparse"
    skips_zeros = True

    def refuses(self, task: Task, device: Device) -> str | None:
        if task.params["groups"] != 1:
            return "several groups"
        return sparse.refuses(task) or super().refuses(task, device)

    def space(self, task: Task, device: Device) -> Space:
        device = sparse.device_for(task, device)
        return space_of(task, 4, device, self._blocks(Shape.of(task).flat, device)).require(
            lambda k: rt.fits(k.wide * k.high, k.vectors, device), "accumulators would spill")

    def cost(self, task: Task, knobs: Knobs, device: Device) -> float:
        narrow = sparse.device_for(task, device)
        return cost_of(task, knobs, narrow, 4, self.tiles(task, knobs, device), lambda panel, pitch: rt.step_cost(
            knobs.wide * knobs.high, knobs.vectors, panel, pitch, narrow))

    def features(self, task: Task, knobs: Knobs, device: Device) -> Mapping[str, float]:
        narrow = sparse.device_for(task, device)
        return thinner(super().features(task, knobs, narrow), task, knobs, narrow, 4)

    def tiles(self, task: Task, knobs: Knobs, device: Device) -> int:
        return super().tiles(task, knobs, sparse.device_for(task, device))

    def pack(self, task: Task, knobs: Knobs, device: Device) -> Mapping[int, Pack]:
        s, width = Shape.of(task).flat, knobs.vectors * sparse.device_for(task, device).lanes
        return {task.params["w"]: lambda w: sparse.Layout.floats(s.oc, width).pack(w.reshape(s.reduction, s.oc), places(s))}

    def emit(self, task: Task, knobs: Knobs, device: Device) -> Any:
        return super().emit(task, knobs, sparse.device_for(task, device))

    def reduce(self, s: Shape, knobs: Knobs, device: Device, tile: rt.Tile, x: Any, at: PrimExpr, pitch: int, w: Any,
               gq: PrimExpr) -> None:
        from ..tir import ld

        pixel = pixels(s, knobs, pitch)
        sparse.Layout.floats(s.oc, knobs.vectors * device.lanes).each(w, gq, lambda place, weights: tile.multiply(
            lambda r: x[at + place + pixel(r)], lambda v: ld(w, weights + v * device.lanes, device.lanes)), knobs.ahead)


class SparseIntConv(IntConv):
    name = "u8s8-conv-sparse"
    algorithm = skips_zeros = True

    def refuses(self, task: Task, device: Device) -> str | None:
        if task.params["groups"] != 1:
            return "several groups"
        if why := sparse.refuses(task) or super().refuses(task, device):
            return why
        return "the channels have no whole blocks" if task.params["ic"] % sparse.STEP else None

    def space(self, task: Task, device: Device) -> Space:
        device = sparse.device_for(task, device)
        d = dot_of(task, device)
        return space_of(task, 1, device, self._blocks(Shape.of(task).flat, device)).require(
            lambda k: fits(k.wide * k.high, k.vectors, d, device), "accumulators would spill")

    def cost(self, task: Task, knobs: Knobs, device: Device) -> float:
        narrow, tile = sparse.device_for(task, device), knobs.wide * knobs.high
        d = dot_of(task, narrow)
        return cost_of(task, knobs, narrow, 1, self.tiles(task, knobs, device), lambda panel, pitch: block_cost(
            rt.step_cost(tile, knobs.vectors, panel, pitch, narrow), tile, knobs.vectors, d))

    def features(self, task: Task, knobs: Knobs, device: Device) -> Mapping[str, float]:
        narrow = sparse.device_for(task, device)
        return thinner(super().features(task, knobs, narrow), task, knobs, narrow, 1)

    def tiles(self, task: Task, knobs: Knobs, device: Device) -> int:
        return super().tiles(task, knobs, sparse.device_for(task, device))

    def scratch(self, task: Task, knobs: Knobs, device: Device) -> int:
        return super().scratch(task, knobs, sparse.device_for(task, device))

    def pack(self, task: Task, knobs: Knobs, device: Device) -> Mapping[int, Pack]:
        s, device = Shape.of(task).flat, sparse.device_for(task, device)
        return {task.params["w"]: packed_bytes(task, s.oc, knobs.vectors * device.lanes, dot_of(task, device),
                                               places(s)[::sparse.STEP])}

    def emit(self, task: Task, knobs: Knobs, device: Device) -> Any:
        return super().emit(task, knobs, sparse.device_for(task, device))

    def start(self, task: Task, knobs: Knobs, device: Device, w: Any, gq: PrimExpr) -> Callable[[int], PrimExpr]:
        layout = sparse.Layout.bytes(Shape.of(task).oc, knobs.vectors * device.lanes, dot_of(task, device).depth)
        return lambda v: layout.start(w, gq, v, device.lanes)

    def reduce(self, s: Shape, knobs: Knobs, device: Device, tile: rt.Tile, x: Any, at: PrimExpr, pitch: int, w: Any,
               gq: PrimExpr) -> None:
        d, pixel = dot_of(tile.kernel.task, device), pixels(s, knobs, pitch)
        multiply_bytes(tile, d, s.oc, knobs, w, gq, lambda r, place: d.x(x, at + place + pixel(r)))


# ---- Of floats and of bytes (size: of an element) ----------------------------------------------------------------------


def places(s: Shape) -> np.ndarray:
    """int32 [kh * kw * ic]: where taps and channels lie from the first of them."""
    pitch = (s.columns_in if s.padded else s.iw) * s.pixel
    ky, kx, c = np.indices((s.kh, s.kw, s.ic)).reshape(3, -1)
    return (ky * s.dh * pitch + kx * s.dw * s.pixel + c).astype(np.int32)


def space_of(task: Task, size: int, device: Device, blocks: tuple[int, ...]) -> Space:
    s = Shape.of(task).flat
    widths = sparse.widths(task, s.oc, device)
    return (Space.of(wide=range(1, min(s.ow, 28) + 1), high=[h for h in (1, 2, 3, 4, 7, 14) if h <= s.oh], vectors=widths,
                     blocks=blocks, ahead=sparse.aheads(size, device))
            .require(lambda k: k.high == 1 or k.wide == s.ow, "a tile of several rows spans whole rows")
            .require(lambda k: k.wide * k.high * k.vectors >= min(rt.LATENCY, s.ow) or k.vectors == widths[-1],
                     "too few accumulators")
            .require(lambda k: up(s.oh, k.blocks) >= k.high, "blocks smaller than a register tile"))


def cost_of(task: Task, knobs: Knobs, device: Device, size: int, tiles: int, step: Callable[[int, int], float]) -> float:
    """step: cost in a dense kernel of what a block does, of the bytes of weights that stream and of those between pixels."""
    s, kept, pixels = Shape.of(task).flat, task.params["kept"], knobs.wide * knobs.high
    rows, width, l2 = block_rows(s, knobs), knobs.vectors * device.lanes, device.l2_kib * 1024
    blocks, panels, panel, x_bytes = up(s.oh, rows), up(s.oc, width), kept * width * 4, touched(s, rows) * size // 4
    row_tiles = blocks * up(rows, knobs.high) * up(s.ow, knobs.wide)
    each = sparse.step_cost(step(panel, s.sw * s.pixel * size), pixels, knobs.vectors)
    total = panels * row_tiles * (kept * each + pixels * knobs.vectors * (rt.weight(task.stores) + 2) + 30)
    if s.padded:
        total += blocks * x_bytes / 4 / device.lanes * (2 if x_bytes < l2 / 2 else 6)
    if x_bytes + panel > 1.1 * l2:
        total += panels * blocks * x_bytes * rt.MISS
    if panel * panels > 0.75 * l2:
        total += (blocks - 1) * panel * panels * rt.MISS
    if knobs.ahead:
        total *= 0.99 if panel * panels > l2 / 2 else 1.01
    return s.n * total * up(tiles, device.cores) * device.cores / tiles


def thinner(dense: Mapping[str, float], task: Task, knobs: Knobs, device: Device, size: int) -> dict[str, float]:
    """The features of a dense kernel, of the blocks that are kept."""
    s, kept = Shape.of(task).flat, max(1, task.params["kept"])
    density = kept * 4 / size / s.reduction
    tile = rt.features(knobs.wide * knobs.high, knobs.vectors, kept * knobs.vectors * device.lanes * 4, s.sw * s.pixel * size,
                       kept, task.stores, device)
    return {**dense, **tile, "macs": dense["macs"] * density, "w_l2": dense["w_l2"] * density, "inner": kept,
            "x_per_mac": dense["x_per_mac"] / density, "copied": dense["copied"] / density}
