"""How far onnxruntime's own answers are apart, by which artifacts are judged."""

import numpy as np
import onnx_ir as ir
import pytest
from burnish.compiler.sample import STEP, nudged, oracle, reference
from burnish.compiler.verify import NOISE, difference
from onnx import parser


def model(text):
    return ir.from_proto(parser.parse_model(f'<ir_version: 10, opset_import: ["": 21, "com.microsoft": 1]>\n{text}'))


HEAD = "float s = {0.5}, uint8 z = {100}, float t = {0.25}"
X = {"x": np.random.default_rng(0).standard_normal((4, 8)).astype("f4")}


def test_floats_have_the_noise_of_rounding_and_integers_none():
    found = oracle(model("""g (float[4,8] x) => (float[4,8] y, int64[4] i) { y = Sigmoid(x)
        i = ArgMax<axis = 1, keepdims = 0>(x) }"""), X)
    assert found.noise[0] < 1e-6 and found.noise[1] == 0


@pytest.mark.parametrize("text", [
    f"""g (float[4,8] x) => (float[4,8] y, uint8[4,8] q) < {HEAD} > {{ q = QuantizeLinear(x, s, z)
        y = DequantizeLinear(q, s, z) }}""",
    f"""g (float[4,8] x) => (float[4,8] y, uint8[4,8] q) < {HEAD} > {{ p = QuantizeLinear(x, s, z)
        q = com.microsoft.QLinearSigmoid(p, s, z, t, z) y = DequantizeLinear(q, t, z) }}"""])
def test_bytes_of_a_model_that_quantises_may_be_a_step_off(text):
    found = oracle(model(text), X)
    assert all(noise >= STEP for noise in found.noise)
    byte = found.outputs[1].copy()
    byte[0, 0] += 1
    assert difference("q", byte, found.outputs[1], found.noise[1]).ok
    byte[0, 0] += round(NOISE * found.noise[1] * byte.max()) + 1
    assert not difference("q", byte, found.outputs[1], found.noise[1]).ok


def test_a_nudge_moves_what_lies_in_the_middle():
    text = f"g (float[4] x) => (uint8[4] q) < {HEAD} > {{ q = QuantizeLinear(x, t, z) }}"
    given = {"x": np.array([0.125, 0.3, -0.875, 8], "f4")}      # 0.5, 1.2, -3.5 and 32 steps
    plain, more = (reference(m, given)[0].tolist() for m in (model(text), nudged(model(text), 1 + 2.0**-22)))
    assert plain == [100, 101, 96, 132] and more == [101, 101, 96, 132]
