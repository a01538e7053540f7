"""Winograd convolution F(m x m, 3x3), m = 2 or 4, NHWC, stride 1 (Lavin & Gray 2015, section 4): 2.25 or 4 times fewer products.

A tile is m x m outputs. A block of tiles is transformed to V; then, per panel group of output channels, (m+2)^2 small matrix
products give M, and the output transform with the epilogue empties it. All of it stays in L2, and the transformed weights U are
laid out as they are read. U is four (m = 2: 1.8) times as large as the weights, and so made when a model is loaded.

    V [E][block * C + pad]   M [E][block * group + pad]   U [ceil(OC/group)][E][panels][C][NR]

E = (m+2)^2, NR = vectors * lanes, group = panels * NR.

The padding keeps the E planes out of each other's sets of L1. Tiles of all images are numbered in one row.
Outer tiles: block of tiles x part of the output channels; V is made anew when a call enters a block.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np

from ..device import Device
from ..expr import indices, load
from ..space import Knobs, Space
from ..task import Buffer, Store, Task
from ..template import Pack, Template
from . import registertile as rt
from .conv import Shape
from .registertile import up
from .winograd_transform import input_line, output_line, plane, weight_matrix

PrimExpr = Any

ROWS_WASTED = 1.3       # most that a register tile may round the number of tiles up by
FILLS = (2, 4, 7)       # eighths of L2 that V may fill
INPUT, OUTPUT = {2: 60, 4: 250}, {2: 40, 4: 200}     # of a tile's transform for a vector of channels, in multiply-adds
STREAM = 1 / 7          # of a byte of weights that a block has not met before, in multiply-adds (Zen 5, from L3 or prefetched)
UNASKED = {False: 1 / 6, True: 1 / 2}   # the same without prefetching, from L3 and from memory
CALL = 20               # of entering a loop nest
RUN = 256               # columns of W that are transformed at a time: nine such rows stay in L1
ROOM = 1.25             # of L2, that V and M may fill: less than all of it is in use at a time


@dataclass(frozen=True)
class Form:
    """What follows from a shape and a choice of knobs. Sizes in elements."""

    s: Shape
    m: int
    rows: int
    vectors: int
    panels: int
    fill: int
    device: Device

    @classmethod
    def of(cls, task: Task, k: Knobs, device: Device) -> Form:
        return cls(Shape.of(task), k.m, k.rows, k.vectors, k.panels, k.fill, device)

    @property
    def points(self) -> int:
        return (self.m + 2)**2

    @property
    def across(self) -> int:
        return up(self.s.ow, self.m)

    @property
    def down(self) -> int:
        return up(self.s.oh, self.m)

    @property
    def count(self) -> int:
        """Tiles of all images."""
        return self.s.n * self.down * self.across

    @cached_property
    def block(self) -> int:
        """Tiles of a block: whole register tiles whose V fills `fill` eighths of L2 at most, blocks as equal as can be."""
        room = self.fill * self.device.l2_kib * 128 // (self.points * self.s.ic * 4)
        most = max(1, room // self.rows) * self.rows
        return up(up(self.count, up(self.count, most)), self.rows) * self.rows

    @property
    def blocks(self) -> int:
        return up(self.count, self.block)

    @property
    def lanes(self) -> int:
        return self.device.lanes

    @property
    def width(self) -> int:
        return self.vectors * self.lanes

    @property
    def group(self) -> int:
        return self.panels * self.width

    @property
    def groups(self) -> int:
        return up(self.s.oc, self.group)

    @property
    def v_plane(self) -> int:
        return up(self.block * self.s.ic, rt.LINE) * rt.LINE + rt.LINE

    @property
    def m_plane(self) -> int:
        return up(self.block * self.group, rt.LINE) * rt.LINE + rt.LINE

    @property
    def scratch(self) -> int:
        """Bytes."""
        return self.points * (self.v_plane + self.m_plane) * 4

    @cached_property
    def parts(self) -> int:
        """Parts of the output channels: the fewest that give all cores about the same work."""
        def idle(parts: int) -> float:
            return up(self.blocks * parts, self.device.cores) * self.device.cores / (self.blocks * parts)
        options = range(1, self.groups + 1)
        return next((p for p in options if self.groups % p == 0 and idle(p) <= 1.05), min(options, key=idle))


class Winograd(Template):
    name, family = "f32-conv-winograd", "conv"
    exact, algorithm = False, True

    def refuses(self, task: Task, device: Device) -> str | None:
        s = Shape.of(task)
        if (s.kh, s.kw) != (3, 3):
            return "the kernel is not 3x3"
        if (s.sh, s.sw, s.dh, s.dw) != (1, 1, 1, 1):
            return "stride or dilation is not 1"
        if s.groups != 1:
            return "there are groups"
        if any(task.buffers[task.params[name]].dtype != "float32" for name in ("x", "w")):
            return "input or weights are not float32"
        if 0 in (b.size for b in task.buffers):
            return "a buffer is empty"
        return "negative padding" if min(s.pt, s.pl) < 0 else None

    def space(self, task: Task, device: Device) -> Space:
        s = Shape.of(task)
        wide = up(s.oc, device.lanes)

        def form(k: Knobs) -> Form:
            return Form.of(task, k, device)

        counts = {m: s.n * up(s.oh, m) * up(s.ow, m) for m in (2, 4)}
        most = min(max(counts.values()), device.vector_registers - 2)
        return (Space.of(m=(2, 4), rows=range(1, most + 1), vectors=range(1, min(wide, 6) + 1), panels=(1, 2), fill=FILLS,
                         ahead=(0, 4096) if device.arch == "x86_64" else (0,))
                .require(lambda k: rt.fits(k.rows, k.vectors, device), "accumulators would spill")
                .require(lambda k: k.rows in _rows(counts[k.m], k.vectors, device), "other rows waste less")
                .require(lambda k: k.rows * k.vectors >= min(rt.LATENCY, counts[k.m])
                         or k.rows == _rows(counts[k.m], k.vectors, device)[0], "too few accumulators")
                .require(lambda k: k.panels == 1 or k.panels * k.vectors <= wide, "panels beyond the last channel")
                .require(lambda k: all(replace(form(k), fill=n).block != form(k).block for n in FILLS if n < k.fill),
                         "the same blocks as with less fill")
                .require(lambda k: form(k).scratch <= ROOM * device.l2_kib * 1024 or form(k).block == k.rows,
                         "a block does not fit L2"))

    def cost(self, task: Task, knobs: Knobs, device: Device) -> float:
        f = Form.of(task, knobs, device)
        s, l2 = f.s, device.l2_kib * 1024
        step = rt.step_cost(f.rows, f.vectors, s.ic * f.width * 4, s.ic * 4, device)
        u_bytes = f.points * f.groups * f.group * s.ic * 4
        far = u_bytes > 0.75 * l2
        fetch = f.width * 4 * (STREAM if knobs.ahead else UNASKED[u_bytes > 4 * l2])
        fresh = max(step, fetch) if far else step       # on weights that the block has not met before
        steps = f.blocks * fresh + (up(f.count, f.rows) - f.blocks) * step
        panels = f.points * f.groups * f.panels
        products = panels * (s.ic * steps + up(f.count, f.rows) * (2 * f.rows * f.vectors + CALL))
        epilogue = rt.weight(task.stores) + 1
        inputs = f.count * (up(s.ic, device.lanes) * INPUT[f.m] + CALL) * (f.parts if device.cores > 1 else 1)
        outputs = f.count * (up(s.oc, device.lanes) * (OUTPUT[f.m] + f.m * f.m * epilogue) + f.groups * CALL)
        total = (products + inputs + outputs) * (1.05 if knobs.ahead and not far else 1)
        count = f.blocks * f.parts
        return total * up(count, device.cores) * device.cores / count

    def features(self, task: Task, knobs: Knobs, device: Device) -> Mapping[str, float]:
        f = Form.of(task, knobs, device)
        s, wide, l2 = f.s, up(f.s.oc, f.lanes), device.l2_kib * 1024
        macs = s.n * s.oh * s.ow * s.oc * s.reduction
        return {**rt.features(f.rows, f.vectors, s.ic * f.width * 4, s.ic * 4, s.ic, task.stores, device),
                "macs": macs, "tiles": f.blocks * f.parts, "blocks": f.blocks, "output_tile": f.m,
                "waste_rows": up(f.count, f.rows) * f.rows * f.m * f.m / (s.n * s.oh * s.ow),
                "waste_columns": f.groups * f.group / s.oc, "ragged": wide % (f.vectors * f.panels) / wide,
                "panels": f.groups * f.panels, "row_tiles": up(f.count, f.rows), "block_l2": f.scratch / l2,
                "x_l1": f.rows * s.ic * 4 / (device.l1_kib * 1024), "w_l2": f.points * f.groups * f.group * s.ic * 4 / l2,
                "copied": f.count * f.points * (s.ic + f.groups * f.group) / macs,
                "w_per_mac": f.blocks * f.points * f.groups * f.group * s.ic * 4 / macs,
                "x_per_mac": f.groups * f.panels * f.count * f.points * s.ic * 4 / macs, "taps": 9, "stride": 1, "groups": 1,
                "inner": s.ic, "set_conflicts": max(_in_one_set(f.v_plane, f.points), _in_one_set(f.m_plane, f.points))}

    def tiles(self, task: Task, knobs: Knobs, device: Device) -> int:
        f = Form.of(task, knobs, device)
        return f.blocks * f.parts

    def scratch(self, task: Task, knobs: Knobs, device: Device) -> int:
        return Form.of(task, knobs, device).scratch

    def pack(self, task: Task, knobs: Knobs, device: Device) -> Mapping[int, Pack]:
        f = Form.of(task, knobs, device)
        return {task.params["w"]: lambda w: grouped(w, f)}

    def prepare(self, task: Task, knobs: Knobs, device: Device) -> Mapping[int, Task]:
        return {task.params["w"]: transforming(Form.of(task, knobs, device))}

    def emit(self, task: Task, knobs: Knobs, device: Device) -> Any:
        from ..tir import Kernel, T

        f = Form.of(task, knobs, device)
        s, stores = f.s, rt.plain(task, {"i0": f.s.n, "i1": f.s.oh, "i2": f.s.ow, "i3": f.s.oc})
        kernel = Kernel(task, f.scratch, {task.params["w"]: f.groups * f.points * f.panels * s.ic * f.width})

        def body(begin: PrimExpr, end: PrimExpr) -> None:
            x, u = (kernel.arrays[task.params[name]] for name in ("x", "w"))
            with T.serial(0, end - begin) as t:
                z = T.Bind(begin + t)
                first, part = T.Bind(z // f.parts * f.block), T.Bind(z % f.parts)
                count = T.Bind(T.min(f.count - first, f.block))
                with T.If(T.Or(t == 0, part == 0)), T.Then(), T.serial(0, count) as i:
                    _transform_input(f, x, kernel.scratch, first + i, i)
                group = T.Bind(part * f.groups // f.parts)
                with T.serial(0, (part + 1) * f.groups // f.parts - group) as g:
                    q = T.Bind(group + g)
                    _multiply(f, kernel, u, q, count, knobs.ahead)
                    with T.serial(0, count) as i:
                        _transform_output(f, kernel, stores, first + i, i, q)

        return kernel.write(body)


def _in_one_set(pitch: int, planes: int) -> float:
    """How many of the planes, `pitch` floats apart, share a set of L1 on average."""
    sets = 4096 // (4 * rt.LINE)
    return planes / len({n * pitch // rt.LINE % sets for n in range(planes)})


def _rows(count: int, vectors: int, device: Device) -> tuple[int, ...]:
    """Rows of a register tile `vectors` wide such that no larger tile wastes as little."""
    found: list[int] = []
    least = ROWS_WASTED * count
    for rows in range(min(count, (device.vector_registers - 1) // vectors - 1), 0, -1):
        covered = up(count, rows) * rows
        if covered < least or (rows == 1 and not found):
            found.append(rows)
            least = covered
    return tuple(found)


def _matrix(m: int) -> np.ndarray:
    """G x G, float64 [(m+2)^2][9]: of all points, what each of the nine weights has to do with it."""
    return np.kron(weight_matrix(m), weight_matrix(m))


def grouped(w: np.ndarray, f: Form) -> np.ndarray:
    """What is shipped of weights [1][3][3][C][OC]: G x G and zeros to whole cache lines, then [groups][9][panels][C][NR] with
    zeros for channels past the last."""
    w = np.pad(w.reshape(9, f.s.ic, f.s.oc), ((0, 0), (0, 0), (0, f.groups * f.group - f.s.oc)))
    w = w.reshape(9, f.s.ic, f.groups, f.panels, f.width).transpose(2, 0, 3, 1, 4)
    matrix = _matrix(f.m).astype(np.float32).reshape(-1)
    return np.concatenate([matrix, np.zeros(-len(matrix) % rt.LINE, np.float32), w.reshape(-1)])


def transforming(f: Form) -> Task:
    """What makes U of what `grouped` gives: U[g] = (G x G) W[g]. Some columns of W stay in L1 for all points, so that W
    comes from memory once and U is written in runs of whole cache lines."""
    n, lead = f.panels * f.s.ic * f.width, up(f.points * 9, rt.LINE) * rt.LINE
    run = f.width * max(d for d in range(1, max(1, RUN // f.width) + 1) if n // f.width % d == 0)
    i0, i1, i2, i3 = indices(4)
    column = i1 * run + i3
    products = [load(0, (i2 * 9 + k,), "float32") * load(0, ((i0 * 9 + k) * n + (column + lead),), "float32") for k in range(9)]
    shape = (f.groups, f.points, n)
    return Task("generic", (Buffer((lead + f.groups * 9 * n,), "float32", "input"), Buffer(shape, "float32", "output")),
                (Store(1, (f.groups, n // run, f.points, run), (i0, i2, column), sum(products[1:], products[0])),))


def _place(f: Form, tile: PrimExpr) -> tuple[PrimExpr, PrimExpr, PrimExpr]:
    """(image, first row, first column) of the outputs of a tile."""
    from ..tir import T

    n = T.Bind(tile // (f.down * f.across)) if f.s.n > 1 else T.int32(0)
    inside = T.Bind(tile - n * (f.down * f.across))
    return n, T.Bind(inside // f.across * f.m), T.Bind(inside % f.across * f.m)


def _transform_input(f: Form, x: Any, v: Any, tile: PrimExpr, i: PrimExpr) -> None:
    """V of a tile, to place i of the block. A tile that touches the border reads zeros outside."""
    from ..tir import T, ld, splat, st

    s, size = f.s, f.m + 2
    n, y, column = _place(f, tile)
    y0, x0 = T.Bind(y - s.pt), T.Bind(column - s.pl)
    corner = T.Bind(((n * s.ih + y0) * s.iw + x0) * s.apart)

    def inside(r: int, c: int) -> PrimExpr:
        return T.And(T.And(y0 + r >= 0, y0 + r < s.ih), T.And(x0 + c >= 0, x0 + c < s.iw))

    def transform(whole: bool) -> None:
        def piece(at: PrimExpr, n: int) -> None:
            def load(r: int, c: int) -> PrimExpr:
                value = ld(x, corner + ((r * s.iw + c) * s.apart + at), n)
                return value if whole else T.if_then_else(inside(r, c), value, splat(0, n))
            for r, row in enumerate(plane(load, size, lambda d: input_line(d, n))):
                for c, value in enumerate(row):
                    st(v, i * s.ic + ((r * size + c) * f.v_plane + at), value, n)
        rt.over(s.ic, f.lanes, piece)

    with T.If(T.And(inside(0, 0), inside(size - 1, size - 1))):
        with T.Then():
            transform(True)
        with T.Else():
            transform(False)


def _multiply(f: Form, kernel: Any, u: Any, q: PrimExpr, count: PrimExpr, ahead: int) -> None:
    """M of the block for group q of channels. The last register tile may compute rows that nobody reads."""
    from ..tir import T, ld, prefetch, st

    v, base = kernel.scratch, f.points * f.v_plane
    with T.serial(0, f.points) as e, T.serial(0, f.panels) as p, T.serial(0, (count + f.rows - 1) // f.rows) as t:
        tile = rt.Tile(kernel, (), f.rows, f.width, f.lanes)
        row = T.Bind(e * f.v_plane + t * (f.rows * f.s.ic))
        panel = T.Bind(((q * f.points + e) * f.panels + p) * (f.s.ic * f.width))
        with T.serial(0, f.s.ic) as k:
            weights = panel + k * f.width
            if ahead:
                for o in range(0, f.width, rt.LINE):
                    prefetch(u, weights + ahead + o)
            tile.multiply(lambda r: v[row + r * f.s.ic + k], lambda c: ld(u, weights + c * f.lanes, f.lanes))
        to = T.Bind(base + e * f.m_plane + t * (f.rows * f.group) + p * f.width)
        for r in range(f.rows):
            for c in range(0, f.width, f.lanes):
                st(v, to + r * f.group + c, ld(tile.acc, r * tile.pitch + c, f.lanes), f.lanes)


def _transform_output(f: Form, kernel: Any, stores: tuple[Store, ...], tile: PrimExpr, i: PrimExpr, q: PrimExpr) -> None:
    """Stores the epilogue of a tile's outputs, for group q of channels."""
    from ..tir import T, alloc, ld, st

    s, size, base = f.s, f.m + 2, f.points * f.v_plane
    image, y0, x0 = _place(f, tile)
    spread = rt.weight(stores) * f.m * f.m <= rt.INLINE

    def piece(at: PrimExpr, n: int) -> None:
        """Channels q * group + at …"""
        def load(r: int, c: int) -> PrimExpr:
            return ld(kernel.scratch, i * f.group + (base + (r * size + c) * f.m_plane + at), n)
        out = alloc(f.m * f.m * n)
        for r, row in enumerate(plane(load, size, lambda x: output_line(x, n))):
            for c, value in enumerate(row):
                st(out, (r * f.m + c) * n, value, n)
        if spread:
            for p in range(f.m * f.m):
                pixel(out, p, at, n)
        else:
            with T.serial(0, f.m * f.m) as p:
                pixel(out, p, at, n)

    def pixel(out: Any, p: PrimExpr, at: PrimExpr, n: int) -> None:
        y, x = y0 + p // f.m, x0 + p % f.m
        with T.If(T.And(y < s.oh, x < s.ow)), T.Then():
            rt.emit_vector(kernel, stores, n, lambda lane: {"i0": image, "i1": y, "i2": x, "acc": out[p * n + lane]}, "i3",
                           q * f.group + at, n)

    _channels(f, q, piece)


def _channels(f: Form, q: PrimExpr, piece: Callable[[PrimExpr, int], None]) -> None:
    """piece(offset, lanes) for the channels of group q: whole vectors, and narrower ones behind the last."""
    from ..tir import T, vectors

    whole, wide = f.s.oc // f.lanes, f.panels * f.vectors
    if whole:
        with T.serial(0, T.min(whole - q * wide, wide) if f.s.oc % f.group else wide) as v:
            piece(v * f.lanes, f.lanes)
    if f.s.oc % f.lanes:
        with T.If(q == f.groups - 1), T.Then():
            for at, n in vectors(f.s.oc % f.lanes, f.lanes // 2 or 1):
                piece(T.int32(whole * f.lanes - (f.groups - 1) * f.group + at), n)
