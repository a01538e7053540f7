"""Weights that the artifact keeps as codes: of 8 or 4 bits (DequantizeLinear of a constant) or powers of two (ShiftWeights).

Whoever multiplies by such weights takes the codes as they are (`coded`) and gives them to a template that decodes them, times
their scale: per output channel behind the sum, in blocks of the reduction within it. All others read them decoded, one by one.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from ...passes.base import attr, constant, maker
from ...passes.compress import shift
from ...schedules.affine import flat
from ...schedules.codes import decoded
from ...schedules.expr import Expr, binary, cast, const, floordiv, floormod, indices, mul, var
from .registry import INJECTIVE, Anchor, Context, Output, lowering
from .tensor import Tensor, reindex


@dataclass(frozen=True)
class Coded:
    """codes: a byte for each weight, in the weights' shape; code: what it says (schedules/codes.py); scale: [n] of each output
    channel, or [ceil(k / block), n] where there is a block: so many steps of the reduction share one."""

    codes: np.ndarray
    code: str
    scale: np.ndarray
    block: int = 0

    def params(self, ctx: Context) -> Mapping[str, Any]:
        """What a task's params say of it, beside the number of the buffer of codes."""
        blocks = {"scales": ctx.weight(self.scale)} if self.block else {}
        return {"code": self.code, "block": self.block, **blocks}

    def scaled(self, ctx: Context, total: Expr, channel: Expr) -> Expr:
        """The sum of x times codes, as the sum of x times weights."""
        return total if self.block else total * ctx.constant(self.scale).at((channel,))


def coded(ctx: Context, n: int, channel: int) -> Coded | None:
    """Input n as codes, where it is constant weights of codes; channel: the axis of its output channels."""
    if (found := shift.read(ctx.node.inputs[n])) is not None:
        terms, powers = found
        both = terms[0] if len(terms) == 1 else terms[0] | terms[1] << 4
        return Coded(both.astype(np.uint8), f"shift{len(terms)}", np.ascontiguousarray(powers.reshape(-1)))
    node = maker(ctx.node.inputs[n], "DequantizeLinear")
    if node is None:
        return None
    codes, scale, zero = (constant(node.inputs[i]) if i < len(node.inputs) else None for i in range(3))
    if codes is None or scale is None or scale.dtype != np.float32 or (len(node.inputs) > 2 and zero is None):
        return None
    axis, block, channel = attr(node, "axis", 1) % codes.ndim, attr(node, "block_size", 0), channel % codes.ndim
    values = codes.astype(np.int32)
    if zero is not None and zero.any():
        if zero.size > 1:
            return None
        values = values - zero.astype(np.int32).reshape(())
    if values.min(initial=0) < -128 or values.max(initial=0) > 127:
        return None
    count = codes.shape[channel]
    if block:
        if axis == channel or math.prod(codes.shape) != count * codes.shape[axis] or block % 2:
            return None
        scale = scale.reshape(scale.shape[axis], count) if axis < channel else scale.reshape(count, scale.shape[axis]).T
    elif scale.size == 1:
        scale = np.full(count, scale.reshape(()), np.float32)
    elif axis != channel:
        return None
    if values.min(initial=0) >= -8 and values.max(initial=0) <= 7:
        return Coded((values + 8).astype(np.uint8), "int4", np.ascontiguousarray(scale), block)
    return Coded(values.astype(np.int8), "int8", np.ascontiguousarray(scale), block)


def product(ctx: Context, x: Tensor, weights: Coded, out: tuple[int, ...]) -> Anchor:
    """x [1, m, k] times weights of codes [k, n], into an output of shape `out`."""
    (batch, m, k), n, (b, row, column) = x.shape, weights.codes.shape[-1], indices(3)
    index = reindex((b, row, column), (batch, m, n), out)
    params = {"batch": batch, "m": m, "n": n, "k": k, "w": ctx.weight(weights.codes.reshape(k, n)), **weights.params(ctx)}
    value = weights.scaled(ctx, var("acc", "float32"), column)
    return Anchor("gemm", (batch, m, n), (Output(index, value),), params, {"x": x.at((b, row, var("r0")))})


@lowering("ShiftWeights", kind=INJECTIVE, domain="burnish")
def shift_weights(ctx: Context) -> Tensor:
    """Decoded, for whoever has no kernel that does it: codes uint8 [terms, bytes], scale broadcast to the weights."""
    codes, scale, shape = ctx.input(0), ctx.input(1), ctx.output_shape()

    def term(t: int, place: Expr) -> Expr:
        byte = cast(codes.at((const(t, "int32"), floordiv(place, 2))), "int32")
        return decoded("shift1", binary("shr", byte, mul(floormod(place, 2), 4)))

    def element(index: tuple[Expr, ...]) -> Expr:
        place = flat(index, shape)
        terms = [term(t, place) for t in range(codes.shape[0])]
        return sum(terms[1:], terms[0]) * scale.broadcast_at(index)

    return Tensor(shape, "float32", element)
