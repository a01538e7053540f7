"""What every test of a pass does: run the model with onnxruntime before and after, and compare."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as ort
from onnx import parser
from onnx_ir.passes import InPlacePass

Model = onnx.ModelProto | ir.Model | str


def proto(model: Model) -> onnx.ModelProto:
    """A ModelProto of its own. Text is ONNX's textual syntax; a bare `g (…) => (…) {…}` gets the newest opset that ort knows."""
    if isinstance(model, str):
        text = model.strip()
        return parser.parse_model(text if text.startswith("<") else f'<ir_version: 10, opset_import: ["": 26]>\n{text}')
    copy = onnx.ModelProto()
    copy.CopyFrom(ir.to_proto(model) if isinstance(model, ir.Model) else model)
    copy.ir_version = min(copy.ir_version, 13)      # the newest that onnxruntime loads
    return copy


def load(model: Model) -> ir.Model:
    """The model with the shape and dtype of every value, as passes expect it."""
    if isinstance(model, ir.Model):
        return model
    inferred = onnx.shape_inference.infer_shapes(proto(model), data_prop=True)
    return ir.from_proto(inferred)


def run(model: Model, inputs: Mapping[str, np.ndarray]) -> list[np.ndarray]:
    """onnxruntime's outputs, without its own optimisations. Inputs that the model does not have are an error."""
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 3
    session = ort.InferenceSession(proto(model).SerializeToString(), options, providers=["CPUExecutionProvider"])
    return session.run(None, dict(inputs))


def random_inputs(model: Model, seed: int = 0) -> dict[str, np.ndarray]:
    """A normal random array for each float input of the graph, small non-negative integers and coin flips for the others."""
    rng = np.random.default_rng(seed)
    out = {}
    constants = {i.name for i in proto(model).graph.initializer}
    for value in proto(model).graph.input:
        if value.name in constants:
            continue
        t = value.type.tensor_type
        dims, dtype = [d.dim_value for d in t.shape.dim], onnx.helper.tensor_dtype_to_np_dtype(t.elem_type)
        match dtype.kind:
            case "b": a = rng.integers(0, 2, dims)
            case "i" | "u": a = rng.integers(0, 3, dims)
            case _: a = rng.standard_normal(dims)
        out[value.name] = np.asarray(a, dtype)
    return out


def assert_same(before: Sequence[np.ndarray], after: Sequence[np.ndarray], tolerance: float = 1e-5) -> None:
    """Same number, dtype and shape of outputs; floats within `tolerance` of the output's scale, all else equal."""
    assert len(before) == len(after)
    for b, a in zip(before, after, strict=True):
        assert b.dtype == a.dtype and b.shape == a.shape, f"{b.dtype}{b.shape} became {a.dtype}{a.shape}"
        if b.dtype.kind == "f":
            finite = np.isfinite(b)
            scale = max(1e-6, float(np.abs(b[finite]).max(initial=0)))
            np.testing.assert_allclose(a.astype("f8"), b.astype("f8"), rtol=tolerance, atol=tolerance * scale)
        else:
            np.testing.assert_array_equal(a, b)


def check_valid(model: ir.Model) -> None:
    """onnx's checker accepts the model, with full shape inference that agrees with the shapes kept by the pass."""
    p = ir.to_proto(model)
    onnx.checker.check_model(p)
    onnx.shape_inference.infer_shapes(p, check_type=True, strict_mode=True, data_prop=True)


def check(model: Model, *passes: InPlacePass, inputs: Mapping[str, np.ndarray] | None = None, changed: bool = True,
          tolerance: float = 1e-5, idempotent: bool = True) -> ir.Model:
    """Applies the passes in turn; the outputs stay the same, the model valid, and a second application changes nothing.

    changed: whether the first application must (True) or must not (False) change the model. Returns the new model.
    """
    graph = load(model)
    inputs = inputs if inputs is not None else random_inputs(graph)
    before = run(graph, inputs)
    modified = [p(graph).modified for p in passes]
    assert any(modified) == changed, f"modified: {modified}"
    check_valid(graph)
    assert_same(before, run(graph, inputs), tolerance)
    if idempotent and changed:
        assert not any(p(graph).modified for p in passes), "the second application changed the model again"
    return graph


def ops(model: ir.Model) -> list[str]:
    """The op types of the main graph, in order."""
    return [node.op_type for node in model.graph]
