"""Reductions over axes, and the position of the largest or smallest element."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from ...schedules.expr import FLOATS, Expr, absolute, cast, clip, const, equal, exp, indices, log, select, sqrt
from .registry import ANCHOR, Anchor, Context, Output, lowering
from .rows import Split, highest, lowest, result, split, wide
from .tensor import Tensor


@dataclass(frozen=True)
class Reduction:
    """`after(stage over before(x), number of elements)`. real: computed in a float type whatever the input's."""

    stage: str
    before: Callable[[Expr], Expr] = lambda x: x
    after: Callable[[Expr, int], Expr] = lambda s, n: s
    real: bool = False


def _absolute(x: Expr) -> Expr:
    return x if x.dtype.startswith("uint") else absolute(x)


REDUCTIONS = {
    "ReduceSum": Reduction("sum"),
    "ReduceMean": Reduction("sum", after=lambda s, n: s / n),
    "ReduceProd": Reduction("prod"),
    "ReduceMax": Reduction("max"),
    "ReduceMin": Reduction("min"),
    "ReduceL1": Reduction("sum", before=_absolute),
    "ReduceL2": Reduction("sum", before=lambda x: x * x, after=lambda s, n: sqrt(s), real=True),
    "ReduceSumSquare": Reduction("sum", before=lambda x: x * x),
    "ReduceLogSum": Reduction("sum", after=lambda s, n: log(s), real=True),
}
IDENTITY: dict[str, Callable[[str], Expr]] = {
    "sum": lambda t: const(0, t), "prod": lambda t: const(1, t), "max": lowest, "min": highest}


@lowering(*REDUCTIONS, kind=ANCHOR)
def reduce(ctx: Context) -> Anchor:
    """Half precision accumulates in float32; integers in their own type, as numpy does."""
    how, axes = REDUCTIONS[ctx.op], reduced_axes(ctx)
    dtype = _compute_type(ctx.input(0).dtype, how.real)
    if how.stage in ("max", "min") and dtype == "bool":
        dtype = "uint8"
    x = ctx.input(0)
    if 0 in x.shape:
        nothing = const(np.nan if dtype in FLOATS else 0, dtype)
        return _constant(ctx, nothing if ctx.op == "ReduceMean" else how.after(IDENTITY[how.stage](dtype), 0))
    parts, read = _merged(ctx, axes)
    rows = parts.rows
    stage = rows.stage(how.stage, lambda i, r: how.before(cast(read.at(parts.index(i, r)), dtype)))
    value = how.after(result(0, dtype), parts.count)
    return rows.anchor([stage], Output(_output_index(ctx, x.shape, axes, rows.row), cast(value, x.dtype)))


@lowering("ReduceLogSumExp", kind=ANCHOR, rereads=True)
def reduce_log_sum_exp(ctx: Context) -> Anchor:
    """log(sum(exp(x - m))) + m with m the maximum, held finite so that rows of infinities come out as infinities."""
    x, axes = ctx.input(0), reduced_axes(ctx)
    dtype = _compute_type(x.dtype, real=True)
    if 0 in x.shape:
        return _constant(ctx, const(-np.inf, dtype))
    parts, read = _merged(ctx, axes)
    rows = parts.rows
    bound = float(np.finfo(dtype).max)
    m = clip(result(0, dtype), -bound, bound)
    stages = [rows.stage("max", lambda i, r: cast(read.at(parts.index(i, r)), dtype)),
              rows.stage("sum", lambda i, r: exp(cast(read.at(parts.index(i, r)), dtype) - m))]
    value = log(result(1, dtype)) + m
    return rows.anchor(stages, Output(_output_index(ctx, x.shape, axes, rows.row), cast(value, x.dtype)))


@lowering("ArgMax", "ArgMin", kind=ANCHOR)
def arg_extreme(ctx: Context) -> Anchor:
    x, axis = ctx.input(0), ctx.attr("axis", 0)
    parts = split(x.shape, [axis])
    rows = parts.rows
    op = ctx.op.lower() + ("_last" if ctx.attr("select_last_index", 0) else "")
    stage = rows.stage(op, lambda i, r: x.at(parts.index(i, r)))
    index = _output_index(ctx, x.shape, parts.axes, rows.row)
    return rows.anchor([stage], Output(index, cast(result(0, "int32"), "int64")))


@lowering("Hardmax", kind=ANCHOR, rereads=True)
def hardmax(ctx: Context) -> Anchor:
    """1 at the first largest element along an axis, 0 elsewhere."""
    x = ctx.input(0)
    parts = split(x.shape, [ctx.attr("axis", -1)])
    rows = parts.rows
    stage = rows.stage("argmax", lambda i, r: x.at(parts.index(i, r)))
    value = select(equal(rows.element[0], result(0, "int32")), const(1, x.dtype), const(0, x.dtype))
    return rows.anchor([stage], Output(parts.index(rows.row, rows.element), value), elementwise=True)


def reduced_axes(ctx: Context) -> tuple[int, ...]:
    """The axes input (or, before opset 18, attribute), resolved: none given means all, or none with noop_with_empty_axes."""
    rank = len(ctx.input(0).shape)
    given = ctx.attr("axes")
    if given is None and ctx.has(1):
        given = ctx.known(1, "the list of axes").tolist()
    if not given:
        return () if ctx.attr("noop_with_empty_axes", 0) else tuple(range(rank))
    return tuple(sorted({a % rank for a in given}))


def _compute_type(dtype: str, real: bool) -> str:
    return wide(dtype) if dtype in FLOATS or not real else "float64"


def _merged(ctx: Context, axes: tuple[int, ...]) -> tuple[Split, Tensor]:
    """The input with neighbouring reduced axes taken as one, so that the innermost loop is as long as it can be."""
    shape = ctx.input(0).shape
    merged: list[int] = []
    kept: list[int] = []
    for a, n in enumerate(shape):
        if a in axes and a - 1 in axes:
            merged[-1] *= n
        else:
            kept += [len(merged)] if a in axes else []
            merged.append(n)
    return Split(tuple(merged), tuple(kept)), ctx.view(0, tuple(merged))


def _output_index(ctx: Context, shape: tuple[int, ...], axes: tuple[int, ...], row: tuple[Expr, ...]) -> tuple[Expr, ...]:
    """Where a row's result lands: kept axes in their order, reduced ones at 0 or, without keepdims, gone."""
    rest = iter(row)
    at = [const(0, "int32") if n == 1 or a in axes else next(rest) for a, n in enumerate(shape)]
    return tuple(at) if ctx.attr("keepdims", 1) else tuple(e for a, e in enumerate(at) if a not in axes)


def _constant(ctx: Context, value: Expr) -> Anchor:
    """What is reduced is empty: every result is the same."""
    shape = ctx.output_shape()
    return Anchor("generic", shape, (Output(indices(len(shape)), cast(value, ctx.output_dtype())),))


