"""Matrix products. float32 takes the family `gemm`: a constant right side is packed when the model is compiled, a computed one
(attention's, say) is read through an expression, so that the Transpose, Reshape or Slice in front of it costs nothing. All other
types, and single columns, are sums in `rows`.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from ...schedules.expr import Expr, cast, indices, var
from .coded import coded
from .coded import product as coded_product
from .registry import ANCHOR, Anchor, Context, Output, lowering
from .rows import Rows, result, wide
from .sparsity import pattern
from .tensor import Tensor, reindex

Combine = Callable[[Expr, tuple[Expr, ...]], Expr]      # (sum, index into the output) -> element of the output


@lowering("MatMul", kind=ANCHOR, rereads=True)
def matmul(ctx: Context) -> Anchor:
    """numpy's matmul: A [..., m, k], B [..., k, n], either of them a vector."""
    a, b, out = ctx.input(0), ctx.input(1), ctx.output_shape()
    k, n = a.shape[-1], b.shape[-1] if len(b.shape) > 1 else 1
    if math.prod(b.shape[:-2]) == 1:    # one matrix for all rows of A
        weights = coded(ctx, 1, -1) if len(b.shape) == 2 and n > 1 and a.dtype == "float32" and a.size and b.size else None
        if weights is not None:
            return coded_product(ctx, ctx.view(0, (1, math.prod(a.shape[:-1]), k)), weights, out)
        known = ctx.array(1)
        return product(ctx, ctx.view(0, (1, math.prod(a.shape[:-1]), k)), ctx.view(1, (1, k, n)), out,
                       known=None if known is None else known.reshape(k, n))
    batch = out[:len(out) - (2 if len(a.shape) > 1 else 1)]
    return product(ctx, stacked(ctx, 0, batch), stacked(ctx, 1, batch, right=True), out)


@lowering("Gemm", kind=ANCHOR, rereads=True)
def general_matmul(ctx: Context) -> Anchor:
    """alpha A' B' + beta C, with A' and B' transposed if so said and C broadcast to the result."""
    a, b, known = (_matrix(ctx.input(0), ctx.attr("transA", 0)), _matrix(ctx.input(1), ctx.attr("transB", 0)), ctx.array(1))
    if known is not None and ctx.attr("transB", 0):
        known = known.T

    def combine(acc: Expr, at: tuple[Expr, ...]) -> Expr:
        value = _scaled(acc, ctx.attr("alpha", 1.0))
        if not ctx.has(2):
            return value
        return value + _scaled(cast(ctx.input(2).broadcast_at(at), acc.dtype), ctx.attr("beta", 1.0))

    return product(ctx, a, b, ctx.output_shape(), combine, known)


def product(ctx: Context, x: Tensor, w: Tensor, out: tuple[int, ...], combine: Combine = lambda acc, at: acc,
            known: np.ndarray | None = None) -> Anchor:
    """x [batch, m, k] times w [batch, k, n], each element through `combine` into an output of shape `out`.
    known: the value [k, n] of a constant w (then batch is 1)."""
    batch, m, k = x.shape
    n, (b, row, column), r = w.shape[2], indices(3), var("r0")
    index = reindex((b, row, column), (batch, m, n), out)
    if x.dtype != "float32" or n == 1 or 0 in (x.size, w.size):
        rows, dtype = Rows((batch, m, n), (k,), "reduce" if n == 1 else "space"), wide(x.dtype)
        stage = rows.stage("sum", lambda i, s: cast(x.at((i[0], i[1], s[0])), dtype) * cast(w.at((i[0], s[0], i[2])), dtype))
        return rows.anchor([stage], Output(index, cast(combine(result(0, dtype), index), x.dtype)))
    params, operands = {"batch": batch, "m": m, "n": n, "k": k}, {"x": x.at((b, row, r))}
    if known is None:
        operands["w"] = w.at((b, r, column))
    else:
        params |= {"w": ctx.weight(known), **pattern(known, step=1, scattered=True)}
    return Anchor("gemm", (batch, m, n), (Output(index, combine(var("acc", "float32"), index)),), params, operands)


def stacked(ctx: Context, n: int, batch: tuple[int, ...], right: bool = False) -> Tensor:
    """Input n as a matmul's [product of batch, rows, columns], broadcast to the batch; a vector is one row or, right, column."""
    t, count = ctx.input(n), math.prod(batch)
    matrix = t.shape[-2:] if len(t.shape) > 1 else (*t.shape, 1) if right else (1, *t.shape)
    if t.size == count * math.prod(matrix):
        return ctx.view(n, (count, *matrix))

    def element(index: tuple[Expr, ...]) -> Expr:
        if len(t.shape) == 1:
            return t.at((index[1 if right else 2],))
        return t.broadcast_at((*reindex(index[:1], (count,), batch), *index[1:]))

    return Tensor((count, *matrix), t.dtype, element)


def _matrix(t: Tensor, transposed: int) -> Tensor:
    """A matrix as a stack of one."""
    rows, columns = reversed(t.shape) if transposed else t.shape
    return Tensor((1, rows, columns), t.dtype, lambda i: t.at((i[2], i[1]) if transposed else (i[1], i[2])))


def _scaled(value: Expr, by: float) -> Expr:
    return value if by == 1 else value * by
