"""Codes of weights: what a byte or half a byte stands for, and how halves are packed.

int8     the number itself, as int8
int4     the number plus 8, in 4 bits
shift1   a power of two in 4 bits: 0 to 6 is 1, 1/2, … 1/64, 7 is zero; 8 more for the negative
shift2   the sum of two of those, the first in the low half of a byte
A buffer of codes in a Task has a byte for each weight; what is stored of those of 4 bits has two to a byte.
"""

from __future__ import annotations

import numpy as np

from .expr import Expr, binary, cast, equal, select

CODES = ("int8", "int4", "shift1", "shift2")
HALVES = frozenset({"int4", "shift1"})
ONE = 127 << 23     # the bits of 1.0 in float32


def decoded(code: str, x: Expr) -> Expr:
    """The float32 of a code given as int32: 8 bits, with their sign, of int8, and 0 to 15 or 255 of the others."""
    if code == "int8":
        return cast(x, "float32")
    if code == "int4":
        return cast(binary("sub", x, 8), "float32")
    if code == "shift1":
        exponent = binary("bitand", x, 7)
        bits = binary("bitor", binary("sub", ONE, binary("shl", exponent, 23)), binary("shl", binary("bitand", x, 8), 28))
        return select(equal(exponent, 7), 0.0, Expr("reinterpret", (bits,), "float32"))
    assert code == "shift2", code
    return decoded("shift1", binary("bitand", x, 15)) + decoded("shift1", binary("shr", x, 4))


def halves(codes: np.ndarray) -> np.ndarray:
    """Pairs along the first axis, the even one in the low half: [k, …] of 4 bits to uint8 [ceil(k / 2), …]."""
    codes = np.pad(codes.astype(np.uint8) & 15, [(0, len(codes) % 2), *[(0, 0)] * (codes.ndim - 1)])
    return (codes[0::2] | codes[1::2] << 4).astype(np.uint8)


def values(code: str, codes: np.ndarray) -> np.ndarray:
    """The float32 of codes, a byte each."""
    if code in ("int8", "int4"):
        return (codes.astype(np.int32) - (8 if code == "int4" else 0)).astype(np.float32)
    powers = np.array([2.0**-e for e in range(7)] + [0.0], np.float32)
    table = np.concatenate([powers, -powers])
    return table[codes & 15] + (table[codes >> 4] if code == "shift2" else 0)
