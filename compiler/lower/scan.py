"""Cumulative sums and products along an axis: the family `scan`.

params: `space` (extents of the independent rows), `length` (of the axis), `op` (sum, prod), `exclusive`, `reverse` (0/1),
`lanes_on` ("space": the last axis of space is contiguous in memory; "axis": the scanned one is). operand `x` over i0 … and r0;
acc at i0, …, and the position along the axis as the last.
"""

from __future__ import annotations

import numpy as np

from ...schedules.expr import Expr, cast, indices, var
from .registry import ANCHOR, Anchor, Context, Output, lowering
from .rows import wide


@lowering("CumSum", "CumProd", kind=ANCHOR)
def cumulate(ctx: Context) -> Anchor:
    x = ctx.input(0)
    rank = len(x.shape)
    axis = int(np.asarray(ctx.known(1, "the axis")).reshape(())) % rank
    space = (*x.shape[:axis], *x.shape[axis + 1:])
    row, dtype = indices(rank - 1), wide(x.dtype)
    params = {"space": space, "length": x.shape[axis], "op": "sum" if ctx.op == "CumSum" else "prod",
              "exclusive": ctx.attr("exclusive", 0), "reverse": ctx.attr("reverse", 0),
              "lanes_on": "axis" if axis == rank - 1 else "space"}

    def place(row: tuple[Expr, ...], at: Expr) -> tuple[Expr, ...]:
        return (*row[:axis], at, *row[axis:])
    operand = cast(x.at(place(row, var("r0"))), dtype)
    output = Output(place(row, var(f"i{rank - 1}")), cast(var("acc", dtype), x.dtype))
    return Anchor("scan", (*space, x.shape[axis]), (output,), params, {"x": operand})
