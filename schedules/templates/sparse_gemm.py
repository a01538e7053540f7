"""Matrix multiplication with a constant W whose zeros lie in blocks: a register tile skips the steps that its columns do not
keep. As `gemm`, but for the weights (`sparse`). A tile of x is read again for each panel, and little of it each time: blocks of
rows are small enough for it to stay in L1, while the weights stream.
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
from .gemm import Gemm, Reduce, block_rows, shape_of, view_of
from .registertile import up

PrimExpr = Any
ROWS = 28
FROM_L2 = 1 / 20        # of a byte of x, in multiply-adds (Zen 5)


class SparseGemm(Gemm):
    name = "f32-gemm-sparse"
    algorithm = skips_zeros = True

    def refuses(self, task: Task, device: Device) -> str | None:
        return sparse.refuses(task) or super().refuses(task, device)

    def space(self, task: Task, device: Device) -> Space:
        p, device = shape_of(task), sparse.device_for(task, device)
        widths = sparse.widths(task, p.n, device)
        return (Space.of(rows=range(1, min(p.m, ROWS) + 1), vectors=widths, blocks=self._blocks(task, device))
                .require(lambda k: rt.fits(k.rows, k.vectors, device), "accumulators would spill")
                .require(lambda k: k.rows * k.vectors >= min(rt.LATENCY, p.m) or k.vectors == widths[-1], "too few accumulators")
                .require(lambda k: up(p.m, k.blocks) >= min(k.rows, 8) or k.blocks == 1, "blocks smaller than a register tile"))

    def _blocks(self, task: Task, device: Device) -> tuple[int, ...]:
        """Blocks of rows: as many as make one fill half of L2, one or two register tiles each, and one."""
        p = shape_of(task)
        return tuple(sorted({1, min(up(p.m * p.k * 4, device.l2_kib * 512), up(p.m, 16)), up(p.m, 16), up(p.m, 8)}))

    def cost(self, task: Task, knobs: Knobs, device: Device) -> float:
        p, device, kept = shape_of(task), sparse.device_for(task, device), task.params["kept"]
        rows, width, l2 = block_rows(p.m, knobs), knobs.vectors * device.lanes, device.l2_kib * 1024
        blocks, row_tiles, panels = up(p.m, rows), up(rows, knobs.rows), up(p.n, width)
        view = view_of(task)
        pitch = (view[1] if view else p.k) * 4
        panel = kept * width * 4
        streamed = panel if row_tiles > 1 else panel * panels
        step = sparse.step_cost(knobs.rows, knobs.vectors, streamed, pitch, device)
        if row_tiles > 1 or rows * p.k * 4 > device.l1_kib * 768:       # x comes from L2: at most a line for each row and step
            step = max(step, knobs.rows * min(sparse.LINE, p.k * 4 / max(1, kept)) * FROM_L2)
        total = blocks * panels * row_tiles * (kept * step + knobs.rows * knobs.vectors * (rt.weight(task.stores) + 2) + 30)
        if rows * p.k * 4 > 0.75 * l2:
            total += panels * p.m * p.k * 4 * rt.MISS
        if row_tiles > 1 and panel * panels > 0.75 * l2:
            total += (blocks - 1) * panel * panels * rt.MISS
        count = self.tiles(task, knobs, device)
        return p.batch * total * up(count, device.cores) * device.cores / count

    def features(self, task: Task, knobs: Knobs, device: Device) -> Mapping[str, float]:
        p, device, kept = shape_of(task), sparse.device_for(task, device), max(1, task.params["kept"])
        view, width, density = view_of(task), knobs.vectors * device.lanes, kept / p.k
        like = super().features(task, Knobs.of(**knobs, ahead=0), device)
        return {**like, **rt.features(knobs.rows, knobs.vectors, kept * width * 4, (view[1] if view else p.k) * 4, kept,
                                      task.stores, device),
                "macs": p.batch * p.m * p.n * kept, "w_l2": like["w_l2"] * density, "x_per_mac": like["x_per_mac"] / density,
                "copied": like["copied"] / density}

    def tiles(self, task: Task, knobs: Knobs, device: Device) -> int:
        return super().tiles(task, knobs, sparse.device_for(task, device))

    def pack(self, task: Task, knobs: Knobs, device: Device) -> Mapping[int, Pack]:
        p, width = shape_of(task), knobs.vectors * sparse.device_for(task, device).lanes
        return {task.params["w"]: lambda w: sparse.Layout.of(p.n, width).pack(w, np.arange(p.k))}

    def emit(self, task: Task, knobs: Knobs, device: Device) -> Any:
        return super().emit(task, knobs, sparse.device_for(task, device))

    def reduction(self, task: Task, knobs: Knobs, device: Device, w: Any, q: PrimExpr) -> Reduce:
        from ..tir import ld

        steps = sparse.Layout.of(shape_of(task).n, knobs.vectors * device.lanes).steps(w, q)
        return lambda tile, x: steps(lambda k, at: tile.multiply(
            lambda r: x(r, k), lambda v: ld(w, at + v * device.lanes, device.lanes)))
