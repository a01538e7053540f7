"""The QOperator form, where an op takes bytes and their scales, becomes the QDQ form: one way through for both."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import reduce
from typing import Any

import numpy as np
import onnx_ir as ir

from ..base import GraphPass, Stage, attr, constant, initializer, replace, scalar

MICROSOFT = "com.microsoft"     # onnxruntime's own domain


class ExpandQLinear(GraphPass):
    """QLinear<Op>(x, x_scale, x_zero, …, y_scale, y_zero) of ONNX and of onnxruntime (domain com.microsoft) becomes
    QuantizeLinear(<Op>(DequantizeLinear(x), …)), which is its definition but for float rounding.

    Stands before shapes are inferred, since ONNX knows nothing of com.microsoft. That domain's own QuantizeLinear and
    DequantizeLinear become ONNX's.
    """

    stage = Stage.CANONICAL

    def run(self, model: ir.Model) -> bool:
        changed = False
        for node in list(model.graph):
            found = _RULES.get((node.domain, node.op_type))
            if found is None:
                continue
            rule, needed = found
            new = _Expansion(node, model)
            result = rule(new) if new.is_whole(needed) else None
            if result is None:
                self.miss(node, "its scales are computed at run time, its channels stand last, or something is missing")
                continue
            replace(node, new.nodes, result)
            changed = True
        return changed


class _Expansion:
    """The nodes that take the place of `node`, while they are made."""

    def __init__(self, node: ir.Node, model: ir.Model) -> None:
        self.node, self.model, self.nodes = node, model, list[ir.Node]()

    def input(self, n: int) -> ir.Value | None:
        return self.node.inputs[n] if n < len(self.node.inputs) else None

    def is_whole(self, needed: Iterable[int]) -> bool:
        """Has it these inputs, and attributes that are known? Nobody has checked those of another domain than ONNX's."""
        return (all(self.input(n) is not None for n in needed) and len(self.node.outputs) == 1
                and all(_ATTRIBUTES.get(name) == a.type for name, a in self.node.attributes.items()))

    def attributes(self, *left_out: str) -> dict[str, Any]:
        return {name: attr(self.node, name) for name in self.node.attributes if name not in left_out}

    def make(self, op_type: str, *inputs: ir.Value | None, dtype: ir.DataType | None = ir.DataType.FLOAT, **attributes: Any
             ) -> ir.Value:
        attrs = ir.convenience.convert_attributes({k: v for k, v in attributes.items() if v is not None})
        name = f"{self.node.outputs[0].name}_{op_type.lower()}"
        out = ir.Value(name=name, type=ir.TensorType(dtype) if dtype is not None else None)
        given = list(inputs)
        while given[-1] is None:
            given.pop()
        self.nodes.append(ir.Node("", op_type, given, attrs, outputs=[out], name=name))
        return out

    def real(self, n: int, axis: int | None = None) -> ir.Value:
        """Input n, whose scale and zero point are the next two; axis: along which they may be vectors."""
        scale = self.input(n + 1)
        many = scale is not None and scale.shape is not None and scale.shape.rank() == 1 and scale.shape[0] != 1
        return self.make("DequantizeLinear", self.input(n), scale, self.input(n + 2), axis=axis if many else None)

    def bytes(self, y: ir.Value, n: int) -> ir.Value:
        """y by the scale and zero point that are inputs n and n + 1; y itself where they are left out."""
        if self.input(n) is None:
            return y
        return self.make("QuantizeLinear", y, self.input(n), self.input(n + 1), dtype=self.node.outputs[0].dtype)

    def bias(self, n: int, *scales: int) -> ir.Value | None:
        """Input n: integers at the product of the scales that are those inputs, along axis 0."""
        given = [constant(self.input(s)) for s in scales]
        known = [s.reshape(-1) if s.size > 1 else s.reshape(()) for s in given if s is not None]
        assert len(known) == len(given)
        product = initializer(self.model, reduce(np.multiply, known), f"{self.node.outputs[0].name}_bias_scale")
        return self.make("DequantizeLinear", self.input(n), product, axis=0 if max(k.size for k in known) > 1 else None)

    def knows(self, *inputs: int) -> bool:
        return all(constant(self.input(n)) is not None for n in inputs)


def _conv(e: _Expansion) -> ir.Value | None:
    if attr(e.node, "channels_last", 0) or (e.input(8) is not None and not e.knows(1, 4)):
        return None
    bias = e.bias(8, 1, 4) if e.input(8) is not None else None
    return e.bytes(e.make("Conv", e.real(0), e.real(3, 0), bias, **e.attributes("channels_last")), 6)


