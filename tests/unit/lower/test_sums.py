"""GridSample, Fourier transforms, einsum and other sums of products, against onnxruntime or onnx's reference."""

import itertools

import numpy as np
import pytest
from burnish.compiler.lower.registry import Refuse

from .harness import check, const

RNG = np.random.default_rng(6)


@pytest.mark.parametrize(("mode", "padding", "aligned"), list(itertools.product(
    ["nearest", "linear", "cubic"], ["zeros", "border", "reflection"], [0, 1])))
def test_grid_sample(mode, padding, aligned):
    x, grid = RNG.normal(size=(2, 3, 4, 5)).astype("f4"), RNG.uniform(-1.8, 1.8, (2, 6, 3, 2)).astype("f4")
    check("GridSample", x, grid, mode=mode, padding_mode=padding, align_corners=aligned, tolerance=1e-4)
    if mode != "cubic":
        x, grid = RNG.normal(size=(1, 2, 3, 4, 5)).astype("f4"), RNG.uniform(-1.5, 1.5, (1, 2, 3, 2, 3)).astype("f4")
        check("GridSample", x, grid, mode=mode, padding_mode=padding, align_corners=aligned, by="onnx", tolerance=1e-4)


def test_grid_sample_reads_nothing_out_of_range():
    x = RNG.normal(size=(1, 1, 2, 2)).astype("f4")
    grid = np.array([np.nan, np.inf, -np.inf, 1e30, -1e9, 3e9], "f4").reshape(1, 3, 1, 2)
    for mode, padding in itertools.product(["nearest", "linear", "cubic"], ["zeros", "border", "reflection"]):
        with pytest.raises(AssertionError, match="Not equal"):      # the values are meaningless; the loads are checked
            check("GridSample", x, grid, mode=mode, padding_mode=padding, expected=[np.full((1, 1, 3, 1), 7, "f4")])


@pytest.mark.parametrize("parts", [1, 2])
def test_dft(parts):
    x = RNG.normal(size=(2, 10, 3, parts)).astype("f4")
    for length, axis in ((None, 1), (None, -2), (7, 1), (16, 1)):
        given = (None if length is None else const(np.int64(length)), const(np.int64(axis)))
        check("DFT", x, *given, by="onnx")
        if parts == 1:
            check("DFT", x, *given, onesided=1, by="onnx")
        else:
            check("DFT", x, *given, inverse=1, by="onnx")


@pytest.mark.parametrize("length", [None, 9, 10, 6])
def test_real_inverse(length):
    x = RNG.normal(size=(6, 2, 2)).astype("f4")
    want = np.fft.irfft(x[..., 0] + 1j * x[..., 1], n=length, axis=0)[..., None].astype("f4")
    given = None if length is None else const(np.int64(length))
    check("DFT", x, given, const(np.int64(0)), inverse=1, onesided=1, expected=[want])


def test_stft():
    x, window = RNG.normal(size=(2, 64, 1)).astype("f4"), np.hanning(16).astype("f4")
    check("STFT", x, const(np.int64(8)), window, const(np.int64(16)))
    check("STFT", x, const(np.int64(5)), None, const(np.int64(16)), onesided=0)


@pytest.mark.parametrize(("equation", "shapes"), [
    ("ii->i", [(4, 4)]), ("ii", [(4, 4)]), ("...ii->...i", [(2, 4, 4)]), ("bij,bjk->bik", [(2, 3, 4), (2, 4, 5)]),
    ("i,i", [(5,), (5,)]),
    ("...ij,jk->...ik", [(2, 3, 4), (4, 5)]), ("i...,...j->...ij", [(3, 2, 1), (4, 5)]), ("ij->ji", [(2, 3)]), ("ij->", [(2, 3)]),
    ("ab,bc,cd", [(2, 3), (3, 4), (4, 2)])])
def test_einsum(equation, shapes):
    operands = [RNG.normal(size=s).astype("f4") for s in shapes]
    check("Einsum", *operands, equation=equation, expected=[np.asarray(np.einsum(equation, *operands))])


def test_col2im():
    x = RNG.normal(size=(2, 12, 20)).astype("f4")
    check("Col2Im", x, const([5, 6]), const([2, 2]), by="onnx")
    x = RNG.normal(size=(1, 9, 16)).astype("f4")
    check("Col2Im", x, const([7, 8]), const([3, 3]), pads=[1, 0, 1, 1], strides=[2, 2], by="onnx")


def test_small_determinants():
    for n in (1, 2, 3, 4):
        x = RNG.normal(size=(3, n, n)).astype("f4")
        check("Det", x)
    with pytest.raises(Refuse):
        check("Det", RNG.normal(size=(5, 5)).astype("f4"), expected=[np.float32(0)])
