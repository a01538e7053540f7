"""Matrix multiplication against numpy (float64), at random, edge and odd sizes, on AVX-512, AVX2 and wasm."""

from dataclasses import replace

import numpy as np
import pytest
from burnish.schedules import expr as x
from burnish.schedules.space import Knobs
from burnish.schedules.task import Buffer, Store, Task
from burnish.schedules.templates import choose
from burnish.schedules.templates.gemm import ComputedGemm, Gemm

from .harness import AVX2, NEON, WASM, ZEN5, Built, run

I0, I1, I2, R0 = x.var("i0"), x.var("i1"), x.var("i2"), x.var("r0")
ACC = x.var("acc", "float32")
RNG = np.random.default_rng(7)


def randn(*shape):
    return RNG.standard_normal(shape).astype("f4")


def gemm(b, m, n, k, epilogue="none"):
    """(task, arrays, reference) of Y = epilogue(X W), W constant."""
    buffers = [Buffer((b, m, k), "float32", "input"), Buffer((k, n), "float32", "constant")]
    arrays = {0: randn(b, m, k), 1: randn(k, n) / np.float32(k**0.5)}
    want = arrays[0].astype("f8") @ arrays[1].astype("f8")
    value = ACC
    if epilogue in ("bias relu", "all"):
        buffers.append(Buffer((n,), "float32", "constant"))
        arrays[2] = randn(n)
        value = x.maximum(value + x.load(2, (I2,), "float32"), 0)
        want = np.maximum(want + arrays[2], 0)
    if epilogue == "all":
        buffers.append(Buffer((b, m, n), "float32", "input"))
        arrays[3] = randn(b, m, n)
        value = x.clip(value + x.load(3, (I0, I1, I2), "float32"), 0.25, 2.0)
        want = np.clip(want + arrays[3], 0.25, 2.0)
    buffers.append(Buffer((b, m, n), "float32", "output"))
    store = Store(len(buffers) - 1, (b, m, n), (I0, I1, I2), value)
    params = {"batch": b, "m": m, "n": n, "k": k, "x": 0, "w": 1}
    return Task("gemm", tuple(buffers), (store,), params, {"x": x.load(0, (I0, I1, R0), "float32")}), arrays, want


def close(got, want):
    np.testing.assert_allclose(got, want, rtol=0, atol=2e-5 * max(1, np.abs(want).max()))


@pytest.mark.parametrize("b, m, n, k, epilogue", [
    (1, 1, 1, 1, "none"), (1, 1, 1000, 64, "bias relu"), (1, 197, 166, 40, "all"), (3, 5, 33, 17, "all"),
    (2, 49, 48, 96, "bias relu"), (1, 13, 15, 3, "none"), (1, 300, 7, 9, "all"), (1, 2, 130, 300, "bias relu")])
def test_sizes(b, m, n, k, epilogue):
    task, arrays, want = gemm(b, m, n, k, epilogue)
    (got,) = run(Gemm(), task, arrays, cuts=(1, 3))
    close(got, want)


@pytest.mark.parametrize("device", [AVX2, WASM], ids=lambda d: d.name)
@pytest.mark.parametrize("m, n, k", [(1, 9, 5), (23, 37, 19)])
def test_devices(device, m, n, k):
    task, arrays, want = gemm(2, m, n, k, "all")
    (got,) = run(Gemm(), task, arrays, device, cuts=(2,))
    close(got, want)


def test_every_default_is_small_and_legal_on_neon():
    task, _, _ = gemm(1, 49, 53, 37, "all")
    assert Built(Gemm(), task, NEON).path.stat().st_size < 20_000


def test_random_candidates():
    task, arrays, want = gemm(2, 37, 83, 21, "all")
    candidates = list(Gemm().space(task, ZEN5).candidates())
    assert 20 < len(candidates) < 1000
    for n in RNG.choice(len(candidates), 5, replace=False):
        (got,) = run(Gemm(), task, arrays, knobs=candidates[n], cuts=(3, 4))
        close(got, want)


