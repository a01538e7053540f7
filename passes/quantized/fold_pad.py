"""Padding by the zero point is the business of the integer convolution that reads it."""

from __future__ import annotations

import onnx_ir as ir

from ..base import NodePass, Stage, attr, maker, only_use, op, replace, scalar
from ..canonical.fold_pad import spatial_pads


class FoldIntegerPad(NodePass):
    """ConvInteger(Pad(x, p, zero), w, zero) with padding q becomes ConvInteger(x, w, zero) with padding p + q."""

    stage = Stage.CANONICAL
    ops = frozenset({"ConvInteger"})

    def rewrite(self, node: ir.Node, model: ir.Model) -> bool:
        pad = maker(node.inputs[0], "Pad")
        if pad is None or only_use(pad.outputs[0]) is not node or attr(node, "auto_pad", "NOTSET") not in ("NOTSET", b"NOTSET"):
            return False
        zero = scalar(node.inputs[2]) if len(node.inputs) > 2 and node.inputs[2] is not None else 0
        found = spatial_pads(pad)
        if found is None or found[1] != zero:
            self.miss(pad, "it is not a constant padding of the spatial axes by the zero point")
            return False
        own = attr(node, "pads", [0] * len(found[0]))
        y = node.outputs[0]
        new = op("ConvInteger", [pad.inputs[0], *node.inputs[1:]], y, name=str(y.name))
        new.name = node.name
        total = [a + b for a, b in zip(found[0], own, strict=True)]
        new.attributes.update({**node.attributes, "pads": ir.AttrInt64s("pads", total)})
        replace(node, [new], new.outputs[0])
        return True
