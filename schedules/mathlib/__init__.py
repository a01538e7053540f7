"""Mathematical functions as TIR: polynomials and bit patterns, never a call (a call of libm would make vectors scalar).

Every function takes TIR scalars or whole vectors, and inside `T.vectorized` its scalar code is widened by VectorizeLoop. One text
serves float32 and float64 through a table of constants; float16 is computed in float32. NaN goes through, infinities and zeros
come out where they should; results below the smallest normal number are 0 (exp, sigmoid, pow).

The largest error over the whole range against a higher precision, in units of the last place of float32 (measured, held by
test_mathlib.py): exp 1, log 1, tanh 4, erf 4.3, sigmoid 2.1, sin and cos 2 (|x| <= 1e6), tan 3, asin acos atan 3.5, sinh
3.3, cosh 3, asinh 2, acosh 2.5, atanh 2, pow 1. float64: relative error 1e-13 (sin, cos, tan to |x| <= 1e6).

Constants: minimax fits made for this file (Lawson's iteration on the linearised rational least squares problem, 50 digits).
Reductions: W. J. Cody and W. Waite, Software Manual for the Elementary Functions (1980); log as in fdlibm's e_log.c.
"""

from __future__ import annotations

from collections.abc import Callable

from .constants import F32
from .elementary import absolute, isinf, isnan, maximum, minimum, rounding, sign
from .exponential import acosh, asinh, atanh, cosh, erf, exp, log, sigmoid, sinh, tanh
from .forms import NotSupported, PrimExpr, bits, dtype_of, floating, hold, like, polynomial, wide
from .powers import power, rsqrt, sqrt
from .trigonometric import acos, asin, atan, cos, sin, tan

__all__ = ["F32", "MATH", "NotSupported", "bits", "dtype_of", "floating", "hold", "like", "polynomial", "wide"]

MATH: dict[str, Callable[..., PrimExpr]] = {
    "abs": absolute, "sign": sign, "isnan": isnan, "isinf": isinf, "max": maximum, "min": minimum,
    "floor": rounding("llvm.floor"), "ceil": rounding("llvm.ceil"), "trunc": rounding("llvm.trunc"),
    "round": rounding("llvm.nearbyint"), "sqrt": sqrt, "rsqrt": rsqrt, "pow": power,
    "exp": exp, "log": log, "erf": erf, "tanh": tanh, "sigmoid": sigmoid, "sin": sin, "cos": cos, "tan": tan, "asin": asin,
    "acos": acos, "atan": atan, "sinh": sinh, "cosh": cosh, "asinh": asinh, "acosh": acosh, "atanh": atanh,
}