def scores_of_a_projection(b=2, t=19, h=3, d=8):
    """(task, arrays, reference) of q k^T with both operands read from [B,T,3,H,D]."""
    qkv = Buffer((b, t, 3, h, d), "float32", "input")
    out = Buffer((b * h, t, t), "float32", "output")
    q = x.load(0, (x.floordiv(I0, h), I1, 0, x.floormod(I0, h), R0), "float32")
    k = x.load(0, (x.floordiv(I0, h), I2, 1, x.floormod(I0, h), R0), "float32")
    task = Task("gemm", (qkv, out), (Store(1, (b * h, t, t), (I0, I1, I2), ACC * 0.125),),
                {"batch": b * h, "m": t, "n": t, "k": d, "x": 0}, {"x": q, "w": k})
    a = randn(b, t, 3, h, d)
    want = np.einsum("bthd,bshd->bhts", *(a[:, :, n].astype("f8") for n in (0, 1))).reshape(b * h, t, t) * 0.125
    return task, {0: a}, want


def test_x_of_a_qkv_projection_and_of_a_window():
    """q k^T; and rows of x that are no affine address (two axes merged)."""
    task, arrays, want = scores_of_a_projection()
    assert choose(task, ZEN5).name == "f32-gemm-computed"
    for device in (ZEN5, WASM):
        close(run(ComputedGemm(), task, arrays, device, cuts=(1, 4))[0], want)

    # patches of 4x4x3 from an image, in vectors over k; w contiguous along n
    image, w = Buffer((12, 8, 3), "float32", "input"), Buffer((48, 20), "float32", "input")
    row = x.floordiv(I1, 2) * 4 + x.floordiv(R0, 12)
    col = x.floormod(I1, 2) * 4 + x.floordiv(x.floormod(R0, 12), 3)
    patch = x.load(0, (row, col, x.floormod(R0, 3)), "float32") * 2.0
    task = Task("gemm", (image, w, Buffer((6, 20), "float32", "output")), (Store(2, (1, 6, 20), (I1, I2), ACC),),
                {"batch": 1, "m": 6, "n": 20, "k": 48, "x": 0}, {"x": patch, "w": x.load(1, (R0, I2), "float32")})
    im, wa = randn(12, 8, 3), randn(48, 20)
    patches = im.reshape(3, 4, 2, 4, 3).transpose(0, 2, 1, 3, 4).reshape(6, 48)
    close(run(ComputedGemm(), task, {0: im, 1: wa}, cuts=(1,))[0], 2.0 * patches.astype("f8") @ wa)


def test_output_split_into_heads_is_stored_in_vectors():
    """Y[t, h*d] stored as [H,T,D]: i2 // D is the same for all lanes of a vector, although NR = 48 is no multiple of D = 32."""
    t, h, d, k = 14, 6, 32, 24
    task, arrays, want = gemm(1, t, h * d, k)
    store = Store(2, (1, t, h * d), (x.floordiv(I2, d), I1, x.floormod(I2, d)), ACC)
    task = Task("gemm", (*task.buffers[:2], Buffer((h, t, d), "float32", "output")), (store,), task.params, task.operands)
    knobs = Knobs.of(rows=8, vectors=3, blocks=1, ahead=0)
    close(run(Gemm(), task, arrays, knobs=knobs)[0], want.reshape(t, h, d).transpose(1, 0, 2))


def test_heavy_epilogue_is_looped():
    task, arrays, want = gemm(1, 20, 70, 12)
    value = ACC
    for _ in range(60):
        value = x.maximum(value * 1.0625, -3.0)
        want = np.maximum(want * 1.0625, -3.0)
    task = Task("gemm", task.buffers, (Store(2, (1, 20, 70), (I0, I1, I2), value),), task.params, task.operands)
    close(run(Gemm(), task, arrays)[0], want)


def test_computed_weights_in_blocks_of_rows_for_threads():
    """One head of one image has a single panel: four cores split its rows, and each evaluates the panel."""
    b, m, n, k = 1, 150, 20, 8
    task, arrays, want = gemm(b, m, n, k)
    buffers = (task.buffers[0], Buffer((k, n), "float32", "input"), task.buffers[2])
    params = {name: v for name, v in task.params.items() if name != "w"}
    task = Task("gemm", buffers, task.stores, params, {**task.operands, "w": x.load(1, (R0, I2), "float32")})
    device = replace(ZEN5, cores=4)
    assert ComputedGemm().tiles(task, ComputedGemm().default(task, device), device) % 4 == 0
    close(run(ComputedGemm(), task, arrays, device, cuts=(1, 2))[0], want)
