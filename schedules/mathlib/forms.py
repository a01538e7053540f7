"""What every function is made of: dtypes, bits, names for values, polynomials."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import wraps
from typing import Any

from tvm import tirx
from tvm.tirx.script import builder as T

from .constants import FORMATS, Coefficients, Format

PrimExpr = Any


class NotSupported(Exception):
    """A function that is not made for this dtype; the message names both."""


def dtype_of(x: PrimExpr) -> tuple[str, int]:
    """(element dtype, lanes) of a TIR expression."""
    element, _, lanes = str(x.ty.dtype).partition("x")
    return element, int(lanes or 1)


def wide(dtype: str, lanes: int) -> str:
    return f"{dtype}x{lanes}" if lanes > 1 else dtype


def like(value: float, x: PrimExpr) -> PrimExpr:
    """A constant in every lane of x's dtype."""
    return tirx.const(value, wide(*dtype_of(x)))


def known(x: PrimExpr) -> float | int | None:
    """The value of a constant (in every lane); None where x is computed."""
    if isinstance(x, tirx.Broadcast):
        x = x.value
    return x.value if isinstance(x, tirx.IntImm | tirx.FloatImm) else None


def bits(x: PrimExpr) -> PrimExpr:
    return _as(FORMATS[dtype_of(x)[0]].integer, x)


def floating(x: PrimExpr, f: Format) -> PrimExpr:
    return _as(f.dtype, x)


def pattern(value: float, x: PrimExpr) -> PrimExpr:
    """NaN or an infinity like x, made of bits so that no simplifier computes with it."""
    element, lanes = dtype_of(x)
    f = FORMATS[element]
    return floating(tirx.const(f.bits(value), wide(f.integer, lanes)), f)


def copysign(size: PrimExpr, sign: PrimExpr, f: Format) -> PrimExpr:
    """`size` (not negative) with the sign of `sign`."""
    b = bits(size)
    return floating(b | (bits(sign) & like(f.sign, b)), f)


def hold(x: PrimExpr) -> PrimExpr:
    """x under a name, so that it is computed once.

    `T.Bind(x)` alone is not enough: TVM's analyzers put a pure value in the place of its name wherever they meet it, and nested
    expressions grow exponentially. They leave alone what reads memory and is no integer, so x is or-ed with a zero that lies in
    a local array, and named as a float of the same bits; LLVM sees through both. Booleans stay as they are: TVM cannot bind a
    vector of them."""
    element, _ = dtype_of(x)
    width = "".join(c for c in element if c.isdigit())
    if width not in ("16", "32", "64") or known(x) is not None or isinstance(x, tirx.Var):
        return x if element == "bool" else T.Bind(x)
    integer, real = f"int{width}", f"float{width}"
    zero = T.alloc_buffer((1,), integer, scope="local")
    T.buffer_store(zero, tirx.const(0, integer), [0])
    same = _as(integer, x) | zero[0]
    return _as(element, T.Bind(_as(real, same)))


def _as(element: str, x: PrimExpr) -> PrimExpr:
    """The bits of x as another type of the same width."""
    of, lanes = dtype_of(x)
    return x if of == element else T.reinterpret(wide(element, lanes), x)


def polynomial(coefficients: Sequence[float], x: PrimExpr) -> PrimExpr:
    result = like(coefficients[-1], x)
    for c in coefficients[-2::-1]:
        result = result * x + like(c, x)
    return result


def odd(x: PrimExpr, p: Coefficients, q: Coefficients = ()) -> PrimExpr:
    """x P(x^2) / Q(x^2)."""
    t = hold(x * x)
    y = x * polynomial(p, t)
    return y / polynomial(q, t) if q else y


def clamped(x: PrimExpr, limit: float) -> PrimExpr:
    """x within ±limit. The constant comes first: then LLVM's comparison hands a NaN through."""
    return T.max(like(-limit, x), T.min(like(limit, x), x))


def real(function: Callable[..., PrimExpr]) -> Callable[..., PrimExpr]:
    """Gives a function its Format after the arguments, which become names; float16 goes through float32."""
    @wraps(function)
    def checked(*args: PrimExpr) -> PrimExpr:
        element, lanes = dtype_of(args[0])
        if element == "float16":
            return checked(*(a.astype(wide("float32", lanes)) for a in args)).astype(wide("float16", lanes))
        if element not in FORMATS:
            raise NotSupported(f"{function.__name__} of {element}")
        return function(*(hold(a) for a in args), FORMATS[element])
    return checked


def is_float(x: PrimExpr) -> bool:
    return dtype_of(x)[0].startswith("float")
