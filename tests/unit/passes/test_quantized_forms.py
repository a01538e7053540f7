"""Quantised models in onnxruntime's form of operators, and bytes that move without their scales."""

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from burnish.passes.canonical.fold_constants import FoldConstants
from burnish.passes.canonical.remove_dead_code import RemoveDeadCode
from burnish.passes.pipeline import run as pipeline
from burnish.passes.quantized.absorb_clip import AbsorbClip
from burnish.passes.quantized.expand_qlinear import ExpandQLinear
from burnish.passes.quantized.move_scales import CancelQuantize, HoistQuantize, SinkDequantize
from burnish.passes.quantized.unsigned import UnsignedActivations
from harness import assert_same, check, load, ops, proto, run

rng = np.random.default_rng(0)


def integers(dtype, *shape):
    info = np.iinfo(dtype)
    return rng.integers(info.min, info.max, shape, dtype, endpoint=True)


def operator(op, inputs, attributes=None, domain="com.microsoft", outputs=("uint8",), computed=1):
    """A model of one node. inputs: arrays, None for one left out; the first `computed` arrays are given at run time."""
    names = [f"x{n}" if a is not None else "" for n, a in enumerate(inputs)]
    given = {n: np.asarray(a) for n, a in zip(names, inputs, strict=True) if n}
    free = list(given)[:computed] if isinstance(computed, int) else [names[n] for n in computed]

    def value(name, dtype, shape):
        return onnx.helper.make_tensor_value_info(name, onnx.helper.np_dtype_to_tensor_dtype(np.dtype(dtype)), shape)

    info = [value(n, given[n].dtype, given[n].shape) for n in free]
    result = [value(f"y{n}", d, None) for n, d in enumerate(outputs)]
    node = onnx.helper.make_node(op, names, [r.name for r in result], name=op, domain=domain, **(attributes or {}))
    constants = [onnx.numpy_helper.from_array(a, n) for n, a in given.items() if n not in free]
    graph = onnx.helper.make_graph([node], op, info, result, constants)
    opsets = [onnx.helper.make_opsetid("", 21), onnx.helper.make_opsetid("com.microsoft", 1)]
    return onnx.helper.make_model(graph, opset_imports=opsets, ir_version=10), {n: given[n] for n in free}


F, U, S = np.float32, np.uint8, np.int8
X, Y = integers("u1", 1, 4, 6, 6), integers("u1", 1, 4, 6, 6)
SCALED, TWICE = (F(0.5), U(120)), (F(0.25), U(9))
OUT = (F(0.5), U(100))
OPERATORS = {
    "add": ("QLinearAdd", [X, *SCALED, Y, *TWICE, *OUT], {}, [0, 3]),
    "mul": ("QLinearMul", [X, *SCALED, Y, *TWICE, F(64), U(100)], {}, [0, 3]),
    "sigmoid": ("QLinearSigmoid", [X, F(0.05), U(128), F(1 / 256), U(0)], {}, [0]),
    "leaky relu": ("QLinearLeakyRelu", [X, *SCALED, *OUT], {"alpha": 0.25}, [0]),
    "average": ("QLinearAveragePool", [X, *SCALED, *OUT], {"kernel_shape": [2, 2], "strides": [2, 2]}, [0]),
    "global average": ("QLinearGlobalAveragePool", [X, *SCALED, *OUT], {}, [0]),
    "concat": ("QLinearConcat", [*OUT, X, *SCALED, Y, *TWICE], {"axis": 1}, [2, 5]),
    "softmax": ("QLinearSoftmax", [X, F(0.05), U(128), F(1 / 256), U(0)], {"axis": -1, "opset": 13}, [0]),
    "where": ("QLinearWhere", [rng.integers(0, 2, (1, 4, 6, 6)).astype(bool), X, *SCALED, Y, *TWICE, *OUT], {}, [0, 1, 4]),
    "gemm": ("QGemm", [X[0, 0], *SCALED, integers("i1", 5, 6), np.full(5, 0.25, F), np.zeros(5, S), integers("i4", 5) >> 20,
                       F(8), U(128)], {"transB": 1, "alpha": 0.5}, [0]),
    "quantize": ("QuantizeLinear", [rng.standard_normal((3, 4)).astype(F), *TWICE], {}, [0]),
}


