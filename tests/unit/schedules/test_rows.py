"""Kernels of reductions, from ONNX nodes, against the interpreter of tasks (which the tests of lowerings hold against
onnxruntime); work is cut as threads would cut it, and knobs are drawn from the space besides the default ones."""

import random

import numpy as np
import pytest
from burnish.schedules.expr import cast, exp, indices, load, var
from burnish.schedules.task import Buffer, Stage, Store, Task
from burnish.schedules.templates.rows import Rows
from burnish.schedules.templates.rows_plan import plan
from lower.harness import assert_close, const

from .harness import AVX2, NEON, WASM, ZEN5, Built, interpreted, lowered, run

RNG = np.random.default_rng(3)
ROWS = Rows()


def agrees(task, arrays, devices=(ZEN5,), draws=1, tolerance=1e-5):
    want = interpreted(task, arrays)
    for device in devices:
        space = list(ROWS.space(task, device).candidates())
        for k in [None, *random.Random(len(space)).sample(space, min(draws, len(space)))]:
            assert_close(run(ROWS, task, arrays, device, k, cuts=(1, 2, 5)), want, tolerance)


def normal(*shape, dtype="f4"):
    return RNG.normal(size=shape).astype(dtype)


@pytest.mark.parametrize("shape", [(9, 197), (3, 7), (4, 5, 33), (5, 1)])
def test_rows_of_the_last_axis(shape):
    agrees(*lowered("Softmax", normal(*shape) * 5))
    agrees(*lowered("LayerNormalization", normal(*shape), normal(shape[-1]), normal(shape[-1])))


def test_other_devices():
    agrees(*lowered("Softmax", normal(6, 39)), devices=(WASM, AVX2))
    agrees(*lowered("NhwcMaxPool", normal(1, 9, 7, 21), shape=(1, 5, 4, 21), kernel_shape=[3, 3], strides=[2, 2], pads=[1] * 4),
           devices=(WASM, AVX2))
    agrees(*lowered("ReduceMean", normal(3, 9, 21), const([1])), devices=(WASM,))
    Built(ROWS, lowered("LayerNormalization", normal(4, 50), normal(50))[0], NEON)


def test_exponentials_are_computed_once():
    for axis in (0, 1):
        task, arrays = lowered("Softmax", normal(21, 45), axis=axis)
        assert plan(task).saved == 1
        agrees(task, arrays)
    assert plan(lowered("LayerNormalization", normal(4, 50), normal(50))[0]).saved == 0      # a difference is cheap


@pytest.mark.parametrize("axes", [[0], [1], [2], [0, 2], [1, 2], [0, 1], [0, 1, 2]])
def test_axes(axes):
    agrees(*lowered("ReduceMean", normal(4, 11, 37), const(axes)))
    if axes == [1]:
        agrees(*lowered("LogSoftmax", normal(4, 11, 3), axis=1))


@pytest.mark.parametrize("dtype", ["f8", "f2", "i4", "i8"])
def test_dtypes(dtype):
    x = (RNG.normal(size=(5, 3, 35)) * 4).astype(dtype)
    for op, axis in (("ReduceSum", 2), ("ReduceProd", 1), ("ReduceMax", 2), ("ReduceMin", 0)):
        agrees(*lowered(op, x, const([axis])), draws=0, tolerance=2e-3 if dtype == "f2" else 1e-5)


def test_narrow_types():
    agrees(*lowered("ReduceMax", RNG.integers(-128, 128, (6, 77), "i1"), const([1])))
    agrees(*lowered("ReduceMin", RNG.integers(0, 256, (6, 77)).astype("u1"), const([0])))
    agrees(*lowered("ReduceMax", RNG.integers(0, 2, (6, 3, 5)).astype(bool), const([1])))
    agrees(*lowered("Softmax", normal(3, 41, dtype="f8")))
    agrees(*lowered("Softmax", normal(3, 41, dtype="f2")), tolerance=2e-3)


def test_stages_of_booleans():
    x = load(0, (var("i0"), var("r0")), "bool")
    task = Task("rows", (Buffer((4, 19), "bool", "input"), Buffer((4,), "int32", "output")),
                (Store(1, (4,), indices(1), cast(var("s0", "bool"), "int32") - cast(var("s1", "bool"), "int32")),),
                {"space": (4,), "reduce": (19,), "lanes_on": "reduce"}, {}, (Stage("max", x), Stage("min", x)))
    agrees(task, {0: np.array([[0] * 19, [1] * 19, [0, 1] * 9 + [0], [0] * 18 + [1]], bool)}, draws=2)


