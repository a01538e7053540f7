"""Gemm is a product and a bias."""

from __future__ import annotations

import onnx_ir as ir

from ..base import Builder, NodePass, Stage, attr, shape


class DecomposeGemm(NodePass):
    """Y = alpha A' B' + beta C becomes Add(MatMul(A', alpha B'), beta C); transposed constants and factors are folded later."""

    stage = Stage.CANONICAL
    ops = frozenset({"Gemm"})

    def rewrite(self, node: ir.Node, model: ir.Model) -> bool:
        build = Builder(node, model)
        a, b, c = (*node.inputs, None)[:3]
        if a is None or b is None or any(shape(v) is None for v in (a, b, *node.outputs)):
            return False
        a, b = (build.make("Transpose", v, shape=(shape(v) or ())[::-1], perm=[1, 0]) if attr(node, name, 0) else v
                for v, name in ((a, "transA"), (b, "transB")))
        alpha, beta = attr(node, "alpha", 1.0), attr(node, "beta", 1.0)
        if alpha != 1:
            b = build.make("Mul", b, build.number(alpha), shape=shape(b))
        product = build.make("MatMul", a, b)
        if c is not None and beta != 0:
            if beta != 1:
                c = build.make("Mul", c, build.number(beta), shape=shape(c))
            product = build.make("Add", product, c)
        build.put(product)
        return True
