"""Kernels of bytes that skip zeros against numpy's exact results, by every instruction that can run here."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import pytest
from burnish.compiler.lower.sparsity import pattern
from burnish.schedules.candidate import default
from burnish.schedules.space import Knobs
from burnish.schedules.task import Task
from burnish.schedules.templates.sparse import STEP, thinned
from burnish.schedules.templates.sparse_conv import SparseIntConv
from burnish.schedules.templates.sparse_gemm import SparseIntGemm

from .harness import Built, interpreted, run
from .test_dot import RUNS, VARIANTS, ZEN5
from .test_int_conv import conv, oracle
from .test_int_gemm import equal, gemm

RNG = np.random.default_rng(23)
Given = tuple[Task, dict[int, np.ndarray]]


def pruned(task: Task, arrays: Mapping[int, np.ndarray], group: int, balanced: bool = True) -> Given:
    """The task with whole blocks of zeros. Where not balanced, groups keep between nothing and everything."""
    w = arrays[1].reshape(-1, arrays[1].shape[-1]).copy()
    blocks = len(w) // STEP
    for n, at in enumerate(range(0, w.shape[1], group)):
        kept = round((0.3 if balanced else (0.0, 1.0, 0.15)[n % 3]) * blocks)
        zero = np.ones(blocks, bool)
        zero[RNG.permutation(blocks)[:kept]] = False
        w[np.repeat(zero, STEP), at:at + group] = 0
    arrays = {**arrays, 1: w.reshape(arrays[1].shape)}
    params = pattern(w, STEP) or {"group": group, "kept": blocks // 2}
    return replace(task, params={**task.params, **params}), arrays


@pytest.mark.parametrize("b, m, n, k, epilogue", [
    (1, 1, 1, 4, "none"), (1, 1, 1000, 64, "requantized"), (1, 97, 166, 40, "all"), (3, 5, 33, 16, "all"), (1, 300, 7, 8, "all")])
@pytest.mark.parametrize("balanced", [True, False])
def test_products(b, m, n, k, epilogue, balanced):
    task, arrays = pruned(*gemm(b, m, n, k, epilogue=epilogue), 16, balanced)
    (got,) = run(SparseIntGemm(), task, arrays, ZEN5, cuts=(1, 3))
    equal(got, interpreted(task, arrays)[0])


@pytest.mark.parametrize("group", [4, 8, 16, 32, 48, 64])
def test_every_group(group):
    task, arrays = pruned(*gemm(1, 13, 200, 40), group)
    (got,) = run(SparseIntGemm(), task, arrays, ZEN5)
    equal(got, interpreted(task, arrays)[0])


@pytest.mark.parametrize("name", RUNS)
def test_instructions(name):
    """Products and, with padding that is copied and without, convolutions; random weights and the extremes."""
    device, top, _ = VARIANTS[name]
    for template, (task, arrays) in (
            (SparseIntGemm(), pruned(*gemm(1, 23, 37, 24, zero=top // 2, top=top, epilogue="none"), 16)),
            (SparseIntConv(), pruned(*conv(1, 6, 7, 8, 40, 1, (3, 3), (1, 1), (1, 1), (1, 1), (6, 7), top // 2, top, True), 32)),
            (SparseIntConv(), pruned(*conv(1, 7, 7, 8, 24, 1, (2, 2), (2, 2), (3, 3), (0, 0), (2, 2), 5, top, True), 8, False))):
        kernel = Built(template, task, device)
        kept = arrays[1] != 0
        for given in (arrays, {0: np.full_like(arrays[0], top), 1: -128 * kept.astype("i1")}):
            (got,) = kernel(given, [(1, kernel.tiles), (0, 1)])
            equal(got, oracle(task, given) if task.family == "conv" else interpreted(task, given)[0])


CONVOLUTIONS = {        # as in test_conv
    "3x3": (2, 14, 15, 20, 37, 1, (3, 3), (1, 1), (1, 1), (1, 1), (14, 15)),
    "1x1": (2, 5, 7, 32, 50, 1, (1, 1), (1, 1), (1, 1), (0, 0), (5, 7)),
    "1x1 stride": (1, 9, 9, 8, 16, 1, (1, 1), (2, 2), (1, 1), (0, 0), (5, 5)),
    "dilated": (1, 11, 10, 4, 17, 1, (3, 2), (1, 2), (2, 3), (2, 1), (11, 5)),
    "no padding": (1, 9, 12, 8, 13, 1, (3, 3), (1, 1), (1, 1), (0, 0), (7, 10)),
}


@pytest.mark.parametrize("name", CONVOLUTIONS)
@pytest.mark.parametrize("balanced, more", [(True, 0), (False, 0), (True, 3)])
def test_convolutions(name, balanced, more):
    task, arrays = pruned(*conv(*CONVOLUTIONS[name], more=more), 16, balanced)
    (got,) = run(SparseIntConv(), task, arrays, ZEN5, cuts=(1, 3))
    equal(got, oracle(task, arrays))


def test_random_candidates():
    for template, (task, arrays) in ((SparseIntGemm(), pruned(*gemm(2, 37, 150, 40), 32)),
                                     (SparseIntConv(), pruned(*conv(*CONVOLUTIONS["3x3"]), 32))):
        candidates = list(template.space(task, ZEN5).candidates())
        for n in RNG.choice(len(candidates), 4, replace=False):
            (got,) = run(template, task, arrays, ZEN5, candidates[n], cuts=(3, 4))
            equal(got, oracle(task, arrays) if task.family == "conv" else interpreted(task, arrays)[0])


def test_x_that_is_evaluated_first():
    task, arrays = pruned(*gemm(1, 21, 48, 40, epilogue="none"), 16)
    b, m, k = task.operands["x"].args
    turned = replace(task.buffers[0], shape=(1, 40, 21))
    task = replace(task, buffers=(turned, *task.buffers[1:]), operands={"x": replace(task.operands["x"], args=(b, k, m))})
    arrays = {**arrays, 0: arrays[0].transpose(0, 2, 1).copy()}
    (got,) = run(SparseIntGemm(), task, arrays, ZEN5, cuts=(1,))
    equal(got, interpreted(task, arrays)[0])


def test_what_is_timed_has_the_zeros_of_the_task():
    task, arrays = pruned(*gemm(1, 8, 96, 60), 32)
    like = thinned(task, np.ones_like(arrays[1]), np.random.default_rng(0))
    assert pattern(like, STEP) == {name: task.params[name] for name in ("group", "kept")}


def test_the_default_and_what_is_refused():
    task, _ = gemm(1, 128, 768, 768)

    def made(kept: int) -> str:
        return default(replace(task, params={**task.params, "group": 32, "kept": kept}), ZEN5).template

    assert made(48) == made(96) == "u8s8-gemm-sparse" and made(185) == "u8s8-gemm-packed"
    assert SparseIntGemm().refuses(task, ZEN5)
    odd, _ = gemm(1, 12, 16, 30)
    assert SparseIntGemm().refuses(replace(odd, params={**odd.params, "group": 16, "kept": 2}), ZEN5)
    layer, _ = conv(*CONVOLUTIONS["3x3"])
    sparse = {**layer.params, "group": 16, "kept": 20}
    assert SparseIntConv().refuses(replace(layer, params=sparse), ZEN5) is None
    assert SparseIntConv().refuses(replace(layer, params={**sparse, "ic": 18}), ZEN5)
    assert SparseIntConv().refuses(replace(layer, params={**sparse, "groups": 2}), ZEN5)
    assert SparseIntGemm().space(replace(task, params={**task.params, "group": 32, "kept": 9}), ZEN5).why_not(
        Knobs.of(rows=8, vectors=3, blocks=1, ahead=0))
