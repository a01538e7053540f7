"""What partition asks of the graph: its nodes in order, and who reads a value."""

from __future__ import annotations

from collections.abc import Iterator

import onnx_ir as ir


class GraphView:
    """The nodes of the model's graph that its outputs depend on, and the values between them. The model must not change while it
    is looked at."""

    def __init__(self, model: ir.Model) -> None:
        self.outputs = set(model.graph.outputs)
        live: set[ir.Node] = set()
        for node in reversed(model.graph):
            if any(v in self.outputs or any(use.node in live for use in v.uses()) for v in node.outputs):
                live.add(node)
        self.nodes: list[ir.Node] = [n for n in model.graph if n in live]
        self.place = {n: i for i, n in enumerate(self.nodes)}

    def consumers(self, value: ir.Value) -> list[ir.Node]:
        """Each node that reads the value, once, in order (a branch that was dropped may still name it)."""
        return sorted({use.node for use in value.uses() if use.node in self.place}, key=self.place.__getitem__)

    def producer(self, value: ir.Value) -> ir.Node | None:
        """The node of the graph that makes the value; None for an input or a constant."""
        node = value.producer()
        return node if node is not None and node in self.place else None

    def is_used(self, value: ir.Value) -> bool:
        return value in self.outputs or bool(self.consumers(value))


def used_values(node: ir.Node) -> Iterator[ir.Value]:
    return (v for v in node.inputs if v is not None)
