"""Cumulative sums and products (family `scan`, see compiler/lower/scan.py): rows side by side in the lanes, or one by one."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from ..device import Device
from ..expr import Expr, binary, const, var
from ..space import Knobs, Space
from ..task import Task
from ..template import Template
from .loops import chunks, unflatten

if TYPE_CHECKING:
    from tvm.tirx import PrimFunc


class Scan(Template):
    name, family = "any-scan-rows", "scan"

    def space(self, task: Task, device: Device) -> Space:
        wide = device.lanes_of(task.operands["x"].dtype) if task.params["lanes_on"] == "space" and task.params["space"] else 1
        return Space.of(lanes=sorted({1, wide}))

    def cost(self, task: Task, knobs: Knobs, device: Device) -> float:
        space: tuple[int, ...] = (1, *task.params["space"])
        inner = space[-1]
        return math.prod(space[:-1]) * task.params["length"] * (inner // knobs.lanes + inner % knobs.lanes)

    def tiles(self, task: Task, knobs: Knobs, device: Device) -> int:
        return math.prod(task.params["space"][:-1])

    def emit(self, task: Task, knobs: Knobs, device: Device) -> PrimFunc:
        from ..tir import Kernel, T, alloc

        p, x, (store,) = task.params, task.operands["x"], task.stores
        length, rank, dtype = p["length"], len(p["space"]), task.operands["x"].dtype
        old = var("acc", dtype)
        new: Expr = binary("add" if p["op"] == "sum" else "mul", old, x)
        k = Kernel(task)

        def body(begin: Any, end: Any) -> None:
            with T.serial(0, end - begin) as tile:
                row = unflatten(tile + begin, p["space"][:-1])
                for first, width in chunks(p["space"][-1] if rank else 1, knobs.lanes):
                    total = alloc(width, dtype)
                    with T.vectorized(0, width) as lane:
                        T.buffer_store(total, k.value(const(0 if p["op"] == "sum" else 1, dtype), {}), [lane])
                    with T.serial(0, length) as step:
                        at = length - 1 - step if p["reverse"] else step
                        with T.vectorized(0, width) as lane:
                            env = {f"i{n}": e for n, e in enumerate([*row, first + lane][:rank])}
                            env |= {"r0": at, f"i{rank}": at, "acc": total[lane]}
                            if p["exclusive"]:
                                self._store(k, store, env)
                            T.buffer_store(total, k.value(new, env), [lane])
                            if not p["exclusive"]:
                                self._store(k, store, env | {"acc": total[lane]})
        return k.write(body)

    @staticmethod
    def _store(k: Any, store: Any, env: dict[str, Any]) -> None:
        k.store(store.buffer, [k.value(i, env) for i in store.index], k.value(store.value, env))
