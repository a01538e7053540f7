"""Depthwise convolution, NHWC: Y[n,y,x,c] = epilogue(sum_{ky,kx} X[n, y sh - pt + ky dh, x sw - pl + kx dw, c] W[ky,kx,c]).

The register tile is `wide` pixels of a row by `vectors` of channels. Taps of a row are unrolled in the order of the input columns
they read, so that every input vector is loaded once per tile and row of taps, and used at once.

Nothing is copied for padding: taps above and below the map are left out by the bounds of the loop over ky, taps beside it when
the code is emitted, as the leftmost and rightmost tiles have code of their own (`edges` = peeled). Where the edge is wider than a
tile the pixels of the edge are done one by one, with computed bounds (`edges` = looped).
Tiles: image x block of rows x block of channels. The last blocks move up and overlap their predecessors.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from ..device import Device
from ..space import Knobs, Space
from ..task import Task
from ..template import Template
from . import registertile as rt
from .registertile import up

PrimExpr = Any
UNROLLED = 320      # multiply-adds of a row of taps of one tile, up to which they are unrolled


@dataclass(frozen=True)
class Shape:
    """apart: floats from a pixel of X to the next, more than there are channels where X is a part of them."""

    n: int
    ih: int
    iw: int
    c: int
    oh: int
    ow: int
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

    def inside(self, x: int, kx: int) -> bool:
        return 0 <= x * self.sw - self.pl + kx * self.dw < self.iw

    @property
    def left(self) -> int:
        """Pixels at the left with taps left of the map."""
        return min(self.ow, up(self.pl, self.sw))

    @property
    def right(self) -> int:
        """Pixels at the right with taps right of the map."""
        safe = (self.iw - 1 + self.pl - (self.kw - 1) * self.dw) // self.sw + 1
        return min(self.ow, max(0, self.ow - safe))


class Depthwise(Template):
    name, family = "f32-depthwise", "depthwise"

    def refuses(self, task: Task, device: Device) -> str | None:
        if any(task.buffers[task.params[name]].dtype != "float32" for name in ("x", "w")):
            return "input or weights are not float32"
        if 0 in (b.size for b in task.buffers):
            return "a buffer is empty"
        return "negative padding" if min(task.params["pt"], task.params["pl"]) < 0 else None

    def space(self, task: Task, device: Device) -> Space:
        s = Shape.of(task)
        most = max(1, s.c // device.lanes)
        blocks = sorted({min(b, s.oh) for b in (1, 2, 4, 8)})
        wide, registers = range(1, min(s.ow, 16) + 1), device.vector_registers
        edges = "peeled" if any(peels(s, w) and _registers(s, w, 1, "peeled") <= registers for w in wide) else "looped"
        return (Space.of(wide=wide, vectors=range(1, min(most, 6) + 1), blocks=blocks, edges=(edges,))
                .require(lambda k: _registers(s, k.wide, k.vectors, k.edges) <= registers, "accumulators would spill")
                .require(lambda k: k.edges == "looped" or k.wide * k.vectors * s.kw <= UNROLLED or k.wide == k.vectors == 1,
                         "too much code")
                .require(lambda k: k.edges == "looped" or peels(s, k.wide), "the edge is wider than a tile"))

    def cost(self, task: Task, knobs: Knobs, device: Device) -> float:
        s = Shape.of(task)
        groups, rows = up(s.c, knobs.vectors * device.lanes), _block_rows(s, knobs)
        inner = s.ow if knobs.edges == "peeled" else s.ow - min(s.ow, s.left + s.right)
        tiles = up(inner, knobs.wide)
        columns = (knobs.wide - 1) * s.sw + (s.kw - 1) * s.dw + 1
        columns = min(columns, knobs.wide * s.kw)
        adds = knobs.wide * knobs.vectors * s.kw
        loads = (columns + s.kw) * knobs.vectors if knobs.edges == "peeled" else adds + s.kw * knobs.vectors
        tap_row = max(adds, loads, rt.LATENCY * s.kw) + 0.1 * loads + 6
        row = tiles * (s.kh * tap_row + knobs.wide * knobs.vectors * (rt.weight(task.stores) + 1) + 15)
        if knobs.edges == "looped":
            row += (s.ow - inner) * (s.kh * s.kw * max(knobs.vectors, rt.LATENCY) + 40)
        count = self.tiles(task, knobs, device)
        narrow = 0.02 / knobs.vectors       # longer runs of channels suit the prefetcher
        return s.n * up(s.oh, rows) * rows * groups * row * (1 + narrow) * up(count, device.cores) * device.cores / count

    def features(self, task: Task, knobs: Knobs, device: Device) -> Mapping[str, float]:
        s, peeled = Shape.of(task), knobs.edges == "peeled"
        width, rows, l1, l2 = knobs.vectors * device.lanes, _block_rows(s, knobs), device.l1_kib * 1024, device.l2_kib * 1024
        inner = s.ow if peeled else s.ow - min(s.ow, s.left + s.right)
        columns = min((knobs.wide - 1) * s.sw + (s.kw - 1) * s.dw + 1, knobs.wide * s.kw)
        blocks, adds = up(s.oh, rows), knobs.wide * s.kw
        taps = s.kh * s.kw
        return {**rt.features(knobs.wide, knobs.vectors, taps * width * 4, s.sw * s.apart * 4, taps, task.stores, device),
                "registers": _registers(s, knobs.wide, knobs.vectors, knobs.edges) / device.vector_registers,
                "macs_per_load": adds / (columns + s.kw if peeled else adds + s.kw), "unrolled": adds * knobs.vectors,
                "macs": s.n * s.oh * s.ow * s.c * taps, "tiles": self.tiles(task, knobs, device), "blocks": blocks,
                "waste_rows": (up(inner, knobs.wide) * knobs.wide + s.ow - inner) * blocks * rows / (s.oh * s.ow),
                "waste_columns": up(s.c, width) * width / s.c, "panels": up(s.c, width),
                "row_tiles": rows * up(inner, knobs.wide), "edge": (s.left + s.right) / s.ow, "looped": not peeled,
                "taps": taps, "stride": s.sw,
                "block_l2": rows * s.sh * s.iw * s.c * 4 / l2, "x_l1": s.kh * s.iw * width * 4 / l1,
                "x_step": s.c / width,
                "set_conflicts": s.kh * s.iw / (device.l1_kib // 4 * (4096 // math.gcd(4096, max(64, s.apart * 4))))}

    def tiles(self, task: Task, knobs: Knobs, device: Device) -> int:
        s = Shape.of(task)
        return s.n * up(s.oh, _block_rows(s, knobs)) * up(s.c, knobs.vectors * device.lanes)

    def emit(self, task: Task, knobs: Knobs, device: Device) -> Any:
        from ..tir import Kernel, T, vectors

        s, width = Shape.of(task), knobs.vectors * device.lanes
        groups, rows = up(s.c, width), _block_rows(s, knobs)
        blocks = up(s.oh, rows)
        kernel = Kernel(task)

        def body(begin: PrimExpr, end: PrimExpr) -> None:
            with T.serial(0, end - begin) as t:
                z = T.Bind(begin + t)
                n, first = T.Bind(z // (groups * blocks)), T.Bind(T.min(z // groups % blocks * rows, s.oh - rows))
                channel = T.Bind(T.min(z % groups * width, s.c - width)) if s.c >= width else T.int32(0)
                multiple = width if s.c % width == 0 else math.gcd(width, s.c)
                with T.serial(0, rows) as r:
                    y = T.Bind(first + r)
                    if s.c >= width:
                        _Row(kernel, task, knobs, n, y, channel, width, device.lanes, multiple).emit()
                    else:
                        for o, lanes in vectors(s.c, device.lanes):
                            _Row(kernel, task, knobs, n, y, T.int32(o), lanes, lanes, math.gcd(o, lanes)).emit()

        return kernel.write(body)


def _block_rows(s: Shape, knobs: Knobs) -> int:
    return up(s.oh, knobs.blocks)


def _registers(s: Shape, wide: int, vectors: int, edges: str) -> int:
    """Accumulators, a row of weights (unrolled taps) or one, and a vector of input."""
    return (wide + (s.kw if edges == "peeled" else 1)) * vectors + 1


def peels(s: Shape, wide: int) -> bool:
    """Do a leftmost, a rightmost and identical tiles between them cover a row?"""
    if wide == s.ow or s.left == s.right == 0:
        return True
    return wide >= max(s.left, s.right) and (s.ow <= 2 * wide or wide <= s.ow - s.left - s.right)


class _Row:
    """One row of output pixels for one block of channels, while it is emitted."""

    def __init__(self, kernel: Any, task: Task, knobs: Knobs, n: PrimExpr, y: PrimExpr, channel: PrimExpr, width: int, lanes: int,
                 multiple: int) -> None:
        from ..tir import T

        s = self.s = Shape.of(task)
        self.kernel, self.knobs, self.n, self.y, self.channel = kernel, knobs, n, y, channel
        self.width, self.lanes, self.multiple = width, lanes, multiple
        self.x, self.w = (kernel.arrays[task.params[name]] for name in ("x", "w"))
        self.stores = rt.plain(task, {"i0": s.n, "i1": s.oh, "i2": s.ow, "i3": s.c})
        self.low, self.taps = bounds(y * s.sh - s.pt, s.ih, s.kh, s.dh)
        self.corner = T.Bind((n * s.ih + y * s.sh - s.pt) * (s.iw * s.apart) + channel)

    def emit(self) -> None:
        from ..tir import T

        s, wide = self.s, self.knobs.wide
        if self.knobs.edges == "looped":
            edge = min(s.ow, s.left + s.right)
            with T.serial(0, edge) as e:
                self.pixel(T.Bind(e if edge == s.ow else T.Select(e < s.left, e, e + (s.ow - edge))))
            inner = s.ow - edge
            wide = min(wide, inner)
            if inner:
                with T.serial(0, up(inner, wide)) as t:
                    self.tile(T.Bind(s.left + T.min(t * wide, inner - wide)), wide, lambda p, kx: True)
        elif wide == s.ow or s.left == s.right == 0:
            with T.serial(0, up(s.ow, wide)) as t:
                self.tile(T.Bind(T.min(t * wide, s.ow - wide)), wide, lambda p, kx: wide < s.ow or s.inside(p, kx))
        else:
            self.tile(T.int32(0), wide, s.inside)
            if s.ow > 2 * wide:
                with T.serial(0, up(s.ow - 2 * wide, wide)) as t:
                    self.tile(T.Bind(T.min(wide + t * wide, s.ow - s.right - wide)), wide, lambda p, kx: True)
            self.tile(T.int32(s.ow - wide), wide, lambda p, kx: s.inside(s.ow - wide + p, kx))

    def tile(self, x0: PrimExpr, wide: int, inside: Callable[[int, int], bool]) -> None:
        """`wide` pixels from x0; inside(pixel, kx): is that tap in the map?"""
        from ..tir import T, ld, st

        s, lanes = self.s, self.lanes
        tile = rt.Tile(self.kernel, self.stores, wide, self.width, lanes)
        reads: dict[int, list[tuple[int, int]]] = defaultdict(list)
        for p in range(wide):
            for kx in range(s.kw):
                if inside(p, kx):
                    reads[p * s.sw + kx * s.dw].append((p, kx))

        def multiply(column: PrimExpr, ky: PrimExpr, uses: list[tuple[int, PrimExpr]]) -> None:
            at = self.corner + ky * (s.dh * s.iw * s.apart) + (x0 * s.sw - s.pl + column) * s.apart
            for v in range(tile.vectors):
                for p, kx in uses:
                    a = p * tile.pitch + v * lanes
                    w = ld(self.w, (ky * s.kw + kx) * s.c + self.channel + v * lanes, lanes)
                    st(tile.acc, a, ld(tile.acc, a, lanes) + ld(self.x, at + v * lanes, lanes) * w, lanes)

        with T.serial(0, self.taps) as t:
            ky = T.Bind(self.low + t)
            if self.knobs.edges == "peeled":
                for column in sorted(reads):
                    multiply(column, ky, list(reads[column]))
            else:
                with T.serial(0, s.kw) as kx:
                    for p in range(wide):
                        multiply(p * s.sw + kx * s.dw, ky, [(p, kx)])
        self._finish(tile, x0)

    def pixel(self, x: PrimExpr) -> None:
        """One pixel whose taps may lie beside the map."""
        from ..tir import T, ld, st

        s, lanes = self.s, self.lanes
        tile = rt.Tile(self.kernel, self.stores, 1, self.width, lanes)
        low, count = bounds(x * s.sw - s.pl, s.iw, s.kw, s.dw)
        with T.serial(0, self.taps) as t, T.serial(0, count) as u:
            ky, kx = T.Bind(self.low + t), T.Bind(low + u)
            at = T.Bind(self.corner + ky * (s.dh * s.iw * s.apart) + (x * s.sw - s.pl + kx * s.dw) * s.apart)
            for a in range(0, tile.pitch, lanes):
                w = ld(self.w, (ky * s.kw + kx) * s.c + self.channel + a, lanes)
                st(tile.acc, a, ld(tile.acc, a, lanes) + ld(self.x, at + a, lanes) * w, lanes)
        self._finish(tile, x)

    def _finish(self, tile: rt.Tile, x0: PrimExpr) -> None:
        tile.finish(lambda p: {"i0": self.n, "i1": self.y, "i2": x0 + p}, "i3", self.channel, self.multiple)


def bounds(start: PrimExpr, size: int, taps: int, dilation: int) -> tuple[PrimExpr, PrimExpr]:
    """(first tap, number of taps) of those t with 0 <= start + t * dilation < size."""
    from ..tir import T

    low = T.Bind((T.max(0, T.int32(0) - start) + (dilation - 1)) // dilation)
    high = T.min(taps, (T.max(0, T.int32(size) - start) + (dilation - 1)) // dilation)
    return low, T.Bind(T.max(0, high - low))
