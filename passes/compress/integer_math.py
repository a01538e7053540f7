"""Integer arithmetic of the integer-only mode in numpy: the reference of the ops in `passes/integer_functions.py`, bit for bit,
and the constants that make real numbers of them.

Methods: fixed-point requantisation as in Jacob et al. 2018 (section 2.2), with round half to even; ShiftExp and integer LayerNorm
after I-ViT (Li and Gu 2023), with what its code lacks: an exact square root whatever the size, a GELU that cannot overflow, and
an exponential from a table, since ShiftExp's rows add up to 0.67 to 0.98 (our measurement).
"""

from __future__ import annotations

import math

import numpy as np

PRODUCT = 61            # the largest shift: a product of 63 bits keeps its sign
DEVIATIONS = 10         # binary places of a normalised row
ROOT_PLACES, QUOTIENT_PLACES = 8, 21        # of the square root, and of the reciprocal above the result
INT32 = np.iinfo(np.int32)


def fixed_point(ratio: np.ndarray) -> tuple[np.ndarray, int]:
    """Multipliers (int32) and one shift for all of them: ratio ~ multiplier / 2^shift. The largest has 31 bits, unless it is
    below 2^-31; a ratio beyond 2^29 is held at that."""
    ratio = np.clip(np.asarray(ratio, np.float64), -2.0**29, 2.0**29)
    largest = float(np.abs(ratio).max(initial=0))
    shift = PRODUCT if largest == 0 else min(PRODUCT, 31 - math.frexp(largest)[1])
    return np.clip(np.rint(ratio * 2.0**shift), -INT32.max, INT32.max).astype(np.int32), shift


def requantize(x: np.ndarray, multiplier: np.ndarray, shift: int, zero: int, low: int, high: int) -> np.ndarray:
    """clip(round_half_even(x multiplier / 2^shift) + zero, low, high), exactly; int64."""
    product = x.astype(np.int64) * np.asarray(multiplier, np.int64)
    floor, rest = product >> shift, product & ((1 << shift) - 1)
    return np.clip(floor + (rest > (1 << (shift - 1)) - (floor & 1)) + zero, low, high)


def isqrt(v: np.ndarray) -> np.ndarray:
    """The integer square root of 1 <= v < 2^62 by five steps of Newton's iteration from 2^ceil(bits / 2)."""
    v = np.asarray(v, np.int64)
    bits = np.array([int(x).bit_length() for x in v.ravel()], np.int64).reshape(v.shape)
    k = np.int64(1) << (bits + 1) // 2
    for _ in range(5):
        k = (k + v // k) >> 1
    return k - (k * k > v)


def layer_norm_root(count: int) -> int:
    """The numerator of rows of that many elements."""
    return round(math.sqrt(count) * 2.0**(DEVIATIONS + ROOT_PLACES + QUOTIENT_PLACES))


def layer_norm(x: np.ndarray, epsilon: int = 1) -> np.ndarray:
    """2^10 (x - mean) / deviation over the last axis; int64."""
    count = x.shape[-1]
    mean = (x.sum(-1, keepdims=True, dtype=np.int64) + count // 2) // count
    y = x.astype(np.int64) - mean
    k = isqrt(((y * y).sum(-1, keepdims=True) + epsilon) << 2 * ROOT_PLACES)
    f = np.minimum(layer_norm_root(count) // k, INT32.max)
    return requantize(y, f, QUOTIENT_PLACES, 0, INT32.min, INT32.max)


def exponentials(step: float, largest: int, size: int) -> np.ndarray:
    """largest exp(-step n), rounded to int32; the last entry, which stands for all beyond, is 0."""
    values = np.rint(largest * np.exp(-step * np.arange(size)))
    values[-1] = 0
    return values.astype(np.int32)


def softmax(x: np.ndarray, table: np.ndarray, radix: int, numerator: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(high, low, r): see IntegerSoftmax."""
    below = x.max(-1, keepdims=True).astype(np.int64) - x
    e = table[np.minimum(below, len(table) - 1)]
    r = np.minimum(numerator // e.sum(-1, keepdims=True, dtype=np.int64), INT32.max)
    return (e // radix).astype(np.uint8), (e % radix).astype(np.uint8), r.astype(np.int32)


def gelu_constants(scale: float) -> tuple[int, int]:
    """(one, bits) of IntegerGelu for steps of `scale`."""
    one = math.ceil(1 / (1.702 * scale))
    return one, min(16, 22 - math.ceil(math.log2(one)))


def gelu(x: np.ndarray, one: int, bits: int) -> np.ndarray:
    """x sigmoid(1.702 x) in steps 256 times finer than x's; int64. ShiftExp(-|x|) is 2^-q (1 - w / 2), q + w = 1.4375 |x|."""
    a = np.abs(x.astype(np.int64))
    near = np.minimum(a + (a + 1) // 2 - (a + 15) // 16, bits * one)
    q, w = near // one, near % one
    e, full = (one - (w + 1) // 2) << (bits - q), one << bits
    return x * (np.where(x > 0, full, e) * 256 // (full + e))
