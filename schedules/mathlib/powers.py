"""Roots and powers."""

from __future__ import annotations

import math

from tvm import tirx
from tvm.tirx.script import builder as T

from .constants import Format
from .elementary import isnan
from .exponential import exp, log
from .forms import PrimExpr, copysign, dtype_of, hold, is_float, known, like, pattern, real, wide


@real
def sqrt(x: PrimExpr, f: Format) -> PrimExpr:
    return T.sqrt(x)


@real
def rsqrt(x: PrimExpr, f: Format) -> PrimExpr:
    return like(1, x) / T.sqrt(x)


def power(x: PrimExpr, y: PrimExpr) -> PrimExpr:
    """x^y of two floats or two integers. Constant exponents up to 16 become multiplications, ±0.5 a square root; a negative
    integer power of an integer is truncated as C++ would."""
    exponent, x = known(y), hold(x)
    if exponent is not None and abs(exponent) <= 16 and exponent == int(exponent) and (is_float(x) or exponent >= 0):
        return _repeated(x, int(exponent))
    if not is_float(x):
        return _integer_power(x, hold(y))
    if exponent is not None and abs(exponent) == 0.5:
        return sqrt(x) if exponent > 0 else rsqrt(x)
    return _real_power(x, y)


def _repeated(x: PrimExpr, n: int) -> PrimExpr:
    result, square = like(1, x), x
    for bit in range(abs(n).bit_length()):
        square = hold(square * square) if bit else x
        if abs(n) >> bit & 1:
            result = square if known(result) is not None else hold(result * square)
    return result if n >= 0 else like(1, x) / result


@real
def _real_power(x: PrimExpr, y: PrimExpr, f: Format) -> PrimExpr:
    """e^(y log |x|), in float64 (float32 has not the digits that a large y log x needs), and IEEE's special cases."""
    narrow = wide(*dtype_of(x))
    double = wide("float64", dtype_of(x)[1])
    a = hold(T.abs(x))
    size = exp(y.astype(double) * log(a.astype(double))).astype(narrow)
    one = tirx.Or(tirx.EQ(y, like(0, y)), tirx.EQ(a, like(1, a)))
    size = hold(tirx.Select(one, like(1, x), size))
    half = hold(y * like(0.5, y))
    whole = tirx.EQ(T.floor(y), y)
    is_odd = tirx.And(whole, T.floor(half) < half)
    signed = tirx.Select(is_odd, copysign(size, x, f), size)
    real_base = tirx.Or(tirx.Or(x >= like(0, x), x < like(-f.largest, x)), whole)
    unchanged = tirx.Or(tirx.EQ(y, like(0, y)), tirx.EQ(x, like(1, x)))
    broken = tirx.Or(isnan(x), tirx.Or(isnan(y), tirx.Not(real_base)))
    return tirx.Select(unchanged, like(1, x), tirx.Select(broken, pattern(math.nan, x), signed))


def _integer_power(x: PrimExpr, y: PrimExpr) -> PrimExpr:
    """Square and multiply. Six bits of the exponent do: above 63 only 0 and ±1 do not overflow."""
    result, square = like(1, x), x
    for bit in range(6):
        taken = tirx.NE(y & like(1 << bit, y), like(0, y))
        result = hold(tirx.Select(taken, result * square, result))
        square = hold(square * square)
    unit = tirx.EQ(x * x, like(1, x))
    fits = tirx.And(y >= like(0, y), y < like(64, y))
    return tirx.Select(tirx.Or(unit, fits), result, like(0, x))
