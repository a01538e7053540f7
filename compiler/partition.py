"""Which nodes become one kernel.

Three sweeps over the graph, each simple, in this order:
  1. every anchor takes the pointwise nodes behind it (epilogue), across diamonds that close again;
  2. every anchor takes the nodes in front of it that only it reads (prologue), where its lowering allows;
  3. what is left is gathered into generic groups, each around its last node.
Views (Reshape …) that no group took cost nothing: their output is their input's memory under another shape.
A group has one output value (unless its anchor has several), so the groups form a graph without cycles.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import onnx_ir as ir

from .graph import GraphView, used_values
from .lower.registry import LOWERINGS, Kind, Lowering, shape_of

EPILOGUE_LIMIT = 32     # nodes: longer chains are generic groups of their own
EXPENSIVE = frozenset({"Exp", "Log", "Erf", "Tanh", "Sigmoid", "Gelu", "Softplus", "Mish", "Pow", "Sqrt", "Div", "HardSwish", "Elu",
                       "Swish", "SiLU", "Sin", "Cos", "Tan", "Selu", "Celu", "Softsign"})
COPIES = frozenset({"Transpose", "Slice", "Split", "Concat", "Pad", "DepthToSpace", "SpaceToDepth", "NhwcDepthToSpace"})


@dataclass(frozen=True)
class FusedGroup:
    """Nodes that become one kernel, in topological order; `anchor` is None for a generic group."""

    nodes: tuple[ir.Node, ...]
    anchor: ir.Node | None
    outputs: tuple[ir.Value, ...]

    @property
    def inputs(self) -> tuple[ir.Value, ...]:
        inside = {v for n in self.nodes for v in n.outputs}
        return tuple(dict.fromkeys(v for n in self.nodes for v in used_values(n) if v not in inside))

    def __str__(self) -> str:
        return " + ".join(n.op_type for n in self.nodes)


@dataclass(frozen=True)
class Partition:
    """groups in an order in which they can run; aliases: value -> the value whose memory it shares."""

    groups: tuple[FusedGroup, ...]
    aliases: dict[ir.Value, ir.Value]

    def root(self, value: ir.Value) -> ir.Value:
        while value in self.aliases:
            value = self.aliases[value]
        return value


def lowering_of(node: ir.Node) -> Lowering | None:
    return LOWERINGS.get((node.domain, node.op_type))


def partition(model: ir.Model) -> Partition:
    """Every node of the graph in exactly one group, or an alias. Nodes must have a lowering."""
    return _Partitioner(model).run()


class _Partitioner:
    def __init__(self, model: ir.Model) -> None:
        self.view = GraphView(model)
        self.owner: dict[ir.Node, ir.Node] = {}      # node -> the root (anchor or last node) of its group
        self.kind = {n: low.kind for n in self.view.nodes if (low := lowering_of(n))}

    def run(self) -> Partition:
        anchors = [n for n in self.view.nodes if self.kind.get(n) is Kind.ANCHOR]
        last: dict[ir.Node, ir.Value] = {}
        for a in anchors:
            self.owner[a] = a
        for a in reversed(anchors):
            last[a] = self._epilogue(a)
        for a in anchors:
            self._prologue(a)
        for n in reversed(self.view.nodes):
            if n not in self.owner and not (self.kind.get(n) is Kind.VIEW and self._can_alias(n)):
                self.owner[n] = n
                self._absorb(n)
        return self._collect(last)

    # ---- epilogue

    def _epilogue(self, anchor: ir.Node) -> ir.Value:
        """Takes what may follow the anchor; returns the group's output value."""
        value = anchor.outputs[0]
        if sum(1 for o in anchor.outputs if o.uses() or o in self.view.outputs) != 1 or not (
                value.uses() or value in self.view.outputs) or not lowering_of(anchor).epilogue:  # type: ignore[union-attr]
            return value
        reach = self.view.descendants(anchor)
        group = {anchor}
        while value not in self.view.outputs and len(group) < EPILOGUE_LIMIT:
            step = self._step(value, group, reach)
            if not step:
                break
            for n in step:
                self.owner[n] = anchor
            group |= set(step)
            value = step[-1].outputs[0]
        return value

    def _step(self, value: ir.Value, group: set[ir.Node], reach: set[ir.Node]) -> list[ir.Node]:
        """The next node, or the nodes of a diamond of pointwise nodes that closes in its last one; empty where neither fits."""
        consumers = self.view.consumers(value)
        if len(consumers) == 1 and self.kind.get(consumers[0]) is Kind.VIEW:
            return self._if_free(consumers, group, reach)
        if len(consumers) == 1 and self._keeps_rows(consumers[0]):
            return self._if_free(consumers, group, reach)
        size = math.prod(shape_of(value))
        region: list[ir.Node] = []
        open_ = {value}
        for n in self.view.nodes[self.view.place[consumers[0]]:] if consumers else ():
            if len(region) >= EPILOGUE_LIMIT or not any(v in open_ for v in used_values(n)):
                if len(region) >= EPILOGUE_LIMIT:
                    break
                continue
            if self.kind.get(n) is not Kind.POINTWISE or len(n.outputs) != 1 or math.prod(shape_of(n.outputs[0])) != size:
                return []
            region.append(n)
            open_.add(n.outputs[0])
            inside = {*group, *region}
            waiting = [v for v in open_ if v is not n.outputs[0] and any(c not in inside for c in self.view.consumers(v))]
            if not waiting:
                return self._if_free(region, group, reach)
            if n.outputs[0] in self.view.outputs:
                return []
        return []

    def _keeps_rows(self, node: ir.Node) -> bool:
        """A Transpose that leaves the last axis last: a kernel can store through it in whole vectors."""
        if node.op_type != "Transpose":
            return False
        perm = node.attributes.get_ints("perm", [])
        return len(perm) > 0 and perm[-1] == len(perm) - 1

    def _if_free(self, nodes: list[ir.Node], group: set[ir.Node], reach: set[ir.Node]) -> list[ir.Node]:
        """The nodes, if none is taken and none waits for something that itself waits for this group."""
        inside = {*group, *nodes}
        for n in nodes:
            if n in self.owner:
                return []
            for v in used_values(n):
                producer = v.producer()
                if producer is not None and producer not in inside and producer in reach:
                    return []
        return nodes

    # ---- prologue and generic groups

    def _prologue(self, anchor: ir.Node) -> None:
        low = lowering_of(anchor)
        assert low is not None
        if low.plain is None:
            return
        plain = {anchor.inputs[i] for i in low.plain if i < len(anchor.inputs)}
        self._absorb(anchor, plain, copies_only=low.rereads)

    def _absorb(self, root: ir.Node, plain: set[ir.Value | None] = frozenset(), copies_only: bool = False) -> None:  # type: ignore[assignment]
        """Takes producers that only this group reads, nearest first, until none is left."""
        group = {n for n, o in self.owner.items() if o is root}
        queue = [root]
        while queue:
            node = queue.pop()
            for value in used_values(node):
                p = value.producer()
                if p is None or p in self.owner or p not in self.view.place or (node is root and value in plain):
                    continue
                if value in self.view.outputs or len(p.outputs) != 1 or any(c not in group for c in self.view.consumers(value)):
                    continue
                if self._may_join(p, node, copies_only):
                    self.owner[p] = root
                    group.add(p)
                    queue = list(group)
                    break

    def _may_join(self, producer: ir.Node, consumer: ir.Node, copies_only: bool) -> bool:
        kind = self.kind.get(producer)
        if kind is Kind.VIEW or (kind is Kind.INJECTIVE and producer.op_type in COPIES - {"Concat", "Pad"}):
            return True
        if copies_only or kind is None or producer.op_type == "Concat":
            return False
        once = self.kind.get(consumer) in (Kind.POINTWISE, Kind.VIEW, Kind.ANCHOR) or consumer.op_type in COPIES
        grows = math.prod(shape_of(consumer.outputs[0])) > math.prod(shape_of(producer.outputs[0])) and (
            self.kind.get(consumer) is not Kind.ANCHOR)
        return (once and not grows) or (producer.op_type not in EXPENSIVE and kind is Kind.POINTWISE and not _chain(producer, self.owner))

    def _can_alias(self, view: ir.Node) -> bool:
        """A view is free unless its output is the model's, or its input may be neither written nor renamed."""
        return view.outputs[0] not in self.view.outputs

    # ---- result

    def _collect(self, last: dict[ir.Node, ir.Value]) -> Partition:
        members: dict[ir.Node, list[ir.Node]] = {}
        aliases: dict[ir.Value, ir.Value] = {}
        for n in self.view.nodes:
            if n in self.owner:
                members.setdefault(self.owner[n], []).append(n)
            else:
                aliases[n.outputs[0]] = n.inputs[0]  # type: ignore[assignment]
        groups = []
        for root, nodes in members.items():
            anchor = root if self.kind.get(root) is Kind.ANCHOR else None
            final = last[root] if anchor is not None else nodes[-1].outputs[0]
            outputs = tuple(o for o in root.outputs if o.uses() or o in self.view.outputs) if final is root.outputs[0] else (final,)
            groups.append(FusedGroup(tuple(nodes), anchor, outputs))
        return Partition(tuple(_order(groups, aliases)), aliases)


def _chain(node: ir.Node, owner: dict[ir.Node, ir.Node]) -> bool:
    """Does the node read something computed, rather than a stored value? Then joining it repeats more than one operation."""
    return any((p := v.producer()) is not None and p not in owner and p.op_type in EXPENSIVE for v in used_values(node))


def _order(groups: list[FusedGroup], aliases: dict[ir.Value, ir.Value]) -> list[FusedGroup]:
    """Groups in the order of their last node's inputs being ready (a stable topological sort)."""
    import networkx as nx

    def root(v: ir.Value) -> ir.Value:
        while v in aliases:
            v = aliases[v]
        return v

    made = {v: n for n, g in enumerate(groups) for v in g.outputs}
    edges = nx.DiGraph()
    edges.add_nodes_from(range(len(groups)))
    edges.add_edges_from((made[root(v)], n) for n, g in enumerate(groups) for v in g.inputs if root(v) in made)
    return [groups[n] for n in nx.lexicographical_topological_sort(edges)]
