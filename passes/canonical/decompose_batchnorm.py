"""BatchNormalization is a scale and a shift."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from ..base import NodePass, Stage, attr, constant, initializer, op, replace, replace_all, shape


class DecomposeBatchNorm(NodePass):
    """y = gamma (x - mean) / sqrt(var + eps) + beta becomes x s + t with s = gamma / sqrt(var + eps), t = beta - mean s per channel.

    Constant statistics give constant s and t (computed in float64), which FoldAffine puts into a convolution before them. In
    training mode the statistics are those of the batch, and the running ones become
    momentum running + (1 - momentum) batch (population variance; Ioffe & Szegedy 2015 as in ONNX's definition).
    """

    stage = Stage.CANONICAL
    ops = frozenset({"BatchNormalization"})

    def rewrite(self, node: ir.Node, model: ir.Model) -> bool:
        x, y = node.inputs[0], node.outputs[0]
        dims = shape(x)
        if x is None or dims is None or x.dtype is None:
            return False
        self.model, self.y, self.dtype = model, y, x.dtype.numpy()
        self.column = (dims[1], *[1] * (len(dims) - 2))
        epsilon = attr(node, "epsilon", 1e-5)
        if attr(node, "training_mode", 0):
            return self._training(node, dims, epsilon)
        arrays = [constant(v) for v in node.inputs[1:5]]
        if any(a is None for a in arrays):
            new: list[ir.Node] = []
            gamma, beta, mean, var = (self._column(new, v) for v in node.inputs[1:5])
            replace(node, new, self._normalize(new, x, gamma, beta, mean, var, epsilon))
            return True
        gamma, beta, mean, var = (np.asarray(a, np.float64) for a in arrays)
        scale = gamma / np.sqrt(var + epsilon)
        s, t = (initializer(model, a.astype(self.dtype).reshape(self.column), f"{y.name}_{name}")
                for a, name in ((scale, "scale"), (beta - mean * scale, "shift")))
        scaled = op("Mul", [x, s], y, name=f"{y.name}_scaled")
        shifted = op("Add", [scaled.outputs[0], t], y, name=f"{y.name}_shifted")
        replace(node, [scaled, shifted], shifted.outputs[0])
        return True

    def _make(self, new: list[ir.Node], kind: str, inputs: list[ir.Value], dims: tuple[int, ...], name: str, **attrs: object) -> ir.Value:
        new.append(op(kind, inputs, self.y, name=f"{self.y.name}_{name}", shape=dims, **attrs))
        return new[-1].outputs[0]

    def _constant(self, array: object, dtype: object = None) -> ir.Value:
        return initializer(self.model, np.asarray(array, dtype or self.dtype), f"{self.y.name}_constant")

    def _column(self, new: list[ir.Node], value: ir.Value) -> ir.Value:
        cast = op("Cast", [value], self.y, name=f"{value.name}_cast", shape=self.column[:1], to=int(self.y.dtype or 1))
        new.append(cast)
        return self._make(new, "Reshape", [cast.outputs[0], self._constant(self.column, np.int64)], self.column, "column")

    def _normalize(self, new: list[ir.Node], x: ir.Value, gamma: ir.Value, beta: ir.Value, mean: ir.Value, var: ir.Value,
                   epsilon: float) -> ir.Value:
        column, dims = self.column, shape(x)
        assert dims is not None
        deviation = self._make(new, "Sqrt", [self._make(new, "Add", [var, self._constant(epsilon)], column, "var_eps")], column, "std")
        scale = self._make(new, "Div", [gamma, deviation], column, "scale")
        shift = self._make(new, "Sub", [beta, self._make(new, "Mul", [mean, scale], column, "mean_scaled")], column, "shift")
        return self._make(new, "Add", [self._make(new, "Mul", [x, scale], dims, "scaled"), shift], dims, "shifted")

    def _training(self, node: ir.Node, dims: tuple[int, ...], epsilon: float) -> bool:
        new: list[ir.Node] = []
        x = node.inputs[0]
        gamma, beta, *running = (self._column(new, v) for v in node.inputs[1:5])
        axes = self._constant([0, *range(2, len(dims))], np.int64)
        kept = (1, *self.column)
        mean = self._make(new, "ReduceMean", [x, axes], kept, "batch_mean", keepdims=1)
        centred = self._make(new, "Sub", [x, mean], dims, "centred")
        var = self._make(new, "ReduceMean", [self._make(new, "Mul", [centred, centred], dims, "squared"), axes], kept, "batch_var",
                         keepdims=1)
        to_column = self._constant(self.column, np.int64)
        mean, var = (self._make(new, "Reshape", [v, to_column], self.column, "batch") for v in (mean, var))
        result = self._normalize(new, x, gamma, beta, mean, var, epsilon)
        momentum = attr(node, "momentum", 0.9)
        results: list[ir.Value | None] = [result]
        flat = self._constant(self.column[:1], np.int64)
        for out, old, batch in zip(node.outputs[1:3], running, (mean, var), strict=False):
            blend = self._make(new, "Add", [self._make(new, "Mul", [old, self._constant(momentum)], self.column, "old"),
                                            self._make(new, "Mul", [batch, self._constant(1 - momentum)], self.column, "new")],
                               self.column, "blend")
            row = self._make(new, "Reshape", [blend, flat], self.column[:1], "running")
            new.append(op("Cast", [row], out, name=f"{out.name}_cast", to=int(out.dtype or 1)))
            results.append(new[-1].outputs[0])
        replace_all(node, new, results)
        return True
