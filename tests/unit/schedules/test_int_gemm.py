"""Products of bytes against numpy's exact ones: random numbers, extremes, odd sizes, every instruction that can run here."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from burnish.schedules import expr as x
from burnish.schedules.device import Device
from burnish.schedules.task import Buffer, Store, Task
from burnish.schedules.templates import choose
from burnish.schedules.templates.int_gemm import IntGemm

from .harness import Built, interpreted, run
from .test_dot import RUNS, VARIANTS, ZEN5

I0, I1, I2, R0 = x.var("i0"), x.var("i1"), x.var("i2"), x.var("r0")
ACC = x.var("acc", "int32")
RNG = np.random.default_rng(17)


def requantized(acc: x.Expr, scale: x.Expr, bias: x.Expr, zero: int, top: int) -> x.Expr:
    """uint8: round(acc * scale + bias) + zero, cut off at 0 and `top`."""
    value = x.round_even(x.cast(acc, "float32") * scale + bias)
    return x.cast(x.cast(x.clip(value, float(-zero), float(top - zero)), "int32") + zero, "uint8")


def gemm(b: int, m: int, n: int, k: int, zero: int = 9, top: int = 255,
         epilogue: str = "requantized") -> tuple[Task, dict[int, np.ndarray]]:
    """(task, arrays). epilogue: "none" (int32), "requantized", or "all" (a residual of bytes added before it is)."""
    arrays = {0: RNG.integers(0, top + 1, (b, m, k)).astype("u1"), 1: RNG.integers(-128, 128, (k, n)).astype("i1")}
    value, dtype = ACC, "int32"
    if epilogue != "none":
        arrays |= {2: (RNG.random(n) / (40 * k**0.5)).astype("f4"), 3: RNG.standard_normal(n).astype("f4") * 9}
        bias = x.load(3, (I2,), "float32")
        if epilogue == "all":
            arrays[4] = RNG.integers(0, 256, (b, m, n)).astype("u1")
            bias = bias + x.cast(x.cast(x.load(4, (I0, I1, I2), "uint8"), "int32") - 100, "float32") * 0.5
        value, dtype = requantized(ACC, x.load(2, (I2,), "float32"), bias, 100, top), "uint8"
    buffers = [Buffer(a.shape, str(a.dtype), "constant" if i in (1, 2, 3) else "input") for i, a in arrays.items()]
    store = Store(len(buffers), (b, m, n), (I0, I1, I2), value)
    params = {"batch": b, "m": m, "n": n, "k": k, "x": 0, "w": 1, "zero": zero, "top": top}
    return Task("gemm", (*buffers, Buffer((b, m, n), dtype, "output")), (store,), params,
                {"x": x.load(0, (I0, I1, R0), "uint8")}), arrays


def equal(got: np.ndarray, want: np.ndarray) -> None:
    """Sums are exact; a product and a sum of floats may be rounded once or twice, which may move a tie."""
    apart = np.abs(got.astype("i8") - want)
    assert apart.max(initial=0) <= (got.dtype == np.uint8) and (apart != 0).mean() < 1e-3, f"{(apart != 0).sum()} differ"


SIZES = [(1, 1, 1, 1, "none"), (1, 1, 1000, 64, "requantized"), (1, 197, 166, 40, "all"), (3, 5, 33, 17, "all"),
         (2, 49, 48, 96, "requantized"), (1, 13, 15, 3, "none"), (1, 300, 7, 9, "all"), (1, 2, 130, 301, "requantized"),
         (1, 37, 53, 2, "none")]


@pytest.mark.parametrize("b, m, n, k, epilogue", SIZES)
def test_sizes(b: int, m: int, n: int, k: int, epilogue: str) -> None:
    task, arrays = gemm(b, m, n, k, epilogue=epilogue)
    assert isinstance(choose(task, ZEN5), IntGemm)
    (got,) = run(IntGemm(), task, arrays, ZEN5, cuts=(1, 3))
    equal(got, interpreted(task, arrays)[0])


@pytest.mark.parametrize("name", RUNS)
def test_instructions(name: str) -> None:
    """Steps that are whole and not, the largest and the smallest values, an odd number of rows and columns."""
    device, top, _ = VARIANTS[name]
    for k in (24, 19):
        task, arrays = gemm(1, 23, 37, k, zero=top // 2, top=top, epilogue="none" if k == 24 else "all")
        kernel = Built(IntGemm(), task, device)
        given = [arrays] if k != 24 else [arrays, *({0: np.full_like(arrays[0], a), 1: np.full_like(arrays[1], b)}
                                                    for a in (0, top) for b in (-128, 127))]
        for a in given:
            (got,) = kernel(a, [(1, kernel.tiles), (0, 1)])
            equal(got, interpreted(task, a)[0])


def test_random_candidates() -> None:
    task, arrays = gemm(2, 37, 83, 21, epilogue="all")
    (want,) = interpreted(task, arrays)
    candidates = list(IntGemm().space(task, ZEN5).candidates())
    assert 20 < len(candidates) < 1000
    for n in RNG.choice(len(candidates), 5, replace=False):
        (got,) = run(IntGemm(), task, arrays, ZEN5, candidates[n], cuts=(3, 4))
        equal(got, want)


def quantized_on_the_way(b: int, m: int, n: int, k: int, transposed: bool) -> tuple[Task, dict[int, np.ndarray]]:
    """x as it is made of floats in front of the product, of a matrix or of its transpose."""
    task, arrays = gemm(b, m, n, k, 3, 127)
    arrays[0] = RNG.standard_normal((b, k, m) if transposed else (b, m, k)).astype("f4")
    value = x.load(0, (I0, R0, I1) if transposed else (I0, I1, R0), "float32")
    operand = x.cast(x.cast(x.clip(x.round_even(value * 20.0), -3.0, 124.0), "int32") + 3, "uint8")
    buffers = Buffer(arrays[0].shape, "float32", "input"), *task.buffers[1:]
    return replace(task, buffers=buffers, operands={"x": operand}), arrays


@pytest.mark.parametrize("name", ["avx512vnni", "avx2", "simd"])
@pytest.mark.parametrize("transposed", [False, True])
def test_rows_that_are_made_first(name: str, transposed: bool) -> None:
    device: Device = VARIANTS[name][0]
    task, arrays = quantized_on_the_way(2, 21, 35, 18, transposed)
    (got,) = run(IntGemm(), task, arrays, device, cuts=(1, 2))
    equal(got, interpreted(task, arrays)[0])


def test_x_inside_a_wider_map() -> None:
    """The first channels of a map: rows are further apart than they are long, and nothing between them counts."""
    task, arrays = gemm(1, 30, 20, 10)
    (want,) = interpreted(task, arrays)
    wider = replace(task, buffers=(Buffer((1, 30, 17), "uint8", "input"), *task.buffers[1:]))
    (got,) = run(IntGemm(), wider, {**arrays, 0: np.pad(arrays[0], [(0, 0), (0, 0), (0, 7)], constant_values=255)}, ZEN5)
    equal(got, want)


def test_what_it_refuses() -> None:
    task, _ = gemm(1, 2, 3, 4)
    floats = replace(task, buffers=(task.buffers[0], replace(task.buffers[1], dtype="float32"), *task.buffers[2:]))
    assert IntGemm().refuses(floats, ZEN5) and IntGemm().refuses(gemm(1, 0, 3, 4)[0], ZEN5)
    assert IntGemm().refuses(task, ZEN5) is None
