"""Which nodes of a quantised graph become one kernel, and that the kernels compute what onnxruntime does."""

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from burnish.compiler.lower.group import lower
from burnish.compiler.partition import partition
from burnish.schedules.expr import post_order
from onnx import parser

from .harness import reference
from .tasks import run_tasks

rng = np.random.default_rng(0)


def graph(text):
    proto = parser.parse_model(f'<ir_version: 10, opset_import: ["": 23]>\n{text}')
    return onnx.shape_inference.infer_shapes(proto, data_prop=True)


def compared(text, **given):
    """The tasks of the graph as it is, whose results are onnxruntime's to the last bit."""
    proto = graph(text)
    model = ir.from_proto(proto)
    got, _ = run_tasks(model, given)
    for g, want in zip(got, reference(proto, given, "ort"), strict=True):
        np.testing.assert_array_equal(g, want)
    parts = partition(model)
    return [lower(g, parts).task for g in parts.groups]


@pytest.mark.parametrize("bounds", ["", "low, high", ", high", "low", "high, low"])
@pytest.mark.parametrize("zeros", [(100, 100), (100, 7)], ids=["one zero point", "two"])
def test_what_is_quantised_and_read_in_one_kernel_stays_in_float(zeros, bounds):
    first, second = zeros
    (task,) = compared(f"""g (float[64] x) => (float[64] y) < float s = {{1}}, uint8 z = {{{first}}}, float t = {{0.25}},
        uint8 v = {{{second}}}, uint8 low = {{20}}, uint8 high = {{127}} > {{ q = QuantizeLinear(x, s, z)
        c = {f"Clip(q, {bounds})" if bounds else "Identity(q)"} y = DequantizeLinear(c, t, v) }}""",
                       x=(rng.standard_normal(64) * 60).astype("f4"))
    assert not {"quantize", "reinterpret"} & {e.op for e in post_order([task.stores[0].value])}


PRODUCT = """ c = MatMulInteger(a, w, z) f = Cast<to = 1>(c) m = Mul(f, s) q = QuantizeLinear(m, one, z)
    d = DequantizeLinear(q, s, z) """
WEIGHTS = ", ".join(map(str, rng.integers(-20, 20, 20)))
HEAD = f"< float s = {{0.5}}, float one = {{1}}, uint8 z = {{100}}, int8[5,4] w = {{{WEIGHTS}}} >"


@pytest.mark.parametrize("tail, stored", [
    ("y = ReduceMean<keepdims = 0>(d)", ["uint8", "float32"]), ("p = MatMul(d, d) y = Neg(p)", None),
    ("e = DequantizeLinear(b, s, z) y = Add(d, e)", ["float32"])])
def test_bytes_are_stored_where_their_reader_can_dequantise(tail, stored):
    text = f"g (uint8[4,5] a, uint8[4,4] b) => (float y) {HEAD} {{ {PRODUCT} {tail} }}".replace(
        "float y", "float y" if "Mean" in tail else "float[4,4] y")
    tasks = compared(text, a=rng.integers(0, 256, (4, 5), np.uint8), b=rng.integers(0, 256, (4, 4), np.uint8))
    found = [t.buffers[t.outputs[0]].dtype for t in tasks]
    assert found == stored if stored else found == ["float32", "float32"]      # a matrix product reads its input again and again
