"""Writes at computed places: the family `scatter`.

params: `space` (extents of independent slices, never written by each other), `rest` (extents of the other axes of the result),
`updates` (extents; applied in row-major order), `lanes_on` ("space" or "rest": whose last axis is contiguous in memory).
operands: `data` over i0 … (space) and r0 … (rest): what the result is before; `place0`, … over i0 … and r0 … (updates): the
position along each axis of `rest`, in range whatever the input; `value` over the same and acc, what stood there before: what
stands there afterwards. The result's element at i0, …, i(space + rest) is acc.
"""

from __future__ import annotations

from collections.abc import Callable

from ...schedules.expr import Expr, all_of, cast, clip, const, indices, select, var
from .gather import in_range
from .pointwise import nan_max, nan_min, widen
from .registry import ANCHOR, Anchor, Context, Output, lowering
from .tensor import reindex

Index = tuple[Expr, ...]
REDUCTIONS: dict[str, Callable[[Expr, Expr], Expr]] = {
    "none": lambda old, new: new, "add": lambda old, new: old + new, "mul": lambda old, new: old * new,
    "max": nan_max, "min": nan_min}


def reduced(ctx: Context, dtype: str, update: Expr) -> Expr:
    """What stands at a place after `update`."""
    function = REDUCTIONS[ctx.attr("reduction", "none")]
    old = var("acc", dtype)
    return update if function is REDUCTIONS["none"] else cast(function(widen(old), widen(update)), dtype)


@lowering("ScatterElements", kind=ANCHOR, epilogue=False)
def scatter_elements(ctx: Context) -> Anchor:
    """out[…, indices[p], …] = updates[p], at every position p of the updates: slices across the axis do not meet."""
    data, places, updates = ctx.input(0), ctx.input(1), ctx.input(2)
    rank = len(data.shape)
    axis = ctx.attr("axis", 0) % rank
    others = [a for a in range(rank) if a != axis]
    row, step = indices(rank - 1), var("r0")
    present = all_of(i < updates.shape[a] for i, a in zip(row, others, strict=True) if updates.shape[a] < data.shape[a])

    def place(row: Index, at: Expr) -> Index:
        return (*row[:axis], at, *row[axis:])
    safe = [clip(i, 0, updates.shape[a] - 1) if updates.shape[a] < data.shape[a] else i for i, a in zip(row, others, strict=True)]
    at = place(tuple(safe), step)
    new = reduced(ctx, data.dtype, updates.at(at)) if updates.size else var("acc", data.dtype)
    operands = {"data": data.at(place(row, step)),
                "place0": in_range(places.at(at), data.shape[axis]) if updates.size else const(0, "int32"),
                "value": select(present, new, var("acc", data.dtype))}
    params = {"space": tuple(data.shape[a] for a in others), "rest": (data.shape[axis],),
              "updates": (updates.shape[axis] if updates.size else 0,), "lanes_on": "rest" if axis == rank - 1 else "space"}
    output = Output(place(row, var(f"i{rank - 1}")), var("acc", data.dtype))
    return Anchor("scatter", (*params["space"], data.shape[axis]), (output,), params, operands)


@lowering("ScatterND", kind=ANCHOR, epilogue=False)
def scatter_nd(ctx: Context) -> Anchor:
    """out[indices[p]] = updates[p]: each index names a slice; the elements of a slice do not meet."""
    data, places, updates = ctx.input(0), ctx.input(1), ctx.input(2)
    depth, batch = places.shape[-1], places.shape[:-1]
    space, rest = data.shape[depth:], data.shape[:depth]
    row, step = indices(len(space)), indices(len(batch), "r")
    operands = {"data": data.at((*indices(depth, "r"), *row)), "value": reduced(ctx, data.dtype, updates.at((*step, *row)))}
    operands |= {f"place{d}": in_range(places.at((*step, const(d, "int32"))), rest[d]) for d in range(depth)}
    params = {"space": space, "rest": rest, "updates": batch, "lanes_on": "space" if space else "rest"}
    i = indices(len(data.shape))
    output = Output((*i[len(space):], *i[:len(space)]), var("acc", data.dtype))
    return Anchor("scatter", (*space, *rest), (output,), params, operands)


@lowering("MaxUnpool", kind=ANCHOR, epilogue=False)
def max_unpool(ctx: Context) -> Anchor:
    """Zeros, but for each pooled element at its flat index in the tensor that was pooled."""
    x, places, shape = ctx.input(0), ctx.input(1), ctx.output_shape()
    pooled = unpooled(ctx, x.shape)
    size = 1
    for n in pooled:
        size *= n
    step = indices(len(x.shape), "r")
    flat = in_range(places.at(step), size)
    at = reindex((flat,), (size,), pooled)
    operands = {"data": const(0, x.dtype), "value": x.at(step)}
    operands |= {f"place{d}": clip(at[d], 0, shape[d] - 1) for d in range(len(shape))}
    params = {"space": (), "rest": shape, "updates": x.shape, "lanes_on": "rest"}
    return Anchor("scatter", shape, (Output(indices(len(shape)), var("acc", x.dtype)),), params, operands)


def unpooled(ctx: Context, shape: tuple[int, ...]) -> tuple[int, ...]:
    """The shape that the indices count in: what the pooling's kernel, strides and pads give; output_shape may be larger."""
    kernel = ctx.attr("kernel_shape")
    strides, pads = ctx.attr("strides", [1] * len(kernel)), ctx.attr("pads", [0] * 2 * len(kernel))
    return (*shape[:2], *((n - 1) * s + k - before - after for n, s, k, before, after in zip(
        shape[2:], strides, kernel, pads[:len(kernel)], pads[len(kernel):], strict=True)))
