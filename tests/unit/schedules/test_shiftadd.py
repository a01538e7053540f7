"""ShiftAddViT's products with binary operands, from ONNX to kernels, against onnxruntime."""

import numpy as np
import onnx_ir as ir
import pytest
from burnish.compiler.sample import reference
from burnish.passes.base import DOMAIN
from burnish.passes.functions import add_function
from onnx import TensorProto, helper

from .harness import WASM, ZEN5
from .test_coded_model import outputs

RNG = np.random.default_rng(19)


def model(op, inputs, out, **attributes):
    """inputs: name -> (dtype, shape)."""
    node = helper.make_node(op, list(inputs), ["y"], name=op, domain=DOMAIN, **attributes)
    graph = helper.make_graph([node], "g", [helper.make_tensor_value_info(n, *given) for n, given in inputs.items()],
                              [helper.make_tensor_value_info("y", TensorProto.FLOAT, out)])
    made = ir.from_proto(helper.make_model(graph, ir_version=10, opset_imports=[helper.make_opsetid("", 21),
                                                                               helper.make_opsetid(DOMAIN, 1)]))
    add_function(made, op)
    return ir.from_proto(ir.to_proto(made))


def check(made, feed, device=ZEN5):
    (want,) = reference(made, feed)
    (got,), _, tasks = outputs(made, feed, device)
    np.testing.assert_allclose(got, want, rtol=0, atol=2e-5 * np.abs(want).max())
    return want, tasks


@pytest.mark.parametrize("device", [ZEN5, WASM], ids=lambda d: d.name)
@pytest.mark.parametrize("mask, values", [((7, 33), (33, 20)), ((2, 3, 19, 9), (2, 3, 9, 17)), ((4, 5, 6), (6, 50)),
                                          ((1, 1), (1, 2))])
def test_sums_under_a_mask(mask, values, device):
    m, v = RNG.integers(0, 2, mask).astype(bool), RNG.standard_normal(values).astype("f4")
    made = model("MatAdd", {"m": (TensorProto.BOOL, mask), "v": (TensorProto.FLOAT, values)}, [*mask[:-1], values[-1]])
    want, tasks = check(made, {"m": m, "v": v}, device)
    np.testing.assert_allclose(want, m.astype("f4") @ v, atol=1e-5)
    assert [t.family for t in tasks if t.family != "generic"] == ["gemm"]


def test_linear_attention():
    heads, tokens, d = 3, 20, 16
    shapes = dict.fromkeys("qkv", (2, heads, tokens, d)) | {"w": (heads, 1, 5, 1)}
    feed = {name: RNG.standard_normal(s).astype("f4") for name, s in shapes.items()}
    made = model("ShiftLinearAttention", {n: (TensorProto.FLOAT, s) for n, s in shapes.items()}, shapes["v"], heads=heads,
                 pads=[2, 0, 2, 0])
    want, _ = check(made, feed)

    def binary(x):
        x = x / np.linalg.norm(x, axis=-1, keepdims=True)
        return (x > x.mean(axis=(-2, -1), keepdims=True)).astype("f8")

    q, k, v = binary(feed["q"]), binary(feed["k"]), feed["v"].astype("f8")
    out = v / 2 + q @ (np.swapaxes(k, -1, -2) @ v) / np.pi
    out /= np.linalg.norm(out, axis=-1, keepdims=True)
    padded = np.pad(v, [(0, 0), (0, 0), (2, 2), (0, 0)])
    out += sum(padded[:, :, t:t + tokens] * feed["w"][None, :, 0, t, 0, None, None] for t in range(5))
    np.testing.assert_allclose(want, out, atol=1e-4)
