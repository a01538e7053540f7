"""Pools against onnxruntime and onnx's reference, in ONNX's layout and channels last."""

import numpy as np
import pytest

from .forms import check_channels_last, check_older, check_onnx
from .harness import check, const

rng = np.random.default_rng(0)

CASES = {   # x shape, attributes
    "2x2": ((2, 3, 6, 8), {"kernel_shape": [2, 2], "strides": [2, 2]}),
    "3x3 with pads": ((1, 3, 7, 6), {"kernel_shape": [3, 3], "strides": [2, 2], "pads": [1, 1, 1, 1]}),
    "uneven": ((2, 2, 9, 8), {"kernel_shape": [3, 2], "strides": [1, 3], "pads": [2, 0, 1, 1]}),
    "ceil": ((1, 2, 6, 7), {"kernel_shape": [3, 3], "strides": [2, 2], "ceil_mode": 1}),
    "ceil with pads": ((1, 2, 8, 7), {"kernel_shape": [3, 3], "strides": [3, 2], "pads": [1, 1, 1, 1], "ceil_mode": 1}),
    "dilated": ((1, 2, 9, 9), {"kernel_shape": [3, 2], "dilations": [2, 3], "pads": [2, 1, 2, 1]}),
    "same upper": ((1, 2, 7, 6), {"kernel_shape": [3, 2], "strides": [2, 1], "auto_pad": "SAME_UPPER"}),
    "same lower": ((1, 2, 7, 6), {"kernel_shape": [3, 2], "strides": [2, 1], "auto_pad": "SAME_LOWER"}),
    "1-D": ((2, 3, 11), {"kernel_shape": [4], "strides": [3], "pads": [1, 2]}),
    "3-D": ((1, 2, 5, 4, 6), {"kernel_shape": [2, 3, 2], "pads": [1, 1, 0, 0, 1, 1]}),
}


def normal(*shape):
    return rng.standard_normal(shape).astype("f4")


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("op, more", [("MaxPool", {}), ("AveragePool", {}), ("AveragePool", {"count_include_pad": 1}),
                                      ("LpPool", {"p": 3}), ("LpPool", {"p": 1})])
def test_windows(op, more, case):
    shape, attributes = CASES[case]
    if op == "LpPool" and "dilations" in attributes and more["p"] == 1:
        pytest.skip("one dilated norm is enough")
    check(op, normal(*shape), **attributes, **more)
    check_channels_last(op, [normal(*shape)], {**attributes, **more})


@pytest.mark.parametrize("case", [c for c in CASES if c != "3-D"])
@pytest.mark.parametrize("order", [0, 1])
def test_positions_of_maxima(case, order):
    shape, attributes = CASES[case]
    check("MaxPool", rng.integers(-2, 2, shape).astype("f4"), outputs=2, storage_order=order, **attributes)


@pytest.mark.parametrize("dtype", ["i1", "u1"])
def test_small_integers(dtype):
    x = rng.integers(0, 3, (1, 2, 5, 5)).astype(dtype)
    for outputs in (1, 2):
        check("MaxPool", x, outputs=outputs, kernel_shape=[3, 3], pads=[1, 1, 1, 1], strides=[2, 2])


@pytest.mark.parametrize("op, more", [("GlobalAveragePool", {}), ("GlobalMaxPool", {}), ("GlobalLpPool", {"p": 3})])
def test_global(op, more):
    check_older(op, 12, normal(2, 3, 4, 5), **more)


def test_unpool():
    x, attributes = normal(2, 3, 6, 8), {"kernel_shape": [2, 2], "strides": [2, 2]}
    y, positions = check("MaxPool", x, outputs=2, **attributes)
    check_older("MaxUnpool", 12, y, positions, **attributes)
    check_onnx("MaxUnpool", y[:1, :1], positions[:1, :1], const([1, 1, 7, 9]), **attributes)     # onnxruntime differs


@pytest.mark.parametrize("mode", ["avg", "max"])
@pytest.mark.parametrize("coordinates", ["half_pixel", "output_half_pixel"])
def test_roi_align(mode, coordinates):
    rois = np.array([[0, 0, 9, 9], [3, 2.5, 11, 8], [-4, -3, 4, 30], [5, 5, 5.2, 5.1]], "f4")
    check_older("RoiAlign", 16, normal(2, 3, 8, 9), rois, np.array([0, 1, 1, 0]), mode=mode,
                coordinate_transformation_mode=coordinates, output_height=3, output_width=2, sampling_ratio=2, spatial_scale=0.8)


def test_max_roi_pool():
    rois = np.array([[0, 0, 0, 7, 7], [1, 2, 3, 6, 6], [0, 6, 6, 6, 6], [1, 0, 4, 30, 9]], "f4")
    check_older("MaxRoiPool", 12, normal(2, 3, 8, 9), rois, pooled_shape=[2, 3], spatial_scale=0.9)
