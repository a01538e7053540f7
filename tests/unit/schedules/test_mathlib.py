"""The functions of mathlib against a higher precision, over their whole range and at the edges."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pytest
from burnish.schedules import expr
from burnish.schedules.device import Device
from burnish.schedules.expr import Expr, binary, load, unary, var
from burnish.schedules.space import Knobs, Space
from burnish.schedules.task import Buffer, Store, Task
from burnish.schedules.template import Template
from scipy import special

from .harness import AVX2, NEON, WASM, ZEN5, ZIG, Built, run

UNARY: Mapping[str, tuple[Callable[[Any], Any], float, float, float, float]] = {
    # name: (reference, from, to, units of the last place of float32, relative error in float64)
    "exp": (np.exp, -100, 90, 1.5, 1e-13), "log": (np.log, 0, 1e30, 1.5, 1e-13),
    "sigmoid": (special.expit, -87, 80, 3, 1e-13),
    "tanh": (np.tanh, -12, 12, 4, 1e-13), "erf": (special.erf, -6, 6, 4.5, 1e-13),
    "sqrt": (np.sqrt, 0, 1e9, 1, 1e-15),
    "rsqrt": (lambda x: 1 / np.sqrt(x), 0.01, 1e9, 1.5, 1e-15), "sin": (np.sin, -100, 100, 2, 1e-13),
    "cos": (np.cos, -100, 100, 2, 1e-13),
    "tan": (np.tan, -100, 100, 4, 1e-12), "asin": (np.arcsin, -1, 1, 4, 1e-13), "acos": (np.arccos, -1, 1, 4, 1e-13),
    "atan": (np.arctan, -50, 50, 4, 1e-13), "sinh": (np.sinh, -89, 89, 4, 1e-13), "cosh": (np.cosh, -89, 89, 4, 1e-13),
    "asinh": (np.arcsinh, -1e4, 1e4, 4, 1e-13), "acosh": (np.arccosh, 1, 1e4, 4, 1e-13), "atanh": (np.arctanh, -1, 1, 4, 1e-13),
    "floor": (np.floor, -9, 9, 0, 0), "ceil": (np.ceil, -9, 9, 0, 0), "round": (np.round, -9, 9, 0, 0),
    "trunc": (np.trunc, -9, 9, 0, 0),
    "abs": (np.abs, -9, 9, 0, 0), "sign": (np.sign, -9, 9, 0, 0),
}
EDGES = [0.0, -0.0, 0.5, -0.5, 1.5, 2.5, -2.5, 1.0, -1.0, 1e-20, -1e-20, 3e-39, 1e-45,
         88.7, 88.72284, 89.0, 104.0, -87.0, -87.5, -104.0,
         1e4, -1e4, 1e10, 3e38, -3e38, np.inf, -np.inf, np.nan]


class Flat(Template):
    """Every store over one flat axis, explicit vectors of the device's lanes: just enough to run an expression."""

    name, family = "flat", "flat"

    def space(self, task: Task, device: Device) -> Space:
        return Space()

    def cost(self, task: Task, knobs: Knobs, device: Device) -> float:
        return 0.0

    def tiles(self, task: Task, knobs: Knobs, device: Device) -> int:
        return task.buffers[0].size // device.lanes

    def emit(self, task: Task, knobs: Knobs, device: Device) -> Any:
        from burnish.schedules.tir import Kernel, T

        k = Kernel(task)

        def body(begin: Any, end: Any) -> None:
            with T.serial(begin, end) as z, T.vectorized(0, device.lanes) as lane:
                env = {"i0": z * device.lanes + lane}
                for s in task.stores:
                    k.store(s.buffer, [env["i0"]], k.value(s.value, env))
        return k.write(body)


def task(functions: list[Callable[..., Expr]], *inputs: np.ndarray) -> tuple[Task, dict[int, np.ndarray]]:
    n, count = len(inputs[0]), len(inputs)
    args = [load(m, [var("i0")], str(a.dtype)) for m, a in enumerate(inputs)]
    values = [f(*args) for f in functions]
    buffers = [*(Buffer((n,), str(a.dtype), "input") for a in inputs), *(Buffer((n,), v.dtype, "output") for v in values)]
    stores = tuple(Store(count + m, (n,), (var("i0"),), v) for m, v in enumerate(values))
    return Task("flat", tuple(buffers), stores), dict(enumerate(inputs))


