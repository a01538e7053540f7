"""More ways to compare a lowering with onnxruntime: channels last as the layout pass has it, and an older opset's kernel."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir

from .harness import assert_close, node_model, reference, run


def check_channels_last(op: str, inputs: Sequence[Any], attributes: Mapping[str, Any],
                        weights: Callable[[Any], Any] = lambda a: a) -> tuple[ir.Node, dict[str, np.ndarray]]:
    """`burnish::Nhwc<op>` on the first input stored channels last, against onnxruntime's `op` on it as it is. weights: what makes
    the other inputs, such as `const`. Returns the node and what it was given."""
    want = np.moveaxis(reference(*node_model(op, inputs, attributes), "ort")[0], 1, -1)
    x, rest = inputs[0], [None if a is None else weights(a) for a in inputs[1:]]
    proto, given = node_model(op, [np.moveaxis(x, 1, -1), *rest], attributes)
    model = with_results(proto, [want])
    node = model.graph.node(0)
    node.op_type, node.domain, node.overload = "Nhwc" + op, "burnish", f"{np.ndim(x) - 2}d"
    assert_close(run(model, given), [want])
    return node, given


def check_older(op: str, opset: int, *inputs: Any, **attributes: Any) -> None:
    """Against onnxruntime's kernel of an older opset, where it has none of the newest. The op must not have changed since."""
    proto, given = node_model(op, inputs, attributes)
    older = onnx.ModelProto()
    older.CopyFrom(proto)
    older.opset_import[0].version = opset
    want = reference(older, given, "ort")
    assert_close(run(with_results(proto, want), given), want)


def check_onnx(op: str, *inputs: Any, tolerance: float = 1e-5, **attributes: Any) -> None:
    """Against onnx's reference, for ops whose result shape inference does not find."""
    proto, given = node_model(op, inputs, attributes)
    want = reference(proto, given, "onnx")
    assert_close(run(with_results(proto, want), given), want, tolerance)


def with_results(model: onnx.ModelProto, want: Sequence[np.ndarray]) -> ir.Model:
    """The model with the shapes and dtypes of its outputs known, where inference does not find them."""
    result = ir.from_proto(model)
    for value, array in zip(result.graph.outputs, want, strict=True):
        value.shape, value.dtype = ir.Shape(array.shape), ir.DataType.from_numpy(array.dtype)
    return result
