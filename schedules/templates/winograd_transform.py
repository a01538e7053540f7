"""The transforms of Winograd convolution F(m x m, 3x3), m = 2 or 4 (Cook-Toom; Lavin & Gray 2015, section 4).

    Y = A^T [(G g G^T) * (B^T d B)] A       d: m+2 x m+2 of input, g: 3x3 of weights, Y: m x m of output

Interpolation points of m = 4: 0, +-3/4, +-3/2 and infinity, which err a third to a fifth as much as the usual 0, +-1, +-2.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

PrimExpr = Any
Line = Sequence[PrimExpr]

P, Q = 3 / 4, 3 / 2
POINTS = {2: (0.0, 1.0, -1.0), 4: (0.0, P, -P, Q, -Q)}


def weight_matrix(m: int) -> np.ndarray:
    """G, float64 [m+2][3]; its last row is the point at infinity."""
    rows = [np.array([1, x, x * x]) / np.prod([x - y for y in POINTS[m] if y != x]) for x in POINTS[m]]
    return np.array([*rows, [0, 0, 1]])


def plane(load: Callable[[int, int], PrimExpr], size: int, line: Callable[[Line], list[PrimExpr]]) -> list[list[PrimExpr]]:
    """L D L^T as rows, where line(x) is L x and load(i, j) gives D, size x size: columns first, then rows."""
    from ..tir import T

    columns = [[T.Bind(v) for v in line([T.Bind(load(i, j)) for i in range(size)])] for j in range(size)]
    return [line(row) for row in zip(*columns, strict=True)]


def input_line(d: Line, n: int) -> list[PrimExpr]:
    """B^T d for m+2 vectors of n lanes; the points +x and -x share their even and odd parts."""
    from ..tir import T, splat

    if len(d) == 4:
        return [d[2] - d[0], d[1] + d[2], d[2] - d[1], d[3] - d[1]]

    def times(c: float, v: PrimExpr) -> PrimExpr:
        return splat(c, n) * v

    even_p, even_q = T.Bind(d[4] - times(Q * Q, d[2])), T.Bind(d[4] - times(P * P, d[2]))
    odd_p, odd_q = T.Bind(times(P, d[3] - times(Q * Q, d[1]))), T.Bind(times(Q, d[3] - times(P * P, d[1])))
    ends = [times(P * P * Q * Q, d[i]) + d[i + 4] - times(P * P + Q * Q, d[i + 2]) for i in (0, 1)]
    return [ends[0], even_p + odd_p, even_p - odd_p, even_q + odd_q, even_q - odd_q, ends[1]]


def output_line(x: Line, n: int) -> list[PrimExpr]:
    """A^T x: m+2 vectors of n lanes -> m."""
    from ..tir import T, splat

    if len(x) == 4:
        return [x[0] + x[1] + x[2], x[1] - x[2] + x[3]]

    def mix(p: float, u: PrimExpr, q: float, v: PrimExpr) -> PrimExpr:
        return splat(p, n) * u + splat(q, n) * v

    a, b, c, d = (T.Bind(v) for v in (x[1] + x[2], x[1] - x[2], x[3] + x[4], x[3] - x[4]))
    return [x[0] + a + c, mix(P, b, Q, d), mix(P * P, a, Q * Q, c), mix(P**3, b, Q**3, d) + x[5]]
