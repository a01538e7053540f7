"""Averages of bytes are sums of bytes."""

from __future__ import annotations

import math

import numpy as np
import onnx_ir as ir

from ..base import Builder, NodePass, Stage, attr, initializer, op, shape
from .scales import dequantized


class IntegerAverages(NodePass):
    """AveragePool(DQ(x)) becomes Cast(ConvInteger(x, ones, zero)) scale / count, a depthwise convolution: exact sums, and no
    floats in memory. count: elements of a window, of each place if padding does not count."""

    stage = Stage.CANONICAL
    ops = frozenset({"AveragePool"})

    def rewrite(self, node: ir.Node, model: ir.Model) -> bool:
        found, dims = dequantized(node.inputs[0]), shape(node.outputs[0])
        x_dims = shape(node.inputs[0])
        if found is None or not found[1].per_tensor or dims is None or x_dims is None:
            return False
        if attr(node, "ceil_mode", 0) or attr(node, "auto_pad", "NOTSET") not in ("NOTSET", b"NOTSET", "VALID", b"VALID"):
            self.miss(node, "its windows may reach beyond the padding")
            return False
        (x, scale), channels, rank = found, dims[1], len(dims) - 2
        kernel = attr(node, "kernel_shape")
        build, near = Builder(node, model), str(node.outputs[0].name)
        ones = initializer(model, np.ones((channels, 1, *kernel), np.int8), f"{near}_ones")
        window = {name: attr(node, name) for name in ("dilations", "pads", "strides") if name in node.attributes}
        sums = op("ConvInteger", [x, ones, initializer(model, scale.zero, f"{near}_zero")], node.outputs[0], name=f"{near}_sum",
                  group=channels, kernel_shape=kernel, **window)
        sums.name = node.name
        sums.outputs[0].type = ir.TensorType(ir.DataType.INT32)
        build.nodes.append(sums)
        count = np.full([1] * rank, math.prod(kernel))
        if not attr(node, "count_include_pad", 0):
            count = counts(x_dims[2:], dims[2:], kernel, attr(node, "strides") or [1] * rank,
                           attr(node, "dilations") or [1] * rank, (attr(node, "pads") or [0] * 2 * rank)[:rank])
        factor = (np.float64(scale.scale) / count).astype(np.float32)
        mean = initializer(model, factor.reshape(()) if factor.size == 1 else factor, f"{near}_factor")
        build.put(build.make("Mul", build.cast(sums.outputs[0], ir.DataType.FLOAT), mean))
        return True


def counts(source: tuple[int, ...], target: tuple[int, ...], kernel: list[int], strides: list[int], dilations: list[int],
           before: list[int]) -> np.ndarray:
    """How many elements of the input each window covers; one number if all cover as many."""
    result = np.ones([1] * len(source), np.int64)
    for axis, extent in enumerate(source):
        at = np.arange(target[axis])[:, None] * strides[axis] - before[axis] + np.arange(kernel[axis]) * dilations[axis]
        inside = ((at >= 0) & (at < extent)).sum(axis=1)
        result = result * inside.reshape([-1 if a == axis else 1 for a in range(len(source))])
    return result[(slice(1),) * len(source)] if (result == result.flat[0]).all() else result
