"""Nodes of constants become constants."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from ..base import DOMAIN, GraphPass, Stage, initializer, replace_all, shape
from ..shapes import evaluate, infer, reads, typed

RANDOM = frozenset({"RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike", "Bernoulli", "Multinomial",
                    "Dropout"})
KEPT = RANDOM | {"Identity", "Constant", "Loop", "If"}     # a Loop may run for ever; an Identity names an output


WEIGHT_OF = {"Conv": 1, "ConvTranspose": 1, "Gather": 0, "Gemm": 1, "MatMul": 1}     # op -> which input its weights are


class FoldConstants(GraphPass):
    """y = f(constants) becomes the constant y, evaluated by onnxruntime; y = Shape(x), Size(x) by the static shape of x.

    In the same sweep, shapes that follow from a folded value are inferred, so that a chain Shape - Gather - Concat - Reshape
    is folded at once. Bytes that are the weights of a product, or a table, stay bytes: their DequantizeLinear is left for those
    who read them. limit: bytes by which the constants of a model may grow in one sweep; beyond, a node stays.
    """

    stage = Stage.CANONICAL

    def __init__(self, limit: int = 1 << 30) -> None:
        super().__init__()
        self.limit = limit

    def run(self, model: ir.Model) -> bool:
        changed, self.left = False, self.limit
        for node in list(model.graph):
            if node.domain == DOMAIN or node.graph is None:
                continue
            if not all(typed(v) for v in node.outputs):
                changed |= infer(node, model.opset_imports)
            results = self._shape(node) or self._evaluate(node, model)
            if results is not None:
                values = [initializer(model, a, v.name) if v.name else None for v, a in zip(node.outputs, results, strict=True)]
                replace_all(node, [], values)
                changed = True
        return changed

    @staticmethod
    def _shape(node: ir.Node) -> list[np.ndarray] | None:
        if node.domain != "" or node.op_type not in ("Shape", "Size") or shape(node.inputs[0]) is None:
            return None
        dims = np.array(shape(node.inputs[0]), np.int64)
        if node.op_type == "Size":
            return [np.array(dims.prod(dtype=np.int64))]
        start, end = (node.attributes.get_int(key, default) for key, default in (("start", 0), ("end", len(dims))))
        return [dims[slice(max(start, -len(dims)), end if end >= -len(dims) else 0)]]

    def _evaluate(self, node: ir.Node, model: ir.Model) -> list[np.ndarray] | None:
        if node.domain == "" and node.op_type in KEPT:
            return None
        if node.op_type == "DequantizeLinear" and stays_quantized(node):
            return None
        if node.domain not in ("", "ai.onnx.ml") or not all(isinstance(v.type, ir.TensorType) for v in node.outputs if v.name):
            return None
        inputs = reads(node)
        if any(v.const_value is None for v in inputs):
            return None
        size = sum(np.prod(shape(v) or (), dtype=float) * v.dtype.itemsize for v in node.outputs if v.dtype is not None)
        grown = size - sum(v.const_value.nbytes for v in inputs if v.const_value is not None)
        if grown > self.left:
            self.miss(node, f"the constant would take {size / 2**20:.0f} MiB")
            return None
        results = evaluate(node, model.opset_imports)
        if results is None:
            self.miss(node, "neither onnxruntime nor onnx's reference can evaluate it")
            return None
        if any(a.dtype.kind in "OUS" for a in results):
            return None
        self.left -= max(0, int(grown))
        found = iter(results)
        return [next(found) if v.name else np.zeros(0) for v in node.outputs]


def stays_quantized(node: ir.Node) -> bool:
    """Does a DequantizeLinear make weights, maybe through a change of their axes, of numbers of a byte or less?"""
    x = node.inputs[0]
    if x is None or x.dtype is None or x.dtype.itemsize > 1:
        return False
    readers = list(node.outputs[0].uses())
    readers += [use for user, _ in readers if user.op_type in ("Reshape", "Transpose") for use in user.outputs[0].uses()]
    return any(user.domain in ("", DOMAIN) and WEIGHT_OF.get(user.op_type.removeprefix("Nhwc")) == n for user, n in readers)
