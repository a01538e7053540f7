"""What every test of a lowering does: evaluate it with the interpreter and compare with onnxruntime or onnx's reference.

    check("Relu", x)                                     inputs as arrays; keyword arguments are attributes
    check("Reshape", x, const([2, 3]))                   `const` makes an input an initializer, as passes leave it
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import burnish.compiler.lower as lower
import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as ort
from burnish.compiler.lower.registry import LOWERINGS, Anchor, Context, Pieces, dtype_of, shape_of
from burnish.compiler.lower.tensor import Tensor
from burnish.schedules.expr import indices, load
from onnx import helper
from onnx.reference import ReferenceEvaluator

from .interpreter import evaluate, grid, run_anchor, store

OPSET = 23      # the newest that onnxruntime runs; lowerings see the newest form of each op, which differs little

for module in pkgutil.iter_modules(lower.__path__):
    importlib.import_module(f"{lower.__name__}.{module.name}")


@dataclass(frozen=True)
class const:
    """An input whose value is known when the model is compiled."""

    value: Any


def run(model: onnx.ModelProto | ir.Model, inputs: Mapping[str, np.ndarray]) -> list[np.ndarray]:
    """The graph's outputs, each node lowered on its own and interpreted. Raises `Refuse` where a lowering does."""
    if isinstance(model, onnx.ModelProto):
        model = ir.from_proto(onnx.shape_inference.infer_shapes(model, data_prop=True))
    values: dict[str, np.ndarray] = dict(inputs)
    values |= {name: v.const_value.numpy() for name, v in model.graph.initializers.items()}
    for node in model.graph:
        results = run_node(node, [None if v is None else values[v.name] for v in node.inputs])
        values |= {v.name: r for v, r in zip(node.outputs, results, strict=True)}
    return [values[v.name] for v in model.graph.outputs]


def run_node(node: ir.Node, inputs: Sequence[np.ndarray | None]) -> list[np.ndarray]:
    """One node's outputs. Inputs with a `const_value` are known to the lowering; the others only at run time."""
    group = Group(node, inputs)
    tensors = [None if a is None else group.tensor(n) for n, a in enumerate(inputs)]
    result = LOWERINGS[node.domain, node.op_type].function(Context(node, tensors, group))
    outputs = [np.zeros(shape_of(v), dtype_of(v)) for v in node.outputs if v.name]
    if isinstance(result, Anchor):
        run_anchor(result, group.arrays, outputs)
        return outputs
    for given, out in zip([result] if isinstance(result, Tensor | Pieces) else result, outputs, strict=False):
        at = 0
        for part in given.parts if isinstance(given, Pieces) else [given]:
            index = list(indices(len(part.shape)))
            value = part.at(index)
            if isinstance(given, Pieces):
                index[given.axis] = index[given.axis] + at
                at += part.shape[given.axis]
            else:
                assert part.shape == out.shape, f"lowered to {part.shape}, ONNX says {out.shape}"
            assert part.dtype == value.dtype, f"a tensor of {part.dtype} with elements of {value.dtype}"
            store(index, value, part.shape, grid(part.shape), group.arrays, out)
    return outputs


class Group:
    """In place of the compiler's group of nodes: the buffers of one kernel, with their values."""

    def __init__(self, node: ir.Node, inputs: Sequence[np.ndarray | None]) -> None:
        self.arrays: list[np.ndarray] = [np.zeros(0) if a is None else a for a in inputs]
        self.numbers = {v: n for n, v in enumerate(node.inputs) if v is not None}

    def tensor(self, n: int) -> Tensor:
        a = self.arrays[n]
        return Tensor(a.shape, str(a.dtype), lambda index: load(n, index, str(a.dtype)))

    def buffer(self, value: ir.Value, shape: tuple[int, ...] | None = None) -> int:
        n = self.numbers[value]
        return n if shape is None else self.weight(self.arrays[n].reshape(shape))

    def weight(self, array: np.ndarray) -> int:
        self.arrays.append(array)
        return len(self.arrays) - 1


def node_model(op: str, inputs: Sequence[Any], attributes: Mapping[str, Any], outputs: int = 1,
               domain: str = "") -> tuple[onnx.ModelProto, dict[str, np.ndarray]]:
    """A model of one node, and the values of its run-time inputs. An input may be an array, a `const` or None."""
    names, given, initializers, infos = [], {}, [], []
    for n, a in enumerate(inputs):
        names.append("" if a is None else f"x{n}")
        if isinstance(a, const):
            array = np.asarray(a.value, None if isinstance(a.value, np.ndarray | np.generic) else
                               np.int64 if np.asarray(a.value).dtype.kind in "iu" or not np.size(a.value) else np.float32)
            initializers.append(onnx.numpy_helper.from_array(array, f"x{n}"))
        elif a is not None:
            given[f"x{n}"] = a = np.asarray(a)
            infos.append(helper.make_tensor_value_info(f"x{n}", helper.np_dtype_to_tensor_dtype(a.dtype), a.shape))
    node = helper.make_node(op, names, [f"y{n}" for n in range(outputs)], name=op, domain=domain, **attributes)
    results = [helper.make_empty_tensor_value_info(name) for name in node.output]
    graph = helper.make_graph([node], op, infos, results, initializers)
    opsets = [helper.make_opsetid("", OPSET)] + ([helper.make_opsetid(domain, 1)] if domain else [])
    model = onnx.shape_inference.infer_shapes(helper.make_model(graph, opset_imports=opsets, ir_version=10), data_prop=True)
    return model, given


def reference(model: onnx.ModelProto, inputs: Mapping[str, np.ndarray], by: str) -> list[np.ndarray]:
    """What `by` ("ort" or "onnx") computes."""
    if by == "onnx":
        with np.errstate(all="ignore"):
            return [np.asarray(a) for a in ReferenceEvaluator(model).run(None, dict(inputs))]
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    return ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"]).run(None, dict(inputs))


def check(op: str, *inputs: Any, outputs: int = 1, by: str = "ort", tolerance: float = 1e-5,
          expected: Sequence[np.ndarray] | None = None, **attributes: Any) -> list[np.ndarray]:
    """Compares the lowering of one node with `expected` or the reference; returns what was computed."""
    model, given = node_model(op, inputs, attributes, outputs)
    want = expected if expected is not None else reference(model, given, by)
    for info, w in zip(model.graph.output, want, strict=True):      # some shapes ONNX's own inference does not find
        w = np.asarray(w)
        info.CopyFrom(helper.make_tensor_value_info(info.name, helper.np_dtype_to_tensor_dtype(w.dtype), w.shape))
    got = run(model, given)
    assert_close(got, want, tolerance)
    return got


def assert_close(got: Sequence[np.ndarray], want: Sequence[np.ndarray], tolerance: float = 1e-5) -> None:
    """Same shapes and dtypes; floats within `tolerance` of the output's scale (NaN equals NaN), all else equal."""
    for g, w in zip(got, want, strict=True):
        w = np.asarray(w)
        assert g.dtype == w.dtype and g.shape == w.shape, f"{g.dtype}{g.shape} instead of {w.dtype}{w.shape}"
        if w.dtype.kind == "f":
            finite = w[np.isfinite(w)].astype("f8")
            scale = max(1.0, float(np.abs(finite).max(initial=0)))
            np.testing.assert_allclose(g.astype("f8"), w.astype("f8"), rtol=tolerance, atol=tolerance * scale)
        else:
            np.testing.assert_array_equal(g, w)


__all__ = ["assert_close", "check", "const", "evaluate", "node_model", "reference", "run", "run_node"]
