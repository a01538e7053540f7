"""Pools over the whole image are reductions."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from ..base import NodePass, Stage, attr, initializer, op, replace, shape


class DecomposePools(NodePass):
    """GlobalAveragePool(x) becomes ReduceMean(x, axes 2…), GlobalMaxPool ReduceMax, GlobalLpPool of p = 1, 2 ReduceL1, ReduceL2;
    AveragePool and MaxPool whose window is the whole unpadded image likewise."""

    stage = Stage.CANONICAL
    ops = frozenset({"GlobalAveragePool", "GlobalMaxPool", "GlobalLpPool", "AveragePool", "MaxPool"})

    def rewrite(self, node: ir.Node, model: ir.Model) -> bool:
        x, y = node.inputs[0], node.outputs[0]
        dims = shape(x)
        if dims is None or len(dims) < 3 or len(node.outputs) > 1:
            return False
        if node.op_type == "GlobalLpPool":
            p = attr(node, "p", 2)
            if p not in (1, 2):
                self.miss(node, f"p = {p}")
                return False
            kind = f"ReduceL{p}"
        else:
            kind = "ReduceMean" if "Average" in node.op_type else "ReduceMax"
        if not node.op_type.startswith("Global") and (
                tuple(attr(node, "kernel_shape")) != dims[2:] or any(attr(node, "pads", [])) or "auto_pad" in node.attributes
                or any(d != 1 for d in attr(node, "dilations", [])) or any(d != 1 for d in (shape(y) or (0,))[2:])):
            return False
        axes = initializer(model, np.arange(2, len(dims)), f"{y.name}_axes")
        new = op(kind, [x, axes], y, name=y.name or "pool", keepdims=1)
        replace(node, [new], new.outputs[0])
        return True
