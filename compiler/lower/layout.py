"""Ops that move elements by a rule known now: each output element reads one input element (Concat: each piece)."""

from __future__ import annotations

import numpy as np

from ...schedules.expr import Expr, all_of, cast, clip, const, floordiv, floormod, maximum, minimum, select
from .registry import INJECTIVE, Context, Pieces, lowering
from .tensor import Tensor

Index = tuple[Expr, ...]


@lowering("Transpose", kind=INJECTIVE)
def transpose(ctx: Context) -> Tensor:
    x = ctx.input(0)
    perm = ctx.attr("perm", list(reversed(range(len(x.shape)))))
    inverse = np.argsort(perm)
    return Tensor(ctx.output_shape(), x.dtype, lambda index: x.at([index[n] for n in inverse]))


@lowering("Expand", kind=INJECTIVE)
def expand(ctx: Context) -> Tensor:
    x = ctx.input(0)
    return Tensor(ctx.output_shape(), x.dtype, x.broadcast_at)


@lowering("Tile", kind=INJECTIVE)
def tile(ctx: Context) -> Tensor:
    x, shape = ctx.input(0), ctx.output_shape()
    return Tensor(shape, x.dtype, lambda index: x.at(
        [i if m == n else floormod(i, n) for i, m, n in zip(index, shape, x.shape, strict=True)]))


@lowering("Slice", kind=INJECTIVE)
def slice_(ctx: Context) -> Tensor:
    x = ctx.input(0)
    starts, ends = ctx.known(1, "starts").tolist(), ctx.known(2, "ends").tolist()
    axes = ctx.known(3, "axes").tolist() if ctx.has(3) else range(len(starts))
    steps = ctx.known(4, "steps").tolist() if ctx.has(4) else [1] * len(starts)
    offset, stride = [0] * len(x.shape), [1] * len(x.shape)
    for axis, start, end, step in zip(axes, starts, ends, steps, strict=True):
        offset[axis], _, stride[axis] = slice(start, end, step).indices(x.shape[axis])
    return Tensor(ctx.output_shape(), x.dtype, lambda index: x.at(
        [i * s + o for i, s, o in zip(index, stride, offset, strict=True)]))


@lowering("Split", kind=INJECTIVE)
def split(ctx: Context) -> list[Tensor]:
    x = ctx.input(0)
    axis = ctx.attr("axis", 0) % len(x.shape)
    parts, offset = [], 0
    for n in range(len(ctx.node.outputs)):
        shape = ctx.output_shape(n)
        parts.append(shifted(x, axis, offset, shape))
        offset += shape[axis]
    return parts


def shifted(x: Tensor, axis: int, offset: int, shape: tuple[int, ...]) -> Tensor:
    """The part of x of that shape that starts at `offset` along `axis`."""
    return Tensor(shape, x.dtype, lambda index: x.at([*index[:axis], index[axis] + offset, *index[axis + 1:]]))


@lowering("Concat", kind=INJECTIVE)
def concat(ctx: Context) -> Pieces:
    parts = [t for t in ctx.inputs if t is not None]
    return Pieces(ctx.attr("axis") % len(ctx.output_shape()), tuple(t for t in parts if t.size) or (parts[0],))


# ---- Padding -----------------------------------------------------------------------------------------------------------


@lowering("Pad", kind=INJECTIVE)
def pad(ctx: Context) -> Tensor:
    """constant, reflect, edge and wrap; a negative pad crops."""
    x, mode = ctx.input(0), ctx.attr("mode", "constant")
    rank = len(x.shape)
    pads = ctx.known(1, "pads").tolist()
    axes = [a % rank for a in ctx.known(3, "axes").tolist()] if ctx.has(3) else list(range(rank))
    before, after = [0] * rank, [0] * rank
    for n, axis in enumerate(axes):
        before[axis], after[axis] = pads[n], pads[n + len(axes)]
    fill = ctx.input(2) if ctx.has(2) else None

    def element(index: Index) -> Expr:
        at = [i + -b for i, b in zip(index, before, strict=True)]
        if mode != "constant":
            return x.at([outside(mode, i, n) if max(b, a) > 0 else i
                         for i, n, b, a in zip(at, x.shape, before, after, strict=True)])
        inside = all_of([i >= 0 for i, b in zip(at, before, strict=True) if b > 0]
                        + [i < n for i, n, a in zip(at, x.shape, after, strict=True) if a > 0])
        value = fill.at([0] * len(fill.shape)) if fill is not None else const(0, x.dtype)
        if x.size == 0:
            return value
        safe = [clip(i, 0, n - 1) if max(b, a) > 0 else i for i, n, b, a in zip(at, x.shape, before, after, strict=True)]
        return select(inside, x.at(safe), value)
    return Tensor(ctx.output_shape(), x.dtype, element)


def outside(mode: str, i: Expr, n: int) -> Expr:
    """The index within 0..n-1 that stands for i."""
    match mode:
        case "edge": return clip(i, 0, n - 1)
        case "wrap": return floormod(i, n)
        case _: return reflect(i, n)


