"""Direct and depthwise convolution against onnxruntime, at random, edge and odd sizes, on AVX-512, AVX2 and wasm."""

import dataclasses

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from burnish.schedules import expr as x
from burnish.schedules.task import Buffer, Store, Task
from burnish.schedules.templates import choose
from burnish.schedules.templates.conv import DirectConv
from burnish.schedules.templates.conv_narrow import NarrowConv

from .harness import AVX2, FILL, WASM, ZEN5, run

INDEX = x.indices(4)
RNG = np.random.default_rng(11)


def oracle(a, w, groups, strides, dilations, pads, out):
    """onnxruntime's Conv of NHWC `a` and OIHW `w`; pads top, left; the rest follows from `out` (h, w)."""
    ends = [max(0, (o - 1) * s + (k - 1) * d + 1 - i - p) for o, s, k, d, i, p in
            zip(out, strides, w.shape[2:], dilations, a.shape[1:3], pads, strict=True)]
    node = onnx.helper.make_node("Conv", ["x", "w"], ["y"], group=groups, strides=strides, dilations=dilations,
                                 pads=[*pads, *ends])
    info = [onnx.helper.make_tensor_value_info(n, 1, None) for n in ("x", "w", "y")]
    model = onnx.helper.make_model(onnx.helper.make_graph([node], "g", info[:2], info[2:]), ir_version=8,
                                   opset_imports=[onnx.helper.make_opsetid("", 13)])
    y = ort.InferenceSession(model.SerializeToString()).run(None, {"x": a.transpose(0, 3, 1, 2).copy(), "w": w})[0]
    return y.transpose(0, 2, 3, 1)[:, :out[0], :out[1]]


def conv(n, ih, iw, ic, oc, groups, k, s, d, p, out, residual=True):
    """(task, arrays, reference) of relu(conv + bias [+ residual]); ic, oc per group; k, s, d, p, out: (vertical, horizontal)."""
    a = RNG.standard_normal((n, ih, iw, groups * ic)).astype("f4")
    w = RNG.standard_normal((groups * oc, ic, *k)).astype("f4") / np.float32((ic * k[0] * k[1])**0.5)
    shape = (n, *out, groups * oc)
    bias, res = RNG.standard_normal(groups * oc).astype("f4"), RNG.standard_normal(shape).astype("f4")
    packed = np.ascontiguousarray(w.reshape(groups, oc, ic, *k).transpose(0, 3, 4, 2, 1))
    buffers = [Buffer(v.shape, "float32", r) for v, r in ((a, "input"), (packed, "constant"), (bias, "constant"), (res, "input"))]
    value = x.var("acc", "float32") + x.load(2, INDEX[3:], "float32")
    if residual:
        value = value + x.load(3, INDEX, "float32")
    task = Task("conv", (*buffers, Buffer(shape, "float32", "output")), (Store(4, shape, INDEX, x.maximum(value, 0)),), {
        "n": n, "ih": ih, "iw": iw, "ic": ic, "oh": out[0], "ow": out[1], "oc": oc, "groups": groups, "kh": k[0], "kw": k[1],
        "sh": s[0], "sw": s[1], "dh": d[0], "dw": d[1], "pt": p[0], "pl": p[1], "x": 0, "w": 1})
    want = oracle(a, w, groups, s, d, p, out) + bias + (res if residual else 0)
    return task, {0: a, 1: packed, 2: bias, 3: res}, np.maximum(want, 0)


def close(got, want):
    np.testing.assert_allclose(got, want, rtol=0, atol=2e-5 * max(1, np.abs(want).max()))


def part(task, arrays, want, run, more=3):
    """The task as it reads the first channels of a wider map and stores the first of another: `run` may read and store nothing
    beside them."""
    def wider(b):
        return dataclasses.replace(b, shape=(*b.shape[:-1], b.shape[-1] + more))

    output = len(task.buffers) - 1
    buffers = [wider(b) if n in (task.params["x"], output) else b for n, b in enumerate(task.buffers)]
    fill = [(0, 0)] * 3 + [(0, more)]
    task = dataclasses.replace(task, buffers=tuple(buffers))
    (got,) = run(task, {**arrays, 0: np.pad(arrays[0], fill, constant_values=np.nan)})
    close(got[..., :-more], want)
    assert (np.ascontiguousarray(got[..., -more:]).view("u1") == FILL).all()


