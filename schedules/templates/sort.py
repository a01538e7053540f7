"""The k largest or smallest along an axis (family `sort`, see compiler/lower/sort.py), by sorting positions, not values.

insert: a list of the k best so far; an element that beats the last is moved up to its place. About n comparisons for a small k.
merge: bottom-up merge sort of all n positions, stable, n log2 n comparisons whatever the input.
Both take an element only where it is strictly better, so that equal elements keep their order.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from ..device import Device
from ..space import Knobs, Space
from ..task import Task
from ..template import Template
from .loops import unflatten

if TYPE_CHECKING:
    from tvm.tirx import PrimFunc

PrimExpr = Any


class Sort(Template):
    name, family = "any-sort-positions", "sort"

    def space(self, task: Task, device: Device) -> Space:
        return Space.of(method=("insert", "merge"))

    def cost(self, task: Task, knobs: Knobs, device: Device) -> float:
        n, k = task.params["length"], max(1, task.params["k"])
        if knobs.method == "merge":
            return 10 * n * math.log2(max(2, n))
        return n + k * k / 4 + k * k * math.log(max(1, n / k))     # in random order k / r of the elements enter at step r

    def tiles(self, task: Task, knobs: Knobs, device: Device) -> int:
        return math.prod(task.params["space"])

    def scratch(self, task: Task, knobs: Knobs, device: Device) -> int:
        return 4 * (2 * task.params["length"] if knobs.method == "merge" else max(1, task.params["k"]))

    def emit(self, task: Task, knobs: Knobs, device: Device) -> PrimFunc:
        from ..tir import Kernel, T

        k, space = Kernel(task, self.scratch(task, knobs, device)), task.params["space"]
        largest = task.params["largest"]

        def body(begin: PrimExpr, end: PrimExpr) -> None:
            with T.serial(0, end - begin) as tile:
                row = {f"i{n}": e for n, e in enumerate(unflatten(tile + begin, space))}

                def value(position: PrimExpr) -> PrimExpr:
                    return k.value(task.operands["x"], row | {"r0": position})

                def beats(a: PrimExpr, b: PrimExpr) -> PrimExpr:
                    return value(a) > value(b) if largest else value(a) < value(b)

                if knobs.method == "merge":
                    start = merge_sort(Positions(k.scratch), task.params["length"], beats)
                else:
                    start = insertion(Positions(k.scratch), task.params["length"], task.params["k"], beats)
                with T.serial(0, task.params["k"]) as rank:
                    at = T.Bind(Positions(k.scratch)[start + rank])
                    env = row | {f"i{len(space)}": rank, "s0": value(at), "s1": at}
                    for store in task.stores:
                        k.store(store.buffer, [k.value(i, env) for i in store.index], k.value(store.value, env))
        return k.write(body)


class Positions:
    """int32 numbers kept in the float32 scratch, bit for bit; one more than they are, as TVM cannot reinterpret a constant 0."""

    def __init__(self, scratch: Any) -> None:
        self.scratch = scratch

    def __getitem__(self, at: PrimExpr) -> PrimExpr:
        from ..tir import T
        return T.reinterpret("int32", self.scratch[at]) - 1

    def __setitem__(self, at: PrimExpr, position: PrimExpr) -> None:
        from ..tir import T
        T.buffer_store(self.scratch, T.reinterpret("float32", position + 1), [at])


Beats = Callable[[PrimExpr, PrimExpr], PrimExpr]


def insertion(best: Positions, n: int, k: int, beats: Beats) -> int:
    """Leaves the k best positions of 0..n-1 in order in best[0..k-1]; returns 0, where they start."""
    from ..tir import T, alloc, tirx

    hole = alloc(1, "int32")
    with T.serial(0, n) as r:
        count = T.min(r, k)
        last = best[T.max(count - 1, 0)]
        with T.If(tirx.Or(r < k, beats(r, last))), T.Then():
            T.buffer_store(hole, T.min(count, k - 1), [0])
            with T.While(tirx.And(hole[0] > 0, beats(r, best[T.max(hole[0] - 1, 0)]))):
                best[hole[0]] = best[hole[0] - 1]
                T.buffer_store(hole, hole[0] - 1, [0])
            best[hole[0]] = r
    return 0


def merge_sort(order: Positions, n: int, beats: Beats) -> int:
    """Sorts the positions 0..n-1 in the two halves of `order`, which take turns; returns the start of the sorted half."""
    from ..tir import T, alloc, tirx

    passes = (n - 1).bit_length()
    heads = alloc(2, "int32")
    with T.serial(0, n) as r:
        order[r] = r
    with T.serial(0, passes) as p:
        width = T.int32(1) << p
        source, target = (p % 2) * n, n - (p % 2) * n
        with T.serial(0, (n + 2 * width - 1) // (2 * width)) as pair:
            low = pair * (2 * width)
            middle, high = T.min(low + width, n), T.min(low + 2 * width, n)
            T.buffer_store(heads, low, [0])
            T.buffer_store(heads, middle, [1])
            with T.serial(0, high - low) as out:
                left = T.Bind(order[source + T.min(heads[0], middle - 1)])
                right = T.Bind(order[source + T.min(heads[1], high - 1)])
                take_right = tirx.And(heads[1] < high, tirx.Or(heads[0] >= middle, beats(right, left)))
                with T.If(take_right):
                    with T.Then():
                        order[target + low + out] = right
                        T.buffer_store(heads, heads[1] + 1, [1])
                    with T.Else():
                        order[target + low + out] = left
                        T.buffer_store(heads, heads[0] + 1, [0])
    return passes % 2 * n
