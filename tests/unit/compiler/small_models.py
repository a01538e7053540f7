"""Small trained-looking models and correlated samples for tests of compression."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
from burnish import passes
from burnish.compiler.driver import LOWERINGS
from onnx import TensorProto, helper, numpy_helper


def network(seed: int = 0) -> ir.Model:
    """x [1,8,9,9] -> Conv 3x3 (32), Relu, depthwise 3x3, Conv 1x1 (40, no bias), Relu, mean, MatMul (24), bias -> y [1,24]."""
    rng = np.random.default_rng(seed)
    shapes = {"w0": (32, 8, 3, 3), "b0": (32,), "w1": (32, 1, 3, 3), "w2": (40, 32, 1, 1), "w3": (40, 24), "b3": (24,)}
    weights = {n: (rng.standard_normal(s) / np.sqrt(max(1, np.prod(s[1:])))).astype(np.float32) for n, s in shapes.items()}
    nodes = [
        helper.make_node("Conv", ["x", "w0", "b0"], ["c0"], "first", pads=[1, 1, 1, 1]), helper.make_node("Relu", ["c0"], ["r0"]),
        helper.make_node("Conv", ["r0", "w1"], ["c1"], "depthwise", group=32, pads=[1, 1, 1, 1], strides=[2, 2]),
        helper.make_node("Conv", ["c1", "w2"], ["c2"], "pointwise"), helper.make_node("Relu", ["c2"], ["r2"]),
        helper.make_node("ReduceMean", ["r2", "axes"], ["m"], keepdims=0),
        helper.make_node("MatMul", ["m", "w3"], ["p"], "last"), helper.make_node("Add", ["p", "b3"], ["y"]),
    ]
    constants = [numpy_helper.from_array(v, n) for n, v in weights.items()]
    graph = helper.make_graph(nodes, "g", [helper.make_tensor_value_info("x", TensorProto.FLOAT, (1, 8, 9, 9))],
                              [helper.make_tensor_value_info("y", TensorProto.FLOAT, (1, 24))],
                              [*constants, numpy_helper.from_array(np.array([2, 3]), "axes")])
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    model = ir.from_proto(onnx.shape_inference.infer_shapes(proto))
    passes.canonicalize(model, frozenset(LOWERINGS))
    return model


def samples(count: int, seed: int = 1) -> list[dict[str, np.ndarray]]:
    """Channels and pixels that have to do with each other, as those of real data."""
    rng = np.random.default_rng(seed)
    mix = np.random.default_rng(0).standard_normal((3, 8))
    out = []
    for _ in range(count):
        smooth = np.einsum("khw,kc->chw", np.cumsum(rng.standard_normal((3, 9, 9)), axis=1), mix)
        out.append({"x": (smooth + 0.2 * rng.standard_normal((8, 9, 9)))[None].astype(np.float32)})
    return out


def matmul(places: int) -> ir.Model:
    """x [1,places,16], mask int64 [1,places] -> x W [1,places,16], 0 where the mask is."""
    w = np.random.default_rng(3).standard_normal((16, 16)).astype(np.float32)
    nodes = [helper.make_node("MatMul", ["x", "w"], ["p"], "m"), helper.make_node("Cast", ["mask"], ["f"], to=TensorProto.FLOAT),
             helper.make_node("Unsqueeze", ["f", "axis"], ["u"]), helper.make_node("Mul", ["p", "u"], ["y"])]
    graph = helper.make_graph(nodes, "g", [helper.make_tensor_value_info("x", TensorProto.FLOAT, (1, places, 16)),
                                           helper.make_tensor_value_info("mask", TensorProto.INT64, (1, places))],
                              [helper.make_tensor_value_info("y", TensorProto.FLOAT, (1, places, 16))],
                              [numpy_helper.from_array(w, "w"), numpy_helper.from_array(np.array([2]), "axis")])
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    return ir.from_proto(onnx.shape_inference.infer_shapes(proto))
