"""Elementwise arithmetic, activations, comparisons and logic: a line or a few for each op.

float16 is computed in float32 and rounded once at the end. Integers wrap. Max, Min, Relu and Clip let a NaN through, as numpy and
onnxruntime do: `max(a, b)` is `a > b ? a : b`, so the side that may be a NaN stands second (one instruction on every target).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial, reduce
from typing import Any

from ...schedules import expr
from ...schedules.expr import (
    FLOATS,
    Expr,
    absolute,
    cast,
    clip,
    const,
    equal,
    erf,
    exp,
    is_const,
    log,
    logical,
    logical_not,
    maximum,
    minimum,
    not_equal,
    power,
    select,
    sigmoid,
    sqrt,
    unary,
)
from ...schedules.task import ITEMSIZE
from .registry import POINTWISE, Context, lowering
from .tensor import Tensor

Function = Callable[..., Expr]


def elementwise(ctx: Context, function: Function) -> Tensor:
    """`function` on the elements of all inputs, in float32 where they are float16."""
    dtype = ctx.output_dtype()
    return ctx.pointwise(lambda *xs: cast(function(*(widen(x) for x in xs)), dtype))


def widen(x: Expr) -> Expr:
    return cast(x, "float32") if x.dtype == "float16" else x


def pointwise(op: str, function: Function, domain: str = "") -> None:
    """Registers an op that is one expression of its inputs."""
    lowering(op, kind=POINTWISE, domain=domain)(lambda ctx: elementwise(ctx, function))


def parametric(op: str, function: Function, **defaults: float) -> None:
    """Registers an op whose attributes are passed by name."""
    def lower(ctx: Context) -> Tensor:
        attributes = {name: ctx.attr(name, default) for name, default in defaults.items()}
        return elementwise(ctx, lambda *xs: function(*xs, **attributes))
    lowering(op, kind=POINTWISE)(lower)


# ---- Arithmetic --------------------------------------------------------------------------------------------------------


def divide(x: Expr, y: Expr) -> Expr:
    """Integers truncate. A divisor that may be 0 or -1 is guarded: both can trap (x/0, and the least integer by -1)."""
    if x.dtype in FLOATS or (is_const(y) and y.value not in (0, -1)):
        return x / y
    result = x / _divisor(y)
    return select(equal(y, -1), -x, result) if x.dtype.startswith("int") else result


def modulo(x: Expr, y: Expr, truncated: bool) -> Expr:
    """The remainder with the divisor's sign, or, if `truncated` (C's fmod), with the dividend's."""
    if x.dtype in FLOATS:
        rest = float_modulo(x, y)
        return rest if truncated else select(logical("and", not_equal(rest, 0), not_equal(rest < 0, y < 0)), rest + y, rest)
    return Expr("truncmod" if truncated else "floormod", (x, _divisor(y)), x.dtype)


def _divisor(y: Expr) -> Expr:
    """y, or 1 where dividing by it could trap (the remainder by 1 and by -1 is the same)."""
    if is_const(y) and y.value not in (0, -1):
        return y
    traps = equal(y, 0)
    return select(logical("or", traps, equal(y, -1)) if y.dtype.startswith("int") else traps, 1, y)


def float_modulo(x: Expr, y: Expr) -> Expr:
    """fmod. Where x / y was rounded up to the next integer the first remainder has the wrong sign and gets |y| back."""
    rest = x - unary("trunc", x / y) * y
    wrong = logical("or", logical("and", x >= 0, rest < 0), logical("and", x < 0, rest > 0))
    fixed = select(wrong, select(x >= 0, rest + absolute(y), rest - absolute(y)), rest)
    return select(unary_bool("isinf", y), x, fixed)


def unary_bool(op: str, x: Expr) -> Expr:
    return Expr(op, (x,), "bool")


def pow_(x: Expr, y: Expr) -> Expr:
    """x ** y in the dtype of x."""
    if is_const(y) and y.value == 0.5 and x.dtype in FLOATS:
        return sqrt(x)
    if is_const(y) and y.value == int(y.value) and 1 <= abs(y.value) <= 8 and (y.value > 0 or x.dtype in FLOATS):
        result = _repeated_product(x, int(abs(y.value)))
        return result if y.value > 0 else 1 / result
    if x.dtype in FLOATS:
        return power(x, cast(y, x.dtype))
    if y.dtype in FLOATS:
        return cast(power(cast(x, y.dtype), y), x.dtype)
    return _integer_power(x, y)


