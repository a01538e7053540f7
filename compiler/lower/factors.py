"""Two matrix products behind each other (burnish::FactorPair): family `pair`."""

from __future__ import annotations

import math

from ...schedules.expr import indices, var
from .registry import ANCHOR, Anchor, Context, Output, lowering
from .tensor import reindex


@lowering("FactorPair", kind=ANCHOR, rereads=True, domain="burnish")
def factor_pair(ctx: Context) -> Anchor:
    """X [..., k], A [k, r], B [r, n], C [r]: (X A + C) B. The pass that makes them (FuseFactorPair) knows A, B and C."""
    a, b, c = (ctx.known(n, what) for n, what in ((1, "the first factor"), (2, "the second factor"), (3, "what lies between")))
    source, out = ctx.input(0), ctx.output_shape()
    if source.dtype != "float32" or 0 in (source.size, a.size, b.size):
        return ctx.refuse("a pair of empty or other matrices than float32", "write it as two MatMuls")
    (k, r), n, m = a.shape, b.shape[1], math.prod(out[:-1])
    batch, row, column = indices(3)
    index = reindex((batch, row, column), (1, m, n), out)
    params = {"batch": 1, "m": m, "k": k, "r": r, "n": n, "a": ctx.weight(a), "w": ctx.weight(b),
              "c": ctx.weight(c) if c.any() else None}
    x = ctx.view(0, (1, m, k)).at((batch, row, var("r0")))
    return Anchor("pair", (1, m, n), (Output(index, var("acc", "float32")),), params, {"x": x})
