"""Integer matmuls and convolutions: int32 sums of (x - zero) (w - zero), left as they are or requantised as ONNX defines it.

uint8 times constant int8 weights with zero point 0 takes the fast families, whose kernels know the zero point of x (`zero`, also
what padding is) and the largest number that x can be (`top`). All else sums in `rows`.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from ...passes.quantized.note_bounds import top
from ...schedules.expr import Expr, cast, clip, const, equal, indices, maximum, minimum, round_even, select, var
from ...schedules.task import Stage
from .convolution import fast as convolve
from .convolution import plane, window_sum
from .matmul import stacked
from .pointwise import quantize
from .registry import ANCHOR, Anchor, Context, Output, lowering
from .rows import Index, Rows, result
from .sparsity import pattern
from .tensor import reindex
from .windows import Windows, layout_of


def requantized(total: Expr, scale: Expr, zero: Expr, dtype: str) -> Expr:
    """saturate(round_half_even(total scale) + zero): scale is x's times w's over y's."""
    return quantize(cast(total, "float32") * scale, const(1.0, "float32"), cast(zero, "int32"), dtype)


def single(ctx: Context, n: int, otherwise: Expr) -> Expr:
    """The only element of input n."""
    return ctx.input(n).at([0] * len(ctx.input(n).shape)) if ctx.has(n) else otherwise


ZERO = const(0, "int32")


# ---- What the fast families take ----------------------------------------------------------------------------------------


STEP = 4        # products of bytes that one instruction adds up


def _weight(ctx: Context) -> np.ndarray | None:
    """Input 1 where it is constant, int8, of zero point 0, and input 0 is uint8; neither is empty."""
    weight, zero = ctx.array(1), ctx.array(3) if ctx.has(3) else np.zeros(())
    if weight is None or weight.dtype != np.int8 or zero is None or zero.any():
        return None
    return weight if ctx.input(0).dtype == "uint8" and weight.size and ctx.input(0).size else None


def _zero(ctx: Context) -> int | None:
    """The zero point of input 0, where it is one known number."""
    zero = ctx.array(2) if ctx.has(2) else np.zeros(())
    return int(zero.reshape(())) if zero is not None and zero.size == 1 else None


def _product(ctx: Context) -> Anchor | None:
    """Family `gemm`; a zero point that is only known at run time is multiplied with the sums of the columns."""
    a, b, weight, zero = ctx.input(0), ctx.input(1), _weight(ctx), _zero(ctx)
    if weight is None or len(b.shape) < 2 or b.shape[-1] == 1 or math.prod(b.shape[:-2]) != 1:
        return None
    if zero is None and ctx.input(2).size > 1:
        return None
    m, k, n = math.prod(a.shape[:-1]), a.shape[-1], b.shape[-1]
    matrix, x, (i, row, column) = weight.reshape(k, n), ctx.view(0, (1, m, k)), indices(3)
    total = var("acc", "int32")
    if zero is None:
        total = total - cast(single(ctx, 2, ZERO), "int32") * ctx.constant(matrix.sum(0, dtype=np.int32)).at((column,))
    params = {"batch": 1, "m": m, "n": n, "k": k, "w": ctx.weight(matrix), "zero": zero or 0, "top": top(ctx.node.inputs[0]),
              **pattern(matrix, STEP)}
    index = reindex((i, row, column), (1, m, n), ctx.output_shape())
    return Anchor("gemm", (1, m, n), (Output(index, total),), params, {"x": x.at((i, row, var("r0")))})


# ---- Matmuls -------------------------------------------------------------------------------------------------------------


@lowering("MatMulInteger", kind=ANCHOR, plain=(1,), rereads=True)       # bytes along k would be gathered one by one
def matmul_integer(ctx: Context) -> Anchor:
    """A, B, zero points of A (one, or one per row) and of B (one, or one per column). The result is int32."""
    fast = _product(ctx)
    if fast is not None:
        return fast
    rows, stage, index, _ = _matmul(ctx, 0, 1, 2, 3)
    return rows.anchor([stage], Output(index, result(0, "int32")))


@lowering("QLinearMatMul", kind=ANCHOR, rereads=True)
def qlinear_matmul(ctx: Context) -> Anchor:
    """A, its scale and zero point, B likewise, and those of the result; per row of A, per column of B or per tensor."""
    rows, stage, index, parameter = _matmul(ctx, 0, 3, 2, 5)
    scale = cast(parameter(1), "float32") * cast(parameter(4), "float32") / cast(parameter(6), "float32")
    return rows.anchor([stage], Output(index, requantized(result(0, "int32"), scale, parameter(7), ctx.output_dtype())))


