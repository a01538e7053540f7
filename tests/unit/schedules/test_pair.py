"""Pairs of matrix products against numpy (float64), at random, edge and odd sizes, on AVX-512, AVX2 and wasm."""

from dataclasses import replace

import numpy as np
import onnx_ir as ir
import pytest
from burnish.compiler.driver import lower_model
from burnish.compiler.sample import reference
from burnish.schedules import expr as x
from burnish.schedules.task import Buffer, Store, Task
from burnish.schedules.templates import choose
from burnish.schedules.templates.pair import Pair
from onnx import parser

from .harness import AVX2, NEON, WASM, ZEN5, Built, run

I0, I1, I2, R0 = x.var("i0"), x.var("i1"), x.var("i2"), x.var("r0")
RNG = np.random.default_rng(11)


def randn(*shape):
    return RNG.standard_normal(shape).astype("f4")


def pair(b, m, k, r, n, between=True, transposed=False):
    """(task, arrays, reference) of Y = relu((X A + c) B + d); X as it is, or no plain matrix (doubled while it is read)."""
    shapes = [(b, m, k), (k, r), (r, n), (n,)] + ([(r,)] if between else [])
    arrays = {i: randn(*s) / np.float32(s[0]**0.5 if len(s) == 2 else 1) for i, s in enumerate(shapes)}
    buffers = [Buffer(s, "float32", "input" if i == 0 else "constant") for i, s in enumerate(shapes)]
    out = len(buffers)
    buffers.append(Buffer((b, m, n), "float32", "output"))
    read = x.load(0, (I0, I1, R0), "float32")
    value = x.maximum(x.var("acc", "float32") + x.load(3, (I2,), "float32"), 0)
    params = {"batch": b, "m": m, "n": n, "k": k, "r": r, "a": 1, "w": 2, "c": 4 if between else None}
    task = Task("pair", tuple(buffers), (Store(out, (b, m, n), (I0, I1, I2), value),), params,
                {"x": read * 2.0 if transposed else read})
    middle = arrays[0].astype("f8") * (2 if transposed else 1) @ arrays[1] + (arrays[4] if between else 0)
    return task, arrays, np.maximum(middle @ arrays[2] + arrays[3], 0)


def close(got, want):
    np.testing.assert_allclose(got, want, rtol=0, atol=2e-5 * max(1, np.abs(want).max()))


@pytest.mark.parametrize("b, m, k, r, n", [(1, 1, 1, 1, 1), (1, 1, 300, 16, 1000), (1, 197, 40, 48, 166), (3, 5, 17, 13, 33),
                                           (2, 49, 96, 112, 48), (1, 130, 7, 5, 9)])
@pytest.mark.parametrize("plain", [True, False])
def test_sizes(b, m, k, r, n, plain):
    task, arrays, want = pair(b, m, k, r, n, between=plain, transposed=not plain)
    assert choose(task, ZEN5).name == "f32-pair-fused"
    (got,) = run(Pair(), task, arrays, cuts=(1, 3))
    close(got, want)


@pytest.mark.parametrize("device", [AVX2, WASM], ids=lambda d: d.name)
def test_devices(device):
    task, arrays, want = pair(2, 23, 19, 21, 37)
    close(run(Pair(), task, arrays, device, cuts=(2,))[0], want)


def test_every_default_is_small_and_legal_on_neon():
    task, _, _ = pair(1, 49, 37, 16, 53)
    assert Built(Pair(), task, NEON).path.stat().st_size < 20_000


def test_random_candidates():
    task, arrays, want = pair(2, 37, 21, 70, 83)
    device = replace(ZEN5, l2_kib=16, l1_kib=4)      # several blocks of rows
    candidates = list(Pair().space(task, device).candidates())
    assert 20 < len(candidates) < 3000 and len({k.blocks for k in candidates}) > 2 and len({k.first for k in candidates}) > 1
    for n in RNG.choice(len(candidates), 5, replace=False):
        close(run(Pair(), task, arrays, device, candidates[n], cuts=(3, 4))[0], want)


def test_a_model_with_a_pair_is_one_kernel_that_equals_onnxruntime():
    a, b, c, d = randn(30, 16), randn(16, 41), randn(16), randn(41)
    text = """<ir_version: 10, opset_import: ["": 20]> g (float[2,7,30] x) => (float[2,7,41] y) {
        t = MatMul(x, a) s = Add(t, c) u = MatMul(s, b) v = Add(u, d) y = Relu(v) }"""
    model = ir.from_proto(parser.parse_model(text))
    for name, array in {"a": a, "b": b, "c": c, "d": d}.items():
        value = next(v for n in model.graph for v in n.inputs if v.name == name)
        value.const_value, value.shape = ir.tensor(array, name=name), ir.Shape(array.shape)
        value.type = model.graph.inputs[0].type
        model.graph.register_initializer(value)
    x = randn(2, 7, 30)
    want, = reference(model, {"x": x})
    low, = lower_model(model).groups
    assert low.task.family == "pair" and [n.op_type for n in low.group.nodes] == ["FactorPair", "Add", "Relu"]
    given = {n: b if isinstance(b, np.ndarray) else x.reshape(low.task.buffers[n].shape) for n, b in enumerate(low.bindings)
             if low.task.buffers[n].role != "output"}
    close(run(Pair(), low.task, given)[0], want)
