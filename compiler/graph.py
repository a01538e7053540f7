"""A networkx view of the graph, for the questions that partition asks: who uses a value, what depends on what."""

from __future__ import annotations

from collections.abc import Iterator

import networkx as nx
import onnx_ir as ir


class GraphView:
    """Nodes of the model's graph and the values between them. The model must not change while it is looked at."""

    def __init__(self, model: ir.Model) -> None:
        self.nodes: list[ir.Node] = list(model.graph)
        self.place = {n: i for i, n in enumerate(self.nodes)}
        self.outputs = set(model.graph.outputs)
        self.edges = nx.DiGraph()
        self.edges.add_nodes_from(self.nodes)
        for node in self.nodes:
            for value in node.inputs:
                producer = value.producer() if value is not None else None
                if producer in self.place:
                    self.edges.add_edge(producer, node)

    def consumers(self, value: ir.Value) -> list[ir.Node]:
        """Each node of the graph that reads the value, once, in order (a branch that was dropped may still name it)."""
        return sorted({use.node for use in value.uses() if use.node in self.place}, key=self.place.__getitem__)

    def descendants(self, node: ir.Node) -> set[ir.Node]:
        return nx.descendants(self.edges, node)

    def between(self, source: ir.Node, sinks: set[ir.Node]) -> set[ir.Node]:
        """Every node on a path from `source` to a node of `sinks`, both ends excluded."""
        up: set[ir.Node] = set()
        for s in sinks:
            up |= nx.ancestors(self.edges, s)
        return (self.descendants(source) & up) - sinks


def used_values(node: ir.Node) -> Iterator[ir.Value]:
    return (v for v in node.inputs if v is not None)
