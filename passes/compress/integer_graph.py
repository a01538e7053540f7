"""Integers in place of the floats of a graph: what they stand for, and the nodes that bring them to another scale.

A float value of the model is represented by one or more integer values, each with a Form. Sums stay in int32 as they come; they
are brought to uint8 only for an operand of the next product, and to a 16-bit scale of their own where they are added up, normed
or compared: the residual stream of a transformer never passes through 8 bits.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import onnx_ir as ir

from ..base import DOMAIN, attr, constant, initializer, op, shape
from ..integer_functions import add_integer_function
from .integer_math import INT32, fixed_point
from .integer_ranges import Parameters, Seen, balanced, narrowed

UINT8, INT8, INT32_TYPE, INT64 = ir.DataType.UINT8, ir.DataType.INT8, ir.DataType.INT32, ir.DataType.INT64
WIDE = 1 << 15              # steps on either side of zero that a value's range takes outside of products
ROOM = 2 * WIDE - 1         # where such a value is clipped: twice its range, and what IntegerLayerNorm takes
SCORE = 1 / 128             # the step of what goes into a softmax, in natural logarithms
FAR = 1 << 24               # where such a value is clipped: far beyond what an exponential can tell from nothing
MOVES = frozenset({"Reshape", "Transpose", "Squeeze", "Unsqueeze", "Flatten", "Slice", "Gather", "Split", "Expand", "Identity",
                   "DepthToSpace", "SpaceToDepth", "Resize", "Concat"})
PRODUCTS = frozenset({"Conv", "MatMul", "MaxPool"})


@dataclass(frozen=True)
class Form:
    """An integer value that stands for clip(scale (value - zero), low, high). scale: float64, broadcasts against the value; low,
    high: bounds that are still to be applied, such as a Relu's."""

    value: ir.Value
    scale: np.ndarray
    zero: int = 0
    low: float = -math.inf
    high: float = math.inf

    @property
    def is_bytes(self) -> bool:
        return self.value.dtype == UINT8

    @property
    def bounded(self) -> bool:
        return math.isfinite(self.low) or math.isfinite(self.high)

    def real(self, q: np.ndarray) -> np.ndarray:
        """What the integers q stand for."""
        return np.clip(self.scale * (q.astype(np.float64) - self.zero), self.low, self.high)

    @property
    def uniform(self) -> bool:
        """One scale for all, and nothing left to do?"""
        return self.scale.size == 1 and not self.bounded


