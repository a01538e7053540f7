"""The largest or smallest elements along an axis, in order: the family `sort`.

params: `space` (extents of the independent rows), `length` (of the axis), `k` (how many are kept), `largest` (0/1). operand `x`
over i0 … and r0; s0 is the value and s1 the int32 position along the axis of rank i(len(space)). Equal values keep their order.
"""

from __future__ import annotations

from ...schedules.expr import Expr, cast, indices, var
from .registry import ANCHOR, Anchor, Context, Output, lowering


@lowering("TopK", kind=ANCHOR, rereads=True, epilogue=False)
def top_k(ctx: Context) -> Anchor:
    """Sorted, even where ONNX does not ask for it."""
    x, shape = ctx.input(0), ctx.output_shape()
    rank = len(x.shape)
    axis = ctx.attr("axis", -1) % rank
    space = (*x.shape[:axis], *x.shape[axis + 1:])
    row = indices(rank - 1)
    params = {"space": space, "length": x.shape[axis], "k": shape[axis], "largest": ctx.attr("largest", 1)}

    def place(at: Expr) -> tuple[Expr, ...]:
        return (*row[:axis], at, *row[axis:])
    at = place(var(f"i{rank - 1}"))
    outputs = (Output(at, var("s0", x.dtype)), Output(at, cast(var("s1"), "int64")))
    return Anchor("sort", (*space, shape[axis]), outputs, params, {"x": x.at(place(var("r0")))})