def reflect(i: Expr, n: int) -> Expr:
    """i mirrored at the centers of the first and last element, as often as it takes."""
    if n == 1:
        return const(0, "int32")
    there_and_back = floormod(i, 2 * (n - 1))
    return minimum(there_and_back, 2 * (n - 1) - there_and_back)


# ---- Blocks, triangles, sequences --------------------------------------------------------------------------------------


@lowering("DepthToSpace", kind=INJECTIVE)
def depth_to_space(ctx: Context) -> Tensor:
    """[n, c, h, w] -> [n, c / b², h b, w b]. DCR: the block's position varies slowest along c; CRD: fastest."""
    x, b, shape = ctx.input(0), ctx.attr("blocksize"), ctx.output_shape()
    slowest = ctx.attr("mode", "DCR") == "DCR"

    def element(index: Index) -> Expr:
        n, c, h, w = index
        return x.at([n, block_channel(c, h, w, b, shape[1], slowest), floordiv(h, b), floordiv(w, b)])
    return Tensor(shape, x.dtype, element)


@lowering("NhwcDepthToSpace", kind=INJECTIVE, domain="burnish")
def nhwc_depth_to_space(ctx: Context) -> Tensor:
    """As DepthToSpace, channels last."""
    x, b, shape = ctx.input(0), ctx.attr("blocksize"), ctx.output_shape()
    slowest = ctx.attr("mode", "DCR") == "DCR"

    def element(index: Index) -> Expr:
        n, h, w, c = index
        return x.at([n, floordiv(h, b), floordiv(w, b), block_channel(c, h, w, b, shape[3], slowest)])
    return Tensor(shape, x.dtype, element)


def block_channel(c: Expr, h: Expr, w: Expr, b: int, channels: int, slowest: bool) -> Expr:
    place = floormod(h, b) * b + floormod(w, b)
    return place * channels + c if slowest else c * (b * b) + place


@lowering("SpaceToDepth", kind=INJECTIVE)
def space_to_depth(ctx: Context) -> Tensor:
    """[n, c, h b, w b] -> [n, c b², h, w], the inverse of DepthToSpace."""
    x, b = ctx.input(0), ctx.attr("blocksize")

    def element(index: Index) -> Expr:
        n, c, h, w = index
        channel, place = unblocked(c, b, x.shape[1], ctx.attr("mode", "DCR") == "DCR")
        return x.at([n, channel, h * b + floordiv(place, b), w * b + floormod(place, b)])
    return Tensor(ctx.output_shape(), x.dtype, element)


@lowering("NhwcSpaceToDepth", kind=INJECTIVE, domain="burnish")
def nhwc_space_to_depth(ctx: Context) -> Tensor:
    """As SpaceToDepth, channels last."""
    x, b = ctx.input(0), ctx.attr("blocksize")

    def element(index: Index) -> Expr:
        n, h, w, c = index
        channel, place = unblocked(c, b, x.shape[3], ctx.attr("mode", "DCR") == "DCR")
        return x.at([n, h * b + floordiv(place, b), w * b + floormod(place, b), channel])
    return Tensor(ctx.output_shape(), x.dtype, element)


def unblocked(c: Expr, b: int, channels: int, slowest: bool) -> tuple[Expr, Expr]:
    """The channel, and the place in its block, of channel c after SpaceToDepth."""
    return (floormod(c, channels), floordiv(c, channels)) if slowest else (floordiv(c, b * b), floormod(c, b * b))


@lowering("Trilu", kind=INJECTIVE)
def trilu(ctx: Context) -> Tensor:
    """The upper or lower triangle of the last two axes, zero elsewhere; k moves the diagonal, and may be a run-time value."""
    x, upper = ctx.input(0), ctx.attr("upper", 1)
    k = ctx.input(1) if ctx.has(1) else None

    def element(index: Index) -> Expr:
        distance = index[-1] - index[-2]
        diagonal = cast(k.at([0] * len(k.shape)), "int32") if k is not None else 0
        return select(distance >= diagonal if upper else distance <= diagonal, x.at(index), const(0, x.dtype))
    return Tensor(x.shape, x.dtype, element)


@lowering("ReverseSequence", kind=INJECTIVE)
def reverse_sequence(ctx: Context) -> Tensor:
    """The first sequence_lens[b] elements along the time axis in reverse, the rest in order."""
    x, lengths = ctx.input(0), ctx.input(1)
    batch, time = ctx.attr("batch_axis", 1), ctx.attr("time_axis", 0)

    def element(index: Index) -> Expr:
        length = clip(cast(lengths.at([index[batch]]), "int32"), 0, x.shape[time])
        t = index[time]
        source = select(t < length, maximum(length - 1 - t, 0), t)
        return x.at([*index[:time], source, *index[time + 1:]])
    return Tensor(x.shape, x.dtype, element)
