"""Depthwise convolution of bytes against numpy's exact sums: edge and odd sizes, extremes, zero points, every dot product."""

import itertools

import numpy as np
import pytest
from burnish.schedules import expr as x
from burnish.schedules.task import Buffer, Store, Task
from burnish.schedules.templates.int_depthwise import IntDepthwise, Window

from .harness import WASM, run
from .test_conv import INDEX, part
from .test_depthwise import CASES
from .test_dot import RUNS, VARIANTS, ZEN5


def sums(a, w, zero, s, d, p, out):
    """int64 [n,oh,ow,c]: the definition, tap by tap."""
    total = np.zeros((a.shape[0], *out, a.shape[3]), "i8")
    for tap in itertools.product(*map(range, w.shape[:2])):
        y, x_ = (np.arange(out[n]) * s[n] - p[n] + tap[n] * d[n] for n in (0, 1))
        inside = ((y >= 0) & (y < a.shape[1]))[:, None] & ((x_ >= 0) & (x_ < a.shape[2]))
        read = a[:, y.clip(0, a.shape[1] - 1)][:, :, x_.clip(0, a.shape[2] - 1)].astype("i8") - zero
        total += read * inside[..., None] * w[tap].astype("i8")
    return total


def int_depthwise(n, ih, iw, c, k, s, d, p, out, zero=3, top=255, extreme=False):
    """(task, arrays, reference) of the sums as they are; extreme: every x and w is the least or the largest there is."""
    rng = np.random.default_rng(n + ih + c + zero)
    a, w = rng.integers(0, top + 1, (n, ih, iw, c)).astype("u1"), rng.integers(-128, 128, (*k, c)).astype("i1")
    if extreme:
        a, w = np.where(a > top // 2, top, 0).astype("u1"), np.where(w > -100, -128, 127).astype("i1")
    shape = (n, *out, c)
    buffers = Buffer(a.shape, "uint8", "input"), Buffer(w.shape, "int8", "constant"), Buffer(shape, "int32", "output")
    task = Task("depthwise", buffers, (Store(2, shape, INDEX, x.var("acc", "int32")),), {
        "n": n, "ih": ih, "iw": iw, "c": c, "oh": out[0], "ow": out[1], "kh": k[0], "kw": k[1], "sh": s[0], "sw": s[1],
        "dh": d[0], "dw": d[1], "pt": p[0], "pl": p[1], "x": 0, "w": 1, "zero": zero, "top": top})
    return task, {0: a, 1: w}, sums(a, w, zero, s, d, p, out)


@pytest.mark.parametrize("zero", [0, 128, 255])
@pytest.mark.parametrize("name", CASES)
def test_shapes(name, zero):
    task, arrays, want = int_depthwise(*CASES[name], zero=zero, extreme=zero == 255)
    (got,) = run(IntDepthwise(), task, arrays, ZEN5, cuts=(1, 3))
    np.testing.assert_array_equal(got, want)


@pytest.mark.parametrize("variant", RUNS)
def test_devices(variant):
    device, top, _ = VARIANTS[variant]
    for name, zero in (("3x3", 0), ("5x5 asymmetric", top), ("few channels", 1)):
        task, arrays, want = int_depthwise(*CASES[name], zero=zero, top=top, extreme=zero == top)
        (got,) = run(IntDepthwise(), task, arrays, device, cuts=(2,))
        np.testing.assert_array_equal(got, want)


@pytest.mark.parametrize("device", [ZEN5, WASM], ids=lambda d: d.name)
@pytest.mark.parametrize("name", ["3x3", "3x3 stride", "no padding"])
def test_random_candidates(device, name):
    task, arrays, want = int_depthwise(*CASES[name], zero=100, top=127)
    candidates = list(IntDepthwise().space(task, device).candidates())
    for n in np.random.default_rng(len(candidates)).choice(len(candidates), 3, replace=False):
        (got,) = run(IntDepthwise(), task, arrays, device, candidates[n], cuts=(1, 2))
        np.testing.assert_array_equal(got, want, err_msg=str(candidates[n]))


@pytest.mark.parametrize("name", ["3x3", "few channels", "7x7 on 7x7"])
def test_channels_of_wider_maps(name):
    part(*int_depthwise(*CASES[name]), lambda task, arrays: run(IntDepthwise(), task, arrays, ZEN5, cuts=(1, 3)))


def test_words_of_rows():
    """Two output rows of 3x3 share one word of four rows; of stride 2 they need a second one, for a row."""
    from burnish.schedules.templates.depthwise import Shape

    close = Window(Shape.of(int_depthwise(*CASES["3x3"])[0]), 2, 4)
    assert close.taps == (((0, 1, 2, None),), ((None, 0, 1, 2),)) and close.products == 2
    apart = Window(Shape.of(int_depthwise(*CASES["3x3 stride"])[0]), 2, 4)
    assert apart.offsets == (0, 1, 2, 3, 4) and apart.products == 3