def _matmul(ctx: Context, left: int, right: int, left_zero: int, right_zero: int
            ) -> tuple[Rows, Stage, Index, Callable[[int], Expr]]:
    """Rows, their sum, where each lands, and how a parameter is read there."""
    a, b, out = ctx.input(left), ctx.input(right), ctx.output_shape()
    batch = out[:len(out) - (len(a.shape) > 1) - (len(b.shape) > 1)]
    x, w = stacked(ctx, left, batch), stacked(ctx, right, batch, right=True)
    (count, m, k), n = x.shape, w.shape[2]
    rows = Rows((count, m, n), (k,), "space" if n > 1 else "reduce")
    place = (*reindex(rows.row[:1], (count,), batch), *rows.row[1:])

    def parameter(number: int) -> Expr:
        """Scale or zero point: a vector is per row of A or per column of B, a tensor broadcasts against the result."""
        if not ctx.has(number):
            return ZERO
        t = ctx.input(number)
        per_row = number < right or number == left_zero
        return t.at((place[-2 if per_row else -1],)) if len(t.shape) == 1 else t.broadcast_at(place)

    za, zb = cast(parameter(left_zero), "int32"), cast(parameter(right_zero), "int32")
    stage = rows.stage("sum", lambda i, r: (cast(x.at((i[0], i[1], r[0])), "int32") - za)
                       * (cast(w.at((i[0], r[0], i[2])), "int32") - zb))
    return rows, stage, reindex(rows.row, (count, m, n), out), parameter


# ---- Convolutions --------------------------------------------------------------------------------------------------------


@lowering("ConvInteger", kind=ANCHOR, plain=(0,), rereads=True)
@lowering("NhwcConvInteger", kind=ANCHOR, plain=(0,), rereads=True, domain="burnish")
def convolution_integer(ctx: Context) -> Anchor:
    """x, w, the zero point of x and of w (one, or one per output channel). The result is int32; padding is zero."""
    layout, weight, zero = layout_of(ctx), _weight(ctx), _zero(ctx)
    if layout.channels_last and weight is not None and zero is not None:
        x = ctx.input(0)
        windows = Windows.of(ctx, weight.shape[2:], layout.spatial(x.shape), layout.spatial(ctx.output_shape()))
        if plane(ctx, windows):
            return convolve(ctx, windows, weight, lambda c: var("acc", "int32"), STEP, zero=zero, top=top(ctx.node.inputs[0]))
    rows, stage = _convolution(ctx, 0, 1, 2, 3)
    return rows.anchor([stage], Output(rows.row, result(0, "int32")))


@lowering("QLinearConv", kind=ANCHOR, plain=(0,), rereads=True)
@lowering("NhwcQLinearConv", kind=ANCHOR, plain=(0,), rereads=True, domain="burnish")
def qlinear_convolution(ctx: Context) -> Anchor:
    """x, its scale and zero point, w likewise (its own per output channel or one), those of the result, and a bias in int32 at
    the scale of the sums."""
    rows, stage = _convolution(ctx, 0, 3, 2, 5)
    c = layout_of(ctx).take(rows.row)[1]
    scale = single(ctx, 1, ZERO) * _per_channel(ctx, 4, c) / single(ctx, 6, ZERO)
    total = result(0, "int32")
    if ctx.has(8):
        total = total + ctx.input(8).at((c,))
    return rows.anchor([stage], Output(rows.row, requantized(total, scale, single(ctx, 7, ZERO), ctx.output_dtype())))


def _convolution(ctx: Context, source: int, weight: int, source_zero: int, weight_zero: int) -> tuple[Rows, Stage]:
    layout, x = layout_of(ctx), ctx.input(source)
    windows = Windows.of(ctx, ctx.input(weight).shape[2:], layout.spatial(x.shape), layout.spatial(ctx.output_shape()))
    zero = single(ctx, source_zero, const(0, x.dtype))

    def term(v: Expr, w: Expr, c: Expr) -> Expr:
        return (cast(v, "int32") - cast(zero, "int32")) * (cast(w, "int32") - cast(_per_channel(ctx, weight_zero, c), "int32"))

    return window_sum(ctx, layout, windows, x, weight, zero, term)


def _per_channel(ctx: Context, n: int, c: Expr) -> Expr:
    return ZERO if not ctx.has(n) else ctx.input(n).at((c,)) if ctx.input(n).size > 1 else single(ctx, n, ZERO)


# ---- Quantisation by what is there ---------------------------------------------------------------------------------------


@lowering("DynamicQuantizeLinear", kind=ANCHOR, rereads=True)
def dynamic_quantize(ctx: Context) -> Anchor:
    """x as uint8, the scale and the zero point by which its range, widened to hold 0, covers 0..255."""
    x = ctx.input(0)
    flat = ctx.view(0, (x.size,))
    rows = Rows((1,), (x.size,), "reduce")
    low, high = minimum(result(0, "float32"), 0), maximum(result(1, "float32"), 0)
    scale = select(equal(low, high), 1, (high - low) / 255.0)
    zero = cast(clip(round_even((0.0 - low) / scale), 0, 255), "int32")
    stages = [rows.stage("min", lambda i, r: flat.at(r)), rows.stage("max", lambda i, r: flat.at(r))]
    y = quantize(flat.at(rows.element), scale, zero, "uint8")
    return rows.anchor(stages, Output(reindex(rows.element, (x.size,), x.shape), y), Output((), scale),
                       Output((), cast(zero, "uint8")), elementwise=True)
