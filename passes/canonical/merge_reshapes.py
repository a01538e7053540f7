"""One op for every change of shape that moves no element."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from ..base import NodePass, Stage, attr, constant, initializer, maker, op, replace, shape


class MergeReshapes(NodePass):
    """Squeeze, Unsqueeze, Flatten, Expand by ones and Transpose that moves only axes of size 1 become Reshape(x, shape of y);
    0 and -1 become the dimensions that they stand for; Reshape(Reshape(x)) becomes Reshape(x).
    """

    stage = Stage.CANONICAL
    ops = frozenset({"Reshape", "Squeeze", "Unsqueeze", "Flatten", "Expand", "Transpose"})

    def rewrite(self, node: ir.Node, model: ir.Model) -> bool:
        x, y = node.inputs[0], node.outputs[0]
        before, after = shape(x), shape(y)
        if x is None or before is None or after is None:
            return False
        if node.op_type == "Expand" and int(np.prod(before)) != int(np.prod(after)):
            return False
        if node.op_type == "Transpose":
            perm = attr(node, "perm", list(range(len(before)))[::-1])
            moved = [a for a in perm if before[a] != 1]
            if moved != sorted(moved):
                return False
        first = maker(x, "Reshape")
        source = first.inputs[0] if first is not None else x
        target = constant(node.inputs[1]) if node.op_type == "Reshape" else None
        allow_zero = 1 if 0 in after else None
        if (source is x and target is not None and tuple(target) == after
                and (attr(node, "allowzero", 0) or None) == allow_zero):
            return False
        dims = initializer(model, np.array(after, np.int64), f"{y.name}_shape")
        new = op("Reshape", [source, dims], y, name=y.name or "reshape", allowzero=allow_zero)
        replace(node, [new], new.outputs[0])
        return True
