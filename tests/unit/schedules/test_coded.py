"""Products with weights of codes against numpy's with the same decoded weights, at random, edge and odd sizes."""

from dataclasses import replace

import numpy as np
import pytest
from burnish.schedules import codes
from burnish.schedules import expr as x
from burnish.schedules.task import Buffer, Store, Task
from burnish.schedules.templates import choose
from burnish.schedules.templates.coded_gemm import CodedGemm

from .harness import AVX2, NEON, WASM, ZEN5, Built, run

I0, I1, I2, R0 = x.var("i0"), x.var("i1"), x.var("i2"), x.var("r0")
RNG = np.random.default_rng(13)


def some_codes(code, *shape):
    if code == "int8":
        return RNG.integers(-128, 128, shape).astype("i1")
    return RNG.integers(0, 256 if code == "shift2" else 16, shape).astype("u1")


def gemm(b, m, k, n, code, block=0, doubled=False):
    """(task, arrays, reference)."""
    buffers = [Buffer((b, m, k), "float32", "input"), Buffer((k, n), "int8" if code == "int8" else "uint8", "constant"),
               Buffer((n,), "float32", "constant")]
    arrays = {0: RNG.standard_normal((b, m, k)).astype("f4"), 1: some_codes(code, k, n), 2: RNG.standard_normal(n).astype("f4")}
    params = {"batch": b, "m": m, "n": n, "k": k, "w": 1, "code": code, "block": block}
    weights = codes.values(code, arrays[1]).astype("f8")
    if block:
        params["scales"] = 3
        arrays[3] = RNG.uniform(0.5, 2, (-(-k // block), n)).astype("f4")
        buffers.append(Buffer(arrays[3].shape, "float32", "constant"))
        weights *= np.repeat(arrays[3], block, axis=0)[:k]
    out = len(buffers)
    buffers.append(Buffer((b, m, n), "float32", "output"))
    read = x.load(0, (I0, I1, R0), "float32")
    store = Store(out, (b, m, n), (I0, I1, I2), x.var("acc", "float32") * x.load(2, (I2,), "float32"))
    task = Task("gemm", tuple(buffers), (store,), params, {"x": read * 2.0 if doubled else read})
    return task, arrays, arrays[0].astype("f8") * (2 if doubled else 1) @ weights * arrays[2]


def close(got, want):
    np.testing.assert_allclose(got, want, rtol=0, atol=2e-5 * max(1, np.abs(want).max()))


def test_codes_as_numbers():
    every = {"int8": np.arange(-128, 128), "int4": np.arange(16), "shift1": np.arange(16), "shift2": np.arange(256)}
    np.testing.assert_array_equal(codes.values("shift1", every["shift1"][:10]), [0, *2.0**np.arange(-6, 1), 0, -2**-6])
    np.testing.assert_array_equal(codes.values("int4", every["int4"]), np.arange(-8, 8))
    assert codes.values("shift2", np.array([0xf7, 0x67, 0x80])).tolist() == [0, 1.5, 0]


@pytest.mark.parametrize("code", codes.CODES)
@pytest.mark.parametrize("b, m, k, n, block", [(1, 1, 1, 1, 0), (1, 1, 301, 1000, 0), (1, 50, 41, 166, 0), (3, 5, 17, 33, 8),
                                               (1, 2, 96, 48, 32), (1, 130, 7, 9, 0)])
def test_sizes(code, b, m, k, n, block):
    task, arrays, want = gemm(b, m, k, n, code, block)
    assert choose(task, ZEN5).name == "f32-gemm-coded"
    (got,) = run(CodedGemm(), task, arrays, cuts=(1, 3))
    close(got, want)


@pytest.mark.parametrize("device", [AVX2, WASM], ids=lambda d: d.name)
@pytest.mark.parametrize("code", codes.CODES)
def test_devices(device, code):
    task, arrays, want = gemm(2, 3, 19, 37, code, 4)
    close(run(CodedGemm(), task, arrays, device, cuts=(2,))[0], want)


def test_every_default_is_small_and_legal_on_neon():
    for code in codes.CODES:
        task, _, _ = gemm(1, 1, 49, 53, code)
        assert Built(CodedGemm(), task, NEON).path.stat().st_size < 20_000


@pytest.mark.parametrize("decode", ["registers", "panel"])
def test_random_candidates(decode):
    task, arrays, want = gemm(2, 37, 21, 83, "int4", 6, doubled=True)
    candidates = [k for k in CodedGemm().space(task, replace(ZEN5, l2_kib=4)).candidates() if k.decode == decode]
    assert 10 < len(candidates) < 1500
    for n in RNG.choice(len(candidates), 4, replace=False):
        close(run(CodedGemm(), task, arrays, replace(ZEN5, l2_kib=4), candidates[n], cuts=(3, 4))[0], want)


def test_weights_take_an_eighth_or_a_quarter():
    for code, share in (("int8", 4), ("int4", 8), ("shift1", 8), ("shift2", 4)):
        task, arrays, _ = gemm(1, 1, 256, 384, code)
        template, knobs = CodedGemm(), CodedGemm().default(task, ZEN5)
        assert template.pack(task, knobs, ZEN5)[1](arrays[1]).nbytes * share == 256 * 384 * 4