@pytest.mark.parametrize("last", [0, 1])
@pytest.mark.parametrize("op", ["ArgMax", "ArgMin"])
def test_positions(op, last):
    x = RNG.integers(-3, 4, (5, 6, 53)).astype("f4")
    for axis in (0, 2):
        agrees(*lowered(op, x, axis=axis, select_last_index=last), draws=axis // 2)
    agrees(*lowered(op, np.full((3, 40), -np.inf, "f4"), axis=1, select_last_index=last), draws=0)
    agrees(*lowered(op, np.full((3, 40), np.iinfo("i4").min, "i4"), axis=1, select_last_index=last), draws=0)


@pytest.mark.parametrize("channels", [1, 20, 64])
def test_windows(channels):
    x = normal(2, 11, 13, channels)
    for op, kernel, out in (("NhwcMaxPool", [3, 3], (5, 13)), ("NhwcAveragePool", [2, 5], (6, 11))):
        agrees(*lowered(op, x, shape=(2, *out, channels), kernel_shape=kernel, strides=[2, 1], pads=[1, 1, 0, 1]))
    agrees(*lowered("NhwcMaxPool", x, shape=x.shape, kernel_shape=[9, 9], pads=[4] * 4), draws=0)


def test_windows_over_planes():
    agrees(*lowered("MaxPool", normal(1, 3, 9, 19), outputs=2, kernel_shape=[3, 2], strides=[1, 2], pads=[1, 0, 0, 1]))
    agrees(*lowered("LpPool", normal(1, 3, 40), kernel_shape=[3], p=2))


def test_normalisations():
    agrees(*lowered("GroupNormalization", normal(2, 12, 5, 7), normal(12), normal(12), shape=(2, 12, 5, 7), num_groups=4))
    agrees(*lowered("NhwcInstanceNormalization", normal(2, 5, 7, 12), normal(12), normal(12), shape=(2, 5, 7, 12)))
    agrees(*lowered("LRN", normal(1, 7, 3, 5), size=3))
    agrees(*lowered("Hardmax", RNG.integers(0, 3, (4, 21)).astype("f4")))
    agrees(*lowered("ReduceLogSumExp", normal(4, 21), const([1])))


def test_results_of_rows_are_stored_once():
    task, arrays = lowered("DynamicQuantizeLinear", normal(3, 70), outputs=3)
    assert [len(s.reductions) for s in plan(task).sweeps] == [2, 0] and len(plan(task).results) == 2
    agrees(task, arrays, draws=2)


def test_sums_of_products():
    a, b = RNG.integers(0, 256, (5, 19)).astype("u1"), RNG.integers(-128, 128, (19, 37)).astype("i1")
    agrees(*lowered("MatMulInteger", a, b, const(np.uint8(7)), const(np.int8(-2))), draws=2)
    agrees(*lowered("MatMul", normal(2, 5, 19, dtype="f8"), normal(2, 19, 37, dtype="f8")))
    agrees(*lowered("MatMul", normal(5, 19), normal(19)), draws=2)
    agrees(*lowered("ConvInteger", RNG.integers(0, 256, (1, 3, 9, 9)).astype("u1"),
                    RNG.integers(0, 256, (4, 3, 3, 3)).astype("u1"), const(np.uint8(3)), pads=[1] * 4))


@pytest.mark.parametrize(("space", "reduce"), [((), (21,)), ((3,), (0,)), ((0, 4), (5,)), ((6,), ()), ((2, 0), (3, 0))])
@pytest.mark.parametrize("lanes_on", ["space", "reduce"])
def test_empty_and_scalar(space, reduce, lanes_on):
    shape = (*space, *reduce)
    i, r = indices(len(space)), indices(len(reduce), "r")
    x, s = load(0, (*i, *r), "float32"), var("s0", "float32")
    element = indices(len(shape))
    buffers = Buffer(shape, "float32", "input"), Buffer(space, "float32", "output"), Buffer(shape, "float32", "output")
    task = Task("rows", buffers, (Store(1, space, i, s), Store(2, shape, element, exp(load(0, element, "float32")) + s * 2.0)),
                {"space": space, "reduce": reduce, "lanes_on": lanes_on}, {}, (Stage("sum", exp(x)),))
    agrees(task, {0: normal(*shape)})
