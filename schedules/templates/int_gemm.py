"""Matrix multiplication of bytes on a register tile: acc[b,m,n] = sum_k (X[b,m,k] - zero) W[k,n], X uint8, W int8, acc int32.

As `gemm`, by the device's dot product (`dot`): a step of the reduction is `depth` values of k. A panel of the packed weights
begins with what its accumulators start from, so that X is multiplied as it lies. X is read in place where k is contiguous, and
the end of a row that fills no step byte by byte; else, and where the dot product wants another type, its rows are evaluated into
scratch, a whole number of steps each.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ..affine import within
from ..device import Device
from ..dot import Dot, dot, pack
from ..expr import cast
from ..space import Knobs, Space
from ..task import ITEMSIZE, Task
from ..template import Pack
from . import registertile as rt
from .gemm import Gemm, block_rows, evaluate, extents_of, shape_of, view_of
from .registertile import up

if TYPE_CHECKING:
    from ..tir import Kernel

PrimExpr = Any
XAt = Callable[[PrimExpr, int, PrimExpr, int], PrimExpr]     # (first row of a tile in its block, row, k, bytes there) -> dot's x

LINE = 64           # bytes of a cache line
AHEAD = (0, 1)      # knob: does every tile ask for its share of the next panel? Weights of a model come from memory


class IntGemm(Gemm):
    name = "u8s8-gemm-packed"

    def refuses(self, task: Task, device: Device) -> str | None:
        if "w" in task.operands or "zero" not in task.params:
            return "w is not constant or no zero point is said"
        if task.buffers[task.params["w"]].dtype != "int8" or task.operands["x"].dtype != "uint8":
            return "not uint8 x int8"
        if 0 in (task.params[name] for name in ("batch", "m", "n", "k")):
            return "the product is empty"
        return None

    def space(self, task: Task, device: Device) -> Space:
        p, d = shape_of(task), dot_of(task, device)
        wide = up(p.n, device.lanes)
        return (Space.of(rows=range(1, min(p.m, 16) + 1), vectors=range(1, min(wide, 12) + 1), blocks=self._blocks(task, device),
                         ahead=AHEAD if device.arch == "x86_64" else (0,))
                .require(lambda k: fits(k.rows, k.vectors, d, device), "accumulators would spill")
                .require(lambda k: k.rows * k.vectors >= min(rt.LATENCY, p.m, 16) or k.vectors == wide, "too few accumulators")
                .require(lambda k: up(p.m, k.blocks) >= k.rows or k.blocks == 1, "blocks smaller than a register tile"))

    def _blocks(self, task: Task, device: Device) -> tuple[int, ...]:
        p = shape_of(task)
        fill = up(p.m * p.k, device.l2_kib * 512)
        return tuple(sorted({min(b, up(p.m, 16)) for b in (1, fill, 2 * fill, 4 * fill)}))

    def cost(self, task: Task, knobs: Knobs, device: Device) -> float:
        p, d = shape_of(task), dot_of(task, device)
        view = in_place(task, d)
        rows = block_rows(p.m, knobs)
        blocks, row_tiles = up(p.m, rows), up(rows, knobs.rows)
        wide = up(p.n, device.lanes)
        panels = [knobs.vectors] * (wide // knobs.vectors) + [wide % knobs.vectors] * (wide % knobs.vectors > 0)
        x_bytes, w_bytes, l2 = rows * p.k, p.k * p.n, device.l2_kib * 1024
        total = 0.0
        for v in panels:
            total += blocks * row_tiles * tile_cost(knobs.rows, v, d.steps(p.k), view[1] if view else p.k, task, d, device)
        if x_bytes > 0.75 * l2:
            total += len(panels) * p.m * p.k * rt.MISS
        if w_bytes > 0.75 * l2:
            total += (blocks - 1) * w_bytes * rt.MISS
        if not view:
            total += p.m * p.k / device.lanes * 4
        if knobs.ahead:
            total *= 0.99 if w_bytes > l2 / 8 and row_tiles > 1 else 1.01
        count = self.tiles(task, knobs, device)
        return p.batch * total * up(count, device.cores) * device.cores / count

    def features(self, task: Task, knobs: Knobs, device: Device) -> Mapping[str, float]:
        p, d = shape_of(task), dot_of(task, device)
        view = in_place(task, d)
        rows, wide, l2 = block_rows(p.m, knobs), up(p.n, device.lanes), device.l2_kib * 1024
        blocks = up(p.m, rows)
        return {**rt.features(knobs.rows, knobs.vectors, d.panel(p.k, knobs.vectors * device.lanes), view[1] if view else p.k,
                              d.steps(p.k), task.stores, device),
                "macs": p.batch * p.m * p.n * p.k, "tiles": self.tiles(task, knobs, device), "blocks": blocks,
                "waste_rows": blocks * up(rows, knobs.rows) * knobs.rows / p.m, "waste_columns": wide * device.lanes / p.n,
                "ragged": wide % knobs.vectors / wide, "panels": up(wide, knobs.vectors), "row_tiles": up(rows, knobs.rows),
                "block_l2": rows * p.k / l2, "x_l1": knobs.rows * p.k / (device.l1_kib * 1024), "w_l2": p.k * p.n / l2,
                "copied": 0 if view else 1 / p.n, "x_step": 1, "w_per_mac": blocks / p.m,
                "x_per_mac": up(wide, knobs.vectors) / p.n}

    def scratch(self, task: Task, knobs: Knobs, device: Device) -> int:
        d, p = dot_of(task, device), shape_of(task)
        return 0 if in_place(task, d) else block_rows(p.m, knobs) * d.steps(p.k) * d.depth * ITEMSIZE[d.element]

    def pack(self, task: Task, knobs: Knobs, device: Device) -> Mapping[int, Pack]:
        width, d = knobs.vectors * device.lanes, dot_of(task, device)
        return {task.params["w"]: lambda w: pack(w, task.params["zero"], width, d).reshape(-1)}

    def emit(self, task: Task, knobs: Knobs, device: Device) -> Any:
        from ..tir import Kernel, T

        p, width = shape_of(task), knobs.vectors * device.lanes
        rows, panels = block_rows(p.m, knobs), up(p.n, width)
        blocks, stores = up(p.m, rows), rt.plain(task, extents_of(task))
        d, scratch = dot_of(task, device), self.scratch(task, knobs, device)
        kernel = Kernel(task, scratch, {task.params["w"]: panels * d.panel(p.k, width)}, d.element)

        def body(begin: PrimExpr, end: PrimExpr) -> None:
            w = kernel.arrays[task.params["w"]]
            with T.serial(0, end - begin) as t:
                z = T.Bind(begin + t)
                q, b = T.Bind(z % panels), T.Bind(z // (panels * blocks))
                first = T.Bind(T.min(z // panels % blocks * rows, p.m - rows))
                x = self._rows_of_x(kernel, task, device, b, first, rows, T.Bind(T.Or(t == 0, q == 0)))

                def panel(columns: int) -> None:
                    with T.serial(0, kernel.rolled(up(rows, knobs.rows))) as r:
                        late = T.Bind(kernel.nothing(r))
                        i = T.Bind(T.min(r * knobs.rows, rows - knobs.rows)) if rows % knobs.rows else r * knobs.rows
                        start = self.start(task, knobs, device, w, q + late)
                        tile = rt.Tile(kernel, stores, knobs.rows, columns, device.lanes, start)
                        tile.number = r
                        self.reduce(task, knobs, device, tile, lambda row, k, count: x(i, row, k, count), w, q)
                        tile.finish(lambda row: {"i0": b, "i1": first + i + row}, "i2", (q + late) * width, width)
                rt.each_panel(q, panels, p.n, width, panel)

        return kernel.write(body)

    def start(self, task: Task, knobs: Knobs, device: Device, w: Any, q: PrimExpr) -> Callable[[int], PrimExpr]:
        """What the accumulators of panel q start from: a vector, by its number."""
        d, width = dot_of(task, device), knobs.vectors * device.lanes
        return lambda v: d.start(w, q * d.panel(shape_of(task).k, width) + 4 * v * device.lanes)

    def reduce(self, task: Task, knobs: Knobs, device: Device, tile: rt.Tile, x: Callable[[int, PrimExpr, int], PrimExpr], w: Any,
               q: PrimExpr) -> None:
        """All steps of a tile over panel q of the packed weights `w`; x: as of `reduce`."""
        d, width, k_size = dot_of(task, device), knobs.vectors * device.lanes, shape_of(task).k
        size, steps = d.panel(k_size, width), d.steps(k_size)
        ask = Share.of(size, up(block_rows(shape_of(task).m, knobs), knobs.rows), steps) if knobs.ahead else None
        reduce(tile, d, x, k_size, w, q * size + 4 * width, width, ask and ask.at((q + 1) * size, tile.number * steps))

    def _rows_of_x(self, kernel: Kernel, task: Task, device: Device, b: PrimExpr, first: PrimExpr, rows: int,
                   fresh: PrimExpr) -> XAt:
        from ..tir import T

        d, k_size = dot_of(task, device), shape_of(task).k
        if view := in_place(task, d):
            buffer, sm, _, rest = view
            base = T.Bind(kernel.value(rest, {"i0": b}) + first * sm)
            return lambda i, r, k, count: d.x(kernel.arrays[buffer], base + i * sm + r * sm + k, count)
        operand, row = cast(within(task.operands["x"], extents_of(task)), d.element), d.steps(k_size) * d.depth
        lanes = device.lanes * (2 if contiguous(task) else 1)       # what only moves comes in wider vectors than what is computed
        with T.If(fresh), T.Then(), T.serial(0, rows) as r:
            rt.over(k_size, lanes, lambda at, n: evaluate(
                kernel, operand, "r0", at, n, lanes, {"i0": b, "i1": first + r}, r * row, 1))
        return lambda i, r, k, _: d.x(kernel.scratch, (i + r) * row + k)


def dot_of(task: Task, device: Device) -> Dot:
    return dot(device, task.params["top"])


def fits(rows: int, vectors: int, d: Dot, device: Device) -> bool:
    """Accumulators, a vector of weights each, a broadcast value, and what the dot product needs."""
    return rows * vectors + vectors + 1 + d.registers <= device.vector_registers


def contiguous(task: Task) -> tuple[int, int, int, Any] | None:
    """X as (buffer, stride of m, 1, offset of the batch) where its rows can be read in place."""
    view = view_of(task)
    return view if view and view[2] == 1 else None


def in_place(task: Task, d: Dot) -> tuple[int, int, int, Any] | None:
    """X as of `contiguous`, where the dot product takes it as it lies."""
    return contiguous(task) if d.element == "uint8" else None


def tile_cost(rows: int, vectors: int, steps: int, pitch: int, task: Task, d: Dot, device: Device) -> float:
    """Time of a register tile with its epilogue, in vector instructions; pitch: bytes between its rows of x.

    Four vectors of bytes are packed at a time; many go through memory first. While a core stores a tile it sums the next,
    as far ahead as it sees, so that small tiles are better where epilogues count. On Zen 5 the default takes 1 % longer than the
    best of 20 others, for 17 layers of MobileNetV2 and ResNet-50; 5 % without this.
    """
    plain = rt.step_cost(rows, vectors, d.panel(steps * d.depth, vectors * device.lanes), pitch, device)
    sums = steps * (plain + rows * vectors * (d.work - 1) + rows * d.prepare)
    weight, accumulators = rt.weight(task.stores), rows * vectors
    packed = vectors // 4 * 4 if all(ITEMSIZE[task.buffers[s.buffer].dtype] == 1 for s in task.stores) else 0
    epilogue = accumulators * (weight + (4 if weight * accumulators > rt.INLINE else 2)) - rows * packed
    size = steps * (accumulators + rows + vectors) + epilogue
    return sums + epilogue - 0.7 * min(epilogue, sums) * min(1, 100 / size) + 20


@dataclass(frozen=True)
class Share:
    """What each step of a panel's tiles asks for of the next panel: `step` bytes from `start` on, in w."""

    step: int
    start: PrimExpr = 0

    @classmethod
    def of(cls, panel: int, tiles: int, steps: int) -> Share:
        """For a panel of so many bytes that is used by so many tiles of so many steps."""
        return cls(up(panel, tiles * steps))

    def at(self, panel: PrimExpr, steps: PrimExpr) -> Share:
        """From the offset of the next panel on, so many steps after the first."""
        return Share(self.step, panel + steps * self.step)


def reduce(tile: rt.Tile, d: Dot, x: Callable[[int, PrimExpr, int], PrimExpr], k_size: int, w: Any, weights: PrimExpr, width: int,
           share: Share | None = None) -> None:
    """All steps of a reduction over `k_size`. x(row, k, bytes that are there from k on); weights: offset in w of the first step's
    weights, `width` columns of them."""
    from ..tir import T, prefetch

    def step(n: PrimExpr, count: int) -> None:
        at = weights + n * (width * d.depth)
        if share:
            for o in range(0, share.step, LINE):
                prefetch(w, share.start + n * share.step + o, level=2)
        tile.step(lambda acc, r, v: d(acc, x(r, n * d.depth, count), d.w(w, at + v * (d.lanes * d.depth))))

    if whole := k_size // d.depth:
        with T.serial(0, tile.kernel.rolled(whole)) as n:
            step(n, d.depth)
    if k_size % d.depth:
        step(T.int32(whole), k_size % d.depth)
