"""The loop nest of a Store: axes merged where memory runs on, and put in the order in which they are best walked."""

from __future__ import annotations

import math
from dataclasses import dataclass

from ..affine import flat, split, within
from ..expr import Expr, const, post_order, substitute, var
from ..task import Store, Task

WOVEN = -1          # in place of the place of an axis to turn
MOST_WOVEN = 4      # channels of a picture


@dataclass(frozen=True)
class Nest:
    """A Store over new variables i0 … of `extents`, the last of which is the vector axis; `position` is where it stores, flat.

    turned: the axis along which the value's reads are contiguous, where that is not the vector axis, along which the stores are:
    a transposition. None where there is nothing to turn.
    woven: how many arrays are woven into one, an element of each in turn, as planes of a picture into pixels: the axis behind
    those of `extents`, i<their number>, along which the stores are contiguous, while they and the reads follow the vector axis.
    1 where there is nothing to weave.
    """

    buffer: int
    extents: tuple[int, ...]
    position: Expr
    value: Expr
    turned: int | None
    woven: int = 1

    @property
    def size(self) -> int:
        return math.prod(self.extents) * self.woven


def nest(task: Task, store: Store, lanes: int) -> Nest:
    """The nest of a store of the task, for vectors of `lanes` elements."""
    axes = [n for n, extent in enumerate(store.space) if extent != 1]
    extents = {f"i{n}": extent for n, extent in enumerate(store.space)}
    unit = {f"i{n}": const(0, "int32") for n, extent in enumerate(store.space) if extent == 1}
    position = within(substitute(flat(store.index, task.buffers[store.buffer].shape), unit), extents)
    value = within(substitute(store.value, unit), extents)
    groups = [[n] for n in axes]
    reads = [flat(e.args, task.buffers[e.value].shape) for e in post_order([value]) if e.op == "load"]
    for n in range(len(axes) - 1, 0, -1):
        if _run_on(position, value, reads, axes[n - 1], groups[n][-1], _extent(store, groups[n])):
            groups[n - 1] += groups.pop(n)
    kept = [g[-1] for g in groups]      # a merged group is walked by its last axis: the others stand at 0
    sizes = [_extent(store, g) for g in groups]
    gone = {f"i{n}": const(0, "int32") for g in groups for n in g[:-1]}
    position, value = substitute(position, gone), substitute(value, gone)
    order, turned = _order(task, position, value, kept, sizes, lanes)
    names = {f"i{kept[n]}": var(f"i{place}") for place, n in enumerate(order)}
    position, value = substitute(position, names), substitute(value, names)
    if turned == WOVEN:
        *order, short = order
        return Nest(store.buffer, tuple(sizes[n] for n in order), position, value, None, sizes[short])
    return Nest(store.buffer, tuple(sizes[n] for n in order), position, value, turned)


def _extent(store: Store, group: list[int]) -> int:
    return math.prod(store.space[n] for n in group)


def _run_on(position: Expr, value: Expr, reads: list[Expr], outer: int, inner: int, extent: int) -> bool:
    """Does every access step over `inner`'s end onto `outer`'s next position, and nothing else depend on either?"""
    for e in [position, *reads]:
        a = split(e, f"i{outer}")
        b = split(e, f"i{inner}")
        if a is None or b is None or a[0] != b[0] * extent:
            return False
    return not {f"i{outer}", f"i{inner}"} & _beside_loads(value)


def _beside_loads(root: Expr) -> set[str]:
    """The variables that the value depends on in another way than through the index of a load."""
    names: set[str] = set()
    seen: set[int] = set()
    stack = [root]
    while stack:
        e = stack.pop()
        if e.op == "load" or id(e) in seen:
            continue
        seen.add(id(e))
        if e.op == "var":
            names.add(e.value)
        stack += e.args
    return names


def _order(task: Task, position: Expr, value: Expr, axes: list[int], sizes: list[int],
           lanes: int) -> tuple[list[int], int | None]:
    """The order in which the axes are walked, last the vector axis, and the place of the axis to turn; or, behind it, the axis to
    weave, and WOVEN."""
    if not axes or 0 in sizes:
        return list(range(len(axes))), None
    reads = [flat(e.args, task.buffers[e.value].shape) for e in post_order([value]) if e.op == "load"]

    def stride(e: Expr, n: int) -> int | None:
        part = split(e, f"i{axes[n]}")
        return part[0] if part is not None else None

    def cost(n: int) -> float:
        """Of one vector along axis n: contiguous or broadcast accesses cost 1, others an access for each lane."""
        width = min(lanes, sizes[n])
        each = [(1 if stride(e, n) in (0, 1) else width) for e in reads] + [1 if stride(position, n) == 1 else 1.5 * width]
        waste = math.ceil(sizes[n] / lanes) * lanes / sizes[n] if sizes[n] >= lanes else 1.0
        return sum(each) / width * waste

    for n in (n for n in range(len(axes)) if sizes[n] >= lanes):
        steps = {stride(e, n) for e in reads}
        if 1 not in steps or steps - {0, 1}:
            continue
        for short in (m for m in range(len(axes)) if stride(position, m) == 1 and stride(position, n) == sizes[m] <= MOST_WOVEN):
            return [m for m in range(len(axes)) if m not in (n, short)] + [n, short], WOVEN
    best = min(range(len(axes)), key=lambda n: (cost(n), -n))
    order = [n for n in range(len(axes)) if n != best] + [best]
    if stride(position, best) != 1 and sizes[best] >= lanes:
        along = [n for n in range(len(axes)) if stride(position, n) == 1 and sizes[n] >= lanes]
        if along and reads:     # read along `best`, stored along another: turn blocks of lanes x lanes
            order = [n for n in range(len(axes)) if n not in (best, along[0])] + [best, along[0]]
            return order, len(axes) - 2
    if stride(position, best) == 1 and sizes[best] >= lanes:
        strided = {n for e in reads if stride(e, best) not in (0, 1)
                   for n in range(len(axes)) if stride(e, n) == 1 and sizes[n] >= lanes}
        if len(strided) == 1:
            turn = strided.pop()
            order = [n for n in range(len(axes)) if n not in (turn, best)] + [turn, best]
            return order, len(axes) - 2
    return order, None
