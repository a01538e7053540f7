"""Layer normalisation in pieces."""

from __future__ import annotations

import onnx_ir as ir

from ..base import NodePass, Stage, op, replace, shape
from .moments import affine, centred, mean_axes, normalized, trailing


class FuseLayerNorm(NodePass):
    """(x - mean) / sqrt(mean((x - mean)^2) + eps), with or without a constant scale and bias, over the last axes, becomes
    LayerNormalization. (Ba, Kiros and Hinton, "Layer normalization", 2016, section 3.)"""

    stage = Stage.FUSE
    ops = frozenset({"Div", "Mul"})

    def rewrite(self, node: ir.Node, model: ir.Model) -> bool:
        found = normalized(node)
        parts = centred(found.d) if found is not None else None
        if found is None or parts is None:
            return False
        x, sub, mean = parts
        again = centred(found.squared)              # x - mean may be written twice
        if again is None or again[0] is not x or mean_axes(mean) != found.axes or mean_axes(again[2]) != found.axes:
            self.miss(node, "the mean and the variance are not those of one value")
            return False
        inside = {node, found.square, sub, again[1]}
        if any(v.is_graph_output() or not {user for user, _ in v.uses()} <= inside
               for v in (found.d, found.squared, sub.inputs[1], again[1].inputs[1]) if v is not None):
            self.miss(node, "the mean or the centred value is read elsewhere too")
            return False
        dims = shape(x)
        if dims is None or not trailing(found.axes, len(dims)):
            self.miss(node, "the normalised axes are not the last ones")
            return False
        k = len(found.axes)
        last, scale, bias = affine(model, node, dims[-k:], offset=True)
        y = last.outputs[0]
        new = op("LayerNormalization", [x, scale] if bias is None else [x, scale, bias], y, name=y.name or "layer_norm",
                 axis=-k, epsilon=found.epsilon)
        replace(last, [new], new.outputs[0])
        return True
