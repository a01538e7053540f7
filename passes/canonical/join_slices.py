"""Slices that a Concat puts together again."""

from __future__ import annotations

from collections.abc import Sequence

import onnx_ir as ir

from ..base import NodePass, Stage, attr, constant, maker, op, replace, shape


class JoinSlices(NodePass):
    """Concat(…, Slice(x, 0, 3), Slice(x, 3, 8), …) becomes Concat(…, x, …) where x has 8 elements along the axis (C2f blocks: the
    halves of a map go on both to its branches and to its end)."""

    stage = Stage.CANONICAL
    ops = frozenset({"Concat"})

    def rewrite(self, node: ir.Node, model: ir.Model) -> bool:
        out = shape(node.outputs[0])
        if out is None:
            return False
        axis = attr(node, "axis") % len(out)
        inputs: list[ir.Value | None] = []
        n = 0
        while n < len(node.inputs):
            whole, count = _together(node.inputs[n:], axis)
            inputs.append(whole)
            n += count
        if len(inputs) == len(node.inputs):
            return False
        new = op("Concat", inputs, node.outputs[0], name=node.name or "joined", axis=axis)
        replace(node, [new], new.outputs[0])
        return True


def _together(values: Sequence[ir.Value | None], axis: int) -> tuple[ir.Value | None, int]:
    """The value that the first ones make up, and how many those are; else the first by itself."""
    source, reached = None, 0
    for n, value in enumerate(values):
        part = _part(value, axis)
        if part is None or part[1] != reached or (source is not None and part[0] is not source):
            break
        source, _, reached = part
        dims = shape(source)
        if dims is not None and reached == dims[axis]:
            return source, n + 1
    return values[0], 1


def _part(value: ir.Value | None, axis: int) -> tuple[ir.Value, int, int] | None:
    """(x, start, stop) of a Slice of x along nothing but this axis, without a step."""
    node = maker(value, "Slice")
    if node is None or len(node.inputs) < 4 or node.inputs[0] is None:
        return None
    dims = shape(node.inputs[0])
    starts, stops, axes = (constant(v) for v in node.inputs[1:4])
    steps = constant(node.inputs[4]) if len(node.inputs) > 4 and node.inputs[4] is not None else [1]
    if dims is None or starts is None or stops is None or axes is None or steps is None:
        return None
    if len(axes) != 1 or axes[0] % len(dims) != axis or steps[0] != 1:
        return None
    start, stop, _ = slice(int(starts[0]), int(stops[0])).indices(dims[axis])
    return (node.inputs[0], start, stop) if stop > start else None
