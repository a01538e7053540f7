"""Channels last: maps are stored [N, spatial…, C], and what remains of the Transposes stands where that costs least."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx_ir as ir

from ..base import DOMAIN, GraphPass, Stage, constant, initializer, op, shape
from ..functions import add_function
from .choose import choose
from .forms import Form
from .perms import Perm, compose, identity, inverse, permuted, same_memory
from .views import Views


class ChannelsLast(GraphPass):
    """Spatial ops become the channels-last ops of domain `burnish`; the ops between them follow, and Transposes cancel.

    All of the graph's Transposes are dissolved into views first (`views.py`), each node is offered its form for the order that
    its neighbours prefer (`forms.py`), a minimum cut decides who takes it (`choose.py`), and Transposes are then put back where
    a value is read in another order than it is stored. Needs static shapes; values without one are left as they are.
    """

    stage = Stage.LAYOUT

    def run(self, model: ir.Model) -> bool:
        views = Views(model.graph)
        forms = views.forms()
        chosen = choose(forms, views.reads(forms)) if forms else set()
        for node in forms.keys() - chosen:
            self.miss(node, "the Transposes around it would cost more than channels-last saves")
        if not chosen:
            return False
        _Rewrite(model, views, {node: f for node, f in forms.items() if node in chosen}).run()
        return True


class _Rewrite:
    def __init__(self, model: ir.Model, views: Views, forms: dict[ir.Node, Form]) -> None:
        self.model, self.graph, self.views, self.forms = model, model.graph, views, forms
        self.stored: dict[ir.Value, tuple[ir.Value, Perm]] = {}         # root -> what holds it now, and in which order
        self.constants: dict[tuple[ir.Value | None, tuple[int, ...], bytes], ir.Value] = {}
        self.made: dict[tuple[ir.Value, Perm], ir.Value] = {}           # (root, order) -> the value that holds it so
        for node in views.transposes:                                   # Transposes that may stay
            x = node.inputs[0]
            if x is not None and x not in views.of and x.producer() not in forms:
                self.made.setdefault(views.of[node.outputs[0]], node.outputs[0])

    def run(self) -> None:
        for node in list(self.views.nodes()):
            if node in self.forms:
                self.rewrite(node, self.forms[node])
            else:
                for i, value in enumerate(node.inputs):
                    if value is not None:
                        node.replace_input_with(i, self.read(value, None, [node]))
        for i, value in enumerate(list(self.graph.outputs)):
            new = self.read(value, None, [])
            if new is not value:
                self.name_output(i, value, new)
        for node in reversed([*self.graph]):
            read = any(v.uses() or v.is_graph_output() for v in node.outputs)
            if not read and (node in self.forms or node.op_type == "Transpose"):
                self.graph.remove(node, safe=True)
        self.graph.sort()

    def rewrite(self, node: ir.Node, form: Form) -> None:
        """The node in its other form, in front of the old one, which goes when all is done."""
        inputs = [v if v is None or i in form.constants else self.read(v, form.inputs.get(i), [node])
                  for i, v in enumerate(node.inputs)]
        inputs += [None] * (max(form.constants, default=-1) + 1 - len(inputs))
        for i, array in form.constants.items():
            old = node.inputs[i] if i < len(node.inputs) else None
            inputs[i] = None if array is None else self.constant(old, array, f"{node.outputs[0].name}_{i}")
        if form.op == "Reshape":
            inputs = inputs[:2]
        attributes = {name: a for name, a in node.attributes.items() if name not in form.attributes}
        changed = ir.convenience.convert_attributes({k: v for k, v in form.attributes.items() if v is not None})
        outputs = [ir.Value(name=f"{v.name}_last" if v.name else None, type=v.type, shape=ir.Shape(permuted(_dims(v), p)))
                   for v, p in zip(node.outputs, form.outputs, strict=True)]
        domain = DOMAIN if form.overload else node.domain
        new = ir.Node(domain, form.op or node.op_type, inputs, [*attributes.values(), *changed], overload=form.overload,
                      outputs=outputs, name=node.name, version=None if form.overload else node.version,
                      metadata_props=dict(node.metadata_props))
        self.graph.insert_before(node, new)
        if form.overload:
            add_function(self.model, new.op_type, len(form.outputs[0]))
        for old, value, order in zip(node.outputs, outputs, form.outputs, strict=True):
            self.stored[old] = value, order

    def read(self, value: ir.Value, order: Perm | None, before: Sequence[ir.Node]) -> ir.Value:
        """The value with its axes in `order` (None: as they are), made in front of `before` (or at the end of the graph)."""
        dims = shape(value)
        if dims is None or (constant(value) is not None and order is None):
            return value
        rank = len(dims)
        root, view = self.views.root(value, rank)
        if order is not None and len(order) > rank:
            return self.broadcast(self.read(value, None, before), order, before)
        wanted = compose(view, order) if order is not None else view
        held, stored = self.stored.get(root, (root, identity(rank)))
        if wanted == stored:
            return held
        if (root, wanted) not in self.made:
            self.made[root, wanted] = self.transpose(held, compose(inverse(stored), wanted), before)
        return self.made[root, wanted]

    def broadcast(self, value: ir.Value, order: Perm, before: Sequence[ir.Node]) -> ir.Value:
        """A value of lower rank, with leading axes of size 1, in `order`."""
        dims = _dims(value)
        full = (1,) * (len(order) - len(dims)) + dims
        return self.transpose(self.reshape(value, full, before), order, before)

    def transpose(self, value: ir.Value, perm: Perm, before: Sequence[ir.Node]) -> ir.Value:
        """A Transpose, or a Reshape where only axes of size 1 move; a constant is transposed now."""
        dims, array = _dims(value), constant(value)
        if perm == identity(len(perm)):
            return value
        if array is not None:
            return initializer(self.model, array.transpose(perm), f"{value.name}_transposed")
        if same_memory(perm, identity(len(perm)), dims):
            return self.reshape(value, permuted(dims, perm), before)
        return self.insert(op("Transpose", [value], value, name=f"{value.name}_transposed", shape=permuted(dims, perm),
                              perm=list(perm)), before)

    def reshape(self, value: ir.Value, dims: tuple[int, ...], before: Sequence[ir.Node]) -> ir.Value:
        target = initializer(self.model, np.array(dims, np.int64), f"{value.name}_shape")
        return self.insert(op("Reshape", [value, target], value, name=f"{value.name}_reshaped", shape=dims), before)

    def insert(self, node: ir.Node, before: Sequence[ir.Node]) -> ir.Value:
        if before:
            self.graph.insert_before(before[0], node)
        else:
            self.graph.append(node)
        return node.outputs[0]

    def constant(self, old: ir.Value | None, array: np.ndarray, near: str) -> ir.Value:
        """A constant in place of `old`; one for all nodes that want the same."""
        key = old, array.shape, array.tobytes()
        if key not in self.constants:
            self.constants[key] = initializer(self.model, array, old.name if old is not None and old.name else near)
        return self.constants[key]

    def name_output(self, i: int, old: ir.Value, new: ir.Value) -> None:
        """`new` becomes output i of the graph under the name of `old`, through an Identity where it has a name to keep."""
        if new.producer() is None or new.is_graph_output():
            new = self.insert(op("Identity", [new], new, name=f"{old.name}_copy"), [])
        new.name, old.name = old.name, None
        self.graph.outputs[i] = new


def _dims(value: ir.Value) -> tuple[int, ...]:
    dims = shape(value)
    assert dims is not None
    return dims