class Integers:
    """A model while its floats become integers. seen: of its float values, by name; top: the largest uint8 that is used."""

    def __init__(self, model: ir.Model, seen: Mapping[str, Seen], top: int) -> None:
        self.model, self.seen, self.top = model, seen, top
        self.nodes: list[ir.Node] = []
        self.forms: dict[ir.Value, Form] = {}
        self._bytes: dict[ir.Value, Form] = {}
        self._parameters: dict[ir.Value, Parameters] = {}
        self._steps: dict[tuple[ir.Value, float], ir.Value] = {}

    # ---- writing nodes

    def node(self, op_type: str, inputs: Iterable[ir.Value | None], like: ir.Value, dtype: ir.DataType, *,
             shape: Iterable[int] | None = None, domain: str = "", **attributes: Any) -> ir.Value:
        """The output of a new node, named after `like` and, unless another is given, of its shape."""
        node = op(op_type, inputs, like, name=f"{like.name}_{op_type.lower()}", domain=domain, shape=shape, **attributes)
        node.outputs[0].type = ir.TensorType(dtype)
        return self.put(node).outputs[0]

    def put(self, node: ir.Node) -> ir.Node:
        """A node that is made already."""
        self.nodes.append(node)
        if node.domain == DOMAIN:
            add_integer_function(self.model, node.op_type)
        return node

    def same(self, node: ir.Node, op_type: str, inputs: Iterable[ir.Value | None], dtype: ir.DataType) -> ir.Value:
        """The first output of a node with the attributes and the number of outputs of another."""
        made = ir.Node("", op_type, list(inputs), list(node.attributes.values()), name=f"{node.name}_integers",
                       num_outputs=len(node.outputs))
        for new, old in zip(made.outputs, node.outputs, strict=True):
            new.name, new.shape, new.type = f"{old.name}_integers", old.shape, ir.TensorType(dtype)
        return self.put(made).outputs[0]

    def constant(self, array: np.ndarray, near: ir.Value, what: str) -> ir.Value:
        return initializer(self.model, array, f"{near.name}_{what}")

    def number(self, value: int, dtype: ir.DataType, near: ir.Value, what: str) -> ir.Value:
        return self.constant(np.array(value, dtype.numpy()), near, what)

    def plain(self, form: Form, like: ir.Value) -> ir.Value:
        """value - zero."""
        if form.zero == 0:
            return form.value
        wide = self.cast(form.value, INT32_TYPE, like)
        return self.node("Sub", [wide, self.number(form.zero, INT32_TYPE, like, "zero")], form.value, INT32_TYPE)

    def cast(self, value: ir.Value, dtype: ir.DataType, like: ir.Value) -> ir.Value:
        return value if value.dtype == dtype else self.node("Cast", [value], value, dtype, to=int(dtype))

    # ---- from one scale to another

    def rescaled(self, form: Form, like: ir.Value, scale: np.ndarray | float, zero: int, low: int, high: int,
                 dtype: ir.DataType) -> ir.Value:
        """The form's numbers in steps of `scale` around `zero`, clipped to low..high and to the form's own bounds."""
        least, most = (np.clip(np.rint(np.clip(bound / scale, -FAR, FAR)) + zero, low, high) for bound in (form.low, form.high))
        low, high = int(np.min(least)), int(np.max(most))
        multiplier, shift = fixed_point(form.scale / scale)
        return self.node("Requantize", [self.plain(form, like), self.constant(multiplier, like, "multiplier")], like, dtype,
                         shape=shape(form.value), domain=DOMAIN, shift=shift, zero=zero, low=low, high=high, to=int(dtype))

    def form(self, value: ir.Value) -> Form:
        """What represents a float value; a constant is its uint8s."""
        if value not in self.forms and constant(value) is not None:
            return self.bytes(value)
        return self.forms[value]

    def even(self, value: ir.Value) -> Parameters:
        """How the value is laid on uint8s, all channels alike."""
        return narrowed(self.seen[value.name or ""], self.top)

    def parameters(self, value: ir.Value) -> Parameters:
        """How the value is laid on uint8s."""
        if value not in self._parameters:
            array, weights = constant(value), self._weights(value)
            seen = self.seen[value.name or ""] if array is None else Seen.of(array)
            p = balanced(seen, np.concatenate(weights, 1), self.top) if weights else narrowed(seen, self.top)
            if p.scale.size > 1:
                p = replace(p, scale=p.scale.reshape(-1, *(1,) * (len(shape(value) or ()) - 1 - channels(value))))
            self._parameters[value] = p
        return self._parameters[value]

    def means(self, value: ir.Value) -> np.ndarray:
        """Of the channels of a value that a convolution reads."""
        array = constant(value)
        return self.seen[value.name or ""].means if array is None else array.mean((0, *range(2, array.ndim)))

    def _weights(self, value: ir.Value) -> list[np.ndarray]:
        """The constant matrices that the value is multiplied by; none if its uint8s have other readers, too."""
        found = []
        for n in readers(value):
            w = constant(n.inputs[1]) if n.op_type in ("Conv", "MatMul") and n.inputs[0] is value else None
            if w is not None and n.op_type == "MatMul" and w.ndim == 2:
                found.append(w)
            elif w is not None and n.op_type == "Conv" and w.size == w.shape[0] * w.shape[1] and attr(n, "group", 1) == 1:
                found.append(w.reshape(w.shape[:2]).T)
            elif n.op_type not in ("Add", "LayerNormalization"):
                return []
        return found

    def bytes(self, value: ir.Value) -> Form:
        """The float value as uint8."""
        if value not in self._bytes:
            self._bytes[value] = self._as_bytes(value)
        return self._bytes[value]

    def _as_bytes(self, value: ir.Value) -> Form:
        form = self.forms.get(value)
        if form is not None and form.is_bytes and not form.bounded:
            return form
        p = self.parameters(value)
        return Form(self.placed(value, p), p.scale, p.zero)

    def placed(self, value: ir.Value, p: Parameters) -> ir.Value:
        """The float value as uint8 in these steps."""
        array = constant(value)
        if array is not None:
            return self.constant(p.quantize(array, self.top).astype(np.uint8), value, "uint8")
        form = self.forms[value]
        if p.scale.size > 1 and form.bounded:       # in steps that differ the bounds do, too: they are applied to the sums
            form = self.clipped(form, value)
        return self.rescaled(form, value, p.scale, p.zero, 0, self.top, UINT8)

    def clipped(self, form: Form, like: ir.Value) -> Form:
        """The form with its bounds applied."""
        made = self.cast(self.plain(form, like), INT32_TYPE, like)
        for op_type, bound in (("Max", form.low), ("Min", form.high)):
            if math.isfinite(bound):
                limit = self.constant(clipped(bound / form.scale), like, "bound")
                made = self.node(op_type, [made, limit], form.value, INT32_TYPE)
        return Form(made, form.scale)

    def step(self, value: ir.Value) -> float:
        """The scale in which a float value is added up, normed or compared."""
        if all(n.op_type == "Softmax" for n in readers(value)) and value.uses():
            return SCORE
        seen = self.seen[value.name or ""]
        return max(abs(seen.low), abs(seen.high)) / WIDE or 1.0

    def steps(self, value: ir.Value, scale: float) -> ir.Value:
        """The float value as int32 in steps of `scale`."""
        array = constant(value)
        if array is not None:
            return self.constant(np.clip(np.rint(array / scale), -FAR, FAR).astype(np.int32), value, "steps")
        if (value, scale) not in self._steps:
            form = self.forms[value]
            if form.uniform and form.scale == scale and form.zero == 0 and form.value.dtype == INT32_TYPE:
                return form.value
            far = FAR if scale == SCORE else ROOM
            self._steps[value, scale] = self.rescaled(form, value, scale, 0, -far, far, INT32_TYPE)
        return self._steps[value, scale]

    def uniform(self, value: ir.Value) -> Form:
        """The float value with one scale for all of its elements: as uint8 where only products read it."""
        form = self.form(value)
        if form.is_bytes and not form.bounded:
            return form
        if self.wants_bytes(value):
            return self.bytes(value)
        if form.uniform:
            return form
        scale = self.step(value)
        return Form(self.steps(value, scale), np.array(scale))

    def wants_bytes(self, value: ir.Value) -> bool:
        """Do only products read the value, as it is or moved about?"""
        if value.is_graph_output():
            return False
        return all(n.op_type in PRODUCTS or (n.op_type in MOVES and all(map(self.wants_bytes, n.outputs)))
                   for n in readers(value))

    def scaled(self, form: Form, by: np.ndarray) -> Form:
        """The form's numbers times constants that broadcast to its shape: a matter of its scale."""
        return replace(form, scale=form.scale * by)


def channels(value: ir.Value) -> int:
    """The axis of the channels of a value: 1 of maps that a convolution reads, else the last."""
    return 1 if any(n.op_type == "Conv" for n in readers(value)) else len(shape(value) or (0,)) - 1


def readers(value: ir.Value) -> list[ir.Node]:
    """The float nodes that read the value; what this package has written does not count."""
    return [use.node for use in value.uses() if use.node.graph is not None]


def clipped(array: np.ndarray) -> np.ndarray:
    """As int32, with room to add: half of the range."""
    return np.clip(np.rint(array), INT32.min // 2, INT32.max // 2).astype(np.int32)
