"""The contract of a pass: Graph -> Graph, with a reason for every non-match.

A pass works on an `onnx_ir.Model` in place and says whether it changed anything. Every stage stays an ONNX model that
onnxruntime can run: that is the oracle of every test here. Shapes and dtypes are kept: a new value gets its own from
`tape`-like helpers or from what it replaces.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any, ClassVar

import numpy as np
import onnx_ir as ir
from onnx_ir.passes import InPlacePass, PassResult
from onnx_ir.passes.common import NameFixPass

DOMAIN = "burnish"      # custom ops; each is an ONNX function whose body in standard ops is its meaning


class Stage(Enum):
    """Where in the pipeline a pass stands."""

    CANONICAL = "canonical"     # one way to say each thing
    FUSE = "fuse"               # larger ops recognised in their exported pieces
    COMPRESS = "compress"       # lossy, by request
    LAYOUT = "layout"           # NHWC


class Effect(Enum):
    EXACT = "exact"     # equal up to float summation order
    LOSSY = "lossy"


@dataclass(frozen=True)
class Miss:
    """Why a pass left a node alone, where a reader might have expected it to act."""

    node: str
    reason: str


class Unsupported(Exception):
    """What no pass can bring into the form that the compiler needs; carries what a refusal tells the user."""

    def __init__(self, node: ir.Node, reason: str, hint: str = "") -> None:
        self.node = node.name or (node.outputs[0].name if node.outputs else None) or "?"
        self.op = f"{node.domain}::{node.op_type}" if node.domain else node.op_type
        self.version, self.reason, self.hint = node.version or 0, reason, hint
        super().__init__(f"{self.node} ({self.op}): {reason}" + (f"; {hint}" if hint else ""))


class GraphPass(InPlacePass):
    """One pass over the whole model. `misses` are the reasons of the last call."""

    stage: ClassVar[Stage]
    effect: ClassVar[Effect] = Effect.EXACT

    def __init__(self) -> None:
        self.misses: list[Miss] = []

    @property
    def name(self) -> str:
        return type(self).__name__

    def call(self, model: ir.Model) -> PassResult:
        self.misses = []
        changed = self.run(model)
        if changed:
            NameFixPass()(model)    # passes name new values after old ones; ONNX wants every name once
        return PassResult(model, changed)

    @abstractmethod
    def run(self, model: ir.Model) -> bool:
        """Rewrites the model in place; True if anything changed."""

    def miss(self, node: ir.Node, reason: str) -> None:
        self.misses.append(Miss(node.name or node.op_type, reason))


class NodePass(GraphPass):
    """Rewrites node by node, to a fixed point within one sweep: `rewrite` is offered every node whose op is in `ops`."""

    ops: ClassVar[frozenset[str]]
    domain: ClassVar[str] = ""

    def run(self, model: ir.Model) -> bool:
        changed = False
        for node in list(model.graph):
            if node.graph is not None and node.op_type in self.ops and node.domain == self.domain:
                changed |= self.rewrite(node, model)
        return changed

    @abstractmethod
    def rewrite(self, node: ir.Node, model: ir.Model) -> bool:
        """Replaces the node and its neighbours in place and returns True, or leaves all as it is and returns False."""


# ---- Helpers of most passes ----------------------------------------------------------------------------------------------


def constant(value: ir.Value | None) -> np.ndarray | None:
    """The array of a constant value (an initializer or a Constant node's output), else None."""
    return value.const_value.numpy() if value is not None and value.const_value is not None else None


def scalar(value: ir.Value | None) -> float | None:
    """The number of a constant with a single element, else None."""
    a = constant(value)
    return a.reshape(()).item() if a is not None and a.size == 1 else None


def shape(value: ir.Value | None) -> tuple[int, ...] | None:
    """The static shape, else None."""
    if value is None or value.shape is None or not value.shape.is_static():
        return None
    return tuple(int(d) for d in value.shape.numpy())


def initializer(model: ir.Model, array: np.ndarray, near: str) -> ir.Value:
    """A new initializer holding `array`, with a fresh name that starts with `near`."""
    name, n = near, 0
    while name in model.graph.initializers:
        n += 1
        name = f"{near}_{n}"
    tensor = ir.tensor(np.asarray(array, order="C"), name=name)
    value = ir.Value(name=name, shape=ir.Shape(array.shape), type=ir.TensorType(tensor.dtype), const_value=tensor)
    model.graph.register_initializer(value)
    return value


def op(op_type: str, inputs: Iterable[ir.Value | None], like: ir.Value, *, name: str, domain: str = "",
       version: int | None = None, shape: Iterable[int] | None = None, **attributes: Any) -> ir.Node:
    """A new node with one output that has the dtype of `like`, and its shape unless another is given. Not yet in a graph."""
    attrs = ir.convenience.convert_attributes({k: v for k, v in attributes.items() if v is not None})
    out = ir.Value(name=name, type=like.type, shape=ir.Shape(list(shape)) if shape is not None else like.shape)
    return ir.Node(domain, op_type, list(inputs), attrs, outputs=[out], name=name, version=version)


class Builder:
    """New nodes one after another, in place of `node`: each takes the dtype of the node's first output and a name that starts
    with that output's. `put` puts them into the graph."""

    def __init__(self, node: ir.Node, model: ir.Model) -> None:
        self.node, self.model, self.like, self.nodes = node, model, node.outputs[0], list[ir.Node]()

    def make(self, op_type: str, *inputs: ir.Value | None, shape: Iterable[int] | None = None, **attributes: Any) -> ir.Value:
        """A node's output; its shape is that of the replaced node's unless another is given."""
        self.nodes.append(op(op_type, inputs, self.like, name=f"{self.like.name}_{op_type.lower()}", shape=shape, **attributes))
        return self.nodes[-1].outputs[0]

    def cast(self, value: ir.Value, dtype: ir.DataType) -> ir.Value:
        """The value in another dtype; itself if it has it."""
        if value.dtype == dtype:
            return value
        node = op("Cast", [value], value, name=f"{self.like.name}_cast", to=int(dtype))
        node.outputs[0].type = ir.TensorType(dtype)
        self.nodes.append(node)
        return node.outputs[0]

    def number(self, value: float) -> ir.Value:
        """A 0-D constant in the dtype of the replaced node's output."""
        assert self.like.dtype is not None
        return initializer(self.model, np.array(value, self.like.dtype.numpy()), f"{self.like.name}_constant")

    def integers(self, values: Iterable[int]) -> ir.Value:
        """A 1-D int64 constant: axes, a shape."""
        return initializer(self.model, np.array(list(values), np.int64), f"{self.like.name}_constant")

    def reshape(self, value: ir.Value, dims: Iterable[int]) -> ir.Value:
        return self.make("Reshape", value, self.integers(dims), shape=dims)

    def put(self, *results: ir.Value | None) -> None:
        """The nodes and their results take the place of the node and its outputs."""
        replace_all(self.node, self.nodes, results)


def attr(node: ir.Node, name: str, default: Any = None) -> Any:
    """An attribute as a Python value (int, float, str, list, numpy array for a tensor, graph)."""
    a = node.attributes.get(name)
    if a is None:
        return default
    if a.type == ir.AttributeType.TENSOR:
        return a.as_tensor().numpy()
    return list(a.value) if isinstance(a.value, list | tuple) else a.value


def only_use(value: ir.Value | None) -> ir.Node | None:
    """The node that reads the value, if it is read exactly once and is no output of the graph."""
    if value is None or value.is_graph_output() or len(value.uses()) != 1:
        return None
    return next(iter(value.uses())).node


def maker(value: ir.Value | None, *ops: str, domain: str = "") -> ir.Node | None:
    """The node that computes the value, if its op is among `ops`."""
    node = value.producer() if value is not None else None
    return node if node is not None and node.domain == domain and node.op_type in ops else None


def replace(old: ir.Node, new: Iterable[ir.Node], result: ir.Value) -> None:
    """Puts `new` nodes where `old` stands, and `result` in place of its only output. Names of graph outputs are kept."""
    replace_all(old, new, [result])


def replace_all(old: ir.Node, new: Iterable[ir.Node], results: Sequence[ir.Value | None]) -> None:
    """Puts `new` nodes where `old` stands, and `results` in place of its outputs (None for an output that nobody reads).

    A result may also be a value that exists already. Shape and dtype of the old output fill in what the result lacks. A graph
    output whose result cannot bear its name (an input, a constant, another graph output) is made by an Identity. Nodes that only
    `old` read go with it.
    """
    graph = old.graph
    assert graph is not None
    for node in new:
        graph.insert_before(old, node)
    for before, after in zip(old.outputs, results, strict=True):
        if after is None or after is before:
            continue
        if after.type is None:
            after.type = before.type
        if after.shape is None or (not after.shape.is_static() and before.shape is not None):
            after.shape = before.shape
        if before.is_graph_output():
            named = after
            if after.producer() is None or after.graph is not graph or after.is_graph_output():
                copy = op("Identity", [after], before, name=before.name or "output")
                graph.insert_before(old, copy)
                named = copy.outputs[0]
            name, before.name = before.name, None
            for i, output in enumerate(graph.outputs):
                if output is before:
                    graph.outputs[i] = named
            named.name = name
        before.replace_all_uses_with(after)
    _remove_with_makers(old, graph)


def _remove_with_makers(node: ir.Node, graph: ir.Graph) -> None:
    """Removes the node, then what only it read: a dead reader would keep the next pattern from matching."""
    dead = [node]
    while dead:
        gone = dead.pop()
        makers = {v.producer() for v in gone.inputs if v is not None}
        graph.remove(gone, safe=True)
        dead += [m for m in makers if m is not None and m.graph is graph
                 and not any(v.uses() or v.is_graph_output() for v in m.outputs)]
