"""What is computed twice is computed once."""

from __future__ import annotations

import onnx_ir as ir
from onnx_ir.passes.common import CommonSubexpressionEliminationPass, DeduplicateHashedInitializersPass

from ..base import GraphPass, Stage


class MergeEqual(GraphPass):
    """Equal initializers become one; then nodes of equal op, attributes and inputs become one (random ones excepted)."""

    stage = Stage.CANONICAL

    def run(self, model: ir.Model) -> bool:
        changed = DeduplicateHashedInitializersPass()(model).modified
        return bool(CommonSubexpressionEliminationPass()(model).modified or changed)
