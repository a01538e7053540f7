"""Exponentials, logarithms, and what is made of them."""

from __future__ import annotations

import math

from tvm import tirx
from tvm.tirx.script import builder as T

from .constants import Format
from .forms import PrimExpr, bits, clamped, copysign, dtype_of, floating, hold, like, odd, pattern, polynomial, real, wide


@real
def exp(x: PrimExpr, f: Format) -> PrimExpr:
    """2^n e^r with x = n ln 2 + r, |r| <= ln 2 / 2; n is added to the exponent of e^r."""
    k = hold(bits(x * like(math.log2(math.e), x) + like(f.rounder, x)))
    n = hold(floating(k, f) - like(f.rounder, x))      # through bits: TVM would simplify (x + c) - c
    r = hold((x - n * like(f.ln2[0], x)) - n * like(f.ln2[1], x))
    y = floating(bits(polynomial(f.exp, r)) + (k << like(f.mantissa, k)), f)
    low, high = f.edges
    return tirx.Select(x <= like(high, x), tirx.Select(x >= like(low, x), y, like(0, x)), x * like(f.largest, x))


@real
def log(x: PrimExpr, f: Format) -> PrimExpr:
    """k ln 2 + log(1 + g) with sqrt(1/2) <= 1 + g < sqrt(2); log(1 + g) from s = g / (2 + g)."""
    tiny = x < like(f.smallest, x)
    b = hold(bits(tirx.Select(tiny, x * like(2.0**f.mantissa, x), x)))
    e = hold((b - like(f.bits(math.sqrt(0.5)), b)) >> like(f.mantissa, b))
    g = hold(floating(b - (e << like(f.mantissa, e)), f) - like(1, x))
    s = hold(g / (like(2, x) + g))
    t = hold(s * s)
    half = hold(like(0.5, x) * g * g)
    k = hold(e.astype(wide(*dtype_of(x))) - tirx.Select(tiny, like(f.mantissa, x), like(0, x)))
    y = k * like(f.ln2[0], x) - ((half - (s * (half + t * polynomial(f.log, t)) + k * like(f.ln2[1], x))) - g)
    outside = tirx.Select(tirx.EQ(x, like(0, x)), pattern(-math.inf, x), pattern(math.nan, x))
    return tirx.Select(x > like(f.largest, x), x, tirx.Select(x > like(0, x), y, outside))


def _log1p(z: PrimExpr, f: Format) -> PrimExpr:
    """log(1 + z) for z >= 0, with what rounding 1 + z lost put back."""
    z = hold(z)
    u = hold(z + like(1, z))
    lost = z - (floating(bits(u), f) - like(1, z))
    return tirx.Select(z > like(1e15, z), log(z), log(u) + lost / u)


@real
def sigmoid(x: PrimExpr, f: Format) -> PrimExpr:
    return like(1, x) / (like(1, x) + exp(like(0, x) - x))


@real
def tanh(x: PrimExpr, f: Format) -> PrimExpr:
    p, q, limit = f.tanh
    return clamped(odd(hold(clamped(x, limit)), p, q), 1)


@real
def erf(x: PrimExpr, f: Format) -> PrimExpr:
    p, q, limit = f.erf
    return clamped(odd(hold(clamped(x, limit)), p, q), 1)


@real
def sinh(x: PrimExpr, f: Format) -> PrimExpr:
    a = hold(T.abs(x))
    half, inverse = _half_exp(a)
    return tirx.Select(a < like(1, x), odd(x, f.sinh), copysign(half - inverse, x, f))


@real
def cosh(x: PrimExpr, f: Format) -> PrimExpr:
    half, inverse = _half_exp(hold(T.abs(x)))
    return half + inverse


def _half_exp(a: PrimExpr) -> tuple[PrimExpr, PrimExpr]:
    """(e^a / 2, e^-a / 2), by squaring e^(a/2): overflows no earlier than sinh itself."""
    root = hold(exp(a * like(0.5, a)))
    half = hold(root * like(0.5, a) * root)
    return half, like(0.25, a) / half


@real
def asinh(x: PrimExpr, f: Format) -> PrimExpr:
    a = hold(T.abs(x))
    square = hold(a * a)
    z = a + square / (like(1, a) + T.sqrt(square + like(1, a)))
    return copysign(_log_of_sum(a, z, f), x, f)


@real
def acosh(x: PrimExpr, f: Format) -> PrimExpr:
    t = hold(x - like(1, x))
    return _log_of_sum(x, t + T.sqrt(t * (x + like(1, x))), f)


def _log_of_sum(a: PrimExpr, z: PrimExpr, f: Format) -> PrimExpr:
    """log(1 + z), which is log(2 a) where a is so large that its square may overflow."""
    large = a > like(1e9, a)
    return _log1p(tirx.Select(large, a, z), f) + tirx.Select(large, like(math.log(2), a), like(0, a))


@real
def atanh(x: PrimExpr, f: Format) -> PrimExpr:
    a = hold(T.abs(x))
    return copysign(like(0.5, x) * _log1p((a + a) / (like(1, x) - a), f), x, f)
