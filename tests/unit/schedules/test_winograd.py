"""Winograd convolution against onnxruntime, at edge and odd sizes, on AVX-512, AVX2 and wasm."""

import dataclasses

import numpy as np
import pytest
from burnish.schedules import expr as x
from burnish.schedules.candidate import default, options
from burnish.schedules.features import NAMES
from burnish.schedules.task import Buffer, Store
from burnish.schedules.templates.conv import DirectConv
from burnish.schedules.templates.winograd import Winograd
from burnish.schedules.templates.winograd_transform import weight_matrix

from .harness import AVX2, NEON, WASM, ZEN5, Built, run
from .test_conv import INDEX, conv, part

RNG = np.random.default_rng(13)
TOLERANCE = 1e-5        # of the output's scale


def case(n, ih, iw, ic, oc, pads=(1, 1), out=None, **how):
    """A 3x3 convolution as of test_conv; out: as many rows and columns as there are inputs where None."""
    return conv(n, ih, iw, ic, oc, 1, (3, 3), (1, 1), (1, 1), pads, out or (ih, iw), **how)


def close(got, want):
    np.testing.assert_allclose(got, want, rtol=0, atol=TOLERANCE * max(1, np.abs(want).max()))


def pick(task, device, **knobs):
    """The choice of least cost among those that have these knobs."""
    choices = [k for k in Winograd().space(task, device).candidates() if knobs.items() <= dict(k).items()]
    return min(choices, key=lambda k: Winograd().cost(task, k, device))


#    n  ih  iw  ic  oc  pads    out
CASES = {
    "layer": (1, 14, 14, 64, 64),
    "odd": (2, 13, 17, 19, 37),
    "first layer": (1, 21, 30, 3, 24),
    "one pixel": (1, 1, 1, 1, 1),
    "no padding": (1, 9, 12, 7, 13, (0, 0), (7, 10)),
    "uneven padding": (1, 10, 11, 8, 16, (0, 1), (9, 12)),
    "padding beyond the map": (1, 2, 3, 5, 6, (4, 6), (8, 13)),
    "many images": (5, 4, 4, 32, 48),
    "a row": (1, 1, 40, 16, 17),
}


@pytest.mark.parametrize("m", [2, 4])
@pytest.mark.parametrize("name", CASES)
def test_shapes(name, m):
    task, arrays, want = case(*CASES[name])
    (got,) = run(Winograd(), task, arrays, knobs=pick(task, ZEN5, m=m), cuts=(1, 3))
    close(got, want)


@pytest.mark.parametrize("m", [2, 4])
@pytest.mark.parametrize("name", ["odd", "no padding", "padding beyond the map", "a row"])
def test_channels_of_wider_maps(name, m):
    part(*case(*CASES[name]), lambda task, arrays: run(Winograd(), task, arrays, knobs=pick(task, ZEN5, m=m), cuts=(1, 3)))


def test_last_group_without_a_whole_vector():
    """72 channels in groups of 64: the second has the eight left over."""
    task, arrays, want = case(1, 8, 8, 8, 72)
    (got,) = run(Winograd(), task, arrays, knobs=pick(task, ZEN5, vectors=2, panels=2))
    close(got, want)


@pytest.mark.parametrize("device", [AVX2, WASM], ids=lambda d: d.name)
@pytest.mark.parametrize("name", ["layer", "odd"])
def test_devices(device, name):
    task, arrays, want = case(*CASES[name])
    (got,) = run(Winograd(), task, arrays, device, cuts=(1,))
    close(got, want)


def test_builds_for_aarch64():
    task, _, _ = case(*CASES["odd"])
    assert Built(Winograd(), task, NEON).path.stat().st_size > 1000


@pytest.mark.parametrize("m", [2, 4])
def test_input_that_is_part_of_more_channels(m):
    """X is channels 0 … 19 of 25."""
    task, arrays, want = case(1, 9, 10, 20, 24)
    whole = RNG.standard_normal((1, 9, 10, 25)).astype("f4")
    whole[..., :20] = arrays[0]
    task = dataclasses.replace(task, buffers=(Buffer(whole.shape, "float32", "input"), *task.buffers[1:]))
    (got,) = run(Winograd(), task, arrays | {0: whole}, knobs=pick(task, ZEN5, m=m))
    close(got, want)


