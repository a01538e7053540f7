"""How each op is written when its data is stored in another order of axes.

A `Form` is a second way to write one node: `form(node, order)` gives it for data stored in `order`, or None where the op
reads its data in one order only. `order` is that of the node's *frame*: the first input, or the output for ops that broadcast.
To add an op: a line in a table, or a function registered with `@rule`. Nodes are in the forms of opset 18 or later, to which
`passes/canonical/upgrade_opset.py` brings every model.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx_ir as ir

from ..base import DOMAIN, attr, constant, shape
from ..functions import PREFIX, SPATIAL, overload
from .perms import Perm, channels_last, identity, permuted, through_reshape, without


@dataclass(frozen=True)
class Form:
    """inputs: the storage order of the inputs that are stored otherwise (an input of lower rank than its order is first given
    leading axes of size 1); outputs: of every output; constants: inputs that become other constants (None: left out);
    attributes: those that change (None: removed)."""

    inputs: Mapping[int, Perm]
    outputs: tuple[Perm, ...]
    constants: Mapping[int, np.ndarray | None] = field(default_factory=dict)
    attributes: Mapping[str, Any] = field(default_factory=dict)
    op: str | None = None           # another op of ONNX or, with an overload, of ours
    overload: str = ""


Rule = Callable[[ir.Node, Perm], Form | None]
RULES: dict[str, Rule] = {}

# Ops that exist for maps: they ask for channels-last themselves. Convolutions insist on it, since their kernels know no other
# order; the others take it where that saves more than the transposes around them cost.
OURS = frozenset({"Lookup", "Requantize", "SiLU"})      # ops of our own that any order suits
INSISTENT = frozenset({"Conv", "ConvInteger", "ConvTranspose", "QLinearConv"})
SEEDS = frozenset({*SPATIAL, "GlobalAveragePool", "GlobalMaxPool", "Resize"})


def asks(node: ir.Node) -> bool:
    """Does the node itself ask for channels-last? A Resize does that leaves the channels alone."""
    if node.domain != "" or node.op_type not in SEEDS or len(dims := shape(node.inputs[0]) or ()) < 3:
        return False
    out = shape(node.outputs[0])
    return node.op_type != "Resize" or (out is not None and out[1] == dims[1] and out[-1] != dims[-1])


def form(node: ir.Node, order: Perm) -> Form | None:
    """The form of a node whose frame is stored in `order`; None where there is none. Shapes must be static."""
    rule = RULES.get(node.op_type) if node.domain == (DOMAIN if node.op_type in OURS else "") else None
    if rule is None or any(v is not None and shape(v) is None for v in (*node.inputs, *node.outputs)):
        return None
    return rule(node, order)


def frame(node: ir.Node, value: ir.Value, order: Perm) -> Perm | None:
    """The order of the frame that stores `value`, an input or output of the node, in `order`; None where that says nothing."""
    if node.op_type in RESHAPES:
        x, y = node.inputs[0], node.outputs[0]
        return order if value is x else through_reshape(order, _dims(y), _dims(x)) if value is y else None
    if node.op_type in SEEDS:
        return channels_last(len(_dims(node.inputs[0])))
    of = node.outputs[0] if node.op_type in ELEMENTWISE else node.inputs[0]
    whole = value is of or (node.op_type in ELEMENTWISE | {"Concat"}) or value in node.outputs
    return order if whole and len(order) == len(_dims(of)) else None


def _dims(value: ir.Value | None) -> tuple[int, ...]:
    dims = shape(value)
    assert dims is not None
    return dims


def rule(*ops: str) -> Callable[[Rule], Rule]:
    def register(function: Rule) -> Rule:
        RULES.update(dict.fromkeys(ops, function))
        return function
    return register


def _axis(node: ir.Node, order: Perm, name: str = "axis", default: int = -1) -> int:
    """Where the axis of an attribute lies in memory."""
    return order.index(attr(node, name, default) % len(order))


# ---- Ops on maps ---------------------------------------------------------------------------------------------------------


@rule(*SPATIAL)
def spatial(node: ir.Node, order: Perm) -> Form | None:
    rank = len(order)
    if rank < 3 or order != channels_last(rank) or len(node.outputs) != 1:
        return None
    result = order if len(_dims(node.outputs[0])) == rank else None
    return Form({0: order}, (result,), op=PREFIX + node.op_type, overload=overload(rank)) if result else None


@rule("GlobalAveragePool", "GlobalMaxPool")
def global_pool(node: ir.Node, order: Perm) -> Form | None:
    """A mean or maximum over the axes that the spatial ones are in memory."""
    rank = len(order)
    axes = sorted(order.index(a) for a in range(2, rank))
    if rank < 3:
        return None
    return Form({0: order}, (order,), {1: np.array(axes, np.int64)}, {"keepdims": 1},
                op="ReduceMean" if node.op_type == "GlobalAveragePool" else "ReduceMax")


@rule("Resize")
def resize(node: ir.Node, order: Perm) -> Form | None:
    """Sizes, scales, region and axes are permuted. onnxruntime, which must run every stage, resizes cubically and in more than
    two dimensions only with channels first."""
    mode = attr(node, "mode", b"nearest")
    mode = mode.decode() if isinstance(mode, bytes) else mode
    if mode != "nearest" and (mode != "linear" or len(order) > 4):
        return None
    axes = attr(node, "axes")
    if axes is not None:
        return Form({0: order}, (order,), attributes={"axes": [order.index(a % len(order)) for a in axes]})
    constants: dict[int, np.ndarray | None] = {}
    for i, v in enumerate(node.inputs[1:], start=1):
        if v is None or _dims(v) == (0,):
            continue
        value = constant(v)
        if value is None or value.size % len(order):
            return None
        constants[i] = np.concatenate([part[list(order)] for part in np.split(value, value.size // len(order))])
    return Form({0: order}, (order,), constants)


# ---- Element by element --------------------------------------------------------------------------------------------------

ELEMENTWISE = frozenset({
    "Abs", "Acos", "Acosh", "Add", "And", "Asin", "Asinh", "Atan", "Atanh", "BitShift", "BitwiseAnd", "BitwiseNot",
    "BitwiseOr", "BitwiseXor", "Cast", "Ceil", "Celu", "Clip", "Cos", "Cosh", "Div", "Elu", "Equal", "Erf", "Exp", "Floor",
    "Gelu", "Greater", "GreaterOrEqual", "HardSigmoid", "HardSwish", "Identity", "IsInf", "IsNaN", "LeakyRelu", "Less",
    "LessOrEqual", "Log", "Lookup", "Max", "Mean", "Min", "Mish", "Mod", "Mul", "Neg", "Not", "Or", "PRelu", "Pow",
    "Reciprocal", "Relu", "Requantize", "Round", "Selu", "Shrink", "SiLU", "Sigmoid", "Sign", "Sin", "Sinh", "Softplus",
    "Softsign", "Sqrt", "Sub", "Sum", "Swish", "Tan", "Tanh", "ThresholdedRelu", "Where", "Xor",
})


@rule(*ELEMENTWISE)
def elementwise(node: ir.Node, order: Perm) -> Form | None:
    """Inputs that broadcast follow the output's axes; constants are transposed now, and lose their leading axes of size 1."""
    rank = len(_dims(node.outputs[0]))
    inputs: dict[int, Perm] = {}
    constants: dict[int, np.ndarray | None] = {}
    for i, v in enumerate(node.inputs):
        if v is None or (all(d == 1 for d in _dims(v)) and len(_dims(v)) < rank):
            continue
        value = constant(v)
        if value is None:
            inputs[i] = order
        else:
            constants[i] = stored(value, order)
    return Form(inputs, (order,), constants) if inputs else None


