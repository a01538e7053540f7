"""RMS normalisation in pieces."""

from __future__ import annotations

import onnx_ir as ir

from ..base import NodePass, Stage, op, replace, shape
from .moments import affine, normalized, trailing


class FuseRMSNorm(NodePass):
    """x / sqrt(mean(x^2) + eps), with or without a constant scale, over the last axes, becomes RMSNormalization. Runs after
    FuseLayerNorm, which ends alike. (Zhang and Sennrich, "Root mean square layer normalization", 2019, equation 4.)"""

    stage = Stage.FUSE
    ops = frozenset({"Div", "Mul"})

    def rewrite(self, node: ir.Node, model: ir.Model) -> bool:
        found = normalized(node)
        if found is None:
            return False
        if found.squared is not found.d:
            self.miss(node, "the root mean square is that of another value")
            return False
        dims = shape(found.d)
        if dims is None or not trailing(found.axes, len(dims)):
            self.miss(node, "the normalised axes are not the last ones")
            return False
        k = len(found.axes)
        last, scale, _ = affine(model, node, dims[-k:], offset=False)
        y = last.outputs[0]
        new = op("RMSNormalization", [found.d, scale], y, name=y.name or "rms_norm", axis=-k, epsilon=found.epsilon)
        replace(last, [new], new.outputs[0])
        return True
