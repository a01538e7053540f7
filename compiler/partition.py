"""Which nodes become one kernel.

Three sweeps over the graph, each simple, in this order:
  1. every anchor takes the pointwise nodes behind it (epilogue), across diamonds that close again;
  2. every anchor takes the nodes in front that only its group reads (prologue), where that repeats no work;
  3. what is left is gathered in the same way into generic groups, each around a Concat or its last node.
Views (Reshape …) that no group took cost nothing: their output is their input's memory under another shape. Slices that none
took, and a Concat of what kernels make, cost nothing where the kernels can work on parts of a larger value (`placement`).

A node joins a group only if nothing outside reads what it makes, unless it is the group's last node. So a group is left only
through its last node, a path out of it never comes back, and the places of the last nodes order the groups.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import onnx_ir as ir

from .graph import GraphView, used_values
from .lower.registry import LOWERINGS, Kind, Lowering, shape_of
from .placement import Part, Places, Region, region

EPILOGUE_LIMIT = 32     # nodes: longer chains are generic groups of their own
EXPENSIVE = frozenset({"Exp", "Log", "Erf", "Tanh", "Sigmoid", "Gelu", "Softplus", "Mish", "Pow", "Sqrt", "Div", "Elu", "Swish",
                       "SiLU", "Sin", "Cos", "Tan", "Selu", "Celu", "Softsign", "GridSample"})
COPIES = frozenset({"Transpose", "Slice", "Expand", "Tile", "DepthToSpace", "SpaceToDepth", "NhwcDepthToSpace",
                    "NhwcSpaceToDepth"})     # only the index of an element changes: nothing to repeat
# What a kernel of its own costs, in cheap operations: the launch (about 1 us), and each element that is stored and loaded again.
LAUNCH, MEMORY = 1 << 14, 3
BLOWUP = 8              # elements of one node that one element of a kernel's result is made of, at most


@dataclass(frozen=True)
class FusedGroup:
    """Nodes that become one kernel, in topological order. root: the anchor; without one, the Concat or else the last node.
    done: inputs of a Concat that are made where it puts them, by number among those that are not empty: the kernel skips them."""

    nodes: tuple[ir.Node, ...]
    root: ir.Node
    outputs: tuple[ir.Value, ...]
    done: frozenset[int] = frozenset()

    @property
    def inputs(self) -> tuple[ir.Value, ...]:
        inside = {v for n in self.nodes for v in n.outputs}
        return tuple(dict.fromkeys(v for n in self.nodes for v in used_values(n) if v not in inside))

    def __str__(self) -> str:
        return " + ".join(n.op_type for n in self.nodes)


@dataclass(frozen=True)
class Partition:
    """groups in an order in which they can run; aliases: value -> the value whose memory it shares; parts: value -> where in
    another it lies."""

    groups: tuple[FusedGroup, ...]
    aliases: dict[ir.Value, ir.Value]
    parts: dict[ir.Value, Part] = field(default_factory=dict)

    def region(self, value: ir.Value) -> Region:
        found = region(value, self.aliases, self.parts)
        assert found is not None, f"{value.name} was placed where it cannot lie"
        return found


def lowering_of(node: ir.Node) -> Lowering:
    """Raises KeyError for an op without one."""
    return LOWERINGS[node.domain, node.op_type]


def partition(model: ir.Model) -> Partition:
    """Every node of the graph in exactly one group, or an alias. Raises KeyError for a node without a lowering."""
    return _Partitioner(model).run()


def size_of(value: ir.Value) -> int:
    return math.prod(shape_of(value))


class _Growing:
    """A group while it grows around its root."""

    def __init__(self, root: ir.Node) -> None:
        self.root = root
        self.nodes = {root}
        self.last = root
        # how many elements of a node's output the kernel computes
        self.work: dict[ir.Node, float] = {root: size_of(root.outputs[0])}


class _Partitioner:
    def __init__(self, model: ir.Model) -> None:
        self.view = GraphView(model)
        self.kind = {n: lowering_of(n).kind for n in self.view.nodes}
        self.taken: set[ir.Node] = set()
        self.groups: list[_Growing] = []

    def run(self) -> Partition:
        anchors = [self._start(n) for n in self.view.nodes if self.kind[n] is Kind.ANCHOR]
        for group in reversed(anchors):     # where two anchors meet, the later one has the other's output at hand
            self._follow(group)
            self._keep_bytes(group)
        for group in anchors:
            self._absorb(group)
        for n in reversed(self.view.nodes):
            if n.op_type == "Concat":
                group = self._start(n)
                self._follow(group)
                self._shorten(group)
                self._absorb(group)
        for n in reversed(self.view.nodes):
            if n not in self.taken and (self.kind[n] is not Kind.VIEW or n.outputs[0] in self.view.outputs):
                self._absorb(self._start(n))
        for group in self.groups:
            self._release(group)
        self.groups.sort(key=lambda g: self.view.place[g.last])
        aliases = {n.outputs[0]: next(used_values(n)) for n in self.view.nodes if n not in self.taken}
        return self._placed([self._finished(g) for g in self.groups], aliases)

    def _start(self, root: ir.Node) -> _Growing:
        group = _Growing(root)
        self.groups.append(group)
        self.taken.add(root)
        return group

    def _shorten(self, group: _Growing) -> None:
        """Takes the views from the end: a Concat by itself may need no kernel."""
        while group.last is not group.root and self.kind[group.last] is Kind.VIEW:
            group.nodes.remove(group.last)
            self.taken.remove(group.last)
            source = self.view.producer(next(used_values(group.last)))
            assert source is not None
            group.last = source

    def _release(self, group: _Growing) -> None:
        """Lets views go that read from memory: nothing is simpler than to read there under the other shape."""
        for n in sorted(group.nodes, key=self.view.place.__getitem__):
            if self.kind[n] is Kind.VIEW and n is not group.last and self.view.producer(next(used_values(n))) not in group.nodes:
                group.nodes.remove(n)
                self.taken.remove(n)

    def _finished(self, group: _Growing) -> FusedGroup:
        nodes = tuple(sorted(group.nodes, key=self.view.place.__getitem__))
        outputs = tuple(o for o in group.last.outputs if self.view.is_used(o))
        return FusedGroup(nodes, group.root, outputs)

    def _placed(self, groups: Sequence[FusedGroup], aliases: dict[ir.Value, ir.Value]) -> Partition:
        """The partition without the groups that only move values which can lie where they are wanted."""
        readers: dict[ir.Value, list[ir.Node]] = {}
        for n in (n for g in groups for n in g.nodes):
            for v in used_values(n):
                readers.setdefault(v, []).append(n)
        made = frozenset(v for g in groups for v in g.outputs)
        places = Places(aliases, readers, made, frozenset(self.view.outputs))
        groups = [g for g in groups if len(g.nodes) > 1 or not places.slice(g.root)]
        kept: list[FusedGroup] = []
        for g in reversed(groups):      # a Concat within another finds its place first
            if g.root.op_type == "Concat" and g.outputs == tuple(g.root.outputs):
                g = replace(g, done=places.concat(g.root))
            if len(g.done) < sum(size_of(v) > 0 for v in used_values(g.root)) or not g.done:
                kept.append(g)
        return Partition(tuple(reversed(kept)), places.aliases, places.parts)

    # ---- epilogue

    def _follow(self, group: _Growing) -> None:
        """Takes what may follow the root's only output."""
        root, value = group.root, group.root.outputs[0]
        if not lowering_of(root).epilogue or any(self.view.is_used(o) for o in root.outputs[1:]):
            return
        while value not in self.view.outputs and len(group.nodes) < EPILOGUE_LIMIT:
            step = self._step(value)
            if not step or any(n in self.taken for n in step):
                return
            for n in step:
                group.work[n] = size_of(n.outputs[0])
            group.nodes.update(step)
            self.taken.update(step)
            group.last, value = step[-1], step[-1].outputs[0]

    def _keep_bytes(self, group: _Growing) -> None:
        """Leaves a DequantizeLinear at the end to those who read it, where that costs little: bytes are stored, not floats."""
        last = group.last
        if last is group.root or last.op_type != "DequantizeLinear" or last.outputs[0] in self.view.outputs:
            return
        if all(self._takes_arithmetic(r, last.outputs[0]) for r in self.view.consumers(last.outputs[0])):
            group.nodes.remove(last)
            self.taken.remove(last)
            before = self.view.producer(next(used_values(last)))
            assert before is not None
            group.last = before

    def _takes_arithmetic(self, reader: ir.Node, value: ir.Value) -> bool:
        anchor = self.kind[reader] is Kind.ANCHOR and not lowering_of(reader).rereads and not must_lie_in_memory(value, reader)
        return anchor or self.kind[reader] is Kind.POINTWISE

    def _step(self, value: ir.Value) -> Sequence[ir.Node]:
        """What comes behind the value: the one node that keeps its elements together, or the pointwise nodes of a diamond that
        closes in the last of them. Empty where there is neither."""
        consumers = self.view.consumers(value)
        if len(consumers) == 1 and (self.kind[consumers[0]] is Kind.VIEW or keeps_rows(consumers[0])):
            return consumers
        region: list[ir.Node] = []
        waiting = set(consumers)        # nodes that read a value of the region and are not yet in it
        while waiting and len(region) < EPILOGUE_LIMIT:
            n = min(waiting, key=self.view.place.__getitem__)
            out = n.outputs[0]
            if self.kind[n] is not Kind.POINTWISE or len(n.outputs) != 1 or size_of(out) != size_of(value):
                return []
            region.append(n)
            waiting.remove(n)
            if not waiting:
                return region
            if out in self.view.outputs:
                return []
            waiting.update(self.view.consumers(out))
        return []

    # ---- prologue and generic groups

    def _absorb(self, group: _Growing) -> None:
        """Takes producers that only this group reads, nearest first, until none is left."""
        queue = list(group.nodes)
        while queue:
            for value in used_values(queue.pop()):
                p = self.view.producer(value)
                if p is not None and p not in self.taken and self._may_join(p, group):
                    self.taken.add(p)
                    group.nodes.add(p)
                    queue.append(p)

    def _may_join(self, producer: ir.Node, group: _Growing) -> bool:
        """Does only this group read what the producer makes, and does computing it inside repeat little? Notes how much."""
        value = producer.outputs[0]
        if len(producer.outputs) != 1 or value in self.view.outputs or producer.op_type == "Concat":
            return False
        readers = self.view.consumers(value)
        if any(r not in group.nodes or must_lie_in_memory(value, r) for r in readers):
            return False
        # pointwise readers ask for the same elements, all others for elements of their own
        asked = {r: self._asked(value, r, group) for r in readers}
        work = max((w for r, w in asked.items() if self.kind[r] is Kind.POINTWISE), default=0.0) + sum(
            w for r, w in asked.items() if self.kind[r] is not Kind.POINTWISE)
        group.work[producer] = work
        if self.kind[producer] is Kind.VIEW or producer.op_type in COPIES or weights_of_codes(producer):
            return True
        size, cost = size_of(value), 16 if producer.op_type in EXPENSIVE else 1
        return cost * (work - size) <= LAUNCH + MEMORY * size and work <= BLOWUP * max(size, group.work[group.root])

    def _asked(self, value: ir.Value, reader: ir.Node, group: _Growing) -> float:
        """How many elements of the value its reader in the group asks for, counting repetitions."""
        if self.kind[reader] is Kind.ANCHOR:
            return math.inf if lowering_of(reader).rereads else size_of(value)
        if reader.op_type == "Concat":
            return size_of(value) * reader.inputs.count(value)
        return group.work[reader] * taps(reader)


