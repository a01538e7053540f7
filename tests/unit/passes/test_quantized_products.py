"""Sums of bytes in place of convolutions and products of what bytes stand for, and the scales behind them."""

import numpy as np
import onnx_ir as ir
import pytest
from burnish.passes.base import constant
from burnish.passes.canonical.fold_pad import FoldPad
from burnish.passes.canonical.remove_dead_code import RemoveDeadCode
from burnish.passes.pipeline import run as pipeline
from burnish.passes.quantized.average_pools import IntegerAverages
from burnish.passes.quantized.fold_pad import FoldIntegerPad
from burnish.passes.quantized.fold_requantization import FoldRequantization
from burnish.passes.quantized.integer_products import IntegerProducts
from burnish.passes.quantized.note_bounds import NoteBounds, top
from harness import assert_same, check, load, ops, run

rng = np.random.default_rng(0)
F = np.float32


def numbers(values):
    return "{" + ", ".join(str(v) for v in np.ravel(values)) + "}"


def weights(kind, *dims, zero=0):
    """Weights as text: initializers w of `kind`, with a zero point."""
    info = np.iinfo({"int8": "i1", "uint8": "u1"}[kind])
    values = rng.integers(max(info.min, zero - 128), min(info.max, zero + 127), dims)
    return f"{kind}[{','.join(map(str, dims))}] w = {numbers(values)}"


def pixels(*dims):
    return {"x": rng.integers(-60, 60, dims).astype(F) / 2}


# All scales are powers of two: float sums are then exact, and so is the comparison.
HEAD = "float s = {0.5}, uint8 z = {100}, float t = {0.25}, int8 o = {0}, uint8 h = {128}"
KINDS = {
    "signed": ("int8", 0, "t, o"), "signed, without a zero point": ("int8", 0, "t"), "unsigned": ("uint8", 128, "t, h"),
    "unsigned by chance": ("uint8", 100, "t, z")}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("body, dims, given, out", [
    ("y = Conv<pads = [1, 1, 1, 1], strides = [2, 1]>(d, v, b)", (6, 4, 3, 3), "1,4,7,6", "1,6,4,6"),
    ("y = Conv<group = 4, auto_pad = \"SAME_UPPER\">(d, v)", (4, 1, 3, 3), "1,4,7,6", "1,4,7,6"),
    ("y = Conv(d, v, b)", (6, 4, 3), "1,4,7", "1,6,5"), ("y = MatMul(d, v)", (7, 5), "2,3,7", "2,3,5"),
    ("y = Gemm(d, v, b)", (7, 6), "3,7", "3,6"), ("y = Gemm<transB = 1, alpha = 0.5>(d, v, b)", (6, 7), "3,7", "3,6")])
def test_products_become_sums_of_bytes(kind, body, dims, given, out):
    dtype, zero, scale = KINDS[kind]
    model = check(f"""g (float[{given}] x) => (float[{out}] y) < {HEAD}, {weights(dtype, *dims, zero=zero)},
        float[6] b = {{1, 2, 3, 4, 5, 6}} > {{ q = QuantizeLinear(x, s, z) d = DequantizeLinear(q, s, z)
        v = DequantizeLinear(w, {scale}) {body} }}""", IntegerProducts(), inputs=pixels(*map(int, given.split(","))))
    total = next(n for n in model.graph if n.op_type in ("ConvInteger", "MatMulInteger"))
    assert constant(total.inputs[1]).dtype == np.int8 and len(total.inputs) == 3
    assert "Conv" not in ops(model) and "MatMul" not in ops(model) and "Gemm" not in ops(model)


def test_zero_points_of_each_channel():
    model = check(f"""g (float[1,3,5,5] x) => (float[1,2,5,5] y) < {HEAD}, uint8[2,3,1,1] w = {{0, 255, 7, 100, 3, 200}},
        float[2] c = {{1, 2}}, uint8[2] n = {{100, 20}} > {{ q = QuantizeLinear(x, s, z) d = DequantizeLinear(q, s, z)
        v = DequantizeLinear<axis = 0>(w, c, n) y = Conv(d, v) }}""", IntegerProducts(), inputs=pixels(1, 3, 5, 5))
    assert ops(model).count("ConvInteger") == 2