def evaluate(functions: list[Callable[..., Expr]], *inputs: np.ndarray, device: Device = ZEN5) -> list[np.ndarray]:
    size = -(-len(inputs[0]) // 16) * 16
    t, arrays = task(functions, *(np.resize(a, size) for a in inputs))
    return [y[:len(inputs[0])] for y in run(Flat(), t, arrays, device)]


def samples(low: float, high: float, dtype: str) -> np.ndarray:
    rng = np.random.default_rng(0)
    dense = rng.uniform(low, high, 20000)
    small = rng.uniform(max(low, -2), min(high, 2), 20000)
    tiny = np.sign(small) * np.abs(small) * 10.0 ** rng.uniform(-10, 0, 20000)
    x = np.concatenate([dense, small, tiny, EDGES])
    return np.where((x >= low) & (x <= high) | ~np.isfinite(x), x, low).astype(dtype)


@pytest.mark.parametrize("device", [ZEN5, AVX2, WASM], ids=lambda d: d.name)
def test_unary_float32(device: Device) -> None:
    """Error in units of the last place of the exact result, for every function in one kernel each."""
    names = list(UNARY) if device is not WASM else ["exp", "log", "tanh", "erf", "sin", "sinh", "round", "floor"]
    worst: dict[str, float] = {}
    for name in names:
        reference, low, high, limit, _ = UNARY[name]
        x = samples(low, high, "float32")
        y, = evaluate([lambda v, name=name: unary(name, v)], x, device=device)
        with np.errstate(all="ignore"):
            exact = reference(x.astype("float64"))
            exact = np.where(np.abs(exact) < 2.0**-126, 0, exact) if name in ("exp", "sigmoid") else exact
            rounded = exact.astype("float32")
            same = (y == rounded) | np.isnan(y) & np.isnan(rounded)
            ulps = np.where(same, 0, np.abs(y - exact) / np.maximum(np.spacing(np.abs(rounded)), 2.0**-149))
        worst[name] = float(np.max(np.where(np.isnan(ulps), np.inf, ulps)))
        at = int(np.argmax(np.where(np.isnan(ulps), np.inf, ulps)))
        assert worst[name] <= limit, f"{name}({x[at]!r}) = {y[at]!r}, exact {exact[at]!r}: {worst[name]:.2f} ulp"


def test_unary_float64() -> None:
    for name, (reference, low, high, _, limit) in UNARY.items():
        x = samples(low, high, "float64")
        y, = evaluate([lambda v, name=name: unary(name, v)], x)
        with np.errstate(all="ignore"):
            exact = reference(x)
        near_zero = 1e-15 if name in ("sin", "cos", "tan") else 0
        np.testing.assert_allclose(y, exact, rtol=limit, atol=near_zero, err_msg=name)


def test_large_arguments_of_sine() -> None:
    x = np.random.default_rng(1).uniform(-1e6, 1e6, 4096).astype("float32")
    s, c = evaluate([lambda v: unary("sin", v), lambda v: unary("cos", v)], x)
    np.testing.assert_allclose(s, np.sin(x.astype("float64")), atol=1e-7)
    np.testing.assert_allclose(c, np.cos(x.astype("float64")), atol=1e-7)


def test_power() -> None:
    rng = np.random.default_rng(2)
    special_values = np.array([0.0, -0.0, 0.5, 1, -1, 2, 3, -2, -3, 2.5, -0.5, np.inf, -np.inf, np.nan], "float32")
    x, y = (a.reshape(-1) for a in np.meshgrid(special_values, special_values))
    x = np.concatenate([x, rng.uniform(0, 20, 4000), rng.uniform(0.9, 1.1, 4000), rng.integers(-9, 9, 1000)]).astype("float32")
    y = np.concatenate([y, rng.uniform(-25, 25, 4000), rng.uniform(-900, 900, 4000), rng.integers(-9, 9, 1000)]).astype("float32")
    got, = evaluate([lambda a, b: binary("pow", a, b)], x, y)
    with np.errstate(all="ignore"):
        expected = np.power(x.astype("float64"), y.astype("float64")).astype("float32")
    expected[np.abs(expected) < 2.0**-126] = 0
    np.testing.assert_allclose(got, expected, rtol=1.3e-7, atol=1.2e-38)


def test_power_with_a_constant_exponent() -> None:
    x = np.random.default_rng(3).uniform(0.1, 5, 256).astype("float32")
    exponents = [2.0, 3.0, 0.5, -1.0, -0.5, 0.0, 1.0, 7.0, -2.0, 1.7]
    got = evaluate([lambda a, e=e: binary("pow", a, e) for e in exponents], x)
    for e, y in zip(exponents, got, strict=True):
        np.testing.assert_allclose(y, np.power(x.astype("float64"), e), rtol=1e-6, err_msg=str(e))


@pytest.mark.parametrize("dtype", ["int32", "int64"])
def test_power_of_integers(dtype: str) -> None:
    x = np.array([2, 3, -3, 7, 1, -1, -1, 0, 5, 10, 0, -2, 0, -1, -1, 1], dtype)
    y = np.array([10, 4, 3, 11, -5, -3, -4, 0, 13, 9, 3, -1, 128, 128, 2**31 - 1, 200], dtype)
    got, square = evaluate([lambda a, b: binary("pow", a, b), lambda a, b: binary("pow", a, 2)], x, y)
    with np.errstate(all="ignore"):
        expected = np.power(x, np.abs(y))
    expected[(y < 0) & (np.abs(x) != 1)] = 0
    np.testing.assert_array_equal(got, expected)
    np.testing.assert_array_equal(square, x * x)


@pytest.mark.parametrize("device", [ZEN5, WASM], ids=lambda d: d.name)
def test_nan_goes_through_max_min_and_clip(device: Device) -> None:
    values = np.array([np.nan, 1, -2, np.inf, -np.inf, 0, 5], "float32")
    x, y = (a.reshape(-1) for a in np.meshgrid(values, values))
    for dtype in ("float32", "float64"):
        u, v = x.astype(dtype), y.astype(dtype)
        high, low, relu, relu2, cut, nan, inf = evaluate([
            expr.maximum, expr.minimum, lambda a, b: expr.maximum(a, 0.0), lambda a, b: expr.maximum(0.0, a),
            lambda a, b: expr.clip(a, -1.0, 1.0), lambda a, b: Expr("isnan", (a,), "bool"),
            lambda a, b: Expr("isinf", (a,), "bool")],
            u, v, device=device)
        np.testing.assert_array_equal(high, np.maximum(u, v))
        np.testing.assert_array_equal(low, np.minimum(u, v))
        np.testing.assert_array_equal(relu, np.maximum(u, 0))
        np.testing.assert_array_equal(relu2, np.maximum(u, 0))
        np.testing.assert_array_equal(cut, np.clip(u, -1, 1))
        np.testing.assert_array_equal(nan, np.isnan(u))
        np.testing.assert_array_equal(inf, np.isinf(u))


def test_float16_is_computed_in_float32() -> None:
    x = np.random.default_rng(4).uniform(-4, 4, 512).astype("float16")
    for device in (ZEN5, WASM):
        e, t, r = evaluate([lambda v: unary("exp", v), lambda v: unary("tanh", v), lambda v: unary("round", v)], x, device=device)
        np.testing.assert_array_equal(e, np.exp(x.astype("float32")).astype("float16"))
        np.testing.assert_allclose(t, np.tanh(x.astype("float32")), rtol=1e-3)
        np.testing.assert_array_equal(r, np.round(x))


@pytest.mark.parametrize("device", [ZEN5, AVX2, NEON, WASM], ids=lambda d: d.name)
def test_no_symbol_remains_undefined(device: Device) -> None:
    """Every function in one kernel: nothing is left for libm or a run-time library."""
    x = np.zeros(16, "float32")
    functions = [lambda v, n=name: unary(n, v) for name in UNARY]
    t, _ = task([*functions, lambda v: binary("pow", v, v), lambda v: expr.maximum(v, 0.0)], x)
    kernel = Built(Flat(), t, device)
    linker, *options = {"wasm32": ("wasm-ld", "--no-entry", "--export=k")}.get(device.arch, ("ld.lld", "-shared", "-z", "defs"))
    done = subprocess.run([*ZIG, linker, *options, "-o", str(kernel.path.with_suffix(".linked")), str(kernel.path)],
                          capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
