"""Group normalisation in pieces."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from ..base import NodePass, Stage, attr, constant, initializer, maker, only_use, op, replace, shape
from .algebra import inner


class FuseGroupNorm(NodePass):
    """Reshape [N, C, …] -> [N, G, …], InstanceNormalization with scale 1 and bias 0, Reshape back, with or without a constant
    scale and bias by channel, becomes GroupNormalization. (Wu and He, "Group normalization", 2018, section 3.1.)"""

    stage = Stage.FUSE
    ops = frozenset({"InstanceNormalization"})

    def rewrite(self, node: ir.Node, model: ir.Model) -> bool:
        before, after = inner(node.inputs[0], "Reshape"), only_use(node.outputs[0])
        if before is None or before.inputs[0] is None or after is None or after.op_type != "Reshape" or after.domain != "":
            return False
        x, scale, bias = before.inputs[0], constant(node.inputs[1]), constant(node.inputs[2])
        dims, grouped = shape(x), shape(node.inputs[0])
        if dims is None or grouped is None or dims != shape(after.outputs[0]) or len(dims) < 3 or dims[0] != grouped[0]:
            return False
        channels, groups = dims[1], grouped[1]
        if channels % groups:
            self.miss(node, "the groups are no groups of channels")
            return False
        if scale is None or bias is None or np.any(scale != 1) or np.any(bias != 0):
            self.miss(node, "the groups have a scale or bias of their own")
            return False
        last, gamma = _by_channel(after, "Mul", dims)
        last, beta = _by_channel(last, "Add", dims)
        y, name = last.outputs[0], last.outputs[0].name or "group_norm"
        dtype = scale.dtype
        gamma = gamma if gamma is not None else np.ones(channels, dtype)
        beta = beta if beta is not None else np.zeros(channels, dtype)
        parameters = initializer(model, gamma, f"{name}_scale"), initializer(model, beta, f"{name}_bias")
        new = op("GroupNormalization", [x, *parameters], y, name=name, num_groups=groups, epsilon=attr(node, "epsilon", 1e-5))
        replace(last, [new], new.outputs[0])
        return True


def _by_channel(node: ir.Node, op_type: str, dims: tuple[int, ...]) -> tuple[ir.Node, np.ndarray | None]:
    """The Mul or Add of one number by channel that alone reads the node, and the numbers; else the node itself."""
    user = only_use(node.outputs[0])
    if user is None or user is not maker(user.outputs[0], op_type):
        return node, None
    for v, w in (user.inputs, reversed(user.inputs)):
        array = constant(w)
        if v is not node.outputs[0] or array is None or array.ndim > len(dims):
            continue
        array = array.reshape((1,) * (len(dims) - array.ndim) + array.shape)
        if array.size == array.shape[1] and array.shape[1] in (1, dims[1]):
            return user, np.ascontiguousarray(np.broadcast_to(array.reshape(-1), dims[1:2]))
    return node, None
