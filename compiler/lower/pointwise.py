"""Elementwise ops: one line each. Integers wrap; what ONNX leaves open (NaN in Max, shifts past the width) follows onnxruntime."""

from __future__ import annotations

from ...schedules.expr import maximum
from .registry import POINTWISE, Context, lowering
from .tensor import Tensor


@lowering("Relu", kind=POINTWISE)
def relu(ctx: Context) -> Tensor:
    return ctx.pointwise(lambda x: maximum(x, 0))
