"""GELU in pieces."""

from __future__ import annotations

import math

import onnx_ir as ir

from ..base import NodePass, Stage, op, replace, shape
from .algebra import Polynomial, close, factors, polynomial, within

_ROOT = math.sqrt(2 / math.pi)

# approximation: (inner function f, its argument as a polynomial of x, the gate as a polynomial of f)
_FORMS: tuple[tuple[str, str, Polynomial, Polynomial], ...] = (
    ("none", "Erf", {1: math.sqrt(0.5)}, {0: 0.5, 1: 0.5}),
    ("tanh", "Tanh", {1: _ROOT, 3: 0.044715 * _ROOT}, {0: 0.5, 1: 0.5}),
    ("tanh", "Sigmoid", {1: 2 * _ROOT, 3: 0.08943 * _ROOT}, {1: 1.0}),
)


class FuseGelu(NodePass):
    """x (1 + erf(x / sqrt 2)) / 2, and its approximation by tanh(sqrt(2/pi) (x + 0.044715 x^3)), become Gelu.

    Whatever the order of the factors, and whether the half stands outside or inside the sum. (Hendrycks and Gimpel, "Gaussian
    error linear units", 2016, section 2.)
    """

    stage = Stage.FUSE
    ops = frozenset({"Mul", "Div"})

    def rewrite(self, node: ir.Node, model: ir.Model) -> bool:
        y = node.outputs[0]
        coefficient, found = factors(node)
        if len(found) != 2:
            return False
        for x, gate in (found, reversed(found)):
            for approximate, function, argument, gated in _FORMS:
                f = within(gate, function)
                if f is None:
                    continue
                weight = polynomial(gate, f.outputs[0])
                if weight is not None:
                    weight = {p: c * coefficient for p, c in weight.items()}
                if not close(polynomial(f.inputs[0], x), argument, x) or not close(weight, gated, x):
                    if function != "Sigmoid":       # which has many other uses
                        self.miss(node, f"{function} here is not that of GELU")
                    continue
                if shape(x) != shape(y):
                    self.miss(node, "a constant broadcasts x to another shape")
                    continue
                new = op("Gelu", [x], y, name=y.name or "gelu", approximate=approximate)
                replace(node, [new], new.outputs[0])
                return True
        return False