@pytest.mark.parametrize("body, axis, dims, out", [
    ("Conv", 0, (4, 3, 1, 1), "1,4,5,5"), ("MatMul", 1, (5, 4), "1,3,5,4"), ("MatMul", -1, (5, 4), "1,3,5,4")])
def test_scales_for_each_channel(body, axis, dims, out):
    model = check(f"""g (float[1,3,5,5] x) => (float[{out}] y) < {HEAD}, {weights("int8", *dims)}, float[4] c = {{1, 2, 0.5, 4}},
        int8[4] n = {{0, 0, 0, 0}} > {{ q = QuantizeLinear(x, s, z) d = DequantizeLinear(q, s, z)
        v = DequantizeLinear<axis = {axis}>(w, c, n) y = {body}(d, v) }}""", IntegerProducts(), inputs=pixels(1, 3, 5, 5))
    factor = constant(next(n for n in model.graph if n.op_type == "Mul").inputs[1])
    np.testing.assert_array_equal(factor.reshape(-1), 0.5 * np.array([1, 2, 0.5, 4]))


@pytest.mark.parametrize("zero, parts", [(100, 2), (255, 2), (1, 2), (0, 1)])
def test_zero_points_that_int8_cannot_do_without(zero, parts):
    model = check(f"""g (float[1,3,5,5] x) => (float[1,2,5,5] y) < {HEAD}, uint8[2,3,1,1] w = {{0, 255, 7, 100, 3, 200}},
        uint8 n = {{{zero}}} > {{ q = QuantizeLinear(x, s, z) d = DequantizeLinear(q, s, z) v = DequantizeLinear(w, t, n)
        y = Conv(d, v) }}""", IntegerProducts(), inputs=pixels(1, 3, 5, 5))
    totals = [n for n in model.graph if n.op_type == "ConvInteger"]
    assert len(totals) == parts and all(constant(n.inputs[1]).dtype == np.int8 for n in totals)
    assert all(len(n.inputs) == (3 if parts > 1 else 4) for n in totals)
    assert parts > 1 or constant(totals[0].inputs[3]) == -128


@pytest.mark.parametrize("text, reason", [
    ("v = DequantizeLinear(w, t) y = Conv(x, v)", "activations are not"),
    ("q = QuantizeLinear(x, s, z) d = DequantizeLinear(q, s, z) v = DequantizeLinear<axis = 1>(w, c) y = Conv(d, v)",
     "another axis"),
    ("q = QuantizeLinear(x, s, z) d = DequantizeLinear(q, s, z) v = DequantizeLinear<axis = 0>(u, c, n) y = Conv(d, v)",
     "for each channel")])
def test_what_stays_in_float(text, reason):
    step = IntegerProducts()
    check(f"""g (float[1,2,5,5] x) => (float[1,2,5,5] y) < {HEAD}, {weights("int8", 2, 2, 1, 1)}, float[2] c = {{1, 2}},
        uint8[2,2,1,1] u = {{0, 255, 0, 255}}, uint8[2] n = {{100, 0}} > {{ {text} }}""", step, changed=False)
    assert reason in step.misses[0].reason


@pytest.mark.parametrize("window, out", [
    ("kernel_shape = [2, 2], strides = [2, 2]", "1,4,4,3"), ("kernel_shape = [3, 3], pads = [1, 1, 1, 1]", "1,4,8,6"),
    ("kernel_shape = [3, 2], pads = [1, 0, 1, 1], count_include_pad = 1", "1,4,8,6"),
    ("kernel_shape = [2, 2], dilations = [2, 1], pads = [1, 0, 1, 0]", "1,4,8,5")])
def test_averages_are_sums_of_bytes(window, out):
    model = check(f"""g (float[1,4,8,6] x) => (float[{out}] y) < {HEAD} > {{ q = QuantizeLinear(x, s, z)
        d = DequantizeLinear(q, s, z) y = AveragePool<{window}>(d) }}""", IntegerAverages(), inputs=pixels(1, 4, 8, 6))
    assert ops(model)[1:] == ["ConvInteger", "Cast", "Mul"]


@pytest.mark.parametrize("window", ["kernel_shape = [3, 3], strides = [2, 2], ceil_mode = 1",
                                    "kernel_shape = [3, 3], auto_pad = \"SAME_UPPER\""])
