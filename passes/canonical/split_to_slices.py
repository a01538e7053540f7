"""Split as slices: a slice is a way to read, which every consumer fuses by itself."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from ..base import NodePass, Stage, attr, initializer, op, replace_all, shape


class SplitToSlices(NodePass):
    """Split(x, axis) becomes Slice(x, start, stop, axis) for each output that is read; their shapes say where each starts."""

    stage = Stage.CANONICAL
    ops = frozenset({"Split"})

    def rewrite(self, node: ir.Node, model: ir.Model) -> bool:
        x = node.inputs[0]
        dims = shape(x)
        parts = [shape(o) for o in node.outputs]
        if dims is None or any(p is None for p in parts):
            self.miss(node, "shapes are not static")
            return False
        axis = attr(node, "axis", 0) % len(dims)
        nodes: list[ir.Node] = []
        results: list[ir.Value | None] = []
        start = 0
        for out, part in zip(node.outputs, parts, strict=True):
            assert part is not None
            stop = start + part[axis]
            if not out.uses() and not out.is_graph_output():
                results.append(None)
            else:
                bounds = [initializer(model, np.array([n], np.int64), f"{node.name}_{what}")
                          for n, what in ((start, "start"), (stop, "stop"), (axis, "axis"))]
                nodes.append(op("Slice", [x, *bounds], out, name=out.name or "part"))
                results.append(nodes[-1].outputs[0])
            start = stop
        replace_all(node, nodes, results)
        return True
