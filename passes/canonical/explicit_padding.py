"""Windows say all that they mean."""

from __future__ import annotations

import math

import onnx_ir as ir

from ..base import NodePass, Stage, attr, shape

CONVOLUTIONS = frozenset({"Conv", "ConvTranspose", "ConvInteger", "QLinearConv"})


class ExplicitPadding(NodePass):
    """kernel_shape, strides, dilations and pads are always given; auto_pad and output_shape become pads:

    VALID: 0. SAME: p = max((ceil(in / stride) - 1) stride + (kernel - 1) dilation + 1 - in, 0), the odd one at the end (UPPER) or
    at the beginning (LOWER). ConvTranspose: p = stride (in - 1) + output_padding + (kernel - 1) dilation + 1 - out with
    out = output_shape or in stride; a negative p is added to output_padding.
    """

    stage = Stage.CANONICAL
    ops = CONVOLUTIONS | {"MaxPool", "AveragePool", "LpPool"}

    def rewrite(self, node: ir.Node, model: ir.Model) -> bool:
        x, y = shape(node.inputs[0]), shape(node.outputs[0])
        if x is None or y is None:
            return False
        weight = node.inputs[3 if node.op_type == "QLinearConv" else 1] if node.op_type in CONVOLUTIONS else None
        kernel = attr(node, "kernel_shape") or list((shape(weight) or ())[2:])
        rank = len(x) - 2
        if len(kernel) != rank:
            return False
        strides, dilations = (attr(node, name) or [1] * rank for name in ("strides", "dilations"))
        auto, output_shape = attr(node, "auto_pad", "NOTSET"), attr(node, "output_shape")
        pads = attr(node, "pads") or [0] * 2 * rank
        extra = attr(node, "output_padding") or [0] * rank
        extent = [(k - 1) * d + 1 for k, d in zip(kernel, dilations, strict=True)]
        if node.op_type == "ConvTranspose" and (output_shape or auto in ("SAME_UPPER", "SAME_LOWER")):
            target = output_shape[-rank:] if output_shape else [n * s for n, s in zip(x[2:], strides, strict=True)]
            totals = [s * (n - 1) + o + e - t for n, s, o, e, t in zip(x[2:], strides, extra, extent, target, strict=True)]
            extra = [o + max(-t, 0) for o, t in zip(extra, totals, strict=True)]
            halves = [max(t, 0) // 2 if auto == "SAME_UPPER" else max(t, 0) - max(t, 0) // 2 for t in totals]
            pads = halves + [max(t, 0) - h for t, h in zip(totals, halves, strict=True)]
        elif auto in ("SAME_UPPER", "SAME_LOWER"):
            totals = [max((math.ceil(n / s) - 1) * s + e - n, 0) for n, s, e in zip(x[2:], strides, extent, strict=True)]
            halves = [t // 2 if auto == "SAME_UPPER" else t - t // 2 for t in totals]
            pads = halves + [t - h for t, h in zip(totals, halves, strict=True)]
        elif auto == "VALID":
            pads = [0] * 2 * rank
        said = {"kernel_shape": kernel, "strides": strides, "dilations": dilations, "pads": pads}
        if node.op_type == "ConvTranspose":
            said["output_padding"] = extra
        gone = {"auto_pad", "output_shape"} & set(node.attributes)
        if not gone and all(attr(node, name) == value for name, value in said.items()):
            return False
        for name in gone:
            node.attributes.pop(name)
        node.attributes.update({name: ir.AttrInt64s(name, value) for name, value in said.items()})
        return True
