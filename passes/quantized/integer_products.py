"""Convolutions and matrix products of quantised values become sums of integers."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from ..base import Builder, NodePass, Stage, attr, constant, initializer, op, shape
from .scales import BYTES, Scale, dequantized

SIGNED = np.iinfo(np.int8)


class IntegerProducts(NodePass):
    """conv(DQ(x), DQ(w)) + b becomes Cast(ConvInteger(x, w, zero)) (scale_x scale_w) + b, likewise MatMul and Gemm, for constant
    w with a scale per output channel or per tensor, and x with one per tensor.

    The sums are exact; what follows them is rounded as in float32. Weights become int8 with zero point 0: their numbers less the
    zero point, where those fit (of unsigned ones with zero point 128 they do), else the sum of two such weights, each with sums
    of its own, for which there are kernels; 255 would take three, and keeps its zero point. Weights whose activations are float
    stay as they are: dequantised where they are used.
    """

    stage = Stage.CANONICAL
    ops = frozenset({"Conv", "MatMul", "Gemm"})

    def rewrite(self, node: ir.Node, model: ir.Model) -> bool:
        x, w = dequantized(node.inputs[0]), dequantized(node.inputs[1])
        dims = shape(node.outputs[0])
        if w is None or (values := constant(w[0])) is None or dims is None or values.ndim < 2:
            return False
        if x is None or not x[1].per_tensor or constant(x[0]) is not None:
            self.miss(node, "its weights are quantised, its activations are not, or not per tensor")
            return False
        conv, transposed = node.op_type == "Conv", node.op_type == "Gemm" and bool(attr(node, "transB", 0))
        channels = 0 if conv or transposed else values.ndim - 1
        scale = w[1]
        if not scale.per_tensor and (scale.axis % values.ndim != channels or scale.scale.shape != (values.shape[channels],)):
            self.miss(node, "its weights have scales along another axis than the output channels")
            return False
        if node.op_type == "Gemm" and (attr(node, "transA", 0) or attr(node, "beta", 1.0) != 1):
            self.miss(node, "it transposes its activations or scales its bias")
            return False
        weights, zero = centred(values, scale, channels)
        if zero is not None and zero.size > 1 and conv:
            self.miss(node, "its weights have a zero point for each channel that int8 cannot do without")
            return False
        build = Builder(node, model)
        near = str(node.outputs[0].name)
        attributes = {name: attr(node, name) for name in node.attributes} if conv else {}
        zeros = [initializer(model, z, f"{near}_zero") for z in (x[1].zero, zero) if z is not None]

        def sums(weight: np.ndarray) -> ir.Value:
            given = initializer(model, np.ascontiguousarray(weight.T) if transposed else weight, f"{near}_weight")
            made = op("ConvInteger" if conv else "MatMulInteger", [x[0], given, *zeros], node.outputs[0], name=f"{near}_sum",
                      **attributes)
            made.name = node.name
            return integers(made)

        def integers(made: ir.Node) -> ir.Value:
            made.outputs[0].type = ir.TensorType(ir.DataType.INT32)
            build.nodes.append(made)
            return made.outputs[0]

        total = sums(weights[0])
        for weight in weights[1:]:
            total = integers(op("Add", [total, sums(weight)], total, name=f"{near}_both"))
        factor = (x[1].scale * scale.scale * np.float32(attr(node, "alpha", 1.0))).astype(np.float32)
        column = [-1, *[1] * (len(dims) - 2)] if conv else [-1]
        result = build.make("Mul", build.cast(total, ir.DataType.FLOAT),
                            initializer(model, factor.reshape(column) if factor.ndim else factor, f"{near}_factor"))
        bias = node.inputs[2] if len(node.inputs) > 2 else None
        if bias is not None:
            result = build.make("Add", result, self._column(build, bias, column) if conv else bias)
        build.put(result)
        return True

    @staticmethod
    def _column(build: Builder, bias: ir.Value, column: list[int]) -> ir.Value:
        """A bias [oc] as an array that broadcasts to maps."""
        array = constant(bias)
        if array is not None:
            return initializer(build.model, array.reshape(column), f"{bias.name}_column")
        return build.reshape(bias, [*(shape(bias) or ()), *column[1:]])


def centred(weight: np.ndarray, scale: Scale, axis: int) -> tuple[list[np.ndarray], np.ndarray | None]:
    """(int8 weights that add up to the given ones, their zero point or None for 0): exactly the same numbers."""
    assert ir.DataType.from_numpy(weight.dtype) in BYTES
    zero = scale.zero.astype(np.int32)
    column = zero.reshape([-1 if a == axis else 1 for a in range(weight.ndim)]) if zero.ndim else zero
    true = weight.astype(np.int32) - column
    if not true.size or (true.min() >= SIGNED.min and true.max() <= SIGNED.max):
        return [true.astype(np.int8)], None
    first = np.clip(true, SIGNED.min, SIGNED.max)
    rest = true - first
    if rest.max() <= SIGNED.max:
        return [first.astype(np.int8), rest.astype(np.int8)], None
    shift = 128 if weight.dtype == np.uint8 else 0
    return [(weight.astype(np.int32) - shift).astype(np.int8)], (zero - shift).astype(np.int8)
