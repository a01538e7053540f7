"""Who stores a value and who reads it in which order of axes, once the graph's own Transposes are seen as mere views."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass

import onnx_ir as ir

from ..base import attr, constant, shape
from .forms import Form, asks, form, frame
from .perms import Perm, channels_last, compose, identity, inverse


@dataclass(frozen=True, eq=False)
class Read:
    """A node (None: the graph's outputs) reads `root` with its axes in order `plain`; `other` if it takes its other form."""

    reader: ir.Node | None
    index: int
    root: ir.Value
    plain: Perm
    other: Perm


class Views:
    """Every value as a transposed view of a value that some other op makes (its root).

    A Transpose stays an op of its own where its shape is unknown or a subgraph reads it.
    """

    def __init__(self, graph: ir.Graph) -> None:
        self.graph = graph
        self.of: dict[ir.Value, tuple[ir.Value, Perm]] = {}
        self.transposes: list[ir.Node] = []
        for node in graph:
            dims = shape(node.inputs[0]) if node.op_type == "Transpose" and node.domain == "" else None
            if dims is not None and node.inputs[0] is not None and not captured(node, graph):
                root, order = self.root(node.inputs[0], len(dims))
                self.of[node.outputs[0]] = root, compose(order, _perm(node))
                self.transposes.append(node)
        self._dissolved = set(self.transposes)

    def root(self, value: ir.Value, rank: int) -> tuple[ir.Value, Perm]:
        return self.of.get(value, (value, identity(rank)))

    def nodes(self) -> Iterator[ir.Node]:
        """The nodes that are no views."""
        return (node for node in self.graph if node not in self._dissolved)

    def forms(self) -> dict[ir.Node, Form]:
        """The other form of every node that can take part in an island of channels-last ops.

        Orders spread from the ops on maps in both directions; the nearest one decides. Only then do they pass Transposes, so
        that in a channel shuffle, [N, g, c, H, W] -> [N, c, g, H, W], each side is asked by its own neighbours.
        """
        found: dict[ir.Node, Form] = {}
        near: deque[tuple[ir.Value, Perm]] = deque()
        far: deque[tuple[ir.Value, Perm]] = deque()
        seen: set[ir.Value] = set()

        def adopt(node: ir.Node, value: ir.Value, order: Perm) -> None:
            of = None if node in found or node in self._dissolved or captured(node, self.graph) else frame(node, value, order)
            new = form(node, of) if of is not None else None
            if new is None:
                return
            found[node] = new
            near.extend((v, p) for v, p in zip(node.outputs, new.outputs, strict=True))
            for i, p in new.inputs.items():
                v = node.inputs[i]
                if v is not None and len(shape(v) or ()) == len(p):
                    near.append((v, p))

        for node in self.nodes():
            if asks(node) and (x := node.inputs[0]) is not None:
                adopt(node, x, channels_last(len(shape(x) or ())))
        while near or far:
            value, order = near.popleft() if near else far.popleft()
            if value in seen or order == identity(len(order)) or constant(value) is not None:
                continue
            seen.add(value)
            neighbours = [value.producer(), *(user for user, _ in value.uses())]
            for node in (n for n in neighbours if n is not None and n.graph is self.graph):
                if node in self._dissolved:
                    x, y, perm = node.inputs[0], node.outputs[0], _perm(node)
                    assert x is not None
                    far.append((x, compose(perm, order)) if value is y else (y, compose(inverse(perm), order)))
                else:
                    adopt(node, value, order)
        return found

    def reads(self, forms: dict[ir.Node, Form]) -> Iterator[Read]:
        """Every reading of a value that is no constant."""
        for node in self.nodes():
            other = forms[node].inputs if node in forms else {}
            for i, value in enumerate(node.inputs):
                if value is not None and constant(value) is None:
                    yield self._read(node, i, value, other.get(i))
        for i, value in enumerate(self.graph.outputs):
            yield self._read(None, i, value, None)

    def _read(self, node: ir.Node | None, i: int, value: ir.Value, other: Perm | None) -> Read:
        rank = len(value.shape) if value.shape is not None else 0
        root, order = self.root(value, rank)
        # An input of lower rank than the output that it broadcasts to is read as it is, then given axes.
        return Read(node, i, root, order, compose(order, other) if other is not None and len(other) == rank else order)


def captured(node: ir.Node, graph: ir.Graph) -> bool:
    """Does a subgraph read an output of the node?"""
    return any(user.graph is not graph for v in node.outputs for user, _ in v.uses())


def _perm(transpose: ir.Node) -> Perm:
    return tuple(attr(transpose, "perm") or reversed(range(len(shape(transpose.inputs[0]) or ()))))
