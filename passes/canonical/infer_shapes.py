"""Every value's dtype and static shape."""

from __future__ import annotations

import onnx_ir as ir

from ..base import DOMAIN, GraphPass, Stage, Unsupported
from ..shapes import infer, typed


class InferShapes(GraphPass):
    """Node after node in topological order: (dtype, shape) of the outputs from those of the inputs and from small constants.

    again: asks about nodes whose outputs are known, too, so that what a file merely says (`value_info`, stale after its inputs
    were given static shapes) yields to what follows from its inputs.
    """

    stage = Stage.CANONICAL

    def __init__(self, again: bool = False) -> None:
        super().__init__()
        self.again = again

    def run(self, model: ir.Model) -> bool:
        changed = False
        for node in model.graph:
            if not all(typed(v) for v in node.outputs) or (self.again and node.domain != DOMAIN):
                changed |= infer(node, model.opset_imports, model.functions.values() if node.domain == DOMAIN else ())
        return changed


def dynamic(model: ir.Model) -> list[Unsupported]:
    """The nodes where static shapes end: an output that somebody reads has none, though all of the node's inputs have."""
    found = []
    for node in model.graph:
        for value in node.outputs:
            if typed(value) or not (value.uses() or value.is_graph_output()):
                continue
            if isinstance(value.type, ir.SequenceType | ir.OptionalType):
                found.append(Unsupported(node, f"makes a {type(value.type).__name__.removesuffix('Type').lower()}",
                                         "export the model with tensors only"))
            elif all(v is None or typed(v) for v in node.inputs):
                what = "dtype" if value.dtype is None else "static shape"
                found.append(Unsupported(node, f"output {value.name} has no {what}: it depends on data known at run time only",
                                         "export the model with static shapes"))
            else:
                continue
            break
    return found
