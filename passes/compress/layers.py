"""The layers that compression works on: convolutions and matrix products with constant float32 weights, seen as matrices.

The matrix of a layer is [groups, k, n]: k the reduction in the order (tap row, tap column, input channel), n the output channels
of a group; as the kernels see it. A model is in the form of `passes.canonicalize`: channels first, Gemm as MatMul.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import onnx_ir as ir

from ..base import attr, constant, initializer, only_use, shape


@dataclass(frozen=True)
class Layer:
    """name: the node's, unique within a model and kept by all compressions."""

    node: ir.Node

    @property
    def name(self) -> str:
        assert self.node.name is not None
        return self.node.name

    @property
    def is_conv(self) -> bool:
        return self.node.op_type == "Conv"

    @property
    def input(self) -> ir.Value:
        value = self.node.inputs[0]
        assert value is not None
        return value

    @property
    def output(self) -> ir.Value:
        return self.node.outputs[0]

    @property
    def weight(self) -> np.ndarray:
        """As ONNX has it: [oc, ic / groups, kh, kw] or [k, n]."""
        value = constant(self.node.inputs[1])
        assert value is not None
        return value

    @property
    def groups(self) -> int:
        return int(attr(self.node, "group", 1)) if self.is_conv else 1

    @property
    def depthwise(self) -> bool:
        return self.is_conv and self.groups > 1 and self.weight.shape[1] == 1 and self.weight.shape[0] == self.groups

    @property
    def pointwise(self) -> bool:
        """Is it a plain matrix product: a MatMul or a 1x1 convolution of one group?"""
        return not self.is_conv or (self.groups == 1 and math.prod(self.weight.shape[2:]) == 1)

    @cached_property
    def matrix(self) -> np.ndarray:
        """[groups, k, n]."""
        return self.as_matrix(self.weight)

    def as_matrix(self, weight: np.ndarray) -> np.ndarray:
        """What has the shape of `weight` as [groups, k, n]."""
        if not self.is_conv:
            return weight[None]
        oc, ic, *taps = weight.shape
        w = weight.reshape(self.groups, oc // self.groups, ic, *taps)
        return np.moveaxis(np.moveaxis(w, 2, -1), 1, -1).reshape(self.groups, -1, oc // self.groups)

    def replaced(self, model: ir.Model, matrix: np.ndarray) -> Layer:
        """The layer with other weights, given as its matrix."""
        value = initializer(model, self.as_weight(matrix).astype(np.float32), f"{self.name}_weight")
        self.node.replace_input_with(1, value)
        return Layer(self.node)

    def as_weight(self, matrix: np.ndarray) -> np.ndarray:
        """A matrix [groups, k, n] in the shape of `weight`."""
        if not self.is_conv:
            return matrix[0]
        oc, ic, *taps = self.weight.shape
        w = matrix.reshape(self.groups, *taps, ic, oc // self.groups)
        return np.ascontiguousarray(np.moveaxis(np.moveaxis(w, -1, 1), -1, 2).reshape(self.weight.shape))

    def rows(self, x: np.ndarray, some: np.ndarray | None = None) -> np.ndarray:
        """The layer's input as the rows that its matrix multiplies: [groups, rows, k], of x as it stands in the model.
        some: the numbers of the rows that are wanted; all by default."""
        if not self.is_conv:
            every_row = x.reshape(-1, x.shape[-1])
            return (every_row if some is None else every_row[some])[None]
        taps = self.weight.shape[2:]
        rank = len(taps)
        pads = attr(self.node, "pads", [0] * (2 * rank))
        steps, far = attr(self.node, "strides", [1] * rank), attr(self.node, "dilations", [1] * rank)
        x = np.pad(x, [(0, 0), (0, 0), *((pads[a], pads[a + rank]) for a in range(rank))])
        spans = tuple((t - 1) * d + 1 for t, d in zip(taps, far, strict=True))
        windows = np.lib.stride_tricks.sliding_window_view(x, spans, axis=tuple(range(2, 2 + rank)))
        every = (*(slice(None, None, s) for s in steps), *(slice(None, None, d) for d in far))
        windows = windows[(slice(None), slice(None), *every)]
        n, c, *place = windows.shape[:2 + rank]
        windows = windows.reshape(n, self.groups, c // self.groups, *place, *taps)
        order = (1, 0, *range(3, 3 + 2 * rank), 2)      # group, image, place, tap, channel
        windows = windows.transpose(order)
        if some is not None:
            chosen: tuple[slice | np.ndarray, ...] = (slice(None), *np.unravel_index(some, (n, *place)))
            windows = windows[chosen]
        return windows.reshape(self.groups, n * math.prod(place) if some is None else len(some), -1)

    def outputs(self, y: np.ndarray) -> np.ndarray:
        """The layer's output as [groups, rows, n]."""
        if not self.is_conv:
            return y.reshape(1, -1, y.shape[-1])
        channels_last = np.moveaxis(y, 1, -1)
        return np.moveaxis(channels_last.reshape(-1, self.groups, y.shape[1] // self.groups), 1, 0)

    @property
    def bias(self) -> tuple[ir.Node, int] | None:
        """The node and the number of its input that hold the layer's constant bias: its own third input, or the Add behind a
        MatMul; None where it has none."""
        if self.is_conv:
            return (self.node, 2) if len(self.node.inputs) > 2 and constant(self.node.inputs[2]) is not None else None
        add = only_use(self.output)
        if add is None or add.op_type != "Add" or add.domain != "":
            return None
        for i, v in enumerate(add.inputs):
            value = constant(v)
            if value is not None and value.size in (1, self.matrix.shape[-1]) and value.shape[-1:] == (value.size,):
                return add, i
        return None

    @property
    def macs(self) -> int:
        """Multiply-adds for one run; the output's shape must be static."""
        return math.prod(shape(self.output) or ()) * self.matrix.shape[1]


def layers(model: ir.Model) -> list[Layer]:
    """The compressible layers in the order of execution: constant float32 weights, read by this layer alone or not."""
    return [Layer(n) for n in model.graph if n.domain == "" and (n.op_type == "Conv" or _is_matrix_product(n))
            and (w := constant(n.inputs[1])) is not None and w.dtype == np.float32 and w.size and shape(n.outputs[0]) is not None]


def _is_matrix_product(node: ir.Node) -> bool:
    return node.op_type == "MatMul" and len(shape(node.inputs[1]) or ()) == 2 and len(shape(node.inputs[0]) or ()) > 1