def _matmul(e: _Expansion) -> ir.Value | None:
    if any(scalar(e.input(n)) is None for n in (1, 6)):      # per row of A, say
        return None
    b = e.input(3)
    rank = len(b.shape) if b is not None and b.shape is not None else 2
    return e.bytes(e.make("MatMul", e.real(0), e.real(3, rank - 1)), 6)


def _gemm(e: _Expansion) -> ir.Value | None:
    if e.input(6) is not None and not e.knows(1, 4):
        return None
    bias = e.bias(6, 1, 4) if e.input(6) is not None else None
    if bias is not None and attr(e.node, "alpha", 1.0) != 1:
        alpha = initializer(e.model, np.array(attr(e.node, "alpha"), np.float32), f"{bias.name}_alpha")
        bias = e.make("Mul", bias, alpha)       # its scale is alpha times the product
    return e.bytes(e.make("Gemm", e.real(0), e.real(3, 0 if attr(e.node, "transB", 0) else 1), bias, **e.attributes()), 7)


def _binary(op_type: str) -> Callable[[_Expansion], ir.Value]:
    return lambda e: e.bytes(e.make(op_type, e.real(0), e.real(3)), 6)


def _unary(op_type: str, *left_out: str) -> Callable[[_Expansion], ir.Value | None]:
    def expand(e: _Expansion) -> ir.Value | None:
        if attr(e.node, "channels_last", 0):
            return None
        return e.bytes(e.make(op_type, e.real(0), **e.attributes("channels_last", *left_out)), 3)
    return expand


def _softmax(e: _Expansion) -> ir.Value | None:
    x = e.input(0)
    rank = len(x.shape) if x is not None and x.shape is not None else None
    axis, opset = attr(e.node, "axis", -1), attr(e.node, "opset", 13)
    if opset < 13 and (rank is None or axis % rank != rank - 1):     # which flattens everything from the axis on
        return None
    return e.bytes(e.make("Softmax", e.real(0), axis=axis), 3)


def _concat(e: _Expansion) -> ir.Value | None:
    given = e.node.inputs[2:]
    if len(given) % 3 or any(v is None for n, v in enumerate(given) if n % 3 < 2) or "axis" not in e.node.attributes:
        return None
    parts = [e.real(n) for n in range(2, len(e.node.inputs), 3)]
    return e.bytes(e.make("Concat", *parts, axis=attr(e.node, "axis")), 0)


def _where(e: _Expansion) -> ir.Value:
    return e.bytes(e.make("Where", e.input(0), e.real(1), e.real(4)), 7)


def _linear(op_type: str, dtype: ir.DataType | None) -> Callable[[_Expansion], ir.Value]:
    return lambda e: e.make(op_type, *e.node.inputs, dtype=dtype or e.node.outputs[0].dtype, **e.attributes())


# what makes each op, and which of its inputs must be there
_RULES: dict[tuple[str, str], tuple[Callable[[_Expansion], ir.Value | None], tuple[int, ...]]] = {
    ("", "QLinearConv"): (_conv, (0, 1, 3, 4, 6)), ("", "QLinearMatMul"): (_matmul, (0, 1, 3, 4, 6)),
    **{(MICROSOFT, name): rule for name, rule in {
        "QLinearConv": (_conv, (0, 1, 3, 4, 6)), "QGemm": (_gemm, (0, 1, 3, 4)), "QLinearAdd": (_binary("Add"), (0, 1, 3, 4, 6)),
        "QLinearMul": (_binary("Mul"), (0, 1, 3, 4, 6)), "QLinearSigmoid": (_unary("Sigmoid"), (0, 1, 3)),
        "QLinearLeakyRelu": (_unary("LeakyRelu"), (0, 1, 3)), "QLinearSoftmax": (_softmax, (0, 1, 3)),
        "QLinearGlobalAveragePool": (_unary("GlobalAveragePool"), (0, 1, 3)),
        "QLinearAveragePool": (_unary("AveragePool"), (0, 1, 3)), "QLinearConcat": (_concat, (0, 2, 3)),
        "QLinearWhere": (_where, (0, 1, 2, 4, 5, 7)), "QuantizeLinear": (_linear("QuantizeLinear", None), (0, 1)),
        "DequantizeLinear": (_linear("DequantizeLinear", ir.DataType.FLOAT), (0, 1)),
    }.items()}}
_ATTRIBUTES = {
    **dict.fromkeys(("axis", "block_size", "ceil_mode", "channels_last", "count_include_pad", "group", "opset", "transA",
                     "transB"), ir.AttributeType.INT),
    **dict.fromkeys(("dilations", "kernel_shape", "pads", "strides"), ir.AttributeType.INTS),
    "alpha": ir.AttributeType.FLOAT, "auto_pad": ir.AttributeType.STRING}
