"""Ops of many inputs become chains of two."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from ..base import NodePass, Stage, initializer, op, replace, shape

PAIRWISE = {"Sum": "Add", "Mean": "Add", "Max": "Max", "Min": "Min"}


class DecomposeVariadic(NodePass):
    """Sum(a, b, c) becomes Add(Add(a, b), c); Mean the same times 1/n; Max and Min of more than two a chain of two."""

    stage = Stage.CANONICAL
    ops = frozenset(PAIRWISE)

    def rewrite(self, node: ir.Node, model: ir.Model) -> bool:
        y, n = node.outputs[0], len(node.inputs)
        if n < 2 or (n == 2 and node.op_type in ("Max", "Min")) or y.dtype is None or any(shape(v) is None for v in node.inputs):
            return False
        new: list[ir.Node] = []
        value = node.inputs[0]
        for other in node.inputs[1:]:
            dims = np.broadcast_shapes(shape(value) or (), shape(other) or ())
            new.append(op(PAIRWISE[node.op_type], [value, other], y, name=f"{y.name}_{len(new)}", shape=dims))
            value = new[-1].outputs[0]
        if node.op_type == "Mean":
            factor = initializer(model, np.array(1 / n, y.dtype.numpy()), f"{y.name}_1_{n}")
            new.append(op("Mul", [value, factor], y, name=f"{y.name}_mean"))
            value = new[-1].outputs[0]
        assert value is not None
        replace(node, new, value)
        return True
