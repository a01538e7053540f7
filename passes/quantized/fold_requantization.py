"""Quantising divides by nothing: the scale goes into the constants in front."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from ..base import Builder, NodePass, Stage, attr, constant, initializer, only_use, op, replace
from .scales import Scale, dequantize

FIRST = frozenset({                 # f(c x, …) = c f(x, …) for c > 0, in the first input
    "AveragePool", "Div", "Expand", "Flatten", "Gather", "GlobalAveragePool", "Identity", "LeakyRelu", "MaxPool", "Neg",
    "ReduceMax", "ReduceMean", "ReduceMin", "ReduceSum", "Relu", "Reshape", "Resize", "Slice", "Squeeze", "Tile", "Transpose",
    "Unsqueeze"})
EVERY = frozenset({"Add", "Clip", "Concat", "Max", "Min", "Sub", "Sum"})      # in all inputs at once
SMALLEST = 1e-30        # factor, and reciprocal of one, that constants are multiplied by: their products stay float32


class FoldRequantization(NodePass):
    """Q(x, scale, zero) becomes Q(x / scale, 1, zero) with 1 / scale multiplied into the constants that x is made with: factors,
    biases, bounds, and the scales of dequantised values, through whatever is homogeneous; into a factor of its own where there is
    none. So the sums of a convolution take one multiply-add: round(sum (sx sw / sy) + b / sy) + zero.

    The quotient of constants is taken in float64 and rounded once. The product is then rounded otherwise than the quotient was: a
    byte may differ by one where x / scale lies within rounding of the middle between two.
    """

    stage = Stage.CANONICAL
    ops = frozenset({"QuantizeLinear"})

    def rewrite(self, node: ir.Node, model: ir.Model) -> bool:
        scale, x, y = Scale.of(node), node.inputs[0], node.outputs[0]
        if scale is None or not scale.per_tensor or scale.scale == 1 or x is None or x.is_graph_input():
            return False        # (of an input the quotient is as good as the product, and exact)
        factor = 1 / np.float64(scale.scale)
        if not SMALLEST < factor < 1 / SMALLEST:
            return False
        new = _Scaling(node, model, factor)
        one, zero = (initializer(model, a, f"{y.name}_scale") for a in (np.ones((), np.float32), scale.zero))
        last = op("QuantizeLinear", [new.scaled(x, node), one, zero], y, name=f"{y.name}_bytes")
        last.name = node.name
        replace(node, [*new.build.nodes, last], last.outputs[0])
        return True


class _Scaling:
    """Values times `factor`, as new nodes."""

    def __init__(self, node: ir.Node, model: ir.Model, factor: np.float64) -> None:
        self.model, self.factor, self.build = model, factor, Builder(node, model)

    def scaled(self, x: ir.Value, reader: ir.Node) -> ir.Value:
        if not self._takes(x, reader):
            one = self._constant(np.ones((), np.float32), x)
            return self._add(op("Mul", [x, one], x, name=f"{x.name}_scaled"))
        array, node = constant(x), x.producer()
        if array is not None:
            return self._constant(array, x)
        assert node is not None
        if node.op_type == "DequantizeLinear":
            made = dequantize(_input(node, 0), self._scale(node), self.model, f"{x.name}_scaled")
            made.outputs[0].shape = x.shape
            return self._add(made)
        given = [self.scaled(v, node) if v is not None and n in self._places(node) else v for n, v in enumerate(node.inputs)]
        new = op(node.op_type, given, x, name=f"{x.name}_scaled")
        new.attributes.update(node.attributes)
        return self._add(new)

    def _takes(self, x: ir.Value, reader: ir.Node) -> bool:
        """Is there something that takes up the factor?"""
        array, node = constant(x), x.producer()
        if array is not None:
            return array.dtype == np.float32
        if node is None or node.domain != "":
            return False
        if node.op_type == "DequantizeLinear":
            return Scale.of(node) is not None and np.isfinite(self._scale(node).scale).all()
        if only_use(x) is not reader or x.dtype != ir.DataType.FLOAT or len(node.outputs) > 1:
            return False
        places = self._places(node)
        left = [n for n in places if node.inputs[n] is not None and not self._takes(_input(node, n), node)]
        # a sum may need a factor of its own for one of its inputs, which is no more than one behind it
        return bool(places) and len(left) <= (node.op_type in EVERY and self._computed(node) > 1)

    def _places(self, node: ir.Node) -> list[int]:
        """The inputs of a node that the factor goes into; none where it cannot pass."""
        if node.op_type == "Mul":       # a constant rather than what is computed
            order = sorted((0, 1), key=lambda n: constant(node.inputs[n]) is None)
            return [n for n in order if self._takes(_input(node, n), node)][:1]
        if node.op_type == "Clip" and any(v is not None and constant(v) is None for v in node.inputs[1:]):
            return []
        if node.op_type == "Resize" and not _averages(node):
            return []
        return list(range(len(node.inputs))) if node.op_type in EVERY else [0] if node.op_type in FIRST else []

    @staticmethod
    def _computed(node: ir.Node) -> int:
        return sum(v is not None and constant(v) is None for v in node.inputs)

    def _scale(self, node: ir.Node) -> Scale:
        scale = Scale.of(node)
        assert scale is not None
        return Scale((scale.scale * self.factor).astype(np.float32), scale.zero, scale.axis)

    def _constant(self, array: np.ndarray, near: ir.Value) -> ir.Value:
        return initializer(self.model, (array * self.factor).astype(np.float32), f"{near.name}_scaled")

    def _add(self, node: ir.Node) -> ir.Value:
        self.build.nodes.append(node)
        return node.outputs[0]


def _averages(resize: ir.Node) -> bool:
    modes = [attr(resize, "mode", "nearest"), attr(resize, "coordinate_transformation_mode", "half_pixel")]
    kind, place = (m.decode() if isinstance(m, bytes) else m for m in modes)
    return kind in ("nearest", "linear") and place != "tf_crop_and_resize"


def _input(node: ir.Node, n: int) -> ir.Value:
    value = node.inputs[n]
    assert value is not None
    return value
