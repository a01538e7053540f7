"""The ops of domain `burnish` as ONNX functions: the body, in standard ops, is the meaning, and lets onnxruntime run every stage.

A channels-last op `Nhwc<Op>` is `<Op>` on arrays stored [N, spatial…, C]: same attributes, same further inputs (a convolution's
weight stays [M, C/groups, kernel…]), and its overload says on how many spatial axes ("1d", "2d", "3d"), because the body's
Transposes need to know.
"""

from __future__ import annotations

import onnx
import onnx_ir as ir

from .base import DOMAIN
from .integer_functions import add_integer_function
from .layout.perms import channels_last, inverse

INT, INTS, FLOAT, STRING = (ir.AttributeType.INT, ir.AttributeType.INTS, ir.AttributeType.FLOAT, ir.AttributeType.STRING)

_WINDOW = {"auto_pad": STRING, "dilations": INTS, "kernel_shape": INTS, "pads": INTS, "strides": INTS}
_CONV = {**_WINDOW, "group": INT}

# op -> its inputs and its attributes; the first input and the only output are maps [N, C, spatial…]
SPATIAL: dict[str, tuple[tuple[str, ...], dict[str, ir.AttributeType]]] = {
    "AveragePool": (("X",), {**_WINDOW, "ceil_mode": INT, "count_include_pad": INT}),
    "BatchNormalization": (("X", "scale", "B", "mean", "var"), {"epsilon": FLOAT, "momentum": FLOAT}),
    "Conv": (("X", "W", "B"), _CONV),
    "ConvInteger": (("x", "w", "x_zero_point", "w_zero_point"), _CONV),
    "ConvTranspose": (("X", "W", "B"), {**_CONV, "output_padding": INTS, "output_shape": INTS}),
    "DepthToSpace": (("input",), {"blocksize": INT, "mode": STRING}),
    "GroupNormalization": (("X", "scale", "bias"), {"epsilon": FLOAT, "num_groups": INT, "stash_type": INT}),
    "InstanceNormalization": (("input", "scale", "B"), {"epsilon": FLOAT}),
    "LRN": (("X",), {"alpha": FLOAT, "beta": FLOAT, "bias": FLOAT, "size": INT}),
    "LpPool": (("X",), {**_WINDOW, "ceil_mode": INT, "p": INT}),
    "MaxPool": (("X",), {**_WINDOW, "ceil_mode": INT}),
    "QLinearConv": (("x", "x_scale", "x_zero_point", "w", "w_scale", "w_zero_point", "y_scale", "y_zero_point", "B"), _CONV),
    "SpaceToDepth": (("input",), {"blocksize": INT}),
}

PREFIX = "Nhwc"


def overload(rank: int) -> str:
    """The overload of a channels-last op on values of this rank, e.g. "2d" for rank 4."""
    return f"{rank - 2}d"


def add_function(model: ir.Model, name: str, rank: int | None = None) -> ir.Function:
    """Registers op `name` of domain `burnish` in `model.functions`, once: "SiLU", or a channels-last op such as "NhwcConv" on
    maps of this rank.

    KeyError for a name that is not one of ours.
    """
    key = (DOMAIN, name, overload(rank) if rank else "")
    if key not in model.functions:
        opset = model.graph.opset_imports[""]
        model.functions[key] = (_channels_last_function(name.removeprefix(PREFIX), rank, opset) if rank else
                                _silu(opset) if name == "SiLU" else _written(name, opset))
        model.graph.opset_imports.setdefault(DOMAIN, 1)
        model.ir_version = max(model.ir_version, 10)      # the first with overloads
    return model.functions[key]


# Ops whose bodies are best read as ONNX's text:
# FactorPair    (X A + C) B: two factors of a low-rank matrix. X [..., k], A [k, r], B [r, n], C [r].
# MatAdd        the sum of the rows of V [..., k, n] that M [..., m, k], of zeros and ones, chooses.
# ShiftLinearAttention  of Q, K, V [batch, heads, tokens, d] (ShiftAddViT, You et al. 2023): v / 2 + q (k' v) / pi of unit length,
#               where q and k are unit vectors made binary by comparison with their mean over the tokens and features of a head,
#               plus V convolved along the tokens, each head by itself: W [heads, 1, taps, 1] and pads. Compiled as its body.
# ShiftWeights  weights that are sums of powers of two (passes/compress/shift.py): codes uint8 [terms, bytes], two codes of 4 bits
#               to a byte, the first in the low half, in the row-major order of the weights; scale broadcasts to them.
_TEXT = {
    "FactorPair": """(X, A, B, C) => (Y) {
        product = MatMul(X, A)
        between = Add(product, C)
        Y = MatMul(between, B)
    }""",
    "MatAdd": """(M, V) => (Y) {
        mask = CastLike(M, V)
        Y = MatMul(mask, V)
    }""",
    "ShiftLinearAttention": """<heads, pads> (Q, K, V, W) => (Y) {
        inside = Constant<value_ints = [-2, -1]>()
        last = Constant<value_ints = [-1]>()
        small = Constant<value = float {1e-12}>()
        q_norm = ReduceL2(Q, last)
        q_size = Max(q_norm, small)
        q = Div(Q, q_size)
        q_mean = ReduceMean(q, inside)
        q_mask = Greater(q, q_mean)
        q_binary = CastLike(q_mask, V)
        k_norm = ReduceL2(K, last)
        k_size = Max(k_norm, small)
        k = Div(K, k_size)
        k_mean = ReduceMean(k, inside)
        k_mask = Greater(k, k_mean)
        k_binary = CastLike(k_mask, V)
        k_across = Transpose<perm = [0, 1, 3, 2]>(k_binary)
        state = MatMul(k_across, V)
        product = MatMul(q_binary, state)
        over_pi = Constant<value = float {0.31830988618379067}>()
        scaled = Mul(product, over_pi)
        half = Constant<value = float {0.5}>()
        own = Mul(V, half)
        sum = Add(own, scaled)
        sum_norm = ReduceL2(sum, last)
        sum_size = Max(sum_norm, small)
        unit = Div(sum, sum_size)
        near = Conv<group: int = @heads, pads: ints = @pads>(V, W)
        Y = Add(unit, near)
    }""",
    "ShiftWeights": """<shape> (codes, scale) => (weights) {
        mask = Constant<value = uint8 {15}>()
        half = Constant<value = uint8 {4}>()
        low = BitwiseAnd(codes, mask)
        high = BitShift<direction = "RIGHT">(codes, half)
        last = Constant<value_ints = [-1]>()
        even = Unsqueeze(low, last)
        odd = Unsqueeze(high, last)
        pairs = Concat<axis = -1>(even, odd)
        index = Cast<to = 6>(pairs)
        table = Constant<value = float[16] {0, 0.015625, 0.03125, 0.0625, 0.125, 0.25, 0.5, 1,
                                            0, -0.015625, -0.03125, -0.0625, -0.125, -0.25, -0.5, -1}>()
        terms = Gather(table, index)
        rows = Constant<value_ints = [0, -1]>()
        flat = Reshape(terms, rows)
        first = Constant<value_ints = [0]>()
        padded = ReduceSum<keepdims = 0>(flat, first)
        dims = Constant<value_ints: ints = @shape>()
        count = ReduceProd(dims)
        whole = Slice(padded, first, count)
        units = Reshape(whole, dims)
        weights = Mul(units, scale)
    }""",
}


