"""Kernels of scans, sorting and scattering, from ONNX nodes, against onnxruntime; work is cut as threads would cut it."""

import itertools

import numpy as np
import pytest
from burnish.schedules.templates import choose
from lower.harness import assert_close, const, node_model, reference

from .harness import NEON, ZEN5, Built, lowered, run

RNG = np.random.default_rng(5)


def check(op, *inputs, outputs=1, device=ZEN5, **attributes):
    task, arrays = lowered(op, *inputs, outputs=outputs, **attributes)
    template = choose(task, device)
    if device is not ZEN5:
        Built(template, task, device)
        return
    want = reference(*node_model(op, inputs, attributes, outputs), "ort")
    for k in template.space(task, device).candidates():
        assert_close(run(template, task, arrays, device, k, cuts=(1, 3)), want)


@pytest.mark.parametrize(("shape", "axis"), [((3, 4, 37), 0), ((3, 37, 5), 1), ((2, 3, 37), 2), ((7,), 0), ((2, 64), 0)])
def test_scan(shape, axis):
    x = RNG.normal(size=shape).astype("f4")
    check("CumSum", x, const(np.int64(axis)), exclusive=axis % 2, reverse=len(shape) % 2)


def test_scan_of_integers():
    check("CumSum", RNG.integers(-9, 9, (5, 19)), const(np.int64(0)), exclusive=1, reverse=1)
    check("CumSum", RNG.integers(-9, 9, (5, 3)).astype("i4"), const(np.int64(1)))


@pytest.mark.parametrize(("shape", "axis", "k"), [
    ((3, 33), 1, 4), ((100, 3), 0, 100), ((2, 1, 3), 1, 1), ((2, 5, 3), 1, 5), ((1000,), 0, 20)])
def test_sort(shape, axis, k):
    for dtype, largest in itertools.product(("f4", "i8"), (0, 1)):
        check("TopK", RNG.integers(-20, 20, shape).astype(dtype), const([k]), outputs=2, axis=axis, largest=largest)


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_scatter_elements(axis):
    data = RNG.normal(size=(4, 5, 37)).astype("f4")
    indices = RNG.integers(-4, 4, (3, 5, 21) if axis else (3, 5, 36))
    check("ScatterElements", data, indices, RNG.normal(size=indices.shape).astype("f4"), axis=axis, reduction="add")
    unique = np.stack([RNG.permutation(data.shape[axis])[:2] for _ in range(12)]).reshape(3, 4, 2)
    unique = np.moveaxis(unique, 2, axis)
    check("ScatterElements", data, unique, RNG.normal(size=unique.shape).astype("f4"), axis=axis)


@pytest.mark.parametrize("depth", [1, 2, 3])
def test_scatter_nd(depth):
    data = RNG.normal(size=(4, 5, 19)).astype("f4")
    indices = RNG.integers(-4, 4, (2, 6, depth))
    updates = RNG.normal(size=(2, 6, *data.shape[depth:])).astype("f4")
    for reduction in ("add", "max"):
        check("ScatterND", data, indices, updates, reduction=reduction)


@pytest.mark.parametrize(("op", "direction", "hidden", "more"), [
    ("LSTM", "bidirectional", 19, {}), ("GRU", "reverse", 32, {}), ("GRU", "bidirectional", 5, {"linear_before_reset": 1}),
    ("RNN", "forward", 16, {})])
@pytest.mark.parametrize("wrap", [const, np.asarray])
def test_recurrent(op, direction, hidden, more, wrap):
    gates, d = {"LSTM": 4, "GRU": 3, "RNN": 1}[op], 2 if direction == "bidirectional" else 1
    outputs = 3 if op == "LSTM" else 2

    def f(*shape):
        return (RNG.normal(size=shape) * 0.4).astype("f4")
    given = [f(6, 2, 7), wrap(f(d, gates * hidden, 7)), wrap(f(d, gates * hidden, hidden)), wrap(f(d, 2 * gates * hidden)),
             np.array([6, 3], "i4"), f(d, 2, hidden)] + ([f(d, 2, hidden), f(d, 3 * hidden)] if op == "LSTM" else [])
    check(op, *given, outputs=outputs, hidden_size=hidden, direction=direction, **more)


def test_other_machines():
    x = RNG.normal(size=(3, 37)).astype("f4")
    check("CumSum", x, const(np.int64(0)), device=NEON)
    check("TopK", x, const([3]), outputs=2, device=NEON)
    check("ScatterND", x, np.array([[1], [2]]), x[:2], device=NEON)
