"""Softmax in pieces."""

from __future__ import annotations

import onnx_ir as ir

from ..base import NodePass, Stage, attr, constant, maker, op, replace, shape
from .algebra import inner


class FuseSoftmax(NodePass):
    """exp(x - max x) / sum exp(x - max x) along one axis becomes Softmax; so does the form without the maximum, whose only
    difference is that it overflows."""

    stage = Stage.FUSE
    ops = frozenset({"Div", "Mul"})

    def rewrite(self, node: ir.Node, model: ir.Model) -> bool:
        for e, total in ((node.inputs[0], node.inputs[1]), (node.inputs[1], node.inputs[0])):
            if node.op_type == "Mul":
                reciprocal = inner(total, "Reciprocal")
                total = reciprocal.inputs[0] if reciprocal is not None else None
            exp, sums = maker(e, "Exp"), inner(total, "ReduceSum")
            if exp is None or sums is None or sums.inputs[0] is not e or e is None:
                continue
            axis = _axis(sums)
            if axis is None:
                self.miss(node, "the sum is not along one kept axis")
                return False
            if e.is_graph_output() or {user for user, _ in e.uses()} != {node, sums}:
                self.miss(node, "the exponentials are read elsewhere too")
                return False
            y, x = node.outputs[0], _before_maximum(exp.inputs[0], axis)
            new = op("Softmax", [x], y, name=y.name or "softmax", axis=axis)
            replace(node, [new], new.outputs[0])
            return True
        return False


def _before_maximum(value: ir.Value | None, axis: int) -> ir.Value | None:
    sub = maker(value, "Sub")
    largest = maker(sub.inputs[1], "ReduceMax") if sub is not None else None
    if sub is None or largest is None or largest.inputs[0] is not sub.inputs[0] or _axis(largest) != axis:
        return value
    return sub.inputs[0]


def _axis(reduction: ir.Node) -> int | None:
    """The only axis of a reduction that keeps it."""
    axes, dims = constant(reduction.inputs[1]) if len(reduction.inputs) > 1 else None, shape(reduction.inputs[0])
    if axes is None or axes.size != 1 or dims is None or attr(reduction, "keepdims", 1) != 1:
        return None
    return int(axes.reshape(())) % len(dims)