def must_lie_in_memory(value: ir.Value, reader: ir.Node) -> bool:
    low = lowering_of(reader)
    if low.kind is not Kind.ANCHOR:
        return False
    return low.plain is None or any(value is reader.inputs[i] for i in low.plain if i < len(reader.inputs))


def keeps_rows(node: ir.Node) -> bool:
    """Does the node only move elements, and runs of the last axis whole, so that a kernel can store through it in vectors?"""
    if node.op_type == "NhwcDepthToSpace":
        return node.attributes.get_string("mode", "DCR") == "DCR" and shape_of(node.outputs[0])[3] % 8 == 0
    perm = node.attributes.get_ints("perm", []) if node.op_type == "Transpose" else []
    return len(perm) > 0 and perm[-1] == len(perm) - 1


def weights_of_codes(node: ir.Node) -> bool:
    """Does it decode constants? Passes leave such nodes for readers that take the codes as they are (lower/coded.py)."""
    return node.op_type in ("DequantizeLinear", "ShiftWeights") and all(v.const_value is not None for v in used_values(node))


def taps(node: ir.Node) -> int:
    """How many elements of its input one element of a node's output is made of."""
    interpolates = node.op_type == "GridSample" or (
        node.op_type == "Resize" and node.attributes.get_string("mode", "nearest") != "nearest")
    return 4 if interpolates else 1
