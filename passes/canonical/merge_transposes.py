"""Transposes in a row."""

from __future__ import annotations

import onnx_ir as ir

from ..base import NodePass, Stage, attr, maker, op, replace, shape


class MergeTransposes(NodePass):
    """Transpose(Transpose(x, p), q) becomes Transpose(x, p[q]); without `perm`, the reversed axes are written out."""

    stage = Stage.CANONICAL
    ops = frozenset({"Transpose"})

    def rewrite(self, node: ir.Node, model: ir.Model) -> bool:
        x, y = node.inputs[0], node.outputs[0]
        dims = shape(x)
        if dims is None:
            return False
        perm = attr(node, "perm")
        second = perm if perm is not None else list(range(len(dims)))[::-1]
        first = maker(x, "Transpose")
        if first is not None and "perm" in first.attributes:
            inner = attr(first, "perm")
            source, merged = first.inputs[0], [inner[a] for a in second]
        elif perm is None:
            source, merged = x, second
        else:
            return False
        new = op("Transpose", [source], y, name=y.name or "transpose", perm=merged)
        replace(node, [new], new.outputs[0])
        return True