@pytest.mark.parametrize("case", OPERATORS)
def test_operators_of_onnxruntime(case):
    op, inputs, attributes, computed = OPERATORS[case]
    model, given = operator(op, inputs, attributes, computed=computed)
    want = run(model, given)[0].astype(int)
    graph = load(model)
    assert ExpandQLinear()(graph).modified and "com.microsoft" not in {n.domain for n in graph.graph}
    got = run(graph, given)[0].astype(int)
    # where the operator rounds in steps of its own (a table, a fixed-point mean), its neighbours are as good
    assert got.shape == want.shape and np.abs(got - want).max() <= 1 and (got == want).mean() > 0.9


def test_a_product_of_floats_without_scales_of_its_result():
    model, given = operator("QGemm", [X[0, 0], *SCALED, integers("i1", 6, 5), F(0.25), S(3)], {}, outputs=["float32"])
    graph = load(model)
    assert ExpandQLinear()(graph).modified and ops(graph)[-1] == "Gemm"
    assert_same(run(model, given), run(graph, given))


@pytest.mark.parametrize("scale, zero", [(F(0.5), S(0)), (np.array([0.25, 0.5, 2, 1], F), np.zeros(4, S))],
                         ids=["tensor", "channel"])
def test_convolutions_of_onnx(scale, zero):
    inputs = [X, *SCALED, integers("i1", 4, 2, 3, 3), scale, zero, F(32), U(100), integers("i4", 4) >> 20]
    model, given = operator("QLinearConv", inputs, {"group": 2}, domain="")
    graph = load(model)
    assert ExpandQLinear()(graph).modified and "Conv" in ops(graph)
    assert_same(run(model, given), run(graph, given))


def test_what_is_not_known_stays():
    model, _ = operator("QLinearConv", [X, *SCALED, integers("i1", 4, 2, 3, 3), F(0.5), S(0), F(32), U(100), integers("i4", 4)],
                        {"group": 2}, domain="", computed=[0, 1])      # the bias' scale is a product with x's
    step = ExpandQLinear()
    assert not step(load(model)).modified and step.misses
    model, _ = operator("QLinearAveragePool", [X, *SCALED, *OUT], {"kernel_shape": [2, 2], "channels_last": 1})
    assert not step(load(model)).modified


@pytest.mark.parametrize("text", [
    "y = com.microsoft.QLinearAdd(x)", "y = com.microsoft.QLinearAdd(x, s, z, x, , z, s, z)", "y = com.microsoft.QGemm(x, s, z)",
    "y = com.microsoft.QLinearConcat(s, z, x, s, z)", "y = com.microsoft.QLinearConcat<axis = 0>(s, z, x)",
    "y = com.microsoft.QLinearConcat<axis = \"0\">(s, z, x, s, z)", "y = com.microsoft.QLinearLeakyRelu<beta = 1>(x, s, z, s, z)",
    "y = com.microsoft.QuantizeLinear(f)", "y = com.microsoft.QLinearSoftmax(x, s)"])
def test_what_onnxruntime_would_not_run_stays(text):
    model = onnx.parser.parse_model(f"""<ir_version: 10, opset_import: ["": 21, "com.microsoft": 1]>
        g (uint8[2,3] x, float[2,3] f) => (uint8[2,3] y) < float s = {{0.5}}, uint8 z = {{3}} > {{ {text} }}""")
    assert not ExpandQLinear()(ir.from_proto(model)).modified


# ---- Moves ----------------------------------------------------------------------------------------------------------------

HEAD = """g (float[1,4,6,6] x) => (float[a,b,c,d] y) < float s = {0.5}, float t = {0.25}, uint8 z = {100}, int8 i = {-28},
          int64[4] pads = {0, 1, 1, 2}, int64[2] last = {2, 3}, int64[2] ones = {1, 2}, int64[2] ends = {5, 5}, float low = {0.0},
          float six = {6.0}, float v = {2.5}, float odd = {0.3}, float[4] twice = {1, 1, 2, 2}, float up = {70.0},
          int64[2] where = {2, 0}, bool[1,1,6,1] mask = {1, 0, 0, 1, 0, 1}, int64[3] flat = {1, 4, 36},
          float s2 = {128.0}, uint8 zero = {0} > """
