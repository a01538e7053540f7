"""Gemm is a product and a bias."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from ..base import NodePass, Stage, attr, initializer, op, replace, shape


class DecomposeGemm(NodePass):
    """Y = alpha A' B' + beta C becomes Add(MatMul(A', alpha B'), beta C); transposed constants and factors are folded later."""

    stage = Stage.CANONICAL
    ops = frozenset({"Gemm"})

    def rewrite(self, node: ir.Node, model: ir.Model) -> bool:
        y, (a, b) = node.outputs[0], node.inputs[:2]
        c = node.inputs[2] if len(node.inputs) > 2 else None
        if a is None or b is None or y.dtype is None or any(shape(v) is None for v in (a, b, y)):
            return False
        new: list[ir.Node] = []

        def make(kind: str, inputs: list[ir.Value], dims: tuple[int, ...], **attributes: object) -> ir.Value:
            new.append(op(kind, inputs, y, name=f"{y.name}_{kind.lower()}", shape=dims, **attributes))
            return new[-1].outputs[0]

        def times(x: ir.Value, factor: float) -> ir.Value:
            if factor == 1:
                return x
            assert y.dtype is not None
            return make("Mul", [x, initializer(model, np.array(factor, y.dtype.numpy()), f"{y.name}_factor")], shape(x) or ())

        if attr(node, "transA", 0):
            a = make("Transpose", [a], (shape(a) or ())[::-1], perm=[1, 0])
        if attr(node, "transB", 0):
            b = make("Transpose", [b], (shape(b) or ())[::-1], perm=[1, 0])
        product = make("MatMul", [a, times(b, attr(node, "alpha", 1.0))], shape(y) or ())
        if c is not None and attr(node, "beta", 1.0) != 0:
            product = make("Add", [product, times(c, attr(node, "beta", 1.0))], shape(y) or ())
        replace(node, new, product)
        return True