def test_windows_beyond_the_padding_stay(window):
    check(f"""g (float[1,4,8,6] x) => (float[a,b,c,d] y) < {HEAD} > {{ q = QuantizeLinear(x, s, z) d = DequantizeLinear(q, s, z)
        y = AveragePool<{window}>(d) }}""", IntegerAverages(), inputs=pixels(1, 4, 8, 6), changed=False)


def test_padding_by_the_zero_point():
    text = """g (uint8[1,2,5,5] x) => (int32[1,2,6,7] y) < uint8 z = {7}, uint8 v = {VALUE},
        int64[8] p = {0, 0, 1, 2, 0, 0, 1, 1}, int8[2,2,3,3] w = W > {
        a = Pad(x, p, v) y = ConvInteger<pads = [0, 0, 1, 1]>(a, w, z) }""".replace(
        "W", numbers(rng.integers(-128, 128, (2, 2, 3, 3))))
    given = {"x": rng.integers(0, 256, (1, 2, 5, 5), np.uint8)}
    assert ops(check(text.replace("VALUE", "7"), FoldIntegerPad(), inputs=given)) == ["ConvInteger"]
    check(text.replace("VALUE", "0"), FoldIntegerPad(), inputs=given, changed=False)
    check(text.replace("VALUE", "7"), FoldPad(), inputs=given, changed=False)


# ---- Requantisation -------------------------------------------------------------------------------------------------------

REQUANTISED = {     # body -> how many factors are left beside the first one
    "one multiply-add": ("m = Mul(c, f) a = Add(m, b)", "Add Mul"),
    "what bounds it": ("m = Mul(c, f) r = Relu(m) a = Clip(r, low, six)", "Clip Mul Relu"),
    "a residual": ("m = Mul(c, f) e = DequantizeLinear(x, s, z) a = Add(m, e)", "Add DequantizeLinear Mul"),
    "an average": ("e = DequantizeLinear(x, s, z) a = AveragePool<kernel_shape = [2, 2]>(e)", "AveragePool DequantizeLinear"),
    "a product": ("e = DequantizeLinear(x, s, z) a = Mul(c, e)", "DequantizeLinear Mul"),
    "a quotient": ("m = Mul(c, f) a = Div(m, n)", "Div Mul"),
    "a concatenation": ("e = DequantizeLinear(x, s, z) a = Concat<axis = 1>(c, e)", "Concat DequantizeLinear Mul"),
    "nothing": ("a = Sigmoid(c)", "Mul Sigmoid"), "what others read": ("m = Mul(c, f) k = Neg(m) i = Sigmoid(k) a = Add(m, i)",
                                                                       "Add Mul Mul Neg Sigmoid"),
    "bilinear": ("e = DequantizeLinear(x, s, z) a = Resize<mode = \"linear\">(e, , twice)", "DequantizeLinear Resize")}


@pytest.mark.parametrize("case", REQUANTISED)
def test_the_scale_goes_into_constants(case):
    body, left = REQUANTISED[case]
    model = check(f"""g (uint8[1,3,4,4] x) => (uint8[n,c,h,w] y) < {HEAD}, float[3,1,1] f = {{0.5, 1, 2}},
        float[3,1,1] b = {{1, 2, 3}}, float low = {{1}}, float six = {{6}}, float[1,3,1,1] n = {{2, 4, 8}},
        float[4] twice = {{1, 1, 2, 2}} > {{
        c = Cast<to = 1>(x) {body} y = QuantizeLinear(a, t, z) }}""",
                  FoldRequantization(), RemoveDeadCode(), inputs={"x": rng.integers(0, 200, (1, 3, 4, 4), np.uint8)})
    assert " ".join(sorted(o for o in ops(model) if o not in ("Cast", "QuantizeLinear"))) == left
    assert constant(model.graph.node(-1).inputs[1]) == 1


def test_odd_scales_move_a_byte_by_one_at_most():
    text = """g (float[64,64] x) => (uint8[64,64] y) < float s = {0.0173}, uint8 z = {117}, float f = {0.37},
        float b = {0.113} > {
        m = Mul(x, f) a = Add(m, b) y = QuantizeLinear(a, s, z) }"""
    model, given = load(text), {"x": rng.standard_normal((64, 64)).astype(F)}
    want = run(model, given)[0].astype(int)
    FoldRequantization()(model)
    different = run(model, given)[0].astype(int) - want
    assert np.abs(different).max() <= 1 and (different != 0).mean() < 1e-3


