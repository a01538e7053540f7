"""SiLU in pieces."""

from __future__ import annotations

import onnx_ir as ir

from ..base import DOMAIN, NodePass, Stage, maker, op, replace, scalar
from ..functions import add_function
from .algebra import inner


class FuseSiLU(NodePass):
    """x sigmoid(x) and x / (1 + exp(-x)) become burnish::SiLU. (Elfwing, Uchibe and Doya, "Sigmoid-weighted linear units for
    neural network function approximation in reinforcement learning", 2018, equation 5.)"""

    stage = Stage.FUSE
    ops = frozenset({"Mul", "Div"})

    def rewrite(self, node: ir.Node, model: ir.Model) -> bool:
        x = self._multiplied(node) if node.op_type == "Mul" else _divided(node)
        if x is None:
            return False
        y = node.outputs[0]
        new = op("SiLU", [x], y, name=y.name or "silu", domain=DOMAIN)
        add_function(model, "SiLU")
        replace(node, [new], new.outputs[0])
        return True

    def _multiplied(self, node: ir.Node) -> ir.Value | None:
        for x, gate in ((node.inputs[0], node.inputs[1]), (node.inputs[1], node.inputs[0])):
            sigmoid = maker(gate, "Sigmoid")
            if sigmoid is not None and sigmoid.inputs[0] is x:
                if inner(gate, "Sigmoid") is not None:
                    return x
                self.miss(node, "the sigmoid is read elsewhere too")
        return None


def _divided(node: ir.Node) -> ir.Value | None:
    x, total = node.inputs[0], inner(node.inputs[1], "Add")
    if total is None:
        return None
    for i in (0, 1):
        exp = inner(total.inputs[i], "Exp")
        negative = inner(exp.inputs[0], "Neg") if exp is not None else None
        if negative is not None and negative.inputs[0] is x and scalar(total.inputs[1 - i]) == 1:
            return x
    return None
