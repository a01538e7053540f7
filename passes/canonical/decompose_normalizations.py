"""Normalizations that are a few plain ops."""

from __future__ import annotations

import onnx_ir as ir

from ..base import Builder, NodePass, Stage, attr, shape


class DecomposeNormalizations(NodePass):
    """LpNormalization: x / max(|x|_p, tiny), so that zeros stay zeros. MeanVarianceNormalization: c / (sqrt(mean(c c)) + 1e-9)
    with c = x - mean(x)."""

    stage = Stage.CANONICAL
    ops = frozenset({"LpNormalization", "MeanVarianceNormalization"})

    def rewrite(self, node: ir.Node, model: ir.Model) -> bool:
        x, dims = node.inputs[0], shape(node.inputs[0])
        if x is None or dims is None or x.dtype is None:
            return False
        build, lp = Builder(node, model), node.op_type == "LpNormalization"
        over = [a % len(dims) for a in ([attr(node, "axis", -1)] if lp else attr(node, "axes", [0, 2, 3]))]
        kept, axes = tuple(1 if i in over else d for i, d in enumerate(dims)), build.integers(over)
        if lp:
            norm = build.make(f"ReduceL{attr(node, 'p', 2)}", x, axes, shape=kept, keepdims=1)
            result = build.make("Div", x, build.make("Max", norm, build.number(float(x.dtype.tiny)), shape=kept))
        else:
            centred = build.make("Sub", x, build.make("ReduceMean", x, axes, shape=kept, keepdims=1))
            variance = build.make("ReduceMean", build.make("Mul", centred, centred), axes, shape=kept, keepdims=1)
            deviation = build.make("Add", build.make("Sqrt", variance, shape=kept), build.number(1e-9), shape=kept)
            result = build.make("Div", centred, deviation)
        build.put(result)
        return True