MOVES = {
    "reshape": "m = Reshape(d, flat)", "transpose": "m = Transpose<perm = [0, 2, 3, 1]>(d)", "flatten": "m = Flatten(d)",
    "slice": "m = Slice(d, ones, ends, last)", "pool": "m = MaxPool<kernel_shape = [3, 3], pads = [1, 1, 1, 1]>(d)",
    "pad": "m = Pad(d, pads, , last)", "pad by 2.5": "m = Pad(d, pads, v, last)",
    "pad at the edge": "m = Pad<mode = \"edge\">(d, pads, , last)",
    "nearest": "m = Resize<mode = \"nearest\">(d, , twice)", "gather": "m = Gather<axis = 1>(d, where)",
    "concat": "m = Concat<axis = 2>(d, d)", "maximum": "e = Transpose<perm = [0, 1, 3, 2]>(d) m = Max(d, e)",
    "where": "e = Transpose<perm = [0, 1, 3, 2]>(d) m = Where(mask, d, e)", "relu": "m = Relu(d)",
    "split": "a, b = Split<axis = 1, num_outputs = 2>(d) m = Concat<axis = 1>(b, a)",
    "largest": "m = ReduceMax<keepdims = 1>(d, last)",
}
RANK = {"reshape": "a,b,c", "flatten": "a,b"}
SINK = SinkDequantize, CancelQuantize, RemoveDeadCode


def head(case):
    return HEAD.replace("a,b,c,d", RANK.get(case, "a,b,c,d"))


def quantised(body, dtype, case=""):
    zero = {"uint8": "z", "int8": "i"}[dtype]
    return head(case) + "{ q = QuantizeLinear(x, s, ZERO) d = DequantizeLinear(q, s, ZERO) ".replace("ZERO", zero) + body.replace(
        "ZERO", zero) + " }"


@pytest.mark.parametrize("dtype", ["uint8", "int8"])
@pytest.mark.parametrize("case", MOVES)
def test_bytes_move_between_quantisations(case, dtype):
    text = quantised(MOVES[case] + " r = QuantizeLinear(m, s, ZERO) y = DequantizeLinear(r, s, ZERO)", dtype, case)
    inputs = {"x": 20 * rng.standard_normal((1, 4, 6, 6)).astype(F)}
    model = load(text)
    want = run(model, inputs)
    for _ in range(3):
        for step in SINK:
            step()(model)
    assert ops(model).count("QuantizeLinear") == ops(model).count("DequantizeLinear") == 1
    assert ops(model)[-1] == "DequantizeLinear"
    assert_same(want, run(model, inputs))
    if dtype == "int8":
        assert UnsignedActivations()(model).modified
        assert {v.dtype.name for n in model.graph for v in n.outputs} == {"UINT8", "FLOAT"}
        assert_same(want, run(model, inputs))


@pytest.mark.parametrize("body", [
    "e = DequantizeLinear(q, t, z) y = Max(d, e)", "y = Pad(d, pads, odd, last)", "y = AveragePool<kernel_shape = [2, 2]>(d)",
    "y = Resize<mode = \"linear\">(d, , twice)"])
def test_what_is_no_move_of_bytes_stays(body):
    check(quantised(body, "uint8"), SinkDequantize(), changed=False)


@pytest.mark.parametrize("case", sorted({*MOVES} - {"relu", "split"}))
def test_what_is_moved_is_quantised_before(case):
    text = head(case) + "{ d = Neg(x) " + MOVES[case] + " q = QuantizeLinear(m, s, z) y = DequantizeLinear(q, s, z) }"
    model = check(text, HoistQuantize(), inputs={"x": 20 * rng.standard_normal((1, 4, 6, 6)).astype(F)},
                  changed=case not in ("maximum", "where"))       # which read x twice, once moved
    if case not in ("maximum", "where"):
        assert ops(model)[:2] == ["Neg", "QuantizeLinear"]


