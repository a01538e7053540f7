"""Bounds that a QuantizeLinear has anyway."""

from __future__ import annotations

import math

import onnx_ir as ir

from ..base import NodePass, Stage, maker, only_use, op, replace, scalar
from .scales import Scale


class AbsorbClip(NodePass):
    """Q(Relu(x)) and Q(Clip(x, low, high)) become Q(x) where the bounds are quantised to the least and the largest byte: rounding
    never crosses a bound. A Clip with one such bound loses that one."""

    stage = Stage.CANONICAL
    ops = frozenset({"QuantizeLinear"})

    def rewrite(self, node: ir.Node, model: ir.Model) -> bool:
        clip, scale = maker(node.inputs[0], "Relu", "Clip"), Scale.of(node)
        if clip is None or scale is None or not scale.per_tensor or only_use(clip.outputs[0]) is not node:
            return False
        least, most = (0, 255) if scale.zero.dtype.kind == "u" else (-128, 127)
        x, *bounds = clip.inputs
        low, high = (*bounds, None, None)[:2] if clip.op_type == "Clip" else (None, None)
        lowest = 0.0 if clip.op_type == "Relu" else self._bound(low, -math.inf)
        highest = self._bound(high, math.inf)
        if lowest is None or highest is None or x is None or not lowest <= highest:
            return False
        needs_low = lowest != -math.inf and scale.quantize(lowest) != least
        needs_high = highest != math.inf and scale.quantize(highest) != most
        if (needs_low or low is None) and (needs_high or high is None) and (needs_low or needs_high):
            return False        # all bounds that it has are needed
        if needs_low or needs_high:
            rest = op("Clip", [x, low if needs_low else None, high if needs_high else None][:3 if needs_high else 2], x,
                      name=f"{x.name}_bounded")
            replace(clip, [rest], rest.outputs[0])
        else:
            replace(clip, [], x)
        return True

    @staticmethod
    def _bound(value: ir.Value | None, otherwise: float) -> float | None:
        return otherwise if value is None else scalar(value)
