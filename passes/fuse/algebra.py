"""Reading arithmetic in whatever order an exporter wrote it.

All functions look only through values that are read once: what something else reads has to be computed anyway.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import onnx_ir as ir

from ..base import maker, only_use, scalar

Polynomial = dict[int, float]       # power -> coefficient
DEGREE = 4


def inner(value: ir.Value | None, *ops: str) -> ir.Node | None:
    """The node that makes the value, if its op is among `ops` and nothing else reads the value."""
    node = maker(value, *ops)
    return node if node is not None and only_use(value) is not None else None


def factors(node: ir.Node) -> tuple[float, list[ir.Value]]:
    """A product (Mul, Div by a constant, Neg) as a constant times values that are no products themselves."""
    coefficient, found = 1.0, list[ir.Value]()

    def descend(value: ir.Value | None) -> None:
        nonlocal coefficient
        number = scalar(value)
        part = inner(value, "Mul", "Div", "Neg")
        if number is not None:
            coefficient *= number
        elif part is not None and _is_product(part):
            expand(part)
        elif value is not None:
            found.append(value)

    def expand(product: ir.Node) -> None:
        nonlocal coefficient
        match product.op_type:
            case "Mul":
                for v in product.inputs:
                    descend(v)
            case "Div":
                divisor = scalar(product.inputs[1])
                coefficient /= divisor or math.nan
                descend(product.inputs[0])
            case "Neg":
                coefficient = -coefficient
                descend(product.inputs[0])

    if _is_product(node):
        expand(node)
    return coefficient, found


def _is_product(node: ir.Node) -> bool:
    return node.op_type in ("Mul", "Neg") or (node.op_type == "Div" and bool(scalar(node.inputs[1])))


def polynomial(value: ir.Value | None, x: ir.Value) -> Polynomial | None:
    """The coefficients of a value that is a polynomial of `x` of degree 4 or less; None if it is something else."""
    if value is x:
        return {1: 1.0}
    number = scalar(value)
    if number is not None:
        return {0: number}
    node = maker(value, "Add", "Sub", "Mul", "Div", "Neg", "Pow", "Sum")
    # x * x * x may be written with x^2 read twice by one Mul
    if node is None or value is None or value.is_graph_output() or len({user for user, _ in value.uses()}) != 1:
        return None
    if node.op_type == "Pow":
        base, power = polynomial(node.inputs[0], x), scalar(node.inputs[1])
        if base is None or power is None or power != int(power) or not 0 <= power <= DEGREE:
            return None
        result: Polynomial | None = {0: 1.0}
        for _ in range(int(power)):
            result = _times(result, base)
        return result
    terms = [polynomial(v, x) for v in node.inputs]
    if any(t is None for t in terms):
        return None
    a, b = terms[0] or {}, (terms[1] or {}) if len(terms) > 1 else {}
    match node.op_type:
        case "Neg": return _times(a, {0: -1.0})
        case "Mul": return _times(a, b)
        case "Div": return _times(a, {0: 1 / b[0]}) if set(b) == {0} and b[0] else None
        case "Sub": return _plus(a, _times(b, {0: -1.0}))
        case "Add": return _plus(a, b)
    return None


def _plus(a: Polynomial, b: Polynomial | None) -> Polynomial | None:
    return None if b is None else {p: a.get(p, 0.0) + b.get(p, 0.0) for p in {*a, *b}}


def _times(a: Polynomial | None, b: Polynomial) -> Polynomial | None:
    if a is None:
        return None
    product: Polynomial = {}
    for p, c in a.items():
        for q, d in b.items():
            product[p + q] = product.get(p + q, 0.0) + c * d
    return product if max(product) <= DEGREE else None


def within(value: ir.Value | None, op: str) -> ir.Node | None:
    """The node of this op inside sums and products with constants."""
    found = inner(value, op)
    if found is not None:
        return found
    node = inner(value, "Add", "Sub", "Mul", "Div", "Neg")
    if node is None:
        return None
    variable = [v for v in node.inputs if scalar(v) is None]
    return within(variable[0], op) if len(variable) == 1 else None


def close(found: Mapping[int, float] | None, wanted: Mapping[int, float], like: ir.Value) -> bool:
    """Equal coefficients, up to the rounding of constants of the value's dtype (and of those that exporters abbreviate)."""
    tolerance = 5e-6 if like.dtype in (ir.DataType.FLOAT, ir.DataType.DOUBLE) else 4e-3
    return found is not None and all(
        math.isclose(found.get(p, 0.0), wanted.get(p, 0.0), rel_tol=tolerance, abs_tol=1e-12) for p in {*found, *wanted})
