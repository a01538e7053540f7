"""The integer ops of domain `burnish` (their exact meaning: passes/integer_functions.py): no expression here is a float."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from ...passes.integer_functions import NEWTON, SEED_STEPS
from ...schedules.expr import Expr, absolute, cast, clip, const, maximum, minimum, select
from .registry import ANCHOR, POINTWISE, Anchor, Context, Output, lowering
from .rows import Index, result, split
from .tensor import Tensor

LEAST, MOST = np.iinfo(np.int32).min, np.iinfo(np.int32).max


def shifted(op: str, x: Expr, by: Expr | int) -> Expr:
    """x shl or shr a number of places; shr keeps the sign."""
    return Expr(op, (x, by if isinstance(by, Expr) else const(by, x.dtype)), x.dtype)


def fixed_point(x: Expr, multiplier: Expr, shift: int, zero: int, low: int, high: int, dtype: str) -> Expr:
    """clip(round_half_even(x multiplier / 2^shift) + zero, low, high), the product in int64. From 2^31 on what is left of it fits
    int32, where clipping costs half."""
    product = cast(x, "int64") * cast(multiplier, "int64")
    odd = Expr("bitand", (shifted("shr", product, shift), const(1, "int64")), "int64")
    value = shifted("shr", product + odd + ((1 << shift - 1) - 1), shift)
    if shift >= 31:
        value = cast(value, "int32")
    least, most = low - zero, high - zero
    if value.dtype == "int64" or least > LEAST:
        value = maximum(value, max(least, LEAST) if value.dtype == "int32" else least)
    if value.dtype == "int64" or most < MOST:
        value = minimum(value, min(most, MOST) if value.dtype == "int32" else most)
    return cast(cast(value, "int32") + zero if zero else value, dtype)


@lowering("Requantize", kind=POINTWISE, domain="burnish")
def requantize(ctx: Context) -> Tensor:
    shift, zero, low, high = (int(ctx.attr(name)) for name in ("shift", "zero", "low", "high"))
    dtype = ctx.output_dtype()
    return ctx.pointwise(lambda x, multiplier: fixed_point(x, multiplier, shift, zero, low, high, dtype))


@lowering("Lookup", kind=POINTWISE, domain="burnish")
def lookup(ctx: Context) -> Tensor:
    read = _table(ctx)
    return ctx.input(0).map(lambda x: read(cast(x, "int32")), ctx.output_dtype())


def _table(ctx: Context) -> Callable[[Expr], Expr]:
    """table[x], x clipped into the table."""
    values = ctx.attr("table")
    table = ctx.constant(values)
    return lambda x: table.at((clip(x, 0, len(values) - 1),))


@lowering("IntegerSoftmax", kind=ANCHOR, rereads=True, domain="burnish")
def integer_softmax(ctx: Context) -> Anchor:
    x, values = ctx.input(0), ctx.attr("table")
    parts, read, radix = split(x.shape, [-1]), _table(ctx), int(ctx.attr("radix"))
    rows, top = parts.rows, result(0, "int32")
    sums = "int32" if int(values.max()) * x.shape[-1] <= MOST else "int64"

    def e(i: Index, r: Index) -> Expr:
        return read(top - x.at(parts.index(i, r)))

    stages = [rows.stage("max", lambda i, r: x.at(parts.index(i, r))), rows.stage("sum", lambda i, r: cast(e(i, r), sums))]
    value, place = e(rows.row, rows.element), parts.index(rows.row, rows.element)
    reciprocal = cast(minimum(const(int(ctx.attr("numerator")), "int64") / cast(result(1, sums), "int64"), MOST), "int32")
    return rows.anchor(stages, Output(place, cast(value // radix, "uint8")), Output(place, cast(value % radix, "uint8")),
                       Output(parts.index(rows.row), reciprocal), elementwise=True)


@lowering("IntegerLayerNorm", kind=ANCHOR, rereads=True, domain="burnish")
def integer_layer_norm(ctx: Context) -> Anchor:
    x, (count, root, epsilon) = ctx.input(0), (int(ctx.attr(name)) for name in ("count", "root", "epsilon"))
    parts = split(x.shape, [-1])
    rows = parts.rows
    mean = Expr("floordiv", (result(0, "int32") + count // 2, const(count, "int32")), "int32")

    def square(i: Index, r: Index) -> Expr:
        y = cast(x.at(parts.index(i, r)) - mean, "int64")
        return y * y

    stages = [rows.stage("sum", lambda i, r: x.at(parts.index(i, r))), rows.stage("sum", square)]
    place = parts.index(rows.row, rows.element)
    k = isqrt((result(1, "int64") + epsilon) * (1 << 16))
    f = cast(minimum(const(root, "int64") / k, MOST), "int32")
    return rows.anchor(stages, Output(place, fixed_point(x.at(place) - mean, f, 21, 0, LEAST, MOST, "int32")), elementwise=True)


def isqrt(v: Expr) -> Expr:
    """The integer square root of 1 <= v < 2^62, int64."""
    rest, length = v, const(0, "int64")
    for step in SEED_STEPS:
        long = rest >= (1 << step)
        rest, length = select(long, shifted("shr", rest, step), rest), select(long, length + step, length)
    k = shifted("shl", const(1, "int64"), shifted("shr", length + 2, 1))
    for _ in range(NEWTON):
        k = shifted("shr", k + v / k, 1)
    return select(k * k > v, k - 1, k)


@lowering("IntegerGelu", kind=POINTWISE, domain="burnish")
def integer_gelu(ctx: Context) -> Tensor:
    one, bits = int(ctx.attr("one")), int(ctx.attr("bits"))

    def element(x: Expr) -> Expr:
        size = absolute(x)
        near = minimum(size + shifted("shr", size + 1, 1) - shifted("shr", size + 15, 4), bits * one)
        q = near / one
        w = near - q * one
        e = shifted("shl", one - shifted("shr", w + 1, 1), bits - q)
        full = const(one << bits, "int32")
        sigmoid = select(x > 0, full, e) * 256 / (full + e)
        return x * sigmoid

    return ctx.input(0).map(element)
