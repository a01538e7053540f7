"""A `rows` task brought to the form in which its kernel is written: axes merged, stages that do not need each other joined into
one sweep of the reduction space, and what a later sweep would compute again kept. Plain data, no TVM.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence, Set
from dataclasses import dataclass
from functools import lru_cache

from ..affine import flat, split, within
from ..expr import Expr, cast, const, load, post_order, rows, substitute, var, variables
from ..task import Task
from .registertile import HEAVY

KEEP = 10           # vector instructions from which on a value is kept rather than computed again
ROW_LIMIT = 65536   # elements of a row of which values are kept, lanes on the reduction
UNROLL = 100        # vector instructions of a sweep up to which short loops are unrolled
STRIP_LIMIT = 2048  # the same with lanes on the space, where a whole strip is kept


@dataclass(frozen=True)
class Axis:
    name: str
    extent: int


@dataclass(frozen=True)
class Put:
    """The element `target` (a load) becomes `value`."""

    target: Expr
    value: Expr


@dataclass(frozen=True)
class Reduction:
    name: str       # s0, s1, …
    op: str
    value: Expr


@dataclass(frozen=True)
class Sweep:
    """One pass over the reduction space. kept: values that it computes, names and writes to scratch for later sweeps."""

    reductions: tuple[Reduction, ...] = ()
    puts: tuple[Put, ...] = ()
    kept: tuple[tuple[str, Expr], ...] = ()

    @property
    def roots(self) -> list[Expr]:
        return [r.value for r in self.reductions] + [e for p in self.puts for e in (p.value, p.target)]

    def map(self, f: Callable[[Expr], Expr]) -> Sweep:
        return Sweep(tuple(Reduction(r.name, r.op, f(r.value)) for r in self.reductions),
                     tuple(Put(f(p.target), f(p.value)) for p in self.puts), tuple((name, f(e)) for name, e in self.kept))


@dataclass(frozen=True, eq=False)
class Plan:
    """lanes_on: as in the task. The lanes lie along `column`; several positions along `row` are taken at a time; `outer` axes
    are loops over steps, `inner` axes loops within one. results: what is stored once per row. saved: kept values."""

    outer: tuple[Axis, ...]
    row: Axis
    column: Axis
    inner: tuple[Axis, ...]
    lanes_on: str
    sweeps: tuple[Sweep, ...]
    results: tuple[Put, ...]
    saved: int
    shapes: tuple[tuple[int, ...], ...]

    @property
    def on_space(self) -> bool:
        return self.lanes_on == "space"

    @property
    def reduce(self) -> tuple[Axis, ...]:
        return self.inner if self.on_space else (*self.inner, self.column)

    @property
    def count(self) -> int:
        """Elements of the reduction space."""
        return math.prod(a.extent for a in self.reduce)

    def grid(self, rows: int, width: int) -> list[Axis]:
        """The steps, of `rows` along the row axis and, with lanes on the space, `width` along the column."""
        blocks = [Axis("column", -(-self.column.extent // width))] if self.on_space else []
        return [*self.outer, Axis("row", -(-self.row.extent // rows)), *blocks]

    def steps(self, rows: int, width: int) -> int:
        return math.prod(a.extent for a in self.grid(rows, width))

    def scratch(self, rows: int, width: int) -> int:
        """Bytes of kept values."""
        return 4 * self.saved * self.count * rows * (width if self.on_space else 1)

    def loops(self, s: Sweep, accumulators: int) -> tuple[tuple[Axis, ...], tuple[Axis, ...]]:
        """Of the inner axes, with lanes on the space: those that become loops, and the innermost that are short enough to be
        unrolled."""
        names = {a.name for a in self.reduce}
        first, copies = len(self.inner), accumulators * work(s.roots, self.column.name, names, self.shapes)
        while first and copies * self.inner[first - 1].extent <= UNROLL:
            first -= 1
            copies *= self.inner[first].extent
        return self.inner[:first], self.inner[first:]

    def unrolled(self, s: Sweep, accumulators: int) -> int:
        """Copies of a sweep's code."""
        return math.prod(a.extent for a in self.loops(s, accumulators)[1])

    @property
    def wide(self) -> bool:
        """Is anything of 8 bytes computed for each element?"""
        return any(e.dtype in ("float64", "int64", "uint64") for s in self.sweeps for r in s.roots for e in post_order([r]))


