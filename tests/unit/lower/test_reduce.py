"""Reductions against onnxruntime and onnx's reference: any axes, dtypes, empty inputs, infinities."""

import numpy as np
import pytest
from burnish.compiler.lower.reduce import REDUCTIONS

from .harness import check, const

rng = np.random.default_rng(0)
x = rng.uniform(0.5, 2, (3, 1, 4, 5)).astype("f4")


@pytest.mark.parametrize("op", [*REDUCTIONS, "ReduceLogSumExp"])
@pytest.mark.parametrize("axes", [[-1], [0, 2], [2, 3], [0, 1, 2, 3]])
def test_axes(op, axes):
    check(op, x, const(axes), keepdims=len(axes) % 2)


@pytest.mark.parametrize("op", [*REDUCTIONS, "ReduceLogSumExp"])
def test_without_axes(op):
    check(op, x)
    check(op, x, noop_with_empty_axes=1, by="onnx")


@pytest.mark.parametrize("op", ["ReduceSum", "ReduceProd", "ReduceMax", "ReduceMin", "ReduceL1", "ReduceL2", "ReduceLogSum",
                                "ReduceSumSquare", "ReduceLogSumExp"])
def test_nothing_to_reduce(op):
    check(op, np.zeros((2, 0, 4), "f4"), const([1]), by="onnx")


@pytest.mark.parametrize("op, dtype", [("ReduceSum", "i8"), ("ReduceMean", "i4"), ("ReduceMax", "i1"), ("ReduceMin", "u1"),
                                       ("ReduceProd", "i8"), ("ReduceSumSquare", "i8"), ("ReduceL1", "u4")])
def test_integers(op, dtype):
    a = rng.integers(1, 9, (3, 4)).astype(dtype)
    check(op, a, const([0]), by="onnx")


def test_half_precision_sums_in_single():
    check("ReduceSum", np.full((1, 5000), 1, "f2"), const([1]))


def test_booleans():
    check("ReduceMax", np.array([[True, False], [False, False]]), const([1]), by="onnx", keepdims=0)


def test_log_sum_exp_does_not_overflow():
    a = np.array([[1000, 999.5], [-np.inf, -np.inf], [np.inf, 1], [-2000, -2001]], "f4")
    check("ReduceLogSumExp", a, const([1]), expected=[np.array([[1000.474077], [-np.inf], [np.inf], [-1999.6867383]], "f4")])


@pytest.mark.parametrize("op", ["ArgMax", "ArgMin"])
@pytest.mark.parametrize("last", [0, 1])
def test_position_of_ties(op, last):
    a = rng.integers(0, 3, (4, 7, 5)).astype("f4")
    for axis in (0, 1, -1):
        check(op, a, axis=axis, select_last_index=last, keepdims=last)


def test_hardmax():
    a = rng.integers(0, 3, (4, 7, 5)).astype("f4")
    for axis in (0, 1, -1):
        check("Hardmax", a, axis=axis)
