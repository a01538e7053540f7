"""Which patterns of zeros are found in weights, and that tasks say so."""

from __future__ import annotations

import numpy as np
import pytest
from burnish.compiler.lower.sparsity import pattern
from schedules.harness import lowered

from .harness import const

RNG = np.random.default_rng(5)


def weights(k: int, n: int, share: float, group: int, step: int = 1, dtype: str = "f4") -> np.ndarray:
    """With `share` of the blocks of each group of channels kept, of a random choice."""
    w = RNG.integers(1, 100, (k, n)).astype(dtype)
    for at in range(0, n, group):
        blocks = np.zeros(-(-k // step), bool)
        blocks[RNG.permutation(len(blocks))[:round(share * len(blocks))]] = True
        w[~np.repeat(blocks, step)[:k], at:at + group] = 0
    return w


@pytest.mark.parametrize("group", [64, 48, 32, 16, 8, 4])
@pytest.mark.parametrize("step", [1, 4])
def test_the_largest_group_that_shares_its_zeros(group, step):
    assert pattern(weights(400, 192, 0.25, group, step), step) == {"group": group, "kept": 100 // step}


@pytest.mark.parametrize("k, n", [(37, 10), (5, 100), (64, 1), (100, 49)])
def test_odd_sizes(k, n):
    found = pattern(weights(k, n, 0.3, 16), 1)
    assert found["group"] <= 16 or found["group"] < 2 * n
    assert found["kept"] == round(0.3 * k)


def test_zeros_that_are_scattered():
    w = weights(200, 64, 1.0, 16)
    w[RNG.random(w.shape) < 0.9] = 0
    assert pattern(w, 1, scattered=True) == {"group": 1, "kept": int(np.ceil((w != 0).mean() * 200))}
    assert pattern(w, 1).get("group") == 4
    assert pattern(w, 4, scattered=True).get("group") in (4, None)      # bytes come in fours
    w = weights(200, 64, 0.1, 4)
    w[RNG.random(w.shape) < 0.3] = 0        # few of the blocks' own weights are zero
    assert pattern(w, 1, scattered=True) == {"group": 4, "kept": 20}


def test_blocks_that_end_early():
    assert pattern(weights(50, 16, 4 / 13, 16, step=4), 4)["kept"] == 4     # of 13, the last of which has two steps


def test_what_is_not_worth_it():
    assert pattern(weights(100, 64, 0.8, 16), 1) == {}
    assert pattern(weights(100, 64, 1.0, 16), 1) == {}
    scattered = weights(100, 64, 1.0, 16)
    scattered[RNG.random(scattered.shape) < 0.6] = 0
    assert pattern(scattered, 1) == {}      # hardly a block of four channels is zero
    assert pattern(weights(400, 64, 0.5, 16, step=1), 4) == {}      # nor four steps in a row
    assert pattern(np.zeros((0, 5), "f4"), 1) == pattern(np.zeros((5, 0), "f4"), 1) == {}


def test_all_zeros():
    assert pattern(np.zeros((20, 100), "f4"), 1) == {"group": 64, "kept": 0}


def test_groups_that_keep_differently_many():
    w = weights(100, 64, 0.1, 16)
    w[:, 16:32] = 1
    assert pattern(w, 1) == {"group": 16, "kept": 33}     # 32.5 on average


def test_a_larger_group_may_keep_a_few_blocks_more():
    w = weights(200, 64, 0.25, 32)
    w[np.flatnonzero(w[:, 0] == 0)[:5], :16] = 1
    assert pattern(w, 1) == {"group": 32, "kept": 53}     # of groups of 16, 51.25


@pytest.mark.parametrize("op, x, w, attributes", [
    ("MatMul", (1, 20, 96), weights(96, 64, 0.25, 16), {}),
    ("Gemm", (20, 96), weights(96, 64, 0.25, 16).T, {"transB": 1}),
    ("NhwcConv", (1, 5, 5, 96), weights(96, 64, 0.25, 16).T.reshape(64, 96, 1, 1), {}),
    ("NhwcConv", (1, 5, 5, 24), weights(96, 64, 0.25, 16).reshape(2, 2, 24, 64).transpose(3, 2, 0, 1), {}),
])
def test_tasks_say_what_their_zeros_are(op, x, w, attributes):
    shape = (1, *(6 - size for size in w.shape[2:]), 64) if op == "NhwcConv" else ()
    task, _ = lowered(op, np.zeros(x, "f4"), const(np.ascontiguousarray(w)), shape=shape, **attributes)
    assert task.params["group"] == 16 and task.params["kept"] == 24
