"""Hard sigmoid and hard swish in pieces."""

from __future__ import annotations

import onnx_ir as ir

from ..base import NodePass, Stage, attr, op, replace, scalar, shape
from .algebra import Polynomial, close, factors, inner, polynomial


def bounded(value: ir.Value | None) -> tuple[ir.Value, float] | None:
    """(v, top) of a value min(max(v, 0), top) that nothing else reads, in any spelling."""
    clip = inner(value, "Clip")
    if clip is not None and len(clip.inputs) == 3 and clip.inputs[0] is not None:
        low, top = scalar(clip.inputs[1]), scalar(clip.inputs[2])
        return (clip.inputs[0], top) if low == 0 and top is not None else None
    minimum = inner(value, "Min")
    if minimum is None or len(minimum.inputs) != 2:
        return None
    for v, number in (minimum.inputs, reversed(minimum.inputs)):
        top, maximum = scalar(number), inner(v, "Max", "Relu")
        if top is None or maximum is None or maximum.inputs[0] is None:
            continue
        if maximum.op_type == "Relu":
            return maximum.inputs[0], top
        for w, zero in (maximum.inputs, reversed(maximum.inputs)) if len(maximum.inputs) == 2 else ():
            if scalar(zero) == 0 and w is not None:
                return w, top
    return None


class FuseHardSigmoid(NodePass):
    """min(max(x + b, 0), t) / t with t > 0, b != 0 becomes HardSigmoid(alpha = 1/t, beta = b/t)."""

    stage = Stage.FUSE
    ops = frozenset({"Mul", "Div"})

    def rewrite(self, node: ir.Node, model: ir.Model) -> bool:
        y = node.outputs[0]
        coefficient, found = factors(node)
        clipped = bounded(found[0]) if len(found) == 1 else None
        if clipped is None:
            return False
        v, top = clipped
        total = inner(v, "Add")
        for x, number in (total.inputs, reversed(total.inputs)) if total is not None else ():
            shift = scalar(number)
            if shift is None or x is None:
                continue
            if not close({0: coefficient * top}, {0: 1}, x):
                self.miss(node, "the bounded value does not reach one")
            elif shape(x) == shape(y):
                new = op("HardSigmoid", [x], y, name=y.name or "hard_sigmoid", alpha=coefficient, beta=shift * coefficient)
                replace(node, [new], new.outputs[0])
                return True
        return False


class FuseHardSwish(NodePass):
    """x min(max(x + 3, 0), 6) / 6, or x HardSigmoid(x; 1/6, 1/2), becomes HardSwish. (Howard et al., "Searching for MobileNetV3",
    2019, section 5.2.)"""

    stage = Stage.FUSE
    ops = frozenset({"Mul", "Div"})

    def rewrite(self, node: ir.Node, model: ir.Model) -> bool:
        y = node.outputs[0]
        coefficient, found = factors(node)
        for x, gate in (found, reversed(found)) if len(found) == 2 else ():
            line = _gate(gate, coefficient, x)
            if line is None:
                continue
            if not close(line, {0: 0.5, 1: 1 / 6}, x):
                self.miss(node, "the gate is not (x + 3) / 6 between 0 and 1")
            elif shape(x) == shape(y):
                new = op("HardSwish", [x], y, name=y.name or "hard_swish")
                replace(node, [new], new.outputs[0])
                return True
        return False


def _gate(gate: ir.Value, coefficient: float, x: ir.Value) -> Polynomial | None:
    """The line whose part between 0 and 1 is coefficient * gate."""
    sigmoid = inner(gate, "HardSigmoid")
    if sigmoid is not None and sigmoid.inputs[0] is x:
        return {0: attr(sigmoid, "beta", 0.5), 1: attr(sigmoid, "alpha", 0.2)} if coefficient == 1 else None
    clipped = bounded(gate)
    if clipped is None or not close({0: coefficient * clipped[1]}, {0: 1}, x):
        return None
    line = polynomial(clipped[0], x)
    return {p: c * coefficient for p, c in line.items()} if line is not None else None
