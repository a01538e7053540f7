"""Zeros around an image are the business of the window that reads them."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from ..base import NodePass, Stage, attr, constant, maker, only_use, op, replace, scalar, shape

NOT_NEGATIVE = ("Relu", "Sigmoid", "Abs", "Softmax", "HardSigmoid", "Exp")


class FoldPad(NodePass):
    """conv(pad(x, p), q) becomes conv(x, p + q), and likewise for pools, where the padding is constant and spatial:

    0 for Conv; 0 for AveragePool, which then counts its padding (if it had none of its own, or counts it already); the lowest
    number for MaxPool, or 0 where x is known not to be negative. Pools take no padding as large as their window.
    """

    stage = Stage.CANONICAL
    ops = frozenset({"Conv", "AveragePool", "MaxPool"})

    def rewrite(self, node: ir.Node, model: ir.Model) -> bool:
        pad = maker(node.inputs[0], "Pad")
        if pad is None or only_use(pad.outputs[0]) is not node or len(node.outputs) > 1:
            return False
        found, x = spatial_pads(pad), pad.inputs[0]
        if found is None or x is None or x.dtype is None:
            self.miss(pad, "it is not a constant padding of the spatial axes by constants")
            return False
        added, value = found
        own = attr(node, "pads")
        if own is None or "auto_pad" in node.attributes:
            return False
        total = [a + b for a, b in zip(added, own, strict=True)]
        if node.op_type != "Conv":
            kernel = attr(node, "kernel_shape")
            extent = [(k - 1) * d + 1 for k, d in zip(kernel, attr(node, "dilations"), strict=True)]
            if attr(node, "ceil_mode", 0) or any(t >= e for t, e in zip(total, extent * 2, strict=True)):
                self.miss(node, "a pool's padding must be smaller than its window")
                return False
        lowest = value == -np.inf or (x.dtype.is_floating_point() and value == x.dtype.min)
        if not (lowest or (value == 0 and maker(x, *NOT_NEGATIVE) is not None) if node.op_type == "MaxPool" else value == 0):
            self.miss(pad, f"it pads with {value}")
            return False
        counted = None
        if node.op_type == "AveragePool":
            if any(own) and not attr(node, "count_include_pad", 0):
                self.miss(node, "it does not count its own padding, but would have to count that of the Pad")
                return False
            counted = 1
        new = op(node.op_type, [x, *node.inputs[1:]], node.outputs[0], name=node.outputs[0].name or "padded")
        new.attributes.update({**node.attributes, "pads": ir.AttrInt64s("pads", total)})
        if counted:
            new.attributes["count_include_pad"] = ir.AttrInt64("count_include_pad", 1)
        replace(node, [new], new.outputs[0])
        return True


def spatial_pads(pad: ir.Node) -> tuple[list[int], float] | None:
    """(begins and ends of the axes from 2 on, value) of a Pad by a constant there and nowhere else; else None."""
    dims, given = shape(pad.inputs[0]), constant(pad.inputs[1])
    value = 0.0 if len(pad.inputs) < 3 or pad.inputs[2] is None else scalar(pad.inputs[2])
    axes = constant(pad.inputs[3]) if len(pad.inputs) > 3 and pad.inputs[3] is not None else None
    if dims is None or given is None or value is None or attr(pad, "mode", "constant") != "constant" or (given < 0).any():
        return None
    if len(pad.inputs) > 3 and pad.inputs[3] is not None and axes is None:
        return None
    rank = len(dims)
    both = np.zeros((2, rank), np.int64)
    both[:, axes if axes is not None else np.arange(rank)] = given.reshape(2, -1)
    return None if both[:, :2].any() else (both[:, 2:].reshape(-1).tolist(), value)
