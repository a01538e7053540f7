"""Convolutions of bytes against numpy's exact ones: every kind of stride, dilation, padding and group, extremes, every
instruction that can run here."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from burnish.schedules import expr as x
from burnish.schedules.task import Buffer, Store, Task
from burnish.schedules.templates import choose
from burnish.schedules.templates.int_conv import IntConv

from .harness import Built, interpreted, run
from .test_conv import CASES, INDEX
from .test_dot import RUNS, VARIANTS, ZEN5
from .test_int_gemm import ACC, equal, requantized

RNG = np.random.default_rng(19)


def conv(n, ih, iw, ic, oc, groups, k, s, d, p, out, zero=9, top=255, plain=False, more=0):
    """(task, arrays); arguments as of `test_conv.conv`. plain: the sums themselves; more: channels of the map that are not read,
    and whose bytes are 0xFF."""
    a = RNG.integers(0, top + 1, (n, ih, iw, groups * ic)).astype("u1")
    w = RNG.integers(-128, 128, (groups, *k, ic, oc)).astype("i1")
    arrays = {0: np.pad(a, [(0, 0)] * 3 + [(0, more)], constant_values=255), 1: w}
    shape, value, dtype = (n, *out, groups * oc), ACC, "int32"
    if not plain:
        arrays |= {2: (RNG.random(groups * oc) / (40 * (ic * k[0] * k[1])**0.5)).astype("f4"),
                   3: RNG.standard_normal(groups * oc).astype("f4") * 9}
        value, dtype = requantized(ACC, *(x.load(b, INDEX[3:], "float32") for b in (2, 3)), 100, top), "uint8"
    buffers = [Buffer(v.shape, str(v.dtype), "constant" if i else "input") for i, v in arrays.items()]
    params = dict(zip(("n", "ih", "iw", "ic", "oh", "ow", "oc", "groups", "kh", "kw", "sh", "sw", "dh", "dw", "pt", "pl"),
                      (n, ih, iw, ic, *out, oc, groups, *k, *s, *d, *p), strict=True))
    return Task("conv", (*buffers, Buffer(shape, dtype, "output")), (Store(len(buffers), shape, INDEX, value),),
                {**params, "x": 0, "w": 1, "zero": zero, "top": top}), arrays


def oracle(task: Task, arrays: dict[int, np.ndarray]) -> np.ndarray:
    """Of the channels that are read."""
    channels = task.params["groups"] * task.params["ic"]
    return interpreted(task, {**arrays, 0: arrays[0][..., :channels]})[0]


@pytest.mark.parametrize("plain", [True, False], ids=["sums", "requantized"])
@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_shapes(case, plain):
    task, arrays = conv(*case, plain=plain, zero=200 if plain else 9)
    assert isinstance(choose(task, ZEN5), IntConv)
    (got,) = run(IntConv(), task, arrays, ZEN5, cuts=(1, 3))
    equal(got, oracle(task, arrays))


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_channels_of_wider_maps(case):
    task, arrays = conv(*case, more=3)
    (got,) = run(IntConv(), task, arrays, ZEN5, cuts=(1, 3))
    equal(got, oracle(task, arrays))


@pytest.mark.parametrize("name", RUNS)
def test_instructions(name):
    """The first layer copies its rows and fills no step, dilated taps are read in place and their steps byte by byte."""
    device, top, _ = VARIANTS[name]
    for case in ("first layer", "1x1 stride", "groups"):
        task, arrays = conv(*CASES[case], zero=top // 2, top=top, plain=True)
        kernel = Built(IntConv(), task, device)
        for given in (arrays, {0: np.full_like(arrays[0], top), 1: np.full_like(arrays[1], -128)}):
            (got,) = kernel(given, [(1, kernel.tiles), (0, 1)])
            equal(got, oracle(task, given))


def test_random_candidates():
    task, arrays = conv(*CASES["3x3"])
    want = oracle(task, arrays)
    candidates = list(IntConv().space(task, ZEN5).candidates())
    for n in RNG.choice(len(candidates), 5, replace=False):
        (got,) = run(IntConv(), task, arrays, ZEN5, candidates[n], cuts=(1, 2))
        equal(got, want)


def test_what_it_refuses():
    task, _ = conv(*CASES["3x3"])
    floats = tuple(dataclasses.replace(b, dtype="float32") for b in task.buffers)
    assert IntConv().refuses(dataclasses.replace(task, buffers=floats), ZEN5)
    assert IntConv().refuses(dataclasses.replace(task, params={**task.params, "pl": -1}), ZEN5)
    assert IntConv().refuses(task, ZEN5) is None
