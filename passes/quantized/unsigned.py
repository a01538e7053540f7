"""Signed bytes of activations become unsigned ones, so that kernels know one kind."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from ..base import GraphPass, Stage, constant, initializer
from .move_scales import MOVES, data, mode, moves
from .scales import Scale

SHIFT = 128
LIMITS = (1, 2)     # the inputs of a Clip that are its bounds


class UnsignedActivations(GraphPass):
    """int8 values between QuantizeLinear and DequantizeLinear become uint8: byte + 128, zero point + 128, also through ops that
    only move or compare elements, and Clip. A value that anything else makes or reads, and what it is connected with, stays."""

    stage = Stage.CANONICAL

    def run(self, model: ir.Model) -> bool:
        values = {v for node in model.graph for v in node.outputs if v.dtype == ir.DataType.INT8 and self._made(node)}
        while True:
            stays = {v for v in values if not self._may_change(v, values)}
            if not stays:
                break
            values -= stays
        for node in list(model.graph):
            if any(v in values for v in (*node.inputs, *node.outputs)):
                self._shift(node, values, model)
        for v in values:
            v.type = ir.TensorType(ir.DataType.UINT8)
        return bool(values)

    @staticmethod
    def _made(node: ir.Node) -> bool:
        if node.op_type == "QuantizeLinear":
            return node.domain == "" and Scale.of(node) is not None
        return moves(node) or _bounded(node)

    @staticmethod
    def _may_change(value: ir.Value, values: set[ir.Value]) -> bool:
        node = value.producer()
        if node is None or value.is_graph_output():
            return False
        if node.op_type != "QuantizeLinear" and any(v not in values and constant(v) is None for v in _data(node)):
            return False
        for user, n in value.uses():
            if user.graph is not node.graph:
                return False
            if user.op_type == "DequantizeLinear" and user.domain == "" and n == 0 and Scale.of(user) is not None:
                continue
            if not (moves(user) or _bounded(user)) or value not in _data(user) or any(v not in values for v in user.outputs):
                return False
        return True

    @staticmethod
    def _shift(node: ir.Node, values: set[ir.Value], model: ir.Model) -> None:
        def shifted(n: int, least: int | None = None) -> None:
            """Input n, a constant, plus 128; one that is left out becomes `least`."""
            given = node.inputs[n] if n < len(node.inputs) else None
            array = constant(given)
            if given is None and least is None:
                return
            new = np.asarray(least if array is None else array.astype(np.int32) + SHIFT, np.uint8)
            if n >= len(node.inputs):
                node.resize_inputs(n + 1)
            node.replace_input_with(n, initializer(model, new, f"{node.outputs[0].name}_{n}_unsigned"))

        if node.op_type in ("QuantizeLinear", "DequantizeLinear"):
            scale = Scale.of(node)
            assert scale is not None
            shifted(2, SHIFT) if node.outputs[0] in values or scale.per_tensor or len(node.inputs) > 2 else None
            if "output_dtype" in node.attributes:
                node.attributes["output_dtype"] = ir.AttrInt64("output_dtype", int(ir.DataType.UINT8))
        elif node.op_type == "Clip":
            for n in LIMITS:
                shifted(n)
        else:
            for n, v in enumerate(node.inputs):
                if v is not None and v in _data(node) and v not in values:
                    shifted(n)
            if node.op_type == "Pad" and mode(node, "constant") == "constant":
                shifted(2, SHIFT)


def _bounded(node: ir.Node) -> bool:
    return node.op_type == "Clip" and node.domain == "" and all(
        v is None or constant(v) is not None for v in (node.inputs[n] for n in LIMITS if n < len(node.inputs)))


def _data(node: ir.Node) -> list[ir.Value]:
    return data(node) if node.op_type in MOVES else [v for v in node.inputs[:1] if v is not None]
