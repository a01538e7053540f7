"""Direct convolution, NHWC: Y[n,y,x,o] = epilogue(sum_{i,j,c} X[n, y sh - pt + i dh, x sw - pl + j dw, g ic + c] W[g,i,j,c,o]).

The register tile is `high` x `wide` output pixels by `vectors` of channels; weights are packed [groups][OC/NR][KH][KW][IC][NR].
Pixels of a tile lie at constant distances, so that a step of the reduction has one address for the input and one for the
weights. Where the taps of a row are contiguous in memory (one group, no dilation) j and c are one loop.

Input that needs padding is copied, rows of one block at a time and with its zeros, to scratch; else it is read in place.
Tiles: image x block of rows x (group, panel of channels); the copy is made when a call enters a block of rows.
A 1x1 convolution without stride or padding is one long row of pixels.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

from ..device import Device
from ..expr import floordiv, floormod, substitute, var
from ..space import Knobs, Space
from ..task import Store, Task
from ..template import Pack, Template
from . import registertile as rt
from .registertile import up

if TYPE_CHECKING:
    from ..tir import Kernel

PrimExpr = Any


@dataclass(frozen=True)
class Shape:
    """The parameters of a convolution (ic, oc per group), and what follows from them. apart: floats from a pixel of X to the
    next, more than there are channels where X is a part of them."""

    n: int
    ih: int
    iw: int
    ic: int
    oh: int
    ow: int
    oc: int
    groups: int
    kh: int
    kw: int
    sh: int
    sw: int
    dh: int
    dw: int
    pt: int
    pl: int
    apart: int

    @classmethod
    def of(cls, task: Task) -> Shape:
        params = {name: task.params[name] for name in cls.__dataclass_fields__ if name != "apart"}
        return cls(**params, apart=task.buffers[task.params["x"]].shape[-1])

    @cached_property
    def flat(self) -> Shape:
        """The same work on one long row of pixels, where it is the same."""
        if self.kh == self.kw == self.sh == self.sw == 1 and (self.pt, self.pl, self.ih, self.iw) == (0, 0, self.oh, self.ow):
            pixels = self.n * self.oh * self.ow
            return Shape(1, 1, pixels, self.ic, 1, pixels, self.oc, self.groups, 1, 1, 1, 1, 1, 1, 0, 0, self.apart)
        return self

    @property
    def channels(self) -> int:
        return self.groups * self.ic

    @property
    def reduction(self) -> int:
        return self.kh * self.kw * self.ic

    def rows_in(self, rows: int) -> int:
        """Input rows that `rows` output rows read."""
        return (rows - 1) * self.sh + (self.kh - 1) * self.dh + 1

    @property
    def columns_in(self) -> int:
        return (self.ow - 1) * self.sw + (self.kw - 1) * self.dw + 1

    @property
    def padded(self) -> bool:
        return (self.pt, self.pl) != (0, 0) or self.rows_in(self.oh) > self.ih or self.columns_in > self.iw

    @property
    def pixel(self) -> int:
        """Floats from a pixel to the next where the taps are read: a copy has no gaps."""
        return self.channels if self.padded else self.apart

    @property
    def merged(self) -> bool:
        """Are the taps of a row contiguous in memory?"""
        return self.groups == 1 and (self.kw == 1 or (self.dw == 1 and self.pixel == self.ic))


class DirectConv(Template):
    name, family = "f32-conv-direct", "conv"
    algorithm = True        # also of what NarrowConv makes

    def refuses(self, task: Task, device: Device) -> str | None:
        if any(task.buffers[task.params[name]].dtype != "float32" for name in ("x", "w")):
            return "input or weights are not float32"
        if 0 in (b.size for b in task.buffers):
            return "a buffer is empty"
        return "negative padding" if min(task.params["pt"], task.params["pl"]) < 0 else None

    def space(self, task: Task, device: Device) -> Space:
        s = Shape.of(task).flat
        panels = up(s.oc, device.lanes)
        return (Space.of(wide=range(1, min(s.ow, 28) + 1), high=[h for h in (1, 2, 3, 4, 7, 14) if h <= s.oh],
                         vectors=range(1, min(panels, 8) + 1), blocks=self._blocks(s, device),
                         ahead=(0, 4096) if device.arch == "x86_64" else (0,))
                .require(lambda k: rt.fits(k.wide * k.high, k.vectors, device), "accumulators would spill")
                .require(lambda k: k.high == 1 or k.wide == s.ow, "a tile of several rows spans whole rows")
                .require(lambda k: k.wide * k.high * k.vectors >= min(rt.LATENCY, s.ow) or k.vectors == panels,
                         "too few accumulators")
                .require(lambda k: up(s.oh, k.blocks) >= k.high, "blocks smaller than a register tile"))

    def _blocks(self, s: Shape, device: Device) -> tuple[int, ...]:
        """Blocks of rows: one, as many as make the input of a block fill 3/8 of L2, and multiples of that."""
        fill = up(touched(s, s.oh), device.l2_kib * 384)
        return tuple(sorted({min(b, s.oh) for b in (1, fill, 2 * fill, 4 * fill)}))

    def cost(self, task: Task, knobs: Knobs, device: Device) -> float:
        s = Shape.of(task).flat
        rows = block_rows(s, knobs)
        blocks, pixels = up(s.oh, rows), knobs.wide * knobs.high
        tiles = blocks * up(rows, knobs.high) * up(s.ow, knobs.wide)
        wide = up(s.oc, device.lanes)
        panels = [knobs.vectors] * (wide // knobs.vectors) + [wide % knobs.vectors] * (wide % knobs.vectors > 0)
        loops = s.kh * (1 if s.merged else s.kw)
        epilogue = rt.weight(task.stores) + 2
        x_bytes, w_bytes, l2 = touched(s, rows), s.groups * s.reduction * s.oc * 4, device.l2_kib * 1024
        total = 0.0
        for v in panels:
            step = rt.step_cost(pixels, v, s.reduction * v * device.lanes * 4, s.sw * s.pixel * 4, device)
            total += s.groups * tiles * (s.reduction * step + pixels * v * epilogue + 10 * loops + 20)
        if s.padded:
            total += blocks * x_bytes / 4 / device.lanes * (2 if x_bytes < l2 / 2 else 6)
        if x_bytes + s.reduction * knobs.vectors * device.lanes * 4 > 1.1 * l2:
            total += len(panels) * blocks * x_bytes * rt.MISS
        if w_bytes > 0.75 * l2:
            total += (blocks - 1) * w_bytes * rt.MISS
        if knobs.ahead:
            total *= 0.99 if w_bytes > l2 / 2 else 1.01
        count = self.tiles(task, knobs, device)
        return s.n * total * up(count, device.cores) * device.cores / count

    def features(self, task: Task, knobs: Knobs, device: Device) -> Mapping[str, float]:
        s = Shape.of(task).flat
        rows, wide, l1, l2 = block_rows(s, knobs), up(s.oc, device.lanes), device.l1_kib * 1024, device.l2_kib * 1024
        blocks, pixels, macs = up(s.oh, rows), knobs.wide * knobs.high, s.n * s.oh * s.ow * s.groups * s.oc * s.reduction
        x_bytes = touched(s, rows)
        return {**rt.features(pixels, knobs.vectors, s.reduction * knobs.vectors * device.lanes * 4, s.sw * s.pixel * 4,
                              s.reduction, task.stores, device),
                "macs": macs, "tiles": self.tiles(task, knobs, device), "blocks": blocks, "high": knobs.high,
                "waste_rows": blocks * up(rows, knobs.high) * up(s.ow, knobs.wide) * pixels / (s.oh * s.ow),
                "waste_columns": wide * device.lanes / s.oc, "ragged": wide % knobs.vectors / wide,
                "panels": s.groups * up(wide, knobs.vectors), "row_tiles": up(rows, knobs.high) * up(s.ow, knobs.wide),
                "block_l2": x_bytes / l2, "x_l1": touched(s, knobs.high) * knobs.wide / s.ow / l1,
                "w_l2": s.groups * s.reduction * s.oc * 4 / l2, "copied": s.n * blocks * x_bytes / 4 / macs if s.padded else 0,
                "taps": s.kh * s.kw, "stride": s.sw, "groups": s.groups,
                "inner": s.kw * s.ic if s.merged else s.ic, "w_per_mac": s.n * blocks * s.groups * s.reduction * s.oc * 4 / macs,
                "x_per_mac": s.n * blocks * up(wide, knobs.vectors) * x_bytes / macs}

    def tiles(self, task: Task, knobs: Knobs, device: Device) -> int:
        s = Shape.of(task).flat
        return s.n * up(s.oh, block_rows(s, knobs)) * s.groups * up(s.oc, knobs.vectors * device.lanes)

    def scratch(self, task: Task, knobs: Knobs, device: Device) -> int:
        s = Shape.of(task).flat
        return s.rows_in(block_rows(s, knobs)) * s.columns_in * s.channels * 4 if s.padded else 0

    def pack(self, task: Task, knobs: Knobs, device: Device) -> Mapping[int, Pack]:
        s, width = Shape.of(task), knobs.vectors * device.lanes
        return {task.params["w"]: lambda w: rt.pack_panels(w.reshape(s.groups, s.reduction, s.oc), width).reshape(-1)}

    def emit(self, task: Task, knobs: Knobs, device: Device) -> Any:
        from ..tir import T

        s, width = Shape.of(task).flat, knobs.vectors * device.lanes
        panels, rows = up(s.oc, width), block_rows(s, knobs)
        blocks, stores = up(s.oh, rows), stores_of(task)
        kernel = self.kernel(task, knobs, device)

        def body(begin: PrimExpr, end: PrimExpr) -> None:
            with T.serial(0, end - begin) as t:
                z = T.Bind(begin + t)
                gq, n = T.Bind(z % (s.groups * panels)), T.Bind(z // (s.groups * panels * blocks))
                g, q = T.Bind(gq // panels), T.Bind(gq % panels)
                first = T.Bind(T.min(z // (s.groups * panels) % blocks * rows, s.oh - rows))
                source, weights = (kernel.arrays[task.params[name]] for name in ("x", "w"))
                if s.padded:
                    with T.If(T.Or(t == 0, gq == 0)), T.Then():
                        self.copy(task, device, source, kernel.scratch, n, first, rows)
                    x, pitch, corner = kernel.scratch, s.columns_in * s.channels, T.Bind(g * s.ic)
                else:
                    x, pitch = source, s.iw * s.pixel
                    corner = T.Bind((n * s.ih + first * s.sh) * pitch + g * s.ic)

                def panel(columns: int) -> None:
                    with T.serial(0, up(rows, knobs.high)) as ty, T.serial(0, self.count(kernel, up(s.ow, knobs.wide))) as tx:
                        late = self.late(kernel, tx)
                        y = T.Bind(T.min(ty * knobs.high, rows - knobs.high))
                        column = T.Bind(T.min(tx * knobs.wide, s.ow - knobs.wide))
                        at = T.Bind(corner + y * (s.sh * pitch) + column * (s.sw * s.pixel))
                        tile = rt.Tile(kernel, stores, knobs.wide * knobs.high, columns, device.lanes,
                                       self.start(task, knobs, device, weights, gq + late))
                        tile.number = ty * up(s.ow, knobs.wide) + tx
                        self.reduce(s, knobs, device, tile, x, at, pitch, weights, gq)
                        tile.finish(lambda r: {"i0": n, "i1": first + y + r // knobs.wide, "i2": column + r % knobs.wide},
                                    "i3", g * s.oc + (q + late) * width, width if s.groups == 1 else math.gcd(s.oc, width))
                rt.each_panel(q, panels, s.oc, width, panel)

        return kernel.write(body)

    def kernel(self, task: Task, knobs: Knobs, device: Device) -> Kernel:
        from ..tir import Kernel

        s, width = Shape.of(task), knobs.vectors * device.lanes
        packed = {task.params["w"]: s.groups * up(s.oc, width) * s.reduction * width}
        return Kernel(task, self.scratch(task, knobs, device), packed)

    def copy(self, task: Task, device: Device, source: Any, target: Any, n: PrimExpr, first: PrimExpr, rows: int) -> None:
        """Copies the input of some rows with what surrounds it."""
        copy_rows(Shape.of(task).flat, source, target, n, first, rows, device.lanes)

    def count(self, kernel: Kernel, tiles: int) -> PrimExpr:
        """Of the register tiles of a row of pixels."""
        return tiles

    def late(self, kernel: Kernel, tile: PrimExpr) -> PrimExpr:
        """0; as of `Kernel.nothing` where what a tile loads at its ends shall not be held between them."""
        return 0

    def start(self, task: Task, knobs: Knobs, device: Device, w: Any, gq: PrimExpr) -> Callable[[int], PrimExpr] | None:
        """What the accumulators of panel `gq` start from, where it is not 0: a vector, by its number."""
        return None

    def reduce(self, s: Shape, knobs: Knobs, device: Device, tile: rt.Tile, x: Any, at: PrimExpr, pitch: int, w: Any,
               gq: PrimExpr) -> None:
        """All steps of the reduction of a tile; `at`: offset of its first tap in x, whose rows are `pitch` apart; gq: number of
        the panel of the weights `w`."""
        from ..tir import T, ld, prefetch

        width = knobs.vectors * device.lanes
        panel, pixel = T.Bind(gq * s.reduction * width), pixels(s, knobs, pitch)

        def step(tap: PrimExpr, k: PrimExpr) -> None:
            """tap: offset in x; k: number of the step."""
            weights = panel + k * width
            if knobs.ahead:
                for o in range(0, tile.pitch, rt.LINE):
                    prefetch(w, weights + knobs.ahead + o)
            tile.multiply(lambda r: x[tap + pixel(r)], lambda v: ld(w, weights + v * device.lanes, device.lanes))

        with T.serial(0, s.kh) as ky:
            row = at + ky * (s.dh * pitch)
            if s.merged:
                with T.serial(0, s.kw * s.ic) as c:
                    step(row + c, ky * (s.kw * s.ic) + c)
            else:
                with T.serial(0, s.kw) as kx, T.serial(0, s.ic) as c:
                    step(row + kx * (s.dw * s.pixel) + c, (ky * s.kw + kx) * s.ic + c)


def pixels(s: Shape, knobs: Knobs, pitch: int) -> Callable[[int], int]:
    """Offset in the input of the pixels of a register tile, by their number."""
    return lambda r: r // knobs.wide * s.sh * pitch + r % knobs.wide * s.sw * s.pixel


def touched(s: Shape, rows: int) -> int:
    """Bytes of input that `rows` rows of output read; strides may skip some."""
    return min(s.rows_in(rows), rows * s.kh) * min(s.columns_in, s.ow * s.kw) * s.channels * 4


def block_rows(s: Shape, knobs: Knobs) -> int:
    """Output rows of a block: whole register tiles, blocks as equal as can be."""
    return min(s.oh, up(up(s.oh, knobs.blocks), knobs.high) * knobs.high)


def stores_of(task: Task) -> tuple[Store, ...]:
    """The stores over the flat shape's pixels."""
    s = Shape.of(task)
    stores = rt.plain(task, {"i0": s.n, "i1": s.oh, "i2": s.ow, "i3": s.groups * s.oc})
    if s.flat is s:
        return stores
    p = var("i2")
    env = {"i0": floordiv(p, s.oh * s.ow), "i1": floormod(floordiv(p, s.ow), s.oh), "i2": floormod(p, s.ow)}
    return tuple(Store(t.buffer, t.space, tuple(substitute(i, env) for i in t.index), substitute(t.value, env)) for t in stores)


