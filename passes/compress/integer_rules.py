"""The integer form of each op: a function for each, given the graph that is being written and the float node."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import onnx_ir as ir

from ..base import DOMAIN, Unsupported, attr, constant, scalar, shape
from ..shapes import evaluate
from .integer_graph import INT32_TYPE, MOVES, ROOM, SCORE, UINT8, WIDE, Form, Integers, clipped, readers
from .integer_math import DEVIATIONS, INT32, PRODUCT, exponentials, fixed_point, layer_norm_root
from .integer_ranges import Parameters, quantized

Rule = Callable[[Integers, ir.Node], Form | Sequence[Form]]
RULES: dict[str, Rule] = {}

INDEX = 1 << 10         # entries of a table for a function of sums: its input keeps two or three bits more than its output has
EXPONENTIALS = 1 << 11  # entries of the table of exponentials: down to exp(-16)
BIAS = 1 << 28          # steps of a sum that a bias may take
NORM = 1 << 13          # the largest factor of a LayerNorm's channels


def rule(*ops: str) -> Callable[[Rule], Rule]:
    def register(function: Rule) -> Rule:
        RULES.update(dict.fromkeys(ops, function))
        return function
    return register


def given(node: ir.Node, n: int) -> ir.Value:
    value = node.inputs[n]
    assert value is not None
    return value


def dims(value: ir.Value) -> tuple[int, ...]:
    found = shape(value)
    assert found is not None
    return found


# ---- Products ------------------------------------------------------------------------------------------------------------


@rule("Conv")
def convolution(g: Integers, node: ir.Node) -> Form:
    """The bias makes up for what rounding the weights does to the mean (Nagel et al. 2019, section 4.2); a channel whose weights
    are all but nothing takes steps in which its bias fits."""
    x, y, weight = given(node, 0), node.outputs[0], constant(node.inputs[1])
    if weight is None:
        raise Unsupported(node, "its weights are computed", "only constant weights have an integer form")
    a, beyond, groups = g.bytes(x), (1,) * (weight.ndim - 2), attr(node, "group", 1)
    bias = constant(node.inputs[2]) if len(node.inputs) > 2 else None
    bias = np.zeros(len(weight)) if bias is None else bias.astype(np.float64)
    into = a.scale.reshape(1, -1, *beyond) if a.scale.size > 1 else a.scale         # the weights take the channels' scales
    w, scale = quantized(weight * into, tuple(range(1, weight.ndim)), np.abs(bias).reshape(-1, 1, *beyond) / BIAS)
    lost = (weight - w * scale / into).reshape(groups, len(weight) // groups, weight.shape[1], -1).sum(-1)
    bias += np.einsum("goi,gi->go", lost, g.means(x).reshape(groups, -1)).reshape(-1)
    inputs = [a.value, g.constant(w, given(node, 1), "int8"), g.number(a.zero, UINT8, y, "x_zero")]
    form = Form(g.same(node, "ConvInteger", inputs, INT32_TYPE), scale.reshape(-1, *beyond))
    return plus(g, form, bias.reshape(-1, *beyond), y)


def plus(g: Integers, form: Form, bias: np.ndarray, y: ir.Value) -> Form:
    """Sums and a constant at their own scale."""
    q = g.constant(clipped(bias / form.scale), y, "bias")
    return replace(form, value=g.node("Add", [form.value, q], y, INT32_TYPE))


@rule("MatMul")
def matmul(g: Integers, node: ir.Node) -> Form:
    x, w, y = given(node, 0), given(node, 1), node.outputs[0]
    softmax = x.producer()
    if softmax is not None and softmax.op_type == "Softmax":
        return weighted_mean(g, softmax, w, y)
    a, known = g.bytes(x), constant(w)
    if known is not None and known.ndim > 1:
        scaled = known * a.scale.reshape(-1, 1)         # the weights take the channels' scales
        q, scale = quantized(scaled, tuple(range(known.ndim - 1)))
        inputs = [a.value, g.constant(q, w, "int8"), g.number(a.zero, UINT8, y, "x_zero")]
        return Form(g.node("MatMulInteger", inputs, y, INT32_TYPE), scale.reshape(-1))
    b = g.bytes(w)
    inputs = [a.value, b.value, g.number(a.zero, UINT8, y, "a_zero"), g.number(b.zero, UINT8, y, "b_zero")]
    return Form(g.node("MatMulInteger", inputs, y, INT32_TYPE), a.scale * b.scale)


def weighted_mean(g: Integers, softmax: ir.Node, values: ir.Value, y: ir.Value) -> Form:
    """softmax(x) values: the exponentials, relative to the largest of their row, times the values; then over their sum."""
    b, small = g.bytes(values), g.wants_bytes(y)
    p = g.even(y) if small else Parameters(np.array(g.step(y)), 0)
    e = Exponentials.of(g, softmax, float(b.scale / p.scale))
    zeros = [g.number(0, UINT8, y, "e_zero"), g.number(b.zero, UINT8, y, "b_zero")]
    high, low = (g.node("MatMulInteger", [part, b.value, *zeros], y, INT32_TYPE) for part in (e.high, e.low))
    return e.over(g, e.joined(g, high, low, y), y, p, (0, g.top, UINT8) if small else (INT32.min, INT32.max, INT32_TYPE))


@dataclass(frozen=True)
class Exponentials:
    """softmax(x) ratio is (radix high + low) r / 2^shift."""

    high: ir.Value
    low: ir.Value
    r: ir.Value
    radix: int
    shift: int

    @classmethod
    def of(cls, g: Integers, node: ir.Node, ratio: float) -> Exponentials:
        x, y = given(node, 0), node.outputs[0]
        if attr(node, "axis", -1) % len(dims(y)) != len(dims(y)) - 1:
            raise Unsupported(node, "a softmax that is not over the last axis", "transpose around it")
        radix, count = g.top + 1, dims(y)[-1]
        largest = min(radix * radix - 1, INT32.max // (g.top * count))      # their sums with uint8s are int32s
        shift = min(PRODUCT, math.floor(math.log2(2.0**31 * largest / ratio)))      # r is largest over a single largest one
        made = ir.Node(DOMAIN, "IntegerSoftmax", [g.steps(x, SCORE)], ir.convenience.convert_attributes({
            "table": ir.tensor(exponentials(SCORE, largest, EXPONENTIALS)), "radix": radix,
            "numerator": round(ratio * 2.0**shift)}), num_outputs=3, name=f"{y.name}_exponentials")
        high, low, r = made.outputs
        for value, dtype in ((high, UINT8), (low, UINT8), (r, INT32_TYPE)):
            value.type, value.shape = ir.TensorType(dtype), ir.Shape([*dims(y)[:-1], 1] if value is r else dims(y))
        high.name, low.name, r.name = (f"{y.name}_{part}" for part in ("high", "low", "reciprocal"))
        g.put(made)
        return cls(high, low, r, radix, shift)

    def joined(self, g: Integers, high: ir.Value, low: ir.Value, y: ir.Value) -> ir.Value:
        """radix high + low, of int32s."""
        product = g.node("Mul", [high, g.number(self.radix, INT32_TYPE, y, "radix")], high, INT32_TYPE)
        return g.node("Add", [product, low], high, INT32_TYPE)

    def over(self, g: Integers, sums: ir.Value, y: ir.Value, p: Parameters, to: tuple[int, int, ir.DataType]) -> Form:
        """The sums over that of the exponentials."""
        made = g.node("Requantize", [sums, self.r], y, to[2], domain=DOMAIN, shift=self.shift, zero=p.zero, low=to[0], high=to[1],
                      to=int(to[2]))
        return Form(made, p.scale, p.zero)


@rule("Softmax")
def softmax(g: Integers, node: ir.Node) -> Form:
    """What is not the left side of a product. (What is, is made there.)"""
    y = node.outputs[0]
    p = Parameters(np.array(1 / WIDE), 0)
    if not y.is_graph_output() and all(n.op_type == "MatMul" and n.inputs[0] is y for n in readers(y)):
        return Form(y, p.scale)
    e = Exponentials.of(g, node, WIDE)
    high, low = (g.cast(v, INT32_TYPE, y) for v in (e.high, e.low))
    return e.over(g, e.joined(g, high, low, y), y, p, (0, WIDE, INT32_TYPE))


# ---- Element by element --------------------------------------------------------------------------------------------------


@rule("Add", "Sub")
def add(g: Integers, node: ir.Node) -> Form:
    y, minus = node.outputs[0], node.op_type == "Sub"
    for value, other in ((given(node, 0), given(node, 1)), (given(node, 1), given(node, 0))):
        known, form = constant(other), g.forms.get(value)
        if known is None or form is None or form.bounded or form.is_bytes or dims(value) != dims(y):
            continue
        if minus and other is node.inputs[0]:
            form = replace(form, scale=-form.scale)         # c - x
        fits = np.abs(known / form.scale).max(initial=0) < INT32.max // 4
        if fits and (np.abs(form.scale) <= 2 * g.step(y)).all():      # fine enough to hold the sum as it stands
            return plus(g, form, -known if minus and other is node.inputs[1] else known, y)
    scale = g.step(y)
    terms = [g.steps(v, scale) for v in (given(node, 0), given(node, 1))]
    return Form(g.node(node.op_type, terms, y, INT32_TYPE), np.array(scale))


@rule("Mul", "Div")
def multiply(g: Integers, node: ir.Node) -> Form:
    """By a constant: a matter of the scale. Of two computed values: the product of their uint8s."""
    x, y, out = given(node, 0), given(node, 1), node.outputs[0]
    if constant(x) is not None and node.op_type == "Mul":
        x, y = y, x
    known = constant(y)
    if known is not None and dims(x) == dims(out):
        form = g.forms[x] if not g.forms[x].bounded else g.bytes(x)
        return g.scaled(form, known if node.op_type == "Mul" else 1 / known.astype(np.float64))
    if node.op_type == "Div":
        raise Unsupported(node, "its divisor is computed", "integers divide by constants only")
    a, b = g.bytes(x), g.bytes(y)
    return Form(g.node("Mul", [g.cast(g.plain(f, out), INT32_TYPE, out) for f in (a, b)], out, INT32_TYPE), a.scale * b.scale)


@rule("Relu", "Clip")
def bounded(g: Integers, node: ir.Node) -> Form:
    """Bounds wait until the value is brought to another scale, where clipping costs nothing."""
    low, high = 0.0, math.inf
    if node.op_type == "Clip":
        bounds = [None if len(node.inputs) <= n or node.inputs[n] is None else scalar(node.inputs[n]) for n in (1, 2)]
        if any(b is None and len(node.inputs) > n and node.inputs[n] is not None for n, b in enumerate(bounds, 1)):
            raise Unsupported(node, "its bounds are computed")
        low, high = (-math.inf if bounds[0] is None else bounds[0], math.inf if bounds[1] is None else bounds[1])
    form = g.form(given(node, 0))
    return replace(form, low=max(form.low, low), high=max(low, min(form.high, high)))


@rule("Gelu", "SiLU", "Swish", "HardSwish", "HardSigmoid", "Sigmoid", "Tanh", "Erf", "LeakyRelu", "Elu", "Selu", "Celu", "Mish",
      "Softplus", "Softsign", "ThresholdedRelu", "Exp", "Sqrt", "Abs", "Reciprocal", "Log")
def table(g: Integers, node: ir.Node) -> Form:
    """Any function of one number: uint8s from a table, of sums at ten bits."""
    x, y = given(node, 0), node.outputs[0]
    form = g.forms[x]
    if form.is_bytes and not form.bounded and form.scale.size == 1:
        index, scale, zero, size = form.value, float(form.scale), form.zero, g.top + 1
    else:
        size = INDEX
        p = Parameters.of(g.seen[x.name or ""].low, g.seen[x.name or ""].high, size - 1)
        index, scale, zero = g.rescaled(form, x, p.scale, p.zero, 0, size - 1, INT32_TYPE), float(p.scale), p.zero
    with np.errstate(all="ignore"):
        at = (scale * (np.arange(size) - zero)).astype(np.float32)
        values = np.nan_to_num(function(g, node, at), nan=0.0)
    to, small = g.parameters(y), g.wants_bytes(y)
    if not small or to.scale.size > 1:
        step = g.step(y)
        entries = np.clip(np.rint(values / step), -ROOM, ROOM).astype(np.int32)
        return Form(g.node("Lookup", [index], y, INT32_TYPE, domain=DOMAIN, table=ir.tensor(entries)), np.array(step))
    entries = to.quantize(values, g.top).astype(np.uint8)
    return Form(g.node("Lookup", [index], y, UINT8, domain=DOMAIN, table=ir.tensor(entries)), to.scale, to.zero)


def function(g: Integers, node: ir.Node, at: np.ndarray) -> np.ndarray:
    """The node's function of the numbers `at`."""
    if node.domain == DOMAIN:
        return at / (1 + np.exp(-at.astype(np.float64)))
    value = ir.Value(name="at", type=ir.TensorType(ir.DataType.FLOAT), shape=ir.Shape(at.shape), const_value=ir.tensor(at))
    alone = ir.Node("", node.op_type, [value], list(node.attributes.values()), version=node.version,
                    outputs=[ir.Value(name="y", type=ir.TensorType(ir.DataType.FLOAT), shape=ir.Shape(at.shape))])
    found = evaluate(alone, g.model.opset_imports)
    if found is None:
        raise Unsupported(node, "its function cannot be evaluated")
    return found[0].astype(np.float64)