COMPOSED = frozenset({"ShiftLinearAttention"})      # ops that the compiler takes apart


def _written(name: str, opset: int) -> ir.Function:
    head = f'<domain: "{DOMAIN}", opset_import: ["": {opset}]>'
    return ir.serde.deserialize_function(onnx.parser.parse_function(f"{head}\n{name} {_TEXT[name]}"))


def is_ours(function: onnx.FunctionProto) -> bool:
    """Is it one of the functions that burnish itself writes, body and all? What a file says of them is not believed."""
    opset = next((o.version for o in function.opset_import if o.domain in ("", "ai.onnx")), 0)
    rank = int(function.overload[0]) + 2 if function.overload in ("1d", "2d", "3d") else None
    model = ir.Model(ir.Graph([], [], nodes=[], opset_imports={"": opset}), ir_version=10)
    for add in (lambda: add_function(model, function.name, rank), lambda: add_integer_function(model, function.name)):
        try:
            add()
        except (KeyError, TypeError):
            continue
        made = model.functions.get((DOMAIN, function.name, function.overload))
        return made is not None and _form(ir.serde.serialize_function(made)) == _form(function)
    return False


def _form(function: onnx.FunctionProto) -> tuple[object, ...]:
    """What a function says, whatever names its nodes have and however its tensors are stored."""
    def attribute(a: onnx.AttributeProto) -> object:
        return a.name, a.type, a.ref_attr_name, *((t.shape, t.dtype, t.tobytes()) if a.HasField("t") and (
            t := onnx.numpy_helper.to_array(a.t)) is not None else (a.f, a.i, a.s, tuple(a.floats), tuple(a.ints)))

    return (tuple(function.input), tuple(function.output), tuple(sorted(function.attribute)),
            tuple(sorted(a.name for a in function.attribute_proto)),
            tuple((n.op_type, n.domain, n.overload, tuple(n.input), tuple(n.output),
                   tuple(sorted(map(attribute, n.attribute), key=repr))) for n in function.node))


def _channels_last_function(op: str, rank: int, opset: int) -> ir.Function:
    """transpose -> op -> transpose; the attributes are the caller's (one that the caller leaves out stays the op's default)."""
    input_names, attributes = SPATIAL[op]
    to_last = channels_last(rank)
    inputs = [ir.Value(name=n) for n in input_names]
    x, y, result = ir.Value(name="channels_first"), ir.Value(name="result"), ir.Value(name="channels_last")
    body = ir.Graph(inputs, [result], name=PREFIX + op, opset_imports={"": opset}, nodes=[
        ir.Node("", "Transpose", inputs[:1], [ir.AttrInt64s("perm", inverse(to_last))], outputs=[x], name="to_channels_first"),
        ir.Node("", op, [x, *inputs[1:]], [ir.RefAttr(a, a, t) for a, t in attributes.items()], outputs=[y], name=op),
        ir.Node("", "Transpose", [y], [ir.AttrInt64s("perm", to_last)], outputs=[result], name="to_channels_last")])
    return ir.Function(DOMAIN, PREFIX + op, overload(rank), graph=body,
                       attributes=[ir.Attr(a, t, None) for a, t in attributes.items()])


def _silu(opset: int) -> ir.Function:
    """x sigmoid(x). (ONNX's own Swish, of opset 24, is one that onnxruntime 1.31 does not run in models of opset 25 and 26.)"""
    x, s, y = (ir.Value(name=n) for n in ("X", "sigmoid", "Y"))
    body = ir.Graph([x], [y], name="SiLU", opset_imports={"": opset}, nodes=[
        ir.Node("", "Sigmoid", [x], outputs=[s], name="sigmoid"), ir.Node("", "Mul", [x, s], outputs=[y], name="product")])
    return ir.Function(DOMAIN, "SiLU", graph=body, attributes=[])
