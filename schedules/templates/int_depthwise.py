"""Depthwise convolution of bytes, NHWC: the sum over taps of (X[n, y sh - pt + ky dh, x sw - pl + kx dw, c] - zero) W[ky,kx,c].

The dot product of a device (dot.py) adds `depth` neighbours along the reduction, which lie side by side in a word. Here they are
neighbours in a column: `depth` rows of the map, whose bytes are interleaved in registers (`_interleaved`). A column of words is
made once and serves all taps of a row and all output rows of the register tile. The weights are interleaved in the same way at
the start of a tile, shifted to where an output row begins: 3x3 of stride 1 makes two output rows of a word of four, with weights
(w0, w1, w2, 0) and (0, w0, w1, w2) for each of three columns: six instructions in place of eighteen.

The register tile is `rows` x `wide` pixels by `vectors` of channels. What lies beside the map reads as `zero`, so that every tap
counts and accumulators start from -zero sum(w): columns beside it are known when the code is emitted (as in depthwise.py), rows
above and below it are masked. Tiles: image x block of rows x block of channels. The last blocks move up and overlap.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from ..device import Device
from ..dot import Dot, Plain, dot
from ..space import Knobs, Space
from ..task import Task
from ..template import Template
from . import registertile as rt
from .depthwise import Shape, peels
from .registertile import up

PrimExpr = Any


@dataclass(frozen=True)
class Window:
    """The rows of the map that `rows` output rows read, from the first one's first: in words of `depth`.

    offsets: of the rows that are read; taps[r][q][b]: the row of weights by which output row r multiplies byte b of word q, None
    where it does not.
    """

    s: Shape
    rows: int
    depth: int

    @cached_property
    def offsets(self) -> tuple[int, ...]:
        return tuple(sorted({r * self.s.sh + k * self.s.dh for r in range(self.rows) for k in range(self.s.kh)}))

    @property
    def words(self) -> int:
        return up(len(self.offsets), self.depth)

    @cached_property
    def taps(self) -> tuple[tuple[tuple[int | None, ...], ...], ...]:
        s, padded = self.s, (*self.offsets, *[None] * (-len(self.offsets) % self.depth))

        def tap(r: int, offset: int | None) -> int | None:
            k, rest = divmod(offset - r * s.sh, s.dh) if offset is not None else (-1, 0)
            return k if rest == 0 and 0 <= k < s.kh else None

        return tuple(tuple(tuple(tap(r, o) for o in padded[q * self.depth:(q + 1) * self.depth]) for q in range(self.words))
                     for r in range(self.rows))

    def used(self, r: int, q: int) -> bool:
        return any(k is not None for k in self.taps[r][q])

    @cached_property
    def products(self) -> int:
        """Dot products of a column of taps, for all output rows."""
        return sum(self.used(r, q) for r in range(self.rows) for q in range(self.words))

    def leaves(self, offset: int) -> bool:
        """Is that row of the window beside the map anywhere?"""
        s = self.s
        return offset < s.pt or (s.oh - self.rows) * s.sh - s.pt + offset >= s.ih


class IntDepthwise(Template):
    name, family = "u8s8-depthwise", "depthwise"

    def refuses(self, task: Task, device: Device) -> str | None:
        if [task.buffers[task.params[name]].dtype for name in ("x", "w")] != ["uint8", "int8"]:
            return "not uint8 by int8"
        if 0 in (b.size for b in task.buffers):
            return "a buffer is empty"
        return "negative padding" if min(task.params["pt"], task.params["pl"]) < 0 else None

    def space(self, task: Task, device: Device) -> Space:
        s, d = Shape.of(task), dot(device, task.params["top"])
        blocks = sorted({min(b, s.oh) for b in (1, 2, 4, 8, 16, 32)})
        widest = max(16, 2 * device.lanes)      # bytes of a row that are interleaved in the order of the channels
        vectors = [v for v in (1, 2, 4) if v * device.lanes <= min(s.c, widest)] or [1]
        return (Space.of(rows=range(1, min(s.oh, 4) + 1), wide=range(1, min(s.ow, 12) + 1), vectors=vectors, blocks=blocks)
                .require(lambda k: (k.rows * k.wide + 1) * k.vectors + 1 + d.registers <= device.vector_registers,
                         "accumulators would spill")
                .require(lambda k: k.rows <= up(s.oh, k.blocks), "more rows than a block has")
                .require(lambda k: peels(s, k.wide) or k.wide == 1, "the edge is wider than a tile"))

    def cost(self, task: Task, knobs: Knobs, device: Device) -> float:
        s, d = Shape.of(task), dot(device, task.params["top"])
        w, v = Window(s, knobs.rows, d.depth), knobs.vectors
        columns = min((knobs.wide - 1) * s.sw + (s.kw - 1) * s.dw + 1, knobs.wide * s.kw)
        words = columns * w.words * (d.depth + {1: 0, 2: 1, 4: 2}[d.depth] * v + d.prepare * v)
        weights, others = w.products * s.kw * v, (knobs.rows * knobs.wide + 1) * v + 2 + d.registers
        spilled = min(1.0, max(0, weights + others - device.vector_registers) / weights)
        products = w.products * s.kw * knobs.wide * v
        tile = words + products * (d.work + 0.2 + 0.4 * spilled) + knobs.rows * knobs.wide * v * (rt.weight(task.stores) + 1) + 10
        blocks, rows = up(s.oh, up(s.oh, knobs.blocks)), up(s.oh, knobs.blocks)
        start = 20 + w.products * s.kw * v * (d.work + 2 * d.depth)
        count = self.tiles(task, knobs, device)
        each = start + up(rows, knobs.rows) * (up(s.ow, knobs.wide) * tile + 10)
        panels = up(s.c, v * device.lanes) if s.c % device.lanes else s.c / (v * device.lanes)
        return s.n * blocks * panels * each * up(count, device.cores) * device.cores / count

    def tiles(self, task: Task, knobs: Knobs, device: Device) -> int:
        s = Shape.of(task)
        return s.n * up(s.oh, up(s.oh, knobs.blocks)) * up(s.c, knobs.vectors * device.lanes)

    def emit(self, task: Task, knobs: Knobs, device: Device) -> Any:
        from ..tir import Kernel, T, vectors

        s, d = Shape.of(task), dot(device, task.params["top"])
        width, rows = knobs.vectors * device.lanes, up(s.oh, knobs.blocks)
        groups, blocks = up(s.c, width), up(s.oh, rows)
        kernel, wasm = Kernel(task), device.arch == "wasm32"

        def body(begin: PrimExpr, end: PrimExpr) -> None:
            with T.serial(0, end - begin) as t:
                z = T.Bind(begin + t)
                n, first = T.Bind(z // (groups * blocks)), T.Bind(T.min(z // groups % blocks * rows, s.oh - rows))
                if s.c >= width:
                    rest = width if s.c % width % device.lanes else s.c - (groups - 1) * width

                    def panel(columns: int) -> None:
                        channel = T.Bind(T.min(z % groups * width, s.c - columns))
                        _Block(kernel, task, knobs, d, channel, columns, math.gcd(columns, s.c), wasm).emit(n, first, rows)

                    rt.each_panel(z % groups, groups, (groups - 1) * width + rest, width, panel)
                    return
                for o, lanes in vectors(s.c, device.lanes):     # a narrow map: in vectors of its own
                    plain, align = Plain("", lanes, depth=1), math.gcd(o, lanes)
                    _Block(kernel, task, knobs, plain, T.int32(o), lanes, align, wasm).emit(n, first, rows)

        return kernel.write(body)


class _Block:
    """One block of channels, while it is emitted."""

    def __init__(self, kernel: Any, task: Task, knobs: Knobs, d: Dot, channel: PrimExpr, width: int, multiple: int,
                 wasm: bool) -> None:
        """width: channels, from `channel` on, a multiple of `multiple`."""
        self.wasm = wasm
        s = self.s = Shape.of(task)
        self.kernel, self.knobs, self.d, self.channel, self.width, self.multiple = kernel, knobs, d, channel, width, multiple
        self.zero, self.vectors, self.window = task.params["zero"], width // d.lanes, Window(s, knobs.rows, d.depth)
        self.x, self.w = (kernel.arrays[task.params[name]] for name in ("x", "w"))
        self.stores = rt.plain(task, {"i0": s.n, "i1": s.oh, "i2": s.ow, "i3": s.c})

    def emit(self, n: PrimExpr, first: PrimExpr, count: int) -> None:
        """`count` output rows of image n from `first` on."""
        from ..tir import T

        s, rows = self.s, self.knobs.rows
        self._weights()
        with T.serial(0, up(count, rows)) as r:
            y = T.Bind(first + T.min(r * rows, count - rows))
            self._row_starts(n, y)
            wide = self.knobs.wide
            if not peels(s, wide):
                with T.serial(0, s.ow) as x:
                    self._tile(n, y, x, 1, None)
            elif wide == s.ow or s.left == s.right == 0:
                with T.serial(0, up(s.ow, wide)) as t:
                    x0 = T.Bind(T.min(t * wide, s.ow - wide))
                    self._tile(n, y, x0, wide, (lambda c: 0 <= c - s.pl < s.iw) if wide == s.ow else lambda c: True)
            else:
                self._tile(n, y, T.int32(0), wide, lambda c: c >= s.pl)
                if s.ow > 2 * wide:
                    with T.serial(0, up(s.ow - 2 * wide, wide)) as t:
                        self._tile(n, y, T.Bind(T.min(wide + t * wide, s.ow - s.right - wide)), wide, lambda c: True)
                self._tile(n, y, T.int32(s.ow - wide), wide, lambda c: (s.ow - wide) * s.sw - s.pl + c < s.iw)

    def _weights(self) -> None:
        """Words of weights for every output row of a tile and every column of taps, and what accumulators start from."""
        from ..tir import alloc, dtype_of, ld, splat, st, tirx

        d, s, v = self.d, self.s, self.vectors
        places = [(r, q, kx) for r in range(self.window.rows) for q in range(self.window.words) if self.window.used(r, q)
                  for kx in range(s.kw)]
        self.place = {key: n * v for n, key in enumerate(places)}
        none = splat(tirx.const(0, "int8"), self.width)
        self.weights, self.pitch = None, d.lanes * d.depth
        for (r, q, kx), at in self.place.items():
            rows = [none if k is None else ld(self.w, (k * s.kw + kx) * s.c + self.channel, self.width)
                    for k in self.window.taps[r][q]]
            for n, word in enumerate(_interleaved(rows, d.lanes, self.wasm)):
                word = d.signed(word)
                if self.weights is None:
                    self.weights = alloc(len(places) * v * self.pitch, dtype_of(word)[0])
                st(self.weights, (at + n) * self.pitch, word, self.pitch)
        zero = d.unsigned(splat(tirx.const(self.zero, "uint8"), self.pitch))
        self.start = alloc(self.width, "int32")
        for n in range(v):
            total = splat(tirx.const(0, "int32"), d.lanes)
            for (r, _, _), at in self.place.items():
                total = d(total, zero, self._weight(at + n)) if r == 0 else total
            st(self.start, n * d.lanes, splat(tirx.const(0, "int32"), d.lanes) - total, d.lanes)

    def _weight(self, at: int) -> PrimExpr:
        from ..tir import ld

        return ld(self.weights, at * self.pitch, self.pitch)

    def _row_starts(self, n: PrimExpr, y: PrimExpr) -> None:
        """Where the rows of the window begin. For words of rows that may be beside the map, and then read one that is not: which
        bytes to keep, and what to put in place of the others."""
        from ..tir import T, tirx

        s, depth = self.s, self.d.depth
        self.starts: list[PrimExpr] = []
        self.masks: dict[int, tuple[PrimExpr, PrimExpr]] = {}
        word = f"int{8 * depth}"
        for place, offset in enumerate(self.window.offsets):
            row = y * s.sh + (offset - s.pt)
            if self.window.leaves(offset):
                row = T.Bind(row)
                q, byte = divmod(place, depth)
                keep, fill = (tirx.const(_signed(value << 8 * byte, 8 * depth), word) for value in (255, self.zero))
                inside, none = tirx.And(row >= 0, row < s.ih), tirx.const(0, word)
                before = self.masks.get(q, (tirx.const(_signed(sum(255 << 8 * b for b in range(depth)), 8 * depth), word), none))
                self.masks[q] = (T.Bind(before[0] & ~tirx.Select(inside, none, keep)),
                                 T.Bind(before[1] | tirx.Select(inside, none, fill)))
                row = T.max(0, T.min(row, s.ih - 1))
            self.starts.append(T.Bind((n * s.ih + row) * (s.iw * s.apart) + self.channel))

    def _tile(self, n: PrimExpr, y: PrimExpr, x0: PrimExpr, wide: int, inside: Callable[[int], bool] | None) -> None:
        """`wide` pixels from x0 of the rows from y; inside(column of the tile's window): is it in the map? None: not known."""
        from ..tir import alloc, dtype_of, ld, st

        s, d, w = self.s, self.d, self.window
        tile = rt.Tile(self.kernel, self.stores, w.rows * wide, self.width, d.lanes,
                       lambda v: ld(self.start, v * d.lanes, d.lanes))
        reads: dict[int, list[tuple[int, int]]] = defaultdict(list)
        for p in range(wide):
            for kx in range(s.kw):
                reads[p * s.sw + kx * s.dw].append((p, kx))
        for column, uses in sorted(reads.items()):
            for q in range(w.words):
                for v, word in enumerate(self._words(x0, column, q, inside)):
                    array = alloc(self.pitch, dtype_of(word)[0])
                    st(array, 0, word, self.pitch)
                    for p, kx in uses:
                        for r in range(w.rows):
                            if (r, q, kx) in self.place:
                                at = (r * wide + p) * tile.pitch + v * d.lanes
                                weight = self._weight(self.place[r, q, kx] + v)
                                st(tile.acc, at, d(ld(tile.acc, at, d.lanes), ld(array, 0, self.pitch), weight), d.lanes)
        tile.finish(lambda p: {"i0": n, "i1": y + p // wide, "i2": x0 + p % wide}, "i3", self.channel, self.multiple)

    def _words(self, x0: PrimExpr, column: int, q: int, inside: Callable[[int], bool] | None) -> list[PrimExpr]:
        """Word q of a column of the window, for each vector."""
        from ..tir import T, ld, splat, tirx, wide

        s, d = self.s, self.d
        zero = splat(tirx.const(self.zero, "uint8"), self.pitch)
        if inside is not None and not inside(column):
            return [d.unsigned(zero)] * self.vectors
        x = T.Bind(x0 * s.sw + (column - s.pl))
        at = T.Bind(T.max(0, T.min(x, s.iw - 1)) * s.apart) if inside is None else x * s.apart
        rows = [ld(self.x, start + at, self.width) for start in self.starts[q * d.depth:(q + 1) * d.depth]]
        words = _interleaved(rows + rows[-1:] * (d.depth - len(rows)), d.lanes, self.wasm)
        if q in self.masks:
            keep, fill = (T.reinterpret(wide("uint8", self.pitch), splat(mask, d.lanes)) for mask in self.masks[q])
            words = [(word & keep) | fill if self.zero else word & keep for word in words]
        if inside is None:
            there = tirx.And(x >= 0, x < s.iw)
            words = [tirx.Select(splat(there, self.pitch), word, zero) for word in words]
        return [d.unsigned(word) for word in words]


def _signed(value: int, bits: int) -> int:
    """The number of `bits` bits that has those of `value`."""
    return value - (1 << bits) if value >> (bits - 1) else value


def _interleaved(rows: list[PrimExpr], lanes: int, wasm: bool) -> list[PrimExpr]:
    """1, 2 or 4 vectors of bytes -> vectors of `lanes` words, each a byte of every row, in the order of the bytes."""
    from ..tir import dtype_of, tirx

    n, depth = dtype_of(rows[0])[1], len(rows)

    def pick(parts: list[PrimExpr], picks: list[int]) -> PrimExpr:
        return tirx.Shuffle(parts, picks)

    if depth == 1:
        return [pick(rows, list(range(at, at + lanes))) for at in range(0, n, lanes)] if n > lanes else rows
    if wasm:
        return _woven(rows, n)
    if depth == 2:
        return [pick(rows, [b * n + c for c in range(at, at + lanes) for b in (0, 1)]) for at in range(0, n, lanes)]
    if lanes == 16:     # AVX-512 permutes the bytes of two registers, of two rows each
        a, b = (pick(rows[k:k + 2], list(range(2 * n))) for k in (0, 2))
        return [pick([a, b], [k * n + c for c in range(at, at + lanes) for k in range(4)]) for at in range(0, n, lanes)]
    few = min(n, 8)     # two rows of which fill 128 bits: what every device interleaves in one instruction
    pairs = [[pick(rows[k:k + 2], [b * n + c for c in range(at, at + few) for b in (0, 1)]) for k in (0, 2)]
             for at in range(0, n, few)]
    words = [[b * 2 * few + 2 * (c % few) + k for c in range(at, at + lanes) for b in (0, 1) for k in (0, 1)]
             for at in range(0, n, lanes)]
    return [pick(pairs[at * lanes // few], picks) for at, picks in enumerate(words)]


def _woven(rows: list[PrimExpr], n: int) -> list[PrimExpr]:
    """As `_interleaved`, for words of 2 or 4 bytes and four lanes. LLVM leaves places open in a shuffle of which a part is used,
    and V8 then builds masks, ten instructions in place of one; the intrinsic stays as it is."""
    from ..tir import T, dtype_of, tirx

    element = dtype_of(rows[0])[0]
    if n < 16:      # a load that is repeated is one instruction
        rows = [T.reinterpret(f"{element}x16", T.broadcast(T.reinterpret(f"int{8 * n}", r), 16 // n)) for r in rows]

    def half(a: PrimExpr, b: PrimExpr, start: int, size: int) -> PrimExpr:
        """Elements of `size` bytes of a and b in turn, from byte `start` on."""
        picks = [of + at + k for at in range(start, start + 8, size) for of in (0, 16) for k in range(size)]
        return T.call_llvm_pure_intrin(f"{element}x16", "llvm.wasm.shuffle", a, b, *(T.int32(p) for p in picks))

    pairs = [[half(a, b, start, 1) for a, b in zip(rows[::2], rows[1::2], strict=True)] for start in range(0, min(n, 16), 8)]
    if len(rows) == 2:
        return [tirx.Shuffle(pair, list(range(at, at + 8))) for pair in pairs for at in (0, 8)][:n // 4]
    return [half(a, b, at, 2) for a, b in pairs for at in (0, 8)][:n // 4]