@rule("Cast")
def cast(g: Integers, node: ir.Node) -> Form:
    """Integers and booleans that the model computes anyway, such as a mask's."""
    x, y = given(node, 0), node.outputs[0]
    if x in g.forms:
        return g.forms[x]
    return Form(g.cast(x, INT32_TYPE, y), np.array(1.0))


# ---- Rows ----------------------------------------------------------------------------------------------------------------


@rule("LayerNormalization")
def layer_norm(g: Integers, node: ir.Node) -> Form:
    """Rows of 16 bits; scale and bias of the channels as integers, whose products with the rows stay within int32."""
    x, y, gamma = given(node, 0), node.outputs[0], constant(node.inputs[1])
    beta = constant(node.inputs[2]) if len(node.inputs) > 2 else np.zeros(1)
    count = dims(x)[-1]
    if attr(node, "axis", -1) % len(dims(x)) != len(dims(x)) - 1 or count > 4096 or len(node.outputs) > 1:
        raise Unsupported(node, "a LayerNorm over several axes, of more than 4096 elements, or with its statistics as results")
    if gamma is None or beta is None:
        raise Unsupported(node, "its scale or bias is computed")
    scale = g.step(x)
    epsilon = max(1, round(attr(node, "epsilon", 1e-5) * count / scale**2))
    rows = g.node("IntegerLayerNorm", [g.steps(x, scale)], y, INT32_TYPE, domain=DOMAIN, count=count, root=layer_norm_root(count),
                  epsilon=min(epsilon, 1 << 46))
    unit = float(np.abs(gamma).max()) / NORM or 1.0
    out = Form(g.node("Mul", [rows, g.constant(clipped(gamma / unit), y, "gamma")], y, INT32_TYPE),
               np.array(unit / (1 << DEVIATIONS)))
    return plus(g, out, beta.astype(np.float64), y)


