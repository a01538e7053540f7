"""Reductions and what is stored of them: stages over a reduction space for each position of an iteration space.

lanes_on "reduce": a vector holds neighbouring elements of one row (softmax and LayerNorm of the last axis); its lanes are summed
at the end. lanes_on "space": every lane is a row of its own (pools over channels-last maps, sums of columns, matmuls that no
other family takes). Knobs: how many rows and vectors a step holds in registers.
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Any

from ..device import Device
from ..expr import post_order, variables
from ..space import Knobs, Space
from ..task import Task
from ..template import Template
from .registertile import LATENCY, up
from .rows_plan import Plan, Sweep, plan, work

TILE = 600      # vector instructions of a tile, at least: some 0.1 us, against which a call is nothing
STEP = 12       # the same of a step's own arithmetic of places


class Rows(Template):
    name, family = "any-rows", "rows"

    def space(self, task: Task, device: Device) -> Space:
        p, lanes = plan(task), lanes_of(task, device)
        held = max((sum(2 if "arg" in r.op else 1 for r in s.reductions) for s in p.sweeps), default=1)

        def small(k: Any) -> bool:
            return k.rows * k.vectors == 1 or (held * k.rows * k.vectors + k.vectors + 2 <= device.vector_registers
                                               and p.scratch(k.rows, k.vectors * lanes) <= device.l2_kib * 512)

        return (Space.of(rows=(1, 2, 4, 6, 8), vectors=(1, 2, 4, 8))
                .require(lambda k: k.rows == 1 or k.rows <= p.row.extent, "more rows than there are")
                .require(lambda k: k.vectors == 1 or k.vectors * lanes <= p.column.extent, "more vectors than there are")
                .require(small, "accumulators would spill, or kept values leave the cache"))

    def cost(self, task: Task, knobs: Knobs, device: Device) -> float:
        p, lanes = plan(task), lanes_of(task, device)
        return p.steps(knobs.rows, knobs.vectors * lanes) * step_cost(p, knobs.rows, knobs.vectors, lanes)

    def tiles(self, task: Task, knobs: Knobs, device: Device) -> int:
        p, lanes = plan(task), lanes_of(task, device)
        return up(p.steps(knobs.rows, knobs.vectors * lanes), steps_of_tile(p, knobs, lanes))

    def scratch(self, task: Task, knobs: Knobs, device: Device) -> int:
        return plan(task).scratch(knobs.rows, knobs.vectors * lanes_of(task, device))

    def emit(self, task: Task, knobs: Knobs, device: Device) -> Any:
        from ..tir import Kernel
        from .rows_write import Writer

        p, lanes = plan(task), lanes_of(task, device)
        kernel = Kernel(task, self.scratch(task, knobs, device))
        return kernel.write(Writer(kernel, p, knobs.rows, knobs.vectors, lanes, steps_of_tile(p, knobs, lanes)).body)


def lanes_of(task: Task, device: Device) -> int:
    """The widest vector that the lanes' axis fills."""
    p = plan(task)
    lanes = device.lanes_of("float64" if p.wide else "float32")
    return min(lanes, 1 << max(0, p.column.extent.bit_length() - 1))


def steps_of_tile(p: Plan, knobs: Knobs, lanes: int) -> int:
    return max(1, int(TILE / step_cost(p, knobs.rows, knobs.vectors, lanes)))


@lru_cache(maxsize=1024)
def step_cost(p: Plan, rows: int, vectors: int, lanes: int) -> float:
    """Vector instructions of one step: at each vector of a sweep the slower of computing and of waiting for the last sum. Large
    code costs too, as it is built, shipped and fetched: a tenth more for every hundred instructions."""
    stored = sum(work([e.value], p.column.name, variables([e.value]), p.shapes) for e in p.results)
    total, code = float(STEP + rows * vectors * stored), 0.0
    across = 1 if p.on_space else vectors       # vectors of the reduction whose sums are independent
    positions = math.prod(a.extent for a in p.inner) * (1 if p.on_space else up(p.column.extent, lanes))
    for s in p.sweeps:
        here = position_cost(p, s, rows, vectors if p.on_space else 1)
        wait = LATENCY / 2 / across if s.reductions else 0      # half: the next step begins meanwhile
        total += positions * (max(here, wait) + 1 / across)
        code += here * (p.unrolled(s, rows * vectors) if p.on_space else 2 + across if s.reductions else 2)
        if not p.on_space:
            total += len(s.reductions) * rows * (2 * vectors + 4 * math.log2(lanes)) + 4 * math.log2(lanes)
    return total * (1 + code / 1000)


def position_cost(p: Plan, s: Sweep, rows: int, vectors: int) -> float:
    """One position of the reduction for `rows` x `vectors` accumulators: what a load does not depend on shares it."""
    stepped = {a.name for a in p.reduce}
    total = rows * vectors * (work(s.roots, p.column.name, stepped, p.shapes) + len(s.reductions) + 2 * len(s.kept))
    for e in {id(e): e for e in post_order(s.roots)}.values():
        used = variables([e])
        if e.op == "load" and stepped & used:
            total -= rows * vectors - (rows if p.row.name in used else 1) * (vectors if p.column.name in used else 1)
    return total
