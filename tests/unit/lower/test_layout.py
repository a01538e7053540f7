"""Layout, gathers and generators against onnxruntime or onnx's reference."""

import itertools

import numpy as np
import pytest
from burnish.compiler.lower.registry import Refuse

from .harness import check, const

RNG = np.random.default_rng(2)
X = RNG.normal(size=(3, 4, 5)).astype("f4")
IMAGE = RNG.normal(size=(2, 12, 4, 6)).astype("f4")


def test_views():
    check("Reshape", X, const([2, -1, 3]))
    check("Reshape", X, const([0, 5, -1]))
    check("Reshape", np.zeros((0, 3), "f4"), const([3, 0]), allowzero=1)
    check("Flatten", IMAGE, axis=2)
    check("Unsqueeze", X, const([0, -1]))
    check("Squeeze", X[:, :1], const([1]))
    check("Squeeze", np.ones((1, 1), "f4"))


@pytest.mark.parametrize("perm", list(itertools.permutations(range(3))))
def test_transpose(perm):
    check("Transpose", X, perm=perm)


def test_transpose_default():
    check("Transpose", X)
    check("Transpose", X > 0)


def test_expand_and_tile():
    check("Expand", X[:, :1], const([2, 1, 4, 1]))
    check("Expand", np.float32(3), const([2, 2]))
    check("Tile", X[:2, :1], const([2, 3, 1]))


@pytest.mark.parametrize(("starts", "ends", "axes", "steps"), [
    ([1], [3], [1], [1]), ([0, -2], [100, 100], [0, 2], [2, 1]), ([-1], [-100], [2], [-1]), ([3, 4], [0, 0], [1, -1], [-2, -3]),
    ([5], [2], [1], [1])])
def test_slice(starts, ends, axes, steps):
    check("Slice", X, const(starts), const(ends), const(axes), const(steps))


def test_slice_at_run_time_is_refused():
    with pytest.raises(Refuse, match="starts is computed at run time"):
        check("Slice", X, np.array([0]), const([2]), const([0]), expected=[X])


def test_split_and_concat():
    check("Split", X, const([1, 3]), outputs=2, axis=1)
    check("Split", X, outputs=3, num_outputs=3, axis=-1)
    check("Split", X, const([0, 3]), outputs=2, axis=0)
    check("Concat", X, X[:, :1], X[:, 2:], axis=1)
    check("Concat", X, X[:0], axis=-3)


@pytest.mark.parametrize("mode", ["constant", "reflect", "edge", "wrap"])
def test_pad(mode):
    check("Pad", X, const([1, 2, 3, 0, 1, 2]), mode=mode)
    check("Pad", X, const([1, 2]), None, const([-2]), mode=mode)
    if mode != "reflect":
        check("Pad", X, const([7, 9]), None, const([1]), mode=mode, by="onnx")


def test_pad_values():
    check("Pad", X, const([0, 0, 1, 0, 0, 0]), np.float32(7))
    check("Pad", X, const([-1, 2, 0, 0, -1, -2]), const(np.float32(-1)))
    check("Pad", np.zeros((0, 2), "f4"), const([1, 1, 0, 0]), const(np.float32(2)))
    check("Pad", np.arange(3), const([9, 9]), mode="reflect", expected=[np.pad(np.arange(3), 9, "reflect")])
    check("Pad", np.arange(1), const([2, 1]), mode="reflect", expected=[np.zeros(4, "i8")])


@pytest.mark.parametrize("mode", ["DCR", "CRD"])
def test_depth_and_space(mode):
    check("DepthToSpace", IMAGE, blocksize=2, mode=mode)
    check("SpaceToDepth", IMAGE, blocksize=2)


@pytest.mark.parametrize("mode", ["DCR", "CRD"])
def test_space_to_depth_undoes_depth_to_space(mode):
    (deep,) = check("DepthToSpace", IMAGE, blocksize=2, mode=mode)
    check("SpaceToDepth", deep, blocksize=2, mode=mode, expected=[IMAGE])


def test_triangles():
    for upper, k in itertools.product((0, 1), (None, -2, 0, 1, 9)):
        check("Trilu", X, None if k is None else const(np.int64(k)), upper=upper)
    check("Trilu", X, np.int64(1))


def test_reverse_sequence():
    check("ReverseSequence", X, np.array([1, 3, 2, 1]))
    check("ReverseSequence", X, np.array([4, 1, 3]), batch_axis=0, time_axis=1)


@pytest.mark.parametrize("wrap", [const, np.asarray])
@pytest.mark.parametrize("axis", [0, 1, -1])
def test_gather(wrap, axis):
    for indices in ([[0, -1], [2, 1]], [0, 1, 2], -2, [2], [2, 0], [0, 2]):
        check("Gather", X, wrap(np.array(indices)), axis=axis)
    indices = RNG.integers(-3, 3, (3, 2, 4) if axis == 1 else (2, 4, 3))
    check("GatherElements", X, wrap(indices), axis=axis)


def test_indices_out_of_range():
    with pytest.raises(Refuse, match="into an axis of 3"):
        check("Gather", X, const([3]), expected=[X])
    check("Gather", X, np.array([99, -99]), expected=[X[[2, 0]]])
    check("GatherND", X, np.array([[9, -9]]), expected=[X[2:, 0]])


def test_gather_nd():
    check("GatherND", X, np.array([[0, 1], [2, -1]]))
    check("GatherND", X, const([[[0, 1, -5]], [[2, 3, 4]]]))
    check("GatherND", X, np.array([[[1], [2]], [[0], [3]], [[3], [3]]]), batch_dims=1)


@pytest.mark.parametrize("axis", [-1, 0, 1])
def test_one_hot(axis):
    values = np.array([-1, 5], "f4")
    check("OneHot", np.array([[0, -1, 2], [3, 7, -9]]), const(np.int64(4)), values, axis=axis, by="onnx")
    check("OneHot", np.array([1, 0], "f4"), const(np.int64(3)), const(values), axis=axis % 2, by="onnx")


def test_generators():
    check("Range", const(np.int64(3)), const(np.int64(12)), const(np.int64(4)))
    check("Range", const(np.float32(3)), const(np.float32(-4)), const(np.float32(-1.5)))
    check("EyeLike", X[0], k=1)
    check("EyeLike", X[0], k=-2, dtype=6)
    check("ConstantOfShape", const([2, 3]))
    check("Shape", X, start=1)
    check("Shape", X, end=-1)
    check("Size", X)
    with pytest.raises(Refuse, match="depends on values"):
        check("NonZero", X, expected=[X])
