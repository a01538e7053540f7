"""Pools over windows, the whole map and regions of interest: reductions in `rows` whose reduction axes are the window."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from ...schedules.expr import (
    FLOATS,
    Expr,
    absolute,
    add,
    all_of,
    cast,
    clip,
    const,
    equal,
    floor,
    maximum,
    minimum,
    mul,
    power,
    round_even,
    select,
    sqrt,
    unary,
)
from .convolution import bilinear
from .registry import ANCHOR, Anchor, Context, Output, lowering
from .rows import Index, Rows, lowest, result, split, wide
from .tensor import Tensor
from .windows import Layout, Windows, layout_of


@lowering("MaxPool", kind=ANCHOR, rereads=True)
@lowering("NhwcMaxPool", kind=ANCHOR, rereads=True, domain="burnish")
def max_pool(ctx: Context) -> Anchor:
    """The second output is the position of the first maximum in the flat input, spatial axes in storage_order 1 column-major."""
    x, layout, windows, rows = _pool(ctx)
    if len(ctx.node.outputs) == 1 or not ctx.node.outputs[1].name:
        def tap(i: Index, r: Index) -> Expr:
            n, c, at = layout.take(i)
            if windows.touches_input():     # a tap outside repeats the nearest one inside of the same window
                return x.at(layout.index(n, c, windows.position(at, r)[0]))
            return windows.read(x, layout, n, c, at, r, lowest(x.dtype))
        return rows.anchor([rows.stage("max", tap)], Output(rows.row, result(0, x.dtype)))

    dtype = x.dtype if x.dtype in FLOATS else "int32"       # in which padding is less than any element
    least = float(np.finfo(dtype).min) if dtype in FLOATS else int(np.iinfo("int16").min)

    def inside_first(i: Index, r: Index) -> Expr:
        n, c, at = layout.take(i)
        position, inside = windows.position(at, r)
        return select(inside, maximum(cast(x.at(layout.index(n, c, position)), dtype), least), lowest(dtype))

    n, c, at = layout.take(rows.row)
    position, _ = windows.position(at, windows.tap(result(0, "int32")))
    axes = list(range(windows.rank))
    flat: Expr = const(0, "int32")
    for axis in axes[::-1] if ctx.attr("storage_order", 0) else axes:
        flat = add(mul(flat, windows.input[axis]), position[axis])
    plane = int(np.prod(windows.input))
    flat = (n * layout.channels(x.shape) + c) * plane + flat
    value = x.at(layout.index(n, c, position))
    return rows.anchor([rows.stage("argmax", inside_first)], Output(rows.row, value), Output(rows.row, cast(flat, "int64")))


@lowering("AveragePool", kind=ANCHOR, rereads=True)
@lowering("NhwcAveragePool", kind=ANCHOR, rereads=True, domain="burnish")
def average_pool(ctx: Context) -> Anchor:
    x, layout, windows, rows = _pool(ctx)
    dtype = wide(x.dtype)

    def tap(i: Index, r: Index) -> Expr:
        n, c, at = layout.take(i)
        return cast(windows.read(x, layout, n, c, at, r, const(0, x.dtype)), dtype)

    counts = windows.counts(bool(ctx.attr("count_include_pad", 0))).astype(dtype)
    at = layout.take(rows.row)[2]
    even = (counts == counts.flat[0]).all()
    count = const(counts.flat[0].item(), dtype) if even else ctx.constant(counts).at(at)
    return rows.anchor([rows.stage("sum", tap)], Output(rows.row, cast(result(0, dtype) / count, x.dtype)))


@lowering("LpPool", kind=ANCHOR, rereads=True)
@lowering("NhwcLpPool", kind=ANCHOR, rereads=True, domain="burnish")
def lp_pool(ctx: Context) -> Anchor:
    """(sum |x|^p)^(1/p) over each window."""
    x, layout, windows, rows = _pool(ctx)
    dtype, (before, after) = wide(x.dtype), norm(ctx.attr("p", 2))

    def tap(i: Index, r: Index) -> Expr:
        n, c, at = layout.take(i)
        return before(cast(windows.read(x, layout, n, c, at, r, const(0, x.dtype)), dtype))

    return rows.anchor([rows.stage("sum", tap)], Output(rows.row, cast(after(result(0, dtype)), x.dtype)))


@lowering("GlobalAveragePool", "GlobalMaxPool", "GlobalLpPool", kind=ANCHOR)
def global_pool(ctx: Context) -> Anchor:
    """One value for each channel of X [n, c, *spatial]."""
    x = ctx.input(0)
    flat = ctx.view(0, (*x.shape[:2], int(np.prod(x.shape[2:]))))
    parts = split(flat.shape, [2])
    rows, dtype = parts.rows, wide(x.dtype)
    op, before, after = {"GlobalAveragePool": ("sum", same, lambda s: s / float(parts.count)),
                         "GlobalMaxPool": ("max", same, same),
                         "GlobalLpPool": ("sum", *norm(ctx.attr("p", 2)))}[ctx.op]
    stage = rows.stage(op, lambda i, r: before(cast(flat.at(parts.index(i, r)), dtype)))
    index = (*parts.index(rows.row)[:2], *(const(0, "int32") for _ in x.shape[2:]))
    return rows.anchor([stage], Output(index, cast(after(result(0, dtype)), x.dtype)))


def same(v: Expr) -> Expr:
    return v


def norm(p: int) -> tuple[Callable[[Expr], Expr], Callable[[Expr], Expr]]:
    """What a p-norm does before and after its sum."""
    if p == 1:
        return absolute, same
    if p == 2:
        return lambda v: v * v, sqrt
    return lambda v: power(absolute(v), float(p)), lambda s: power(s, 1.0 / p)


def _pool(ctx: Context) -> tuple[Tensor, Layout, Windows, Rows]:
    """(x, layout, windows, rows) of a pool over windows."""
    x, layout = ctx.input(0), layout_of(ctx)
    windows = Windows.of(ctx, ctx.attr("kernel_shape"), layout.spatial(x.shape), layout.spatial(ctx.output_shape()))
    return x, layout, windows, Rows(ctx.output_shape(), windows.kernel, "space")


@lowering("MaxUnpool", kind=ANCHOR)
def max_unpool(ctx: Context) -> Anchor:
    """Gathered: each output element looks for its own position among the indices of its map; the last one found counts.
    X and I [n, c, *spatial]; indices are flat positions in an output of the size that the attributes imply."""
    x, positions, out = ctx.input(0), ctx.input(1), ctx.output_shape()
    kernel = ctx.attr("kernel_shape")
    strides, pads = ctx.attr("strides") or [1] * len(kernel), ctx.attr("pads") or [0] * (2 * len(kernel))
    implied = [(i - 1) * s + k - pads[a] - pads[a + len(kernel)]
               for a, (i, s, k) in enumerate(zip(x.shape[2:], strides, kernel, strict=True))]
    rows = Rows(out, x.shape[2:], "space")
    n, c, at = rows.row[0], rows.row[1], rows.row[2:]
    own: Expr = n * out[1] + c
    for place, extent in zip(at, implied, strict=True):
        own = own * extent + place
    within = all_of(place < extent for place, extent, size in zip(at, implied, out[2:], strict=True) if size > extent)

    def found(i: Index, r: Index) -> Expr:
        return cast(equal(cast(positions.at((n, c, *r)), "int32"), own), "int32")

    flat = result(0, "int32")
    where: list[Expr] = []
    for extent in reversed(x.shape[2:]):
        where.insert(0, flat % extent)
        flat = flat // extent
    hit = all_of((within, equal(cast(positions.at((n, c, *where)), "int32"), own)))
    value = select(hit, x.at((n, c, *where)), const(0, x.dtype))
    return rows.anchor([rows.stage("argmax_last", found)], Output(rows.row, value))


# ---- Regions of interest -------------------------------------------------------------------------------------------------


@lowering("RoiAlign", kind=ANCHOR, plain=(0,), rereads=True)
def roi_align(ctx: Context) -> Anchor:
    """He et al., Mask R-CNN, section 3: each bin is the mean (or maximum) of bilinear samples on a regular grid.
    X [n, c, h, w], rois [r, 4] as x1 y1 x2 y2, batch_indices [r]."""
    x, rois, batch = ctx.input(0), ctx.input(1), ctx.input(2)
    ratio, dtype = ctx.attr("sampling_ratio", 0), wide(x.dtype)
    if ratio <= 0:
        return ctx.refuse("the number of samples follows from the boxes", "export with a fixed sampling_ratio")
    scale = ctx.attr("spatial_scale", 1.0)
    half = 0.5 if ctx.attr("coordinate_transformation_mode", "half_pixel") == "half_pixel" else 0.0
    largest = ctx.attr("mode", "avg") == "max"      # of the weighted neighbours too, as onnxruntime has it
    rows = Rows(ctx.output_shape(), (ratio, ratio), "space")
    bins, extents = ctx.output_shape()[2:], x.shape[2:]

    def sample(i: Index, r: Index) -> Expr:
        places, inside = [], []
        for axis, (first, last) in enumerate(((1, 3), (0, 2))):
            start, stop = (cast(rois.at((i[0], corner)), dtype) * scale - half for corner in (first, last))
            length = stop - start if half else maximum(stop - start, 1.0)
            size = length / float(bins[axis])
            place = start + cast(i[2 + axis], dtype) * size + (cast(r[axis], dtype) + 0.5) * size / float(ratio)
            inside += [place >= -1.0, place <= float(extents[axis])]
            places.append(clip(place, 0.0, float(extents[axis] - 1)))
        image = cast(batch.at((i[0],)), "int32")
        value = bilinear(x, lambda y, z: (image, i[1], y, z), places, dtype, maximum if largest else add)
        return select(all_of(inside), value, const(0, dtype))

    if largest:
        return rows.anchor([rows.stage("max", sample)], Output(rows.row, cast(result(0, dtype), x.dtype)))
    return rows.anchor([rows.stage("sum", sample)], Output(rows.row, cast(result(0, dtype) / float(ratio * ratio), x.dtype)))


@lowering("MaxRoiPool", kind=ANCHOR, plain=(0,), rereads=True)
def max_roi_pool(ctx: Context) -> Anchor:
    """Girshick, Fast R-CNN, section 2.1. X [n, c, h, w], rois [r, 5] as batch x1 y1 x2 y2. An empty bin is 0."""
    x, rois = ctx.input(0), ctx.input(1)
    scale, bins, extents = ctx.attr("spatial_scale", 1.0), ctx.attr("pooled_shape"), x.shape[2:]
    rows = Rows(ctx.output_shape(), extents, "space")

    def in_bin(i: Index, axis: int, position: Expr) -> Expr:
        first, last = (cast(round_even(rois.at((i[0], corner)) * scale), "int32") for corner in ((2, 4), (1, 3))[axis])
        size = cast(maximum(last - first + 1, 1), x.dtype) / float(bins[axis])
        start = cast(floor(cast(i[2 + axis], x.dtype) * size), "int32") + first
        stop = cast(unary("ceil", (cast(i[2 + axis], x.dtype) + 1.0) * size), "int32") + first
        return all_of((position >= start, position < stop))

    def element(i: Index, r: Index) -> Expr:
        image = minimum(maximum(cast(rois.at((i[0], 0)), "int32"), 0), x.shape[0] - 1)
        return select(all_of(in_bin(i, a, r[a]) for a in (0, 1)), x.at((image, i[1], *r)), lowest(x.dtype))

    value = result(0, x.dtype)
    value = select(equal(value, lowest(x.dtype)), const(0, x.dtype), value)
    return rows.anchor([rows.stage("max", element)], Output(rows.row, value))
