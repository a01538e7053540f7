"""How large bytes can become."""

from __future__ import annotations

from collections.abc import Callable

import onnx_ir as ir

from ..base import DOMAIN, GraphPass, Stage, attr, constant, scalar
from ..functions import PREFIX
from .move_scales import MOVES

TOP = "top"     # the key in a value's metadata: the largest number that it takes
LARGEST = 255


_INTEGER: dict[str, Callable[[ir.Node], int]] = {       # what the attributes of ops of our own say
    "Requantize": lambda node: int(attr(node, "high")), "Lookup": lambda node: int(attr(node, "table").max()),
    "IntegerSoftmax": lambda node: int(attr(node, "radix")) - 1}


class NoteBounds(GraphPass):
    """Writes into the metadata of uint8 values the largest number that they can take, where that is less than 255: behind a Clip,
    and on through pools, concatenations, views, minima and the like. Kernels whose products have seven bits ask for it."""

    stage = Stage.LAYOUT

    def run(self, model: ir.Model) -> bool:
        changed = False
        for node in model.graph:
            for value in node.outputs:
                if value.dtype == ir.DataType.UINT8 and (bound := _bound(node)) != top(value):
                    value.metadata_props[TOP] = str(bound)
                    changed = True
        return changed


def top(value: ir.Value | None) -> int:
    """The largest number that a uint8 value can take, as far as is known."""
    array = constant(value)
    if array is not None:
        return int(array.max(initial=0))
    return int(value.metadata_props.get(TOP, LARGEST)) if value is not None else 0


def _bound(node: ir.Node) -> int:
    kind = node.op_type.removeprefix(PREFIX) if node.domain == DOMAIN else node.op_type
    if node.domain not in ("", DOMAIN):
        return LARGEST
    if kind == "Clip":
        high = scalar(node.inputs[2]) if len(node.inputs) > 2 and node.inputs[2] is not None else None
        low = scalar(node.inputs[1]) if len(node.inputs) > 1 and node.inputs[1] is not None else 0
        bound = top(node.inputs[0])
        return LARGEST if low is None else max(int(low), bound if high is None else min(bound, int(high)))
    if node.domain == DOMAIN and kind in _INTEGER:
        return min(LARGEST, _INTEGER[kind](node))
    if kind not in MOVES or (kind == "Resize" and node.attributes.get_string("mode", "nearest") != "nearest"):
        return LARGEST
    bounds = [top(v) for v in node.inputs[MOVES[kind]]]
    if kind == "Pad" and len(node.inputs) > 2 and node.inputs[2] is not None:
        bounds.append(int(scalar(node.inputs[2]) or 0) if constant(node.inputs[2]) is not None else LARGEST)
    return min(bounds) if kind == "Min" else max(bounds)
