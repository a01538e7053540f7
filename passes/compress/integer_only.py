"""A float model as integers: no float op between the first QuantizeLinear and the last DequantizeLinear."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir
from onnx_ir.passes.common import NameFixPass

from ..base import Unsupported, constant, shape
from .integer_graph import UINT8, Form, Integers
from .integer_ranges import Seen
from .integer_rules import RULES

FLOATS = frozenset({ir.DataType.FLOAT, ir.DataType.FLOAT16, ir.DataType.DOUBLE})


@dataclass(frozen=True)
class Product:
    """A layer that became integers: its name, its float output, the integers that stand for it, and the bytes of its weights."""

    layer: str
    output: str
    form: Form
    before: int
    after: int


def floats(model: ir.Model) -> list[ir.Value]:
    """The values that are to become integers, which calibration has to see: all computed floats, and inputs."""
    return [v for v in (*model.graph.inputs, *(o for n in model.graph for o in n.outputs))
            if v.dtype in FLOATS and v.name and v.const_value is None]


def to_integers(model: ir.Model, seen: Mapping[str, Seen], top: int) -> list[Product]:
    """Rewrites a canonical model in place. seen: what calibration saw of every value that `floats` names; top: the largest uint8
    of activations, 127 or 255.

    Raises an ExceptionGroup of Unsupported, one for each node without an integer form.
    """
    g = Integers(model, seen, top)
    old = [n for n in model.graph if any(v.dtype in FLOATS for v in n.outputs) or any(
        v is not None and v.dtype in FLOATS for v in n.inputs)]
    refused = [Unsupported(n, "has no integer form", "leave it out, or quantize with int8, which keeps such ops in float")
               for n in old if n.op_type not in RULES]
    for v in model.graph.inputs:
        if v.dtype in FLOATS:
            g.forms[v] = _entry(g, v)
    products = []
    for n in old if not refused else []:
        try:
            made = RULES[n.op_type](g, n)
        except Unsupported as e:
            refused.append(e)
            break
        forms = [made] if isinstance(made, Form) else made
        g.forms.update(zip(n.outputs, forms, strict=True))
        weight = constant(n.inputs[1]) if n.op_type in ("Conv", "MatMul") else None
        if weight is not None:
            products.append(Product(n.name or "", n.outputs[0].name or "", forms[0], weight.nbytes,
                                    weight.size + 8 * forms[0].scale.size))
    if refused:
        raise ExceptionGroup("ops without an integer form", refused)
    _put(g, old)
    return products


def _entry(g: Integers, value: ir.Value) -> Form:
    p = g.even(value)
    parameters = [g.constant(p.scale.astype(np.float32), value, "scale"), g.number(p.zero, UINT8, value, "zero")]
    q = g.node("QuantizeLinear", [value, *parameters], value, UINT8)
    if g.top < 255:
        q = g.node("Clip", [q, g.number(0, UINT8, value, "least"), g.number(g.top, UINT8, value, "most")], value, UINT8)
    return Form(q, p.scale, p.zero)


def _exit(g: Integers, value: ir.Value) -> ir.Value:
    """The float of a graph's output."""
    form = g.forms[value]
    big = [a for a, n in enumerate(form.scale.shape) if n > 1]
    axis = (big[0] - form.scale.ndim if big else 0) + len(shape(value) or ()) if big else 0
    if form.bounded or len(big) > 1 or (form.scale < 0).any():
        step = g.step(value)
        form, axis = Form(g.steps(value, step), np.array(step)), 0
    scale = form.scale.reshape(-1) if form.scale.size > 1 else form.scale.reshape(())
    inputs = [form.value, g.constant(scale.astype(np.float32), value, "scale")]
    if form.zero:
        assert form.value.dtype is not None
        inputs.append(g.number(form.zero, form.value.dtype, value, "zero"))
    assert value.dtype is not None
    return g.node("DequantizeLinear", inputs, value, value.dtype, axis=axis if form.scale.size > 1 else None)


def _put(g: Integers, old: list[ir.Node]) -> None:
    """The new nodes take the place of the old ones."""
    graph = g.model.graph
    exits = {v: _exit(g, v) for v in graph.outputs if v.dtype in FLOATS and v in g.forms}
    for node in g.nodes:
        graph.insert_before(old[0], node)
    for value, made in exits.items():
        for i, output in enumerate(graph.outputs):
            if output is value:
                graph.outputs[i] = made
        made.name, value.name = value.name, f"{value.name}_float"
    for n in reversed(old):
        graph.remove(n, safe=True)
    graph.sort()
    NameFixPass()(g.model)