@rule("ReduceMean", "GlobalAveragePool")
def mean(g: Integers, node: ir.Node) -> Form:
    x, y = given(node, 0), node.outputs[0]
    axes = constant(node.inputs[1]) if len(node.inputs) > 1 else None
    named = list(range(2, len(dims(x)))) if node.op_type == "GlobalAveragePool" else None if axes is None else axes.tolist()
    if not named:
        raise Unsupported(node, "its axes are computed, or all")
    form = g.uniform(x)
    count = math.prod(dims(x)[a] for a in named)
    at = g.constant(np.array(named, np.int64), y, "axes")
    total = g.node("ReduceSum", [g.cast(form.value, INT32_TYPE, y), at], y, INT32_TYPE, keepdims=attr(node, "keepdims", 1))
    if form.zero:
        total = g.node("Sub", [total, g.number(form.zero * count, INT32_TYPE, y, "zero")], y, INT32_TYPE)
    return Form(total, form.scale / count)


@rule("AveragePool")
def average_pool(g: Integers, node: ir.Node) -> Form:
    """A convolution with ones; padding counts as zeros, or there is none."""
    x, y = given(node, 0), node.outputs[0]
    pads, kernel = attr(node, "pads", []), attr(node, "kernel_shape")
    fitted = attr(node, "auto_pad", "NOTSET") != "NOTSET" or attr(node, "ceil_mode", 0)
    if fitted or (any(pads) and not attr(node, "count_include_pad", 0)):
        raise Unsupported(node, "windows of different sizes", "pad explicitly, with count_include_pad")
    a, channels = g.bytes(x), dims(x)[1]
    ones = g.constant(np.ones((channels, 1, *kernel), np.int8), y, "ones")
    kept = {name: attr(node, name) for name in ("dilations", "kernel_shape", "pads", "strides")}
    sums = g.node("ConvInteger", [a.value, ones, g.number(a.zero, UINT8, y, "x_zero")], y, INT32_TYPE, group=channels, **kept)
    return Form(sums, a.scale / math.prod(kernel))


