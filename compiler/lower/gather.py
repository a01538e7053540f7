"""Ops whose elements are chosen by indices. An index computed at run time is clamped: a kernel never reads out of range."""

from __future__ import annotations

import numpy as np

from ...schedules.expr import Expr, all_of, cast, clip, const, equal, floormod, select
from .registry import INJECTIVE, Context, lowering
from .tensor import Tensor

Index = tuple[Expr, ...]


def in_range(i: Expr, n: int) -> Expr:
    """An index into an axis of n, counted from the end where it is negative, as an int32 that is in range whatever it was."""
    i = cast(i, "int32")
    return clip(select(i < 0, i + n, i), 0, max(0, n - 1))


def positions(ctx: Context, n: int, axis: int) -> Tensor:
    """Input n as indices in range of an axis of that size: checked now where they are constant, clamped at run time otherwise."""
    indices, known = ctx.input(n), ctx.array(n)
    if known is None:
        return indices.map(lambda i: in_range(i, axis), "int32")
    if known.size and not (-axis <= known.min() and known.max() < axis):
        ctx.refuse(f"indices {known.min()} to {known.max()} into an axis of {axis}")
    known = np.where(known < 0, known + axis, known).astype(np.int32)
    return progression(known) or ctx.constant(known)


def progression(values: np.ndarray) -> Tensor | None:
    """Constant 1-D indices that are evenly spaced as start + i step, which needs no table; None for others."""
    if values.ndim != 1 or values.size < 2 or len(set(np.diff(values).tolist())) != 1:
        return None
    start, step = int(values[0]), int(values[1] - values[0])
    return Tensor(values.shape, "int32", lambda index: index[0] * step + start)


@lowering("Gather", kind=INJECTIVE)
def gather(ctx: Context) -> Tensor:
    x = ctx.input(0)
    axis = ctx.attr("axis", 0) % len(x.shape)
    indices = positions(ctx, 1, x.shape[axis])
    rank = len(indices.shape)
    return Tensor(ctx.output_shape(), x.dtype, lambda index: x.at(
        [*index[:axis], indices.at(index[axis:axis + rank]), *index[axis + rank:]]))


@lowering("GatherElements", kind=INJECTIVE)
def gather_elements(ctx: Context) -> Tensor:
    x = ctx.input(0)
    axis = ctx.attr("axis", 0) % len(x.shape)
    indices = positions(ctx, 1, x.shape[axis])
    return Tensor(ctx.output_shape(), x.dtype, lambda index: x.at([*index[:axis], indices.at(index), *index[axis + 1:]]))


@lowering("GatherND", kind=INJECTIVE)
def gather_nd(ctx: Context) -> Tensor:
    """The last axis of the indices holds a position in the axes of x that follow the batch axes."""
    x, indices, batch = ctx.input(0), ctx.input(1), ctx.attr("batch_dims", 0)
    depth, rank = indices.shape[-1], len(indices.shape)

    def element(index: Index) -> Expr:
        place = [in_range(indices.at([*index[:rank - 1], const(d, "int32")]), x.shape[batch + d]) for d in range(depth)]
        return x.at([*index[:batch], *place, *index[rank - 1:]])
    return Tensor(ctx.output_shape(), x.dtype, element)


@lowering("OneHot", kind=INJECTIVE)
def one_hot(ctx: Context) -> Tensor:
    """values[1] where the index along the new axis equals the (possibly negative) index, values[0] elsewhere."""
    indices, values, shape = ctx.input(0), ctx.input(2), ctx.output_shape()
    axis = ctx.attr("axis", -1) % len(shape)
    depth = shape[axis]

    def element(index: Index) -> Expr:
        hot = cast(indices.at([*index[:axis], *index[axis + 1:]]), "int32")
        return select(equal(select(hot < 0, hot + depth, hot), index[axis]), values.at([1]), values.at([0]))
    return Tensor(shape, values.dtype, element)


@lowering("TensorScatter", kind=INJECTIVE)
def tensor_scatter(ctx: Context) -> Tensor:
    """A cache whose elements from write_indices[batch] on along the axis are the update's; `circular` goes on from the front."""
    cache, update = ctx.input(0), ctx.input(1)
    axis = ctx.attr("axis", -2) % len(cache.shape)
    size, length = cache.shape[axis], update.shape[axis]
    circular = ctx.attr("mode", "linear") == "circular"

    def element(index: Index) -> Expr:
        start = cast(ctx.input(2).at([index[0]]), "int32") if ctx.has(2) else const(0, "int32")
        at = index[axis] - start
        if circular:
            at = floormod(at, size)
        new = update.at((*index[:axis], clip(at, 0, length - 1), *index[axis + 1:]))
        return select(all_of([at >= 0, at < length]), new, cache.at(index))
    return Tensor(cache.shape, cache.dtype, element)
