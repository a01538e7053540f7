"""Every template in WebAssembly, under wasmtime, for both kinds of SIMD: odd sizes, corners of the knobs, work cut as threads
would cut it, random numbers and those at the edges, against numpy."""

from __future__ import annotations

import itertools
import random
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import numpy as np
import pytest
from burnish.schedules.candidate import makers
from burnish.schedules.device import Device
from burnish.schedules.space import Knobs
from burnish.schedules.task import Task
from burnish.schedules.template import Template
from burnish.schedules.templates import TEMPLATES, choose
from burnish.schedules.templates.winograd import Winograd
from lower.harness import assert_close, const

from .harness import SIMD, WASM, Built, interpreted, lowered
from .test_attention import attention
from .test_conv import CASES as CONVOLUTIONS
from .test_conv import conv
from .test_depthwise import CASES as DEPTHWISE
from .test_depthwise import depthwise
from .test_gemm import gemm, scores_of_a_projection
from .test_int_conv import conv as int_conv
from .test_int_depthwise import int_depthwise
from .test_int_gemm import gemm as int_gemm
from .test_sparse import CONVOLUTIONS as SPARSE_CONVOLUTIONS
from .test_sparse import pruned, scattered
from .test_sparse_int import CONVOLUTIONS as SPARSE_INT_CONVOLUTIONS
from .test_sparse_int import pruned as pruned_int
from .test_winograd import CASES as WINOGRAD
from .test_winograd import case as winograd

Given = tuple[Task, dict[int, np.ndarray]]
RNG = np.random.default_rng(3)


def f(*shape: int) -> np.ndarray:
    return RNG.standard_normal(shape).astype("f4")


def i(low: int, high: int, shape: tuple[int, ...], dtype: str = "i8") -> np.ndarray:
    return RNG.integers(low, high, shape).astype(dtype)


def node(op: str, *inputs: Any, **how: Any) -> Callable[[], Given]:
    return lambda: lowered(op, *inputs, **how)


def recurrent(op: str, gates: int, direction: str, hidden: int, **how: Any) -> Callable[[], Given]:
    d = 2 if direction == "bidirectional" else 1
    outputs = 3 if op == "LSTM" else 2
    given = [f(6, 2, 7), *(const(0.4 * f(d, gates * hidden, n)) for n in (7, hidden)), const(f(d, 2 * gates * hidden)),
             np.array([6, 3], "i4"), f(d, 2, hidden), *([f(d, 2, hidden), f(d, 3 * hidden)] if op == "LSTM" else [])]
    return node(op, *given, outputs=outputs, hidden_size=hidden, direction=direction, **how)


