"""Kernels that skip zeros against what numpy and onnxruntime make of the same weights, on AVX-512, AVX2 and wasm."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import pytest
from burnish.compiler.lower.sparsity import pattern
from burnish.schedules.candidate import default, options
from burnish.schedules.cost_model import CostModel
from burnish.schedules.device import Device
from burnish.schedules.select import pick
from burnish.schedules.task import Task
from burnish.schedules.template import Template
from burnish.schedules.templates.scattered_gemm import ScatteredGemm
from burnish.schedules.templates.sparse import Layout, thinned
from burnish.schedules.templates.sparse_conv import SparseConv
from burnish.schedules.templates.sparse_gemm import SparseGemm

from .harness import AVX2, NEON, SIMD, WASM, ZEN5, Built, interpreted, run
from .test_conv import conv
from .test_gemm import gemm, scores_of_a_projection

RNG = np.random.default_rng(17)
Given = tuple[Task, dict[int, np.ndarray]]


def pruned(task: Task, arrays: Mapping[int, np.ndarray], group: int, kept: float = 0.25, balanced: bool = True) -> Given:
    """The task with such zeros in its weights. Where not balanced, groups keep between nothing and everything."""
    w = arrays[1].reshape(-1, arrays[1].shape[-1]).copy()
    for n, at in enumerate(range(0, w.shape[1], group)):
        share = kept if balanced else (0.0, 1.0, kept / 2)[n % 3]
        zero = np.ones(len(w), bool)
        zero[RNG.permutation(len(w))[:round(share * len(w))]] = False
        w[zero, at:at + group] = 0
    arrays = {**arrays, 1: w.reshape(arrays[1].shape)}
    found = pattern(w, 1)
    params = found or {"group": group, "kept": round(kept * len(w))}
    return replace(task, params={**task.params, **params}), arrays


def check(template: Template, given: Given, device: Device = ZEN5, **how: object) -> None:
    (want,) = interpreted(*given)
    (got,) = run(template, *given, device, **how)
    np.testing.assert_allclose(got, want, rtol=0, atol=2e-5 * max(1, np.abs(want).max()))


@pytest.mark.parametrize("b, m, n, k, epilogue", [
    (1, 1, 1, 1, "none"), (1, 1, 1000, 64, "bias relu"), (1, 97, 166, 40, "all"), (3, 5, 33, 17, "all"), (1, 2, 130, 300, "all")])
@pytest.mark.parametrize("balanced", [True, False])
def test_products(b, m, n, k, epilogue, balanced):
    check(SparseGemm(), pruned(*gemm(b, m, n, k, epilogue)[:2], 16, balanced=balanced), cuts=(1, 3))


@pytest.mark.parametrize("device", [AVX2, WASM, SIMD, NEON], ids=lambda d: d.name)
@pytest.mark.parametrize("m, n, k, group", [(1, 9, 5, 4), (23, 100, 19, 32)])
def test_devices(device, m, n, k, group):
    check(SparseGemm(), pruned(*gemm(2, m, n, k, "all")[:2], group, balanced=False), device, cuts=(2,))


@pytest.mark.parametrize("group", [4, 8, 16, 32, 48, 64])
def test_every_group(group):
    check(SparseGemm(), pruned(*gemm(1, 13, 200, 40, "bias relu")[:2], group))


def test_random_candidates():
    given = pruned(*gemm(2, 37, 150, 41, "all")[:2], 32)
    candidates = list(SparseGemm().space(given[0], ZEN5).candidates())
    assert 20 < len(candidates) < 600
    for n in RNG.choice(len(candidates), 5, replace=False):
        check(SparseGemm(), given, knobs=candidates[n], cuts=(3, 4))


def test_nothing_but_zeros():
    task, arrays, _ = gemm(1, 9, 40, 16, "all")
    arrays[1][:] = 0
    task = replace(task, params={**task.params, **pattern(arrays[1], 1)})
    assert task.params["kept"] == 0
    check(SparseGemm(), (task, arrays))
    assert default(task, ZEN5).template == "f32-gemm-sparse"


def test_x_that_is_evaluated_first_and_x_of_other_strides():
    task, arrays, _ = gemm(1, 21, 48, 40)
    x = task.operands["x"]
    scaled = replace(task, operands={"x": x * 2.0})
    check(SparseGemm(), pruned(scaled, arrays, 16), cuts=(2,))
    turned = replace(task.buffers[0], shape=(1, 40, 21))
    b, m, k = x.args
    task = replace(task, buffers=(turned, *task.buffers[1:]), operands={"x": replace(x, args=(b, k, m))})
    check(SparseGemm(), pruned(task, {**arrays, 0: arrays[0].transpose(0, 2, 1).copy()}, 16), cuts=(2,))


CONVOLUTIONS = {        # as in test_conv
    "first layer": (1, 31, 29, 3, 24, 1, (7, 7), (2, 2), (1, 1), (3, 3), (16, 15)),
    "3x3": (2, 14, 15, 19, 37, 1, (3, 3), (1, 1), (1, 1), (1, 1), (14, 15)),
    "1x1": (2, 5, 7, 33, 50, 1, (1, 1), (1, 1), (1, 1), (0, 0), (5, 7)),
    "1x1 stride": (1, 9, 9, 8, 16, 1, (1, 1), (2, 2), (1, 1), (0, 0), (5, 5)),
    "dilated": (1, 11, 10, 4, 17, 1, (3, 2), (1, 2), (2, 3), (2, 1), (11, 5)),
    "no padding": (1, 9, 12, 7, 13, 1, (3, 3), (1, 1), (1, 1), (0, 0), (7, 10)),
}


@pytest.mark.parametrize("name", CONVOLUTIONS)
@pytest.mark.parametrize("balanced", [True, False])
def test_convolutions(name, balanced):
    check(SparseConv(), pruned(*conv(*CONVOLUTIONS[name])[:2], 16, balanced=balanced), cuts=(1, 3))


@pytest.mark.parametrize("name", CONVOLUTIONS)
def test_convolutions_of_wider_maps(name):
    task, arrays = pruned(*conv(*CONVOLUTIONS[name])[:2], 16)
    (want,) = interpreted(task, arrays)
    x = replace(task.buffers[0], shape=(*task.buffers[0].shape[:-1], task.buffers[0].shape[-1] + 3))
    padded = np.pad(arrays[0], [(0, 0)] * 3 + [(0, 3)], constant_values=np.nan)
    (got,) = run(SparseConv(), replace(task, buffers=(x, *task.buffers[1:])), {**arrays, 0: padded}, cuts=(2,))
    np.testing.assert_allclose(got, want, rtol=0, atol=2e-5 * np.abs(want).max())


@pytest.mark.parametrize("device", [AVX2, WASM], ids=lambda d: d.name)
@pytest.mark.parametrize("name", ["first layer", "3x3", "1x1 stride"])
def test_convolutions_on_devices(device, name):
    check(SparseConv(), pruned(*conv(*CONVOLUTIONS[name])[:2], 8, balanced=False), device, cuts=(2,))


def scattered(task: Task, arrays: Mapping[int, np.ndarray], zeros: float = 0.9) -> Given:
    w = np.where(RNG.random(arrays[1].shape) < zeros, 0, arrays[1]).astype("f4")
    params = {"group": 1, "kept": int(np.ceil(np.count_nonzero(w) / w.shape[1]))}
    return replace(task, params={**task.params, **params}), {**arrays, 1: w}


@pytest.mark.parametrize("device", [ZEN5, AVX2, WASM, NEON], ids=lambda d: d.name)
@pytest.mark.parametrize("b, m, n, k, epilogue", [(1, 16, 16, 1, "none"), (2, 23, 33, 37, "all"), (1, 49, 96, 40, "bias relu")])
def test_scattered_zeros(device, b, m, n, k, epilogue):
    check(ScatteredGemm(), scattered(*gemm(b, m, n, k, epilogue)[:2]), device, cuts=(1, 2))


def test_random_candidates_for_scattered_zeros():
    given = scattered(*gemm(1, 150, 100, 64, "all")[:2])
    assert pattern(given[1][1], 1, scattered=True) == {name: given[0].params[name] for name in ("group", "kept")}
    candidates = list(ScatteredGemm().space(given[0], ZEN5).candidates())
    for n in RNG.choice(len(candidates), 4, replace=False):
        check(ScatteredGemm(), given, knobs=candidates[n], cuts=(1, 3))


def test_scattered_zeros_are_for_their_own_kernel():
    task, _ = scattered(*gemm(1, 196, 512, 512)[:2])
    assert SparseGemm().refuses(task, ZEN5) and default(task, ZEN5).template == "f32-gemm-scattered"
    for kept in (51, 400):
        few = replace(task, params={**task.params, "kept": kept})
        assert (default(few, ZEN5).template == "f32-gemm-packed") == (kept == 400)
    for change in ({"m": 7}, {"n": 9}, {"group": 16}):
        assert ScatteredGemm().refuses(replace(task, params={**task.params, **change}), ZEN5)
    layer, *_ = conv(1, 8, 8, 5, 9, 1, (3, 3), (1, 1), (1, 1), (1, 1), (8, 8))
    assert SparseConv().refuses(replace(layer, params={**layer.params, "group": 1, "kept": 4}), ZEN5)


def test_packing_keeps_what_is_not_zero():
    w = RNG.standard_normal((30, 40)).astype("f4") * (RNG.random((30, 1)) < 0.4)
    w[:, 32:] = 0
    w[7, 39] = 5
    layout = Layout.floats(40, 16)
    packed = layout.pack(w, 10 * np.arange(30))
    rows = np.flatnonzero(w[:, 0])
    starts = packed.view("i4")[:4]
    assert starts.tolist() == [0, len(rows), 2 * len(rows), 2 * len(rows) + 1]
    weights = packed[layout.weights:layout.weights + 16 * starts[3]].reshape(-1, 16)
    assert np.array_equal(weights[len(rows):-1], w[rows, 16:32])
    assert weights[-1].tolist() == [0] * 7 + [5] + [0] * 8
    assert packed.view("i4")[-starts[3]:].tolist() == [*10 * rows, *10 * rows, 70]
    assert layout.weights % 16 == 0


def test_what_is_timed_has_the_zeros_of_the_task():
    for group in (16, 64):
        task, arrays = pruned(*gemm(1, 8, 100, 60)[:2], group)
        like = thinned(task, arrays[1] + 10, np.random.default_rng(0))
        assert pattern(like, 1) == {name: task.params[name] for name in ("group", "kept")}


def test_only_tasks_with_zeros_are_made():
    task, *_ = gemm(1, 128, 768, 768)
    assert SparseGemm().refuses(task, ZEN5)
    assert {c.template for c in options(task, ZEN5)} == {"f32-gemm-packed"}
    computed, *_ = scores_of_a_projection()
    assert SparseGemm().refuses(replace(computed, params={**computed.params, "group": 16, "kept": 4}), ZEN5)
    grouped, *_ = conv(1, 8, 8, 5, 9, 3, (3, 3), (1, 1), (1, 1), (1, 1), (8, 8))
    assert SparseConv().refuses(replace(grouped, params={**grouped.params, "group": 8, "kept": 4}), ZEN5)


@pytest.mark.parametrize("device", [ZEN5, AVX2, WASM], ids=lambda d: d.name)
def test_the_default_where_it_costs_clearly_less(device):
    task, *_ = gemm(1, 128, 768, 768)

    def template(kept):
        return default(replace(task, params={**task.params, "group": 32, "kept": kept}), device).template

    assert template(192) == template(384) == "f32-gemm-sparse"
    assert template(730) == "f32-gemm-packed"
    layer, *_ = conv(1, 28, 28, 128, 128, 1, (3, 3), (1, 1), (1, 1), (1, 1), (28, 28))
    for kept, name in ((288, "f32-conv-sparse"), (1100, "f32-conv-direct")):
        assert default(replace(layer, params={**layer.params, "group": 32, "kept": kept}), device).template == name


def test_small_code_on_neon():
    task, _ = pruned(*gemm(1, 49, 53, 37, "all")[:2], 16)
    assert Built(SparseGemm(), task, NEON).path.stat().st_size < 20_000


def test_winograd_is_not_given_up_for_few_zeros():
    """The cost model picks among the others, as always; what skips zeros has to be clearly faster than its pick."""
    ranker = CostModel.pretrained(ZEN5)
    task, *_ = conv(1, 28, 28, 128, 128, 1, (3, 3), (1, 1), (1, 1), (1, 1), (28, 28))
    for kept, template in ((115, "f32-conv-sparse"), (800, "f32-conv-winograd")):
        found = pick(replace(task, params={**task.params, "group": 32, "kept": kept}), ZEN5, [], ranker, False)
        assert found is not None and found.candidate.template == template
