"""Cumulative sums and products (family `scan`, see compiler/lower/scan.py): rows side by side in the lanes, or one by one."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from ..device import Device
from ..expr import Expr, binary, const, var
from ..space import Knobs, Space
from ..task import Store, Task
from ..template import Template
from .loops import chunks, unflatten

if TYPE_CHECKING:
    from tvm.tirx import PrimFunc


BLOCK = 32      # vectors of totals carried at a time: rows are then read in long runs, and the totals stay in the first cache


class Scan(Template):
    name, family = "any-scan-rows", "scan"

    def space(self, task: Task, device: Device) -> Space:
        beside = task.params["lanes_on"] == "space" and len(task.params["space"]) > 0
        return Space.of(lanes=(device.lanes_of(task.operands["x"].dtype) if beside else 1,))

    def cost(self, task: Task, knobs: Knobs, device: Device) -> float:
        return math.prod(task.params["space"]) * task.params["length"] / knobs.lanes

    def tiles(self, task: Task, knobs: Knobs, device: Device) -> int:
        return math.prod(_outer(task, knobs))

    def emit(self, task: Task, knobs: Knobs, device: Device) -> PrimFunc:
        from ..tir import Kernel, T, alloc

        p, x, (store,) = task.params, task.operands["x"], task.stores
        outer, rank, dtype = _outer(task, knobs), len(p["space"]), x.dtype
        inner = p["space"][-1] if knobs.lanes > 1 else 1
        new: Expr = binary("add" if p["op"] == "sum" else "mul", var("acc", dtype), x)
        k = Kernel(task)

        def body(begin: Any, end: Any) -> None:
            with T.serial(0, end - begin) as tile:
                row = unflatten(tile + begin, outer)
                for first, width in chunks(inner, BLOCK * knobs.lanes):
                    total = alloc(width, dtype)
                    for part, lanes in chunks(width, knobs.lanes):
                        with T.vectorized(0, lanes) as lane:
                            T.buffer_store(total, k.value(const(0 if p["op"] == "sum" else 1, dtype), {}), [part + lane])
                    with T.serial(0, p["length"]) as step:
                        at = p["length"] - 1 - step if p["reverse"] else step
                        for part, lanes in chunks(width, knobs.lanes):
                            with T.vectorized(0, lanes) as lane:
                                env = {f"i{n}": e for n, e in enumerate([*row, first + part + lane][:rank])}
                                env |= {"r0": at, f"i{rank}": at, "acc": total[part + lane]}
                                if p["exclusive"]:
                                    _store(k, store, env)
                                T.buffer_store(total, k.value(new, env), [part + lane])
                                if not p["exclusive"]:
                                    _store(k, store, env | {"acc": total[part + lane]})
        return k.write(body)


def _outer(task: Task, knobs: Knobs) -> tuple[int, ...]:
    """The extents of the tiles: rows, without the axis that lies in the lanes."""
    space = tuple(task.params["space"])
    return space[:-1] if knobs.lanes > 1 else space


def _store(k: Any, store: Store, env: dict[str, Any]) -> None:
    k.store(store.buffer, [k.value(i, env) for i in store.index], k.value(store.value, env))
