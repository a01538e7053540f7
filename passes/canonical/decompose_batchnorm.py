"""BatchNormalization is a scale and a shift."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from ..base import Builder, NodePass, Stage, attr, constant, initializer, shape


class DecomposeBatchNorm(NodePass):
    """y = gamma (x - mean) / sqrt(var + eps) + beta becomes x s + t, s = gamma / sqrt(var + eps), t = beta - mean s per channel.

    Constant statistics give constant s and t (computed in float64), which FoldAffine puts into a convolution before them. In
    training mode the statistics are those of the batch, and the running ones become
    momentum running + (1 - momentum) batch (population variance; Ioffe & Szegedy 2015 as in ONNX's definition).
    """

    stage = Stage.CANONICAL
    ops = frozenset({"BatchNormalization"})

    def rewrite(self, node: ir.Node, model: ir.Model) -> bool:
        x, y, dims = node.inputs[0], node.outputs[0], shape(node.inputs[0])
        if x is None or x.dtype is None or dims is None or any(shape(v) is None for v in node.inputs):
            return False
        epsilon, column = attr(node, "epsilon", 1e-5), (dims[1], *[1] * (len(dims) - 2))
        build = Builder(node, model)
        if attr(node, "training_mode", 0):
            _train(build, node, dims, column, epsilon)
            return True
        arrays = [constant(v) for v in node.inputs[1:5]]
        if any(a is None for a in arrays):
            build.put(_normalize(build, x, _columns(build, node, column), epsilon, column))
            return True
        gamma, beta, mean, var = (np.asarray(a, np.float64) for a in arrays)
        scale = gamma / np.sqrt(var + epsilon)
        s, t = (initializer(model, a.astype(x.dtype.numpy()).reshape(column), f"{y.name}_{name}")
                for a, name in ((scale, "scale"), (beta - mean * scale, "shift")))
        build.put(build.make("Add", build.make("Mul", x, s), t))
        return True


def _columns(build: Builder, node: ir.Node, column: tuple[int, ...]) -> list[ir.Value]:
    """gamma, beta, mean, var in the dtype of x, as [c, 1, …]."""
    dtype = node.inputs[0].dtype if node.inputs[0] is not None else None
    assert dtype is not None
    return [build.reshape(build.cast(v, dtype), column) for v in node.inputs[1:5] if v is not None]


def _normalize(build: Builder, x: ir.Value, columns: list[ir.Value], epsilon: float, column: tuple[int, ...]) -> ir.Value:
    gamma, beta, mean, var = columns
    deviation = build.make("Sqrt", build.make("Add", var, build.number(epsilon), shape=column), shape=column)
    scale = build.make("Div", gamma, deviation, shape=column)
    shift = build.make("Sub", beta, build.make("Mul", mean, scale, shape=column), shape=column)
    return build.make("Add", build.make("Mul", x, scale), shift)


def _train(build: Builder, node: ir.Node, dims: tuple[int, ...], column: tuple[int, ...], epsilon: float) -> None:
    x = node.inputs[0]
    assert x is not None
    gamma, beta, *running = _columns(build, node, column)
    axes, kept = build.integers([0, *range(2, len(dims))]), (1, *column)
    batch_mean = build.make("ReduceMean", x, axes, shape=kept, keepdims=1)
    centred = build.make("Sub", x, batch_mean)
    batch_var = build.make("ReduceMean", build.make("Mul", centred, centred), axes, shape=kept, keepdims=1)
    mean, var = (build.reshape(v, column) for v in (batch_mean, batch_var))
    results = [_normalize(build, x, [gamma, beta, mean, var], epsilon, column)]
    momentum = attr(node, "momentum", 0.9)
    for out, old, batch in zip(node.outputs[1:3], running, (mean, var), strict=False):
        parts = [build.make("Mul", v, build.number(f), shape=column) for v, f in ((old, momentum), (batch, 1 - momentum))]
        assert out.dtype is not None
        results.append(build.cast(build.reshape(build.make("Add", *parts, shape=column), column[:1]), out.dtype))
    build.put(*results)