# ---- Bounds ---------------------------------------------------------------------------------------------------------------


def test_bounds_pass_through_what_moves_bytes():
    model = load("""g (float[1,2,4,4] x, uint8[1,2,4,4] u) => (uint8 a, uint8 b, uint8 c, uint8 d, uint8 e) < float s = {0.5},
        uint8 z = {3}, uint8 low = {0}, uint8 high = {127}, uint8 least = {90}, int64[8] p = {0, 0, 1, 1, 0, 0, 1, 1},
        uint8 v = {200} > { q = QuantizeLinear(x, s, z) k = Clip(q, low, high) m = MaxPool<kernel_shape = [2, 2]>(k)
        a = Transpose<perm = [0, 2, 3, 1]>(m) b = Concat<axis = 1>(k, u) c = Min(k, u) d = Pad(k, p, v) e = Clip(k, least) }""")
    assert NoteBounds()(model).modified and not NoteBounds()(model).modified
    assert [top(v) for v in model.graph.outputs] == [127, 255, 127, 200, 127]
    assert top(model.graph.inputs[1]) == 255


# ---- The pipeline ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("activations, weight", [("uint8", "int8"), ("int8", "int8"), ("uint8", "uint8")])
def test_a_network_has_no_float_between_its_layers_but_for_scales(activations, weight):
    zero, w_zero = {"uint8": "z = {100}", "int8": "z = {-28}"}[activations], {"int8": 0, "uint8": 128}[weight]
    text = f"""g (float[1,3,8,8] x) => (float[1,5] y) < {activations} {zero}, float s = {{0.5}}, float t = {{0.25}},
        float big = {{8}}, float wide = {{512}}, {weight} n = {{{w_zero}}}, {weights(weight, 4, 3, 3, 3, zero=w_zero)},
        {weight}[4,4,1,1] v =
        {numbers(rng.integers(w_zero - 100, w_zero + 100, 16))}, int32[4] b = {{100, -200, 300, 0}}, float bs = {{0.125}},
        {weight}[5,64] f = {numbers(rng.integers(w_zero - 100, w_zero + 100, 320))}, float[5] fb = {{1, 2, 3, 4, 5}},
        {activations} low = {zero[4:]} > {{
        q = QuantizeLinear(x, s, z) d = DequantizeLinear(q, s, z) wf = DequantizeLinear(w, t, n) bf = DequantizeLinear(b, bs)
        c1 = Conv<pads = [1, 1, 1, 1]>(d, wf, bf) r1 = Relu(c1) q1 = QuantizeLinear(r1, big, z) d1 = DequantizeLinear(q1, big, z)
        m = MaxPool<kernel_shape = [2, 2], strides = [2, 2]>(d1) q2 = QuantizeLinear(m, big, z) d2 = DequantizeLinear(q2, big, z)
        vf = DequantizeLinear(v, t, n) c2 = Conv(d2, vf) q3 = QuantizeLinear(c2, wide, z) d3 = DequantizeLinear(q3, wide, z)
        e = Add(d3, d2) q4 = QuantizeLinear(e, wide, z) d4 = DequantizeLinear(q4, wide, z) l = Flatten(d4)
        q5 = QuantizeLinear(l, wide, z) d5 = DequantizeLinear(q5, wide, z) ff = DequantizeLinear(f, t, n)
        y = Gemm<transB = 1>(d5, ff, fb) }}"""
    model, given = load(text), pixels(1, 3, 8, 8)
    want = run(model, given)
    pipeline(model, keep=frozenset({("", "Relu"), ("", "Clip")}))
    assert_same(want, run(model, given))
    kinds = ops(model)
    assert {"NhwcConvInteger", "MatMulInteger", "NhwcMaxPool"} <= set(kinds) and not {"Conv", "NhwcConv", "MatMul"} & set(kinds)
    assert kinds.count("QuantizeLinear") == 4 and kinds.count("DequantizeLinear") == 2
    assert not [v for node in model.graph for v in node.outputs if v.dtype == ir.DataType.INT8]