@lru_cache(maxsize=256)
def plan(task: Task) -> Plan:
    rank, shapes = len(task.params["space"]), tuple(b.shape for b in task.buffers)
    space = [Axis(f"i{n}", e) for n, e in enumerate(task.params["space"])]
    reduce = [Axis(f"r{n}", e) for n, e in enumerate(task.params["reduce"])]
    elementwise = {f"i{rank + n}": var(a.name) for n, a in enumerate(reduce)}
    known = {f"s{n}": cast(var(f"s{n}", "uint8"), "bool") for n, s in enumerate(task.stages) if s.value.dtype == "bool"}
    extents = {a.name: a.extent for a in (*space, *reduce)}

    def tidy(e: Expr) -> Expr:
        return within(substitute(e, {**elementwise, **known}), extents)

    stages = [Reduction(f"s{n}", s.op, tidy(cast(s.value, "uint8") if s.value.dtype == "bool" else s.value))
              for n, s in enumerate(task.stages)]
    puts = [(s, Put(tidy(load(s.buffer, s.index, task.buffers[s.buffer].dtype)), tidy(s.value))) for s in task.stores]
    stepped = {a.name for a in reduce}
    empty = 0 in (a.extent for a in reduce)
    elements = [p for s, p in puts if len(s.space) > rank and (empty or stepped & variables([p.target, p.value]))]
    results = [p for _, p in puts if p not in elements]

    roots = [s.value for s in stages] + [e for p in (*elements, *results) for e in (p.target, p.value)]
    gone: dict[str, Expr] = {}
    space, reduce = _merged(space, roots, shapes, gone), _merged(reduce, roots, shapes, gone)
    sweeps = [s.map(lambda e: substitute(e, gone)) for s in _sweeps(stages, elements)]
    results = [Put(substitute(p.target, gone), substitute(p.value, gone)) for p in results]

    lanes_on, unit = task.params["lanes_on"], Axis("", 1)
    columns = space if lanes_on == "space" else reduce
    count = math.prod(a.extent for a in reduce)
    column = columns.pop() if columns else unit
    row = space.pop() if space else unit
    saved = 0
    if count <= (STRIP_LIMIT if lanes_on == "space" else ROW_LIMIT):
        sweeps, saved = _keep(sweeps, column.name, stepped, shapes)
    return Plan(tuple(space), row, column, tuple(reduce), lanes_on, tuple(sweeps), tuple(results), saved, shapes)


def _sweeps(stages: Iterable[Reduction], elements: Sequence[Put]) -> list[Sweep]:
    """Stages that read none of the results of the sweep before them join it."""
    groups: list[list[Reduction]] = []
    for s in stages:
        if groups and not {r.name for r in groups[-1]} & variables([s.value]):
            groups[-1].append(s)
        else:
            groups.append([s])
    return [*(Sweep(tuple(g)) for g in groups), *([Sweep(puts=tuple(elements))] if elements else [])]


# ---- Axes ----------------------------------------------------------------------------------------------------------------


def _merged(axes: Iterable[Axis], roots: Sequence[Expr], shapes: Sequence[Sequence[int]], gone: dict[str, Expr]) -> list[Axis]:
    """Axes of one element dropped, neighbours taken as one wherever every buffer lies so that they are. gone: variables that
    stand at 0 then; the merged axis counts on in the variable of the inner one."""
    result: list[Axis] = []
    for a in axes:
        if a.extent == 1:
            continue
        if result and _one(result[-1], a, roots, shapes):
            outer = result.pop()
            gone[outer.name] = const(0, "int32")
            a = Axis(a.name, outer.extent * a.extent)
        result.append(a)
    return result


