"""Ops that only move or compare elements work on the bytes themselves."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx_ir as ir

from ..base import NodePass, Stage, attr, constant, initializer, maker, only_use, op, replace, replace_all, scalar, shape
from .scales import Scale, dequantize, dequantized, quantize

# op -> which inputs are data; what they do commutes with any increasing function of the elements
MOVES: dict[str, slice] = {
    **dict.fromkeys(("DepthToSpace", "Expand", "Flatten", "Gather", "Identity", "MaxPool", "Pad", "ReduceMax", "ReduceMin",
                     "Reshape", "Resize", "Slice", "SpaceToDepth", "Split", "Squeeze", "Tile", "Transpose", "Unsqueeze"),
                    slice(0, 1)),
    **dict.fromkeys(("Concat", "Max", "Min"), slice(0, None)), "Where": slice(1, 3)}


def moves(node: ir.Node) -> bool:
    """Is every element of the node's outputs one of its data (or, of a Pad, one constant)?"""
    if node.domain != "" or node.op_type not in MOVES or any(v is None for v in node.inputs[MOVES[node.op_type]]):
        return False
    match node.op_type:
        case "MaxPool":
            return len(node.outputs) == 1
        case "Resize":
            return mode(node, "nearest") == "nearest" and mode(node, "", "coordinate_transformation_mode") != "tf_crop_and_resize"
        case "Pad":
            return len(node.inputs) < 3 or node.inputs[2] is None or scalar(node.inputs[2]) is not None
    return True


def mode(node: ir.Node, default: str, name: str = "mode") -> str:
    text = attr(node, name, default)
    return text.decode() if isinstance(text, bytes) else str(text)


def data(node: ir.Node) -> list[ir.Value]:
    return [v for v in node.inputs[MOVES[node.op_type]] if v is not None]


class SinkDequantize(NodePass):
    """move(DQ(x), …) becomes DQ(move(x, …)) where all data have one scale per tensor; a Pad's value is then its byte, and must be
    one. Relu(DQ(x)) becomes DQ(Clip(x, zero)). Transpose of constants moves the axis of their scales, too."""

    stage = Stage.CANONICAL
    ops = frozenset({*MOVES, "Relu"})

    def rewrite(self, node: ir.Node, model: ir.Model) -> bool:
        if node.op_type == "Relu":
            return self._relu(node, model)
        if not moves(node):
            return False
        given = [dequantized(v) for v in data(node)]
        known = [g for g in given if g is not None]
        if len(known) < len(given) or any(shape(x) is None for x, _ in known):
            return False
        scale = known[0][1]
        if node.op_type == "Transpose" and not scale.per_tensor:
            perm = attr(node, "perm") or list(range(len(shape(node.inputs[0]) or ())))[::-1]
            scale = Scale(scale.scale, scale.zero, perm.index(scale.axis % len(perm)))
        elif not all(scale.same(s) for _, s in known):
            return False
        inputs = list(node.inputs)
        inputs[MOVES[node.op_type]] = [x for x, _ in known]
        if node.op_type == "Pad" and mode(node, "constant") == "constant":
            value = pad_value(node)
            byte = scale.quantize(value)
            if (byte - int(scale.zero)) * np.float32(scale.scale) != np.float32(value):
                self.miss(node, f"it pads with {value}, which no byte says")
                return False
            inputs = padded_with(inputs, byte, scale, model, f"{node.outputs[0].name}_value")
        moved = copy(node, inputs, known[0][0])
        behind = [dequantize(v, scale, model, f"{old.name}_real") for v, old in zip(moved.outputs, node.outputs, strict=True)]
        replace_all(node, [moved, *behind], [d.outputs[0] for d in behind])
        return True

    @staticmethod
    def _relu(node: ir.Node, model: ir.Model) -> bool:
        found = dequantized(node.inputs[0])
        if found is None or not found[1].per_tensor:
            return False
        x, scale = found
        clip = op("Clip", [x, initializer(model, scale.zero, f"{x.name}_zero")], x, name=f"{node.outputs[0].name}_bytes")
        real = dequantize(clip.outputs[0], scale, model, f"{node.outputs[0].name}_real")
        replace(node, [clip, real], real.outputs[0])
        return True


class HoistQuantize(NodePass):
    """Q(move(x, …)) becomes move(Q(x), …) where nobody else reads what is moved: bytes are moved instead of floats. A Pad's
    value is quantised, too."""

    stage = Stage.CANONICAL
    ops = frozenset({"QuantizeLinear"})

    def rewrite(self, node: ir.Node, model: ir.Model) -> bool:
        y, scale = node.inputs[0], Scale.of(node)
        before = maker(y, *MOVES)
        if y is None or before is None or scale is None or not scale.per_tensor or only_use(y) is not node:
            return False
        if not moves(before) or len(before.outputs) > 1 or not all(self._may_be_bytes(v, before) for v in data(before)):
            return False
        made = {v: quantize(v, scale, model, f"{v.name}_bytes") for v in data(before)}
        inputs = list(before.inputs)
        inputs[MOVES[before.op_type]] = [made[v].outputs[0] for v in data(before)]
        if before.op_type == "Pad" and mode(before, "constant") == "constant":
            inputs = padded_with(inputs, scale.quantize(pad_value(before)), scale, model, f"{y.name}_value")
        moved = copy(before, inputs, node.outputs[0])
        replace(node, [*made.values(), moved], moved.outputs[0])
        return True

    @staticmethod
    def _may_be_bytes(v: ir.Value, reader: ir.Node) -> bool:
        """Is it computed for the reader alone, or dequantised?"""
        if constant(v) is not None or v.dtype != ir.DataType.FLOAT:
            return False
        return maker(v, "DequantizeLinear") is not None or (not v.is_graph_output() and {u for u, _ in v.uses()} == {reader})


def pad_value(pad: ir.Node) -> float:
    value = scalar(pad.inputs[2]) if len(pad.inputs) > 2 and pad.inputs[2] is not None else 0.0
    assert value is not None
    return value


def padded_with(inputs: list[ir.Value | None], byte: int, scale: Scale, model: ir.Model, name: str) -> list[ir.Value | None]:
    """The inputs of a Pad with another value."""
    given = inputs + [None] * (3 - len(inputs))
    return [*given[:2], initializer(model, np.array(byte, scale.zero.dtype), name), *given[3:]]


def copy(node: ir.Node, inputs: Sequence[ir.Value | None], like: ir.Value) -> ir.Node:
    """The node on other inputs, with outputs of their dtype."""
    outputs = [ir.Value(name=f"{v.name}_bytes", shape=v.shape, type=like.type) for v in node.outputs]
    return ir.Node(node.domain, node.op_type, inputs, list(node.attributes.values()), outputs=outputs, name=node.name)


class CancelQuantize(NodePass):
    """Q(DQ(x)) becomes x where both have one scale."""

    stage = Stage.CANONICAL
    ops = frozenset({"QuantizeLinear"})

    def rewrite(self, node: ir.Node, model: ir.Model) -> bool:
        found, scale = dequantized(node.inputs[0]), Scale.of(node)
        if found is None or scale is None or not scale.same(found[1]):
            return False
        replace(node, [], found[0])
        return True
