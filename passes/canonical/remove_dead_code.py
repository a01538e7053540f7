"""What no output depends on goes."""

from __future__ import annotations

import onnx_ir as ir
from onnx_ir.passes.common import (
    RemoveInitializersFromInputsPass,
    RemoveUnusedFunctionsPass,
    RemoveUnusedNodesPass,
)

from ..base import GraphPass, Stage


class RemoveDeadCode(GraphPass):
    """Nodes, initializers and functions that no output of the graph depends on are removed.

    An initializer that is also listed as an input of the graph (a default that a caller might override) becomes a constant.
    """

    stage = Stage.CANONICAL

    def run(self, model: ir.Model) -> bool:
        steps = (RemoveInitializersFromInputsPass(), RemoveUnusedNodesPass(), RemoveUnusedFunctionsPass())
        return any([step(model).modified for step in steps])    # noqa: C419  all of them run