def _repeated_product(x: Expr, n: int) -> Expr:
    if n == 1:
        return x
    half = _repeated_product(x, n // 2)
    return half * half * x if n % 2 else half * half


def _integer_power(x: Expr, y: Expr) -> Expr:
    """By squaring, over the 6 bits that matter before a 64-bit result wraps, and the parity for 1 and -1."""
    result, square = const(1, x.dtype), x
    for bit in range(6):
        is_set = not_equal(Expr("bitand", (y, const(1 << bit, y.dtype)), y.dtype), 0)
        result = result * select(is_set, square, 1)
        square = square * square
    return result


def nan_max(x: Expr, y: Expr) -> Expr:
    return _let_nan_through(maximum, x, y)


def nan_min(x: Expr, y: Expr) -> Expr:
    return _let_nan_through(minimum, x, y)


def _let_nan_through(function: Function, x: Expr, y: Expr) -> Expr:
    if x.dtype not in FLOATS or is_const(x):
        return function(x, y)
    if is_const(y):
        return function(y, x)
    return select(unary_bool("isnan", x), x, function(x, y))


def shift(op: str, x: Expr, y: Expr) -> Expr:
    """Shifts past the width of the type (or by a negative number) leave nothing but the sign; C leaves them undefined."""
    width, signed = 8 * ITEMSIZE[x.dtype], x.dtype.startswith("int")
    if is_const(y) and 0 <= y.value < width:
        return Expr(op, (x, y), x.dtype)
    within = logical("and", y >= 0, y < width) if signed else y < width
    shifted = Expr(op, (x, select(within, y, width - 1)), x.dtype)
    return shifted if op == "shr" and signed else select(within, shifted, 0)


pointwise("Add", lambda x, y: x + y)
pointwise("Sub", lambda x, y: x - y)
pointwise("Mul", lambda x, y: x * y)
pointwise("Div", divide)
pointwise("Pow", pow_)
pointwise("Neg", lambda x: -x)
pointwise("Reciprocal", lambda x: 1 / x)
pointwise("Sum", lambda *xs: reduce(lambda x, y: x + y, xs))
pointwise("Mean", lambda *xs: reduce(lambda x, y: x + y, xs) / len(xs))
pointwise("Max", lambda *xs: reduce(nan_max, xs))
pointwise("Min", lambda *xs: reduce(nan_min, xs))
for _name in ("Abs", "Sign", "Sqrt", "Exp", "Log", "Floor", "Ceil", "Round", "Erf", "Sin", "Cos", "Tan", "Asin", "Acos", "Atan",
              "Sinh", "Cosh", "Tanh", "Asinh", "Acosh", "Atanh", "Sigmoid"):
    pointwise(_name, partial(unary, _name.lower()))


@lowering("Mod", kind=POINTWISE)
def mod(ctx: Context) -> Tensor:
    truncated = bool(ctx.attr("fmod", 0))
    return elementwise(ctx, lambda x, y: modulo(x, y, truncated))


@lowering("Clip", kind=POINTWISE)
def clip_(ctx: Context) -> Tensor:
    """min(high, max(low, x)); both bounds are optional."""
    low, high = ctx.has(1), ctx.has(2)

    def function(x: Expr, *bounds: Expr) -> Expr:
        if low:
            x = maximum(bounds[0], x)
        return minimum(bounds[-1], x) if high else x
    return elementwise(ctx, function)


@lowering("BitShift", kind=POINTWISE)
def bit_shift(ctx: Context) -> Tensor:
    op = "shl" if ctx.attr("direction") == "LEFT" else "shr"
    return elementwise(ctx, lambda x, y: shift(op, x, y))


# ---- Activations -------------------------------------------------------------------------------------------------------


def elu(x: Expr, alpha: float) -> Expr:
    return select(x > 0, x, alpha * (exp(x) - 1))


def leaky_relu(x: Expr, alpha: float) -> Expr:
    return maximum(x * alpha, x) if 0 <= alpha <= 1 else select(x < 0, x * alpha, x)


def softplus(x: Expr) -> Expr:
    """log(1 + e^x) = max(x, 0) + log(1 + e^-|x|), which cannot overflow."""
    return maximum(0, x) + log(1 + exp(-absolute(x)))


def mish(x: Expr) -> Expr:
    """x tanh(log(1 + e^x)) as a quotient of polynomials in u = e^-|x|, which cannot overflow."""
    u = exp(-absolute(x))
    two = u + u
    square = u * u
    top = select(x > 0, 1 + two, square + two)
    bottom = select(x > 0, 1 + two + (square + square), square + two + 2)
    return x * (top / bottom)


def gelu(x: Expr) -> Expr:
    return 0.5 * x * (1 + erf(x * math.sqrt(0.5)))


def gelu_tanh(x: Expr) -> Expr:
    """x sigmoid(2 z) = x/2 (1 + tanh z) with z = sqrt(2/pi) (x + 0.044715 x^3)."""
    scale = 2 * math.sqrt(2 / math.pi)
    return x * sigmoid(x * (scale + scale * 0.044715 * (x * x)))


def shrink(x: Expr, lambd: float, bias: float) -> Expr:
    return select(x < -lambd, x + bias, select(x > lambd, x - bias, 0))


pointwise("Relu", lambda x: maximum(0, x))
pointwise("PRelu", lambda x, slope: select(x < 0, x * slope, x))
pointwise("Softplus", softplus)
pointwise("Softsign", lambda x: x / (1 + absolute(x)))
pointwise("Mish", mish)
pointwise("HardSwish", lambda x: x * clip(x * (1 / 6) + 0.5, 0, 1))
parametric("LeakyRelu", leaky_relu, alpha=0.01)
parametric("Elu", elu, alpha=1.0)
parametric("Celu", lambda x, alpha: select(x > 0, x, alpha * (exp(x / alpha) - 1)), alpha=1.0)
parametric("Selu", lambda x, alpha, gamma: gamma * elu(x, alpha), alpha=1.6732632423543772, gamma=1.0507009873554805)
parametric("ThresholdedRelu", lambda x, alpha: select(x > alpha, x, 0), alpha=1.0)
parametric("HardSigmoid", lambda x, alpha, beta: clip(alpha * x + beta, 0, 1), alpha=0.2, beta=0.5)
parametric("Swish", lambda x, alpha: x * sigmoid(x if alpha == 1 else x * alpha), alpha=1.0)
parametric("SwiGLU", lambda a, b, alpha: a * sigmoid(a if alpha == 1 else a * alpha) * b, alpha=1.0)
pointwise("SiLU", lambda x: x * sigmoid(x), domain="burnish")
parametric("Shrink", shrink, lambd=0.5, bias=0.0)


@lowering("Gelu", kind=POINTWISE)
def gelu_(ctx: Context) -> Tensor:
    return elementwise(ctx, gelu_tanh if ctx.attr("approximate", "none") == "tanh" else gelu)


# ---- Comparisons and logic ---------------------------------------------------------------------------------------------

pointwise("Equal", equal)
pointwise("Greater", lambda x, y: x > y)
pointwise("GreaterOrEqual", lambda x, y: x >= y)
pointwise("Less", lambda x, y: x < y)
pointwise("LessOrEqual", lambda x, y: x <= y)
pointwise("And", lambda x, y: logical("and", x, y))
pointwise("Or", lambda x, y: logical("or", x, y))
pointwise("Xor", not_equal)
pointwise("Not", logical_not)
pointwise("Where", select)
pointwise("IsNaN", lambda x: unary_bool("isnan", x))
pointwise("BitwiseAnd", lambda x, y: Expr("bitand", (x, y), x.dtype))
pointwise("BitwiseOr", lambda x, y: Expr("bitor", (x, y), x.dtype))
pointwise("BitwiseXor", lambda x, y: Expr("bitxor", (x, y), x.dtype))
pointwise("BitwiseNot", lambda x: unary("bitnot", x))


@lowering("IsInf", kind=POINTWISE)
def is_inf(ctx: Context) -> Tensor:
    negative, positive = bool(ctx.attr("detect_negative", 1)), bool(ctx.attr("detect_positive", 1))

    def function(x: Expr) -> Expr:
        signs = [s for s, wanted in ((x < 0, negative), (x > 0, positive)) if wanted]
        wanted = reduce(lambda a, b: logical("or", a, b), signs, const(False, "bool"))
        return unary_bool("isinf", x) if negative and positive else logical("and", unary_bool("isinf", x), wanted)
    return elementwise(ctx, function)


# ---- Types -------------------------------------------------------------------------------------------------------------


def convert(x: Expr, dtype: str) -> Expr:
    """Cast as numpy does it: a float goes to a narrow or unsigned integer through a wider signed one, where it wraps."""
    x = widen(x) if dtype != "float16" else x
    if x.dtype in FLOATS and dtype in ("int8", "uint8", "int16", "uint16"):
        x = cast(x, "int32")
    elif x.dtype in FLOATS and dtype == "uint32":
        x = cast(x, "int64")
    return cast(x, dtype)


@lowering("Cast", "CastLike", kind=POINTWISE)
def cast_(ctx: Context) -> Tensor:
    dtype = ctx.output_dtype()
    return ctx.input(0).map(lambda x: convert(x, dtype), dtype)


@lowering("BitCast", kind=POINTWISE)
def bit_cast(ctx: Context) -> Tensor:
    """The same bits; a bool is the byte 0 or 1."""
    dtype = ctx.output_dtype()

    def function(x: Expr) -> Expr:
        x = cast(x, "uint8") if x.dtype == "bool" else x
        if dtype == "bool":
            return not_equal(x, 0)
        return x if x.dtype == dtype else Expr("reinterpret", (x,), dtype)
    return ctx.input(0).map(function, dtype)


@lowering("Dropout", kind=POINTWISE)
def dropout(ctx: Context) -> Any:
    """The identity, with a mask of ones where it is asked for."""
    training = ctx.array(2) if ctx.has(2) else False
    ratio = ctx.array(1) if ctx.has(1) else 0.5
    if training is None or (training and (ratio is None or ratio != 0)):
        ctx.refuse("dropout in training mode is random", "export the model in inference mode")
    x = ctx.input(0)
    return [x, Tensor(x.shape, "bool", lambda index: const(True, "bool"))][:len(ctx.node.outputs)]


# ---- Quantization ------------------------------------------------------------------------------------------------------

LIMITS = {"int8": (-128, 127), "uint8": (0, 255), "int16": (-32768, 32767), "uint16": (0, 65535)}


def quantize(x: Expr, scale: Expr, zero: Expr, dtype: str) -> Expr:
    """saturate(round_half_even(x / scale) + zero), with zero an int32. Saturating first keeps the conversion in range."""
    y = x if is_const(scale, 1) else x / scale
    if x.dtype == "float32":
        return expr.quantize(y, zero, dtype)
    low, high = (cast(const(limit, "int32") - zero, x.dtype) for limit in LIMITS[dtype])
    return cast(cast(clip(unary("round", y), low, high), "int32") + zero, dtype)


def steps_of(byte: Expr, less: int) -> Expr | None:
    """A number that the same kernel quantises, maybe within bounds, less another, in float32: it is never packed as an integer.
    None where it is not such a number."""
    bounds: list[Expr] = []
    while byte.op in ("max", "min") and "const" in (byte.args[0].op, byte.args[1].op):
        bounds.append(byte)
        byte = byte.args[1] if byte.args[0].op == "const" else byte.args[0]
    if byte.op != "quantize" or not is_const(byte.args[1]):
        return None
    x, zero = byte.args[0], byte.args[1].value
    limits = list(LIMITS[byte.dtype])
    for e in reversed(bounds):
        by = next(a.value for a in e.args if a.op == "const")
        limits = [(max if e.op == "max" else min)(limit, by) for limit in limits]
    steps = clip(unary("round", x), float(limits[0] - zero), float(limits[1] - zero))
    return steps + float(zero - less) if zero != less else steps


def parameter(ctx: Context, n: int) -> Tensor | None:
    """Input n (scale or zero point), one per tensor, per index of an axis, or per block along it, spread over the shape of x."""
    if not ctx.has(n):
        return None
    given, shape = ctx.input(n), ctx.input(0).shape
    axis, block = ctx.attr("axis", 1), ctx.attr("block_size", 0)
    axis += len(shape) if axis < 0 else 0
    if given.size == 1:
        return Tensor(shape, given.dtype, lambda index: given.at([0] * len(given.shape)))
    if not block:
        return Tensor(shape, given.dtype, lambda index: given.at([index[axis]]))
    return Tensor(shape, given.dtype, lambda index: given.at([*index[:axis], index[axis] // block, *index[axis + 1:]]))


@lowering("QuantizeLinear", kind=POINTWISE)
def quantize_linear(ctx: Context) -> Tensor:
    dtype, x, scale, zero = ctx.output_dtype(), ctx.input(0), parameter(ctx, 1), parameter(ctx, 2)
    if dtype not in LIMITS:
        ctx.refuse(f"quantization to {dtype}", f"burnish quantizes to {', '.join(LIMITS)}")
    assert scale is not None

    def element(index: tuple[Expr, ...]) -> Expr:
        z = cast(zero.at(index), "int32") if zero is not None else const(0, "int32")
        value = cast(x.at(index), "float64" if x.dtype == "float64" else "float32")
        return quantize(value, cast(scale.at(index), value.dtype), z, dtype)
    return Tensor(x.shape, dtype, element)


@lowering("DequantizeLinear", kind=POINTWISE)
def dequantize_linear(ctx: Context) -> Tensor:
    """(x - zero) scale, the difference in int32; of what the same kernel has quantised to a byte, in float32."""
    dtype, x, scale, zero = ctx.output_dtype(), ctx.input(0), parameter(ctx, 1), parameter(ctx, 2)
    if x.dtype not in (*LIMITS, "int32"):
        ctx.refuse(f"dequantization of {x.dtype}", f"burnish dequantizes {', '.join(LIMITS)} and int32")
    assert scale is not None

    def element(index: tuple[Expr, ...]) -> Expr:
        value, offset = x.at(index), const(0, "int32") if zero is None else cast(zero.at(index), "int32")
        steps = steps_of(value, offset.value) if is_const(offset) else None
        if steps is None:
            steps = cast(cast(value, "int32") - offset if zero is not None else cast(value, "int32"), "float32")
        return cast(steps * cast(scale.at(index), "float32"), dtype)
    return Tensor(x.shape, dtype, element)
