"""Fused attention against numpy (float64): odd sizes, masks, strided and computed operands, blocks of keys, several devices."""

from dataclasses import replace

import numpy as np
import pytest
from burnish.schedules import expr as x
from burnish.schedules.space import Knobs
from burnish.schedules.task import Buffer, Store, Task
from burnish.schedules.templates.attention import Attention

from .harness import AVX2, NEON, WASM, ZEN5, Built, run

I0, I1, I2, I3, R0 = x.var("i0"), x.var("i1"), x.var("i2"), x.var("i3"), x.var("r0")
ACC = x.var("acc", "float32")
RNG = np.random.default_rng(11)


def randn(*shape):
    return RNG.standard_normal(shape).astype("f4")


def softmax(score):
    top = score.max(-1, keepdims=True)
    p = np.exp(score - np.where(top == -np.inf, 0, top))
    return p / np.where(top == -np.inf, 1, p.sum(-1, keepdims=True))


def reference(q, k, v, scale, mask=0.0, causal=0):
    score = q.astype("f8") @ k.astype("f8").swapaxes(-1, -2) * scale + mask
    if causal:
        score = np.where(np.tri(*score.shape[-2:], dtype=bool), score, -np.inf)
    return softmax(score) @ v.astype("f8")


def attention(b, h, nq, nk, d, dv, mask=None, causal=0):
    """(task, arrays, reference), q, k and v of their own, the output as [b, nq, h dv] with a residual added."""
    arrays = {0: randn(b, h, nq, d), 1: randn(b, h, nk, d), 2: randn(b, h, nk, dv), 3: randn(b, nq, h * dv)}
    operands = {"q": x.load(0, (I0, I1, I2, R0), "float32"), "k": x.load(1, (I0, I1, I2, R0), "float32"),
                "v": x.load(2, (I0, I1, I2, R0), "float32")}
    if mask is not None:
        arrays[4] = mask
        operands["mask"] = x.load(4, [0 if n == 1 else i for n, i in zip(mask.shape, (I0, I1, I2, I3), strict=True)], "float32")
    buffers = [Buffer(a.shape, "float32", "input") for a in arrays.values()] + [Buffer((b, nq, h * dv), "float32", "output")]
    place = (I0, I2, I1 * dv + I3)
    store = Store(len(buffers) - 1, (b, h, nq, dv), place, ACC + x.load(3, place, "float32"))
    params = {"batch": b, "heads": h, "nq": nq, "nk": nk, "d": d, "dv": dv, "causal": causal, "scale": d**-0.5}
    want = reference(arrays[0], arrays[1], arrays[2], d**-0.5, 0.0 if mask is None else mask, causal)
    want = want.transpose(0, 2, 1, 3).reshape(b, nq, h * dv) + arrays[3]
    return Task("attention", tuple(buffers), (store,), params, operands), arrays, want


def close(got, want):
    np.testing.assert_allclose(got, want, rtol=0, atol=5e-6)


@pytest.mark.parametrize("b, h, nq, nk, d, dv", [
    (1, 1, 1, 1, 1, 1), (2, 3, 1, 77, 64, 64), (1, 2, 7, 16, 37, 5), (1, 2, 197, 197, 64, 64), (2, 2, 13, 130, 80, 48),
    (1, 1, 33, 3, 16, 37)])
@pytest.mark.parametrize("causal", [0, 1])
def test_sizes(b, h, nq, nk, d, dv, causal):
    task, arrays, want = attention(b, h, nq, nk, d, dv, causal=causal)
    (got,) = run(Attention(), task, arrays, cuts=(1, 3))
    close(got, want)


@pytest.mark.parametrize("shape", [(2, 2, 19, 37), (1, 1, 1, 37), (1, 2, 19, 1), (2, 1, 19, 37)])
def test_masks(shape):
    """-inf and the lowest float32 are allowed, and a query that may look nowhere yields zeros, one that is masked by finite
    numbers everywhere a plain mean."""
    mask = np.where(RNG.random(shape) < 0.3, np.float32(-np.inf), randn(*shape)).astype("f4")
    mask[:, :, 0] = -np.inf
    if shape[2] > 1 and shape[3] > 1:
        mask[:, :, 1] = np.finfo("f4").min
    task, arrays, want = attention(2, 2, 19, 37, 24, 20, mask=mask, causal=int(shape[1] == 1))
    (got,) = run(Attention(), task, arrays, cuts=(2,))
    close(got, want)
    if shape[3] > 1:
        close(got[:, 0], arrays[3][:, 0])


@pytest.mark.parametrize("device", [AVX2, WASM], ids=lambda d: d.name)
@pytest.mark.parametrize("nq, nk, d, dv", [(1, 9, 5, 3), (21, 37, 19, 22), (50, 50, 32, 32)])
def test_devices(device, nq, nk, d, dv):
    task, arrays, want = attention(1, 2, nq, nk, d, dv, mask=randn(1, 1, nq, nk), causal=1)
    (got,) = run(Attention(), task, arrays, device, cuts=(1,))
    close(got, want)


