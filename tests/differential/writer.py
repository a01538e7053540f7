"""Random ONNX graphs, written node by node. The types of all values are known while writing: what a rule adds is always valid."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
from onnx import ModelProto, NodeProto, helper, numpy_helper
from onnx.shape_inference import infer_node_outputs

OPSET, IR = 23, 11
SIZES = (1, 2, 3, 4, 5, 7, 8, 13, 16, 17, 24, 33)
LARGEST = 40_000    # elements of a value: so that hundreds of graphs run in seconds


class NotHere(Exception):
    """A rule finds nothing in the graph that it can work on."""


@dataclass(frozen=True)
class Type:
    dtype: str
    shape: tuple[int, ...]

    @property
    def rank(self) -> int:
        return len(self.shape)

    @property
    def size(self) -> int:
        return math.prod(self.shape)

    @property
    def element(self) -> int:
        """ONNX's number of the dtype."""
        return int(helper.np_dtype_to_tensor_dtype(np.dtype(self.dtype)))

    @property
    def real(self) -> bool:
        return self.dtype == "float32"

    @property
    def image(self) -> bool:
        """[n, c, h, w] that windows can walk over."""
        return self.real and self.rank == 4 and 0 < self.size <= LARGEST // 4 and self.shape[1] <= 64


@dataclass
class Writer:
    """A graph being written. Names start with `prefix`, so that several graphs make one model."""

    seed: int
    prefix: str = ""
    nodes: list[NodeProto] = field(default_factory=list)
    types: dict[str, Type] = field(default_factory=dict)         # of every value that is not a constant, in order
    constants: dict[str, np.ndarray] = field(default_factory=dict)
    inputs: dict[str, Type] = field(default_factory=dict)
    outputs: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.rng = np.random.default_rng(self.seed)

    # ---- chances

    def chance(self, p: float) -> bool:
        return bool(self.rng.random() < p)

    def choose(self, items: Sequence[Any]) -> Any:
        return items[int(self.rng.integers(len(items)))]

    def between(self, low: int, high: int) -> int:
        """Both ends included."""
        return int(self.rng.integers(low, high + 1))

    # ---- values

    def input(self, dtype: str, shape: Sequence[int]) -> str:
        name = f"{self.prefix}x{len(self.inputs)}"
        self.inputs[name] = self.types[name] = Type(dtype, tuple(shape))
        return name

    def const(self, value: Any, dtype: str | None = None) -> str:
        array = np.asarray(value, dtype)
        name = f"{self.prefix}c{len(self.constants)}"
        self.constants[name] = array
        return name

    def ints(self, *values: int) -> str:
        return self.const(values, "int64")

    def weight(self, *shape: int, scale: float | None = None) -> str:
        """A random float constant; by default of a scale that a sum over all but the first axis brings to about 1."""
        by = scale if scale is not None else max(1, math.prod(shape[1:])) ** -0.5
        return self.const(self.rng.standard_normal(shape) * by, "float32")

    def pick(self, fits: Callable[[Type], bool] = lambda t: t.real) -> str:
        """A value that fits, more likely a recent one."""
        found = [n for n, t in self.types.items() if fits(t)]
        if not found:
            raise NotHere
        return found[-1] if self.chance(0.6) else self.choose(found)

    def image(self) -> str:
        """An image in the graph or, where there is none, a new input."""
        try:
            return self.pick(lambda t: t.image)
        except NotHere:
            channels = self.choose((1, 3, 4, 8, 12, 17, 32))
            return self.input("float32", (self.choose((1, 1, 2)), channels, self.between(1, 13), self.between(1, 13)))

    def __getitem__(self, name: str) -> Type:
        if name in self.constants:
            return Type(str(self.constants[name].dtype), self.constants[name].shape)
        return self.types[name]

    # ---- nodes

    def add(self, op: str, *inputs: str, outputs: int = 1, **attributes: Any) -> Any:
        """A node; its output's name, or a list of them. Raises NotHere for one that ONNX does not allow or that is too large."""
        names = [f"{self.prefix}v{len(self.types)}_{k}" for k in range(outputs)]
        node = helper.make_node(op, inputs, names, name=f"{self.prefix}{op}_{len(self.nodes)}", **attributes)
        given = {n: helper.make_tensor_type_proto(self[n].element, self[n].shape) for n in inputs if n}
        known = {n: numpy_helper.from_array(self.constants[n], n) for n in inputs if n in self.constants}
        try:
            found = infer_node_outputs(onnx.defs.get_schema(op, OPSET), node, given, known,
                                       opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR)
        except onnx.shape_inference.InferenceError as e:
            raise NotHere from e
        types = [_type(found[n]) for n in names]
        if any(t.size > LARGEST for t in types):
            raise NotHere
        self.nodes.append(node)
        self.types.update(zip(names, types, strict=True))
        return names[0] if outputs == 1 else names

    def finish(self) -> None:
        """Every value that nobody reads becomes an output, and by chance a few others: also inputs, constants, and one twice."""
        read = {n for node in self.nodes for n in node.input}
        self.outputs = [n for n in self.types if (n not in read and n not in self.inputs) or self.chance(0.06)]
        if self.chance(0.05) and self.constants:
            self.outputs.append(self.choose(list(self.constants)))

    def samples(self) -> dict[str, np.ndarray]:
        """A value for each input."""
        return {n: _sample(t, self.rng) for n, t in self.inputs.items()}


def _type(proto: onnx.TypeProto) -> Type:
    t = proto.tensor_type
    if not t.HasField("shape") or any(not d.HasField("dim_value") for d in t.shape.dim):
        raise NotHere
    return Type(str(helper.tensor_dtype_to_np_dtype(t.elem_type)), tuple(d.dim_value for d in t.shape.dim))


def _sample(t: Type, rng: np.random.Generator) -> np.ndarray:
    if t.dtype.startswith("float"):
        return np.asarray(rng.standard_normal(t.shape), t.dtype)
    return np.asarray(rng.integers(0, 2, t.shape) if t.dtype == "bool" else rng.integers(-5, 9, t.shape), t.dtype)


def model(writers: Sequence[Writer], name: str = "random") -> ModelProto:
    """The graphs side by side in one model."""
    def info(n: str, t: Type) -> onnx.ValueInfoProto:
        return helper.make_tensor_value_info(n, t.element, t.shape)

    graph = helper.make_graph(
        [n for w in writers for n in w.nodes], name, [info(n, t) for w in writers for n, t in w.inputs.items()],
        [info(n, w[n]) for w in writers for n in w.outputs],
        [numpy_helper.from_array(a, n) for w in writers for n, a in w.constants.items()],
        value_info=[info(n, t) for w in writers for n, t in w.types.items() if n not in w.inputs and n not in w.outputs])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR)
