"""Which values are stored as integers when some layers compute on integers, and which of them share a scale.

A value is stored where no kernel keeps it in its registers on the way to the next: kernels take pointwise ops behind them along.
Between integer layers all that is stored is to be an integer, rounded once, where it is made:

- what an integer layer reads;
- what moves on as it is (max pooling, views, concat, nearest resize) to such a value, with the same scale;
- what is averaged or interpolated to such a value, with a scale of its own;
- what a pointwise op on the way to such a value reads, but for the one operand that the op's own kernel has just computed.

What a float op has made (LayerNorm, softmax, a product of two computed matrices) is an integer for integer layers only: other
readers, as the residual of a transformer, keep the float.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field

import onnx_ir as ir

from ..base import DOMAIN, attr, shape

Use = tuple[ir.Node, int]

POINTWISE = frozenset(("", op) for op in (
    "Abs", "Add", "Celu", "Clip", "Div", "Elu", "Erf", "Exp", "Gelu", "HardSigmoid", "HardSwish", "LeakyRelu", "Log", "Max",
    "Min", "Mish", "Mul", "Neg", "PRelu", "Pow", "Reciprocal", "Relu", "Selu", "Sigmoid", "Softplus", "Softsign", "Sqrt", "Sub",
    "Tanh", "ThresholdedRelu", "Where")) | {(DOMAIN, "SiLU")}
MOVES = frozenset(("Concat", "DepthToSpace", "Flatten", "Identity", "MaxPool", "Reshape", "Slice", "SpaceToDepth", "Split",
                   "Squeeze", "Transpose", "Unsqueeze"))
AVERAGES = frozenset(("AveragePool", "GlobalAveragePool", "ReduceMean", "Resize"))


@dataclass
class Stored:
    """values: to be rounded, each with the uses that read what remains of it. same: pairs that must share a scale; alike: pairs
    (what is concatenated, the whole) that should, unless it were too coarse for one of them."""

    values: dict[ir.Value, set[Use]] = field(default_factory=dict)
    same: list[tuple[ir.Value, ir.Value]] = field(default_factory=list)
    alike: list[tuple[ir.Value, ir.Value]] = field(default_factory=list)


def stored(model: ir.Model, integer: set[ir.Node]) -> Stored:
    """integer: the layers that compute on integers."""
    found = _Search(integer, _behind(model, integer), {n: i for i, n in enumerate(model.graph)})
    for node in model.graph:
        if node in integer:
            found.want(node.inputs[0], (node, 0))
    for value, uses in found.stored.values.items():
        if value in found.behind:       # one copy is enough: all that reads it reads the integers
            uses |= {(u.node, u.idx) for u in value.uses()}
    return found.stored


def moves(node: ir.Node) -> bool:
    """Are its outputs elements of its data inputs?"""
    if node.domain != "":
        return False
    if node.op_type == "Resize":
        cropped = attr(node, "coordinate_transformation_mode", "half_pixel") == "tf_crop_and_resize"
        return attr(node, "mode", "nearest") == "nearest" and not cropped
    return node.op_type in MOVES


def data_inputs(node: ir.Node) -> Iterator[tuple[int, ir.Value]]:
    """Those of an op of MOVES or AVERAGES that are its data, not its shape, axes or sizes."""
    count = len(node.inputs) if node.op_type == "Concat" else 1
    yield from ((i, v) for i, v in enumerate(node.inputs[:count]) if v is not None)


def _behind(model: ir.Model, integer: set[ir.Node]) -> set[ir.Value]:
    """The values that integer layers make, directly or through ops that kernels take along or that move and average."""
    found: set[ir.Value] = set()
    for node in model.graph:
        kind = (node.domain, node.op_type)
        through = kind in POINTWISE or moves(node) or (node.domain == "" and node.op_type in AVERAGES)
        if node in integer or (through and any(v in found for v in node.inputs if v is not None)):
            found.update(node.outputs)
    return found


@dataclass
class _Search:
    integer: set[ir.Node]
    behind: set[ir.Value]
    order: dict[ir.Node, int]
    stored: Stored = field(default_factory=Stored)

    def want(self, value: ir.Value | None, use: Use) -> None:
        """`use` shall read `value` as integers."""
        if value is None or value.const_value is not None:
            return
        known = value in self.stored.values
        self.stored.values.setdefault(value, set()).add(use)
        node = value.producer()
        if known or node is None or node in self.integer:
            return
        if moves(node):
            for i, v in data_inputs(node):
                if v.const_value is None:
                    (self.stored.alike if node.op_type == "Concat" else self.stored.same).append((v, value))
                    self.want(v, (node, i))
        elif node.domain == "" and node.op_type in AVERAGES:
            for i, v in data_inputs(node):
                if v in self.behind:
                    self.want(v, (node, i))
        elif (node.domain, node.op_type) in POINTWISE:
            found = list(self._operands(node))
            kept = max((u for u in found if self._kept(u)), key=lambda u: self.order[_producer(u)], default=None)
            for node, i in found:
                if (node, i) != kept:
                    self.want(node.inputs[i], (node, i))

    def _operands(self, node: ir.Node) -> Iterator[Use]:
        """What a chain of pointwise ops reads of the size of its result, made behind integer layers."""
        whole = shape(node.outputs[0])
        for i, v in enumerate(node.inputs):
            if v is None or v.const_value is not None or shape(v) != whole or v not in self.behind:
                continue
            maker = v.producer()
            if maker is not None and (maker.domain, maker.op_type) in POINTWISE and _alone(v) and v not in self.stored.values:
                yield from self._operands(maker)
            else:
                yield node, i

    def _kept(self, use: Use) -> bool:
        """Can the kernel that makes the value go on with it?"""
        value = use[0].inputs[use[1]]
        assert value is not None
        return value.producer() in self.integer and _alone(value)


def _producer(use: Use) -> ir.Node:
    value = use[0].inputs[use[1]]
    assert value is not None
    node = value.producer()
    assert node is not None
    return node


def _alone(value: ir.Value) -> bool:
    return len(value.uses()) == 1 and not value.is_graph_output()


def shared(pairs: Iterable[tuple[ir.Value, ir.Value]]) -> Mapping[ir.Value, ir.Value]:
    """The head of the group of each value that is in a pair."""
    head: dict[ir.Value, ir.Value] = {}

    def find(v: ir.Value) -> ir.Value:
        while head.setdefault(v, v) is not v:
            v = head[v]
        return v
    for a, b in pairs:
        head[find(b)] = find(a)
    return {v: find(v) for v in list(head)}
