"""Nodes that give back their input."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx_ir as ir

from ..base import NodePass, Stage, attr, constant, replace_all, scalar, shape


class RemoveNoOps(NodePass):
    """f(x) becomes x where f changes neither shape, dtype nor value: Identity, Dropout (in inference), Cast to the same dtype,
    Reshape, Expand, Tile or Resize to the same shape, Transpose by (0, 1, …), Pad by 0, Slice of all, Concat, Sum, Mean, Max, Min
    or Split of one, x + 0, x - 0, x * 1, x / 1, x ** 1, Clip without bounds, DepthToSpace with blocks of 1.

    An Identity that gives an input or a constant the name of an output stays.
    """

    stage = Stage.CANONICAL

    def rewrite(self, node: ir.Node, model: ir.Model) -> bool:
        kept = _KEPT_INPUT[node.op_type](node)
        if kept is None or kept.dtype != node.outputs[0].dtype:
            return False
        x, y = kept, node.outputs[0]
        if shape(x) is None or shape(x) != shape(y):
            if node.op_type not in ("Identity", "Dropout"):
                return False
            if isinstance(x.type, ir.SequenceType | ir.OptionalType):
                return False
        if node.op_type == "Identity" and y.is_graph_output() and (x.producer() is None or x.is_graph_output()):
            return False
        if any(v.uses() or v.is_graph_output() for v in node.outputs[1:]):
            self.miss(node, "its second output is read")
            return False
        replace_all(node, [], [x, *[None] * (len(node.outputs) - 1)])
        return True


Rule = Callable[[ir.Node], ir.Value | None]


def _always(node: ir.Node) -> ir.Value | None:
    """Same shape and dtype say it all."""
    return node.inputs[0]


def _single(node: ir.Node) -> ir.Value | None:
    return node.inputs[0] if len(node.inputs) == 1 and len(node.outputs) == 1 else None


def _split(node: ir.Node) -> ir.Value | None:
    return node.inputs[0] if len(node.outputs) == 1 else None


def _dropout(node: ir.Node) -> ir.Value | None:
    training = node.inputs[2] if len(node.inputs) > 2 else None
    ratio = node.inputs[1] if len(node.inputs) > 1 else None
    return node.inputs[0] if training is None or scalar(training) == 0 or (ratio is not None and scalar(ratio) == 0) else None


def _transpose(node: ir.Node) -> ir.Value | None:
    perm, dims = attr(node, "perm"), shape(node.inputs[0])
    if perm is None:
        return node.inputs[0] if dims is not None and len(dims) < 2 else None
    return node.inputs[0] if list(perm) == list(range(len(perm))) else None


def _pad(node: ir.Node) -> ir.Value | None:
    pads = constant(node.inputs[1])
    return node.inputs[0] if pads is not None and not pads.any() else None


def _slice(node: ir.Node) -> ir.Value | None:
    steps = constant(node.inputs[4]) if len(node.inputs) > 4 and node.inputs[4] is not None else np.ones(1)
    return node.inputs[0] if steps is not None and (steps > 0).all() else None


def _resize(node: ir.Node) -> ir.Value | None:
    if attr(node, "coordinate_transformation_mode") == "tf_crop_and_resize":
        return None
    scales = constant(node.inputs[2]) if len(node.inputs) > 2 else None
    return node.inputs[0] if len(node.inputs) > 3 or (scales is not None and (scales == 1).all()) else None


def _clip(node: ir.Node) -> ir.Value | None:
    return node.inputs[0] if all(v is None for v in node.inputs[1:]) else None


def _blocks(node: ir.Node) -> ir.Value | None:
    return node.inputs[0] if attr(node, "blocksize") == 1 else None


def _neutral(value: float, *, either_side: bool) -> Rule:
    def rule(node: ir.Node) -> ir.Value | None:
        x, c = node.inputs
        for kept, other in ((x, c), (c, x)) if either_side else ((x, c),):
            array = constant(other)
            if array is not None and array.dtype.kind in "fiu" and array.size and (array == value).all():
                return kept
        return None
    return rule


_KEPT_INPUT: dict[str, Rule] = {
    **dict.fromkeys(("Identity", "Cast", "CastLike", "Reshape", "Expand", "Tile", "Flatten", "Squeeze", "Unsqueeze"), _always),
    **dict.fromkeys(("Concat", "Sum", "Mean", "Max", "Min"), _single),
    **dict.fromkeys(("DepthToSpace", "SpaceToDepth"), _blocks),
    "Add": _neutral(0, either_side=True), "Sub": _neutral(0, either_side=False), "Mul": _neutral(1, either_side=True),
    "Div": _neutral(1, either_side=False), "Pow": _neutral(1, either_side=False), "Split": _split, "Dropout": _dropout,
    "Transpose": _transpose, "Pad": _pad, "Slice": _slice, "Resize": _resize, "Clip": _clip,
}
RemoveNoOps.ops = frozenset(_KEPT_INPUT)
