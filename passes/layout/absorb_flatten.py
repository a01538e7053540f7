"""The Transpose between the last map and the first fully connected layer."""

from __future__ import annotations

import math

import numpy as np
import onnx_ir as ir

from ..base import NodePass, Stage, attr, constant, initializer, maker, only_use, op, replace, shape


class AbsorbFlatten(NodePass):
    """MatMul(Reshape(Transpose(x), [rows, K]), W), W constant, becomes MatMul(Reshape(x, [rows, K]), W with its rows permuted).
    MatMulInteger likewise, unless x has a zero point for each row.

    Runs after ChannelsLast, which leaves such a Transpose where a network flattens a map, [N, C, H, W] -> [N, C H W].
    """

    stage = Stage.LAYOUT
    ops = frozenset({"MatMul", "MatMulInteger"})

    def rewrite(self, node: ir.Node, model: ir.Model) -> bool:
        flat, weight = node.inputs[0], constant(node.inputs[1])
        reshape = maker(flat, "Reshape")
        transpose = maker(reshape.inputs[0], "Transpose") if reshape is not None else None
        if flat is None or reshape is None or transpose is None or weight is None or weight.ndim != 2:
            return False
        x, dims, rows = transpose.inputs[0], shape(transpose.inputs[0]), shape(flat)
        if x is None or dims is None or rows is None or only_use(flat) is None or only_use(transpose.outputs[0]) is None:
            return False
        perm = attr(transpose, "perm") or list(range(len(dims)))[::-1]
        lead = next((n for n in range(len(dims)) if math.prod(dims[n:]) == rows[-1]), len(dims))
        if perm[:lead] != list(range(lead)) or math.prod(dims[lead:]) != rows[-1]:
            self.miss(node, "the Transpose also moves rows")
            return False
        flattened = [dims[a] for a in perm[lead:]]
        back = [perm.index(a) - lead for a in range(lead, len(dims))]
        array = weight.reshape(*flattened, -1).transpose(*back, len(back)).reshape(weight.shape)
        y = node.outputs[0]
        target = initializer(model, np.array(rows, np.int64), f"{flat.name}_shape")
        straight = op("Reshape", [x, target], flat, name=f"{flat.name}_straight")
        permuted = initializer(model, array, f"{y.name}_weight")
        new = op(node.op_type, [straight.outputs[0], permuted, *node.inputs[2:]], y, name=y.name or "matmul")
        replace(node, [straight, new], new.outputs[0])
        return True
