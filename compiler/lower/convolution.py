"""Convolutions, in ONNX's layout and, as the layout pass leaves them, channels last (`burnish::NhwcConv…`, weights as in ONNX).

Channels last with constant float32 weights takes the fast families: 1x1 is a matrix product, one channel per group is depthwise,
all else is `conv`. What remains (3-D, computed weights, other types, ONNX's layout) sums over the window in `rows`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from ...schedules.expr import Expr, add, all_of, cast, const, equal, floor, indices, load, maximum, minimum, select, var
from ...schedules.task import Stage
from .coded import coded
from .registry import ANCHOR, Anchor, Context, Output, lowering
from .rows import Rows, result, wide
from .sparsity import pattern
from .tensor import Tensor, reindex
from .windows import Layout, Windows, layout_of

Index = tuple[Expr, ...]
Value = Callable[[Expr], Expr]


@lowering("Conv", kind=ANCHOR, plain=(0,), rereads=True)
@lowering("NhwcConv", kind=ANCHOR, plain=(0,), rereads=True, domain="burnish")
def convolution(ctx: Context) -> Anchor:
    """X [n, c, *spatial] (or channels last), W [oc, c / group, *kernel], B [oc]."""
    layout, x, w = layout_of(ctx), ctx.input(0), ctx.input(1)
    windows = Windows.of(ctx, w.shape[2:], layout.spatial(x.shape), layout.spatial(ctx.output_shape()))
    able = layout.channels_last and plane(ctx, windows) and x.dtype == "float32" and 0 not in (x.size, w.size)
    if able and (weights := coded(ctx, 1, 0)) is not None:
        return fast(ctx, windows, weights.codes, lambda c: bias_at(ctx, 2, c, weights.scaled(ctx, var("acc", "float32"), c)),
                    **weights.params(ctx))
    constant = ctx.array(1) if able else None
    if constant is not None:
        return fast(ctx, windows, constant, lambda c: bias_at(ctx, 2, c, var("acc", "float32")))
    return _general(ctx, layout, windows)


def bias_at(ctx: Context, n: int, channel: Expr, value: Expr) -> Expr:
    """`value` plus the bias of its channel, if input n gives one."""
    return value + cast(ctx.input(n).at((channel,)), value.dtype) if ctx.has(n) else value


def is_product(ctx: Context, windows: Windows) -> bool:
    return windows.pointwise and ctx.attr("group", 1) == 1


def plane(ctx: Context, windows: Windows) -> bool:
    """Is it of rank 1 or 2, or a product?"""
    return windows.rank <= 2 or is_product(ctx, windows)


def fast(ctx: Context, windows: Windows, weight: np.ndarray, value: Value, step: int = 1, **params: int | str) -> Anchor:
    """Channels last, the weights [oc, c / group, *kernel] known, a `plane`: families `gemm`, `conv`, `depthwise`.

    value: what lands in an element, given its channel; step: of the zeros that kernels can skip; params: further ones.
    """
    return (_matmul(ctx, weight, value, step, params) if is_product(ctx, windows)
            else _direct(ctx, windows, weight, value, step, params))


def _matmul(ctx: Context, weight: np.ndarray, value: Value, step: int, params: Mapping[str, int | str]) -> Anchor:
    """Every pixel is a row: Y [pixels, oc] = X [pixels, ic] W [ic, oc]."""
    oc, ic = weight.shape[:2]
    m = ctx.input(0).size // ic
    x, matrix = ctx.buffer(0, (1, m, ic)), weight.reshape(oc, ic).T
    w = ctx.weight(matrix)
    b, row, column = indices(3)
    index = reindex((b, row, column), (1, m, oc), ctx.output_shape())
    return Anchor("gemm", (1, m, oc), (Output(index, value(column)),),
                  {"batch": 1, "m": m, "n": oc, "k": ic, "x": x, "w": w, **params, **pattern(matrix, step, scattered=True)},
                  {"x": load(x, (0, row, var("r0")), ctx.input(0).dtype)})


def _direct(ctx: Context, windows: Windows, weight: np.ndarray, value: Value, step: int,
            params: Mapping[str, int | str]) -> Anchor:
    """Families `depthwise` and `conv`; a 1-D convolution is one of height 1."""
    groups, (oc, ic) = ctx.attr("group", 1), weight.shape[:2]
    shape = ctx.input(0).shape

    def pair(values: Sequence[int], fill: int) -> tuple[int, int]:
        return (fill, values[0]) if windows.rank == 1 else (values[0], values[1])

    (ih, iw), (oh, ow), (kh, kw) = (pair(v, 1) for v in (windows.input, windows.output, windows.kernel))
    (sh, sw), (dh, dw), (pt, pl) = pair(windows.strides, 1), pair(windows.dilations, 1), pair(windows.before, 0)
    x = ctx.buffer(0, (shape[0], ih, iw, shape[-1]))
    geometry = {"n": shape[0], "ih": ih, "iw": iw, "oh": oh, "ow": ow, "kh": kh, "kw": kw, "sh": sh, "sw": sw, "dh": dh, "dw": dw,
                "pt": pt, "pl": pl, **params}
    space = (shape[0], oh, ow, oc)
    n, y, z, c = indices(4)
    output = Output((n, z, c) if windows.rank == 1 else (n, y, z, c), value(c))
    if ic == 1 and groups == oc:
        w = ctx.weight(weight.reshape(oc, kh, kw).transpose(1, 2, 0))
        return Anchor("depthwise", space, (output,), {**geometry, "c": oc, "x": x, "w": w})
    taps = weight.reshape(groups, oc // groups, ic, kh, kw).transpose(0, 3, 4, 2, 1)
    zeros = pattern(taps.reshape(-1, oc), step) if groups == 1 else {}
    return Anchor("conv", space, (output,), {**geometry, "ic": ic, "oc": oc // groups, "groups": groups, "x": x,
                                             "w": ctx.weight(taps), **zeros})


def _general(ctx: Context, layout: Layout, windows: Windows) -> Anchor:
    """Any layout, rank and type."""
    x = ctx.input(0)
    dtype = wide(x.dtype)
    rows, stage = window_sum(ctx, layout, windows, x, 1, const(0, x.dtype), lambda v, w, c: cast(v, dtype) * cast(w, dtype))
    value = bias_at(ctx, 2, layout.take(rows.row)[1], result(0, dtype))
    return rows.anchor([stage], Output(rows.row, cast(value, x.dtype)))


def window_sum(ctx: Context, layout: Layout, windows: Windows, x: Tensor, weight: int, padding: Expr,
               term: Callable[[Expr, Expr, Expr], Expr]) -> tuple[Rows, Stage]:
    """The sum over taps and channels of the group of term(x, w, output channel). weight: its number among the inputs."""
    oc, ic = ctx.input(weight).shape[:2]
    per_group, w = oc // ctx.attr("group", 1), _taps_first(ctx, weight)
    rows = Rows(ctx.output_shape(), (*windows.kernel, ic), "space")

    def element(i: Index, r: Index) -> Expr:
        n, c, at = layout.take(i)
        source = (c // per_group) * ic + r[-1] if per_group != oc else r[-1]
        return term(windows.read(x, layout, n, source, at, r[:-1], padding), w(r[:-1], r[-1], c), c)

    return rows, rows.stage("sum", element)


def _taps_first(ctx: Context, weight: int) -> Callable[[Index, Expr, Expr], Expr]:
    """Reads W[oc, ic, *tap] by (tap, ic, oc): a constant one is stored in that order, so that output channels are contiguous."""
    value = ctx.array(weight)
    if value is None:
        return lambda tap, ic, oc: ctx.input(weight).at((oc, ic, *tap))
    stored = ctx.constant(value.transpose(*range(2, value.ndim), 1, 0))
    return lambda tap, ic, oc: stored.at((*tap, ic, oc))


@lowering("ConvTranspose", kind=ANCHOR, plain=(0,), rereads=True)
@lowering("NhwcConvTranspose", kind=ANCHOR, plain=(0,), rereads=True, domain="burnish")
def transposed_convolution(ctx: Context) -> Anchor:
    """Gathered: output o receives x[(o + pad - tap * dilation) / stride] w[tap] wherever that division is exact.
    X [n, c, *spatial] (or channels last), W [c, oc / group, *kernel], B [oc]."""
    layout, x, w = layout_of(ctx), ctx.input(0), ctx.input(1)
    out = ctx.output_shape()
    windows = Windows.of(ctx, w.shape[2:], layout.spatial(x.shape), layout.spatial(out))
    before = _transposed_padding(ctx, windows)
    groups, per_group = ctx.attr("group", 1), w.shape[1]
    ic = w.shape[0] // groups
    dtype = wide(x.dtype)
    rows = Rows(out, (*windows.kernel, ic), "space")

    def term(i: Index, r: Index) -> Expr:
        n, c, at = layout.take(i)
        group = c // per_group if groups > 1 else const(0, "int32")
        position, inside = [], []
        for axis, tap in enumerate(r[:-1]):
            s, extent = windows.strides[axis], windows.input[axis]
            far = at[axis] + before[axis] - tap * windows.dilations[axis]
            near = far // s if s > 1 else far
            inside += [near >= 0, near < extent] + ([equal(far % s, 0)] if s > 1 else [])
            position.append(minimum(maximum(near, 0), extent - 1))
        value = x.at(layout.index(n, group * ic + r[-1], tuple(position)))
        weight = w.at((group * ic + r[-1], c % per_group if groups > 1 else c, *r[:-1]))
        return select(all_of(inside), cast(value, dtype) * cast(weight, dtype), const(0, dtype))

    value = bias_at(ctx, 2, layout.take(rows.row)[1], result(0, dtype))
    return rows.anchor([rows.stage("sum", term)], Output(rows.row, cast(value, x.dtype)))


def _transposed_padding(ctx: Context, windows: Windows) -> tuple[int, ...]:
    """Padding in front: from `pads`, or (output_shape, auto_pad) what makes the full result as small as the output."""
    auto = ctx.attr("auto_pad", "NOTSET")
    if auto == "NOTSET" and not ctx.attr("output_shape"):
        return windows.before
    if auto == "VALID":
        return (0,) * windows.rank
    extra = ctx.attr("output_padding") or [0] * windows.rank
    result = []
    for axis in range(windows.rank):
        full = (windows.input[axis] - 1) * windows.strides[axis] + extra[axis] + (
            windows.kernel[axis] - 1) * windows.dilations[axis] + 1
        total = full - windows.output[axis]
        half = max(0, total) // 2
        result.append(half if auto == "SAME_UPPER" else max(0, total) - half)
    return tuple(result)


@lowering("DeformConv", kind=ANCHOR, plain=(0,), rereads=True)
def deformable_convolution(ctx: Context) -> Anchor:
    """Each tap reads X bilinearly at its place plus a computed offset, zero outside, times a mask: Zhu et al., Deformable
    ConvNets v2, equation 1. X [n, c, h, w], W [oc, c / group, kh, kw], B [oc], offset [n, 2 og kh kw, oh, ow],
    mask [n, og kh kw, oh, ow] with og offset groups."""
    x, w, offset = ctx.input(0), ctx.input(1), ctx.input(2)
    if len(x.shape) != 4:
        return ctx.refuse(f"deformable convolution of rank {len(x.shape)}", "only images are supported")
    oc, ic, kh, kw = w.shape
    windows = Windows.of(ctx, (kh, kw), x.shape[2:], ctx.output_shape()[2:])
    per_group = oc // ctx.attr("group", 1)
    per_offset = x.shape[1] // ctx.attr("offset_group", 1)
    dtype = wide(x.dtype)
    rows = Rows(ctx.output_shape(), (kh, kw, ic), "space")

    def term(i: Index, r: Index) -> Expr:
        n, c, at = i[0], i[1], i[2:]
        channel = c // per_group * ic + r[2]
        tap = (channel // per_offset * kh + r[0]) * kw + r[1]
        places = [cast(at[a] * windows.strides[a] - windows.before[a] + r[a] * windows.dilations[a], dtype)
                  + cast(offset.at((n, tap * 2 + a, *at)), dtype) for a in (0, 1)]
        value = bilinear(x, lambda y, z: (n, channel, y, z), places, dtype)
        if ctx.has(4):
            value = value * cast(ctx.input(4).at((n, tap, *at)), dtype)
        return value * cast(w.at((c, r[2], r[0], r[1])), dtype)

    value = bias_at(ctx, 3, rows.row[1], result(0, dtype))
    return rows.anchor([rows.stage("sum", term)], Output(rows.row, cast(value, x.dtype)))


def bilinear(x: Tensor, at: Callable[[Expr, Expr], Index], place: Sequence[Expr], dtype: str,
             combine: Callable[[Expr, Expr], Expr] = add) -> Expr:
    """x at a fractional place (y, z) of its last two axes: its four neighbours, weighted and combined; those outside are zero.
    at(y, z): the index into x."""
    extents = x.shape[-2:]
    corners = []
    for p, extent in zip(place, extents, strict=True):
        p = maximum(minimum(p, float(extent + 1)), -2.0)     # so that the conversion to an index cannot overflow
        low = floor(p)
        fraction = p - low
        first = cast(low, "int32")
        corners.append([(first + d, weight, extent) for d, weight in ((0, 1.0 - fraction), (1, fraction))])
    total: Expr | None = None
    for y, wy, h in corners[0]:
        for z, wz, v in corners[1]:
            inside = all_of((y >= 0, y < h, z >= 0, z < v))
            value = cast(x.at(at(minimum(maximum(y, 0), h - 1), minimum(maximum(z, 0), v - 1))), dtype)
            term = select(inside, value * wy * wz, const(0, dtype))
            total = term if total is None else combine(total, term)
    assert total is not None
    return total