# What the nodes and tasks are is in the tests of each template; here are those sizes again, by template.
CASES: Mapping[str, Callable[[], Given]] = {
    **{f"gemm {c}": lambda c=c: gemm(*c)[:2] for c in (
        (1, 1, 1, 1, "none"), (1, 1, 1000, 64, "bias relu"), (3, 5, 33, 17, "all"), (2, 49, 48, 96, "bias relu"),
        (1, 13, 15, 3, "none"), (1, 300, 7, 9, "all"))},
    "gemm computed": lambda: scores_of_a_projection()[:2],
    **{f"conv {name}": lambda c=c: conv(*c)[:2] for name, c in CONVOLUTIONS.items()},
    **{f"conv narrow {k}x{k}": lambda k=k: conv(2, 9, 11, 32, 1, 1, (k, k), (1, 1), (1, 1), (k // 2, k // 2), (9, 11))[:2]
       for k in (1, 3)},
    **{f"sparse {c}": lambda c=c: pruned(*gemm(*c)[:2], 16, balanced=False) for c in (
        (1, 1, 1, 10, "none"), (1, 1, 1000, 64, "bias relu"), (3, 5, 33, 17, "all"))},
    **{f"sparse {name}": lambda c=c: pruned(*conv(*c)[:2], 8) for name, c in SPARSE_CONVOLUTIONS.items()},
    **{f"sparse_scattered {c}": lambda c=c: scattered(*gemm(*c)[:2]) for c in ((2, 23, 33, 37, "all"), (1, 49, 96, 40, "none"))},
    "sparse_int_gemm": lambda: pruned_int(*int_gemm(1, 23, 37, 24, top=127, epilogue="none"), 16),
    **{f"sparse_int_conv {name}": lambda c=c: pruned_int(*int_conv(*c, top=127, plain=True), 8, balanced=False)
       for name, c in SPARSE_INT_CONVOLUTIONS.items()},
    **{f"winograd {name}": lambda c=c: winograd(*c)[:2] for name, c in WINOGRAD.items()},
    **{f"depthwise {name}": lambda c=c: depthwise(*c)[:2] for name, c in DEPTHWISE.items()},
    **{f"int_gemm {c}": lambda c=c: int_gemm(*c, epilogue="none") for c in (
        (1, 1, 1, 1, 0, 127), (3, 5, 33, 17, 60, 127), (2, 49, 48, 96, 255, 255), (1, 300, 7, 9, 3, 127))},
    **{f"int_conv {name}": lambda c=c: int_conv(*c, top=127, plain=True) for name, c in CONVOLUTIONS.items()},
    **{f"int_depthwise {name}": lambda c=c: int_depthwise(*c)[:2] for name, c in DEPTHWISE.items()},
    **{f"attention {c}": lambda c=c: attention(*c)[:2] for c in (
        (1, 1, 1, 1, 1, 1), (2, 3, 1, 77, 64, 64), (1, 2, 7, 16, 37, 5), (2, 2, 13, 130, 80, 48), (1, 1, 33, 3, 16, 37))},
    "attention causal, masked": lambda: attention(1, 2, 45, 621, 20, 36, mask=f(1, 1, 45, 621) * 20, causal=1)[:2],
    **{f"softmax {axis}": node("Softmax", f(9, 7, 37), axis=axis) for axis in range(3)},
    "layer normalisation": node("LayerNormalization", f(4, 5, 33), f(33), f(33)),
    "group normalisation": node("GroupNormalization", f(2, 12, 5, 7), f(12), f(12), shape=(2, 12, 5, 7), num_groups=4),
    **{f"mean {axes}": node("ReduceMean", f(4, 11, 37), const(axes)) for axes in ([0], [1], [0, 2], [0, 1, 2])},
    **{f"{op} {dtype}": node(op, i(-5, 5, (5, 3, 35)).astype(dtype), const([axis])) for op, dtype, axis in (
        ("ReduceSum", "f8", 2), ("ReduceProd", "i8", 1), ("ReduceMax", "f2", 0), ("ReduceMin", "i4", 2), ("ReduceMax", "u1", 1))},
    "position of the largest": node("ArgMax", i(-3, 4, (5, 6, 53)).astype("f4"), axis=2, select_last_index=1),
    "maximum of windows": node("NhwcMaxPool", f(1, 11, 13, 21), shape=(1, 5, 13, 21), kernel_shape=[3, 3], strides=[2, 1],
                               pads=[1, 1, 0, 1]),
    "mean of windows": node("NhwcAveragePool", f(2, 11, 13, 20), shape=(2, 6, 11, 20), kernel_shape=[2, 5], strides=[2, 1],
                            pads=[1, 1, 0, 1]),
    "products of bytes": node("MatMulInteger", i(0, 256, (5, 19), "u1"), i(-128, 128, (19, 37), "i1"), const(np.uint8(7)),
                              const(np.int8(-2))),
    "products of doubles": node("MatMul", f(2, 5, 19).astype("f8"), f(2, 19, 37).astype("f8")),
    **{op: node(op, f(3, 5, 41) * 3) for op in (
        "Gelu", "Erf", "Sigmoid", "Tanh", "Softplus", "Mish", "Sin", "Round", "Sign")},
    **{f"{op} of halves": node(op, f(3, 5, 41).astype("f2"), *more) for op, *more in (
        ("Relu",), ("Clip", const(np.float16(-1)), const(np.float16(0.5))), ("Greater", f(41).astype("f2")), ("Neg",),
        ("Max", f(5, 41).astype("f2")), ("IsNaN",), ("Mul", f(41).astype("f2")), ("Sigmoid",), ("Floor",))},
    "position of the smallest half": node("ArgMin", f(5, 6, 53).astype("f2"), axis=1),
    "largest halves": node("TopK", f(3, 33).astype("f2"), const([5]), outputs=2),
    "power": node("Pow", np.abs(f(5, 19)) + np.float32(0.5), f(5, 19)),
    "greater": node("Greater", f(5, 19), f(5, 1)),
    "where": node("Where", i(0, 2, (3, 1, 19)).astype(bool), f(3, 7, 19), f(19)),
    "remainder": node("Mod", i(-9, 9, (5, 19)), i(1, 5, (5, 19))),
    **{f"cast {a} {b}": node("Cast", f(3, 37).astype(a), to=to) for a, b, to in (
        ("f4", "f2", 10), ("f4", "bool", 9), ("f2", "f4", 1), ("f8", "i8", 7), ("f4", "i4", 6), ("f8", "f4", 1))},
    **{f"transpose {perm}": node("Transpose", f(*shape), perm=perm) for shape, perm in (
        ((37, 53), [1, 0]), ((2, 3, 40, 50), [0, 2, 3, 1]), ((2, 20, 15, 3), [0, 3, 1, 2]), ((5, 6, 7), [2, 1, 0]))},
    "transpose bytes": node("Transpose", i(0, 256, (21, 34), "u1"), perm=[1, 0]),
    "pad": node("Pad", f(9, 13), const([2, 3, 1, 4]), const(np.float32(1.5))),
    "gather": node("Gather", f(50, 33), i(0, 50, (4, 6)), axis=0),
    "resize": node("Resize", f(1, 3, 5, 7), None, None, const([1, 3, 10, 14]), mode="linear"),
    **{f"sum along {axis}": node("CumSum", f(3, 37, 5), const(np.int64(axis)), exclusive=axis % 2, reverse=axis // 2)
       for axis in range(3)},
    "sum of integers along an axis": node("CumSum", i(-9, 9, (5, 19)), const(np.int64(0))),
    **{f"largest {shape}": node("TopK", i(-20, 20, shape).astype(dtype), const([k]), outputs=2, axis=axis, largest=largest)
       for shape, axis, k, dtype, largest in (((3, 33), 1, 4, "f4", 1), ((100, 3), 0, 100, "i8", 0), ((2, 1, 3), 1, 1, "f4", 0))},
    "scatter elements": node("ScatterElements", f(4, 5, 37), i(-4, 4, (3, 5, 36)), f(3, 5, 36), axis=0, reduction="add"),
    **{f"scatter {depth} deep": node("ScatterND", f(4, 5, 19), i(-4, 4, (2, 6, depth)), f(2, 6, *(4, 5, 19)[depth:]),
                                     reduction="add" if depth < 3 else "max") for depth in (1, 2, 3)},
    "lstm": recurrent("LSTM", 4, "bidirectional", 19), "gru": recurrent("GRU", 3, "reverse", 32),
    "gru, reset first": recurrent("GRU", 3, "bidirectional", 5, linear_before_reset=1), "rnn": recurrent("RNN", 1, "forward", 16),
}


# Of cases that are alike (by the first word), one in three stands for the others where there is little time.
FEW = [name for _, alike in itertools.groupby(CASES, lambda name: name.split()[0]) for name in list(alike)[::3]]


def maker(name: str, task: Task, device: Device) -> Template:
    found = (Winograd() if name.startswith("winograd") else
             next(t for t in makers(task, device) if t.skips_zeros) if name.startswith("sparse") else choose(task, device))
    assert found is not None
    return found


def some(template: Template, task: Task, device: Device, draws: int) -> Iterator[Knobs]:
    """The choice by default, those with the smallest and the largest of every knob, and `draws` between."""
    every = list(template.space(task, device).candidates())
    drawn = random.Random(len(every)).sample(every, min(draws, len(every)))
    yield from dict.fromkeys((template.default(task, device), every[0], every[-1], *drawn))


def edges(name: str, task: Task, arrays: Mapping[int, np.ndarray]) -> dict[int, np.ndarray]:
    """The arrays, with zeros, denormals, large numbers, infinities and NaNs here and there in floats that come at run time."""
    rng = np.random.default_rng(zlib.crc32(name.encode()))
    finite = [0.0, -0.0, 1e-40, -1e-45, 1e-30, 3e4, -3e4]
    # Winograd adds what its definition does not; zeros that are skipped make no NaN of an infinity; what a NaN is less than, and
    # which integer, nobody says; no weight of attention is exactly 0.
    calm = name.startswith(("winograd", "sparse", "largest", "position", "maximum", "ReduceM", "cast f4 i4", "cast f8 i8"))
    values = task.operands.get("v")
    made = dict(arrays)
    for n, a in arrays.items():
        if task.buffers[n].role == "input" and a.dtype.kind == "f":
            calm_here = calm or (values is not None and values.value == n)
            odd = np.array(finite if calm_here else [*finite, np.inf, -np.inf, np.nan])
            made[n] = np.where(rng.random(a.shape) < 0.05, rng.choice(odd, a.shape), a).astype(a.dtype)
    return made


def check(name: str, device: Device, knobs: Callable[[Template, Task], Iterable[Knobs]]) -> None:
    task, arrays = CASES[name]()
    template = maker(name, task, device)
    tolerance = 2e-3 if any(b.dtype == "float16" for b in task.buffers) else 2e-5
    given = {"random numbers": arrays, "edges": edges(name, task, arrays)}
    with np.errstate(all="ignore"):
        wants = {kind: interpreted(task, a) for kind, a in given.items()}
    for k in knobs(template, task):
        kernel = Built(template, task, device, k)
        cuts = sorted({0, min(1, kernel.tiles), min(3, kernel.tiles), kernel.tiles})
        for kind, values in given.items():
            try:
                assert_close(kernel(values, reversed(list(itertools.pairwise(cuts)))), wants[kind], tolerance)
            except AssertionError as e:
                raise AssertionError(f"{template.name} {k} on {kind}: {e}") from None


# Run on WASM by tests of their own (test_coded, test_coded_model, test_pair), as numpy's meaning of them is not in `interpreted`;
# convolutions of codes are floats' when they run.
ELSEWHERE = {"f32-pair-fused", "f32-gemm-coded", "f32-conv-coded", "f32-conv-narrow-coded", "f32-depthwise-coded"}


def test_no_template_is_left_out() -> None:
    for names in (CASES, FEW):
        assert {maker(name, CASES[name]()[0], WASM).name for name in names} == {t.name for t in TEMPLATES} - ELSEWHERE


@pytest.mark.parametrize("name", FEW)
def test_relaxed_simd(name: str) -> None:
    check(name, WASM, lambda template, task: some(template, task, WASM, 0))


@pytest.mark.parametrize("name", FEW)
def test_simd(name: str) -> None:
    check(name, SIMD, lambda template, task: [template.default(task, SIMD)])


@pytest.mark.slow
@pytest.mark.parametrize("device", [WASM, SIMD], ids=lambda d: d.name)
@pytest.mark.parametrize("name", CASES)
def test_all(name: str, device: Device) -> None:
    check(name, device, lambda template, task: some(template, task, device, 12))
