"""Resize against onnx's reference: every coordinate mode, kernel and policy, enlarging and shrinking."""

import itertools

import numpy as np
import pytest

from .harness import check, const

RNG = np.random.default_rng(3)
X = RNG.normal(size=(1, 2, 5, 4)).astype("f4")
COORDINATES = ["half_pixel", "half_pixel_symmetric", "pytorch_half_pixel", "align_corners", "asymmetric"]


def resize(x, scales=None, sizes=None, roi=None, by="onnx", **attributes):
    given = [None if a is None else const(np.asarray(a, t)) for a, t in ((roi, "f4"), (scales, "f4"), (sizes, "i8"))]
    return check("Resize", x, *given, by=by, **attributes)


@pytest.mark.parametrize(("mode", "coordinates"), list(itertools.product(["nearest", "linear", "cubic"], COORDINATES)))
def test_coordinates(mode, coordinates):
    for scales in ((1, 1, 2, 2), (1, 1, 0.6, 1.75), (1, 1, 1, 0.3)):
        resize(X, scales, mode=mode, coordinate_transformation_mode=coordinates)
    # to one element, onnx's reference starts at -0.5 where the specification (and onnxruntime) says 0
    by = "ort" if coordinates == "pytorch_half_pixel" else "onnx"
    resize(X, sizes=[1, 2, 7, 1], by=by, mode=mode, coordinate_transformation_mode=coordinates)


@pytest.mark.parametrize("mode", ["round_prefer_floor", "round_prefer_ceil", "floor", "ceil"])
def test_nearest(mode):
    for coordinates, scale in itertools.product(COORDINATES, (2, 3, 0.5, 1.5)):
        resize(X, (1, 1, scale, 1), nearest_mode=mode, coordinate_transformation_mode=coordinates)


@pytest.mark.parametrize("mode", ["linear", "cubic"])
def test_antialias_and_outside(mode):
    resize(X, (1, 1, 0.6, 0.5), mode=mode, antialias=1)
    resize(X, (1, 1, 0.6, 2), mode=mode, antialias=1)
    resize(X, (1, 1, 0.8, 1.7), mode=mode, exclude_outside=1)
    resize(X, (1, 1, 0.8, 1.7), mode=mode, exclude_outside=1, cubic_coeff_a=-0.5)


def test_axes_and_policies():
    resize(X, sizes=[9, 9], axes=[2, 3], keep_aspect_ratio_policy="not_larger", mode="linear")
    resize(X, sizes=[9, 9], axes=[3, 2], keep_aspect_ratio_policy="not_smaller")
    resize(X, (2.5,), axes=[2], mode="cubic")
    resize(X[0, 0, 0], (2.5,), mode="linear")
    resize(RNG.normal(size=(2, 3, 4)).astype("f4"), (2, 1.5, 0.7), mode="linear")


@pytest.mark.parametrize("mode", ["nearest", "linear", "cubic"])
def test_crop(mode):
    roi = [0, 0, 0.4, 0.6, 1, 1, 0.9, 1.4]
    for outside in (0.0, 10.0):
        resize(X, sizes=[1, 2, 3, 6], roi=roi, mode=mode, coordinate_transformation_mode="tf_crop_and_resize",
               extrapolation_value=outside)


def test_integers():
    x = RNG.integers(0, 200, (1, 1, 4, 4)).astype("u1")
    resize(x, (1, 1, 2, 3))
    check("Resize", x, None, const(np.array([1, 1, 2, 2], "f4")))
