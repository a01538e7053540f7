"""Normalisations against onnxruntime and onnx's reference: any axis, both layouts, large means, infinities."""

import numpy as np
import pytest

from .forms import check_channels_last, check_older, check_onnx
from .harness import assert_close, check, const, node_model, run

rng = np.random.default_rng(0)


def normal(*shape):
    return rng.standard_normal(shape).astype("f4")


@pytest.mark.parametrize("op", ["Softmax", "LogSoftmax"])
@pytest.mark.parametrize("axis", [0, 1, -1])
def test_softmax(op, axis):
    check(op, 30 * normal(3, 5, 7), axis=axis)


def test_softmax_of_masked_rows():
    x = normal(3, 4)
    x[0, 1:] = -np.inf
    x[1] = -np.inf
    check("Softmax", x)


@pytest.mark.parametrize("p", [1, 2])
def test_lp_normalization(p):
    x = normal(3, 5, 4)
    x[1, :, 2] = 0
    want = x / np.where((n := np.linalg.norm(x, p, axis=1, keepdims=True)) == 0, 1, n)
    check("LpNormalization", x, axis=1, p=p, expected=[want])


@pytest.mark.parametrize("axis", [1, 2, -1])
def test_layer_normalization(axis):
    x, shape = normal(2, 3, 4, 5) + 100, (2, 3, 4, 5)[axis:]
    check("LayerNormalization", x, normal(*shape), normal(*shape), axis=axis, epsilon=1e-3, tolerance=1e-4)
    check("LayerNormalization", x, const(normal(*shape)), axis=axis, outputs=3, by="onnx", tolerance=1e-4)
    check("RMSNormalization", x, normal(*shape), axis=axis, by="onnx")


def test_a_large_mean_costs_no_precision():
    x = normal(1, 512) + 1e4
    exact = (x.astype("f8") - x.astype("f8").mean()) / x.astype("f8").std()
    (got,) = run(*node_model("LayerNormalization", [x, np.ones(512, "f4")], {"epsilon": 0.0}))
    assert_close([got], [exact.astype("f4")], 2e-4)


@pytest.mark.parametrize("shape", [(2, 6, 5), (2, 6, 3, 4), (1, 6, 2, 3, 2)])
def test_maps(shape):
    scale, bias = normal(6), normal(6)
    inputs = [normal(*shape) + 3, scale, bias]
    check_older("InstanceNormalization", 6, *inputs)
    check_onnx("GroupNormalization", *inputs, num_groups=3, tolerance=1e-4)
    check_channels_last("GroupNormalization", inputs, {"num_groups": 2}, const)
    check_channels_last("InstanceNormalization", inputs, {}, const)


@pytest.mark.parametrize("size", [1, 5])
def test_local_response(size):
    check("LRN", normal(2, 6, 3, 4), size=size, alpha=0.2, bias=0.7)
    check_channels_last("LRN", [normal(2, 6, 3, 4)], {"size": size})


def test_batch_normalization():
    inputs = [normal(2, 3, 4, 5), *normal(3, 3), rng.random(3).astype("f4")]
    check("BatchNormalization", *inputs, epsilon=1e-2)
    check_channels_last("BatchNormalization", inputs, {})


@pytest.mark.parametrize("axes", [None, [0, 2], [-1]])
def test_mean_variance(axes):
    check_onnx("MeanVarianceNormalization", normal(2, 3, 4, 5), **({"axes": axes} if axes else {}))


@pytest.mark.parametrize("op", ["Softmax", "LogSoftmax"])
def test_half_precision(op):
    check(op, normal(3, 600).astype("f2"), tolerance=2e-3)