def test_code_for_neon_is_small():
    assert Built(Attention(), attention(1, 2, 197, 197, 64, 64)[0], NEON).path.stat().st_size < 30_000


@pytest.mark.parametrize("causal", [0, 1])
def test_random_candidates(causal):
    """Among them keys in several blocks, with the online softmax."""
    task, arrays, want = attention(1, 2, 45, 621, 20, 36, mask=randn(1, 1, 45, 621) * 20, causal=causal)
    candidates = list(Attention().space(task, ZEN5).candidates())
    assert 50 < len(candidates) < 3000
    split = [k for k in candidates if k.splits > 1]
    for k in (*RNG.choice(len(candidates), 2, replace=False), candidates.index(split[RNG.integers(len(split))])):
        (got,) = run(Attention(), task, arrays, knobs=candidates[k], cuts=(1, 4))
        close(got, want)


@pytest.mark.parametrize("device", [ZEN5, WASM], ids=lambda d: d.name)
def test_heads_of_a_projection(device):
    """q, k and v from one [B,N,3,H,D]; v in place and packed."""
    b, n, h, d = 2, 19, 3, 16
    qkv = Buffer((b, n, 3, h, d), "float32", "input")
    task = Task("attention", (qkv, Buffer((b, h, n, d), "float32", "output")), (Store(1, (b, h, n, d), (I0, I1, I2, I3), ACC),),
                {"batch": b, "heads": h, "nq": n, "nk": n, "d": d, "dv": d, "causal": 0, "scale": 0.3},
                {name: x.load(0, (I0, I2, p, I1, R0), "float32") for p, name in enumerate("qkv")})
    a = randn(b, n, 3, h, d)
    want = reference(*a.transpose(2, 0, 3, 1, 4), 0.3)
    knobs = Attention().default(task, device)
    for pack_v in (0, 1):
        close(run(Attention(), task, {0: a}, device, Knobs.of(**{**knobs, "pack_v": pack_v}), cuts=(2,))[0], want)


def test_operands_without_an_address():
    """Keys and values behind those of earlier steps, transposed keys, halves of queries, shared heads, a mask of booleans."""
    h, nq, past, new, d = 4, 6, 21, 6, 18
    nk = past + new
    shapes = [(h // 2, d, past), (h // 2, new, d), (h // 2, past, d), (h // 2, new, d), (nq, h, d), (nq, nk)]
    arrays = {n: randn(*s) for n, s in enumerate(shapes)}
    arrays[5] = RNG.random((nq, nk)) < 0.6
    arrays[4] = arrays[4].astype("f2")
    head = x.floordiv(I1, 2)
    before, after = x.minimum(I2, past - 1), x.maximum(I2 - past, 0)
    operands = {
        "q": x.cast(x.load(4, (I2, I1, R0), "float16"), "float32"),
        "k": x.select(past > I2, x.load(0, (head, R0, before), "float32"), x.load(1, (head, after, R0), "float32")),
        "v": x.select(past > I2, x.load(2, (head, before, R0), "float32"), x.load(3, (head, after, R0), "float32")),
        "mask": x.select(x.load(5, (I2, I3), "bool"), x.const(0.0, "float32"), x.const(-np.inf, "float32"))}
    buffers = [Buffer(a.shape, str(a.dtype), "input") for a in arrays.values()] + [Buffer((nq, h * d), "float32", "output")]
    task = Task("attention", tuple(buffers), (Store(6, (1, h, nq, d), (I2, I1 * d + I3), ACC),),
                {"batch": 1, "heads": h, "nq": nq, "nk": nk, "d": d, "dv": d, "causal": 0, "scale": 0.25}, operands)
    k = np.concatenate([arrays[0].swapaxes(1, 2), arrays[1]], 1).repeat(2, 0)
    v = np.concatenate([arrays[2], arrays[3]], 1).repeat(2, 0)
    want = reference(arrays[4].transpose(1, 0, 2), k, v, 0.25, np.where(arrays[5], 0, -np.inf))
    close(run(Attention(), task, arrays)[0], want.transpose(1, 0, 2).reshape(nq, h * d))


def test_nan_goes_through_only_its_own_row():
    task, arrays, want = attention(1, 1, 5, 9, 16, 16)
    arrays[0][0, 0, 2, 3] = np.nan
    (got,) = run(Attention(), task, arrays)
    assert np.isnan(got[0, 2]).all()
    close(np.delete(got, 2, 1), np.delete(want, 2, 1))


def test_blocks_of_queries_for_threads():
    task, arrays, want = attention(1, 1, 150, 40, 8, 20)
    device = replace(ZEN5, cores=4)
    assert Attention().tiles(task, Attention().default(task, device), device) % 4 == 0
    close(run(Attention(), task, arrays, device, cuts=(1, 2))[0], want)
