"""Products with a binary operand (ShiftAddViT: You et al., NeurIPS 2023): sums under a mask.

They are matrix products of floats all the same: a fused multiply-add takes no longer than an addition, and an addition under a
mask takes a comparison more. On Zen 5 the same register tile took, with multiply-adds of the mask as floats and with masked
additions: 20 and 31 us (3 heads of 197x64 by 64x64), 21 and 38 us (64x197 by 197x64), 1.18 and 1.87 ms (512x512x512).
"""

from __future__ import annotations

from ...schedules.expr import cast
from .matmul import product, stacked
from .registry import ANCHOR, Anchor, Context, lowering
from .tensor import Tensor


@lowering("MatAdd", kind=ANCHOR, rereads=True, domain="burnish")
def mat_add(ctx: Context) -> Anchor:
    """M [..., m, k] of zeros and ones (bool or any number), V [..., k, n]: the sum over k of V where M is one. The mask becomes
    floats where the kernel reads it, a block of rows at a time."""
    mask, values, out = ctx.input(0), ctx.input(1), ctx.output_shape()
    if min(len(mask.shape), len(values.shape)) < 2:
        return ctx.refuse("a mask or values of rank 1", "give them an axis of size 1")
    m, v = stacked(ctx, 0, out[:-2]), stacked(ctx, 1, out[:-2], right=True)
    return product(ctx, Tensor(m.shape, values.dtype, lambda index: cast(m.at(index), values.dtype)), v, out)
