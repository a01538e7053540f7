"""Float models as integers: what remains of them, how near they stay, and what is refused."""

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from burnish.compiler.compress.integer_only import integer_only
from burnish.compiler.errors import Refused
from burnish.passes.compress.integer_ranges import Parameters, Seen, balanced, narrowed, quantized
from harness import check_valid, load, ops, run

INTEGERS = frozenset({ir.DataType.INT8, ir.DataType.UINT8, ir.DataType.INT32, ir.DataType.INT64, ir.DataType.BOOL})


def feeds(shapes, count=6, seed=0):
    rng = np.random.default_rng(seed)
    return [{name: rng.standard_normal(shape).astype("f4") for name, shape in shapes.items()} for _ in range(count)]


def compressed(text, shapes, constants, top=255, tolerance=0.03, data=None):
    """The model as integers; every value between the first QuantizeLinear and the last DequantizeLinear is one."""
    model = onnx.parser.parse_model(f'<ir_version: 10, opset_import: ["": 23]>\n{text}')
    model.graph.initializer.extend(onnx.numpy_helper.from_array(a, name) for name, a in constants.items())
    graph = load(model)
    data = data or feeds(shapes)
    before = [run(graph, f) for f in data]
    reports = integer_only(graph, data, top=top)
    check_valid(graph)
    floats = [n.op_type for n in graph.graph if any(v.dtype not in INTEGERS for v in n.outputs)]
    assert set(floats) <= {"DequantizeLinear"}
    for want, after in zip(before, (run(graph, f) for f in data), strict=True):
        for w, a in zip(want, after, strict=True):
            assert np.linalg.norm(a - w) <= tolerance * np.linalg.norm(w)
    return graph, reports


def normal(*shape, seed=1):
    return np.random.default_rng(seed).standard_normal(shape).astype("f4")


@pytest.mark.parametrize("top, tolerance", [(255, 0.02), (127, 0.04)])
def test_convolutions_and_a_residual(top, tolerance):
    graph, reports = compressed("""
        g (float[1, 4, 10, 10] x) => (float[1, 8, 10, 10] y) {
            a = Conv <pads = [1, 1, 1, 1]> (x, w, b)
            c = Relu (a)
            d = Conv (c, v)
            y = Add (d, c)
        }""", {"x": (1, 4, 10, 10)}, {"w": normal(8, 4, 3, 3), "b": normal(8), "v": normal(8, 8, 1, 1)}, top, tolerance)
    assert {"ConvInteger", "Requantize"} <= set(ops(graph)) and "Relu" not in ops(graph)
    assert [(r.before, r.step) for r in reports] == [(8 * 4 * 9 * 4, "integer-only"), (64 * 4, "integer-only")]
    assert all(0 < r.error < tolerance and r.after < r.before for r in reports)


def test_channels_of_very_different_ranges():
    """One channel a hundred times as large as the others: the weights take the difference."""
    gamma = np.ones(32, "f4")
    gamma[3] = 100
    w = normal(32, 16)
    w[3] /= 100
    compressed("""g (float[1, 12, 32] x) => (float[1, 12, 16] y) {
            a = LayerNormalization <axis = -1> (x, gamma, beta)
            y = MatMul (a, w)
        }""", {"x": (1, 12, 32)}, {"gamma": gamma, "beta": normal(32), "w": w}, 255, 0.02)


