"""Normalizations that are a few plain ops."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from ..base import NodePass, Stage, attr, initializer, op, replace, shape


class DecomposeNormalizations(NodePass):
    """LpNormalization: x / max(|x|_p, tiny), so that zeros stay zeros. MeanVarianceNormalization: c / (sqrt(mean(c c)) + 1e-9) with
    c = x - mean(x)."""

    stage = Stage.CANONICAL
    ops = frozenset({"LpNormalization", "MeanVarianceNormalization"})

    def rewrite(self, node: ir.Node, model: ir.Model) -> bool:
        x, y = node.inputs[0], node.outputs[0]
        dims = shape(x)
        if x is None or dims is None or x.dtype is None:
            return False
        new: list[ir.Node] = []
        lp = node.op_type == "LpNormalization"
        over = [a % len(dims) for a in ([attr(node, "axis", -1)] if lp else attr(node, "axes", [0, 2, 3]))]
        kept = tuple(1 if i in over else d for i, d in enumerate(dims))
        axes = initializer(model, np.array(over, np.int64), f"{y.name}_axes")
        dtype = x.dtype.numpy()

        def make(kind: str, *inputs: ir.Value, dims: tuple[int, ...] = kept, **attributes: object) -> ir.Value:
            new.append(op(kind, inputs, y, name=f"{y.name}_{kind.lower()}", shape=dims, **attributes))
            return new[-1].outputs[0]

        def number(value: float) -> ir.Value:
            return initializer(model, np.array(value, dtype), f"{y.name}_constant")

        if lp:
            norm = make(f"ReduceL{attr(node, 'p', 2)}", x, axes, keepdims=1)
            result = make("Div", x, make("Max", norm, number(float(x.dtype.tiny))), dims=dims)
        else:
            centred = make("Sub", x, make("ReduceMean", x, axes, keepdims=1), dims=dims)
            variance = make("ReduceMean", make("Mul", centred, centred, dims=dims), axes, keepdims=1)
            result = make("Div", centred, make("Add", make("Sqrt", variance), number(1e-9)), dims=dims)
        replace(node, new, result)
        return True
