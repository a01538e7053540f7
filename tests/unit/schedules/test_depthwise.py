"""Depthwise convolution against onnxruntime, at edge and odd sizes, on AVX-512, AVX2 and wasm."""

import numpy as np
import pytest
from burnish.schedules import expr as x
from burnish.schedules.task import Buffer, Store, Task
from burnish.schedules.templates.depthwise import Depthwise

from .harness import AVX2, WASM, ZEN5, run
from .test_conv import INDEX, close, oracle, part

RNG = np.random.default_rng(5)


def depthwise(n, ih, iw, c, k, s, d, p, out):
    """(task, arrays, reference) of clip(conv + bias, 0, 6)."""
    a, w = RNG.standard_normal((n, ih, iw, c)).astype("f4"), RNG.standard_normal((c, 1, *k)).astype("f4")
    bias, shape = RNG.standard_normal(c).astype("f4"), (n, *out, c)
    packed = np.ascontiguousarray(w.reshape(c, *k).transpose(1, 2, 0))
    buffers = [Buffer(v.shape, "float32", r) for v, r in ((a, "input"), (packed, "constant"), (bias, "constant"))]
    value = x.clip(x.var("acc", "float32") + x.load(2, INDEX[3:], "float32"), 0, 6)
    task = Task("depthwise", (*buffers, Buffer(shape, "float32", "output")), (Store(3, shape, INDEX, value),), {
        "n": n, "ih": ih, "iw": iw, "c": c, "oh": out[0], "ow": out[1], "kh": k[0], "kw": k[1], "sh": s[0], "sw": s[1],
        "dh": d[0], "dw": d[1], "pt": p[0], "pl": p[1], "x": 0, "w": 1})
    return task, {0: a, 1: packed, 2: bias}, np.clip(oracle(a, w, c, s, d, p, out) + bias, 0, 6)


#    n  ih  iw  c    k       s       d       p       out
CASES = {
    "3x3": (2, 13, 17, 40, (3, 3), (1, 1), (1, 1), (1, 1), (13, 17)),
    "3x3 stride": (1, 14, 15, 24, (3, 3), (2, 2), (1, 1), (1, 1), (7, 8)),
    "7x7 on 7x7": (1, 7, 7, 33, (7, 7), (1, 1), (1, 1), (3, 3), (7, 7)),
    "7x7": (1, 17, 23, 48, (7, 7), (1, 1), (1, 1), (3, 3), (17, 23)),
    "5x5 asymmetric": (1, 12, 12, 18, (5, 5), (2, 2), (1, 1), (1, 1), (6, 6)),
    "few channels": (1, 6, 9, 7, (3, 3), (1, 1), (1, 1), (1, 1), (6, 9)),
    "wide edge": (1, 45, 45, 16, (3, 3), (1, 1), (18, 18), (18, 18), (45, 45)),
    "long row of taps": (1, 1, 60, 16, (1, 31), (1, 1), (1, 1), (0, 15), (1, 60)),
    "no padding": (1, 9, 12, 20, (3, 2), (1, 1), (2, 2), (0, 0), (5, 10)),
    "one pixel": (1, 1, 1, 1, (3, 3), (1, 1), (1, 1), (1, 1), (1, 1)),
    "taps all outside": (1, 2, 2, 16, (3, 3), (1, 1), (1, 1), (4, 4), (8, 8)),
}


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_shapes(case):
    task, arrays, want = depthwise(*case)
    (got,) = run(Depthwise(), task, arrays, cuts=(1, 3))
    close(got, want)


@pytest.mark.parametrize("device", [AVX2, WASM], ids=lambda d: d.name)
@pytest.mark.parametrize("name", ["3x3", "3x3 stride", "7x7", "few channels"])
def test_devices(device, name):
    task, arrays, want = depthwise(*CASES[name])
    (got,) = run(Depthwise(), task, arrays, device, cuts=(2,))
    close(got, want)


def test_random_candidates():
    task, arrays, want = depthwise(*CASES["7x7"])
    candidates = list(Depthwise().space(task, ZEN5).candidates())
    for n in RNG.choice(len(candidates), 4, replace=False):
        (got,) = run(Depthwise(), task, arrays, knobs=candidates[n], cuts=(1, 2))
        close(got, want)


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_channels_of_wider_maps(case):
    part(*depthwise(*case), lambda task, arrays: run(Depthwise(), task, arrays, cuts=(1, 3)))
