"""Direct convolution with a constant W whose zeros lie in blocks: as `conv`, but that a register tile walks the taps and channels
that its panel of output channels keeps (`sparse`). The place of a step is where tap and channel lie in the input, from the
tile's first tap.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from ..device import Device
from ..space import Knobs, Space
from ..task import Task
from ..template import Pack
from . import registertile as rt
from . import sparse
from .conv import DirectConv, Shape, block_rows, pixels, touched
from .registertile import up

PrimExpr = Any


class SparseConv(DirectConv):
    name = "f32-conv-sparse"
    skips_zeros = True

    def refuses(self, task: Task, device: Device) -> str | None:
        if task.params["groups"] != 1:
            return "several groups"
        return sparse.refuses(task) or super().refuses(task, device)

    def space(self, task: Task, device: Device) -> Space:
        s, device = Shape.of(task).flat, sparse.device_for(task, device)
        widths = sparse.widths(task, s.oc, device)
        return (Space.of(wide=range(1, min(s.ow, 28) + 1), high=[h for h in (1, 2, 3, 4, 7, 14) if h <= s.oh],
                         vectors=widths, blocks=self._blocks(s, device))
                .require(lambda k: rt.fits(k.wide * k.high, k.vectors, device), "accumulators would spill")
                .require(lambda k: k.high == 1 or k.wide == s.ow, "a tile of several rows spans whole rows")
                .require(lambda k: k.wide * k.high * k.vectors >= min(rt.LATENCY, s.ow) or k.vectors == widths[-1],
                         "too few accumulators")
                .require(lambda k: up(s.oh, k.blocks) >= k.high, "blocks smaller than a register tile"))

    def cost(self, task: Task, knobs: Knobs, device: Device) -> float:
        s, device, kept = Shape.of(task).flat, sparse.device_for(task, device), task.params["kept"]
        rows, width, l2 = block_rows(s, knobs), knobs.vectors * device.lanes, device.l2_kib * 1024
        blocks, pixels, panels, panel = up(s.oh, rows), knobs.wide * knobs.high, up(s.oc, width), kept * width * 4
        tiles = blocks * up(rows, knobs.high) * up(s.ow, knobs.wide)
        step = sparse.step_cost(pixels, knobs.vectors, panel, s.sw * s.pixel * 4, device)
        x_bytes = touched(s, rows)
        total = panels * tiles * (kept * step + pixels * knobs.vectors * (rt.weight(task.stores) + 2) + 30)
        if s.padded:
            total += blocks * x_bytes / 4 / device.lanes * (2 if x_bytes < l2 / 2 else 6)
        if x_bytes + panel > 1.1 * l2:
            total += panels * blocks * x_bytes * rt.MISS
        if panel * panels > 0.75 * l2:
            total += (blocks - 1) * panel * panels * rt.MISS
        count = self.tiles(task, knobs, device)
        return s.n * total * up(count, device.cores) * device.cores / count

    def features(self, task: Task, knobs: Knobs, device: Device) -> Mapping[str, float]:
        s, device, kept = Shape.of(task).flat, sparse.device_for(task, device), max(1, task.params["kept"])
        density, like = kept / s.reduction, super().features(task, Knobs.of(**knobs, ahead=0), device)
        return {**like, **rt.features(knobs.wide * knobs.high, knobs.vectors, kept * knobs.vectors * device.lanes * 4,
                                      s.sw * s.pixel * 4, kept, task.stores, device),
                "macs": like["macs"] * density, "w_l2": like["w_l2"] * density, "x_per_mac": like["x_per_mac"] / density,
                "copied": like["copied"] / density, "inner": kept}

    def tiles(self, task: Task, knobs: Knobs, device: Device) -> int:
        return super().tiles(task, knobs, sparse.device_for(task, device))

    def pack(self, task: Task, knobs: Knobs, device: Device) -> Mapping[int, Pack]:
        s, width = Shape.of(task).flat, knobs.vectors * sparse.device_for(task, device).lanes
        return {task.params["w"]: lambda w: sparse.Layout.of(s.oc, width).pack(w.reshape(s.reduction, s.oc), places(s))}

    def emit(self, task: Task, knobs: Knobs, device: Device) -> Any:
        return super().emit(task, knobs, sparse.device_for(task, device))

    def reduce(self, s: Shape, knobs: Knobs, device: Device, tile: rt.Tile, x: Any, at: PrimExpr, pitch: int, w: Any,
               gq: PrimExpr) -> None:
        from ..tir import ld

        pixel = pixels(s, knobs, pitch)
        sparse.Layout.of(s.oc, knobs.vectors * device.lanes).steps(w, gq)(lambda place, weights: tile.multiply(
            lambda r: x[at + place + pixel(r)], lambda v: ld(w, weights + v * device.lanes, device.lanes)))


def places(s: Shape) -> np.ndarray:
    """int32 [kh * kw * ic]: where taps and channels lie from the first of them."""
    pitch = (s.columns_in if s.padded else s.iw) * s.pixel
    ky, kx, c = np.indices((s.kh, s.kw, s.ic)).reshape(3, -1)
    return (ky * s.dh * pitch + kx * s.dw * s.pixel + c).astype(np.int32)