# ---- Elements that only move ---------------------------------------------------------------------------------------------


@rule("MaxPool")
def max_pool(g: Integers, node: ir.Node) -> Form:
    if len(node.outputs) > 1 and node.outputs[1].uses():
        raise Unsupported(node, "the positions of its maxima are asked for")
    a = g.bytes(given(node, 0))
    return replace(a, value=g.same(node, "MaxPool", [a.value], UINT8))


@rule(*MOVES - {"Concat", "Gather"})
def move(g: Integers, node: ir.Node) -> Form | Sequence[Form]:
    if node.op_type == "Resize" and attr(node, "mode", b"nearest") not in (b"nearest", "nearest"):
        raise Unsupported(node, "it interpolates", "resize by the nearest element")
    form = g.uniform(given(node, 0))
    assert form.value.dtype is not None
    made = g.same(node, node.op_type, [form.value, *node.inputs[1:]], form.value.dtype).producer()
    assert made is not None
    return [replace(form, value=v) for v in made.outputs]


@rule("Gather")
def gather(g: Integers, node: ir.Node) -> Form | Sequence[Form]:
    """Rows of a constant table (an embedding) are int8, each with a multiplier of its own."""
    data, index, y = given(node, 0), given(node, 1), node.outputs[0]
    array = constant(data)
    if array is None:
        return move(g, node)
    if attr(node, "axis", 0) != 0 or array.ndim != 2:
        raise Unsupported(node, "a table that is no matrix, or not read by rows")
    q, scale = quantized(array, (1,))
    to = g.step(y)
    factors, shift = fixed_point(scale[:, 0] / to)
    rows = g.node("Gather", [g.constant(q, data, "int8"), index], y, ir.DataType.INT8, axis=0)
    each = g.node("Gather", [g.constant(factors[:, None], data, "multiplier"), index], y, INT32_TYPE, axis=0,
                  shape=[*dims(index), 1])
    made = g.node("Requantize", [rows, each], y, INT32_TYPE, domain=DOMAIN, shift=shift, zero=0, low=-ROOM, high=ROOM,
                  to=int(INT32_TYPE))
    return Form(made, np.array(to))


@rule("Concat")
def concat(g: Integers, node: ir.Node) -> Form:
    """All parts at one scale: uint8 where only products read the result."""
    y = node.outputs[0]
    parts = [given(node, n) for n in range(len(node.inputs))]
    if g.wants_bytes(y):
        p = g.even(y)
        form = Form(y, p.scale, p.zero)
        made, dtype = [g.placed(v, p) for v in parts], UINT8
    else:
        form, dtype = Form(y, np.array(g.step(y))), INT32_TYPE
        made = [g.steps(v, float(form.scale)) for v in parts]
    return replace(form, value=g.node("Concat", made, y, dtype, axis=attr(node, "axis")))