def copy_rows(s: Shape, source: Any, target: Any, n: PrimExpr, first: PrimExpr, rows: int, lanes: int,
              fill: PrimExpr | float = 0) -> None:
    """Copies the input that output rows first … first + rows read, with its padding: [rows_in][columns_in][channels]."""
    from ..tir import T, ld, splat, st, wide

    left = min(s.pl, s.columns_in) * s.channels
    columns = max(0, min(s.iw, s.columns_in - s.pl))
    middle = columns * s.channels
    whole = s.columns_in * s.channels

    def around(at: PrimExpr, count: int) -> None:
        rt.over(count, lanes, lambda o, n: st(target, at + o, splat(fill, n), n))

    def move(at: PrimExpr, start: PrimExpr, count: int) -> None:
        rt.over(count, lanes, lambda o, n: st(target, at + o, ld(source, start + o, n).astype(wide(str(target.dtype), n)), n))

    with T.serial(0, s.rows_in(rows)) as r:
        y = T.Bind(first * s.sh - s.pt + r)
        with T.If(T.And(y >= 0, y < s.ih)):
            with T.Then():
                around(r * whole, left)
                start = T.Bind((n * s.ih + y) * (s.iw * s.apart))
                if s.apart == s.channels:
                    move(r * whole + left, start, middle)
                else:
                    with T.serial(0, columns) as c:
                        move(r * whole + left + c * s.channels, start + c * s.apart, s.channels)
                around(r * whole + left + middle, whole - left - middle)
            with T.Else():
                around(r * whole, whole)