def stored(value: np.ndarray, order: Perm) -> np.ndarray:
    """A broadcasting operand for arrays in another order, e.g. [C, 1, 1] -> [C] for channels-last."""
    value = value.reshape((1,) * (len(order) - value.ndim) + value.shape).transpose(order)
    while value.ndim > 1 and value.shape[0] == 1:
        value = value[0]
    return value


@rule("QuantizeLinear", "DequantizeLinear")
def quantize(node: ir.Node, order: Perm) -> Form | None:
    if attr(node, "block_size", 0):
        return None
    return Form({0: order}, (order,), attributes={"axis": _axis(node, order, default=1)} if _dims(node.inputs[1]) else {})


# ---- Ops with axes -------------------------------------------------------------------------------------------------------


@rule("Concat", "Softmax", "LogSoftmax", "Hardmax", "Split", "LpNormalization", "TopK")
def along_axis(node: ir.Node, order: Perm) -> Form | None:
    data = range(len(node.inputs)) if node.op_type == "Concat" else (0,)
    axis = _axis(node, order, default=0 if node.op_type == "Split" else -1)
    return Form(dict.fromkeys(data, order), (order,) * len(node.outputs), attributes={"axis": axis})


@rule("CumSum")
def cumsum(node: ir.Node, order: Perm) -> Form | None:
    axis = constant(node.inputs[1])
    if axis is None:
        return None
    return Form({0: order}, (order,), {1: np.full(axis.shape, order.index(int(axis.reshape(())) % len(order)), axis.dtype)})