#    n  ih  iw  ic  oc groups   k       s       d       p       out
CASES = {
    "first layer": (1, 31, 29, 3, 24, 1, (7, 7), (2, 2), (1, 1), (3, 3), (16, 15)),
    "3x3": (2, 14, 15, 19, 37, 1, (3, 3), (1, 1), (1, 1), (1, 1), (14, 15)),
    "1x1": (2, 5, 7, 33, 50, 1, (1, 1), (1, 1), (1, 1), (0, 0), (5, 7)),
    "1x1 stride": (1, 9, 9, 8, 16, 1, (1, 1), (2, 2), (1, 1), (0, 0), (5, 5)),
    "patches": (1, 16, 24, 3, 48, 1, (4, 4), (4, 4), (1, 1), (0, 0), (4, 6)),
    "groups": (1, 8, 8, 5, 9, 3, (3, 3), (1, 1), (1, 1), (1, 1), (8, 8)),
    "dilated": (1, 11, 10, 4, 17, 1, (3, 2), (1, 2), (2, 3), (2, 1), (11, 5)),
    "one wide": (1, 30, 1, 6, 20, 1, (3, 1), (1, 1), (1, 1), (1, 0), (30, 1)),
    "one pixel": (1, 1, 1, 1, 1, 1, (3, 3), (1, 1), (1, 1), (1, 1), (1, 1)),
    "padding beyond the map": (1, 2, 3, 2, 3, 1, (5, 5), (1, 1), (3, 3), (6, 6), (2, 3)),
    "no padding": (1, 9, 12, 7, 13, 1, (3, 3), (1, 1), (1, 1), (0, 0), (7, 10)),
}


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_shapes(case):
    task, arrays, want = conv(*case)
    (got,) = run(DirectConv(), task, arrays, cuts=(1, 3))
    close(got, want)


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_channels_of_wider_maps(case):
    part(*conv(*case), lambda task, arrays: run(DirectConv(), task, arrays, cuts=(1, 3)))


@pytest.mark.parametrize("device", [AVX2, WASM], ids=lambda d: d.name)
@pytest.mark.parametrize("name", ["first layer", "3x3", "1x1", "groups"])
def test_devices(device, name):
    task, arrays, want = conv(*CASES[name])
    (got,) = run(DirectConv(), task, arrays, device, cuts=(2,))
    close(got, want)


def test_random_candidates():
    task, arrays, want = conv(*CASES["3x3"])
    candidates = list(DirectConv().space(task, ZEN5).candidates())
    for n in RNG.choice(len(candidates), 5, replace=False):
        (got,) = run(DirectConv(), task, arrays, knobs=candidates[n], cuts=(1, 2))
        close(got, want)


@pytest.mark.parametrize("device", [ZEN5, WASM], ids=lambda d: d.name)
@pytest.mark.parametrize("oc, k, s, p, out", [(1, (3, 3), (1, 1), (1, 1), (9, 11)), (1, (1, 1), (1, 1), (0, 0), (9, 11)),
                                              (3, (3, 3), (2, 1), (0, 1), (4, 11))])
def test_few_output_channels(device, oc, k, s, p, out):
    if oc * 4 > device.lanes:
        pytest.skip("not narrow on this device")
    task, arrays, want = conv(2, 9, 11, 32, oc, 1, k, s, (1, 1), p, out)
    assert isinstance(choose(task, device), NarrowConv)
    (got,) = run(NarrowConv(), task, arrays, device, cuts=(1,))
    close(got, want)


@pytest.mark.parametrize("k, p", [((3, 3), (1, 1)), ((1, 1), (0, 0))])
def test_few_output_channels_of_wider_maps(k, p):
    case = conv(2, 9, 11, 32, 1, 1, k, (1, 1), (1, 1), p, (9, 11))
    part(*case, lambda task, arrays: run(NarrowConv(), task, arrays, cuts=(1,)))


def test_few_output_channels_without_padding_in_a_wider_map():
    """The taps of a row do not run on in memory: another template does it."""
    task, *_ = conv(1, 9, 11, 32, 1, 1, (3, 3), (1, 1), (1, 1), (0, 0), (7, 9))
    assert isinstance(choose(task, ZEN5), NarrowConv)
    wider = dataclasses.replace(task.buffers[0], shape=(1, 9, 11, 35))
    assert NarrowConv().refuses(dataclasses.replace(task, buffers=(wider, *task.buffers[1:])), ZEN5)