def _one(outer: Axis, inner: Axis, roots: Sequence[Expr], shapes: Sequence[Sequence[int]]) -> bool:
    """Is stepping along `outer` the same as `inner.extent` steps along `inner`, in every expression? (`outer` may be merged
    already: its variable then stands for all of it.)"""
    names = {outer.name, inner.name}
    stack, seen = list(roots), set()
    while stack:
        e = stack.pop()
        if id(e) in seen:
            continue
        seen.add(id(e))
        if e.op == "var" and e.value in names:
            return False
        if e.op != "load":
            stack.extend(e.args)
        elif names & variables(e.args):
            position = flat(e.args, shapes[e.value])
            a, b = split(position, outer.name), split(position, inner.name)
            if a is None or b is None or a[0] != b[0] * inner.extent:
                return False
    return True


# ---- Values that several sweeps need -------------------------------------------------------------------------------------


def work(roots: Iterable[Expr], column: str, varying: Set[str], shapes: Sequence[Sequence[int]]) -> int:
    """Vector instructions of what depends on the variables `varying`, over a vector along `column`, roughly. Indices are scalars
    and free."""
    total, stack, seen = 0, list(roots), set()
    while stack:
        e = stack.pop()
        if id(e) in seen or not varying & variables([e]):
            continue
        seen.add(id(e))
        if e.op == "load":
            total += 1 if contiguous(e, column, shapes) else 16
        elif e.op != "var":
            total += 25 if e.op in HEAVY else 8 if e.op in ("div", "sqrt", "rsqrt") else 1
            stack.extend(e.args)
    return total


def contiguous(e: Expr, column: str, shapes: Sequence[Sequence[int]]) -> bool:
    """Is a load along `column` one of neighbouring elements or of a single one?"""
    part = split(flat(e.args, shapes[e.value]), column) if column in variables(e.args) else (0, e)
    return part is not None and part[0] in (0, 1)


def _keep(sweeps: Sequence[Sweep], column: str, stepped: Set[str], shapes: Sequence[Sequence[int]]) -> tuple[list[Sweep], int]:
    """Sweeps in which costly float32 values that an earlier one computed are read again as k0, k1, …, and how many there are."""
    nodes = post_order(e for s in sweeps for e in s.roots)
    kind = {id(e): p for e, p in zip(nodes, rows(nodes)[1], strict=True)}      # equal expressions are of one kind
    first: dict[int, int] = {}
    wanted: dict[int, Expr] = {}
    for n, s in enumerate(sweeps):
        stack, seen = list(s.roots), set()
        while stack:
            e = stack.pop()
            k = kind[id(e)]
            if k in seen:
                continue
            seen.add(k)
            if first.get(k, n) < n and e.dtype == "float32" and work([e], column, stepped, shapes) >= KEEP:
                wanted[k] = e
            elif e.op != "load":
                stack.extend(e.args)
        for e in post_order(s.roots):
            first.setdefault(kind[id(e)], n)
    names = {k: f"k{n}" for n, k in enumerate(sorted(wanted))}

    def rewrite(root: Expr, itself: bool = True) -> Expr:
        done: dict[int, Expr] = {}
        for e in post_order([root]):
            if kind[id(e)] in names and (itself or e is not root):
                done[id(e)] = var(names[kind[id(e)]], "float32")
            else:
                args = tuple(done[id(a)] for a in e.args)
                done[id(e)] = e if all(a is b for a, b in zip(args, e.args, strict=True)) else Expr(e.op, args, e.dtype, e.value)
        return done[id(root)]

    result = []
    for n, s in enumerate(sweeps):
        new = s.map(rewrite)
        result.append(Sweep(new.reductions, new.puts, tuple((names[k], rewrite(e, False)) for k, e in sorted(wanted.items())
                                                            if first[k] == n)))
    return result, len(names)