def test_a_value_that_others_read_is_not_quantised_before_it_moves():
    check("g (float[2,3] x) => (uint8[3,2] q, float[3,2] r) < float s = {0.5}, uint8 z = {3} > "
          "{ t = Transpose<perm = [1, 0]>(x) q = QuantizeLinear(t, s, z) r = Neg(t) }", HoistQuantize(), changed=False)


def test_other_scales_are_requantised():
    check(quantised("r = QuantizeLinear(d, t, ZERO) y = DequantizeLinear(r, t, ZERO)", "uint8"), CancelQuantize(), changed=False)


@pytest.mark.parametrize("body, left", [
    ("c = Relu(x) q = QuantizeLinear(c, s, zero)", 0), ("c = Relu(x) q = QuantizeLinear(c, s, z)", 1),
    ("c = Clip(x, low, up) q = QuantizeLinear(c, s, zero)", 1), ("c = Clip(x, low, s2) q = QuantizeLinear(c, s, zero)", 0),
    ("c = Clip(x, , s2) q = QuantizeLinear(c, s, zero)", 0), ("c = Clip(x, low, s2) q = QuantizeLinear(c, s, z)", 1)])
def test_bounds_that_saturation_has_anyway(body, left):
    model = check(HEAD + "{ " + body + " y = DequantizeLinear(q, s, zero) }", AbsorbClip(),
                  changed=left == 0 or "Clip(x, low" in body, inputs={"x": 60 * rng.standard_normal((1, 4, 6, 6)).astype(F)})
    assert sum(n in ("Clip", "Relu") for n in ops(model)) == left


@pytest.mark.parametrize("text", [
    "g (float[4] x) => (int8[4] y) < float s = {0.5}, int8 z = {3} > { y = QuantizeLinear(x, s, z) }",
    "g (int8[4] x) => (float[4] y) < float s = {0.5}, int8 z = {3} > { y = DequantizeLinear(x, s, z) }",
    "g (float[4] x) => (float[4] y, int32[4] c) < float s = {0.5}, int8 z = {3} > "
    "{ q = QuantizeLinear(x, s, z) y = DequantizeLinear(q, s, z) c = Cast<to = 6>(q) }"])
def test_signed_bytes_that_others_see_stay(text):
    check(text, UnsignedActivations(), changed=False)


def test_weights_stay_bytes_until_somebody_reads_them():
    model = load("""g (float[2,4] x, int64[2] n) => (float[2,3] y, float[2,3] e, float[2,4] c) <
        int8[3,4] w = {1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12}, float[3] s = {0.5, 1, 2}, int8[5,3] t = {1, 2, 3, 4, 5, 6, 7, 8, 9,
        10, 11, 12, 13, 14, 15}, float u = {0.25}, int8[4] b = {1, 2, 3, 4} > {
        v = DequantizeLinear<axis = 0>(w, s) p = Transpose<perm = [1, 0]>(v) y = MatMul(x, p)
        k = DequantizeLinear(t, u) e = Gather(k, n) d = DequantizeLinear(b, u) c = Add(x, d) }""")
    inputs = {"x": rng.standard_normal((2, 4)).astype(F), "n": np.array([4, 0])}
    want = run(model, inputs)
    FoldConstants()(model)
    assert ops(model).count("DequantizeLinear") == 2
    SinkDequantize()(model)
    FoldConstants()(model)      # the Transpose of the bytes
    assert "Transpose" not in ops(model) and ops(model).count("DequantizeLinear") == 2
    assert_same(want, run(model, inputs))


def test_the_pipeline_leaves_one_quantisation_in_a_chain_of_moves():
    text = quantised("a = MaxPool<kernel_shape = [2, 2], strides = [2, 2]>(d) b = QuantizeLinear(a, s, ZERO) "
                     "c = DequantizeLinear(b, s, ZERO) e = Relu(c) f = QuantizeLinear(e, s, ZERO) "
                     "y = DequantizeLinear(f, s, ZERO)", "int8")
    before = proto(load(text))
    model = load(text)
    pipeline(model, keep=frozenset({("", "Clip"), ("", "Relu")}))
    inputs = {"x": 20 * rng.standard_normal((1, 4, 6, 6)).astype(F)}
    assert_same(run(before, inputs), run(model, inputs))
    assert ops(model).count("QuantizeLinear") == 1 and {"Clip"} <= set(ops(model))
