"""Scaled dot-product attention, ONNX's `Attention` (opset 23 on), as one kernel: family `attention`.

Queries, keys and values are read through expressions, so heads may lie in any order; what is masked is an additive expression.
"""

from __future__ import annotations

import math

import numpy as np

from ...schedules.expr import Expr, all_of, cast, const, indices, maximum, minimum, select, var
from .registry import ANCHOR, Anchor, Context, Output, lowering
from .tensor import Tensor


@lowering("Attention", kind=ANCHOR, rereads=True)
def attention(ctx: Context) -> Anchor:
    """Q [b, hq, q, d] or [b, q, hq d]; K, V likewise with hk heads, hq a multiple of hk (each serves neighbouring query heads);
    mask, broadcast to [b, hq, q, k], is additive or, boolean, true where a query may look; past keys and values go in front;
    nonpad_kv_seqlen [b] counts the valid keys. A query that may look nowhere gets zeros."""
    _refuse_what_is_expanded(ctx)
    q, k, v = (_heads(ctx, n, "q_num_heads" if n == 0 else "kv_num_heads") for n in range(3))
    if ctx.has(4):
        k, v = _behind(ctx.input(4), k), _behind(ctx.input(5), v)
    (batch, heads, nq, d), nk, dv = q.shape, k.shape[2], v.shape[3]
    shared = heads // k.shape[1]
    b, h, i, j, r = *indices(4), var("r0")
    head = h // shared if shared > 1 else h
    params = {"batch": batch, "heads": heads, "nq": nq, "nk": nk, "d": d, "dv": dv, "causal": 0,
              "scale": float(ctx.attr("scale") or 1 / math.sqrt(d))}
    operands = {"q": q.at((b, h, i, r)), "k": k.at((b, head, i, r)), "v": v.at((b, head, i, r))}
    plain_causal = bool(ctx.attr("is_causal", 0)) and not ctx.has(4) and not ctx.has(6)
    mask = _mask(ctx, nq, nk, 0 if plain_causal else ctx.attr("is_causal", 0))
    if plain_causal:
        params["causal"] = 1
    if mask is not None:
        operands["mask"] = mask
    out = ctx.output_shape()
    index = (b, h, i, j) if len(out) == 4 else (b, i, h * dv + j)
    value = cast(var("acc", "float32"), ctx.output_dtype())
    return Anchor("attention", (batch, heads, nq, dv), (Output(index, value),), params,
                  {name: cast(e, "float32") for name, e in operands.items()})


def _refuse_what_is_expanded(ctx: Context) -> None:
    """Rare forms, which the pass ExpandFunctions writes out in pieces."""
    outputs = [v for v in ctx.node.outputs[1:] if v.name]
    if ctx.attr("softcap", 0.0):
        ctx.refuse("attention with softcap has no kernel", "expand it into matmuls and softmax")
    if outputs:
        ctx.refuse("attention that also returns keys, values or scores has no kernel", "expand it into matmuls and softmax")
    if ctx.input(0).dtype not in ("float32", "float16"):
        ctx.refuse(f"attention in {ctx.input(0).dtype} has no kernel", "expand it into matmuls and softmax")


def _heads(ctx: Context, n: int, count: str) -> Tensor:
    """Input n as [batch, heads, positions, size]."""
    t = ctx.input(n)
    if len(t.shape) == 4:
        return t
    b, positions, width = t.shape
    heads = ctx.attr(count)
    size = width // heads
    return Tensor((b, heads, positions, size), t.dtype, lambda i: t.at((i[0], i[2], i[1] * size + i[3])))


def _behind(past: Tensor, new: Tensor) -> Tensor:
    """Keys or values behind those of earlier steps."""
    n, m = past.shape[2], new.shape[2]
    if n == 0:
        return new

    def element(i: tuple[Expr, ...]) -> Expr:
        before = past.at((i[0], i[1], minimum(i[2], n - 1), i[3]))
        after = new.at((i[0], i[1], maximum(i[2] - n, 0), i[3]))
        return select(i[2] < n, before, after)

    return Tensor((*new.shape[:2], n + m, new.shape[3]), new.dtype, element)


def _mask(ctx: Context, nq: int, nk: int, causal: int) -> Expr | None:
    """What is added to the score of query i2 and key i3; None where that is nothing.

    Query i stands at position i + offset among the keys, offset being what earlier steps left."""
    b, h, i, j = indices(4)
    parts: list[Expr] = []
    allowed: list[Expr] = []
    if ctx.has(3):
        t = ctx.input(3)
        size = t.shape[-1]
        if size < nk:       # keys behind the end of the mask are masked
            allowed.append(j < size)
        here = t.broadcast_at((b, h, i, minimum(j, size - 1) if size < nk else j))
        if t.dtype == "bool":
            allowed.append(here)
        else:
            parts.append(cast(here, "float32"))
    offset: Expr | int = ctx.input(4).shape[2] if ctx.has(4) else 0
    if ctx.has(6):
        valid = cast(ctx.input(6).at((b,)), "int32")
        allowed.append(j < valid)
        offset = valid - nq
    place = i + offset
    left, right = ctx.attr("left_window_size", -1), ctx.attr("right_window_size", -1)
    if causal:
        allowed.append(j <= place)
    if left >= 0:
        allowed.append(place - left <= j)
    if right >= 0:
        allowed.append(j <= place + right)
    if allowed:
        return select(all_of(allowed), parts[0] if parts else const(0.0, "float32"), const(-np.inf, "float32"))
    return parts[0] if parts else None
