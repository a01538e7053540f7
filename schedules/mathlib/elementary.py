"""What needs no polynomial: extremes, signs, tests, rounding."""

from __future__ import annotations

import math
from collections.abc import Callable

from tvm import tirx
from tvm.tirx.script import builder as T

from .constants import FORMATS
from .forms import PrimExpr, bits, dtype_of, hold, is_float, known, like, wide


def maximum(x: PrimExpr, y: PrimExpr) -> PrimExpr:
    """The larger one, NaN where either is NaN. One instruction where one side is a constant."""
    return _extreme(T.max, x, y)


def minimum(x: PrimExpr, y: PrimExpr) -> PrimExpr:
    return _extreme(T.min, x, y)


def _extreme(op: Callable[[PrimExpr, PrimExpr], PrimExpr], x: PrimExpr, y: PrimExpr) -> PrimExpr:
    """LLVM gets `x > y ? x : y`, which hands through a NaN of y, but not one of x."""
    if known(y) is not None and known(x) is None:
        x, y = y, x
    if known(x) is not None or not is_float(x):
        return op(x, y)
    x, y = hold(x), hold(y)
    return tirx.Select(isnan(x), x, op(x, y))


def absolute(x: PrimExpr) -> PrimExpr:
    element = dtype_of(x)[0]
    if element in ("bool", "uint8", "uint16", "uint32", "uint64"):
        return x
    if element.startswith("float"):
        return T.abs(x)
    x = hold(x)
    return tirx.Select(x < like(0, x), like(0, x) - x, x)


def sign(x: PrimExpr) -> PrimExpr:
    """-1, 0 or 1; NaN of a NaN."""
    x = hold(x)
    low = x if dtype_of(x)[0].startswith("uint") else tirx.Select(x < like(0, x), like(-1, x), x)
    return tirx.Select(x > like(0, x), like(1, x), low)


def isnan(x: PrimExpr) -> PrimExpr:
    """By its bits: TVM simplifies x != x to false."""
    return _beyond(x, lambda b, limit: b > limit)


def isinf(x: PrimExpr) -> PrimExpr:
    return _beyond(x, tirx.EQ)


def _beyond(x: PrimExpr, compare: Callable[[PrimExpr, PrimExpr], PrimExpr]) -> PrimExpr:
    element, lanes = dtype_of(x)
    if element == "float16":
        x, element = x.astype(wide("float32", lanes)), "float32"
    if element not in FORMATS:
        return tirx.const(False, wide("bool", lanes))
    f, b = FORMATS[element], bits(x)
    return compare(b & like(~f.sign, b), like(f.bits(math.inf), b))


def rounding(intrinsic: str) -> Callable[[PrimExpr], PrimExpr]:
    """An LLVM intrinsic that is one instruction on every target; integers stay as they are. (TVM's own nearbyint makes
    VectorizeLoop fall back to scalars.)"""
    def function(x: PrimExpr) -> PrimExpr:
        element, lanes = dtype_of(x)
        if not is_float(x):
            return x
        if element == "float16":
            return function(x.astype(wide("float32", lanes))).astype(wide("float16", lanes))
        return tirx.call_llvm_pure_intrin(wide(element, lanes), intrinsic, x)
    return function
