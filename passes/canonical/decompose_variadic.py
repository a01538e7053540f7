"""Ops of many inputs become chains of two."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from ..base import Builder, NodePass, Stage, shape

PAIRWISE = {"Sum": "Add", "Mean": "Add", "Max": "Max", "Min": "Min"}


class DecomposeVariadic(NodePass):
    """Sum(a, b, c) becomes Add(Add(a, b), c); Mean the same times 1/n; Max and Min of more than two a chain of two."""

    stage = Stage.CANONICAL
    ops = frozenset(PAIRWISE)

    def rewrite(self, node: ir.Node, model: ir.Model) -> bool:
        n = len(node.inputs)
        if n < 2 or (n == 2 and node.op_type in ("Max", "Min")) or any(shape(v) is None for v in node.inputs):
            return False
        build, value = Builder(node, model), node.inputs[0]
        for other in node.inputs[1:]:
            dims = np.broadcast_shapes(shape(value) or (), shape(other) or ())
            value = build.make(PAIRWISE[node.op_type], value, other, shape=dims)
        if node.op_type == "Mean":
            value = build.make("Mul", value, build.number(1 / n))
        build.put(value)
        return True
