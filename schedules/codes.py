"""Codes of weights: what a byte or half a byte stands for, and how halves are packed.

int8     the number itself, as int8
int4     the number plus 8, in 4 bits
shift1   a power of two in 4 bits: 0 is zero, 1 to 7 are 1/64, 1/32, … 1; 8 more for the negative
shift2   the sum of two of those, the first in the low half of a byte
A buffer of codes in a Task has a byte for each weight; what is stored of those of 4 bits has two to a byte.
"""

from __future__ import annotations

import numpy as np

from .expr import Expr, binary, cast

CODES = ("int8", "int4", "shift1", "shift2")
HALVES = frozenset({"int4", "shift1"})
EXPONENT_AND_SIGN = (7 << 23) + (1 << 31) - (1 << 32)       # where float32 has them, as int32
POWERS = np.array([0.0] + [2.0**e for e in range(-6, 1)], np.float32)


def decoded(code: str, x: Expr) -> Expr:
    """The float32 of a code given as int32: with its sign of int8, of shift1 with any bits beyond its four."""
    if code == "int8":
        return cast(x, "float32")
    if code == "int4":
        return cast(binary("sub", x, 8), "float32")
    if code == "shift1":
        return _tiny(x) * 2.0**120
    assert code == "shift2", code
    return (_tiny(x) + _tiny(binary("shr", x, 4))) * 2.0**120


def _tiny(x: Expr) -> Expr:
    """A code of 4 bits as 2^-126 to 2^-120, or 0: its bits, moved to where float32 has exponent and sign."""
    both = binary("bitor", binary("shl", x, 23), binary("shl", x, 28))
    return Expr("reinterpret", (binary("bitand", both, EXPONENT_AND_SIGN),), "float32")


def halves(codes: np.ndarray) -> np.ndarray:
    """Pairs along the first axis, the even one in the low half: [k, …] of 4 bits to uint8 [ceil(k / 2), …]."""
    codes = np.pad(codes.astype(np.uint8) & 15, [(0, len(codes) % 2), *[(0, 0)] * (codes.ndim - 1)])
    return (codes[0::2] | codes[1::2] << 4).astype(np.uint8)


def values(code: str, codes: np.ndarray) -> np.ndarray:
    """The float32 of codes, a byte each."""
    if code in ("int8", "int4"):
        return (codes.astype(np.int32) - (8 if code == "int4" else 0)).astype(np.float32)
    table = np.concatenate([POWERS, -POWERS])
    return table[codes & 15] + (table[codes >> 4] if code == "shift2" else 0)
