"""Direct convolution to very few channels (masks, RGB images): the lanes are input channels, not output channels.

The register tile is `wide` pixels x all output channels of vector accumulators; each step multiplies a vector of a pixel's
channels by the same channels of the weights, packed [OC][KH][KW][IC]; the lanes are summed at the end. Padding, blocks of rows
and tiles as in `conv`, where a single channel would take as long as `lanes` of them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from ..device import Device
from ..space import Knobs, Space
from ..task import Task
from ..template import Pack
from . import registertile as rt
from .conv import DirectConv, Shape, block_rows, copy_rows, stores_of
from .registertile import up

PrimExpr = Any


class NarrowConv(DirectConv):
    name = "f32-conv-narrow"

    def refuses(self, task: Task, device: Device) -> str | None:
        s = Shape.of(task)
        if not s.merged or (s.kw * s.ic) % device.lanes:
            return "a row of taps does not fill whole vectors"
        return "many output channels" if s.oc * 4 > device.lanes else super().refuses(task, device)

    def space(self, task: Task, device: Device) -> Space:
        s = Shape.of(task).flat
        return (Space.of(wide=range(1, min(s.ow, 16) + 1), high=(1,), blocks=self._blocks(s, device))
                .require(lambda k: rt.fits(k.wide, s.oc, device), "accumulators would spill"))

    def cost(self, task: Task, knobs: Knobs, device: Device) -> float:
        s = Shape.of(task).flat
        rows = block_rows(s, knobs)
        blocks, outputs = up(s.oh, rows), knobs.wide * s.oc
        step = max(outputs, knobs.wide + s.oc, rt.LATENCY) + 0.1 * (knobs.wide + s.oc)
        tile = s.reduction / device.lanes * step + outputs * (2 * device.lanes + rt.weight(task.stores)) + 10 * s.kh + 20
        block = s.rows_in(rows) * s.columns_in * s.channels
        copied = block / device.lanes * (2 if block * 8 < device.l2_kib * 1024 else 6) if s.padded else 0.0
        count = self.tiles(task, knobs, device)
        return s.n * blocks * (rows * up(s.ow, knobs.wide) * tile + copied) * up(count, device.cores) * device.cores / count

    def features(self, task: Task, knobs: Knobs, device: Device) -> Mapping[str, float]:
        s = Shape.of(task)
        like = super().features(task, Knobs.of(**knobs, vectors=1), device)
        live = (knobs.wide * s.oc + s.oc + 1) / device.vector_registers
        return {**like, "narrow": 1, "vectors": s.oc, "accumulators": knobs.wide * s.oc, "registers": live,
                "macs_per_load": knobs.wide * s.oc / (knobs.wide + s.oc), "waste_columns": 1}

    def tiles(self, task: Task, knobs: Knobs, device: Device) -> int:
        s = Shape.of(task).flat
        return s.n * up(s.oh, block_rows(s, knobs))

    def pack(self, task: Task, knobs: Knobs, device: Device) -> Mapping[int, Pack]:
        return {task.params["w"]: lambda w: w[0].transpose(3, 0, 1, 2).reshape(-1)}

    def emit(self, task: Task, knobs: Knobs, device: Device) -> Any:
        from ..tir import Kernel, T

        s, rows, stores = Shape.of(task).flat, block_rows(Shape.of(task).flat, knobs), stores_of(task)
        blocks = up(s.oh, rows)
        kernel = Kernel(task, self.scratch(task, knobs, device))

        def body(begin: PrimExpr, end: PrimExpr) -> None:
            source, weights = (kernel.arrays[task.params[name]] for name in ("x", "w"))
            with T.serial(0, end - begin) as t:
                z = T.Bind(begin + t)
                n, first = T.Bind(z // blocks), T.Bind(T.min(z % blocks * rows, s.oh - rows))
                if s.padded:
                    copy_rows(s, source, kernel.scratch, n, first, rows, device.lanes)
                    x, pitch, corner = kernel.scratch, s.columns_in * s.channels, T.int32(0)
                else:
                    x, pitch = source, s.iw * s.pixel
                    corner = T.Bind((n * s.ih + first * s.sh) * pitch)
                with T.serial(0, rows) as y, T.serial(0, up(s.ow, knobs.wide)) as tx:
                    column = T.Bind(T.min(tx * knobs.wide, s.ow - knobs.wide))
                    at = T.Bind(corner + y * (s.sh * pitch) + column * (s.sw * s.pixel))
                    sums = _sums(s, knobs.wide, device.lanes, x, at, pitch, weights)
                    for p in range(knobs.wide):
                        pixel = {"i0": n, "i1": first + y, "i2": column + p}
                        for o in range(s.oc):
                            known = {**pixel, "acc": sums[p * s.oc + o]}
                            rt.emit_vector(kernel, stores, 1, constantly(known), "i3", T.int32(o), 1)

        return kernel.write(body)


def constantly(known: Mapping[str, PrimExpr]) -> Callable[[PrimExpr], Mapping[str, PrimExpr]]:
    return lambda _: known


def _sums(s: Shape, wide: int, lanes: int, x: Any, at: PrimExpr, pitch: int, w: Any) -> Any:
    """An array [wide][OC] of the convolution's results for `wide` pixels, the first of which has its first tap at `at`."""
    from ..tir import T, alloc, ld, splat, st

    acc = alloc(wide * s.oc * lanes)
    for a in range(0, wide * s.oc * lanes, lanes):
        st(acc, a, splat(0, lanes), lanes)
    with T.serial(0, s.kh) as ky, T.serial(0, s.kw * s.ic // lanes) as c:
        tap, k = at + ky * (s.dh * pitch) + c * lanes, ky * (s.kw * s.ic) + c * lanes
        for p in range(wide):
            for o in range(s.oc):
                a = (p * s.oc + o) * lanes
                step = ld(x, tap + p * (s.sw * s.pixel), lanes) * ld(w, o * s.reduction + k, lanes)
                st(acc, a, ld(acc, a, lanes) + step, lanes)
    while lanes > 1:        # halves are added to halves
        lanes //= 2
        halves = alloc(wide * s.oc * lanes)
        for n in range(wide * s.oc):
            st(halves, n * lanes, ld(acc, 2 * n * lanes, lanes) + ld(acc, (2 * n + 1) * lanes, lanes), lanes)
        acc = halves
    return acc
