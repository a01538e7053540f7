"""Matrix products whose constant weights are codes (schedules/codes.py), decoded by the kernel: Y = epilogue(sum_k X W).

Few rows wait for their weights, so a quarter or an eighth of the bytes is worth the instructions that decode them: in registers,
for each register tile. With more rows a panel is decoded into scratch once for each block of rows, and the tile then runs on that
as on any weights.

Family `gemm` with params code, w (the number of a buffer of codes [k,n], a byte each) and block: 0, or how many steps of the
reduction share the scale that row k // block of buffer `scales` [ceil(k / block), n] gives to each column. Stored are panels
[ceil(n/NR)][k][NR] of bytes, or [ceil(k/2)][NR] where a byte has the codes of two steps; scales likewise.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

from ..codes import CODES, HALVES, decoded, halves
from ..device import Device
from ..expr import var
from ..space import Knobs, Space
from ..task import Task
from ..template import Pack
from . import registertile as rt
from .gemm import Gemm, Reduce, all_steps, block_rows, row_tiles, rows_of_x, shape_of
from .registertile import up

if TYPE_CHECKING:
    from ..tir import Kernel

PrimExpr = Any

WORK = {"int8": 2, "int4": 3, "shift1": 5, "shift2": 10}    # vector instructions that decode a vector
SPARE = 3           # registers that decoding takes beside its result


class CodedGemm(Gemm):
    name = "f32-gemm-coded"

    def refuses(self, task: Task, device: Device) -> str | None:
        code, block = task.params.get("code"), task.params.get("block", 0)
        if code not in CODES:
            return "weights are not codes"
        if block and block % 2 and code in HALVES:
            return "blocks of scales that begin in the middle of a byte"
        if 0 in (task.params[name] for name in ("batch", "m", "n", "k")):
            return "the product is empty"
        return None if all(e.dtype == "float32" for e in task.operands.values()) else "operands are not float32"

    def space(self, task: Task, device: Device) -> Space:
        p = shape_of(task)
        wide = up(p.n, device.lanes)
        return (Space.of(rows=range(1, min(p.m, 16) + 1), vectors=range(1, min(wide, 12) + 1), blocks=self._blocks(task, device),
                         decode=("registers", "panel"))
                .require(lambda k: rt.fits(k.rows, k.vectors, device), "accumulators would spill")
                .require(lambda k: k.decode == "panel" or k.rows * k.vectors + 2 * k.vectors + SPARE <= device.vector_registers
                         or k.vectors == k.rows == 1, "decoded weights would spill")
                .require(lambda k: k.decode == "registers" or p.m > k.rows, "a panel that is read once")
                .require(lambda k: k.rows * k.vectors >= min(rt.LATENCY, p.m, 16) or k.vectors == wide
                         or k.rows == min(p.m, 16), "too few accumulators")
                .require(lambda k: up(p.m, k.blocks) >= k.rows or k.blocks == 1, "blocks smaller than a register tile"))

    def cost(self, task: Task, knobs: Knobs, device: Device) -> float:
        p, code = shape_of(task), task.params["code"]
        like = super().cost(task, _plain(knobs), device)
        rows, count = block_rows(p.m, knobs), self.tiles(task, knobs, device)
        times = up(p.m, rows) * (up(rows, knobs.rows) if knobs.decode == "registers" else 1)
        work = (WORK[code] + (1 if task.params["block"] else 0)) / 2        # two instructions in the time of a multiply-add
        saved = 0.0
        if times == 1 and p.k * p.n * 4 > device.l2_kib * 820:              # weights that come from afar, and only once
            saved = p.k * p.n * (4 - (0.5 if code in HALVES else 1)) / 6
        idle = up(count, device.cores) * device.cores / count
        return max(like - p.batch * saved * idle, like / 4) + p.batch * times * p.k * up(p.n, device.lanes) * work * idle

    def features(self, task: Task, knobs: Knobs, device: Device) -> Mapping[str, float]:
        share = 0.125 if task.params["code"] in HALVES else 0.25
        like = super().features(task, _plain(knobs), device)
        return {**like, **{name: like[name] * share for name in ("w_per_mac", "w_l2", "panel_l1", "panel_l2")}}

    def scratch(self, task: Task, knobs: Knobs, device: Device) -> int:
        panel = shape_of(task).k * knobs.vectors * device.lanes * 4 if knobs.decode == "panel" else 0
        return up(super().scratch(task, knobs, device), 64) * 64 + panel

    def pack(self, task: Task, knobs: Knobs, device: Device) -> Mapping[int, Pack]:
        width, half = knobs.vectors * device.lanes, task.params["code"] in HALVES
        packs: dict[int, Pack] = {
            task.params["w"]: lambda w: rt.pack_panels(halves(w).view(w.dtype) if half else w, width).reshape(-1)}
        if task.params["block"]:
            packs[task.params["scales"]] = lambda s: rt.pack_panels(s, width).reshape(-1)
        return packs

    def emit(self, task: Task, knobs: Knobs, device: Device) -> Any:
        from ..tir import Kernel, T, ld, st

        p, width, block = shape_of(task), knobs.vectors * device.lanes, task.params["block"]
        rows, panels = block_rows(p.m, knobs), up(p.n, width)
        blocks, stored = up(p.m, rows), up(p.k, 2) if task.params["code"] in HALVES else p.k
        sizes = {task.params["w"]: panels * stored * width}
        if block:
            sizes[task.params["scales"]] = panels * up(p.k, block) * width
        kernel = Kernel(task, self.scratch(task, knobs, device), sizes)
        start = up(super().scratch(task, knobs, device), 64) * 16       # the panel lies behind the rows of x

        def body(begin: PrimExpr, end: PrimExpr) -> None:
            with T.serial(0, end - begin) as t:
                z = T.Bind(begin + t)
                q, b = T.Bind(z % panels), T.Bind(z // (panels * blocks))
                first = T.Bind(T.min(z // panels % blocks * rows, p.m - rows))
                x = rows_of_x(kernel, task, device, b, first, rows, fresh=T.Bind(T.Or(t == 0, q == 0)))

                def in_registers(tile: rt.Tile, read: Callable[[int, PrimExpr], PrimExpr]) -> None:
                    steps(kernel, task, q, tile.vectors, knobs.vectors, device.lanes, lambda k, weights: tile.multiply(
                        lambda r: read(r, k), lambda v: ld(weights, v * device.lanes, device.lanes)))

                def in_scratch(columns: int) -> None:
                    vectors = up(columns, device.lanes)

                    def keep(k: PrimExpr, weights: Any) -> None:
                        for v in range(vectors):
                            st(kernel.scratch, start + k * width + v * device.lanes,
                               ld(weights, v * device.lanes, device.lanes), device.lanes)
                    steps(kernel, task, q, vectors, knobs.vectors, device.lanes, keep)

                def panel(columns: int) -> None:
                    reduce: Reduce = in_registers
                    if knobs.decode == "panel":
                        in_scratch(columns)
                        reduce = all_steps(p.k, lambda k, v: ld(
                            kernel.scratch, start + k * width + v * device.lanes, device.lanes))
                    row_tiles(kernel, task, knobs, device, b, first, rows, q, columns, x, reduce)
                rt.each_panel(q, panels, p.n, width, panel)

        return kernel.write(body)


def _plain(knobs: Knobs) -> Knobs:
    """As a matrix product of floats has them."""
    return Knobs.of(rows=knobs.rows, vectors=knobs.vectors, blocks=knobs.blocks, ahead=0)


def steps(kernel: Kernel, task: Task, q: PrimExpr, vectors: int, pitch: int, lanes: int,
          step: Callable[[PrimExpr, Any], None]) -> None:
    """step(k, weights) for all k in turn, where `weights` is an array in registers of the first `vectors` vectors of row k of
    panel q; pitch: vectors of a panel."""
    from ..tir import T, alloc, ld, put, st

    k_size, block, code = shape_of(task).k, task.params["block"], task.params["code"]
    w, width, half = kernel.arrays[task.params["w"]], pitch * lanes, code in HALVES
    per, stored = (2, up(k_size, 2)) if half else (1, k_size)

    def rows(first: PrimExpr, count: int, scales: Any) -> None:
        """count steps from `first`, a multiple of `per`."""
        def some(k: PrimExpr, n: int) -> None:
            made = [alloc(vectors * lanes) for _ in range(n)]
            row = (q * stored + (k // per if half else k)) * width
            for v in range(0, vectors * lanes, lanes):
                with T.vectorized(0, lanes) as lane:
                    byte = T.Cast("int32", w[row + v + lane])
                    for at, weights in enumerate(made):
                        number = byte >> (4 * at) if half else byte
                        value = kernel.value(decoded(code, var("code")), {"code": number & 15 if code == "int4" else number})
                        put(weights, v + lane, value * scales[v + lane] if scales is not None else value, "float32")
            for at, weights in enumerate(made):
                step(k + at, weights)
        if count // per:
            with T.serial(0, count // per) as i:
                some(first + i * per, per)
        if count % per:
            some(first + (count - count % per), count % per)

    if not block:
        rows(T.int32(0), k_size, None)
        return
    for first, count in _blocks_of(k_size, block):
        scales = alloc(vectors * lanes)
        for v in range(vectors):
            place = (q * up(k_size, block) + first // block) * width + v * lanes
            st(scales, v * lanes, ld(kernel.arrays[task.params["scales"]], place, lanes), lanes)
        rows(first, count, scales)


def _blocks_of(k_size: int, block: int) -> Iterator[tuple[PrimExpr, int]]:
    """(first step, steps) of the blocks: a loop of whole ones, and the rest. The caller's code runs inside the loop."""
    from ..tir import T

    whole = k_size // block
    if whole:
        with T.serial(0, whole) as n:
            yield n * block, block
    if k_size % block:
        yield T.int32(whole * block), k_size % block