@rule("LayerNormalization", "RMSNormalization")
def layer_norm(node: ir.Node, order: Perm) -> Form | None:
    """Stays as it is where the normalised axes, the last ones, stay in place."""
    first = attr(node, "axis", -1) % len(order)
    if len(node.outputs) > 1 or order[first:] != identity(len(order))[first:]:
        return None
    return Form({0: order}, (order,))


REDUCTIONS = frozenset({
    "ReduceL1", "ReduceL2", "ReduceLogSum", "ReduceLogSumExp", "ReduceMax", "ReduceMean", "ReduceMin", "ReduceProd", "ReduceSum",
    "ReduceSumSquare",
})


@rule(*REDUCTIONS)
def reduction(node: ir.Node, order: Perm) -> Form | None:
    rank, given = len(order), node.inputs[1] if len(node.inputs) > 1 else None
    named = constant(given) if given is not None else np.arange(0 if attr(node, "noop_with_empty_axes", 0) else rank)
    if named is None or named.size == 0:
        return None
    axes = [int(a) % rank for a in named]
    return Form({0: order}, (order if attr(node, "keepdims", 1) else without(order, axes),),
                {1: np.array(sorted(order.index(a) for a in axes), np.int64)})


@rule("ArgMax", "ArgMin")
def arg_extremum(node: ir.Node, order: Perm) -> Form | None:
    axis = attr(node, "axis", 0) % len(order)
    result = order if attr(node, "keepdims", 1) else without(order, [axis])
    return Form({0: order}, (result,), attributes={"axis": order.index(axis)})


@rule("Gather")
def gather(node: ir.Node, order: Perm) -> Form | None:
    """With a single index or a list of them."""
    axis, indices = attr(node, "axis", 0) % len(order), len(_dims(node.inputs[1]))
    if indices > 1 or len(_dims(node.inputs[0])) != len(order):
        return None
    return Form({0: order}, (order if indices else without(order, [axis]),), attributes={"axis": order.index(axis)})


@rule("Slice")
def slice_(node: ir.Node, order: Perm) -> Form | None:
    given = node.inputs[3] if len(node.inputs) > 3 else None
    axes = constant(given) if given is not None else np.arange(_dims(node.inputs[1])[0])
    if axes is None:
        return None
    return Form({0: order}, (order,), {3: np.array([order.index(int(a) % len(order)) for a in axes], np.int64)})


@rule("Pad")
def pad(node: ir.Node, order: Perm) -> Form | None:
    pads, axes = constant(node.inputs[1]), node.inputs[3] if len(node.inputs) > 3 else None
    if axes is not None:
        named = constant(axes)
        return None if named is None else Form({0: order}, (order,), {
            3: np.array([order.index(int(a) % len(order)) for a in named], np.int64)})
    if pads is None:
        return None
    return Form({0: order}, (order,), {1: np.concatenate([half[list(order)] for half in np.split(pads, 2)])})


@rule("Tile")
def tile(node: ir.Node, order: Perm) -> Form | None:
    repeats = constant(node.inputs[1])
    return None if repeats is None else Form({0: order}, (order,), {1: repeats[list(order)]})


@rule("Expand")
def expand(node: ir.Node, order: Perm) -> Form | None:
    target = _dims(node.outputs[0])
    if len(target) != len(_dims(node.inputs[0])) or len(target) != len(order):
        return None
    return Form({0: order}, (order,), {1: np.array(permuted(target, order), np.int64)})


# ---- Reshapes ------------------------------------------------------------------------------------------------------------

RESHAPES = frozenset({"Reshape", "Flatten", "Squeeze", "Unsqueeze"})


@rule(*RESHAPES)
def reshape(node: ir.Node, order: Perm) -> Form | None:
    source, target = _dims(node.inputs[0]), _dims(node.outputs[0])
    result = through_reshape(order, source, target)
    if result is None:
        return None
    return Form({0: order}, (result,), {1: np.array(permuted(target, result), np.int64)}, op="Reshape",
                attributes=dict.fromkeys(("allowzero", "axis", "axes")))