@pytest.mark.parametrize("m", [2, 4])
def test_transformed_weights(m):
    """U against float64, of weights that do not fill whole groups of channels."""
    task, arrays, _ = case(1, 8, 8, 33, 50)
    knobs = pick(task, ZEN5, m=m, vectors=2, panels=1)
    shipped = Winograd().pack(task, knobs, ZEN5)[1](arrays[1])
    (make,) = Winograd().prepare(task, knobs, ZEN5).values()
    made = default(make, ZEN5)
    (u,) = run(made.maker, make, {0: shipped}, ZEN5, made.knobs, cuts=(1,))
    g = weight_matrix(m)
    want = np.einsum("ir,js,rsco->ijco", g, g, arrays[1][0].astype("f8")).reshape((m + 2)**2, 33, 50)
    want = np.pad(want, ((0, 0), (0, 0), (0, 14))).reshape(-1, 33, 2, 32).transpose(2, 0, 1, 3)
    np.testing.assert_allclose(u.reshape(want.shape), want, rtol=0, atol=3e-7 * np.abs(want).max())
    assert shipped.nbytes < 1.4 * arrays[1].nbytes < u.nbytes


def test_features_are_known():
    task, _, _ = case(*CASES["odd"])
    knobs = Winograd().default(task, ZEN5)
    assert Winograd().features(task, knobs, ZEN5).keys() <= set(NAMES)


def test_random_candidates():
    task, arrays, want = case(2, 15, 15, 40, 72)
    candidates = list(Winograd().space(task, ZEN5).candidates())
    assert {k.m for k in candidates} == {2, 4}
    for n in RNG.choice(len(candidates), 8, replace=False):
        (got,) = run(Winograd(), task, arrays, knobs=candidates[n], cuts=(1, 2))
        close(got, want)


def test_heavy_epilogue_that_writes_two_buffers():
    """silu of the sum, and the sum itself with its channels apart: [n][oc/8][oh][ow][8]."""
    task, arrays, _ = case(1, 11, 9, 12, 40)
    total = x.var("acc", "float32") + x.load(2, INDEX[3:], "float32") + x.load(3, INDEX, "float32")
    shape = task.buffers[4].shape
    apart = (shape[0], shape[3] // 8, shape[1], shape[2], 8)
    index = (INDEX[0], x.floordiv(INDEX[3], 8), INDEX[1], INDEX[2], x.floormod(INDEX[3], 8))
    task = dataclasses.replace(task, buffers=(*task.buffers, Buffer(apart, "float32", "output")), stores=(
        Store(4, shape, INDEX, total * x.unary("sigmoid", total)), Store(5, shape, index, total)))
    silu, plain = run(Winograd(), task, arrays, cuts=(1,))
    want = run(DirectConv(), task, arrays)
    close(silu, want[0])
    close(plain, want[1])


@pytest.mark.parametrize("h, c", [(56, 64), (28, 128), (14, 256), (7, 512)])
def test_resnet(h, c):
    """Tens to a few hundred candidates, threads that have the same to do, scratch of about L2, errors of float32."""
    device = dataclasses.replace(ZEN5, cores=2)
    task, arrays, want = case(1, h, h, c, c)
    choices = list(Winograd().space(task, device).candidates())
    assert 20 <= len(choices) <= 300
    knobs = Winograd().default(task, device)
    kernel = Built(Winograd(), task, device, knobs)
    assert kernel.tiles % 2 == 0
    assert Winograd().scratch(task, knobs, device) <= 1.25 * device.l2_kib * 1024
    (got,) = kernel(arrays, [(kernel.tiles // 2, kernel.tiles), (0, kernel.tiles // 2)])
    close(got, want)
    assert Winograd().cost(task, knobs, device) < DirectConv().cost(task, DirectConv().default(task, device), device)


@pytest.mark.parametrize("changes, why", [
    ({"k": (3, 1), "p": (1, 0)}, "3x3"), ({"s": (2, 1), "out": (4, 8)}, "stride"), ({"d": (1, 2), "p": (1, 2)}, "dilation"),
    ({"groups": 2}, "groups")])
def test_refuses(changes, why):
    how = {"groups": 1, "k": (3, 3), "s": (1, 1), "d": (1, 1), "p": (1, 1), "out": (8, 8)} | changes
    task, _, _ = conv(1, 8, 8, 4, 4, *how.values())
    assert why in Winograd().refuses(task, ZEN5)


def test_the_tuner_may_try_it_unless_exact():
    task, _, _ = case(*CASES["layer"])
    assert "f32-conv-winograd" in {c.template for c in options(task, ZEN5)}
    assert "f32-conv-winograd" not in {c.template for c in options(task, ZEN5, exact=True)}
