"""Direct convolution of bytes, NHWC: acc = sum of (X - zero) W in int32, X uint8, W int8 constant, by the device's dot product.

As `conv`; a run of the reduction (the taps of a row with their channels, or the channels of a tap) is a whole number of the dot
product's steps: its weights end in zeros. Scratch ends in slack, so that the last step of a run is read whole; in place it is
read byte by byte. What surrounds the input is its zero point.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from ..device import Device
from ..dot import Dot, pack
from ..space import Knobs, Space
from ..task import ITEMSIZE, Task
from ..template import Pack
from . import registertile as rt
from .conv import DirectConv, Shape, block_rows, copy_rows, pixels, touched
from .int_gemm import AHEAD, Share, dot_of, fits, reduce, tile_cost
from .registertile import up

if TYPE_CHECKING:
    from ..tir import Kernel

PrimExpr = Any


class IntConv(DirectConv):
    name = "u8s8-conv-direct"

    def refuses(self, task: Task, device: Device) -> str | None:
        if [task.buffers[task.params[name]].dtype for name in ("x", "w")] != ["uint8", "int8"]:
            return "not uint8 x int8"
        if "zero" not in task.params:
            return "no zero point is said"
        if 0 in (b.size for b in task.buffers):
            return "a buffer is empty"
        return "negative padding" if min(task.params["pt"], task.params["pl"]) < 0 else None

    def space(self, task: Task, device: Device) -> Space:
        s, d = Shape.of(task).flat, dot_of(task, device)
        panels = up(s.oc, device.lanes)
        return (Space.of(wide=range(1, min(s.ow, 28) + 1), high=[h for h in (1, 2, 3, 4, 7, 14) if h <= s.oh],
                         vectors=range(1, min(panels, 8) + 1), blocks=self._blocks(s, device),
                         ahead=AHEAD if device.arch == "x86_64" else (0,))
                .require(lambda k: fits(k.wide * k.high, k.vectors, d, device), "accumulators would spill")
                .require(lambda k: k.high == 1 or k.wide == s.ow, "a tile of several rows spans whole rows")
                .require(lambda k: k.wide * k.high * k.vectors >= min(rt.LATENCY, s.ow) or k.vectors == panels,
                         "too few accumulators")
                .require(lambda k: up(s.oh, k.blocks) >= k.high, "blocks smaller than a register tile"))

    def _blocks(self, s: Shape, device: Device) -> tuple[int, ...]:
        fill = up(touched(s, s.oh) // 4, device.l2_kib * 384)
        return tuple(sorted({min(b, s.oh) for b in (1, fill, 2 * fill, 4 * fill)}))

    def cost(self, task: Task, knobs: Knobs, device: Device) -> float:
        s, d = Shape.of(task).flat, dot_of(task, device)
        rows, (runs, run) = block_rows(s, knobs), runs_of(s)
        blocks, pixels = up(s.oh, rows), knobs.wide * knobs.high
        tiles = blocks * up(rows, knobs.high) * up(s.ow, knobs.wide)
        wide = up(s.oc, device.lanes)
        panels = [knobs.vectors] * (wide // knobs.vectors) + [wide % knobs.vectors] * (wide % knobs.vectors > 0)
        x_bytes, w_bytes, l2 = touched(s, rows) // 4, s.groups * s.reduction * s.oc, device.l2_kib * 1024
        total = 0.0
        for v in panels:
            total += s.groups * tiles * (tile_cost(pixels, v, runs * d.steps(run), s.sw * s.pixel, task, d, device) + 10 * runs)
        if s.padded:
            total += blocks * x_bytes / 4 / device.lanes * (2 if x_bytes < l2 / 2 else 6)
        if x_bytes + s.reduction * knobs.vectors * device.lanes > 1.1 * l2:
            total += len(panels) * blocks * x_bytes * rt.MISS
        if w_bytes > 0.75 * l2:
            total += (blocks - 1) * w_bytes * rt.MISS
        if knobs.ahead:
            total *= 0.99 if w_bytes > l2 / 8 else 1.01
        count = self.tiles(task, knobs, device)
        return s.n * total * up(count, device.cores) * device.cores / count

    def features(self, task: Task, knobs: Knobs, device: Device) -> Mapping[str, float]:
        s, d, like = Shape.of(task).flat, dot_of(task, device), super().features(task, knobs, device)
        runs, run = runs_of(s)
        tile = rt.features(knobs.wide * knobs.high, knobs.vectors, panel_of(s, knobs.vectors * device.lanes, d), s.sw * s.pixel,
                           runs * d.steps(run), task.stores, device)
        bytewise = ("block_l2", "x_l1", "w_l2", "w_per_mac", "x_per_mac", "copied")
        return {**like, **tile, **{name: like[name] / 4 for name in bytewise}}

    def scratch(self, task: Task, knobs: Knobs, device: Device) -> int:
        s, d = Shape.of(task).flat, dot_of(task, device)
        copied = s.rows_in(block_rows(s, knobs)) * s.columns_in * s.channels
        return (copied + d.depth - 1) * ITEMSIZE[d.element] if s.padded else 0

    def pack(self, task: Task, knobs: Knobs, device: Device) -> Mapping[int, Pack]:
        s, width, d = Shape.of(task).flat, knobs.vectors * device.lanes, dot_of(task, device)
        runs, run = runs_of(s)

        def packed(w: np.ndarray) -> np.ndarray:
            w = np.pad(w.reshape(s.groups, runs, run, s.oc), [(0, 0), (0, 0), (0, -run % d.depth), (0, 0)])
            return pack(w.reshape(s.groups, -1, s.oc), task.params["zero"], width, d).reshape(-1)
        return {task.params["w"]: packed}

    def kernel(self, task: Task, knobs: Knobs, device: Device) -> Kernel:
        from ..tir import Kernel

        s, d, width = Shape.of(task).flat, dot_of(task, device), knobs.vectors * device.lanes
        packed = {task.params["w"]: s.groups * up(s.oc, width) * panel_of(s, width, d)}
        return Kernel(task, self.scratch(task, knobs, device), packed, d.element)

    def copy(self, task: Task, device: Device, source: Any, target: Any, n: PrimExpr, first: PrimExpr, rows: int) -> None:
        from ..tir import tirx

        d = dot_of(task, device)
        copy_rows(Shape.of(task).flat, source, target, n, first, rows, 4 * device.lanes // ITEMSIZE[d.element],
                  tirx.const(task.params["zero"], d.element))

    def count(self, kernel: Kernel, tiles: int) -> PrimExpr:
        return kernel.rolled(tiles)

    def late(self, kernel: Kernel, tile: PrimExpr) -> PrimExpr:
        from ..tir import T

        return T.Bind(kernel.nothing(tile))

    def start(self, task: Task, knobs: Knobs, device: Device, w: Any, gq: PrimExpr) -> Callable[[int], PrimExpr]:
        d, width = dot_of(task, device), knobs.vectors * device.lanes
        size = panel_of(Shape.of(task).flat, width, d)
        return lambda v: d.start(w, gq * size + 4 * v * device.lanes)

    def reduce(self, s: Shape, knobs: Knobs, device: Device, tile: rt.Tile, x: Any, at: PrimExpr, pitch: int, w: Any,
               gq: PrimExpr) -> None:
        from ..tir import T

        d, width, pixel = dot_of(tile.kernel.task, device), knobs.vectors * device.lanes, pixels(s, knobs, pitch)
        (runs, run), size = runs_of(s), panel_of(s, width, d)
        panel, steps = T.Bind(gq * size + 4 * width), d.steps(run)
        tiles = up(block_rows(s, knobs), knobs.high) * up(s.ow, knobs.wide)
        ask = Share.of(size, tiles, runs * steps) if knobs.ahead else None

        def all_of_run(tap: PrimExpr, number: PrimExpr) -> None:
            """tap: offset in x; number: of the run."""
            reduce(tile, d, lambda r, k, count: d.x(x, tap + pixel(r) + k, d.depth if s.padded else count), run, w,
                   panel + number * (steps * d.depth * width), width,
                   ask and ask.at((gq + 1) * size, (tile.number * runs + number) * steps))

        with T.serial(0, s.kh) as ky:
            row = at + ky * (s.dh * pitch)
            if s.merged:
                all_of_run(row, ky)
            else:
                with T.serial(0, s.kw) as kx:
                    all_of_run(row + kx * (s.dw * s.pixel), ky * s.kw + kx)


def runs_of(s: Shape) -> tuple[int, int]:
    """(how many runs of contiguous taps a reduction has, bytes of each)."""
    return (s.kh, s.kw * s.ic) if s.merged else (s.kh * s.kw, s.ic)


def panel_of(s: Shape, width: int, d: Dot) -> int:
    """Bytes of a panel of packed weights."""
    runs, run = runs_of(s)
    return d.panel(runs * d.steps(run) * d.depth, width)
