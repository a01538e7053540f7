"""Convolutions against onnxruntime, in ONNX's layout and channels last, through every family that they lower to."""

import numpy as np
import pytest
from burnish.compiler.lower.registry import LOWERINGS, Context

from .forms import check_channels_last, check_older
from .harness import Group, check, const

rng = np.random.default_rng(0)

CASES = {   # x shape, w shape, attributes
    "1x1": ((2, 5, 3, 4), (7, 5, 1, 1), {}),
    "3x3": ((1, 3, 7, 6), (5, 3, 3, 3), {"pads": [1, 1, 1, 1]}),
    "all uneven": ((2, 4, 11, 9), (6, 4, 3, 2), {"strides": [2, 3], "dilations": [2, 1], "pads": [0, 1, 3, 2]}),
    "groups": ((1, 6, 5, 5), (9, 2, 3, 3), {"group": 3, "pads": [1, 1, 1, 1]}),
    "depthwise": ((2, 5, 8, 7), (5, 1, 5, 3), {"group": 5, "strides": [2, 1], "pads": [2, 1, 2, 1]}),
    "depthwise, two outputs per channel": ((1, 4, 5, 5), (8, 1, 3, 3), {"group": 4}),
    "strided 1x1": ((1, 5, 7, 7), (3, 5, 1, 1), {"strides": [2, 2]}),
    "1-D": ((2, 3, 13), (4, 3, 5), {"pads": [2, 2], "dilations": [2]}),
    "1-D depthwise": ((1, 3, 13), (3, 1, 3), {"pads": [1, 1], "group": 3}),
    "3-D": ((1, 2, 4, 5, 3), (3, 2, 2, 3, 2), {"pads": [1, 0, 1, 0, 1, 0], "strides": [1, 2, 1]}),
    "auto_pad upper": ((1, 2, 6, 7), (3, 2, 4, 3), {"auto_pad": "SAME_UPPER", "strides": [2, 2]}),
    "auto_pad lower": ((1, 2, 6, 7), (3, 2, 4, 3), {"auto_pad": "SAME_LOWER", "strides": [2, 2]}),
    "auto_pad valid": ((1, 2, 6, 7), (3, 2, 4, 3), {"auto_pad": "VALID"}),
}
TRANSPOSED = {
    "2x2": ((2, 3, 4, 5), (3, 4, 2, 2), {"strides": [2, 2]}),
    "overlap and pads": ((1, 3, 4, 5), (3, 2, 4, 3), {"strides": [2, 3], "pads": [1, 1, 1, 0], "output_padding": [1, 2]}),
    "groups": ((1, 4, 5, 5), (4, 3, 3, 3), {"group": 2, "pads": [1, 1, 1, 1]}),
    "dilation": ((1, 2, 3, 3), (2, 2, 2, 2), {"dilations": [2, 2]}),
    "output shape": ((1, 2, 3, 3), (2, 2, 3, 3), {"strides": [3, 2], "output_shape": [10, 8]}),
    "1-D": ((1, 2, 6), (2, 3, 3), {"strides": [2]}),
    "3-D": ((1, 2, 3, 2, 2), (2, 3, 2, 2, 3), {"strides": [2, 1, 2]}),
    "auto_pad": ((1, 2, 3, 3), (2, 2, 3, 3), {"strides": [2, 2], "auto_pad": "SAME_UPPER"}),
}


def normal(*shape):
    return rng.standard_normal(shape).astype("f4")


@pytest.mark.parametrize("case", CASES)
def test_convolution(case):
    x, w, attributes = CASES[case]
    check("Conv", normal(*x), normal(*w), normal(w[0]), **attributes)
    check("Conv", normal(*x), const(normal(*w)), **attributes)


@pytest.mark.parametrize("weights", [const, lambda w: w], ids=["constant", "computed"])
@pytest.mark.parametrize("case", CASES)
def test_channels_last(case, weights):
    x, w, attributes = CASES[case]
    node, feeds = check_channels_last("Conv", [normal(*x), normal(*w), normal(w[0])], attributes, weights)
    inputs = [np.asarray(feeds.get(v.name, v.const_value)) for v in node.inputs]
    group = Group(node, inputs)
    family = LOWERINGS["burnish", "NhwcConv"].function(Context(node, [group.tensor(n) for n in range(3)], group)).family
    expected = "gemm" if case == "1x1" else "rows" if case == "3-D" else "depthwise" if case.endswith("depthwise") else "conv"
    assert family == (expected if weights is const else "rows")


@pytest.mark.parametrize("case", TRANSPOSED)
def test_transposed(case):
    x, w, attributes = TRANSPOSED[case]
    bias = normal(w[1] * attributes.get("group", 1))
    check("ConvTranspose", normal(*x), normal(*w), bias, **attributes)
    check_channels_last("ConvTranspose", [normal(*x), normal(*w), bias], attributes, const)


@pytest.mark.parametrize("dtype", ["f2", "f8"])
def test_other_floats(dtype):
    check("Conv", normal(1, 3, 5, 5).astype(dtype), const(normal(4, 3, 3, 3).astype(dtype)), const(normal(4).astype(dtype)),
          by="onnx", tolerance=1e-2 if dtype == "f2" else 1e-12)


@pytest.mark.parametrize("group, offset_group", [(1, 1), (2, 2)])
def test_deformable(group, offset_group):
    x, w = normal(1, 4, 6, 5), normal(6, 4 // group, 3, 2)
    attributes = {"group": group, "offset_group": offset_group, "strides": [2, 1], "pads": [1, 0, 1, 1], "dilations": [1, 2]}
    offset, mask = 2 * normal(1, offset_group * 12, 3, 4), rng.random((1, offset_group * 6, 3, 4)).astype("f4")
    check_older("DeformConv", 19, x, w, offset, normal(6), mask, **attributes)
