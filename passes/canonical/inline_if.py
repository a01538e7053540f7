"""Branches that are decided already."""

from __future__ import annotations

from collections.abc import Sequence

import onnx_ir as ir

from ..base import NodePass, Stage, constant, replace_all


class InlineIf(NodePass):
    """If(constant) becomes the nodes of the branch taken."""

    stage = Stage.CANONICAL
    ops = frozenset({"If"})

    def rewrite(self, node: ir.Node, model: ir.Model) -> bool:
        condition = constant(node.inputs[0])
        if condition is None:
            self.miss(node, "the condition is computed at run time")
            return False
        branch = node.attributes["then_branch" if condition.reshape(()).item() else "else_branch"].as_graph()
        splice(branch, list(branch.outputs), node, model)
        return True


def splice(body: ir.Graph, results: Sequence[ir.Value | None], node: ir.Node, model: ir.Model) -> None:
    """Moves the nodes and constants of `body` to where `node` stands, and lets `results` be the outputs of the node.

    The inputs of `body` have been replaced already. New names start with the node's.
    """
    body.outputs.clear()
    prefix = node.name or node.op_type
    for name, value in list(body.initializers.items()):
        del body.initializers[name]
        value.name = fresh = f"{prefix}/{name}"
        n = 0
        while value.name in model.graph.initializers:
            n += 1
            value.name = f"{fresh}_{n}"
        model.graph.register_initializer(value)
    nodes = list(body)
    body.remove(nodes)
    for inner in nodes:
        inner.name = f"{prefix}/{inner.name or inner.op_type}"
        for value in inner.outputs:
            if value.name:
                value.name = f"{prefix}/{value.name}"
    replace_all(node, nodes, results)
