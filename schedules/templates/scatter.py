"""Writes at computed places (family `scatter`, see compiler/lower/scatter.py): copy the data, then apply the updates in order.

A tile is one index over all but the last axis of `space`, whose elements lie in the lanes. Tiles never write each other's slices.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from ..device import Device
from ..space import Knobs, Space
from ..task import Task
from ..template import Template
from .loops import chunks, nest, unflatten

if TYPE_CHECKING:
    from tvm.tirx import PrimFunc

PrimExpr = Any


class Scatter(Template):
    name, family = "any-scatter-slices", "scatter"

    def space(self, task: Task, device: Device) -> Space:
        return Space.of(lanes=(device.lanes_of(task.operands["data"].dtype),))

    def cost(self, task: Task, knobs: Knobs, device: Device) -> float:
        p = task.params
        return math.prod(p["space"]) * (math.prod(p["rest"]) / knobs.lanes + math.prod(p["updates"]))

    def tiles(self, task: Task, knobs: Knobs, device: Device) -> int:
        space = task.params["space"]
        return math.prod(space[:-1] if task.params["lanes_on"] == "space" else space)

    def emit(self, task: Task, knobs: Knobs, device: Device) -> PrimFunc:
        from ..tir import Kernel, T, get

        p, (store,), k = task.params, task.stores, Kernel(task)
        data, value = task.operands["data"], task.operands["value"]
        places = [task.operands[f"place{n}"] for n in range(len(p["rest"]))]
        space, rank, on_space = p["space"], len(p["space"]), p["lanes_on"] == "space"
        buffer, dtype = store.buffer, task.buffers[store.buffer].dtype

        def index(env: dict[str, PrimExpr], rest: list[PrimExpr]) -> list[PrimExpr]:
            env = env | {f"i{rank + n}": e for n, e in enumerate(rest)}
            return [k.value(i, env) for i in store.index]

        def copy(row: list[PrimExpr]) -> None:
            """The slice as it was before."""
            outer = p["rest"] if on_space else p["rest"][:-1]
            with nest(outer) as at:
                for first, width in chunks(space[-1] if on_space else p["rest"][-1], knobs.lanes):
                    with T.vectorized(0, width) as lane:
                        step = at + [first + lane] * (not on_space)
                        env = {f"i{n}": e for n, e in enumerate(row + [first + lane] * on_space)}
                        env |= {f"r{n}": e for n, e in enumerate(step)}
                        k.store(buffer, index(env, step), k.value(data, env))

        def update(row: list[PrimExpr]) -> None:
            with nest(p["updates"]) as at:
                for first, width in chunks(space[-1], knobs.lanes) if on_space else [(0, 1)]:
                    with T.vectorized(0, width) as lane:
                        env = {f"i{n}": e for n, e in enumerate(row + [first + lane] * on_space)}
                        env |= {f"r{n}": e for n, e in enumerate(at)}
                        target = index(env, [k.value(e, env) for e in places])
                        env["acc"] = get(k.arrays[buffer], k.offset(buffer, target), dtype)
                        k.store(buffer, target, k.value(value, env))

        def body(begin: PrimExpr, end: PrimExpr) -> None:
            with T.serial(0, end - begin) as tile:
                row = unflatten(tile + begin, space[:-1] if on_space else space)
                copy(row)
                update(row)
        return k.write(body)
