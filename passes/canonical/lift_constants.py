"""Constant nodes become initializers."""

from __future__ import annotations

import onnx_ir as ir
from onnx_ir.passes.common import LiftConstantsToInitializersPass

from ..base import GraphPass, Stage, maker, op


class LiftConstants(GraphPass):
    """y = Constant(value | value_float(s) | value_int(s) | value_string(s)) becomes an initializer y, in its own (sub)graph.

    A constant that is an output of the graph stays one through an Identity.
    """

    stage = Stage.CANONICAL

    def run(self, model: ir.Model) -> bool:
        for i, value in enumerate(model.graph.outputs):
            node = maker(value, "Constant")
            if node is not None:
                copy = op("Identity", [value], value, name=value.name or "output")
                model.graph.insert_after(node, copy)
                model.graph.outputs[i] = copy.outputs[0]
                value.name = f"{value.name}_constant"
        return bool(LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0)(model).modified)
