"""Integer matmuls and convolutions against onnxruntime and onnx's reference, to the last bit."""

import numpy as np
import pytest

from .forms import check_channels_last
from .harness import LOWERINGS, Context, Group, check, const

rng = np.random.default_rng(0)


def integers(dtype, *shape):
    info = np.iinfo(dtype)
    return rng.integers(info.min, info.max, shape, dtype, endpoint=True)


@pytest.mark.parametrize("a, b", [((3, 4), (4, 5)), ((2, 3, 4), (2, 4, 5)), ((2, 3, 4), (4, 1))], ids=str)
def test_matmul_integer(a, b):
    x, w = integers("u1", *a), integers("i1", *b)
    check("MatMulInteger", x, w)
    check("MatMulInteger", x, const(w), np.uint8(7), const(np.int8(-3)))
    check("MatMulInteger", x, w, np.uint8(7), integers("i1", b[-1]), by="onnx")


@pytest.mark.parametrize("dtype", ["u1", "i1"])
def test_qlinear_matmul(dtype):
    a, b = integers(dtype, 2, 6, 9), integers(dtype, 9, 5)
    zero = np.array(3, dtype)
    check("QLinearMatMul", a, np.float32(0.02), zero, const(b), np.float32(0.03), zero, np.float32(0.11), zero)
    by_column = rng.random(5).astype("f4") / 9, integers(dtype, 5)
    check("QLinearMatMul", a, np.float32(0.02), zero, b, *by_column, np.float32(0.11), zero, by="onnx")


CONVOLUTIONS = [((1, 3, 7, 6), (5, 3, 3, 3), {"pads": [1, 1, 1, 1]}),
                ((2, 4, 8, 9), (6, 2, 3, 2), {"group": 2, "strides": [2, 1]}),
                ((1, 4, 6, 6), (4, 1, 3, 3), {"group": 4, "pads": [1, 0, 1, 2]})]


@pytest.mark.parametrize("x, w, attributes", CONVOLUTIONS, ids=str)
def test_convolution_integer(x, w, attributes):
    inputs = [integers("u1", *x), integers("u1", *w), np.uint8(100)]
    check("ConvInteger", *inputs, **attributes)
    check_channels_last("ConvInteger", [*inputs, np.uint8(9)], attributes, const)


FAST = [*CONVOLUTIONS, ((2, 5, 4, 6), (7, 5, 1, 1), {}), ((1, 6, 9), (6, 1, 3), {"group": 6})]


@pytest.mark.parametrize("x, w, attributes", FAST, ids=str)
@pytest.mark.parametrize("zero", [0, 131])
def test_convolution_of_known_weights_takes_a_fast_family(x, w, attributes, zero):
    inputs = [integers("u1", *x), integers("i1", *w), np.uint8(zero)]
    node, given = check_channels_last("ConvInteger", inputs, attributes, const)
    group = Group(node, [given.get(v.name, None if v.const_value is None else v.const_value.numpy()) for v in node.inputs])
    found = LOWERINGS[node.domain, node.op_type].function(Context(node, [group.tensor(n) for n in range(3)], group))
    one_by_one = np.prod(w[2:]) == 1
    assert found.family == ("gemm" if one_by_one else "depthwise" if w[1] == 1 else "conv")
    assert found.params["zero"] == zero and found.params["top"] == 255


@pytest.mark.parametrize("zero", [const(np.uint8(9)), np.uint8(9)], ids=["known", "computed"])
def test_product_with_known_weights(zero):
    a, b = integers("u1", 2, 3, 8), integers("i1", 8, 5)
    check("MatMulInteger", a, const(b), zero)
    check("MatMulInteger", a[0], const(b), zero, const(np.int8(0)))


@pytest.mark.parametrize("x, w, attributes", CONVOLUTIONS, ids=str)
@pytest.mark.parametrize("per_channel", [False, True])
def test_qlinear_convolution(x, w, attributes, per_channel):
    oc = w[0]
    scale, zero = (rng.random(oc).astype("f4") / 50 + 0.01, np.zeros(oc, "i1")) if per_channel else (np.float32(0.02), np.int8(0))
    inputs = [integers("u1", *x), np.float32(0.03), np.uint8(120), integers("i1", *w), scale, zero,
              np.float32(0.2), np.uint8(128), rng.integers(-1000, 1000, oc).astype("i4")]
    check("QLinearConv", inputs[0], *map(const, inputs[1:]), **attributes)
    check_channels_last("QLinearConv", inputs, attributes, const)


@pytest.mark.parametrize("x", [rng.standard_normal((3, 4, 5)), np.zeros((2, 3)), np.full((4,), 2.5), -np.ones(3)],
                         ids=["normal", "zeros", "positive", "negative"])
def test_dynamic_quantize(x):
    check("DynamicQuantizeLinear", x.astype("f4"), outputs=3)
