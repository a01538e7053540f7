"""Scans, sorting and scattering against onnxruntime."""

import itertools

import numpy as np
import pytest

from .harness import check, const

RNG = np.random.default_rng(4)
X = RNG.normal(size=(3, 4, 5)).astype("f4")


@pytest.mark.parametrize(("axis", "exclusive", "reverse"), list(itertools.product([0, 1, -1], [0, 1], [0, 1])))
def test_cumsum(axis, exclusive, reverse):
    check("CumSum", X, const(np.int64(axis)), exclusive=exclusive, reverse=reverse)
    check("CumSum", np.arange(12).reshape(3, 2, 2), const(np.array([axis])), exclusive=exclusive, reverse=reverse)


@pytest.mark.parametrize("dtype", ["f4", "f8", "i4", "i8", "u1"])
@pytest.mark.parametrize("largest", [0, 1])
def test_top_k_keeps_the_order_of_ties(dtype, largest):
    x = RNG.integers(0, 4, (3, 7, 5)).astype(dtype)
    for axis, k in ((-1, 3), (1, 7), (0, 1)):
        check("TopK", x, const([k]), outputs=2, axis=axis, largest=largest)


@pytest.mark.parametrize("reduction", ["none", "add", "mul", "max", "min"])
@pytest.mark.parametrize("axis", [0, 1, -1])
def test_scatter_elements(reduction, axis):
    shape = [2, 3, 4]
    indices = RNG.permuted(np.broadcast_to(np.arange(3) - 1, (2, 4, 3)), axis=-1).transpose(0, 2, 1)
    if reduction != "none":
        indices = RNG.integers(-3, 3, shape)
    elif axis != 1:
        indices = np.zeros((1, 1, 1), "i8") - 1
    check("ScatterElements", X, indices, RNG.normal(size=indices.shape).astype("f4"), axis=axis, reduction=reduction)


@pytest.mark.parametrize("reduction", ["none", "add", "mul", "max", "min"])
def test_scatter_nd(reduction):
    for indices in (np.array([[0], [-1]]), np.array([[[1, 2], [0, -4]]]), np.array([[1, 1, 1], [2, 3, -1]])):
        updates = RNG.normal(size=(*indices.shape[:-1], *X.shape[indices.shape[-1]:])).astype("f4")
        check("ScatterND", X, indices, updates, reduction=reduction)


def test_scatter_without_updates():
    check("ScatterElements", X, np.zeros((0, 4, 5), "i8"), np.zeros((0, 4, 5), "f4"), expected=[X])


def test_max_unpool():
    x = RNG.normal(size=(1, 2, 2, 3)).astype("f4")
    flat = np.sort(RNG.permutation(2 * 4 * 6)[:12]).reshape(x.shape)
    check("MaxUnpool", x, flat, kernel_shape=[2, 2], strides=[2, 2])
    want = np.zeros((1, 1, 5, 5), "f4")
    want[0, 0, 1, 1:4:2], want[0, 0, 3, 1:4:2] = (1, 2), (3, 4)
    check("MaxUnpool", np.arange(1, 5, dtype="f4").reshape(1, 1, 2, 2), np.array([5, 7, 13, 15]).reshape(1, 1, 2, 2),
          const([1, 1, 5, 5]), kernel_shape=[2, 2], strides=[2, 2], expected=[want])
