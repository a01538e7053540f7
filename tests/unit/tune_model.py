"""A model that is tuned in seconds: two equal 3x3 convolutions (Winograd is among their forms), a depthwise one, a matmul."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

SIZE, CHANNELS, CLASSES = 12, 16, 10


def save(path: Path, scale: float = 1.0) -> Path:
    """x [1, CHANNELS, SIZE, SIZE] -> scores [1, CLASSES]. scale: of the weights of the convolutions."""
    rng = np.random.default_rng(0)
    c = CHANNELS
    weights = {"a": (c, c, 3, 3), "b": (c, c, 3, 3), "d": (c, 1, 3, 3), "m": (c * SIZE * SIZE, CLASSES)}
    pads = {"pads": [1, 1, 1, 1]}
    nodes = [helper.make_node("Conv", ["x", "a"], ["p"], **pads), helper.make_node("Relu", ["p"], ["q"]),
             helper.make_node("Conv", ["q", "b"], ["r"], **pads), helper.make_node("Relu", ["r"], ["s"]),
             helper.make_node("Conv", ["s", "d"], ["t"], group=c, **pads), helper.make_node("Relu", ["t"], ["u"]),
             helper.make_node("Flatten", ["u"], ["f"]), helper.make_node("MatMul", ["f", "m"], ["scores"])]
    graph = helper.make_graph(
        nodes, "small", [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, c, SIZE, SIZE])],
        [helper.make_tensor_value_info("scores", TensorProto.FLOAT, [1, CLASSES])],
        [numpy_helper.from_array((scale * rng.standard_normal(s) / np.prod(s[1:]) ** 0.5).astype(np.float32), name)
         for name, s in weights.items()])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10), path)
    return path
