"""Functions that a model brings along."""

from __future__ import annotations

import onnx_ir as ir
from onnx_ir.passes.common import InlinePass

from ..base import DOMAIN, GraphPass, Stage
from ..functions import COMPOSED


class InlineFunctions(GraphPass):
    """A call of a model-local function becomes the function's body; burnish's own ops stay calls, but those made of others.

    Functions written in another opset than the model's raise ValueError with the names of both.
    """

    stage = Stage.CANONICAL

    def run(self, model: ir.Model) -> bool:
        return bool(InlinePass(criteria=lambda function: function.domain != DOMAIN or function.name in COMPOSED)(model).modified)
