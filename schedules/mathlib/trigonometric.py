"""Trigonometric functions and their inverses."""

from __future__ import annotations

import math

from tvm import tirx
from tvm.tirx.script import builder as T

from .constants import F32, F64, HALF_PI, Format
from .forms import PrimExpr, bits, copysign, dtype_of, floating, hold, like, odd, polynomial, real, wide


def _quadrant(x: PrimExpr, f: Format) -> tuple[PrimExpr, PrimExpr]:
    """(q, r): x = q pi/2 + r, |r| <= pi/4, q modulo 4 in its low bits. In float64, which keeps float32 exact to |x| of 1e8."""
    _, lanes = dtype_of(x)
    d = hold(x.astype(wide("float64", lanes)))
    k = hold(bits(d * like(2 / math.pi, d) + like(F64.rounder, d)))
    n = hold(floating(k, F64) - like(F64.rounder, d))
    r = d
    for part in HALF_PI if f is F64 else HALF_PI[:2]:
        r = r - n * like(part, d)
    return hold(k.astype(wide(f.integer, lanes))), hold(r.astype(wide(f.dtype, lanes)))


def _sine(q: PrimExpr, r: PrimExpr, f: Format) -> PrimExpr:
    """sin(q pi/2 + r)."""
    even = tirx.EQ(q & like(1, q), like(0, q))
    y = tirx.Select(even, odd(r, f.sin), polynomial(f.cos, hold(r * r)))
    return floating(bits(y) ^ ((q & like(2, q)) << like(30 if f is F32 else 62, q)), f)


@real
def sin(x: PrimExpr, f: Format) -> PrimExpr:
    return _sine(*_quadrant(x, f), f)


@real
def cos(x: PrimExpr, f: Format) -> PrimExpr:
    q, r = _quadrant(x, f)
    return _sine(hold(q + like(1, q)), r, f)


@real
def tan(x: PrimExpr, f: Format) -> PrimExpr:
    q, r = _quadrant(x, f)
    s, c = hold(odd(r, f.sin)), hold(polynomial(f.cos, hold(r * r)))
    even = tirx.EQ(q & like(1, q), like(0, q))
    return tirx.Select(even, s, like(0, x) - c) / tirx.Select(even, c, s)


@real
def atan(x: PrimExpr, f: Format) -> PrimExpr:
    a = hold(T.abs(x))
    large = a > like(1, x)
    y = hold(odd(hold(tirx.Select(large, like(1, x) / a, a)), *f.atan))
    return copysign(tirx.Select(large, like(math.pi / 2, x) - y, y), x, f)


@real
def asin(x: PrimExpr, f: Format) -> PrimExpr:
    return atan(x / T.sqrt((like(1, x) - x) * (like(1, x) + x)))


@real
def acos(x: PrimExpr, f: Format) -> PrimExpr:
    return like(2, x) * atan(T.sqrt((like(1, x) - x) / (like(1, x) + x)))
