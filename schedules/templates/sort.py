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

                def better(a: PrimExpr, b: PrimExpr) -> PrimExpr:
                    return a > b if largest else a < b

                order = Positions(k.scratch)
                if knobs.method == "merge":
                    start = merge_sort(order, task.params["length"], value, better)
                else:
                    start = insertion(order, task.params["length"], task.params["k"], value, better, task.operands["x"].dtype)
                with T.serial(0, task.params["k"]) as rank:
                    at = T.Bind(order[start + rank])
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


Value = Callable[[PrimExpr], PrimExpr]                  # what stands at a position
Better = Callable[[PrimExpr, PrimExpr], PrimExpr]       # does the first value go before the second?


def insertion(best: Positions, n: int, k: int, value: Value, better: Better, dtype: str) -> int:
    """Leaves the k best positions of 0..n-1 in order in best[0..k-1]; returns 0, where they start."""
    from ..tir import T, alloc

    bar = alloc(1, dtype)       # the value that an element must beat
    with T.serial(0, k) as r:
        _insert(best, r, r, value, better)
    if k:
        T.buffer_store(bar, value(best[k - 1]), [0])
    with T.serial(0, n - k if k else 0) as r, T.If(better(value(r + k), bar[0])), T.Then():
        _insert(best, k - 1, r + k, value, better)
        T.buffer_store(bar, value(best[k - 1]), [0])
    return 0


def _insert(best: Positions, last: PrimExpr, position: PrimExpr, value: Value, better: Better) -> None:
    """Puts the position where it belongs in best[0..last]; what stood at `last` goes."""
    from ..tir import T, alloc, tirx

    hole = alloc(1, "int32")
    T.buffer_store(hole, last, [0])
    with T.While(tirx.And(hole[0] > 0, better(value(position), value(best[T.max(hole[0] - 1, 0)])))):
        best[hole[0]] = best[hole[0] - 1]
        T.buffer_store(hole, hole[0] - 1, [0])
    best[hole[0]] = position


def merge_sort(order: Positions, n: int, value: Value, better: Better) -> int:
    """Sorts the positions 0..n-1 in the two halves of `order`, which take turns; returns the start of the sorted half.
    Which of two heads goes first is a coin flip to the processor, so nothing branches on it."""
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
                ahead = tirx.Or(heads[0] >= middle, better(value(right), value(left)))
                step = T.Bind(tirx.Select(tirx.And(heads[1] < high, ahead), T.int32(1), T.int32(0)))
                order[target + low + out] = left + (right - left) * step
                T.buffer_store(heads, heads[1] + step, [1])
                T.buffer_store(heads, heads[0] + (1 - step), [0])
    return passes % 2 * n