def test_attention_with_a_mask():
    graph, _ = compressed("""
        g (float[1, 2, 9, 8] q, float[1, 2, 9, 8] k, float[1, 2, 9, 8] v, int64[1, 1, 1, 9] mask) => (float[1, 2, 9, 8] y) {
            t = Transpose <perm = [0, 1, 3, 2]> (k)
            s = MatMul (q, t)
            seen = Cast <to = 1> (mask)
            hidden = Sub (one, seen)
            far = Mul (hidden, most)
            m = Add (s, far)
            p = Softmax (m)
            y = MatMul (p, v)
        }""", {}, {"one": np.float32(1), "most": np.float32(-3.4e38)}, 255, 0.05,
        [f | {"mask": np.arange(9).reshape(1, 1, 1, 9) // (n + 3) % 2 ^ 1}
         for n, f in enumerate(feeds(dict.fromkeys("qkv", (1, 2, 9, 8))))])
    assert "IntegerSoftmax" in ops(graph) and "Softmax" not in ops(graph)


@pytest.mark.parametrize("op", ["Gelu", "HardSwish", "Sigmoid", "Tanh"])
def test_functions_of_one_number(op):
    graph, _ = compressed(f"g (float[5, 16] x) => (float[5, 8] y) {{ a = MatMul (x, w) b = {op} (a) y = MatMul (b, v) }}",
                          {"x": (5, 16)}, {"w": normal(16, 16), "v": normal(16, 8)}, 255, 0.03)
    assert "Lookup" in ops(graph)


def test_a_channel_of_nothing_keeps_its_bias():
    """Of a folded BatchNorm a channel may have weights of 1e-12 and a bias of 3: in their steps it would not fit int32."""
    w = normal(4, 3, 1, 1)
    w[2] = 1e-12
    compressed("g (float[1, 3, 6, 6] x) => (float[1, 4, 6, 6] y) { y = Conv (x, w, b) }", {"x": (1, 3, 6, 6)},
               {"w": w, "b": np.full(4, 3, "f4")}, 255, 0.02)


def test_pools_means_and_views():
    compressed("""
        g (float[1, 4, 8, 8] x) => (float[1, 8] y) {
            a = MaxPool <kernel_shape = [2, 2], strides = [2, 2]> (x)
            b = AveragePool <kernel_shape = [2, 2], strides = [2, 2]> (a)
            c = Concat <axis = 1> (b, b)
            d = ReduceMean <keepdims = 0> (c, axes)
            y = MatMul (d, w)
        }""", {"x": (1, 4, 8, 8)}, {"axes": np.array([2, 3]), "w": normal(8, 8)}, 255, 0.03)


def test_embeddings():
    """Rows of very different size, each with a scale of its own."""
    table = normal(50, 16) * np.geomspace(0.1, 3, 50).astype("f4")[:, None]
    compressed("""g (int64[1, 7] ids) => (float[1, 7, 16] y) {
            a = Gather (table, ids)
            b = Add (a, places)
            y = LayerNormalization <axis = -1> (b, gamma, beta)
        }""", {}, {"table": table, "places": normal(7, 16) / 10, "gamma": normal(16), "beta": normal(16)}, 255, 0.02,
        [{"ids": np.random.default_rng(n).integers(0, 50, (1, 7))} for n in range(6)])


def test_all_that_has_no_integer_form_is_named():
    text = """g (float[2, 3] x) => (float[2, 3] y, float[2, 3] z) { y = CumSum (x, zero) a = Pow (x, x) z = Cos (a) }"""
    model = onnx.parser.parse_model(f'<ir_version: 10, opset_import: ["": 23]>\n{text}')
    model.graph.initializer.append(onnx.numpy_helper.from_array(np.array(0), "zero"))
    graph = load(model)
    with pytest.raises(Refused) as found:
        integer_only(graph, feeds({"x": (2, 3)}, 2))
    assert [r.op for r in found.value.refusals] == ["CumSum", "Pow", "Cos"]


def test_ranges_are_picked_by_their_error():
    rng = np.random.default_rng(0)
    rows = rng.standard_normal((400, 8)).astype("f4")
    rows[0, 0] = 50
    seen = Seen(float(rows.min()), 50.0, rows.mean(0), rows)
    p = narrowed(Seen(seen.low, 300.0, seen.means, rows), 15)
    assert float(p.scale) * 15 < 300, "a range of which nothing is seen is cut off"
    weight = rng.standard_normal((8, 5)).astype("f4")
    error = [np.square((q.rounded(rows, 255) - rows) @ weight).sum() for q in (balanced(seen, weight, 255),
                                                                            Parameters.of(seen.low, seen.high, 255))]
    assert error[0] < error[1] / 2
    q, scale = quantized(weight, (0,))
    assert np.abs(q * scale - weight).max() <= scale.max() / 2 + 1e-7
