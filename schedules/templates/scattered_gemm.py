"""Matrix multiplication with a constant W whose zeros are scattered: every output channel multiplies by its own few weights.

The lanes are rows of X, as in XNNPACK's SpMM (Elsen et al., "Fast sparse ConvNets", arXiv:1911.09723), whose layout is channels
first. Here X is channels last: a block of rows is turned in scratch, [K][block], and the channels' sums, [channels][block], are
turned back by the epilogue. A weight is one broadcast and `vectors` multiply-adds, each with a load of its own: some three times
what it costs in a dense kernel. Measured on Zen 5 over the dense kernel, on 1x1 layers of MobileNets: 1.1 to 1.7 times as fast at
80 % zeros, 1.9 to 2.9 at 90 %, 2.5 to 4.7 at 95 %.

Tiles: batch x blocks of rows x blocks of channels, which move up at the end and overlap their predecessors.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from ..device import Device
from ..space import Knobs, Space
from ..task import Task
from ..template import Pack
from . import registertile as rt
from . import sparse
from .gemm import Gemm, extents_of, shape_of, view_of
from .registertile import up

PrimExpr = Any
STEP, TURN = 1.2, 2.4       # of a load in the loop over weights, and of an element that is turned, in multiply-adds (Zen 5)
CHAIN = 4                   # of a step that waits for the one before it, where the next channel's overlap


class ScatteredGemm(Gemm):
    name = "f32-gemm-scattered"
    algorithm = skips_zeros = True

    def refuses(self, task: Task, device: Device) -> str | None:
        if task.params.get("group") != 1:
            return "its zeros are not scattered"
        if why := super().refuses(task, device):
            return why
        if task.params["m"] < device.lanes or task.params["n"] < 16:
            return "few rows or channels"
        return None if view_of(task) else "x has to be evaluated first"

    def space(self, task: Task, device: Device) -> Space:
        p = shape_of(task)
        return (Space.of(vectors=range(1, min(p.m // device.lanes, 8) + 1), channels=[c for c in (16, 32, 64) if c <= p.n])
                .require(lambda k: k.vectors == 1 or p.k * k.vectors * device.lanes < device.l2_kib * 192,
                         "x would not stay in L2"))

    def cost(self, task: Task, knobs: Knobs, device: Device) -> float:
        p, rows = shape_of(task), knobs.vectors * device.lanes
        tiles, blocks = self.tiles(task, knobs, device), p.batch * up(p.m, rows)
        stream = rows * 4 * sparse.FROM_L2 if p.k * rows * 4 > device.l1_kib * 1024 else 0.0
        channel = task.params["kept"] * max(STEP * (knobs.vectors + 1), stream, CHAIN) + 2 * knobs.vectors + 20
        element = TURN + (rt.weight(task.stores) + 2) / device.lanes
        total = tiles * knobs.channels * (channel + rows * element) + blocks * p.k * rows * TURN
        return total * up(tiles, device.cores) * device.cores / tiles

    def features(self, task: Task, knobs: Knobs, device: Device) -> Mapping[str, float]:
        p, kept = shape_of(task), max(1, task.params["kept"])
        rows = knobs.vectors * device.lanes
        tile = rt.features(1, knobs.vectors, kept * 4, rows * 4, kept, task.stores, device)
        return {**tile, "macs": p.batch * p.m * p.n * kept, "tiles": self.tiles(task, knobs, device), "blocks": up(p.m, rows),
                "panels": up(p.n, knobs.channels), "block_l2": p.k * rows / (device.l2_kib * 256), "copied": p.k / (p.n * kept)}

    def tiles(self, task: Task, knobs: Knobs, device: Device) -> int:
        p = shape_of(task)
        return p.batch * up(p.m, knobs.vectors * device.lanes) * up(p.n, knobs.channels)

    def scratch(self, task: Task, knobs: Knobs, device: Device) -> int:
        return (shape_of(task).k + knobs.channels) * knobs.vectors * device.lanes * 4

    def pack(self, task: Task, knobs: Knobs, device: Device) -> Mapping[int, Pack]:
        p, rows = shape_of(task), knobs.vectors * device.lanes
        return {task.params["w"]: lambda w: sparse.Layout.floats(p.n, 1).pack(w, np.arange(p.k) * rows)}

    def emit(self, task: Task, knobs: Knobs, device: Device) -> Any:
        from ..tir import Kernel, T, alloc, ld, splat, st

        p, lanes, channels = shape_of(task), device.lanes, knobs.channels
        rows, stores, layout = knobs.vectors * lanes, rt.plain(task, extents_of(task)), sparse.Layout.floats(p.n, 1)
        parts, blocks, sums = up(p.n, channels), up(p.m, rows), p.k * rows
        kernel = Kernel(task, self.scratch(task, knobs, device), {task.params["w"]: layout.weights + 2 * p.k * p.n})
        view = view_of(task)
        assert view is not None
        buffer, sm, sk, rest = view

        def turn(start: PrimExpr) -> None:
            with T.serial(0, knobs.vectors) as v, T.serial(0, p.k) as k, T.vectorized(0, lanes) as lane:
                at = start + (v * lanes + lane) * sm + k * sk
                T.buffer_store(kernel.scratch, kernel.arrays[buffer][at], [k * rows + v * lanes + lane])

        def channel(low: PrimExpr, o: PrimExpr) -> None:
            w, acc = kernel.arrays[task.params["w"]], alloc(rows)
            for a in range(0, rows, lanes):
                st(acc, a, splat(0, lanes), lanes)

            def step(place: PrimExpr, at: PrimExpr) -> None:
                weight = splat(w[at], lanes)
                for a in range(0, rows, lanes):
                    st(acc, a, ld(acc, a, lanes) + weight * ld(kernel.scratch, place + a, lanes), lanes)

            layout.each(w, low + o, step)
            for a in range(0, rows, lanes):
                st(kernel.scratch, sums + o * rows + a, ld(acc, a, lanes), lanes)

        def body(begin: PrimExpr, end: PrimExpr) -> None:
            with T.serial(0, end - begin) as t:
                z = T.Bind(begin + t)
                q, b = T.Bind(z % parts), T.Bind(z // (parts * blocks))
                first, low = T.Bind(T.min(z // parts % blocks * rows, p.m - rows)), T.Bind(T.min(q * channels, p.n - channels))
                with T.If(T.Or(t == 0, q == 0)), T.Then():
                    turn(T.Bind(kernel.value(rest, {"i0": b}) + first * sm))
                with T.serial(0, channels) as o:
                    channel(low, o)
                with T.serial(0, rows) as r, T.serial(0, channels // lanes) as v:
                    known = {"i0": b, "i1": first + r}
                    rt.emit_vector(kernel, stores, lanes, lambda lane: {
                        **known, "acc": kernel.scratch[sums + (v * lanes + lane) * rows + r]},
                        "i2", low + v * lanes, math.gcd(lanes, p.n))

        return kernel.write(body)
